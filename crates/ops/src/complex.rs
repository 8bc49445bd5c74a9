//! Complex numbers, which the Python array API has and ONNX has not: a row for each function.
//!
//! Functions are computed on f64; `complex_functions.rs` has them.

use hetra_ir::{Dim, Type};
use hetra_tensor::{DType, Tensor, Value, broadcast};

use crate::complex_functions::{self as cf, Complex};
use crate::context::{EvalCtx, InferCtx, infer_broadcast, resolve_axis, same_shape};
use crate::def::{Arity, Kind, OpDef};
use crate::elementwise::{Walk, same_dtype, zip};
use crate::error::OpError;

const ROW: OpDef = OpDef { kind: Kind::Elementwise, ..OpDef::DEFAULT };

/// A row per line: name, what it is, the function.
macro_rules! rows {
    (
        one: $($one:literal $one_doc:literal $one_f:expr;)*
        real: $($real:literal $real_doc:literal $real_f:expr;)*
        two: $($two:literal $two_doc:literal $two_f:expr;)*
    ) => {
        /// The operators of this file.
        pub(crate) static OPS: &[&OpDef] = &[&MAKE, &EQUAL, &CUM_PROD, $(&OpDef {
            name: $one,
            doc: $one_doc,
            infer: infer_complex,
            eval: |ctx| map(ctx, $one_f),
            ..ROW
        },)* $(&OpDef {
            name: $real,
            doc: $real_doc,
            infer: |ctx| { infer_complex(ctx)?; infer_part(ctx) },
            eval: |ctx| part(ctx, $real_f),
            ..ROW
        },)* $(&OpDef {
            name: $two,
            doc: $two_doc,
            inputs: Arity::exactly(2),
            infer: infer_pair,
            eval: |ctx| pair(ctx, $two_f),
            ..ROW
        },)*];
    };
}

rows! {
    one:
    "hetra.ComplexNeg" "Minus z." |z| -z;
    "hetra.ComplexConj" "The conjugate of z." |z| z.conj();
    "hetra.ComplexSign" "z over its magnitude; 0 for 0." cf::sign;
    "hetra.ComplexReciprocal" "One over z." |z| cf::divide(Complex::new(1.0, 0.0), z);
    "hetra.ComplexRound" "Both parts rounded; halves go to the even one."
        |z| Complex::new(z.re.round_ties_even(), z.im.round_ties_even());
    "hetra.ComplexSqrt" "The square root." cf::sqrt;
    "hetra.ComplexExp" "The exponential function." cf::exp;
    "hetra.ComplexExpm1" "exp(z) - 1, exact near 0." cf::exp_m1;
    "hetra.ComplexLog" "The natural logarithm." cf::log;
    "hetra.ComplexLog1p" "log(1 + z), exact near 0." cf::log1p;
    "hetra.ComplexLog2" "Logarithm to base 2." |z| cf::scaled(cf::log(z), std::f64::consts::LOG2_E);
    "hetra.ComplexLog10" "Logarithm to base 10."
        |z| cf::scaled(cf::log(z), std::f64::consts::LOG10_E);
    "hetra.ComplexSin" "Sine." cf::sin;
    "hetra.ComplexCos" "Cosine." |z| cf::cosh(cf::turned(z));
    "hetra.ComplexTan" "Tangent." |z| cf::turned_back(cf::tanh(cf::turned(z)));
    "hetra.ComplexSinh" "Hyperbolic sine." cf::sinh;
    "hetra.ComplexCosh" "Hyperbolic cosine." cf::cosh;
    "hetra.ComplexTanh" "Hyperbolic tangent." cf::tanh;
    "hetra.ComplexAsin" "Inverse sine." |z| cf::turned_back(cf::asinh(cf::turned(z)));
    "hetra.ComplexAcos" "Inverse cosine." cf::acos;
    "hetra.ComplexAtan" "Inverse tangent." |z| cf::turned_back(cf::atanh(cf::turned(z)));
    "hetra.ComplexAsinh" "Inverse hyperbolic sine." cf::asinh;
    "hetra.ComplexAcosh" "Inverse hyperbolic cosine." cf::acosh;
    "hetra.ComplexAtanh" "Inverse hyperbolic tangent." cf::atanh;
    real:
    "hetra.ComplexAbs" "The magnitude of z." |z| z.re.hypot(z.im);
    "hetra.ComplexReal" "The real part." |z| z.re;
    "hetra.ComplexImag" "The imaginary part." |z| z.im;
    two:
    "hetra.ComplexAdd" "The sum." |x, y| x + y;
    "hetra.ComplexSub" "The difference." |x, y| x - y;
    "hetra.ComplexMul" "The product." |x, y| x * y;
    "hetra.ComplexDiv" "The quotient." cf::divide;
    "hetra.ComplexPow" "The power." cf::pow;
}

