//! One step of an LSTM, a GRU or a plain recurrent layer. The caller has multiplied all inputs by
//! their weights in one product, and walks the time axis in the direction it wants; a step adds the
//! recurrent product (a packed weight, few rows) and applies the gates with vectors.
//!
//! Gate order is that of ONNX: LSTM input, output, forget, cell; GRU update, reset, hidden.

use super::gemm::{Bias, Epilogue, Lhs, Mat, PackedB, Rhs, gemm};
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::math::{sigmoid_v, tanh_v};
use hetra_cpu_base::scratch::lend;
use hetra_cpu_base::simd::Simd;

/// The constant part of an LSTM step.
#[derive(Clone, Copy, Debug)]
pub struct Lstm<'a> {
    /// Numbers in the hidden state.
    pub hidden: usize,
    /// `Rᵀ`, `[hidden, 4 hidden]`.
    pub r: &'a PackedB,
    /// Peephole weights of the input, output and forget gates, `[3 hidden]`.
    pub peephole: Option<&'a [f32]>,
}

struct LstmGates<'a> {
    hidden: usize,
    peephole: Option<&'a [f32]>,
    gates: &'a [f32],
    h: &'a mut [f32],
    c: &'a mut [f32],
}

impl Kernel for LstmGates<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.hidden;
        let zero = s.splat(0.0);
        for ((g, h), c) in self
            .gates
            .chunks_exact(4 * n)
            .zip(self.h.chunks_exact_mut(n))
            .zip(self.c.chunks_exact_mut(n))
        {
            let mut j = 0;
            while j < n {
                let w = S::LANES.min(n - j);
                let gate = [0, 1, 2, 3].map(|q| &g[q * n + j..q * n + j + w]);
                let mut peep = [zero; 3];
                if let Some(p) = self.peephole {
                    for (q, v) in peep.iter_mut().enumerate() {
                        *v = s.loads_tail(&p[q * n + j..q * n + j + w]);
                    }
                }
                let old = s.loads_tail(&c[j..j + w]);
                let i = sigmoid_v(s, s.fma(peep[0], old, s.loads_tail(gate[0])));
                let f = sigmoid_v(s, s.fma(peep[2], old, s.loads_tail(gate[2])));
                let new = s.fma(f, old, s.mul(i, tanh_v(s, s.loads_tail(gate[3]))));
                let o = sigmoid_v(s, s.fma(peep[1], new, s.loads_tail(gate[1])));
                s.stores_tail(&mut c[j..j + w], new);
                s.stores_tail(&mut h[j..j + w], s.mul(o, tanh_v(s, new)));
                j += w;
            }
        }
    }
}

/// One LSTM step for a batch. `gates`, `[batch, 4 hidden]`, holds `x Wᵀ` plus both biases and is
/// used up; `h` and `c`, `[batch, hidden]`, go from the old state to the new.
pub fn lstm_step(isa: Isa, p: &Lstm<'_>, gates: &mut [f32], h: &mut [f32], c: &mut [f32]) {
    let n = p.hidden;
    if n == 0 || h.is_empty() {
        return;
    }
    let batch = h.len() / n;
    assert!(gates.len() == 4 * h.len() && c.len() == h.len(), "sizes of gates and states");
    assert!(p.r.rows() == n && p.r.cols() == 4 * n, "recurrent weight size");
    assert!(p.peephole.is_none_or(|k| k.len() == 3 * n), "peephole size");
    let ep = Epilogue { accumulate: true, ..Epilogue::default() };
    gemm(isa, Lhs::View(Mat::new(h, batch, n)), Rhs::Packed(p.r), gates, 4 * n, &ep);
    isa.dispatch(LstmGates { hidden: n, peephole: p.peephole, gates, h, c });
}

/// The constant part of a GRU step.
#[derive(Clone, Copy, Debug)]
pub struct Gru<'a> {
    /// Numbers in the hidden state.
    pub hidden: usize,
    /// Update and reset columns of `Rᵀ`, `[hidden, 2 hidden]`.
    pub r_zr: &'a PackedB,
    /// Hidden columns of `Rᵀ`, `[hidden, hidden]`.
    pub r_h: &'a PackedB,
    /// Recurrent bias of the hidden gate, `[hidden]`.
    pub bias_h: Option<&'a [f32]>,
    /// Multiply by the recurrent weight before the reset gate, not after.
    pub linear_before_reset: bool,
}

/// `out = sigmoid(x)`, then optionally times a state: the gates of a GRU.
struct GruGates<'a> {
    hidden: usize,
    /// `[batch, 3 hidden]`; the first two thirds become gate values.
    gates: &'a mut [f32],
    /// The state, multiplied by the reset gate into `reset` unless linear before reset.
    h: &'a [f32],
    reset: &'a mut [f32],
}

