//! Where schedules come from: the table that is shipped, and above it the user's store.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use hetra_device::{DeviceInfo, ScheduleTable, cache_folder};
use hetra_tune::store::{DeviceKey, Store, StoreError, table_of_lines};

/// Choices that were tuned on some machines, as `hetra tune --export` writes them.
const SHIPPED: &str = include_str!("schedules.jsonl");

/// Where a session finds the schedules that its device works by. What was tuned elsewhere than on
/// this device, or by another version, is never taken from a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tuned {
    /// In the user's store, [`store_path`], and in the table that is shipped for what it lacks.
    #[default]
    Found,
    /// In this store, and in the table that is shipped.
    Store(PathBuf),
    /// In the table that is shipped.
    Shipped,
}

/// The user's store: what the variable `HETRA_STORE` names, or `hetra/schedules.sqlite` in the
/// cache folder (`XDG_CACHE_HOME`, else `~/.cache`). `None` where `HETRA_STORE` is `off` or empty,
/// or there is no such folder.
pub fn store_path() -> Option<PathBuf> {
    path_from(std::env::var_os("HETRA_STORE"), cache_folder)
}

fn path_from(set: Option<OsString>, folder: impl Fn() -> Option<PathBuf>) -> Option<PathBuf> {
    match set {
        Some(path) => (!path.is_empty() && path != "off").then(|| PathBuf::from(path)),
        None => Some(folder()?.join("schedules.sqlite")),
    }
}

/// What stores know a device by: its name, revision and kernels, its driver, and the version of
/// Hetra.
pub fn device_key(info: &DeviceInfo) -> DeviceKey {
    // Such as `opencl:0.1`: one unit of many.
    let part = if info.id.contains('.') { "one unit" } else { "" };
    DeviceKey {
        device: [info.name.as_str(), &info.revision, &info.kernels, part]
            .join(" ")
            .trim()
            .to_string(),
        driver: format!("{} {}", info.driver, info.version),
        version: env!("CARGO_PKG_VERSION").to_string(),
    }
}

/// The schedules of a device, and what is wrong with the store, which is then passed over.
pub(crate) fn table(info: &DeviceInfo, tuned: &Tuned) -> (ScheduleTable, Option<StoreError>) {
    let key = device_key(info);
    let path = match tuned {
        Tuned::Found => store_path(),
        Tuned::Store(path) => Some(path.clone()),
        Tuned::Shipped => None,
    };
    let (own, fault) = match path.map(|path| read(&path, &key)) {
        Some(Ok(table)) => (table, None),
        Some(Err(error)) => (ScheduleTable::default(), Some(error)),
        None => (ScheduleTable::default(), None),
    };
    (own.over(shipped(&key)), fault)
}

fn read(path: &Path, key: &DeviceKey) -> Result<ScheduleTable, StoreError> {
    Ok(Store::open_to_read(path)?.map(|store| store.table(key)).transpose()?.unwrap_or_default())
}

/// What is shipped for a device. It was made for the kernels that are shipped with it, so that no
/// version is asked for.
fn shipped(key: &DeviceKey) -> ScheduleTable {
    // A test reads all of it: a fault cannot be shipped.
    table_of_lines(SHIPPED, &|line| line.device == key.device).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_lies_where_the_environment_says() {
        let path = |set: Option<&str>| {
            let folder = || Some(PathBuf::from("/c/hetra"));
            path_from(set.map(OsString::from), folder).map(|path| path.display().to_string())
        };
        assert_eq!(path(None).unwrap(), "/c/hetra/schedules.sqlite");
        assert_eq!(path(Some("s.db")).unwrap(), "s.db");
        assert_eq!((path(Some("off")), path(Some(""))), (None, None));
        assert_eq!(path_from(None, || None), None);
    }

    #[test]
    fn every_shipped_line_is_one() {
        table_of_lines(SHIPPED, &|_| true).unwrap();
    }

    #[test]
    fn a_store_that_cannot_be_read_is_passed_over() {
        let info = &crate::devices()[0].info;
        let path = std::env::temp_dir().join(format!("hetra-no-store-{}", std::process::id()));
        std::fs::write(&path, "not a database, but long enough to look at".repeat(100)).unwrap();
        let (table, fault) = table(info, &Tuned::Store(path.clone()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(table, super::table(info, &Tuned::Shipped).0);
        assert!(matches!(fault, Some(StoreError::Damaged { .. })), "{fault:?}");
    }
}
