//! Random numbers: RandomUniform, RandomNormal and their Like forms, Bernoulli, Multinomial,
//! Dropout.
//!
//! The generator is the Mersenne Twister (MT19937, 32-bit) with the classic seeding by one
//! integer, because ONNX's reference draws from it: a seeded node gives the published numbers.
//! A node without a seed draws one from the operating system, through the standard library.

use std::hash::{BuildHasher, RandomState};

use hetra_ir::{Attr, Dim, Type};
use hetra_tensor::{DType, Tensor, Value, element_count, from_f64, from_i64, to_f64};

use crate::context::{EvalCtx, InferCtx, same_shape};
use crate::convert::{dtype_attr, dtype_attr_opt};
use crate::def::{Arity, OpDef, Upgrade, onnx};
use crate::elementwise::Accepts;
use crate::error::OpError;
use crate::tape::{Gradients, Tape};

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[
    &RANDOM_UNIFORM,
    &RANDOM_UNIFORM_LIKE,
    &RANDOM_NORMAL,
    &RANDOM_NORMAL_LIKE,
    &BERNOULLI,
    &MULTINOMIAL,
    &DROPOUT,
];

const RANDOM: OpDef = OpDef { pure: false, ..OpDef::DEFAULT };

static RANDOM_UNIFORM: OpDef = OpDef {
    name: "RandomUniform",
    doc: "Random numbers between `low` and `high`, all equally likely.",
    onnx: &[onnx("", "RandomUniform", 22)],
    inputs: Arity::exactly(0),
    infer: infer_shaped,
    eval: |ctx| uniform(ctx, &shape_attr(ctx.attrs())?, float_dtype(ctx.attrs(), None)?),
    ..RANDOM
};

static RANDOM_UNIFORM_LIKE: OpDef = OpDef {
    name: "RandomUniformLike",
    doc: "Random numbers between `low` and `high`, of the shape of the input.",
    onnx: &[onnx("", "RandomUniformLike", 22)],
    infer: infer_like,
    eval: |ctx| {
        let like = ctx.tensor(0)?;
        uniform(ctx, like.shape(), float_dtype(ctx.attrs(), Some(like.dtype()))?)
    },
    ..RANDOM
};

static RANDOM_NORMAL: OpDef = OpDef {
    name: "RandomNormal",
    doc: "Random numbers from the normal distribution of `mean` and deviation `scale`.",
    onnx: &[onnx("", "RandomNormal", 22)],
    inputs: Arity::exactly(0),
    infer: infer_shaped,
    eval: |ctx| normal(ctx, &shape_attr(ctx.attrs())?, float_dtype(ctx.attrs(), None)?),
    ..RANDOM
};

static RANDOM_NORMAL_LIKE: OpDef = OpDef {
    name: "RandomNormalLike",
    doc: "Random numbers from a normal distribution, of the shape of the input.",
    onnx: &[onnx("", "RandomNormalLike", 22)],
    infer: infer_like,
    eval: |ctx| {
        let like = ctx.tensor(0)?;
        normal(ctx, like.shape(), float_dtype(ctx.attrs(), Some(like.dtype()))?)
    },
    ..RANDOM
};

static BERNOULLI: OpDef = OpDef {
    name: "Bernoulli",
    doc: "1 with the probability that the input gives, else 0.",
    onnx: &[onnx("", "Bernoulli", 22)],
    infer: |ctx| {
        Accepts::Floats.check(ctx, 0)?;
        match dtype_attr_opt(ctx.attrs(), "dtype")?.or(ctx.dtype_opt(0)) {
            Some(dtype) => same_shape(ctx, dtype),
            None => Ok(vec![Type::Unknown]),
        }
    },
    eval: eval_bernoulli,
    ..RANDOM
};

static MULTINOMIAL: OpDef = OpDef {
    name: "Multinomial",
    doc: "Draws class numbers by rows of unnormalised log-probabilities.",
    onnx: &[onnx("", "Multinomial", 22)],
    infer: infer_multinomial,
    eval: eval_multinomial,
    ..RANDOM
};

static DROPOUT: OpDef = OpDef {
    name: "Dropout",
    doc: "The input; in training mode, a random part of it is 0 and the rest is scaled up.",
    onnx: &[onnx("", "Dropout", 22)],
    inputs: Arity::between(1, 3),
    outputs: Arity::between(1, 2),
    infer: infer_dropout,
    upgrade: Some(upgrade_dropout),
    eval: eval_dropout,
    gradient: Some(dropout_gradient),
    ..RANDOM
};

