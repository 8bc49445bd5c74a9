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
        let mut low = vec![half::bf16::NAN; want.len()];
        let (image, residual) = ((Numbers::F32(&x), false), residual.map(Numbers::F32));
        packed.run_from(tiling, image, (n, h, w), residual, NumbersOut::Bf16(&mut low));
        let want = out.iter().map(|&x| half::bf16::from_f32(x));
        assert!(low.into_iter().eq(want), "{isa:?} {s:?}: stored as bf16");
    }
    if s.is_depthwise() {
        let low: Vec<half::bf16> = x.iter().map(|&x| half::bf16::from_f32(x)).collect();
        let wide: Vec<f32> = low.iter().map(|x| x.to_f32()).collect();
        for isa in Isa::available() {
            let packed = PackedNhwc::new(isa, s, &weights, bias, act);
            let mut want = vec![f32::NAN; want.len()];
            packed.run(Tiling::default(), &wide, (n, h, w), residual, &mut want);
            let mut out = vec![half::bf16::NAN; want.len()];
            let (image, residual) = ((Numbers::Bf16(&low), false), residual.map(Numbers::F32));
            let stored = NumbersOut::Bf16(&mut out);
            packed.run_from(Tiling::default(), image, (n, h, w), residual, stored);
            let want: Vec<half::bf16> = want.into_iter().map(half::bf16::from_f32).collect();
            assert_eq!(out, want, "{isa:?} {s:?}: stored as bf16");
        }
    }
    if groups_round(&s, Operands::Pairs) {
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
        for operands in bf16::available(isa).into_iter().filter(|form| groups_round(&s, *form)) {
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
            if packed.takes_planes() {
                let mut turned = vec![f32::NAN; want.len()];
                packed.run_planes(cut, &first(x), (n, h, w), residual, &mut turned);
                assert_eq!(out, turned, "{what}: channels first");
            }
            if packed.takes_bf16() {
                check_stored(&packed, x, (n, h, w), (residual, &out), &what);
            }
            // Matrix registers add up in another order, and so do planes.
            if operands != Operands::Tiles && !by_planes(&s) {
                assert!(same.as_ref().is_none_or(|same| *same == out), "{what}: other bits");
                same.get_or_insert(out);
            }
        }
    }
}

/// The same with images, residuals and outputs that are stored as bf16.
fn check_stored(
    packed: &PackedNhwc,
    x: &[f32],
    size: (usize, usize, usize),
    (residual, want): (Option<&[f32]>, &[f32]),
    what: &str,
) {
    let narrow =
        |x: &[f32]| -> Vec<half::bf16> { x.iter().map(|&x| half::bf16::from_f32(x)).collect() };
    let (image, cut) = (narrow(x), Tiling::default());
    let image = (Numbers::Bf16(&image), false);
    let added = residual.map(Numbers::F32);
    let mut out = vec![half::bf16::NAN; want.len()];
    packed.run_from(cut, image, size, added, NumbersOut::Bf16(&mut out));
    assert_eq!(out, narrow(want), "{what}: stored as bf16");
    // A residual that has no more digits makes no difference of how it is stored.
    let Some(residual) = residual.map(narrow) else { return };
    let wide: Vec<f32> = residual.iter().map(|x| x.to_f32()).collect();
    let run = |added: Numbers<'_>| {
        let mut out = vec![f32::NAN; want.len()];
        packed.run_from(cut, image, size, Some(added), NumbersOut::F32(&mut out));
        out
    };
    assert_eq!(run(Numbers::F32(&wide)), run(Numbers::Bf16(&residual)), "{what}: residual");
}

