//! Normalisations and reductions against plain loops in f64.

use super::*;
use crate::reference::{Rng, close};

const SHAPES: [[usize; 3]; 12] = [
    [1, 1, 1],
    [3, 17, 1],
    [5, 64, 1],
    [2, 5000, 1],
    [3, 7, 5],
    [2, 300, 19],
    [1, 33, 130],
    [0, 3, 2],
    [40, 1000, 1],
    [333, 2, 1],
    [70, 31, 1],
    [3000, 5, 1],
];

fn column(x: &[f32], [_, axis, inner]: [usize; 3], o: usize, j: usize) -> Vec<f64> {
    (0..axis).map(|a| f64::from(x[(o * axis + a) * inner + j])).collect()
}

#[test]
fn reductions() {
    for shape in SHAPES {
        let [outer, axis, inner] = shape;
        let x = Rng::new(1).vec(outer * axis * inner);
        for isa in Isa::available() {
            let check = |op, f: fn(&[f64]) -> f64| {
                let mut y = vec![0.0; outer * inner];
                reduce(isa, op, &x, shape, &mut y);
                let want: Vec<f32> = (0..outer * inner)
                    .map(|i| f(&column(&x, shape, i / inner, i % inner)) as f32)
                    .collect();
                close(&y, &want, 2e-5, &format!("{isa:?} {op:?} {shape:?}"));
            };
            check(Reduce::Sum, |c| c.iter().sum());
            check(Reduce::Mean, |c| c.iter().sum::<f64>() / c.len() as f64);
            check(Reduce::Max, |c| c.iter().copied().fold(f64::NEG_INFINITY, f64::max));
            check(Reduce::Min, |c| c.iter().copied().fold(f64::INFINITY, f64::min));
            check(Reduce::SumSquare, |c| c.iter().map(|v| v * v).sum());
            check(Reduce::SumAbs, |c| c.iter().map(|v| v.abs()).sum());
        }
    }
    let mut y = [0.0];
    let x = [1.0, f32::NAN, 3.0, 2.0];
    reduce(Isa::Portable, Reduce::Max, &x, [1, 4, 1], &mut y);
    assert!(y[0].is_nan());
}

#[test]
fn softmaxes() {
    for shape in SHAPES {
        let [outer, axis, inner] = shape;
        let x: Vec<f32> = Rng::new(2).vec(outer * axis * inner).iter().map(|v| v * 20.0).collect();
        for log in [false, true] {
            let mut want = vec![0.0; x.len()];
            for i in 0..outer * inner {
                let c = column(&x, shape, i / inner, i % inner);
                let max = c.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = c.iter().map(|v| (v - max).exp()).sum();
                for (a, v) in c.iter().enumerate() {
                    let l = v - max - sum.ln();
                    let at = (i / inner * axis + a) * inner + i % inner;
                    want[at] = if log { l } else { l.exp() } as f32;
                }
            }
            for isa in Isa::available() {
                let mut y = vec![0.0; x.len()];
                softmax(isa, &x, &mut y, shape, log);
                close(&y, &want, 2e-6, &format!("{isa:?} {shape:?} {log}"));
            }
        }
    }
}

#[test]
fn layer_norms() {
    for (rows, cols) in [(1, 1), (3, 17), (5, 768), (70, 1000)] {
        let mut rng = Rng::new(3);
        let (x, skip) = (rng.vec(rows * cols), rng.vec(rows * cols));
        let (scale, bias, extra) = (rng.vec(cols), rng.vec(cols), rng.vec(cols));
        for mode in 0..8 {
            let p = LayerNorm {
                cols,
                eps: 1e-5,
                scale: &scale,
                bias: (mode & 1 == 0).then_some(&bias[..]),
                rms: mode & 2 == 0,
                skip: (mode & 4 == 0).then_some(&skip[..]),
                skip_bias: (mode % 3 == 0).then_some(&extra[..]),
            };
            let mut want = Vec::new();
            for r in 0..rows {
                let row: Vec<f64> = (0..cols)
                    .map(|c| {
                        let i = r * cols + c;
                        let k = p.skip.map_or(0.0, |k| k[i]) + p.skip_bias.map_or(0.0, |k| k[c]);
                        f64::from(x[i] + k)
                    })
                    .collect();
                let mean = if p.rms { 0.0 } else { row.iter().sum::<f64>() / cols as f64 };
                let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / cols as f64;
                for (c, v) in row.iter().enumerate() {
                    let b = p.bias.map_or(0.0, |b| f64::from(b[c]));
                    want.push(((v - mean) / (var + 1e-5).sqrt() * f64::from(scale[c]) + b) as f32);
                }
            }
            for isa in Isa::available() {
                let (mut y, mut sum) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                layer_norm(isa, &p, &x, &mut y, Some(&mut sum));
                close(&y, &want, 2e-5, &format!("{isa:?} {rows}x{cols} {mode}"));
                let first = x[0] + p.skip.map_or(0.0, |k| k[0]);
                let first = first + p.skip_bias.map_or(0.0, |k| k[0]);
                assert!((sum[0] - first).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn group_norms_and_affine() {
    for (n, c, plane, groups) in [(2, 6, 35, 3), (1, 4, 1, 4), (3, 5, 400, 5), (2, 4, 9, 1)] {
        let mut rng = Rng::new(4);
        let x = rng.vec(n * c * plane);
        let (scale, bias) = (rng.vec(c), rng.vec(c));
        let (mut norm, mut affine) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        let size = c / groups * plane;
        for (i, v) in x.iter().enumerate() {
            let ch = i / plane % c;
            affine[i] = v * scale[ch] + bias[ch];
            let block: Vec<f64> =
                x[i / size * size..][..size].iter().map(|&v| f64::from(v)).collect();
            let mean = block.iter().sum::<f64>() / size as f64;
            let var = block.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / size as f64;
            let z = (f64::from(*v) - mean) / (var + 1e-5).sqrt();
            norm[i] = (z * f64::from(scale[ch]) + f64::from(bias[ch])) as f32;
        }
        for isa in Isa::available() {
            let mut y = vec![0.0; x.len()];
            let p =
                GroupNorm { shape: [n, c, plane], groups, eps: 1e-5, scale: &scale, bias: &bias };
            group_norm(isa, &p, &x, &mut y);
            close(&y, &norm, 5e-5, "group norm");
            channel_affine(isa, [n, c, plane], &scale, &bias, &x, &mut y);
            close(&y, &affine, 1e-6, "affine");
        }
    }
}
