//! What a device says of itself.

use serde::{Deserialize, Serialize};

/// Identity and limits of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// What `--device` takes, such as `cpu`.
    pub id: String,
    /// What it is, such as the processor's model name.
    pub name: String,
    /// Which of those of this name, where the name does not tell: of a processor its family, model
    /// and stepping.
    pub revision: String,
    /// The driver that found it.
    pub driver: String,
    /// Version of the driver.
    pub version: String,
    /// Bytes of memory that it can use; `None` when it does not say.
    pub memory_bytes: Option<u64>,
    /// Host threads that it runs on, or units of its own; 0 where it does not say.
    pub threads: usize,
    /// Which of `kernel_sets` runs; empty where a device has no such choice.
    pub kernels: String,
    /// The instruction sets that it has kernels for and can run, weakest first.
    pub kernel_sets: Vec<String>,
    /// Instruction sets and other abilities, such as `avx512f`.
    pub features: Vec<String>,
    /// Whether it is the host's processor that plays the device: its speed says nothing of a GPU's.
    pub software: bool,
    /// What its kernels compute with, such as `f32`; tensors of other dtypes are turned into these
    /// where that loses nothing, and left to the host where it does.
    pub dtypes: Vec<String>,
    /// The least and the most items of a subgroup, where it has any.
    pub subgroup: Option<(u32, u32)>,
    /// Whether it is given parts of a graph as they are, one `hetra.Part` node each, and not single
    /// nodes: another runtime.
    #[serde(default)]
    pub takes_parts: bool,
    /// Its link to the host's memory, if the device is only described: times are modelled then, and
    /// results made by the host's processor.
    #[serde(default)]
    pub simulated: Option<Wires>,
    /// Numbers that bound what it takes; none where nothing but memory does.
    pub limits: Vec<Limit>,
}

/// A link between a device's memory and the host's, by its description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wires {
    /// To the device.
    pub into: Wire,
    /// From the device.
    pub out: Wire,
    /// Whether copies in one direction wait for those in the other.
    #[serde(default)]
    pub half_duplex: bool,
    /// Joules for each byte; 0 where they are not known.
    #[serde(default)]
    pub byte_j: f64,
}

/// One direction of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wire {
    /// Seconds before the first byte.
    pub latency_s: f64,
    /// Seconds for each byte.
    pub byte_s: f64,
}

impl Wire {
    /// Seconds of a copy.
    pub fn seconds(&self, bytes: f64) -> f64 {
        self.latency_s + bytes * self.byte_s
    }
}

/// One bound of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Of what, such as `bytes of a buffer`.
    pub of: String,
    /// The most.
    pub most: u64,
}

impl Limit {
    /// A bound.
    pub fn new(of: &str, most: u64) -> Limit {
        Limit { of: of.to_string(), most }
    }
}

impl DeviceInfo {
    /// What is known of a driver that found nothing.
    pub fn of_driver(driver: &str) -> DeviceInfo {
        DeviceInfo {
            id: driver.to_string(),
            name: String::new(),
            revision: String::new(),
            driver: driver.to_string(),
            version: String::new(),
            memory_bytes: None,
            threads: 0,
            kernels: String::new(),
            kernel_sets: Vec::new(),
            features: Vec::new(),
            software: false,
            dtypes: Vec::new(),
            subgroup: None,
            takes_parts: false,
            simulated: None,
            limits: Vec::new(),
        }
    }
}

/// What a device reaches at best, measured now.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Peak {
    /// Operations on f32 per second; a multiply-add counts as two.
    pub ops: f64,
    /// The same on bf16, where there are instructions for it and they can be measured.
    pub bf16_ops: Option<f64>,
    /// The same on 8-bit integers.
    pub byte_ops: Option<f64>,
    /// Bytes per second that a copy of large arrays reads and writes.
    pub bytes: f64,
}

/// The state of a driver on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverState {
    /// The device works.
    Found,
    /// Its driver is there and does not work.
    Broken,
    /// Its driver is not installed.
    Missing,
}

/// One line of `hetra devices`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// The device, or as much as is known of it.
    pub info: DeviceInfo,
    /// Whether it can be used.
    pub state: DriverState,
    /// What is wrong and what to install; empty when found.
    pub hint: String,
}
