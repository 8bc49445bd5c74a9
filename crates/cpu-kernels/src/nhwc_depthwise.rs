//! Convolution of images with channels last, with one input channel for each output channel.
//!
//! Vectors hold channels. A step sums a few neighbouring outputs of a row, which share the weights
//! and most of their inputs; at the sides of the image it leaves out the taps in the border.

use super::conv::ConvShape;
use super::numbers::{Numbers, NumbersOut, SharedOut};
use super::tiling::Tiling;
use hetra_cpu_base::activation::{self, Activation};
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::scratch::{AlignedBuf, count, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;
use std::ops::Range;

/// Channels are packed to a multiple of this: the longest vector.
const PAD: usize = 16;
/// Channels of a block: a multiple of all vectors, few enough that the lines and weights of some
/// outputs fit into the first cache level.
const BLOCK: usize = 128;
/// Most channels of a block, whatever is asked for: a multiple of all vectors.
const BLOCKS_MAX: usize = 1 << 16;
/// Work of a task, about: outputs, and taps at half the price.
const GRAIN: usize = 96 << 10;
/// Outputs of a row that are summed together.
const WIDE: usize = 8;

/// Floats of a copy of an image that is stored as bf16, about: lines that several rows of outputs
/// read are not widened for each.
const COPY: usize = 80 << 10;
/// Most floats of the lines of a padded copy that one row of outputs reads.
const LINES_MAX: usize = 4 << 20;

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
    pub(crate) tiling: Tiling,
    pub(crate) weights: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) act: Activation,
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) x: Numbers<'a>,
    /// Height, width; output height, width.
    pub(crate) size: [usize; 4],
}

impl Depthwise<'_> {
    /// Convolves `n` images; the slices have been checked against the sizes.
    pub(crate) fn run(&self, isa: Isa, n: usize, out: NumbersOut<'_>) {
        let ([_, _, oh, ow], out) = (self.size, out.share());
        let row = (ow * self.shape.c * (2 + self.shape.kh * self.shape.kw / 2)).max(1);
        for_ranges(n * oh, self.tiling.grain(GRAIN) / row, |start, len| {
            let rows = Rows { call: self, rows: start..start + len, out };
            match (self.x, out) {
                (Numbers::F32(_), SharedOut::F32(_)) => isa.dispatch(rows),
                _ => isa.dispatch_bf16(rows),
            }
        });
    }
}

impl Depthwise<'_> {
    /// The pixels of a line of a padded copy, in which all steps find what they read; `None` where
    /// no such copies are made.
    fn padded_width(&self) -> Option<usize> {
        let ([_, w, _, ow], s) = (self.size, self.shape);
        if matches!(self.x, Numbers::F32(_)) || s.kh > s.kw || s.dilation[1] != 1 {
            return None;
        }
        let [h, ..] = self.size;
        let lines = ((s.kh - 1).saturating_mul(s.dilation[0]).saturating_add(1)).min(h);
        let read = (ow.next_multiple_of(WIDE) - 1).checked_mul(s.stride[1])?.checked_add(s.kw)?;
        let width = read.max(w.checked_add(s.pads[1])?);
        (lines.checked_mul(width.checked_mul(s.c)?)? <= LINES_MAX).then_some(width)
    }

    /// The lines of all images that a row of outputs reads.
    fn lines(&self, row: usize) -> Range<usize> {
        let ([h, _, oh, _], s) = (self.size, self.shape);
        let (image, y0) = (row / oh * h, row % oh * s.stride[0]);
        let past = y0 + (s.kh - 1) * s.dilation[0] + 1;
        let inside = |y: usize| image + y.saturating_sub(s.pads[0]).min(h);
        inside(y0)..inside(past)
    }
}

