//! 2-D convolution of 8-bit images with exact 32-bit sums.
//!
//! As for f32, an implicit matrix product over a padded image, whose border holds the zero point
//! of the input. Depthwise convolutions run on the f32 kernel: with zero points taken off, all
//! products and sums are whole numbers below 2^24 (for up to 258 taps), so f32 is exact there.

use super::conv::{ConvShape, Grid, Run, runs_of};
use super::depthwise::{Finish, Plane};
use super::image::{Layout, SLACK};
use super::int8::{IntMat, IntOut, IntTerms, PackedIntA, Per, Sink, product, put};
use super::int8_pack::{IntPanels, kg_of};
use super::quant::Code;
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::scratch::{Shared, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::{for_each, for_ranges, threads};

/// 8-bit numbers of either sign.
#[derive(Clone, Copy, Debug)]
pub enum Bytes<'a> {
    /// Unsigned.
    U8(&'a [u8]),
    /// Signed.
    I8(&'a [i8]),
}

impl<'a> Bytes<'a> {
    pub(crate) fn raw(self) -> (&'a [u8], bool) {
        match self {
            Bytes::U8(x) => (x, false),
            Bytes::I8(x) => (bytemuck::cast_slice(x), true),
        }
    }
}

/// `out = code - zero` as floats.
struct Shifted<'a, T>(&'a [T], i32, &'a mut [f32]);

impl<T: Code> Kernel for Shifted<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Shifted(codes, zero, out) = self;
        let zero = s.isplat(zero);
        for (x, y) in codes.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
            s.stores_tail(y, s.to_float(s.isub(T::loads(s, x), zero)));
        }
    }
}

/// The codes less their zero point; `signed` says how to read them.
fn shifted(isa: Isa, codes: &[u8], signed: bool, zero: i32, out: &mut [f32]) {
    if signed {
        isa.dispatch(Shifted(bytemuck::cast_slice::<u8, i8>(codes), zero, out));
    } else {
        isa.dispatch(Shifted(codes, zero, out));
    }
}

/// Taps for which f32 sums of products of zero-shifted bytes are exact: 258 · 255² < 2^24.
const EXACT_TAPS: usize = 258;

enum Kind {
    /// Weights less their zero points.
    Depthwise(Vec<f32>),
    Groups(Vec<PackedIntA>),
}

/// A convolution with its 8-bit weights in kernel order.
pub struct PackedIntConv {
    isa: Isa,
    shape: ConvShape,
    w_zero: Vec<i32>,
    kind: Kind,
}

