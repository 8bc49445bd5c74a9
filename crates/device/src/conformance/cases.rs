//! Cases on generated shapes: odd extents, single elements, strides, groups, broadcasting.

use hetra_ir::Type;
use hetra_ops::{
    ALL_OPS, Arity, ChannelsLast, Compute, FIRST_INPUT_PLAIN, Kind, channels_last_perm, set_stored,
};
use hetra_tensor::{DType, Rounding, Tensor, cast};

use super::Case;
use super::attention::{by_heads, by_tokens, embeddings, grouped, multi_head, projected, rotaries};
use super::random::{Random, ints, live, node, weight};
use super::{
    contraction::einsums,
    fused::fused,
    quantised::{nbits, quantised},
    resize::resizes,
    rows::{norms, reductions},
    sequence::{attentions, recurrent},
    signal::{greatest, transforms},
};

/// `rounds` rounds of cases from a seed.
pub fn cases(seed: u64, rounds: usize) -> Vec<Case> {
    let random = Random::new(seed);
    let mut cases = Vec::new();
    for _ in 0..rounds {
        unary(&random, &mut cases);
        binary(&random, &mut cases);
        other_numbers(&random, &mut cases);
        convolutions(&random, &mut cases);
        deep_convolutions(&random, &mut cases);
        pools(&random, &mut cases);
        products(&random, &mut cases);
        einsums(&random, &mut cases);
        fused(&random, &mut cases);
        norms(&random, &mut cases);
        attentions(&random, &mut cases);
        recurrent(&random, &mut cases);
        resizes(&random, &mut cases);
        nbits(&random, &mut cases);
        by_tokens(&random, &mut cases);
        by_heads(&random, &mut cases);
        multi_head(&random, &mut cases);
        projected(&random, &mut cases);
        rotaries(&random, &mut cases);
        grouped(&random, &mut cases);
        embeddings(&random, &mut cases);
        reductions(&random, &mut cases);
        movements(&random, &mut cases);
        transforms(&random, &mut cases);
        greatest(&random, &mut cases);
        quantised(&random, &mut cases);
        warps(&random, &mut cases);
    }
    let last = |plain| cases.iter().filter_map(move |case| channels_last(case, plain));
    let last: Vec<Case> = last(false).chain(last(true)).collect();
    cases.extend(last);
    let rounded: Vec<Case> = cases.iter().filter_map(rounded).collect();
    cases.extend(rounded);
    let low: Vec<Case> = cases.iter().filter_map(stored).collect();
    cases.extend(low);
    cases
}

/// The same case with images, or what is added or multiplied, stored as bf16.
fn stored(case: &Case) -> Option<Case> {
    let mut case = case.clone();
    let node = &case.graph.nodes[0];
    let form = ChannelsLast::named(&node.op);
    let read: Vec<usize> = match (form, node.op.as_str()) {
        (Some(form), _) => form.images(node).collect(),
        (None, "Add" | "Mul") => (0..node.inputs.len()).collect(),
        _ => return None,
    };
    for index in read {
        let Some(id) = case.graph.nodes[0].input(index) else { continue };
        let place = case.graph.inputs.iter().position(|input| *input == id);
        let value = match place {
            Some(place) => &mut case.inputs[place],
            None => case.graph.constants.get_mut(&id)?,
        };
        let tensor = value.as_tensor().filter(|tensor| tensor.dtype() == DType::F32)?;
        *value = cast(tensor, DType::BF16, true, Rounding::NearestEven).ok()?.into();
        case.graph.values[id.index()].ty = Type::of(value);
    }
    if form.is_some() {
        set_stored(&mut case.graph.nodes[0], Some(DType::BF16));
    }
    case.name = format!("{} stored as bf16", case.name);
    Some(case)
}

/// The same case with operands rounded to bf16, where the operator knows that.
fn rounded(case: &Case) -> Option<Case> {
    let mut case = case.clone();
    let node = &mut case.graph.nodes[0];
    let product = ["MatMul", "Gemm", "Conv", "ConvLast"];
    let fused = ["FusedMatMul", "FusedGemm", "FusedConv"];
    let op = node.op.rsplit('.').next()?;
    if !product.iter().chain(&fused).any(|known| *known == op) {
        return None;
    }
    Compute::Bf16.set(node);
    case.name = format!("{} by bf16", case.name);
    Some(case)
}

