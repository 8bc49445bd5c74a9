//! Casts between dtypes, as ONNX `Cast` has them.
//!
//! A cast reads a chunk of elements into `f64` (floats, exact) or `i64` (integers and booleans,
//! exact; `u64` keeps its bits) and writes the chunk as the target, so that the work per dtype is
//! one line to read and one to write. No value is rounded twice: what is wider than `f32` goes
//! to the small floats through an `f32` rounded to odd. The commonest pairs go directly.
//!
//! Where ONNX leaves the result undefined (a float out of an integer's range) we do as numpy
//! does on x86 for types below 32 bits (wrap through `i32`; 0 when out of its range) and
//! saturate for 32-bit signed and 64-bit ones; NaN becomes 0.

use std::fmt::LowerExp;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::dtype::DType;
use crate::float8::{decode_narrow, encode_narrow};
use crate::shape::element_count;
use crate::tensor::{Tensor, TensorError};

/// How a cast to F8E8M0 rounds; other targets round to nearest even whatever this says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rounding {
    /// To the nearest value, ONNX's `nearest`.
    NearestEven,
    /// Away from zero, ONNX's `up` and its default.
    #[default]
    Up,
    /// Towards zero, ONNX's `down`.
    Down,
}

/// Elements per chunk; a multiple of 4, so that packed chunks start on a byte.
const CHUNK: usize = 1024;

/// What the writers need to know beyond the values.
#[derive(Clone, Copy)]
struct Options {
    saturate: bool,
    rounding: Rounding,
}

const EXACT: Options = Options { saturate: true, rounding: Rounding::NearestEven };

/// The elements of `tensor` as another dtype; shares the storage when it is the same.
///
/// `saturate` and `rounding` only concern targets of 8 and 4-bit floats, see
/// [`encode_narrow`]. Integers wrap, floats truncate towards zero on the way to integers.
///
/// # Errors
/// `Cast` between a complex type and anything else, `Number` for a text that is not a number,
/// `TooLarge` when the result is over the limit.
pub fn cast(
    tensor: &Tensor,
    to: DType,
    saturate: bool,
    rounding: Rounding,
) -> Result<Tensor, TensorError> {
    let from = tensor.dtype();
    if from == to {
        return Ok(tensor.clone());
    }
    if from.is_complex() || to.is_complex() {
        return cast_complex(tensor, to);
    }
    if to == DType::String {
        return Tensor::from_strings(tensor.shape(), texts_of(tensor));
    }
    let mut out = Tensor::zeros(to, tensor.shape())?;
    if cast_into(tensor, &mut out)? {
        return Ok(out);
    }
    let options = Options { saturate, rounding };
    if from == DType::String {
        cast_strings(tensor.as_strings()?, &mut out, options)?;
        return Ok(out);
    }
    let mut floats = [0f64; CHUNK];
    let mut ints = [0i64; CHUNK];
    for part in chunks(tensor.len()) {
        let source = &tensor.bytes()[bytes_of(from, &part)];
        let target = &mut out.bytes_mut()?[bytes_of(to, &part)];
        if from.is_float() {
            read_floats(from, source, &mut floats[..part.len()]);
            write_floats(to, target, &floats[..part.len()], options);
        } else {
            read_ints(from, source, &mut ints[..part.len()]);
            write_ints(to, target, &ints[..part.len()], from == DType::U64, options);
        }
    }
    Ok(out)
}

/// The elements as `f64`: any real type and booleans; exact but for 64-bit integers.
///
/// # Errors
/// `Cast` for strings and complex numbers.
pub fn to_f64(tensor: &Tensor) -> Result<Vec<f64>, TensorError> {
    let from = tensor.dtype();
    let mut values = vec![0f64; readable(tensor, DType::F64)?];
    let mut ints = [0i64; CHUNK];
    for part in chunks(values.len()) {
        let source = &tensor.bytes()[bytes_of(from, &part)];
        let target = &mut values[part.clone()];
        if from.is_float() {
            read_floats(from, source, target);
        } else {
            let ints = &mut ints[..part.len()];
            read_ints(from, source, ints);
            let wide = from == DType::U64;
            let widen = |int: i64| if wide { int as u64 as f64 } else { int as f64 };
            target.iter_mut().zip(ints).for_each(|(value, int)| *value = widen(*int));
        }
    }
    Ok(values)
}

