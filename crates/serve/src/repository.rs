//! The models of a folder: which there are, which are loaded, and in which versions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::config::{Config, VersionPolicy};
use crate::error::{Kind, Refusal};
use crate::model::{Model, Opening};
use crate::wire::ModelIndex;

/// The configuration in a model's folder.
const CONFIG_FILE: &str = "config.pbtxt";

/// What became of a model.
#[derive(Clone, Default)]
struct Entry {
    versions: BTreeMap<u64, Arc<Model>>,
    /// Why it is not there, or not as it was last asked for.
    reason: String,
}

/// The models of a folder.
pub(crate) struct Repository {
    root: PathBuf,
    opening: Opening,
    entries: RwLock<BTreeMap<String, Entry>>,
    /// One model is loaded at a time: what it takes is not taken twice.
    loading: Mutex<()>,
}

impl Repository {
    pub(crate) fn new(root: &Path, opening: Opening) -> Repository {
        let (root, entries) = (root.to_path_buf(), RwLock::default());
        Repository { root, opening, entries, loading: Mutex::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of the folders with a version in them, or a configuration.
    pub(crate) fn found(&self) -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).map(str::to_string);
            if let Some(name) = name.filter(|name| !name.starts_with('.'))
                && (path.join(CONFIG_FILE).is_file() || !versions(&path).is_empty())
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Loads a model, or loads it anew; the versions that were there go on until the new ones are
    /// ready, and stay where those cannot be loaded. It blocks.
    pub(crate) fn load(&self, name: &str, config: Option<&str>) -> Result<(), Refusal> {
        let turn = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = self.open(name, config);
        let mut entries = self.write();
        let old = match loaded {
            Ok(versions) => {
                let entry = Entry { versions, reason: String::new() };
                entries.insert(name.to_string(), entry).unwrap_or_default()
            }
            Err(refusal) => {
                if refusal.kind != Kind::NotFound {
                    entries.entry(name.to_string()).or_default().reason = refusal.text.clone();
                }
                return Err(refusal);
            }
        };
        drop(entries);
        drop(turn);
        old.versions.values().for_each(|model| model.close());
        Ok(())
    }

    fn open(&self, name: &str, config: Option<&str>) -> Result<BTreeMap<u64, Arc<Model>>, Refusal> {
        let missing = || Refusal::new(Kind::NotFound, format!("there is no model `{name}`"));
        // A name is one folder's: no path leads out of the repository.
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
            return Err(missing());
        }
        let folder = self.root.join(name);
        if !folder.is_dir() {
            return Err(missing());
        }
        let invalid = |text: String| Refusal::invalid(format!("model `{name}`: {text}"));
        let text = match config {
            Some(_) => None,
            None => match std::fs::read_to_string(folder.join(CONFIG_FILE)) {
                Ok(text) => Some(text),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(invalid(format!("{CONFIG_FILE}: {error}"))),
            },
        };
        let parsed = match (config, text) {
            (Some(json), _) => Config::from_json(json),
            (None, Some(text)) => Config::from_text(&text),
            (None, None) => Ok(Config::default()),
        };
        let config = parsed.map_err(|error| invalid(error.to_string()))?;
        config.check(name).map_err(|error| invalid(error.to_string()))?;
        let wanted = chosen(versions(&folder), config.version_policy.as_ref()).map_err(invalid)?;
        let mut models = BTreeMap::new();
        for version in wanted {
            let file = folder.join(version.to_string()).join(config.file());
            if !file.is_file() {
                let file = config.file();
                return Err(invalid(format!("version {version} has no `{file}`")));
            }
            let model = Model::load(name, version, &file, config.clone(), &self.opening);
            match model {
                Ok(model) => drop(models.insert(version, model)),
                Err(text) => {
                    models.values().for_each(|model: &Arc<Model>| model.close());
                    return Err(invalid(format!("version {version}: {text}")));
                }
            }
        }
        Ok(models)
    }

    /// Unloads a model; what waits for it is done first. It blocks.
    pub(crate) fn unload(&self, name: &str) -> Result<(), Refusal> {
        let missing = || Refusal::new(Kind::NotFound, format!("`{name}` is not loaded"));
        let mut entries = self.write();
        let entry = entries.get_mut(name).ok_or_else(missing)?;
        let versions = std::mem::take(&mut entry.versions);
        entry.reason = "unloaded".into();
        drop(entries);
        versions.values().for_each(|model| model.close());
        Ok(())
    }

    /// Unloads everything.
    pub(crate) fn close(&self) {
        let entries = std::mem::take(&mut *self.write());
        let models = entries.values().flat_map(|entry| entry.versions.values());
        models.for_each(|model| model.close());
    }

