//! 2-D convolution of images with channels last (NHWC); 1-D is the case of height 1.
//!
//! A pixel's channels lie side by side, so a convolution is a matrix product whose left rows are
//! pixels as they are: for each tap the kernel adds up a run of input channels, and nothing is
//! copied or padded. Output channels fill the vectors, so an image of 7 by 7 pixels wastes no
//! lanes. One input channel per group (depthwise) has its own loop (`nhwc_depthwise`). Of images
//! with few channels, as of colours, a padded copy is made: there a whole row of taps is one run.
//!
//! Each output is summed in one order, which the shape, the size of the image and the instruction
//! set choose, whatever the [`Tiling`] or threads.

use super::bf16::{self, F32, Operands, Pairs, Wide};
use super::conv::ConvShape;
use super::gemm_pack::block;
use super::nhwc_depthwise::{Depthwise, pack_depthwise};
use super::nhwc_depthwise_bf16::pack_pairs;
use super::nhwc_micro::{BORDER, PixelTiles, pixel_tiles};
use super::nhwc_pack::{pack, pack_bias};
pub use super::nhwc_planes::by_planes;
use super::nhwc_planes::{self, Planes};
use super::nhwc_rows::{self, RowTiles, row_tiles};
use super::nhwc_store::{End, Panel};
use super::nhwc_strips::{Strip, Strips};
pub use super::nhwc_strips::{copies_fit, reads_whole_rows};
use super::nhwc_tiles;
pub use super::nhwc_tiles::pieces_fit;
use super::tiles::TileWeights;
use super::tiling::Tiling;
use hetra_cpu_base::activation::{self, Activation};
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::numbers::{Numbers, NumbersOut, SharedOut};
use hetra_cpu_base::scratch::{AlignedBuf, Lent, count, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::{for_each, threads};
use std::ops::Range;
use std::sync::OnceLock;

/// Multiply-adds below which a convolution stays on one thread (about 5 µs).
pub(crate) const PAR_MIN: usize = 256 << 10;
/// Multiply-adds that a task has at least, as far as there are enough for all threads.
const TASK_MIN: usize = 64 << 10;
/// Floats of the image that a block of pixels reads, about: half of the second cache level.
const IMAGE_BLOCK: usize = 112 << 10;
/// The same where all weights stay in that level: it may be read again for each block.
const IMAGE_BLOCK_NEAR: usize = 24 << 10;
/// Most floats of weights of which that is so: half of the level.
const WEIGHTS_NEAR: usize = 256 << 10;
/// Most entries of the table of a block of pixels.
const TABLE_MAX: usize = 8 << 10;

/// A convolution with its weights in kernel order, its bias and its activation.
pub struct PackedNhwc {
    isa: Isa,
    shape: ConvShape,
    depthwise: bool,
    operands: Operands,
    /// `[panel][tap][channel][two vectors]`, panels of one group after those of the last; for
    /// depthwise as `pack_depthwise` says. Of bf16 weights two channels are one.
    weights: AlignedBuf,
    /// For each panel two vectors; for depthwise one float for each channel, or none.
    bias: Vec<f32>,
    act: Activation,
    /// Weights and bias of a depthwise convolution for images that are stored as bf16, once there
    /// was one.
    pairs: OnceLock<AlignedBuf>,
    /// Weights for matrix registers, in the place of the others.
    tiles: Option<TileWeights>,
}

impl std::fmt::Debug for PackedNhwc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedNhwc").field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// The image and the sizes of one call.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    conv: &'a PackedNhwc,
    pub(crate) tiling: Tiling,
    /// The taps and borders of this call: those of a padded copy are fewer.
    shape: ConvShape,
    /// Words from one pixel to the next in what the register kernel reads.
    pixel: usize,
    x: Numbers<'a>,
    zeros: &'a [f32],
    /// Height, width; output height, width.
    size: [usize; 4],
    out: SharedOut<'a>,
    /// The output pixel that this call begins with.
    first: usize,
    residual: Option<Numbers<'a>>,
}

impl PackedNhwc {
    /// Packs `weights`, `[m, c / groups, kh, kw]`. Panics if sizes disagree.
    pub fn new(
        isa: Isa,
        shape: ConvShape,
        weights: &[f32],
        bias: Option<&[f32]>,
        act: Activation,
    ) -> Self {
        Self::of(isa, Operands::F32, shape, weights, bias, act)
    }