/// The elements as `i64`: integers and booleans exact, but `u64` wraps; floats truncate towards
/// zero and saturate, NaN becomes 0.
///
/// # Errors
/// `Cast` for strings and complex numbers.
pub fn to_i64(tensor: &Tensor) -> Result<Vec<i64>, TensorError> {
    let from = tensor.dtype();
    let mut values = vec![0i64; readable(tensor, DType::I64)?];
    let mut floats = [0f64; CHUNK];
    for part in chunks(values.len()) {
        let source = &tensor.bytes()[bytes_of(from, &part)];
        let target = &mut values[part.clone()];
        if from.is_float() {
            let floats = &mut floats[..part.len()];
            read_floats(from, source, floats);
            target.iter_mut().zip(floats).for_each(|(value, float)| *value = *float as i64);
        } else {
            read_ints(from, source, target);
        }
    }
    Ok(values)
}

/// A tensor of `dtype` from `f64`s: floats round to nearest even (8 and 4-bit ones saturate),
/// integers truncate towards zero and saturate, booleans are `!= 0`.
///
/// # Errors
/// `Cast` for strings and complex types, `Count` when the shape does not hold that many.
pub fn from_f64(dtype: DType, shape: &[usize], values: &[f64]) -> Result<Tensor, TensorError> {
    if dtype.is_int() {
        let (low, high) = match dtype.bits() {
            64 => (i64::MIN, i64::MAX),
            // Fits: the range of at most 32 bits.
            _ => dtype.int_range().map_or((0, 0), |(low, high)| (low as i64, high as i64)),
        };
        let truncate = |value: &f64| match dtype {
            DType::U64 => *value as u64 as i64,
            _ => (*value as i64).clamp(low, high),
        };
        return from_i64(dtype, shape, &values.iter().map(truncate).collect::<Vec<i64>>());
    }
    let mut out = writable(dtype, DType::F64, shape, values.len())?;
    write_floats(dtype, out.bytes_mut()?, values, EXACT);
    Ok(out)
}

/// A tensor of `dtype` from `i64`s: integers wrap, floats round to nearest even, booleans are
/// `!= 0`.
///
/// # Errors
/// `Cast` for strings and complex types, `Count` when the shape does not hold that many.
pub fn from_i64(dtype: DType, shape: &[usize], values: &[i64]) -> Result<Tensor, TensorError> {
    let mut out = writable(dtype, DType::I64, shape, values.len())?;
    write_ints(dtype, out.bytes_mut()?, values, false, EXACT);
    Ok(out)
}

/// The number of elements, if they are real numbers or booleans.
fn readable(tensor: &Tensor, to: DType) -> Result<usize, TensorError> {
    let from = tensor.dtype();
    match from == DType::String || from.is_complex() {
        true => Err(TensorError::Cast { from, to }),
        false => Ok(tensor.len()),
    }
}

/// A tensor of zeros for `got` real numbers or booleans.
fn writable(to: DType, from: DType, shape: &[usize], got: usize) -> Result<Tensor, TensorError> {
    if to == DType::String || to.is_complex() {
        return Err(TensorError::Cast { from, to });
    }
    let wanted = element_count(shape)?;
    if wanted != got {
        return Err(TensorError::Count { shape: shape.into(), wanted, got });
    }
    Tensor::zeros(to, shape)
}

/// Consecutive ranges of at most `CHUNK` elements.
fn chunks(count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(CHUNK).map(move |start| start..count.min(start + CHUNK))
}

/// Where the elements of a chunk stand; no overflow, as the tensor that holds them exists.
fn bytes_of(dtype: DType, part: &Range<usize>) -> Range<usize> {
    part.start * dtype.bits() / 8..(part.end * dtype.bits()).div_ceil(8)
}

fn read<T: bytemuck::Pod, V>(bytes: &[u8], values: &mut [V], convert: impl Fn(T) -> V) {
    let source: &[T] = bytemuck::cast_slice(bytes);
    values.iter_mut().zip(source).for_each(|(value, item)| *value = convert(*item));
}

fn write<T: bytemuck::Pod, V: Copy>(bytes: &mut [u8], values: &[V], convert: impl Fn(V) -> T) {
    let target: &mut [T] = bytemuck::cast_slice_mut(bytes);
    target.iter_mut().zip(values).for_each(|(item, value)| *item = convert(*value));
}

