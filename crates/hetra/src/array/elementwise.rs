//! Functions of the elements at one place: a row each.

use hetra_tensor::DType;

use super::call::{Op, broadcast_of};
use super::promote::{float_of, part_of};
use super::{Array, ArrayError, Result, Scalar, promote};

/// What dtypes a function takes, and what it gives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Numbers, and the same.
    Numbers,
    /// Floats, and the same; integers are taken as f64.
    Floats,
    /// Floats; integers stay as they are.
    Rounding,
    /// All, to booleans.
    Compare,
    /// All as booleans, to booleans.
    Truth,
    /// Integers or booleans, and the same.
    Bits,
}

macro_rules! functions {
    ($kind:ident, $($variant:ident $method:ident = $op:literal $rule:ident;)*) => {
        /// Names of functions of this many operands.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the methods of the same names say what they are")]
        pub enum $kind { $($variant,)* }

        impl $kind {
            /// All of them.
            pub const ALL: &'static [$kind] = &[$($kind::$variant,)*];

            /// The name that it is called by.
            pub fn name(self) -> &'static str {
                match self { $($kind::$variant => stringify!($method),)* }
            }

            /// The function of this name.
            pub fn named(name: &str) -> Option<$kind> {
                $kind::ALL.iter().copied().find(|function| function.name() == name)
            }

            fn row(self) -> (&'static str, Rule) {
                match self { $($kind::$variant => ($op, Rule::$rule),)* }
            }
        }
    };
}