impl std::fmt::Debug for PackedIntConv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedIntConv").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl PackedIntConv {
    /// Packs `weights`, `[m, c / groups, kh, kw]`, with one zero point or one for each output
    /// channel. Panics if sizes disagree.
    pub fn new(isa: Isa, shape: ConvShape, weights: Bytes<'_>, w_zero: &[i32]) -> Self {
        let (raw, signed) = weights.raw();
        shape.check(raw.len());
        assert!(w_zero.len() == 1 || w_zero.len() == shape.m, "one zero point for each channel");
        let w_zero: Vec<i32> = (0..shape.m).map(|m| w_zero[m.min(w_zero.len() - 1)]).collect();
        let (cg, mg) = shape.per_group();
        let k = cg * shape.kh * shape.kw;
        let kind = if cg == 1 && shape.groups > 1 && k <= EXACT_TAPS {
            let mut floats = vec![0.0; raw.len()];
            for (m, zero) in w_zero.iter().enumerate() {
                let at = m * k..(m + 1) * k;
                shifted(isa, &raw[at.clone()], signed, *zero, &mut floats[at]);
            }
            Kind::Depthwise(floats)
        } else {
            let group = |g: usize| {
                let at = g * mg * k..(g + 1) * mg * k;
                if signed {
                    IntMat::i8(bytemuck::cast_slice(&raw[at]), mg, k, (k, 1))
                } else {
                    IntMat::u8(&raw[at], mg, k, (k, 1))
                }
            };
            Kind::Groups((0..shape.groups).map(|g| PackedIntA::signed(isa, group(g))).collect())
        };
        PackedIntConv { isa, shape, w_zero, kind }
    }

    /// The shape given to `new`.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Convolves `n` images of `h` by `w` with zero point `x_zero`; `bias` is one number for each
    /// output channel. In `out`, `Per::Row` means per output channel. Panics if a slice is too
    /// short, the kernel does not fit, or a scale is per column.
    pub fn run(
        &self,
        x: Bytes<'_>,
        x_zero: i32,
        (n, h, w): (usize, usize, usize),
        bias: Option<&[i32]>,
        out: &mut IntOut<'_>,
    ) {
        let s = &self.shape;
        let layout = Layout::new(s, h, w).expect("the caller has checked that the kernel fits");
        let size = layout.oh * layout.ow;
        assert!(x.raw().0.len() >= n * s.c * h * w, "input too short");
        assert!(bias.is_none_or(|b| b.len() >= s.m), "bias too short");
        assert!(!out.is_per_column(), "a scale for each pixel");
        let sink = out.sink(s.m, 0, n * s.m * size);
        if n * s.m * size == 0 {
            return;
        }
        let call = Call { conv: self, layout: &layout, x, x_zero, bias, sink };
        let parts = n * s.groups;
        match &self.kind {
            Kind::Depthwise(weights) => call.depthwise(weights, n, h, w),
            Kind::Groups(groups) => {
                let parallel = parts >= threads() && n * s.m * size * groups[0].k > 1 << 20;
                for_each(parts, parallel, |p| call.part(groups, p / s.groups, p % s.groups, h, w));
            }
        }
    }
}

struct Call<'a> {
    conv: &'a PackedIntConv,
    layout: &'a Layout,
    x: Bytes<'a>,
    x_zero: i32,
    bias: Option<&'a [i32]>,
    sink: Sink<'a>,
}

impl Call<'_> {
    /// Plane by plane, so that the padded codes, their floats and the sums stay in the cache.
    fn depthwise(&self, weights: &[f32], n: usize, h: usize, w: usize) {
        let (s, layout) = (&self.conv.shape, self.layout);
        let (size, mult) = (layout.oh * layout.ow, s.m / s.c);
        let (raw, signed) = self.x.raw();
        let (isa, taps) = (self.conv.isa, layout.taps());
        let per_plane = 2 * layout.plane + mult * size * (4 + taps.len() / 8);
        for_ranges(n * s.c, (64 << 10) / per_plane, |start, len| {
            let mut codes = lend((layout.plane + SLACK).div_ceil(4));
            let codes = &mut codes.bytes_mut()[..layout.plane + SLACK];
            let mut plane = lend(layout.plane + SLACK);
            for p in start..start + len {
                layout.fill(isa, &raw[p * h * w..(p + 1) * h * w], self.x_zero as u8, codes);
                shifted(isa, codes, signed, self.x_zero, &mut plane);
                for o in p * mult..(p + 1) * mult {
                    let m = o % s.m;
                    let out = Codes {
                        sink: self.sink.part(o * size, size, m),
                        bias: self.bias.map_or(0, |b| b[m]),
                        len: size,
                    };
                    let weights = &weights[m * taps.len()..(m + 1) * taps.len()];
                    let (plane, taps) = (&plane[..], &taps[..]);
                    isa.dispatch(Plane { plane, taps, layout, weights, bias: 0.0, out });
                }
            }
        });
    }

    fn part(&self, groups: &[PackedIntA], i: usize, g: usize, h: usize, w: usize) {
        let (s, layout) = (&self.conv.shape, self.layout);
        let (cg, mg) = s.per_group();
        let size = layout.oh * layout.ow;
        let (raw, signed) = self.x.raw();
        let x = &raw[(i * s.c + g * cg) * h * w..][..cg * h * w];
        let terms = IntTerms {
            a_zero: Per::Row(&self.conv.w_zero[g * mg..(g + 1) * mg]),
            b_zero: Per::All(self.x_zero),
            bias: self.bias.map_or(Per::All(0), |b| Per::Row(&b[g * mg..(g + 1) * mg])),
        };
        let mut padded = None;
        if !s.pointwise() {
            let mut buf = lend((cg * layout.plane).div_ceil(4));
            let shared = Shared::new(buf.bytes_mut());
            for_each(cg, cg * layout.plane > 64 << 10, |c| {
                // SAFETY: each channel has its own plane.
                let d = unsafe { shared.slice(c * layout.plane, layout.plane) };
                layout.fill(self.conv.isa, &x[c * h * w..(c + 1) * h * w], self.x_zero as u8, d);
            });
            padded = Some(buf);
        }
        let taps = layout.taps();
        let offsets: Vec<usize> =
            (0..cg).flat_map(|c| taps.iter().map(move |t| c * layout.plane + t)).collect();
        let patches = Patches {
            isa: self.conv.isa,
            image: padded.as_ref().map_or(x, |buf| buf.bytes()),
            signed,
            offsets: &offsets,
            // Without taps the rows of the image are one.
            grid: Grid { ow: if s.pointwise() { size } else { layout.ow }, ..Grid::of(layout) },
        };
        let sink = self.sink.part((i * s.m + g * mg) * size, mg * size, g * mg);
        product(self.conv.isa, &groups[g], &patches, (offsets.len(), size), &terms, sink);
    }
}

