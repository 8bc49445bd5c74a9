//! Tensors as requests and answers carry them: bytes, or JSON.

use bytes::{BufMut, Bytes, BytesMut};
use hetra::{DType, Element, Tensor};
use hetra_tensor::Blob;
use serde_json::Value;

use crate::dtypes;
use crate::error::{Kind, Refusal};
use crate::wire::Contents;

/// A type and a shape as a request states them.
pub(crate) fn stated(
    name: &str,
    dtype: &str,
    shape: &[i64],
) -> Result<(DType, Vec<usize>), Refusal> {
    let known = dtypes::from_name(dtype);
    let dtype = known.ok_or_else(|| {
        Refusal::invalid(format!("input `{name}`: there is no datatype `{dtype}`"))
    })?;
    let extents: Option<Vec<usize>> = shape.iter().map(|&one| usize::try_from(one).ok()).collect();
    let extents = extents
        .ok_or_else(|| Refusal::invalid(format!("input `{name}`: the shape {shape:?} is none")))?;
    Ok((dtype, extents))
}

fn misfit(name: &str, error: &impl std::fmt::Display) -> Refusal {
    Refusal::invalid(format!("input `{name}`: {error}"))
}

/// Elements of a shape; refused where there are too many to count.
fn count(name: &str, shape: &[usize]) -> Result<usize, Refusal> {
    let product = shape.iter().try_fold(1usize, |all, &one| all.checked_mul(one));
    product.ok_or_else(|| Refusal::invalid(format!("input `{name}`: the shape is too large")))
}

/// Refuses bytes that lie elsewhere, before they are read: of another size than the type and the
/// shape need, or more than a request may have.
pub(crate) fn check_size(
    name: &str,
    dtype: DType,
    shape: &[usize],
    bytes: u64,
    most: usize,
) -> Result<(), Refusal> {
    let wanted = dtype.bytes(count(name, shape)?).unwrap_or(usize::MAX) as u64;
    if bytes > most as u64 {
        return Err(misfit(name, &format!("{bytes} bytes; a request has {most} at most")));
    }
    if dtype != DType::String && bytes != wanted {
        return Err(misfit(name, &format!("wanted {wanted} bytes for {shape:?}, got {bytes}")));
    }
    Ok(())
}

/// A tensor of bytes, little endian and row-major; they are not copied. Strings have their lengths
/// before them, 32 bits each.
pub(crate) fn from_bytes(
    name: &str,
    dtype: DType,
    shape: &[usize],
    bytes: Bytes,
) -> Result<Tensor, Refusal> {
    let wanted = count(name, shape)?;
    if dtype == DType::String {
        let texts = strings(name, wanted, &bytes)?;
        return Tensor::from_strings(shape, texts).map_err(|error| misfit(name, &error));
    }
    let wanted = dtype.bytes(wanted).unwrap_or(usize::MAX);
    if wanted != bytes.len() {
        let text = format!("wanted {wanted} bytes for {shape:?}, got {}", bytes.len());
        return Err(misfit(name, &text));
    }
    Tensor::from_blob(dtype, shape, Blob::owned(bytes)).map_err(|error| misfit(name, &error))
}

fn strings(name: &str, wanted: usize, mut bytes: &[u8]) -> Result<Vec<String>, Refusal> {
    let mut texts = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((text, rest)) = rest.split_at_checked(length) else {
            return Err(misfit(name, &"a string is cut short"));
        };
        texts.push(utf8(name, text)?);
        bytes = rest;
    }
    if !bytes.is_empty() || texts.len() != wanted {
        let text = format!("wanted {wanted} strings with their lengths, got {}", texts.len());
        return Err(misfit(name, &text));
    }
    Ok(texts)
}

/// A string of an input.
pub(crate) fn utf8(name: &str, text: &[u8]) -> Result<String, Refusal> {
    let text = std::str::from_utf8(text);
    text.map(str::to_string).map_err(|_| misfit(name, &"a string is not UTF-8"))
}

/// Holds a tensor whose bytes are sent.
struct Sent(Tensor);

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// The bytes of a tensor, as [`from_bytes`] takes them; only those of strings are copied.
pub(crate) fn to_bytes(tensor: &Tensor) -> Result<Bytes, Refusal> {
    if let Ok(texts) = tensor.as_strings() {
        let mut bytes = BytesMut::new();
        for text in texts {
            let long = |_| Refusal::new(Kind::Failed, "an output's string is too long");
            bytes.put_u32_le(u32::try_from(text.len()).map_err(long)?);
            bytes.put_slice(text.as_bytes());
        }
        return Ok(bytes.freeze());
    }
    tensor.fetch().map_err(|error| Refusal::new(Kind::Failed, error.to_string()))?;
    Ok(Bytes::from_owner(Sent(tensor.clone())))
}

