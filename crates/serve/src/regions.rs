//! Shared memory of the system that clients put tensors in: files of `/dev/shm`.
//!
//! They are read and written, not mapped: a client that cuts its file short cannot end the server.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::error::{Kind, Refusal};

/// Where the system keeps shared memory.
const FOLDER: &str = "/dev/shm";
/// Regions at most.
const REGIONS_MAX: usize = 1024;

/// A part of a file of shared memory.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) key: String,
    pub(crate) offset: u64,
    pub(crate) byte_size: u64,
    file: File,
}

/// The regions that clients have registered, by name.
#[derive(Debug, Default)]
pub(crate) struct Regions(Mutex<BTreeMap<String, Arc<Region>>>);

/// Where a tensor lies: a region, and bytes of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) region: String,
    pub(crate) offset: u64,
    pub(crate) byte_size: u64,
}

impl Regions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Region>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a region.
    pub(crate) fn register(
        &self,
        name: &str,
        key: &str,
        offset: u64,
        byte_size: u64,
    ) -> Result<(), Refusal> {
        let file_name = key.strip_prefix('/').unwrap_or(key);
        if name.is_empty() || file_name.is_empty() || file_name.contains(['/', '\0']) {
            return Err(Refusal::invalid(format!("no name or key of shared memory: `{key}`")));
        }
        if file_name == ".." || file_name == "." {
            return Err(Refusal::invalid(format!("no key of shared memory: `{key}`")));
        }
        let mut regions = self.lock();
        if regions.contains_key(name) {
            return Err(Refusal::invalid(format!("the region `{name}` is registered already")));
        }
        if regions.len() >= REGIONS_MAX {
            return Err(Refusal::invalid(format!("there are {REGIONS_MAX} regions already")));
        }
        let path = Path::new(FOLDER).join(file_name);
        let told = |error: std::io::Error| Refusal::invalid(format!("`{key}`: {error}"));
        // A link may lead to what is the server's own; what is no plain file would block.
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(&path).map_err(told)?;
        let meta = file.metadata().map_err(told)?;
        if !meta.is_file() {
            return Err(Refusal::invalid(format!("`{key}` is no shared memory")));
        }
        let length = meta.len();
        if offset.checked_add(byte_size).is_none_or(|end| end > length) {
            let text = format!("`{key}` has {length} bytes, not {byte_size} from {offset} on");
            return Err(Refusal::invalid(text));
        }
        let region = Region { key: key.to_string(), offset, byte_size, file };
        regions.insert(name.to_string(), Arc::new(region));
        Ok(())
    }

    /// Forgets a region, or with no name all of them. One that is not there is forgotten already.
    pub(crate) fn unregister(&self, name: &str) {
        match name {
            "" => self.lock().clear(),
            name => drop(self.lock().remove(name)),
        }
    }

    /// The region of a name, or with no name all of them.
    pub(crate) fn list(&self, name: &str) -> Result<Vec<(String, Arc<Region>)>, Refusal> {
        if !name.is_empty() {
            return Ok(vec![(name.to_string(), self.get(name)?)]);
        }
        Ok(self.lock().iter().map(|(name, one)| (name.clone(), one.clone())).collect())
    }

    fn get(&self, name: &str) -> Result<Arc<Region>, Refusal> {
        let text = || format!("there is no region `{name}` of shared memory");
        self.lock().get(name).cloned().ok_or_else(|| Refusal::new(Kind::NotFound, text()))
    }

    fn at(&self, place: &Place) -> Result<(Arc<Region>, u64), Refusal> {
        let region = self.get(&place.region)?;
        let end = place.offset.checked_add(place.byte_size);
        if end.is_none_or(|end| end > region.byte_size) {
            let Place { region: name, offset, byte_size } = place;
            let text = format!(
                "the region `{name}` has {} bytes, not {byte_size} from {offset} on",
                region.byte_size
            );
            return Err(Refusal::invalid(text));
        }
        let from = region.offset + place.offset;
        Ok((region, from))
    }

    /// Reads bytes.
    pub(crate) fn read(&self, place: &Place) -> Result<Bytes, Refusal> {
        let (region, from) = self.at(place)?;
        let mut bytes = vec![0; place.byte_size as usize];
        let read = region.file.read_exact_at(&mut bytes, from);
        read.map_err(|error| Refusal::invalid(format!("`{}`: {error}", place.region)))?;
        Ok(bytes.into())
    }

    /// Writes bytes; `place` says how many there may be.
    pub(crate) fn write(&self, place: &Place, bytes: &[u8]) -> Result<(), Refusal> {
        if bytes.len() as u64 > place.byte_size {
            let text = format!("an output has {} bytes, not {}", bytes.len(), place.byte_size);
            return Err(Refusal::invalid(text));
        }
        let (region, from) = self.at(place)?;
        // Beyond the file's end nothing is written: the file is the client's, also its length.
        let length = region.file.metadata().map(|meta| meta.len()).unwrap_or(0);
        if from + bytes.len() as u64 > length {
            return Err(Refusal::invalid(format!("`{}` was cut short", place.region)));
        }
        let written = region.file.write_all_at(bytes, from);
        written.map_err(|error| Refusal::invalid(format!("`{}`: {error}", place.region)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_lie_in_files() {
        let key = format!("hetra-test-{}", std::process::id());
        let path = Path::new(FOLDER).join(&key);
        std::fs::write(&path, [0; 16]).unwrap();
        let regions = Regions::default();
        regions.register("r", &key, 4, 12).unwrap();
        let place = |offset, byte_size| Place { region: "r".into(), offset, byte_size };
        regions.write(&place(4, 4), &[1, 2, 3, 4]).unwrap();
        assert_eq!(&regions.read(&place(2, 6)).unwrap()[..], [0, 0, 1, 2, 3, 4]);
        assert_eq!(std::fs::read(&path).unwrap()[8..12], [1, 2, 3, 4]);

        let text = |result: Result<(), Refusal>| result.unwrap_err().text;
        assert!(text(regions.write(&place(0, 2), &[0; 3])).contains("3 bytes, not 2"));
        assert!(text(regions.read(&place(8, 5)).map(drop)).contains("has 12 bytes, not 5"));
        assert!(text(regions.read(&place(u64::MAX, 5)).map(drop)).contains("has 12 bytes"));
        assert!(text(regions.register("r", &key, 0, 1)).contains("already"));
        assert!(text(regions.register("s", &key, 8, 9)).contains("has 16 bytes"));
        assert!(text(regions.register("s", "../x", 0, 1)).contains("no name or key"));
        assert!(text(regions.register("s", "..", 0, 1)).contains("no key"));
        let link = path.with_extension("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let linked = regions.register("s", &format!("{key}.link"), 0, 1);
        std::fs::remove_file(link).unwrap();
        assert!(text(linked).contains("link"));
        std::fs::write(&path, [0; 6]).unwrap();
        assert!(text(regions.write(&place(4, 4), &[0; 4])).contains("cut short"));
        regions.unregister("r");
        assert!(regions.list("").unwrap().is_empty());
        assert_eq!(regions.list("r").unwrap_err().kind, Kind::NotFound);
        std::fs::remove_file(path).unwrap();
    }
}
