//! 2-D convolution of 8-bit images with exact 32-bit sums.
//!
//! As for f32, an implicit matrix product over a padded image, whose border holds the zero point
//! of the input. Depthwise convolutions run on the f32 kernel: with zero points taken off, all
//! products and sums are whole numbers below 2^24 (for up to 258 taps), so f32 is exact there.

use super::activation::Activation;
use super::conv::{ConvShape, PackedConv, Run, runs_of};
use super::image::{Layout, SLACK};
use super::int8::{IntMat, IntOut, IntTerms, PackedIntA, Per, Sink, product, put};
use super::int8_pack::{IntPanels, kg_of, lane};
use super::isa::{Isa, Kernel};
use super::scratch::{Shared, for_each, lend, threads};
use super::simd::Simd;

/// 8-bit numbers of either sign.
#[derive(Clone, Copy, Debug)]
pub enum Bytes<'a> {
    /// Unsigned.
    U8(&'a [u8]),
    /// Signed.
    I8(&'a [i8]),
}

impl<'a> Bytes<'a> {
    fn raw(self) -> (&'a [u8], bool) {
        match self {
            Bytes::U8(x) => (x, false),
            Bytes::I8(x) => (bytemuck::cast_slice(x), true),
        }
    }
    /// The numbers less their zero point.
    fn floats(self, isa: Isa, zero: i32, out: &mut [f32]) {
        match self {
            Bytes::U8(x) => isa.dispatch(Floats(x, zero, out)),
            Bytes::I8(x) => isa.dispatch(Floats(x, zero, out)),
        }
    }
}

struct Floats<'a, T>(&'a [T], i32, &'a mut [f32]);

impl<T: Copy + Into<i32>> Kernel for Floats<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Floats(codes, zero, out) = self;
        for (o, code) in out.iter_mut().zip(codes) {
            let code: i32 = (*code).into();
            *o = code.wrapping_sub(zero) as f32;
        }
    }
}

/// `sums = x + bias` for floats that are whole numbers.
struct Sums<'a>(&'a [f32], i32, &'a mut [i32]);

impl Kernel for Sums<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sums(x, bias, sums) = self;
        let bias = s.isplat(bias);
        for (x, sums) in x.chunks(S::LANES).zip(sums.chunks_mut(S::LANES)) {
            let mut out = [0i32; 16];
            let v = s.iadd(s.to_int(s.loads_tail(x)), bias);
            // SAFETY: a vector has at most sixteen lanes.
            unsafe { s.istore(out.as_mut_ptr(), v) };
            sums.copy_from_slice(&out[..sums.len()]);
        }
    }
}

/// Taps for which f32 sums of products of zero-shifted bytes are exact: 258 · 255² < 2^24.
const EXACT_TAPS: usize = 258;