macro_rules! unary {
    ($($(#[doc = $doc:literal])* $variant:ident $method:ident = $op:literal $rule:ident;)*) => {
        functions! { Unary, $($variant $method = $op $rule;)* }

        impl Array {
            $($(#[doc = $doc])*
            ///
            /// # Errors
            /// For a dtype that the function has no meaning for.
            pub fn $method(&self) -> Result<Array> { self.unary(Unary::$variant) })*
        }
    };
}

macro_rules! binary {
    ($($(#[doc = $doc:literal])* $variant:ident $method:ident = $op:literal $rule:ident;)*) => {
        functions! { Binary, $($variant $method = $op $rule;)* }

        impl Array {
            $($(#[doc = $doc])*
            ///
            /// # Errors
            /// When shapes do not broadcast, or the dtypes have no common one.
            pub fn $method(&self, other: &Array) -> Result<Array> {
                self.binary(Binary::$variant, other)
            })*
        }
    };
}

unary! {
    /// Minus x; integers wrap.
    Negative negative = "Neg" Numbers;
    /// The magnitude.
    Abs abs = "Abs" Numbers;
    /// -1, 0 or 1.
    Sign sign = "Sign" Numbers;
    /// x times x.
    Square square = "Mul" Numbers;
    /// The integer at or below.
    Floor floor = "Floor" Rounding;
    /// The integer at or above.
    Ceil ceil = "Ceil" Rounding;
    /// The nearest integer; halves go to the even one.
    Round round = "Round" Rounding;
    /// The integer next to x towards 0.
    Trunc trunc = "hetra.Trunc" Rounding;
    /// One over x.
    Reciprocal reciprocal = "Reciprocal" Floats;
    /// The square root.
    Sqrt sqrt = "Sqrt" Floats;
    /// The exponential function.
    Exp exp = "Exp" Floats;
    /// exp(x) - 1, exact near 0.
    Expm1 expm1 = "hetra.Expm1" Floats;
    /// The natural logarithm.
    Log log = "Log" Floats;
    /// log(1 + x), exact near 0.
    Log1p log1p = "hetra.Log1p" Floats;
    /// The logarithm to base 2.
    Log2 log2 = "hetra.Log2" Floats;
    /// The logarithm to base 10.
    Log10 log10 = "hetra.Log10" Floats;
    /// Sine.
    Sin sin = "Sin" Floats;
    /// Cosine.
    Cos cos = "Cos" Floats;
    /// Tangent.
    Tan tan = "Tan" Floats;
    /// Inverse sine.
    Asin asin = "Asin" Floats;
    /// Inverse cosine.
    Acos acos = "Acos" Floats;
    /// Inverse tangent.
    Atan atan = "Atan" Floats;
    /// Hyperbolic sine.
    Sinh sinh = "Sinh" Floats;
    /// Hyperbolic cosine.
    Cosh cosh = "Cosh" Floats;
    /// Hyperbolic tangent.
    Tanh tanh = "Tanh" Floats;
    /// Inverse hyperbolic sine.
    Asinh asinh = "Asinh" Floats;
    /// Inverse hyperbolic cosine.
    Acosh acosh = "Acosh" Floats;
    /// Inverse hyperbolic tangent.
    Atanh atanh = "Atanh" Floats;
    /// The error function.
    Erf erf = "Erf" Floats;
    /// The logistic function.
    Sigmoid sigmoid = "Sigmoid" Floats;
    /// Whether it is no number.
    IsNan isnan = "IsNaN" Compare;
    /// Whether it is infinite.
    IsInf isinf = "IsInf" Compare;
    /// Whether it is a number and not infinite.
    IsFinite isfinite = "IsInf" Compare;
    /// Whether its sign is minus, be it of 0.
    SignBit signbit = "Less" Compare;
    /// The conjugate; of real numbers the same.
    Conj conj = "Conj" Numbers;
    /// The real part.
    Real real = "Real" Numbers;
    /// The imaginary part.
    Imag imag = "Imag" Numbers;
    /// Whether it is 0 or false.
    LogicalNot logical_not = "Not" Truth;
    /// All bits the other way.
    BitwiseInvert bitwise_invert = "BitwiseNot" Bits;
}

binary! {
    /// The sum; integers wrap.
    Add add = "Add" Numbers;
    /// The difference; integers wrap.
    Subtract subtract = "Sub" Numbers;
    /// The product; integers wrap.
    Multiply multiply = "Mul" Numbers;
    /// The quotient, as floats.
    Divide divide = "Div" Floats;
    /// The quotient rounded towards minus infinity.
    FloorDivide floor_divide = "hetra.FloorDivide" Numbers;
    /// What is left of the division, with the sign of the divisor.
    Remainder remainder = "Mod" Numbers;
    /// The power.
    Pow pow = "Pow" Numbers;
    /// The larger one, NaN if one is.
    Maximum maximum = "Max" Numbers;
    /// The smaller one, NaN if one is.
    Minimum minimum = "Min" Numbers;
    /// The angle of the point (x2, x1).
    Atan2 atan2 = "hetra.Atan2" Floats;
    /// sqrt(x1 * x1 + x2 * x2).
    Hypot hypot = "hetra.Hypot" Floats;
    /// The magnitude of x1 with the sign of x2.
    CopySign copysign = "hetra.CopySign" Floats;
    /// The float next to x1 towards x2.
    NextAfter nextafter = "hetra.NextAfter" Floats;
    /// log(exp(x1) + exp(x2)).
    LogAddExp logaddexp = "hetra.LogAddExp" Floats;
    /// Whether they are the same.
    Equal equal = "Equal" Compare;
    /// Whether they are not the same.
    NotEqual not_equal = "Equal" Compare;
    /// Whether x1 is below x2.
    Less less = "Less" Compare;
    /// Whether x1 is not above x2.
    LessEqual less_equal = "LessOrEqual" Compare;
    /// Whether x1 is above x2.
    Greater greater = "Greater" Compare;
    /// Whether x1 is not below x2.
    GreaterEqual greater_equal = "GreaterOrEqual" Compare;
    /// Whether both are true.
    LogicalAnd logical_and = "And" Truth;
    /// Whether one is true.
    LogicalOr logical_or = "Or" Truth;
    /// Whether exactly one is true.
    LogicalXor logical_xor = "Xor" Truth;
    /// The bits that both have.
    BitwiseAnd bitwise_and = "BitwiseAnd" Bits;
    /// The bits that one has.
    BitwiseOr bitwise_or = "BitwiseOr" Bits;
    /// The bits that exactly one has.
    BitwiseXor bitwise_xor = "BitwiseXor" Bits;
    /// x1 with its bits x2 places further up.
    ShiftLeft bitwise_left_shift = "BitShift" Bits;
    /// x1 with its bits x2 places further down.
    ShiftRight bitwise_right_shift = "BitShift" Bits;
}

impl Rule {
    /// The dtype that operands are taken as.
    fn operand(self, name: &'static str, dtype: DType) -> Result<DType> {
        match self {
            Rule::Numbers | Rule::Rounding if dtype == DType::Bool => {
                Err(ArrayError::dtype(name, "numbers", dtype))
            }
            Rule::Floats => Ok(float_of(dtype)),
            Rule::Truth => Ok(DType::Bool),
            Rule::Bits if dtype.is_float() || dtype.is_complex() => {
                Err(ArrayError::dtype(name, "integers or booleans", dtype))
            }
            _ => Ok(dtype),
        }
    }

    fn result(self, operand: DType) -> DType {
        match self {
            Rule::Compare | Rule::Truth => DType::Bool,
            _ => operand,
        }
    }
}

impl Array {
    /// A function of the elements.
    ///
    /// # Errors
    /// For a dtype that it has no meaning for.
    pub fn unary(&self, function: Unary) -> Result<Array> {
        let (op, rule) = function.row();
        let dtype = rule.operand(function.name(), self.dtype())?;
        let x = self.cast(dtype)?;
        if dtype.is_complex() {
            return x.complex_unary(function);
        }
        let one = |op: &'static str| Op::new(op).on(&x);
        let shape = || x.shape().into();
        match function {
            Unary::Square => Op::new(op).on(&x).on(&x).typed(dtype, shape()),
            _ if rule == Rule::Rounding && dtype.is_int() => Ok(x),
            Unary::Conj | Unary::Real => Ok(x),
            Unary::Imag => x.full_like(0i64),
            Unary::Negative | Unary::Abs if dtype.is_int() && !dtype.is_signed_int() => {
                if function == Unary::Abs { Ok(x) } else { x.full_like(0i64)?.subtract(&x) }
            }
            Unary::IsNan | Unary::IsInf if !dtype.is_float() => {
                Array::full(x.shape(), false, DType::Bool, &x.device_handle())
            }
            Unary::IsFinite if !dtype.is_float() => {
                Array::full(x.shape(), true, DType::Bool, &x.device_handle())
            }
            Unary::IsFinite => x.isnan()?.logical_or(&x.isinf()?)?.logical_not(),
            // ONNX has it for f32 and f64 only.
            Unary::IsInf if dtype.bits() == 16 => x.cast(DType::F32)?.isinf(),
            Unary::SignBit if dtype.is_float() => {
                x.full_like(1.0)?.copysign(&x)?.less(&x.full_like(0.0)?)
            }
            Unary::SignBit if dtype == DType::Bool => {
                Array::full(x.shape(), false, dtype, &x.device_handle())
            }
            Unary::SignBit => x.less(&x.full_like(0i64)?),
            // The sign of either zero is 0.
            Unary::Sign if dtype.is_float() => one(op).typed(dtype, shape())?.add(&x.number(0.0)?),
            Unary::BitwiseInvert if dtype == DType::Bool => x.logical_not(),
            _ => one(op).typed(rule.result(dtype), shape()),
        }
    }

    /// A function of the elements of two arrays, which are broadcast.
    ///
    /// # Errors
    /// When shapes do not broadcast, or the dtypes have no common one.
    pub fn binary(&self, function: Binary, other: &Array) -> Result<Array> {
        let (op, rule) = function.row();
        let name = function.name();
        let (left, right) = (self.dtype(), other.dtype());
        let both = promote(left, right).ok_or(ArrayError::Promotion { op: name, left, right })?;
        let dtype = rule.operand(name, both)?;
        let (a, b) = (self.cast(dtype)?, other.cast(dtype)?);
        let pair = |op: &'static str| Op::new(op).on(&a).on(&b);
        let shape = broadcast_of(name, &[self, other])?;
        if dtype.is_complex() && rule != Rule::Truth {
            return complex_binary(function, &a, &b, shape);
        }
        match function {
            // The order of booleans.
            Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual
                if dtype == DType::Bool =>
            {
                a.cast(DType::U8)?.binary(function, &b.cast(DType::U8)?)
            }
            Binary::NotEqual => pair(op).typed(DType::Bool, shape)?.logical_not(),
            Binary::BitwiseAnd if dtype == DType::Bool => a.logical_and(&b),
            Binary::BitwiseOr if dtype == DType::Bool => a.logical_or(&b),
            Binary::BitwiseXor if dtype == DType::Bool => a.logical_xor(&b),
            Binary::ShiftLeft | Binary::ShiftRight => shift(function, &a, &b),
            _ => pair(op).typed(rule.result(dtype), shape),
        }
    }

    /// As [`Array::binary`], with a number that takes the dtype of this array where it can.
    ///
    /// # Errors
    /// As [`Array::binary`], and when the dtype does not hold the number.
    pub fn binary_scalar(
        &self,
        function: Binary,
        scalar: impl Into<Scalar>,
        reversed: bool,
    ) -> Result<Array> {
        let scalar = scalar.into();
        if let (Some(result), false) = (self.simple_power(function, scalar), reversed) {
            return result;
        }
        if let Some(answer) = beyond(function, scalar, self.dtype(), reversed) {
            return Array::full(self.shape(), answer, DType::Bool, &self.device_handle());
        }
        let number = Array::scalar(scalar, scalar.beside(self.dtype()), self.place())?;
        if reversed { number.binary(function, self) } else { self.binary(function, &number) }
    }

    /// Powers that are other functions, which are faster and exact.
    fn simple_power(&self, function: Binary, exponent: Scalar) -> Option<Result<Array>> {
        if function != Binary::Pow || self.dtype() == DType::Bool {
            return None;
        }
        let whole = matches!(exponent, Scalar::Int(_));
        if matches!(exponent, Scalar::Int(..0)) && self.dtype().is_int() {
            let reason = "integers to a negative power are no integers: take floats";
            return Some(Err(ArrayError::Invalid(reason.to_string())));
        }
        if !(self.dtype().is_float() || whole && self.dtype().is_int()) {
            return None;
        }
        match exponent.as_f64() {
            1.0 if whole => Some(Ok(self.clone())),
            2.0 => Some(self.square()),
            0.5 => Some(self.sqrt()),
            -1.0 => Some(self.reciprocal()),
            _ => None,
        }
    }

    /// `a` where this is true, and `b` elsewhere.
    ///
    /// # Errors
    /// As [`Array::binary`].
    pub fn select(&self, a: &Array, b: &Array) -> Result<Array> {
        let (left, right) = (a.dtype(), b.dtype());
        let both =
            promote(left, right).ok_or(ArrayError::Promotion { op: "where", left, right })?;
        let shape = broadcast_of("where", &[self, a, b])?;
        let condition = self.cast(DType::Bool)?;
        if both.is_complex() {
            let (a, b) = (a.cast(both)?, b.cast(both)?);
            let re = condition.select(&a.real()?, &b.real()?)?;
            return Array::complex(&re, &condition.select(&a.imag()?, &b.imag()?)?);
        }
        Op::new("Where").on(&condition).on(&a.cast(both)?).on(&b.cast(both)?).typed(both, shape)
    }

    /// Not below `low` and not above `high`, where they are given.
    ///
    /// # Errors
    /// As [`Array::binary`].
    pub fn clip(&self, low: Option<&Array>, high: Option<&Array>) -> Result<Array> {
        let mut x = self.clone();
        if let Some(low) = low {
            x = x.maximum(low)?;
        }
        if let Some(high) = high {
            x = x.minimum(high)?;
        }
        Ok(x)
    }

    /// A function of complex numbers, which is another operator than that of real ones.
    fn complex_unary(&self, function: Unary) -> Result<Array> {
        let (op, rule) = function.row();
        match function {
            Unary::Square => return self.multiply(self),
            Unary::IsNan => return self.real()?.isnan()?.logical_or(&self.imag()?.isnan()?),
            Unary::IsInf => return self.real()?.isinf()?.logical_or(&self.imag()?.isinf()?),
            Unary::IsFinite => {
                return self.real()?.isfinite()?.logical_and(&self.imag()?.isfinite()?);
            }
            Unary::LogicalNot => return self.cast(DType::Bool)?.logical_not(),
            _ => {}
        }
        let own = complex_op(function.name(), op, self.dtype())?;
        let real = matches!(function, Unary::Abs | Unary::Real | Unary::Imag);
        let dtype = if real { part_of(self.dtype()) } else { self.dtype() };
        let wrong = rule == Rule::Compare || matches!(function, Unary::Erf | Unary::Sigmoid);
        match wrong {
            true => Err(ArrayError::dtype(function.name(), "real numbers", self.dtype())),
            false => Op::new(own).on(self).typed(dtype, self.shape().into()),
        }
    }

    /// Complex numbers of these real and imaginary parts.
    ///
    /// # Errors
    /// When the parts are not of one shape, of `f32` or `f64`.
    pub fn complex(re: &Array, im: &Array) -> Result<Array> {
        Op::new("hetra.Complex").on(re).on(im).one()
    }

    /// The device that it is on, for arrays beside it.
    pub fn device_handle(&self) -> super::Device {
        super::Device::of(self.place().clone())
    }
}

/// The answer of a comparison with a number that no element can be.
fn beyond(function: Binary, scalar: Scalar, dtype: DType, reversed: bool) -> Option<bool> {
    let (Scalar::Int(value), Some((low, high))) = (scalar, dtype.int_range()) else { return None };
    if (low..=high).contains(&value) {
        return None;
    }
    // Whether every element is on the left of the number.
    let below = (value > high) != reversed;
    match function {
        Binary::Equal => Some(false),
        Binary::NotEqual => Some(true),
        Binary::Less | Binary::LessEqual => Some(below),
        Binary::Greater | Binary::GreaterEqual => Some(!below),
        _ => None,
    }
}

/// The operator on complex numbers beside one on real ones: of the same name after `Complex`.
fn complex_op(name: &'static str, op: &'static str, dtype: DType) -> Result<&'static str> {
    let plain = op.strip_prefix("hetra.").unwrap_or(op);
    let found = hetra_ops::find(&format!("hetra.Complex{plain}"));
    found.map(|def| def.name).ok_or_else(|| ArrayError::dtype(name, "real numbers", dtype))
}

fn complex_binary(
    function: Binary,
    a: &Array,
    b: &Array,
    shape: hetra_tensor::Shape,
) -> Result<Array> {
    let (op, _) = function.row();
    let own = complex_op(function.name(), op, a.dtype())?;
    let pair = Op::new(own).on(a).on(b);
    match function {
        Binary::Equal => pair.typed(DType::Bool, shape),
        Binary::NotEqual => pair.typed(DType::Bool, shape)?.logical_not(),
        _ => pair.typed(a.dtype(), shape),
    }
}

/// Shifts of any integers. Those of signed ones keep the sign; whole widths and more empty them.
fn shift(function: Binary, a: &Array, b: &Array) -> Result<Array> {
    let dtype = a.dtype();
    if dtype == DType::Bool {
        return Err(ArrayError::dtype(function.name(), "integers", dtype));
    }
    let shape = broadcast_of(function.name(), &[a, b])?;
    if !dtype.is_signed_int() {
        let direction = if function == Binary::ShiftLeft { "LEFT" } else { "RIGHT" };
        return Op::new("BitShift").attr("direction", direction).on(a).on(b).typed(dtype, shape);
    }
    // 2 to the power of the places: multiplied it wraps as bits do; divided, rounded down, it
    // keeps the sign.
    let width = i64::from(dtype.bits() as u32 - 1);
    let most = Array::scalar(Scalar::from(width), dtype, a.place())?;
    let one = Array::scalar(Scalar::from(1i64), dtype, a.place())?;
    let two = Array::scalar(Scalar::from(2i64), dtype, a.place())?;
    let places = b.minimum(&most)?;
    if function == Binary::ShiftLeft {
        let moved = a.multiply(&two.pow(&places)?)?;
        let all = b.greater(&most)?;
        return all.select(&a.full_like(0i64)?, &moved);
    }
    // The highest power is negative: the last place is a step of its own.
    let zero = Array::scalar(Scalar::from(0i64), dtype, a.place())?;
    let most_but_one = places.subtract(&one)?.maximum(&zero)?;
    let moved = a.floor_divide(&two.pow(&most_but_one)?)?;
    places.equal(&zero)?.select(a, &moved.floor_divide(&two)?)
}
