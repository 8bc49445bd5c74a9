//! Convolution of images with few channels, as of colours, whose operands are rounded to bf16.
//!
//! Pairs of neighbours in a row of one channel are words as they lie in memory, so a strip of the
//! image is copied by channels, rounded and with its borders, and a step of the kernel adds up two
//! taps of a row. Taps of an odd number have a zero behind the last one. The image may have its
//! channels first or last; only those that have them first are read fast.

use half::bf16;

use super::bf16::{Pairs, Product, pair};
use super::conv::ConvShape;
use super::nhwc::{PAR_MIN, PackedNhwc};
use super::nhwc_rows::widths;
use super::nhwc_store::{End, Outputs, Panel, begin, store};
use super::nhwc_strips::reads_whole_rows;
use super::tiling::Tiling;
use hetra_cpu_base::activation;
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::numbers::{Numbers, SharedOut};
use hetra_cpu_base::scratch::{AlignedBuf, count, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::{for_each, threads};
use std::ops::Range;

/// Fewer channels than these: others are long sums of pairs of channels.
const CHANNELS: usize = 16;
/// Numbers of a strip, about: half of the first cache level.
const STRIP: usize = 8 << 10;
/// Most numbers of the copy that one row of outputs needs.
const COPY_MAX: usize = 32 << 20;

/// Whether convolutions of this shape are done by rounded planes.
pub fn by_planes(shape: &ConvShape) -> bool {
    let step = (1..=2).contains(&shape.stride[1]);
    step && shape.c < CHANNELS && reads_whole_rows(shape)
}

/// Words of a row of taps.
fn words(s: &ConvShape) -> usize {
    s.kw.div_ceil(2)
}

/// Weights `[m, c, kh, kw]` as `[panel][row of taps][channel][word][nr]`.
pub(crate) fn pack(s: &ConvShape, nr: usize, weights: &[f32]) -> AlignedBuf {
    let (panels, words) = (s.m.div_ceil(nr), words(s));
    let mut packed = AlignedBuf::zeroed(count(&[panels, s.kh, s.c, words, nr]));
    for (i, row) in packed.as_mut_slice().chunks_exact_mut(nr).enumerate() {
        let (word, c) = (i % words, i / words % s.c);
        let (ty, panel) = (i / (words * s.c) % s.kh, i / (words * s.c * s.kh));
        for (j, to) in row.iter_mut().enumerate().take(s.m.saturating_sub(panel * nr)) {
            let taps = &weights[(((panel * nr + j) * s.c + c) * s.kh + ty) * s.kw..][..s.kw];
            *to = pair(taps[2 * word], taps.get(2 * word + 1).copied().unwrap_or(0.0));
        }
    }
    packed
}

/// One call.
pub(crate) struct Planes<'a> {
    pub(crate) conv: &'a PackedNhwc,
    pub(crate) isa: Isa,
    pub(crate) weights: &'a [f32],
    pub(crate) tiling: Tiling,
    pub(crate) x: Numbers<'a>,
    /// Whether the image has its channels first.
    pub(crate) first: bool,
    /// Height, width; output height, width.
    pub(crate) size: [usize; 4],
    pub(crate) residual: Option<Numbers<'a>>,
    pub(crate) out: SharedOut<'a>,
}

/// Numbers of a channel's run in a copy, and of a line of all of them; `None` where a row of
/// outputs would need too many.
fn extents(s: &ConvShape, isa: Isa, [_, w, _, ow]: [usize; 4]) -> Option<(usize, usize)> {
    // As many as the blocks read, which may be longer than the row, and as are written at a time.
    let read = (ow.max(widths(isa).0) - 1) * s.stride[1] + 2 * words(s);
    let written = s.pads[1].checked_add(w.next_multiple_of(64))?;
    let run = read.max(written);
    let line = run.checked_mul(s.c)?;
    let window = (s.kh - 1).checked_mul(s.dilation[0])?.checked_add(1)?;
    (window.checked_mul(line)? <= COPY_MAX).then_some((run, line))
}