/// Sums of one output channel on their way to the sink.
struct Codes<'a> {
    /// This plane alone.
    sink: Sink<'a>,
    bias: i32,
    len: usize,
}

impl Finish for Codes<'_> {
    // Measured: 5 % slower with several.
    const SEVERAL: bool = false;
    fn len(&self) -> usize {
        self.len
    }
    #[inline(always)]
    fn put<S: Simd>(&mut self, s: S, at: usize, w: usize, sums: S::F) {
        // The sums are whole numbers below 2^24; with the bias they may be larger.
        let sums = s.iadd(s.to_int(sums), s.isplat(self.bias));
        // SAFETY: the sink is the part of one task, with one row.
        unsafe { put(s, &self.sink, (0, at), 0, w, sums) }
    }
    #[inline(always)]
    fn end<S: Simd>(&mut self, _: S) {}
}

/// The patch matrix of a padded image of bytes, or of a plain one where each pixel is a patch.
struct Patches<'a> {
    isa: Isa,
    image: &'a [u8],
    signed: bool,
    offsets: &'a [usize],
    grid: Grid,
}

impl IntPanels for Patches<'_> {
    fn moved(&self) -> i32 {
        if self.signed { 128 } else { 0 }
    }
    fn signed(&self) -> bool {
        false
    }
    fn pack(&self, j0: usize, nr: usize, dst: &mut [i32]) {
        let mut runs = [Run::default(); 32];
        let n = runs_of((j0, nr), &self.grid, &mut runs);
        let flip = if self.signed { 0x80 } else { 0 };
        let groups = self.offsets.len().div_ceil(kg_of(self.isa));
        assert!(nr <= 32 && dst.len() >= (groups + 1) * nr);
        self.isa.dispatch(Interleave { p: self, runs: &runs[..n], flip, nr, dst });
    }
}

struct Interleave<'a> {
    p: &'a Patches<'a>,
    runs: &'a [Run],
    flip: u8,
    nr: usize,
    dst: &'a mut [i32],
}

