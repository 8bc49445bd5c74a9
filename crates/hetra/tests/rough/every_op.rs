//! Every operator on arguments drawn at random: whatever is wrong with them is an error, never a
//! panic; and where they are right, a session gives what the reference gives. `HETRA_DRAWS=5000`
//! searches longer than the usual run does, `HETRA_OP=Conv` only those of one name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::random::Random;
use crate::set_limits;
use crate::watch::Watch;
use hetra::{DType, Device, Dim, Graph, Node, Session, Tensor, Type, Value};
use hetra_ir::{Attr, Builder};
use hetra_ops::{ALL_OPS, OpDef};

/// Draws for each operator, where `HETRA_DRAWS` does not say.
const DRAWS: u64 = 300;
/// Distinct faults that are shown.
const SHOWN_MAX: usize = 40;

#[test]
fn no_operator_panics_or_differs_on_random_arguments() {
    set_limits();
    let draws = std::env::var("HETRA_DRAWS").ok().and_then(|text| text.parse().ok());
    let draws: u64 = draws.unwrap_or(DRAWS);
    let only = std::env::var("HETRA_OP").unwrap_or_default();
    let rows: Vec<&OpDef> = ALL_OPS.iter().copied().flatten().copied().collect();
    let device = hetra::open("cpu", Some(1)).expect("the CPU");
    let next = AtomicUsize::new(0);
    let ran = AtomicUsize::new(0);
    let found = std::sync::Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let watch = Watch::new("every-op");
                while let Some(def) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !def.name.contains(&only) {
                        continue;
                    }
                    for draw in 0..draws {
                        let result = attempt(&watch, &device, def, draw);
                        match result {
                            Ok(ok) => {
                                ran.fetch_add(usize::from(ok), Ordering::Relaxed);
                            }
                            Err((fault, graph)) => {
                                let mut found = found.lock().expect("no panic while held");
                                found.entry(fault).or_insert(graph);
                            }
                        }
                    }
                }
            });
        }
    });
    let found = found.into_inner().expect("no panic while held");
    let shown = found.iter().take(SHOWN_MAX).map(|(fault, graph)| format!("{fault}\n{graph}"));
    let shown = shown.collect::<Vec<_>>().join("\n");
    assert!(found.is_empty(), "{} faults:\n{shown}", found.len());
    assert!(ran.into_inner() > rows.len(), "hardly anything ran: the draws are too wild");
}

/// One draw, by the reference and by a session; whether it ran. A missing attribute is added.
fn attempt(
    watch: &Watch,
    device: &Arc<dyn Device>,
    def: &OpDef,
    draw: u64,
) -> Result<bool, (String, String)> {
    let mut random = Random::new(def.name.bytes().fold(draw, |seed, byte| {
        seed.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(byte))
    }));
    let (mut graph, inputs) = draw_graph(&mut random, def);
    for _ in 0..6 {
        let text = hetra_ir::print(&graph);
        let result = watch.run(text.clone().into_bytes(), || {
            let values = inputs.iter().map(|(_, value)| value.clone()).collect();
            let plain = hetra_ops::interpret(&graph, values, &|_| None);
            let session = Session::builder().graph(graph.clone()).on(device.clone()).build();
            let ran = session
                .map_err(|error| error.to_string())
                .and_then(|session| session.run(inputs.clone()).map_err(|error| error.to_string()));
            (plain.map_err(|error| error.to_string()), ran)
        });
        let fault = match result {
            Err(panic) => return Err((panic, text)),
            Ok((Ok(plain), Ok(ran))) => {
                let difference = difference(&plain, &ran).filter(|_| def.pure);
                let told = |difference| (format!("{}: {difference}", def.name), text);
                return difference.map_or(Ok(true), |difference| Err(told(difference)));
            }
            Ok((Err(fault), _) | (_, Err(fault))) => fault,
        };
        if !add_missing(&mut random, &mut graph.nodes[0], &fault) {
            return Ok(false);
        }
    }
    Ok(false)
}

