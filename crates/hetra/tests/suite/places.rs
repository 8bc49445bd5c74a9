//! Where tests find what is not part of the checkout.

#![allow(dead_code, reason = "two programs share it, and each uses its part")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::env;
use std::path::{Path, PathBuf};

/// The workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What `cargo xtask fetch` fills.
pub(crate) fn cache() -> PathBuf {
    env::var_os("HETRA_CACHE").map_or_else(|| root().join(".cache/fetch"), PathBuf::from)
}

/// The folder of large models beside the checkout.
pub(crate) fn shared() -> PathBuf {
    env::var_os("HETRA_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from)
}

/// The model that is part of the checkout.
pub(crate) fn digits() -> PathBuf {
    root().join("crates/cli/assets/digits.onnx")
}

fn flag(name: &str) -> bool {
    env::var(name).is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// Says that something fetched is not there; where it must be there, the test fails.
///
/// # Panics
/// With `CI` or `HETRA_REQUIRE_FETCH` set.
pub(crate) fn skip_fetched(what: &Path) {
    let message = format!("{} is missing: run `cargo xtask fetch`", what.display());
    assert!(!flag("CI") && !flag("HETRA_REQUIRE_FETCH"), "{message}");
    eprintln!("SKIPPED: {message}");
}