enum Kind {
    Depthwise(PackedConv),
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
                let part = match weights {
                    Bytes::U8(x) => Bytes::U8(&x[at.clone()]),
                    Bytes::I8(x) => Bytes::I8(&x[at.clone()]),
                };
                part.floats(isa, *zero, &mut floats[at]);
            }
            Kind::Depthwise(PackedConv::new(isa, shape, &floats, None, Activation::None))
        } else {
            let group = |g: usize| {
                let at = g * mg * k..(g + 1) * mg * k;
                if signed {
                    IntMat::i8(bytemuck::cast_slice(&raw[at]), mg, k, (k, 1))
                } else {
                    IntMat::u8(&raw[at], mg, k, (k, 1))
                }
            };
            Kind::Groups((0..shape.groups).map(|g| PackedIntA::new(isa, group(g))).collect())
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
        let sink = out.sink(s.m, 0, n * s.m * size);
        if n * s.m * size == 0 {
            return;
        }
        let call = Call { conv: self, layout: &layout, x, x_zero, bias, sink };
        let parts = n * s.groups;
        match &self.kind {
            Kind::Depthwise(conv) => (0..n).for_each(|i| call.depthwise(conv, i, h, w)),
            Kind::Groups(groups) => {
                let parallel = parts >= threads() && n * s.m * size * groups[0].k > 8 << 20;
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
    fn depthwise(&self, conv: &PackedConv, i: usize, h: usize, w: usize) {
        let (s, size) = (&self.conv.shape, self.layout.oh * self.layout.ow);
        let (mut x, mut y) = (lend(s.c * h * w), lend(s.m * size));
        let plane = h * w;
        let shared = Shared::new(&mut x[..]);
        for_each(s.c, s.c * plane > 64 << 10, |c| {
            let at = (i * s.c + c) * plane..(i * s.c + c + 1) * plane;
            // SAFETY: each channel has its own plane.
            let x = unsafe { shared.slice(c * plane, plane) };
            let part = match self.x {
                Bytes::U8(b) => Bytes::U8(&b[at]),
                Bytes::I8(b) => Bytes::I8(&b[at]),
            };
            part.floats(self.conv.isa, self.x_zero, x);
        });
        conv.run(&x, (1, h, w), None, &mut y);
        let y = &y[..];
        for_each(s.m, s.m * size > 64 << 10, |m| {
            let mut sums = lend(size);
            let sums: &mut [i32] = bytemuck::cast_slice_mut(&mut sums);
            let bias = self.bias.map_or(0, |b| b[m]);
            let plane = &y[m * size..(m + 1) * size];
            self.conv.isa.dispatch(Sums(plane, bias, sums));
            let sink = self.sink.part((i * s.m + m) * size, size, m);
            self.conv.isa.dispatch(Put { sink, row: sums });
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
        let mut buf = lend((cg * layout.plane + SLACK).div_ceil(4));
        let bytes = buf.bytes_mut();
        let shared = Shared::new(bytes);
        for_each(cg, cg * layout.plane > 256 << 10, |c| {
            // SAFETY: each channel has its own plane.
            let d = unsafe { shared.slice(c * layout.plane, layout.plane) };
            layout.fill(&x[c * h * w..(c + 1) * h * w], self.x_zero as u8, d);
        });
        let taps = layout.taps();
        let offsets: Vec<usize> =
            (0..cg).flat_map(|c| taps.iter().map(move |t| c * layout.plane + t)).collect();
        let patches = Patches {
            isa: self.conv.isa,
            image: buf.bytes(),
            signed,
            offsets: &offsets,
            ow: layout.ow,
            size,
            row_step: layout.row_step(),
        };
        let sink = self.sink.part((i * s.m + g * mg) * size, mg * size, g * mg);
        product(self.conv.isa, &groups[g], &patches, (offsets.len(), size), &terms, sink);
    }
}

struct Put<'a> {
    sink: Sink<'a>,
    row: &'a [i32],
}

impl Kernel for Put<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the sink is the part of one task, with one row.
        unsafe { put(s, &self.sink, 0, 0, self.row.len(), self.row) }
    }
}

/// The patch matrix of a padded image of bytes.
struct Patches<'a> {
    isa: Isa,
    image: &'a [u8],
    signed: bool,
    offsets: &'a [usize],
    ow: usize,
    size: usize,
    row_step: usize,
}

impl IntPanels for Patches<'_> {
    fn moved(&self) -> i32 {
        if self.signed { 0 } else { -128 }
    }
    fn pack(&self, j0: usize, nr: usize, dst: &mut [i32]) {
        let mut runs = [Run::default(); 32];
        let n = runs_of((j0, nr), (self.ow, self.size, self.row_step), &mut runs);
        let flip = if self.signed { 0 } else { 0x80 };
        let groups = self.offsets.len().div_ceil(kg_of(self.isa));
        // The furthest access of the copies below, checked once here.
        let reach = self.offsets.iter().max().unwrap_or(&0) + runs[n.max(1) - 1].src + nr;
        assert!(nr <= 32 && reach <= self.image.len() && dst.len() >= (groups + 1) * nr);
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
    fn run<S: Simd>(self, _: S) {
        let none = [0u8; 16];
        for (g, offsets) in self.p.offsets.chunks(S::KG).enumerate() {
            for r in self.runs {
                let mut i = 0;
                while i < r.len {
                    let mut src = [none; 4];
                    for (q, off) in offsets.iter().enumerate() {
                        let at = off + r.src + i;
                        let bytes: &[u8; 16] =
                            self.p.image[at..at + 16].try_into().expect("sixteen bytes");
                        for c in 0..16 {
                            src[q][c] = bytes[c] ^ self.flip;
                        }
                    }
                    let at = g * self.nr + r.dst + i;
                    let n = S::LANES.max(8);
                    for (c, d) in self.dst[at..at + n].iter_mut().enumerate() {
                        let bytes = [src[0][c], src[1][c], src[2][c], src[3][c]];
                        *d = lane(S::KG, bytes, true);
                    }
                    i += n;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::conv::tests::naive;
    use crate::kernels::reference::Rng;

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
