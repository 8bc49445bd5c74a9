//! Random numbers by place: each is a function of a key and of its index alone (Salmon et al.,
//! "Parallel random numbers: as easy as 1, 2, 3", SC 2011), so that they are the same whatever
//! computes them, in whatever order.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value, from_f64};

use crate::context::{EvalCtx, InferCtx};
use crate::convert::dtype_attr;
use crate::def::{Arity, OpDef};
use crate::error::OpError;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&RANDOM];

static RANDOM: OpDef = OpDef {
    name: "hetra.Random",
    doc: "Random numbers of a `shape` by Philox 4x32-10, of a `seed` and a `stream`: `bits` (u32), \
          `uniform` in [0, 1) or `normal` by Box and Muller (f32, f64), as `kind` says.",
    inputs: Arity::exactly(0),
    infer,
    eval,
    ..OpDef::DEFAULT
};

fn infer(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let dims = ctx
        .attrs()
        .ints("shape")?
        .iter()
        .map(|&extent| usize::try_from(extent).map(Dim::Known).map_err(|_| negative(extent)));
    let dtype = dtype_attr(ctx.attrs(), "dtype")?;
    let kind = ctx.attrs().str_or("kind", "uniform")?;
    match (kind, dtype) {
        ("bits", DType::U32) | ("uniform" | "normal", DType::F32 | DType::F64) => {
            Ok(vec![Type::shaped(dtype, dims.collect::<Result<_, _>>()?)])
        }
        _ => Err(OpError::unsupported(format!("random numbers of kind `{kind}` as {dtype}"))),
    }
}

fn negative(extent: i64) -> OpError {
    OpError::invalid(format!("an extent of `shape` is {extent}"))
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let shape = ctx.attrs().ints("shape")?.iter();
    let shape = shape.map(|&extent| usize::try_from(extent).map_err(|_| negative(extent)));
    let shape: Vec<usize> = shape.collect::<Result<_, _>>()?;
    let dtype = dtype_attr(ctx.attrs(), "dtype")?;
    let key = *ctx.attrs().int("seed")? as u64;
    let stream = ctx.attrs().int_or("stream", 0)? as u64;
    // A limit on what a file may ask for is the tensor's.
    let mut out = Tensor::zeros(dtype, &shape)?;
    let count = out.len();
    let words = |index: usize| philox(index as u64, stream, key);
    match (ctx.attrs().str_or("kind", "uniform")?, dtype) {
        ("bits", DType::U32) => {
            for (block, four) in out.as_mut_slice::<u32>()?.chunks_mut(4).enumerate() {
                four.iter_mut().zip(words(block)).for_each(|(to, word)| *to = word);
            }
        }
        ("uniform", DType::F32) => {
            for (block, four) in out.as_mut_slice::<f32>()?.chunks_mut(4).enumerate() {
                let words = words(block);
                four.iter_mut().zip(words).for_each(|(to, word)| *to = unit32(word));
            }
        }
        ("uniform", DType::F64) => {
            for (block, two) in out.as_mut_slice::<f64>()?.chunks_mut(2).enumerate() {
                two.iter_mut().zip(units64(words(block))).for_each(|(to, value)| *to = value);
            }
        }
        ("normal", DType::F32 | DType::F64) => {
            let pairs = (0..count.div_ceil(2)).flat_map(|block| normals(units64(words(block))));
            let values: Vec<f64> = pairs.take(count).collect();
            out = from_f64(dtype, &shape, &values)?;
        }
        (kind, dtype) => {
            let what = format!("random numbers of kind `{kind}` as {dtype}");
            return Err(OpError::unsupported(what));
        }
    }
    Ok(vec![out.into()])
}

/// The upper 24 bits, as a number below 1.
fn unit32(word: u32) -> f32 {
    (word >> 8) as f32 / (1u32 << 24) as f32
}

/// Two numbers below 1 of 53 bits each.
fn units64(words: [u32; 4]) -> [f64; 2] {
    let unit = |high: u32, low: u32| {
        let bits = u64::from(high) << 32 | u64::from(low);
        (bits >> 11) as f64 / (1u64 << 53) as f64
    };
    [unit(words[0], words[1]), unit(words[2], words[3])]
}

fn normals([a, b]: [f64; 2]) -> [f64; 2] {
    // 1 - a is above 0.
    let radius = (-2.0 * (1.0 - a).ln()).sqrt();
    let (sin, cos) = (std::f64::consts::TAU * b).sin_cos();
    [radius * cos, radius * sin]
}

/// Ten rounds on a counter of 128 bits (index and stream) with a key of 64.
fn philox(index: u64, stream: u64, key: u64) -> [u32; 4] {
    let low = |value: u64| value as u32;
    let high = |value: u64| (value >> 32) as u32;
    let mut state = [low(index), high(index), low(stream), high(stream)];
    let mut key = [low(key), high(key)];
    for _ in 0..10 {
        let first = u64::from(state[0]) * 0xD251_1F53;
        let second = u64::from(state[2]) * 0xCD9E_8D57;
        state = [
            high(second) ^ state[1] ^ key[0],
            low(second),
            high(first) ^ state[3] ^ key[1],
            low(first),
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{node, outputs};

    fn draw(kind: &str, dtype: DType, count: i64) -> Tensor {
        let op = node("hetra.Random", 1)
            .with("kind", kind)
            .with("dtype", i64::from(dtype.onnx()))
            .with("seed", 7i64)
            .with("shape", vec![count]);
        outputs(&op, &[]).unwrap().remove(0)
    }

    #[test]
    fn the_published_vectors_come_out() {
        // kat_vectors of the authors' Random123: philox4x32-10 of zeros and of ones.
        assert_eq!(philox(0, 0, 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = u64::MAX;
        assert_eq!(philox(ones, ones, ones), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn numbers_depend_on_their_place_alone() {
        for (kind, dtype) in [("uniform", DType::F32), ("normal", DType::F64)] {
            let (few, many) = (draw(kind, dtype, 11), draw(kind, dtype, 100));
            assert_eq!(few.bytes(), &many.bytes()[..few.byte_len()]);
        }
    }

    #[test]
    fn moments_are_those_of_the_distribution() {
        let moments = |tensor: Tensor| {
            let values = hetra_tensor::to_f64(&tensor).unwrap();
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count)
        };
        for dtype in [DType::F32, DType::F64] {
            let (mean, variance) = moments(draw("uniform", dtype, 40_000));
            assert!((mean - 0.5).abs() < 0.01 && (variance - 1.0 / 12.0).abs() < 0.003);
            let (mean, variance) = moments(draw("normal", dtype, 40_000));
            assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03);
        }
    }
}