/// The same case on images with their channels last, where the operator has such a form; the first
/// input of a convolution stays `plain` if asked for.
fn channels_last(case: &Case, plain: bool) -> Option<Case> {
    let mut case = case.clone();
    let form = ChannelsLast::of(&case.graph.nodes[0].op)?;
    if plain {
        if form.op != "hetra.ConvLast" {
            return None;
        }
        case.graph.nodes[0].attrs.set(FIRST_INPUT_PLAIN, 1_i64);
    }
    for index in form.images(&case.graph.nodes[0]) {
        let Some(id) = case.graph.nodes[0].input(index) else { continue };
        let graph = &mut case.graph;
        let value = match graph.inputs.iter().position(|input| *input == id) {
            Some(place) => &mut case.inputs[place],
            None => graph.constants.get_mut(&id)?,
        };
        let tensor = value.as_tensor()?;
        let turned = tensor.view().permute(&channels_last_perm(tensor.rank())).ok()?;
        *value = turned.to_tensor().ok()?.into();
        graph.values[id.index()].ty = Type::of(value);
    }
    case.graph.nodes[0].op = form.op.to_string();
    let plain = if plain { " with a plain image" } else { "" };
    case.name = format!("{}{plain} of {}", form.op, case.name);
    Some(case)
}

/// Every elementwise operator that takes one tensor, as the table of operators says.
fn unary(random: &Random, cases: &mut Vec<Case>) {
    for def in ALL_OPS.iter().copied().flatten() {
        if def.kind != Kind::Elementwise || def.inputs.min != 1 || !def.pure {
            continue;
        }
        let rank = random.below(5);
        let mut x = random.floats(&random.shape(rank));
        cases.push(Case::new(def.name, node(def.name), vec![live(x.clone())], 1));
        if let Ok([first, ..]) = x.as_mut_slice::<f32>() {
            *first = f32::NAN;
        }
        cases.push(Case::new(def.name, node(def.name), vec![live(x)], 1));
    }
}

/// Two operands, or any number of them; further inputs that have a default are something else.
fn takes_two(inputs: Arity) -> bool {
    inputs.min == 2 || (inputs.min == 1 && inputs.max == usize::MAX)
}

/// Every elementwise operator that two tensors may be given to, with broadcasting on either side.
fn binary(random: &Random, cases: &mut Vec<Case>) {
    for exponent in [2f32, 3.0, 0.5] {
        let x = random.floats(&random.shape(2));
        let arguments = vec![live(x), weight(Tensor::scalar(exponent))];
        cases.push(Case::new("Pow", node("Pow"), arguments, 1));
    }
    for def in ALL_OPS.iter().copied().flatten() {
        if def.kind != Kind::Elementwise || !takes_two(def.inputs) || !def.pure {
            continue;
        }
        let rank = random.below(4) + 1;
        let shape = random.shape(rank);
        let keep = random.below(rank + 1);
        let mut other = shape[keep..].to_vec();
        other
            .iter_mut()
            .for_each(|extent| *extent = if random.below(3) == 0 { 1 } else { *extent });
        let (a, b) = (random.floats(&shape), random.floats(&other));
        let swap = random.below(2) == 1 && def.name != "PRelu";
        let (a, b) = if swap { (b, a) } else { (a, b) };
        cases.push(Case::new(def.name, node(def.name), vec![live(a), live(b)], 1));
    }
}

/// Numbers as those of other dtypes.
fn casts(random: &Random, cases: &mut Vec<Case>) {
    use DType::{BF16, Bool, F16, F32, I8, I32, I64, U8};
    let dtypes = [F32, F16, BF16, I32, I64, U8, I8, Bool];
    for from in dtypes {
        for to in [random.pick(&dtypes), F32] {
            let x = random.tensor(from, &random.shape(2));
            let cast = node("Cast").with("to", i64::from(to.onnx()));
            cases.push(Case::new(&format!("Cast of {from} to {to}"), cast, vec![live(x)], 1));
        }
    }
}

