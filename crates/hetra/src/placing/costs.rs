//! What is known of a part of a model before it is measured: what it took when it was measured
//! last, or what was learned from others.

use std::cell::{OnceCell, RefCell};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hetra_cost::{Roofline, kernel_rows};
use hetra_exec::Seat;
use hetra_ir::{Graph, Type};
use hetra_machine::{DeviceSpec, Figure};
use hetra_tune::store::{Cost, DeviceKey, Store, StoreError};
use hetra_tune::{Correction, CostPart};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::placing::accept::Sample;
use crate::tuned::device_key;

/// What costs of parts come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CostSource {
    /// It was run.
    #[default]
    Measured,
    /// It was run for another plan, on the same device with the same driver, threads and schedules.
    Kept,
    /// Others like it were run.
    Learned,
    /// The device is only described.
    Modelled,
}

/// How costs of parts are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Costing {
    /// What was measured before is taken, the rest is measured.
    #[default]
    Known,
    /// All is measured.
    Measure,
    /// What was measured before is taken, the rest is taken from what was learned; where nothing
    /// was learned of a device, or shapes are known only in a run, it is measured.
    Predict,
}

/// Older measurements are made again: drivers stay, machines do not.
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Times that vary by more, in parts, are not kept.
const SPREAD_MAX: f64 = 0.3;
/// Constants of so many bytes say what a kernel does; what is longer are weights.
const SMALL_BYTES: usize = 256;

/// The kernels of a graph, with a guess of each: what is learned by.
///
/// The guess is that of a processor of about today: what is learned is how far off it is.
pub(crate) fn parts_of(graph: &Graph, inputs: &[Type]) -> Vec<CostPart> {
    let figure = |value: f64| Figure::measured(value, "a guess that is corrected");
    let mut spec = DeviceSpec { launch_us: Some(figure(1.0)), ..DeviceSpec::default() };
    spec.peak.insert("f32".to_string(), figure(1e11));
    spec.memory.bandwidth = Some(figure(1e10));
    let roofline = Roofline::of(&spec, None);
    let rows = roofline
        .ok()
        .and_then(|roofline| kernel_rows(&hetra_cost::joined(graph), inputs, &roofline).ok());
    let part = |row: hetra_cost::KernelRow| CostPart { guess: row.guess, features: row.features };
    rows.unwrap_or_default().into_iter().map(part).collect()
}

