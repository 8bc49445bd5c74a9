//! What is computed, as plain functions.

use crate::function::{Cast, Float, Integer, Number, Signed, Turned};
use crate::trace::Compared;
use crate::types::{Element, Lanes, Word};

macro_rules! binaries {
    ($($name:ident $method:ident $bound:ident;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`, lane by lane.")]
        #[inline(always)]
        pub fn $name<T: Element>(a: T, b: T) -> T
        where
            T::Lane: $bound,
        {
            T::from_lanes(|i| $bound::$method(a.lane(i), b.lane(i)))
        }
    )*};
}

binaries! {
    add add Number;
    sub sub Number;
    mul mul Number;
    div div Number;
    rem rem Number;
    min lesser Number;
    max greater Number;
    bitand and Integer;
    bitor or Integer;
    bitxor xor Integer;
    shl shl Integer;
    shr shr Integer;
}

macro_rules! unaries {
    ($($name:ident $bound:ident;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`, lane by lane.")]
        #[inline(always)]
        pub fn $name<T: Element>(a: T) -> T
        where
            T::Lane: $bound,
        {
            T::from_lanes(|i| $bound::$name(a.lane(i)))
        }
    )*};
}

unaries! {
    neg Signed;
    abs Signed;
    not Turned;
    count_ones Integer;
    leading_zeros Integer;
}

macro_rules! comparisons {
    ($($name:ident $sign:tt;)*) => {$(
        #[doc = concat!("`", stringify!($sign), "`.")]
        #[inline(always)]
        pub fn $name<T: Compared + PartialOrd>(a: T, b: T) -> bool {
            a $sign b
        }
    )*};
}

comparisons! {
    eq ==;
    ne !=;
    lt <;
    le <=;
    gt >;
    ge >=;
}

macro_rules! functions {
    ($($variant:ident $name:ident ($($arg:ident)*) $wgsl:literal $opencl:literal $cuda:literal
        $value:expr;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`, lane by lane.")]
        #[inline(always)]
        pub fn $name<T: Element>($($arg: T),*) -> T
        where
            T::Lane: Float,
        {
            T::from_lanes(|i| {
                $(let $arg = $arg.lane(i).widen();)*
                T::Lane::narrow($value)
            })
        }
    )*};
}

crate::function::with_functions!(functions);

/// The numbers of a `for`: a step below one is one.
#[inline(always)]
pub fn steps<T: Integer>(from: T, to: T, step: T) -> Steps<T> {
    Steps { at: from, to, step: Number::greater(step, T::from_word(1)), over: false }
}

/// See [`steps`].
pub struct Steps<T> {
    at: T,
    to: T,
    step: T,
    over: bool,
}

impl<T: Integer> Iterator for Steps<T> {
    type Item = T;
    #[inline(always)]
    fn next(&mut self) -> Option<T> {
        let now = self.at;
        if self.over || now >= self.to {
            return None;
        }
        self.at = now.add(self.step);
        // Beyond the greatest number there is no next one.
        self.over = self.at < now;
        Some(now)
    }
}

/// One of two values.
#[inline(always)]
pub fn select<T: Element>(condition: bool, yes: T, no: T) -> T {
    if condition { yes } else { no }
}

/// The number in another kind.
#[inline(always)]
pub fn cast<To: Word, From: Cast<To>>(value: From) -> To {
    value.cast()
}

/// Each lane in another kind.
#[inline(always)]
pub fn cast_lanes<To: Word, From: Cast<To>, const N: usize>(value: Lanes<From, N>) -> Lanes<To, N> {
    Lanes(value.0.map(Cast::cast))
}

/// The bits of a float.
#[inline(always)]
pub fn to_bits(value: f32) -> u32 {
    value.to_bits()
}

/// The float of these bits.
#[inline(always)]
pub fn from_bits(value: u32) -> f32 {
    f32::from_bits(value)
}

/// A scalar in all lanes.
#[inline(always)]
pub fn splat<T: Word, const N: usize>(value: T) -> Lanes<T, N> {
    Lanes([value; N])
}

/// A vector of scalars.
#[inline(always)]
pub fn lanes<T: Word, const N: usize>(values: [T; N]) -> Lanes<T, N> {
    Lanes(values)
}

/// One lane.
#[inline(always)]
pub fn lane<T: Element>(value: T, lane: usize) -> T::Lane {
    value.lane(lane)
}