/// The mask holds everywhere unless in training mode, where what it leaves is scaled up.
fn dropout_gradient(tape: &Tape) -> Gradients<'_> {
    let dy = tape.dy(0);
    let Some(training) = tape.x_opt(2) else { return Ok(vec![Some(dy)]) };
    let ratio = tape.x_opt(1).map_or(dy.number(0.5), |ratio| ratio.with("CastLike", dy));
    let scale = training.choose(1.0 / (1.0 - ratio), dy.number(1.0));
    Ok(vec![Some((dy * scale).only(tape.y(1)))])
}

const WORDS: usize = 624;
const MIDDLE: usize = 397;

/// The generator: 624 words of state, made anew when all are used.
struct Generator {
    state: [u32; WORDS],
    used: usize,
    /// The second of a pair of normal numbers.
    spare: Option<f64>,
}

impl Generator {
    fn new(seed: u32) -> Generator {
        let mut state = [seed; WORDS];
        for index in 1..WORDS {
            let before = state[index - 1];
            state[index] =
                (before ^ before >> 30).wrapping_mul(1_812_433_253).wrapping_add(index as u32);
        }
        Generator { state, used: WORDS, spare: None }
    }

    /// The generator of a node: by its seed if it has one.
    fn of(ctx: &EvalCtx<'_>) -> Result<Generator, OpError> {
        let seed = match ctx.attrs().0.get("seed") {
            Some(Attr::Int(seed)) => *seed as u32,
            Some(Attr::Float(seed)) if !seed.is_nan() => *seed as i64 as u32,
            Some(Attr::Float(_)) | None => RandomState::new().hash_one(0u8) as u32,
            Some(_) => return Err(OpError::invalid("`seed` is not a number")),
        };
        Ok(Generator::new(seed))
    }

    fn refill(&mut self) {
        for index in 0..WORDS {
            let next = self.state[(index + 1) % WORDS];
            let joined = self.state[index] & 0x8000_0000 | next & 0x7fff_ffff;
            let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[index] = self.state[(index + MIDDLE) % WORDS] ^ joined >> 1 ^ twist;
        }
        self.used = 0;
    }

