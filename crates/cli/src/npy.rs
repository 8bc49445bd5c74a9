//! NumPy files: one array (.npy) or several in a zip (.npz).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use hetra_tensor::{DType, Tensor};

/// Most bytes of one array that is read.
const ARRAY_BYTES_MAX: u64 = 4 << 30;
const MAGIC: &[u8] = b"\x93NUMPY";

/// NumPy's name of a dtype without its byte order, for those it has, and the bytes of what may
/// stand in either order: half an element of a complex number.
const NAMES: &[(&str, DType, usize)] = &[
    ("f4", DType::F32, 4),
    ("f8", DType::F64, 8),
    ("f2", DType::F16, 2),
    ("i1", DType::I8, 1),
    ("i2", DType::I16, 2),
    ("i4", DType::I32, 4),
    ("i8", DType::I64, 8),
    ("u1", DType::U8, 1),
    ("u2", DType::U16, 2),
    ("u4", DType::U32, 4),
    ("u8", DType::U64, 8),
    ("b1", DType::Bool, 1),
    ("c8", DType::C64, 4),
    ("c16", DType::C128, 8),
];

/// Reads the bytes of a .npy file.
pub(crate) fn read(bytes: &[u8]) -> Result<Tensor> {
    ensure!(bytes.starts_with(MAGIC) && bytes.len() >= 12, "not a .npy file");
    let (length, start) = match bytes[6] {
        1 => (usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), 10),
        2 | 3 => (u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize, 12),
        version => bail!("version {version} of .npy is not known"),
    };
    let end = start + length;
    let header = bytes.get(start..end).context("the .npy header is cut off")?;
    let header = std::str::from_utf8(header).context("the .npy header is not text")?;
    let structured = after(header, "descr").is_some_and(|rest| rest.starts_with('['));
    ensure!(!structured, "its elements are records (a structured dtype), not numbers or strings");
    let descr = quoted(header, "descr").context("the .npy header has no descr")?;
    let fortran = after(header, "fortran_order").is_some_and(|rest| rest.starts_with("True"));
    let mut shape = shape(header)?;
    let turned = fortran && shape.len() > 1;
    if turned {
        shape.reverse();
    }
    let tensor = elements(descr, &shape, &bytes[end..])?;
    if !turned {
        return Ok(tensor);
    }
    let axes: Vec<usize> = (0..shape.len()).rev().collect();
    Ok(tensor.view().permute(&axes)?.to_tensor()?)
}

/// The elements of an array, in either byte order.
fn elements(descr: &str, shape: &[usize], body: &[u8]) -> Result<Tensor> {
    let (big, name) = match descr.strip_prefix('>') {
        Some(name) => (true, name),
        None => (false, descr.trim_start_matches(['<', '|', '='])),
    };
    if let Some(length) = name.strip_prefix('U') {
        let length = length.parse().with_context(|| format!("dtype `{descr}` is malformed"))?;
        return strings(shape, length, body, big);
    }
    let (_, dtype, word) = NAMES
        .iter()
        .find(|(known, ..)| *known == name)
        .with_context(|| format!("dtype `{descr}` is not supported"))?;
    if !big || *word == 1 {
        return Ok(Tensor::from_bytes(*dtype, shape, body)?);
    }
    let mut swapped = body.to_vec();
    swapped.chunks_exact_mut(*word).for_each(<[u8]>::reverse);
    Ok(Tensor::from_bytes(*dtype, shape, &swapped)?)
}

/// Strings of `length` code points of four bytes, filled up with zeros.
fn strings(shape: &[usize], length: usize, body: &[u8], big: bool) -> Result<Tensor> {
    let count = hetra_tensor::element_count(shape)?;
    let wanted = count.checked_mul(length).and_then(|points| points.checked_mul(4));
    // Strings of no length would be free, however many.
    let bounded = length > 0 || count == 0;
    ensure!(bounded && wanted == Some(body.len()), "the array has {} bytes of text", body.len());
    let point = |bytes: &[u8; 4]| {
        let code = if big { u32::from_be_bytes(*bytes) } else { u32::from_le_bytes(*bytes) };
        char::from_u32(code).context("the array has a code point that is none")
    };
    let points = body.as_chunks::<4>().0;
    let text = |index: usize| -> Result<String> {
        let points = &points[index * length..(index + 1) * length];
        let text: String = points.iter().map(point).collect::<Result<_>>()?;
        Ok(text.trim_end_matches('\0').to_string())
    };
    let texts = (0..count).map(text).collect::<Result<Vec<String>>>()?;
    Ok(Tensor::from_strings(shape, texts)?)
}

/// NumPy's name and bytes of an array of strings: as wide as the longest.
fn string_bytes(texts: &[String]) -> Result<(String, Vec<u8>)> {
    let length = texts.iter().map(|text| text.chars().count()).max().unwrap_or(0).max(1);
    let bytes = (length as u64).checked_mul(4).and_then(|b| b.checked_mul(texts.len() as u64));
    ensure!(bytes.is_some_and(|bytes| bytes <= ARRAY_BYTES_MAX), "its strings are too long");
    let mut body = Vec::new();
    for text in texts {
        let points = text.chars().map(u32::from).chain(std::iter::repeat(0)).take(length);
        points.for_each(|point| body.extend(point.to_le_bytes()));
    }
    Ok((format!("<U{length}"), body))
}

fn after<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let rest = &header[header.find(&format!("'{key}'"))? + key.len() + 2..];
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