#[test]
fn random_shapes() {
    let mut rng = Rng::new(21);
    for seed in 0..400 {
        let groups = [1, 1, 2, 3, 5][rng.below(5)];
        let s = ConvShape {
            c: groups * rng.range(1, 6),
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
    for seed in 0..300 {
        let (kw, most) = [(3, 49), (3, 49), (5, 18), (6, 18), (7, 18)][seed as usize % 5];
        let s = ConvShape {
            c: rng.range(1, 17),
            m: rng.range(1, most),
            kh: rng.range(1, 4),
            kw,
            stride: [rng.range(1, 2), rng.range(1, 2)],
            dilation: [rng.range(1, 2), 1],
            pads: [rng.below(3), rng.below(3), rng.below(3), rng.below(3)],
            groups: 1,
        };
        check(s, rng.range(1, 2), rng.range(3, 9), rng.range(kw, 50), seed);
    }
}

/// One tap, which reads pixels as they lie.
#[test]
fn pointwise() {
    let mut rng = Rng::new(28);
    for seed in 0..100 {
        let (kh, kw, pads) = (1, 1, [0; 4]);
        let groups = [1, 1, 2][rng.below(3)];
        let (c, m) = (groups * rng.range(1, 40), groups * rng.range(1, 70));
        let s = ConvShape { c, m, kh, kw, stride: [1; 2], dilation: [1; 2], pads, groups };
        check(s, rng.range(1, 2), rng.range(1, 12), rng.range(1, 12), seed);
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

/// Borders that are wider than windows, and rows that are longer than a copy.
#[test]
fn wide_borders_and_long_rows() {
    let (stride, dilation) = ([1, 1], [1, 1]);
    let line =
        ConvShape { c: 256, m: 256, kh: 1, kw: 3, stride, dilation, pads: [1; 4], groups: 256 };
    check(line, 1, 3, 112, 1);
    let wide = ConvShape { c: 24, m: 24, kh: 3, kw: 3, pads: [4, 3, 5, 6], groups: 24, ..line };
    check(wide, 2, 4, 5, 2);
    check(ConvShape { groups: 1, ..wide }, 2, 4, 5, 4);
    check(ConvShape { stride: [2, 3], ..wide }, 1, 1, 1, 5);
    let long = ConvShape { c: 32, m: 20, kh: 1, kw: 7, pads: [0, 3, 0, 3], groups: 1, ..line };
    check(long, 1, 1, 3000, 6);
    check(ConvShape { stride: [1, 2], dilation: [1, 3], ..long }, 1, 1, 3000, 8);
    check(ConvShape { c: 3, kh: 2, ..long }, 1, 3, 1500, 9);
}

/// Convolutions whose speed is measured, with the side of their images.
fn measured() -> Vec<(&'static str, ConvShape, usize)> {
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
    vec![
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
        ("1x1 64-64 80", one, 80),
        ("1x1 16-16 160", ConvShape { c: 16, m: 16, ..one }, 160),
        ("dw 64 80", deep(64), 80),
        ("dw 16 160", deep(16), 160),
        ("dw 64 56", deep(64), 56),
        ("dw 128 28", deep(128), 28),
        ("dw 232 7", deep(232), 7),
        ("dw s2 128 28", ConvShape { stride: [2, 2], ..deep(128) }, 28),
        ("dw 5x5 96 28", ConvShape { kh: 5, kw: 5, pads: [2; 4], ..deep(96) }, 28),
    ]
}

/// `HETRA_BENCH=1 cargo test --release -p hetra-cpu-kernels nhwc_speed -- --nocapture`, or a part
/// of the name of a case in the place of 1.
#[test]
fn nhwc_speed() {
    let Ok(wanted) = std::env::var("HETRA_BENCH") else { return };
    for (name, s, side) in measured() {
        if wanted != "1" && !name.contains(&wanted) {
            continue;
        }
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
        let outputs = out.len();
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
        let operands = if s.groups == 1 { bf16::operands(isa) } else { bf16::Operands::F32 };
        let packed = PackedNhwc::of(isa, operands, s, &weights, Some(&bias), Activation::Relu);
        let low: Vec<half::bf16> = x.iter().map(|&x| half::bf16::from_f32(x)).collect();
        let mut low_out = vec![half::bf16::ZERO; outputs];
        let stored = match packed.takes_bf16() {
            true => time(&mut |_| {
                let out = NumbersOut::Bf16(&mut low_out);
                packed.run_from(cut, (Numbers::Bf16(&low), false), size, None, out);
            }),
            false => f64::NAN,
        };
        #[expect(clippy::print_stdout, reason = "a measurement for a person")]
        {
            let rounded = rounded.concat();
            let all = format!("channels first {first:7.1}{rounded}, stored {stored:7.1}");
            println!("{name:16} {last:7.1} GFLOP/s, {all}");
        }
    }
}