static MAKE: OpDef = OpDef {
    name: "hetra.Complex",
    doc: "Complex numbers of their real and imaginary parts, which are of one shape.",
    inputs: Arity::exactly(2),
    infer: |ctx| {
        let dtype = ctx.dtype_opt(0).map(|dtype| whole_of(0, dtype)).transpose()?;
        Ok(vec![InferCtx::make(dtype, ctx.dims(0).map(<[Dim]>::to_vec))])
    },
    eval: |ctx| {
        let (re, im) = (ctx.tensor(0)?, ctx.tensor(1)?);
        same_dtype(re, im)?;
        if re.shape() != im.shape() {
            return Err(OpError::input(1, re.describe(), im.describe()));
        }
        let parts = hetra_tensor::to_f64(re)?.into_iter().zip(hetra_tensor::to_f64(im)?);
        let values: Vec<Complex> = parts.map(|(re, im)| Complex::new(re, im)).collect();
        Ok(vec![write(whole_of(0, re.dtype())?, re.shape(), &values)?.into()])
    },
    ..ROW
};

static EQUAL: OpDef = OpDef {
    name: "hetra.ComplexEqual",
    doc: "Whether both parts are the same.",
    inputs: Arity::exactly(2),
    infer: |ctx| {
        let mut types = infer_pair(ctx)?;
        let dims = types.pop().and_then(|ty| ty.dims().map(<[Dim]>::to_vec));
        Ok(vec![InferCtx::make(Some(DType::Bool), dims)])
    },
    eval: |ctx| {
        let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
        same_dtype(a, b)?;
        let shape = broadcast(a.shape(), b.shape())?;
        let walk = Walk::new(&shape, [a.shape(), b.shape()]);
        let mut out = Tensor::zeros(DType::Bool, &shape)?;
        let operands = (&read(0, a)?[..], &read(1, b)?[..]);
        zip(&walk, operands, out.bytes_mut()?, |x, y| u8::from(x == y));
        Ok(vec![out.into()])
    },
    ..ROW
};

static CUM_PROD: OpDef = OpDef {
    name: "hetra.ComplexCumProd",
    doc: "Products of all elements so far along `axis`.",
    kind: Kind::Opaque,
    infer: infer_complex,
    eval: |ctx| {
        let x = ctx.tensor(0)?;
        let axis = resolve_axis(*ctx.attrs().int("axis")?, x.rank())?;
        let mut values = read(0, x)?;
        let inner: usize = x.shape()[axis + 1..].iter().product();
        let extent = x.shape()[axis];
        for block in values.chunks_mut((extent * inner).max(1)) {
            for at in inner..block.len() {
                block[at] *= block[at - inner];
            }
        }
        Ok(vec![write(x.dtype(), x.shape(), &values)?.into()])
    },
    ..ROW
};

/// The complex dtype whose parts are of `dtype`.
fn whole_of(index: usize, dtype: DType) -> Result<DType, OpError> {
    match dtype {
        DType::F32 => Ok(DType::C64),
        DType::F64 => Ok(DType::C128),
        other => Err(OpError::input(index, "f32 or f64", other.name())),
    }
}

/// The dtype of the parts.
fn part_of(index: usize, dtype: DType) -> Result<DType, OpError> {
    match dtype {
        DType::C64 => Ok(DType::F32),
        DType::C128 => Ok(DType::F64),
        other => Err(OpError::input(index, "a complex number", other.name())),
    }
}

fn infer_complex(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    if let Some(dtype) = ctx.dtype_opt(0) {
        part_of(0, dtype)?;
    }
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), ctx.dims(0).map(<[Dim]>::to_vec))])
}

fn infer_part(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    match ctx.dtype_opt(0) {
        Some(dtype) => same_shape(ctx, part_of(0, dtype)?),
        None => Ok(vec![Type::Unknown]),
    }
}

fn infer_pair(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    infer_complex(ctx)?;
    match (ctx.dtype_opt(0), ctx.dtype_opt(1)) {
        (Some(a), Some(b)) if a != b => Err(OpError::input(1, a.name(), b.name())),
        _ => infer_broadcast(ctx),
    }
}

