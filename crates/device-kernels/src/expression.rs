//! Operators as expressions of the elements at one place: the only list of them.

use hetra_ir::Node;
use hetra_kernel::{E, Scalar, Trace};
use hetra_ops::Epilogue;
use hetra_tensor::DType;

use crate::activation::Activate;
use crate::context::Gpu;
use crate::elementwise::OPERANDS_MAX;
use crate::math;
use crate::table::Form;

/// A value in a kernel. Floats of any size are computed in `f32`.
#[derive(Clone, Copy)]
pub(crate) enum Val {
    F(E<f32>),
    I(E<i32>),
    U(E<u32>),
    B(E<bool>),
}

impl Val {
    /// The same value in a variable of its own.
    pub(crate) fn bound(self, t: &Trace) -> Val {
        match self {
            Val::F(x) => Val::F(t.bind(x)),
            Val::I(x) => Val::I(t.bind(x)),
            Val::U(x) => Val::U(t.bind(x)),
            Val::B(x) => Val::B(t.bind(x)),
        }
    }

    pub(crate) fn float(self, t: &Trace) -> E<f32> {
        match self {
            Val::F(x) => x,
            Val::I(x) => t.cast(x),
            Val::U(x) => t.cast(x),
            Val::B(x) => t.select(x, t.lit(1.0), t.lit(0.0)),
        }
    }

    pub(crate) fn int(self, t: &Trace) -> E<i32> {
        match self {
            Val::F(x) => t.cast(x),
            Val::I(x) => x,
            Val::U(x) => t.cast(x),
            Val::B(x) => t.cast(x),
        }
    }

    pub(crate) fn uint(self, t: &Trace) -> E<u32> {
        match self {
            Val::F(x) => t.cast(x),
            Val::I(x) => t.cast(x),
            Val::U(x) => x,
            Val::B(x) => t.cast(x),
        }
    }

    pub(crate) fn truth(self, t: &Trace) -> E<bool> {
        match self {
            Val::F(x) => t.ne(x, t.lit(0.0)),
            Val::I(x) => t.ne(x, t.lit(0)),
            Val::U(x) => t.ne(x, t.lit(0)),
            Val::B(x) => x,
        }
    }
}

/// Which dtypes an operator is taken for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dtypes {
    /// Floats.
    Floats,
    /// Floats, and whole numbers of 32 bits, which wrap as they should.
    Numbers,
    /// All that are held: results are among the operands.
    Any,
    /// Whole numbers of any size: results fit where the operands do.
    Ints,
    /// Those of 32 bits.
    Whole,
    /// `u32`.
    Words,
    /// Booleans.
    Truths,
    /// Quantised to or from 8 bits.
    Codes,
    /// Casts.
    Casts,
}

struct Entry {
    op: &'static str,
    dtypes: Dtypes,
}

macro_rules! entries {
    ($($dtypes:ident: $($op:literal)*;)*) => {
        const ENTRIES: &[Entry] = &[$($(Entry { op: $op, dtypes: Dtypes::$dtypes },)*)*];
        /// The operators.
        pub(crate) const OPS: &[&str] = &[$($($op,)*)*];
    };
}

entries! {
    Floats: "Relu" "Sigmoid" "Tanh" "Exp" "Log" "Sqrt" "Floor" "Ceil" "Round" "Erf" "Sin" "Cos"
        "Tan" "Asin" "Acos" "Atan" "Sinh" "Cosh" "Softplus" "Softsign" "Elu" "Selu" "Celu"
        "LeakyRelu" "ThresholdedRelu" "HardSigmoid" "HardSwish" "Swish" "Mish" "Gelu" "Reciprocal" "Pow"
        "PRelu" "Mean" "BatchNormalization" "IsNaN" "com.microsoft.QuickGelu" "com.microsoft.FastGelu"
        "com.microsoft.BiasGelu" "com.microsoft.Gelu" "Asinh" "Acosh" "Atanh" "Shrink" "IsInf"
        "hetra.Expm1" "hetra.Log1p" "hetra.Log2" "hetra.Log10" "hetra.Trunc" "hetra.Atan2"
        "hetra.Hypot" "hetra.CopySign" "hetra.LogAddExp";
    Ints: "Mod" "BitwiseAnd" "BitwiseOr" "BitwiseXor";
    Whole: "hetra.FloorDivide" "BitwiseNot";
    Words: "BitShift";
    Numbers: "Add" "Sub" "Mul" "Div" "Sum" "Neg" "Abs" "Sign";
    Any: "Min" "Max" "Clip" "Where" "Equal" "Less" "LessOrEqual" "Greater" "GreaterOrEqual";
    Truths: "And" "Or" "Xor" "Not";
    Codes: "QuantizeLinear" "DequantizeLinear";
    Casts: "Cast";
}