/// Floats of 16 bits, and what whole numbers have operators of their own for, of both signs and by
/// zero.
fn other_numbers(random: &Random, cases: &mut Vec<Case>) {
    casts(random, cases);
    let shape = random.shape(2);
    let row = [shape[1]];
    for dtype in [DType::I32, DType::U8, DType::I64, DType::U32] {
        let signed = matches!(dtype, DType::I32 | DType::I64);
        let (from, others) =
            if signed { (DType::I8, [0, -3, 7, -40]) } else { (DType::U8, [0, 3, 7, 40]) };
        let others: Vec<i32> = (0..row[0]).map(|_| random.pick(&others)).collect();
        let to = |tensor: &Tensor| cast(tensor, dtype, true, Rounding::NearestEven);
        let (Ok(a), Ok(b)) = (to(&random.tensor(from, &shape)), to(&Tensor::vector(&others)))
        else {
            continue;
        };
        for op in ["BitwiseAnd", "BitwiseOr", "BitwiseXor", "Mod", "hetra.FloorDivide"] {
            let mut of_two = node(op);
            if op == "Mod" {
                of_two = of_two.with("fmod", random.below(2) as i64);
            }
            cases.push(Case::new(op, of_two, vec![live(a.clone()), live(b.clone())], 1));
        }
        cases.push(Case::new("BitwiseNot", node("BitwiseNot"), vec![live(a.clone())], 1));
        if matches!(dtype, DType::U8 | DType::U32) {
            let shift = node("BitShift").with("direction", random.pick(&["LEFT", "RIGHT"]));
            cases.push(Case::new("BitShift", shift, vec![live(a), live(b)], 1));
        }
    }
    for op in ["Relu", "Sigmoid", "Neg"] {
        let x = random.tensor(DType::F16, &shape);
        cases.push(Case::new(&format!("{op} of f16"), node(op), vec![live(x)], 1));
    }
    for op in ["Add", "Mul", "Less"] {
        let halves = [random.tensor(DType::F16, &shape), random.tensor(DType::F16, &row)];
        cases.push(Case::new(&format!("{op} of f16"), node(op), halves.map(live).into(), 1));
    }
    let values = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -3e38];
    // Halves that are rounded, infinite, or hardly numbers.
    let halves = [70_000.0, 1.0001, 1e-9, 2049.0, 65_519.0, 65_520.0, -3e-6, 6.1e-5, f32::NAN];
    let half = node("Cast").with("to", i64::from(DType::F16.onnx()));
    cases.push(Case::new("Cast to f16", half, vec![live(Tensor::vector(&halves))], 1));
    let edges = [f32::NAN, 1.0, 0.0, -2.0, f32::NAN];
    let arguments = vec![live(Tensor::vector(&edges)), live(Tensor::vector(&values))];
    cases.push(Case::new("Pow of no number", node("Pow"), arguments, 1));
    for op in ["Gelu", "Sigmoid", "Tanh", "Softplus", "Erf"] {
        let x = live(Tensor::vector(&values));
        cases.push(Case::new(&format!("{op} of infinities"), node(op), vec![x], 1));
    }
    let asks = node("IsInf")
        .with("detect_positive", random.below(2) as i64)
        .with("detect_negative", random.below(2) as i64);
    cases.push(Case::new("IsInf", asks, vec![live(Tensor::vector(&values))], 1));
    // Angles and lengths at the axes and beyond the squares that f32 holds.
    let far = vec![live(Tensor::vector(&[-1e8f32, -1e9, 0.5, 1.0, 3e30, f32::NAN]))];
    cases.push(Case::new("Acosh of what has none", node("Acosh"), far, 1));
    let none = [f32::NAN, 0.0, f32::NAN, f32::INFINITY];
    let other = [0.0, f32::NAN, f32::INFINITY, 1.0f32];
    let arguments = [none, other].map(|values| live(Tensor::vector(&values)));
    cases.push(Case::new("Hypot of no number", node("hetra.Hypot"), arguments.into(), 1));
    let (y, x) = ([0.0, -0.0, 1.0, -2.0, 3e30, -4e-30], [-1.0, 1.0, 0.0, -0.5, 4e30, -3e-30f32]);
    for op in ["hetra.Atan2", "hetra.Hypot", "hetra.LogAddExp", "hetra.CopySign"] {
        let arguments = [y, x].map(|values| live(Tensor::vector(&values[..4])));
        cases.push(Case::new(op, node(op), arguments.into(), 1));
    }
    let arguments = [y, x].map(|values| live(Tensor::vector(&values)));
    cases.push(Case::new("hetra.Atan2", node("hetra.Atan2"), arguments.clone().into(), 1));
    cases.push(Case::new("hetra.Hypot", node("hetra.Hypot"), arguments.into(), 1));
}

