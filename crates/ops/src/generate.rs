//! Tensors from a few numbers: Constant, ConstantOfShape, EyeLike, Range, window functions,
//! MelWeightMatrix.

use std::f64::consts::PI;

use hetra_ir::{Attr, Dim, Type};
use hetra_tensor::{DType, Tensor, Value, from_f64, from_i64, to_f64, to_i64};

use crate::context::{EvalCtx, InferCtx, same_shape};
use crate::convert::dtype_attr_opt;
use crate::def::{Arity, OpDef, onnx};
use crate::elementwise::Accepts;
use crate::error::OpError;
use crate::tape::flat;
use crate::work::none;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[
    &CONSTANT,
    &CONSTANT_OF_SHAPE,
    &EYE_LIKE,
    &RANGE,
    &BLACKMAN_WINDOW,
    &HANN_WINDOW,
    &HAMMING_WINDOW,
    &MEL_WEIGHT_MATRIX,
];

static CONSTANT: OpDef = OpDef {
    name: "Constant",
    doc: "The tensor, number or text of its attribute.",
    onnx: &[onnx("", "Constant", 25)],
    inputs: Arity::exactly(0),
    infer: |ctx| {
        let tensor = constant(ctx.attrs())?;
        Ok(vec![Type::tensor(tensor.dtype(), tensor.shape())])
    },
    work: none,
    eval: |ctx| Ok(vec![constant(ctx.attrs())?.into()]),
    gradient: Some(flat),
    ..OpDef::DEFAULT
};

static CONSTANT_OF_SHAPE: OpDef = OpDef {
    name: "ConstantOfShape",
    doc: "A tensor of a given shape, filled with one value.",
    onnx: &[onnx("", "ConstantOfShape", 25)],
    infer: infer_constant_of_shape,
    work: none,
    eval: eval_constant_of_shape,
    gradient: Some(flat),
    ..OpDef::DEFAULT
};

static EYE_LIKE: OpDef = OpDef {
    name: "EyeLike",
    doc: "Ones on the `k`-th diagonal, zeros elsewhere, of the shape of a matrix.",
    onnx: &[onnx("", "EyeLike", 22)],
    infer: infer_eye,
    work: none,
    eval: eval_eye,
    gradient: Some(flat),
    ..OpDef::DEFAULT
};

static RANGE: OpDef = OpDef {
    name: "Range",
    doc: "The numbers from a start to before a limit, a step apart.",
    onnx: &[onnx("", "Range", 11)],
    inputs: Arity::exactly(3),
    infer: infer_range,
    eval: eval_range,
    gradient: Some(|tape| {
        let (start, delta, y, dy) = (tape.x(0)?, tape.x(2)?, tape.y(0), tape.dy(0));
        let steps = y.places().with("CastLike", y);
        Ok(vec![Some(dy.sum_to(start)), None, Some((dy * steps).sum_to(delta))])
    }),
    ..OpDef::DEFAULT
};

const WINDOW: OpDef = OpDef { infer: infer_window, ..OpDef::DEFAULT };

static BLACKMAN_WINDOW: OpDef = OpDef {
    name: "BlackmanWindow",
    doc: "Blackman window of a given size.",
    onnx: &[onnx("", "BlackmanWindow", 17)],
    eval: |ctx| window(ctx, |x| 0.42 - 0.5 * x.cos() + 0.08 * (2.0 * x).cos()),
    ..WINDOW
};

static HANN_WINDOW: OpDef = OpDef {
    name: "HannWindow",
    doc: "Hann window of a given size.",
    onnx: &[onnx("", "HannWindow", 17)],
    eval: |ctx| window(ctx, |x| 0.5 - 0.5 * x.cos()),
    ..WINDOW
};

