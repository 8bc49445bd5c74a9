//! What runs over rows: softmax, normalisations, reductions.

use hetra_ops::ALL_OPS;
use hetra_tensor::Tensor;

use super::Case;
use super::random::{Random, live, node, weight};

/// Rows that devices do by more than one item each.
fn long_rows(random: &Random, cases: &mut Vec<Case>) {
    let rows = [random.pick(&[1, 3]), random.pick(&[130, 257]), random.pick(&[1, 2])];
    let long = random.floats(&rows);
    let op = random.pick(&["Softmax", "LogSoftmax"]);
    let soft = node(op).with("axis", 1i64);
    let mut far = random.floats(&[2, 4096]);
    if let Ok(values) = far.as_mut_slice::<f32>() {
        values.iter_mut().for_each(|value| *value += 100.0);
    }
    let arguments = vec![live(far), weight(random.floats(&[4096]))];
    let norm = node("LayerNormalization");
    cases.push(Case::new("LayerNormalization far from zero", norm, arguments, 1));
    // Longer than an item does by itself, and than some drivers let one loop.
    let row = random.floats(&[2, 23_000]);
    let op = random.pick(&["Softmax", "LogSoftmax"]);
    cases.push(Case::new("softmax of very long rows", node(op), vec![live(row)], 1));
    let images = random.floats(&[1, 2, 150, 151]);
    let factors = [random.floats(&[2]), random.floats(&[2])].map(weight);
    let arguments: Vec<_> = [live(images)].into_iter().chain(factors).collect();
    let op = random.pick(&["InstanceNormalization", "GroupNormalization"]);
    let norm = node(op);
    let norm = if op == "GroupNormalization" { norm.with("num_groups", 1i64) } else { norm };
    cases.push(Case::new("norm of large planes", norm, arguments, 1));
    let many = random.floats(&[70_000]);
    let op = random.pick(&["ArgMax", "ArgMin"]);
    cases.push(Case::new(&format!("{op} of many"), node(op), vec![live(many.clone())], 1));
    let axis = weight(Tensor::scalar(0i64));
    cases.push(Case::new("CumSum of many", node("CumSum"), vec![live(many), axis], 1));
    let (mut a, b) = (random.floats(&[2, 70_000]), random.floats(&[70_000, 2]));
    if let Ok(values) = a.as_mut_slice::<f32>() {
        values.iter_mut().for_each(|value| *value = value.abs());
    }
    let product = vec![live(a), live(b)];
    cases.push(Case::new("MatMul of long rows", node("MatMul"), product, 1));
    cases.push(Case::new("softmax of long rows", soft, vec![live(long.clone())], 1));
    let (scale, bias) = (random.floats(&rows[1..]), random.floats(&rows[1..]));
    let arguments = vec![live(long.clone()), weight(scale), weight(bias)];
    let norm = node("LayerNormalization").with("axis", 1i64);
    cases.push(Case::new("LayerNormalization of long rows", norm, arguments, 1));
    let ops = ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceSumSquare", "ReduceMean"];
    for op in ops {
        let arguments = vec![live(long.clone()), weight(Tensor::vector(&[1i64]))];
        cases.push(Case::new("reduction of long rows", node(op), arguments, 1));
    }
}

pub(super) fn norms(random: &Random, cases: &mut Vec<Case>) {
    let shape = random.shape(3);
    for op in ["Softmax", "LogSoftmax"] {
        let soft = node(op).with("axis", random.below(3) as i64);
        cases.push(Case::new(op, soft, vec![live(random.floats(&shape))], 1));
    }
    let (x, row) = (random.floats(&shape), [shape[2]]);
    let (scale, bias) = (random.floats(&row), random.floats(&row));
    let arguments = vec![live(x.clone()), weight(scale.clone()), weight(bias.clone())];
    cases.push(Case::new("LayerNormalization", node("LayerNormalization"), arguments, 1));
    // As many numbers as in a row, but one for each index of the first axis.
    let square = random.floats(&[3, 2, 3]);
    for factors in [[1, 1, 3], [3, 1, 1]] {
        let arguments = vec![live(square.clone()), weight(random.floats(&factors))];
        cases.push(Case::new("LayerNormalization", node("LayerNormalization"), arguments, 1));
    }
    long_rows(random, cases);
    for op in ["RMSNormalization", "SimplifiedLayerNormalization"] {
        let arguments = vec![live(x.clone()), weight(scale.clone())];
        cases.push(Case::new(op, node(op), arguments, 1));
    }
    let skip = live(random.floats(&shape));
    for op in ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"] {
        let op = format!("com.microsoft.{op}");
        let rows = [scale.clone(), bias.clone()].map(weight);
        let arguments = [live(x.clone()), skip.clone()].into_iter().chain(rows).collect();
        cases.push(Case::new(&op, node(&op), arguments, 1));
    }
    for op in ["com.microsoft.BiasGelu", "com.microsoft.FastGelu"] {
        cases.push(Case::new(op, node(op), vec![live(x.clone()), weight(bias.clone())], 1));
    }
    groups(random, cases);
    older_norms(random, cases);
    let lrn = node("LRN")
        .with("size", random.pick(&[1i64, 2, 5, 40]))
        .with("alpha", 0.3f32)
        .with("beta", random.pick(&[0.75f32, 0.6]));
    cases.push(Case::new("LRN", lrn, vec![live(x.clone())], 1));
    let channel = [shape[1]];
    let (scale, bias) = (random.floats(&channel), random.floats(&channel));
    let mean = random.floats(&channel);
    let variance = Tensor::from_slice(&channel, &vec![0.7f32; shape[1]]);
    let arguments = vec![live(x.clone()), weight(scale.clone()), weight(bias.clone())];
    cases.push(Case::new("InstanceNormalization", node("InstanceNormalization"), arguments, 1));
    if let Ok(variance) = variance {
        let mut arguments = vec![live(x), weight(scale), weight(bias), weight(mean)];
        arguments.push(weight(variance));
        cases.push(Case::new("BatchNormalization", node("BatchNormalization"), arguments, 1));
    }
}