    /// As `new`, with image and weights rounded to bf16. Panics for groups that `groups_round` does
    /// not allow.
    pub fn bf16(
        isa: Isa,
        shape: ConvShape,
        weights: &[f32],
        bias: Option<&[f32]>,
        act: Activation,
    ) -> Self {
        Self::of(isa, bf16::operands(isa), shape, weights, bias, act)
    }

    fn of(
        isa: Isa,
        operands: Operands,
        shape: ConvShape,
        weights: &[f32],
        bias: Option<&[f32]>,
        act: Activation,
    ) -> Self {
        shape.check(weights.len());
        assert!(bias.is_none_or(|b| b.len() == shape.m), "bias of another size");
        assert!(operands == Operands::F32 || groups_round(&shape, operands), "other groups");
        let depthwise = shape.is_depthwise();
        let operands = match operands {
            // Nothing to multiply.
            Operands::Tiles if weights.is_empty() => Operands::Wide,
            operands => operands,
        };
        let tiles = (operands == Operands::Tiles).then(|| nhwc_tiles::pack(&shape, weights));
        let (weights, bias) = match depthwise {
            _ if tiles.is_some() => (AlignedBuf::default(), pack_bias(isa, &shape, bias)),
            true => (pack_depthwise(&shape, weights), bias.unwrap_or_default().to_vec()),
            false if operands == Operands::Pairs && by_planes(&shape) => {
                let packed = nhwc_planes::pack(&shape, block(isa).1, weights);
                (packed, pack_bias(isa, &shape, bias))
            }
            false => (pack(isa, operands, &shape, weights), pack_bias(isa, &shape, bias)),
        };
        let pairs = OnceLock::new();
        PackedNhwc { isa, shape, depthwise, operands, weights, bias, act, pairs, tiles }
    }