/// Whether a node is one that [`apply`] has an expression for, as far as its types are known.
pub(crate) fn takes(form: &Form<'_>) -> bool {
    let node = form.node;
    let Some(entry) = ENTRIES.iter().find(|entry| entry.op == node.op) else { return false };
    let count = node.inputs.len();
    if count > OPERANDS_MAX || node.outputs.len() > 1 || Epilogue::of(node).is_err() {
        return false;
    }
    let fits =
        |index: usize| form.ty(index).dtype().is_none_or(|dtype| entry.takes(form.gpu, dtype));
    (0..count).filter(|&index| node.input(index).is_some()).all(fits) && attributes_fit(form)
}

impl Entry {
    /// Whether operands may be of a dtype.
    fn takes(&self, gpu: &Gpu, dtype: DType) -> bool {
        let Some(scalar) = gpu.scalar(dtype) else { return false };
        match self.dtypes {
            Dtypes::Floats => scalar.is_float(),
            Dtypes::Numbers => scalar.is_float() || matches!(dtype, DType::I32 | DType::U32),
            Dtypes::Any | Dtypes::Casts => true,
            Dtypes::Ints => dtype.is_int(),
            Dtypes::Whole => matches!(dtype, DType::I32 | DType::U32),
            Dtypes::Words => dtype == DType::U32,
            Dtypes::Truths => scalar == Scalar::Bool,
            Dtypes::Codes => {
                dtype == DType::F32 || matches!(dtype, DType::U8 | DType::I8 | DType::I32)
            }
        }
    }
}

/// Whether the operands of a run are of dtypes that its operator is taken for: what was not known
/// when it was compiled is looked at now.
pub(crate) fn takes_dtypes(gpu: &Gpu, node: &Node, dtypes: &[DType]) -> bool {
    let Some(entry) = ENTRIES.iter().find(|entry| entry.op == node.op) else { return false };
    let casts = entry.dtypes != Dtypes::Casts || casts_fit(node, dtypes.first().copied());
    casts && dtypes.iter().all(|&dtype| entry.takes(gpu, dtype))
}

/// Whether a cast gives on the device what it gives on the host.
fn casts_fit(node: &Node, from: Option<DType>) -> bool {
    use DType::{Bool, F16, F32, I8, I16, I32, I64, U8, U16, U32};
    let (Some(to), Some(from)) = (cast_to(node), from) else { return false };
    match to {
        F32 => true,
        // One rounding only, and no more bits than a word has.
        F16 => matches!(from, F16 | F32 | Bool | I8 | U8 | I16 | U16),
        I32 => matches!(from, F16 | F32 | Bool | I8 | U8 | I16 | U16 | I32),
        I64 => matches!(from, Bool | I8 | U8 | I16 | U16 | I32 | I64),
        Bool => true,
        I8 | U8 | I16 | U16 | U32 => from == Bool || from == to,
        _ => false,
    }
}

/// Whether the attributes ask for nothing that has no expression here.
fn attributes_fit(form: &Form<'_>) -> bool {
    let attrs = &form.node.attrs;
    let zero = |name| attrs.int_or(name, 0).is_ok_and(|value| value == 0);
    // Until opset 6 it said where the second operand belongs.
    let axis = attrs.has("axis") && !form.node.op.ends_with("Linear");
    match form.node.op.as_str() {
        _ if axis => false,
        "BatchNormalization" => zero("training_mode") && attrs.int_or("spatial", 1) == Ok(1),
        "QuantizeLinear" => {
            zero("block_size")
                && zero("output_dtype")
                && zero("precision")
                && attrs.int_or("saturate", 1) == Ok(1)
        }
        "BitShift" => attrs.str("direction").is_ok_and(|d| d == "LEFT" || d == "RIGHT"),
        "DequantizeLinear" => zero("block_size") && zero("output_dtype"),
        "Cast" => form.ty(0).dtype().is_none_or(|from| casts_fit(form.node, Some(from))),
        _ => true,
    }
}

fn cast_to(node: &Node) -> Option<DType> {
    let code = *node.attrs.int("to").ok()?;
    DType::from_onnx(i32::try_from(code).ok()?)
}

