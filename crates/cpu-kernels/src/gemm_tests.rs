//! Matrix products against a plain loop in f64.

use super::*;
use crate::reference::{ACTS, Rng, act64, close};
use hetra_cpu_base::threads::with;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    ta: bool,
    tb: bool,
    pa: bool,
    pb: bool,
    ep: usize,
    seed: u64,
}

fn naive(a: &Mat<'_>, b: &Mat<'_>, old: &[f32], ldc: usize, ep: &Epilogue<'_>) -> Vec<f32> {
    let mut c = old.to_vec();
    for i in 0..a.rows {
        for j in 0..b.cols {
            let p: f64 = (0..a.cols)
                .map(|q| f64::from(a.data[a.at(i, q)]) * f64::from(b.data[b.at(q, j)]))
                .sum();
            let mut v = p * f64::from(ep.alpha);
            if ep.accumulate {
                v += f64::from(c[i * ldc + j]);
            }
            v += match ep.bias {
                Bias::None => 0.0,
                Bias::Row(x) => f64::from(x[i]),
                Bias::Col(x) => f64::from(x[j]),
            };
            if let Some((r, ld)) = ep.residual {
                v += f64::from(r[i * ld + j]);
            }
            c[i * ldc + j] = act64(ep.act, v) as f32;
        }
    }
    c
}

fn check_case(t: Case) {
    let mut rng = Rng::new(t.seed);
    let (m, n, k) = (t.m, t.n, t.k);
    let (a, b) = (rng.vec(m * k), rng.vec(k * n));
    let ldc = n + t.ep % 3;
    let (old, row, col, res) = (rng.vec(m * ldc), rng.vec(m), rng.vec(n), rng.vec(m * n));
    let a = if t.ta { Mat::transposed(&a, m, k) } else { Mat::new(&a, m, k) };
    let b = if t.tb { Mat::transposed(&b, k, n) } else { Mat::new(&b, k, n) };
    let ep = Epilogue {
        alpha: if t.ep.is_multiple_of(2) { 1.0 } else { 0.5 },
        accumulate: t.ep % 5 == 1,
        bias: [Bias::None, Bias::Row(&row), Bias::Col(&col)][t.ep % 3],
        residual: (t.ep % 4 == 3).then_some((&res[..], n)),
        act: ACTS[t.ep % 10],
    };
    let want = naive(&a, &b, &old, ldc, &ep);
    for isa in Isa::available() {
        let (pa, pb) = (PackedA::new(isa, a), PackedB::new(isa, b));
        let lhs = if t.pa { Lhs::Packed(&pa) } else { Lhs::View(a) };
        let rhs = if t.pb { Rhs::Packed(&pb) } else { Rhs::View(b) };
        let mut c = old.clone();
        gemm(isa, lhs, rhs, &mut c, ldc, &ep);
        close(&c, &want, 1e-5 * (k as f32).sqrt().max(1.0), &format!("{isa:?} {t:?}"));
    }
}