    /// The shape given to `new`.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    pub(crate) fn bias(&self) -> &[f32] {
        &self.bias
    }

    pub(crate) fn activation(&self) -> Activation {
        self.act
    }

    /// `out = act(conv(x) + bias + residual)` for `n` images of `h` by `w` pixels. `residual` has
    /// the layout of `out`. Panics if a slice is too short or the kernel does not fit the image.
    pub fn run(
        &self,
        tiling: Tiling,
        x: &[f32],
        size: (usize, usize, usize),
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let (x, residual) = (Numbers::F32(x), residual.map(Numbers::F32));
        self.run_from(tiling, (x, false), size, residual, NumbersOut::F32(out));
    }

    /// As `run`, for images that have their channels first. Panics unless `takes_planes`, too.
    pub fn run_planes(
        &self,
        tiling: Tiling,
        x: &[f32],
        size: (usize, usize, usize),
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let (x, residual) = (Numbers::F32(x), residual.map(Numbers::F32));
        self.run_from(tiling, (x, true), size, residual, NumbersOut::F32(out));
    }

    /// As `run`, or `run_planes` where the images are `planes`, for numbers that may be bf16.
    /// Panics if the image is and `takes_bf16` denies it.
    pub fn run_from(
        &self,
        tiling: Tiling,
        (x, planes): (Numbers<'_>, bool),
        (n, h, w): (usize, usize, usize),
        residual: Option<Numbers<'_>>,
        out: NumbersOut<'_>,
    ) {
        let f32 = matches!(x, Numbers::F32(_));
        assert!(!planes || self.takes_planes() && f32, "channels first are taken only for copies");
        let s = &self.shape;
        let (oh, ow) = s.out(h, w).expect("the caller has checked that the kernel fits");
        let outputs = count(&[n, oh, ow, s.m]);
        assert!(x.len() >= count(&[n, h, w, s.c]) && out.len() >= outputs, "slice too short");
        assert!(residual.is_none_or(|r| r.len() >= outputs), "residual too short");
        if outputs == 0 {
            return;
        }
        let size = [h, w, oh, ow];
        if let Some(tiles) = &self.tiles {
            return nhwc_tiles::run(self, tiles, (x, planes), (n, size), residual, out);
        }
        if self.depthwise {
            let residual = residual.map(|residual| match residual {
                Numbers::F32(residual) => residual,
                Numbers::Bf16(_) => panic!("a residual that is bf16"),
            });
            let bias = Some(self.bias.as_slice()).filter(|bias| !bias.is_empty());
            let (weights, act) = (self.weights.as_slice(), self.act);
            let pack = || pack_pairs(s, block(self.isa).1, weights, bias);
            let pairs = if f32 { &[] } else { self.pairs.get_or_init(pack).as_slice() };
            let d = Depthwise { shape: s, tiling, weights, pairs, bias, act, residual, x, size };
            return d.run(self.isa, n, out);
        }
        assert!(f32 || self.takes_bf16(), "an image that is bf16");
        if self.is_by_planes() {
            let (weights, out) = (self.weights.as_slice(), out.share());
            let (isa, first) = (self.isa, planes);
            let p = Planes { conv: self, isa, weights, tiling, x, first, size, residual, out };
            return p.run(n);
        }
        let pixel = self.operands.steps(s.c) * self.operands.words();
        let mut zeros = lend(pixel);
        zeros.fill(0.0);
        let out = out.share();
        let call = Call {
            conv: self,
            tiling,
            shape: *s,
            pixel,
            x,
            zeros: &zeros,
            size,
            out,
            first: 0,
            residual,
        };
        let strips = self.strips(tiling, planes, size);
        assert!(strips.is_some() || !planes, "a copy beyond measure: `copies_fit` tells");
        match (strips, x) {
            (Some(strips), Numbers::F32(x)) => strips.run(&call, x, n),
            _ => call.run(n * oh * ow),
        }
    }

    /// Whether `run` takes images with their channels first, too.
    pub fn takes_planes(&self) -> bool {
        // Else a pixel of an odd number of bf16 channels has a zero behind it.
        let any = matches!(self.operands, Operands::F32 | Operands::Tiles);
        any && reads_whole_rows(&self.shape) || self.is_by_planes()
    }

    fn is_by_planes(&self) -> bool {
        self.operands == Operands::Pairs && by_planes(&self.shape)
    }

    /// Whether images may be bf16. Outputs may be so in any case, and residuals of all but
    /// depthwise convolutions.
    pub fn takes_bf16(&self) -> bool {
        self.operands != Operands::F32 || self.depthwise
    }

    /// The strips of padded copies to run by, where that is worth it or the channels are first.
    fn strips(&self, tiling: Tiling, planes: bool, size: [usize; 4]) -> Option<Strips> {
        if !self.takes_planes() {
            return None;
        }
        let rows = by_rows(self.isa, &self.shape, size[3]);
        Strips::new(&self.shape, tiling, (planes, rows), size)
    }

    /// Panels of one group.
    fn group_panels(&self) -> usize {
        self.shape.per_group().1.div_ceil(block(self.isa).1)
    }
}

/// Whether operands of this form may be those of a convolution with so many groups: a word of a
/// pixel must not be of two groups.
pub fn groups_round(shape: &ConvShape, operands: Operands) -> bool {
    let apart = shape.per_group().0.is_multiple_of(2) && !shape.is_depthwise();
    shape.groups == 1 || operands != Operands::Tiles && apart
}

/// Whether rows of so many outputs are done by the kernel of rows, whose blocks have one height.
pub fn by_rows(isa: Isa, shape: &ConvShape, width: usize) -> bool {
    reads_whole_rows(shape) && nhwc_rows::fits(isa, shape) && width >= nhwc_rows::widths(isa).0
}

/// How many parts two ranges are cut into, so that there are about `want` of them. The smaller
/// operand is read again for each part of the other range, so that range is cut first.
pub(crate) fn cuts(
    want: usize,
    pixels_first: bool,
    pixels_max: usize,
    panels_max: usize,
) -> (usize, usize) {
    let (first, second) =
        if pixels_first { (pixels_max, panels_max) } else { (panels_max, pixels_max) };
    let a = want.min(first).max(1);
    let b = want.div_ceil(a).min(second).max(1);
    if pixels_first { (a, b) } else { (b, a) }
}

/// Part `i` of `parts` nearly equal ones of `0..len`.
pub(crate) fn part(len: usize, parts: usize, i: usize) -> Range<usize> {
    len * i / parts..len * (i + 1) / parts
}

