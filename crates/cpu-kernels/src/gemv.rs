//! Products with at most four rows, straight from an unpacked right matrix.
//!
//! Such a product reads each number of B once, so packing would double the traffic. B by rows:
//! four of its rows at a time are scaled and added into a stretch of the output that stays in the
//! first cache level. B by columns: four dot products at a time.

use super::gemm::{Bias, Epilogue};
use super::gemm_pack::Mat;
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::scratch::Shared;
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::{for_ranges, threads};

/// Columns of one stretch.
const STRETCH: usize = 1024;
/// Numbers of B below which one thread does it all (they take about 50 µs from memory).
const PAR_MIN: usize = 256 << 10;

/// Does the product if it is worth it here; says whether it did. `gemm` has checked that output,
/// bias and residual have all rows and columns, so that nothing below wraps.
pub(crate) fn rows(
    isa: Isa,
    a: Mat<'_>,
    b: Mat<'_>,
    c: &mut [f32],
    ldc: usize,
    ep: &Epilogue<'_>,
) -> bool {
    let (n, k) = (b.cols, b.rows);
    if k == 0 {
        return false;
    }
    let grain = if n * k < PAR_MIN { n } else { STRETCH.min(n.div_ceil(2 * threads())).max(64) };
    let c = Shared::new(c);
    for_ranges(n, grain.next_multiple_of(64), |j0, len| {
        isa.dispatch(Stretch { a, b, c, ldc, ep, j0, len });
    });
    true
}

struct Stretch<'a> {
    a: Mat<'a>,
    b: Mat<'a>,
    c: Shared<'a, f32>,
    ldc: usize,
    ep: &'a Epilogue<'a>,
    j0: usize,
    len: usize,
}

impl Kernel for Stretch<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sum = hetra_cpu_base::scratch::lend(self.len);
        for i in 0..self.a.rows {
            if self.b.col_stride == 1 {
                self.by_rows(s, i, &mut sum);
            } else {
                self.by_cols(s, i, &mut sum);
            }
            self.finish::<S>(i, &mut sum);
        }
    }
}

impl Stretch<'_> {
    #[inline(always)]
    fn by_rows<S: Simd>(&self, s: S, i: usize, sum: &mut [f32]) {
        sum.fill(0.0);
        let k = self.b.rows;
        let mut k0 = 0;
        while k0 < k {
            let group = (k - k0).min(4);
            let mut av = [s.splat(0.0); 4];
            // Missing rows repeat the first with factor zero... times a finite number only, so
            // short groups go one row at a time instead.
            let step = if group == 4 { 4 } else { 1 };
            let mut rows = [self.b.data; 4];
            for q in 0..step {
                av[q] = s.splat(self.a.data[self.a.at(i, k0 + q)]);
                let at = self.b.at(k0 + q, self.j0);
                rows[q] = &self.b.data[at..at + self.len];
            }
            let n = sum.len();
            assert_eq!(n, self.len);
            let mut j = 0;
            while j < n {
                let w = S::LANES.min(n - j);
                // SAFETY: `j + w <= n`, the length of `sum` and of the first `step` rows, which are
                // the ones that are read.
                unsafe {
                    let d = sum.as_mut_ptr().add(j);
                    let mut v = s.load_n(d, w);
                    if step == 4 {
                        v = s.fma(av[0], s.load_n(rows[0].as_ptr().add(j), w), v);
                        v = s.fma(av[1], s.load_n(rows[1].as_ptr().add(j), w), v);
                        v = s.fma(av[2], s.load_n(rows[2].as_ptr().add(j), w), v);
                        v = s.fma(av[3], s.load_n(rows[3].as_ptr().add(j), w), v);
                    } else {
                        v = s.fma(av[0], s.load_n(rows[0].as_ptr().add(j), w), v);
                    }
                    s.store_n(d, v, w);
                }
                j += w;
            }
            k0 += step;
        }
    }

    #[inline(always)]
    fn by_cols<S: Simd>(&self, s: S, i: usize, sum: &mut [f32]) {
        let k = self.b.rows;
        for (j, out) in sum.iter_mut().enumerate() {
            let at = self.b.at(0, self.j0 + j);
            let col = &self.b.data[at..at + k];
            *out = if self.a.col_stride == 1 {
                let at = self.a.at(i, 0);
                dot(s, &self.a.data[at..at + k], col)
            } else {
                (0..k).map(|q| self.a.data[self.a.at(i, q)] * col[q]).sum()
            };
        }
    }

    #[inline(always)]
    fn finish<S: Simd>(&self, i: usize, sum: &mut [f32]) {
        let (ep, j0, n) = (self.ep, self.j0, self.len);
        // SAFETY: this task alone has columns j0..j0+n, `ldc >= n` keeps rows apart, and the slice
        // of one row is gone before that of the next is made.
        let c = unsafe { self.c.slice(i * self.ldc + j0, n) };
        for (j, v) in sum.iter_mut().enumerate() {
            *v *= ep.alpha;
            if ep.accumulate {
                *v += c[j];
            }
            match ep.bias {
                Bias::None => {}
                Bias::Row(b) => *v += b[i],
                Bias::Col(b) => *v += b[j0 + j],
            }
        }
        if let Some((r, ld)) = ep.residual {
            for (v, r) in sum.iter_mut().zip(&r[i * ld + j0..i * ld + j0 + n]) {
                *v += r;
            }
        }
        hetra_cpu_base::activation::apply(S::ISA, ep.act, sum);
        c.copy_from_slice(sum);
    }
}

/// Dot product in four independent sums, which hide the latency of the multiply-add.
#[inline(always)]
pub(crate) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let n = a.len();
    let mut acc = [s.splat(0.0); 4];
    let mut i = 0;
    // SAFETY: every access stays below `n`, the length of both.
    unsafe {
        while i + 4 * S::LANES <= n {
            for (q, v) in acc.iter_mut().enumerate() {
                let at = i + q * S::LANES;
                *v = s.fma(s.load(a.as_ptr().add(at)), s.load(b.as_ptr().add(at)), *v);
            }
            i += 4 * S::LANES;
        }
        while i < n {
            let w = S::LANES.min(n - i);
            let (x, y) = (s.load_n(a.as_ptr().add(i), w), s.load_n(b.as_ptr().add(i), w));
            acc[0] = s.fma(x, y, acc[0]);
            i += w;
        }
    }
    s.hsum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}
