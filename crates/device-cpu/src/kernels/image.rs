//! A padded copy of an image in which every convolution reads contiguous numbers.
//!
//! Each row is stored as `stride` phases: first the columns 0, s, 2s, .. then 1, s+1, ... With the
//! border added, tap (i, j) of output (y, x) is at a fixed offset plus `y * row_step + x`, for any
//! stride, dilation and padding: no bounds checks and no gathers are left in the inner loops.

use super::conv::ConvShape;

/// Numbers after the last plane that may be read (never used), so that loops read full vectors.
pub(crate) const SLACK: usize = 64;

/// Where things lie in the copy of an image of one size.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    shape: ConvShape,
    h: usize,
    w: usize,
    /// Output size.
    pub(crate) oh: usize,
    pub(crate) ow: usize,
    /// Numbers in a phase of a row, in a row, and in a plane.
    phase: usize,
    row: usize,
    pub(crate) plane: usize,
    /// Rows and phases that some tap reads; the others are never filled.
    row_used: Vec<bool>,
    phase_used: Vec<bool>,
}

impl Layout {
    pub(crate) fn new(shape: &ConvShape, h: usize, w: usize) -> Option<Self> {
        Some(Layout::with_out(shape, (h, w), shape.out(h, w)?))
    }

    /// For a given output size; taps past the image and its border read border too.
    pub(crate) fn with_out(
        shape: &ConvShape,
        (h, w): (usize, usize),
        (oh, ow): (usize, usize),
    ) -> Self {
        let [sh, sw] = shape.stride;
        let [dh, dw] = shape.dilation;
        let hp = (oh.max(1) - 1) * sh + (shape.kh.max(1) - 1) * dh + 1;
        let wp = (ow.max(1) - 1) * sw + (shape.kw.max(1) - 1) * dw + 1;
        let phase = wp.div_ceil(sw);
        let mut row_used = vec![false; hp];
        for y in 0..oh {
            for i in 0..shape.kh {
                row_used[y * sh + i * dh] = true;
            }
        }
        let mut phase_used = vec![false; sw];
        for j in 0..shape.kw {
            phase_used[j * dw % sw] = true;
        }
        let row = phase * sw;
        let shape = *shape;
        Layout { shape, h, w, oh, ow, phase, row, plane: hp * row, row_used, phase_used }
    }

    /// Distance between the places of two output rows.
    pub(crate) fn row_step(&self) -> usize {
        self.shape.stride[0] * self.row
    }

    /// Offset of each tap in a plane, row of taps after row.
    pub(crate) fn taps(&self) -> Vec<usize> {
        let s = &self.shape;
        let mut out = Vec::with_capacity(s.kh * s.kw);
        for i in 0..s.kh {
            for j in 0..s.kw {
                let q = j * s.dilation[1];
                let (phase, at) = (q % s.stride[1], q / s.stride[1]);
                out.push(i * s.dilation[0] * self.row + phase * self.phase + at);
            }
        }
        out
    }

    /// Copies one plane, with `border` around it.
    pub(crate) fn fill<T: Copy>(&self, src: &[T], border: T, dst: &mut [T]) {
        let (sw, [top, left, ..]) = (self.shape.stride[1], self.shape.pads);
        for (y, row) in dst[..self.plane].chunks_exact_mut(self.row).enumerate() {
            if !self.row_used[y] {
                continue;
            }
            if y < top || y - top >= self.h {
                row.fill(border);
                continue;
            }
            let src = &src[(y - top) * self.w..(y - top + 1) * self.w];
            for (p, d) in row.chunks_exact_mut(self.phase).enumerate() {
                if self.phase_used[p] {
                    fill_phase(src, left, sw, p, border, d);
                }
            }
        }
    }
}

/// Copies columns `p, p + sw, ..` of a padded row.
#[inline]
fn fill_phase<T: Copy>(src: &[T], left: usize, sw: usize, p: usize, border: T, d: &mut [T]) {
    let n = d.len();
    // The first index whose column is not in the left border, and the first past the image.
    let lo = left.saturating_sub(p).div_ceil(sw).min(n);
    let hi = (left + src.len()).saturating_sub(p).div_ceil(sw).clamp(lo, n);
    d[..lo].fill(border);
    d[hi..].fill(border);
    if lo == hi {
        return;
    }
    let first = lo * sw + p - left;
    let (d, src) = (&mut d[lo..hi], &src[first..]);
    match sw {
        1 => d.copy_from_slice(&src[..d.len()]),
        2 => {
            // Whole pairs vectorise; the last number may have no partner.
            let pairs = src.chunks_exact(2);
            let rest = pairs.remainder().first().copied();
            for (d, s) in d.iter_mut().zip(pairs) {
                *d = s[0];
            }
            if let (Some(v), true) = (rest, d.len() * 2 == src.len() + 1) {
                d[d.len() - 1] = v;
            }
        }
        _ => {
            for (d, s) in d.iter_mut().zip(src.iter().step_by(sw)) {
                *d = *s;
            }
        }
    }
}
