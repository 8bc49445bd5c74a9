//! Convolution of images with channels last, with one input channel for each output channel.
//!
//! Vectors hold channels. A step sums a few neighbouring outputs of a row, which share the weights
//! and most of their inputs; at the sides of the image it leaves out the taps in the border.

use half::bf16;

use super::conv::ConvShape;
use super::nhwc_store::End;
use super::tiling::Tiling;
use hetra_cpu_base::activation::{self, Activation};
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::numbers::{Number, Numbers, NumbersOut, SharedOut};
use hetra_cpu_base::scratch::{AlignedBuf, Shared, count, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;
use std::ops::Range;

/// Channels are packed to a multiple of this: the longest vector.
const PAD: usize = 16;
/// Channels of a block: a multiple of all vectors, few enough that the lines and weights of some
/// outputs fit into the first cache level.
const BLOCK: usize = 128;
/// Numbers of the rows that outputs read which stay in the first cache level: blocks of short rows
/// may have more channels.
const NEAR: usize = 6 << 10;
/// Most channels of a block, whatever is asked for: a multiple of all vectors.
const BLOCKS_MAX: usize = 1 << 16;
/// Work of a task, about: outputs, and taps at half the price.
const GRAIN: usize = 96 << 10;
/// Outputs of a row that are summed together.
pub(crate) const WIDE: usize = 8;

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
    /// Weights and bias for images that are stored as bf16 (`pack_pairs`), where this one is.
    pub(crate) pairs: &'a [f32],
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
        // As many zeros as a pixel has channels, whatever it is stored as.
        let mut zeros = lend(self.call.shape.c);
        zeros.fill(0.0);
        let width = self.call.size[3] * self.call.shape.c;
        match (self.call.x, self.out) {
            (Numbers::F32(x), out) => {
                let mut sums = lend(if let SharedOut::Bf16(_) = out { width } else { 0 });
                for row in self.rows.clone() {
                    self.row(s, &Line::new(self.call, row, x), row, (&zeros, &mut sums));
                }
            }
            (Numbers::Bf16(x), SharedOut::F32(out)) => self.low(s, x, &zeros, out),
            (Numbers::Bf16(x), SharedOut::Bf16(out)) => self.low(s, x, &zeros, out),
        }
    }
}

impl Rows<'_> {
    /// One row of outputs, by way of `sums` where they are not f32.
    #[inline(always)]
    fn row<S: Simd>(
        &self,
        s: S,
        line: &Line<'_, f32>,
        row: usize,
        (zeros, sums): (&[f32], &mut [f32]),
    ) {
        let width = self.call.size[3] * self.call.shape.c;
        let out = match self.out {
            // SAFETY: each row of outputs is one task's.
            SharedOut::F32(out) => unsafe { out.slice(row * width, width) },
            SharedOut::Bf16(_) => &mut sums[..],
        };
        line.row(S::ISA, zeros, out);
        if line.end.is_none() {
            activation::apply(S::ISA, self.call.act, out);
        }
        if let SharedOut::Bf16(out) = self.out {
            // SAFETY: as above.
            Numbers::F32(sums).narrow_all(s, unsafe { out.slice(row * width, width) });
        }
    }

    /// All rows, of an image that is stored as bf16.
    #[inline(always)]
    fn low<S: Simd, O: Number>(&self, _: S, x: &[bf16], zeros: &[f32], out: Shared<'_, O>) {
        let width = self.call.size[3] * self.call.shape.c;
        let zeros = &bytemuck::cast_slice(zeros)[..self.call.shape.c];
        for row in self.rows.clone() {
            // SAFETY: each row of outputs is one task's.
            let out = unsafe { out.slice(row * width, width) };
            Line::new(self.call, row, x).row(S::ISA, zeros, out);
        }
    }
}

/// What images are stored as, with the loops over vectors of their channels.
pub(crate) trait Stored<O>: Number {
    /// `WIDE` outputs of the channels `block`, of places that all have `c` channels. With `AHEAD`
    /// what the next places need is brought nearer.
    fn block<S: Simd, const K: usize, const ST: usize, const N: usize, const AHEAD: bool>(
        line: &Line<'_, Self>,
        s: S,
        places: &impl Places<Self>,
        block: Range<usize>,
        outputs: Range<usize>,
        out: &mut [O],
    );

    /// Outputs `places` of the channels `block`, of windows that have no loop of their own.
    fn any<S: Simd>(
        line: &Line<'_, Self>,
        s: S,
        block: Range<usize>,
        places: Range<usize>,
        out: &mut [O],
    );
}