impl Call<'_> {
    fn run(&self, pixels: usize) {
        let s = &self.shape;
        let depth = s.kh * s.kw * s.per_group().0;
        let panels = self.conv.group_panels() * s.groups;
        let work = count(&[pixels, s.m]).saturating_mul(depth);
        let parallel = self.is_parallel(pixels);
        let rows = self.tiling.rows(block(self.conv.isa).0);
        let tiles = pixels.div_ceil(rows);
        let want = match parallel {
            true => {
                (work / TASK_MIN).min(self.tiling.tasks.saturating_mul(threads())).max(threads())
            }
            false => 1,
        };
        let (down, across) = cuts(want, self.x.len() >= s.m * depth, tiles, panels);
        for_each(down * across, parallel, |t| {
            let (i, j) = (t % down, t / down);
            // Whole tiles, but for the last one.
            let (tiles, panels) = (part(tiles, down, i), part(panels, across, j));
            let pixels = tiles.start * rows..(tiles.end * rows).min(pixels);
            self.dispatch(Block { call: self, pixels, panels });
        });
    }

    /// Computes outputs on this thread: those from `first` on, of an image of this size, which is a
    /// copy of a part of the call's in which a row of taps is one run.
    pub(crate) fn run_copy(&self, x: &[f32], size: [usize; 4], first: usize) {
        let s = &self.shape;
        let shape = ConvShape { c: s.kw * s.c, kw: 1, pads: [0; 4], ..*s };
        let panels = 0..self.conv.group_panels();
        let x = Numbers::F32(x);
        let call = Call { shape, size, x, first: self.first + first, ..*self };
        call.dispatch(Block { call: &call, pixels: 0..size[2] * size[3], panels });
    }

    /// Computes outputs on this thread by the kernel of rows: those from `first` on, of a strip.
    pub(crate) fn run_rows(&self, strip: &Strip<'_>, first: usize) {
        self.dispatch(RowBlock { call: self, strip, first: self.first + first });
    }

    /// Runs a kernel with the instructions for what it stores.
    fn dispatch<K: Kernel>(&self, kernel: K) -> K::Output {
        match self.out {
            SharedOut::F32(_) => self.conv.isa.dispatch(kernel),
            SharedOut::Bf16(_) => self.conv.isa.dispatch_bf16(kernel),
        }
    }

    /// The outputs of a panel of `nv` channels from `column` on, for `rows` pixels from `first` on.
    fn panel(&self, first: usize, rows: usize, (column, nv): (usize, usize)) -> Panel<'_> {
        let (act, step) = (self.conv.act, self.shape.m);
        let at = first * step + column;
        // Only these instructions round what is in registers.
        let by_sums = self.conv.operands != Operands::Pairs || End::of(act).is_none();
        Panel { out: self.out, added: self.residual, act, at, rows, room: rows, step, nv, by_sums }
    }

    /// Whether so many outputs are work for several threads.
    pub(crate) fn is_parallel(&self, pixels: usize) -> bool {
        let depth = self.shape.kh * self.shape.kw * self.shape.per_group().0;
        count(&[pixels, self.shape.m]).saturating_mul(depth) >= PAR_MIN && threads() > 1
    }
}

