//! Which devices there are.

use std::sync::{Mutex, PoisonError};

use hetra_device::{DeviceError, DeviceInfo, Limit};
use opencl3::device::{CL_DEVICE_TYPE_ALL, CL_DEVICE_TYPE_CPU, Device, SubDevice};
use opencl3::error_codes::DLOPEN_RUNTIME_LOAD_FAILED;
use opencl3::platform::get_platforms;
use opencl3::types::cl_device_id;

/// Divides a device into ones of so many compute units each.
const CL_DEVICE_PARTITION_EQUALLY: isize = 0x1086;

/// One device, not opened.
pub struct OpenClDevice {
    pub(crate) id: cl_device_id,
    /// What it says of itself.
    pub info: DeviceInfo,
    /// Into how many it can be divided; 0 where it cannot.
    pub divisions: u32,
}

/// Why there are no devices.
pub(crate) enum Nothing {
    /// The library is not installed.
    NoLibrary,
    /// It is there and says this.
    Broken(String),
}

/// Every device of every platform, real ones before software, else in the order in which the
/// library has them; or why there is none, and what to install.
///
/// # Errors
/// `(missing, hint)`: whether the library is missing, and what to do.
pub fn all() -> Result<Vec<OpenClDevice>, (bool, String)> {
    // Runtimes set themselves up when they are first asked; PoCL 3.1 does not bear two threads
    // in that.
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let found = find();
    drop(one);
    let found = found.map_err(|nothing| match nothing {
        Nothing::NoLibrary => (true, INSTALL.to_string()),
        Nothing::Broken(reason) => (false, reason),
    })?;
    if found.is_empty() { Err((true, INSTALL.to_string())) } else { Ok(found) }
}

const INSTALL: &str = "install the OpenCL runtime of the device's vendor, or PoCL for the CPU \
    (Debian: pocl-opencl-icd)";

fn find() -> Result<Vec<OpenClDevice>, Nothing> {
    let platforms = get_platforms().map_err(|error| match error.0 {
        DLOPEN_RUNTIME_LOAD_FAILED => Nothing::NoLibrary,
        // The loader is there and knows no platform.
        -1001 => Nothing::NoLibrary,
        _ => Nothing::Broken(format!("clGetPlatformIDs: {error}")),
    })?;
    let mut all = Vec::new();
    for platform in platforms {
        // A platform without a device says so by an error.
        let devices = platform.get_devices(CL_DEVICE_TYPE_ALL).unwrap_or_default();
        let platform = platform.name().unwrap_or_default();
        all.extend(devices.into_iter().map(|id| (id, platform.clone())));
    }
    all.sort_by_cached_key(|(id, platform)| is_software(&Device::new(*id), platform));
    let numbered = all.into_iter().enumerate();
    Ok(numbered.map(|(number, (id, platform))| describe(id, number, &platform)).collect())
}

/// Whether a processor plays the device.
fn is_software(device: &Device, platform: &str) -> bool {
    // Emulators of FPGAs call themselves accelerators.
    device.dev_type().is_ok_and(|kind| kind & CL_DEVICE_TYPE_CPU != 0)
        || platform.contains("Emulation")
}

fn describe(id: cl_device_id, number: usize, platform: &str) -> OpenClDevice {
    let device = Device::new(id);
    let text = |text: opencl3::Result<String>| text.unwrap_or_default().trim().to_string();
    let extensions = text(device.extensions());
    let units = device.max_compute_units().unwrap_or(1);
    let divides = device.partition_properties().unwrap_or_default();
    let divides = divides.contains(&CL_DEVICE_PARTITION_EQUALLY) && units > 1;
    let divisions = if divides { units } else { 0 };
    let mut features = vec![text(device.version())];
    features.push(format!("{units} compute units"));
    if divides {
        features.push(format!("opencl:{number}.0 to .{}", units - 1));
    }
    for (extension, feature) in [("cl_khr_fp16", "f16"), ("cl_khr_subgroups", "subgroups")] {
        if extensions.split(' ').any(|has| has == extension) {
            features.push(feature.to_string());
        }
    }
    let has = |name: &str| extensions.split(' ').any(|has| has == name);
    let half = has("cl_khr_fp16").then_some("f16");
    let dtypes = ["f32", "i32", "u32", "bool"].into_iter().chain(half);
    let limits = [
        ("bytes of a buffer", device.max_mem_alloc_size().ok()),
        ("bytes of shared memory", device.local_mem_size().ok()),
        ("items of a group", device.max_work_group_size().ok().map(|items| items as u64)),
    ];
    let limit = |(of, most): (&str, Option<u64>)| Some(Limit::new(of, most?));
    let info = DeviceInfo {
        id: format!("opencl:{number}"),
        name: text(device.name()),
        revision: platform.to_string(),
        version: text(device.driver_version()),
        memory_bytes: device.global_mem_size().ok(),
        threads: units as usize,
        kernels: "generated".to_string(),
        features,
        software: is_software(&device, platform),
        dtypes: dtypes.map(str::to_string).collect(),
        limits: limits.into_iter().filter_map(limit).collect(),
        ..DeviceInfo::of_driver("opencl")
    };
    OpenClDevice { id, info, divisions }
}

/// What is to be opened.
pub(crate) enum Chosen {
    Whole(OpenClDevice),
    Division(OpenClDevice, SubDevice),
}

/// The device of an id: `opencl`, `opencl:N` or `opencl:N.M`.
///
/// # Errors
/// `NoDevice` with what was found.
pub fn open(id: &str) -> Result<crate::OpenCl, DeviceError> {
    let devices =
        all().map_err(|(_, reason)| DeviceError::Failed { device: id.to_string(), reason })?;
    let found: Vec<String> = devices.iter().map(|device| device.info.id.clone()).collect();
    let missing = || DeviceError::NoDevice { id: id.to_string(), found: found.join(", ") };
    let (number, division) = parse(id).ok_or_else(missing)?;
    let mut device = devices.into_iter().nth(number).ok_or_else(missing)?;
    let Some(division) = division else { return crate::OpenCl::new(Chosen::Whole(device)) };
    if division >= device.divisions {
        return Err(missing());
    }
    let properties = [CL_DEVICE_PARTITION_EQUALLY, 1, 0];
    let parts = Device::new(device.id).create_sub_devices(&properties);
    let parts = parts.map_err(|error| DeviceError::Failed {
        device: id.to_string(),
        reason: format!("it does not divide: {error}"),
    })?;
    let part = parts.into_iter().nth(division as usize).ok_or_else(missing)?;
    device.info.id = format!("opencl:{number}.{division}");
    device.info.threads = 1;
    crate::OpenCl::new(Chosen::Division(device, part))
}

/// The numbers of an id.
fn parse(id: &str) -> Option<(usize, Option<u32>)> {
    let rest = id.strip_prefix("opencl")?;
    if rest.is_empty() {
        return Some((0, None));
    }
    let rest = rest.strip_prefix(':')?;
    match rest.split_once('.') {
        None => Some((rest.parse().ok()?, None)),
        Some((number, division)) => Some((number.parse().ok()?, Some(division.parse().ok()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read() {
        assert_eq!(parse("opencl"), Some((0, None)));
        assert_eq!(parse("opencl:2"), Some((2, None)));
        assert_eq!(parse("opencl:0.1"), Some((0, Some(1))));
        for wrong in ["cpu", "opencl0", "opencl:", "opencl:a", "opencl:1.", "opencl:1.x"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
