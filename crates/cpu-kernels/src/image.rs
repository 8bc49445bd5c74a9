//! A padded copy of an image in which every convolution reads contiguous numbers.
//!
//! Each row is stored as `stride` phases: first the columns 0, s, 2s, .. then 1, s+1, ... With the
//! border added, tap (i, j) of output (y, x) is at a fixed offset plus `y * row_step + x`, for any
//! stride, dilation and padding: no bounds checks and no gathers are left in the inner loops.

use super::conv::ConvShape;
use super::quant::Byte;
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::simd::Simd;

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
    /// Rows that some tap reads; the others are never filled.
    row_used: Vec<bool>,
    phases: Vec<Phase>,
}

/// What a phase of a row takes from the image.
#[derive(Clone, Copy, Debug)]
struct Phase {
    /// Whether some tap reads it; else it is never filled.
    used: bool,
    /// The first index whose column is not in the left border, and the first past the image.
    lo: usize,
    hi: usize,
    /// Column of the image at `lo`.
    first: usize,
}

impl Phase {
    /// Phase `p` of `n` numbers of a row of `w` columns with a border of `left` before them.
    fn new(p: usize, n: usize, sw: usize, left: usize, w: usize) -> Self {
        let lo = left.saturating_sub(p).div_ceil(sw).min(n);
        let hi = left.saturating_add(w).saturating_sub(p).div_ceil(sw).clamp(lo, n);
        Phase { used: false, lo, hi, first: (lo * sw + p).saturating_sub(left) }
    }
}

/// Rows of the copy of an image of which this output is made, and numbers in a phase of a row;
/// `None` when a plane would wrap or a step is 0.
fn extents(shape: &ConvShape, (oh, ow): (usize, usize)) -> Option<(usize, usize)> {
    let extent = |out: usize, step: usize, kernel: usize, dilation: usize| {
        let outs = (out.max(1) - 1).checked_mul(step)?;
        let taps = (kernel.max(1) - 1).checked_mul(dilation)?;
        outs.checked_add(taps)?.checked_add(1)
    };
    let ([sh, sw], [dh, dw]) = (shape.stride, shape.dilation);
    let (hp, wp) = (extent(oh, sh, shape.kh, dh)?, extent(ow, sw, shape.kw, dw)?);
    let phase = if sh == 0 || sw == 0 { return None } else { wp.div_ceil(sw) };
    // Everything else is an index into a plane or less.
    phase.checked_mul(sw)?.checked_mul(hp)?.checked_add(SLACK)?;
    Some((hp, phase))
}

/// Numbers in the copy of one plane: whole phases, so that it may be larger than the image with
/// its border. `None` when they wrap.
pub fn plane_len(shape: &ConvShape, out: (usize, usize)) -> Option<usize> {
    let (hp, phase) = extents(shape, out)?;
    Some(hp * phase * shape.stride[1])
}

impl Layout {
    /// `None` as `ConvShape::out`, or when the copy would be beyond any memory.
    pub(crate) fn new(shape: &ConvShape, h: usize, w: usize) -> Option<Self> {
        Layout::with_out(shape, (h, w), shape.out(h, w)?)
    }

    /// For a given output size; taps past the image and its border read border too. `None` when a
    /// stride is 0, or when the copy would be beyond any memory.
    pub(crate) fn with_out(
        shape: &ConvShape,
        (h, w): (usize, usize),
        (oh, ow): (usize, usize),
    ) -> Option<Self> {
        let [sh, sw] = shape.stride;
        let [dh, dw] = shape.dilation;
        let (hp, phase) = extents(shape, (oh, ow))?;
        let row = phase * sw;
        let plane = hp * row;
        let mut row_used = vec![false; hp];
        for y in 0..oh {
            for i in 0..shape.kh {
                row_used[y * sh + i * dh] = true;
            }
        }
        let mut phases: Vec<Phase> =
            (0..sw).map(|p| Phase::new(p, phase, sw, shape.pads[1], w)).collect();
        for j in 0..shape.kw {
            phases[j * dw % sw].used = true;
        }
        let shape = *shape;
        Some(Layout { shape, h, w, oh, ow, phase, row, plane, row_used, phases })
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
    pub(crate) fn fill<T: Cell>(&self, isa: Isa, src: &[T], border: T, dst: &mut [T]) {
        isa.dispatch(Fill { layout: self, src, border, dst });
    }
}

struct Fill<'a, T> {
    layout: &'a Layout,
    src: &'a [T],
    border: T,
    dst: &'a mut [T],
}

impl<T: Cell> Kernel for Fill<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (l, border) = (self.layout, self.border);
        let (sw, top) = (l.shape.stride[1], l.shape.pads[0]);
        for (y, row) in self.dst[..l.plane].chunks_exact_mut(l.row).enumerate() {
            if !l.row_used[y] {
                continue;
            }
            if y < top || y - top >= l.h {
                T::fill(s, border, row);
                continue;
            }
            let src = &self.src[(y - top) * l.w..(y - top + 1) * l.w];
            for (phase, d) in l.phases.iter().zip(row.chunks_exact_mut(l.phase)) {
                if phase.used {
                    fill_phase(s, src, phase, sw, border, d);
                }
            }
        }
    }
}

