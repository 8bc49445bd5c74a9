//! The driver.

use std::path::Path;
use std::sync::Arc;

use hetra_device::{
    Device, DeviceError, DeviceInfo, Driver, Found, HostThreads, ScheduleTable, Wire, Wires,
};
use hetra_ir::Graph;
use hetra_machine::{DeviceSpec, LinkSpec, Machine, catalogue};
use sha2::{Digest, Sha256};

use crate::device::{Model, Numbers, SimDevice};
use crate::faults::{Fate, Faults};
use crate::faulty::Faulty;
use crate::options::{Options, parse};

/// What computes, and what models, in the place of devices that are not there.
pub trait Host: Send + Sync {
    /// A graph for the host, its products rounded to such numbers where that is wanted.
    ///
    /// # Errors
    /// A node that the host does not do, or numbers that it cannot round to.
    fn numbers(&self, graph: &Graph, rounded: Option<&str>) -> Result<Box<dyn Numbers>, String>;

    /// A graph, modelled on a device that multiplies `number`.
    ///
    /// # Errors
    /// A description from which nothing follows.
    fn model(
        &self,
        graph: &Graph,
        spec: &DeviceSpec,
        number: Option<&str>,
    ) -> Result<Box<dyn Model>, String>;

    /// The number that such a device multiplies, and how far the model of it is off in half of all
    /// cases, in parts.
    ///
    /// # Errors
    /// When it has no such peak, or none at all.
    fn number(&self, spec: &DeviceSpec, number: Option<&str>) -> Result<(String, f64), String>;
}

/// Opens entries of the catalogue, and of machine files, as devices: `sim:h100-sxm`,
/// `sim:gpu0?machine=box.toml`.
pub struct SimDriver {
    /// What computes and models.
    pub host: &'static dyn Host,
}

/// What ids begin with.
const PREFIX: &str = "sim:";

impl Driver for SimDriver {
    fn name(&self) -> &'static str {
        "sim"
    }

    /// None are here; what can be described has no end.
    fn discover(&self) -> Vec<Found> {
        Vec::new()
    }

    fn opens(&self, id: &str) -> bool {
        id == "sim" || id.starts_with(PREFIX)
    }

    fn open(
        &self,
        id: &str,
        _: HostThreads,
        _: ScheduleTable,
    ) -> Result<Arc<dyn Device>, DeviceError> {
        let failed = |reason: String| DeviceError::Failed { device: id.to_string(), reason };
        let options = parse(id.strip_prefix(PREFIX).unwrap_or_default()).map_err(failed)?;
        let (spec, link) = find(&options).map_err(failed)?;
        let number = self.host.number(&spec, options.number.as_deref());
        let (number, spread) = number.map_err(failed)?;
        let info = DeviceInfo {
            id: id.to_string(),
            name: format!(
                "{}, modelled: off by less than {:.0} % in half of all cases",
                spec.name,
                spread * 100.0
            ),
            version: version(&options.entry, &spec),
            memory_bytes: spec.memory.bytes.as_ref().map(|bytes| bytes.value as u64),
            dtypes: vec![number],
            takes_parts: true,
            simulated: Some(link.as_ref().map(wires).unwrap_or_default()),
            ..DeviceInfo::of_driver("sim")
        };
        let fate = Arc::new(Fate::new(options.faults.clone()));
        Ok(Arc::new(SimDevice { info, spec: Arc::new(spec), options, host: self.host, fate }))
    }
}

/// Opens a device by its id.
pub type Open = fn(&str, HostThreads) -> Result<Arc<dyn Device>, DeviceError>;

/// Opens any other device with faults on demand: `faulty:fail_every=10:openvino`. Its clock is the
/// wall's.
pub struct FaultDriver {
    /// Opens the other device.
    pub open: Open,
}

/// What ids begin with.
const FAULTY: &str = "faulty:";

impl Driver for FaultDriver {
    fn name(&self) -> &'static str {
        "faulty"
    }

    /// None by themselves.
    fn discover(&self) -> Vec<Found> {
        Vec::new()
    }

    fn opens(&self, id: &str) -> bool {
        id.starts_with(FAULTY)
    }

    fn open(
        &self,
        id: &str,
        threads: HostThreads,
        _: ScheduleTable,
    ) -> Result<Arc<dyn Device>, DeviceError> {
        let failed = |reason: String| DeviceError::Failed { device: id.to_string(), reason };
        let text = id.strip_prefix(FAULTY).unwrap_or_default();
        let (faults, inner) = text.split_once(':').ok_or_else(|| {
            failed("wanted faulty:FAULTS:ID, such as faulty:fail_every=10:openvino".to_string())
        })?;
        let faults = Faults::parse(faults).map_err(failed)?;
        if self.opens(inner) {
            return Err(failed("one set of faults is enough".to_string()));
        }
        Ok(Arc::new(Faulty::named(id, (self.open)(inner, threads)?, faults)))
    }
}

/// The description of the device of an id.
///
/// # Errors
/// An id that is of no such device, or names no description.
pub fn described(id: &str) -> Result<DeviceSpec, String> {
    let text = id.strip_prefix(PREFIX).ok_or_else(|| format!("`{id}` does not begin with sim:"))?;
    Ok(find(&parse(text)?)?.0)
}

/// The description, and its link to the host's memory.
fn find(options: &Options) -> Result<(DeviceSpec, Option<LinkSpec>), String> {
    let Options { entry, machine, .. } = options;
    if let Some(file) = machine {
        let machine = Machine::read(Path::new(file)).map_err(|error| error.to_string())?;
        let spec = machine.devices.get(entry).cloned().ok_or_else(|| {
            let known: Vec<&str> = machine.devices.keys().map(String::as_str).collect();
            format!("{file} has no device `{entry}`; it has {}", known.join(", "))
        })?;
        let link = spec.host_link.as_ref().and_then(|link| machine.link(link)).cloned();
        return Ok((spec, link));
    }
    let spec = catalogue().device(entry).cloned().ok_or_else(|| {
        let near = catalogue().near(entry);
        format!("the catalogue has no `{entry}`{near} (`hetra devices --catalogue` lists all)")
    })?;
    let link = spec.host_link.as_ref().and_then(|link| catalogue().link(link)).cloned();
    Ok((spec, link))
}

fn wires(link: &LinkSpec) -> Wires {
    let wire = |latency_us: f64, bandwidth: f64| Wire {
        latency_s: latency_us * 1e-6,
        byte_s: 1.0 / bandwidth,
    };
    let into = wire(link.latency_us.value, link.bandwidth.value);
    let back = link.back.as_ref();
    let out = back.map_or(into, |back| wire(back.latency_us.value, back.bandwidth.value));
    // Picojoules for a bit.
    let byte_j = link.energy_pj_per_bit.as_ref().map_or(0.0, |figure| figure.value * 8e-12);
    Wires { into, out, half_duplex: link.duplex == Some(false), byte_j }
}

/// Changes with the description: plans are for what was described when they were made.
fn version(entry: &str, spec: &DeviceSpec) -> String {
    let mut machine = Machine::default();
    machine.devices.insert(entry.to_string(), spec.clone());
    let text = machine.print().unwrap_or_default();
    let digest = Sha256::digest(text.as_bytes());
    let hex: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("description {hex}")
}
