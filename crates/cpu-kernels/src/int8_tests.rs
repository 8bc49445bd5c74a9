//! Integer products against three plain loops; equality is exact.

use super::*;
use crate::reference::Rng;
use hetra_cpu_base::threads::with;

#[test]
fn exact_for_all_kinds_and_shapes() {
    let mut rng = Rng::new(6);
    for t in 0..120 {
        let (m, n, k) = match t {
            0 => (64, 300, 700),
            1 => (300, 40, 900),
            _ => (rng.range(1, 31), rng.range(1, 70), rng.range(0, 40)),
        };
        // Every fourth case takes extreme numbers only, where a saturating kernel would fail.
        let bytes = |rng: &mut Rng, n| -> Vec<u8> {
            rng.u8s(n)
                .iter()
                .map(|v| if t % 4 == 0 { if v & 1 == 0 { 255 } else { 128 } } else { *v })
                .collect()
        };
        let (a, b) = (bytes(&mut rng, m * k), bytes(&mut rng, k * n));
        let (sa, sb) = (rng.below(2) == 0, rng.below(2) == 0);
        let wide = |v: u8, signed: bool| if signed { i32::from(v as i8) } else { i32::from(v) };
        let zero = |rng: &mut Rng, signed| wide(rng.next() as u8, signed);
        let za: Vec<i32> = (0..m).map(|_| zero(&mut rng, sa)).collect();
        let zb: Vec<i32> = (0..n).map(|_| zero(&mut rng, sb)).collect();
        let bias: Vec<i32> = (0..n).map(|_| rng.next() as i32 % 1000).collect();
        let terms = IntTerms {
            a_zero: if t % 3 == 0 { Per::All(za[0]) } else { Per::Row(&za) },
            b_zero: if t % 5 == 0 { Per::All(zb[0]) } else { Per::Col(&zb) },
            bias: if t % 2 == 0 { Per::Col(&bias) } else { Per::All(0) },
        };
        let bt = t % 7 == 3;
        let mut want = vec![0; m * n];
        for i in 0..m {
            for j in 0..n {
                let at = |q: usize| if bt { j * k + q } else { q * n + j };
                let sum: i32 = (0..k)
                    .map(|q| {
                        (wide(a[i * k + q], sa) - terms.a_zero.at(i, j))
                            * (wide(b[at(q)], sb) - terms.b_zero.at(i, j))
                    })
                    .sum();
                want[i * n + j] = sum + terms.bias.at(i, j);
            }
        }
        let strides = if bt { (1, k) } else { (n, 1) };
        let (ai, bi): (&[i8], &[i8]) = (bytemuck::cast_slice(&a), bytemuck::cast_slice(&b));
        let a = if sa { IntMat::i8(ai, m, k, (k, 1)) } else { IntMat::u8(&a, m, k, (k, 1)) };
        let b = if sb { IntMat::i8(bi, k, n, strides) } else { IntMat::u8(&b, k, n, strides) };
        for isa in Isa::available() {
            let packed = PackedIntB::new(isa, b);
            for rhs in [IntRhs::View(b), IntRhs::Packed(&packed)] {
                let mut c = vec![0; m * n];
                gemm_int8(isa, IntLhs::View(a), rhs, &terms, &mut IntOut::I32(&mut c));
                assert_eq!(c, want, "{isa:?} {m} {n} {k} {sa} {sb}");
                outputs(isa, a, rhs, &terms, &want, m, n);
            }
        }
    }
}

fn outputs(
    isa: Isa,
    a: IntMat<'_>,
    b: IntRhs<'_>,
    terms: &IntTerms<'_>,
    sums: &[i32],
    m: usize,
    n: usize,
) {
    let scales: Vec<f32> = (0..n).map(|j| 0.001 * (j % 5 + 1) as f32).collect();
    let scale = Per::Col(&scales[..]);
    let (mut u, mut i, mut f) = (vec![0u8; m * n], vec![0i8; m * n], vec![0f32; m * n]);
    gemm_int8(isa, IntLhs::View(a), b, terms, &mut IntOut::U8(&mut u, scale, 7));
    gemm_int8(isa, IntLhs::View(a), b, terms, &mut IntOut::I8(&mut i, scale, -3));
    let out = &mut IntOut::F32(&mut f, scale, Per::All(0.5), Activation::Relu);
    gemm_int8(isa, IntLhs::View(a), b, terms, out);
    for (at, sum) in sums.iter().enumerate() {
        let x = *sum as f32 * scales[at % n];
        let r = x.round_ties_even();
        assert_eq!(f32::from(u[at]), (r + 7.0).clamp(0.0, 255.0));
        assert_eq!(f32::from(i[at]), (r - 3.0).clamp(-128.0, 127.0));
        assert!((f[at] - (x + 0.5).max(0.0)).abs() <= 1e-6 * x.abs().max(1.0));
    }
}

/// `HETRA_BENCH=1 cargo test --release int8_speed -- --nocapture`.
#[test]
fn int8_speed() {
    if std::env::var("HETRA_BENCH").is_err() {
        return;
    }
    let (m, n, k) = (512, 512, 512);
    let mut rng = Rng::new(1);
    let (a, b) = (rng.u8s(m * k), rng.i8s(k * n));
    let mut c = vec![0; m * n];
    for isa in Isa::available() {
        let b = PackedIntB::new(isa, IntMat::i8(&b, k, n, (n, 1)));
        let a = IntLhs::View(IntMat::u8(&a, m, k, (k, 1)));
        let mut run = || {
            let t = std::time::Instant::now();
            let terms = IntTerms { a_zero: Per::All(7), ..IntTerms::default() };
            gemm_int8(isa, a, IntRhs::Packed(&b), &terms, &mut IntOut::I32(&mut c));
            t.elapsed().as_secs_f64()
        };
        let best = with(1, || (0..15).map(|_| run()).fold(f64::MAX, f64::min));
        #[expect(clippy::print_stdout, reason = "a measurement for a person")]
        {
            println!(
                "{isa:?} int8 {m}x{n}x{k} on 1: {:.0} GOP/s",
                2e-9 * (m * n * k) as f64 / best
            );
        }
    }
}