static HAMMING_WINDOW: OpDef = OpDef {
    name: "HammingWindow",
    doc: "Hamming window of a given size.",
    onnx: &[onnx("", "HammingWindow", 17)],
    eval: |ctx| window(ctx, |x| 25.0 / 46.0 - 21.0 / 46.0 * x.cos()),
    ..WINDOW
};

static MEL_WEIGHT_MATRIX: OpDef = OpDef {
    name: "MelWeightMatrix",
    doc: "Triangular filters that sum a spectrum into bins of the mel scale.",
    onnx: &[onnx("", "MelWeightMatrix", 17)],
    inputs: Arity::exactly(5),
    infer: infer_mel,
    eval: eval_mel,
    ..OpDef::DEFAULT
};

fn constant(attrs: &hetra_ir::Attrs) -> Result<Tensor, OpError> {
    let found = attrs.0.iter().find(|(name, _)| name.starts_with("value"));
    match found.map(|(_, attr)| attr) {
        Some(Attr::Tensor(tensor)) => Ok(tensor.clone()),
        Some(Attr::Int(value)) => Ok(Tensor::scalar(*value)),
        Some(Attr::Ints(values)) => Ok(Tensor::vector(values)),
        Some(Attr::Float(value)) => Ok(Tensor::scalar(*value)),
        Some(Attr::Floats(values)) => Ok(Tensor::vector(values)),
        Some(Attr::Str(value)) => Ok(Tensor::from_strings(&[], vec![value.clone()])?),
        Some(Attr::Strs(values)) => Ok(Tensor::from_strings(&[values.len()], values.clone())?),
        _ => Err(OpError::unsupported("a constant without a dense value")),
    }
}

/// The extents that an input lists.
fn extents(index: usize, ints: &[i64]) -> Result<Vec<usize>, OpError> {
    let extent = |&extent: &i64| {
        let fault = |_| OpError::input(index, "extents from 0 up", format!("{ints:?}"));
        usize::try_from(extent).map_err(fault)
    };
    ints.iter().map(extent).collect()
}

/// The value that fills: f32 zero unless the node has one.
fn filler(attrs: &hetra_ir::Attrs) -> Result<Tensor, OpError> {
    match attrs.tensor_opt("value")? {
        None => Ok(Tensor::scalar(0f32)),
        Some(value) if value.len() == 1 => Ok(value.reshape(&[])?),
        Some(value) => {
            Err(OpError::invalid(format!("`value` is {}, not one value", value.describe())))
        }
    }
}

fn infer_constant_of_shape(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = filler(ctx.attrs())?.dtype();
    if ctx.rank(0).is_some_and(|rank| rank > 1) {
        return Err(OpError::input(0, "a vector", "a higher rank"));
    }
    if let Some(ints) = ctx.known_ints(0) {
        return Ok(vec![Type::tensor(dtype, &extents(0, &ints)?)]);
    }
    Ok(vec![match ctx.dims(0) {
        Some([Dim::Known(rank)]) if *rank <= MAX_RANK => Type::ranked(dtype, *rank),
        _ => Type::unranked(dtype),
    }])
}

/// No model has more axes; keeps an absurd extent from allocating.
const MAX_RANK: usize = 1024;

fn eval_constant_of_shape(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let shape = extents(0, &ctx.ints(0)?)?;
    let value = filler(ctx.attrs())?;
    // Checks the size; strings have no other check.
    let zeros = Tensor::zeros(value.dtype(), &shape)?;
    if value.bytes().iter().all(|&byte| byte == 0) && value.byte_len() > 0 {
        return Ok(vec![zeros.into()]);
    }
    drop(zeros);
    Ok(vec![value.view().broadcast_to(&shape)?.to_tensor()?.into()])
}

fn infer_eye(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    if ctx.rank(0).is_some_and(|rank| rank != 2) {
        return Err(OpError::input(0, "a matrix", "another rank"));
    }
    match dtype_attr_opt(ctx.attrs(), "dtype")?.or(ctx.dtype_opt(0)) {
        Some(dtype) => same_shape(ctx, dtype),
        None => Ok(vec![Type::Unknown]),
    }
}