impl Kernel for GruGates<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.hidden;
        let states = self.h.chunks_exact(n).zip(self.reset.chunks_exact_mut(n));
        for (g, (h, reset)) in self.gates.chunks_exact_mut(3 * n).zip(states) {
            for v in g[..2 * n].chunks_mut(S::LANES) {
                let x = sigmoid_v(s, s.loads_tail(v));
                s.stores_tail(v, x);
            }
            reset.iter_mut().zip(h.iter().zip(&g[n..])).for_each(|(d, (h, r))| *d = h * r);
        }
    }
}

struct GruState<'a> {
    hidden: usize,
    gates: &'a [f32],
    /// What the recurrent weight made of the state.
    rec: &'a [f32],
    linear_before_reset: bool,
    h: &'a mut [f32],
}

impl Kernel for GruState<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.hidden;
        let states = self.rec.chunks_exact(n).zip(self.h.chunks_exact_mut(n));
        for (g, (rec, h)) in self.gates.chunks_exact(3 * n).zip(states) {
            let mut j = 0;
            while j < n {
                let w = S::LANES.min(n - j);
                let z = s.loads_tail(&g[j..j + w]);
                let r = s.loads_tail(&g[n + j..n + j + w]);
                let x = s.loads_tail(&g[2 * n + j..2 * n + j + w]);
                let u = s.loads_tail(&rec[j..j + w]);
                let sum = if self.linear_before_reset { s.fma(r, u, x) } else { s.add(x, u) };
                let new = tanh_v(s, sum);
                let old = s.loads_tail(&h[j..j + w]);
                // (1 - z) new + z old.
                s.stores_tail(&mut h[j..j + w], s.fma(z, s.sub(old, new), new));
                j += w;
            }
        }
    }
}

/// One GRU step for a batch. `gates`, `[batch, 3 hidden]`, holds `x Wᵀ` plus the biases (all but
/// `bias_h`) and is used up; `h`, `[batch, hidden]`, goes from the old state to the new.
pub fn gru_step(isa: Isa, p: &Gru<'_>, gates: &mut [f32], h: &mut [f32]) {
    let n = p.hidden;
    if n == 0 || h.is_empty() {
        return;
    }
    let batch = h.len() / n;
    assert_eq!(gates.len(), 3 * h.len(), "sizes of gates and state");
    assert!(p.r_zr.rows() == n && p.r_zr.cols() == 2 * n, "recurrent weight size");
    assert!(p.r_h.rows() == n && p.r_h.cols() == n, "recurrent weight size");
    let ep = Epilogue { accumulate: true, ..Epilogue::default() };
    gemm(isa, Lhs::View(Mat::new(h, batch, n)), Rhs::Packed(p.r_zr), gates, 3 * n, &ep);
    let (mut reset, mut rec) = (lend(h.len()), lend(h.len()));
    isa.dispatch(GruGates { hidden: n, gates, h, reset: &mut reset });
    let state = if p.linear_before_reset { &*h } else { &reset[..] };
    let ep = Epilogue { bias: p.bias_h.map_or(Bias::None, Bias::Col), ..Epilogue::default() };
    gemm(isa, Lhs::View(Mat::new(state, batch, n)), Rhs::Packed(p.r_h), &mut rec, n, &ep);
    let linear_before_reset = p.linear_before_reset;
    isa.dispatch(GruState { hidden: n, gates, rec: &rec, linear_before_reset, h });
}

