//! The types of a kernel's values, and the Rust types that stand for them.

use std::fmt;

use half::f16;

/// A number's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scalar {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// Signed, 32 bits, wrapping.
    I32,
    /// Unsigned, 32 bits, wrapping.
    U32,
    /// True or false; in buffers four bytes, 0 or 1.
    Bool,
}

impl Scalar {
    /// Every kind.
    pub const ALL: [Scalar; 5] = [Scalar::F32, Scalar::F16, Scalar::I32, Scalar::U32, Scalar::Bool];

    /// Its name in Rust.
    pub const fn name(self) -> &'static str {
        match self {
            Scalar::F32 => "f32",
            Scalar::F16 => "f16",
            Scalar::I32 => "i32",
            Scalar::U32 => "u32",
            Scalar::Bool => "bool",
        }
    }

    /// Bytes of one in a buffer.
    pub const fn bytes(self) -> usize {
        match self {
            Scalar::F16 => 2,
            _ => 4,
        }
    }

    /// Whether it is `f32` or `f16`.
    pub const fn is_float(self) -> bool {
        matches!(self, Scalar::F32 | Scalar::F16)
    }

    /// Whether it is `i32` or `u32`.
    pub const fn is_integer(self) -> bool {
        matches!(self, Scalar::I32 | Scalar::U32)
    }
}

/// Most lanes of a vector.
pub const LANES_MAX: usize = 16;

/// A scalar, or a vector of 2, 4, 8 or 16 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Type {
    /// Of each lane.
    pub scalar: Scalar,
    /// How many; 1 is a scalar.
    pub lanes: u8,
}

impl Type {
    /// A scalar.
    pub const fn scalar(scalar: Scalar) -> Type {
        Type { scalar, lanes: 1 }
    }

    /// True or false.
    pub const BOOL: Type = Type::scalar(Scalar::Bool);

    /// An index.
    pub const U32: Type = Type::scalar(Scalar::U32);

    /// Bytes of one in a buffer.
    pub const fn bytes(self) -> usize {
        self.scalar.bytes() * self.lanes as usize
    }

    /// The same lanes of another kind.
    pub const fn of(self, scalar: Scalar) -> Type {
        Type { scalar, lanes: self.lanes }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lanes {
            1 => f.write_str(self.scalar.name()),
            lanes => write!(f, "{}x{lanes}", self.scalar.name()),
        }
    }
}

/// A scalar constant: its bits, as `Word` lays them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Literal {
    /// Its kind.
    pub scalar: Scalar,
    /// Its bits.
    pub bits: u32,
}

impl Literal {
    /// The constant of a Rust value.
    pub fn new<T: Word>(value: T) -> Literal {
        Literal { scalar: T::SCALAR, bits: value.to_word() }
    }
}

/// A Rust type that stands for a scalar. All have a form in 32 bits, which is how the interpreter
/// and the atomic cells of buffers hold them.
pub trait Word: Copy + Send + Sync + Default + PartialEq + fmt::Debug + 'static {
    /// Which scalar.
    const SCALAR: Scalar;
    /// Its bits; those above its own are zero.
    fn to_word(self) -> u32;
    /// From those bits.
    fn from_word(bits: u32) -> Self;
}

macro_rules! word {
    ($type:ty, $scalar:ident, $to:expr, $from:expr) => {
        impl Word for $type {
            const SCALAR: Scalar = Scalar::$scalar;
            #[inline(always)]
            fn to_word(self) -> u32 {
                $to(self)
            }
            #[inline(always)]
            fn from_word(bits: u32) -> $type {
                $from(bits)
            }
        }
    };
}

word!(f32, F32, f32::to_bits, f32::from_bits);
word!(f16, F16, |x: f16| u32::from(x.to_bits()), |bits| f16::from_bits(bits as u16));
word!(i32, I32, |x| x as u32, |bits| bits as i32);
word!(u32, U32, |x| x, |bits| bits);
word!(bool, Bool, u32::from, |bits| bits != 0);

/// A Rust type that stands for a scalar or a vector.
pub trait Element: Copy + Send + Sync + PartialEq + fmt::Debug + 'static {
    /// What it is in a kernel.
    const TYPE: Type;
    /// Of each lane.
    type Lane: Word;
    /// One lane of it; the first where there are fewer.
    fn lane(self, index: usize) -> Self::Lane;
    /// Made of its lanes.
    fn from_lanes(lane: impl FnMut(usize) -> Self::Lane) -> Self;
}

impl<T: Word> Element for T {
    const TYPE: Type = Type::scalar(T::SCALAR);
    type Lane = T;
    #[inline(always)]
    fn lane(self, _: usize) -> T {
        self
    }
    #[inline(always)]
    fn from_lanes(mut lane: impl FnMut(usize) -> T) -> T {
        lane(0)
    }
}

/// A vector: arithmetic is lane by lane.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(transparent)]
pub struct Lanes<T, const N: usize>(pub [T; N]);

macro_rules! lanes {
    ($($n:literal)*) => {$(
        impl<T: Word> Element for Lanes<T, $n> {
            const TYPE: Type = Type { scalar: T::SCALAR, lanes: $n };
            type Lane = T;
            #[inline(always)]
            fn lane(self, index: usize) -> T {
                self.0[if index < $n { index } else { 0 }]
            }
            #[inline(always)]
            fn from_lanes(lane: impl FnMut(usize) -> T) -> Self {
                Lanes(std::array::from_fn(lane))
            }
        }
    )*};
}

lanes!(2 4 8 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_every_value() {
        assert_eq!(f32::from_word((-1.5f32).to_word()), -1.5);
        assert_eq!(i32::from_word((-7i32).to_word()), -7);
        assert_eq!(f16::from_word(f16::from_f32(0.1).to_word()), f16::from_f32(0.1));
        assert!(bool::from_word(true.to_word()) && !bool::from_word(false.to_word()));
    }

    #[test]
    fn types_print_as_they_are_named() {
        assert_eq!(<Lanes<f16, 8> as Element>::TYPE.to_string(), "f16x8");
        assert_eq!(<i32 as Element>::TYPE.to_string(), "i32");
        assert_eq!(<Lanes<f16, 8> as Element>::TYPE.bytes(), 16);
    }
}
