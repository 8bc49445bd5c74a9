//! Convolution of images with few channels, as of colours: strips of a padded copy are made, which
//! the kernel of rows reads (`nhwc_rows`), or in which a whole row of taps is one run. The image
//! may have its channels first, too.

use super::conv::ConvShape;
use super::layout::copy;
use super::nhwc::Call;
use super::nhwc_rows;
use super::tiling::Tiling;
use super::transpose::interleave;
use hetra_cpu_base::scratch::{count, lend};
use hetra_cpu_base::threads::{for_each, threads};
use std::ops::Range;

/// Most channels of an image of which copies are made.
const CHANNELS_MAX: usize = 8;
/// The same where the kernel of rows reads them and gains.
const ROW_CHANNELS_MAX: usize = 16;
/// Floats of a strip, about: less than the first cache level.
const STRIP: usize = 8 << 10;
/// Most floats of the copy that one row of outputs needs (64 MiB).
const COPY_MAX: usize = 16 << 20;
/// Most floats of a row of a copy.
const LINE_MAX: usize = 1 << 20;

/// Whether it is worth copies of the image in which a row of taps is one run. The image need not
/// have its channels last then.
pub fn reads_whole_rows(shape: &ConvShape) -> bool {
    // Two vectors of outputs wait for loads less: steps of two then gain nothing.
    let gains = shape.m <= 16 || shape.m <= 32 && shape.stride[1] == 1;
    let by_rows = nhwc_rows::fits_all(shape) && gains && shape.c <= ROW_CHANNELS_MAX;
    let few = shape.c <= CHANNELS_MAX || by_rows;
    let any = shape.c > 0 && shape.kh > 0;
    any && shape.kw > 1 && shape.groups == 1 && shape.dilation[1] == 1 && few
}

/// Floats of a row of a copy of images so wide, and rows that a row of outputs needs.
fn extents(shape: &ConvShape, w: usize) -> Option<(usize, usize)> {
    let line = w.checked_add(shape.pads[1])?.checked_add(shape.pads[3])?.checked_mul(shape.c)?;
    let window = shape.kh.checked_sub(1)?.checked_mul(shape.dilation[0])?.checked_add(1)?;
    // Copies by planes end with whole vectors, and blocks of outputs.
    let most = line.checked_add(shape.c.checked_mul(128)?)?;
    (window.checked_mul(most)? <= COPY_MAX).then_some((line, window))
}

/// Whether copies are made of images so wide: not where a file asks for ones beyond measure.
pub fn copies_fit(shape: &ConvShape, w: usize) -> bool {
    extents(shape, w).is_some()
}

/// A padded copy of some rows of an image.
pub(crate) struct Strip<'a> {
    pub(crate) x: &'a [f32],
    /// Floats from one row to the next, from one pixel, from one channel.
    pub(crate) line: usize,
    pub(crate) pixel: usize,
    pub(crate) plane: usize,
    /// Rows of outputs, and outputs of a row.
    pub(crate) outputs: [usize; 2],
}

/// How images are cut.
pub(crate) struct Strips {
    shape: ConvShape,
    planes: bool,
    /// Whether the kernel of rows reads them; channels then stay first.
    by_rows: bool,
    /// Height, width; output height, width.
    size: [usize; 4],
    /// Rows of outputs of a strip.
    rows: usize,
    /// Floats of a row of a copy.
    line: usize,
}

impl Strips {
    /// Strips for images of this size; none if a row would be too long and the channels are last.
    pub(crate) fn new(
        shape: &ConvShape,
        tiling: Tiling,
        (planes, by_rows): (bool, bool),
        size: [usize; 4],
    ) -> Option<Strips> {
        let [_, w, oh, _] = size;
        let (line, window) = extents(shape, w)?;
        if line > LINE_MAX && !planes {
            return None;
        }
        let floats = tiling.scaled(STRIP);
        let rows = (floats / line.max(1)).saturating_sub(window) / shape.stride[0] + 1;
        Some(Strips { shape: *shape, planes, by_rows, size, rows: rows.min(oh), line })
    }

