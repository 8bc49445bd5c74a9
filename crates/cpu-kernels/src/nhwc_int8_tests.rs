//! 8-bit convolutions with channels last against plain loops.

use super::*;
use crate::conv::tests::naive;
use crate::int8::{IntOut, Per};
use crate::int8_conv::PackedIntConv;
use crate::nhwc::tests::last;
use crate::reference::Rng;
use hetra_cpu_base::threads::with;

/// Whether the image, the weights and the output are signed, and how many zero points the weights
/// have: none (the middle of their range), one, or one for each output channel.
#[derive(Clone, Copy, Debug)]
struct Codes {
    x: bool,
    w: bool,
    y: bool,
    zeros: usize,
}

fn wide(v: u8, signed: bool) -> i32 {
    if signed { i32::from(v as i8) } else { i32::from(v) }
}

fn typed(x: &[u8], signed: bool) -> Bytes<'_> {
    if signed { Bytes::I8(bytemuck::cast_slice(x)) } else { Bytes::U8(x) }
}

fn check(s: ConvShape, (n, h, w): (usize, usize, usize), codes: Codes, seed: u64) {
    if s.out(h, w).is_none() {
        return;
    }
    let mut rng = Rng::new(seed);
    let (x, weights) = (rng.u8s(n * h * w * s.c), rng.u8s(s.m * s.c / s.groups * s.kh * s.kw));
    let x_zero = wide(rng.next() as u8, codes.x);
    let w_zero: Vec<i32> = match codes.zeros {
        0 => vec![if codes.w { 0 } else { 128 }],
        1 => vec![wide(rng.next() as u8, codes.w)],
        _ => (0..s.m).map(|_| wide(rng.next() as u8, codes.w)).collect(),
    };
    let each = weights.len() / s.m;
    let xf: Vec<f32> = x.iter().map(|v| (wide(*v, codes.x) - x_zero) as f32).collect();
    let zero = |m: usize| w_zero[m.min(w_zero.len() - 1)];
    let wf: Vec<f32> =
        (0..weights.len()).map(|i| (wide(weights[i], codes.w) - zero(i / each)) as f32).collect();
    // `[n, h, w, c]` as `[n, c, h, w]` is the same as turning it back.
    let planes = (0..n).flat_map(|i| last(&xf[i * h * w * s.c..][..h * w * s.c], 1, h * w));
    let planes: Vec<f32> = planes.collect();
    let bias: Vec<i32> = (0..s.m as i32).map(|m| m * 31 - 50).collect();
    let bias = (!seed.is_multiple_of(3)).then_some(&bias[..]);
    let sums = last(&naive(&s, &planes, (n, h, w), &wf, None), n, s.m);
    let scale: Vec<f32> = (0..s.m).map(|m| 1e-3 * (m % 7 + 1) as f32 / each as f32).collect();
    let scale = if seed.is_multiple_of(2) { &scale[..] } else { &scale[..1] };
    let y_zero = if codes.y { -3 } else { 100 };
    let want: Vec<i32> = sums
        .iter()
        .enumerate()
        .map(|(i, &sum)| {
            let sum = sum as i32 + bias.map_or(0, |bias| bias[i % s.m]);
            let code = (sum as f32 * scale[(i % s.m).min(scale.len() - 1)]).round_ties_even();
            let (low, high) = if codes.y { (-128, 127) } else { (0, 255) };
            (code as i32).saturating_add(y_zero).clamp(low, high)
        })
        .collect();
    for isa in Isa::available() {
        let conv = PackedNhwcInt8::new(isa, s, typed(&weights, codes.w), &w_zero);
        for threads in [1, 3] {
            let mut out = vec![7u8; want.len()];
            let mut sink = match codes.y {
                true => CodesOut::I8(bytemuck::cast_slice_mut(&mut out), y_zero),
                false => CodesOut::U8(&mut out, y_zero),
            };
            let x = typed(&x, codes.x);
            with(threads, || conv.run(x, x_zero, (n, h, w), (bias, scale), &mut sink));
            let wrong = (0..want.len()).find(|&i| wide(out[i], codes.y) != want[i]);
            assert_eq!(wrong, None, "{isa:?} {s:?} {n} {h}x{w} {codes:?}, {threads} threads");
        }
    }
}

fn codes(rng: &mut Rng) -> Codes {
    let mut coin = || rng.below(2) == 0;
    let (x, w, y) = (coin(), coin(), coin());
    Codes { x, w, y, zeros: rng.below(3) }
}

#[test]
fn random_shapes() {
    let mut rng = Rng::new(31);
    for seed in 0..300 {
        let groups = [1, 1, 2, 3, 5][rng.below(5)];
        let s = ConvShape {
            c: groups * rng.range(1, 13),
            m: groups * rng.range(1, 40),
            kh: rng.range(1, 5),
            kw: rng.range(1, 5),
            stride: [rng.range(1, 3), rng.range(1, 3)],
            dilation: [rng.range(1, 2), rng.range(1, 3)],
            pads: [rng.below(4), rng.below(4), rng.below(3), rng.below(4)],
            groups,
        };
        check(s, (rng.range(1, 2), rng.range(1, 17), rng.range(1, 23)), codes(&mut rng), seed);
    }
}

#[test]
fn depthwise() {
    let mut rng = Rng::new(32);
    for seed in 0..200 {
        let c = [rng.range(2, 140), 8, 16, 32, 64][rng.below(5)];
        let k = rng.range(1, 9);
        let s = ConvShape {
            c,
            m: c,
            kh: k,
            kw: rng.range(1, 5),
            stride: [rng.range(1, 3), rng.range(1, 3)],
            dilation: [rng.range(1, 2), rng.range(1, 2)],
            pads: [rng.below(k + 2), rng.below(4), rng.below(3), rng.below(4)],
            groups: c,
        };
        check(s, (rng.range(1, 2), rng.range(1, 12), rng.range(1, 50)), codes(&mut rng), seed);
    }
}