/// Rows of outputs of one task.
struct Rows<'a> {
    call: &'a Depthwise<'a>,
    rows: Range<usize>,
    out: SharedOut<'a>,
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut zeros = lend(self.call.shape.c);
        zeros.fill(0.0);
        let width = self.call.size[3] * self.call.shape.c;
        let mut sums = lend(if let SharedOut::Bf16(_) = self.out { width } else { 0 });
        if let Numbers::F32(x) = self.call.x {
            for row in self.rows.clone() {
                self.row(s, Line::new(self.call, row, x), row, (&zeros, &mut sums));
            }
            return;
        }
        let padded = self.call.padded_width();
        let ([_, w, oh, _], shape) = (self.call.size, self.call.shape);
        let (c, left) = (shape.c, shape.pads[1] * shape.c);
        // Without borders where lines would be too long, or have gaps.
        let (left, width) = padded.map_or((0, w), |width| (left, width));
        let line = width * c;
        let more = (shape.kh - 1) * shape.dilation[0];
        let most = (COPY / line.max(1)).saturating_sub(more) / shape.stride[0] + 1;
        let mut next = self.rows.start;
        while next < self.rows.end {
            let end = (next + most).min(self.rows.end).min((next / oh + 1) * oh);
            // Lines in the border are none that are read.
            let first = self.call.lines(next).start;
            let lines = first..self.call.lines(end - 1).end.max(first);
            let mut copy = lend(lines.len() * line);
            for (y, copy) in lines.zip(copy.chunks_exact_mut(line.max(1))) {
                copy[..left].fill(0.0);
                self.call.x.widen(s, y * w * c, &mut copy[left..left + w * c]);
                copy[left + w * c..].fill(0.0);
            }
            for row in next..end {
                let line = Line::copied(self.call, row, (&copy, first), padded);
                self.row(s, line, row, (&zeros, &mut sums));
            }
            next = end;
        }
    }
}

impl Rows<'_> {
    /// One row of outputs, by way of `sums` where they are not f32.
    #[inline(always)]
    fn row<S: Simd>(&self, s: S, line: Line<'_>, row: usize, (zeros, sums): (&[f32], &mut [f32])) {
        let (shape, width) = (self.call.shape, self.call.size[3] * self.call.shape.c);
        let out = match self.out {
            // SAFETY: each row of outputs is one task's.
            SharedOut::F32(out) => unsafe { out.slice(row * width, width) },
            SharedOut::Bf16(_) => &mut sums[..],
        };
        match (shape.kw, shape.stride[1], shape.dilation[1]) {
            _ if shape.kh > shape.kw => line.run::<S, 0, 0, 0>(s, zeros, out),
            (3, 1, 1) => line.run::<S, 3, 1, 10>(s, zeros, out),
            (3, 2, 1) => line.run::<S, 3, 2, 17>(s, zeros, out),
            (5, 1, 1) => line.run::<S, 5, 1, 12>(s, zeros, out),
            (5, 2, 1) => line.run::<S, 5, 2, 19>(s, zeros, out),
            _ => line.run::<S, 0, 0, 0>(s, zeros, out),
        }
        if self.call.act.clamp().is_none() {
            activation::apply(S::ISA, self.call.act, out);
        }
        if let SharedOut::Bf16(out) = self.out {
            // SAFETY: as above.
            Numbers::F32(sums).narrow_all(s, unsafe { out.slice(row * width, width) });
        }
    }
}

/// Where the pixels of a step lie.
trait Places {
    /// The channels of pixel `i < N` in row `line < K` of taps: as many as the image has.
    fn at(&self, line: usize, i: usize) -> *const f32;
}

/// Rows of `N` pixels, which all lie in the image, and its channels.
struct Inside<const K: usize, const N: usize>([*const f32; K], usize);

impl<const K: usize, const N: usize> Inside<K, N> {
    /// The first `N` pixels of `c` channels of each row.
    fn new(rows: [&[f32]; K], c: usize) -> Self {
        assert!(rows.iter().all(|row| row.len() >= N * c), "pixels outside their row");
        Inside(rows.map(<[f32]>::as_ptr), c)
    }
}