/// A tensor of numbers, truth values or strings in JSON, nested as the shape or flat.
pub(crate) fn from_json(
    name: &str,
    dtype: DType,
    shape: &[usize],
    data: &Value,
) -> Result<Tensor, Refusal> {
    let wanted = count(name, shape)?;
    let mut flat = Vec::new();
    flatten(data, &mut flat);
    if flat.len() != wanted {
        let text = format!("wanted {wanted} elements for {shape:?}, got {}", flat.len());
        return Err(misfit(name, &text));
    }
    if dtype == DType::String {
        let text = |one: &&Value| one.as_str().map(str::to_string);
        let texts: Option<Vec<String>> = flat.iter().map(text).collect();
        let texts = texts.ok_or_else(|| misfit(name, &"wanted strings"))?;
        return Tensor::from_strings(shape, texts).map_err(|error| misfit(name, &error));
    }
    let mut bytes = Vec::with_capacity(wanted.saturating_mul(dtype.bits() / 8));
    for one in flat {
        let put = put_number(dtype, one, &mut bytes);
        put.ok_or_else(|| {
            let wanted = dtypes::name(dtype).unwrap_or_default();
            misfit(name, &format!("`{one}` is no {wanted} (in JSON)"))
        })?;
    }
    Tensor::from_bytes(dtype, shape, &bytes).map_err(|error| misfit(name, &error))
}

fn flatten<'a>(data: &'a Value, flat: &mut Vec<&'a Value>) {
    match data {
        // The reader of JSON bounds how deep these are.
        Value::Array(items) => items.iter().for_each(|item| flatten(item, flat)),
        one => flat.push(one),
    }
}

/// Appends a number; none where the type cannot hold it, or has no form in JSON.
fn put_number(dtype: DType, one: &Value, bytes: &mut Vec<u8>) -> Option<()> {
    fn whole<T: TryFrom<i128>>(one: &Value) -> Option<T> {
        let number = one.as_i64().map(i128::from).or_else(|| one.as_u64().map(i128::from));
        T::try_from(number?).ok()
    }
    match dtype {
        DType::Bool => bytes.push(u8::from(one.as_bool()?)),
        DType::U8 => bytes.extend(whole::<u8>(one)?.to_le_bytes()),
        DType::U16 => bytes.extend(whole::<u16>(one)?.to_le_bytes()),
        DType::U32 => bytes.extend(whole::<u32>(one)?.to_le_bytes()),
        DType::U64 => bytes.extend(whole::<u64>(one)?.to_le_bytes()),
        DType::I8 => bytes.extend(whole::<i8>(one)?.to_le_bytes()),
        DType::I16 => bytes.extend(whole::<i16>(one)?.to_le_bytes()),
        DType::I32 => bytes.extend(whole::<i32>(one)?.to_le_bytes()),
        DType::I64 => bytes.extend(whole::<i64>(one)?.to_le_bytes()),
        DType::F32 => bytes.extend((one.as_f64()? as f32).to_le_bytes()),
        DType::F64 => bytes.extend(one.as_f64()?.to_le_bytes()),
        _ => return None,
    }
    Some(())
}

