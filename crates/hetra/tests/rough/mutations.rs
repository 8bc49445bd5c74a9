//! Broken variants of good models: each is refused, or runs, or fails with an error; none
//! panics, hangs or fills the memory.
//!
//! The variants are the same every time. `HETRA_MUTANTS` sets how many there are and
//! `HETRA_MUTANT_FIRST` where they begin; `HETRA_MUTANT=N` runs number N alone and saves its
//! bytes.

#![allow(clippy::print_stderr, reason = "a summary of what happened to the mutants")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use crate::random::Random;
use crate::watch::Watch;
use crate::wire::{Data, Field};
use crate::{places, set_limits, watch, wire};
use hetra::{DType, Device, Dim, Port, Session, Tensor, Type, Value};

const MUTANTS: usize = 100_000;
const THREADS: usize = 2;
/// Most elements of one input.
const ELEMENTS_MAX: usize = 1 << 20;
/// Most scalar operations that inference foresees for a run: slow is not broken.
const WORK_MAX: f64 = 2e8;
/// One in this many mutants is of the large model.
const LARGE_RARITY: usize = 64;
/// Distinct panics that are shown.
const SHOWN_MAX: usize = 40;

/// What became of the mutants.
#[derive(Default)]
struct Tally {
    rejected: AtomicUsize,
    imported: AtomicUsize,
    built: AtomicUsize,
    heavy: AtomicUsize,
    ran: AtomicUsize,
}

fn setting(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn mutants_never_panic() {
    set_limits();
    let seeds = seeds();
    let device = hetra::open("cpu", Some(1)).expect("the CPU");
    let (tally, panics) = (Tally::default(), Mutex::new(BTreeMap::new()));
    let began = Instant::now();
    let (first, count) = match setting("HETRA_MUTANT") {
        Some(number) => {
            let path = watch::save("mutant", &mutant(&seeds, number));
            eprintln!("mutant {number} is in {}", path.display());
            (number, 1)
        }
        None => {
            let first = setting("HETRA_MUTANT_FIRST").unwrap_or(0);
            (first, setting("HETRA_MUTANTS").unwrap_or(MUTANTS))
        }
    };
    let next = AtomicUsize::new(first);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let watch = Watch::new("mutant");
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= first + count {
                        return;
                    }
                    let bytes = mutant(&seeds, number);
                    let work = || live(&bytes, &device, &tally, number as u64);
                    if let Err(panic) = watch.run(bytes.clone(), work) {
                        let mut panics = panics.lock().expect("no panic while held");
                        panics.entry(panic).or_insert(number);
                    }
                }
            });
        }
    });
    let read = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    eprintln!(
        "{count} mutants of {} seeds in {:.1} s: {} rejected, {} imported, {} built, {} ran, \
         {} too heavy to run",
        seeds.len(),
        began.elapsed().as_secs_f64(),
        read(&tally.rejected),
        read(&tally.imported),
        read(&tally.built),
        read(&tally.ran),
        read(&tally.heavy),
    );
    let panics = panics.into_inner().expect("no panic while held");
    if let Some(&number) = panics.values().next() {
        let path = watch::save("mutant", &mutant(&seeds, number));
        eprintln!("mutant {number} is in {}", path.display());
    }
    let lines = panics.iter().map(|(panic, number)| format!("mutant {number}: {panic}"));
    let lines: Vec<String> = lines.take(SHOWN_MAX).collect();
    assert!(panics.is_empty(), "{} panics:\n{}", panics.len(), lines.join("\n"));
    assert!(count < 1000 || read(&tally.ran) * 20 > count, "hardly any mutant ran");
}

