//! 8-bit convolution of images with channels last, with one input channel for each output channel.
//!
//! A lane holds one channel of four rows of the image, which a step multiplies by four rows of
//! taps. So the bytes of a place (one column of the rows that a row of outputs reads) are put into
//! this order once, and serve all outputs that have the place under one of their taps.
//!
//! A few channels would leave most lanes empty. Where vectors hold whole pixels, and neighbours
//! have neighbouring taps (stride 1), they hold several pixels: then a tap is the same row of bytes
//! from another place on, so it is put in order for each tap.

use super::conv::ConvShape;
use super::int8_pack::kg_of;
use super::nhwc_int8::{part_of, parts_needed};
use super::nhwc_int8_micro::{CodeEnd, halves, lanes_of, split};
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::scratch::{AlignedBuf, Shared, count, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;
use std::ops::Range;

/// Outputs of a row, or groups of them, for which the places are put in order at a time.
const SPAN: usize = 32;

/// Pixels that are summed together, in four vectors.
fn pixels(isa: Isa, s: &ConvShape) -> usize {
    let chunk = 4 * isa.lanes();
    let several = s.c < chunk && chunk.is_multiple_of(s.c) && s.stride[1] == 1;
    if several { chunk / s.c } else { 1 }
}

/// Weights in kernel order.
pub(crate) struct PackedByteDepthwise {
    /// `[chunk of channels][part][four rows of taps][tap][half][four vectors]`.
    weights: AlignedBuf,
    parts: usize,
}

/// Where channel `j` of a chunk stands in four vectors of lanes: as `unpack4` puts it.
fn place(j: usize, lanes: usize) -> usize {
    j % 16 / 4 * lanes + j / 16 * 4 + j % 4
}

impl PackedByteDepthwise {
    /// Packs weights less their zero points, `[c, 1, kh, kw]`.
    pub(crate) fn new(isa: Isa, s: &ConvShape, weights: &[i16]) -> Self {
        let (lanes, kg, taps) = (isa.lanes(), kg_of(isa), s.kh * s.kw);
        let parts = parts_needed(kg, weights);
        let (quads, chunk, step) = (s.kh.div_ceil(4), 4 * lanes, halves(kg) * 4 * lanes);
        let each = count(&[parts, quads, s.kw, step]);
        // Of all pixels that are summed together.
        let channels = s.c * pixels(isa, s);
        let mut packed = AlignedBuf::zeroed(count(&[channels.div_ceil(chunk), each]));
        let data: &mut [i32] = bytemuck::cast_slice_mut(packed.as_mut_slice());
        for c in 0..channels {
            let (kernel, slot) = (&weights[c % s.c * taps..][..taps], place(c % chunk, lanes));
            let of_chunk = &mut data[c / chunk * each..][..each];
            for (i, row) in of_chunk.chunks_exact_mut(step).enumerate() {
                let (part, quad, tx) = (i / s.kw / quads, i / s.kw % quads, i % s.kw);
                let weight = |k: usize| {
                    let ty = 4 * quad + k;
                    if ty < s.kh { part_of(kernel[ty * s.kw + tx], part, parts) } else { 0 }
                };
                let both = lanes_of(kg, [0, 1, 2, 3].map(weight));
                for (half, lane) in both.into_iter().enumerate().take(halves(kg)) {
                    row[half * chunk + slot] = lane;
                }
            }
        }
        PackedByteDepthwise { weights: packed, parts }
    }
}

/// Places for which a thread has room.
fn places(isa: Isa, s: &ConvShape) -> Option<usize> {
    if pixels(isa, s) > 1 {
        return s.kw.checked_mul(SPAN);
    }
    let outputs = (SPAN - 1).checked_mul(s.stride[1])?;
    (s.kw - 1).checked_mul(s.dilation[1])?.checked_add(outputs)?.checked_add(1)
}

/// Bytes of scratch for each thread.
pub(crate) fn scratch(isa: Isa, s: &ConvShape) -> Option<usize> {
    let place = halves(kg_of(isa)) * 16 * isa.lanes();
    let ordered = places(isa, s)?.checked_mul(place)?.checked_mul(s.kh.div_ceil(4))?;
    ordered.checked_add(line_bytes(isa, s)?.checked_mul(4)?)
}

/// Bytes of a row of the image that the pixels of a span and their taps cover.
fn line_bytes(isa: Isa, s: &ConvShape) -> Option<usize> {
    let taps = (s.kw - 1).checked_mul(s.dilation[1])?;
    taps.checked_add(SPAN * pixels(isa, s))?.checked_mul(s.c)
}

/// One call.
pub(crate) struct ByteDepthwise<'a> {
    pub(crate) shape: &'a ConvShape,
    pub(crate) packed: &'a PackedByteDepthwise,
    /// Unsigned codes.
    pub(crate) x: &'a [u8],
    /// What the border holds.
    pub(crate) border: u8,
    /// Height, width; output height, width.
    pub(crate) size: [usize; 4],
    pub(crate) end: CodeEnd,
}