/// Does a macro for each pixel below `N`, at most [`PIXELS_MAX`]: in a loop where that is `short`,
/// which the compiler unrolls by itself and then has more registers for. Longer ones it leaves as
/// they are, with the sums in memory.
macro_rules! each_pixel {
    ($n:ident, $short:expr, $pixel:ident) => {
        const { assert!($n <= PIXELS_MAX, "more pixels than are counted") };
        if $short {
            for i in 0..$n {
                $pixel!(i);
            }
        } else {
            each_pixel!(@ $n $pixel 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18);
        }
    };
    (@ $n:ident $pixel:ident $($step:literal)*) => {
        $(if $step < $n {
            $pixel!($step);
        })*
    };
}
pub(crate) use each_pixel;

/// Most pixels of a row that a step reads: those of 8 outputs, 5 taps wide, two apart.
pub(crate) const PIXELS_MAX: usize = 19;

/// Where the pixels of a step lie.
pub(crate) trait Places<T> {
    /// The channels of pixel `i < N` in row `line < K` of taps: as many as the image has.
    fn at(&self, line: usize, i: usize) -> *const T;
}

/// Rows of `N` pixels, which all lie in the image, and its channels.
struct Inside<T, const K: usize, const N: usize>([*const T; K], usize);

impl<T, const K: usize, const N: usize> Inside<T, K, N> {
    /// The first `N` pixels of `c` channels of each row.
    fn new(rows: [&[T]; K], c: usize) -> Self {
        assert!(rows.iter().all(|row| row.len() >= N * c), "pixels outside their row");
        Inside(rows.map(<[T]>::as_ptr), c)
    }
}

impl<T, const K: usize, const N: usize> Places<T> for Inside<T, K, N> {
    #[inline(always)]
    fn at(&self, line: usize, i: usize) -> *const T {
        self.0[line].wrapping_add(i * self.1)
    }
}

/// Pixels one by one.
struct Edge<'a, T, const K: usize, const N: usize>([[&'a [T]; N]; K]);

impl<T, const K: usize, const N: usize> Places<T> for Edge<'_, T, K, N> {
    #[inline(always)]
    fn at(&self, line: usize, i: usize) -> *const T {
        self.0[line][i].as_ptr()
    }
}

/// Bytes of an image and its outputs beyond which they do not stay in the second cache level.
const FAR: usize = 1 << 20;

/// One row of outputs, and the rows of the image that it is made of.
pub(crate) struct Line<'a, T> {
    pub(crate) call: &'a Depthwise<'a>,
    /// From the first of these rows on, to the end of the image.
    image: &'a [T],
    /// Numbers between two of them that are read together.
    step: usize,
    /// The rows of taps that lie in the image.
    pub(crate) taps: Range<usize>,
    pub(crate) residual: Option<&'a [f32]>,
    /// The activation, where it is done in registers.
    pub(crate) end: Option<End>,
    /// Whether image and outputs are more than stays near.
    far: bool,
}

/// A row by one of the loops as a function of its own: of several in one the compiler does not keep
/// the sums in registers. Line, zeros, outputs.
struct Form<'a, T, O, const K: usize, const ST: usize, const N: usize>(
    &'a Line<'a, T>,
    &'a [T],
    &'a mut [O],
);

impl<T: Stored<O>, O, const K: usize, const ST: usize, const N: usize> Kernel
    for Form<'_, T, O, K, ST, N>
{
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.run::<S, O, K, ST, N>(s, self.1, self.2);
    }
}

impl<'a, T: Number> Line<'a, T> {
    /// Row `row` of outputs, of all images `x`.
    fn new(call: &'a Depthwise<'a>, row: usize, x: &'a [T]) -> Self {
        let shape = call.shape;
        let ([h, w, oh, ow], c) = (call.size, shape.c);
        let (image, y0) = (row / oh, row % oh * shape.stride[0]);
        let dy = shape.dilation[0];
        // Rows of taps t with 0 <= y0 + t dy - pad < h.
        let tap = shape.pads[0].saturating_sub(y0).div_ceil(dy).min(shape.kh);
        let past = (h + shape.pads[0]).saturating_sub(y0).div_ceil(dy).clamp(tap, shape.kh);
        let top = if tap < past { y0 + tap * dy - shape.pads[0] } else { 0 };
        let numbers = (h * w).saturating_add(oh * ow).saturating_mul(c);
        Line {
            call,
            image: &x[(image * h + top) * w * c..],
            step: dy * w * c,
            taps: tap..past,
            residual: call.residual.map(|r| &r[row * ow * c..(row + 1) * ow * c]),
            end: End::of(call.act),
            far: numbers.saturating_mul(size_of::<T>()) > FAR,
        }
    }

