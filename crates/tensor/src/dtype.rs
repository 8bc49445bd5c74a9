//! Element types: one table row each, everything else is read from the row.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

/// The type of a tensor's elements.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each name is its own description")]
pub enum DType {
    F32,
    F64,
    F16,
    BF16,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
    String,
    C64,
    C128,
    F8E4M3FN,
    F8E4M3FNUZ,
    F8E5M2,
    F8E5M2FNUZ,
    F8E8M0,
    F4E2M1,
    I4,
    U4,
    I2,
    U2,
}

/// What kind of number a dtype holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Float,
    Signed,
    Unsigned,
    Bool,
    String,
    Complex,
}

struct Row {
    dtype: DType,
    name: &'static str,
    bits: usize,
    onnx: i32,
    class: Class,
}

const fn row(dtype: DType, name: &'static str, bits: usize, onnx: i32, class: Class) -> Row {
    Row { dtype, name, bits, onnx, class }
}

/// In the order of the enum; `onnx` is the number of `TensorProto.DataType`.
static ROWS: &[Row] = &[
    row(DType::F32, "f32", 32, 1, Class::Float),
    row(DType::F64, "f64", 64, 11, Class::Float),
    row(DType::F16, "f16", 16, 10, Class::Float),
    row(DType::BF16, "bf16", 16, 16, Class::Float),
    row(DType::I8, "i8", 8, 3, Class::Signed),
    row(DType::I16, "i16", 16, 5, Class::Signed),
    row(DType::I32, "i32", 32, 6, Class::Signed),
    row(DType::I64, "i64", 64, 7, Class::Signed),
    row(DType::U8, "u8", 8, 2, Class::Unsigned),
    row(DType::U16, "u16", 16, 4, Class::Unsigned),
    row(DType::U32, "u32", 32, 12, Class::Unsigned),
    row(DType::U64, "u64", 64, 13, Class::Unsigned),
    row(DType::Bool, "bool", 8, 9, Class::Bool),
    row(DType::String, "string", 0, 8, Class::String),
    row(DType::C64, "c64", 64, 14, Class::Complex),
    row(DType::C128, "c128", 128, 15, Class::Complex),
    row(DType::F8E4M3FN, "f8e4m3fn", 8, 17, Class::Float),
    row(DType::F8E4M3FNUZ, "f8e4m3fnuz", 8, 18, Class::Float),
    row(DType::F8E5M2, "f8e5m2", 8, 19, Class::Float),
    row(DType::F8E5M2FNUZ, "f8e5m2fnuz", 8, 20, Class::Float),
    row(DType::F8E8M0, "f8e8m0", 8, 24, Class::Float),
    row(DType::F4E2M1, "f4e2m1", 4, 23, Class::Float),
    row(DType::I4, "i4", 4, 22, Class::Signed),
    row(DType::U4, "u4", 4, 21, Class::Unsigned),
    row(DType::I2, "i2", 2, 26, Class::Signed),
    row(DType::U2, "u2", 2, 25, Class::Unsigned),
];

impl DType {
    /// All dtypes.
    pub fn all() -> impl Iterator<Item = DType> {
        ROWS.iter().map(|row| row.dtype)
    }

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// The short name used in text forms, such as `f32`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Bits that one element takes; 0 for strings.
    pub fn bits(self) -> usize {
        self.row().bits
    }

    /// The number of this type in ONNX's `TensorProto.DataType`.
    pub fn onnx(self) -> i32 {
        self.row().onnx
    }

    /// The dtype with this number in ONNX's `TensorProto.DataType`.
    pub fn from_onnx(code: i32) -> Option<DType> {
        ROWS.iter().find(|row| row.onnx == code).map(|row| row.dtype)
    }

    /// Bytes that `count` elements take (types below 8 bits are packed); `None` on overflow.
    pub fn bytes(self, count: usize) -> Option<usize> {
        count.checked_mul(self.bits()).map(|bits| bits.div_ceil(8))
    }

    /// A real floating-point type of any width.
    pub fn is_float(self) -> bool {
        self.row().class == Class::Float
    }

    /// A signed or unsigned integer of any width.
    pub fn is_int(self) -> bool {
        matches!(self.row().class, Class::Signed | Class::Unsigned)
    }

    /// A signed integer of any width.
    pub fn is_signed_int(self) -> bool {
        self.row().class == Class::Signed
    }

    /// A complex type.
    pub fn is_complex(self) -> bool {
        self.row().class == Class::Complex
    }

    /// Elements are narrower than a byte and packed, low bits first.
    pub fn is_packed(self) -> bool {
        self.bits() < 8 && self != DType::String
    }

    /// Smallest and largest value of an integer type, as `i128`.
    pub fn int_range(self) -> Option<(i128, i128)> {
        let bits = self.bits();
        match self.row().class {
            Class::Signed => Some((-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)),
            Class::Unsigned => Some((0, (1i128 << bits) - 1)),
            _ => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(text: &str) -> Result<DType, String> {
        ROWS.iter()
            .find(|row| row.name == text)
            .map(|row| row.dtype)
            .ok_or_else(|| format!("`{text}` is not a dtype"))
    }
}

/// A Rust type that stores one element of a [`DType`] of 8 bits or more.
///
/// Booleans are stored as `u8` (0 or 1) under [`DType::Bool`]; see `Tensor::as_bools`.
pub trait Element: bytemuck::Pod + PartialEq + PartialOrd + Send + Sync + 'static {
    /// The dtype whose storage this is.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),*) => {
        $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })*
    };
}

elements!(f32 => F32, f64 => F64, f16 => F16, bf16 => BF16, i8 => I8, i16 => I16, i32 => I32,
    i64 => I64, u8 => U8, u16 => U16, u32 => U32, u64 => U64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_enum_and_names_are_unique() {
        for (index, row) in ROWS.iter().enumerate() {
            assert_eq!(row.dtype as usize, index);
            assert_eq!(row.name.parse::<DType>(), Ok(row.dtype));
            assert_eq!(DType::from_onnx(row.onnx), Some(row.dtype));
        }
    }

    #[test]
    fn packed_types_round_bytes_up() {
        assert_eq!(DType::I4.bytes(3), Some(2));
        assert_eq!(DType::F32.bytes(usize::MAX), None);
        assert_eq!(DType::I4.int_range(), Some((-8, 7)));
    }
}