fn eval_eye(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let like = ctx.tensor(0)?;
    let &[rows, columns] = like.shape() else {
        return Err(OpError::input(0, "a matrix", like.describe()));
    };
    let dtype = dtype_attr_opt(ctx.attrs(), "dtype")?.unwrap_or(like.dtype());
    let k = ctx.attrs().int_or("k", 0)?;
    let mut ones = vec![0i64; like.len()];
    for row in 0..rows {
        let column = usize::try_from((row as i64).saturating_add(k)).unwrap_or(columns);
        if column < columns {
            ones[row * columns + column] = 1;
        }
    }
    Ok(vec![from_i64(dtype, like.shape(), &ones)?.into()])
}

/// The numbers of a range: exact for integers.
enum Steps {
    Ints { start: i64, step: i64 },
    Floats { start: f64, step: f64 },
}

fn range(inputs: [&Tensor; 3]) -> Result<(usize, Steps), OpError> {
    let dtype = inputs[0].dtype();
    for (index, input) in inputs.into_iter().enumerate() {
        if input.len() != 1 || input.dtype() != dtype || !Accepts::Numbers.has(dtype) {
            return Err(OpError::input(index, "one number of one dtype", input.describe()));
        }
    }
    let empty = || OpError::input(2, "a step other than 0", "0");
    if dtype.is_float() {
        let [start, limit, step] = inputs.map(|input| to_f64(input).map(|v| v[0]));
        let (start, limit, step) = (start?, limit?, step?);
        let count = ((limit - start) / step).ceil();
        // Negative and NaN become 0, what is too large saturates and fails later.
        return match step == 0.0 {
            true => Err(empty()),
            false => Ok((count as usize, Steps::Floats { start, step })),
        };
    }
    let [start, limit, step] = inputs.map(|input| to_i64(input).map(|v| v[0]));
    let (start, limit, step) = (start?, limit?, step?);
    let (distance, stride) = (i128::from(limit) - i128::from(start), i128::from(step));
    if stride == 0 {
        return Err(empty());
    }
    // Rounds up: the signs agree wherever the count is not 0.
    let count = match (distance > 0) == (stride > 0) {
        true => distance.unsigned_abs().div_ceil(stride.unsigned_abs()),
        false => 0,
    };
    Ok((usize::try_from(count).unwrap_or(usize::MAX), Steps::Ints { start, step }))
}

fn infer_range(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    for index in 0..3 {
        Accepts::Numbers.check(ctx, index)?;
        if ctx.rank(index).is_some_and(|rank| rank > 1) {
            return Err(OpError::input(index, "one number", "a higher rank"));
        }
    }
    let count = match (ctx.known(0), ctx.known(1), ctx.known(2)) {
        (Some(start), Some(limit), Some(step)) => Dim::Known(range([start, limit, step])?.0),
        _ => Dim::Unknown,
    };
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), Some(vec![count]))])
}

fn eval_range(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let inputs = [ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?];
    let (count, steps) = range(inputs)?;
    Tensor::zeros(DType::F64, &[count])?;
    let dtype = inputs[0].dtype();
    let tensor = match steps {
        Steps::Ints { start, step } => {
            let at = |i: usize| start.wrapping_add(step.wrapping_mul(i as i64));
            from_i64(dtype, &[count], &(0..count).map(at).collect::<Vec<_>>())?
        }
        Steps::Floats { start, step } => {
            let at = |i: usize| start + step * i as f64;
            from_f64(dtype, &[count], &(0..count).map(at).collect::<Vec<_>>())?
        }
    };
    Ok(vec![tensor.into()])
}

fn output_dtype(attrs: &hetra_ir::Attrs) -> Result<DType, OpError> {
    let dtype = dtype_attr_opt(attrs, "output_datatype")?.unwrap_or(DType::F32);
    match Accepts::Numbers.has(dtype) {
        true => Ok(dtype),
        false => Err(OpError::invalid(format!("`output_datatype` is {dtype}"))),
    }
}

