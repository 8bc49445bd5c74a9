//! Convolution of volumes (three spatial axes).
//!
//! As `conv`: an implicit matrix product over a padded copy. Each depth of a channel is a padded
//! plane, and planes of border stand before and after them, so that a tap is a fixed offset in
//! depth, too, and one product makes all output depths.

use super::conv::{ConvShape, Grid, Patches};
use super::gemm::{Bias, Epilogue, Lhs, Mat, PackedA, Rhs, gemm};
use super::image::{Layout, SLACK};
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::Isa;
use hetra_cpu_base::scratch::{Shared, count, lend};
use hetra_cpu_base::threads::{for_each, threads};

/// What a convolution does along the depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Taps.
    pub kernel: usize,
    /// Steps; at least 1.
    pub stride: usize,
    /// Distance between taps; at least 1.
    pub dilation: usize,
    /// Border: front, back.
    pub pads: [usize; 2],
}

impl Depth {
    /// Output depths for `d` input depths; as `ConvShape::out`.
    pub fn out(&self, d: usize) -> Option<usize> {
        let reach = self.kernel.checked_sub(1)?.checked_mul(self.dilation)?.checked_add(1)?;
        let padded = d.checked_add(self.pads[0])?.checked_add(self.pads[1])?;
        Some(padded.checked_sub(reach)?.checked_div(self.stride)? + 1)
    }
}

/// Weights in kernel order.
pub struct PackedVolume {
    isa: Isa,
    groups: Vec<PackedA>,
}

impl PackedVolume {
    /// Packs `weights`, `m` rows of as many numbers each, in groups. Panics if sizes disagree.
    pub fn new(isa: Isa, weights: &[f32], m: usize, groups: usize) -> Self {
        assert!(m > 0 && groups > 0 && m.is_multiple_of(groups), "bad groups");
        assert!(weights.len().is_multiple_of(m), "weights of another size");
        let (rows, k) = (m / groups, weights.len() / m);
        let group = |g: usize| PackedA::new(isa, Mat::new(&weights[g * rows * k..], rows, k));
        PackedVolume { isa, groups: (0..groups).map(group).collect() }
    }
}

/// A convolution without its weights.
#[derive(Clone, Copy, Debug)]
pub struct VolumeConv<'a> {
    /// All but the depth.
    pub plane: ConvShape,
    /// The depth.
    pub depth: Depth,
    /// A number for each output channel.
    pub bias: Option<&'a [f32]>,
    /// Numbers to add, with the layout of the output.
    pub residual: Option<&'a [f32]>,
    /// Function applied last.
    pub act: Activation,
}

/// `out = act(conv(x) + bias + residual)` for `n` volumes of `[d, h, w]`. Panics if a slice is too
/// short, weights are of another size, or the kernel does not fit the volume.
pub fn conv_volume(
    weights: &PackedVolume,
    conv: &VolumeConv<'_>,
    x: &[f32],
    (n, [d, h, w]): (usize, [usize; 3]),
    out: &mut [f32],
) {
    let s = &conv.plane;
    let layout = Layout::new(s, h, w).expect("the caller has checked that the kernel fits");
    let od = conv.depth.out(d).expect("the caller has checked that the kernel fits");
    let (cg, mg) = s.per_group();
    let terms = count(&[cg, conv.depth.kernel, s.kh, s.kw]);
    let fits = |a: &PackedA| a.rows() == mg && a.cols() == terms;
    assert!(weights.groups.len() == s.groups && weights.groups.iter().all(fits), "weights");
    let (size, volume) = (count(&[od, layout.oh, layout.ow]), count(&[d, h, w]));
    let outputs = count(&[n, s.m, size]);
    assert!(x.len() >= count(&[n, s.c, volume]) && out.len() >= outputs, "slice too short");
    assert!(conv.residual.is_none_or(|r| r.len() >= outputs), "residual too short");
    assert!(conv.bias.is_none_or(|b| b.len() == s.m), "bias of another size");
    if outputs == 0 {
        return;
    }
    let out = Shared::new(out);
    // Several parts: one task each, if that fills the threads; each may split further.
    let parts = n * s.groups;
    let parallel = parts >= threads() && count(&[parts, mg, size, terms]) > 256 << 10;
    for_each(parts, parallel, |p| {
        let (i, g) = (p / s.groups, p % s.groups);
        let at = (i * s.m + g * mg) * size;
        let x = &x[(i * s.c + g * cg) * volume..][..cg * volume];
        let ep = Epilogue {
            bias: conv.bias.map_or(Bias::None, |b| Bias::Row(&b[g * mg..])),
            residual: conv.residual.map(|r| (&r[at..], size)),
            act: conv.act,
            ..Epilogue::default()
        };
        // SAFETY: each part has its own channels of its own volume.
        let out = unsafe { out.slice(at, mg * size) };
        one(weights.isa, &weights.groups[g], (conv, &layout, od), (x, d), out, &ep);
    });
}

