//! Matrix product with weights of 4 or 8 bits that share a scale and zero point in blocks.
//!
//! Up to four rows of activations: each weight column is dequantised block by block into a small
//! buffer and used at once, so that memory traffic is that of the packed weights. More rows: the
//! right operand writes f32 panels for the ordinary product, and each number is dequantised once.

use super::gemm::{Epilogue, Lhs, Mat, Panels, Rhs, gemm};
use super::gemv::dot;
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::scratch::{Shared, count, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;

/// Longest block.
pub const BLOCK_MAX: usize = 4096;

/// Quantised weights, one row of `k` numbers for each of `n` outputs.
#[derive(Clone, Copy, Debug)]
pub struct NBits<'a> {
    /// 4 or 8.
    pub bits: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Inputs that share a scale; even, at most [`BLOCK_MAX`].
    pub block: usize,
    /// `n · ceil(k / block) · block · bits / 8` bytes; the low half of a byte comes first.
    pub data: &'a [u8],
    /// `n · ceil(k / block)` scales.
    pub scales: &'a [f32],
    /// Zero points packed like the data, each row starting on a byte; absent means the middle.
    pub zeros: Option<&'a [u8]>,
}

impl NBits<'_> {
    fn blocks(&self) -> usize {
        self.k.div_ceil(self.block)
    }

    /// Panics if the sizes disagree: the caller checks what comes from users.
    fn check(&self) {
        assert!(self.bits == 4 || self.bits == 8, "only 4 and 8 bits");
        let even = self.block > 0 && self.block.is_multiple_of(2);
        assert!(even && self.block <= BLOCK_MAX, "block size");
        let total = count(&[self.n, self.blocks()]);
        let bits = count(&[total, self.block, self.bits]);
        assert!(self.data.len() >= bits / 8, "weights too short");
        assert!(self.scales.len() >= total, "scales too short");
        let zero_row = (self.blocks() * self.bits).div_ceil(8);
        assert!(
            self.zeros.is_none_or(|z| z.len() >= count(&[self.n, zero_row])),
            "zeros too short"
        );
    }

    #[inline(always)]
    fn zero(&self, row: usize, b: usize) -> f32 {
        let at = |z: &[u8]| match self.bits {
            8 => z[row * self.blocks() + b],
            _ => (z[row * self.blocks().div_ceil(2) + b / 2] >> (b % 2 * 4)) & 15,
        };
        self.zeros.map_or((1 << (self.bits - 1)) as f32, |z| f32::from(at(z)))
    }

    /// Dequantises block `b` of a row into `out` (at most a block long).
    #[inline(always)]
    fn block(&self, row: usize, b: usize, out: &mut [f32]) {
        let (scale, zero) = (self.scales[row * self.blocks() + b], self.zero(row, b));
        let size = self.block * self.bits / 8;
        let data = &self.data[(row * self.blocks() + b) * size..][..size];
        if self.bits == 8 {
            out.iter_mut().zip(data).for_each(|(o, v)| *o = (f32::from(*v) - zero) * scale);
            return;
        }
        let mut pairs = out.chunks_exact_mut(2);
        for (o, v) in (&mut pairs).zip(data) {
            o[0] = (f32::from(v & 15) - zero) * scale;
            o[1] = (f32::from(v >> 4) - zero) * scale;
        }
        if let ([last], Some(v)) = (pairs.into_remainder(), data.get((self.k % self.block) / 2)) {
            *last = (f32::from(v & 15) - zero) * scale;
        }
    }
}

struct Panel<'a>(&'a NBits<'a>, usize, usize, usize, usize, &'a mut [f32]);

impl Kernel for Panel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Panel(w, k0, kc, j0, nr, dst) = self;
        let mut tmp = lend(w.block);
        for j in 0..nr {
            if j0 + j >= w.n {
                (0..kc).for_each(|q| dst[q * nr + j] = 0.0);
                continue;
            }
            for b in k0 / w.block..(k0 + kc).div_ceil(w.block) {
                let first = b * w.block;
                let len = w.block.min(w.k - first);
                w.block(j0 + j, b, &mut tmp[..len]);
                for q in first.max(k0)..(first + len).min(k0 + kc) {
                    dst[(q - k0) * nr + j] = tmp[q - first];
                }
            }
        }
    }
}

struct Live<'a>(Isa, &'a NBits<'a>);

