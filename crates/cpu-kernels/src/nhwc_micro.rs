//! The register kernel of convolutions with channels last: a block of `MR` pixels by one or two
//! vectors of output channels, which stays in registers over all taps and input channels.
//!
//! Nothing of the image is copied. A table says where each tap of each pixel lies; a tap in the
//! border reads zeros.

use super::gemm_micro::{TileEnd, store_tile};
use super::isa::Kernel;
use super::simd::Simd;

/// A tap that lies in the border.
pub(crate) const BORDER: usize = usize::MAX;

/// One call of the register kernel. The pointers are used as it is said here, and in no other way.
#[derive(Clone, Copy)]
pub(crate) struct PixelTile {
    /// Read: `taps` steps of `mr` offsets into `x`, or [`BORDER`].
    pub(crate) table: *const usize,
    /// Read: `channels` floats from `first` on behind each offset of the table.
    pub(crate) x: *const f32,
    /// Read in the place of a tap in the border: `channels` floats from `first` on.
    pub(crate) zeros: *const f32,
    /// First channel that is read.
    pub(crate) first: usize,
    /// Channels that each tap sums.
    pub(crate) channels: usize,
    pub(crate) taps: usize,
    /// Read: `taps * channels` steps of two vectors.
    pub(crate) b: *const f32,
    /// Pixels, at least 1.
    pub(crate) mr: usize,
    /// Output channels of the panel that exist: at least 1, at most two vectors.
    pub(crate) nv: usize,
    /// Output, read and written: `mr` rows of `nv` floats, `ldc` apart. No other thread uses them.
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
    pub(crate) end: TileEnd,
}

/// # Safety
/// The pointers of `t` must cover the sizes that `PixelTile` and `TileEnd` state, and
/// `t.mr == MR`.
#[inline(always)]
unsafe fn micro<S: Simd, const MR: usize, const NV: usize>(s: S, t: &PixelTile) {
    if MR > S::MR {
        return; // Never asked for; keeps the compiler from building it.
    }
    let mut acc = [[s.splat(0.0); NV]; MR];
    let (mut table, mut b) = (t.table, t.b);
    // SAFETY: the table has `taps` steps of `MR` offsets, behind each of which, and in the zeros,
    // lie `first + channels` floats; the panel has `taps * channels` steps of two vectors, and
    // `NV` is at most 2. That is how often and how far they are read. For `store_tile`: as the
    // caller promises.
    unsafe {
        for _ in 0..t.taps {
            let mut pixel = [t.zeros; MR];
            for (i, pixel) in pixel.iter_mut().enumerate() {
                let at = *table.add(i);
                *pixel = if at == BORDER { t.zeros } else { t.x.add(at) }.add(t.first);
            }
            table = table.add(MR);
            for c in 0..t.channels {
                let mut bv = [s.splat(0.0); NV];
                for (j, v) in bv.iter_mut().enumerate() {
                    *v = s.load(b.add(j * S::LANES));
                }
                for (row, pixel) in acc.iter_mut().zip(&pixel) {
                    let av = s.splat(*pixel.add(c));
                    for j in 0..NV {
                        row[j] = s.fma(av, bv[j], row[j]);
                    }
                }
                b = b.add(2 * S::LANES);
            }
        }
        store_tile(s, &t.end, (t.c, t.ldc, t.nv), acc);
    }
}

/// A register kernel as a function of its own: inside a larger one the compiler may run out of
/// registers and spill the accumulators.
struct Call<'a, const MR: usize, const NV: usize>(&'a PixelTile);

impl<const MR: usize, const NV: usize> Kernel for Call<'_, MR, NV> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `Call` is made by `call` only, which has the same contract.
        unsafe { micro::<S, MR, NV>(s, self.0) }
    }
}

/// # Safety
/// As `micro`.
#[inline(always)]
unsafe fn call<S: Simd, const MR: usize, const NV: usize>(t: &PixelTile) {
    if MR <= S::MR {
        S::ISA.dispatch(Call::<MR, NV>(t));
    }
}

/// Runs the register kernel of the right height and width.
/// # Safety
/// As `micro`; `t.mr <= S::MR`.
#[inline(always)]
pub(crate) unsafe fn pixel_tile<S: Simd>(t: &PixelTile) {
    macro_rules! heights {
        ($nv:literal: $($m:literal)+) => {
            match t.mr {
                // SAFETY: passed on to the caller.
                $($m => unsafe { call::<S, $m, $nv>(t) },)+
                _ => unreachable!("more pixels than the register block has rows"),
            }
        };
    }
    if t.nv <= S::LANES {
        heights!(1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    } else {
        heights!(2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}