fn convolutions(random: &Random, cases: &mut Vec<Case>) {
    for op in ["Conv", "ConvTranspose", "com.microsoft.FusedConv"] {
        for groups in [1, 1, 3, 0] {
            let per_group = random.pick(&[1, 2, 4, 7]);
            let out_group = random.pick(&[1, 2, 5, 16]);
            let depthwise = groups == 0;
            let groups = if depthwise { random.pick(&[2, 8, 19]) } else { groups };
            let (cin, cout) = if depthwise { (1, 1) } else { (per_group, out_group) };
            let kernel = [random.pick(&[1, 2, 3, 5]), random.pick(&[1, 3, 4])];
            let strides = [random.pick(&[1, 1, 2]), random.pick(&[1, 2, 3])];
            let dilations = [random.pick(&[1, 1, 2]), 1];
            let pads = [random.below(2), random.below(2), random.below(2), random.below(2)];
            let size = [5 + random.below(12), 6 + random.below(20)];
            let x = random.floats(&[random.pick(&[1, 2]), groups * cin, size[0], size[1]]);
            let w = if op == "ConvTranspose" {
                random.floats(&[groups * cin, cout, kernel[0], kernel[1]])
            } else {
                random.floats(&[groups * cout, cin, kernel[0], kernel[1]])
            };
            let b = random.floats(&[groups * cout]);
            let mut conv = node(op)
                .with("group", groups as i64)
                .with("strides", ints(&strides))
                .with("dilations", ints(&dilations))
                .with("pads", ints(&pads));
            if op == "com.microsoft.FusedConv" {
                conv = conv.with("activation", random.pick(&["Relu", "Sigmoid", "Tanh"]));
            }
            let constant = random.below(3) > 0;
            cases.push(Case::new(op, conv, vec![live(x), (Some(w), constant), weight(b)], 1));
        }
        // One axis, which the kernels take for the width of an image of height 1.
        let (x, w) = (random.floats(&[2, 3, 9 + random.below(20)]), random.floats(&[3, 3, 3]));
        let conv = node(op).with("strides", ints(&[random.pick(&[1, 2])]));
        cases.push(Case::new(op, conv.with("pads", ints(&[1, 0])), vec![live(x), weight(w)], 1));
    }
    for op in ["Conv", "com.microsoft.FusedConv"] {
        let (groups, cout) = (random.pick(&[1, 2, 3]), random.pick(&[1, 4]));
        let pick = || [random.pick(&[1, 2]), random.pick(&[1, 2]), random.pick(&[1, 2, 3])];
        let (kernel, strides, cin) = (pick(), pick(), random.pick(&[1, 2]));
        let x = random.floats(&[2, groups * cin, 4 + random.below(4), 5, 4 + random.below(9)]);
        let w = random.floats(&[groups * cout, cin, kernel[0], kernel[1], kernel[2]]);
        let conv = node(op).with("group", groups as i64).with("strides", ints(&strides));
        let conv = conv.with("pads", ints(&[1, 0, 1, 0, 1, 1])).with("dilations", ints(&pick()));
        let arguments = vec![live(x), (Some(w), random.below(2) == 1)];
        cases.push(Case::new(&format!("{op} of volumes"), conv, arguments, 1));
    }
}

/// Three by three taps of so many channels and pixels that it pays to transform them in tiles.
fn deep_convolutions(random: &Random, cases: &mut Vec<Case>) {
    for (channels_in, channels_out, side) in [(64, 64, 10), (24, 40, 20)] {
        let x = random.floats(&[1, channels_in, side, side + random.below(2)]);
        let w = random.floats(&[channels_out, channels_in, 3, 3]);
        let b = random.floats(&[channels_out]);
        let conv = node("Conv").with("pads", ints(&[1; 4]));
        cases.push(Case::new("deep Conv", conv, vec![live(x), weight(w), weight(b)], 1));
    }
}