fn one_extent(index: usize, ints: &[i64]) -> Result<usize, OpError> {
    match extents(index, ints)?[..] {
        [extent] => Ok(extent),
        _ => Err(OpError::input(index, "one integer", format!("{} of them", ints.len()))),
    }
}

fn infer_window(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    Accepts::Ints.check(ctx, 0)?;
    let size = match ctx.known_ints(0) {
        Some(ints) => Dim::Known(one_extent(0, &ints)?),
        None => Dim::Unknown,
    };
    Ok(vec![Type::shaped(output_dtype(ctx.attrs())?, vec![size])])
}

/// A function of an angle that goes round once: over the size, or over one less if symmetric.
fn window(ctx: &EvalCtx<'_>, f: impl Fn(f64) -> f64) -> Result<Vec<Value>, OpError> {
    let size = one_extent(0, &ctx.ints(0)?)?;
    let dtype = output_dtype(ctx.attrs())?;
    Tensor::zeros(DType::F64, &[size])?;
    let periodic = ctx.attrs().flag_or("periodic", true)?;
    let round = if periodic { size } else { size.saturating_sub(1) }.max(1);
    let at = |index: usize| f(2.0 * PI * index as f64 / round as f64);
    let values: Vec<f64> = (0..size).map(at).collect();
    Ok(vec![from_f64(dtype, &[size], &values)?.into()])
}

fn infer_mel(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let extent =
        |index: usize| ctx.known_ints(index).map(|ints| one_extent(index, &ints)).transpose();
    let columns = extent(0)?.map_or(Dim::Unknown, Dim::Known);
    let rows = extent(1)?.map_or(Dim::Unknown, |length| Dim::Known(length / 2 + 1));
    Ok(vec![Type::shaped(output_dtype(ctx.attrs())?, vec![rows, columns])])
}