    /// The model of a name, in a version; with none, or an empty one, in the newest.
    pub(crate) fn get(&self, name: &str, version: &str) -> Result<Arc<Model>, Refusal> {
        let entries = self.read();
        let known = || {
            let loaded = entries.iter().filter(|(_, entry)| !entry.versions.is_empty());
            loaded.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
        };
        let missing = |text: String| Refusal::new(Kind::NotFound, text);
        let entry = entries.get(name).filter(|entry| !entry.versions.is_empty());
        let Some(entry) = entry else {
            let reason = entries.get(name).map_or("", |entry| entry.reason.as_str());
            let text = match reason {
                "" => format!("there is no model `{name}`; loaded are {}", known()),
                reason => format!("`{name}` is not loaded: {reason}"),
            };
            return Err(missing(text));
        };
        let found = match version {
            "" => entry.versions.values().next_back(),
            text => text.parse().ok().and_then(|version: u64| entry.versions.get(&version)),
        };
        found.cloned().ok_or_else(|| {
            let known: Vec<String> = entry.versions.keys().map(u64::to_string).collect();
            missing(format!("`{name}` has no version {version}; it has {}", known.join(", ")))
        })
    }

    /// The versions of a model that are loaded.
    pub(crate) fn versions(&self, name: &str) -> Vec<String> {
        let entries = self.read();
        let versions = entries.get(name).into_iter().flat_map(|entry| entry.versions.keys());
        versions.map(u64::to_string).collect()
    }

    /// Every model that is loaded.
    pub(crate) fn loaded(&self) -> Vec<Arc<Model>> {
        let entries = self.read();
        entries.values().flat_map(|entry| entry.versions.values().cloned()).collect()
    }

    /// Each model that is there, and how it is.
    pub(crate) fn index(&self, ready: bool) -> Vec<ModelIndex> {
        let found = self.found().unwrap_or_default();
        let entries = self.read();
        let mut index = Vec::new();
        let mut names: Vec<&String> = found.iter().chain(entries.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let entry = entries.get(name);
            let versions = entry.into_iter().flat_map(|entry| entry.versions.keys());
            let reason = entry.map(|entry| entry.reason.clone()).unwrap_or_default();
            let before = index.len();
            index.extend(versions.map(|version| ModelIndex {
                name: name.clone(),
                version: version.to_string(),
                state: "READY".into(),
                reason: reason.clone(),
            }));
            if index.len() == before && !ready {
                let (name, version) = (name.clone(), String::new());
                let state = if reason.is_empty() { "" } else { "UNAVAILABLE" }.to_string();
                index.push(ModelIndex { name, version, state, reason });
            }
        }
        index
    }
}

/// The versions in a model's folder, the oldest first.
fn versions(folder: &Path) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let version = |entry: std::fs::DirEntry| {
        let name = entry.file_name().to_str()?.to_string();
        let number: u64 = name.parse().ok().filter(|&number| number > 0)?;
        (number.to_string() == name && entry.path().is_dir()).then_some(number)
    };
    let mut versions: Vec<u64> = entries.flatten().filter_map(version).collect();
    versions.sort_unstable();
    versions
}

/// The versions that a policy serves.
fn chosen(there: Vec<u64>, policy: Option<&VersionPolicy>) -> Result<Vec<u64>, String> {
    if there.is_empty() {
        return Err("no folder of a version, such as `1`".into());
    }
    match policy {
        Some(VersionPolicy::All(_)) => Ok(there),
        Some(VersionPolicy::Specific(one)) => {
            let mut wanted: Vec<u64> = one.versions.iter().map(|&version| version as u64).collect();
            wanted.sort_unstable();
            wanted.dedup();
            match wanted.iter().find(|version| !there.contains(version)) {
                Some(missing) => Err(format!("there is no version {missing}")),
                None if wanted.is_empty() => Err("`specific` names no version".into()),
                None => Ok(wanted),
            }
        }
        Some(VersionPolicy::Latest(one)) => {
            let count = one.num_versions.max(1) as usize;
            Ok(there[there.len().saturating_sub(count)..].to_vec())
        }
        None => Ok(there[there.len() - 1..].to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Latest, Specific};

    #[test]
    fn policies_choose_versions() {
        let there = || vec![1, 2, 5];
        assert_eq!(chosen(there(), None), Ok(vec![5]));
        let latest = VersionPolicy::Latest(Latest { num_versions: 2 });
        assert_eq!(chosen(there(), Some(&latest)), Ok(vec![2, 5]));
        let all = VersionPolicy::All(BTreeMap::new());
        assert_eq!(chosen(there(), Some(&all)), Ok(there()));
        let specific = |versions: &[i64]| {
            let versions = versions.to_vec();
            chosen(there(), Some(&VersionPolicy::Specific(Specific { versions })))
        };
        assert_eq!(specific(&[5, 1, 5]), Ok(vec![1, 5]));
        assert!(specific(&[3]).unwrap_err().contains("no version 3"));
        assert!(chosen(Vec::new(), None).is_err());
    }
}
