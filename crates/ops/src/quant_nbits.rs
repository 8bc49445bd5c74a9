//! MatMulNBits: a float matrix times weights of 2, 4 or 8 bits in blocks along the inner axis.

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{DType, Value};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::dense::{dot, expect_shape, floats, floats_opt, result, zeros};
use crate::error::OpError;
use crate::work::Work;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] = &[&NBITS];

static NBITS: OpDef = OpDef {
    name: "com.microsoft.MatMulNBits",
    doc: "Product with a transposed weight of 2, 4 or 8 bits that has a scale for each block.",
    onnx: &[onnx("com.microsoft", "MatMulNBits", 1)],
    inputs: Arity::between(3, 6),
    kind: Kind::Heavy,
    infer: infer_nbits,
    work: |ctx, outputs| {
        let k = NBitsForm::of(ctx.attrs()).map_or(0, |form| form.k);
        Work::macs(outputs.first().map_or(0.0, crate::work::elements) * k as f64)
    },
    eval: eval_nbits,
    ..OpDef::DEFAULT
};

const ZEROS: usize = 3;
const GROUPS: usize = 4;
const BIAS: usize = 5;

/// What the attributes of a MatMulNBits say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NBitsForm {
    /// Inner extent.
    pub k: usize,
    /// Outputs.
    pub n: usize,
    /// Bits of a weight: 2, 4 or 8.
    pub bits: usize,
    /// Weights along the inner axis that share a scale.
    pub block: usize,
    /// Blocks along the inner axis.
    pub blocks: usize,
}

impl NBitsForm {
    /// Reads the attributes.
    ///
    /// # Errors
    /// An attribute that is missing or out of range.
    pub fn of(attrs: &Attrs) -> Result<NBitsForm, OpError> {
        let positive = |name: &str, value: i64| {
            usize::try_from(value)
                .ok()
                .filter(|&v| v > 0 && v < 1 << 28)
                .ok_or_else(|| OpError::invalid(format!("{name} {value} is out of range")))
        };
        let (k, n) = (positive("K", *attrs.int("K")?)?, positive("N", *attrs.int("N")?)?);
        let bits = positive("bits", attrs.int_or("bits", 4)?)?;
        let block = positive("block_size", *attrs.int("block_size")?)?;
        if !matches!(bits, 2 | 4 | 8) || !block.is_power_of_two() || block * bits < 8 {
            return Err(OpError::unsupported(format!("{bits} bits in blocks of {block}")));
        }
        if attrs.int_or("weight_prepacked", 0)? != 0 {
            return Err(OpError::unsupported("weights packed for one device"));
        }
        Ok(NBitsForm { k, n, bits, block, blocks: k.div_ceil(block) })
    }

    /// Bytes of one block.
    pub fn block_bytes(&self) -> usize {
        self.block * self.bits / 8
    }

    /// Bytes of one row of packed zero points.
    pub fn zero_bytes(&self) -> usize {
        (self.blocks * self.bits).div_ceil(8)
    }

    /// The code at `index` of a row, low bits first.
    pub fn code(&self, row: &[u8], index: usize) -> u8 {
        let per_byte = 8 / self.bits;
        let mask = u8::MAX >> (8 - self.bits);
        row[index / per_byte] >> (index % per_byte * self.bits) & mask
    }
}

/// Zero points of all blocks, `[n, blocks]`.
fn zero_points(ctx: &EvalCtx<'_>, form: &NBitsForm) -> Result<Vec<f32>, OpError> {
    let count = form.n * form.blocks;
    let Some(tensor) = ctx.tensor_opt(ZEROS) else {
        return Ok(vec![(1 << (form.bits - 1)) as f32; count]);
    };
    let fault = || OpError::input(ZEROS, "a zero point for each block", tensor.describe());
    if tensor.dtype() == DType::U8 {
        let bytes = tensor.as_slice::<u8>()?;
        if bytes.len() != form.n * form.zero_bytes() {
            return Err(fault());
        }
        let row = |n: usize| &bytes[n * form.zero_bytes()..][..form.zero_bytes()];
        let codes = (0..form.n)
            .flat_map(|n| (0..form.blocks).map(move |block| f32::from(form.code(row(n), block))));
        return Ok(codes.collect());
    }
    let given = floats::<f32>(ctx, ZEROS)?;
    if given.len() != count {
        return Err(fault());
    }
    Ok(given.as_slice::<f32>()?.to_vec())
}

/// The block of each place along the inner axis.
fn groups(ctx: &EvalCtx<'_>, form: &NBitsForm) -> Result<Vec<usize>, OpError> {
    let Some(given) = ctx.ints_opt(GROUPS)? else {
        return Ok((0..form.k).map(|at| at / form.block).collect());
    };
    if given.len() < form.k {
        return Err(OpError::input(GROUPS, format!("{} groups", form.k), given.len().to_string()));
    }
    let group = |&id: &i64| {
        let fault = || OpError::input(GROUPS, format!("below {}", form.blocks), id.to_string());
        usize::try_from(id).ok().filter(|&id| id < form.blocks).ok_or_else(fault)
    };
    given[..form.k].iter().map(group).collect()
}

