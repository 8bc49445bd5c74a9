//! Hardware that can be had, or could be: the files in `catalogue/`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::device::DeviceSpec;
use crate::machine::{LinkSpec, Machine};

/// The files, each a table of entries by id.
const DEVICES: [(&str, &str); 5] = [
    ("cpus", include_str!("../catalogue/cpus.toml")),
    ("gpus", include_str!("../catalogue/gpus.toml")),
    ("npus", include_str!("../catalogue/npus.toml")),
    ("fpgas", include_str!("../catalogue/fpgas.toml")),
    ("packages", include_str!("../catalogue/packages.toml")),
];
const LINKS: &str = include_str!("../catalogue/links.toml");

/// What the catalogue holds.
pub struct Catalogue(Machine);

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| Catalogue(read().unwrap_or_default()));

/// The catalogue.
pub fn catalogue() -> &'static Catalogue {
    &CATALOGUE
}

/// A test reads it and sees that it is whole; nothing in it depends on where it runs.
fn read() -> Result<Machine, toml::de::Error> {
    let mut machine = Machine { name: "catalogue".to_string(), ..Machine::default() };
    for (_, text) in DEVICES {
        machine.devices.extend(toml::from_str::<BTreeMap<String, DeviceSpec>>(text)?);
    }
    machine.links = toml::from_str::<BTreeMap<String, LinkSpec>>(LINKS)?;
    Ok(machine)
}

impl Catalogue {
    /// A device, by id.
    pub fn device(&self, id: &str) -> Option<&DeviceSpec> {
        self.0.devices.get(id)
    }

    /// A link, by id.
    pub fn link(&self, id: &str) -> Option<&LinkSpec> {
        self.0.links.get(id)
    }

    /// All devices, by id.
    pub fn devices(&self) -> impl Iterator<Item = (&str, &DeviceSpec)> {
        self.0.devices.iter().map(|(id, device)| (id.as_str(), device))
    }

    /// All links, by id.
    pub fn links(&self) -> impl Iterator<Item = (&str, &LinkSpec)> {
        self.0.links.iter().map(|(id, link)| (id.as_str(), link))
    }

    /// What to say of an id that is none: those that look like it.
    pub fn near(&self, id: &str) -> String {
        let word = id.split('-').next().unwrap_or(id);
        let like = |known: &&str| !word.is_empty() && known.contains(word);
        let near: Vec<&str> = self.devices().map(|(id, _)| id).filter(like).take(8).collect();
        match near.is_empty() {
            true => String::new(),
            false => format!("; it has {}", near.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_whole() {
        let machine = read().unwrap();
        machine.check().unwrap();
        machine.links.iter().for_each(|(id, link)| crate::machine::check_link(id, link).unwrap());
        let wanted = [
            "epyc-9654",
            "xeon-8480",
            "i7-1365u",
            "rtx-4090",
            "t4",
            "l4",
            "a100-sxm-80",
            "h100-sxm",
            "mi300x",
            "jetson-agx-orin",
            "intel-npu-lnl",
            "ascend-310",
            "ascend-910b",
            "edge-tpu",
            "hailo-8",
            "alveo-u50",
            "alveo-u250",
            "ecp5-85f",
            "ucie-package",
            "sram-cim-22nm",
        ];
        for id in wanted {
            let device = catalogue().device(id).unwrap();
            assert!(
                device.kind.is_some() && !device.name.is_empty() && !device.peak.is_empty(),
                "{id}"
            );
            assert!(device.anchors.iter().all(|anchor| anchor.value > 0.0), "{id}");
        }
        for id in ["pcie3-x16", "pcie4-x16", "pcie5-x16", "cxl2-x16", "nvlink4", "ucie-advanced"] {
            assert!(machine.links.keys().any(|known| known.starts_with(id)), "{id}");
        }
        assert!(catalogue().device("h100-sxm").unwrap().is_calibrated());
        assert!(!catalogue().device("ascend-910b").unwrap().is_calibrated());
    }
}
