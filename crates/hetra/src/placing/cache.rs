//! Plans, kept from one process to the next: the second time a model is planned nothing is
//! measured.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hetra_device::cache_folder;
use hetra_exec::Seat;
use hetra_ir::{Graph, Type};
use hetra_tensor::Value;
use sha2::{Digest, Sha256};

use crate::placing::costs::Costing;
use crate::placing::file::PlanFile;
use crate::placing::fingerprint;
use crate::placing::planner::PlanOptions;
use crate::placing::report::described;

/// Most plans that are kept; the oldest go first.
const PLANS_MAX: usize = 1000;

/// Where plans are kept: what the variable `HETRA_PLANS` names, else `plans` in the cache folder.
/// `None` where it is `off` or empty, or there is no such folder.
pub fn plans_folder() -> Option<PathBuf> {
    folder_from(std::env::var_os("HETRA_PLANS"), cache_folder)
}

fn folder_from(set: Option<OsString>, folder: impl Fn() -> Option<PathBuf>) -> Option<PathBuf> {
    match set {
        Some(path) => (!path.is_empty() && path != "off").then(|| PathBuf::from(path)),
        None => Some(folder()?.join("plans")),
    }
}

/// What a plan depends on, as the name of its file: the model with its weights, the devices with
/// their drivers, the types of the inputs, what was asked for, and the version of Hetra.
pub fn plan_key(graph: &Graph, seats: &[Seat], inputs: &[Value], options: &PlanOptions) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update(text.len().to_le_bytes());
        hash.update(text.as_bytes());
    };
    add(env!("CARGO_PKG_VERSION"));
    add(&fingerprint::of(&hetra_pass::portable(graph)));
    for seat in seats {
        add(&serde_json::to_string(&described(seat)).unwrap_or_default());
    }
    inputs.iter().for_each(|input| add(&Type::of(input).to_string()));
    // A plan for which all was measured anew serves as well.
    let costing = match options.costing {
        Costing::Predict => Costing::Predict,
        Costing::Known | Costing::Measure => Costing::Known,
    };
    add(&format!("{:?}", PlanOptions { costing, store: None, ..options.clone() }));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The plan of a key, and when it was made; none where there is none that can be read.
pub fn kept_plan(folder: &Path, key: &str) -> Option<(PlanFile, SystemTime)> {
    let path = file(folder, key);
    let made = std::fs::metadata(&path).ok()?.modified().ok()?;
    Some((PlanFile::parse(&std::fs::read_to_string(path).ok()?).ok()?, made))
}

/// Keeps a plan. What cannot be written is not kept.
pub fn keep_plan(folder: &Path, key: &str, plan: &PlanFile) {
    if std::fs::create_dir_all(folder).is_err() {
        return;
    }
    // Another process that reads sees all of it or nothing.
    let begun = folder.join(format!("{key}.{}", std::process::id()));
    let written = std::fs::write(&begun, plan.print());
    if written.and_then(|()| std::fs::rename(&begun, file(folder, key))).is_err() {
        let _ = std::fs::remove_file(&begun);
    }
    sweep(folder, PLANS_MAX);
}

fn file(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("{key}.json"))
}

/// Removes the oldest plans beyond so many.
fn sweep(folder: &Path, most: usize) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let is_plan = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json");
    let paths = entries.flatten().map(|entry| entry.path()).filter(is_plan);
    let mut plans: Vec<(SystemTime, PathBuf)> =
        paths.filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path))).collect();
    plans.sort();
    let beyond = plans.len().saturating_sub(most);
    plans.iter().take(beyond).for_each(|(_, path)| drop(std::fs::remove_file(path)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placing::file::sample;

    #[test]
    fn plans_are_kept_and_the_oldest_go() {
        let folder = std::env::temp_dir().join(format!("hetra-plans-{}", std::process::id()));
        let plan = sample(vec![("cpu", vec![(0, 2)])]);
        assert!(kept_plan(&folder, "a").is_none());
        for key in ["a", "b", "c"] {
            keep_plan(&folder, key, &plan);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(kept_plan(&folder, "b").unwrap().0, plan);
        sweep(&folder, 2);
        assert!(kept_plan(&folder, "a").is_none() && kept_plan(&folder, "c").is_some());
        // What is none is passed over.
        std::fs::write(file(&folder, "c"), "{").unwrap();
        assert!(kept_plan(&folder, "c").is_none());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_folder_is_where_the_environment_says() {
        let of = |set: Option<&str>| {
            folder_from(set.map(OsString::from), || Some(PathBuf::from("/c/hetra")))
        };
        assert_eq!(of(None), Some(PathBuf::from("/c/hetra/plans")));
        assert_eq!((of(Some("off")), of(Some("/p"))), (None, Some(PathBuf::from("/p"))));
    }

    #[test]
    fn what_a_plan_depends_on_is_in_its_key() {
        let graph = |op: &str| {
            let text = format!("graph \"g\" (%x: f32[2]) {{ %y = {op}(%x) return (%y) }}");
            hetra_ir::parse(&text).unwrap()
        };
        let seat = Seat::from(crate::open("cpu", Some(1)).unwrap());
        let input = Value::from(hetra_tensor::Tensor::vector(&[1f32, 2.0]));
        let key = |op: &str, options: &PlanOptions| {
            plan_key(&graph(op), std::slice::from_ref(&seat), std::slice::from_ref(&input), options)
        };
        let (usual, other) =
            (PlanOptions::default(), PlanOptions { tasks_max: 5, ..PlanOptions::default() });
        assert_eq!(key("Relu", &usual), key("Relu", &usual));
        assert_ne!(key("Relu", &usual), key("Abs", &usual));
        assert_ne!(key("Relu", &usual), key("Relu", &other));
    }
}
