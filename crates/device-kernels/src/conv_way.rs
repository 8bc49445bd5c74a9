//! How a convolution is done: by which kernel, and how that cuts it.

use hetra_device::{LaunchLimits, Schedule, Space, Task};
use hetra_ops::ConvGeometry;

use crate::conv_lanes::Tile;
use crate::cut::{Cut, PARTS, SUMS, Shape};
use crate::tuned::{Dial, task};

/// A convolution as its kernels see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    /// Items have vectors of places, so many sums at a time (`conv_lanes.rs`); below `work`
    /// multiplications of vectors an item does more than one such tile.
    Lanes { tile: Tile, work: usize },
    /// An item has one place and so many channels (`conv.rs`).
    Direct { rows: usize },
    /// Items of a group share memory, and have so many channels and places (`conv_shared.rs`).
    Shared(Cut),
}

/// Below so many terms of a sum, shared memory saves less than it costs.
const SHARED_TERMS_MIN: usize = 32;

/// Below so many channels of a group most of what is computed by shared memory is of none.
const SHARED_CHANNELS_MIN: usize = 16;

/// Places of the output where nobody knows how many there are.
const PLACES: usize = 784;

/// What is known of a convolution before it runs.
pub(crate) struct Sizes {
    /// Images times groups of channels.
    pub(crate) products: usize,
    /// Places of the output.
    pub(crate) places: Option<usize>,
    /// Channels of the output in a group.
    pub(crate) group_out: usize,
    /// Terms of a sum.
    pub(crate) terms: usize,
}

impl Sizes {
    /// All is known.
    pub(crate) fn of(geometry: &ConvGeometry) -> Sizes {
        Sizes {
            products: geometry.batch * geometry.groups,
            places: Some(geometry.output.iter().product()),
            group_out: geometry.group_out(),
            terms: geometry.window.kernel.iter().product::<usize>() * geometry.group_in(),
        }
    }

    fn shape(&self) -> Shape {
        let n = self.places.unwrap_or(PLACES);
        Shape { m: self.group_out, n, k: self.terms, products: self.products, padded: 0 }
    }
}

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
    parts: Dial,
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
    fn of(limits: &LaunchLimits, sizes: &Sizes) -> Dials {
        let Sizes { group_out, terms, .. } = *sizes;
        let cut = match limits.cheap_barriers {
            true => Cut::usual(limits, sizes.shape(), None),
            false => None,
        };
        let shared = cut.is_some() && group_out >= SHARED_CHANNELS_MIN && terms >= SHARED_TERMS_MIN;
        let cut = cut.unwrap_or(Cut { rows: 1, columns: 4, side: 8, parts: 1 });
        let rows = match (shared, group_out) {
            (true, _) => cut.rows,
            (false, 4..) => 8,
            (false, _) => 1,
        };
        Dials {
            shared: Dial { name: "shared", choices: &[0, 1], usual: usize::from(shared) },
            rows: Dial { name: "rows", choices: SUMS, usual: rows },
            columns: Dial { name: "columns", choices: SUMS, usual: cut.columns },
            side: Dial { name: "side", choices: &[8, 16], usual: cut.side },
            parts: Dial { name: "parts", choices: PARTS, usual: cut.parts },
        }
    }

    fn way(&self, limits: &LaunchLimits, schedule: &Schedule) -> Way {
        let rows = self.rows.of(schedule);
        let [columns, side, parts] =
            [&self.columns, &self.side, &self.parts].map(|dial| dial.of(schedule));
        let cut = Cut { rows, columns, side, parts };
        let shared = limits.cheap_barriers && self.shared.of(schedule) == 1;
        match shared && cut.fits(limits, 0) {
            true => Way::Shared(cut),
            false => Way::Direct { rows },
        }
    }
}

impl Way {
    /// How a convolution is done, by a schedule.
    pub(crate) fn of(limits: &LaunchLimits, sizes: &Sizes, schedule: &Schedule) -> Way {
        match LaneDials::of(limits.lanes, sizes.group_out) {
            Some(dials) => dials.way(schedule),
            None => Dials::of(limits, sizes).way(limits, schedule),
        }
    }

    /// The same for other sizes, by weights that are packed already.
    pub(crate) fn resized(self, limits: &LaunchLimits, sizes: &Sizes) -> Way {
        match self {
            Way::Shared(cut) => {
                let fixed = Some((cut.rows, cut.side));
                Way::Shared(Cut::usual(limits, sizes.shape(), fixed).unwrap_or(cut))
            }
            other => other,
        }
    }

    /// Channels of a block of packed weights.
    pub(crate) fn block(self) -> usize {
        match self {
            Way::Lanes { tile, .. } => tile.rows,
            Way::Direct { rows } => rows,
            Way::Shared(cut) => cut.rows * cut.side,
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
            let dials = Dials::of(limits, &Sizes::of(geometry));
            let Dials { shared, rows, columns, side, parts } = &dials;
            match limits.cheap_barriers {
                true => task("Conv", &sizes, &[shared, rows, columns, side, parts]),
                false => task("Conv", &sizes, &[rows]),
            }
        }
    }
}
