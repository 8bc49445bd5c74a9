//! How a kernel cuts its work. It is plain data, so that whoever measures can choose it; results do
//! not depend on it, to the last bit.

use super::gemm_pack;
use hetra_cpu_base::isa::Isa;

/// Sizes of the pieces in which a convolution with channels last is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tiling {
    /// Rows of a register tile: at least 1, at most [`rows_max`]; what lies outside is taken for
    /// the nearest. Not for one channel in each group, whose loop has no such tiles.
    pub mr: usize,
    /// Size of what is to stay in a cache, in per cent of what the kernel takes by itself.
    pub block: usize,
    /// Tasks that each thread gets, at most.
    pub tasks: usize,
}

impl Default for Tiling {
    /// What is good on the whole.
    fn default() -> Self {
        Tiling { mr: usize::MAX, block: 100, tasks: TASKS }
    }
}

/// Tasks that each thread gets when nobody says otherwise: enough for a thread that is late.
const TASKS: usize = 4;

/// Rows of a register tile that reads pixels so many bytes apart. Where that is a multiple of a
/// page, all of them fall into one set of the first cache level, which has 8 places: more of them
/// push each other out (measured on a Zen 4: 1.4 to 1.7 times as fast with 7 rows as with 14).
pub fn rows_apart(isa: Isa, bytes: usize) -> usize {
    let most = rows_max(isa);
    if bytes.is_multiple_of(PAGE) { most.min(PLACES - 1) } else { most }
}

/// Bytes after which lines fall into the same set, and how many lines that has.
const PAGE: usize = 4096;
const PLACES: usize = 8;

/// The most rows of a register tile.
pub fn rows_max(isa: Isa) -> usize {
    gemm_pack::block(isa).0
}

impl Tiling {
    /// Rows of a register tile that has at most `most`.
    #[inline(always)]
    pub(crate) fn rows(self, most: usize) -> usize {
        self.mr.clamp(1, most)
    }

    /// The part of `size` that a block takes.
    #[inline(always)]
    pub(crate) fn scaled(self, size: usize) -> usize {
        size.saturating_mul(self.block) / 100
    }

    /// The least work of a task, of a kernel that asks for `grain` by itself.
    pub(crate) fn grain(self, grain: usize) -> usize {
        grain.saturating_mul(TASKS) / self.tasks.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_a_page_apart_are_read_by_fewer_rows() {
        for isa in Isa::available() {
            let most = rows_max(isa);
            assert_eq!(rows_apart(isa, 2048), most);
            assert_eq!(rows_apart(isa, 4096), most.min(7));
            assert_eq!(rows_apart(isa, 3 * 4096), most.min(7));
        }
    }
}