impl Panels for Live<'_> {
    fn pack(&self, k0: usize, kc: usize, j0: usize, nr: usize, dst: &mut [f32]) {
        self.0.dispatch(Panel(self.1, k0, kc, j0, nr, dst));
    }
}

struct Few<'a> {
    w: &'a NBits<'a>,
    x: &'a [f32],
    m: usize,
    bias: Option<&'a [f32]>,
    y: Shared<'a, f32>,
    start: usize,
    len: usize,
}

impl Kernel for Few<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let w = self.w;
        let mut tmp = lend(w.block);
        for j in self.start..self.start + self.len {
            let mut sums = [self.bias.map_or(0.0, |b| b[j]); 4];
            for b in 0..w.blocks() {
                let first = b * w.block;
                let len = w.block.min(w.k - first);
                w.block(j, b, &mut tmp[..len]);
                for (i, sum) in sums.iter_mut().enumerate().take(self.m) {
                    *sum += dot(s, &self.x[i * w.k + first..][..len], &tmp[..len]);
                }
            }
            for (i, sum) in sums.iter().enumerate().take(self.m) {
                // SAFETY: each column is written by one task, number after number.
                unsafe { self.y.slice(i * w.n + j, 1)[0] = *sum };
            }
        }
    }
}

/// `y = x wᵀ + bias` for `m` rows of `k` activations; `y` has `m` rows of `n`.
pub fn matmul_nbits(
    isa: Isa,
    x: &[f32],
    m: usize,
    w: &NBits<'_>,
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    w.check();
    let (n, k) = (w.n, w.k);
    let outputs = count(&[m, n]);
    assert!(x.len() >= count(&[m, k]) && y.len() >= outputs, "slice too short");
    assert!(bias.is_none_or(|b| b.len() >= n), "bias too short");
    if outputs == 0 {
        return;
    }
    if m <= 4 {
        let y = Shared::new(y);
        for_ranges(n, (64 << 10) / (m * k).max(1), |start, len| {
            isa.dispatch(Few { w, x, m, bias, y, start, len });
        });
        return;
    }
    let ep = Epilogue {
        bias: bias.map_or(super::gemm::Bias::None, super::gemm::Bias::Col),
        ..Epilogue::default()
    };
    gemm(isa, Lhs::View(Mat::new(x, m, k)), Rhs::Panels(k, n, &Live(isa, w)), y, n, &ep);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Rng, close};

    #[test]
    fn agrees_with_dequantised_weights() {
        let mut rng = Rng::new(5);
        for t in 0..60 {
            let (bits, block) = ([4, 8][t % 2], [16, 32, 128][rng.below(3)]);
            let (m, n, k) = (rng.range(1, 9), rng.range(1, 40), rng.range(1, 300));
            let blocks = k.div_ceil(block);
            let (data, scales) = (rng.u8s(n * blocks * block * bits / 8), rng.vec(n * blocks));
            let zero_row = (blocks * bits).div_ceil(8);
            let zeros = rng.u8s(n * zero_row);
            let zeros = (t % 3 != 0).then_some(&zeros[..]);
            let w = NBits { bits, n, k, block, data: &data, scales: &scales, zeros };
            let (x, bias) = (rng.vec(m * k), rng.vec(n));
            let bias = (t % 4 != 0).then_some(&bias[..]);
            let mut want = Vec::new();
            for i in 0..m {
                for j in 0..n {
                    let mut sum = bias.map_or(0.0, |b| f64::from(b[j]));
                    for q in 0..k {
                        let b = q / block;
                        let nib = |d: &[u8], at: usize| match bits {
                            8 => d[at],
                            _ => (d[at / 2] >> (at % 2 * 4)) & 15,
                        };
                        let v = nib(&data, j * blocks * block + q);
                        let z = zeros.map_or(1 << (bits - 1), |z| nib(&z[j * zero_row..], b));
                        let v = (f64::from(v) - f64::from(z)) * f64::from(scales[j * blocks + b]);
                        sum += v * f64::from(x[i * k + q]);
                    }
                    want.push(sum as f32);
                }
            }
            for isa in Isa::available() {
                let mut y = vec![0.0; m * n];
                matmul_nbits(isa, &x, m, &w, bias, &mut y);
                close(&y, &want, 5e-4, &format!("{isa:?} {bits} {block} {m} {n} {k}"));
            }
        }
    }
}
