//! Convolution of images with channels last by matrix registers (`tiles`): the taps of a pixel are
//! copied side by side, rounded to bf16, and make a row of the left operand.

use super::conv::ConvShape;
use super::gemm::Bias;
use super::nhwc::PackedNhwc;
use super::tiles::{End, LEFT_BLOCK, Left, TERMS, TileWeights, for_parts, multiply};
use super::transpose::interleave;
use hetra_cpu_base::amx::{SIDE, Tiles};
use hetra_cpu_base::isa::{Kernel, with_bf16};
use hetra_cpu_base::numbers::{Numbers, NumbersOut};
use hetra_cpu_base::scratch::{Lent, count, lend};
use hetra_cpu_base::simd::Simd;
use std::ops::Range;

/// As `LEFT_BLOCK`, where copies are made of lines of the image: they overlap.
const COPIED_BLOCK: usize = 96 << 10;
/// Numbers of such copies, about: a part of the second cache level.
const STRIP: usize = 64 << 10;

/// Weights `[m, c, kh, kw]` of one group in the order of the rows: for each tap its channels.
pub(crate) fn pack(s: &ConvShape, weights: &[f32]) -> TileWeights {
    let taps = s.kh * s.kw;
    TileWeights::new(taps * s.c, s.m, |term, j| {
        let (tap, c) = (term / s.c, term % s.c);
        weights[(j * s.c + c) * taps + tap]
    })
}

/// The image and the sizes of one call.
struct Images<'a> {
    shape: &'a ConvShape,
    x: Numbers<'a>,
    /// Whether `x` has its channels first.
    planes: bool,
    /// Height, width; output height, width.
    size: [usize; 4],
}

/// Convolves `n` images. The slices have been checked against the sizes.
pub(crate) fn run(
    conv: &PackedNhwc,
    weights: &TileWeights,
    (x, planes): (Numbers<'_>, bool),
    (n, size): (usize, [usize; 4]),
    residual: Option<Numbers<'_>>,
    out: NumbersOut<'_>,
) {
    let shape = conv.shape();
    let pixels = count(&[n, size[2], size[3]]);
    let end = End {
        alpha: 1.0,
        bias: Bias::Col(conv.bias()),
        residual: residual.map(|residual| (residual, shape.m)),
        act: conv.activation(),
        out: out.share(),
        ldc: shape.m,
    };
    let images = Images { shape, x, planes, size };
    for_parts((pixels, weights.n, weights.k), |pixels, panels| {
        let task = Task { images: &images, weights, pixels, panels, end: &end };
        with_bf16(task).expect("tiles come with the instructions of bf16");
    });
}

/// Pixels and panels that one task computes.
struct Task<'a> {
    images: &'a Images<'a>,
    weights: &'a TileWeights,
    pixels: Range<usize>,
    panels: Range<usize>,
    end: &'a End<'a>,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut tiles = Tiles::take().expect("weights are packed where there are tiles");
        let (images, row) = (self.images, self.weights.row());
        let bytes = if images.are_rows() { LEFT_BLOCK } else { COPIED_BLOCK };
        let most = self.weights.rows_within(bytes);
        let mut left = lend(most.min(self.pixels.len()).next_multiple_of(SIDE) * row / 2);
        let left: &mut [u16] = bytemuck::cast_slice_mut(&mut left);
        for start in self.pixels.clone().step_by(most) {
            let pixels = start..(start + most).min(self.pixels.end);
            let whole = pixels.len().next_multiple_of(SIDE) * row;
            let data = match images.x {
                // Rows that lie in the image as they are.
                Numbers::Bf16(x) if images.are_rows() && row == images.shape.c => {
                    bytemuck::cast_slice(x).get(start * row..start * row + whole)
                }
                _ => None,
            };
            // No closure: it would be compiled without the instructions of the kernel.
            let data = match data {
                Some(data) => data,
                None => {
                    images.fill(s, pixels.clone(), &mut left[..whole], row);
                    &left[..whole]
                }
            };
            let left = Left { data, rows: pixels };
            // SAFETY: tasks have different pixels or panels.
            unsafe {
                multiply(s, &mut tiles, &left, (self.weights, self.panels.clone()), self.end)
            };
        }
    }
}

