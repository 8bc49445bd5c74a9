//! Cases on 8-bit codes.

use hetra_tensor::{DType, Tensor};

use super::Case;
use super::random::{Random, ints, live, node, weight};

pub(super) fn quantised(random: &Random, cases: &mut Vec<Case>) {
    for (x_type, w_type) in [(DType::U8, DType::I8), (DType::I8, DType::I8), (DType::U8, DType::U8)]
    {
        let scale = |value: f32| weight(Tensor::scalar(value));
        let zero = |random: &Random, dtype: DType| weight(random.tensor(dtype, &[]));
        let (m, k, n) =
            (random.pick(&[1, 5, 16]), random.pick(&[3, 32, 77]), random.pick(&[1, 9, 40]));
        let (a, b) = (random.tensor(x_type, &[m, k]), random.tensor(w_type, &[k, n]));
        let (za, zb) = (zero(random, x_type), zero(random, w_type));
        let op = "MatMulInteger";
        let arguments = vec![live(a.clone()), weight(b.clone()), za.clone(), zb.clone()];
        cases.push(Case::new(op, node(op), arguments, 1));
        // A zero point for each column, and one for each row, which is not the same.
        for shape in [vec![n], vec![k, 1]] {
            let zeros = weight(random.tensor(w_type, &shape));
            let arguments = vec![live(a.clone()), weight(b.clone()), za.clone(), zeros];
            cases.push(Case::new(op, node(op), arguments, 1));
        }
        let zy = zero(random, x_type);
        let op = "QLinearMatMul";
        let arguments = vec![
            live(a),
            scale(0.02),
            za.clone(),
            weight(b),
            scale(0.01),
            zb.clone(),
            scale(0.05),
            zy.clone(),
        ];
        cases.push(Case::new(op, node(op), arguments, 1));
        let x = random.tensor(x_type, &[1, 4, 6 + random.below(9), 9]);
        let w = random.tensor(w_type, &[6, 4, random.pick(&[1, 3]), random.pick(&[1, 3])]);
        let conv = node("QLinearConv").with("pads", ints(&[1, 0, 1, 0]));
        let arguments = vec![live(x), scale(0.02), za, weight(w), scale(0.01), zb, scale(0.05), zy];
        cases.push(Case::new("QLinearConv", conv, arguments, 1));
        let codes = random.tensor(x_type, &[3, random.pick(&[1, 64, 99])]);
        let arguments = vec![live(codes), weight(random.tensor(w_type, &[256]))];
        cases.push(Case::new("hetra.CodeTable", node("hetra.CodeTable"), arguments, 1));
        let x = random.floats(&[3, random.pick(&[1, 16, 50])]);
        let zero = zero(random, x_type);
        let arguments = vec![live(x), scale(0.03), zero.clone()];
        cases.push(Case::new("QuantizeLinear", node("QuantizeLinear"), arguments, 1));
        let x = random.floats(&[3, 17]);
        let named = node("QuantizeLinear").with("output_dtype", i64::from(x_type.onnx()));
        cases.push(Case::new("QuantizeLinear to a type", named, vec![live(x), scale(0.03)], 1));
        let x = random.tensor(x_type, &[2, 33]);
        let arguments = vec![live(x), scale(0.03), zero];
        cases.push(Case::new("DequantizeLinear", node("DequantizeLinear"), arguments, 1));
    }
    // Depthwise, with a border and a step of 2.
    for _ in 0..2 {
        let channels = random.pick(&[2, 7]);
        let x = random.tensor(DType::U8, &[2, channels, 4 + random.below(9), 5 + random.below(40)]);
        let w = random.tensor(DType::I8, &[channels, 1, 3, random.pick(&[1, 3])]);
        let step = random.pick(&[1, 2, 3]);
        let conv = node("QLinearConv").with("group", channels as i64).with("pads", ints(&[1; 4]));
        let conv = conv.with("strides", ints(&[step, step]));
        let scale = |value: f32| weight(Tensor::scalar(value));
        let zero = |dtype| weight(random.tensor(dtype, &[]));
        let of_x = [live(x), scale(0.02), zero(DType::U8)];
        let rest = [weight(w), scale(0.01), zero(DType::I8), scale(0.04), zero(DType::U8)];
        let arguments = of_x.into_iter().chain(rest).collect();
        cases.push(Case::new("QLinearConv", conv, arguments, 1));
    }
    let x = random.floats(&[3, random.pick(&[1, 16, 50])]);
    let op = "DynamicQuantizeLinear";
    cases.push(Case::new(op, node(op), vec![live(x)], 3));
    for dtype in [DType::U8, DType::I8] {
        codes(random, dtype, cases);
    }
}

