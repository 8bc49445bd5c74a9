//! The register kernel of convolutions three to seven taps wide, of images with few channels: a row
//! of neighbouring outputs by one vector of output channels, or by two of three taps.
//!
//! Each number of the image is loaded once for all outputs of the block that it is a tap of, which
//! the kernel of `nhwc_micro` loads anew for each tap: with one vector of output channels that one
//! waits for loads. It reads a padded copy of a strip of the image, channels first or last.

use super::conv::ConvShape;
use super::nhwc_store::{Outputs, begin, store};
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::simd::Simd;

/// Whether neighbouring outputs share taps as the kernel wants it.
fn shares(shape: &ConvShape) -> bool {
    shape.groups == 1 && shape.dilation[1] == 1 && (1..=2).contains(&shape.stride[1])
}

/// Whether the kernel does convolutions of this shape by all instruction sets: three taps wide.
pub(crate) fn fits_all(shape: &ConvShape) -> bool {
    shares(shape) && shape.kw == 3
}

/// Whether it does them by this one. More taps need as many registers as AVX-512 has, and leave
/// none for a second vector of outputs.
pub(crate) fn fits(isa: Isa, shape: &ConvShape) -> bool {
    let wide = isa == Isa::Avx512 && (5..=7).contains(&shape.kw) && shape.m <= isa.lanes();
    fits_all(shape) || shares(shape) && wide
}

/// Outputs of a block of one vector and of one of two: as many as leave registers for the taps.
/// Rows of fewer outputs than that are not taken.
pub(crate) fn widths(isa: Isa) -> (usize, usize) {
    if isa == Isa::Avx512 { (14, 12) } else { (8, 4) }
}

/// A row of outputs by one panel. The pointers are used as it is said here, and in no other way.
#[derive(Clone, Copy)]
pub(crate) struct RowTiles {
    /// Read: `rows` lines, `line` floats apart; of each `channels` runs, `plane` apart, of
    /// `(width - 1) * stride + taps` numbers, `pixel` apart.
    pub(crate) x: *const f32,
    pub(crate) rows: usize,
    pub(crate) line: usize,
    pub(crate) channels: usize,
    pub(crate) plane: usize,
    pub(crate) pixel: usize,
    /// 3, or 5 to 7 for one vector of outputs.
    pub(crate) taps: usize,
    /// 1 or 2.
    pub(crate) stride: usize,
    /// Outputs: at least as many as a block has.
    pub(crate) width: usize,
    /// Read: `rows * taps * channels` steps of two vectors.
    pub(crate) b: *const f32,
    /// Read: two vectors, which sums begin with.
    pub(crate) bias: *const f32,
    /// Of `width` rows.
    pub(crate) out: Outputs,
}

/// Blocks of `MR` outputs; the last one begins early enough to end with the row, so that some
/// outputs are computed twice.
///
/// # Safety
/// The pointers of `t` must cover the sizes that `RowTiles` states, and `t.width >= MR`,
/// `t.taps == KW`, `t.stride == ST`; `t.pixel` is 1 if `DENSE`.
#[inline(always)]
unsafe fn row<
    S: Simd,
    const MR: usize,
    const NV: usize,
    const KW: usize,
    const ST: usize,
    const DENSE: bool,
>(
    s: S,
    t: &RowTiles,
) {
    if (MR > 8) != (S::LANES == 16) || KW > 3 && S::LANES != 16 {
        return; // Never asked for; keeps the compiler from building it.
    }
    let pixel = if DENSE { 1 } else { t.pixel };
    let (nr, tap) = (2 * S::LANES, t.channels * 2 * S::LANES);
    for block in 0..t.width.div_ceil(MR) {
        let first = (block * MR).min(t.width - MR);
        // SAFETY: `first + MR <= width`: the numbers read are of the outputs' taps. The panel has
        // `rows * KW * channels` steps of two vectors and the bias two vectors, and `NV` is at most
        // 2. For `store`: as the caller promises.
        unsafe {
            let mut acc: [[S::F; NV]; MR] = begin(s, t.bias);
            for y in 0..t.rows {
                let mut x = t.x.add(y * t.line + first * ST * pixel);
                let mut b = t.b.add(y * KW * tap);
                for _ in 0..t.channels {
                    let mut weights = [[s.splat(0.0); NV]; KW];
                    for (tx, weights) in weights.iter_mut().enumerate() {
                        for (j, weight) in weights.iter_mut().enumerate() {
                            *weight = s.load(b.add(tx * tap + j * S::LANES));
                        }
                    }
                    for (i, sums) in acc.iter_mut().enumerate() {
                        for (tx, weights) in weights.iter().enumerate() {
                            // The same place for up to `KW` outputs: it is loaded once.
                            let v = s.splat(*x.add((i * ST + tx) * pixel));
                            for (sum, &weight) in sums.iter_mut().zip(weights) {
                                *sum = s.fma(v, weight, *sum);
                            }
                        }
                    }
                    // Past the last channel it may point anywhere: nothing is read there.
                    (x, b) = (x.wrapping_add(t.plane), b.wrapping_add(nr));
                }
            }
            store(s, &t.out, first, acc);
        }
    }
}

/// A register kernel as a function of its own: inside a larger one the compiler may run out of
/// registers and spill the accumulators.
struct Call<
    'a,
    const MR: usize,
    const NV: usize,
    const KW: usize,
    const ST: usize,
    const DENSE: bool,
>(&'a RowTiles);

impl<const MR: usize, const NV: usize, const KW: usize, const ST: usize, const DENSE: bool> Kernel
    for Call<'_, MR, NV, KW, ST, DENSE>
{
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `Call` is made by `row_tiles` only, which has the same contract.
        unsafe { row::<S, MR, NV, KW, ST, DENSE>(s, self.0) }
    }
}

/// Runs the register kernel of the right width.
///
/// # Safety
/// The pointers of `t` must cover the sizes that `RowTiles` states, and the row must be as wide as
/// a block (`widths`).
#[inline(always)]
pub(crate) unsafe fn row_tiles<S: Simd>(t: &RowTiles) {
    let (one, two) = widths(S::ISA);
    let block = if t.out.nv <= S::LANES { (one, 1) } else { (two, 2) };
    macro_rules! forms {
        ($($mr:literal $nv:literal $kw:literal),+) => {
            match (block, t.taps, t.stride, t.pixel == 1) {
                $((($mr, $nv), $kw, 1, true) => forms!(@ $mr $nv $kw 1 true),
                (($mr, $nv), $kw, 1, false) => forms!(@ $mr $nv $kw 1 false),
                (($mr, $nv), $kw, 2, true) => forms!(@ $mr $nv $kw 2 true),
                (($mr, $nv), $kw, 2, false) => forms!(@ $mr $nv $kw 2 false),)+
                form => unreachable!("a block of another form: {form:?}"),
            }
        };
        (@ $mr:literal $nv:literal $kw:literal $st:literal $dense:literal) => {
            S::ISA.dispatch(Call::<$mr, $nv, $kw, $st, $dense>(t))
        };
    }
    forms!(14 1 3, 14 1 5, 14 1 6, 14 1 7, 12 2 3, 8 1 3, 4 2 3);
}