/// The dtype of the result, from those of the operands that are there.
pub(crate) fn result_dtype(node: &Node, operands: &[DType]) -> Option<DType> {
    match node.op.as_str() {
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "IsNaN" | "IsInf" => {
            Some(DType::Bool)
        }
        "Cast" => cast_to(node),
        "Where" => operands.get(1).copied(),
        "DequantizeLinear" => operands.get(1).copied(),
        "QuantizeLinear" => Some(operands.get(2).copied().unwrap_or(DType::U8)),
        _ => operands.first().copied(),
    }
}

/// The expression of a node, of the inputs that are there. `dtype`: of the result.
pub(crate) fn apply(t: &Trace, node: &Node, inputs: &[Option<Val>], dtype: DType) -> Option<Val> {
    let input = |index: usize| inputs.get(index).copied().flatten();
    let op = node.op.as_str();
    let value = match op {
        "Where" => select(t, input(0)?.truth(t), input(1)?, input(2)?)?,
        "Clip" => {
            let mut x = input(0)?;
            if let Some(low) = input(1) {
                x = binary(t, "Max", x, low)?;
            }
            if let Some(high) = input(2) {
                x = binary(t, "Min", x, high)?;
            }
            x
        }
        "Min" | "Max" | "Sum" | "Mean" => {
            let all: Vec<Val> = inputs.iter().copied().collect::<Option<_>>()?;
            let by = match op {
                "Sum" | "Mean" => "Add",
                _ => op,
            };
            let (first, rest) = all.split_first()?;
            let folded = rest.iter().try_fold(*first, |all, next| binary(t, by, all, *next))?;
            match op {
                "Mean" => Val::F(t.div(folded.float(t), t.lit(all.len() as f32))),
                _ => folded,
            }
        }
        "Not" => Val::B(t.not(input(0)?.truth(t))),
        "Cast" => input(0)?,
        "IsNaN" => {
            let x = input(0)?.float(t);
            Val::B(math::is_nan::trace(t, &[], t.bind(x)))
        }
        "IsInf" => Val::B(infinite(t, node, input(0)?.float(t))?),
        "BitwiseNot" => match input(0)? {
            Val::I(x) => Val::I(t.not(x)),
            Val::U(x) => Val::U(t.not(x)),
            _ => return None,
        },
        "Mod" | "hetra.FloorDivide" => quotient(t, node, input(0)?, input(1)?)?,
        "BitShift" => shifted(t, node, input(0)?.uint(t), input(1)?.uint(t))?,
        "Neg" | "Abs" | "Sign" => sign(t, op, input(0)?)?,
        "BatchNormalization" => normalised(t, node, inputs)?,
        "QuantizeLinear" => quantised(t, input(0)?, input(1)?, input(2), dtype)?,
        "DequantizeLinear" => dequantised(t, input(0)?, input(1)?, input(2))?,
        _ => match (input(0)?, input(1)) {
            (x, None) => Val::F(unary(t, node, x.float(t))?),
            (x, Some(y)) => binary(t, op, x, y)?,
        },
    };
    let epilogue = Epilogue::of(node).ok()?;
    if epilogue.is_nothing() {
        Some(value)
    } else {
        Some(Val::F(Activate::of(node)?.apply(t, value.float(t))))
    }
}

fn select(t: &Trace, condition: E<bool>, yes: Val, no: Val) -> Option<Val> {
    Some(match (yes, no) {
        (Val::F(a), Val::F(b)) => Val::F(t.select(condition, a, b)),
        (Val::I(a), Val::I(b)) => Val::I(t.select(condition, a, b)),
        (Val::U(a), Val::U(b)) => Val::U(t.select(condition, a, b)),
        (Val::B(a), Val::B(b)) => Val::B(t.select(condition, a, b)),
        _ => return None,
    })
}

fn sign(t: &Trace, op: &str, x: Val) -> Option<Val> {
    Some(match (op, x) {
        ("Neg", Val::F(x)) => Val::F(t.neg(x)),
        ("Neg", Val::I(x)) => Val::I(t.neg(x)),
        ("Abs", Val::F(x)) => Val::F(t.abs(x)),
        ("Abs", Val::I(x)) => Val::I(t.abs(x)),
        ("Abs", Val::U(x)) => Val::U(x),
        ("Sign", Val::F(x)) => {
            let below = t.select(t.lt(x, t.lit(0.0)), t.lit(-1.0), x);
            Val::F(t.select(t.gt(x, t.lit(0.0)), t.lit(1.0), below))
        }
        ("Sign", Val::I(x)) => Val::I(t.max(t.min(x, t.lit(1)), t.lit(-1))),
        ("Sign", Val::U(x)) => Val::U(t.min(x, t.lit(1))),
        _ => return None,
    })
}