impl<const K: usize, const N: usize> Places for Inside<K, N> {
    #[inline(always)]
    fn at(&self, line: usize, i: usize) -> *const f32 {
        self.0[line].wrapping_add(i * self.1)
    }
}

/// Pixels one by one.
struct Edge<'a, const K: usize, const N: usize>([[&'a [f32]; N]; K]);

impl<const K: usize, const N: usize> Places for Edge<'_, K, N> {
    #[inline(always)]
    fn at(&self, line: usize, i: usize) -> *const f32 {
        self.0[line][i].as_ptr()
    }
}

/// Floats of an image and its outputs beyond which they do not stay in the second cache level.
const FAR: usize = 256 << 10;

/// One row of outputs, and the rows of the image that it is made of.
struct Line<'a> {
    call: &'a Depthwise<'a>,
    /// From the first of these rows on, to the end of the image.
    image: &'a [f32],
    /// Floats between two of them that are read together.
    step: usize,
    /// Pixels of a line, and zeros that would be before the first of them.
    width: usize,
    left: usize,
    /// The rows of taps that lie in the image.
    taps: Range<usize>,
    residual: Option<&'a [f32]>,
    padded: usize,
    /// Whether image and outputs are more than stays near.
    far: bool,
}

impl<'a> Line<'a> {
    /// Row `row` of outputs, of all images.
    fn new(call: &'a Depthwise<'a>, row: usize, x: &'a [f32]) -> Self {
        let [h, w, oh, ow] = call.size;
        let far = (h * w).saturating_add(oh * ow).saturating_mul(call.shape.c) > FAR;
        Line { far, ..Self::copied(call, row, (x, 0), None) }
    }

