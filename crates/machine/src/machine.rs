//! A computer: its devices and links, and the file that says so.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::catalogue;
use crate::device::DeviceSpec;
use crate::figure::Figure;

/// Most bytes of a file.
const BYTES_MAX: u64 = 16 << 20;
/// Most devices and links of a file.
const ENTRIES_MAX: usize = 4096;

/// A way between two memories.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSpec {
    /// What it is called.
    pub name: String,
    /// Bytes per second that copies reach, in one direction.
    pub bandwidth: Figure,
    /// Bytes per second by its specification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nominal: Option<Figure>,
    /// Microseconds to begin a copy.
    pub latency_us: Figure,
    /// The same for copies to the host's memory, where they are not alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<Back>,
    /// Whether both directions are as fast at once; where it is not said they are taken to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplex: Option<bool>,
    /// Picojoules for each bit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_pj_per_bit: Option<Figure>,
}

/// The direction from a device to the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Back {
    /// Bytes per second.
    pub bandwidth: Figure,
    /// Microseconds to begin a copy.
    pub latency_us: Figure,
}

/// A computer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// What it is called.
    #[serde(default)]
    pub name: String,
    /// Its devices, by id.
    #[serde(default, rename = "device")]
    pub devices: BTreeMap<String, DeviceSpec>,
    /// Its links, by id; those of the catalogue are known anyway.
    #[serde(default, rename = "link", skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<String, LinkSpec>,
}

/// What is wrong with the description of a machine.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum MachineError {
    #[error("{0}")]
    Syntax(String),
    #[error("{id}: {field}: {reason}")]
    Figure { id: String, field: String, reason: String },
    #[error("{id}: host_link `{link}` is no link of this file nor of the catalogue ({known})")]
    Link { id: String, link: String, known: String },
    #[error("{id}: like = \"{like}\" is no entry of the catalogue{near}")]
    Like { id: String, like: String, near: String },
    #[error("{file}: {reason}")]
    File { file: String, reason: String },
    #[error("{count} devices and links; {ENTRIES_MAX} at most")]
    Many { count: usize },
}

impl Machine {
    /// Reads a machine file from where it is.
    ///
    /// # Errors
    /// As [`Machine::parse`], with the file's name; what cannot be read.
    pub fn read(path: &Path) -> Result<Machine, MachineError> {
        let fault = |reason: String| {
            let file = path.display().to_string();
            MachineError::File { file, reason }
        };
        let size = std::fs::metadata(path).map_err(|error| fault(error.to_string()))?.len();
        if size > BYTES_MAX {
            return Err(fault(format!("{size} bytes; {BYTES_MAX} at most")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
        Machine::parse(&text).map_err(|error| fault(error.to_string()))
    }

    /// Reads a machine file and fills in from the catalogue what its devices are like.
    ///
    /// # Errors
    /// What is not TOML, is no field, or is no figure; links and entries that are not known.
    pub fn parse(text: &str) -> Result<Machine, MachineError> {
        let machine: Machine =
            toml::from_str(text).map_err(|error| MachineError::Syntax(error.to_string()))?;
        machine.filled()
    }

    fn filled(mut self) -> Result<Machine, MachineError> {
        let count = self.devices.len() + self.links.len();
        if count > ENTRIES_MAX {
            return Err(MachineError::Many { count });
        }
        let devices = std::mem::take(&mut self.devices);
        for (id, device) in devices {
            let device = match &device.like {
                Some(like) => {
                    let base = catalogue().device(like).ok_or_else(|| MachineError::Like {
                        id: id.clone(),
                        like: like.clone(),
                        near: catalogue().near(like),
                    })?;
                    device.clone().over(base)
                }
                None => device,
            };
            self.devices.insert(id, device);
        }
        self.check()?;
        Ok(self)
    }

    /// Refuses what no machine can be.
    pub(crate) fn check(&self) -> Result<(), MachineError> {
        for (id, link) in &self.links {
            check_link(id, link)?;
        }
        for (id, device) in &self.devices {
            device.check(id)?;
            if let Some(link) = &device.host_link
                && self.link(link).is_none()
            {
                let known: Vec<&String> = self.links.keys().collect();
                let known = known.iter().map(|id| id.as_str());
                let known: Vec<&str> = known.chain(catalogue().links().map(|(id, _)| id)).collect();
                let (id, link) = (id.clone(), link.clone());
                return Err(MachineError::Link { id, link, known: known.join(", ") });
            }
        }
        Ok(())
    }

    /// A link of this file, or of the catalogue.
    pub fn link(&self, id: &str) -> Option<&LinkSpec> {
        self.links.get(id).or_else(|| catalogue().link(id))
    }

    /// The file that says the same.
    ///
    /// # Errors
    /// Never, unless a number is not finite.
    pub fn print(&self) -> Result<String, MachineError> {
        toml::to_string(self).map_err(|error| MachineError::Syntax(error.to_string()))
    }
}

pub(crate) fn check_link(id: &str, link: &LinkSpec) -> Result<(), MachineError> {
    let mut figures = vec![("bandwidth", &link.bandwidth), ("latency_us", &link.latency_us)];
    figures.extend(link.nominal.iter().map(|figure| ("nominal", figure)));
    figures.extend(link.energy_pj_per_bit.iter().map(|figure| ("energy_pj_per_bit", figure)));
    if let Some(back) = &link.back {
        figures.push(("back.bandwidth", &back.bandwidth));
        figures.push(("back.latency_us", &back.latency_us));
    }
    for (field, figure) in figures {
        let fine = figure.value.is_finite()
            && (figure.value > 0.0 || (figure.value == 0.0 && !field.ends_with("bandwidth")));
        if !fine || figure.source.is_empty() {
            let reason = format!("{} is not a positive number with a source", figure.value);
            let (id, field) = (id.to_string(), field.to_string());
            return Err(MachineError::Figure { id, field, reason });
        }
    }
    Ok(())
}