impl ByteDepthwise<'_> {
    /// Convolves `n` images; the slices have been checked against the sizes. `channel` gives what
    /// is added to the sums of a channel, and their factor.
    pub(crate) fn run(
        &self,
        isa: Isa,
        n: usize,
        channel: impl Fn(usize) -> (i32, f32),
        out: &mut [u8],
    ) {
        let (lanes, c) = (isa.lanes(), self.shape.c);
        let chunk = 4 * lanes;
        let channels = c * pixels(isa, self.shape);
        let slots = channels.next_multiple_of(chunk);
        let (mut fixed, mut scale) = (lend(slots), lend(slots));
        let fixed: &mut [i32] = bytemuck::cast_slice_mut(&mut fixed);
        fixed.fill(0);
        scale.fill(0.0);
        for j in 0..channels {
            let at = j / chunk * chunk + place(j % chunk, lanes);
            (fixed[at], scale[at]) = channel(j % c);
        }
        let (fixed, scale) = (&*fixed, &scale[..]);
        let [_, _, oh, ow] = self.size;
        let out = Shared::new(out);
        let row = (ow * c * (2 + self.shape.kh * self.shape.kw / 2)).max(1);
        for_ranges(n * oh, (384 << 10) / row, |start, len| {
            let rows = start..start + len;
            isa.dispatch(Rows { call: self, rows, fixed, scale, out });
        });
    }
}

/// Rows of outputs of one task.
struct Rows<'a> {
    call: &'a ByteDepthwise<'a>,
    rows: Range<usize>,
    fixed: &'a [i32],
    scale: &'a [f32],
    out: Shared<'a, u8>,
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let shape = self.call.shape;
        let ([_, _, _, ow], c) = (self.call.size, shape.c);
        let counted = "the caller has counted the scratch";
        let places = places(S::ISA, shape).expect(counted);
        let together = pixels(S::ISA, shape);
        let mut lines = lend(if together > 1 {
            line_bytes(S::ISA, shape).and_then(|len| len.checked_mul(4)).expect(counted).div_ceil(4)
        } else {
            0
        });
        let place = halves(S::KG) * 4 * S::LANES;
        let mut buf = lend(count(&[shape.kh.div_ceil(4), places, place]));
        let buf: &mut [i32] = bytemuck::cast_slice_mut(&mut buf);
        for row in self.rows.clone() {
            // SAFETY: each row of outputs is one task's.
            let out = unsafe { self.out.slice(row * ow * c, ow * c) };
            for c0 in (0..c).step_by(4 * S::LANES) {
                for x0 in (0..ow).step_by(SPAN * together) {
                    let count = (SPAN * together).min(ow - x0);
                    let span = Span { rows: &self, row, c0, x0, count, places, together };
                    if together > 1 {
                        span.order_several(s, lines.bytes_mut(), buf);
                    } else {
                        span.order(s, buf);
                    }
                    span.sum(s, buf, out);
                }
            }
        }
    }
}

/// Neighbouring outputs of a row, of a chunk of channels.
struct Span<'a> {
    rows: &'a Rows<'a>,
    row: usize,
    /// First channel.
    c0: usize,
    /// First output.
    x0: usize,
    count: usize,
    /// Places for which there is room.
    places: usize,
    /// Outputs that are summed together.
    together: usize,
}