/// Whether a number is infinite, of the signs that are asked for.
fn infinite(t: &Trace, node: &Node, x: E<f32>) -> Option<E<bool>> {
    let asked = |name: &str| node.attrs.flag_or(name, true).ok();
    let (negative, positive) = (asked("detect_negative")?, asked("detect_positive")?);
    let bits = t.bind(t.to_bits(x));
    let is = |word: u32, asked: bool| t.and(t.eq(bits, t.int(word)), || t.lit(asked));
    let (above, below) = (is(0x7f80_0000, positive), is(0xff80_0000, negative));
    Some(t.or(above, || below))
}

/// Remainders and quotients of whole numbers.
fn quotient(t: &Trace, node: &Node, a: Val, b: Val) -> Option<Val> {
    let c_style = node.attrs.flag_or("fmod", false).ok()?;
    let remainder = node.op == "Mod";
    Some(match (a, b) {
        (Val::I(a), Val::I(b)) if !remainder => Val::I(math::floor_divide::trace(t, &[], a, b)),
        (Val::I(a), Val::I(b)) if !c_style => Val::I(math::modulo_int::trace(t, &[], a, b)),
        (Val::I(a), Val::I(b)) => Val::I(t.select(t.eq(b, t.lit(0)), t.lit(0), t.rem(a, b))),
        (Val::U(a), Val::U(b)) => {
            let value = if remainder { t.rem(a, b) } else { t.div(a, b) };
            Val::U(t.select(t.eq(b, t.lit(0)), t.lit(0), value))
        }
        _ => return None,
    })
}

/// Bits moved to one side; by the width or more, none are left.
fn shifted(t: &Trace, node: &Node, x: E<u32>, by: E<u32>) -> Option<Val> {
    let left = match node.attrs.str("direction").ok()?.as_str() {
        "LEFT" => true,
        "RIGHT" => false,
        _ => return None,
    };
    let kept = t.bitand(by, t.int(31));
    let moved = if left { t.shl(x, kept) } else { t.shr(x, kept) };
    Some(Val::U(t.select(t.lt(by, t.int(32)), moved, t.int(0))))
}

/// A quotient as operators have it: of whole numbers 0 by zero (docs/DIFFERENCES.md).
trait Quotient: Sized {
    fn of(t: &Trace, a: Self, b: Self) -> Self;
}

impl Quotient for E<f32> {
    fn of(t: &Trace, a: Self, b: Self) -> Self {
        t.div(a, b)
    }
}

impl Quotient for E<i32> {
    fn of(t: &Trace, a: Self, b: Self) -> Self {
        t.select(t.eq(b, t.lit(0)), t.lit(0), t.div(a, b))
    }
}

impl Quotient for E<u32> {
    fn of(t: &Trace, a: Self, b: Self) -> Self {
        t.select(t.eq(b, t.lit(0)), t.lit(0), t.div(a, b))
    }
}

macro_rules! arithmetic {
    ($t:ident $op:ident $a:ident $b:ident $wrap:path) => {
        match $op {
            "Add" => $wrap($t.add($a, $b)),
            "Sub" => $wrap($t.sub($a, $b)),
            "Mul" => $wrap($t.mul($a, $b)),
            "Div" => $wrap(Quotient::of($t, $a, $b)),
            "Min" => $wrap($t.min($a, $b)),
            "Max" => $wrap($t.max($a, $b)),
            "Equal" => Val::B($t.eq($a, $b)),
            "Less" => Val::B($t.lt($a, $b)),
            "LessOrEqual" => Val::B($t.le($a, $b)),
            "Greater" => Val::B($t.gt($a, $b)),
            "GreaterOrEqual" => Val::B($t.ge($a, $b)),
            _ => return None,
        }
    };
}