/// Reads codes of at most 8 bits, low bits first.
fn read_codes<V>(dtype: DType, bytes: &[u8], values: &mut [V], convert: impl Fn(u8) -> V) {
    let bits = dtype.bits();
    let (per_byte, mask) = (8 / bits, u8::MAX >> (8 - bits));
    for (index, value) in values.iter_mut().enumerate() {
        *value = convert(bytes[index / per_byte] >> (index % per_byte * bits) & mask);
    }
}

/// Writes the low bits of codes over zeroed bytes, low bits first.
fn write_codes<V: Copy>(dtype: DType, bytes: &mut [u8], values: &[V], convert: impl Fn(V) -> u8) {
    let bits = dtype.bits();
    let (per_byte, mask) = (8 / bits, u8::MAX >> (8 - bits));
    for (index, value) in values.iter().enumerate() {
        bytes[index / per_byte] |= (convert(*value) & mask) << (index % per_byte * bits);
    }
}

fn read_floats(dtype: DType, bytes: &[u8], values: &mut [f64]) {
    match dtype {
        DType::F32 => read(bytes, values, |item: f32| f64::from(item)),
        DType::F64 => read(bytes, values, |item: f64| item),
        DType::F16 => read(bytes, values, |item: f16| f64::from(item.to_f32())),
        DType::BF16 => read(bytes, values, |item: bf16| f64::from(item.to_f32())),
        _ => read_codes(dtype, bytes, values, |code| f64::from(decode_narrow(dtype, code))),
    }
}

fn read_ints(dtype: DType, bytes: &[u8], values: &mut [i64]) {
    match dtype {
        DType::I8 => read(bytes, values, |item: i8| i64::from(item)),
        DType::I16 => read(bytes, values, |item: i16| i64::from(item)),
        DType::I32 => read(bytes, values, |item: i32| i64::from(item)),
        DType::I64 => read(bytes, values, |item: i64| item),
        DType::U8 | DType::Bool => read(bytes, values, |item: u8| i64::from(item)),
        DType::U16 => read(bytes, values, |item: u16| i64::from(item)),
        DType::U32 => read(bytes, values, |item: u32| i64::from(item)),
        DType::U64 => read(bytes, values, |item: u64| item as i64),
        DType::I4 | DType::I2 => {
            let empty = 8 - dtype.bits();
            // The shift back copies the sign.
            read_codes(dtype, bytes, values, |code| i64::from((code << empty) as i8 >> empty));
        }
        _ => read_codes(dtype, bytes, values, i64::from),
    }
}

fn write_floats(dtype: DType, bytes: &mut [u8], values: &[f64], options: Options) {
    match dtype {
        DType::F32 => write(bytes, values, |value| value as f32),
        DType::F64 => write(bytes, values, |value| value),
        DType::F16 => write(bytes, values, |value| f16::from_f32(round_to_odd(value))),
        DType::BF16 => write(bytes, values, |value| bf16::from_f32(round_to_odd(value))),
        DType::I8 => write(bytes, values, |value| small_int(value) as i8),
        DType::I16 => write(bytes, values, |value| small_int(value) as i16),
        DType::I32 => write(bytes, values, |value| value as i32),
        DType::I64 => write(bytes, values, |value| value as i64),
        DType::U8 => write(bytes, values, |value| small_int(value) as u8),
        DType::U16 => write(bytes, values, |value| small_int(value) as u16),
        DType::U32 => write(bytes, values, |value| value as i64 as u32),
        DType::U64 => write(bytes, values, wide_unsigned),
        DType::Bool => write(bytes, values, |value| u8::from(value != 0.0)),
        DType::I4 | DType::U4 | DType::I2 | DType::U2 => {
            write_codes(dtype, bytes, values, |value| small_int(value) as u8);
        }
        _ => write_codes(dtype, bytes, values, |value| {
            encode_narrow(dtype, round_to_odd(value), options.saturate, options.rounding)
        }),
    }
}

