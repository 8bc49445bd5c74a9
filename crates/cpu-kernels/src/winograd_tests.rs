//! Winograd convolutions against the plain loops, and their error and speed beside the direct
//! kernel's.

use super::*;
use crate::conv::tests::naive;
use crate::nhwc::PackedNhwc;
use crate::nhwc::tests::last;
use crate::reference::{ACTS, Rng, act64};
use hetra_cpu_base::simd::Portable;
use hetra_cpu_base::threads::with;

const SQUARES: [Square; 2] = [Square::Two, Square::Four];

fn shape(c: usize, m: usize, pads: [usize; 4]) -> ConvShape {
    ConvShape { c, m, kh: 3, kw: 3, stride: [1, 1], dilation: [1, 1], pads, groups: 1 }
}

fn abs(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| x.abs()).collect()
}

/// On all instruction sets, by one to three threads.
fn check(s: ConvShape, (n, h, w): (usize, usize, usize), seed: u64) {
    let Some((oh, ow)) = s.out(h, w) else { return };
    let mut rng = Rng::new(seed);
    let (x, weights) = (rng.vec(n * s.c * h * w), rng.vec(s.m * s.c * 9));
    let (bias, residual) = (rng.vec(s.m), rng.vec(n * s.m * oh * ow));
    let bias = (!seed.is_multiple_of(3)).then_some(&bias[..]);
    let residual = seed.is_multiple_of(2).then_some(&residual[..]);
    let act = ACTS[seed as usize % ACTS.len()];
    let sums = last(&naive(&s, &x, (n, h, w), &weights, bias), n, s.m);
    let positive = bias.map(abs);
    // The error of an output at the edge is that of its whole tile, which may have more inputs.
    let terms = naive(&s, &abs(&x), (n, h, w), &abs(&weights), positive.as_deref());
    let most = 2e-6 * (terms.into_iter().fold(1.0, f32::max) + 1.0);
    let add = |i: usize| f64::from(residual.map_or(0.0, |r| r[i]));
    let want: Vec<f64> = (0..sums.len()).map(|i| act64(act, f64::from(sums[i]) + add(i))).collect();
    let x = last(&x, n, s.c);
    for (isa, square) in Isa::available().into_iter().flat_map(|isa| SQUARES.map(|q| (isa, q))) {
        let what = format!("{isa:?} {square:?} {s:?} {n} {h} {w} {act:?}");
        let packed = PackedWinograd::new(isa, square, s, &weights, bias, act);
        let run = |threads, tiling| {
            let mut out = vec![f32::NAN; want.len()];
            with(threads, || packed.run(tiling, &x, (n, h, w), residual, &mut out));
            out
        };
        let out = run(1, Tiling::default());
        for (i, got) in out.iter().enumerate() {
            let error = (f64::from(*got) - want[i]).abs();
            assert!(error <= f64::from(most), "{what}: [{i}] {got} not {}", want[i]);
        }
        for threads in [2, 3] {
            assert_eq!(out, run(threads, Tiling::default()), "{what}: by {threads} threads");
        }
        // Other pieces, some of them absurd.
        let (mr, block) = (rng.below(20), [0, 1, 30, 400, usize::MAX][rng.below(5)]);
        let tiling = Tiling { mr, block, tasks: rng.below(9) };
        assert_eq!(out, run(2, tiling), "{what}: {tiling:?}");
    }
}

/// Points, outputs: the definition along one axis.
fn check_points<P: Points<N, M>, const N: usize, const M: usize>() {
    let (s, mut rng) = (Portable::new(), Rng::new(5));
    for _ in 0..100 {
        let (d, g) = (rng.vec(N), rng.vec(3));
        let at = P::input(s, std::array::from_fn(|i| s.splat(d[i])));
        let taps = P::taps(std::array::from_fn(|i| f64::from(g[i])));
        let out = P::output(s, std::array::from_fn(|i| s.mul(at[i], s.splat(taps[i] as f32))));
        for (i, out) in out.into_iter().enumerate() {
            let want: f32 = (0..3).map(|k| d[i + k] * g[k]).sum();
            assert!((s.to_array(out)[0] - want).abs() < 2e-6, "{N} {i}");
        }
    }
}

#[test]
fn products_at_points_are_correlations() {
    check_points::<Two, 4, 2>();
    check_points::<Four, 6, 4>();
}

#[test]
fn random_shapes() {
    let mut rng = Rng::new(31);
    for seed in 0..150 {
        let pads = [rng.below(4), rng.below(4), rng.below(3), rng.below(4)];
        let s = shape(rng.range(1, 40), rng.range(1, 70), pads);
        check(s, (rng.range(1, 3), rng.range(1, 19), rng.range(1, 23)), seed);
    }
}

#[test]
fn hard_shapes() {
    check(shape(3, 5, [1; 4]), (1, 1, 1), 1);
    check(shape(16, 32, [1; 4]), (3, 1, 1), 2);
    check(shape(1, 1, [0; 4]), (1, 3, 3), 3);
    check(shape(17, 33, [0, 2, 1, 0]), (3, 13, 17), 4);
    check(shape(64, 31, [9, 0, 0, 7]), (1, 2, 11), 5);
    check(shape(0, 7, [1; 4]), (2, 5, 5), 6);
    check(shape(7, 8, [1; 4]), (0, 5, 5), 7);
}

