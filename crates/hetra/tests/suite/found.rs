//! The devices that tests of arrays and kernels run on.

use hetra::array::Device;

/// The devices that are there; one that is required and is not is a failure.
#[allow(clippy::print_stderr, reason = "says what is left out")]
pub(crate) fn devices() -> Vec<Device> {
    let open = |id: &&str| match Device::named(id) {
        Ok(device) => Some(device),
        Err(error) => {
            assert!(!hetra::is_required(id), "{id}: {error}");
            eprintln!("left out: {id}: {error}");
            None
        }
    };
    ["cpu", "opencl", "wgpu"].iter().filter_map(open).collect()
}