/// `wide`: the values are the bits of `u64`s, which only floats can tell.
fn write_ints(dtype: DType, bytes: &mut [u8], values: &[i64], wide: bool, options: Options) {
    let exact = |value: i64| if wide { i128::from(value as u64) } else { i128::from(value) };
    match dtype {
        DType::F32 if wide => write(bytes, values, |value| value as u64 as f32),
        DType::F32 => write(bytes, values, |value| value as f32),
        DType::F64 if wide => write(bytes, values, |value| value as u64 as f64),
        DType::F64 => write(bytes, values, |value| value as f64),
        DType::F16 => write(bytes, values, |value| f16::from_f32(int_to_odd(exact(value)))),
        DType::BF16 => write(bytes, values, |value| bf16::from_f32(int_to_odd(exact(value)))),
        DType::I8 | DType::U8 => write(bytes, values, |value| value as u8),
        DType::I16 | DType::U16 => write(bytes, values, |value| value as u16),
        DType::I32 | DType::U32 => write(bytes, values, |value| value as u32),
        DType::I64 | DType::U64 => write(bytes, values, |value| value),
        DType::Bool => write(bytes, values, |value| u8::from(value != 0)),
        DType::I4 | DType::U4 | DType::I2 | DType::U2 => {
            write_codes(dtype, bytes, values, |value| value as u8);
        }
        _ => write_codes(dtype, bytes, values, |value| {
            encode_narrow(dtype, int_to_odd(exact(value)), options.saturate, options.rounding)
        }),
    }
}

/// The integer whose low bits a float has as an integer below 32 bits: what x86 converts to.
fn small_int(value: f64) -> i32 {
    // The bounds are exact; NaN fails both.
    if value > -2147483649.0 && value < 2147483648.0 { value as i32 } else { i32::MIN }
}

/// Negative values wrap, values over the range saturate.
fn wide_unsigned(value: f64) -> u64 {
    if value < 0.0 { value as i64 as u64 } else { value as u64 }
}

/// Rounds to the `f32` with an odd last bit when inexact. A second rounding to nearest, to a type
/// at least two bits shorter, then gives the nearest to the original value.
fn round_to_odd(value: f64) -> f32 {
    let near = value as f32;
    let back = f64::from(near);
    toward(near, back.abs() < value.abs(), back.abs() > value.abs())
}

/// As [`round_to_odd`].
fn int_to_odd(value: i128) -> f32 {
    let near = value as f32;
    // Exact: the magnitude is at most 2 to the 64.
    let back = (near as i128).unsigned_abs();
    toward(near, back < value.unsigned_abs(), back > value.unsigned_abs())
}

/// Moves an inexact nearest value with an even last bit to its odd neighbour on the other side.
fn toward(near: f32, too_small: bool, too_large: bool) -> f32 {
    let bits = near.to_bits();
    // Bits without the sign grow with the magnitude, also into infinity; the even number 0 is
    // never too large, so neither step crosses the sign.
    match bits & 1 == 0 {
        true => f32::from_bits(bits + u32::from(too_small) - u32::from(too_large)),
        false => near,
    }
}

/// Writes the elements of `tensor` as those of `out`, which has as many, in one direct loop, where
/// there is one for the two dtypes, the commonest pairs; else `false`, and `out` stays as it is.
///
/// # Errors
/// `Shared` where others hold the memory of `out`.
pub fn cast_into(tensor: &Tensor, out: &mut Tensor) -> Result<bool, TensorError> {
    use DType::{BF16, Bool, F16, F32, I8, I32, I64, U8};
    if tensor.len() != out.len() {
        return Ok(false);
    }
    let bytes = tensor.bytes();
    match (tensor.dtype(), out.dtype()) {
        (F32, F16) => out.as_mut_slice::<f16>()?.convert_from_f32_slice(tensor.as_slice()?),
        (F16, F32) => tensor.as_slice::<f16>()?.convert_to_f32_slice(out.as_mut_slice()?),
        (F32, BF16) => out.as_mut_slice::<bf16>()?.convert_from_f32_slice(tensor.as_slice()?),
        (BF16, F32) => tensor.as_slice::<bf16>()?.convert_to_f32_slice(out.as_mut_slice()?),
        (F32, I64) => read(bytes, out.as_mut_slice::<i64>()?, |item: f32| item as i64),
        (F32, I32) => read(bytes, out.as_mut_slice::<i32>()?, |item: f32| item as i32),
        (F32, U8) => {
            let convert = |item: f32| small_int(f64::from(item)) as u8;
            read(bytes, out.as_mut_slice::<u8>()?, convert);
        }
        (I64, F32) => read(bytes, out.as_mut_slice::<f32>()?, |item: i64| item as f32),
        (I32, F32) => read(bytes, out.as_mut_slice::<f32>()?, |item: i32| item as f32),
        (U8 | Bool, F32) => read(bytes, out.as_mut_slice::<f32>()?, |item: u8| f32::from(item)),
        (I8, F32) => read(bytes, out.as_mut_slice::<f32>()?, |item: i8| f32::from(item)),
        (I64, I32) => read(bytes, out.as_mut_slice::<i32>()?, |item: i64| item as i32),
        (I32, I64) => read(bytes, out.as_mut_slice::<i64>()?, |item: i32| i64::from(item)),
        _ => return Ok(false),
    }
    Ok(true)
}

