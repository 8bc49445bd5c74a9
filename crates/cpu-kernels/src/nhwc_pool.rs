//! Max and average pooling of images with channels last: vectors hold channels, and each window
//! is the taps that lie in the image.

use super::pool::{Pool, PoolKind, divisor};
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::numbers::Number;
use hetra_cpu_base::scratch::{Shared, count};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;
use smallvec::SmallVec;
use std::ops::Range;

/// Vectors of channels that are reduced together.
const VECTORS: usize = 4;

/// Pools `n` images of `h` by `w` pixels of `c` channels to `oh` by `ow`. The caller has chosen the
/// output size; windows may reach past the border. Panics if a slice is too short or a stride is 0.
pub fn pool_nhwc<X: Number>(
    isa: Isa,
    p: &Pool,
    x: &[X],
    (n, h, w, c): (usize, usize, usize, usize),
    (oh, ow): (usize, usize),
    y: &mut [X],
) {
    let outputs = count(&[n, oh, ow, c]);
    assert!(x.len() >= count(&[n, h, w, c]) && y.len() >= outputs, "slice too short");
    if outputs == 0 {
        return;
    }
    let windows = |axis: usize, n: usize, size: usize| -> SmallVec<[Window; 64]> {
        (0..n).map(|o| Window::new(p, axis, o, size)).collect()
    };
    let (rows, columns) = (windows(0, oh, h), windows(1, ow, w));
    let out = Shared::new(y);
    let line = ow.saturating_mul(c).saturating_mul(p.kernel[0].saturating_mul(p.kernel[1]));
    for_ranges(n * oh, (64 << 10) / line.max(1), |start, len| {
        let (rows, columns) = (&rows[..], &columns[..]);
        let lines = start..start + len;
        X::dispatch(isa, Rows { p, x, size: [h, w, c], rows, columns, lines, out });
    });
}

/// The taps of a window along one axis that lie in the image.
struct Window {
    /// Place of the first one, and how many.
    first: usize,
    taps: usize,
    /// How many count in a mean.
    divisor: f32,
}

impl Window {
    fn new(p: &Pool, axis: usize, o: usize, size: usize) -> Self {
        let (step, pad) = (p.dilation[axis], p.pads[axis]);
        let start = o * p.stride[axis];
        let first = pad.saturating_sub(start).div_ceil(step).min(p.kernel[axis]);
        let past = (size + pad).saturating_sub(start).div_ceil(step);
        let taps = past.clamp(first, p.kernel[axis]) - first;
        let first = (start + first * step).saturating_sub(pad);
        Window { first, taps, divisor: divisor(p, axis, o, size) }
    }
}

struct Rows<'a, X> {
    p: &'a Pool,
    x: &'a [X],
    /// Height, width, channels.
    size: [usize; 3],
    rows: &'a [Window],
    columns: &'a [Window],
    lines: Range<usize>,
    out: Shared<'a, X>,
}

impl<X: Number> Kernel for Rows<'_, X> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [h, w, c] = self.size;
        let (oh, ow) = (self.rows.len(), self.columns.len());
        for line in self.lines.clone() {
            let (image, row) = (line / oh, &self.rows[line % oh]);
            // SAFETY: each line of outputs is one task's.
            let out = unsafe { self.out.slice(line * ow * c, ow * c) };
            let image = &self.x[image * h * w * c..(image + 1) * h * w * c];
            for (column, out) in self.columns.iter().zip(out.chunks_exact_mut(c)) {
                match self.p.kind {
                    PoolKind::Max => self.pixel::<S, true>(s, image, (row, column), out),
                    _ => self.pixel::<S, false>(s, image, (row, column), out),
                }
            }
        }
    }
}

