//! How a convolution is done: by which kernel, and how that cuts it.

use hetra_device::{LaunchLimits, Schedule, Space, Task};
use hetra_ops::ConvGeometry;

use crate::conv_lanes::Tile;
use crate::tuned::{Dial, task};

/// A convolution as its kernels see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    /// Items have vectors of places, so many sums at a time (`conv_lanes.rs`); below `work`
    /// multiplications of vectors an item does more than one such tile.
    Lanes { tile: Tile, work: usize },
    /// An item has one place and so many channels (`conv.rs`).
    Direct { rows: usize },
    /// Groups of `side` times `side` items share memory, an item has `rows` channels and `columns`
    /// places (`conv_shared.rs`).
    Shared { rows: usize, columns: usize, side: usize },
}

/// Below so many terms of a sum, shared memory saves less than it costs.
const SHARED_TERMS_MIN: usize = 32;

/// Items of a group along an axis, where they share memory.
const SIDE: usize = 16;

/// The knobs of items that work on vectors.
struct LaneDials {
    rows: Dial,
    sums: Dial,
    work: Dial,
}

/// Those of the other forms.
struct Dials {
    shared: Dial,
    rows: Dial,
    columns: Dial,
    side: Dial,
}

impl LaneDials {
    /// For groups of so many channels; `None` where items do not work on vectors.
    fn of(lanes: u32, group_out: usize) -> Option<LaneDials> {
        let usual = Tile::of(lanes, group_out)?;
        Some(LaneDials {
            rows: Dial { name: "rows", choices: &[1, 2, 3, 4, 6, 8, 12, 16], usual: usual.rows },
            sums: Dial {
                name: "sums",
                choices: &[4, 6, 8, 12, 16, 24],
                usual: usual.rows * usual.vectors,
            },
            work: Dial { name: "work", choices: &[2048, 8192, 32_768], usual: 8192 },
        })
    }

    fn way(&self, schedule: &Schedule) -> Way {
        let rows = self.rows.of(schedule);
        let vectors = (self.sums.of(schedule) / rows).clamp(1, 8);
        Way::Lanes { tile: Tile { rows, vectors }, work: self.work.of(schedule) }
    }
}

impl Dials {
    fn of(limits: &LaunchLimits, group_out: usize, terms: usize) -> Dials {
        let shared = limits.cheap_barriers && group_out >= SIDE && terms >= SHARED_TERMS_MIN;
        let side = if limits.group_items_max >= 256 { SIDE } else { 8 };
        let rows = match (shared, group_out) {
            (true, 64..) => 4,
            (true, 32..) => 2,
            (true, _) => 1,
            (false, 4..) => 8,
            (false, _) => 1,
        };
        Dials {
            shared: Dial { name: "shared", choices: &[0, 1], usual: usize::from(shared) },
            rows: Dial { name: "rows", choices: &[1, 2, 4, 8, 16], usual: rows },
            columns: Dial { name: "columns", choices: &[1, 2, 4], usual: 4 },
            side: Dial { name: "side", choices: &[8, 16], usual: side },
        }
    }

    fn way(&self, limits: &LaunchLimits, schedule: &Schedule) -> Way {
        let rows = self.rows.of(schedule);
        let (columns, side) = (self.columns.of(schedule), self.side.of(schedule));
        let bytes = 16 * 4 * side * (rows + columns);
        let fits =
            bytes <= limits.shared_bytes_max && (side * side) as u32 <= limits.group_items_max;
        match self.shared.of(schedule) == 1 && fits {
            true => Way::Shared { rows, columns, side },
            false => Way::Direct { rows },
        }
    }
}

impl Way {
    /// For groups of so many channels, each a sum of so many terms, by a schedule.
    pub(crate) fn of(
        limits: &LaunchLimits,
        (group_out, terms): (usize, usize),
        schedule: &Schedule,
    ) -> Way {
        match LaneDials::of(limits.lanes, group_out) {
            Some(dials) => dials.way(schedule),
            None => Dials::of(limits, group_out, terms).way(limits, schedule),
        }
    }

    /// Channels of a block of packed weights.
    pub(crate) fn block(self) -> usize {
        match self {
            Way::Lanes { tile, .. } => tile.rows,
            Way::Direct { rows } => rows,
            Way::Shared { rows, side, .. } => rows * side,
        }
    }
}

/// What is to be tuned of a convolution.
pub(crate) fn tunes(limits: &LaunchLimits, geometry: &ConvGeometry) -> Option<(Task, Space)> {
    let taps: usize = geometry.window.kernel.iter().product();
    let (group_in, group_out) = (geometry.group_in(), geometry.group_out());
    let stride = geometry.window.strides.iter().product();
    let places: usize = geometry.output.iter().product();
    let width = geometry.output.last().copied().unwrap_or(1);
    let pads = geometry.window.pads_begin.iter().sum();
    let sizes = [
        ("n", geometry.batch),
        ("places", places),
        ("width", width),
        ("groups", geometry.groups),
        ("c", group_in),
        ("m", group_out),
        ("taps", taps),
        ("stride", stride),
        ("pads", pads),
    ];
    match LaneDials::of(limits.lanes, group_out) {
        Some(LaneDials { rows, sums, work }) => task("Conv", &sizes, &[&rows, &sums, &work]),
        None => {
            let Dials { shared, rows, columns, side } =
                Dials::of(limits, group_out, taps * group_in);
            task("Conv", &sizes, &[&shared, &rows, &columns, &side])
        }
    }
}