/// How a session's outputs differ from those of the reference. Where numbers overflow, the order
/// of a sum decides: such outputs are passed over.
fn difference(plain: &[Value], ran: &hetra::Outputs) -> Option<&'static str> {
    for (want, (_, got)) in plain.iter().zip(ran.iter()) {
        let (Some(want), Some(got)) = (want.as_tensor(), got.as_tensor()) else { continue };
        if want.dtype() != got.dtype() || want.shape() != got.shape() {
            return Some("a session gives another type than the reference");
        }
        let (Ok(want), Ok(got)) = (hetra_tensor::to_f64(want), hetra_tensor::to_f64(got)) else {
            continue;
        };
        let finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
        if finite(&want) != finite(&got) {
            return Some("only one of session and reference is finite");
        }
        let range = want.iter().fold(0.0f64, |range, value| range.max(value.abs()));
        let far = |(x, y): (&f64, &f64)| (x - y).abs() > 2e-3 * range + 1e-6;
        if finite(&want) && want.iter().zip(&got).any(far) {
            return Some("a session gives other numbers than the reference");
        }
    }
    None
}

/// Adds the attribute that a fault says is missing.
fn add_missing(random: &mut Random, node: &mut Node, fault: &str) -> bool {
    let Some((_, rest)) = fault.split_once("attribute `") else { return false };
    let Some((name, rest)) = rest.split_once("`: wanted ") else { return false };
    if node.attrs.has(name) {
        return false;
    }
    let attr = match rest {
        _ if rest.starts_with("an integer") => draw_int(random).into(),
        _ if rest.starts_with("integers") => draw_ints(random).into(),
        _ if rest.starts_with("a float") => draw_float(random).into(),
        _ if rest.starts_with("floats") => vec![draw_float(random); random.below(4)].into(),
        _ if rest.starts_with("a string") => draw_word(random).into(),
        _ if rest.starts_with("strings") => Attr::Strs(vec![draw_word(random); random.below(4)]),
        _ if rest.starts_with("a tensor") => draw_tensor(random, None, None).into(),
        _ => return false,
    };
    node.attrs.set(name, attr);
    true
}

fn draw_graph(random: &mut Random, def: &OpDef) -> (Graph, Vec<(String, Value)>) {
    let mut b = Builder::new("g");
    let count = |random: &mut Random, min: usize, max: usize| {
        min + random.below(max.min(min + 5).saturating_sub(min) + 1)
    };
    let (mut given, mut ids, mut types) = (Vec::new(), Vec::new(), Vec::new());
    let mut shape: Option<Vec<usize>> = None;
    let kin = random.percent(60).then(|| draw_dtype(random));
    for index in 0..count(random, def.inputs.min, def.inputs.max) {
        if random.percent(if index < def.inputs.min { 1 } else { 15 }) {
            ids.push(None);
            continue;
        }
        let same = random.percent(35);
        let kin = kin.filter(|_| random.percent(70));
        let tensor = draw_tensor(random, shape.as_deref().filter(|_| same), kin);
        shape.get_or_insert_with(|| tensor.shape().to_vec());
        let name = format!("x{index}");
        ids.push(Some(if random.percent(40) {
            b.constant(&name, tensor)
        } else {
            let ty = draw_type(random, &tensor);
            let value = match random.below(20) {
                0 => Value::Sequence(vec![tensor.clone().into(), tensor.into()]),
                1 => Value::Optional(Some(Box::new(tensor.into()))),
                _ => Value::from(tensor),
            };
            let ty = match &value {
                Value::Tensor(_) => ty,
                Value::Sequence(_) => Type::Sequence(Box::new(ty)),
                Value::Optional(_) => Type::Optional(Box::new(ty)),
            };
            given.push((name.clone(), value));
            // The builder knows tensors only: types are set when the graph is whole.
            let id = b.input(&name, DType::F32, vec![]);
            types.push((id, ty));
            id
        }));
    }
    let outputs = count(random, def.outputs.min.max(1), def.outputs.max.max(1));
    let mut node = Node { name: "node".to_string(), ..Node::new(def.name, &[], &[]) };
    node.inputs = ids;
    for _ in 0..random.below(6) {
        let (name, attr) = draw_attr(random);
        node.attrs.set(name, attr);
    }
    for id in b.node(node, outputs) {
        b.output(id);
    }
    let mut graph = b.finish();
    for (id, ty) in types {
        graph.values[id.index()].ty = ty;
    }
    (graph, given)
}

