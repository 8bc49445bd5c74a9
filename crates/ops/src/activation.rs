//! Activations with attributes or a second operand, and Clip.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use hetra_ir::Type;
use hetra_tensor::{DType, Element, Rounding, Tensor, Value, broadcast, cast, from_f64, to_f64};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, Upgrade, onnx};
use crate::dispatch::dispatch;
use crate::elementwise::{
    Accepts, infer_binary, infer_float, infer_number, infer_unary, map_float, map1, map2, map2_f64,
    map2_float, pair, unary, upgrade_unary,
};
use crate::error::OpError;
use crate::tape::{Gradients, Tape, Var};
use crate::unary::{gelu, gelu_tanh, sigmoid};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[
    &LEAKY_RELU,
    &PRELU,
    &ELU,
    &CELU,
    &SELU,
    &THRESHOLDED_RELU,
    &HARD_SIGMOID,
    &SWISH,
    &GELU,
    &SHRINK,
    &CLIP,
    &MS_GELU,
    &MS_BIAS_GELU,
    &MS_FAST_GELU,
    &MS_QUICK_GELU,
];

const FLOAT: OpDef = OpDef {
    kind: Kind::Elementwise,
    infer: infer_float,
    upgrade: Some(upgrade_unary),
    ..OpDef::DEFAULT
};

fn param(ctx: &EvalCtx<'_>, name: &str, default: f32) -> Result<f64, OpError> {
    Ok(f64::from(ctx.attrs().float_or(name, default)?))
}

fn number(tape: &Tape, name: &str, default: f32) -> Result<f64, OpError> {
    Ok(f64::from(tape.attrs().float_or(name, default)?))
}

static LEAKY_RELU: OpDef = OpDef {
    name: "LeakyRelu",
    doc: "Ramp with slope `alpha` below 0.",
    onnx: &[onnx("", "LeakyRelu", 16)],
    eval: |ctx| {
        let alpha = param(ctx, "alpha", 0.01)?;
        unary(ctx, |x| if x < 0.0 { alpha * x } else { x })
    },
    gradient: Some(|tape| {
        let alpha = number(tape, "alpha", 0.01)?;
        tape.unary(|x, _| x.below(0.0).choose(x.number(alpha), x.number(1.0)))
    }),
    ..FLOAT
};

static PRELU: OpDef = OpDef {
    name: "PRelu",
    doc: "Ramp with given slopes below 0; the slopes broadcast to x.",
    onnx: &[onnx("", "PRelu", 16)],
    inputs: Arity::exactly(2),
    infer: infer_prelu,
    upgrade: Some(upgrade_prelu),
    eval: eval_prelu,
    gradient: Some(|tape| {
        tape.binary(|x, slope, y| (x.below(0.0).choose(slope, y.number(1.0)), x.only(x.below(0.0))))
    }),
    ..FLOAT
};

static ELU: OpDef = OpDef {
    name: "Elu",
    doc: "Ramp, `alpha` * (exp(x) - 1) below 0.",
    onnx: &[onnx("", "Elu", 22)],
    eval: |ctx| {
        let alpha = param(ctx, "alpha", 1.0)?;
        unary(ctx, |x| if x < 0.0 { alpha * x.exp_m1() } else { x })
    },
    gradient: Some(|tape| {
        let alpha = number(tape, "alpha", 1.0)?;
        tape.unary(|x, y| x.below(0.0).choose(y + alpha, y.number(1.0)))
    }),
    ..FLOAT
};

static CELU: OpDef = OpDef {
    name: "Celu",
    doc: "Ramp, `alpha` * (exp(x / `alpha`) - 1) below 0.",
    onnx: &[onnx("", "Celu", 12)],
    eval: |ctx| {
        let alpha = param(ctx, "alpha", 1.0)?;
        unary(ctx, |x| if x < 0.0 { alpha * (x / alpha).exp_m1() } else { x })
    },
    gradient: Some(|tape| {
        let alpha = number(tape, "alpha", 1.0)?;
        tape.unary(|x, _| x.below(0.0).choose((x / alpha).apply("Exp"), x.number(1.0)))
    }),
    ..FLOAT
};

const SELU_ALPHA: f32 = 1.673_263_2;
const SELU_GAMMA: f32 = 1.050_701;

