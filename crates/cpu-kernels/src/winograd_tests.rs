//! Winograd convolutions against the plain loops, and their error and speed beside the direct
//! kernel's.

use super::*;
use crate::bf16;
use crate::conv::tests::naive;
use crate::nhwc::PackedNhwc;
use crate::nhwc::tests::last;
use crate::reference::{ACTS, Rng, act64};
use crate::winograd_transform::{input_square, output_square};
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
        let packed = PackedWinograd::new(isa, Operands::F32, square, s, &weights, bias, act);
        let run = |threads, tiling| {
            let mut out = vec![f32::NAN; want.len()];
            let (x, residual) = (Numbers::F32(&x), residual.map(Numbers::F32));
            let to = NumbersOut::F32(&mut out);
            with(threads, || packed.run(tiling, x, (n, h, w), residual, to));
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

/// The plain sum over channels, in f64, of what their tiles give: with transformed inputs and taps
/// rounded to bf16.
fn rounded(
    s: &ConvShape,
    x: &[f32],
    (n, h, w): (usize, usize, usize),
    weights: &[f32],
) -> Vec<f64> {
    let ((oh, ow), token) = (s.out(h, w).expect("fits"), Portable::new());
    let bf16 = |x: f32| half::bf16::from_f32(x).to_f32();
    let mut out = vec![0.0; n * oh * ow * s.m];
    for (image, ty, tx, c) in (0..n).flat_map(|n| {
        let tiles = move |y| (0..ow.div_ceil(2)).map(move |x| (y, x));
        let all = (0..oh.div_ceil(2)).flat_map(tiles);
        all.flat_map(move |(y, x)| (0..s.c).map(move |c| (n, y, x, c)))
    }) {
        let at = |i: usize, j: usize| {
            let y = (2 * ty + i).wrapping_sub(s.pads[0]);
            let x_at = (2 * tx + j).wrapping_sub(s.pads[1]);
            let inside = y < h && x_at < w;
            if inside { x[((image * h + y) * w + x_at) * s.c + c] } else { 0.0 }
        };
        let square = std::array::from_fn(|i| std::array::from_fn(|j| token.splat(at(i, j))));
        let square = input_square::<_, Two, 4, 2>(token, square);
        for m in 0..s.m {
            let taps = taps_square::<Two, 4, 2>(&weights[(m * s.c + c) * 9..][..9]);
            let product = |i: usize, j: usize| {
                let x = bf16(token.to_array(square[i][j])[0]);
                token.splat(x * bf16(taps[i][j] as f32))
            };
            let products = std::array::from_fn(|i| std::array::from_fn(|j| product(i, j)));
            let outputs = output_square::<_, Two, 4, 2>(token, products);
            for (i, row) in outputs.iter().enumerate().take(oh - 2 * ty) {
                for (j, v) in row.iter().enumerate().take(ow - 2 * tx) {
                    let to = ((image * oh + 2 * ty + i) * ow + 2 * tx + j) * s.m + m;
                    out[to] += f64::from(token.to_array(*v)[0]);
                }
            }
        }
    }
    out
}

/// Operands rounded to bf16, with images stored as f32 and as bf16, where there are instructions.
#[test]
fn rounded_operands() {
    let isa = hetra_cpu_base::isa::isa();
    if bf16::operands(isa) != Operands::Pairs {
        return;
    }
    let mut rng = Rng::new(37);
    for seed in 0..60 {
        let s = shape(rng.range(1, 70), rng.range(1, 40), [1, rng.below(3), 1, 1]);
        let (n, h, w) = (rng.range(1, 2), rng.range(2, 13), rng.range(2, 17));
        let Some((oh, ow)) = s.out(h, w) else { continue };
        let low = |x: &[f32]| x.iter().map(|&x| half::bf16::from_f32(x)).collect::<Vec<_>>();
        let wide = |x: &[half::bf16]| x.iter().map(|x| x.to_f32()).collect::<Vec<_>>();
        let (x, residual) = (low(&rng.vec(n * h * w * s.c)), low(&rng.vec(n * oh * ow * s.m)));
        let (f32_x, f32_residual) = (wide(&x), wide(&residual));
        let (weights, bias) = (rng.vec(s.m * s.c * 9), rng.vec(s.m));
        let act = ACTS[seed % ACTS.len()];
        let sums = rounded(&s, &f32_x, (n, h, w), &weights);
        let packed =
            PackedWinograd::new(isa, Operands::Pairs, Square::Two, s, &weights, Some(&bias), act);
        let most = 1e-5 * (s.c * 9) as f64 + 1e-5;
        for (stored, adds) in [(false, false), (true, seed % 2 == 0)] {
            let what = format!("{s:?} {n} {h} {w} {act:?} {stored} {adds}");
            let (size, mut out) = ((n, h, w), vec![f32::NAN; sums.len()]);
            let mut low_out = vec![half::bf16::NAN; sums.len()];
            let from = if stored { Numbers::Bf16(&x) } else { Numbers::F32(&f32_x) };
            let added = adds.then_some(Numbers::Bf16(&residual));
            let to = NumbersOut::F32(&mut out);
            with(2, || packed.run(Tiling::default(), from, size, added, to));
            let to = NumbersOut::Bf16(&mut low_out);
            with(1, || packed.run(Tiling::default(), from, size, added, to));
            for (i, (got, low)) in out.iter().zip(&low_out).enumerate() {
                let add = f64::from(if adds { f32_residual[i] } else { 0.0 });
                let want = act64(act, sums[i] + f64::from(bias[i % s.m]) + add);
                let error = (f64::from(*got) - want).abs();
                assert!(error <= most, "{what}: {got} not {want}");
                assert_eq!(half::bf16::from_f32(*got), *low, "{what}: stored");
            }
        }
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
    let from = Numbers::F32(&last_x);
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
            let packed = PackedWinograd::new(isa, Operands::F32, square, s, &weights, None, none);
            packed.run(usual, from, (1, h, w), None, NumbersOut::F32(&mut out));
            assert!(error(&out) < most, "{square:?}: {}", error(&out));
        }
        if bf16::operands(isa) == Operands::Pairs {
            let packed =
                PackedWinograd::new(isa, Operands::Pairs, Square::Two, s, &weights, None, none);
            packed.run(usual, from, (1, h, w), None, NumbersOut::F32(&mut out));
            assert!(error(&out) < 1.5e-3, "rounded: {}", error(&out));
        }
    }
}

