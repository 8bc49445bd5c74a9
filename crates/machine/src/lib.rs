//! Hardware as data: devices, links, machines; the catalogue.
//!
//! A [`Machine`] is a TOML file: devices by id, each with figures, each figure with its source and
//! whether it was measured. `like = "rtx-4090"` takes from the [`Catalogue`] what a file does not
//! say. No driver and no handle is here: what is not there yet is described as what is.

mod catalogue;
mod device;
mod figure;
mod machine;

pub use catalogue::{Catalogue, catalogue};
pub use device::{Anchor, DeviceSpec, Efficiency, Kind, Memory, NUMBERS, OnChip, Power, Price};
pub use figure::Figure;
pub use machine::{Back, LinkSpec, Machine, MachineError};

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        Machine::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_machine_is_read_and_written() {
        let text = r#"
            name = "box"
            [device.gpu0]
            like = "rtx-4090"
            host_link = "riser"
            power.max = { value = 300, source = "limit set by us" }
            [device.cpu]
            name = "ours"
            kind = "cpu"
            peak.f32 = { value = 4e11, source = "measured", calibrated = true }
            [link.riser]
            name = "a riser"
            bandwidth = { value = 3e9, source = "measured" }
            latency_us = { value = 9, source = "measured" }
        "#;
        let machine = Machine::parse(text).unwrap();
        let gpu = &machine.devices["gpu0"];
        assert_eq!(gpu.name, "NVIDIA GeForce RTX 4090");
        assert_eq!(gpu.power.max.as_ref().unwrap().value, 300.0);
        assert_eq!(machine.link("riser").unwrap().bandwidth.value, 3e9);
        assert!(machine.link("pcie4-x16").is_some());
        assert_eq!(Machine::parse(&machine.print().unwrap()), Ok(machine));
    }

    #[test]
    fn faults_are_named() {
        let error = fault("[device.a]\nnmae = \"x\"");
        assert!(error.contains("unknown field `nmae`") && error.contains("line 2"), "{error}");
        assert_eq!(
            fault("[device.a]\nlike = \"rtx-5090\""),
            "a: like = \"rtx-5090\" is no entry of the catalogue; it has rtx-4090"
        );
        let error = fault("[device.a]\nhost_link = \"wire\"");
        assert!(error.starts_with("a: host_link `wire` is no link"), "{error}");
        let figure = |field: &str, value: &str| {
            fault(&format!("[device.a]\n{field} = {{ value = {value}, source = \"x\" }}"))
        };
        assert_eq!(figure("launch_us", "-1"), "a: launch_us: -1 is not a positive number");
        assert_eq!(
            figure("memory.bandwidth", "nan"),
            "a: memory.bandwidth: NaN is not a positive number"
        );
        assert_eq!(
            figure("efficiency.compute", "1.5"),
            "a: efficiency.compute: 1.5 is more than all of it"
        );
        assert_eq!(
            figure("peak.f31", "1"),
            "a: peak: `f31` is none of f64, f32, f16, bf16, i8, i4"
        );
        let error = fault(
            "[link.a]\nname = \"x\"\nbandwidth = {value=0, source=\"x\"}\nlatency_us={value=1,source=\"x\"}",
        );
        assert_eq!(error, "a: bandwidth: 0 is not a positive number with a source");
    }
}