/// Imports, prints, builds and runs a model, as far as it goes.
fn live(bytes: &[u8], device: &Arc<dyn Device>, tally: &Tally, seed: u64) {
    let count = |counter: &AtomicUsize| {
        counter.fetch_add(1, Ordering::Relaxed);
    };
    let Ok(graph) = hetra_onnx::import(bytes, &hetra_onnx::ImportOptions::default()) else {
        return count(&tally.rejected);
    };
    count(&tally.imported);
    if let Err(faults) = hetra_ir::verify(&graph) {
        panic!("the import breaks a promise: {:?}", faults.first());
    }
    let text = hetra_ir::print(&graph);
    match hetra_ir::parse(&text) {
        // As texts: NaN is not equal to itself.
        Ok(again) => assert!(hetra_ir::print(&again) == text, "the text form is not stable"),
        Err(fault) => panic!("what is printed does not parse: {}", fault.message),
    }
    // What was left out of a call is refused on the way back: any result will do.
    if let Ok(bytes) = hetra_onnx::export(&graph, &hetra_onnx::ExportOptions::default()) {
        let _ = hetra_onnx::import(&bytes, &hetra_onnx::ImportOptions::default());
    }
    let Ok(session) = Session::builder().graph(graph).on(device.clone()).build() else { return };
    count(&tally.built);
    let mut random = Random::new(seed);
    let ports = session.inputs();
    let open = ports.iter().filter(|port| !port.has_default);
    let inputs: Option<Vec<(String, Value)>> =
        open.map(|port: &Port| Some((port.name.clone(), input(&port.ty, &mut random)?))).collect();
    let Some(inputs) = inputs else { return count(&tally.heavy) };
    let given = |port: &Port| {
        let found = inputs.iter().find(|(name, _)| *name == port.name);
        found.map_or_else(|| port.ty.clone(), |(_, value)| Type::of(value))
    };
    let types: Vec<Type> = ports.iter().map(given).collect();
    if let Ok(work) = hetra_pass::work(session.graph(), &types)
        && work.iter().map(|(_, work)| work.ops).sum::<f64>() > WORK_MAX
    {
        return count(&tally.heavy);
    }
    if session.run(inputs).is_ok() {
        count(&tally.ran);
    }
}

/// A random value of a type; what is open in it is 2. `None` when it would be too large.
fn input(ty: &Type, random: &mut Random) -> Option<Value> {
    let (dtype, dims) = match ty {
        Type::Tensor(tensor) => (tensor.dtype, tensor.shape.clone()),
        Type::Sequence(item) => {
            return Some(Value::Sequence(vec![input(item, random)?, input(item, random)?]));
        }
        Type::Optional(inner) => {
            return Some(Value::Optional(Some(Box::new(input(inner, random)?))));
        }
        Type::Unknown => (DType::F32, None),
    };
    let dims = dims.unwrap_or_else(|| vec![Dim::Unknown; 2]);
    let shape: Vec<usize> = dims.iter().map(|dim| dim.known().unwrap_or(2)).collect();
    let count = hetra_tensor::element_count(&shape).ok().filter(|count| *count <= ELEMENTS_MAX)?;
    if dtype == DType::String {
        return Some(Tensor::from_strings(&shape, vec!["a b".to_string(); count]).ok()?.into());
    }
    let draw = |_| random.below(7) as f64 - 2.0 + if dtype.is_float() { 0.25 } else { 0.0 };
    let values: Vec<f64> = (0..count).map(draw).collect();
    Some(hetra_tensor::from_f64(dtype, &shape, &values).ok()?.into())
}

