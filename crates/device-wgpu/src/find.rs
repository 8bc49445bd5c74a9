//! Which adapters there are.

use std::sync::OnceLock;

use hetra_device::{DeviceError, DeviceInfo, Limit};
use wgpu::{Backends, DeviceType, Features, Instance, InstanceDescriptor, InstanceFlags};

/// One adapter, not opened.
#[derive(Clone)]
pub struct Adapter {
    pub(crate) adapter: wgpu::Adapter,
    /// What it says of itself.
    pub info: DeviceInfo,
}

/// The one instance of this process: the loader does not like to be opened twice.
fn instance() -> &'static Instance {
    static INSTANCE: OnceLock<Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        let mut descriptor = InstanceDescriptor::new_without_display_handle();
        descriptor.backends = Backends::PRIMARY;
        descriptor.flags = InstanceFlags::empty();
        Instance::new(descriptor)
    })
}

/// Every adapter, real ones before software, else in the system's order.
pub fn all() -> Vec<Adapter> {
    let mut adapters = pollster::block_on(instance().enumerate_adapters(Backends::PRIMARY));
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    adapters.into_iter().enumerate().map(|(number, adapter)| describe(number, adapter)).collect()
}

/// What Hetra uses where it is there.
pub(crate) fn wanted() -> Features {
    Features::SHADER_F16 | Features::SUBGROUP | Features::TIMESTAMP_QUERY | Features::PIPELINE_CACHE
}

fn describe(number: usize, adapter: wgpu::Adapter) -> Adapter {
    let about = adapter.get_info();
    let has = adapter.features();
    let limits = adapter.limits();
    let mut features = vec![about.backend.to_string(), format!("{:?}", about.device_type)];
    for (feature, name) in [
        (Features::SHADER_F16, "f16"),
        (Features::SUBGROUP, "subgroups"),
        (Features::TIMESTAMP_QUERY, "timestamps"),
    ] {
        if has.contains(feature) {
            features.push(name.to_string());
        }
    }
    let half = has.contains(Features::SHADER_F16).then_some("f16");
    let dtypes = ["f32", "i32", "u32", "bool"].into_iter().chain(half);
    let subgroup = (about.subgroup_min_size, about.subgroup_max_size);
    let shared = u64::from(limits.max_compute_workgroup_storage_size);
    let items = u64::from(limits.max_compute_invocations_per_workgroup);
    let bounds = vec![
        Limit::new("bytes of a buffer", limits.max_buffer_size),
        Limit::new("bytes of it for a kernel", limits.max_storage_buffer_binding_size),
        Limit::new("bytes of shared memory", shared),
        Limit::new("items of a group", items),
        Limit::new("buffers of a kernel", u64::from(limits.max_storage_buffers_per_shader_stage)),
    ];
    let info = DeviceInfo {
        id: format!("wgpu:{number}"),
        name: about.name.clone(),
        revision: format!("{:04x}:{:04x}", about.vendor, about.device),
        version: format!("{} {}", about.driver, about.driver_info).trim().to_string(),
        threads: 0,
        kernels: "generated".to_string(),
        features,
        software: about.device_type == DeviceType::Cpu,
        dtypes: dtypes.map(str::to_string).collect(),
        subgroup: has.contains(Features::SUBGROUP).then_some(subgroup),
        limits: bounds,
        ..DeviceInfo::of_driver("wgpu")
    };
    Adapter { adapter, info }
}

/// The device of an id: `wgpu` or `wgpu:N`.
///
/// # Errors
/// `NoDevice` with what was found, `Failed` when it cannot be opened.
pub fn open(id: &str) -> Result<crate::Wgpu, DeviceError> {
    let adapters = all();
    let found: Vec<String> = adapters.iter().map(|adapter| adapter.info.id.clone()).collect();
    let missing = || DeviceError::NoDevice { id: id.to_string(), found: found.join(", ") };
    let number: usize = match id.strip_prefix("wgpu") {
        Some("") => 0,
        Some(rest) => {
            rest.strip_prefix(':').and_then(|number| number.parse().ok()).ok_or_else(missing)?
        }
        None => return Err(missing()),
    };
    crate::Wgpu::new(adapters.into_iter().nth(number).ok_or_else(missing)?)
}