fn older_norms(random: &Random, cases: &mut Vec<Case>) {
    let shape = random.shape(4);
    let op = "MeanVarianceNormalization";
    let axes = random.pick(&[&[0i64, 2, 3][..], &[1], &[-1, 0]]);
    let x = random.floats(&[shape[0], shape[1], 2 + random.below(4), 3]);
    let all = vec![live(x.clone())];
    let none = node(op).with("axes", Vec::<i64>::new());
    cases.push(Case::new("MeanVarianceNormalization of all", none, all, 1));
    // Of one number only, what is left of its distance from itself.
    let wide = x.shape()[1] > 1 || axes != [1];
    cases.extend(
        wide.then(|| Case::new(op, node(op).with("axes", axes.to_vec()), vec![live(x)], 1)),
    );
    let norm = node("LpNormalization").with("axis", random.below(4) as i64);
    let norm = norm.with("p", 1 + random.below(2) as i64);
    cases.push(Case::new("LpNormalization", norm, vec![live(random.floats(&shape))], 1));
    let sums = node("CumSum")
        .with("exclusive", random.below(2) as i64)
        .with("reverse", random.below(2) as i64);
    let axis = weight(Tensor::scalar(random.below(4) as i64 - 2));
    cases.push(Case::new("CumSum", sums, vec![live(random.floats(&shape)), axis], 1));
}

/// Statistics of groups of channels.
fn groups(random: &Random, cases: &mut Vec<Case>) {
    let groups = 1 + random.below(3);
    let channels = groups * (1 + random.below(3));
    let x = live(random.floats(&[2, channels, 1 + random.below(5), 3]));
    let factors = [random.floats(&[channels]), random.floats(&[channels])].map(weight);
    let norm = node("GroupNormalization").with("num_groups", groups as i64);
    cases.push(Case::new("GroupNormalization", norm, [x].into_iter().chain(factors).collect(), 1));
}

pub(super) fn reductions(random: &Random, cases: &mut Vec<Case>) {
    for op in ["ArgMax", "ArgMin"] {
        let x = random.floats(&random.shape(3));
        let arg = node(op).with("axis", random.below(3) as i64);
        let arg = arg.with("keepdims", random.below(2) as i64);
        let arg = arg.with("select_last_index", random.below(2) as i64);
        cases.push(Case::new(op, arg, vec![live(x)], 1));
    }
    // Numbers the squares of which are beyond f32.
    let arguments = vec![live(Tensor::vector(&[3e30f32, -4e30])), weight(Tensor::vector(&[0i64]))];
    cases.push(Case::new("ReduceL2", node("ReduceL2"), arguments, 1));
    // Sums of many numbers on one side of zero, of rows that are done in parts.
    for (shape, axis) in [(vec![2, 70_000], 1i64), (vec![40_000, 3], 0)] {
        let mut x = random.floats(&shape);
        if let Ok(values) = x.as_mut_slice::<f32>() {
            values.iter_mut().for_each(|value| *value += 1000.0);
        }
        let axes = weight(Tensor::vector(&[axis]));
        let op = random.pick(&["ReduceSum", "ReduceMean", "ReduceL2", "ReduceL1", "ReduceMax"]);
        cases.push(Case::new("reduction of many", node(op), vec![live(x), axes], 1));
    }
    // Exponentials that are beyond f32, of rows that one item does and a group.
    for length in [3, 200] {
        let mut x = random.floats(&[2, length]);
        let op = random.pick(&["ReduceLogSumExp", "ReduceL2"]);
        if let Ok(values) = x.as_mut_slice::<f32>() {
            values.iter_mut().for_each(|value| *value = 90.0 + 30.0 * *value);
            if op == "ReduceLogSumExp" {
                values[..length].fill(f32::NEG_INFINITY);
            }
        }
        let arguments = vec![live(x), weight(Tensor::vector(&[1i64]))];
        cases.push(Case::new("reduction by scale", node(op), arguments, 1));
    }
    // Without axes: all of them, or none.
    let x = random.floats(&random.shape(2));
    cases.push(Case::new("ReduceMean", node("ReduceMean"), vec![live(x.clone())], 1));
    let none = node("ReduceSumSquare").with("noop_with_empty_axes", 1i64);
    cases.push(Case::new("ReduceSumSquare of no axes", none, vec![live(x)], 1));
    let apart = weight(Tensor::vector(&[-1i64, random.below(2) as i64]));
    let op = random.pick(&["ReduceSum", "ReduceMax", "ReduceL1"]);
    let arguments = vec![live(random.floats(&random.shape(4))), apart];
    let reduce = node(op).with("keepdims", random.below(2) as i64);
    cases.push(Case::new("reduction of axes apart", reduce, arguments, 1));
    for def in ALL_OPS.iter().copied().flatten().filter(|def| def.name.starts_with("Reduce")) {
        let rank = random.below(4) + 1;
        let x = random.floats(&random.shape(rank));
        let axes = Tensor::vector(&[random.below(rank) as i64]);
        let reduce = node(def.name).with("keepdims", random.below(2) as i64);
        cases.push(Case::new(def.name, reduce, vec![live(x), weight(axes)], 1));
    }
}