/// Writes where the taps of these pixels lie, in an image whose pixels are `pixel` apart: for each
/// tap an entry for each pixel, or [`BORDER`].
fn table(
    s: &ConvShape,
    [h, w, oh, ow]: [usize; 4],
    pixel: usize,
    pixels: Range<usize>,
    table: &mut [usize],
) {
    let n = pixels.len();
    // Not so in a padded copy, whose rows are longer than those of the output.
    if s.pointwise() && (h, w) == (oh, ow) {
        table.iter_mut().zip(pixels).for_each(|(entry, p)| *entry = p * pixel);
        return;
    }
    let (row, mut x) = (pixels.start / ow, pixels.start % ow);
    let (mut image, mut y) = (row / oh, row % oh);
    // Outputs of one row at a time: those that a tap is inside for lie side by side.
    let mut done = 0;
    while done < n {
        let run = (ow - x).min(n - done);
        for tap in 0..s.kh * s.kw {
            let (ty, tx) = (tap / s.kw, tap % s.kw);
            let entries = &mut table[tap * n + done..][..run];
            let at_y = (y * s.stride[0] + ty * s.dilation[0]).wrapping_sub(s.pads[0]);
            let inside = if at_y < h { taken(s, tx, w) } else { 0..0 };
            let first = inside.start.clamp(x, x + run);
            let past = inside.end.clamp(first, x + run);
            entries[..first - x].fill(BORDER);
            let line = (image * h).wrapping_add(at_y).wrapping_mul(w);
            let at_x = (first * s.stride[1] + tx * s.dilation[1]).wrapping_sub(s.pads[1]);
            let at = line.wrapping_add(at_x).wrapping_mul(pixel);
            for (i, entry) in entries[first - x..past - x].iter_mut().enumerate() {
                *entry = at + i * s.stride[1] * pixel;
            }
            entries[past - x..].fill(BORDER);
        }
        (x, done) = (0, done + run);
        y += 1;
        if y == oh {
            (y, image) = (0, image + 1);
        }
    }
}

/// The outputs of a row for which tap `tx` lies in a row of `w` pixels.
fn taken(s: &ConvShape, tx: usize, w: usize) -> Range<usize> {
    let (tap, pad) = (tx * s.dilation[1], s.pads[1]);
    let (before, past) = (pad.saturating_sub(tap), (w + pad).saturating_sub(tap));
    match s.stride[1] {
        // Most are; a division takes as long as all the rest.
        1 => before..past,
        step => before.div_ceil(step)..past.div_ceil(step),
    }
}

impl Call<'_> {
    /// The pixels that a table names as words of bf16 numbers, where the operands are such: the
    /// entries then say where they lie in what is lent. `None` where the image is read as it is.
    fn rounded(&self, table: &mut [usize]) -> Option<Lent> {
        let (operands, c) = (self.conv.operands, self.shape.c);
        if self.words().is_some() {
            return None;
        }
        let inside = || table.iter().copied().filter(|&at| at != BORDER);
        let first = inside().min().unwrap_or(0);
        let pixels = inside().max().map_or(0, |last| (last - first) / self.pixel.max(1) + 1);
        let from = first / self.pixel.max(1) * c;
        let mut words = lend(count(&[pixels, self.pixel]));
        let rows = self.x.part(from..from + pixels * c);
        operands.round(self.conv.isa, c, rows, &mut words);
        table.iter_mut().filter(|at| **at != BORDER).for_each(|at| *at -= first);
        Some(words)
    }

    /// The image in words, where it is so as it lies in memory.
    fn words(&self) -> Option<&[f32]> {
        match (self.conv.operands, self.x) {
            (Operands::F32, Numbers::F32(x)) => Some(x),
            (Operands::Pairs, Numbers::Bf16(x)) if self.shape.c.is_multiple_of(2) => {
                bytemuck::try_cast_slice(&x[..x.len() / 2 * 2]).ok()
            }
            _ => None,
        }
    }
}

/// Rows of outputs that one task computes.
struct RowBlock<'a> {
    call: &'a Call<'a>,
    strip: &'a Strip<'a>,
    /// The output pixel that they begin with.
    first: usize,
}