static SELU: OpDef = OpDef {
    name: "Selu",
    doc: "`gamma` times a ramp that is `alpha` * (exp(x) - 1) below 0.",
    onnx: &[onnx("", "Selu", 22)],
    upgrade: Some(upgrade_selu),
    eval: |ctx| {
        let alpha = param(ctx, "alpha", SELU_ALPHA)?;
        let gamma = param(ctx, "gamma", SELU_GAMMA)?;
        unary(ctx, |x| gamma * if x < 0.0 { alpha * x.exp_m1() } else { x })
    },
    gradient: Some(|tape| {
        let alpha = number(tape, "alpha", SELU_ALPHA)?;
        let gamma = number(tape, "gamma", SELU_GAMMA)?;
        tape.unary(|x, y| x.below(0.0).choose(y + gamma * alpha, y.number(gamma)))
    }),
    ..FLOAT
};

static THRESHOLDED_RELU: OpDef = OpDef {
    name: "ThresholdedRelu",
    doc: "x above `alpha`, else 0.",
    onnx: &[onnx("", "ThresholdedRelu", 22)],
    eval: |ctx| {
        let alpha = param(ctx, "alpha", 1.0)?;
        unary(ctx, |x| if x <= alpha { 0.0 } else { x })
    },
    gradient: Some(|tape| {
        let alpha = number(tape, "alpha", 1.0)?;
        tape.unary(|x, _| x.number(1.0).only(x.above(alpha)))
    }),
    ..FLOAT
};

static HARD_SIGMOID: OpDef = OpDef {
    name: "HardSigmoid",
    doc: "Piecewise sigmoid, clamp(`alpha` * x + `beta`, 0, 1).",
    onnx: &[onnx("", "HardSigmoid", 22)],
    eval: |ctx| {
        let (alpha, beta) = (param(ctx, "alpha", 0.2)?, param(ctx, "beta", 0.5)?);
        unary(ctx, |x| (alpha * x + beta).clamp(0.0, 1.0))
    },
    gradient: Some(|tape| {
        let alpha = number(tape, "alpha", 0.2)?;
        tape.unary(|_, y| y.number(alpha).only(y.above(0.0)).only(y.below(1.0)))
    }),
    ..FLOAT
};

static SWISH: OpDef = OpDef {
    name: "Swish",
    doc: "Smooth ramp, x * sigmoid(`alpha` * x).",
    onnx: &[onnx("", "Swish", 24)],
    eval: |ctx| {
        let alpha = param(ctx, "alpha", 1.0)?;
        unary(ctx, |x| x * sigmoid(alpha * x))
    },
    gradient: Some(|tape| {
        let alpha = number(tape, "alpha", 1.0)?;
        tape.unary(|x, _| swish_slope(x, alpha))
    }),
    ..FLOAT
};

static GELU: OpDef = OpDef {
    name: "Gelu",
    doc: "Gaussian error linear unit, exact or (`approximate` = tanh) by its tanh formula.",
    onnx: &[onnx("", "Gelu", 20)],
    eval: |ctx| match ctx.attrs().str_or("approximate", "none")? {
        "none" => unary(ctx, gelu),
        "tanh" => unary(ctx, gelu_tanh),
        other => Err(OpError::invalid(format!("`approximate` is `{other}`"))),
    },
    gradient: Some(|tape| match tape.attrs().str_or("approximate", "none")? {
        "tanh" => tape.unary(|x, _| gelu_tanh_slope(x)),
        _ => tape.unary(|x, _| gelu_slope(x)),
    }),
    ..FLOAT
};

static SHRINK: OpDef = OpDef {
    name: "Shrink",
    doc: "Draws values beyond `lambd` towards 0 by `bias`; the others become 0.",
    onnx: &[onnx("", "Shrink", 9)],
    infer: infer_number,
    eval: eval_shrink,
    gradient: Some(|tape| {
        let limit = number(tape, "lambd", 0.5)?;
        tape.unary(|x, _| x.number(1.0).only(x.apply("Abs").above(limit)))
    }),
    ..FLOAT
};

static CLIP: OpDef = OpDef {
    name: "Clip",
    doc: "Limits values to a range; when the limits cross, the upper one wins.",
    onnx: &[onnx("", "Clip", 13)],
    inputs: Arity::between(1, 3),
    infer: infer_clip,
    upgrade: Some(upgrade_clip),
    eval: eval_clip,
    gradient: Some(clip_gradient),
    ..FLOAT
};

