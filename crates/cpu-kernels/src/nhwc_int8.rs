//! 2-D convolution of 8-bit images with channels last (NHWC), with exact 32-bit sums and 8-bit
//! output; 1-D is the case of height 1.
//!
//! As for f32 (`nhwc`): no patches are copied, and a table says where the taps of the pixels lie.
//! Images are read as unsigned codes; of signed ones a copy with the top bits turned is made, whose
//! zero point is 128 more. The border holds the zero point, so that all of it goes into one
//! constant for each output channel: `Σ (x - zx) v == Σ x v - zx Σ v`, where `v` is a weight less
//! its zero point. Weights for which that takes more than 8 bits are a sum of some that do not, and
//! the panels which hold such are summed as often: `Σ x (a + b) == Σ x a + Σ x b`.

use super::conv::ConvShape;
use super::int8_conv::Bytes;
use super::int8_pack::kg_of;
use super::nhwc::{cuts, part};
use super::nhwc_int8_depthwise::{ByteDepthwise, PackedByteDepthwise};
use super::nhwc_int8_micro::{ByteTile, CodeEnd, byte_tile, halves, lanes_of, place};
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::scratch::{AlignedBuf, Lent, Shared, count, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::{for_each, for_ranges, threads};
use std::ops::Range;

/// Multiply-adds below which a convolution stays on one thread (about 5 µs).
const PAR_MIN: usize = 1 << 20;
/// Multiply-adds that a task has at least, as far as there are enough for all threads.
const TASK_MIN: usize = 256 << 10;
/// Bytes of the image that a block of pixels reads, about: a part of the second cache level.
const IMAGE_BLOCK: usize = 128 << 10;
/// Most channels of an image of which a padded copy is made.
const RUN_CHANNELS_MAX: usize = 8;
/// Most entries of the table of a block of pixels.
const TABLE_MAX: usize = 8 << 10;

/// Where codes go: `saturate(round(sum * scale) + zero)`.
#[derive(Debug)]
pub enum CodesOut<'a> {
    /// Unsigned codes and their zero point.
    U8(&'a mut [u8], i32),
    /// Signed codes and their zero point.
    I8(&'a mut [i8], i32),
}

/// A convolution with its 8-bit weights in kernel order.
pub struct PackedNhwcInt8 {
    isa: Isa,
    shape: ConvShape,
    /// Sums of the weights of each output channel, less their zero points.
    sums: Vec<i32>,
    kind: Kind,
}

enum Kind {
    Depthwise(PackedByteDepthwise),
    Panels(Panels),
}

/// Panels of two vectors of output channels; those of one group after those of the last.
struct Panels {
    /// Of each panel: `[part][tap][four channels][half][two vectors]`.
    weights: AlignedBuf,
    /// Where each begins, and how many parts it has.
    panels: Vec<(usize, usize)>,
}

impl std::fmt::Debug for PackedNhwcInt8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedNhwcInt8").field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// How many parts these weights need on an instruction set that takes `kg` of them into a lane:
/// they are within 255, which is two or three times what 8 bits hold.
pub(crate) fn parts_needed(kg: usize, weights: &[i16]) -> usize {
    let parts = |&v: &i16| match v {
        -128..=127 => 1,
        -256..=254 => 2,
        _ => 3,
    };
    if kg == 4 { weights.iter().map(parts).max().unwrap_or(1) } else { 1 }
}

/// Part `part` of a weight where there are `parts`; one part is all of it.
pub(crate) fn part_of(v: i16, part: usize, parts: usize) -> i16 {
    let (mut part_of, mut left) = (v, v);
    if parts > 1 {
        for _ in 0..=part {
            part_of = left.clamp(-128, 127);
            left -= part_of;
        }
    }
    part_of
}

impl PackedNhwcInt8 {
    /// Packs `weights`, `[m, c / groups, kh, kw]`, with one zero point or one for each output
    /// channel. Panics if sizes disagree.
    pub fn new(isa: Isa, shape: ConvShape, weights: Bytes<'_>, w_zero: &[i32]) -> Self {
        let (raw, signed) = weights.raw();
        shape.check(raw.len());
        assert!(w_zero.len() == 1 || w_zero.len() == shape.m, "one zero point for each channel");
        let each = raw.len() / shape.m.max(1);
        let mut weights = Vec::with_capacity(raw.len());
        for (m, kernel) in raw.chunks_exact(each.max(1)).enumerate() {
            // Zero points are codes, too.
            let zero = w_zero[m.min(w_zero.len() - 1)];
            weights.extend(kernel.iter().map(|&byte| match signed {
                true => (i32::from(byte as i8) - zero) as i16,
                false => (i32::from(byte) - zero) as i16,
            }));
        }
        let sum = |kernel: &[i16]| kernel.iter().map(|&v| i32::from(v)).sum();
        let sums = weights.chunks_exact(each.max(1)).map(sum).collect();
        let kind = match shape.is_depthwise() {
            true => Kind::Depthwise(PackedByteDepthwise::new(isa, &shape, &weights)),
            false => Kind::Panels(pack(isa, &shape, &weights)),
        };
        PackedNhwcInt8 { isa, shape, sums, kind }
    }

    /// The shape given to `new`.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Bytes of scratch that `run` takes for each thread or for all, or `None` if they cannot be
    /// counted: borders, strides and kernels may come from files.
    pub fn scratch(&self, (n, h, w): (usize, usize, usize)) -> Option<usize> {
        let s = &self.shape;
        if let Kind::Depthwise(_) = self.kind {
            return super::nhwc_int8_depthwise::scratch(self.isa, s)?.checked_add(n * h * w * s.c);
        }
        let [top, left, bottom, right] = if s.row_of_bytes_is_run() { s.pads } else { [0; 4] };
        let high = h.checked_add(top)?.checked_add(bottom)?;
        let wide = w.checked_add(left)?.checked_add(right)?;
        n.checked_mul(high)?.checked_mul(wide)?.checked_mul(s.c)
    }

    /// Convolves `n` images of `h` by `w` pixels with zero point `x_zero`. `bias` is one number for
    /// each output channel; `scale` is one for all, or one for each. Panics if a slice is too
    /// short or the kernel does not fit the image.
    pub fn run(
        &self,
        x: Bytes<'_>,
        x_zero: i32,
        (n, h, w): (usize, usize, usize),
        (bias, scale): (Option<&[i32]>, &[f32]),
        out: &mut CodesOut<'_>,
    ) {
        let s = &self.shape;
        let (oh, ow) = s.out(h, w).expect("the caller has checked that the kernel fits");
        let (end, out): (_, &mut [u8]) = match out {
            CodesOut::U8(out, zero) => (CodeEnd::new(*zero, false), out),
            CodesOut::I8(out, zero) => (CodeEnd::new(*zero, true), bytemuck::cast_slice_mut(out)),
        };
        let outputs = count(&[n, oh, ow, s.m]);
        let (x, signed) = x.raw();
        let bytes = count(&[n, h, w, s.c]);
        assert!(x.len() >= bytes && out.len() >= outputs, "slice too short");
        assert!(bias.is_none_or(|b| b.len() == s.m), "bias of another size");
        assert!(scale.len() == 1 || scale.len() == s.m, "one scale for each channel");
        if outputs == 0 {
            return;
        }
        let (flip, zero) = if signed { (0x80, x_zero + 128) } else { (0, x_zero) };
        let (x, border) = (&x[..bytes], zero as u8);
        let channel = |m: usize| {
            let fixed = self.sums[m].wrapping_mul(zero);
            let fixed = bias.map_or(0, |bias| bias[m]).wrapping_sub(fixed);
            (fixed, scale[m.min(scale.len() - 1)])
        };
        let size = [h, w, oh, ow];
        let run = s.row_of_bytes_is_run();
        let pads = if run { s.pads } else { [0; 4] };
        let (high, wide) = (pads[0] + h + pads[2], pads[1] + w + pads[3]);
        let copy =
            (run || signed).then(|| copied_image(x, (n, h, w * s.c), (s.c, pads), (border, flip)));
        let x = copy.as_ref().map_or(x, |(copy, len)| &copy.bytes()[..*len]);
        match &self.kind {
            Kind::Depthwise(packed) => {
                let call = ByteDepthwise { shape: s, packed, x, border, size, end };
                call.run(self.isa, n, channel, out);
            }
            Kind::Panels(packed) => {
                let (shape, size) = match run {
                    true => (
                        ConvShape { c: s.kw * s.c, kw: 1, pads: [0; 4], ..*s },
                        [high, wide, oh, ow],
                    ),
                    false => (*s, size),
                };
                let image = Image { x, pixel: s.c, shape, size, border };
                self.product(packed, &image, n * oh * ow, channel, (end, out));
            }
        }
    }

    /// The pixels of the output from those of an image, by panels.
    fn product(
        &self,
        packed: &Panels,
        image: &Image<'_>,
        pixels: usize,
        channel: impl Fn(usize) -> (i32, f32),
        (end, out): (CodeEnd, &mut [u8]),
    ) {
        let (mg, nr) = (self.shape.per_group().1, 2 * self.isa.lanes());
        let of_group = mg.div_ceil(nr);
        let slots = packed.panels.len() * nr;
        let (mut fixed, mut scale) = (lend(slots), lend(slots));
        let fixed: &mut [i32] = bytemuck::cast_slice_mut(&mut fixed);
        for (p, (fixed, scale)) in
            fixed.chunks_exact_mut(nr).zip(scale.chunks_exact_mut(nr)).enumerate()
        {
            fixed.fill(0);
            scale.fill(0.0);
            let (group, j0) = (p / of_group, p % of_group * nr);
            let nv = nr.min(mg - j0);
            for j in 0..nv {
                let at = place(j, nv, nr / 2);
                (fixed[at], scale[at]) = channel(group * mg + j0 + j);
            }
        }
        let edge = image.edge();
        let out = Shared::new(out);
        let call = Call {
            isa: self.isa,
            packed,
            image,
            edge: &edge,
            of_group,
            fixed,
            scale: &scale,
            out,
            end,
        };
        call.run(pixels);
    }
}

impl ConvShape {
    /// Whether it is worth a padded copy of the image that a row of taps is one run.
    fn row_of_bytes_is_run(&self) -> bool {
        self.kw > 1 && self.groups == 1 && self.dilation[1] == 1 && self.c <= RUN_CHANNELS_MAX
    }

    /// Steps of four that the input channels of a group take.
    fn quads(&self) -> usize {
        self.per_group().0.div_ceil(4)
    }
}

/// Copies images of `h` rows of `row` bytes into the middle of a border, with the bits of `flip`
/// turned; the border is as it shall be afterwards. Gives the length, behind which eight more bytes
/// may be read.
fn copied_image(
    x: &[u8],
    (n, h, row): (usize, usize, usize),
    (c, [top, left, bottom, right]): (usize, [usize; 4]),
    (border, flip): (u8, u8),
) -> (Lent, usize) {
    let (high, padded) = (top + h + bottom, left * c + row + right * c);
    let len = count(&[n, high, padded]);
    let mut copy = lend((len + 8).div_ceil(4));
    let bytes = copy.bytes_mut();
    bytes[len..].fill(0);
    let out = Shared::new(bytes);
    for_ranges(n * high, (128 << 10) / padded.max(1), |start, lines| {
        for line in start..start + lines {
            // SAFETY: each line is one task's.
            let line_out = unsafe { out.slice(line * padded, padded) };
            let (image, y) = (line / high, line % high);
            if y < top || y >= top + h {
                line_out.fill(border);
                continue;
            }
            let from = (image * h + y - top) * row;
            line_out[..left * c].fill(border);
            line_out[left * c + row..].fill(border);
            let middle = &mut line_out[left * c..][..row];
            let source = &x[from..from + row];
            match flip {
                0 => middle.copy_from_slice(source),
                _ => middle.iter_mut().zip(source).for_each(|(y, x)| *y = x ^ flip),
            }
        }
    });
    (copy, len)
}

/// The order of the register kernel.
fn pack(isa: Isa, s: &ConvShape, weights: &[i16]) -> Panels {
    let (cg, mg) = s.per_group();
    let (taps, nr, kg) = (s.kh * s.kw, 2 * isa.lanes(), kg_of(isa));
    // In a padded copy a row of taps is one run of channels.
    let (steps, run) = if s.row_of_bytes_is_run() { (s.kh, s.kw * cg) } else { (taps, cg) };
    let (of_group, depth, quads) = (mg.div_ceil(nr), taps * cg, run.div_ceil(4));
    let step = halves(kg) * nr;
    let mut panels = Vec::new();
    let mut len = 0;
    for p in 0..s.groups * of_group {
        let (first, nv) = (p / of_group * mg + p % of_group * nr, nr.min(mg - p % of_group * nr));
        let parts = parts_needed(kg, &weights[first * depth..(first + nv) * depth]);
        panels.push((len, parts));
        len += count(&[parts, steps, quads, step]);
    }
    let mut packed = AlignedBuf::zeroed(len);
    let data = Shared::new(bytemuck::cast_slice_mut::<f32, i32>(packed.as_mut_slice()));
    for_each(panels.len(), weights.len() > 64 << 10, |p| {
        let (at, parts) = panels[p];
        let (first, nv) = (p / of_group * mg + p % of_group * nr, nr.min(mg - p % of_group * nr));
        // SAFETY: each panel is written by one task.
        let panel = unsafe { data.slice(at, count(&[parts, steps, quads, step])) };
        for j in 0..nv {
            let kernel = &weights[(first + j) * depth..][..depth];
            let at = place(j, nv, nr / 2);
            let mut rows = panel.chunks_exact_mut(step);
            let order = (0..parts).flat_map(|part| (0..steps).map(move |tap| (part, tap)));
            for (part, tap) in order {
                for (q, row) in rows.by_ref().take(quads).enumerate() {
                    let weight = |k: usize| match 4 * q + k {
                        k if k >= run => 0,
                        k if run == cg => part_of(kernel[k * taps + tap], part, parts),
                        // Channel `k % cg` of a tap.
                        k => {
                            let tap = tap * (run / cg) + k / cg;
                            part_of(kernel[k % cg * taps + tap], part, parts)
                        }
                    };
                    let lanes = lanes_of(kg, [0, 1, 2, 3].map(weight));
                    for (half, lane) in lanes.into_iter().enumerate().take(halves(kg)) {
                        row[half * nr + at] = lane;
                    }
                }
            }
        }
    });
    Panels { weights: packed, panels }
}

/// The image of a call, whose shape may be that of a padded copy.
struct Image<'a> {
    x: &'a [u8],
    /// Bytes from one pixel to the next.
    pixel: usize,
    shape: ConvShape,
    /// Height, width; output height, width.
    size: [usize; 4],
    border: u8,
}

/// What is read in the place of taps in the border and of the last pixels: steps of four channels
/// would reach past the end of the image.
struct Edge {
    bytes: Lent,
    /// Where the copy of the end of the image begins, in `bytes` and in the image.
    tail: (usize, usize),
}

impl Image<'_> {
    /// Bytes that may be read behind the start of a pixel.
    fn reach(&self) -> usize {
        let s = &self.shape;
        (s.groups - 1) * s.per_group().0 + 4 * s.quads()
    }

    fn edge(&self) -> Edge {
        let reach = self.reach();
        let from = self.x.len().saturating_sub(reach + self.pixel) / self.pixel * self.pixel;
        let last = &self.x[from..];
        let mut bytes = lend((2 * reach + last.len()).div_ceil(4));
        let (border, rest) = bytes.bytes_mut().split_at_mut(reach);
        let (tail, behind) = rest.split_at_mut(last.len());
        border.fill(self.border);
        tail.copy_from_slice(last);
        behind.fill(0);
        Edge { bytes, tail: (reach, from) }
    }

    /// Writes where the taps of these pixels lie: for each tap an entry for each pixel.
    #[inline(always)]
    fn table(&self, edge: &Edge, pixels: Range<usize>, table: &mut [usize]) {
        let s = &self.shape;
        let ([h, w, oh, mut ow], n) = (self.size, pixels.len());
        // Not so in a padded copy, whose rows are longer than those of the output.
        let flat = s.pointwise() && (h, w) == (oh, ow);
        if flat {
            ow = pixels.end;
        }
        // Stretches of one row of outputs.
        let mut start = pixels.start;
        while start < pixels.end {
            let (row, x) = (start / ow, start % ow);
            let len = (ow - x).min(pixels.end - start);
            let at = start - pixels.start;
            for (tap, entries) in table.chunks_exact_mut(n).enumerate() {
                let (ty, tx) = (tap / s.kw, tap % s.kw);
                let (y, entries) =
                    (row % oh * s.stride[0] + ty * s.dilation[0], &mut entries[at..]);
                let y = y.wrapping_sub(s.pads[0]);
                let first = (x * s.stride[1] + tx * s.dilation[1]).wrapping_sub(s.pads[1]);
                let entries = &mut entries[..len];
                if flat {
                    self.stretch(edge, (0, usize::MAX), first, entries);
                } else if y < h {
                    self.stretch(edge, ((row / oh * h + y) * w, w), first, entries);
                } else {
                    entries.fill(self.x.len());
                }
            }
            start += len;
        }
    }

    /// The pixels at `first` and on of a line that begins at pixel `line` and has `w` of them.
    #[inline(always)]
    fn stretch(&self, edge: &Edge, (line, w): (usize, usize), first: usize, entries: &mut [usize]) {
        let (step, len) = (self.shape.stride[1], self.x.len());
        let mut x = first;
        for entry in entries.iter_mut() {
            *entry = if x < w { (line + x) * self.pixel } else { len };
            x = x.wrapping_add(step);
        }
        // Places from which a step would reach past the end of the image.
        let last = len.checked_sub(self.reach());
        if last.is_none_or(|last| entries.iter().any(|&at| at > last && at < len)) {
            for at in entries.iter_mut().filter(|at| last.is_none_or(|last| **at > last)) {
                if *at < len {
                    *at = len + edge.tail.0 + (*at - edge.tail.1);
                }
            }
        }
    }
}

