//! How fast a device is that is described: `t = c + max(a F, b B)` for each kernel (Williams,
//! Waterman and Patterson, 2009, with what large kernels reach of the peaks, and the time to begin
//! one).

use hetra_machine::{DeviceSpec, Kind, NUMBERS};

use crate::demand::Demand;

/// Shares of the peaks that large kernels reach, where a description does not say: 1/1.3, as
/// measured for three-parameter rooflines of data-centre GPUs.
const EFFICIENCY: f64 = 0.77;
/// Microseconds to begin a kernel, where a description does not say: through a driver, and on the
/// chip that the program runs on.
const LAUNCH_US: f64 = 5.0;
const LAUNCH_US_HOST: f64 = 1.0;

/// Why nothing can be said of a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum CostError {
    #[error("{number} is none of the numbers that it computes with: {known}")]
    Number { number: String, known: String },
    #[error("its description has no peak: no `peak.f32` or the like")]
    NoPeak,
}

/// The figures of a device that the time of kernels follows from.
#[derive(Clone, Debug, PartialEq)]
pub struct Roofline {
    /// What it multiplies, such as `f16`.
    pub number: String,
    /// Bits of such a number.
    pub bits: u32,
    /// Whether what kernels reach of it was measured.
    pub calibrated: bool,
    /// Seconds to begin a kernel.
    launch_s: f64,
    /// Seconds of an operation of products, and of another one.
    product_s: f64,
    other_s: f64,
    /// Seconds of a byte; 0 where the memory is not known.
    byte_s: f64,
    /// Watts while it does nothing, and while it works; none where these are not known.
    watts: Option<(f64, f64)>,
}

/// The order in which a number is chosen where none is asked for: the most exact first.
const CHOICE: [&str; 6] = ["f32", "f64", "f16", "bf16", "i8", "i4"];

impl Roofline {
    /// What a description says, for products of `number`; of the most exact one that it has up to
    /// f32 where that is not given.
    ///
    /// # Errors
    /// When it has no such peak, or none at all.
    pub fn of(spec: &DeviceSpec, number: Option<&str>) -> Result<Roofline, CostError> {
        let has = |name: &&str| spec.peak.contains_key(*name);
        let first = || CHOICE.iter().copied().find(has).ok_or(CostError::NoPeak);
        let number = number.map_or_else(first, Ok)?;
        let peak = spec.peak.get(number).ok_or_else(|| {
            let known: Vec<&str> = spec.peak.keys().map(String::as_str).collect();
            CostError::Number { number: number.to_string(), known: known.join(", ") }
        })?;
        let bits = NUMBERS.iter().find(|(name, _)| *name == number).map_or(32, |(_, bits)| *bits);
        let value = |figure: &Option<hetra_machine::Figure>, other: f64| {
            figure.as_ref().map_or(other, |figure| figure.value)
        };
        let compute = value(&spec.efficiency.compute, EFFICIENCY);
        let launch = if spec.kind == Some(Kind::Cpu) { LAUNCH_US_HOST } else { LAUNCH_US };
        // What is no product is done by vector units, whose rate is that of f32 where it is known.
        let vector = spec.peak.get("f32").map_or(peak.value, |figure| figure.value);
        let bandwidth = spec.memory.bandwidth.as_ref().map(|figure| figure.value);
        let power = &spec.power;
        Ok(Roofline {
            number: number.to_string(),
            bits,
            calibrated: spec.is_calibrated(),
            launch_s: value(&spec.launch_us, launch) * 1e-6,
            product_s: 1.0 / (peak.value * compute),
            other_s: 1.0 / (vector.min(peak.value) * compute),
            byte_s: bandwidth
                .map_or(0.0, |bytes| 1.0 / (bytes * value(&spec.efficiency.memory, EFFICIENCY))),
            watts: power.max.as_ref().map(|max| (value(&power.idle, 0.0), max.value)),
        })
    }

    /// Seconds that a kernel takes, and those of them in which it computes or moves.
    pub fn seconds(&self, demand: &Demand) -> (f64, f64) {
        let computes = demand.products * self.product_s + demand.others * self.other_s;
        let busy = computes.max(demand.bytes * self.byte_s);
        (self.launch_s + busy, busy)
    }

    /// Joules of so many seconds, `busy` of which it works; none where its power is not known. What
    /// it draws at work is taken for its most.
    pub fn joules(&self, seconds: f64, busy: f64) -> Option<f64> {
        self.watts.map(|(idle, max)| idle * seconds + (max - idle) * busy)
    }
}

#[cfg(test)]
mod tests {
    use hetra_machine::{Machine, catalogue};

    use super::*;

    const TEXT: &str = r#"
        [device.d]
        peak.f32 = { value = 1e12, source = "x" }
        peak.i8 = { value = 8e12, source = "x" }
        memory.bandwidth = { value = 1e11, source = "x" }
        launch_us = { value = 2, source = "x" }
        efficiency.compute = { value = 0.5, source = "x" }
        efficiency.memory = { value = 0.8, source = "x" }
        power.idle = { value = 10, source = "x" }
        power.max = { value = 110, source = "x" }
    "#;

    #[test]
    fn the_slower_of_both_and_the_start() {
        let machine = Machine::parse(TEXT).unwrap();
        let near = |got: f64, wanted: f64| assert!((got / wanted - 1.0).abs() < 1e-9, "{got}");
        let of = |number| Roofline::of(&machine.devices["d"], number).unwrap();
        let demand = Demand { products: 1e9, others: 0.0, bytes: 8e7 };
        near(of(None).seconds(&demand).0, 2e-6 + 2e-3);
        near(of(Some("i8")).seconds(&demand).0, 2e-6 + 1e-3);
        let others = Demand { products: 0.0, others: 1e9, bytes: 0.0 };
        near(of(Some("i8")).seconds(&others).1, 2e-3);
        near(of(None).joules(2.0, 1.0).unwrap(), 20.0 + 100.0);
        assert_eq!((of(None).number.as_str(), of(Some("i8")).bits), ("f32", 8));
        let none = Roofline::of(&machine.devices["d"], Some("f16")).unwrap_err().to_string();
        assert_eq!(none, "f16 is none of the numbers that it computes with: f32, i8");
        assert_eq!(Roofline::of(&DeviceSpec::default(), None), Err(CostError::NoPeak));
    }

    #[test]
    fn all_of_the_catalogue_has_one() {
        for (id, spec) in catalogue().devices() {
            let roofline = Roofline::of(spec, None).unwrap_or_else(|e| panic!("{id}: {e}"));
            assert!(roofline.seconds(&Demand::default()).0 > 0.0, "{id}");
        }
    }
}
