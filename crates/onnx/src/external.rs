//! Tensor data in other files, which must lie in the model's folder.
//!
//! Where the model is a link, its folder is both the one of the link and the one of the file it
//! leads to: a cache of downloads keeps files under their hash in one folder, and links with
//! their names, to the model and its data alike, in another.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use hetra_tensor::Blob;

/// How often the whole of a file may be read: tensors may share a part, but a small file must
/// not fill the memory.
const TIMES_MAX: u64 = 4;

/// The folder of a model.
pub(crate) struct Folder {
    /// Where the model is named, and behind it where it really lies if it is a link.
    paths: Vec<PathBuf>,
    files: RefCell<HashMap<PathBuf, Data>>,
}

/// A file of data.
struct Data {
    file: File,
    len: u64,
    /// All of it, where it is mapped.
    map: Option<Blob>,
    /// Bytes read of it.
    read: u64,
}

impl Data {
    fn open(path: &Path) -> std::io::Result<Data> {
        let file = File::open(path)?;
        let (map, len) = (Blob::map(&file)?, file.metadata()?.len());
        Ok(Data { file, len, map, read: 0 })
    }

    fn part(&mut self, offset: u64, length: u64) -> Result<Blob, String> {
        let size = usize::try_from(length).map_err(|error| error.to_string())?;
        if let Some(map) = &self.map {
            let start = usize::try_from(offset).map_err(|error| error.to_string())?;
            let part = start.checked_add(size).and_then(|end| map.part(start..end));
            return part.ok_or_else(|| "it has become shorter".to_string());
        }
        self.file.seek(SeekFrom::Start(offset)).map_err(|error| error.to_string())?;
        let mut bytes = Vec::with_capacity(size);
        let mut part = (&self.file).take(length);
        part.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes.into())
    }
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
        Ok(Folder { paths, files: RefCell::default() })
    }

    /// Reads `length` bytes (or all that is left) from `offset` of the file at `location`.
    pub(crate) fn read(
        &self,
        location: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Blob, String> {
        let path = self.resolve(location)?;
        let mut files = self.files.borrow_mut();
        let file = match files.entry(path) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let file = Data::open(entry.key()).map_err(|error| error.to_string())?;
                entry.insert(file)
            }
        };
        let left = file.len.checked_sub(offset);
        let length = match (left, length) {
            (Some(left), None) => left,
            (Some(left), Some(length)) if length <= left => length,
            _ => {
                let wanted = length.map_or(String::new(), |length| format!("{length} bytes "));
                return Err(format!("wanted {wanted}at {offset}, it has {} bytes", file.len));
            }
        };
        let size = usize::try_from(length).map_err(|error| error.to_string())?;
        if size > hetra_tensor::bytes_max() {
            return Err(format!("{size} bytes are over the limit"));
        }
        file.read = file.read.saturating_add(length);
        if file.read > file.len.saturating_mul(TIMES_MAX) {
            return Err(format!("it is read more than {TIMES_MAX} times over"));
        }
        file.part(offset, length)
    }

    /// The files that were read, in order.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.files.borrow().keys().cloned().collect();
        files.sort();
        files
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