impl Span<'_> {
    /// Channels of the chunk.
    #[inline(always)]
    fn channels<S: Simd>(&self) -> usize {
        (4 * S::LANES).min(self.rows.call.shape.c - self.c0)
    }

    /// The first place that output `x` reads, counted from the left border.
    #[inline(always)]
    fn first(&self, x: usize) -> usize {
        x * self.rows.call.shape.stride[1]
    }

    /// Where the four rows of taps from `4 * quad` on begin, as far as they are inside.
    #[inline(always)]
    fn lines(&self, quad: usize) -> [Option<usize>; 4] {
        let shape = self.rows.call.shape;
        let ([h, w, oh, _], c) = (self.rows.call.size, shape.c);
        let (image, y0) = (self.row / oh, self.row % oh * shape.stride[0]);
        let mut lines = [None; 4];
        for (k, line) in lines.iter_mut().enumerate() {
            let ty = 4 * quad + k;
            let y = (y0 + ty * shape.dilation[0]).wrapping_sub(shape.pads[0]);
            *line = (ty < shape.kh && y < h).then(|| (image * h + y) * w * c);
        }
        lines
    }

    /// Puts the bytes of all taps of all pixels in order, several pixels at a time:
    /// `[four rows][tap][pixels][half][four vectors]`. `lines` are rows with their borders.
    #[inline(always)]
    fn order_several<S: Simd>(&self, s: S, lines: &mut [u8], buf: &mut [i32]) {
        let call = self.rows.call;
        let (shape, c, w) = (call.shape, call.shape.c, call.size[1]);
        let (chunk, step) = (4 * S::LANES, halves(S::KG) * 4 * S::LANES);
        let groups = self.count.div_ceil(self.together);
        // Pixels of a line, and those of them that are inside.
        let long = groups * self.together + (shape.kw - 1) * shape.dilation[1];
        let before = shape.pads[1].saturating_sub(self.x0).min(long);
        // Right of the image there is nothing but border.
        let from = (self.x0 + before).saturating_sub(shape.pads[1]).min(w);
        let inside = w.saturating_sub(from).min(long - before);
        for (quad, buf) in buf.chunks_exact_mut(self.places * step).enumerate() {
            for (line, out) in self.lines(quad).iter().zip(lines.chunks_exact_mut(long * c)) {
                let (left, rest) = out.split_at_mut(before * c);
                let (middle, right) = rest.split_at_mut(inside * c);
                left.fill(call.border);
                right.fill(call.border);
                match line {
                    Some(line) => middle.copy_from_slice(&call.x[line + from * c..][..inside * c]),
                    None => middle.fill(call.border),
                }
            }
            for tx in 0..shape.kw {
                for group in 0..groups {
                    let at = (group * self.together + tx * shape.dilation[1]) * c;
                    let mut rows = [s.isplat(0); 4];
                    for (k, row) in rows.iter_mut().enumerate() {
                        let bytes = &lines[k * long * c + at..][..chunk];
                        // SAFETY: the slice has four times as many bytes as there are lanes.
                        *row = unsafe { s.load_bytes(bytes.as_ptr(), chunk) };
                    }
                    put(s, rows, &mut buf[(tx * SPAN + group) * step..][..step]);
                }
            }
        }
    }

    /// Puts the bytes of all places in order: `[four rows][place][half][four vectors]`.
    #[inline(always)]
    fn order<S: Simd>(&self, s: S, buf: &mut [i32]) {
        let call = self.rows.call;
        let (shape, n) = (call.shape, self.channels::<S>());
        let (w, c) = (call.size[1], shape.c);
        let border = [call.border; 64];
        let used = self.first(self.count - 1) + (shape.kw - 1) * shape.dilation[1] + 1;
        let step = halves(S::KG) * 4 * S::LANES;
        for (quad, buf) in buf.chunks_exact_mut(self.places * step).enumerate() {
            // Rows from this chunk of channels on, and the bytes from one place to the next. Those
            // in the border are the same everywhere.
            let mut rows: [(&[u8], usize); 4] = [(&border, 0); 4];
            for (row, line) in rows.iter_mut().zip(self.lines(quad)) {
                if let Some(line) = line {
                    *row = (&call.x[line..][self.c0..w * c], c);
                }
            }
            // Not by `map`, which is not inlined: vectors would go through memory.
            let mut outside = [s.isplat(0); 4];
            for row in &mut outside {
                // SAFETY: the border is as long as the longest four vectors of bytes.
                *row = unsafe { s.load_bytes(border.as_ptr(), n) };
            }
            for (place, buf) in buf.chunks_exact_mut(step).enumerate().take(used) {
                let x = (self.first(self.x0) + place).wrapping_sub(shape.pads[1]);
                let mut bytes = outside;
                if x < w {
                    for k in 0..4 {
                        let place = &rows[k].0[x * rows[k].1..][..n];
                        // SAFETY: the slice has `n` bytes, at most four times the lanes.
                        bytes[k] = unsafe { s.load_bytes(place.as_ptr(), n) };
                    }
                }
                put(s, bytes, buf);
            }
        }
    }

    #[inline(always)]
    fn sum<S: Simd>(&self, s: S, buf: &[i32], out: &mut [u8]) {
        // As many as there are registers for.
        if S::LANES == 16 {
            self.sum_by::<S, 4>(s, buf, out);
        } else {
            self.sum_by::<S, 2>(s, buf, out);
        }
    }

    /// `N` outputs at a time.
    #[expect(clippy::needless_range_loop, reason = "iterators leave the sums in memory")]
    #[inline(always)]
    fn sum_by<S: Simd, const N: usize>(&self, s: S, buf: &[i32], out: &mut [u8]) {
        let rows = self.rows;
        let (shape, chunk) = (rows.call.shape, 4 * S::LANES);
        // Places from one output to the next, and from one tap to the next.
        let (next, tap) = match self.together {
            1 => (shape.stride[1], shape.dilation[1]),
            _ => (1, SPAN),
        };
        let step = halves(S::KG) * chunk;
        let (quads, parts) = (shape.kh.div_ceil(4), rows.call.packed.parts);
        let weights: &[i32] = bytemuck::cast_slice(rows.call.packed.weights.as_slice());
        let each = parts * quads * shape.kw * step;
        let weights = &weights[self.c0 / chunk * each..][..each];
        let (mut fixed, mut scale) = ([s.isplat(0); 4], [s.splat(0.0); 4]);
        for r in 0..4 {
            let at = self.c0 + r * S::LANES;
            // SAFETY: the slice is a vector.
            fixed[r] = unsafe { s.iload(rows.fixed[at..][..S::LANES].as_ptr()) };
            scale[r] = s.loads(&rows.scale[at..]);
        }
        for o in (0..self.count.div_ceil(self.together)).step_by(N) {
            let mut acc = [fixed; N];
            for (i, weights) in weights.chunks_exact(step).enumerate() {
                let (quad, tx) = (i / shape.kw % quads, i % shape.kw);
                let place = quad * self.places + o * next + tx * tap;
                // Outputs past the end of the span read what was there before.
                let bytes = &buf[place * step..][..((N - 1) * next + 1) * step];
                for half in 0..halves(S::KG) {
                    for r in 0..4 {
                        let lanes = half * chunk + r * S::LANES;
                        // SAFETY: `weights` and the bytes of each of the `N` outputs are `step`
                        // long, of which one vector is read.
                        unsafe {
                            let w = s.iload(weights.as_ptr().add(lanes));
                            for k in 0..N {
                                let v = bytes.as_ptr().add(k * next * step + lanes);
                                acc[k][r] = s.dot(s.iload(v), w, acc[k][r]);
                            }
                        }
                    }
                }
            }
            for k in 0..N {
                let x = (o + k) * self.together;
                if x >= self.count {
                    break;
                }
                let codes = rows.call.end.codes(s, acc[k], scale);
                let n = match self.together {
                    1 => self.channels::<S>(),
                    together => together.min(self.count - x) * shape.c,
                };
                let out = &mut out[(self.x0 + x) * shape.c + self.c0..][..n];
                // SAFETY: `n` bytes are writable.
                unsafe { s.store_bytes(out.as_mut_ptr(), codes, n) };
            }
        }
    }
}

/// Puts four rows of bytes in order: `[half][four vectors]`.
#[inline(always)]
fn put<S: Simd>(s: S, rows: [S::I; 4], out: &mut [i32]) {
    let rows = s.unpack4(rows);
    for r in 0..4 {
        let both = split(s, rows[r]);
        for half in 0..halves(S::KG) {
            let lanes = &mut out[(4 * half + r) * S::LANES..][..S::LANES];
            // SAFETY: the slice is a vector.
            unsafe { s.istore(lanes.as_mut_ptr(), both[half]) };
        }
    }
}