/// Blocks of several tiles, and both ways to share them among threads.
#[test]
fn layers_of_real_networks() {
    check(shape(64, 64, [1; 4]), (1, 28, 28), 8);
    check(shape(130, 96, [1; 4]), (1, 14, 14), 9);
    check(shape(96, 208, [1; 4]), (2, 7, 7), 17);
    check(shape(24, 24, [1; 4]), (1, 40, 41), 14);
}

/// A sum of twelve uniform numbers.
fn normal(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.vec(12).iter().sum::<f32>() / 2.0).collect()
}

/// The errors that the documentation of [`PackedWinograd`] states.
#[test]
fn errors_are_as_stated() {
    let (s, h, w) = (shape(64, 32, [0; 4]), 22, 22);
    let mut rng = Rng::new(41);
    let (x, weights) = (normal(&mut rng, s.c * h * w), normal(&mut rng, s.m * s.c * 9));
    let last_x = last(&x, 1, s.c);
    let terms = last(&naive(&s, &abs(&x), (1, h, w), &abs(&weights), None), 1, s.m);
    let want = last(&naive(&s, &x, (1, h, w), &weights, None), 1, s.m);
    let error = |out: &[f32]| {
        let one = |i: usize| f64::from((out[i] - want[i]).abs()) / f64::from(terms[i]);
        (0..out.len()).map(one).fold(0.0, f64::max)
    };
    let none = Activation::None;
    for isa in Isa::available() {
        let mut out = vec![f32::NAN; want.len()];
        let usual = Tiling::default();
        PackedNhwc::new(isa, s, &weights, None, none).run(
            usual,
            &last_x,
            (1, h, w),
            None,
            &mut out,
        );
        assert!(error(&out) < 5e-7, "direct: {}", error(&out));
        for (square, most) in [(Square::Two, 3e-7), (Square::Four, 1e-6)] {
            let packed = PackedWinograd::new(isa, square, s, &weights, None, none);
            packed.run(usual, &last_x, (1, h, w), None, &mut out);
            assert!(error(&out) < most, "{square:?}: {}", error(&out));
        }
    }
}

/// Layers and what was the fastest by far, or not slower by far.
#[test]
fn the_fast_form_is_taken() {
    let best = |c, m, side| pays(&shape(c, m, [1; 4]), side, side);
    assert_eq!(best(64, 64, 56), Some(Square::Four));
    assert_eq!(best(128, 128, 28), Some(Square::Four));
    assert_eq!(best(16, 32, 160), Some(Square::Four));
    assert_eq!(best(256, 256, 14), Some(Square::Two));
    assert_eq!(best(512, 512, 7), None);
    assert_eq!(best(3, 32, 224), None);
    assert_eq!(best(0, 8, 8), None);
    let strided = ConvShape { stride: [2, 1], ..shape(64, 64, [1; 4]) };
    assert_eq!(pays(&strided, 56, 56), None);
    assert_eq!(pays(&shape(64, 64, [0; 4]), 2, 56), None);
}

/// `HETRA_BENCH=1 cargo test --release -p hetra-cpu-kernels winograd_speed -- --nocapture`
#[test]
fn winograd_speed() {
    if std::env::var_os("HETRA_BENCH").is_none() {
        return;
    }
    let cases = [
        (64, 64, 56),
        (128, 128, 28),
        (256, 256, 14),
        (512, 512, 7),
        (32, 32, 80),
        (16, 32, 160),
        (96, 208, 14),
        (48, 192, 27),
        (64, 256, 13),
        (24, 24, 40),
    ];
    for (c, m, side) in cases {
        let (s, mut rng, isa) = (shape(c, m, [1; 4]), Rng::new(1), hetra_cpu_base::isa::isa());
        let (x, weights, bias) = (rng.vec(c * side * side), rng.vec(m * c * 9), rng.vec(m));
        let mut out = vec![0.0; m * side * side];
        let flops = 2.0 * (out.len() * c * 9) as f64;
        let mut time = |run: &dyn Fn(&mut [f32])| {
            let mut best = f64::MAX;
            for _ in 0..60 {
                let start = std::time::Instant::now();
                with(1, || run(&mut out));
                best = best.min(start.elapsed().as_secs_f64());
            }
            flops / best / 1e9
        };
        let (size, act) = ((1, side, side), Activation::Relu);
        let direct = PackedNhwc::new(isa, s, &weights, Some(&bias), act);
        let direct = time(&|out| direct.run(Tiling::default(), &x, size, None, out));
        let [two, four] = SQUARES.map(|square| {
            let packed = PackedWinograd::new(isa, square, s, &weights, Some(&bias), act);
            time(&|out| packed.run(Tiling::default(), &x, size, None, out))
        });
        #[expect(clippy::print_stdout, reason = "a measurement for a person")]
        {
            println!(
                "{c:4} to {m:4} at {side:3}: {direct:7.1} GFLOP/s, 2x2 {two:7.1}, 4x4 {four:7.1}"
            );
        }
    }
}