/// Whether [`cast_into`] has a loop for these dtypes.
pub fn casts_directly(from: DType, to: DType) -> bool {
    let none = |dtype| Tensor::zeros(dtype, &[0]);
    match (none(from), none(to)) {
        (Ok(from), Ok(mut to)) => cast_into(&from, &mut to).unwrap_or(false),
        _ => false,
    }
}

fn cast_complex(tensor: &Tensor, to: DType) -> Result<Tensor, TensorError> {
    let mut out = Tensor::zeros(to, tensor.shape())?;
    match (tensor.dtype(), to) {
        (DType::C64, DType::C128) => {
            let target: &mut [f64] = bytemuck::cast_slice_mut(out.bytes_mut()?);
            read(tensor.bytes(), target, |item: f32| f64::from(item));
        }
        (DType::C128, DType::C64) => {
            let target: &mut [f32] = bytemuck::cast_slice_mut(out.bytes_mut()?);
            read(tensor.bytes(), target, |item: f64| item as f32);
        }
        (from, to) => return Err(TensorError::Cast { from, to }),
    }
    Ok(out)
}

fn cast_strings(texts: &[String], out: &mut Tensor, options: Options) -> Result<(), TensorError> {
    let to = out.dtype();
    let bytes = out.bytes_mut()?;
    if to.is_float() {
        let values: Result<Vec<f64>, _> = texts.iter().map(|text| parse_float(text, to)).collect();
        write_floats(to, bytes, &values?, options);
    } else {
        let values: Result<Vec<i64>, _> = texts.iter().map(|text| parse_int(text, to)).collect();
        write_ints(to, bytes, &values?, to == DType::U64, options);
    }
    Ok(())
}

/// Plain and scientific forms, `inf`, `+inf`, `-inf` and `nan` in any case.
fn parse_float(text: &str, to: DType) -> Result<f64, TensorError> {
    let trimmed = text.trim();
    let value = match to {
        // Directly, as two roundings may differ from one.
        DType::F32 => trimmed.parse::<f32>().map(f64::from),
        _ => trimmed.parse::<f64>(),
    };
    value.map_err(|_| TensorError::Number { text: text.to_string() })
}

/// An integer, or a float that is truncated; for booleans 1 or 0.
fn parse_int(text: &str, to: DType) -> Result<i64, TensorError> {
    let trimmed = text.trim();
    if to == DType::Bool {
        return Ok(match trimmed {
            _ if trimmed.eq_ignore_ascii_case("true") => 1,
            _ if trimmed.eq_ignore_ascii_case("false") => 0,
            _ => i64::from(parse_float(text, to)? != 0.0),
        });
    }
    if let Ok(int) = trimmed.parse::<i128>() {
        return Ok(int as i64);
    }
    let value = parse_float(text, to)?;
    Ok(if to == DType::U64 { wide_unsigned(value) as i64 } else { value as i64 })
}

/// The text of each real number or boolean: what numpy's `str` gives.
fn texts_of(tensor: &Tensor) -> Vec<String> {
    let dtype = tensor.dtype();
    let all = 0..tensor.len();
    if dtype.is_float() {
        let mut values = vec![0f64; all.len()];
        read_floats(dtype, tensor.bytes(), &mut values);
        return values.iter().map(|&value| float_text(dtype, value)).collect();
    }
    let mut values = vec![0i64; all.len()];
    read_ints(dtype, tensor.bytes(), &mut values);
    let text = |&value: &i64| match dtype {
        DType::Bool if value != 0 => "True".to_string(),
        DType::Bool => "False".to_string(),
        DType::U64 => (value as u64).to_string(),
        _ => value.to_string(),
    };
    values.iter().map(text).collect()
}