impl Kernel for RowBlock<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let (call, conv, strip) = (self.call, self.call.conv, self.strip);
        let (s, nr) = (&call.shape, 2 * S::LANES);
        let ([rows, width], depth) = (strip.outputs, s.kh * s.kw * s.c);
        assert!(nr == block(conv.isa).1, "packed for another instruction set");
        assert!(nhwc_rows::fits(S::ISA, s), "another shape");
        assert!(width >= nhwc_rows::widths(S::ISA).0, "rows are too short");
        let high = (rows - 1) * s.stride[0] + (s.kh - 1) * s.dilation[0];
        let wide = (width - 1) * s.stride[1] + s.kw - 1;
        let last = high * strip.line + (s.c - 1) * strip.plane + wide * strip.pixel;
        assert!(last < strip.x.len(), "a strip that is too small");
        for (y, panel) in (0..rows).flat_map(|y| (0..conv.group_panels()).map(move |p| (y, p))) {
            let nv = nr.min(s.m - panel * nr);
            let outputs = call.panel(self.first + y * width, width, (panel * nr, nv));
            let mut sums = outputs.sums::<S>();
            let tiles = RowTiles {
                x: strip.x[y * s.stride[0] * strip.line..].as_ptr(),
                rows: s.kh,
                line: s.dilation[0] * strip.line,
                channels: s.c,
                plane: strip.plane,
                pixel: strip.pixel,
                taps: s.kw,
                stride: s.stride[1],
                width,
                b: conv.weights.as_slice()[panel * depth * nr..][..depth * nr].as_ptr(),
                bias: conv.bias[panel * nr..][..nr].as_ptr(),
                out: outputs.places::<S>(sums.as_deref_mut()),
            };
            // SAFETY: the taps of the last output end with `last`, which is inside the strip; the
            // panel, bias, residual and output were sliced to what is read and written. Tasks have
            // different rows, so no other one uses this part of the output.
            unsafe { row_tiles::<S>(&tiles) }
            // SAFETY: these rows are this task's, and no other reference to them is alive.
            unsafe { outputs.finish(token, sums) }
        }
        if let (None, SharedOut::F32(out)) = (End::of(conv.act), call.out) {
            // SAFETY: as above.
            let all = unsafe { out.slice(self.first * s.m, rows * width * s.m) };
            activation::apply(S::ISA, conv.act, all);
        }
    }
}

/// Pixels and panels that one task computes.
struct Block<'a> {
    call: &'a Call<'a>,
    pixels: Range<usize>,
    panels: Range<usize>,
}

impl Kernel for Block<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let s = &self.call.shape;
        let taps = s.kh * s.kw;
        // As many pixels at a time as keep their part of the image in the cache while the panels
        // go by.
        let mr = self.call.tiling.rows(S::MR);
        let near = self.call.conv.weights.as_slice().len() <= WEIGHTS_NEAR;
        let floats = self.call.tiling.scaled(if near { IMAGE_BLOCK_NEAR } else { IMAGE_BLOCK });
        let size = (floats / self.call.pixel.max(1)).min(TABLE_MAX / taps).max(mr);
        let mut buf = lend(2 * taps * size);
        let table: &mut [usize] = bytemuck::cast_slice_mut(buf.bytes_mut());
        let mut start = self.pixels.start;
        while start < self.pixels.end {
            let end = (start + size).min(self.pixels.end);
            let runs = tiles(end - start, mr);
            let (mut at, mut entry) = (start, 0);
            for (mr, count) in runs {
                for _ in 0..count {
                    let entries = &mut table[entry..entry + mr * taps];
                    self::table(s, self.call.size, self.call.pixel, at..at + mr, entries);
                    (at, entry) = (at + mr, entry + mr * taps);
                }
            }
            let rounded = self.call.rounded(&mut table[..(end - start) * taps]);
            let x = rounded.as_deref().or(self.call.words()).expect("rounded, or in words");
            for panel in self.panels.clone() {
                let mut at = start;
                for (mr, count) in runs.into_iter().filter(|(_, count)| *count > 0) {
                    let len = mr * count;
                    let table = &table[(at - start) * taps..][..len * taps];
                    self.tiles(token, (at, mr, count), panel, table, x);
                    at += len;
                }
            }
            self.activate::<S>(start..end);
            start = end;
        }
    }
}

/// Heights of the blocks of so many pixels, and how many there are of each: full ones, and the rest
/// in one or, if that were very low, in two.
fn tiles(pixels: usize, mr: usize) -> [(usize, usize); 3] {
    let (full, rest) = (pixels / mr, pixels % mr);
    if rest * 4 < mr && rest > 0 && full > 0 {
        let both = mr + rest;
        return [(mr, full - 1), (both - both / 2, 1), (both / 2, 1)];
    }
    [(mr, full), (rest, usize::from(rest > 0)), (0, 0)]
}