struct Call<'a> {
    isa: Isa,
    packed: &'a Panels,
    image: &'a Image<'a>,
    edge: &'a Edge,
    /// Panels of one group.
    of_group: usize,
    /// For each panel: what is added to the sums, and their factors.
    fixed: &'a [i32],
    scale: &'a [f32],
    out: Shared<'a, u8>,
    end: CodeEnd,
}

impl Call<'_> {
    fn run(&self, pixels: usize) {
        let s = &self.image.shape;
        let depth = s.kh * s.kw * s.per_group().0;
        let panels = self.packed.panels.len();
        let work = count(&[pixels, s.m]).saturating_mul(depth);
        let parallel = work >= PAR_MIN && threads() > 1;
        let tiles = pixels.div_ceil(super::gemm_pack::block(self.isa).0);
        let want = match parallel {
            true => (work / TASK_MIN).clamp(threads(), 4 * threads()),
            false => 1,
        };
        let (down, across) = cuts(want, self.image.x.len() >= s.m * depth, tiles, panels);
        for_each(down * across, parallel, |t| {
            let (i, j) = (t % down, t / down);
            let (pixels, panels) = (part(pixels, down, i), part(panels, across, j));
            self.isa.dispatch(Block { call: self, pixels, panels });
        });
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
    fn run<S: Simd>(self, _: S) {
        let image = self.call.image;
        let taps = image.shape.kh * image.shape.kw;
        // As many pixels at a time as keep their part of the image in the cache while the panels
        // go by.
        let size = (IMAGE_BLOCK / image.pixel.max(1)).min(TABLE_MAX / taps).max(S::MR);
        let mut buf = lend(2 * taps * size.min(self.pixels.len()));
        let table: &mut [usize] = bytemuck::cast_slice_mut(buf.bytes_mut());
        let mut start = self.pixels.start;
        while start < self.pixels.end {
            let end = (start + size).min(self.pixels.end);
            // Nearly equal tiles, without a division for each.
            let count = (end - start).div_ceil(S::MR);
            let (each, longer) = ((end - start) / count, (end - start) % count);
            let tiles = || {
                let mut next = start;
                (0..count).map(move |i| {
                    let tile = next..next + each + usize::from(i < longer);
                    next = tile.end;
                    tile
                })
            };
            for tile in tiles() {
                let at = (tile.start - start) * taps;
                let entries = &mut table[at..at + tile.len() * taps];
                image.table(self.call.edge, tile, entries);
            }
            for panel in self.panels.clone() {
                let (template, first) = self.panel::<S>(panel);
                for tile in tiles() {
                    let at = (tile.start - start) * taps;
                    let entries = &table[at..at + tile.len() * taps];
                    self.tile::<S>(&template, (tile, first), entries);
                }
            }
            start = end;
        }
    }
}

