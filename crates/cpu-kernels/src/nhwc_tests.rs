//! Convolutions with channels last against the plain loops of those with channels first.

use super::*;
use crate::conv::tests::naive;
use crate::reference::{ACTS, Rng, act64, close};
use hetra_cpu_base::threads::with;

/// `[n, c, size]` as `[n, size, c]`.
pub(crate) fn last(x: &[f32], n: usize, c: usize) -> Vec<f32> {
    let size = x.len() / (n * c).max(1);
    let at = |i: usize| i / (size * c) * size * c + i % c * size + i / c % size;
    (0..x.len()).map(|i| x[at(i)]).collect()
}

fn check(s: ConvShape, n: usize, h: usize, w: usize, seed: u64) {
    let Some((oh, ow)) = s.out(h, w) else { return };
    let mut rng = Rng::new(seed);
    let (x, weights) = (rng.vec(n * s.c * h * w), rng.vec(s.m * s.c / s.groups * s.kh * s.kw));
    let (bias, residual) = (rng.vec(s.m), rng.vec(n * s.m * oh * ow));
    let bias = (!seed.is_multiple_of(3)).then_some(&bias[..]);
    let residual = seed.is_multiple_of(2).then_some(&residual[..]);
    let act = ACTS[seed as usize % ACTS.len()];
    let mut want = last(&naive(&s, &x, (n, h, w), &weights, bias), n, s.m);
    for (i, v) in want.iter_mut().enumerate() {
        *v = act64(act, f64::from(*v + residual.map_or(0.0, |r| r[i]))) as f32;
    }
    let (planes, x) = (x.clone(), last(&x, n, s.c));
    for isa in Isa::available() {
        let packed = PackedNhwc::new(isa, s, &weights, bias, act);
        let mut out = vec![f32::NAN; want.len()];
        packed.run(Tiling::default(), &x, (n, h, w), residual, &mut out);
        close(&out, &want, 1e-4, &format!("{isa:?} {s:?} {n} {h} {w} {act:?}"));
        let mut two = vec![f32::NAN; want.len()];
        with(3, || packed.run(Tiling::default(), &x, (n, h, w), residual, &mut two));
        assert_eq!(out, two, "{isa:?} {s:?}: by three threads");
        // Other pieces, some of them absurd.
        let (mr, block) = (rng.below(20), [0, 1, 30, 400, usize::MAX][rng.below(5)]);
        let tiling = Tiling { mr, block, tasks: rng.below(9) };
        let mut cut = vec![f32::NAN; want.len()];
        with(2, || packed.run(tiling, &x, (n, h, w), residual, &mut cut));
        assert_eq!(out, cut, "{isa:?} {s:?}: {tiling:?}");
        if packed.takes_planes() {
            packed.run_planes(tiling, &planes, (n, h, w), residual, &mut cut);
            assert_eq!(out, cut, "{isa:?} {s:?}: channels first");
        }
    }
    if s.groups == 1 {
        check_bf16((s, act), &x, (n, h, w), (&weights, bias, residual));
    }
}

/// Convolutions of operands that are rounded to bf16, in all forms: right, and the same to the bit
/// on all instruction sets and threads. `x` has its channels last.
fn check_bf16(
    (s, act): (ConvShape, Activation),
    x: &[f32],
    (n, h, w): (usize, usize, usize),
    (weights, bias, residual): (&[f32], Option<&[f32]>, Option<&[f32]>),
) {
    let round = |x: &[f32]| -> Vec<f32> {
        x.iter().map(|&x| f32::from_bits(u32::from(bf16::bf16_bits(x)) << 16)).collect()
    };
    let first = |x: &[f32]| last(x, n, h * w);
    let mut want = last(&naive(&s, &first(&round(x)), (n, h, w), &round(weights), bias), n, s.m);
    for (i, v) in want.iter_mut().enumerate() {
        *v = act64(act, f64::from(*v + residual.map_or(0.0, |r| r[i]))) as f32;
    }
    for isa in Isa::available() {
        let mut same: Option<Vec<f32>> = None;
        for operands in bf16::available(isa) {
            let packed = PackedNhwc::of(isa, operands, s, weights, bias, act);
            let run = |threads: usize, tiling: Tiling| {
                let mut out = vec![f32::NAN; want.len()];
                with(threads, || packed.run(tiling, x, (n, h, w), residual, &mut out));
                out
            };
            let out = run(1, Tiling::default());
            let what = format!("{isa:?} {operands:?} {s:?} {n} {h} {w} {act:?}");
            close(&out, &want, 1e-4, &what);
            assert_eq!(out, run(3, Tiling::default()), "{what}: by three threads");
            let cut = Tiling { mr: 5, block: 30, tasks: 2 };
            assert_eq!(out, run(2, cut), "{what}: {cut:?}");
            assert!(same.as_ref().is_none_or(|same| *same == out), "{what}: other bits");
            same.get_or_insert(out);
        }
    }
}