/// A tensor of the typed lists that a message may have instead of bytes.
pub(crate) fn from_contents(
    name: &str,
    dtype: DType,
    shape: &[usize],
    contents: Contents,
) -> Result<Tensor, Refusal> {
    fn narrow<From: Copy, To: TryFrom<From> + Element>(
        name: &str,
        shape: &[usize],
        values: &[From],
    ) -> Result<Tensor, Refusal> {
        let values = values.iter().map(|&one| To::try_from(one).ok()).collect::<Option<Vec<To>>>();
        let values = values.ok_or_else(|| misfit(name, &"a number is too large for its type"))?;
        Tensor::from_slice(shape, &values).map_err(|error| misfit(name, &error))
    }
    count(name, shape)?;
    match dtype {
        DType::I8 => return narrow::<i32, i8>(name, shape, &contents.ints),
        DType::I16 => return narrow::<i32, i16>(name, shape, &contents.ints),
        DType::U8 => return narrow::<u32, u8>(name, shape, &contents.uints),
        DType::U16 => return narrow::<u32, u16>(name, shape, &contents.uints),
        _ => {}
    }
    let made = match dtype {
        DType::Bool => Tensor::from_bools(shape, &contents.bools),
        DType::I32 => Tensor::from_slice(shape, &contents.ints),
        DType::I64 => Tensor::from_slice(shape, &contents.longs),
        DType::U32 => Tensor::from_slice(shape, &contents.uints),
        DType::U64 => Tensor::from_slice(shape, &contents.ulongs),
        DType::F32 => Tensor::from_slice(shape, &contents.floats),
        DType::F64 => Tensor::from_slice(shape, &contents.doubles),
        DType::String => {
            let texts = contents.texts.iter().map(|text| utf8(name, text));
            Tensor::from_strings(shape, texts.collect::<Result<_, _>>()?)
        }
        _ => {
            let dtype = dtypes::name(dtype).unwrap_or_default();
            return Err(misfit(name, &format!("{dtype} goes as bytes only")));
        }
    };
    made.map_err(|error| misfit(name, &error))
}

/// The elements of a tensor in JSON, flat. JSON has no infinities: they are `null`, as NaN is.
pub(crate) fn to_json(name: &str, tensor: &Tensor) -> Result<Value, Refusal> {
    fn list<T: Element + Into<Value>>(tensor: &Tensor) -> Option<Value> {
        let items = tensor.as_slice::<T>().ok()?;
        Some(Value::Array(items.iter().map(|&one| one.into()).collect()))
    }
    let made = match tensor.dtype() {
        DType::Bool => tensor.as_bools().ok().map(|all| all.iter().map(|&one| one != 0).collect()),
        DType::String => tensor.as_strings().ok().map(|all| all.iter().cloned().collect()),
        DType::U8 => list::<u8>(tensor),
        DType::U16 => list::<u16>(tensor),
        DType::U32 => list::<u32>(tensor),
        DType::U64 => list::<u64>(tensor),
        DType::I8 => list::<i8>(tensor),
        DType::I16 => list::<i16>(tensor),
        DType::I32 => list::<i32>(tensor),
        DType::I64 => list::<i64>(tensor),
        DType::F32 => list::<f32>(tensor),
        DType::F64 => list::<f64>(tensor),
        _ => None,
    };
    made.ok_or_else(|| {
        let dtype = dtypes::name(tensor.dtype()).unwrap_or_default();
        let text = format!("output `{name}` is {dtype}, which JSON does not have: ask for bytes");
        Refusal::invalid(text)
    })
}

