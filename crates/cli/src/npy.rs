//! NumPy files: one array (.npy) or several in a zip (.npz).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use hetra_tensor::{DType, Tensor};

/// Most bytes of one array that is read.
const ARRAY_BYTES_MAX: u64 = 4 << 30;
const MAGIC: &[u8] = b"\x93NUMPY";

/// NumPy's name of a dtype, for those it has.
const NAMES: &[(&str, DType)] = &[
    ("<f4", DType::F32),
    ("<f8", DType::F64),
    ("<f2", DType::F16),
    ("|i1", DType::I8),
    ("<i2", DType::I16),
    ("<i4", DType::I32),
    ("<i8", DType::I64),
    ("|u1", DType::U8),
    ("<u2", DType::U16),
    ("<u4", DType::U32),
    ("<u8", DType::U64),
    ("|b1", DType::Bool),
    ("<c8", DType::C64),
    ("<c16", DType::C128),
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
    let descr = quoted(header, "descr").context("the .npy header has no descr")?;
    let dtype = NAMES
        .iter()
        .find(|(name, _)| *name == descr || name.trim_start_matches(['<', '|']) == descr)
        .map(|(_, dtype)| *dtype)
        .with_context(|| format!("dtype `{descr}` is not supported"))?;
    let fortran = after(header, "fortran_order").is_some_and(|rest| rest.starts_with("True"));
    let shape = shape(header)?;
    let body = &bytes[end..];
    if !fortran || shape.len() < 2 {
        return Ok(Tensor::from_bytes(dtype, &shape, body)?);
    }
    let reversed: Vec<usize> = shape.iter().rev().copied().collect();
    let axes: Vec<usize> = (0..shape.len()).rev().collect();
    Ok(Tensor::from_bytes(dtype, &reversed, body)?.view().permute(&axes)?.to_tensor()?)
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

/// The bytes of a .npy file.
fn write(tensor: &Tensor) -> Result<Vec<u8>> {
    let named = NAMES.iter().find(|(_, dtype)| *dtype == tensor.dtype());
    // What NumPy cannot name is written as f32, except strings.
    let (descr, tensor) = match named {
        Some((descr, _)) => (*descr, tensor.clone()),
        None => {
            let rounding = hetra_tensor::Rounding::NearestEven;
            ("<f4", hetra_tensor::cast(tensor, DType::F32, true, rounding)?)
        }
    };
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
    bytes.extend(tensor.bytes());
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
        ] {
            assert_eq!(read(&write(&tensor).unwrap()).unwrap(), tensor);
        }
    }

    #[test]
    fn malformed_files_are_errors() {
        let good = write(&Tensor::vector(&[1.0f32; 4])).unwrap();
        for cut in 0..good.len() {
            assert!(read(&good[..cut]).is_err());
        }
    }
}
