//! What drivers made of kernels, kept on disk from one process to the next.
//!
//! A file for each, named by a hash of its key; the key stands in the file, too, and is compared,
//! so that two keys with one hash are a miss; so is what was cut or changed. What cannot be read or
//! written counts for nothing: the kernel is compiled as if there were no cache.
//!
//! What is read is run by the driver, as native code where the device is a processor: the folder is
//! its owner's alone, and one that others may write into is not used.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

/// Most bytes of all files; the oldest go first.
const BYTES_MAX: u64 = 256 << 20;
/// Largest file that is read or written.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// What files begin with.
const MAGIC: &[u8] = b"hetra kernel 1\n";
/// After so many files written it is looked how many there are.
const WRITES_PER_SWEEP: u32 = 64;

/// The user's folder for what can be made again: `hetra` in `XDG_CACHE_HOME`, else in `~/.cache`.
/// `None` where neither is known.
pub fn cache_folder() -> Option<PathBuf> {
    folder_from(|name| std::env::var_os(name))
}

fn folder_from(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("hetra"))
}

/// A folder of compiled kernels, of one device.
pub struct KernelCache {
    /// `None` where nothing is kept.
    folder: Option<PathBuf>,
    /// What all keys begin with: the device and its driver.
    device: String,
    writes: AtomicU32,
}

impl KernelCache {
    /// Where the environment says: the folder that `HETRA_KERNEL_CACHE` names, else `kernels` in
    /// [`cache_folder`]; nowhere where it is `off` or empty. `device` is all that compiled kernels
    /// depend on beside their text: the device, the driver and its version.
    pub fn of(device: &str) -> KernelCache {
        let folder = match std::env::var_os("HETRA_KERNEL_CACHE") {
            Some(path) if path.is_empty() || path == "off" => None,
            Some(path) => Some(PathBuf::from(path)),
            None => cache_folder().map(|folder| folder.join("kernels")),
        };
        KernelCache::at(folder, device)
    }

    /// In this folder.
    pub fn at(folder: Option<PathBuf>, device: &str) -> KernelCache {
        let device = format!("{}\n{device}\n", env!("CARGO_PKG_VERSION"));
        KernelCache { folder, device, writes: AtomicU32::new(0) }
    }

    /// What was kept for a key.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let (path, key) = self.place(key)?;
        is_private(path.parent()?).then_some(())?;
        let mut file = fs::File::open(&path).ok()?;
        if file.metadata().ok()?.len() > FILE_BYTES_MAX {
            return None;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let head = [MAGIC, &(key.len() as u64).to_le_bytes(), key.as_bytes()].concat();
        let (sum, kept) = bytes.strip_prefix(&head[..])?.split_first_chunk::<8>()?;
        if u64::from_le_bytes(*sum) != hash(kept) {
            return None;
        }
        // The oldest are those that nobody used for the longest time.
        let _ = file.set_modified(SystemTime::now());
        Some(kept.to_vec())
    }

    /// Keeps something for a key.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let Some((path, key)) = self.place(key) else { return };
        let size = MAGIC.len() + 16 + key.len() + bytes.len();
        if size as u64 > FILE_BYTES_MAX {
            return;
        }
        let (length, sum) = ((key.len() as u64).to_le_bytes(), hash(bytes).to_le_bytes());
        let all = [MAGIC, &length, key.as_bytes(), &sum, bytes].concat();
        if write(&path, &all).is_some()
            && self.writes.fetch_add(1, Ordering::Relaxed).is_multiple_of(WRITES_PER_SWEEP)
            && let Some(folder) = &self.folder
        {
            sweep(folder, BYTES_MAX);
        }
    }

    fn place(&self, key: &str) -> Option<(PathBuf, String)> {
        let key = format!("{}{key}", self.device);
        Some((self.folder.as_ref()?.join(format!("{:016x}.kernel", hash(key.as_bytes()))), key))
    }
}

/// FNV-1a (Fowler, Noll, Vo), 64 bits: the same in every build.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().copied().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(unix)]
fn make_folder(folder: &Path) -> Option<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).ok()
}

#[cfg(not(unix))]
fn make_folder(folder: &Path) -> Option<()> {
    fs::create_dir_all(folder).ok()
}