/// Tensors of the same type and shape behind their first axis as one, along it.
pub(crate) fn join(parts: &[&Tensor]) -> Result<Tensor, Refusal> {
    let failed = |error: hetra::TensorError| Refusal::new(Kind::Failed, error.to_string());
    let [first, ..] = parts else { return Err(Refusal::new(Kind::Failed, "an empty batch")) };
    let mut shape = first.shape().to_vec();
    shape[0] = parts.iter().map(|part| part.shape()[0]).sum();
    if first.dtype() == DType::String {
        let mut texts = Vec::new();
        for part in parts {
            texts.extend_from_slice(part.as_strings().map_err(failed)?);
        }
        return Tensor::from_strings(&shape, texts).map_err(failed);
    }
    let mut whole = Tensor::zeros(first.dtype(), &shape).map_err(failed)?;
    let mut at = 0;
    let to = whole.bytes_mut().map_err(failed)?;
    for part in parts {
        let bytes = part.bytes();
        to[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    }
    Ok(whole)
}

/// Rows of a tensor.
pub(crate) fn rows(whole: &Tensor, from: usize, count: usize) -> Result<Tensor, Refusal> {
    let failed = |error: hetra::TensorError| Refusal::new(Kind::Failed, error.to_string());
    let mut shape = whole.shape().to_vec();
    let all = shape[0].max(1);
    shape[0] = count;
    if let Ok(texts) = whole.as_strings() {
        let row = texts.len() / all;
        let part = texts[from * row..(from + count) * row].to_vec();
        return Tensor::from_strings(&shape, part).map_err(failed);
    }
    let row = whole.byte_len() / all;
    let part = &whole.bytes()[from * row..(from + count) * row];
    Tensor::from_bytes(whole.dtype(), &shape, part).map_err(failed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
        result.unwrap_err().text
    }

    #[test]
    fn bytes_and_json_lead_back() {
        for tensor in [
            Tensor::from_slice(&[2, 2], &[1.5f32, -2.0, 3.0, 4.0]).unwrap(),
            Tensor::from_slice(&[3], &[i64::MIN, 0, i64::MAX]).unwrap(),
            Tensor::from_bools(&[2], &[true, false]).unwrap(),
            Tensor::from_strings(&[2], vec!["a".into(), "äö".into()]).unwrap(),
            Tensor::from_slice(&[2], &[u64::MAX, 1]).unwrap(),
        ] {
            let (dtype, shape) = (tensor.dtype(), tensor.shape());
            let bytes = to_bytes(&tensor).unwrap();
            assert_eq!(from_bytes("x", dtype, shape, bytes).unwrap(), tensor);
            let json = to_json("x", &tensor).unwrap();
            assert_eq!(from_json("x", dtype, shape, &json).unwrap(), tensor);
        }
        let nested = from_json("x", DType::I8, &[2, 2], &json!([[1, 2], [3, 4]])).unwrap();
        assert_eq!(nested, Tensor::from_slice(&[2, 2], &[1i8, 2, 3, 4]).unwrap());
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let bytes = |shape: &[usize], bytes: &'static [u8]| {
            error(from_bytes("x", DType::F32, shape, Bytes::from_static(bytes)))
        };
        assert_eq!(bytes(&[2], &[0; 7]), "input `x`: wanted 8 bytes for [2], got 7");
        assert!(bytes(&[usize::MAX, 2], &[]).contains("too large"));
        let texts = |bytes: &'static [u8]| {
            error(from_bytes("x", DType::String, &[1], Bytes::from_static(bytes)))
        };
        assert!(texts(&[9, 0, 0, 0, 1]).contains("cut short"));
        assert!(texts(&[1, 0, 0, 0, 0xff]).contains("not UTF-8"));
        assert!(texts(&[0, 0, 0, 0, 0, 0, 0, 0]).contains("wanted 1 strings"));
        let json = |dtype, data| error(from_json("x", dtype, &[1], &data));
        assert_eq!(json(DType::U8, json!([256])), "input `x`: `256` is no UINT8 (in JSON)");
        assert!(json(DType::F16, json!([1])).contains("no FP16"));
        assert!(json(DType::I32, json!([1, 2])).contains("wanted 1 elements for [1], got 2"));
        let size = |bytes| check_size("x", DType::F32, &[2], bytes, 16);
        assert!(size(8).is_ok());
        assert!(error(size(4)).contains("wanted 8 bytes for [2], got 4"));
        assert!(error(size(17)).contains("16 at most"));
        assert!(error(stated("x", "FP8", &[1])).contains("no datatype `FP8`"));
        assert!(error(stated("x", "FP32", &[-1])).contains("the shape [-1] is none"));
    }

    #[test]
    fn typed_lists_are_read() {
        let read = |dtype, contents| from_contents("x", dtype, &[2], contents);
        let ints = Contents { ints: vec![1, -2], ..Contents::default() };
        let wanted = Tensor::from_slice(&[2], &[1i8, -2]).unwrap();
        assert_eq!(read(DType::I8, ints.clone()).unwrap(), wanted);
        assert!(error(read(DType::F32, ints.clone())).contains("input `x`"));
        assert!(error(read(DType::F16, ints)).contains("FP16 goes as bytes only"));
        let large = Contents { uints: vec![1, 256], ..Contents::default() };
        assert!(error(read(DType::U8, large)).contains("too large"));
    }

    #[test]
    fn rows_are_joined_and_cut() {
        let a = Tensor::from_slice(&[1, 2], &[1i32, 2]).unwrap();
        let b = Tensor::from_slice(&[2, 2], &[3i32, 4, 5, 6]).unwrap();
        let whole = join(&[&a, &b]).unwrap();
        assert_eq!(whole, Tensor::from_slice(&[3, 2], &[1i32, 2, 3, 4, 5, 6]).unwrap());
        assert_eq!((rows(&whole, 0, 1).unwrap(), rows(&whole, 1, 2).unwrap()), (a, b));
        let text = |all: &[&str]| {
            let texts = all.iter().map(|one| one.to_string()).collect();
            Tensor::from_strings(&[all.len()], texts).unwrap()
        };
        let whole = join(&[&text(&["a"]), &text(&["b", "c"])]).unwrap();
        assert_eq!(rows(&whole, 1, 2).unwrap(), text(&["b", "c"]));
    }
}