    /// Computes it, by the loop for its windows.
    fn row<O>(&self, isa: Isa, zeros: &[T], out: &mut [O])
    where
        T: Stored<O>,
    {
        let shape = self.call.shape;
        match (shape.kw, shape.stride[1], shape.dilation[1]) {
            _ if shape.kh > shape.kw => T::dispatch(isa, Form::<T, O, 0, 0, 0>(self, zeros, out)),
            (3, 1, 1) => T::dispatch(isa, Form::<T, O, 3, 1, 10>(self, zeros, out)),
            (3, 2, 1) => T::dispatch(isa, Form::<T, O, 3, 2, 17>(self, zeros, out)),
            (5, 1, 1) => T::dispatch(isa, Form::<T, O, 5, 1, 12>(self, zeros, out)),
            (5, 2, 1) => T::dispatch(isa, Form::<T, O, 5, 2, 19>(self, zeros, out)),
            _ => T::dispatch(isa, Form::<T, O, 0, 0, 0>(self, zeros, out)),
        }
    }

    /// `K` taps wide with steps of `ST`, which make `WIDE` outputs of `N` pixels; any if `K` is 0.
    ///
    /// Channels by blocks, then places, then vectors: neighbouring lines of the image are read
    /// together, and what the next places need again is still in the first cache level.
    #[inline(always)]
    fn run<S: Simd, O, const K: usize, const ST: usize, const N: usize>(
        &self,
        s: S,
        zeros: &[T],
        out: &mut [O],
    ) where
        T: Stored<O>,
    {
        let (c, [_, w, _, ow]) = (self.call.shape.c, self.call.size);
        let left = self.call.shape.pads[1];
        let rows = (self.call.shape.kh * w).max(1);
        let about = self.call.tiling.scaled(BLOCK.max(NEAR / rows)).clamp(2 * PAD, BLOCKS_MAX);
        // All alike, as a short one takes nearly as long. Whole pairs of vectors, so that the same
        // lanes are summed together whatever the blocks.
        let blocks = (c + about / 2) / about;
        let size = c.div_ceil(blocks.max(1)).next_multiple_of(2 * PAD);
        for block in (0..c).step_by(size) {
            let block = block..(block + size).min(c);
            for x in (0..ow).step_by(WIDE) {
                let outputs = x..(x + WIDE).min(ow);
                if K == 0 || self.taps.is_empty() {
                    T::any(self, s, block.clone(), outputs, out);
                } else if x * ST >= left && x * ST + N <= w + left {
                    let first = (x * ST - left) * c;
                    // Rows that are not there are not read.
                    let mut rows = [&self.image[first..]; K];
                    for (line, row) in rows.iter_mut().enumerate().take(self.taps.len()) {
                        *row = &self.image[line * self.step + first..];
                    }
                    let (at, block) = (Inside::<T, K, N>::new(rows, c), block.clone());
                    match self.far {
                        true => T::block::<S, K, ST, N, true>(self, s, &at, block, outputs, out),
                        false => T::block::<S, K, ST, N, false>(self, s, &at, block, outputs, out),
                    }
                } else {
                    let edge = Edge(self.places::<K, N>(x * ST, zeros));
                    T::block::<S, K, ST, N, false>(self, s, &edge, block.clone(), outputs, out);
                }
            }
        }
    }