/// Products of operands that are rounded to bf16, in all forms: right, and all but those of
/// matrix registers the same to the bit.
fn check_bf16(t: Case) {
    let mut rng = Rng::new(t.seed);
    let (m, n, k) = (t.m, t.n, t.k);
    let (a, b, row) = (rng.vec(m * k), rng.vec(k * n), rng.vec(n));
    let mat = |a| if t.ta { Mat::transposed(a, m, k) } else { Mat::new(a, m, k) };
    let right = |b| if t.tb { Mat::transposed(b, k, n) } else { Mat::new(b, k, n) };
    let ep = Epilogue { bias: Bias::Col(&row), act: ACTS[t.ep % 10], ..Epilogue::default() };
    let round = |x: &[f32]| -> Vec<f32> {
        x.iter().map(|&x| f32::from_bits(u32::from(crate::bf16::bf16_bits(x)) << 16)).collect()
    };
    let (left, rounded) = (round(&a), round(&b));
    let want = naive(&mat(&left), &right(&rounded), &vec![0.0; m * n], n, &ep);
    for isa in Isa::available() {
        let mut first: Option<Vec<f32>> = None;
        for operands in crate::bf16::available(isa) {
            let packed = PackedB::rounded(isa, operands, right(&b));
            let run = |threads: usize| {
                let mut c = vec![f32::NAN; m * n];
                with(threads, || {
                    gemm(isa, Lhs::View(mat(&a)), Rhs::Packed(&packed), &mut c, n, &ep);
                });
                c
            };
            let c = run(1);
            let what = format!("{isa:?} {operands:?} {t:?}");
            close(&c, &want, 1e-5 * (k as f32).sqrt().max(1.0), &what);
            assert!(c == run(3), "{what}: by three threads");
            // Matrix registers add up in another order.
            if operands != Operands::Tiles {
                assert!(first.as_ref().is_none_or(|first| *first == c), "{what}: other bits");
                first.get_or_insert(c);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn agrees_with_the_plain_loop(
        (m, n, k) in (1usize..40, 1usize..90, 0usize..70),
        (ta, tb, pa, pb) in any::<(bool, bool, bool, bool)>(),
        ep in 0usize..60,
        seed in any::<u64>(),
    ) {
        let case = Case { m, n, k, ta, tb, pa, pb, ep, seed };
        check_case(case);
        check_bf16(case);
    }
}

#[test]
fn large_and_parallel() {
    let base = Case { m: 0, n: 0, k: 0, ta: false, tb: false, pa: true, pb: false, ep: 3, seed: 5 };
    for (m, n, k) in [(150, 300, 800), (300, 33, 500), (3, 2100, 400), (1, 700, 900), (17, 3, 1201)]
    {
        for pb in [false, true] {
            check_case(Case { m, n, k, pb, ..base });
            check_bf16(Case { m, n, k, pb, ..base });
            check_case(Case { m, n, k, pb, pa: false, tb: true, ep: 17, ..base });
            // Rows of the bias and of what is added are those of the part that a thread has.
            check_case(Case { m, n, k, pb, pa: false, ep: 19, ..base });
        }
    }
}

#[test]
fn batches_broadcast() {
    let mut rng = Rng::new(3);
    let (m, n, k) = (7, 19, 11);
    let (a, b) = (rng.vec(2 * m * k), rng.vec(3 * k * n));
    let (ao, bo): (Vec<_>, Vec<_>) = (0..6).map(|i| (i / 3 * m * k, i % 3 * k * n)).unzip();
    let batch =
        Batch { m, n, k, a_strides: (k, 1), b_strides: (n, 1), a_offsets: &ao, b_offsets: &bo };
    for isa in Isa::available() {
        let mut c = vec![0.0; 6 * m * n];
        gemm_batch(isa, &batch, &a, &b, &mut c, &Epilogue::default());
        for i in 0..6 {
            let (a, b) = (Mat::new(&a[ao[i]..], m, k), Mat::new(&b[bo[i]..], k, n));
            let want = naive(&a, &b, &vec![0.0; m * n], n, &Epilogue::default());
            close(&c[i * m * n..(i + 1) * m * n], &want, 1e-5, "batch");
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let mut rng = Rng::new(8);
    let (m, n, k) = (130, 517, 401);
    let (a, b) = (rng.vec(m * k), rng.vec(k * n));
    for isa in Isa::available() {
        let run = |threads: usize, rows: usize| {
            let mut c = vec![0.0; rows * n];
            let (a, b) = (Mat::new(&a, rows, k), Mat::new(&b, k, n));
            with(threads, || {
                gemm(isa, Lhs::View(a), Rhs::View(b), &mut c, n, &Epilogue::default());
            });
            c
        };
        for rows in [m, 3] {
            assert!(run(1, rows) == run(2, rows) && run(1, rows) == run(7, rows), "{isa:?}");
        }
    }
}

/// Not an assertion on time: `HETRA_BENCH=1 cargo test --release bf16_gemm -- --nocapture`.
#[test]
fn bf16_gemm_speed() {
    if std::env::var("HETRA_BENCH").is_err() {
        return;
    }
    for (m, n, k) in [(512, 512, 512), (196, 256, 1024), (16, 768, 768), (1, 4096, 4096)] {
        let mut rng = Rng::new(1);
        let (a, b) = (rng.vec(m * k), rng.vec(k * n));
        let mut c = vec![0.0; m * n];
        for isa in Isa::available() {
            let forms = crate::bf16::available(isa).into_iter().chain([Operands::F32]);
            for operands in forms {
                let b = Mat::new(&b, k, n);
                let packed = match operands {
                    Operands::F32 => PackedB::new(isa, b),
                    _ => PackedB::rounded(isa, operands, b),
                };
                let best = with(1, || {
                    let mut run = || {
                        let t = std::time::Instant::now();
                        let (a, b) = (Lhs::View(Mat::new(&a, m, k)), Rhs::Packed(&packed));
                        gemm(isa, a, b, &mut c, n, &Epilogue::default());
                        t.elapsed().as_secs_f64()
                    };
                    (0..15).map(|_| run()).fold(f64::MAX, f64::min)
                });
                let gf = 2e-9 * (m * n * k) as f64 / best;
                #[expect(clippy::print_stdout, reason = "a measurement for a person")]
                {
                    println!("{isa:?} {m}x{n}x{k} {operands:?}: {gf:.1} GFLOP/s");
                }
            }
        }
    }
}

/// Not an assertion on time: `HETRA_BENCH=1 cargo test --release gemm_speed -- --nocapture`.
#[test]
fn gemm_speed() {
    if std::env::var("HETRA_BENCH").is_err() {
        return;
    }
    for (m, n, k) in [(512, 512, 512), (1024, 1024, 1024), (64, 3136, 64), (1, 4096, 4096)] {
        let mut rng = Rng::new(1);
        let (a, b) = (rng.vec(m * k), rng.vec(k * n));
        let mut c = vec![0.0; m * n];
        for isa in Isa::available() {
            let pa = PackedA::new(isa, Mat::new(&a, m, k));
            let b = Mat::new(&b, k, n);
            let lhs = if m == 1 { Lhs::View(Mat::new(&a, m, k)) } else { Lhs::Packed(&pa) };
            for threads in [1, 2] {
                let best = with(threads, || {
                    let mut run = || {
                        let t = std::time::Instant::now();
                        gemm(isa, lhs, Rhs::View(b), &mut c, n, &Epilogue::default());
                        t.elapsed().as_secs_f64()
                    };
                    (0..15).map(|_| run()).fold(f64::MAX, f64::min)
                });
                let gf = 2e-9 * (m * n * k) as f64 / best;
                #[expect(clippy::print_stdout, reason = "a measurement for a person")]
                {
                    println!("{isa:?} {m}x{n}x{k} on {threads}: {gf:.1} GFLOP/s");
                }
            }
        }
    }
}

#[test]
fn sizes_that_wrap_are_refused() {
    let panics = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
    let half = usize::MAX / 2 + 1;
    let data = [1.0; 9];
    // 2 * half is 0 when it wraps.
    assert!(panics(&|| {
        Mat::strided(&data, 3, 3, half, 1);
    }));
    assert!(panics(&|| {
        let (a, b) = (Lhs::View(Mat::new(&data, 3, 3)), Rhs::View(Mat::new(&data, 3, 3)));
        gemm(Isa::Portable, a, b, &mut [0.0; 9], half, &Epilogue::default());
    }));
    // A broadcast matrix may have more elements than memory has.
    assert!(panics(&|| {
        PackedA::new(Isa::Portable, Mat::strided(&data, half, 2, 0, 0));
    }));
}