/// Operators of com.microsoft on codes of one type.
fn codes(random: &Random, dtype: DType, cases: &mut Vec<Case>) {
    let scale = |value: f32| weight(Tensor::scalar(value));
    let zero = || weight(random.tensor(dtype, &[]));
    for op in ["com.microsoft.QLinearAdd", "com.microsoft.QLinearMul"] {
        let shape = [2, 3, random.pick(&[1, 4]), random.pick(&[1, 5, 33])];
        let other = random.pick(&[shape, [2, 3, 1, 1], [1; 4]]);
        let (mut a, mut b) = (random.tensor(dtype, &shape), random.tensor(dtype, &other));
        if random.below(2) == 1 {
            (a, b) = (b, a);
        }
        let mut arguments = vec![live(a), scale(0.02), zero(), live(b), scale(0.03), zero()];
        arguments.extend([scale(0.04), zero()]);
        cases.push(Case::new(op, node(op), arguments, 1));
    }
    let op = "com.microsoft.QLinearConcat";
    let mut arguments = vec![scale(0.02), zero()];
    for of_part in [0.02, 0.05] {
        let part = random.tensor(dtype, &[2, random.pick(&[1, 3]), 7]);
        arguments.extend([live(part), scale(of_part), zero()]);
    }
    cases.push(Case::new(op, node(op).with("axis", 1i64), arguments, 1));
    let x = random.tensor(dtype, &[2, random.pick(&[1, 70]), random.pick(&[1, 7]), 9]);
    let op = "com.microsoft.QLinearGlobalAveragePool";
    let arguments = vec![live(x), scale(0.02), zero(), scale(0.015), zero()];
    cases.push(Case::new(op, node(op), arguments, 1));
    let op = "com.microsoft.QGemm";
    let (m, k, n) = (random.pick(&[1, 4]), random.pick(&[1, 30]), random.pick(&[1, 17]));
    for (turn_a, turn_b, floats) in [(0i64, 1i64, false), (1, 0, true)] {
        let a = random.tensor(dtype, &if turn_a == 1 { [k, m] } else { [m, k] });
        let b = random.tensor(DType::I8, &if turn_b == 1 { [n, k] } else { [k, n] });
        let gemm = node(op).with("transA", turn_a).with("transB", turn_b).with("alpha", 0.5f32);
        let zero_b = weight(random.tensor(DType::I8, &[]));
        let mut arguments = vec![live(a), scale(0.02), zero(), weight(b), scale(0.01), zero_b];
        arguments.push(weight(random.tensor(DType::I32, &[n])));
        if !floats {
            arguments.extend([scale(0.1), zero()]);
        }
        cases.push(Case::new(op, gemm, arguments, 1));
    }
    // The output's scale is its only step, so that codes do not hang on the last bit of e^x.
    let x = random.tensor(dtype, &[3, random.pick(&[1, 4]), 5]);
    let op = "com.microsoft.QLinearSoftmax";
    let axis = random.below(3) as i64;
    let softmax = node(op).with("axis", axis).with("opset", random.pick(&[12i64, 13]));
    let arguments = vec![live(x), scale(0.2), zero(), scale(1.0 / 256.0), zero()];
    cases.push(Case::new(op, softmax, arguments, 1));
}

/// Products with weights in blocks: bits, block sizes, zero points, a last block that is not full.
pub(super) fn nbits(random: &Random, cases: &mut Vec<Case>) {
    for bits in [2, 4, 8] {
        let (block, k) = (random.pick(&[16, 32, 128]), random.pick(&[7, 32, 100, 260]));
        let (m, n) = (random.pick(&[1, 3, 9]), random.pick(&[1, 8, 33]));
        let blocks = usize::div_ceil(k, block);
        let op = "com.microsoft.MatMulNBits";
        let mut product = node(op).with("K", k as i64).with("N", n as i64);
        product.attrs.set("bits", bits as i64);
        product.attrs.set("block_size", block as i64);
        let codes = random.tensor(DType::U8, &[n, blocks, block * bits / 8]);
        let zeros = match random.below(3) {
            0 => (None, false),
            1 => weight(random.tensor(DType::U8, &[n, usize::div_ceil(blocks * bits, 8)])),
            _ => weight(random.floats(&[n, blocks])),
        };
        let mut arguments = vec![live(random.floats(&[2, m, k])), weight(codes)];
        arguments.extend([weight(random.floats(&[n, blocks])), zeros]);
        if random.below(2) == 0 {
            arguments.extend([(None, false), weight(random.floats(&[n]))]);
        }
        cases.push(Case::new(op, product, arguments, 1));
    }
}