static MS_GELU: OpDef = OpDef {
    name: "com.microsoft.Gelu",
    doc: "Gaussian error linear unit, exact.",
    onnx: &[onnx("com.microsoft", "Gelu", 1)],
    eval: |ctx| unary(ctx, gelu),
    gradient: Some(|tape| tape.unary(|x, _| gelu_slope(x))),
    ..FLOAT
};

static MS_BIAS_GELU: OpDef = OpDef {
    name: "com.microsoft.BiasGelu",
    doc: "Gaussian error linear unit of x plus a bias along its last axis.",
    onnx: &[onnx("com.microsoft", "BiasGelu", 1)],
    inputs: Arity::exactly(2),
    infer: infer_biased,
    eval: |ctx| biased(ctx, gelu),
    gradient: Some(|tape| biased_gradient(tape, gelu_slope)),
    ..FLOAT
};

static MS_FAST_GELU: OpDef = OpDef {
    name: "com.microsoft.FastGelu",
    doc: "Gaussian error linear unit by its tanh formula, of x plus an optional bias.",
    onnx: &[onnx("com.microsoft", "FastGelu", 1)],
    inputs: Arity::between(1, 2),
    infer: infer_biased,
    eval: |ctx| biased(ctx, gelu_tanh),
    gradient: Some(|tape| biased_gradient(tape, gelu_tanh_slope)),
    ..FLOAT
};

static MS_QUICK_GELU: OpDef = OpDef {
    name: "com.microsoft.QuickGelu",
    doc: "Approximate Gaussian error linear unit, x * sigmoid(`alpha` * x).",
    onnx: &[onnx("com.microsoft", "QuickGelu", 1)],
    eval: |ctx| {
        let alpha = param(ctx, "alpha", 1.702)?;
        unary(ctx, |x| x * sigmoid(alpha * x))
    },
    gradient: Some(|tape| {
        let alpha = number(tape, "alpha", 1.702)?;
        tape.unary(|x, _| swish_slope(x, alpha))
    }),
    ..FLOAT
};

fn infer_biased(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    if let (Some(x), Some(bias)) = (ctx.dtype_opt(0), ctx.dtype_opt(1))
        && x != bias
    {
        return Err(OpError::input(1, x.name(), bias.name()));
    }
    infer_float(ctx)
}

fn biased(ctx: &EvalCtx<'_>, f: impl Fn(f64) -> f64) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    let Some(bias) = ctx.tensor_opt(1) else { return unary(ctx, f) };
    fits(x, bias)?;
    Ok(vec![map2_f64(x, bias, |x, bias| f(x + bias))?.into()])
}

/// At a limit the function may still move inwards; beyond, the limit gets the gradient.
fn clip_gradient<'a>(tape: &'a Tape) -> Gradients<'a> {
    let (x, y, dy) = (tape.x(0)?, tape.y(0), tape.dy(0));
    let (low, high) = (tape.x_opt(1), tape.x_opt(2));
    let moved = x.with("Equal", y).apply("Not");
    let at = |limit: Var<'a>| y.with("Equal", limit);
    let by_low = low.map(|low| dy.only(moved).only(at(low)).sum_to(low));
    let above = low.map_or(moved, |low| moved.with("And", at(low).apply("Not")));
    let by_high = high.map(|high| dy.only(above).only(at(high)).sum_to(high));
    Ok(vec![Some(dy.only(x.with("Equal", y))), by_low, by_high])
}

fn biased_gradient<'a>(tape: &'a Tape, slope: fn(Var<'a>) -> Var<'a>) -> Gradients<'a> {
    match tape.x_opt(1) {
        None => tape.unary(|x, _| slope(x)),
        Some(_) => tape.binary(|x, bias, _| {
            let slope = slope(x + bias);
            (slope, slope)
        }),
    }
}