impl Planes<'_> {
    /// Convolves `n` images; the slices have been checked against the sizes. Panics where images
    /// are beyond measure (`copies_fit`).
    pub(crate) fn run(&self, n: usize) {
        let (s, [_, _, oh, ow]) = (self.conv.shape(), self.size);
        let (run, line) = extents(s, self.isa, self.size).expect("the caller asks `copies_fit`");
        let window = (s.kh - 1) * s.dilation[0] + 1;
        let work = count(&[n, oh, ow, s.m]).saturating_mul(s.kh * s.kw * s.c);
        let parallel = work >= PAR_MIN && threads() > 1;
        let tasks = self.tiling.tasks.div_ceil(2).max(1).saturating_mul(threads());
        let fair = if parallel { (n * oh).div_ceil(tasks) } else { oh };
        let fits = (self.tiling.scaled(STRIP) / line).saturating_sub(window) / s.stride[0] + 1;
        let rows = fits.min(fair).clamp(1, oh);
        let strips = oh.div_ceil(rows);
        for_each(n * strips, parallel, |task| {
            let (image, y) = (task / strips, task % strips * rows);
            let outputs = y..(y + rows).min(oh);
            self.isa.dispatch_bf16(Strip { call: self, image, outputs, run, line });
        });
    }
}

/// Rows of outputs of an image that one task computes.
struct Strip<'a> {
    call: &'a Planes<'a>,
    image: usize,
    outputs: Range<usize>,
    run: usize,
    line: usize,
}

impl Kernel for Strip<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (call, shape) = (self.call, self.call.conv.shape());
        let [_, _, oh, ow] = call.size;
        let (dy, step) = (shape.dilation[0], shape.stride[0]);
        let lines = (self.outputs.len() - 1) * step + (shape.kh - 1) * dy + 1;
        let mut copy = lend(count(&[lines, self.line]).div_ceil(2));
        let copy: &mut [u16] = bytemuck::cast_slice_mut(&mut copy);
        for (i, line) in copy.chunks_exact_mut(self.line).take(lines).enumerate() {
            let y = (self.outputs.start * step + i).wrapping_sub(shape.pads[0]);
            for (c, run) in line.chunks_exact_mut(self.run).enumerate() {
                self.fill(s, (c, y), run);
            }
        }
        let (conv, nr) = (call.conv, 2 * S::LANES);
        let depth = shape.kh * shape.c * words(shape);
        for y in self.outputs.clone() {
            let first = (self.image * oh + y) * ow;
            let from = &copy[(y - self.outputs.start) * step * self.line..];
            for panel in 0..shape.m.div_ceil(nr) {
                let (column, nv) = (panel * nr, nr.min(shape.m - panel * nr));
                let outputs = Panel {
                    out: call.out,
                    added: call.residual,
                    act: conv.activation(),
                    at: first * shape.m + column,
                    rows: ow,
                    room: ow.max(widths(S::ISA).0),
                    step: shape.m,
                    nv,
                    by_sums: End::of(conv.activation()).is_none(),
                };
                let mut sums = outputs.sums::<S>();
                let reads = (shape.kh - 1) * dy * self.line + shape.c * self.run;
                assert!(from.len() >= reads, "a strip that is too small");
                let tiles = RowPairs {
                    x: from.as_ptr(),
                    rows: shape.kh,
                    line: dy * self.line,
                    channels: shape.c,
                    run: self.run,
                    words: words(shape),
                    width: outputs.room,
                    b: call.weights[panel * depth * nr..][..depth * nr].as_ptr(),
                    bias: conv.bias()[panel * nr..][..nr].as_ptr(),
                    out: outputs.places::<S>(sums.as_deref_mut()),
                };
                // SAFETY: each row of taps has `channels` runs, and a run has the words of all
                // outputs of the blocks (`extents`). The panel and the bias were sliced to what is
                // read, and the outputs have room for the blocks. Tasks have different rows, so no
                // other one uses this part of the output.
                unsafe {
                    row_pairs::<S>(&tiles, shape.stride[1]);
                    outputs.finish(s, sums);
                }
            }
            if let (None, SharedOut::F32(out), true) =
                (End::of(conv.activation()), call.out, ow >= widths(S::ISA).0)
            {
                // SAFETY: as above, and no other reference to this row is alive.
                let all = unsafe { out.slice(first * shape.m, ow * shape.m) };
                activation::apply(S::ISA, conv.activation(), all);
            }
        }
    }
}