fn binary(t: &Trace, op: &str, a: Val, b: Val) -> Option<Val> {
    Some(match (a, b) {
        (Val::F(a), Val::F(b)) => match op {
            "Pow" => Val::F(math::power::trace(t, &[], a, b)),
            "PRelu" => Val::F(t.select(t.lt(a, t.lit(0.0)), t.mul(a, b), a)),
            // A number that is none stays none.
            "Min" => Val::F(unless_nan(t, a, b, t.min(a, b))),
            "Max" => Val::F(unless_nan(t, a, b, t.max(a, b))),
            "com.microsoft.BiasGelu" => Val::F(math::gelu::trace(t, &[], t.bind(t.add(a, b)))),
            "com.microsoft.FastGelu" => Val::F(math::gelu_tanh::trace(t, &[], t.bind(t.add(a, b)))),
            "hetra.Atan2" => Val::F(math::atan2::trace(t, &[], a, b)),
            "hetra.Hypot" => Val::F(math::hypot::trace(t, &[], a, b)),
            "hetra.CopySign" => Val::F(math::copy_sign::trace(t, &[], a, b)),
            "hetra.LogAddExp" => Val::F(math::log_add_exp::trace(t, &[], a, b)),
            _ => arithmetic!(t op a b Val::F),
        },
        (Val::I(a), Val::I(b)) => match op {
            "BitwiseAnd" => Val::I(t.bitand(a, b)),
            "BitwiseOr" => Val::I(t.bitor(a, b)),
            "BitwiseXor" => Val::I(t.bitxor(a, b)),
            _ => arithmetic!(t op a b Val::I),
        },
        (Val::U(a), Val::U(b)) => match op {
            "BitwiseAnd" => Val::U(t.bitand(a, b)),
            "BitwiseOr" => Val::U(t.bitor(a, b)),
            "BitwiseXor" => Val::U(t.bitxor(a, b)),
            _ => arithmetic!(t op a b Val::U),
        },
        (Val::B(a), Val::B(b)) => Val::B(match op {
            "And" | "Min" => t.and(a, || b),
            "Or" | "Max" => t.or(a, || b),
            "Xor" => t.and(t.or(a, || b), || t.not(t.and(a, || b))),
            "Equal" => t.or(t.and(a, || b), || t.not(t.or(a, || b))),
            _ => return None,
        }),
        _ => return None,
    })
}

/// A value of two numbers, or the one of them that is none.
fn unless_nan(t: &Trace, a: E<f32>, b: E<f32>, value: E<f32>) -> E<f32> {
    let [none_a, none_b] = [a, b].map(|x| t.bind(math::is_nan::trace(t, &[], t.bind(x))));
    t.select(none_a, a, t.select(none_b, b, value))
}

fn unary(t: &Trace, node: &Node, x: E<f32>) -> Option<E<f32>> {
    Some(match node.op.as_str() {
        "Relu" => math::leaky::trace(t, &[], x, t.lit(0.0)),
        "Sigmoid" => math::sigmoid::trace(t, &[], x),
        "Tanh" => math::tanh::trace(t, &[], x),
        "Exp" => t.exp(x),
        "Log" => t.ln(x),
        "Sqrt" => t.sqrt(x),
        "Floor" => t.floor(x),
        "Ceil" => t.ceil(x),
        "Round" => t.round_ties_even(x),
        "Erf" => math::erf::trace(t, &[], x),
        "Sin" => math::sin::trace(t, &[], x),
        "Cos" => math::cos::trace(t, &[], x),
        "Tan" => math::tan::trace(t, &[], x),
        "Asin" => math::asin::trace(t, &[], x),
        "Acos" => math::acos::trace(t, &[], x),
        "Atan" => math::atan::trace(t, &[], x),
        "Sinh" => t.sinh(x),
        "Cosh" => t.cosh(x),
        "Asinh" => math::asinh::trace(t, &[], x),
        "Acosh" => math::acosh::trace(t, &[], x),
        "Atanh" => math::atanh::trace(t, &[], x),
        "hetra.Expm1" => math::exp_minus_one::trace(t, &[], x),
        "hetra.Log1p" => math::log_one_plus::trace(t, &[], x),
        "hetra.Log2" => t.log2(x),
        "hetra.Log10" => t.mul(t.ln(x), t.lit(std::f32::consts::LOG10_E)),
        "hetra.Trunc" => t.trunc(x),
        "Reciprocal" => t.div(t.lit(1.0), x),
        _ => return activation(t, node, x),
    })
}