fn quoted<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    after(header, key)?.strip_prefix('\'')?.split('\'').next()
}

fn shape(header: &str) -> Result<Vec<usize>> {
    let rest = after(header, "shape").context("the .npy header has no shape")?;
    let inner = rest.strip_prefix('(').and_then(|rest| rest.split(')').next());
    let inner = inner.context("the .npy shape is malformed")?;
    let extents = inner.split(',').map(str::trim).filter(|part| !part.is_empty());
    extents.map(|part| part.parse::<usize>().context("the .npy shape is malformed")).collect()
}

/// NumPy's name and bytes of a tensor. What NumPy cannot name becomes f32.
fn body(tensor: &Tensor) -> Result<(String, Cow<'_, [u8]>)> {
    if tensor.dtype() == DType::String {
        let (descr, bytes) = string_bytes(tensor.as_strings()?)?;
        return Ok((descr, bytes.into()));
    }
    if let Some((name, _, word)) = NAMES.iter().find(|(_, dtype, _)| *dtype == tensor.dtype()) {
        let order = if *word == 1 { '|' } else { '<' };
        return Ok((format!("{order}{name}"), tensor.bytes().into()));
    }
    let rounding = hetra_tensor::Rounding::NearestEven;
    let tensor = hetra_tensor::cast(tensor, DType::F32, true, rounding)?;
    Ok(("<f4".to_string(), tensor.bytes().to_vec().into()))
}

/// The bytes of a .npy file.
fn write(tensor: &Tensor) -> Result<Vec<u8>> {
    let (descr, body) = body(tensor)?;
    let extents: Vec<String> = tensor.shape().iter().map(|extent| format!("{extent},")).collect();
    let shape = extents.concat();
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.push_str(&" ".repeat(padded - header.len() - 1));
    header.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend(u16::try_from(header.len()).context("too many axes")?.to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The names of the arrays of a .npz file.
pub(crate) fn names(path: &Path) -> Result<Vec<String>> {
    let archive = zip::ZipArchive::new(File::open(path)?)?;
    Ok(archive.file_names().map(|name| name.trim_end_matches(".npy").to_string()).collect())
}

/// Reads a .npz file: arrays by name.
pub(crate) fn read_archive(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut archive = zip::ZipArchive::new(File::open(path)?)?;
    let mut arrays = BTreeMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index(index)?;
        let name = entry.name().trim_end_matches(".npy").to_string();
        ensure!(entry.size() <= ARRAY_BYTES_MAX, "array `{name}` is too large");
        let mut bytes = Vec::new();
        entry.take(ARRAY_BYTES_MAX).read_to_end(&mut bytes)?;
        let tensor = read(&bytes).with_context(|| format!("array `{name}`"))?;
        arrays.insert(name, tensor);
    }
    Ok(arrays)
}

/// Writes a .npz file.
pub(crate) fn write_archive<'a>(
    path: &Path,
    arrays: impl Iterator<Item = (&'a str, &'a Tensor)>,
) -> Result<()> {
    let mut archive = zip::ZipWriter::new(File::create(path)?);
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, tensor) in arrays {
        archive.start_file(format!("{name}.npy"), options)?;
        archive.write_all(&write(tensor).with_context(|| format!("output `{name}`"))?)?;
    }
    archive.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_come_back() {
        for tensor in [
            Tensor::from_slice(&[2, 3], &[1.5f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap(),
            Tensor::scalar(7i64),
            Tensor::from_bools(&[2], &[true, false]).unwrap(),
            Tensor::from_strings(&[3], ["", "Grüße", "a"].map(str::to_string).to_vec()).unwrap(),
            Tensor::from_strings(&[0], Vec::new()).unwrap(),
        ] {
            assert_eq!(read(&write(&tensor).unwrap()).unwrap(), tensor);
        }
    }

    #[test]
    fn either_byte_order_is_read() {
        let file = |descr: &str, body: &[u8]| {
            let shape = body.len() / if descr.ends_with("16") { 16 } else { 4 };
            let header =
                format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape},), }}");
            let mut bytes = MAGIC.to_vec();
            bytes.extend([1, 0]);
            bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
            bytes.extend(header.as_bytes());
            bytes.extend(body);
            read(&bytes).unwrap()
        };
        let body = [1.5f32.to_be_bytes(), (-2.0f32).to_be_bytes()].concat();
        assert_eq!(file(">f4", &body), Tensor::vector(&[1.5f32, -2.0]));
        let pair = |swap: bool| {
            let halves =
                [1.0f64, 2.0].map(|v| if swap { v.to_be_bytes() } else { v.to_le_bytes() });
            halves.concat()
        };
        assert_eq!(file(">c16", &pair(true)), file("<c16", &pair(false)));
        assert_eq!(file(">U1", &[0, 0, 0, 65]), file("<U1", &[65, 0, 0, 0]));
    }

    #[test]
    fn records_are_named() {
        let header = "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }";
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend([0; 12]);
        assert!(read(&bytes).unwrap_err().to_string().contains("structured dtype"));
    }

    #[test]
    fn malformed_files_are_errors() {
        let strings = Tensor::from_strings(&[2], ["ab", "c"].map(str::to_string).to_vec());
        for tensor in [Tensor::vector(&[1.0f32; 4]), strings.unwrap()] {
            let good = write(&tensor).unwrap();
            for cut in 0..good.len() {
                assert!(read(&good[..cut]).is_err());
            }
        }
    }
}