/// Layers and what was the fastest by far, or not slower by far.
#[test]
fn the_fast_form_is_taken() {
    let by = |operands| move |c, m, side| pays(&shape(c, m, [1; 4]), operands, side, side);
    let best = by(Operands::Pairs);
    assert_eq!(best(64, 64, 56), Some(Square::Two));
    assert_eq!(best(512, 512, 7), Some(Square::Two));
    assert_eq!(best(96, 24, 80), Some(Square::Two));
    assert_eq!(best(24, 96, 20), None);
    assert_eq!(best(16, 64, 55), None);
    assert_eq!(by(Operands::Tiles)(64, 64, 56), None);
    let best = by(Operands::F32);
    assert_eq!(best(64, 64, 56), Some(Square::Four));
    assert_eq!(best(128, 128, 28), Some(Square::Four));
    assert_eq!(best(16, 32, 160), Some(Square::Four));
    assert_eq!(best(256, 256, 14), Some(Square::Two));
    assert_eq!(best(512, 512, 7), Some(Square::Two));
    assert_eq!(best(3, 32, 224), None);
    assert_eq!(best(0, 8, 8), None);
    let strided = ConvShape { stride: [2, 1], ..shape(64, 64, [1; 4]) };
    assert_eq!(pays(&strided, Operands::F32, 56, 56), None);
    assert_eq!(pays(&shape(64, 64, [0; 4]), Operands::F32, 2, 56), None);
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
        (96, 24, 40),
        (24, 96, 20),
    ];
    for (c, m, side) in cases {
        let (s, mut rng, isa) = (shape(c, m, [1; 4]), Rng::new(1), hetra_cpu_base::isa::isa());
        let (x, weights, bias) = (rng.vec(c * side * side), rng.vec(m * c * 9), rng.vec(m));
        let low: Vec<half::bf16> = x.iter().map(|&x| half::bf16::from_f32(x)).collect();
        let (mut out, mut low_out) = (vec![0.0; m * side * side], low[..1].repeat(m * side * side));
        let flops = 2.0 * (out.len() * c * 9) as f64;
        let (size, act, usual) = ((1, side, side), Activation::Relu, Tiling::default());
        let mut time = |run: &dyn Fn(Numbers<'_>, NumbersOut<'_>), stored: bool| {
            let mut best = f64::MAX;
            for _ in 0..60 {
                let (x, out) = match stored {
                    true => (Numbers::Bf16(&low), NumbersOut::Bf16(&mut low_out)),
                    false => (Numbers::F32(&x), NumbersOut::F32(&mut out)),
                };
                let start = std::time::Instant::now();
                with(1, || run(x, out));
                best = best.min(start.elapsed().as_secs_f64());
            }
            flops / best / 1e9
        };
        let direct = PackedNhwc::new(isa, s, &weights, Some(&bias), act);
        let direct = time(&|x, out| direct.run_from(usual, (x, false), size, None, out), false);
        let [two, four] = SQUARES.map(|square| {
            let packed =
                PackedWinograd::new(isa, Operands::F32, square, s, &weights, Some(&bias), act);
            time(&|x, out| packed.run(usual, x, size, None, out), false)
        });
        let rounded = (bf16::operands(isa) == Operands::Pairs).then(|| {
            let direct = PackedNhwc::bf16(isa, s, &weights, Some(&bias), act);
            let two = PackedWinograd::new(
                isa,
                Operands::Pairs,
                Square::Two,
                s,
                &weights,
                Some(&bias),
                act,
            );
            let direct = time(&|x, out| direct.run_from(usual, (x, false), size, None, out), true);
            let two = time(&|x, out| two.run(usual, x, size, None, out), true);
            format!("; bf16 {direct:7.1}, 2x2 {two:7.1}")
        });
        #[expect(clippy::print_stdout, reason = "a measurement for a person")]
        {
            println!(
                "{c:4} to {m:4} at {side:3}: {direct:7.1} GFLOP/s, 2x2 {two:7.1}, 4x4 {four:7.1}{}",
                rounded.unwrap_or_default()
            );
        }
    }
}
