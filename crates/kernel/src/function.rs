//! Every operation on numbers: what it computes, and what each target calls it.
//!
//! What is said here of a scalar holds for each lane of a vector. `f16` is computed in `f32` and
//! rounded once, which for `+ - * /` and square roots is the exactly rounded result. Integers
//! wrap; division by zero gives the dividend and a remainder of zero, as WGSL has it; shifts take
//! the amount modulo 32. What a target does with NaN in `min` and `max` is its own.

use half::f16;

use crate::types::Word;

/// Operations with one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// The number below zero that is as far from it.
    Neg,
    /// Not true; of integers, all bits turned.
    Not,
    /// Without its sign.
    Abs,
    /// Bits that are set.
    CountOnes,
    /// Zeros above the highest bit that is set.
    LeadingZeros,
}

/// Operations with two operands of one type, which is the result's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "as Rust's")]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Min,
    Max,
    BitAnd,
    BitOr,
    BitXor,
    Shl,
    Shr,
}

/// Comparisons of two scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "as Rust's")]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Compare {
    /// As every target writes it.
    pub(crate) const fn sign(self) -> &'static str {
        match self {
            Compare::Eq => "==",
            Compare::Ne => "!=",
            Compare::Lt => "<",
            Compare::Le => "<=",
            Compare::Gt => ">",
            Compare::Ge => ">=",
        }
    }
}

/// What the items of a subgroup make of their values together; each gets the result. Where a
/// target has no subgroups, each item is one by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Group {
    Add,
    Min,
    Max,
}

/// Numbers that can be computed with.
pub trait Number: Word + PartialOrd {
    /// The sum.
    fn add(self, other: Self) -> Self;
    /// The difference.
    fn sub(self, other: Self) -> Self;
    /// The product.
    fn mul(self, other: Self) -> Self;
    /// The quotient, of integers towards zero.
    fn div(self, other: Self) -> Self;
    /// What division leaves, with the dividend's sign.
    fn rem(self, other: Self) -> Self;

    /// The lesser one.
    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        if other < self { other } else { self }
    }

    /// The greater one.
    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        if other > self { other } else { self }
    }
}

/// Numbers with a sign.
pub trait Signed: Number {
    /// The number below zero that is as far from it.
    fn neg(self) -> Self;
    /// Without its sign.
    fn abs(self) -> Self;
}

/// Whole numbers.
pub trait Integer: Number + Eq {
    /// Bits set in both.
    #[inline(always)]
    fn and(self, other: Self) -> Self {
        Self::from_word(self.to_word() & other.to_word())
    }
    /// Bits set in either.
    #[inline(always)]
    fn or(self, other: Self) -> Self {
        Self::from_word(self.to_word() | other.to_word())
    }
    /// Bits set in one.
    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        Self::from_word(self.to_word() ^ other.to_word())
    }
    /// Bits moved up.
    #[inline(always)]
    fn shl(self, other: Self) -> Self {
        Self::from_word(self.to_word().wrapping_shl(other.to_word()))
    }
    /// Bits moved down, of signed ones with the sign.
    fn shr(self, other: Self) -> Self;
    /// Bits that are set.
    #[inline(always)]
    fn count_ones(self) -> Self {
        Self::from_word(self.to_word().count_ones())
    }
    /// Zeros above the highest bit that is set.
    #[inline(always)]
    fn leading_zeros(self) -> Self {
        Self::from_word(self.to_word().leading_zeros())
    }
}

/// What `!` turns.
pub trait Turned: Word {
    /// Not true; all bits turned.
    fn not(self) -> Self;
}

/// Floating-point numbers.
pub trait Float: Signed {
    /// As `f32`, exactly.
    fn widen(self) -> f32;
    /// The nearest of this type.
    fn narrow(wide: f32) -> Self;
}

impl Float for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(wide: f32) -> f32 {
        wide
    }
}

impl Float for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn narrow(wide: f32) -> f16 {
        f16::from_f32(wide)
    }
}

macro_rules! float {
    ($type:ty) => {
        impl Number for $type {
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                Self::narrow(self.widen() + other.widen())
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                Self::narrow(self.widen() - other.widen())
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                Self::narrow(self.widen() * other.widen())
            }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                Self::narrow(self.widen() / other.widen())
            }
            #[inline(always)]
            fn rem(self, other: Self) -> Self {
                Self::narrow(self.widen() % other.widen())
            }
        }
        impl Signed for $type {
            #[inline(always)]
            fn neg(self) -> Self {
                Self::narrow(-self.widen())
            }
            #[inline(always)]
            fn abs(self) -> Self {
                Self::narrow(self.widen().abs())
            }
        }
    };
}

float!(f32);
float!(f16);

macro_rules! integer {
    ($type:ty) => {
        impl Number for $type {
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                if other == 0 { self } else { self.wrapping_div(other) }
            }
            #[inline(always)]
            fn rem(self, other: Self) -> Self {
                if other == 0 { 0 } else { self.wrapping_rem(other) }
            }
        }
        impl Integer for $type {
            #[inline(always)]
            fn shr(self, other: Self) -> Self {
                self.wrapping_shr(other as u32)
            }
        }
        impl Turned for $type {
            #[inline(always)]
            fn not(self) -> Self {
                !self
            }
        }
    };
}

integer!(i32);
integer!(u32);

impl Signed for i32 {
    #[inline(always)]
    fn neg(self) -> i32 {
        self.wrapping_neg()
    }
    #[inline(always)]
    fn abs(self) -> i32 {
        self.wrapping_abs()
    }
}

impl Turned for bool {
    #[inline(always)]
    fn not(self) -> bool {
        !self
    }
}

/// Rust's `as` from one number to another.
pub trait Cast<To>: Word {
    /// The number in the other kind.
    fn cast(self) -> To;
}