    /// Convolves `n` images `x`; the slices of `call` have been checked against the sizes.
    pub(crate) fn run(&self, call: &Call<'_>, x: &[f32], n: usize) {
        let ([_, _, oh, ow], s) = (self.size, &self.shape);
        let parallel = call.is_parallel(n * oh * ow);
        // Half as many as elsewhere: what two strips have in common is copied twice.
        let tasks = call.tiling.tasks.div_ceil(2).max(1).saturating_mul(threads());
        let fair = if parallel { (n * oh).div_ceil(tasks) } else { oh };
        let rows = self.rows.min(fair).max(1);
        let strips = oh.div_ceil(rows);
        for_each(n * strips, parallel, |task| {
            let (image, y) = (task / strips, task % strips * rows);
            let outputs = y..(y + rows).min(oh);
            let high = (outputs.len() - 1) * s.stride[0] + (s.kh - 1) * s.dilation[0] + 1;
            let mut strip = lend(count(&[high, self.line]));
            let first = (y * s.stride[0]).wrapping_sub(s.pads[0]);
            match self.planes && self.by_rows {
                true => self.fill_planes(self.image(x, image), first, &mut strip),
                false => self.fill(self.image(x, image), first, &mut strip),
            }
            let (wide, first) = (self.line / s.c, (image * oh + y) * ow);
            if self.by_rows {
                let (pixel, plane) = if self.planes { (1, wide) } else { (s.c, 1) };
                let (line, outputs) = (self.line, [outputs.len(), ow]);
                let strip = Strip { x: &strip, line, pixel, plane, outputs };
                return call.run_rows(&strip, first);
            }
            call.run_copy(&strip, [high, wide, outputs.len(), ow], first);
        });
    }

    fn image<'a>(&self, x: &'a [f32], image: usize) -> &'a [f32] {
        let floats = self.size[0] * self.size[1] * self.shape.c;
        let range: Range<usize> = image * floats..(image + 1) * floats;
        &x[range]
    }

    /// Writes rows of an image from `first` on between zeros; nothing but zeros for a row that it
    /// does not have. Channels stay first: one after the other, as each is a run of the memory.
    fn fill_planes(&self, image: &[f32], first: usize, strip: &mut [f32]) {
        let ([h, w, ..], c, left) = (self.size, self.shape.c, self.shape.pads[1]);
        let wide = self.line / c;
        for channel in 0..c {
            for (i, line) in strip.chunks_exact_mut(self.line).enumerate() {
                let (y, run) = (first.wrapping_add(i), &mut line[channel * wide..][..wide]);
                if y >= h {
                    run.fill(0.0);
                    continue;
                }
                run[..left].fill(0.0);
                copy(&image[(channel * h + y) * w..][..w], &mut run[left..left + w]);
                run[left + w..].fill(0.0);
            }
        }
    }

    /// The same with the channels of a pixel side by side.
    fn fill(&self, image: &[f32], first: usize, strip: &mut [f32]) {
        let ([h, w, ..], c) = (self.size, self.shape.c);
        let (left, right) = (self.shape.pads[1] * c, self.shape.pads[3] * c);
        for (i, line) in strip.chunks_exact_mut(self.line).enumerate() {
            let y = first.wrapping_add(i);
            if y >= h {
                line.fill(0.0);
                continue;
            }
            let end = line.len() - right;
            line[..left].fill(0.0);
            line[end..].fill(0.0);
            let middle = &mut line[left..end];
            if self.planes {
                interleave(&image[y * w..], (c, h * w), w, middle);
            } else {
                copy(&image[y * w * c..][..w * c], middle);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_beyond_measure_are_not_made() {
        let (kh, kw, stride, pads) = (3, 3, [1, 1], [1; 4]);
        let s = ConvShape { c: 3, m: 16, kh, kw, stride, dilation: [1, 1], pads, groups: 1 };
        assert!(reads_whole_rows(&s) && copies_fit(&s, 4000));
        assert!(!copies_fit(&ConvShape { dilation: [1 << 31, 1], ..s }, 3));
        assert!(!copies_fit(&ConvShape { pads: [0, 1 << 31, 0, 0], ..s }, 3));
        assert!(!copies_fit(&s, usize::MAX / 2));
        assert!(!reads_whole_rows(&ConvShape { c: 0, ..s }));
    }
}