fn pools(random: &Random, cases: &mut Vec<Case>) {
    for op in ["MaxPool", "AveragePool"] {
        let kernel = [random.pick(&[2, 3]), random.pick(&[1, 2, 3])];
        let pool = node(op)
            .with("kernel_shape", ints(&kernel))
            .with("strides", ints(&[random.pick(&[1, 2]), random.pick(&[1, 2, 3])]))
            .with("ceil_mode", random.below(2) as i64)
            .with("pads", ints(&[random.below(2), 0, random.below(2), 0]));
        let mut x = random.floats(&[2, 3, 7 + random.below(9), 8 + random.below(20)]);
        cases.push(Case::new(op, pool.clone(), vec![live(x.clone())], 1));
        // Some windows have one or two numbers that are none, and a plane has no others.
        let plane = x.len() / 6;
        if let Ok(values) = x.as_mut_slice::<f32>() {
            values.iter_mut().step_by(5).for_each(|value| *value = f32::NAN);
            values[..plane].fill(f32::NAN);
        }
        cases.push(Case::new("pool of NaN", pool, vec![live(x)], 1));
        let pick = || [random.pick(&[1, 2, 3]), random.pick(&[1, 2]), random.pick(&[1, 3])];
        let pool = node(op)
            .with("kernel_shape", ints(&[2, 3, 2]))
            .with("strides", ints(&pick()))
            .with("dilations", ints(&pick()))
            .with("pads", ints(&[random.below(2), 1, 0, 1, random.below(2), 1]));
        let pool = match op {
            "MaxPool" => pool,
            _ => pool.with("count_include_pad", random.below(2) as i64),
        };
        let mut x = random.floats(&[2, 2, 4 + random.below(4), 6, 5 + random.below(9)]);
        if let (Ok(values), "MaxPool") = (x.as_mut_slice::<f32>(), op) {
            values.iter_mut().step_by(3).for_each(|value| *value = f32::NAN);
        }
        cases.push(Case::new(&format!("{op} of volumes"), pool, vec![live(x)], 1));
    }
    let mut x = random.floats(&[2, 5, random.pick(&[1, 7]), random.pick(&[1, 16, 33])]);
    for op in ["GlobalAveragePool", "GlobalMaxPool"] {
        cases.push(Case::new(op, node(op), vec![live(x.clone())], 1));
        if let Ok([first, ..]) = x.as_mut_slice::<f32>() {
            *first = f32::NAN;
        }
        cases.push(Case::new(op, node(op), vec![live(x.clone())], 1));
    }
}

fn products(random: &Random, cases: &mut Vec<Case>) {
    let (m, k, n) =
        (random.pick(&[1, 3, 16, 31]), random.pick(&[1, 4, 33, 100]), random.pick(&[1, 2, 17, 64]));
    // Large enough for copies of both operands, with rests of all tiles.
    let (a, b) = (random.floats(&[37, 130]), random.floats(&[130, 117 + random.below(3)]));
    cases.push(Case::new("MatMul of large matrices", node("MatMul"), vec![live(a), live(b)], 1));
    let batch = random.pick(&[1, 3]);
    let (a, b) = (random.floats(&[batch, 2, m, k]), random.floats(&[2, k, n]));
    cases.push(Case::new("MatMul", node("MatMul"), vec![live(a), live(b)], 1));
    let (a, b) = (random.floats(&[batch, m, k]), random.floats(&[k, n]));
    cases.push(Case::new("MatMul by weights", node("MatMul"), vec![live(a), weight(b)], 1));
    let turned = random.below(2) == 1;
    let (a, c) = (random.floats(&[m, k]), random.floats(&[n]));
    let b = if turned { random.floats(&[n, k]) } else { random.floats(&[k, n]) };
    for op in ["Gemm", "com.microsoft.FusedGemm"] {
        let mut gemm = node(op).with("transB", i64::from(turned)).with("alpha", 0.5f32);
        if op == "com.microsoft.FusedGemm" {
            gemm = gemm.with("activation", "Relu");
        }
        let arguments = vec![live(a.clone()), weight(b.clone()), weight(c.clone())];
        cases.push(Case::new(op, gemm, arguments, 1));
    }
    let summand = random.pick(&[[1, 1, n], [1, 1, n], [batch, m, n], [1, m, 1], [1; 3]]);
    let summand = &summand[random.below(2) * usize::from(summand[1] == 1)..];
    let (a, b) = (random.floats(&[batch, m, k]), random.floats(&[k, n]));
    let arguments = vec![live(a), weight(b), live(random.floats(summand))];
    let biased = node("com.microsoft.FusedMatMul").with("alpha", 0.5f32);
    cases.push(Case::new("FusedMatMul with a bias", biased, arguments, 1));
    let summand = random.pick(&[[1, n], [1, n], [m, n], [m, 1]]);
    let (a, b) = (random.floats(&[m, k]), random.floats(&[k, n]));
    let arguments = vec![live(a), live(b), live(random.floats(&summand))];
    let beta = random.pick(&[1.0f32, 1.0, 0.5]);
    cases.push(Case::new("Gemm with a C", node("Gemm").with("beta", beta), arguments, 1));
    let (a, b) = (random.floats(&[2, k, m]), random.floats(&[2, n, k]));
    let fused = node("com.microsoft.FusedMatMul").with("transA", 1i64).with("transB", 1i64);
    cases.push(Case::new("FusedMatMul", fused, vec![live(a), live(b)], 1));
}

