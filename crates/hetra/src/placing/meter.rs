//! What devices draw, measured: the counters of the host processor's packages (RAPL), as Linux
//! gives them below `powercap`, and those of NVIDIA's GPUs.

use std::path::{Path, PathBuf};
use std::time::Instant;

use hetra_device::DeviceInfo;

use crate::error::Error;
use crate::placing::nvml::Gpu;

/// Where Linux has them.
const FOLDER: &str = "/sys/class/powercap";

/// Seconds that packages are read over, and GPUs, whose counters move some times a second.
const METERED_S: f64 = 0.1;
const GPU_METERED_S: f64 = 0.5;

/// The counters that are there.
pub(super) struct Meter {
    /// Of the host's packages; none where there are none, or the system lets nobody read them.
    packages: Vec<Counter>,
    /// Of each device.
    gpus: Vec<Option<Gpu>>,
}

/// Watts, as far as they were measured.
pub(super) struct Drawn {
    /// Of the host's processor, whatever devices it plays.
    pub(super) host: Option<f64>,
    /// Of each device that is not the host's.
    pub(super) devices: Vec<Option<f64>>,
}

struct Counter {
    /// Of the package, such as `package-0`.
    name: String,
    energy: PathBuf,
    /// Microjoules at which it begins anew.
    range: f64,
}

impl Counter {
    /// Microjoules.
    fn read(&self) -> Option<f64> {
        number(&self.energy)
    }
}

fn number(path: &Path) -> Option<f64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl Meter {
    /// Finds the counters of the host, and of devices.
    pub(super) fn open<'a>(devices: impl Iterator<Item = &'a DeviceInfo>) -> Meter {
        Meter { packages: packages(Path::new(FOLDER)), gpus: devices.map(Gpu::of).collect() }
    }

    /// Whether what the host's processor draws is measured.
    pub(super) fn has_host(&self) -> bool {
        !self.packages.is_empty()
    }

    /// Whether what a device draws is measured by a counter of its own.
    pub(super) fn has(&self, device: usize) -> bool {
        self.gpus[device].is_some()
    }

    /// The GPU of a device that is used.
    fn gpu(&self, device: usize, used: &[bool]) -> Option<&Gpu> {
        self.gpus[device].as_ref().filter(|_| used[device])
    }

    /// Microjoules of packages, and joules of the GPUs of devices that are used.
    fn read(&self, used: &[bool]) -> (Option<Vec<f64>>, Vec<Option<f64>>) {
        let gpu = |device| self.gpu(device, used).and_then(Gpu::joules);
        let gpus = (0..self.gpus.len()).map(gpu).collect();
        (self.packages.iter().map(Counter::read).collect(), gpus)
    }

    /// Watts while something is done again and again on the devices that are used; none where a
    /// counter is gone, 0 for a second device that leads to a GPU. Nothing is done where there is
    /// no counter.
    pub(super) fn watts(
        &self,
        used: &[bool],
        work: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<Drawn, Error> {
        let any_gpu = (0..self.gpus.len()).any(|device| self.gpu(device, used).is_some());
        if !any_gpu && !self.has_host() {
            return Ok(Drawn { host: None, devices: vec![None; self.gpus.len()] });
        }
        let seconds = if any_gpu { GPU_METERED_S } else { METERED_S };
        let before = self.read(used);
        let begun = Instant::now();
        while begun.elapsed().as_secs_f64() < seconds {
            work()?;
        }
        let length = begun.elapsed().as_secs_f64();
        let after = self.read(used);
        let spent = |((counter, before), after): ((&Counter, f64), f64)| {
            if after < before { after + counter.range - before } else { after - before }
        };
        let packages = before.0.zip(after.0).filter(|_| self.has_host());
        let host = packages.map(|(before, after)| {
            self.packages.iter().zip(before).zip(after).map(spent).sum::<f64>() * 1e-6 / length
        });
        // Two devices may lead to one GPU.
        let index = |device| self.gpu(device, used).map(|gpu| gpu.index);
        let is_second = |device| (0..device).any(|other| index(other) == index(device));
        let gpus = before.1.into_iter().zip(after.1).enumerate();
        let devices = gpus.map(|(device, (before, after))| {
            let watts = (after? - before?).max(0.0) / length;
            Some(if is_second(device) { 0.0 } else { watts })
        });
        Ok(Drawn { host, devices: devices.collect() })
    }
}

/// The counters of packages below a folder.
fn packages(folder: &Path) -> Vec<Counter> {
    let zones = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let counter = |zone: PathBuf| {
        // Not those of cores and memory, which are parts of a package.
        let name = std::fs::read_to_string(zone.join("name")).ok()?;
        let range = number(&zone.join("max_energy_range_uj"))?;
        let name = name.trim().to_string();
        let package = name.starts_with("package");
        let counter = Counter { name, energy: zone.join("energy_uj"), range };
        counter.read().filter(|_| package).map(|_| counter)
    };
    // Some systems give the counter of a package twice, in other ways.
    let mut counters: Vec<Counter> = Vec::new();
    let mut zones: Vec<PathBuf> = zones.map(|entry| entry.path()).collect();
    zones.sort_by_key(|zone| (zone.as_os_str().len(), zone.clone()));
    for counter in zones.into_iter().filter_map(counter) {
        if !counters.iter().any(|known| known.name == counter.name) {
            counters.push(counter);
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_also_when_they_begin_anew() {
        let folder = std::env::temp_dir().join(format!("hetra-meter-{}", std::process::id()));
        let zone = |name: &str, what: &str, energy: u64| {
            let zone = folder.join(name);
            std::fs::create_dir_all(&zone).unwrap();
            let write = |file: &str, text: String| std::fs::write(zone.join(file), text).unwrap();
            write("name", format!("{what}\n"));
            write("max_energy_range_uj", "10000000\n".to_string());
            write("energy_uj", format!("{energy}\n"));
            zone.join("energy_uj")
        };
        let package = zone("intel-rapl:0", "package-0", 9_000_000);
        zone("intel-rapl:0:0", "core", 5);
        zone("intel-rapl-mmio:0", "package-0", 9_000_000);
        let meter = Meter { packages: packages(&folder), gpus: vec![None] };
        assert_eq!(meter.packages.len(), 1);
        let begun = Instant::now();
        let mut step = || {
            std::fs::write(&package, "1000000").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(200));
            Ok(())
        };
        let drawn = meter.watts(&[true], &mut step).unwrap();
        let (watts, least) = (drawn.host.unwrap(), 2.0 / begun.elapsed().as_secs_f64());
        // 2 J in 200 ms or a little more.
        assert!(watts >= least && watts <= 10.0, "{watts}");
        assert_eq!(drawn.devices, [None]);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(packages(&folder).is_empty());
        let none = Meter { packages: Vec::new(), gpus: vec![None] };
        let drawn = none.watts(&[true], &mut || unreachable!("nothing to read")).unwrap();
        assert!(drawn.host.is_none() && !none.has_host() && !none.has(0));
    }
}
