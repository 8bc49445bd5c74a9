//! Bytes that lie in a file or in memory, and parts of them, shared.
//!
//! A file is mapped where that is safe enough, so that what nobody reads takes no memory and what
//! is read once can be given back. What a mapping costs is that the file must stay as it is: its
//! bytes are read when they are needed. Whoever cuts a mapped file short ends the process with a
//! signal (SIGBUS), and whoever writes into it changes what is computed; a file that is replaced
//! (by a rename, as downloads and package managers do) is not changed. So only a file is mapped
//! that no other user may write, except the system's: they could end the process by other means as
//! well. Any other file is read. So is one below [`MAPPED_BYTES_MIN`], where a copy costs next to
//! nothing.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Smaller files are read.
const MAPPED_BYTES_MIN: u64 = 256 << 10;

/// What parts share.
enum Base {
    Memory(Vec<u8>),
    Mapped(memmap2::Mmap),
    /// Memory of somebody else.
    Owned(Box<dyn AsRef<[u8]> + Send + Sync>),
}

impl Base {
    fn bytes(&self) -> &[u8] {
        match self {
            Base::Memory(bytes) => bytes,
            Base::Mapped(map) => map,
            Base::Owned(owner) => (**owner).as_ref(),
        }
    }
}

/// A run of bytes of a file or of memory. Clones and parts share it, and keep it as it is.
#[derive(Clone)]
pub struct Blob {
    base: Arc<Base>,
    range: Range<usize>,
}

impl Blob {
    /// The bytes of somebody who keeps them, in the same place and as they are, until it is
    /// dropped.
    pub fn owned(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Blob {
        Blob::of(Base::Owned(Box::new(owner)))
    }

    /// All bytes of a file: mapped, or read where it is small or others may write it.
    ///
    /// # Errors
    /// What the system says, and a path that is no file.
    pub fn open(path: &Path) -> io::Result<Blob> {
        let mut file = File::open(path)?;
        if let Some(blob) = Blob::map(&file)? {
            return Ok(blob);
        }
        let mut bytes = Vec::new();
        let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        bytes.try_reserve_exact(len)?;
        file.read_to_end(&mut bytes)?;
        Ok(Blob::of(Base::Memory(bytes)))
    }

    /// All bytes of a file mapped; `None` where it had better be read.
    ///
    /// # Errors
    /// What the system says, and what is no file.
    pub fn map(file: &File) -> io::Result<Option<Blob>> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        if meta.len() < MAPPED_BYTES_MIN || !only_ours(&meta) {
            return Ok(None);
        }
        // SAFETY: the map is read-only and lives as long as `Base`. The file must not shrink or
        // change under it; that no other user can do so was just seen, and to this user it is
        // told (above, and at `Builder::model_file`).
        let map = unsafe { memmap2::Mmap::map(file) };
        // Some file systems have no maps.
        Ok(map.ok().map(|map| Blob::of(Base::Mapped(map))))
    }

    fn of(base: Base) -> Blob {
        let range = 0..base.bytes().len();
        Blob { base: Arc::new(base), range }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.base.bytes()[self.range.clone()]
    }

    /// Some of the bytes; `None` where there are not so many.
    pub fn part(&self, range: Range<usize>) -> Option<Blob> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let range = self.range.start + range.start..self.range.start + range.end;
        Some(Blob { base: self.base.clone(), range })
    }

    /// The part that a slice is, if it is one of these bytes in place.
    pub fn find(&self, slice: &[u8]) -> Option<Blob> {
        let start = slice.as_ptr().addr().checked_sub(self.bytes().as_ptr().addr())?;
        self.part(start..start.checked_add(slice.len())?)
    }

    /// Whether both are of the same memory or the same mapping.
    pub fn shares_base(&self, other: &Blob) -> bool {
        Arc::ptr_eq(&self.base, &other.base)
    }

    /// Tells the system that these bytes are not needed for a while: those of a mapped file leave
    /// this process's memory, and come back from the file when they are read. Does nothing to
    /// others.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Base::Mapped(map) = &*self.base
            && !self.range.is_empty()
        {
            let (start, len) = (self.range.start, self.range.len());
            // SAFETY: the pages are those of a file and were never written (the map is read-only),
            // so each comes back with the bytes of the file, which is what is there now.
            // That the advice is not taken is no fault: the memory stays as it is.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len)
            };
        }
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Blob {
        Blob::of(Base::Memory(bytes))
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(*self.base, Base::Mapped(_)) { "mapped" } else { "in memory" };
        write!(f, "{} bytes {kind}", self.range.len())
    }
}

/// Whether nobody but this user and the system may write a file, or change who may.
#[cfg(unix)]
fn only_ours(meta: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    const WRITE_BY_OTHERS: u32 = 0o022;
    let owner = meta.uid();
    let ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    ours && meta.mode() & WRITE_BY_OTHERS == 0
}

/// Windows refuses to cut a mapped file short; who may write it is not looked at.
#[cfg(not(unix))]
fn only_ours(_: &Metadata) -> bool {
    cfg!(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of this many bytes, each its place modulo 251.
    fn file(name: &str, len: usize) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("hetra-blob-{}-{name}", std::process::id()));
        std::fs::write(&path, (0..len).map(|i| (i % 251) as u8).collect::<Vec<u8>>()).unwrap();
        path
    }

    #[test]
    fn parts_are_the_bytes_of_the_file_before_and_after_a_release() {
        for len in [1000, 1 << 20] {
            let path = file(&format!("parts-{len}"), len);
            let blob = Blob::open(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            let part = blob.part(300..700).unwrap();
            for _ in 0..2 {
                let wanted: Vec<u8> = (300..700).map(|i| (i % 251) as u8).collect();
                assert_eq!(part.bytes(), wanted);
                blob.release();
            }
            assert_eq!(blob.find(&part.bytes()[5..9]).unwrap().bytes(), &part.bytes()[5..9]);
            assert!(part.shares_base(&blob) && part.part(1..401).is_none());
            assert!(blob.find(&[0; 4]).is_none());
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_write_is_read() {
        use std::os::unix::fs::PermissionsExt;
        let path = file("modes", 1 << 20);
        for (mode, mapped) in [(0o644, true), (0o600, true), (0o664, false), (0o606, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let blob = Blob::open(&path).unwrap();
            assert_eq!(matches!(*blob.base, Base::Mapped(_)), mapped, "{mode:o}");
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_folder_is_no_file() {
        assert!(Blob::open(&std::env::temp_dir()).is_err());
    }
}