/// Blocks of pixels as channels and back, triangles of matrices.
fn blocks(random: &Random, cases: &mut Vec<Case>) {
    let (block, side) = (random.pick(&[1, 2, 3]), random.pick(&[1, 2, 5]));
    let image = [random.pick(&[1, 2]), random.pick(&[1, 3]), side * block, 2 * block];
    let turn = node("SpaceToDepth").with("blocksize", block as i64);
    let x = random.tensor(random.pick(&[DType::F32, DType::F16]), &image);
    cases.push(Case::new("SpaceToDepth", turn, vec![live(x)], 1));
    let dtype = random.pick(&[DType::F32, DType::I64, DType::U8]);
    let x = random.tensor(dtype, &[2, random.pick(&[1, 4, 7]), random.pick(&[1, 5])]);
    let half = node("Trilu").with("upper", random.below(2) as i64);
    let shift = weight(Tensor::scalar(random.pick(&[-9i64, -1, 0, 2, 40])));
    cases.push(Case::new("Trilu", half, vec![live(x), shift], 1));
}

fn movements(random: &Random, cases: &mut Vec<Case>) {
    blocks(random, cases);
    for dtype in [DType::F32, DType::I64, DType::U8, DType::F16] {
        let shape = random.shape(4);
        let x = random.tensor(dtype, &shape);
        let perm = random.pick(&[[0, 2, 3, 1], [0, 3, 1, 2], [3, 2, 1, 0], [1, 0, 2, 3]]);
        let turn = node("Transpose").with("perm", ints(&perm));
        cases.push(Case::new("Transpose", turn, vec![live(x.clone())], 1));
        // Planes with whole registers and cache lines, and with what is left over.
        let planes = [2, random.pick(&[2, 3, 24, 58]), random.pick(&[4, 35, 67])];
        let turn = node("Transpose").with("perm", ints(&random.pick(&[[0, 2, 1], [2, 1, 0]])));
        let x = random.tensor(dtype, &planes);
        cases.push(Case::new("Transpose", turn, vec![live(x)], 1));
        let x = random.tensor(dtype, &shape);
        let join = node("Concat").with("axis", random.below(4) as i64);
        cases.push(Case::new("Concat", join, vec![live(x.clone()), live(x.clone())], 1));
        cases.push(gather_concat(random, dtype, &shape));
        let axis = random.below(4);
        let cut = random.below(shape[axis] + 1);
        let lengths = Tensor::vector(&[cut as i64, (shape[axis] - cut) as i64]);
        let split = node("Split").with("axis", axis as i64);
        cases.push(Case::new("Split", split, vec![live(x.clone()), weight(lengths)], 2));
        let chosen: Vec<i64> = (0..3).map(|_| random.below(shape[axis]) as i64).collect();
        let gather = node("Gather").with("axis", axis as i64);
        let arguments = vec![live(x.clone()), live(Tensor::vector(&chosen))];
        cases.push(Case::new("Gather", gather, arguments, 1));
        let mut extents: Vec<usize> = shape.iter().map(|&n| 1 + random.below(n)).collect();
        extents[axis] = random.pick(&[1, 6]);
        let count: usize = extents.iter().product();
        let chosen = (0..count).map(|_| random.below(2 * shape[axis]) as i64 - shape[axis] as i64);
        let chosen = Tensor::from_slice(&extents, &chosen.collect::<Vec<_>>());
        let gather = node("GatherElements").with("axis", axis as i64);
        let arguments = vec![live(x.clone()), chosen.map_or((None, false), live)];
        cases.push(Case::new("GatherElements", gather, arguments, 1));
        let start = random.below(shape[axis]) as i64;
        let (end, step) = random.pick(&[(i64::MAX, 1), (i64::MAX, 2), (-1, 1), (i64::MIN, -2)]);
        let bounds = [start, end, axis as i64, step].map(|value| weight(Tensor::vector(&[value])));
        let arguments = [live(x.clone())].into_iter().chain(bounds).collect();
        cases.push(Case::new("Slice", node("Slice"), arguments, 1));
        let times = random.pick(&[[1i64, 1, 2, 3], [2, 1, 5, 1], [1, 1, 1, 1], [3, 0, 1, 1]]);
        let arguments = vec![live(x.clone()), live(Tensor::vector(&times))];
        cases.push(Case::new("Tile", node("Tile"), arguments, 1));
        let mut one = shape.clone();
        one[axis] = 1;
        let wanted: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let wanted = [&[2][..], &wanted].concat();
        let arguments = vec![live(random.tensor(dtype, &one)), live(Tensor::vector(&wanted))];
        cases.push(Case::new("Expand", node("Expand"), arguments, 1));
    }
}

