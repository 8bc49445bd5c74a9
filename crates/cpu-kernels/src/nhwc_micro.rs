//! The register kernel of convolutions with channels last: blocks of `MR` pixels by one or two
//! vectors of output channels, which stay in registers over all taps and input channels.
//!
//! Nothing of the image is copied. A table says where each tap of each pixel lies; a tap in the
//! border reads zeros.

use super::bf16::Product;
use super::nhwc_store::{Outputs, begin, store};
use hetra_cpu_base::isa::Kernel;
use hetra_cpu_base::simd::Simd;
use std::marker::PhantomData;

/// A tap that lies in the border.
pub(crate) const BORDER: usize = usize::MAX;

/// Blocks of equally many pixels, one behind the other, by one panel. The pointers are used as it
/// is said here, and in no other way.
#[derive(Clone, Copy)]
pub(crate) struct PixelTiles {
    /// Blocks.
    pub(crate) tiles: usize,
    /// Pixels of a block, at least 1.
    pub(crate) mr: usize,
    /// Read: for each block `taps` steps of `mr` offsets into `x`, or [`BORDER`].
    pub(crate) table: *const usize,
    /// Read: `channels` words from `first` on behind each offset of the table. A word is a float,
    /// or what [`Product`] says.
    pub(crate) x: *const f32,
    /// Read in the place of a tap in the border: `channels` words from `first` on.
    pub(crate) zeros: *const f32,
    /// First channel that is read.
    pub(crate) first: usize,
    /// Words that each tap sums: a multiple of `Product::WORDS`.
    pub(crate) channels: usize,
    pub(crate) taps: usize,
    /// Read: `taps * channels / WORDS` steps of two vectors.
    pub(crate) b: *const f32,
    /// What is brought nearer meanwhile, as it is read next. Any address.
    pub(crate) next: *const f32,
    /// Floats to what the next block brings nearer, and blocks behind which it begins again.
    pub(crate) next_step: (usize, usize),
    /// Read: two vectors, which sums begin with.
    pub(crate) bias: *const f32,
    /// Of `tiles * mr` rows.
    pub(crate) out: Outputs,
}

/// # Safety
/// The pointers of `t` must cover the sizes that `PixelTiles` states, and `t.mr == MR`.
#[inline(always)]
unsafe fn micro<S: Simd, P: Product, const MR: usize, const NV: usize>(s: S, t: &PixelTiles) {
    if MR > S::MR {
        return; // Never asked for; keeps the compiler from building it.
    }
    let mut table = t.table;
    for tile in 0..t.tiles {
        let mut b = t.b;
        let (step, blocks) = t.next_step;
        let mut next = t.next.wrapping_add(tile % blocks * step);
        // SAFETY: the table has `taps` steps of `MR` offsets for each block, behind each of which,
        // and in the zeros, lie `first + channels` words; the panel has `taps * channels / WORDS`
        // steps of two vectors and the bias two vectors, and `NV` is at most 2. That is how often
        // and how far they are read. For `store`: as the caller promises.
        unsafe {
            let mut acc: [[S::F; NV]; MR] = begin(s, t.bias);
            for _ in 0..t.taps {
                let mut pixel = [t.zeros; MR];
                for (i, pixel) in pixel.iter_mut().enumerate() {
                    let at = *table.add(i);
                    *pixel = if at == BORDER { t.zeros } else { t.x.add(at) }.add(t.first);
                }
                table = table.add(MR);
                for c in 0..t.channels / P::WORDS {
                    P::step(s, |i, word| pixel[i].add(c * P::WORDS + word), b, &mut acc);
                    b = b.add(2 * S::LANES);
                    s.prefetch(next);
                    next = next.wrapping_add(S::LANES);
                }
            }
            store(s, &t.out, tile * MR, acc);
        }
    }
}

/// A register kernel as a function of its own: inside a larger one the compiler may run out of
/// registers and spill the accumulators.
struct Call<'a, P, const MR: usize, const NV: usize>(&'a PixelTiles, PhantomData<P>);

impl<P: Product, const MR: usize, const NV: usize> Kernel for Call<'_, P, MR, NV> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `Call` is made by `call` only, which has the same contract.
        unsafe { micro::<S, P, MR, NV>(s, self.0) }
    }
}

/// # Safety
/// As `micro`.
#[inline(always)]
unsafe fn call<S: Simd, P: Product, const MR: usize, const NV: usize>(t: &PixelTiles) {
    if MR <= S::MR {
        P::dispatch(S::ISA, Call::<P, MR, NV>(t, PhantomData));
    }
}

/// Runs the register kernel of the right height and width.
/// # Safety
/// As `micro`; `t.mr <= S::MR`.
#[inline(always)]
pub(crate) unsafe fn pixel_tiles<S: Simd, P: Product>(t: &PixelTiles) {
    macro_rules! heights {
        ($nv:literal: $($m:literal)+) => {
            match t.mr {
                // SAFETY: passed on to the caller.
                $($m => unsafe { call::<S, P, $m, $nv>(t) },)+
                _ => unreachable!("more pixels than the register block has rows"),
            }
        };
    }
    if t.out.nv <= S::LANES {
        heights!(1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    } else {
        heights!(2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}
