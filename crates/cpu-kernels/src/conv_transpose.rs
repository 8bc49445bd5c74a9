//! 2-D transposed convolution: one product makes all contributions, a scatter adds them up.
//!
//! For each group, `Wᵀ [m·kh·kw, c] × X [c, h·w]` gives for each input pixel what it adds to each
//! tap; the scatter walks taps in a fixed order, whole rows at a time, one output plane per task,
//! so that no two tasks add to the same number.

use super::conv::ConvShape;
use super::gemm::{Epilogue, Lhs, Mat, PackedA, Rhs, gemm};
use hetra_cpu_base::activation::{self, Activation};
use hetra_cpu_base::isa::Isa;
use hetra_cpu_base::scratch::{Shared, count, lend};
use hetra_cpu_base::threads::for_each;

/// A transposed convolution with packed weights. In its shape `c` are the channels that come in,
/// and the border is cut off the output.
pub struct PackedConvTranspose {
    isa: Isa,
    shape: ConvShape,
    output_padding: [usize; 2],
    groups: Vec<PackedA>,
    bias: Option<Vec<f32>>,
    act: Activation,
}

impl std::fmt::Debug for PackedConvTranspose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedConvTranspose").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl PackedConvTranspose {
    /// Packs `weights`, `[c, m / groups, kh, kw]`. Panics if sizes disagree.
    pub fn new(
        isa: Isa,
        shape: ConvShape,
        output_padding: [usize; 2],
        weights: &[f32],
        bias: Option<&[f32]>,
        act: Activation,
    ) -> Self {
        shape.check(weights.len());
        assert!(bias.is_none_or(|b| b.len() == shape.m), "bias of another size");
        let (cg, mg) = shape.per_group();
        let rows = mg * shape.kh * shape.kw;
        let group = |g: usize| Mat::transposed(&weights[g * cg * rows..], rows, cg);
        let groups = (0..shape.groups).map(|g| PackedA::new(isa, group(g))).collect();
        let bias = bias.map(<[f32]>::to_vec);
        PackedConvTranspose { isa, shape, output_padding, groups, bias, act }
    }

    /// The shape given to `new`.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Output height and width, or `None` if the border is larger than the output or a size is
    /// beyond any memory.
    pub fn out(&self, h: usize, w: usize) -> Option<(usize, usize)> {
        let s = &self.shape;
        let one = |n: usize, a: usize, k: usize| {
            let steps = n.checked_sub(1)?.checked_mul(s.stride[a])?;
            let taps = k.checked_sub(1)?.checked_mul(s.dilation[a])?;
            let reach = steps.checked_add(taps)?.checked_add(1)?;
            let padded = reach.checked_add(self.output_padding[a])?;
            padded.checked_sub(s.pads[a])?.checked_sub(s.pads[a + 2])
        };
        Some((one(h, 0, s.kh)?, one(w, 1, s.kw)?))
    }

    /// `out = act(conv_transpose(x) + bias)` for `n` images of `h` by `w`. Panics if a slice is
    /// too short or there is no output.
    pub fn run(&self, x: &[f32], (n, h, w): (usize, usize, usize), out: &mut [f32]) {
        let s = &self.shape;
        let (oh, ow) = self.out(h, w).expect("the caller has checked that there is an output");
        let outputs = count(&[n, s.m, oh, ow]);
        assert!(x.len() >= count(&[n, s.c, h, w]) && out.len() >= outputs, "slice too short");
        if outputs == 0 {
            return;
        }
        let (cg, mg) = s.per_group();
        let rows = mg * s.kh * s.kw;
        let out = Shared::new(out);
        let mut cols = lend(count(&[rows, h, w]));
        for part in 0..n * s.groups {
            let (i, g) = (part / s.groups, part % s.groups);
            let x = Mat::new(&x[(i * s.c + g * cg) * h * w..], cg, h * w);
            let a = Lhs::Packed(&self.groups[g]);
            gemm(self.isa, a, Rhs::View(x), &mut cols, h * w, &Epilogue::default());
            let size = oh * ow;
            for_each(mg, rows * h * w > 16 << 10, |m| {
                let channel = g * mg + m;
                // SAFETY: each task has its own output plane, and parts follow one another.
                let plane = unsafe { out.slice((i * s.m + channel) * size, size) };
                plane.fill(self.bias.as_ref().map_or(0.0, |b| b[channel]));
                let taps = s.kh * s.kw * h * w;
                self.scatter(&cols[m * taps..(m + 1) * taps], (h, w), (oh, ow), plane);
                if self.act != Activation::None {
                    activation::apply(self.isa, self.act, plane);
                }
            });
        }
    }

    fn scatter(
        &self,
        cols: &[f32],
        (h, w): (usize, usize),
        (oh, ow): (usize, usize),
        plane: &mut [f32],
    ) {
        let s = &self.shape;
        let [sh, sw] = s.stride;
        for (t, col) in cols.chunks_exact(h * w).enumerate() {
            let (ky, kx) = (t / s.kw * s.dilation[0], t % s.kw * s.dilation[1]);
            // The input columns whose output column exists: 0 <= x·sw + kx - left < ow.
            let left = s.pads[1];
            let x0 = left.saturating_sub(kx).div_ceil(sw).min(w);
            let x1 = (ow + left).saturating_sub(kx).div_ceil(sw).clamp(x0, w);
            if x0 == x1 {
                continue;
            }
            let first = x0 * sw + kx - left;
            for (y, src) in col.chunks_exact(w).enumerate() {
                let oy = (y * sh + ky).wrapping_sub(s.pads[0]);
                if oy >= oh {
                    continue;
                }
                let row = &mut plane[oy * ow + first..(oy + 1) * ow];
                if sw == 1 {
                    row.iter_mut().zip(&src[x0..x1]).for_each(|(d, v)| *d += v);
                } else {
                    row.iter_mut().step_by(sw).zip(&src[x0..x1]).for_each(|(d, v)| *d += v);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{ACTS, Rng, act64, close};

    #[test]
    fn agrees_with_the_definition() {
        let mut rng = Rng::new(3);
        for seed in 0..150 {
            let groups = [1, 1, 2, 3][rng.below(4)];
            let s = ConvShape {
                c: groups * rng.range(1, 4),
                m: groups * rng.range(1, 9),
                kh: rng.range(1, 4),
                kw: rng.range(1, 4),
                stride: [rng.range(1, 3), rng.range(1, 3)],
                dilation: [rng.range(1, 2), rng.range(1, 2)],
                pads: [rng.below(2), rng.below(3), rng.below(2), rng.below(2)],
                groups,
            };
            let (n, h, w) = (rng.range(1, 2), rng.range(1, 9), rng.range(1, 9));
            let (cg, mg) = s.per_group();
            let (x, weights) = (rng.vec(n * s.c * h * w), rng.vec(s.c * mg * s.kh * s.kw));
            let bias = rng.vec(s.m);
            let (act, extra) = (ACTS[seed % 10], [rng.below(s.stride[0]), rng.below(s.stride[1])]);
            let make = |isa| PackedConvTranspose::new(isa, s, extra, &weights, Some(&bias), act);
            let Some((oh, ow)) = make(Isa::Portable).out(h, w) else { continue };
            let mut sums: Vec<f64> = (0..n * s.m * oh * ow)
                .map(|i| f64::from(bias[i / (oh * ow).max(1) % s.m]))
                .collect();
            for (at, v) in x.iter().enumerate() {
                let (ix, iy, c, i) = (at % w, at / w % h, at / (w * h) % s.c, at / (w * h * s.c));
                for t in 0..mg * s.kh * s.kw {
                    let (kx, ky, m) = (t % s.kw, t / s.kw % s.kh, t / (s.kw * s.kh));
                    let oy = (iy * s.stride[0] + ky * s.dilation[0]).wrapping_sub(s.pads[0]);
                    let ox = (ix * s.stride[1] + kx * s.dilation[1]).wrapping_sub(s.pads[1]);
                    if oy < oh && ox < ow {
                        let m = c / cg * mg + m;
                        let wt = weights[c * mg * s.kh * s.kw + t];
                        sums[((i * s.m + m) * oh + oy) * ow + ox] += f64::from(*v) * f64::from(wt);
                    }
                }
            }
            let want: Vec<f32> = sums.iter().map(|v| act64(act, *v) as f32).collect();
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; want.len()];
                make(isa).run(&x, (n, h, w), &mut out);
                close(&out, &want, 1e-5, &format!("{isa:?} {s:?} {extra:?} {h}x{w}"));
            }
        }
    }
}
