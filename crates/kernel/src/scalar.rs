//! The operations on scalars as bits: what the interpreter computes, and what is computed of
//! constants while a kernel is written down.

use half::f16;

use crate::function::{
    Binary, Cast, Compare, Float, Function, Integer, Number, Signed, Turned, Unary,
};
use crate::ir::{Expr, ExprId, Op};
use crate::types::{Literal, Scalar, Type, Word};

/// The value of an expression of constants; `None` where it is not one of scalars alone.
pub(crate) fn fold(exprs: &[Expr], ty: Type, op: &Op) -> Option<Literal> {
    let literal = |id: &ExprId| match exprs.get(id.0 as usize)?.op {
        Op::Literal(literal) => Some(literal),
        _ => None,
    };
    let scalar = ty.scalar;
    let bits = match op {
        _ if ty.lanes != 1 => return None,
        Op::Unary(op, a) => unary(*op, scalar, literal(a)?.bits),
        Op::Binary(op, a, b) => binary(*op, scalar, literal(a)?.bits, literal(b)?.bits),
        Op::Compare(op, a, b) => {
            let a = literal(a)?;
            compare(*op, a.scalar, a.bits, literal(b)?.bits)
        }
        Op::Cast(a) => {
            let a = literal(a)?;
            cast(a.scalar, scalar, a.bits)
        }
        Op::Bits(a) => literal(a)?.bits,
        Op::Call(function, operands) => {
            let words = operands.iter().map(|a| Some(vec![literal(a)?.bits]));
            call(*function, scalar, &words.collect::<Option<Vec<_>>>()?, 0)
        }
        _ => return None,
    };
    Some(Literal { scalar, bits })
}

/// Calls `$then` with the Rust type of a scalar that is a number.
macro_rules! with_number {
    ($scalar:expr, $type:ident => $then:expr, $bool:expr) => {
        match $scalar {
            Scalar::F32 => {
                type $type = f32;
                $then
            }
            Scalar::F16 => {
                type $type = f16;
                $then
            }
            Scalar::I32 => {
                type $type = i32;
                $then
            }
            Scalar::U32 => {
                type $type = u32;
                $then
            }
            Scalar::Bool => $bool,
        }
    };
}

pub(crate) fn unary(op: Unary, scalar: Scalar, a: u32) -> u32 {
    match (op, scalar) {
        (Unary::Neg, Scalar::F32) => Signed::neg(f32::from_word(a)).to_word(),
        (Unary::Neg, Scalar::F16) => Signed::neg(f16::from_word(a)).to_word(),
        (Unary::Neg, _) => Signed::neg(a as i32).to_word(),
        (Unary::Abs, Scalar::F32) => Signed::abs(f32::from_word(a)).to_word(),
        (Unary::Abs, Scalar::F16) => Signed::abs(f16::from_word(a)).to_word(),
        (Unary::Abs, _) => Signed::abs(a as i32).to_word(),
        (Unary::Not, Scalar::Bool) => Turned::not(a != 0).to_word(),
        (Unary::Not, _) => Turned::not(a),
        (Unary::CountOnes, _) => a.count_ones(),
        (Unary::LeadingZeros, _) => a.leading_zeros(),
    }
}

pub(crate) fn binary(op: Binary, scalar: Scalar, a: u32, b: u32) -> u32 {
    match op {
        Binary::BitAnd => a & b,
        Binary::BitOr => a | b,
        Binary::BitXor => a ^ b,
        Binary::Shl => Integer::shl(a, b),
        Binary::Shr if scalar == Scalar::I32 => Integer::shr(a as i32, b as i32) as u32,
        Binary::Shr => Integer::shr(a, b),
        _ => with_number!(scalar, T => {
            let (a, b) = (T::from_word(a), T::from_word(b));
            let value = match op {
                Binary::Add => Number::add(a, b),
                Binary::Sub => Number::sub(a, b),
                Binary::Mul => Number::mul(a, b),
                Binary::Div => Number::div(a, b),
                Binary::Rem => Number::rem(a, b),
                Binary::Min => Number::lesser(a, b),
                _ => Number::greater(a, b),
            };
            value.to_word()
        }, 0),
    }
}

pub(crate) fn compare(op: Compare, scalar: Scalar, a: u32, b: u32) -> u32 {
    u32::from(with_number!(scalar, T => {
        let (a, b) = (T::from_word(a), T::from_word(b));
        match op {
            Compare::Eq => a == b,
            Compare::Ne => a != b,
            Compare::Lt => a < b,
            Compare::Le => a <= b,
            Compare::Gt => a > b,
            Compare::Ge => a >= b,
        }
    }, (a == b) == (op == Compare::Eq)))
}

pub(crate) fn cast(from: Scalar, to: Scalar, a: u32) -> u32 {
    if from == Scalar::Bool {
        return with_number!(to, T => { let one: T = Cast::cast(a); one.to_word() }, a);
    }
    with_number!(from, From => {
        let a = From::from_word(a);
        with_number!(to, To => { let a: To = Cast::cast(a); a.to_word() }, 0)
    }, 0)
}

pub(crate) fn call(function: Function, scalar: Scalar, operands: &[Vec<u32>], at: usize) -> u32 {
    let mut wide = [0.0f32; 3];
    for (wide, words) in wide.iter_mut().zip(operands) {
        *wide = match scalar {
            Scalar::F16 => f16::from_word(words[at]).widen(),
            _ => f32::from_word(words[at]),
        };
    }
    let value = function.value(wide);
    match scalar {
        Scalar::F16 => f16::narrow(value).to_word(),
        _ => value.to_word(),
    }
}