fn one(
    isa: Isa,
    a: &PackedA,
    (conv, layout, od): (&VolumeConv<'_>, &Layout, usize),
    (x, d): (&[f32], usize),
    out: &mut [f32],
    ep: &Epilogue<'_>,
) {
    let (depth, cg) = (&conv.depth, conv.plane.per_group().0);
    // Depths that some tap reads, border and all.
    let planes = (od - 1) * depth.stride + (depth.kernel - 1) * depth.dilation + 1;
    let mut image = lend(count(&[cg, planes, layout.plane]) + SLACK);
    let from = x.len() / (cg * d).max(1);
    let shared = Shared::new(&mut image);
    for_each(cg * planes, cg * planes * layout.plane > 16 << 10, |p| {
        let (c, z) = (p / planes, p % planes);
        // SAFETY: each depth of each channel has its own plane.
        let plane = unsafe { shared.slice(p * layout.plane, layout.plane) };
        match z.checked_sub(depth.pads[0]).filter(|z| *z < d) {
            Some(z) => layout.fill(isa, &x[(c * d + z) * from..][..from], 0.0, plane),
            None => plane.fill(0.0),
        }
    });
    let taps = layout.taps();
    let mut offsets = Vec::with_capacity(a.cols());
    for (c, k) in (0..cg).flat_map(|c| (0..depth.kernel).map(move |k| (c, k))) {
        let plane = (c * planes + k * depth.dilation) * layout.plane;
        offsets.extend(taps.iter().map(|tap| plane + tap));
    }
    let size = od * layout.oh * layout.ow;
    let grid = Grid { size, plane_step: depth.stride * layout.plane, ..Grid::of(layout) };
    let patches = Patches { isa, image: &image, offsets: &offsets, grid };
    gemm(isa, Lhs::Packed(a), Rhs::Panels(a.cols(), size, &patches), out, size, ep);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Rng, close};

    /// The definition; sums in f64.
    fn naive(
        conv: &VolumeConv<'_>,
        x: &[f32],
        (n, [d, h, w]): (usize, [usize; 3]),
        weights: &[f32],
    ) -> Vec<f32> {
        let (s, z) = (&conv.plane, &conv.depth);
        let ((oh, ow), od) = (s.out(h, w).expect("fits"), z.out(d).expect("fits"));
        let (cg, mg) = s.per_group();
        let terms = cg * z.kernel * s.kh * s.kw;
        let place =
            |o: usize, stride: usize, t: usize, dilation: usize, pad: usize, have: usize| {
                (o * stride + t * dilation).checked_sub(pad).filter(|at| *at < have)
            };
        let mut out = Vec::new();
        for at in 0..n * s.m * od * oh * ow {
            let (ox, oy, oz) = (at % ow, at / ow % oh, at / ow / oh % od);
            let (m, i) = (at / ow / oh / od % s.m, at / ow / oh / od / s.m);
            let mut sum = f64::from(conv.bias.map_or(0.0, |b| b[m]));
            for t in 0..terms {
                let (kx, ky) = (t % s.kw, t / s.kw % s.kh);
                let (kz, c) = (t / s.kw / s.kh % z.kernel, t / s.kw / s.kh / z.kernel);
                let (Some(iz), Some(iy), Some(ix)) = (
                    place(oz, z.stride, kz, z.dilation, z.pads[0], d),
                    place(oy, s.stride[0], ky, s.dilation[0], s.pads[0], h),
                    place(ox, s.stride[1], kx, s.dilation[1], s.pads[1], w),
                ) else {
                    continue;
                };
                let from = (((i * s.c + m / mg * cg + c) * d + iz) * h + iy) * w + ix;
                sum += f64::from(x[from]) * f64::from(weights[m * terms + t]);
            }
            out.push(sum as f32 + conv.residual.map_or(0.0, |r| r[at]));
        }
        out
    }

    #[test]
    fn agrees_with_the_definition() {
        let mut rng = Rng::new(5);
        let mut done = 0;
        for t in 0..80 {
            let groups = rng.range(1, 3);
            let plane = ConvShape {
                c: groups * rng.range(1, 3),
                m: groups * rng.range(1, 5),
                kh: rng.range(1, 3),
                kw: rng.range(1, 3),
                stride: [rng.range(1, 2), rng.range(1, 3)],
                dilation: [rng.range(1, 2), rng.range(1, 2)],
                pads: [rng.below(3), rng.below(3), rng.below(3), rng.below(3)],
                groups,
            };
            let depth = Depth {
                kernel: rng.range(1, 3),
                stride: rng.range(1, 2),
                dilation: rng.range(1, 2),
                pads: [rng.below(3), rng.below(3)],
            };
            let (n, d, h, w) =
                (rng.range(1, 2), rng.range(1, 6), rng.range(1, 9), rng.range(1, 20));
            let (Some((oh, ow)), Some(od)) = (plane.out(h, w), depth.out(d)) else { continue };
            let x = rng.vec(n * plane.c * d * h * w);
            let terms = plane.c / groups * depth.kernel * plane.kh * plane.kw;
            let (weights, bias) = (rng.vec(plane.m * terms), rng.vec(plane.m));
            let residual = rng.vec(n * plane.m * od * oh * ow);
            let conv = VolumeConv {
                plane,
                depth,
                bias: (t % 2 == 0).then_some(&bias),
                residual: (t % 3 == 0).then_some(&residual),
                act: Activation::None,
            };
            let want = naive(&conv, &x, (n, [d, h, w]), &weights);
            for isa in Isa::available() {
                let packed = PackedVolume::new(isa, &weights, plane.m, groups);
                let mut out = vec![f32::NAN; want.len()];
                conv_volume(&packed, &conv, &x, (n, [d, h, w]), &mut out);
                close(&out, &want, 1e-4, &format!("{isa:?} {plane:?} {depth:?} {n} {d} {h} {w}"));
            }
            done += 1;
        }
        assert!(done > 40, "{done} of the shapes fit");
    }
}