impl Kernel for Interleave<'_> {
    type Output = ();
    /// Whole vectors at a time; what a run writes past its end the next run or row overwrites.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let none = [self.flip; 16];
        let mut last = [none; 4];
        for (g, offsets) in self.p.offsets.chunks(S::KG).enumerate() {
            for r in self.runs {
                let mut i = 0;
                while i < r.len {
                    let mut rows = [none.as_ptr(); 4];
                    for ((row, last), off) in rows.iter_mut().zip(&mut last).zip(offsets) {
                        let rest = &self.p.image[off + r.src + i..];
                        *row = rest.as_ptr();
                        if rest.len() < S::LANES {
                            last[..rest.len()].copy_from_slice(rest);
                            *row = last.as_ptr();
                        }
                    }
                    let lanes = &mut self.dst[g * self.nr + r.dst + i..][..S::LANES];
                    // SAFETY: each row has a vector of bytes, and `lanes` is a whole vector.
                    unsafe { s.istore(lanes.as_mut_ptr(), s.interleave(rows, self.flip)) };
                    i += S::LANES;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::tests::naive;
    use crate::reference::Rng;

    fn check(s: ConvShape, (n, h, w): (usize, usize, usize), seed: u64) {
        let Some((oh, ow)) = s.out(h, w) else { return };
        let mut rng = Rng::new(seed);
        let (x, weights) = (rng.u8s(n * s.c * h * w), rng.u8s(s.m * s.c / s.groups * s.kh * s.kw));
        let (sx, sw) = (seed.is_multiple_of(2), seed.is_multiple_of(3));
        let wide = |v: u8, signed: bool| if signed { i32::from(v as i8) } else { i32::from(v) };
        let x_zero = wide(rng.next() as u8, sx);
        let w_zero: Vec<i32> = (0..s.m).map(|_| wide(rng.next() as u8, sw)).collect();
        let w_zero = if seed.is_multiple_of(5) { &w_zero[..1] } else { &w_zero[..] };
        let per = weights.len() / s.m;
        let xf: Vec<f32> = x.iter().map(|v| (wide(*v, sx) - x_zero) as f32).collect();
        let zero = |m: usize| w_zero[m.min(w_zero.len() - 1)];
        let wf: Vec<f32> = weights
            .iter()
            .enumerate()
            .map(|(i, v)| (wide(*v, sw) - zero(i / per)) as f32)
            .collect();
        let bias: Vec<i32> = (0..s.m as i32).map(|m| m * 31 - 50).collect();
        let sums: Vec<i32> = naive(&s, &xf, (n, h, w), &wf, None)
            .iter()
            .enumerate()
            .map(|(i, v)| *v as i32 + bias[i / (oh * ow) % s.m])
            .collect();
        let scale: Vec<f32> = (0..s.m).map(|m| 1e-3 * (m + 1) as f32).collect();
        let xb = if sx { Bytes::I8(bytemuck::cast_slice(&x)) } else { Bytes::U8(&x) };
        let wb = if sw { Bytes::I8(bytemuck::cast_slice(&weights)) } else { Bytes::U8(&weights) };
        for isa in Isa::available() {
            let conv = PackedIntConv::new(isa, s, wb, w_zero);
            let (mut c, mut u) = (vec![0; sums.len()], vec![0u8; sums.len()]);
            conv.run(xb, x_zero, (n, h, w), Some(&bias), &mut IntOut::I32(&mut c));
            assert_eq!(c, sums, "{isa:?} {s:?} {h}x{w}");
            let out = &mut IntOut::U8(&mut u, Per::Row(&scale), 100);
            conv.run(xb, x_zero, (n, h, w), Some(&bias), out);
            for (i, v) in u.iter().enumerate() {
                let want = (sums[i] as f32 * scale[i / (oh * ow) % s.m]).round_ties_even() + 100.0;
                assert_eq!(f32::from(*v), want.clamp(0.0, 255.0));
            }
        }
    }

    #[test]
    fn exact_for_all_shapes() {
        let mut rng = Rng::new(21);
        for seed in 0..200 {
            let groups = [1, 1, 2, 3, 4][rng.below(5)];
            let s = ConvShape {
                c: groups * rng.range(1, 4),
                m: groups * rng.range(1, 17),
                kh: rng.range(1, 4),
                kw: rng.range(1, 4),
                stride: [rng.range(1, 2), rng.range(1, 3)],
                dilation: [rng.range(1, 2), 1],
                pads: [rng.below(3), rng.below(3), rng.below(3), rng.below(3)],
                groups,
            };
            check(s, (rng.range(1, 2), rng.range(1, 15), rng.range(1, 20)), seed);
        }
    }
}