impl Block<'_> {
    /// What the tiles of a panel have in common, and its first output channel.
    #[inline(always)]
    fn panel<S: Simd>(&self, panel: usize) -> (ByteTile, usize) {
        let (call, s) = (self.call, &self.call.image.shape);
        let (cg, mg) = s.per_group();
        let (taps, quads, nr) = (s.kh * s.kw, s.quads(), 2 * S::LANES);
        assert!(nr == 2 * call.isa.lanes(), "packed for another instruction set");
        let (group, j0) = (panel / call.of_group, panel % call.of_group * nr);
        assert!(group < s.groups);
        let (at, parts) = call.packed.panels[panel];
        let weights: &[i32] = bytemuck::cast_slice(call.packed.weights.as_slice());
        let weights = &weights[at..][..parts * taps * quads * halves(S::KG) * nr];
        let tile = ByteTile {
            table: std::ptr::null(),
            x: call.image.x.as_ptr(),
            len: call.image.x.len(),
            edge: call.edge.bytes.bytes().as_ptr(),
            first: group * cg,
            quads,
            taps,
            parts,
            b: weights.as_ptr(),
            mr: 0,
            nv: nr.min(mg - j0),
            fixed: call.fixed[panel * nr..][..nr].as_ptr(),
            scale: call.scale[panel * nr..][..nr].as_ptr(),
            c: std::ptr::null_mut(),
            ldc: s.m,
            end: call.end,
        };
        (tile, group * mg + j0)
    }

    /// One register tile of a panel, whose first output channel is `first`.
    #[inline(always)]
    fn tile<S: Simd>(
        &self,
        panel: &ByteTile,
        (pixels, first): (Range<usize>, usize),
        table: &[usize],
    ) {
        let (mr, m) = (pixels.len(), panel.ldc);
        assert!(table.len() == panel.taps * mr && mr > 0 && mr <= S::MR);
        let c = self.call.out.rows(pixels.start * m + first, (mr, m), panel.nv);
        let tile = ByteTile { table: table.as_ptr(), mr, c, ..*panel };
        // SAFETY: the table has `taps * mr` entries. `Image::table` makes each of them a place
        // behind which `reach` bytes lie: in the image, or in the edge, which has `reach` bytes of
        // border and as many behind the copy of the end. A step of this group ends within them. The
        // panel and what belongs to it were sliced to what is read, and the output was checked.
        // Tasks have different pixels or panels, so no other one uses this part of the output.
        unsafe { byte_tile::<S>(&tile) }
    }
}

#[cfg(test)]
#[path = "nhwc_int8_tests.rs"]
mod tests;
