//! The library, loaded once.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use hetra_device::{NoLibrary, find_library};

use crate::call::{Core, OvError};

/// The environment variable that names the library's file.
pub(crate) const VARIABLE: &str = "HETRA_OPENVINO_LIB";

/// Symbols that older libraries lack; without them a call would panic.
const NEEDED: [&[u8]; 2] = [b"ov_get_openvino_version", b"ov_core_compile_model_props"];

/// Where it is.
pub(crate) fn path() -> Option<PathBuf> {
    find_library(VARIABLE, &["openvino", "libs"], "libopenvino_c.so")
}

/// OpenVINO's core, made at the first call; a library that does not work is tried no second time.
pub(crate) fn core() -> Result<&'static Core, NoLibrary> {
    static CORE: OnceLock<Result<Core, NoLibrary>> = OnceLock::new();
    CORE.get_or_init(|| load(&path().ok_or(NoLibrary::Missing)?)).as_ref().map_err(Clone::clone)
}

fn load(path: &std::path::Path) -> Result<Core, NoLibrary> {
    let broken = |reason: String| NoLibrary::Broken(format!("{}: {reason}", path.display()));
    // SAFETY: loading runs the library's initialisers, which is what the user asked for by
    // installing it or naming it; no symbol of it is called here.
    let library = unsafe { libloading::Library::new(path) };
    let library = library.map_err(|error| broken(error.to_string()))?;
    for name in NEEDED {
        // SAFETY: the symbol is only looked for; it is neither called nor read.
        let found = unsafe { library.get::<unsafe extern "C" fn()>(name) };
        if found.is_err() {
            let name = String::from_utf8_lossy(name);
            return Err(broken(format!(
                "it has no `{name}`; OpenVINO 2026 is needed (2026.4 was tested)"
            )));
        }
    }
    openvino_sys::library::load_from(path).map_err(broken)?;
    Core::new().map_err(|error: OvError| broken(error.to_string()))
}

/// The text of an error is the whole library's: whoever calls it, and reads that, does so alone.
/// Runs of models are not under it.
pub(crate) fn one_at_a_time<R>(call: impl FnOnce() -> R) -> R {
    static LOCK: Mutex<()> = Mutex::new(());
    let _held = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    call()
}
