//! The library, loaded once.

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use hetra_device::{NoLibrary, find_library};
use ort::environment::Environment;

/// The environment variable that names the library's file.
pub(crate) const VARIABLE: &str = "HETRA_ORT_LIB";

/// What is loaded.
pub(crate) struct Library {
    pub(crate) environment: Environment,
    pub(crate) version: String,
    /// Execution providers that it was built with.
    pub(crate) providers: Vec<String>,
}

/// Where it is.
pub(crate) fn path() -> Option<PathBuf> {
    find_library(VARIABLE, &["onnxruntime", "capi"], "libonnxruntime.so")
}

/// ONNX Runtime, made ready at the first call; a library that does not work is not tried again.
pub(crate) fn library() -> Result<&'static Library, NoLibrary> {
    static LIBRARY: OnceLock<Result<Library, NoLibrary>> = OnceLock::new();
    let loaded = LIBRARY.get_or_init(|| load(&path().ok_or(NoLibrary::Missing)?));
    loaded.as_ref().map_err(Clone::clone)
}

fn load(path: &Path) -> Result<Library, NoLibrary> {
    let broken = |reason: String| NoLibrary::Broken(format!("{}: {reason}", path.display()));
    let version = version(path).map_err(broken)?;
    let builder = ort::init_from(path).map_err(|error| broken(error.to_string()))?;
    let environment = builder.with_telemetry(false).build();
    let environment = environment.map_err(|error| broken(error.to_string()))?;
    let providers = providers().map_err(|error| broken(error.to_string()))?;
    Ok(Library { environment, version, providers })
}

/// The library's version, which its interface says before anything of it is used.
fn version(path: &Path) -> Result<String, String> {
    // SAFETY: loading runs the library's initialisers, which is what the user asked for by
    // installing it or naming it.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| error.to_string())?;
    // SAFETY: a library that has this symbol is ONNX Runtime, whose header declares it so. What it
    // gives is valid while the library is loaded; the string is copied before that ends.
    unsafe {
        let base =
            library.get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase");
        let base = base.map_err(|_| "it has no `OrtGetApiBase`".to_string())?;
        let version = ((*base()).GetVersionString)();
        Ok(CStr::from_ptr(version).to_string_lossy().into_owned())
    }
}

fn providers() -> ort::Result<Vec<String>> {
    let (mut names, mut count) = (std::ptr::null_mut(), 0);
    // SAFETY: the library is loaded; it gives a list of so many strings, which is given back once
    // they are copied.
    unsafe {
        let status = (ort::api().GetAvailableProviders)(&raw mut names, &raw mut count);
        ort::Error::result_from_status(status)?;
        let name = |at: usize| CStr::from_ptr(*names.add(at)).to_string_lossy().into_owned();
        let list = (0..count as usize).map(name).collect();
        let status = (ort::api().ReleaseAvailableProviders)(names, count);
        ort::Error::result_from_status(status)?;
        Ok(list)
    }
}