#[test]
fn random_shapes() {
    let mut rng = Rng::new(21);
    for seed in 0..400 {
        let groups = [1, 1, 2, 3, 5][rng.below(5)];
        let s = ConvShape {
            c: groups * rng.range(1, 5),
            m: groups * rng.range(1, 37),
            kh: rng.range(1, 5),
            kw: rng.range(1, 5),
            stride: [rng.range(1, 3), rng.range(1, 3)],
            dilation: [rng.range(1, 2), rng.range(1, 3)],
            pads: [rng.below(4), rng.below(4), rng.below(3), rng.below(4)],
            groups,
        };
        check(s, rng.range(1, 2), rng.range(1, 17), rng.range(1, 23), seed);
    }
}

/// Rows of all widths about those of the kernel of rows.
#[test]
fn few_channels() {
    let mut rng = Rng::new(27);
    for seed in 0..200 {
        let s = ConvShape {
            c: rng.range(1, 17),
            m: rng.range(1, 49),
            kh: rng.range(1, 4),
            kw: 3,
            stride: [rng.range(1, 2), rng.range(1, 2)],
            dilation: [rng.range(1, 2), 1],
            pads: [rng.below(3), rng.below(3), rng.below(3), rng.below(3)],
            groups: 1,
        };
        check(s, rng.range(1, 2), rng.range(3, 9), rng.range(3, 50), seed);
    }
}

#[test]
fn depthwise() {
    let mut rng = Rng::new(22);
    for seed in 0..200 {
        let (c, k, st) = (rng.range(2, 40), rng.range(1, 5), rng.range(1, 3));
        let s = ConvShape {
            c,
            m: c,
            kh: k,
            kw: rng.range(1, 5),
            stride: [st, rng.range(1, 3)],
            dilation: [rng.range(1, 2), rng.range(1, 2)],
            pads: [rng.below(k + 2), rng.below(4), rng.below(3), rng.below(4)],
            groups: c,
        };
        check(s, rng.range(1, 2), rng.range(1, 20), rng.range(1, 20), seed);
    }
}

/// One axis: an image of height 1.
#[test]
fn signals() {
    let mut rng = Rng::new(23);
    for seed in 0..100 {
        let s = ConvShape {
            c: rng.range(1, 12),
            m: rng.range(1, 20),
            kh: 1,
            kw: rng.range(1, 5),
            stride: [1, rng.range(1, 3)],
            dilation: [1, rng.range(1, 2)],
            pads: [0, rng.below(3), 0, rng.below(3)],
            groups: 1,
        };
        check(s, rng.range(1, 3), 1, rng.range(1, 30), seed);
    }
}

#[test]
fn layers_of_real_networks() {
    let s = ConvShape {
        c: 48,
        m: 80,
        kh: 3,
        kw: 3,
        stride: [1, 1],
        dilation: [1, 1],
        pads: [1; 4],
        groups: 1,
    };
    check(s, 1, 28, 28, 1);
    check(ConvShape { c: 3, stride: [2, 2], kh: 7, kw: 7, pads: [3; 4], ..s }, 1, 40, 40, 2);
    check(ConvShape { kh: 1, kw: 1, pads: [0; 4], c: 300, m: 500, ..s }, 1, 7, 7, 4);
    check(ConvShape { c: 96, m: 96, groups: 96, ..s }, 2, 30, 30, 5);
}

