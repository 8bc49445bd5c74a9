//! Literals: numbers, strings, tensors, sequences and optionals.

use std::str::FromStr;

use half::{bf16, f16};
use hetra_tensor::{DType, Element, Tensor, TensorError, Value, from_i64};

use super::{Parsed, Parser};
use crate::attr::Attr;
use crate::text::is_word_char;

/// A character of a number: digits, sign, point, exponent, `inf`, `nan`, `0x`.
fn is_number_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')
}

/// A Rust float and the bits that a NaN carries.
trait Float: Element + FromStr {
    fn from_bits(bits: u64) -> Option<Self>;
}

macro_rules! floats {
    ($($float:ident: $bits:ident),*) => {
        $(impl Float for $float {
            fn from_bits(bits: u64) -> Option<$float> {
                $bits::try_from(bits).ok().map($float::from_bits)
            }
        })*
    };
}

floats!(f32: u32, f64: u64, f16: u16, bf16: u16);

impl Parser<'_> {
    /// A decimal number of a type that is fixed by the place.
    pub(super) fn number<T: FromStr>(&mut self, what: &str) -> Parsed<T> {
        self.space();
        let start = self.at;
        match self.while_char(is_number_char).parse() {
            Ok(number) => Ok(number),
            Err(_) => {
                self.at = start;
                self.fault(format!("expected {what}"))
            }
        }
    }

    /// A float; `nan(0x7fc00001)` gives the bits.
    fn float<T: Float>(&mut self) -> Parsed<T> {
        if !self.take("nan(0x") {
            return self.number("a float");
        }
        let bits = u64::from_str_radix(self.while_char(is_word_char), 16).ok();
        let Some(value) = bits.and_then(T::from_bits) else { return self.fault("expected bits") };
        self.expect(")")?;
        Ok(value)
    }

    /// An integer, or a float, which has a point, an exponent or a word in it.
    pub(super) fn number_attr(&mut self) -> Parsed<Attr> {
        let start = self.at;
        let text = self.while_char(is_number_char);
        self.at = start;
        match text.strip_prefix('-').unwrap_or(text).chars().all(|c| c.is_ascii_digit()) {
            true => self.number("a number").map(Attr::Int),
            false => self.float().map(Attr::Float),
        }
    }

    /// A string in double quotes.
    pub(super) fn string(&mut self) -> Parsed<String> {
        self.expect("\"")?;
        let mut text = String::new();
        loop {
            text.push_str(self.while_char(|c| c != '"' && c != '\\'));
            if self.rest().is_empty() {
                return self.fault("the string does not end");
            }
            self.at += 1;
            if self.text.as_bytes()[self.at - 1] == b'"' {
                return Ok(text);
            }
            let Some(c) = self.escape() else { return self.fault("no such escape") };
            text.push(c);
        }
    }

    /// The character behind a backslash.
    fn escape(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        match c {
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            '"' | '\\' => Some(c),
            'u' => {
                let code = self.rest().strip_prefix('{')?.split_once('}')?.0;
                self.at += code.len() + 2;
                char::from_u32(u32::from_str_radix(code, 16).ok()?)
            }
            _ => None,
        }
    }

    /// A constant: a tensor, `seq[..]`, `some(..)` or `none`.
    pub(super) fn value(&mut self) -> Parsed<Value> {
        self.nested(|p| {
            if p.keyword("none") {
                return Ok(Value::Optional(None));
            }
            if p.keyword("some") {
                p.expect("(")?;
                let inner = p.value()?;
                p.expect(")")?;
                return Ok(Value::Optional(Some(Box::new(inner))));
            }
            if p.keyword("seq") {
                return Ok(Value::Sequence(p.list("[", "]", Self::value)?));
            }
            Ok(Value::Tensor(p.tensor()?))
        })
    }

    /// `f32[2] [1.0, 2.0]` or `f32[2] 0x0000803f00000040`.
    pub(super) fn tensor(&mut self) -> Parsed<Tensor> {
        let dtype = self.dtype()?;
        let shape = self.list("[", "]", |p| p.number::<usize>("an extent"))?;
        let start = self.at;
        let tensor = match self.take("0x") {
            true => self.hex_tensor(dtype, &shape)?,
            false => self.number_tensor(dtype, &shape)?,
        };
        tensor.or_else(|error| {
            self.at = start;
            self.fault(error.to_string())
        })
    }

    fn hex_tensor(&mut self, dtype: DType, shape: &[usize]) -> Parsed<Result<Tensor, TensorError>> {
        let digits = self.while_char(|c| c.is_ascii_hexdigit()).as_bytes();
        let digit = |c: u8| (c as char).to_digit(16).unwrap_or(0) as u8;
        let bytes: Vec<u8> =
            digits.chunks(2).map(|pair| pair.iter().fold(0, |b, &c| b << 4 | digit(c))).collect();
        match digits.len() % 2 {
            0 => Ok(Tensor::from_bytes(dtype, shape, &bytes)),
            _ => self.fault("an odd number of hexadecimal digits"),
        }
    }

    fn number_tensor(
        &mut self,
        dtype: DType,
        shape: &[usize],
    ) -> Parsed<Result<Tensor, TensorError>> {
        Ok(match dtype {
            DType::F32 => self.floats::<f32>(shape)?,
            DType::F64 => self.floats::<f64>(shape)?,
            DType::F16 => self.floats::<f16>(shape)?,
            DType::BF16 => self.floats::<bf16>(shape)?,
            DType::String => Tensor::from_strings(shape, self.list("[", "]", Self::string)?),
            DType::Bool => {
                let bools = self.list("[", "]", |p| p.number::<bool>("`true` or `false`"))?;
                Tensor::from_bools(shape, &bools)
            }
            DType::U64 => {
                let ints = self.list("[", "]", |p| p.number::<u64>("an integer"))?;
                Tensor::from_slice(shape, &ints)
            }
            _ => match dtype.int_range() {
                None => return self.fault("expected `0x` and bytes: this dtype has no numbers"),
                Some((low, high)) => {
                    let ints = self.list("[", "]", |p| {
                        let int = p.number::<i64>("an integer")?;
                        match (low..=high).contains(&i128::from(int)) {
                            true => Ok(int),
                            false => p.fault(format!("{int} does not fit {dtype}")),
                        }
                    })?;
                    from_i64(dtype, shape, &ints)
                }
            },
        })
    }

    fn floats<T: Float>(&mut self, shape: &[usize]) -> Parsed<Result<Tensor, TensorError>> {
        let values = self.list("[", "]", |p| p.float::<T>())?;
        Ok(Tensor::from_slice(shape, &values))
    }
}
