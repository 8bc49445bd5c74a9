//! How products are cut where the items of a group share memory, as on GPUs: how large a part of
//! the output a group has, and into how many parts sums are cut so that no unit has nothing to do.

use hetra_device::LaunchLimits;

/// Many products of an `m` times `k` by a `k` times `n` matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) products: usize,
    /// Operands whose tiles have an element more in a row than is used.
    pub(crate) padded: usize,
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

    /// Bytes of shared memory: two tiles of each operand, so many of which have an element more in
    /// a row.
    fn bytes(self, padded: usize) -> usize {
        2 * 4 * self.depth() * (self.side * (self.rows + self.columns) + padded)
    }

    /// Whether the device has room for it, and each item has something to load.
    pub(crate) fn fits(self, limits: &LaunchLimits, padded: usize) -> bool {
        let least = self.rows.min(self.columns) * self.depth();
        self.bytes(padded) <= limits.shared_bytes_max
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
            .min(unit::SHARED / self.bytes(of.padded))
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

    /// The one that takes the least time by this reckoning; with so many rows of items that wide
    /// where they are given. `None` where none fits.
    pub(crate) fn usual(
        limits: &LaunchLimits,
        of: Shape,
        fixed: Option<(usize, usize)>,
    ) -> Option<Cut> {
        let side = if limits.group_items_max >= 256 { 16 } else { 8 };
        let side = fixed.map_or(side, |(_, side)| side);
        let numbers = |choices: &'static [i64]| choices.iter().map(|&n| n as usize);
        let wanted = |rows: &usize| fixed.is_none_or(|(fixed, _)| fixed == *rows);
        let all = numbers(SUMS).filter(wanted).flat_map(|rows| {
            numbers(SUMS).flat_map(move |columns| {
                numbers(PARTS).map(move |parts| Cut { rows, columns, side, parts })
            })
        });
        let worth = |cut: &Cut| cut.parts == 1 || of.k >= cut.parts * 4 * cut.depth();
        let fit = all.filter(|cut| cut.fits(limits, of.padded) && worth(cut));
        fit.min_by_key(|cut| cut.cycles(of, limits.units))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn limits() -> LaunchLimits {
        LaunchLimits {
            f16: false,
            subgroups: false,
            lanes: 1,
            cheap_barriers: true,
            units: 128,
            turns_max: usize::MAX,
            bytes_max: 1 << 30,
            part_max: 1 << 30,
            part_align: 0,
            buffers_max: 8,
            group_items_max: 256,
            shared_bytes_max: 32 << 10,
        }
    }

    fn shape(m: usize, n: usize, k: usize) -> Shape {
        Shape { m, n, k, products: 1, padded: 1 }
    }

    #[test]
    fn large_products_have_large_tiles_and_small_ones_many_parts() {
        let usual = |of| Cut::usual(&limits(), of, None).unwrap();
        let large = usual(shape(4096, 4096, 4096));
        assert!(large.rows * large.columns >= 32 && large.parts == 1, "{large:?}");
        let deep = usual(shape(512, 49, 4608));
        assert!(deep.parts >= 4, "{deep:?}");
        let shallow = usual(shape(64, 64, 32));
        assert_eq!(shallow.parts, 1, "{shallow:?}");
        let few = LaunchLimits { units: 1, ..limits() };
        assert_eq!(Cut::usual(&few, shape(512, 49, 4608), None).unwrap().parts, 1);
    }

    #[test]
    fn what_is_chosen_fits_and_keeps_what_is_fixed() {
        for shared_bytes_max in [5 << 10, 16 << 10, 32 << 10] {
            for group_items_max in [64, 128, 256, 1024] {
                let limits = LaunchLimits { shared_bytes_max, group_items_max, ..limits() };
                for (m, n, k) in [(1, 1, 1), (16, 100_000, 27), (1000, 1000, 1000)] {
                    let cut = Cut::usual(&limits, shape(m, n, k), None).unwrap();
                    assert!(cut.fits(&limits, 1), "{cut:?}");
                    let fixed = (cut.rows, cut.side);
                    let again = Cut::usual(&limits, shape(m, 7 * n, k), Some(fixed)).unwrap();
                    assert_eq!((again.rows, again.side), fixed);
                }
            }
        }
        let none = LaunchLimits { shared_bytes_max: 1 << 10, ..limits() };
        assert_eq!(Cut::usual(&none, shape(64, 64, 64), None), None);
    }

    #[test]
    fn the_items_of_a_group_load_whole_tiles() {
        for (&rows, &columns) in SUMS.iter().flat_map(|a| SUMS.iter().map(move |b| (a, b))) {
            for side in [4, 8, 16] {
                let cut = Cut { rows: rows as usize, columns: columns as usize, side, parts: 1 };
                if !cut.fits(&limits(), 2) {
                    continue;
                }
                let [_, _, g, all_rows, all_columns, depth, both, left, right] = cut.constants();
                assert_eq!(both, 2 * depth);
                assert_eq!((left * g * g, right * g * g), (all_rows * depth, all_columns * depth));
                // `convolve_shared` loads one place for each item.
                assert!(side == 4 || (g * g) % all_columns == 0, "{cut:?}");
                assert_eq!((g * g) % depth, 0, "{cut:?}");
            }
        }
    }
}
