//! Tensor data in other files, which must lie in the model's folder.
//!
//! Where the model is a link, its folder is both the one of the link and the one of the file it
//! leads to: a cache of downloads keeps files under their hash in one folder, and links with
//! their names, to the model and its data alike, in another.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// How often the whole of a file may be read: tensors may share a part, but a small file must
/// not fill the memory.
const TIMES_MAX: u64 = 4;

/// The folder of a model.
pub(crate) struct Folder {
    /// Where the model is named, and behind it where it really lies if it is a link.
    paths: Vec<PathBuf>,
    /// Bytes read of each file.
    read: RefCell<HashMap<PathBuf, u64>>,
}

impl Folder {
    /// The folder that `file` lies in.
    ///
    /// # Errors
    /// When there is no such file.
    pub(crate) fn of(file: &Path) -> std::io::Result<Folder> {
        let named = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let mut paths = vec![named.unwrap_or(Path::new(".")).canonicalize()?];
        let real = file.canonicalize()?.parent().map(Path::to_path_buf);
        paths.extend(real.filter(|real| *real != paths[0]));
        Ok(Folder { paths, read: RefCell::default() })
    }

    /// Reads `length` bytes (or all that is left) from `offset` of the file at `location`.
    pub(crate) fn read(
        &self,
        location: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Vec<u8>, String> {
        let path = self.resolve(location)?;
        let mut file = File::open(&path).map_err(|error| error.to_string())?;
        let meta = file.metadata().map_err(|error| error.to_string())?;
        if !meta.is_file() {
            return Err("it is no file".to_string());
        }
        let left = meta.len().checked_sub(offset);
        let length = match (left, length) {
            (Some(left), None) => left,
            (Some(left), Some(length)) if length <= left => length,
            _ => {
                let wanted = length.map_or(String::new(), |length| format!("{length} bytes "));
                return Err(format!("wanted {wanted}at {offset}, it has {} bytes", meta.len()));
            }
        };
        let size = usize::try_from(length).map_err(|error| error.to_string())?;
        if size > hetra_tensor::bytes_max() {
            return Err(format!("{size} bytes are over the limit"));
        }
        let mut read = self.read.borrow_mut();
        let total = read.entry(path).or_default();
        *total = total.saturating_add(length);
        if *total > meta.len().saturating_mul(TIMES_MAX) {
            return Err(format!("it is read more than {TIMES_MAX} times over"));
        }
        file.seek(SeekFrom::Start(offset)).map_err(|error| error.to_string())?;
        let mut bytes = Vec::with_capacity(size);
        file.take(length).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// The path of a location; links are followed and must end inside the folder too.
    fn resolve(&self, location: &str) -> Result<PathBuf, String> {
        let relative = Path::new(location);
        let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        // A backslash is a separator elsewhere: the same model must mean the same everywhere.
        if location.is_empty() || location.contains('\\') || !relative.components().all(inside) {
            return Err("the path must lie in the model's folder".to_string());
        }
        let mut fault = None;
        for folder in &self.paths {
            match folder.join(relative).canonicalize() {
                Ok(path) if self.paths.iter().any(|folder| path.starts_with(folder)) => {
                    return Ok(path);
                }
                Ok(_) => return Err("a link leads out of the model's folder".to_string()),
                // What is told is what is wrong where the model is named.
                Err(error) => fault = fault.or(Some(error.to_string())),
            }
        }
        Err(fault.unwrap_or_default())
    }
}