/// The shortest digits that read back as `value`, plain from 1e-4 to 1e16 (1e3 for f16).
fn float_text(dtype: DType, value: f64) -> String {
    if value.is_nan() {
        return "nan".to_string();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    let digits = match dtype {
        DType::F64 => format!("{value:e}"),
        DType::F16 => shortest(value, |read| f64::from(f16::from_f32(round_to_odd(read)))),
        DType::BF16 => shortest(value, |read| f64::from(bf16::from_f32(round_to_odd(read)))),
        _ => format!("{:e}", value as f32),
    };
    let plain_below = if dtype == DType::F16 { 1e3 } else { 1e16 };
    let size = value.abs();
    lay_out(&digits, size == 0.0 || (1e-4..plain_below).contains(&size))
}

/// `value` as `d.ddde-x` with the fewest digits that `round` brings back to it.
fn shortest(value: impl LowerExp + Copy + Into<f64>, round: impl Fn(f64) -> f64) -> String {
    let same = |text: &String| text.parse().is_ok_and(|read| round(read) == value.into());
    (0..9)
        .map(|places| format!("{value:.places$e}"))
        .find(same)
        .unwrap_or_else(|| format!("{value:e}"))
}

/// Numpy's form of Rust's `d.ddde-x`: plain with at least one decimal, or `d.ddde-0x`.
fn lay_out(digits: &str, plain: bool) -> String {
    let (mantissa, exponent) = digits.split_once('e').unwrap_or((digits, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !plain {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let mut figures = mantissa.replace('.', "");
    if exponent < 0 {
        let zeros = "0".repeat((-exponent - 1) as usize);
        return format!("{sign}0.{zeros}{figures}");
    }
    let whole = exponent as usize + 1;
    while figures.len() <= whole {
        figures.push('0');
    }
    format!("{sign}{}.{}", &figures[..whole], &figures[whole..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(tensor: &Tensor, dtype: DType) -> Tensor {
        cast(tensor, dtype, true, Rounding::Up).unwrap()
    }

    fn texts(tensor: &Tensor) -> Vec<String> {
        to(tensor, DType::String).as_strings().unwrap().to_vec()
    }

    fn strings(values: &[&str]) -> Tensor {
        let values: Vec<String> = values.iter().map(|text| text.to_string()).collect();
        Tensor::from_strings(&[values.len()], values).unwrap()
    }

    #[test]
    fn every_pair_casts_or_is_complex() {
        // Enough elements for several chunks and an odd tail; all dtypes hold 0 and 1.
        let bits: Vec<i64> = (0..2 * CHUNK as i64 + 3).map(|index| (index * 7 % 11) & 1).collect();
        let plain: Vec<DType> = DType::all().filter(|dtype| !dtype.is_complex()).collect();
        for &a in plain.iter().filter(|&&dtype| dtype != DType::F8E8M0) {
            let source = to(&Tensor::vector(&bits), a);
            for &b in plain.iter().filter(|&&dtype| dtype != DType::F8E8M0) {
                let there = to(&source, b);
                assert_eq!(there.dtype(), b);
                // The text of a boolean is no number, but it is a boolean.
                let there = if b == DType::String { to(&there, a) } else { there };
                assert_eq!(to_i64(&to(&there, DType::I64)).unwrap(), bits, "{a} {b}");
            }
            assert!(cast(&source, DType::C64, true, Rounding::Up).is_err());
        }
        let complex = Tensor::from_bytes(DType::C64, &[1], bytemuck::bytes_of(&[1f32, -2.0]));
        let wide = to(&complex.unwrap(), DType::C128);
        assert_eq!(wide.bytes(), bytemuck::bytes_of(&[1f64, -2.0]));
        assert!(to(&to(&wide, DType::C64), DType::C128) == wide);
        assert!(cast(&wide, DType::F32, true, Rounding::Up).is_err());
        assert!(to_f64(&wide).is_err());
    }

    #[test]
    fn floats_truncate_and_wrap_as_numpy_does() {
        let values = [-300.7f32, -17.9, -8.5, -0.5, 1.7, 8.5, 100.9, 300.9, 1e10];
        let check = |dtype: DType, wanted: [i64; 9]| {
            let narrow = Tensor::vector(&values);
            assert_eq!(to_i64(&to(&narrow, dtype)).unwrap(), wanted, "{dtype}");
            let wide = to(&narrow, DType::F64);
            assert_eq!(to_i64(&to(&wide, dtype)).unwrap(), wanted, "{dtype}");
        };
        check(DType::I8, [-44, -17, -8, 0, 1, 8, 100, 44, 0]);
        check(DType::U8, [212, 239, 248, 0, 1, 8, 100, 44, 0]);
        check(DType::I4, [4, -1, -8, 0, 1, -8, 4, -4, 0]);
        check(DType::U4, [4, 15, 8, 0, 1, 8, 4, 12, 0]);
        check(DType::I2, [0, -1, 0, 0, 1, 0, 0, 0, 0]);
        check(DType::U2, [0, 3, 0, 0, 1, 0, 0, 0, 0]);
        check(DType::I32, [-300, -17, -8, 0, 1, 8, 100, 300, i64::from(i32::MAX)]);
        check(DType::I64, [-300, -17, -8, 0, 1, 8, 100, 300, 10_000_000_000]);
        check(DType::Bool, [1; 9]);
        let odd = Tensor::vector(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        assert_eq!(to_i64(&to(&odd, DType::U8)).unwrap(), [0, 0, 0]);
        assert_eq!(to(&odd, DType::Bool).as_bools().unwrap(), [1, 1, 1]);
    }

    #[test]
    fn ints_wrap_and_stay_exact() {
        let ints = Tensor::vector(&[-300i32, -9, -1, 3, 8, 200]);
        assert_eq!(to_i64(&to(&ints, DType::I4)).unwrap(), [4, 7, -1, 3, -8, -8]);
        assert_eq!(to_i64(&to(&ints, DType::I8)).unwrap(), [-44, -9, -1, 3, 8, -56]);
        assert_eq!(to(&ints, DType::U4).bytes(), [0x74, 0x3f, 0x88]);
        let big = Tensor::vector(&[u64::MAX]);
        assert_eq!(to_f64(&big).unwrap(), [u64::MAX as f64]);
        assert_eq!(to_i64(&big).unwrap(), [-1]);
        assert_eq!(to(&big, DType::F32).as_slice::<f32>().unwrap(), [u64::MAX as f32]);
        assert_eq!(texts(&big), ["18446744073709551615"]);
    }

    #[test]
    fn nothing_is_rounded_twice() {
        // Just over the middle of two neighbours, by less than f32 (or f64) can hold.
        let over = 1.0 + 2f64.powi(-11) + 2f64.powi(-30);
        assert_eq!(to(&Tensor::vector(&[over]), DType::F16).bytes(), [0x01, 0x3c]);
        let over = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
        assert_eq!(to(&Tensor::vector(&[over]), DType::BF16).bytes(), [0x81, 0x3f]);
        let over = 1.0 + 2f64.powi(-4) + 2f64.powi(-40);
        assert_eq!(to(&Tensor::vector(&[over, -over]), DType::F8E4M3FN).bytes(), [0x39, 0xb9]);
        let over = (1i64 << 60) + (1 << 52) + 1;
        let wanted = (2f64.powi(60) * (1.0 + 2f64.powi(-7))) as f32;
        assert_eq!(
            to_f64(&to(&Tensor::vector(&[over]), DType::BF16)).unwrap(),
            [f64::from(wanted)]
        );
        let far = Tensor::vector(&[1e300, -1e300, 1e-300, f64::INFINITY, 65519.0, 65520.0]);
        let (inf, none) = (f64::INFINITY, f64::NEG_INFINITY);
        assert_eq!(to_f64(&to(&far, DType::F16)).unwrap(), [inf, none, 0.0, inf, 65504.0, inf]);
    }

    #[test]
    fn all_halves_agree_with_the_half_crate() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let halves = Tensor::vector(&all);
        for via in [DType::F32, DType::F64, DType::String] {
            let back = to(&to(&halves, via), DType::F16);
            for (a, b) in all.iter().zip(back.as_slice::<f16>().unwrap()) {
                assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()), "{via} {a}");
            }
        }
    }

    #[test]
    fn numbers_print_as_numpy_prints_them() {
        let values = [0.1f32, 1.0, -2.5, 1e-5, 1e16, 3e20, 1e5, 1e-4, -0.0];
        let wanted = ["0.1", "1.0", "-2.5", "1e-05", "1e+16", "3e+20", "100000.0", "1e-04", "-0.0"];
        assert_eq!(texts(&Tensor::vector(&values)), wanted);
        assert_eq!(texts(&Tensor::vector(&[1e-4f64, 314.15926])), ["0.0001", "314.15926"]);
        let halves = [0.1f32, 999.0, 1001.0, 65504.0, 6e-8].map(f16::from_f32);
        assert_eq!(
            texts(&Tensor::vector(&halves)),
            ["0.1", "999.0", "1.001e+03", "6.55e+04", "6e-08"]
        );
        let brains = [0.1f32, 1e5, f32::NAN, f32::NEG_INFINITY].map(bf16::from_f32);
        assert_eq!(texts(&Tensor::vector(&brains)), ["0.1", "100000.0", "nan", "-inf"]);
        assert_eq!(texts(&Tensor::from_bools(&[2], &[true, false]).unwrap()), ["True", "False"]);
    }

    #[test]
    fn texts_are_read() {
        let tensor = strings(&["INF", "-INF", "+inf", "1e-5", "1E8", " 7 ", "-100.5"]);
        let inf = f32::INFINITY;
        let wanted = [inf, -inf, inf, 1e-5, 1e8, 7.0, -100.5];
        assert_eq!(to(&tensor, DType::F32).as_slice::<f32>().unwrap(), wanted);
        assert!(to_f64(&to(&strings(&["NaN"]), DType::F16)).unwrap()[0].is_nan());
        let ints = strings(&["-100.5", "300", "1e3"]);
        assert_eq!(to_i64(&to(&ints, DType::I32)).unwrap(), [-100, 300, 1000]);
        assert_eq!(to_i64(&to(&ints, DType::I8)).unwrap(), [-100, 44, -24]);
        let truths = strings(&["True", "false", "0", "2"]);
        assert_eq!(to(&truths, DType::Bool).as_bools().unwrap(), [1, 0, 0, 1]);
        let wrong = cast(&strings(&["Hello World!"]), DType::F32, true, Rounding::Up);
        assert_eq!(wrong, Err(TensorError::Number { text: "Hello World!".to_string() }));
    }

    #[test]
    fn small_floats_read_the_options() {
        let values = Tensor::vector(&[1e9f32, 1.4]);
        let code = |dtype, saturate, rounding| {
            cast(&values, dtype, saturate, rounding).unwrap().bytes().to_vec()
        };
        assert_eq!(code(DType::F8E5M2, true, Rounding::Up), [0x7b, 0x3e]);
        assert_eq!(code(DType::F8E5M2, false, Rounding::Up), [0x7c, 0x3e]);
        assert_eq!(code(DType::F8E8M0, true, Rounding::Up), [157, 128]);
        assert_eq!(code(DType::F8E8M0, true, Rounding::Down), [156, 127]);
        assert_eq!(code(DType::F4E2M1, true, Rounding::Up), [0x37]);
    }

    #[test]
    fn from_f64_saturates_and_counts() {
        let values = [-1e30, -9.9, 2.9, 1e30, f64::NAN];
        let check = |dtype: DType, wanted: [i64; 5]| {
            assert_eq!(
                to_i64(&from_f64(dtype, &[5], &values).unwrap()).unwrap(),
                wanted,
                "{dtype}"
            );
        };
        check(DType::I4, [-8, -8, 2, 7, 0]);
        check(DType::U8, [0, 0, 2, 255, 0]);
        check(DType::I64, [i64::MIN, -9, 2, i64::MAX, 0]);
        check(DType::U64, [0, 0, 2, -1, 0]);
        assert!(matches!(from_f64(DType::F32, &[4], &values), Err(TensorError::Count { .. })));
        assert!(from_f64(DType::String, &[5], &values).is_err());
    }

    #[test]
    fn the_same_dtype_shares() {
        let tensor = Tensor::vector(&[1f32]);
        assert!(to(&tensor, DType::F32).shares_storage(&tensor));
    }
}
