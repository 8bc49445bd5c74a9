//! What a GPU of NVIDIA has drawn, by its own counter, as the driver's management library (NVML)
//! gives it. The library is found at run time; without it nothing is known.

use std::sync::OnceLock;

use hetra_device::DeviceInfo;
use nvml_wrapper::Nvml;

/// A GPU with a counter.
pub(super) struct Gpu {
    library: &'static Nvml,
    /// Which of the library's it is.
    pub(super) index: u32,
}

impl Gpu {
    /// The GPU that a device is, by its name; none where several have it: which of them it is
    /// nobody says.
    pub(super) fn of(info: &DeviceInfo) -> Option<Gpu> {
        static LIBRARY: OnceLock<Option<Nvml>> = OnceLock::new();
        if info.software || !is_nvidia(&info.name) {
            return None;
        }
        Gpu::named(LIBRARY.get_or_init(|| Nvml::init().ok()).as_ref()?, &info.name)
    }

    fn named(library: &'static Nvml, name: &str) -> Option<Gpu> {
        let count = library.device_count().ok()?;
        let is_it = |&index: &u32| {
            let found = library.device_by_index(index).and_then(|gpu| gpu.name());
            found.is_ok_and(|found| bare(&found) == bare(name))
        };
        let mut all = (0..count).filter(is_it);
        let gpu = Gpu { library, index: all.next()? };
        (all.next().is_none() && gpu.joules().is_some()).then_some(gpu)
    }

    /// Joules since the driver was loaded; none where the GPU counts none (those before Volta).
    pub(super) fn joules(&self) -> Option<f64> {
        let gpu = self.library.device_by_index(self.index).ok()?;
        Some(gpu.total_energy_consumption().ok()? as f64 * 1e-3)
    }
}

fn is_nvidia(name: &str) -> bool {
    name.to_lowercase().contains("nvidia")
}

/// A name as all drivers spell it: some put the maker before it, or what drives it behind it.
fn bare(name: &str) -> String {
    let name = name.to_lowercase();
    let name = name.split(['/', '(']).next().unwrap_or_default();
    name.replace("nvidia", "").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use super::*;

    /// A library with two GPUs of one name and one of another.
    const FAKE: &str = r#"
        #include <string.h>
        typedef void *Gpu;
        static unsigned long long spent = 5000;
        int nvmlInit_v2(void) { return 0; }
        int nvmlInitWithFlags(unsigned flags) { return 0; }
        int nvmlShutdown(void) { return 0; }
        int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
        int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu *gpu) {
            *gpu = (Gpu)(unsigned long)(index + 1);
            return 0;
        }
        int nvmlDeviceGetName(Gpu gpu, char *name, unsigned length) {
            strncpy(name, gpu == (Gpu)3 ? "NVIDIA L4" : "NVIDIA T4", length);
            return 0;
        }
        int nvmlDeviceGetTotalEnergyConsumption(Gpu gpu, unsigned long long *energy) {
            *energy = spent += 1500;
            return 0;
        }
    "#;

    #[test]
    fn a_gpu_is_found_by_its_name_and_read() {
        let folder = std::env::temp_dir().join(format!("hetra-nvml-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (source, library) = (folder.join("fake.c"), folder.join("libfake.so"));
        std::fs::write(&source, FAKE).unwrap();
        let arguments = ["-shared", "-fPIC", "-o"];
        let built = Command::new("cc").args(arguments).arg(&library).arg(&source).status().unwrap();
        assert!(built.success());
        let nvml = Nvml::builder().lib_path(library.as_os_str()).init().unwrap();
        let nvml: &'static Nvml = Box::leak(Box::new(nvml));
        let gpu = Gpu::named(nvml, "NVIDIA L4/PCIe/SSE2").unwrap();
        let (before, after) = (gpu.joules().unwrap(), gpu.joules().unwrap());
        assert!((after - before - 1.5).abs() < 1e-9);
        // Which of two it is, and one that is not there.
        assert!(Gpu::named(nvml, "NVIDIA T4").is_none());
        assert!(Gpu::named(nvml, "NVIDIA H100").is_none());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn other_devices_are_not_asked_for() {
        assert!(!is_nvidia("AMD Radeon Graphics"));
        assert_eq!(bare("NVIDIA GeForce RTX 4090 (Vulkan)"), "geforce rtx 4090");
    }
}
