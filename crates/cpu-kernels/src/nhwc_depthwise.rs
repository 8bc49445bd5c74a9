//! Convolution of images with channels last, with one input channel for each output channel.
//!
//! Vectors hold channels. A step sums a few neighbouring outputs of a row, which share the weights
//! and most of their inputs; at the sides of the image it leaves out the taps in the border.

use super::activation::{self, Activation};
use super::conv::ConvShape;
use super::isa::{Isa, Kernel};
use super::scratch::{AlignedBuf, Shared, count};
use super::simd::Simd;
use super::threads::for_ranges;
use std::ops::Range;

/// Channels are packed to a multiple of this: the longest vector.
const PAD: usize = 16;
/// Outputs of a row that are summed together.
const WIDE: usize = 8;

/// Weights `[c, 1, kh, kw]` as `[tap][c, padded]`.
pub(crate) fn pack_depthwise(s: &ConvShape, weights: &[f32]) -> AlignedBuf {
    let (taps, padded) = (s.kh * s.kw, s.c.next_multiple_of(PAD));
    let mut packed = AlignedBuf::zeroed(count(&[taps, padded]));
    for (i, &weight) in weights.iter().enumerate() {
        packed.as_mut_slice()[i % taps * padded + i / taps] = weight;
    }
    packed
}

/// One call.
pub(crate) struct Depthwise<'a> {
    pub(crate) shape: &'a ConvShape,
    pub(crate) weights: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) act: Activation,
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) x: &'a [f32],
    /// Height, width; output height, width.
    pub(crate) size: [usize; 4],
}

impl Depthwise<'_> {
    /// Convolves `n` images; the slices have been checked against the sizes.
    pub(crate) fn run(&self, isa: Isa, n: usize, out: &mut [f32]) {
        let [_, _, oh, ow] = self.size;
        let out = Shared::new(out);
        let row = (ow * self.shape.c * (2 + self.shape.kh * self.shape.kw / 2)).max(1);
        for_ranges(n * oh, (96 << 10) / row, |start, len| {
            isa.dispatch(Rows { call: self, rows: start..start + len, out });
        });
    }
}

/// Rows of outputs of one task.
struct Rows<'a> {
    call: &'a Depthwise<'a>,
    rows: Range<usize>,
    out: Shared<'a, f32>,
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (shape, width) = (self.call.shape, self.call.size[3] * self.call.shape.c);
        for row in self.rows.clone() {
            // SAFETY: each row of outputs is one task's.
            let out = unsafe { self.out.slice(row * width, width) };
            let line = Line::new(self.call, row);
            match (shape.kw, shape.stride[1], shape.dilation[1]) {
                (3, 1, 1) => line.run::<S, 3, 1>(s, out),
                (3, 2, 1) => line.run::<S, 3, 2>(s, out),
                (5, 1, 1) => line.run::<S, 5, 1>(s, out),
                (5, 2, 1) => line.run::<S, 5, 2>(s, out),
                _ => line.run::<S, 0, 0>(s, out),
            }
            if self.call.act.clamp().is_none() {
                activation::apply(S::ISA, self.call.act, out);
            }
        }
    }
}

/// One row of outputs, and the rows of the image that it is made of.
struct Line<'a> {
    call: &'a Depthwise<'a>,
    /// From the first of these rows on, to the end of the image.
    image: &'a [f32],
    /// Floats between two of them.
    step: usize,
    /// The rows of taps that lie in the image.
    taps: Range<usize>,
    residual: Option<&'a [f32]>,
    padded: usize,
}

impl<'a> Line<'a> {
    fn new(call: &'a Depthwise<'a>, row: usize) -> Self {
        let shape = call.shape;
        let ([h, w, oh, ow], c) = (call.size, shape.c);
        let (image, y0) = (row / oh, row % oh * shape.stride[0]);
        let dy = shape.dilation[0];
        // Rows of taps t with 0 <= y0 + t dy - pad < h.
        let first = shape.pads[0].saturating_sub(y0).div_ceil(dy).min(shape.kh);
        let past = (h + shape.pads[0]).saturating_sub(y0).div_ceil(dy).clamp(first, shape.kh);
        let top = if first < past { y0 + first * dy - shape.pads[0] } else { 0 };
        Line {
            call,
            image: &call.x[(image * h + top) * w * c..(image + 1) * h * w * c],
            step: dy * w * c,
            taps: first..past,
            residual: call.residual.map(|r| &r[row * ow * c..(row + 1) * ow * c]),
            padded: c.next_multiple_of(PAD),
        }
    }

    /// `K` taps wide with steps of `ST`, or any if `K` is 0.
    #[inline(always)]
    fn run<S: Simd, const K: usize, const ST: usize>(&self, s: S, out: &mut [f32]) {
        let c = self.call.shape.c;
        for c0 in (0..c).step_by(S::LANES) {
            if c - c0 >= S::LANES {
                self.column::<S, K, ST, true>(s, (c0, S::LANES), out);
            } else {
                self.column::<S, K, ST, false>(s, (c0, c - c0), out);
            }
        }
    }