    fn word(&mut self) -> u32 {
        if self.used >= WORDS {
            self.refill();
        }
        let mut word = self.state[self.used];
        self.used += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    /// A number in [0, 1) of 53 random bits.
    fn uniform(&mut self) -> f64 {
        let (high, low) = (self.word() >> 5, self.word() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// A number of mean 0 and deviation 1, by the polar method.
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        // A point falls in the circle 4 times out of 5: 1000 misses do not happen.
        for _ in 0..1000 {
            let (x, y) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let size = x * x + y * y;
            if size > 0.0 && size < 1.0 {
                let factor = (-2.0 * size.ln() / size).sqrt();
                self.spare = Some(factor * x);
                return factor * y;
            }
        }
        0.0
    }
}

fn shape_attr(attrs: &hetra_ir::Attrs) -> Result<Vec<usize>, OpError> {
    let extent = |&extent: &i64| {
        usize::try_from(extent).map_err(|_| OpError::invalid("`shape` has a negative extent"))
    };
    attrs.ints("shape")?.iter().map(extent).collect()
}

/// The dtype that the node asks for, else that of its input, else f32.
fn float_dtype(attrs: &hetra_ir::Attrs, like: Option<DType>) -> Result<DType, OpError> {
    let dtype = dtype_attr_opt(attrs, "dtype")?.or(like).unwrap_or(DType::F32);
    match Accepts::Floats.has(dtype) {
        true => Ok(dtype),
        false => Err(OpError::invalid(format!("random numbers are floats, not {dtype}"))),
    }
}

fn infer_shaped(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    Ok(vec![Type::tensor(float_dtype(ctx.attrs(), None)?, &shape_attr(ctx.attrs())?)])
}

fn infer_like(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    if ctx.dtype_opt(0).is_none() && !ctx.attrs().has("dtype") {
        return Ok(vec![Type::Unknown]);
    }
    same_shape(ctx, float_dtype(ctx.attrs(), ctx.dtype_opt(0))?)
}

fn draw(
    dtype: DType,
    shape: &[usize],
    mut next: impl FnMut() -> f64,
) -> Result<Vec<Value>, OpError> {
    // Checks the size before the loop.
    Tensor::zeros(DType::F64, shape)?;
    let values: Vec<f64> = (0..element_count(shape)?).map(|_| next()).collect();
    Ok(vec![from_f64(dtype, shape, &values)?.into()])
}

fn uniform(ctx: &EvalCtx<'_>, shape: &[usize], dtype: DType) -> Result<Vec<Value>, OpError> {
    let low = f64::from(ctx.attrs().float_or("low", 0.0)?);
    let high = f64::from(ctx.attrs().float_or("high", 1.0)?);
    let mut generator = Generator::of(ctx)?;
    draw(dtype, shape, || low + (high - low) * generator.uniform())
}

fn normal(ctx: &EvalCtx<'_>, shape: &[usize], dtype: DType) -> Result<Vec<Value>, OpError> {
    let mean = f64::from(ctx.attrs().float_or("mean", 0.0)?);
    let scale = f64::from(ctx.attrs().float_or("scale", 1.0)?);
    let mut generator = Generator::of(ctx)?;
    draw(dtype, shape, || mean + scale * generator.normal())
}

fn eval_bernoulli(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let input = ctx.tensor(0)?;
    Accepts::Floats.check_tensor(0, input)?;
    let dtype = dtype_attr_opt(ctx.attrs(), "dtype")?.unwrap_or(input.dtype());
    let mut generator = Generator::of(ctx)?;
    let mut toss = |p: f64| f64::from(u8::from(generator.uniform() < p));
    let values: Vec<f64> = to_f64(input)?.into_iter().map(&mut toss).collect();
    Ok(vec![from_f64(dtype, input.shape(), &values)?.into()])
}

fn multinomial_form(attrs: &hetra_ir::Attrs) -> Result<(DType, usize), OpError> {
    let dtype = match attrs.has("dtype") {
        true => dtype_attr(attrs, "dtype")?,
        false => DType::I32,
    };
    let count = usize::try_from(attrs.int_or("sample_size", 1)?).ok();
    match (dtype, count) {
        (DType::I32 | DType::I64, Some(count)) => Ok((dtype, count)),
        (_, None) => Err(OpError::invalid("`sample_size` is negative")),
        _ => Err(OpError::invalid(format!("class numbers are i32 or i64, not {dtype}"))),
    }
}

fn infer_multinomial(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let (dtype, count) = multinomial_form(ctx.attrs())?;
    Accepts::Floats.check(ctx, 0)?;
    let rows = match ctx.dims(0) {
        Some([rows, _]) => rows.clone(),
        None => Dim::Unknown,
        Some(dims) => return Err(OpError::input(0, "rank 2", format!("rank {}", dims.len()))),
    };
    Ok(vec![Type::shaped(dtype, vec![rows, Dim::Known(count)])])
}

fn eval_multinomial(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (dtype, count) = multinomial_form(ctx.attrs())?;
    let input = ctx.tensor(0)?;
    let &[rows, classes] = input.shape() else {
        return Err(OpError::input(0, "rank 2", input.describe()));
    };
    if classes == 0 && rows > 0 && count > 0 {
        return Err(OpError::input(0, "at least one class", input.describe()));
    }
    Tensor::zeros(DType::I64, &[rows, count])?;
    let logits = to_f64(input)?;
    let mut generator = Generator::of(ctx)?;
    let mut drawn = Vec::new();
    for row in logits.chunks_exact(classes.max(1)) {
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut total = 0.0;
        let ends: Vec<f64> = row
            .iter()
            .map(|x| {
                total += (x - top).exp();
                total
            })
            .collect();
        for _ in 0..count {
            let mark = generator.uniform() * total;
            drawn.push(ends.partition_point(|end| *end <= mark).min(classes - 1) as i64);
        }
    }
    Ok(vec![from_i64(dtype, &[rows, count], &drawn)?.into()])
}

/// Until opset 12 the ratio was an attribute, and running a model never dropped anything.
fn upgrade_dropout(up: &mut Upgrade<'_>) -> Result<(), OpError> {
    if up.node.version < 12 {
        for name in ["consumed_inputs", "is_test", "ratio"] {
            up.node.attrs.take(name);
        }
    }
    Ok(())
}

/// Until opset 10 the mask was of the dtype of the input.
fn mask_dtype(version: u32, dtype: Option<DType>) -> Option<DType> {
    if version < 10 { dtype } else { Some(DType::Bool) }
}

fn infer_dropout(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dtype = ctx.dtype_opt(0);
    if let Some(other) = dtype.filter(|dtype| !dtype.is_float()) {
        return Err(OpError::input(0, "a float", other.name()));
    }
    let dims = ctx.dims(0).map(<[Dim]>::to_vec);
    let mask = InferCtx::make(mask_dtype(ctx.node.version, dtype), dims.clone());
    let mut types = vec![InferCtx::make(dtype, dims), mask];
    types.truncate(ctx.node.outputs.len());
    Ok(types)
}

fn eval_dropout(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    let ratio = match ctx.tensor_opt(1) {
        None => 0.5,
        Some(_) => *ctx.reals(1)?.first().ok_or_else(|| OpError::input(1, "one value", "none"))?,
    };
    let training = ctx.ints_opt(2)?.is_some_and(|flag| flag.first().is_some_and(|&on| on != 0));
    let mask_dtype = mask_dtype(ctx.node.version, Some(x.dtype())).unwrap_or(DType::Bool);
    let (y, mask) = if training && ratio != 0.0 {
        if !(0.0..1.0).contains(&ratio) {
            return Err(OpError::input(1, "a ratio in [0, 1)", ratio.to_string()));
        }
        let mut generator = Generator::of(ctx)?;
        let kept: Vec<i64> =
            (0..x.len()).map(|_| i64::from(generator.uniform() >= ratio)).collect();
        let scale = 1.0 / (1.0 - ratio);
        let scaled = |(x, kept): (f64, &i64)| if *kept == 1 { x * scale } else { 0.0 };
        let values: Vec<f64> = to_f64(x)?.into_iter().zip(&kept).map(scaled).collect();
        let y = from_f64(x.dtype(), x.shape(), &values)?;
        (y, from_i64(mask_dtype, x.shape(), &kept)?)
    } else {
        (x.clone(), from_i64(mask_dtype, x.shape(), &vec![1; x.len()])?)
    };
    let mut outputs = vec![y.into(), mask.into()];
    outputs.truncate(ctx.node.outputs.len().max(1));
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;

    fn output(case: &Case, index: usize) -> Tensor {
        case.eval().unwrap()[index].as_tensor().unwrap().clone()
    }

    #[test]
    fn the_generator_is_the_published_one() {
        let mut generator = Generator::new(5489);
        let tenth_thousandth = (0..10_000).map(|_| generator.word()).last();
        assert_eq!(tenth_thousandth, Some(4_123_659_995));
        // numpy.random.RandomState(0): random_sample and standard_normal.
        assert_eq!(Generator::new(0).uniform(), 0.548_813_503_927_324_7);
        assert_eq!(Generator::new(0).normal(), 1.764_052_345_967_664);
    }

    #[test]
    fn seeds_repeat_and_shapes_are_kept() {
        let case = Case::new("RandomNormal").attr("shape", vec![3i64, 4]).attr("seed", 7f32);
        assert_eq!(output(&case, 0), output(&case, 0));
        let like = Case::new("RandomUniformLike").tensor(&Tensor::zeros(DType::F16, &[5]).unwrap());
        let values = to_f64(&output(&like.attr("low", 2f32).attr("high", 3f32), 0)).unwrap();
        assert!(values.iter().all(|x| (2.0..=3.0).contains(x)));
        assert!(Case::new("RandomNormal").attr("shape", vec![-1i64]).eval().is_err());
        let huge = Case::new("RandomNormal").attr("shape", vec![1i64 << 40, 1 << 20]);
        assert!(huge.eval().is_err());
        let even = Case::new("Bernoulli").tensor(&Tensor::vector(&[0f32, 1.0]));
        assert_eq!(to_f64(&output(&even, 0)).unwrap(), [0.0, 1.0]);
    }

    #[test]
    fn classes_are_drawn_by_weight() {
        let logits = Tensor::from_slice(&[2, 3], &[0f32, 50.0, 0.0, 0.0, 0.0, 50.0]).unwrap();
        let case = Case::new("Multinomial").tensor(&logits).attr("sample_size", 4i64);
        assert_eq!(output(&case, 0).as_slice::<i32>().unwrap(), [1, 1, 1, 1, 2, 2, 2, 2]);
        let none = Case::new("Multinomial").tensor(&Tensor::zeros(DType::F32, &[2, 0]).unwrap());
        assert!(none.eval().is_err());
    }

    #[test]
    fn dropout_is_the_identity_outside_training() {
        let x = Tensor::vector(&[1f32, 2.0, 3.0, 4.0]);
        let case = Case::new("Dropout").tensor(&x).outputs(2);
        assert!(output(&case, 0) == x);
        assert_eq!(output(&case, 1).as_bools().unwrap(), [1; 4]);
        let truth = Tensor::from_bools(&[], &[true]).unwrap();
        let training = case.with_input(1, &Tensor::scalar(0.75f32)).with_input(2, &truth);
        let seeded = training.attr("seed", 0i64);
        let (y, mask) = (output(&seeded, 0), output(&seeded, 1));
        for ((y, x), kept) in to_f64(&y).unwrap().iter().zip(1..).zip(mask.as_bools().unwrap()) {
            assert_eq!(*y, f64::from(*kept) * 4.0 * f64::from(x));
        }
        assert!(training.with_input(1, &Tensor::scalar(1f32)).eval().is_err());
    }
}