/// The derivative of x * sigmoid(alpha * x).
fn swish_slope(x: Var<'_>, alpha: f64) -> Var<'_> {
    let gate = (x * alpha).apply("Sigmoid");
    gate + x * alpha * gate * (1.0 - gate)
}

/// The derivative of [`gelu`].
fn gelu_slope(x: Var<'_>) -> Var<'_> {
    let below = ((x * FRAC_1_SQRT_2).apply("Erf") + 1.0) * 0.5;
    below + x * (x * x * -0.5).apply("Exp") * (0.5 * FRAC_1_SQRT_2 * FRAC_2_SQRT_PI)
}

/// The derivative of [`gelu_tanh`].
fn gelu_tanh_slope(x: Var<'_>) -> Var<'_> {
    let (scale, cubic) = ((2.0 / PI).sqrt(), 0.044715);
    let t = ((x + x * x * x * cubic) * scale).apply("Tanh");
    (t + 1.0) * 0.5 + x * 0.5 * (1.0 - t * t) * (x * x * (3.0 * cubic) + 1.0) * scale
}

/// The second operand must broadcast to the shape of the first.
fn fits(x: &Tensor, other: &Tensor) -> Result<(), OpError> {
    if broadcast(x.shape(), other.shape())?[..] == *x.shape() {
        return Ok(());
    }
    Err(OpError::input(1, format!("what broadcasts to {}", x.describe()), other.describe()))
}

fn infer_prelu(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    infer_binary(ctx)?;
    if ctx.rank(1) > ctx.rank(0) && ctx.rank(0).is_some() {
        return Err(OpError::invalid("the slope is of a higher rank than x"));
    }
    infer_number(ctx)
}

fn eval_prelu(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (x, slope) = pair(ctx)?;
    fits(&x, &slope)?;
    if x.dtype().is_float() {
        let narrow = |x: f32, slope: f32| if x < 0.0 { slope * x } else { x };
        let wide = |x: f64, slope: f64| if x < 0.0 { slope * x } else { x };
        return Ok(vec![map2_float(&x, &slope, narrow, wide)?.into()]);
    }
    if Accepts::Unsigned.has(x.dtype()) {
        crate::elementwise::same_dtype(&x, &slope)?;
        return Ok(vec![x.into()]);
    }
    dispatch!(x.dtype(), T in [i8, i16, i32, i64] => {
        let ramp = |x: T, slope: T| if x < 0 { slope.wrapping_mul(x) } else { x };
        map2::<T, T>(&x, &slope, ramp).map(|tensor| vec![tensor.into()])
    })
}

/// Before opset 7 the slopes belonged to the channels, axis 1.
fn upgrade_prelu(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    upgrade_unary(up)?;
    if up.node.version < 7 {
        up.node.attrs.set("axis", 1i64);
    }
    Ok(())
}

/// Opset 6 gave the defaults more digits.
fn upgrade_selu(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    upgrade_unary(up)?;
    for (name, value) in [("alpha", 1.6732f32), ("gamma", 1.0507)] {
        if up.node.version < 6 && !up.node.attrs.has(name) {
            up.node.attrs.set(name, value);
        }
    }
    Ok(())
}

fn eval_shrink(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (bias, limit) = (param(ctx, "bias", 0.0)?, param(ctx, "lambd", 0.5)?);
    let shrink = |x: f64| match x {
        x if x < -limit => x + bias,
        x if x > limit => x - bias,
        _ => 0.0,
    };
    let tensor = ctx.tensor(0)?;
    Accepts::Numbers.check_tensor(0, tensor)?;
    if tensor.dtype().is_float() {
        return Ok(vec![map_float(tensor, shrink)?.into()]);
    }
    let values: Vec<f64> = to_f64(tensor)?.into_iter().map(shrink).collect();
    let wide = Tensor::from_slice(tensor.shape(), &values)?;
    Ok(vec![cast(&wide, tensor.dtype(), true, Rounding::NearestEven)?.into()])
}

/// Until opset 11 the limits were attributes, floats whatever the dtype of x.
fn upgrade_clip(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    upgrade_unary(up)?;
    if up.node.version < 11 {
        up.attr_to_input("min", 1)?;
        up.attr_to_input("max", 2)?;
    }
    Ok(())
}

fn infer_clip(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    for index in 1..=2 {
        let wrong_rank = ctx.rank(index).is_some_and(|rank| rank > 1);
        let wrong_dtype = match (ctx.dtype_opt(0), ctx.dtype_opt(index)) {
            (Some(x), Some(limit)) => x != limit && ctx.node.version >= 11,
            _ => false,
        };
        if wrong_rank || wrong_dtype {
            return Err(OpError::input(index, "one value of the dtype of x", "another type"));
        }
    }
    infer_unary(ctx, Accepts::Numbers)
}

fn eval_clip(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    dispatch!(x.dtype(), T in [f32, f64, f16, bf16, i8, i16, i32, i64, u8, u16, u32, u64] => {
        let (low, high) = (limit::<T>(ctx, 1, x.dtype())?, limit::<T>(ctx, 2, x.dtype())?);
        // Comparisons with NaN are false: it stays.
        let clip = |x: T| {
            let x = low.filter(|low| x < *low).unwrap_or(x);
            high.filter(|high| x > *high).unwrap_or(x)
        };
        map1::<T>(x, clip).map(|tensor| vec![tensor.into()])
    })
}

fn limit<T: Element>(ctx: &EvalCtx<'_>, index: usize, dtype: DType) -> Result<Option<T>, OpError> {
    let Some(tensor) = ctx.tensor_opt(index) else { return Ok(None) };
    let [value] = to_f64(tensor)?[..] else {
        return Err(OpError::input(index, "one value", tensor.describe()));
    };
    let same = match tensor.dtype() == dtype {
        true => tensor.clone(),
        false => from_f64(dtype, tensor.shape(), &[value])?,
    };
    Ok(same.as_slice::<T>()?.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{outputs, run};
    use hetra_ir::Node;

    fn check(node: Node, inputs: &[Tensor], wanted: &[f64]) {
        let out = outputs(&node, inputs).unwrap();
        let got = to_f64(&out[0]).unwrap();
        let close = got.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= 1e-6);
        assert!(close && got.len() == wanted.len(), "{}: {got:?}, not {wanted:?}", node.op);
    }

    fn op(name: &str) -> Node {
        Node::new(name, &[], &[])
    }

    #[test]
    fn activations() {
        let x = [Tensor::vector(&[-2f32, -0.5, 0.0, 3.0])];
        check(op("LeakyRelu").with("alpha", 0.1f32), &x, &[-0.2, -0.05, 0.0, 3.0]);
        check(op("Elu").with("alpha", 2f32), &x, &[-1.729_329, -0.786_939, 0.0, 3.0]);
        check(op("Celu").with("alpha", 2f32), &x, &[-1.264_241, -0.442_398, 0.0, 3.0]);
        check(op("Selu"), &x, &[-1.520_167, -0.691_758, 0.0, 3.152_103]);
        check(op("ThresholdedRelu").with("alpha", 3f32), &x, &[0.0; 4]);
        check(op("HardSigmoid"), &x, &[0.1, 0.4, 0.5, 1.0]);
        check(op("Gelu"), &x, &[-0.045_500, -0.154_269, 0.0, 2.995_950]);
        check(op("com.microsoft.FastGelu"), &x, &[-0.045_402, -0.154_286, 0.0, 2.996_363]);
        check(op("Shrink").with("bias", 1f32), &x, &[-1.0, 0.0, 0.0, 2.0]);
        check(op("Shrink").with("lambd", 1f32), &[Tensor::vector(&[-3i8, 1])], &[-3.0, 0.0]);
    }

    #[test]
    fn slopes_and_biases_broadcast_one_way() {
        let x = Tensor::from_slice(&[1, 2, 2], &[-1f32, 2.0, -3.0, -4.0]).unwrap();
        let slope = Tensor::vector(&[0.5f32, 2.0]);
        check(op("PRelu"), &[x.clone(), slope.clone()], &[-0.5, 2.0, -1.5, -8.0]);
        check(op("PRelu").with("axis", 1), &[x.clone(), slope.clone()], &[-0.5, 2.0, -6.0, -8.0]);
        assert!(outputs(&op("PRelu"), &[slope.clone(), x.clone()]).is_err());
        assert!(outputs(&op("com.microsoft.BiasGelu"), &[slope, x]).is_err());
    }

    #[test]
    fn clip_takes_any_limit() {
        let x = Tensor::vector(&[-5i32, 0, 5]);
        let (low, high) = (Tensor::scalar(-1i32), Tensor::scalar(1i32));
        let clip = |low: Option<&Tensor>, high: Option<&Tensor>| {
            let inputs = [Some(x.clone()), low.cloned(), high.cloned()];
            run(op("Clip"), &inputs).unwrap()[0].as_slice::<i32>().unwrap().to_vec()
        };
        assert_eq!(clip(Some(&low), Some(&high)), [-1, 0, 1]);
        assert_eq!(clip(None, Some(&high)), [-5, 0, 1]);
        assert_eq!(clip(Some(&high), Some(&low)), [-1, -1, -1]);
        assert_eq!(clip(None, None), [-5, 0, 5]);
        let odd = [Tensor::vector(&[f32::NAN]), Tensor::scalar(0f32)];
        assert!(outputs(&op("Clip"), &odd).unwrap()[0].as_slice::<f32>().unwrap()[0].is_nan());
        assert!(outputs(&op("Clip"), &[x.clone(), x.clone()]).is_err());
    }
}
