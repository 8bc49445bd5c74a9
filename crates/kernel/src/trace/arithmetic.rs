//! What is computed.

use super::{Compared, E, Trace};
use crate::function::{
    Binary, Cast, Compare, Float, Function, Integer, Number, Signed, Turned, Unary,
};
use crate::ir::Op;
use crate::types::{Element, Lanes, Word};

macro_rules! binaries {
    ($($name:ident $op:ident $bound:ident;)*) => {
        /// Arithmetic, lane by lane.
        #[allow(clippy::should_implement_trait, reason = "these write down, they do not compute")]
        impl Trace {$(
            #[doc = concat!("`", stringify!($op), "` of two values.")]
            pub fn $name<T: Element>(&self, a: E<T>, b: E<T>) -> E<T>
            where
                T::Lane: $bound,
            {
                self.typed(Op::Binary(Binary::$op, a.0, b.0))
            }
        )*}
    };
}

binaries! {
    add Add Number;
    sub Sub Number;
    mul Mul Number;
    div Div Number;
    rem Rem Number;
    min Min Number;
    max Max Number;
    bitand BitAnd Integer;
    bitor BitOr Integer;
    bitxor BitXor Integer;
    shl Shl Integer;
    shr Shr Integer;
}

macro_rules! unaries {
    ($($name:ident $op:ident $bound:ident;)*) => {
        #[allow(clippy::should_implement_trait, reason = "these write down, they do not compute")]
        impl Trace {$(
            #[doc = concat!("`", stringify!($op), "` of a value.")]
            pub fn $name<T: Element>(&self, a: E<T>) -> E<T>
            where
                T::Lane: $bound,
            {
                self.typed(Op::Unary(Unary::$op, a.0))
            }
        )*}
    };
}

unaries! {
    neg Neg Signed;
    abs Abs Signed;
    not Not Turned;
    count_ones CountOnes Integer;
    leading_zeros LeadingZeros Integer;
}

macro_rules! comparisons {
    ($($name:ident $op:ident;)*) => {
        /// Comparisons.
        impl Trace {$(
            #[doc = concat!("`", stringify!($op), "` of two numbers.")]
            pub fn $name<T: Compared>(&self, a: E<T>, b: E<T>) -> E<bool> {
                self.typed(Op::Compare(Compare::$op, a.0, b.0))
            }
        )*}
    };
}

comparisons! {
    eq Eq;
    ne Ne;
    lt Lt;
    le Le;
    gt Gt;
    ge Ge;
}

macro_rules! functions {
    ($($variant:ident $name:ident ($($arg:ident)*) $wgsl:literal $opencl:literal $cuda:literal
        $value:expr;)*) => {
        /// Mathematical functions, lane by lane.
        impl Trace {$(
            #[doc = concat!("`", stringify!($name), "` of floating-point numbers.")]
            pub fn $name<T: Element>(&self, $($arg: E<T>),*) -> E<T>
            where
                T::Lane: Float,
            {
                self.typed(Op::Call(Function::$variant, vec![$($arg.0),*]))
            }
        )*}
    };
}

crate::function::with_functions!(functions);

/// Logic, kinds and lanes.
impl Trace {
    /// Both; the second is not evaluated where the first is false.
    pub fn and(&self, a: E<bool>, b: impl FnOnce() -> E<bool>) -> E<bool> {
        self.lazily(a, b, true)
    }

    /// Either; the second is not evaluated where the first is true.
    pub fn or(&self, a: E<bool>, b: impl FnOnce() -> E<bool>) -> E<bool> {
        self.lazily(a, b, false)
    }

    /// `a && b` or `a || b`. Where `b` takes statements they stand in a branch.
    fn lazily(&self, a: E<bool>, b: impl FnOnce() -> E<bool>, and: bool) -> E<bool> {
        let (block, b) = self.block(b);
        if block.is_empty() {
            return self.typed(if and { Op::And(a.0, b.0) } else { Op::Or(a.0, b.0) });
        }
        let var = self.var(a);
        let condition = self.get(var);
        let set = || {
            block.into_iter().for_each(|stmt| self.push(stmt));
            self.set(var, b);
        };
        if and {
            self.if_(condition, set, || {})
        } else {
            self.if_(condition, || {}, set)
        }
        self.get(var)
    }

    /// One of two values; both may be evaluated.
    pub fn select<T: Element>(&self, condition: E<bool>, yes: E<T>, no: E<T>) -> E<T> {
        self.typed(Op::Select(condition.0, yes.0, no.0))
    }

    /// The number in another kind, as Rust's `as`.
    pub fn cast<To: Word, From: Cast<To>>(&self, value: E<From>) -> E<To> {
        self.typed(Op::Cast(value.0))
    }

    /// Each lane in another kind.
    pub fn cast_lanes<To, From, const N: usize>(&self, value: E<Lanes<From, N>>) -> E<Lanes<To, N>>
    where
        To: Word,
        From: Cast<To>,
        Lanes<From, N>: Element,
        Lanes<To, N>: Element,
    {
        self.typed(Op::Cast(value.0))
    }

    /// The bits of a float as a number.
    pub fn to_bits(&self, value: E<f32>) -> E<u32> {
        self.typed(Op::Bits(value.0))
    }

    /// The float of these bits.
    pub fn from_bits(&self, value: E<u32>) -> E<f32> {
        self.typed(Op::Bits(value.0))
    }

    /// A scalar in all lanes.
    pub fn splat<T: Word, const N: usize>(&self, value: E<T>) -> E<Lanes<T, N>>
    where
        Lanes<T, N>: Element,
    {
        self.typed(Op::Splat(value.0))
    }

    /// A vector of scalars.
    pub fn lanes<T: Word, const N: usize>(&self, values: [E<T>; N]) -> E<Lanes<T, N>>
    where
        Lanes<T, N>: Element,
    {
        self.typed(Op::Lanes(values.map(|value| value.0).to_vec()))
    }

    /// One lane, counted from 0.
    pub fn lane<T: Element>(&self, value: E<T>, lane: u8) -> E<T::Lane> {
        self.typed(Op::Lane(value.0, lane))
    }
}