macro_rules! casts {
    ($($from:ty => $($to:ty)*;)*) => {$($(
        impl Cast<$to> for $from {
            #[inline(always)]
            fn cast(self) -> $to {
                self as $to
            }
        }
    )*)*};
}

casts! {
    f32 => f32 i32 u32;
    i32 => f32 i32 u32;
    u32 => f32 i32 u32;
    bool => i32 u32;
}

macro_rules! casts_of_halves {
    ($($type:ty)*) => {$(
        impl Cast<f16> for $type {
            #[inline(always)]
            fn cast(self) -> f16 {
                f16::from_f32(self as f32)
            }
        }
        impl Cast<$type> for f16 {
            #[inline(always)]
            fn cast(self) -> $type {
                self.to_f32() as $type
            }
        }
    )*};
}

casts_of_halves!(f32 i32 u32);

impl Cast<f16> for f16 {
    #[inline(always)]
    fn cast(self) -> f16 {
        self
    }
}

/// Calls a macro with the table of mathematical functions. A row: variant, name in Rust, operands,
/// name in WGSL, OpenCL C and CUDA C, and what it computes in `f32`.
macro_rules! with_functions {
    ($then:ident) => {
        $then! {
            Exp exp (x) "exp" "exp" "expf" f32::exp(x);
            Exp2 exp2 (x) "exp2" "exp2" "exp2f" f32::exp2(x);
            Ln ln (x) "log" "log" "logf" f32::ln(x);
            Log2 log2 (x) "log2" "log2" "log2f" f32::log2(x);
            Sqrt sqrt (x) "sqrt" "sqrt" "sqrtf" f32::sqrt(x);
            Rsqrt rsqrt (x) "inverseSqrt" "rsqrt" "rsqrtf" 1.0 / f32::sqrt(x);
            Sin sin (x) "sin" "sin" "sinf" f32::sin(x);
            Cos cos (x) "cos" "cos" "cosf" f32::cos(x);
            Tan tan (x) "tan" "tan" "tanf" f32::tan(x);
            Asin asin (x) "asin" "asin" "asinf" f32::asin(x);
            Acos acos (x) "acos" "acos" "acosf" f32::acos(x);
            Atan atan (x) "atan" "atan" "atanf" f32::atan(x);
            Sinh sinh (x) "sinh" "sinh" "sinhf" f32::sinh(x);
            Cosh cosh (x) "cosh" "cosh" "coshf" f32::cosh(x);
            Tanh tanh (x) "tanh" "tanh" "tanhf" f32::tanh(x);
            Floor floor (x) "floor" "floor" "floorf" f32::floor(x);
            Ceil ceil (x) "ceil" "ceil" "ceilf" f32::ceil(x);
            Trunc trunc (x) "trunc" "trunc" "truncf" f32::trunc(x);
            Round round_ties_even (x) "round" "rint" "rintf" f32::round_ties_even(x);
            Atan2 atan2 (x y) "atan2" "atan2" "atan2f" f32::atan2(x, y);
            Powf powf (x y) "pow" "pow" "powf" f32::powf(x, y);
            MulAdd mul_add (x y z) "fma" "fma" "fmaf" f32::mul_add(x, y, z);
        }
    };
}
pub(crate) use with_functions;

macro_rules! define {
    ($($variant:ident $name:ident ($($arg:ident)*) $wgsl:literal $opencl:literal $cuda:literal
        $value:expr;)*) => {
        /// Mathematical functions of floating-point numbers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the names are those of f32's methods")]
        pub enum Function { $($variant,)* }

        impl Function {
            /// Every function.
            pub const ALL: &[Function] = &[$(Function::$variant,)*];

            /// Its name in Rust.
            pub const fn name(self) -> &'static str {
                match self { $(Function::$variant => stringify!($name),)* }
            }

            /// Its names in WGSL, OpenCL C and CUDA C.
            pub(crate) const fn names(self) -> [&'static str; 3] {
                match self { $(Function::$variant => [$wgsl, $opencl, $cuda],)* }
            }

            /// How many operands it has.
            pub const fn operands(self) -> usize {
                match self { $(Function::$variant => [$(stringify!($arg)),*].len(),)* }
            }

            /// Its value; the operands that it has are the first ones.
            pub fn value(self, operands: [f32; 3]) -> f32 {
                match self { $(Function::$variant => {
                    let [$($arg,)* ..] = operands;
                    $value
                })* }
            }
        }
    };
}

with_functions!(define);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_wrap_and_divide_by_anything() {
        assert_eq!(Number::add(i32::MAX, 1), i32::MIN);
        assert_eq!((Number::div(7u32, 0), Number::rem(7u32, 0)), (7, 0));
        assert_eq!((Number::div(i32::MIN, -1), Number::rem(i32::MIN, -1)), (i32::MIN, 0));
        assert_eq!((Integer::shl(1u32, 33), Integer::shr(-8i32, 1)), (2, -4));
    }

    #[test]
    fn casts_saturate_towards_zero() {
        let to: [i32; 4] = [3.9f32, -3.9, 1e20, f32::NAN].map(Cast::cast);
        assert_eq!(to, [3, -3, i32::MAX, 0]);
        let to: u32 = (-1.0f32).cast();
        assert_eq!(to, 0);
    }

    #[test]
    fn functions_have_as_many_operands_as_they_read() {
        assert_eq!(Function::MulAdd.operands(), 3);
        assert_eq!(Function::MulAdd.value([2.0, 3.0, 4.0]), 10.0);
        assert_eq!(Function::Powf.value([2.0, 3.0, 0.0]), 8.0);
        assert_eq!(Function::Exp.name(), "exp");
    }
}