/// Whether nobody but its owner may write into a folder.
#[cfg(unix)]
fn is_private(folder: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(folder).is_ok_and(|about| about.permissions().mode() & 0o022 == 0)
}

#[cfg(not(unix))]
fn is_private(_: &Path) -> bool {
    true
}

/// Writes a file whole or not at all: others may read it meanwhile.
fn write(path: &Path, bytes: &[u8]) -> Option<()> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let folder = path.parent()?;
    make_folder(folder)?;
    is_private(folder).then_some(())?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let half = path.with_extension(format!("{}-{number}.half", std::process::id()));
    let new = fs::File::options().write(true).create_new(true).open(&half);
    let written =
        new.and_then(|mut file| file.write_all(bytes)).and_then(|()| fs::rename(&half, path));
    if written.is_err() {
        let _ = fs::remove_file(&half);
    }
    written.ok()
}

/// Removes the oldest files of a folder until it has at most so many bytes.
fn sweep(folder: &Path, most: u64) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let about = |entry: fs::DirEntry| {
        let ours = entry.path().extension().is_some_and(|ext| ext == "kernel" || ext == "half");
        let about = entry.metadata().ok().filter(|_| ours)?;
        Some((about.modified().ok()?, about.len(), entry.path()))
    };
    let mut files: Vec<(SystemTime, u64, PathBuf)> =
        entries.filter_map(|entry| about(entry.ok()?)).collect();
    files.sort();
    let mut all: u64 = files.iter().map(|file| file.1).sum();
    for (_, bytes, path) in files {
        if all <= most {
            return;
        }
        if fs::remove_file(path).is_ok() {
            all -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("hetra-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let folder = folder("kernel-cache");
        let cache = KernelCache::at(Some(folder.clone()), "a device 1.0");
        assert_eq!(cache.get("text"), None);
        cache.put("text", b"binary");
        assert_eq!(cache.get("text").as_deref(), Some(&b"binary"[..]));
        assert_eq!(cache.get("other"), None);
        // Another driver makes other kernels.
        let other = KernelCache::at(Some(folder.clone()), "a device 1.1");
        assert_eq!(other.get("text"), None);
        // What was cut or belongs to another key is not taken.
        let path = cache.place("text").unwrap().0;
        let bytes = fs::read(&path).unwrap();
        let changed = [&bytes[..bytes.len() - 1], b"!"].concat();
        for broken in [&bytes[..20], &bytes[..bytes.len() - 1], &changed] {
            fs::write(&path, broken).unwrap();
            assert_eq!(cache.get("text"), None);
        }
        fs::write(cache.place("third").unwrap().0, &bytes).unwrap();
        assert_eq!(cache.get("third"), None);
        fs::remove_dir_all(folder).unwrap();
        let nowhere = KernelCache::at(None, "a device");
        nowhere.put("text", b"binary");
        assert_eq!(nowhere.get("text"), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_write_into_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let folder = folder("kernel-shared");
        let cache = KernelCache::at(Some(folder.clone()), "d");
        cache.put("text", b"binary");
        let mode = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o777);
        assert_eq!(cache.get("text"), None);
        mode(0o755);
        assert!(cache.get("text").is_some());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_oldest_files_go_first() {
        let folder = folder("kernel-sweep");
        let cache = KernelCache::at(Some(folder.clone()), "d");
        for (age, key) in [(30, "old"), (20, "older than new"), (10, "new")] {
            cache.put(key, &[0; 1000]);
            let file = fs::File::options().write(true).open(cache.place(key).unwrap().0).unwrap();
            let at = SystemTime::now() - std::time::Duration::from_secs(age);
            file.set_modified(at).unwrap();
        }
        fs::write(folder.join("notes.txt"), [0; 5000]).unwrap();
        sweep(&folder, 2200);
        assert_eq!(cache.get("old"), None);
        assert!(cache.get("new").is_some() && folder.join("notes.txt").exists());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_folder_is_where_systems_have_it() {
        let of = |set: &'static [(&'static str, &'static str)]| {
            folder_from(|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, path)| path.into())
            })
        };
        assert_eq!(of(&[("HOME", "/home/me")]).unwrap(), Path::new("/home/me/.cache/hetra"));
        assert_eq!(of(&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")]).unwrap(), Path::new("/c/hetra"));
        assert_eq!(of(&[("HOME", "relative")]), None);
    }
}
