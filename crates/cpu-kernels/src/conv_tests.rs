//! Convolutions against seven plain loops.

use super::*;
use crate::reference::{ACTS, Rng, act64, close};
use hetra_cpu_base::threads::with;

/// The definition.
pub(crate) fn naive(
    s: &ConvShape,
    x: &[f32],
    (n, h, w): (usize, usize, usize),
    weights: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let (oh, ow) = s.out(h, w).expect("fits");
    let (cg, mg) = s.per_group();
    let mut out = Vec::new();
    for (i, m, y, z) in (0..n).flat_map(|i| {
        (0..s.m).flat_map(move |m| (0..oh).flat_map(move |y| (0..ow).map(move |z| (i, m, y, z))))
    }) {
        let mut sum = bias.map_or(0.0, |b| f64::from(b[m]));
        for c in 0..cg {
            for ky in 0..s.kh {
                for kx in 0..s.kw {
                    let iy = (y * s.stride[0] + ky * s.dilation[0]).wrapping_sub(s.pads[0]);
                    let ix = (z * s.stride[1] + kx * s.dilation[1]).wrapping_sub(s.pads[1]);
                    if iy < h && ix < w {
                        let v = x[((i * s.c + m / mg * cg + c) * h + iy) * w + ix];
                        let k = weights[((m * cg + c) * s.kh + ky) * s.kw + kx];
                        sum += f64::from(v) * f64::from(k);
                    }
                }
            }
        }
        out.push(sum as f32);
    }
    out
}

fn check_conv(s: ConvShape, n: usize, h: usize, w: usize, seed: u64) {
    let Some((oh, ow)) = s.out(h, w) else { return };
    let mut rng = Rng::new(seed);
    let (x, weights) = (rng.vec(n * s.c * h * w), rng.vec(s.m * s.c / s.groups * s.kh * s.kw));
    let (bias, residual) = (rng.vec(s.m), rng.vec(n * s.m * oh * ow));
    let bias = (!seed.is_multiple_of(3)).then_some(&bias[..]);
    let residual = seed.is_multiple_of(2).then_some(&residual[..]);
    let act = ACTS[seed as usize % ACTS.len()];
    let mut want = naive(&s, &x, (n, h, w), &weights, bias);
    for (i, v) in want.iter_mut().enumerate() {
        *v = act64(act, f64::from(*v + residual.map_or(0.0, |r| r[i]))) as f32;
    }
    for isa in Isa::available() {
        let mut out = vec![f32::NAN; want.len()];
        PackedConv::new(isa, s, &weights, bias, act).run(&x, (n, h, w), residual, &mut out);
        close(&out, &want, 1e-4, &format!("{isa:?} {s:?} {n} {h} {w} {act:?}"));
    }
}

#[test]
fn random_shapes() {
    let mut rng = Rng::new(11);
    for seed in 0..300 {
        let groups = [1, 1, 2, 3, 5][rng.below(5)];
        let s = ConvShape {
            c: groups * rng.range(1, 5),
            m: groups * rng.range(1, 17),
            kh: rng.range(1, 5),
            kw: rng.range(1, 5),
            stride: [rng.range(1, 3), rng.range(1, 3)],
            dilation: [rng.range(1, 2), rng.range(1, 3)],
            pads: [rng.below(4), rng.below(4), rng.below(3), rng.below(4)],
            groups,
        };
        check_conv(s, rng.range(1, 2), rng.range(1, 17), rng.range(1, 23), seed);
    }
}

#[test]
fn depthwise_and_pointwise() {
    let mut rng = Rng::new(12);
    for seed in 0..80 {
        let (c, k, st) = (rng.range(2, 7), rng.range(1, 5), rng.range(1, 2));
        let mut s = ConvShape {
            c,
            m: c * rng.range(1, 3),
            kh: k,
            kw: k,
            stride: [st, st],
            dilation: [1, 1],
            pads: [k / 2; 4],
            groups: c,
        };
        check_conv(s, 1, rng.range(1, 40), rng.range(1, 40), seed);
        s = ConvShape { kh: 1, kw: 1, stride: [1, 1], pads: [0; 4], groups: 1, ..s };
        check_conv(s, 2, rng.range(1, 20), rng.range(1, 20), seed);
    }
}

#[test]
fn layers_of_real_networks() {
    let s = ConvShape {
        c: 64,
        m: 64,
        kh: 3,
        kw: 3,
        stride: [1, 1],
        dilation: [1, 1],
        pads: [1; 4],
        groups: 1,
    };
    check_conv(s, 1, 28, 28, 4);
    check_conv(ConvShape { c: 3, kh: 7, kw: 7, stride: [2, 2], pads: [3; 4], ..s }, 1, 45, 61, 1);
    check_conv(ConvShape { kh: 1, kw: 1, stride: [2, 2], pads: [0; 4], ..s }, 1, 28, 28, 3);
    check_conv(ConvShape { groups: 32, ..s }, 2, 14, 14, 2);
    check_conv(ConvShape { c: 256, m: 256, ..s }, 1, 7, 7, 5);
}

/// `HETRA_BENCH=1 cargo test --release conv_speed -- --nocapture`.
#[test]
fn conv_speed() {
    if std::env::var("HETRA_BENCH").is_err() {
        return;
    }
    let base = ConvShape {
        c: 64,
        m: 64,
        kh: 3,
        kw: 3,
        stride: [1, 1],
        dilation: [1, 1],
        pads: [1; 4],
        groups: 1,
    };
    let shapes = [
        ("3x3 64", base, 56),
        ("3x3 256", ConvShape { c: 256, m: 256, ..base }, 14),
        ("1x1 256-64", ConvShape { c: 256, kh: 1, kw: 1, pads: [0; 4], ..base }, 56),
        ("7x7/2 3-64", ConvShape { c: 3, kh: 7, kw: 7, stride: [2, 2], pads: [3; 4], ..base }, 224),
        ("dw 3x3 144", ConvShape { c: 144, m: 144, groups: 144, ..base }, 56),
        ("dw 3x3/2 144", ConvShape { c: 144, m: 144, groups: 144, stride: [2, 2], ..base }, 56),
    ];
    for (name, s, h) in shapes {
        let mut rng = Rng::new(1);
        let (oh, ow) = s.out(h, h).expect("fits");
        let (x, wt) = (rng.vec(s.c * h * h), rng.vec(s.m * s.c / s.groups * s.kh * s.kw));
        let mut out = vec![0.0; s.m * oh * ow];
        for isa in Isa::available() {
            let conv = PackedConv::new(isa, s, &wt, None, Activation::Relu);
            let mut run = || {
                let t = std::time::Instant::now();
                conv.run(&x, (1, h, h), None, &mut out);
                t.elapsed().as_secs_f64()
            };
            let best = with(1, || (0..20).map(|_| run()).fold(f64::MAX, f64::min));
            let gf = 2e-9 * (out.len() * s.c / s.groups * s.kh * s.kw) as f64 / best;
            #[expect(clippy::print_stdout, reason = "a measurement for a person")]
            {
                println!("{isa:?} {name} on 1: {gf:.1} GFLOP/s, {:.0} us", best * 1e6);
            }
        }
    }
}
