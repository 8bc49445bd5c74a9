//! What is known of a device.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::figure::Figure;
use crate::machine::MachineError;

/// What numbers a device computes with, as peaks name them, and how many bits one has.
pub const NUMBERS: [(&str, u32); 6] =
    [("f64", 64), ("f32", 32), ("f16", 16), ("bf16", 16), ("i8", 8), ("i4", 4)];

/// What kind of hardware a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A processor that runs programs of any kind.
    Cpu,
    /// A graphics processor.
    Gpu,
    /// A processor for neural networks.
    Npu,
    /// Logic that is configured.
    Fpga,
    /// Dies in one package.
    Package,
    /// Memory that computes.
    Cim,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Kind::Cpu => "cpu",
            Kind::Gpu => "gpu",
            Kind::Npu => "npu",
            Kind::Fpga => "fpga",
            Kind::Package => "package",
            Kind::Cim => "cim",
        })
    }
}

/// A device of a catalogue or of a machine. What nobody says is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// The entry of the catalogue that it is one of: fields that are not given are that one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub like: Option<String>,
    /// What it is called.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// What reaches it from a program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub software: String,
    /// Operations per second by [`NUMBERS`], dense.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub peak: BTreeMap<String, Figure>,
    /// Its memory.
    #[serde(default)]
    pub memory: Memory,
    /// What it has of faster memory.
    #[serde(default)]
    pub on_chip: OnChip,
    /// Microseconds that it takes to begin one kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_us: Option<Figure>,
    /// What large kernels reach of it.
    #[serde(default)]
    pub efficiency: Efficiency,
    /// What it draws.
    #[serde(default)]
    pub power: Power,
    /// What it costs.
    #[serde(default)]
    pub price: Price,
    /// The link to the memory of the host, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_link: Option<String>,
    /// Cores, or what is one of many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<Figure>,
    /// Published results, which what is said of it should come to.
    #[serde(default, rename = "anchor", skip_serializing_if = "Vec::is_empty")]
    pub anchors: Vec<Anchor>,
}

/// The memory of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Figure>,
    /// Bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Figure>,
}

/// Memory on the chip.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnChip {
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Figure>,
}

/// Shares of the peaks, at most 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Efficiency {
    /// Of operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<Figure>,
    /// Of the bandwidth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Figure>,
}

/// Watts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// While it does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Figure>,
    /// At most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Figure>,
}

/// US dollars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// To have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buy_usd: Option<Figure>,
    /// To rent one for an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_hour_usd: Option<Figure>,
}

/// A published result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// What was run, and how, such as `resnet50-offline`.
    pub task: String,
    /// What came of it.
    pub value: f64,
    /// In what.
    pub unit: String,
    /// Who says so.
    pub source: String,
}

/// Whether a figure of this field may be nothing.
fn may_be_zero(field: &str) -> bool {
    field.starts_with("power.") || field.starts_with("price.")
}

impl DeviceSpec {
    /// Whether what kernels reach of it is known from measurements: launches, and shares of the
    /// peaks of arithmetic and memory.
    pub fn is_calibrated(&self) -> bool {
        let Efficiency { compute, memory } = &self.efficiency;
        let figures = [&self.launch_us, compute, memory];
        figures.iter().all(|figure| figure.as_ref().is_some_and(|figure| figure.calibrated))
    }

    /// The same with what is not given taken from another one.
    #[must_use]
    pub fn over(self, base: &DeviceSpec) -> DeviceSpec {
        let text = |own: String, base: &String| if own.is_empty() { base.clone() } else { own };
        let or = |own: Option<Figure>, base: &Option<Figure>| own.or_else(|| base.clone());
        let mut peak = base.peak.clone();
        peak.extend(self.peak);
        DeviceSpec {
            like: self.like,
            name: text(self.name, &base.name),
            kind: self.kind.or(base.kind),
            software: text(self.software, &base.software),
            peak,
            memory: Memory {
                bytes: or(self.memory.bytes, &base.memory.bytes),
                bandwidth: or(self.memory.bandwidth, &base.memory.bandwidth),
            },
            on_chip: OnChip { bytes: or(self.on_chip.bytes, &base.on_chip.bytes) },
            launch_us: or(self.launch_us, &base.launch_us),
            efficiency: Efficiency {
                compute: or(self.efficiency.compute, &base.efficiency.compute),
                memory: or(self.efficiency.memory, &base.efficiency.memory),
            },
            power: Power {
                idle: or(self.power.idle, &base.power.idle),
                max: or(self.power.max, &base.power.max),
            },
            price: Price {
                buy_usd: or(self.price.buy_usd, &base.price.buy_usd),
                per_hour_usd: or(self.price.per_hour_usd, &base.price.per_hour_usd),
            },
            host_link: self.host_link.or_else(|| base.host_link.clone()),
            units: or(self.units, &base.units),
            anchors: if self.anchors.is_empty() { base.anchors.clone() } else { self.anchors },
        }
    }

    /// Its figures, with their fields' names.
    pub fn figures(&self) -> Vec<(String, &Figure)> {
        let peaks = self.peak.iter().map(|(number, figure)| (format!("peak.{number}"), figure));
        let rest = [
            ("memory.bytes", &self.memory.bytes),
            ("memory.bandwidth", &self.memory.bandwidth),
            ("on_chip.bytes", &self.on_chip.bytes),
            ("launch_us", &self.launch_us),
            ("efficiency.compute", &self.efficiency.compute),
            ("efficiency.memory", &self.efficiency.memory),
            ("power.idle", &self.power.idle),
            ("power.max", &self.power.max),
            ("price.buy_usd", &self.price.buy_usd),
            ("price.per_hour_usd", &self.price.per_hour_usd),
            ("units", &self.units),
        ];
        let rest = rest
            .into_iter()
            .filter_map(|(name, figure)| Some((name.to_string(), figure.as_ref()?)));
        peaks.chain(rest).collect()
    }

    /// Refuses figures that no device can have.
    pub(crate) fn check(&self, id: &str) -> Result<(), MachineError> {
        let fault = |field: &str, reason: String| MachineError::Figure {
            id: id.to_string(),
            field: field.to_string(),
            reason,
        };
        let known = |number: &&String| NUMBERS.iter().any(|(name, _)| name == number);
        if let Some(number) = self.peak.keys().find(|number| !known(number)) {
            let known = NUMBERS.map(|(name, _)| name).join(", ");
            return Err(fault("peak", format!("`{number}` is none of {known}")));
        }
        for (field, figure) in self.figures() {
            let value = figure.value;
            if !value.is_finite() || value < 0.0 || (value == 0.0 && !may_be_zero(&field)) {
                return Err(fault(&field, format!("{value} is not a positive number")));
            }
            if field.starts_with("efficiency") && value > 1.0 {
                return Err(fault(&field, format!("{value} is more than all of it")));
            }
            if figure.source.is_empty() {
                return Err(fault(&field, "it has no source".to_string()));
            }
        }
        match (&self.power.idle, &self.power.max) {
            (Some(idle), Some(max)) if idle.value > max.value => {
                let reason = format!("{} W is more than power.max, {} W", idle.value, max.value);
                Err(fault("power.idle", reason))
            }
            _ => Ok(()),
        }
    }
}