/// One step of a plain recurrent layer for a batch: `h = act(gates + h Rᵀ)`. `gates`,
/// `[batch, hidden]`, holds `x Wᵀ` plus both biases and is used up.
pub fn rnn_step(isa: Isa, r: &PackedB, act: Activation, gates: &mut [f32], h: &mut [f32]) {
    let n = r.rows();
    if n == 0 || h.is_empty() {
        return;
    }
    assert!(r.cols() == n && h.len().is_multiple_of(n), "recurrent weight size");
    assert_eq!(gates.len(), h.len(), "sizes of gates and state");
    let ep = Epilogue { accumulate: true, act, ..Epilogue::default() };
    gemm(isa, Lhs::View(Mat::new(h, h.len() / n, n)), Rhs::Packed(r), gates, n, &ep);
    h.copy_from_slice(gates);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Rng, close};

    fn sigmoid(x: f32) -> f32 {
        1.0 / (1.0 + (-x).exp())
    }

    /// Row `b` of the state times column `col` of the weight.
    fn rec(h: &[f32], r: &[f32], b: usize, n: usize, col: usize, cols: usize) -> f32 {
        (0..n).map(|q| h[b * n + q] * r[q * cols + col]).sum()
    }

    #[test]
    fn lstm_agrees_with_scalars() {
        for (batch, n) in [(1, 1), (2, 19), (7, 40)] {
            let mut rng = Rng::new(1);
            let (gates, r, peep) = (rng.vec(batch * 4 * n), rng.vec(n * 4 * n), rng.vec(3 * n));
            let (h, c) = (rng.vec(batch * n), rng.vec(batch * n));
            for peephole in [None, Some(&peep[..])] {
                let (mut want_h, mut want_c) = (h.clone(), c.clone());
                for (b, j) in (0..batch).flat_map(|b| (0..n).map(move |j| (b, j))) {
                    let g = |q: usize| {
                        gates[b * 4 * n + q * n + j] + rec(&h, &r, b, n, q * n + j, 4 * n)
                    };
                    let p = |q: usize| peephole.map_or(0.0, |p| p[q * n + j]);
                    let old = c[b * n + j];
                    let new =
                        sigmoid(g(2) + p(2) * old) * old + sigmoid(g(0) + p(0) * old) * g(3).tanh();
                    want_c[b * n + j] = new;
                    want_h[b * n + j] = sigmoid(g(1) + p(1) * new) * new.tanh();
                }
                for isa in Isa::available() {
                    let packed = PackedB::new(isa, Mat::new(&r, n, 4 * n));
                    let p = Lstm { hidden: n, r: &packed, peephole };
                    let (mut g, mut h, mut c) = (gates.clone(), h.clone(), c.clone());
                    lstm_step(isa, &p, &mut g, &mut h, &mut c);
                    close(&h, &want_h, 1e-5, "h");
                    close(&c, &want_c, 1e-5, "c");
                }
            }
        }
    }

    #[test]
    fn rnn_agrees_with_scalars() {
        for (batch, n) in [(1, 1), (2, 19), (7, 40)] {
            let mut rng = Rng::new(3);
            let (gates, h, r) = (rng.vec(batch * n), rng.vec(batch * n), rng.vec(n * n));
            let sum = |i: usize| gates[i] + rec(&h, &r, i / n, n, i % n, n);
            let want: Vec<f32> = (0..batch * n).map(|i| sum(i).tanh()).collect();
            for isa in Isa::available() {
                let packed = PackedB::new(isa, Mat::new(&r, n, n));
                let (mut g, mut h) = (gates.clone(), h.clone());
                rnn_step(isa, &packed, Activation::Tanh, &mut g, &mut h);
                close(&h, &want, 1e-5, "rnn");
            }
        }
    }

    #[test]
    fn gru_agrees_with_scalars() {
        for (batch, n) in [(1, 1), (2, 19), (7, 40)] {
            let mut rng = Rng::new(2);
            let (gates, h) = (rng.vec(batch * 3 * n), rng.vec(batch * n));
            let (zr, rh, bias) = (rng.vec(n * 2 * n), rng.vec(n * n), rng.vec(n));
            for linear_before_reset in [false, true] {
                let mut want = h.clone();
                for b in 0..batch {
                    let gate = |q: usize, j: usize| {
                        let u = rec(&h, &zr, b, n, q * n + j, 2 * n);
                        sigmoid(gates[b * 3 * n + q * n + j] + u)
                    };
                    for j in 0..n {
                        let u: f32 = (0..n)
                            .map(|q| {
                                let r = if linear_before_reset { 1.0 } else { gate(1, q) };
                                r * h[b * n + q] * rh[q * n + j]
                            })
                            .sum();
                        let u = u + bias[j];
                        let u = if linear_before_reset { gate(1, j) * u } else { u };
                        let new = (gates[b * 3 * n + 2 * n + j] + u).tanh();
                        let z = gate(0, j);
                        want[b * n + j] = (1.0 - z) * new + z * h[b * n + j];
                    }
                }
                for isa in Isa::available() {
                    let r_zr = PackedB::new(isa, Mat::new(&zr, n, 2 * n));
                    let r_h = PackedB::new(isa, Mat::new(&rh, n, n));
                    let p = Gru {
                        hidden: n,
                        r_zr: &r_zr,
                        r_h: &r_h,
                        bias_h: Some(&bias),
                        linear_before_reset,
                    };
                    let (mut g, mut h) = (gates.clone(), h.clone());
                    gru_step(isa, &p, &mut g, &mut h);
                    close(&h, &want, 1e-5, "gru");
                }
            }
        }
    }
}
