//! What the host's processor draws, measured: the counters of its packages (RAPL), as Linux gives
//! them below `powercap`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::error::Error;

/// Where Linux has them.
const FOLDER: &str = "/sys/class/powercap";

/// The counters of the packages.
pub(super) struct Meter {
    counters: Vec<Counter>,
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
    /// None where there are none, or the system lets nobody read them.
    pub(super) fn open() -> Option<Meter> {
        Meter::below(Path::new(FOLDER))
    }

    fn below(folder: &Path) -> Option<Meter> {
        let zones = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
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
        let mut zones: Vec<PathBuf> = zones.collect();
        zones.sort_by_key(|zone| (zone.as_os_str().len(), zone.clone()));
        for counter in zones.into_iter().filter_map(counter) {
            if !counters.iter().any(|known| known.name == counter.name) {
                counters.push(counter);
            }
        }
        (!counters.is_empty()).then_some(Meter { counters })
    }

    fn read(&self) -> Option<Vec<f64>> {
        self.counters.iter().map(Counter::read).collect()
    }

    /// Watts while something is done again and again for so long; none where a counter is gone.
    pub(super) fn watts(
        &self,
        seconds: f64,
        work: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<Option<f64>, Error> {
        let Some(before) = self.read() else { return Ok(None) };
        let begun = Instant::now();
        while begun.elapsed().as_secs_f64() < seconds {
            work()?;
        }
        let length = begun.elapsed().as_secs_f64();
        let Some(after) = self.read() else { return Ok(None) };
        let spent = |((counter, before), after): ((&Counter, f64), f64)| {
            if after < before { after + counter.range - before } else { after - before }
        };
        let all: f64 = self.counters.iter().zip(before).zip(after).map(spent).sum();
        Ok(Some(all * 1e-6 / length))
    }
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
        let meter = Meter::below(&folder).unwrap();
        assert_eq!(meter.counters.len(), 1);
        let begun = Instant::now();
        let mut step = || {
            std::fs::write(&package, "1000000").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
            Ok(())
        };
        let watts = meter.watts(0.01, &mut step).unwrap().unwrap();
        let least = 2.0 / begun.elapsed().as_secs_f64();
        // 2 J in 20 ms or a little more.
        assert!(watts >= least && watts <= 100.0, "{watts}");
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(Meter::below(&folder).is_none());
    }
}
