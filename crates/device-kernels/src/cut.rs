//! How products are cut where the items of a group share memory, as on GPUs: how large a part of
//! the output a group has, and into how many parts sums are cut so that no unit has nothing to do.

use hetra_device::LaunchLimits;

/// Many products of an `m` times `k` by a `k` times `n` matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) products: usize,
}

/// A group of `side` times `side` items, each with `rows` times `columns` sums, each of which is
/// cut into so many `parts`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cut {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) side: usize,
    pub(crate) parts: usize,
}

/// Sums that an item may have along an axis.
pub(crate) const SUMS: &[i64] = &[1, 2, 4, 8];

/// Parts of a sum.
pub(crate) const PARTS: &[i64] = &[1, 2, 4, 8, 16];

/// A processor of a GPU, roughly: the figures of `Cut::cycles`, of which only the order of its
/// results matters.
mod unit {
    /// Items that run together.
    pub(super) const WARP: usize = 32;
    /// Items and registers that there is room for.
    pub(super) const ITEMS: usize = 2048;
    pub(super) const REGISTERS: usize = 1 << 16;
    /// Bytes of memory that groups share.
    pub(super) const SHARED: usize = 96 << 10;
    /// Cycles until what a turn loads is there.
    pub(super) const LOAD: usize = 600;
    /// Cycles that a group takes to begin and to end.
    pub(super) const GROUP: usize = 1500;
    /// Cycles that another kernel takes, which adds parts up.
    pub(super) const KERNEL: usize = 6000;
}

impl Cut {
    /// Steps of the sums that are in shared memory at a time.
    pub(crate) fn depth(self) -> usize {
        if self.rows * self.columns >= 32 { 8 } else { 16 }
    }

    /// The constants of the kernels: `M`, `N`, `G`, `ROWS`, `COLUMNS`, `DEPTH`, `BOTH` (two
    /// tiles) and how many elements of both operands an item loads.
    pub(crate) fn constants(self) -> [u32; 9] {
        let Cut { rows, columns, side, .. } = self;
        let depth = self.depth();
        let loads = [rows * depth / side, columns * depth / side];
        [rows, columns, side, side * rows, side * columns, depth, 2 * depth, loads[0], loads[1]]
            .map(|n| n as u32)
    }

    /// Bytes of shared memory: two tiles of each operand, whose rows have one element more.
    fn bytes(self) -> usize {
        2 * 4 * self.depth() * (self.side * (self.rows + self.columns) + 2)
    }

    /// Whether the device has room for it, and each item has something to load.
    pub(crate) fn fits(self, limits: &LaunchLimits) -> bool {
        let least = self.rows.min(self.columns) * self.depth();
        self.bytes() <= limits.shared_bytes_max
            && self.side * self.side <= limits.group_items_max as usize
            && least >= self.side
    }

    /// Steps of a part, a whole number of turns.
    pub(crate) fn steps(self, k: usize) -> usize {
        k.div_ceil(self.parts).next_multiple_of(self.depth())
    }

    /// Groups along columns, rows and products.
    pub(crate) fn groups(self, of: Shape) -> [usize; 3] {
        let Cut { rows, columns, side, parts } = self;
        [of.n.div_ceil(side * columns), of.m.div_ceil(side * rows), of.products * parts]
    }

    /// Cycles that a device with so many processors takes, roughly.
    fn cycles(self, of: Shape, units: usize) -> usize {
        let Cut { rows, columns, side, parts } = self;
        let items = side * side;
        let warps = items.div_ceil(unit::WARP);
        // A cycle reads shared memory once or does four products.
        let sums = warps * (rows + columns).max(rows * columns / 4) + warps / 2;
        let loads = side * (rows + columns) * 5 / unit::WARP;
        let registers = rows * columns + 2 * (rows + columns) + 40;
        let room = (unit::ITEMS / items)
            .min(unit::REGISTERS / (items * registers))
            .min(unit::SHARED / self.bytes())
            .max(1);
        let groups: usize = self.groups(of).into_iter().product();
        let each = groups.div_ceil(units.max(1));
        let (steps, waves) = (self.steps(of.k), each.div_ceil(room));
        let busy = (each * steps * (sums + loads)).max(waves * (steps / self.depth()) * unit::LOAD);
        let adding = match parts {
            1 => 0,
            _ => unit::KERNEL + of.products * of.m * of.n * (parts + 1) / (4 * units.max(1)),
        };
        busy + waves * unit::GROUP + adding
    }

    /// The one that takes the least time by this reckoning; with so many rows of sums where they
    /// are given.
    pub(crate) fn usual(limits: &LaunchLimits, of: Shape) -> Cut {
        let side = if limits.group_items_max >= 256 { 16 } else { 8 };
        let numbers = |choices: &'static [i64]| choices.iter().map(|&n| n as usize);
        let all = numbers(SUMS).flat_map(|rows| {
            numbers(SUMS).flat_map(move |columns| {
                numbers(PARTS).map(move |parts| Cut { rows, columns, side, parts })
            })
        });
        let worth = |cut: &Cut| cut.parts == 1 || of.k >= cut.parts * 4 * cut.depth();
        let fit = all.filter(|cut| cut.fits(limits) && worth(cut));
        let least = fit.min_by_key(|cut| cut.cycles(of, limits.units));
        least.unwrap_or(Cut { rows: 1, columns: 1, side: 8, parts: 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> LaunchLimits {
        LaunchLimits {
            f16: false,
            subgroups: false,
            lanes: 1,
            cheap_barriers: true,
            units: 128,
            bytes_max: 1 << 30,
            buffers_max: 8,
            group_items_max: 256,
            shared_bytes_max: 48 << 10,
        }
    }

    #[test]
    fn large_products_have_large_tiles_and_small_ones_many_parts() {
        let large = Cut::usual(&limits(), Shape { m: 4096, n: 4096, k: 4096, products: 1 });
        assert!(large.rows * large.columns >= 32 && large.parts == 1, "{large:?}");
        let deep = Cut::usual(&limits(), Shape { m: 512, n: 49, k: 4608, products: 1 });
        assert!(deep.parts >= 4, "{deep:?}");
        let shallow = Cut::usual(&limits(), Shape { m: 64, n: 64, k: 32, products: 1 });
        assert_eq!(shallow.parts, 1, "{shallow:?}");
    }

    #[test]
    fn what_is_chosen_fits() {
        for shared_bytes_max in [1 << 10, 16 << 10, 48 << 10] {
            let limits = LaunchLimits { shared_bytes_max, ..limits() };
            for (m, n, k) in [(1, 1, 1), (16, 100_000, 27), (1000, 1000, 1000), (4096, 64, 64)] {
                let cut = Cut::usual(&limits, Shape { m, n, k, products: 3 });
                assert!(cut.fits(&limits) || shared_bytes_max < 4096, "{cut:?}");
                assert!(cut.steps(k) * cut.parts >= k);
            }
        }
    }
}