    /// The pixels from `x - pad` on, by rows of taps: all channels of each, or zeros for those in
    /// the border.
    #[inline(always)]
    fn places<'b, const K: usize, const N: usize>(
        &'b self,
        x: usize,
        zeros: &'b [T],
    ) -> [[&'b [T]; N]; K] {
        let ([_, w, ..], c) = (self.call.size, self.call.shape.c);
        // Wraps where the first taps lie in the border.
        let left = x.wrapping_sub(self.call.shape.pads[1]);
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

    #[inline(always)]
    pub(crate) fn bias<S: Simd>(&self, s: S, c0: usize, n: usize) -> S::F {
        // No closure: it would be compiled without the instructions of the kernel.
        match self.call.bias {
            Some(bias) => s.loads_tail(&bias[c0..c0 + n]),
            None => s.splat(0.0),
        }
    }

    /// The output at `x`, of the taps that lie inside.
    #[inline(always)]
    pub(crate) fn one<S: Simd>(&self, s: S, (c0, n): (usize, usize), x: usize, bias: S::F) -> S::F {
        let (shape, [_, w, ..]) = (self.call.shape, self.call.size);
        let padded = shape.c.next_multiple_of(PAD);
        let mut sum = bias;
        for (line, ty) in self.taps.clone().enumerate() {
            for tx in 0..shape.kw {
                let at = x * shape.stride[1] + tx * shape.dilation[1];
                let at = at.wrapping_sub(shape.pads[1]);
                if at < w {
                    let from = line * self.step + at * shape.c + c0;
                    let x = &self.image[from..from + n];
                    // SAFETY: `n` numbers were cut out.
                    let v = unsafe { T::load_n(s, x.as_ptr(), n) };
                    let weights = (ty * shape.kw + tx) * padded + c0;
                    sum = s.fma(v, s.loads(&self.call.weights[weights..]), sum);
                }
            }
        }
        sum
    }
}

impl Stored<f32> for f32 {
    #[inline(always)]
    fn block<S: Simd, const K: usize, const ST: usize, const N: usize, const AHEAD: bool>(
        line: &Line<'_, f32>,
        s: S,
        places: &impl Places<f32>,
        block: Range<usize>,
        outputs: Range<usize>,
        out: &mut [f32],
    ) {
        let c = line.call.shape.c;
        for c0 in block.clone().step_by(S::LANES) {
            let (n, at) = (S::LANES.min(block.end - c0), outputs.start * c + c0);
            if n == S::LANES {
                let sums = line.wide::<S, K, ST, N, true, AHEAD>(s, (c0, n), places);
                line.put::<S, WIDE, true, AHEAD>(s, (at, n), outputs.len(), sums, out);
            } else {
                let sums = line.wide::<S, K, ST, N, false, false>(s, (c0, n), places);
                line.put::<S, WIDE, false, false>(s, (at, n), outputs.len(), sums, out);
            }
        }
    }

    #[inline(always)]
    fn any<S: Simd>(
        line: &Line<'_, f32>,
        s: S,
        block: Range<usize>,
        places: Range<usize>,
        out: &mut [f32],
    ) {
        for c0 in block.clone().step_by(S::LANES) {
            let n = S::LANES.min(block.end - c0);
            for x in places.clone() {
                let sum = line.one(s, (c0, n), x, line.bias(s, c0, n));
                line.put::<S, 1, false, false>(s, (x * line.call.shape.c + c0, n), 1, [sum], out);
            }
        }
    }
}

impl Line<'_, f32> {
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
        let (end, c) = (self.end.unwrap_or(End::NONE), self.call.shape.c);
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
                v = end.vector(s, v);
                let p = out.as_mut_ptr().add(at + i * c);
                if AHEAD {
                    s.prefetch_write(p.wrapping_add(W * c));
                }
                if FULL { s.store(p, v) } else { s.store_n(p, v, n) }
            }
        }
    }
}

impl<T: Number> Line<'_, T> {
    /// `WIDE` outputs of `n` channels from `c0` on; `FULL` if they are as many as lanes. Each
    /// pixel is loaded once for all outputs that it is a tap of.
    #[inline(always)]
    pub(crate) fn wide<
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
        places: &impl Places<T>,
    ) -> [S::F; WIDE] {
        let c = self.call.shape.c;
        let padded = c.next_multiple_of(PAD);
        let mut sums = [self.bias(s, c0, n); WIDE];
        assert!(c0 + n <= c && c0 + S::LANES <= padded && (n == S::LANES || !FULL));
        let lines = self.taps.len();
        let taps = &self.call.weights[self.taps.start * K * padded..];
        assert!(lines <= K && taps.len() >= lines * K * padded);
        for line in 0..lines {
            let taps = taps.as_ptr().wrapping_add(line * K * padded + c0);
            let mut weights = [s.splat(0.0); K];
            for (tx, weight) in weights.iter_mut().enumerate() {
                // SAFETY: `line < lines` and `tx < K`: the tap is among those that were checked to
                // be there. It is padded to whole vectors, and the lanes from `c0` on are in it.
                *weight = unsafe { s.load(taps.add(tx * padded)) };
            }
            macro_rules! pixel {
                ($i:expr) => {
                    // SAFETY: a place has `c` channels, of which the `n` from `c0` on are read;
                    // `n` is the number of lanes where `FULL`. There are `K` lines of `N` places.
                    let v = unsafe {
                        let p = places.at(line, $i).add(c0);
                        if AHEAD && line + 1 == lines {
                            // Rows above have been read before; this one is met first here.
                            s.prefetch(p.wrapping_add(WIDE * ST * c).cast());
                        }
                        if FULL { T::load(s, p) } else { T::load_n(s, p, n) }
                    };
                    for (tx, &weight) in weights.iter().enumerate() {
                        if $i >= tx && ($i - tx) % ST == 0 && ($i - tx) / ST < WIDE {
                            let o = ($i - tx) / ST;
                            sums[o] = s.fma(v, weight, sums[o]);
                        }
                    }
                };
            }
            each_pixel!(N, ST == 1 && K == 3, pixel);
        }
        sums
    }
}
