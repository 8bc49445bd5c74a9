//! Times of kernels by the device's own clock: what the events of their launches say.

use opencl3::event::Event;

/// Most launches whose times nobody has asked for.
const TAKEN_MAX: usize = 1 << 16;

/// Keeps the events of launches while somebody wants times.
#[derive(Default)]
pub(crate) struct Clock {
    /// How many want times.
    users: usize,
    taken: Vec<Event>,
}

impl Clock {
    /// One more, or one less, wants times.
    pub(crate) fn want(&mut self, on: bool) {
        self.users = if on { self.users + 1 } else { self.users.saturating_sub(1) };
        if self.users == 0 {
            self.taken.clear();
        }
    }

    /// A launch.
    pub(crate) fn take(&mut self, event: Event) {
        if self.users > 0 && self.taken.len() < TAKEN_MAX {
            self.taken.push(event);
        }
    }

    /// Nanoseconds of the launches since the last call, which are done; `None` where nobody wants
    /// times, or the device does not say them.
    pub(crate) fn ns(&mut self) -> Option<u64> {
        if self.users == 0 {
            return None;
        }
        let taken = std::mem::take(&mut self.taken);
        let of = |event: &Event| {
            let (start, end) = (event.profiling_command_start(), event.profiling_command_end());
            Some(end.ok()?.saturating_sub(start.ok()?))
        };
        taken.iter().map(of).sum()
    }
}