/// A good model, as bytes and as fields.
struct Seed {
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

/// Cases of ONNX's suite whose names contain one of these are seeds: control flow, sequences,
/// quantised and recurrent operators, and one of each common family.
const CASES: &[&str] = &[
    "test_if",
    "test_if_seq",
    "test_if_opt",
    "test_loop11",
    "test_loop13_seq",
    "test_loop16_seq_none",
    "test_scan_sum",
    "test_scan9_sum",
    "test_sequence_insert_at_back",
    "test_sequence_map_add_2_sequences",
    "test_split_to_sequence_1",
    "test_sequence_model3",
    "test_optional_get_element_sequence",
    "test_optional_has_element_optional_input",
    "test_qlinearconv",
    "test_qlinearmatmul_2D_uint8_float32",
    "test_quantizelinear_axis",
    "test_dequantizelinear_blocked",
    "test_dynamicquantizelinear",
    "test_dynamicquantizelinear_expanded",
    "test_convinteger_with_padding",
    "test_matmulinteger",
    "test_lstm_with_peepholes",
    "test_gru_seq_length",
    "test_rnn_seq_length",
    "test_lstm_batchwise",
    "test_basic_conv_with_padding",
    "test_conv_with_autopad_same",
    "test_convtranspose_pads",
    "test_convtranspose_autopad_same",
    "test_deform_conv_with_mask_bias",
    "test_maxpool_2d_ceil",
    "test_averagepool_2d_dilations",
    "test_lppool_2d_pads",
    "test_maxunpool_export_with_output_shape",
    "test_roialign_aligned_true",
    "test_gemm_all_attributes",
    "test_matmul_3d",
    "test_einsum_batch_matmul",
    "test_resize_upsample_sizes_cubic",
    "test_resize_downsample_scales_linear_antialias",
    "test_resize_tf_crop_and_resize",
    "test_gridsample_bicubic",
    "test_affine_grid_3d",
    "test_slice",
    "test_slice_neg_steps",
    "test_gather_nd_example_int32_batch_dim1",
    "test_scatternd_add",
    "test_scatter_elements_with_axis",
    "test_gather_elements_1",
    "test_onehot_with_axis",
    "test_topk",
    "test_unique_sorted_with_axis_3d",
    "test_nonmaxsuppression_suppress_by_IOU",
    "test_nonzero_example",
    "test_compress_1",
    "test_pad",
    "test_constant_pad_axes",
    "test_tile",
    "test_expand_dim_changed",
    "test_concat_3d_axis_1",
    "test_split_variable_parts_2d_opset18",
    "test_transpose_all_permutations_3",
    "test_reshape_zero_and_negative_dim",
    "test_unsqueeze_three_axes",
    "test_reduce_log_sum_exp_keepdims_random",
    "test_argmax_keepdims_example",
    "test_cumsum_2d_axis_1",
    "test_softmax_axis_2_expanded",
    "test_layer_normalization_4d_axis1_epsilon",
    "test_batchnorm_epsilon",
    "test_instancenorm_example",
    "test_group_normalization_epsilon",
    "test_lrn",
    "test_rms_normalization_3d_axis1_epsilon",
    "test_attention_4d_causal",
    "test_attention_3d_gqa_with_past_and_present",
    "test_rotary_embedding_3d_input",
    "test_range_int32_type_negative_delta",
    "test_constantofshape_int_shape_zero",
    "test_cast_FLOAT_to_INT4",
    "test_cast_FLOAT_to_FLOAT8E4M3FN",
    "test_castlike_DOUBLE_to_FLOAT_expanded",
    "test_bitwise_and_i16_3d",
    "test_bitshift_left_uint8",
    "test_string_concat",
    "test_string_split_basic",
    "test_regex_full_match_basic",
    "test_strnorm_model_monday_casesensintive_upper",
    "test_tfidfvectorizer_tf_batch_uniandbigrams_skip5",
    "test_stft",
    "test_dft_axis",
    "test_melweightmatrix",
    "test_hannwindow",
    "test_det_nd",
    "test_eyelike_with_dtype",
    "test_center_crop_pad_crop_axes_hwc",
    "test_col2im_dilations",
    "test_depthtospace_example",
    "test_spacetodepth",
    "test_nllloss_NCd1d2_with_weight_reduction_mean",
    "test_sce_NCd1_mean_weight_negative_ii_log_prob",
    "test_adam",
    "test_momentum",
    "test_dropout_default",
    "test_bernoulli",
    "test_where_example",
    "test_mod_broadcast",
    "test_clip",
    "test_gelu_tanh_2",
    "test_prelu_broadcast",
    "test_hardmax_axis_1",
    "test_shape_clip_end",
    "test_image_decoder_decode_png_rgb",
    "test_reversesequence_batch",
    "test_tensorscatter",
];
/// Larger ones say little more and take longer.
const SEED_BYTES_MAX: usize = 20_000;

fn seeds() -> Vec<Seed> {
    let mut models = vec![std::fs::read(places::digits()).expect("the model of the checkout")];
    models.extend(SOURCES.iter().map(|source| {
        let graph = hetra_ir::parse(source).unwrap_or_else(|fault| panic!("{fault} in {source}"));
        hetra_onnx::export(&graph, &hetra_onnx::ExportOptions::default()).expect("a model")
    }));
    let suite = places::cache().join("onnx-1.20.0/onnx/backend/test/data/node");
    let cases = CASES.iter().filter_map(|case| read_case(&suite, case));
    let cases: Vec<Vec<u8>> = cases.filter(|bytes| bytes.len() <= SEED_BYTES_MAX).collect();
    if cases.is_empty() {
        places::skip_fetched(&suite);
    }
    models.extend(cases);
    let seed = |bytes: Vec<u8>| Seed { fields: wire::parse(&bytes).expect("fields"), bytes };
    models.into_iter().map(seed).collect()
}

fn read_case(suite: &Path, case: &str) -> Option<Vec<u8>> {
    std::fs::read(suite.join(case).join("model.onnx")).ok()
}

/// Small graphs with several nodes, where one thing can upset another.
const SOURCES: &[&str] = &[
    r#"graph "chain" (%x: f32[n,3,8,8]) {
        const %w = f32[2,3,1,1] [1.0, 2.0, -1.0, 0.5, 1.0, 0.0]
        const %s = i64[2] [0, -1]
        %a = Conv(%x, %w) {strides = [2, 2]}
        %b = Relu(%a)
        %p = MaxPool(%b) {kernel_shape = [2, 2], strides = [2, 2]}
        %c = Reshape(%p, %s)
        %d = Softmax(%c) {axis = 1}
        return (%d)
    }"#,
    r#"graph "shapes" (%x: f32[n,4]) {
        const %zero = i64[1] [0]
        const %two = i64[1] [2]
        %shape = Shape(%x)
        %rows = Gather(%shape, %zero)
        %new = Concat(%two, %rows, %two) {axis = 0}
        %y = Reshape(%x, %new)
        %z = Transpose(%y) {perm = [2, 0, 1]}
        %u = ReduceMean(%z) {keepdims = 0}
        %m, %i = TopK(%x, %two)
        return (%z, %u, %m, %i)
    }"#,
    r#"graph "loop" (%x: f32[2], %c: bool[]) {
        const %t = i64[] [3]
        %y, %all = Loop(%t, %c, %x) {body = graph "b" (%i: i64[], %go: bool[], %v: f32[2])
            captures (%outer = %x) {
            %w = Add(%v, %outer)
            %k = Mul(%w, %w)
            return (%go, %w, %k)
        }}
        %z = If(%c) {then_branch = graph "then" () captures (%p = %y) {
            %q = Neg(%p)
            return (%q)
        }, else_branch = graph "else" () captures (%p = %x) {
            %q = Exp(%p)
            return (%q)
        }}
        return (%y, %all, %z)
    }"#,
];