/// Patches of a picture, in and around it.
fn warps(random: &Random, cases: &mut Vec<Case>) {
    let (h, w) = (1 + random.below(40), 1 + random.below(40));
    let count = random.below(4);
    let number = || random.below(401) as f32 / 100.0 - 2.0;
    let maps: Vec<f32> =
        (0..count * 6).map(|at| if at % 3 == 2 { number() * 10.0 } else { number() }).collect();
    let size = vec![1 + random.below(20) as i64, 1 + random.below(70) as i64];
    let warp = node("hetra.Warp").with("size", hetra_ir::Attr::Ints(size));
    let three = || hetra_ir::Attr::Floats(vec![number(), number(), number()]);
    let warp = warp.with("mean", three()).with("scale", three());
    let warp = warp.with("reverse", random.below(2) as i64).with("fill", number());
    let pixels: Vec<u8> = (0..h * w * 3).map(|_| random.below(256) as u8).collect();
    let (Ok(picture), Ok(maps)) =
        (Tensor::from_slice(&[h, w, 3], &pixels), Tensor::from_slice(&[count, 2, 3], &maps))
    else {
        return;
    };
    let mut arguments = vec![live(picture), live(maps)];
    if random.below(3) == 0 {
        arguments.push(live(Tensor::vector(&[7i64, 1 + random.below(70) as i64])));
    }
    cases.push(Case::new("hetra.Warp", warp, arguments, 1));
}

/// Slices of two tensors, in turn or in any order.
fn gather_concat(random: &Random, dtype: DType, shape: &[usize]) -> Case {
    let axis = random.pick(&[1, 3]);
    let mut other = shape.to_vec();
    other[axis] = random.pick(&[1, 5, 40]);
    let (extent, more) = (shape[axis], other[axis]);
    let indices: Vec<i64> = match random.below(2) {
        0 => (0..2 * extent.min(more)).map(|i| (i / 2 + i % 2 * extent) as i64).collect(),
        _ => (0..1 + random.below(20)).map(|_| random.below(extent + more) as i64).collect(),
    };
    let pick = node("hetra.GatherConcat").with("axis", axis as i64);
    let pick = pick.with("indices", hetra_ir::Attr::Ints(indices));
    let inputs = vec![live(random.tensor(dtype, shape)), live(random.tensor(dtype, &other))];
    Case::new("hetra.GatherConcat", pick, inputs, 1)
}