fn eval_mel(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let bins = one_extent(0, &ctx.ints(0)?)?;
    let length = one_extent(1, &ctx.ints(1)?)?;
    let rate = one_extent(2, &ctx.ints(2)?)?;
    let hertz = |index: usize| match ctx.reals(index)?[..] {
        [hertz] => Ok(hertz),
        _ => Err(OpError::input(index, "one number", "another count")),
    };
    let (low, high) = (hertz(3)?, hertz(4)?);
    let shape = [length / 2 + 1, bins];
    let mut weights = Tensor::zeros(DType::F64, &shape)?;
    let cells = weights.as_mut_slice::<f64>()?;
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let step = (mel(high) - mel(low)) / (bins as f64 + 2.0);
    // The spectrum bin of an edge; the last may lie one past the end, as it only bounds a loop.
    let edge = |index: usize| {
        let hertz = 700.0 * (10f64.powf((index as f64 * step + mel(low)) / 2595.0) - 1.0);
        let bin = ((length as f64 + 1.0) * hertz / rate as f64).floor();
        let inside = bin >= 0.0 && bin <= shape[0] as f64;
        inside.then_some(bin as usize).ok_or_else(|| {
            OpError::invalid(format!("{hertz} hertz is outside the spectrum of rate {rate}"))
        })
    };
    for bin in 0..bins {
        let (left, center, right) = (edge(bin)?, edge(bin + 1)?, edge(bin + 2)?);
        if center >= shape[0] {
            return Err(OpError::invalid("the upper edge is outside the spectrum"));
        }
        if left == center {
            cells[center * bins + bin] = 1.0;
        }
        for row in left..=center {
            if left < center {
                cells[row * bins + bin] = (row - left) as f64 / (center - left) as f64;
            }
        }
        for row in center..right {
            cells[row * bins + bin] = (right - row) as f64 / (right - center) as f64;
        }
    }
    Ok(vec![from_f64(output_dtype(ctx.attrs())?, &shape, weights.as_slice::<f64>()?)?.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    #[test]
    fn ranges() {
        let ints = |a: i64, b: i64, c: i64| {
            let case = Case::new("Range").tensor(&Tensor::scalar(a)).tensor(&Tensor::scalar(b));
            case.tensor(&Tensor::scalar(c))
        };
        check(&ints(1, 6, 2), 0, &[3], &[1.0, 3.0, 5.0]);
        check(&ints(10, 4, -3), 0, &[2], &[10.0, 7.0]);
        check(&ints(1, 6, -2), 0, &[0], &[]);
        check(&ints(6, 6, 1), 0, &[0], &[]);
        assert!(ints(1, 6, 0).eval().is_err());
        assert!(ints(i64::MIN, i64::MAX, 1).eval().is_err());
        let float = |a: f32, b: f32, c: f32| {
            let case = Case::new("Range").tensor(&Tensor::scalar(a)).tensor(&Tensor::scalar(b));
            case.tensor(&Tensor::scalar(c))
        };
        check(&float(0.0, 1.0, 0.25), 0, &[4], &[0.0, 0.25, 0.5, 0.75]);
        assert!(float(0.0, f32::INFINITY, 1.0).eval().is_err());
    }

    #[test]
    fn fills_and_diagonals() {
        let shape = Tensor::vector(&[2i64, 0]);
        check(&Case::new("ConstantOfShape").tensor(&shape), 0, &[2, 0], &[]);
        let seven = Case::new("ConstantOfShape").attr("value", Tensor::vector(&[7i8]));
        check(&seven.with_input(0, &Tensor::vector(&[3i64])), 0, &[3], &[7.0; 3]);
        let none = Tensor::from_slice::<i64>(&[0], &[]).unwrap();
        check(&seven.with_input(0, &none), 0, &[], &[7.0]);
        assert!(seven.with_input(0, &Tensor::vector(&[-1i64])).eval().is_err());
        assert!(seven.with_input(0, &Tensor::vector(&[i64::MAX, 4])).eval().is_err());
        let eye = Case::new("EyeLike").tensor(&Tensor::zeros(DType::I32, &[2, 3]).unwrap());
        check(&eye.attr("k", 1i64), 0, &[2, 3], &[0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        check(&eye.attr("k", -1i64), 0, &[2, 3], &[0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        check(&eye.attr("k", i64::MAX), 0, &[2, 3], &[0.0; 6]);
        check(&eye.attr("k", i64::MIN), 0, &[2, 3], &[0.0; 6]);
    }

    #[test]
    fn windows() {
        let four = Tensor::scalar(4i64);
        check(&Case::new("HannWindow").tensor(&four), 0, &[4], &[0.0, 0.5, 1.0, 0.5]);
        let symmetric = Case::new("HannWindow").attr("periodic", 0i64);
        check(&symmetric.with_input(0, &Tensor::scalar(3i64)), 0, &[3], &[0.0, 1.0, 0.0]);
        check(&symmetric.with_input(0, &Tensor::scalar(1i64)), 0, &[1], &[0.0]);
        assert!(symmetric.with_input(0, &Tensor::scalar(-1i64)).eval().is_err());
        let mel = |bins: i64, length: i64, rate: i64| {
            let case = Case::new("MelWeightMatrix").tensor(&Tensor::scalar(bins));
            let case = case.tensor(&Tensor::scalar(length)).tensor(&Tensor::scalar(rate));
            case.tensor(&Tensor::scalar(0f32)).tensor(&Tensor::scalar(4096f32)).eval()
        };
        assert!(mel(8, 16, 8192).is_ok());
        assert!(mel(8, 16, 0).is_err());
        assert!(mel(0, 16, 8192).is_ok());
        assert!(mel(8, 16, 1000).is_err());
    }
}