/// Mutant `number`: the same bytes every time.
fn mutant(seeds: &[Seed], number: usize) -> Vec<u8> {
    let mut random = Random::new(number as u64);
    // The first is large, and mostly weights: changes there say little and take long.
    let seed = if random.below(LARGE_RARITY) == 0 { &seeds[0] } else { random.pick(&seeds[1..]) };
    let rounds = 1 + random.below(3);
    if random.below(4) == 0 {
        let mut bytes = seed.bytes.clone();
        for _ in 0..rounds {
            mutate_bytes(&mut bytes, seeds, &mut random);
        }
        return bytes;
    }
    let mut fields = seed.fields.clone();
    for _ in 0..rounds {
        mutate_fields(&mut fields, seeds, &mut random);
    }
    wire::encode(&fields)
}

fn mutate_bytes(bytes: &mut Vec<u8>, seeds: &[Seed], random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    // What is interesting stands in front or at the end; weights lie between.
    let at = match random.below(3) {
        0 => random.below(bytes.len()),
        1 => random.below(bytes.len().min(600)),
        _ => bytes.len() - 1 - random.below(bytes.len().min(300)),
    };
    let end = (at + 1 + random.below(16)).min(bytes.len());
    match random.below(7) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff, 8, 10, 18]),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(end..end, copy);
        }
        4 => {
            let other = random.below(bytes.len());
            bytes.swap(at, other);
        }
        // A varint with its bits moved up: a length or a size that is far too large.
        5 => bytes[at..end].iter_mut().for_each(|byte| *byte |= 0x80),
        _ => {
            let other = &random.pick(seeds).bytes;
            let cut = random.below(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[cut..]);
        }
    }
}