fn read(index: usize, tensor: &Tensor) -> Result<Vec<Complex>, OpError> {
    // The parts stand next to each other.
    let parts = part_of(index, tensor.dtype())?;
    let flat = Tensor::from_bytes(parts, &[tensor.len() * 2], tensor.bytes())?;
    let parts = hetra_tensor::to_f64(&flat)?;
    Ok(parts.chunks_exact(2).map(|pair| Complex::new(pair[0], pair[1])).collect())
}

fn write(dtype: DType, shape: &[usize], values: &[Complex]) -> Result<Tensor, OpError> {
    let parts: Vec<f64> = values.iter().flat_map(|z| [z.re, z.im]).collect();
    let flat = hetra_tensor::from_f64(part_of(0, dtype)?, &[parts.len()], &parts)?;
    Ok(Tensor::from_bytes(dtype, shape, flat.bytes())?)
}

fn map(ctx: &EvalCtx<'_>, f: impl Fn(Complex) -> Complex) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    let values: Vec<Complex> = read(0, x)?.into_iter().map(f).collect();
    Ok(vec![write(x.dtype(), x.shape(), &values)?.into()])
}

fn part(ctx: &EvalCtx<'_>, f: impl Fn(Complex) -> f64) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    let values: Vec<f64> = read(0, x)?.into_iter().map(f).collect();
    Ok(vec![hetra_tensor::from_f64(part_of(0, x.dtype())?, x.shape(), &values)?.into()])
}

fn pair(ctx: &EvalCtx<'_>, f: impl Fn(Complex, Complex) -> Complex) -> Result<Vec<Value>, OpError> {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    same_dtype(a, b)?;
    let shape = broadcast(a.shape(), b.shape())?;
    let walk = Walk::new(&shape, [a.shape(), b.shape()]);
    // A limit on what shapes may ask for is the tensor's.
    let count = Tensor::zeros(a.dtype(), &shape)?.len();
    let mut out = vec![Complex::new(0.0, 0.0); count];
    zip(&walk, (&read(0, a)?[..], &read(1, b)?[..]), &mut out, f);
    Ok(vec![write(a.dtype(), &shape, &out)?.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{node, outputs};

    fn numbers(values: &[(f64, f64)]) -> Tensor {
        let values: Vec<Complex> = values.iter().map(|&(re, im)| Complex::new(re, im)).collect();
        write(DType::C128, &[values.len()], &values).unwrap()
    }

    fn apply(op: &str, inputs: &[Tensor]) -> Vec<Complex> {
        read(0, &outputs(&node(op, 1), inputs).unwrap()[0]).unwrap()
    }

    #[test]
    fn functions_undo_each_other() {
        let z = numbers(&[(0.3, -0.7), (2.0, 1.0), (-0.5, 0.2), (0.1, 0.0)]);
        for (there, back) in [
            ("Log", "Exp"),
            ("Asin", "Sin"),
            ("Acos", "Cos"),
            ("Atan", "Tan"),
            ("Asinh", "Sinh"),
            ("Acosh", "Cosh"),
            ("Atanh", "Tanh"),
            ("Log1p", "Expm1"),
        ] {
            let op = |name: &str| node(&format!("hetra.Complex{name}"), 1);
            let there = outputs(&op(there), std::slice::from_ref(&z)).unwrap();
            let back = read(0, &outputs(&op(back), &there).unwrap()[0]).unwrap();
            for (got, wanted) in back.iter().zip(read(0, &z).unwrap()) {
                assert!((*got - wanted).norm() < 1e-14, "{there:?} {got} {wanted}");
            }
        }
    }

    #[test]
    fn arithmetic_is_that_of_complex_numbers() {
        let (a, b) = (numbers(&[(1.0, 2.0)]), numbers(&[(3.0, -1.0)]));
        let pair = [a.clone(), b];
        assert_eq!(apply("hetra.ComplexMul", &pair), [Complex::new(5.0, 5.0)]);
        let quotient = apply("hetra.ComplexDiv", &pair)[0];
        assert!((quotient - Complex::new(0.1, 0.7)).norm() < 1e-15);
        let square = apply("hetra.ComplexPow", &[a, numbers(&[(2.0, 0.0)])])[0];
        assert!((square - Complex::new(-3.0, 4.0)).norm() < 1e-14);
        let run = node("hetra.ComplexCumProd", 1).with("axis", 0i64);
        let run = outputs(&run, &[numbers(&[(0.0, 1.0), (0.0, 1.0), (2.0, 0.0)])]).unwrap();
        assert_eq!(read(0, &run[0]).unwrap()[2], Complex::new(-2.0, 0.0));
    }
}
