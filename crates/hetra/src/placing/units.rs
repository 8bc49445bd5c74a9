//! What devices compute with, and share.

use hetra_device::DeviceInfo;
use hetra_exec::Seat;
use hetra_place::Unit;

/// Providers of ONNX Runtime that work on the host's processor, as ids name them.
const HOST_IDS: [&str; 3] = ["ort", "openvino", "ort:xnnpack"];

/// The id of a device that has faults on demand without them; it is what it is else.
pub(super) fn inner(id: &str) -> &str {
    id.strip_prefix("faulty:").and_then(|id| id.split_once(':')).map_or(id, |(_, inner)| inner)
}

/// Whether the host's processor does a device's work.
pub(crate) fn on_host(info: &DeviceInfo) -> bool {
    let delegate = HOST_IDS.contains(&inner(&info.id).split('?').next().unwrap_or_default());
    info.driver == "cpu" || info.software || delegate
}

/// What computes, and with which of it each device does. Devices that the host's processor plays
/// share it, unless it has enough processors for the threads of all of them, or each keeps to its
/// own.
pub(super) fn units(seats: &[Seat]) -> (Vec<Unit>, Vec<usize>) {
    let on_host: Vec<&Seat> = seats.iter().filter(|seat| on_host(seat.device.info())).collect();
    let threads: usize = on_host.iter().map(|seat| seat.device.info().threads).sum();
    // Without a number a device takes all there are.
    let counted = on_host.iter().all(|seat| seat.device.info().threads > 0);
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut cores: Vec<usize> = on_host.iter().flat_map(|seat| seat.cores.clone()).collect();
    let given = cores.len();
    cores.sort_unstable();
    cores.dedup();
    let bound = on_host.iter().all(|seat| !seat.cores.is_empty()) && cores.len() == given;
    let apart = bound || (counted && threads <= processors);
    let mut units = vec![Unit { name: "host".to_string(), slots: 1 }];
    let unit = seats.iter().enumerate().map(|(index, seat)| {
        let shares = on_host.iter().any(|other| std::ptr::eq(*other, seat));
        if index == 0 || (shares && !apart) {
            return 0;
        }
        units.push(Unit { name: seat.device.info().id.clone(), slots: 1 });
        units.len() - 1
    });
    let unit = unit.collect();
    (units, unit)
}