impl Images<'_> {
    /// Whether each pixel is a row, and no more is needed of it than its channels.
    fn are_rows(&self) -> bool {
        let [h, w, oh, ow] = self.size;
        !self.planes && self.shape.pointwise() && (h, w) == (oh, ow)
    }

    /// Writes the rows of these pixels.
    #[inline(always)]
    fn fill<S: Simd>(&self, s: S, pixels: Range<usize>, left: &mut [u16], row: usize) {
        let (c, n) = (self.shape.c, pixels.len());
        if self.are_rows() {
            let runs = Runs { run: c, offsets: &[0], step: c, row };
            return runs.copy(s, self.x, pixels.start * c, n, left);
        }
        let Images { shape, size: [.., oh, ow], .. } = *self;
        // A row of taps is one run, unless there are gaps in it.
        let gaps = shape.kw > 1 && shape.dilation[1] > 1;
        let (width, run) = if gaps { (shape.kw, c) } else { (1, shape.kw * c) };
        let mut offsets = lend(2 * shape.kh * width);
        let offsets: &mut [usize] = bytemuck::cast_slice_mut(offsets.bytes_mut());
        let mut next = pixels.start;
        while next < pixels.end {
            let piece = Piece::new(shape, (next / ow % oh, next % ow), (oh, ow), pixels.end - next);
            let (line, image) = (piece.wide * c, next / ow / oh);
            let taps = (0..shape.kh).flat_map(|ty| (0..width).map(move |tx| (ty, tx)));
            for (to, (ty, tx)) in offsets.iter_mut().zip(taps) {
                *to = ty * shape.dilation[0] * line + tx * shape.dilation[1] * c;
            }
            let strip = self.strip(s, image, &piece);
            let strip = Numbers::Bf16(bytemuck::cast_slice(&strip));
            let runs = Runs { run, offsets, step: shape.stride[1] * c, row };
            for y in 0..piece.rows {
                let (from, to) = (y * shape.stride[0] * line, next - pixels.start);
                runs.copy(s, strip, from, piece.columns, &mut left[to * row..]);
                next += piece.columns;
            }
        }
    }

    /// The part of an image that a piece reads, rounded to bf16, with channels last and zeros where
    /// the border is. What is written of a line may go on for a vector, so there is room behind.
    #[inline(always)]
    fn strip<S: Simd>(&self, s: S, image: usize, piece: &Piece) -> Lent {
        let ([h, w, ..], shape) = (self.size, self.shape);
        let (c, line) = (shape.c, piece.wide * shape.c);
        let mut words = lend((count(&[piece.high, line]) + 2 * TERMS).div_ceil(2));
        let to: &mut [u16] = bytemuck::cast_slice_mut(&mut words);
        // The columns of the piece that lie in the image.
        let first = shape.pads[1].saturating_sub(piece.left).min(piece.wide);
        let past = (w + shape.pads[1]).saturating_sub(piece.left).clamp(first, piece.wide);
        let (from, inside) = ((piece.left + first).saturating_sub(shape.pads[1]), past - first);
        let mut turned = lend(if self.planes { inside * c } else { 0 });
        for i in 0..piece.high {
            let (y, at) = ((piece.top + i).wrapping_sub(shape.pads[0]), i * line);
            if y >= h || inside == 0 {
                to[at..at + line].fill(0);
                continue;
            }
            to[at..at + first * c].fill(0);
            let target = &mut to[at + first * c..];
            match self.x {
                Numbers::F32(x) if self.planes => {
                    let plane = &x[(image * c * h + y) * w + from..];
                    interleave(plane, (c, h * w), inside, &mut turned);
                    Numbers::F32(&turned).narrow(s, 0, inside * c, target);
                }
                x => x.narrow(s, ((image * h + y) * w + from) * c, inside * c, target),
            }
            to[at + past * c..at + line].fill(0);
        }
        to[piece.high * line..].fill(0);
        words
    }
}

