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
    /// There were more since somebody asked.
    full: bool,
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
        self.full |= self.taken.len() >= TAKEN_MAX;
        if self.users > 0 && !self.full {
            self.taken.push(event);
        }
    }

    /// Nanoseconds of the launches since the last call, which are done; `None` where they are not
    /// known, or not whose they are.
    pub(crate) fn ns(&mut self) -> Option<u64> {
        let taken = std::mem::take(&mut self.taken);
        let full = std::mem::take(&mut self.full);
        if self.users != 1 || full {
            return None;
        }
        let of = |event: &Event| {
            let (start, end) = (event.profiling_command_start(), event.profiling_command_end());
            Some(end.ok()?.saturating_sub(start.ok()?))
        };
        taken.iter().map(of).sum()
    }
}