/// What a part of a model is known by: its operators and shapes, whatever its values are called.
pub(crate) fn part_key(graph: &Graph, inputs: &[Type]) -> String {
    let mut bare = graph.clone();
    bare.name.clear();
    bare.values.iter_mut().for_each(|value| value.name.clear());
    bare.nodes.iter_mut().for_each(|node| node.name.clear());
    let mut hash = Sha256::new();
    hash.update(hetra_ir::outline(&bare).as_bytes());
    for input in inputs {
        hash.update(input.to_string().as_bytes());
        hash.update([0]);
    }
    for (id, value) in &graph.constants {
        hash.update(id.0.to_le_bytes());
        hash.update(value.describe().as_bytes());
        let small = value.as_tensor().filter(|tensor| tensor.byte_len() <= SMALL_BYTES);
        if let Some(tensor) = small.filter(|tensor| tensor.dtype().is_int()) {
            hash.update(tensor.bytes());
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What stores know a seat by. All that its times depend on is in the digits: the device as it was
/// asked for with its options and faults, how much of it and of the host there is, the host's
/// processor, and what was tuned for it.
fn seat_key(seat: &Seat, store: Option<&Store>) -> DeviceKey {
    let info = seat.device.info();
    let mut key = device_key(info);
    let host = crate::devices().into_iter().find(|found| found.info.driver == "cpu");
    let host = host.map(|found| format!("{} {}", found.info.name, found.info.revision));
    let tuned = store.and_then(|store| store.choices(&key).ok()).unwrap_or_default();
    let tuned = tuned.iter().map(|(task, choice)| format!("{} {}", task.key(), choice.schedule));
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut hash = Sha256::new();
    let parts =
        [key.device, info.id.clone(), info.threads.to_string(), format!("{:?}", seat.cores)];
    let parts = parts.into_iter().chain([processors.to_string(), host.unwrap_or_default()]);
    for part in parts.chain(tuned) {
        hash.update(part.len().to_le_bytes());
        hash.update(part.as_bytes());
    }
    let digits: String =
        hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    let name = info.id.split(['?', ':']).next().unwrap_or_default();
    key.device = format!("parts alone on {name} {digits}");
    key
}

/// What is known, and what is found out.
pub(crate) struct Ledger {
    store: Option<RefCell<Store>>,
    costing: Costing,
    /// Of each device; none of those that are only described.
    keys: Vec<Option<DeviceKey>>,
    learned: Vec<OnceCell<Option<Correction>>>,
}

impl Ledger {
    /// With the store of a file; without any where that cannot be used, and why.
    pub(crate) fn open(
        path: Option<&Path>,
        costing: Costing,
        seats: &[Seat],
    ) -> (Ledger, Option<StoreError>) {
        let (store, fault) = match path.map(Store::open) {
            Some(Ok(store)) => (Some(RefCell::new(store)), None),
            Some(Err(fault)) => (None, Some(fault)),
            None => (None, None),
        };
        let is_there = |seat: &&Seat| seat.device.info().simulated.is_none();
        let opened = store.as_ref().map(|store: &RefCell<Store>| store.borrow());
        let key =
            |seat: &Seat| Some(seat).filter(is_there).map(|seat| seat_key(seat, opened.as_deref()));
        let keys: Vec<Option<DeviceKey>> = seats.iter().map(key).collect();
        drop(opened);
        let learned = keys.iter().map(|_| OnceCell::new()).collect();
        (Ledger { store, costing, keys, learned }, fault)
    }

    /// What a part takes on a device, where that need not be measured.
    pub(crate) fn known(
        &self,
        device: usize,
        key: &str,
        parts: &[CostPart],
    ) -> Option<(f64, CostSource)> {
        if self.costing == Costing::Measure {
            return None;
        }
        let (store, device_key) = (self.store.as_ref()?, self.keys[device].as_ref()?);
        let kept = store.borrow().cost(device_key, key).ok().flatten();
        if let Some(cost) = kept.filter(is_fresh) {
            return Some((cost.seconds, CostSource::Kept));
        }
        if self.costing != Costing::Predict || parts.is_empty() {
            return None;
        }
        let learned = self.learned[device].get_or_init(|| {
            let examples = store.borrow().examples(device_key).ok()?;
            Correction::fit(&examples).ok().flatten()
        });
        let learned = learned.as_ref()?;
        Some((parts.iter().map(|part| learned.seconds(part)).sum(), CostSource::Learned))
    }

    /// Whether anything can be kept of a device.
    pub(crate) fn keeps(&self, device: usize) -> bool {
        self.store.is_some() && self.keys[device].is_some()
    }

    /// How far off half of what was learned is, at least, in parts, by device: of those from which
    /// something was asked that was learned.
    pub(crate) fn spreads(&self) -> Vec<Option<f64>> {
        let spread =
            |learned: &OnceCell<Option<Correction>>| Some(learned.get()?.as_ref()?.spread());
        self.learned.iter().map(spread).collect()
    }

    /// Keeps what was measured, unless it varied so much that another time says another thing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn keep(
        &self,
        device: usize,
        key: &str,
        parts: Vec<CostPart>,
        sample: &Sample,
    ) -> Result<(), StoreError> {
        let (Some(store), Some(device)) = (&self.store, &self.keys[device]) else { return Ok(()) };
        let spread = (sample.upper - sample.lower) / 2.0 / sample.median.max(f64::MIN_POSITIVE);
        if spread > SPREAD_MAX {
            return Ok(());
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let cost =
            Cost { parts, seconds: sample.median, spread, at: i64::try_from(at).unwrap_or(0) };
        store.borrow_mut().keep_cost(device, key, &cost)
    }
}

fn is_fresh(cost: &Cost) -> bool {
    let at = UNIX_EPOCH + Duration::from_secs(u64::try_from(cost.at).unwrap_or(0));
    SystemTime::now().duration_since(at).is_ok_and(|age| age <= AGE_MAX)
}