/// Outputs that are made of one copy of a part of an image: whole rows of them, or a part of one.
struct Piece {
    rows: usize,
    columns: usize,
    /// Where what they read begins, with the border, and its size.
    top: usize,
    left: usize,
    high: usize,
    wide: usize,
}

impl Piece {
    /// The outputs from `(y, x)` on of an image of `(oh, ow)`, at most as many as `left`, as many
    /// as make a copy of the usual size.
    fn new(
        s: &ConvShape,
        (y, x): (usize, usize),
        (oh, ow): (usize, usize),
        outputs: usize,
    ) -> Piece {
        let window = [0, 1].map(|axis| ([s.kh, s.kw][axis] - 1) * s.dilation[axis] + 1);
        let wide = |columns: usize| (columns - 1) * s.stride[1] + window[1];
        let fits = STRIP / (window[0] * s.c);
        let most = fits.saturating_sub(window[1]) / s.stride[1] + 1;
        let columns = (ow - x).min(outputs).min(most.max(SIDE));
        let rows = match columns == ow {
            true => {
                let lines = (STRIP / (wide(ow) * s.c)).saturating_sub(window[0]);
                (lines / s.stride[0] + 1).min(oh - y).min(outputs / ow)
            }
            false => 1,
        };
        let (top, left) = (y * s.stride[0], x * s.stride[1]);
        let high = (rows - 1) * s.stride[0] + window[0];
        Piece { rows, columns, top, left, high, wide: wide(columns) }
    }
}

/// Most numbers of the copy for a block of outputs (32 MiB).
const PIECE_MAX: usize = 16 << 20;

/// Whether the copies for convolutions by matrix registers are not beyond measure.
pub fn pieces_fit(s: &ConvShape) -> bool {
    let window = |axis: usize| {
        let taps = [s.kh, s.kw][axis].checked_sub(1)?;
        taps.checked_mul(s.dilation[axis])?.checked_add(1)
    };
    let numbers = || {
        let wide = (SIDE - 1).checked_mul(s.stride[1])?.checked_add(window(1)?)?;
        wide.checked_mul(window(0)?)?.checked_mul(s.c)
    };
    numbers().is_some_and(|numbers| numbers <= PIECE_MAX)
}

/// What is copied for a pixel: runs of numbers that make a row, one behind the other.
struct Runs<'a> {
    /// Numbers of a run.
    run: usize,
    /// Where they begin, behind the pixel.
    offsets: &'a [usize],
    /// From one pixel to the next.
    step: usize,
    /// Numbers of a row with the zeros behind its runs.
    row: usize,
}

impl Runs<'_> {
    /// Copies the rows of `count` pixels of a line, of which the first is at `from`.
    #[inline(always)]
    fn copy<S: Simd>(&self, s: S, x: Numbers<'_>, from: usize, count: usize, to: &mut [u16]) {
        let wide = 2 * S::LANES;
        for (i, offset) in self.offsets.iter().enumerate() {
            for at in (0..self.run).step_by(wide) {
                let (n, place) = (wide.min(self.run - at), i * self.run + at);
                // What is written behind a run, the next one covers.
                let room = wide.min(self.row - place);
                x.columns(
                    s,
                    (from + offset + at, self.step, n),
                    to,
                    (place, self.row, room),
                    count,
                );
            }
        }
        let last = (self.offsets.len() - 1) * self.run + (self.run - 1) / wide * wide;
        for place in (last + wide..self.row).step_by(wide) {
            let room = wide.min(self.row - place);
            x.columns(s, (from, 0, 0), to, (place, self.row, room), count);
        }
    }
}