    /// A vector of channels, the first and how many; `FULL` if they are as many as lanes.
    #[inline(always)]
    fn column<S: Simd, const K: usize, const ST: usize, const FULL: bool>(
        &self,
        s: S,
        (c0, n): (usize, usize),
        out: &mut [f32],
    ) {
        let (call, c) = (self.call, self.call.shape.c);
        let [_, w, _, ow] = call.size;
        let bias = call.bias.map_or(s.splat(0.0), |bias| s.loads_tail(&bias[c0..c0 + n]));
        let left = call.shape.pads[1];
        let mut x = 0;
        while x < ow {
            let count = WIDE.min(ow - x);
            let sums = if K == 0 {
                let mut sums = [bias; WIDE];
                for (i, sum) in sums.iter_mut().enumerate().take(count) {
                    *sum = self.one(s, (c0, n), x + i, bias);
                }
                sums
            } else if count == WIDE && x * ST >= left && (x + WIDE - 1) * ST + K <= w + left {
                self.wide::<S, K, ST, FULL, false>(s, (c0, n), x, bias)
            } else {
                self.wide::<S, K, ST, FULL, true>(s, (c0, n), x, bias)
            };
            for (i, sum) in sums.into_iter().enumerate().take(count) {
                self.put(s, ((x + i) * c + c0, n), sum, out);
            }
            x += WIDE;
        }
    }

    #[inline(always)]
    fn put<S: Simd>(&self, s: S, (at, n): (usize, usize), sum: S::F, out: &mut [f32]) {
        let (lo, hi) = self.call.act.clamp().unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let mut v = sum;
        if let Some(r) = self.residual {
            v = s.add(v, s.loads_tail(&r[at..at + n]));
        }
        v = s.min(s.splat(hi), s.max(s.splat(lo), v));
        s.stores_tail(&mut out[at..at + n], v);
    }

    /// `WIDE` outputs from `x` on. With `EDGE`, taps may lie in the border, and outputs past the
    /// end of the row come out as anything; without, all taps lie in the image.
    #[inline(always)]
    fn wide<S: Simd, const K: usize, const ST: usize, const FULL: bool, const EDGE: bool>(
        &self,
        s: S,
        (c0, n): (usize, usize),
        x: usize,
        bias: S::F,
    ) -> [S::F; WIDE] {
        let (w, c) = (self.call.size[1], self.call.shape.c);
        // Wraps where the first taps lie in the border.
        let left = (x * ST).wrapping_sub(self.call.shape.pads[1]);
        let mut sums = [bias; WIDE];
        for (line, ty) in self.taps.clone().enumerate() {
            let image = &self.image[line * self.step..][..w * c];
            let weights = &self.call.weights[ty * K * self.padded..][..K * self.padded];
            assert!(c0 + n <= c && c0 + S::LANES <= self.padded && (n == S::LANES || !FULL));
            assert!(EDGE || left < w && left + (WIDE - 1) * ST + K <= w);
            for tx in 0..K {
                // SAFETY: `tx < K`, and the weights of a tap are padded to whole vectors: the
                // lanes from `c0` on were checked to be among them.
                let weight = unsafe { s.load(weights.as_ptr().add(tx * self.padded + c0)) };
                for (o, sum) in sums.iter_mut().enumerate() {
                    let at = left.wrapping_add(o * ST + tx);
                    if !EDGE || at < w {
                        // SAFETY: `at < w` was just checked or follows from what was, and the
                        // row has `c` channels at each of `w` places, of which the `n` from `c0`
                        // on are read; `n` is the number of lanes where `FULL`.
                        let v = unsafe {
                            let p = image.as_ptr().add(at * c + c0);
                            if FULL { s.load(p) } else { s.load_n(p, n) }
                        };
                        *sum = s.fma(v, weight, *sum);
                    }
                }
            }
        }
        sums
    }

    /// The output at `x`, of the taps that lie inside.
    #[inline(always)]
    fn one<S: Simd>(&self, s: S, (c0, n): (usize, usize), x: usize, bias: S::F) -> S::F {
        let (shape, w) = (self.call.shape, self.call.size[1]);
        let mut sum = bias;
        for (line, ty) in self.taps.clone().enumerate() {
            for tx in 0..shape.kw {
                let at = x * shape.stride[1] + tx * shape.dilation[1];
                let at = at.wrapping_sub(shape.pads[1]);
                if at < w {
                    let from = line * self.step + at * shape.c + c0;
                    let v = s.loads_tail(&self.image[from..from + n]);
                    let weights = (ty * shape.kw + tx) * self.padded + c0;
                    sum = s.fma(v, s.loads(&self.call.weights[weights..]), sum);
                }
            }
        }
        sum
    }
}