/// `HETRA_BENCH=1 cargo test --release -p hetra-cpu-kernels nhwc_speed -- --nocapture`
#[test]
fn nhwc_speed() {
    if std::env::var_os("HETRA_BENCH").is_none() {
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
    let one = ConvShape { kh: 1, kw: 1, pads: [0; 4], ..base };
    let deep = |c: usize| ConvShape { c, m: c, groups: c, ..base };
    let cases = [
        ("3x3 64 56", base, 56),
        ("3x3 512 7", ConvShape { c: 512, m: 512, ..base }, 7),
        ("7x7 first", ConvShape { c: 3, kh: 7, kw: 7, stride: [2, 2], pads: [3; 4], ..base }, 224),
        ("3x3 first 24", ConvShape { c: 3, m: 24, stride: [2, 2], ..base }, 224),
        ("1x1 64-64 56", one, 56),
        ("1x1 58-58 28", ConvShape { c: 58, m: 58, ..one }, 28),
        ("1x1 116-116 14", ConvShape { c: 116, m: 116, ..one }, 14),
        ("1x1 232-232 7", ConvShape { c: 232, m: 232, ..one }, 7),
        ("1x1 512-2048 7", ConvShape { c: 512, m: 2048, ..one }, 7),
        ("1x1 256-64 56", ConvShape { c: 256, m: 64, ..one }, 56),
        ("dw 64 56", deep(64), 56),
        ("dw 128 28", deep(128), 28),
        ("dw 232 7", deep(232), 7),
        ("dw s2 128 28", ConvShape { stride: [2, 2], ..deep(128) }, 28),
        ("dw 5x5 96 28", ConvShape { kh: 5, kw: 5, pads: [2; 4], ..deep(96) }, 28),
    ];
    for (name, s, side) in cases {
        let mut rng = Rng::new(1);
        let (x, weights) =
            (rng.vec(s.c * side * side), rng.vec(s.m * s.c / s.groups * s.kh * s.kw));
        let (oh, ow) = s.out(side, side).expect("fits");
        let mut out = vec![0.0; s.m * oh * ow];
        let flops = 2.0 * (out.len() * s.c / s.groups * s.kh * s.kw) as f64;
        let isa = hetra_cpu_base::isa::isa();
        let bias = rng.vec(s.m);
        let packed = PackedNhwc::new(isa, s, &weights, Some(&bias), Activation::Relu);
        let first = crate::conv::PackedConv::new(isa, s, &weights, Some(&bias), Activation::Relu);
        let mut time = |run: &mut dyn FnMut(&mut [f32])| {
            let mut best = f64::MAX;
            for _ in 0..60 {
                let start = std::time::Instant::now();
                with(1, || run(&mut out));
                best = best.min(start.elapsed().as_secs_f64());
            }
            flops / best / 1e9
        };
        let (cut, size) = (Tiling::default(), (1, side, side));
        let last = time(&mut |out| packed.run(cut, &x, size, None, out));
        let first = time(&mut |out| first.run(&x, size, None, out));
        let forms = bf16::available(isa).into_iter().filter(|_| s.groups == 1);
        let rounded: Vec<String> = forms
            .map(|form| {
                let packed = PackedNhwc::of(isa, form, s, &weights, Some(&bias), Activation::Relu);
                let speed = time(&mut |out| packed.run(cut, &x, size, None, out));
                format!(", bf16 {form:?} {speed:7.1}")
            })
            .collect();
        #[expect(clippy::print_stdout, reason = "a measurement for a person")]
        {
            let rounded = rounded.concat();
            println!("{name:16} {last:7.1} GFLOP/s, channels first {first:7.1}{rounded}");
        }
    }
}