/// Spans of outputs that lie right of the image.
#[test]
fn depthwise_with_wide_borders() {
    let mut rng = Rng::new(35);
    for (seed, (c, far)) in [(16, 300), (16, 129), (8, 70), (40, 200)].into_iter().enumerate() {
        let pads = [1, rng.below(3), 1, far];
        let (kh, kw, stride, dilation) = (3, 3, [1, 1], [1, 1]);
        let s = ConvShape { c, m: c, kh, kw, stride, dilation, pads, groups: c };
        check(s, (1, 8, rng.range(3, 9)), codes(&mut rng), seed as u64);
    }
}

/// One axis: an image of height 1.
#[test]
fn signals() {
    let mut rng = Rng::new(33);
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
        check(s, (rng.range(1, 3), 1, rng.range(1, 30)), codes(&mut rng), seed);
    }
}

const BASE: ConvShape = ConvShape {
    c: 64,
    m: 64,
    kh: 3,
    kw: 3,
    stride: [1, 1],
    dilation: [1, 1],
    pads: [1; 4],
    groups: 1,
};

const ONE: ConvShape = ConvShape { kh: 1, kw: 1, pads: [0; 4], ..BASE };

#[test]
fn layers_of_real_networks() {
    let plain = Codes { x: false, w: true, y: false, zeros: 0 };
    check(ConvShape { c: 48, m: 80, ..BASE }, (1, 28, 28), plain, 1);
    check(
        ConvShape { c: 3, m: 80, stride: [2, 2], kh: 7, kw: 7, pads: [3; 4], ..BASE },
        (1, 40, 40),
        plain,
        2,
    );
    check(ConvShape { c: 300, m: 500, ..ONE }, (1, 7, 7), plain, 4);
    check(ConvShape { c: 96, m: 96, groups: 96, ..BASE }, (2, 30, 30), plain, 5);
}

/// `HETRA_BENCH=1 cargo test --release -p hetra-cpu-kernels nhwc_int8_speed -- --nocapture`
#[test]
fn nhwc_int8_speed() {
    if std::env::var_os("HETRA_BENCH").is_none() {
        return;
    }
    let deep = |c: usize| ConvShape { c, m: c, groups: c, ..BASE };
    let cases = [
        ("3x3 64 56", BASE, 56),
        ("3x3 512 7", ConvShape { c: 512, m: 512, ..BASE }, 7),
        ("7x7 first", ConvShape { c: 3, kh: 7, kw: 7, stride: [2, 2], pads: [3; 4], ..BASE }, 224),
        ("3x3 first 16", ConvShape { c: 3, m: 16, stride: [2, 2], ..BASE }, 224),
        ("1x1 16-32 112", ConvShape { c: 16, m: 32, ..ONE }, 112),
        ("1x1 64-64 56", ONE, 56),
        ("1x1 58-58 28", ConvShape { c: 58, m: 58, ..ONE }, 28),
        ("1x1 128-128 28", ConvShape { c: 128, m: 128, ..ONE }, 28),
        ("1x1 256-256 14", ConvShape { c: 256, m: 256, ..ONE }, 14),
        ("1x1 512-512 7", ConvShape { c: 512, m: 512, ..ONE }, 7),
        ("dw 16 112", deep(16), 112),
        ("dw 32 112", deep(32), 112),
        ("dw 64 56", deep(64), 56),
        ("dw 128 28", deep(128), 28),
        ("dw 232 7", deep(232), 7),
        ("dw s2 64 112", ConvShape { stride: [2, 2], ..deep(64) }, 112),
        ("dw 5x5 256 14", ConvShape { kh: 5, kw: 5, pads: [2; 4], ..deep(256) }, 14),
    ];
    let isa = hetra_cpu_base::isa::isa();
    for (name, s, side) in cases {
        let mut rng = Rng::new(1);
        let (x, w) = (rng.u8s(s.c * side * side), rng.u8s(s.m * s.c / s.groups * s.kh * s.kw));
        let (oh, ow) = s.out(side, side).expect("fits");
        let mut out = vec![0; s.m * oh * ow];
        let macs = (out.len() * s.c / s.groups * s.kh * s.kw) as f64;
        let bias = vec![3; s.m];
        let scale = vec![1e-4; s.m];
        let mut time = |run: &mut dyn FnMut(&mut [u8])| {
            let mut best = f64::MAX;
            for _ in 0..60 {
                let start = std::time::Instant::now();
                with(1, || run(&mut out));
                best = best.min(start.elapsed().as_secs_f64());
            }
            best
        };
        let packed = PackedNhwcInt8::new(isa, s, typed(&w, true), &[0]);
        let last = time(&mut |out| {
            let terms = (Some(&bias[..]), &scale[..]);
            packed.run(Bytes::U8(&x), 7, (1, side, side), terms, &mut CodesOut::U8(out, 3));
        });
        let first = PackedIntConv::new(isa, s, typed(&w, true), &[0]);
        let first = time(&mut |out| {
            let mut sink = IntOut::U8(out, Per::Row(&scale), 3);
            first.run(Bytes::U8(&x), 7, (1, side, side), Some(&bias), &mut sink);
        });
        #[expect(clippy::print_stdout, reason = "a measurement for a person")]
        {
            let (us, rate, first) = (last * 1e6, macs / last / 1e9, first * 1e6);
            println!("{name:16} {us:8.1} µs {rate:7.1} GMAC/s, channels first {first:8.1} µs");
        }
    }
}
