//! Large blocks of memory, on huge pages where the system gives them, and short lists that are not
//! on the heap.
//!
//! On pages of 4 KiB a model of 50 MB is 12,000 of them: each is a fault when it is loaded, and an
//! entry that a run misses in the tables of addresses.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::MmapMut;
use smallvec::SmallVec;

/// A number for each axis, outermost first. Those of usual ranks are not on the heap: a run makes
/// many, and allocates nothing.
pub type Axes<T = usize> = SmallVec<[T; 6]>;

/// Bytes of a huge page.
pub const HUGE: usize = 2 << 20;

/// How far one block begins behind a huge page more than the one before it: blocks that all began
/// on one would lie in the same sets of the caches. A page and the golden part of one.
const STAGGER: usize = 4096 + 39 * 64;
const STAGGERS: usize = 16;

/// A block that is mapped by itself: it comes as zeros and goes back to the system at once.
#[derive(Debug)]
pub struct Mapping {
    map: MmapMut,
    /// The bytes of the map that are the block's.
    range: Range<usize>,
}

/// For a block that ends so far behind a huge page: bytes to map, so that some huge page begins
/// early enough, and bytes that may be on huge pages. A last page that would be less than half full
/// is not one, so that at most a megabyte is taken for nothing.
fn sizes(end: usize) -> Option<(usize, usize)> {
    let all = end.checked_next_multiple_of(HUGE)?.checked_add(HUGE)?;
    Some((all, (end + HUGE / 2) / HUGE * HUGE))
}

impl Mapping {
    /// A block of `len` zeros that begins on a line of the cache; `None` where the system has none.
    pub fn zeroed(len: usize) -> Option<Mapping> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let behind = COUNT.fetch_add(1, Ordering::Relaxed) % STAGGERS * STAGGER;
        let (all, huge) = sizes(behind.checked_add(len)?)?;
        let map = MmapMut::map_anon(all).ok()?;
        let page = map.as_ptr().align_offset(HUGE);
        // That the advice is not taken is no fault: the memory is there all the same.
        #[cfg(target_os = "linux")]
        let _ = map.advise_range(memmap2::Advice::HugePage, page, huge);
        let start = page + behind;
        Some(Mapping { map, range: start..start + len })
    }

    /// The block.
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }

    /// The block, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_zeros_on_lines_inside_their_maps() {
        for half in 1..8 {
            for more in [0, 1, 4096, HUGE / 4] {
                let len = half * HUGE / 2 + more;
                let mut block = Mapping::zeroed(len).unwrap();
                assert_eq!(block.bytes().len(), len);
                assert_eq!(block.bytes().as_ptr() as usize % 64, 0);
                assert!(block.bytes().iter().all(|byte| *byte == 0));
                block.bytes_mut().fill(7);
                assert!(block.bytes().iter().all(|byte| *byte == 7));
            }
        }
    }

    #[test]
    fn advice_is_of_what_is_mapped() {
        for end in
            (1..12).flat_map(|half| [0, 1, 4096, HUGE / 4].map(|more| half * HUGE / 2 + more))
        {
            let (all, huge) = sizes(end).unwrap();
            // The last place where a huge page can begin.
            let page = HUGE - 1;
            assert!(page + huge <= all && page + end <= all, "{end}");
            assert!(huge <= end + HUGE / 2, "{end}");
        }
    }

    #[test]
    fn what_no_memory_has_is_refused() {
        assert!(Mapping::zeroed(usize::MAX).is_none());
        assert!(Mapping::zeroed(usize::MAX - 4 * HUGE).is_none());
    }
}