/// One past the furthest number that `rows` rows of `row` outputs read, when each tap is read in
/// whole vectors of `lanes` from every output on. Loops whose loads are not checked one by one
/// compare it with what they have. `None` when it wraps.
pub(crate) fn reach(
    taps: &[usize],
    (rows, row_step): (usize, usize),
    row: usize,
    lanes: usize,
) -> Option<usize> {
    let last_row = rows.saturating_sub(1).checked_mul(row_step)?;
    let furthest = taps.iter().max().copied().unwrap_or(0);
    furthest.checked_add(last_row)?.checked_add(row)?.checked_add(lanes)
}

/// An element of an image.
pub(crate) trait Cell: Copy {
    /// `d[i] = src[2 i]`; `src` may end with the last of these. Panics if it ends before.
    fn evens<S: Simd>(s: S, src: &[Self], d: &mut [Self]);
    /// `d[i] = value`.
    fn fill<S: Simd>(s: S, value: Self, d: &mut [Self]);
    /// `d[i] = src[i]`; both are of one length.
    fn copy<S: Simd>(s: S, src: &[Self], d: &mut [Self]);
}

impl Cell for f32 {
    #[inline(always)]
    fn fill<S: Simd>(s: S, value: f32, d: &mut [f32]) {
        for part in d.chunks_mut(S::LANES) {
            s.stores_tail(part, s.splat(value));
        }
    }

    #[inline(always)]
    fn copy<S: Simd>(s: S, src: &[f32], d: &mut [f32]) {
        let Some(last) = d.len().checked_sub(S::LANES) else {
            return s.stores_tail(d, s.loads_tail(src));
        };
        // The last vector goes over some of the one before.
        for at in (0..last).step_by(S::LANES).chain([last]) {
            s.stores(&mut d[at..], s.loads(&src[at..]));
        }
    }

    #[inline(always)]
    fn evens<S: Simd>(s: S, src: &[f32], d: &mut [f32]) {
        assert!(src.len() + 1 >= 2 * d.len());
        for (src, d) in src.chunks(2 * S::LANES).zip(d.chunks_mut(S::LANES)) {
            // SAFETY: no more floats are read than the slice has.
            s.stores_tail(d, unsafe { s.load_evens(src.as_ptr(), src.len()) });
        }
    }
}

impl Cell for u8 {
    #[inline(always)]
    fn fill<S: Simd>(_: S, value: u8, d: &mut [u8]) {
        d.iter_mut().for_each(|d| *d = value);
    }

    #[inline(always)]
    fn copy<S: Simd>(_: S, src: &[u8], d: &mut [u8]) {
        d.copy_from_slice(src);
    }

    #[inline(always)]
    fn evens<S: Simd>(s: S, src: &[u8], d: &mut [u8]) {
        assert!(src.len() + 1 >= 2 * d.len());
        for (src, d) in src.chunks(2 * S::LANES).zip(d.chunks_mut(S::LANES)) {
            // SAFETY: no more bytes are read than the slice has.
            u8::stores(s, d, unsafe { s.load_u16(src.as_ptr(), src.len()) });
        }
    }
}

/// Copies the columns of a phase.
#[inline(always)]
fn fill_phase<S: Simd, T: Cell>(s: S, src: &[T], phase: &Phase, sw: usize, border: T, d: &mut [T]) {
    let Phase { lo, hi, first, .. } = *phase;
    // Vectors, and no loops that the compiler makes calls of: borders are one or two numbers, and
    // rows are short.
    T::fill(s, border, &mut d[..lo]);
    T::fill(s, border, &mut d[hi..]);
    if lo == hi {
        return;
    }
    let (d, src) = (&mut d[lo..hi], &src[first..]);
    match sw {
        1 => T::copy(s, &src[..d.len()], d),
        2 => T::evens(s, src, d),
        _ => {
            for (d, s) in d.iter_mut().zip(src.iter().step_by(sw)) {
                *d = *s;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_memory_has_no_layout() {
        let shape = ConvShape {
            c: 1,
            m: 1,
            kh: 3,
            kw: 3,
            stride: [2, 1],
            dilation: [1, 1],
            pads: [0; 4],
            groups: 1,
        };
        let huge = usize::MAX / 2 + 2;
        let layout = |shape: &ConvShape, out| Layout::with_out(shape, (5, 5), out).is_some();
        assert!(layout(&shape, (2, 3)));
        assert!(!layout(&shape, (huge, 3)));
        assert!(!layout(&ConvShape { dilation: [1, huge], ..shape }, (2, 3)));
        assert!(!layout(&ConvShape { stride: [1, 0], ..shape }, (2, 3)));
        assert!(!layout(&shape, (1 << 32, 1 << 33)));
        assert_eq!(ConvShape { pads: [huge; 4], ..shape }.out(5, 5), None);
        assert_eq!(reach(&[3, 1], (2, 10), 4, 8), Some(25));
        assert_eq!(reach(&[3], (2, usize::MAX), 4, 8), None);
    }
}