fn eval_nbits(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let form = NBitsForm::of(ctx.attrs())?;
    let a = floats::<f32>(ctx, 0)?;
    let Some((&k, outer)) = a.shape().split_last().filter(|(k, _)| **k == form.k) else {
        let wanted = format!("a last axis of {}", form.k);
        return Err(OpError::input(0, wanted, a.describe()));
    };
    let packed = ctx.tensor(1)?;
    let row_bytes = form.blocks * form.block_bytes();
    if packed.dtype() != DType::U8 || packed.len() != form.n * row_bytes {
        let wanted = format!("u8 {:?}", [form.n, form.blocks, form.block_bytes()]);
        return Err(OpError::input(1, wanted, packed.describe()));
    }
    let scales = floats::<f32>(ctx, 2)?;
    if scales.len() != form.n * form.blocks {
        let wanted = format!("shape {:?}", [form.n, form.blocks]);
        return Err(OpError::input(2, wanted, scales.describe()));
    }
    let scales = scales.as_slice::<f32>()?;
    let (zero_points, groups) = (zero_points(ctx, &form)?, groups(ctx, &form)?);
    let bias = floats_opt::<f32>(ctx, BIAS)?;
    if let Some(bias) = &bias {
        expect_shape(bias, BIAS, &[form.n])?;
    }
    let mut shape = outer.to_vec();
    shape.push(form.n);
    let mut out = zeros::<f32>(&shape)?;
    let mut weights = vec![0f32; k];
    let (a, bytes) = (a.as_slice::<f32>()?, packed.as_slice::<u8>()?);
    for n in 0..form.n {
        let row = &bytes[n * row_bytes..][..row_bytes];
        for (at, weight) in weights.iter_mut().enumerate() {
            let block = n * form.blocks + groups[at];
            *weight = (f32::from(form.code(row, at)) - zero_points[block]) * scales[block];
        }
        let start = bias.as_ref().map_or(Ok(0.0), |bias| bias.as_slice::<f32>().map(|b| b[n]))?;
        for (line, slots) in a.chunks_exact(k).zip(out.chunks_exact_mut(form.n)) {
            slots[n] = dot(line, &weights) + start;
        }
    }
    Ok(vec![result(ctx.tensor(0)?.dtype(), &shape, &out)?.into()])
}

fn infer_nbits(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let form = NBitsForm::of(ctx.attrs())?;
    let dims = ctx.dims(0).map(|dims| {
        let mut dims = dims.to_vec();
        if let Some(last) = dims.last_mut() {
            *last = Dim::Known(form.n);
        }
        dims
    });
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), dims)])
}

#[cfg(test)]
mod tests {
    use crate::case::{Case, check};
    use hetra_tensor::Tensor;

    fn case(bits: i64, bytes: &[u8]) -> Case {
        let a: Vec<f32> = (0..16).map(|at| (at % 3) as f32 - 1.0).collect();
        let blob = 2 * bits as usize;
        let case = Case::new("com.microsoft.MatMulNBits");
        let case = case.tensor(&Tensor::from_slice(&[1, 16], &a).unwrap());
        let case = case.tensor(&Tensor::from_slice(&[2, 1, blob], bytes).unwrap());
        let case = case.tensor(&Tensor::from_slice(&[2, 1], &[0.5f32, 2.0]).unwrap());
        let case = case.attr("K", 16i64).attr("N", 2i64).attr("bits", bits);
        case.attr("block_size", 16i64)
    }

    // The numbers are those of onnxruntime 1.32.
    #[test]
    fn as_onnxruntime() {
        let bytes: Vec<u8> = (0..16).map(|at| (at * 37 + 11) as u8).collect();
        let four = case(4, &bytes);
        check(&four, 0, &[1, 2], &FOUR);
        let zeros = four.with_input(3, &Tensor::from_slice(&[2, 1], &[3u8, 12]).unwrap());
        check(&zeros, 0, &[1, 2], &FOUR_ZEROS);
        let biased = four.with_input(5, &Tensor::vector(&[100f32, -100.0]));
        check(&biased, 0, &[1, 2], &[FOUR[0] + 100.0, FOUR[1] - 100.0]);
        let bytes: Vec<u8> = (0..32).map(|at| (at * 37 + 11) as u8).collect();
        check(&case(8, &bytes), 0, &[1, 2], &EIGHT);
        check(&case(2, &bytes[..8]), 0, &[1, 2], &TWO);
    }

    #[test]
    fn faults() {
        assert!(case(4, &[0; 16]).attr("bits", 3i64).eval().is_err());
        assert!(case(4, &[0; 16]).attr("K", 15i64).eval().is_err());
        assert!(case(4, &[0; 16]).attr("block_size", 32i64).eval().is_err());
        let groups = Tensor::vector(&[1i32; 16]);
        assert!(case(4, &[0; 16]).with_input(4, &groups).eval().is_err());
    }

    const FOUR: [f64; 2] = [6.0, 48.0];
    const FOUR_ZEROS: [f64; 2] = [3.5, 56.0];
    const EIGHT: [f64; 2] = [-34.0, 216.0];
    const TWO: [f64; 2] = [-1.5, -2.0];
}