fn draw_dtype(random: &mut Random) -> DType {
    use DType::{Bool, F16, F32, F64, I32, I64, U8};
    match random.percent(80) {
        true => random.one(&[F32, F32, F32, I64, I64, F16, U8, I32, Bool, F64]),
        false => random.one(&DType::all().collect::<Vec<_>>()),
    }
}

fn draw_tensor(random: &mut Random, shape: Option<&[usize]>, dtype: Option<DType>) -> Tensor {
    let shape: Vec<usize> = match shape {
        Some(shape) => shape.to_vec(),
        None => {
            let rank = random.one(&[0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 6]);
            let extents = [0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 8];
            (0..rank).map(|_| random.one(&extents)).collect()
        }
    };
    let dtype = dtype.unwrap_or_else(|| draw_dtype(random));
    let count: usize = shape.iter().product();
    if dtype == DType::String {
        let words = (0..count).map(|_| draw_word(random)).collect();
        return Tensor::from_strings(&shape, words).expect("a word each");
    }
    let wild = random.percent(15);
    let values: Vec<f64> = (0..count)
        .map(|_| match wild {
            true => random.one(&[0.0, -1.0, 1e9, -1e9, 1e30, f64::NAN, f64::INFINITY, 9.3e18]),
            false => random.below(9) as f64 - 3.0 + 0.5 * random.below(2) as f64,
        })
        .collect();
    hetra_tensor::from_f64(dtype, &shape, &values)
        .unwrap_or_else(|_| Tensor::from_slice(&shape, &values).expect("a value each"))
}

/// A declared type that the tensor fits.
fn draw_type(random: &mut Random, tensor: &Tensor) -> Type {
    let dims = |random: &mut Random| {
        let dim = |&extent: &usize| match random.below(3) {
            0 => Dim::Known(extent),
            1 => Dim::Unknown,
            _ => Dim::Sym(random.one(&["n", "m"]).into()),
        };
        tensor.shape().iter().map(dim).collect()
    };
    match random.below(10) {
        0..6 => Type::tensor(tensor.dtype(), tensor.shape()),
        6..8 => Type::shaped(tensor.dtype(), dims(random)),
        8 => Type::unranked(tensor.dtype()),
        _ => Type::Unknown,
    }
}

fn draw_int(random: &mut Random) -> i64 {
    match random.percent(85) {
        true => random.below(8) as i64 - 2,
        false => random.one(&[i64::MAX, i64::MIN, 1 << 31, 1 << 40, -1 << 40, 1 << 62, 255, 16]),
    }
}

fn draw_ints(random: &mut Random) -> Vec<i64> {
    let plain = random.percent(70);
    let count = random.one(&[0, 1, 2, 2, 2, 3, 4, 4, 4, 6, 8]);
    let int = |_| if plain { 1 + random.below(3) as i64 } else { draw_int(random) };
    (0..count).map(int).collect()
}

fn draw_float(random: &mut Random) -> f32 {
    random.one(&[0.0, 1.0, 0.5, -1.0, 2.0, 1e-5, f32::NAN, f32::INFINITY, -1e30, 1e30])
}