    /// Row `row` of outputs, of lines from `first` on, which may be padded to some width.
    fn copied(
        call: &'a Depthwise<'a>,
        row: usize,
        (x, first): (&'a [f32], usize),
        padded: Option<usize>,
    ) -> Self {
        let shape = call.shape;
        let ([h, w, oh, ow], c) = (call.size, shape.c);
        let (image, y0) = (row / oh, row % oh * shape.stride[0]);
        let dy = shape.dilation[0];
        // Rows of taps t with 0 <= y0 + t dy - pad < h.
        let tap = shape.pads[0].saturating_sub(y0).div_ceil(dy).min(shape.kh);
        let past = (h + shape.pads[0]).saturating_sub(y0).div_ceil(dy).clamp(tap, shape.kh);
        let top = if tap < past { y0 + tap * dy - shape.pads[0] } else { 0 };
        let (width, left) = padded.map_or((w, shape.pads[1]), |width| (width, 0));
        Line {
            call,
            image: &x[(image * h + top).saturating_sub(first) * width * c..],
            step: dy * width * c,
            width,
            left,
            taps: tap..past,
            residual: call.residual.map(|r| &r[row * ow * c..(row + 1) * ow * c]),
            padded: c.next_multiple_of(PAD),
            far: false,
        }
    }

    /// `K` taps wide with steps of `ST`, which make `WIDE` outputs of `N` pixels; any if `K` is 0.
    ///
    /// Channels by blocks, then places, then vectors: neighbouring lines of the image are read
    /// together, and what the next places need again is still in the first cache level.
    #[inline(always)]
    fn run<S: Simd, const K: usize, const ST: usize, const N: usize>(
        &self,
        s: S,
        zeros: &[f32],
        out: &mut [f32],
    ) {
        let (c, [.., ow]) = (self.call.shape.c, self.call.size);
        let (w, left) = (self.width, self.left);
        // Whole vectors, so that the same lanes are summed together whatever the blocks.
        let size = self.call.tiling.scaled(BLOCK).next_multiple_of(PAD).clamp(PAD, BLOCKS_MAX);
        for block in (0..c).step_by(size) {
            let block = block..(block + size).min(c);
            for x in (0..ow).step_by(WIDE) {
                let outputs = x..(x + WIDE).min(ow);
                if K == 0 || self.taps.is_empty() {
                    self.any::<S>(s, block.clone(), outputs, out);
                } else if x * ST >= left && x * ST + N <= w + left {
                    let first = (x * ST - left) * c;
                    // Rows that are not there are not read.
                    let mut rows = [&self.image[first..]; K];
                    for (line, row) in rows.iter_mut().enumerate().take(self.taps.len()) {
                        *row = &self.image[line * self.step + first..];
                    }
                    let (places, block) = (Inside::<K, N>::new(rows, c), block.clone());
                    match self.far {
                        true => self.block::<S, K, ST, N, true>(s, &places, block, outputs, out),
                        false => self.block::<S, K, ST, N, false>(s, &places, block, outputs, out),
                    }
                } else {
                    let edge = Edge(self.places::<K, N>(x * ST, zeros));
                    self.block::<S, K, ST, N, false>(s, &edge, block.clone(), outputs, out);
                }
            }
        }
    }

    /// Outputs of the channels `block`. With `AHEAD` what the next places need is brought nearer.
    #[inline(always)]
    fn block<S: Simd, const K: usize, const ST: usize, const N: usize, const AHEAD: bool>(
        &self,
        s: S,
        places: &impl Places,
        block: Range<usize>,
        outputs: Range<usize>,
        out: &mut [f32],
    ) {
        let c = self.call.shape.c;
        for c0 in block.clone().step_by(S::LANES) {
            let (n, at) = (S::LANES.min(block.end - c0), outputs.start * c + c0);
            if n == S::LANES {
                let sums = self.wide::<S, K, ST, N, true, AHEAD>(s, (c0, n), places);
                self.put::<S, WIDE, true, AHEAD>(s, (at, n), outputs.len(), sums, out);
            } else {
                let sums = self.wide::<S, K, ST, N, false, false>(s, (c0, n), places);
                self.put::<S, WIDE, false, false>(s, (at, n), outputs.len(), sums, out);
            }
        }
    }

    /// Outputs `places` of the channels `block`, of windows that have no loop of their own.
    #[inline(always)]
    fn any<S: Simd>(&self, s: S, block: Range<usize>, places: Range<usize>, out: &mut [f32]) {
        for c0 in block.clone().step_by(S::LANES) {
            let n = S::LANES.min(block.end - c0);
            for x in places.clone() {
                let sum = self.one(s, (c0, n), x, self.bias(s, c0, n));
                self.put::<S, 1, false, false>(s, (x * self.call.shape.c + c0, n), 1, [sum], out);
            }
        }
    }

    #[inline(always)]
    fn bias<S: Simd>(&self, s: S, c0: usize, n: usize) -> S::F {
        // No closure: it would be compiled without the instructions of the kernel.
        match self.call.bias {
            Some(bias) => s.loads_tail(&bias[c0..c0 + n]),
            None => s.splat(0.0),
        }
    }

    /// The pixels from `x - pad` on, by rows of taps: all channels of each, or zeros for those in
    /// the border.
    #[inline(always)]
    fn places<'b, const K: usize, const N: usize>(
        &'b self,
        x: usize,
        zeros: &'b [f32],
    ) -> [[&'b [f32]; N]; K] {
        let (w, c) = (self.width, self.call.shape.c);
        // Wraps where the first taps lie in the border.
        let left = x.wrapping_sub(self.left);
        let mut places = [[zeros; N]; K];
        for (line, row) in places.iter_mut().enumerate().take(self.taps.len()) {
            for (i, place) in row.iter_mut().enumerate() {
                let at = left.wrapping_add(i);
                if at < w {
                    *place = &self.image[line * self.step + at * c..][..c];
                }
            }
        }
        places
    }

    /// Finishes and stores the first `count` sums of neighbouring outputs, the first one at `at`,
    /// of `n` channels; `FULL` if they are as many as lanes.
    #[inline(always)]
    fn put<S: Simd, const W: usize, const FULL: bool, const AHEAD: bool>(
        &self,
        s: S,
        (at, n): (usize, usize),
        count: usize,
        sums: [S::F; W],
        out: &mut [f32],
    ) {
        let (lo, hi) = self.call.act.clamp().unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let (lo, hi, c) = (s.splat(lo), s.splat(hi), self.call.shape.c);
        let last = at + count.saturating_sub(1) * c + n;
        assert!(last <= out.len() && self.residual.is_none_or(|r| last <= r.len()));
        assert!(n <= S::LANES && (n == S::LANES || !FULL));
        for (i, sum) in sums.into_iter().enumerate() {
            if i >= count {
                break;
            }
            let mut v = sum;
            // SAFETY: of each output and residual the `n` floats behind `at + i * c` are read and
            // written, which were checked to be there; `n` is the number of lanes where `FULL`.
            unsafe {
                if let Some(residual) = self.residual {
                    let p = residual.as_ptr().add(at + i * c);
                    v = s.add(v, if FULL { s.load(p) } else { s.load_n(p, n) });
                }
                v = s.min(hi, s.max(lo, v));
                let p = out.as_mut_ptr().add(at + i * c);
                if AHEAD {
                    s.prefetch_write(p.wrapping_add(W * c));
                }
                if FULL { s.store(p, v) } else { s.store_n(p, v, n) }
            }
        }
    }

    /// `WIDE` outputs of `n` channels from `c0` on; `FULL` if they are as many as lanes. Each
    /// pixel is loaded once for all outputs that it is a tap of.
    #[inline(always)]
    fn wide<
        S: Simd,
        const K: usize,
        const ST: usize,
        const N: usize,
        const FULL: bool,
        const AHEAD: bool,
    >(
        &self,
        s: S,
        (c0, n): (usize, usize),
        places: &impl Places,
    ) -> [S::F; WIDE] {
        let c = self.call.shape.c;
        let mut sums = [self.bias(s, c0, n); WIDE];
        assert!(c0 + n <= c && c0 + S::LANES <= self.padded && (n == S::LANES || !FULL));
        let lines = self.taps.len();
        let taps = &self.call.weights[self.taps.start * K * self.padded..];
        assert!(lines <= K && taps.len() >= lines * K * self.padded);
        for line in 0..lines {
            let taps = taps.as_ptr().wrapping_add(line * K * self.padded + c0);
            let mut weights = [s.splat(0.0); K];
            for (tx, weight) in weights.iter_mut().enumerate() {
                // SAFETY: `line < lines` and `tx < K`: the tap is among those that were checked to
                // be there. It is padded to whole vectors, and the lanes from `c0` on are in it.
                *weight = unsafe { s.load(taps.add(tx * self.padded)) };
            }
            for i in 0..N {
                // SAFETY: a place has `c` channels, of which the `n` from `c0` on are read; `n` is
                // the number of lanes where `FULL`. There are `K` lines of `N` places.
                let v = unsafe {
                    let p = places.at(line, i).add(c0);
                    if AHEAD && line + 1 == lines {
                        // Rows above have been read before; this one is met for the first time.
                        s.prefetch(p.wrapping_add(WIDE * ST * c));
                    }
                    if FULL { s.load(p) } else { s.load_n(p, n) }
                };
                for (tx, &weight) in weights.iter().enumerate() {
                    if i >= tx && (i - tx) % ST == 0 && (i - tx) / ST < WIDE {
                        let o = (i - tx) / ST;
                        sums[o] = s.fma(v, weight, sums[o]);
                    }
                }
            }
        }
        sums
    }

    /// The output at `x`, of the taps that lie inside.
    #[inline(always)]
    fn one<S: Simd>(&self, s: S, (c0, n): (usize, usize), x: usize, bias: S::F) -> S::F {
        let (shape, w) = (self.call.shape, self.width);
        let mut sum = bias;
        for (line, ty) in self.taps.clone().enumerate() {
            for tx in 0..shape.kw {
                let at = x * shape.stride[1] + tx * shape.dilation[1];
                let at = at.wrapping_sub(self.left);
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