impl Block<'_> {
    /// Register tiles of what the table says of `x`: pixels from `first` on, `mr` in each, and how
    /// many of them.
    #[inline(always)]
    fn tiles<S: Simd>(
        &self,
        token: S,
        (first, mr, tiles): (usize, usize, usize),
        panel: usize,
        table: &[usize],
        x: &[f32],
    ) {
        let (call, conv) = (self.call, self.call.conv);
        let s = &call.shape;
        let (cg, mg) = s.per_group();
        let (steps, words) = (conv.operands.steps(cg), conv.operands.words());
        let (taps, nr, of_group) = (s.kh * s.kw, 2 * S::LANES, conv.group_panels());
        assert!(nr == block(conv.isa).1, "packed for another instruction set");
        let (group, j0) = (panel / of_group, panel % of_group * nr);
        let (column, nv) = (group * mg + j0, nr.min(mg - j0));
        let weights = &conv.weights.as_slice()[panel * taps * steps * nr..][..taps * steps * nr];
        let rows = mr * tiles;
        let outputs = call.panel(call.first + first, rows, (column, nv));
        let mut sums = outputs.sums::<S>();
        assert!(table.len() == taps * rows && (group + 1) * steps <= conv.operands.steps(s.c));
        assert!(s.pads == [0; 4] || call.zeros.len() >= (group + 1) * steps * words);
        // Weights that stay near are not waited for: the image is, as the first panel reads it.
        let near = conv.weights.as_slice().len() <= WEIGHTS_NEAR;
        let pixels = mr * s.stride[1] * call.pixel;
        let (next, next_step) = match near {
            true if panel == self.panels.start => {
                let at = table.iter().copied().find(|&at| at != BORDER).unwrap_or(0);
                (x.as_ptr().wrapping_add(at + pixels), (pixels, usize::MAX))
            }
            true => (weights.as_ptr(), (0, 1)),
            // A line for each step: two blocks bring all of the next panel.
            false => {
                let half = taps * steps * S::LANES;
                (weights.as_ptr().wrapping_add(2 * half), (half, 2))
            }
        };
        let tiles = PixelTiles {
            tiles,
            mr,
            table: table.as_ptr(),
            x: x.as_ptr(),
            zeros: call.zeros.as_ptr(),
            first: group * steps * words,
            channels: steps * words,
            taps,
            b: weights.as_ptr(),
            next,
            next_step,
            bias: conv.bias[panel * nr..][..nr].as_ptr(),
            out: outputs.places::<S>(sums.as_deref_mut()),
        };
        // SAFETY: the table has `taps` entries for each row, each of a pixel of the image, behind
        // which lie `c` floats (its channels, or those of a row of taps), of which the group's are
        // read, or, of bf16, the words that they became; the zeros are as many if there is a
        // border. The panel, bias, residual and output were sliced to what is read and written.
        // Tasks have different pixels or panels, so no other one uses this part of the output.
        unsafe {
            match conv.operands {
                Operands::F32 => pixel_tiles::<S, F32>(&tiles),
                Operands::Pairs => pixel_tiles::<S, Pairs>(&tiles),
                Operands::Wide => pixel_tiles::<S, Wide>(&tiles),
                Operands::Tiles => unreachable!("done by another kernel"),
            }
            outputs.finish(token, sums);
        }
    }

    /// Activations that are more than bounds, when the panels of these pixels are summed.
    #[inline(always)]
    fn activate<S: Simd>(&self, pixels: Range<usize>) {
        let (conv, SharedOut::F32(out)) = (self.call.conv, self.call.out) else { return };
        if End::of(conv.act).is_some() {
            return;
        }
        let (m, (_, mg)) = (conv.shape.m, conv.shape.per_group());
        let (nr, of_group) = (2 * S::LANES, conv.group_panels());
        let pixels = self.call.first + pixels.start..self.call.first + pixels.end;
        let first = |panel: usize| panel / of_group * mg + panel % of_group * nr;
        let (start, last) = (first(self.panels.start), self.panels.end - 1);
        let end = last / of_group * mg + (last % of_group * nr + nr).min(mg);
        if end - start == m {
            // SAFETY: these pixels are this task's, and no other reference to them is alive.
            let all = unsafe { out.slice(pixels.start * m, pixels.len() * m) };
            return activation::apply(S::ISA, conv.act, all);
        }
        for p in pixels {
            // SAFETY: these columns of this pixel are this task's, as above.
            let row = unsafe { out.slice(p * m + start, end - start) };
            activation::apply(S::ISA, conv.act, row);
        }
    }
}

#[cfg(test)]
#[path = "nhwc_tests.rs"]
pub(crate) mod tests;