fn draw_word(random: &mut Random) -> String {
    const WORDS: &[&str] = &[
        "",
        "a",
        "NOTSET",
        "SAME_UPPER",
        "SAME_LOWER",
        "VALID",
        "linear",
        "cubic",
        "nearest",
        "bilinear",
        "bicubic",
        "constant",
        "reflect",
        "edge",
        "wrap",
        "forward",
        "reverse",
        "bidirectional",
        "ij,jk->ik",
        "ii->i",
        "...i->...",
        "none",
        "tanh",
        "mean",
        "sum",
        "max",
        "min",
        "avg",
        "mul",
        "add",
        "DCR",
        "CRD",
        "Relu",
        "Tanh",
        "Sigmoid",
        "LeakyRelu",
        "[a-z]+",
        "(",
        "asymmetric",
        "half_pixel",
        "align_corners",
        "tf_crop_and_resize",
        "pytorch_half_pixel",
        "floor",
        "ceil",
        "round_prefer_ceil",
        "stretch",
        "not_larger",
        "border",
        "zeros",
        "TFIDF",
        "TF",
        "IDF",
        "UPPER",
        "LOWER",
        "\u{e9}",
    ];
    random.one(WORDS).to_string()
}

/// Names of integer attributes; the more operators have it, the more often it stands here.
const INT: &[&str] = &[
    "axis",
    "axis",
    "axis",
    "keepdims",
    "group",
    "ceil_mode",
    "to",
    "k",
    "exclusive",
    "reverse",
    "noop_with_empty_axes",
    "allowzero",
    "batch_dims",
    "largest",
    "sorted",
    "hidden_size",
    "layout",
    "num_heads",
    "kv_num_heads",
    "q_num_heads",
    "num_outputs",
    "block_size",
    "bits",
    "K",
    "N",
    "select_last_index",
    "storage_order",
    "detect_negative",
    "size",
    "count_include_pad",
    "p",
    "blocksize",
    "transA",
    "transB",
    "saturate",
    "upper",
    "onesided",
    "is_causal",
    "unidirectional",
    "linear_before_reset",
    "input_forget",
    "new_axis",
    "sample_size",
    "dtype",
    "output_dtype",
    "start",
    "end",
    "min_gram_length",
    "max_gram_length",
    "max_skip_count",
    "num_groups",
    "center_point_box",
    "antialias",
    "exclude_outside",
    "interleaved",
    "rotary_embedding_dim",
    "inverse",
    "channels_last",
    "ignore_index",
    "time_axis",
    "batch_axis",
    "periodic",
    "max_length",
    "do_rotary",
    "local_window_size",
];
/// Names of attributes that are lists.
const INTS: &[&str] = &[
    "axes",
    "axes",
    "perm",
    "pads",
    "pads",
    "strides",
    "strides",
    "dilations",
    "kernel_shape",
    "kernel_shape",
    "split",
    "output_shape",
    "output_padding",
    "shape",
    "ngram_counts",
    "ngram_indexes",
    "pool_int64s",
    "crops",
];
/// Names of float attributes.
const FLOAT: &[&str] = &[
    "alpha",
    "beta",
    "epsilon",
    "scale",
    "ratio",
    "bias",
    "lambd",
    "clip",
    "spatial_scale",
    "softcap",
    "seed",
    "mean",
    "low",
    "high",
    "extrapolation_value",
    "cubic_coeff_a",
    "sampling_ratio",
    "momentum",
    "gamma",
    "max",
    "min",
    "norm_coefficient",
];
/// Names of text attributes.
const STR: &[&str] = &[
    "auto_pad",
    "mode",
    "direction",
    "equation",
    "reduction",
    "approximate",
    "activation",
    "coordinate_transformation_mode",
    "nearest_mode",
    "padding_mode",
    "pattern",
    "case_change_action",
    "keep_aspect_ratio_policy",
    "delimiter",
    "equation",
    "post_op",
];

fn draw_attr(random: &mut Random) -> (&'static str, Attr) {
    match random.below(10) {
        0..4 => (random.one(INT), draw_int(random).into()),
        4..7 => (random.one(INTS), draw_ints(random).into()),
        7 => (random.one(FLOAT), draw_float(random).into()),
        8 => (random.one(STR), draw_word(random).into()),
        _ => (
            random.one(&["value", "activations"]),
            match random.below(2) {
                0 => draw_tensor(random, None, None).into(),
                _ => Attr::Strs(vec![draw_word(random); random.below(4)]),
            },
        ),
    }
}