impl Strip<'_> {
    /// Writes row `y` of channel `c` of the image between zeros; nothing but zeros if it has no
    /// such row.
    #[inline(always)]
    fn fill<S: Simd>(&self, s: S, (c, y): (usize, usize), run: &mut [u16]) {
        let (call, shape) = (self.call, self.call.conv.shape());
        let ([h, w, ..], left) = (call.size, shape.pads[1]);
        if y >= h {
            return run.fill(0);
        }
        run[..left].fill(0);
        let row = (self.image * shape.c + c) * h + y;
        if call.first {
            call.x.narrow(s, row * w, w, &mut run[left..]);
            let written = w.next_multiple_of(2 * S::LANES);
            return run[left + written..].fill(0);
        }
        run[left..].fill(0);
        for (x, to) in run[left..].iter_mut().take(w).enumerate() {
            let at = ((self.image * h + y) * w + x) * shape.c + c;
            *to = match call.x {
                Numbers::F32(numbers) => bf16::from_f32(numbers[at]).to_bits(),
                Numbers::Bf16(numbers) => numbers[at].to_bits(),
            };
        }
    }
}

/// A row of outputs by one panel. The pointers are used as it is said here, and in no other way.
#[derive(Clone, Copy)]
struct RowPairs {
    /// Read: `rows` lines, `line` numbers apart; of each `channels` runs, `run` apart, of
    /// `(width - 1) * step + 2 * words` numbers.
    x: *const u16,
    rows: usize,
    line: usize,
    channels: usize,
    run: usize,
    words: usize,
    /// Outputs: at least as many as a block has.
    width: usize,
    /// Read: `rows * channels * words` steps of two vectors.
    b: *const f32,
    /// Read: two vectors, which sums begin with.
    bias: *const f32,
    /// Of `width` rows.
    out: Outputs,
}

/// Blocks of `MR` outputs; the last one begins early enough to end with the row, so that some
/// outputs are computed twice.
///
/// # Safety
/// The pointers of `t` must cover the sizes that `RowPairs` states, and `t.width >= MR`.
#[inline(always)]
unsafe fn row<S: Simd, const MR: usize, const NV: usize, const ST: usize>(s: S, t: &RowPairs) {
    if (MR > 8) != (S::LANES == 16) {
        return; // Never asked for; keeps the compiler from building it.
    }
    for block in 0..t.width.div_ceil(MR) {
        let first = (block * MR).min(t.width - MR);
        // SAFETY: `first + MR <= width`: the words read are of the outputs' taps. The panel has
        // `rows * channels * words` steps of two vectors and the bias two vectors, and `NV` is at
        // most 2. For `store`: as the caller promises.
        unsafe {
            let mut acc: [[S::F; NV]; MR] = begin(s, t.bias);
            let mut b = t.b;
            for y in 0..t.rows {
                for c in 0..t.channels {
                    let mut x = t.x.add(y * t.line + c * t.run + first * ST);
                    for _ in 0..t.words {
                        Pairs::step(s, |i, _| x.add(i * ST).cast(), b, &mut acc);
                        (x, b) = (x.add(2), b.add(2 * S::LANES));
                    }
                }
            }
            store(s, &t.out, first, acc);
        }
    }
}

/// A register kernel as a function of its own: inside a larger one the compiler may run out of
/// registers and spill the accumulators.
struct Row<'a, const MR: usize, const NV: usize, const ST: usize>(&'a RowPairs);

impl<const MR: usize, const NV: usize, const ST: usize> Kernel for Row<'_, MR, NV, ST> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `Row` is made by `row_pairs` only, which has the same contract.
        unsafe { row::<S, MR, NV, ST>(s, self.0) }
    }
}

/// Runs the register kernel of the right width, for outputs `step` numbers apart.
///
/// # Safety
/// The pointers of `t` must cover the sizes that `RowPairs` states, and the row must be as wide as
/// a block (`widths`).
#[inline(always)]
unsafe fn row_pairs<S: Simd>(t: &RowPairs, step: usize) {
    let (one, two) = widths(S::ISA);
    match (if t.out.nv <= S::LANES { (one, 1) } else { (two, 2) }, step) {
        ((14, 1), 1) => Pairs::dispatch(S::ISA, Row::<14, 1, 1>(t)),
        ((14, 1), 2) => Pairs::dispatch(S::ISA, Row::<14, 1, 2>(t)),
        ((12, 2), 1) => Pairs::dispatch(S::ISA, Row::<12, 2, 1>(t)),
        ((12, 2), 2) => Pairs::dispatch(S::ISA, Row::<12, 2, 2>(t)),
        form => unreachable!("a block of another form: {form:?}"),
    }
}
