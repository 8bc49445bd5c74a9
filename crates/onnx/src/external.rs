//! Tensor data in other files, which must lie in the model's folder.

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
    path: PathBuf,
    /// Bytes read of each file.
    read: RefCell<HashMap<PathBuf, u64>>,
}

impl Folder {
    /// The folder that `file` lies in.
    pub(crate) fn of(file: &Path) -> Folder {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        Folder { path: parent.unwrap_or(Path::new(".")).to_path_buf(), read: RefCell::default() }
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
        let folder = self.path.canonicalize().map_err(|error| error.to_string())?;
        let path = folder.join(relative).canonicalize().map_err(|error| error.to_string())?;
        match path.starts_with(&folder) {
            true => Ok(path),
            false => Err("a link leads out of the model's folder".to_string()),
        }
    }
}