/// Changes one field somewhere; the lengths around it stay right, so that the change arrives.
fn mutate_fields(fields: &mut Vec<Field>, seeds: &[Seed], random: &mut Random) {
    let mut level = fields;
    // Goes down a random way, mostly to the end.
    loop {
        let inner: Vec<usize> = level
            .iter()
            .enumerate()
            .filter(|(_, field)| matches!(field.data, Data::Message(_)))
            .map(|(index, _)| index)
            .collect();
        if inner.is_empty() || random.below(5) == 0 {
            break;
        }
        let Data::Message(next) = &mut level[*random.pick(&inner)].data else { return };
        level = next;
    }
    if level.is_empty() {
        return;
    }
    let at = random.below(level.len());
    let other = random.below(level.len());
    match random.below(8) {
        0 => drop(level.remove(at)),
        1 => level.insert(other, level[at].clone()),
        2 => level.swap(at, other),
        // Names changed for one another: edges go elsewhere, operators change.
        3 => {
            let data = level[other].data.clone();
            level[at].data = data;
        }
        4 => {
            if let Some(field) = graft(&random.pick(seeds).fields, level[at].number, random) {
                level[at] = field;
            }
        }
        _ => mutate_data(&mut level[at].data, random),
    }
}

/// A field of this number from another model.
fn graft(fields: &[Field], number: u64, random: &mut Random) -> Option<Field> {
    let mut found = Vec::new();
    let mut open = vec![fields];
    while let Some(level) = open.pop() {
        for field in level {
            if field.number == number {
                found.push(field);
            }
            if let Data::Message(inner) = &field.data {
                open.push(inner);
            }
        }
    }
    (!found.is_empty()).then(|| (*random.pick(&found)).clone())
}

fn mutate_data(data: &mut Data, random: &mut Random) {
    const NUMBERS: &[i64] = &[
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        10,
        11,
        16,
        22,
        64,
        255,
        -1,
        -2,
        -3,
        1 << 16,
        1 << 31,
        -1 << 31,
        1 << 40,
        i64::MAX,
        i64::MIN,
    ];
    match data {
        Data::Varint(value) => {
            *value = match random.below(4) {
                0 => value.wrapping_add(1),
                1 => value.wrapping_sub(1),
                _ => random.pick(NUMBERS).cast_unsigned(),
            }
        }
        Data::Fixed32(bytes) => {
            let floats = [0.0, -1.0, 0.5, 1e30, f32::NAN, f32::INFINITY, -0.0, 1e-30];
            *bytes = random.pick(&floats).to_le_bytes();
        }
        Data::Fixed64(bytes) => {
            *bytes = random.pick(&[0.0, -1.0, 1e300, f64::NAN]).to_le_bytes();
        }
        Data::Bytes(bytes) if bytes.is_empty() => bytes.push(b'x'),
        // Elements: one of them becomes a number that matters.
        Data::Bytes(bytes) if bytes.len().is_multiple_of(8) && random.below(2) == 0 => {
            let at = random.below(bytes.len() / 8) * 8;
            bytes[at..at + 8].copy_from_slice(&random.pick(NUMBERS).to_le_bytes());
        }
        Data::Bytes(bytes) => {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, bytes[at]),
                _ => bytes.clear(),
            }
        }
        Data::Message(fields) => {
            let at = random.below(fields.len());
            if !fields.is_empty() {
                fields.truncate(at);
            }
        }
    }
}
