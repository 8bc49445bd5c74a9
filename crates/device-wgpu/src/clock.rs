//! Times of kernels by the device's own clock.

use wgpu::{
    Buffer, BufferDescriptor, BufferUsages, CommandEncoder, Device, Features, QUERY_SIZE, QuerySet,
    QuerySetDescriptor, QueryType, Queue,
};

/// Most submissions whose times nobody has asked for.
const TAKEN_MAX: usize = 1024;

/// Bytes of two times.
pub(crate) const TICKS_BYTES: usize = 2 * QUERY_SIZE as usize;

/// Takes the times of submissions while somebody wants them.
pub(crate) struct Clock {
    /// Nanoseconds of a tick; `None` where the device has no clock.
    period: Option<f64>,
    /// How many want times.
    users: usize,
    /// Two times each, of submissions that nobody has asked for.
    taken: Vec<Buffer>,
    /// There were more since somebody asked.
    full: bool,
}

impl Clock {
    pub(crate) fn new(device: &Device, queue: &Queue) -> Clock {
        let has = device.features().contains(Features::TIMESTAMP_QUERY);
        let period = has.then(|| f64::from(queue.get_timestamp_period()));
        Clock { period, users: 0, taken: Vec::new(), full: false }
    }

    /// One more, or one less, wants times.
    pub(crate) fn want(&mut self, on: bool) {
        self.users = if on { self.users + 1 } else { self.users.saturating_sub(1) };
        if self.users == 0 {
            self.taken.clear();
        }
    }

    /// Where the times of a submission go, if somebody wants them.
    pub(crate) fn start(&mut self, device: &Device) -> Option<QuerySet> {
        self.full |= self.taken.len() >= TAKEN_MAX;
        (self.period.is_some() && self.users > 0 && !self.full).then(|| {
            device.create_query_set(&QuerySetDescriptor {
                label: None,
                ty: QueryType::Timestamp,
                count: 2,
            })
        })
    }

    /// Takes the times of a submission, as its last command.
    pub(crate) fn stop(&mut self, device: &Device, set: &QuerySet, encoder: &mut CommandEncoder) {
        let buffer = device.create_buffer(&BufferDescriptor {
            label: None,
            size: TICKS_BYTES as u64,
            usage: BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        encoder.resolve_query_set(set, 0..2, &buffer, 0);
        self.taken.push(buffer);
    }

    /// What was taken since the last call, and the nanoseconds of a tick; `None` where not all is
    /// known, or not whose it is.
    pub(crate) fn take(&mut self) -> Option<(Vec<Buffer>, f64)> {
        let taken = std::mem::take(&mut self.taken);
        let full = std::mem::take(&mut self.full);
        let period = self.period.filter(|_| self.users == 1 && !full)?;
        Some((taken, period))
    }
}

/// Ticks between two times.
pub(crate) fn ticks(bytes: [u8; TICKS_BYTES]) -> u64 {
    let (begin, end) = bytes.split_at(TICKS_BYTES / 2);
    let time = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    time(end).saturating_sub(time(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_what_lies_between() {
        let mut bytes = [0; TICKS_BYTES];
        bytes[..8].copy_from_slice(&1000u64.to_le_bytes());
        bytes[8..].copy_from_slice(&4096u64.to_le_bytes());
        assert_eq!(ticks(bytes), 3096);
        // A clock that was set back.
        bytes[8..].copy_from_slice(&1u64.to_le_bytes());
        assert_eq!(ticks(bytes), 0);
    }
}
