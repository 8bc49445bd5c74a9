//! Which dtype two operands have together: the table of the Python array API standard, and
//! NumPy's where that leaves it open.

use hetra_tensor::DType;

/// A number that takes the dtype of the array beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// `True` or `False`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other real number.
    Float(f64),
    /// A complex number.
    Complex(f64, f64),
}

impl Scalar {
    /// The number; of a complex one its real part.
    pub fn as_f64(self) -> f64 {
        match self {
            Scalar::Bool(value) => f64::from(u8::from(value)),
            Scalar::Int(value) => value as f64,
            Scalar::Float(value) | Scalar::Complex(value, _) => value,
        }
    }

    /// The dtype of an array of this number alone.
    pub fn dtype(self) -> DType {
        match self {
            Scalar::Bool(_) => DType::Bool,
            Scalar::Int(_) => DType::I64,
            Scalar::Float(_) => DType::F64,
            Scalar::Complex(..) => DType::C128,
        }
    }

    /// The dtype beside an array of `dtype`.
    pub fn beside(self, dtype: DType) -> DType {
        match self {
            Scalar::Bool(_) => dtype,
            Scalar::Int(_) if dtype == DType::Bool => DType::I64,
            Scalar::Int(_) => dtype,
            Scalar::Float(_) if dtype.is_float() || dtype.is_complex() => dtype,
            Scalar::Float(_) => DType::F64,
            Scalar::Complex(..) if dtype.is_complex() => dtype,
            Scalar::Complex(..) if dtype.is_float() => complex_of(dtype),
            Scalar::Complex(..) => DType::C128,
        }
    }
}

macro_rules! scalars {
    ($($type:ty => $kind:ident as $wide:ty),*) => {
        $(impl From<$type> for Scalar {
            fn from(value: $type) -> Scalar { Scalar::$kind(<$wide>::from(value)) }
        })*
    };
}

scalars!(bool => Bool as bool, i32 => Int as i128, i64 => Int as i128, u8 => Int as i128,
    u32 => Int as i128, u64 => Int as i128, f32 => Float as f64, f64 => Float as f64);

/// The dtypes that arrays have.
pub const DTYPES: &[DType] = &[
    DType::Bool,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::U8,
    DType::U16,
    DType::U32,
    DType::U64,
    DType::F16,
    DType::BF16,
    DType::F32,
    DType::F64,
    DType::C64,
    DType::C128,
];

/// The dtype that holds what both hold; `None` where there is none.
pub fn promote(a: DType, b: DType) -> Option<DType> {
    if a == b {
        return Some(a);
    }
    match (a, b) {
        (DType::Bool, other) | (other, DType::Bool) => Some(other),
        _ if !DTYPES.contains(&a) || !DTYPES.contains(&b) => None,
        _ if a.is_complex() || b.is_complex() => {
            let (complex, other) = if a.is_complex() { (a, b) } else { (b, a) };
            let narrow = complex == DType::C64 && complex_of(other) == DType::C64;
            Some(if narrow { DType::C64 } else { DType::C128 })
        }
        _ if a.is_int() && b.is_int() => Some(ints(a, b)),
        _ if a.is_float() && b.is_float() => Some(match (a.bits(), b.bits()) {
            // f16 and bf16.
            (16, 16) => DType::F32,
            (left, right) if left > right => a,
            _ => b,
        }),
        _ => {
            let (int, float) = if a.is_int() { (a, b) } else { (b, a) };
            Some(match (int.bits(), float.bits()) {
                (8, 16) => float,
                (8 | 16, 16 | 32) => DType::F32,
                _ => DType::F64,
            })
        }
    }
}

/// The complex dtype that holds the numbers of a dtype.
pub(super) fn complex_of(dtype: DType) -> DType {
    let narrow = match dtype.bits() {
        8 | 16 => true,
        32 => dtype.is_float(),
        _ => dtype == DType::C64,
    };
    if narrow { DType::C64 } else { DType::C128 }
}

/// The dtype of the parts of a complex one.
pub(super) fn part_of(dtype: DType) -> DType {
    match dtype {
        DType::C64 => DType::F32,
        DType::C128 => DType::F64,
        other => other,
    }
}

fn ints(a: DType, b: DType) -> DType {
    let wider = if a.bits() >= b.bits() { a } else { b };
    if a.is_signed_int() == b.is_signed_int() {
        return wider;
    }
    let (signed, unsigned) = if a.is_signed_int() { (a, b) } else { (b, a) };
    match unsigned.bits() {
        bits if bits < signed.bits() => signed,
        8 => DType::I16,
        16 => DType::I32,
        32 => DType::I64,
        _ => DType::F64,
    }
}

/// The float dtype that functions of real numbers compute in: ints and booleans become f64.
pub(super) fn float_of(dtype: DType) -> DType {
    if dtype.is_float() || dtype.is_complex() { dtype } else { DType::F64 }
}

/// The dtype in which integers are summed: 64 bits of their own signedness.
pub(super) fn sum_of(dtype: DType) -> DType {
    match dtype {
        DType::Bool => DType::I64,
        _ if dtype.is_signed_int() => DType::I64,
        _ if dtype.is_int() => DType::U64,
        _ => dtype,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_standard() {
        let rows = "i8 i16 i16; i8 u8 i16; i16 u8 i16; i16 u16 i32; i32 u32 i64; i64 u32 i64;
            u8 u16 u16; u32 u64 u64; f32 f64 f64; bool f32 f32; i64 u64 f64; i16 f32 f32;
            i32 f32 f64; c64 f32 c64; c64 f64 c128; c64 i16 c64; c64 i32 c128; i8 f16 f16; i16 f16 f32; f16 bf16 f32; f16 f32 f32";
        for row in rows.split(';') {
            let row: Vec<DType> =
                row.split_whitespace().map(|name| name.parse().unwrap()).collect();
            assert_eq!(promote(row[0], row[1]), Some(row[2]), "{row:?}");
            assert_eq!(promote(row[1], row[0]), Some(row[2]), "{row:?}");
        }
        assert_eq!(promote(DType::String, DType::F32), None);
    }

    #[test]
    fn promotion_is_symmetric_and_holds_both() {
        for &a in DTYPES {
            for &b in DTYPES {
                let both = promote(a, b).unwrap();
                assert_eq!(promote(b, a), Some(both));
                assert_eq!(promote(both, a), Some(both), "{a} {b} {both}");
            }
        }
    }
}