impl<X: Number> Rows<'_, X> {
    /// One pixel: the greatest numbers of its window, or their means.
    #[inline(always)]
    fn pixel<S: Simd, const MAX: bool>(
        &self,
        s: S,
        image: &[X],
        at: (&Window, &Window),
        out: &mut [X],
    ) {
        let (c, wide) = (out.len(), VECTORS * S::LANES);
        let mut c0 = 0;
        while c0 + wide <= c {
            self.window::<S, VECTORS, MAX, true>(s, image, at, c0, out);
            c0 += wide;
        }
        while c0 + S::LANES <= c {
            self.window::<S, 1, MAX, true>(s, image, at, c0, out);
            c0 += S::LANES;
        }
        if c0 < c {
            self.window::<S, 1, MAX, false>(s, image, at, c0, out);
        }
    }

    /// Channels `c0` to `c0 + V * LANES` of one pixel; as many as there are, of the last vector,
    /// unless they are `WHOLE`.
    #[inline(always)]
    fn window<S: Simd, const V: usize, const MAX: bool, const WHOLE: bool>(
        &self,
        s: S,
        image: &[X],
        (row, column): (&Window, &Window),
        c0: usize,
        out: &mut [X],
    ) {
        let [_, w, c] = self.size;
        let [down, across] = self.p.dilation;
        let n = (c - c0).min(V * S::LANES);
        assert!(c0 < c && out.len() == c && (n == V * S::LANES || V == 1 && !WHOLE));
        let mut acc = [s.splat(if MAX { f32::NEG_INFINITY } else { 0.0 }); V];
        if row.taps > 0 && column.taps > 0 {
            let first = (row.first * w + column.first) * c + c0;
            let (below, beside) = (down * w * c, across * c);
            let last = first + (row.taps - 1) * below + (column.taps - 1) * beside + n;
            let image = image[first..last].as_ptr();
            for ty in 0..row.taps {
                for tx in 0..column.taps {
                    let pixel = image.wrapping_add(ty * below + tx * beside);
                    for (j, acc) in acc.iter_mut().enumerate() {
                        // SAFETY: `n` numbers of the last tap end where what was cut out does, and
                        // those of the others before; `n` is `V * LANES` where they are whole.
                        let v = unsafe {
                            match WHOLE {
                                true => X::load(s, pixel.add(j * S::LANES)),
                                false => X::load_n(s, pixel, n),
                            }
                        };
                        // Where the number is NaN, `max` gives the second operand.
                        *acc = if MAX { s.max(v, *acc) } else { s.add(*acc, v) };
                    }
                }
            }
        }
        let divisor = s.splat(row.divisor * column.divisor);
        for (j, acc) in acc.into_iter().enumerate() {
            let v = if MAX { acc } else { s.div(acc, divisor) };
            // SAFETY: `c0 + n` is at most the length of the output.
            unsafe {
                let to = out.as_mut_ptr().add(c0 + j * S::LANES);
                if WHOLE { X::store(s, to, v) } else { X::store_n(s, to, v, n) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nhwc::tests::last;
    use crate::pool::pool;
    use crate::reference::{Rng, close};
    use half::bf16;

    #[test]
    fn as_with_channels_first() {
        let mut rng = Rng::new(31);
        for seed in 0..200u64 {
            let kernel = [rng.range(1, 4), rng.range(1, 4)];
            let p = Pool {
                kind: match seed % 3 {
                    0 => PoolKind::Max,
                    1 => PoolKind::Average { count_include_pad: true },
                    _ => PoolKind::Average { count_include_pad: false },
                },
                kernel,
                stride: [rng.range(1, 3), rng.range(1, 3)],
                dilation: [rng.range(1, 2), rng.range(1, 2)],
                pads: [
                    rng.below(kernel[0]),
                    rng.below(kernel[1]),
                    rng.below(kernel[0]),
                    rng.below(kernel[1]),
                ],
            };
            let (n, c, h, w) =
                (rng.range(1, 2), rng.range(1, 90), rng.range(1, 12), rng.range(1, 12));
            let Some((oh, ow)) = p.window().out(h, w) else { continue };
            let x = rng.vec(n * c * h * w);
            let mut want = vec![0.0; n * c * oh * ow];
            pool(Isa::Portable, &p, &x, (n * c, h, w), (oh, ow), &mut want);
            let (x, want) = (last(&x, n, c), last(&want, n, c));
            for isa in Isa::available() {
                let mut got = vec![f32::NAN; want.len()];
                pool_nhwc(isa, &p, &x, (n, h, w, c), (oh, ow), &mut got);
                close(&got, &want, 1e-6, &format!("{isa:?} {p:?} {n} {c} {h} {w}"));
                let low: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
                let wide: Vec<f32> = low.iter().map(|x| x.to_f32()).collect();
                pool_nhwc(isa, &p, &wide, (n, h, w, c), (oh, ow), &mut got);
                let mut stored = vec![bf16::NAN; want.len()];
                pool_nhwc(isa, &p, &low, (n, h, w, c), (oh, ow), &mut stored);
                let got: Vec<bf16> = got.into_iter().map(bf16::from_f32).collect();
                let mut pairs = stored.iter().zip(&got);
                let same = pairs.all(|(a, b)| a == b || a.is_nan() && b.is_nan());
                assert!(same, "{isa:?} {p:?} of bf16");
            }
        }
    }
}