/// What layers of models have between them.
fn activation(t: &Trace, node: &Node, x: E<f32>) -> Option<E<f32>> {
    let attr = |name: &str, default: f32| node.attrs.float_or(name, default).ok().map(|v| t.lit(v));
    let zero = t.lit(0.0);
    let negative = t.lt(x, zero);
    Some(match node.op.as_str() {
        "Shrink" => {
            let (limit, bias) = (attr("lambd", 0.5)?, attr("bias", 0.0)?);
            let above = t.select(t.gt(x, limit), t.sub(x, bias), zero);
            t.select(t.lt(x, t.neg(limit)), t.add(x, bias), above)
        }
        "Softplus" => math::softplus::trace(t, &[], x),
        "Softsign" => t.div(x, t.add(t.lit(1.0), t.abs(x))),
        "Elu" => {
            let below = t.mul(attr("alpha", 1.0)?, math::exp_minus_one::trace(t, &[], x));
            t.select(negative, below, x)
        }
        "Celu" => {
            let alpha = attr("alpha", 1.0)?;
            let scaled = t.bind(t.div(x, alpha));
            t.select(negative, t.mul(alpha, math::exp_minus_one::trace(t, &[], scaled)), x)
        }
        "Selu" => {
            let (alpha, gamma) = (attr("alpha", 1.673_263_2)?, attr("gamma", 1.050_701)?);
            let below = t.mul(alpha, math::exp_minus_one::trace(t, &[], x));
            t.mul(gamma, t.select(t.gt(x, zero), x, below))
        }
        "LeakyRelu" => math::leaky::trace(t, &[], x, attr("alpha", 0.01)?),
        "ThresholdedRelu" => t.select(t.le(x, attr("alpha", 1.0)?), zero, x),
        "HardSigmoid" => {
            let line = t.add(t.mul(attr("alpha", 0.2)?, x), attr("beta", 0.5)?);
            between(t, line, 0.0, 1.0)
        }
        "HardSwish" => math::hard_swish::trace(t, &[], x),
        "Mish" => {
            let soft = t.bind(math::softplus::trace(t, &[], x));
            t.mul(x, math::tanh::trace(t, &[], soft))
        }
        "Gelu" if node.attrs.str_or("approximate", "none").is_ok_and(|a| a == "tanh") => {
            math::gelu_tanh::trace(t, &[], x)
        }
        "Gelu" | "com.microsoft.Gelu" => math::gelu::trace(t, &[], x),
        "com.microsoft.FastGelu" => math::gelu_tanh::trace(t, &[], x),
        "Swish" | "com.microsoft.QuickGelu" => {
            let usual = if node.op == "Swish" { 1.0 } else { 1.702 };
            let scaled = t.bind(t.mul(attr("alpha", usual)?, x));
            t.mul(x, math::sigmoid::trace(t, &[], scaled))
        }
        _ => return None,
    })
}

fn between(t: &Trace, x: E<f32>, low: f32, high: f32) -> E<f32> {
    math::between::trace(t, &[], t.bind(x), t.lit(low), t.lit(high))
}

/// `(x - mean) / sqrt(variance + epsilon) * scale + bias`.
fn normalised(t: &Trace, node: &Node, inputs: &[Option<Val>]) -> Option<Val> {
    let input = |index: usize| inputs.get(index).copied().flatten().map(|value| value.float(t));
    let (x, scale, bias) = (input(0)?, input(1)?, input(2)?);
    let (mean, variance) = (input(3)?, input(4)?);
    let epsilon = t.lit(node.attrs.float_or("epsilon", 1e-5).ok()?);
    let deviation = t.sqrt(t.add(variance, epsilon));
    Some(Val::F(t.add(t.mul(t.div(t.sub(x, mean), deviation), scale), bias)))
}

/// The nearest code, with ties to even, kept inside the range of its dtype.
fn quantised(t: &Trace, x: Val, scale: Val, zero: Option<Val>, dtype: DType) -> Option<Val> {
    let (low, high) = match dtype {
        DType::U8 => (0.0, 255.0),
        DType::I8 => (-128.0, 127.0),
        _ => return None,
    };
    let zero = zero.map_or(t.lit(0.0), |zero| zero.float(t));
    let ratio = t.bind(t.div(x.float(t), scale.float(t)));
    // What is no number is the code of zero.
    let ratio = t.select(math::is_nan::trace(t, &[], ratio), t.lit(0.0), ratio);
    let code = t.add(t.round_ties_even(ratio), zero);
    Some(Val::F(t.min(t.max(code, t.lit(low)), t.lit(high))))
}

fn dequantised(t: &Trace, x: Val, scale: Val, zero: Option<Val>) -> Option<Val> {
    // Exact: codes and their differences have few bits, those of 32 have no zero point.
    let centred = match (x, zero) {
        (x, None) => x.float(t),
        (Val::I(x), Some(zero)) => t.cast(t.sub(x, zero.int(t))),
        (x, Some(zero)) => t.sub(x.float(t), zero.float(t)),
    };
    Some(Val::F(t.mul(centred, scale.float(t))))
}
