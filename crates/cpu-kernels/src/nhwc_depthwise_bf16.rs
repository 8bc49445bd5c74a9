//! Depthwise convolution of images that are stored as bf16.
//!
//! A vector of words holds the channels of two vectors of floats: the even ones in the low halves,
//! the odd ones in the high halves. A shift and a mask make floats of them, so even channels are
//! summed in one vector and odd ones in another, with weights in the same order, and the halves are
//! put together again when they are rounded.

use half::bf16;

use super::conv::ConvShape;
use super::nhwc_depthwise::{Line, PIXELS_MAX, Places, Stored, WIDE, each_pixel};
use super::nhwc_store::End;
use hetra_cpu_base::activation;
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::numbers::Number;
use hetra_cpu_base::scratch::{AlignedBuf, count};
use hetra_cpu_base::simd::Simd;
use std::ops::Range;

/// Packed weights (`pack_depthwise`), and the bias behind the last tap: of each `pair` of vectors
/// of channels the even ones first. Channels are padded to whole pairs.
pub(crate) fn pack_pairs(
    s: &ConvShape,
    pair: usize,
    weights: &[f32],
    bias: Option<&[f32]>,
) -> AlignedBuf {
    let (taps, padded) = (s.kh * s.kw, s.c.next_multiple_of(pair));
    let row = weights.len() / taps.max(1);
    let mut packed = AlignedBuf::zeroed(count(&[taps + 1, padded]));
    let data = packed.as_mut_slice();
    for c in 0..s.c {
        let place = c / pair * pair + c % 2 * (pair / 2) + c % pair / 2;
        for tap in 0..taps {
            data[tap * padded + place] = weights[tap * row + c];
        }
        data[taps * padded + place] = bias.map_or(0.0, |bias| bias[c]);
    }
    packed
}

impl<O: Number> Stored<O> for bf16 {
    #[inline(always)]
    fn block<S: Simd, const K: usize, const ST: usize, const N: usize, const AHEAD: bool>(
        line: &Line<'_, bf16>,
        s: S,
        places: &impl Places<bf16>,
        block: Range<usize>,
        outputs: Range<usize>,
        out: &mut [O],
    ) {
        let (c, pair) = (line.call.shape.c, 2 * S::LANES);
        let whole = block.start + block.len() / pair * pair;
        for c0 in (block.start..whole).step_by(pair) {
            let sums = line.pairs::<S, K, ST, N, true, AHEAD>(s, (c0, pair), places);
            line.put_halves(s, (outputs.start * c + c0, pair), outputs.len(), sums, out);
        }
        if whole < block.end {
            let block = whole..block.end;
            bf16::dispatch(
                S::ISA,
                Rest::<_, _, K, ST, N, AHEAD> { line, places, block, outputs, out },
            );
        }
    }

    #[inline(always)]
    fn any<S: Simd>(
        line: &Line<'_, bf16>,
        s: S,
        block: Range<usize>,
        places: Range<usize>,
        out: &mut [O],
    ) {
        for c0 in block.clone().step_by(S::LANES) {
            let n = S::LANES.min(block.end - c0);
            for x in places.clone() {
                let at = x * line.call.shape.c + c0;
                let sum = line.one(s, (c0, n), x, line.bias(s, c0, n));
                let mut sums = s.to_array(sum);
                for (i, sum) in sums[..n].iter_mut().enumerate() {
                    *sum += line.residual.map_or(0.0, |residual| residual[at + i]);
                }
                activation::apply(S::ISA, line.call.act, &mut sums[..n]);
                let out = &mut out[at..at + n];
                // SAFETY: there are `n` outputs, and at least as many sums as lanes.
                unsafe { O::store_n(s, out.as_mut_ptr(), s.loads(&sums), n) }
            }
        }
    }
}

/// Channels that are no whole pair of vectors. As a function of its own it leaves the loop over
/// those the registers.
struct Rest<'a, P, O, const K: usize, const ST: usize, const N: usize, const AHEAD: bool> {
    line: &'a Line<'a, bf16>,
    places: &'a P,
    block: Range<usize>,
    outputs: Range<usize>,
    out: &'a mut [O],
}

impl<P: Places<bf16>, O: Number, const K: usize, const ST: usize, const N: usize, const AHEAD: bool>
    Kernel for Rest<'_, P, O, K, ST, N, AHEAD>
{
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rest { line, places, block, outputs, out } = self;
        let (channels, count) = ((block.start, block.len()), outputs.len());
        let at = (outputs.start * line.call.shape.c + block.start, block.len());
        if block.len() > S::LANES {
            let sums = line.pairs::<S, K, ST, N, false, false>(s, channels, places);
            line.put_halves(s, at, count, sums, out);
        } else {
            let sums = match block.len() == S::LANES {
                true => line.wide::<S, K, ST, N, true, AHEAD>(s, channels, places),
                false => line.wide::<S, K, ST, N, false, false>(s, channels, places),
            };
            // No closure, which would be compiled without the instructions of the kernel.
            let mut alone = [[s.splat(0.0)]; WIDE];
            for (sum, [alone]) in sums.into_iter().zip(&mut alone) {
                *alone = sum;
            }
            line.put_halves(s, at, count, alone, out);
        }
    }
}

impl Line<'_, bf16> {
    /// `WIDE` outputs of `n` channels from `c0` on, even and odd ones apart; `FULL` if they fill
    /// both vectors. Each pixel is loaded once for all outputs that it is a tap of.
    #[inline(always)]
    fn pairs<
        S: Simd,
        const K: usize,
        const ST: usize,
        const N: usize,
        const FULL: bool,
        const AHEAD: bool,
    >(
        &self,
        s: S,
        (c0, n): (usize, usize),
        places: &impl Places<bf16>,
    ) -> [[S::F; 2]; WIDE] {
        let (c, pair) = (self.call.shape.c, 2 * S::LANES);
        let (padded, lines, m) = (c.next_multiple_of(pair), self.taps.len(), 2 * n);
        assert!(c0 + n <= c && c0.is_multiple_of(pair) && n <= pair && (n == pair || !FULL));
        let taps = &self.call.pairs[self.taps.start * K * padded..];
        let all = self.call.shape.kh - self.taps.start;
        assert!(lines <= K.min(all) && taps.len() >= (all * K + 1) * padded);
        // SAFETY: the bias is behind all taps, padded to whole pairs of vectors.
        let mut sums = [unsafe { halves(s, taps.as_ptr().add(all * K * padded + c0)) }; WIDE];
        for line in 0..lines {
            let taps = taps.as_ptr().wrapping_add(line * K * padded + c0);
            let mut weights = [[s.splat(0.0); 2]; K];
            for (tx, weight) in weights.iter_mut().enumerate() {
                // SAFETY: `line < lines` and `tx < K`: the tap is among those that were checked to
                // be there. It is padded to whole pairs, and the one from `c0` on is in it.
                *weight = unsafe { halves(s, taps.add(tx * padded)) };
            }
            macro_rules! pixel {
                ($i:expr) => {
                    // SAFETY: a place has `c` channels, of which the `n` from `c0` on are read.
                    // There are `K` lines of `N` places.
                    let words = unsafe {
                        let p = places.at(line, $i).wrapping_add(c0);
                        if AHEAD && line + 1 == lines {
                            // Rows above have been read before; this one is met first here.
                            s.prefetch(p.wrapping_add(WIDE * ST * c).cast());
                        }
                        s.of_bits(if FULL { s.iload(p.cast()) } else { s.load_bytes(p.cast(), m) })
                    };
                    let (even, odd) = (s.low_bf16(words), s.high_bf16(words));
                    for (tx, weight) in weights.iter().enumerate() {
                        if $i >= tx && ($i - tx) % ST == 0 && ($i - tx) / ST < WIDE {
                            let sum = &mut sums[($i - tx) / ST];
                            *sum = [s.fma(even, weight[0], sum[0]), s.fma(odd, weight[1], sum[1])];
                        }
                    }
                };
            }
            each_pixel!(N, ST == 1 && K == 3, pixel);
        }
        sums
    }

    /// Finishes and stores the first `count` sums of neighbouring outputs, the first one at `at`,
    /// of `n` channels: of one vector, or in turn of two.
    #[inline(always)]
    fn put_halves<S: Simd, O: Number, const V: usize>(
        &self,
        s: S,
        (at, n): (usize, usize),
        count: usize,
        mut sums: [[S::F; V]; WIDE],
        out: &mut [O],
    ) {
        let c = self.call.shape.c;
        let last = at + count.saturating_sub(1) * c + n;
        assert!(last <= out.len() && self.residual.is_none_or(|r| last <= r.len()));
        assert!((1..=2).contains(&V) && n <= V * S::LANES && count <= WIDE);
        let end = match self.end {
            Some(end) if self.residual.is_none() => end,
            _ => {
                let mut all = [0.0; 2 * WIDE * 16];
                for (i, sum) in sums.iter().enumerate() {
                    for (j, v) in sum.iter().enumerate() {
                        s.stores(&mut all[(i * V + j) * S::LANES..], *v);
                    }
                }
                let done = &mut all[..count * V * S::LANES];
                self.finish(S::ISA, (at, n), (count, V), done);
                for (i, sum) in sums.iter_mut().enumerate() {
                    for (j, v) in sum.iter_mut().enumerate() {
                        *v = s.loads(&all[(i * V + j) * S::LANES..]);
                    }
                }
                End::NONE
            }
        };
        for (i, mut sum) in sums.into_iter().enumerate() {
            if i >= count {
                break;
            }
            for v in &mut sum {
                *v = end.vector(s, *v);
            }
            // SAFETY: of each output the `n` numbers behind `at + i * c` are written, which were
            // checked to be there.
            unsafe {
                let p = out.as_mut_ptr().add(at + i * c);
                match V {
                    2 => O::store_pairs(s, p, sum[0], sum[V - 1], n),
                    _ => O::store_n(s, p, sum[0], n),
                }
            }
        }
    }
}

impl Line<'_, bf16> {
    /// Adds the residual to `count` sums, each of so many vectors, and does the activation. Apart,
    /// as it is rare and would take registers from what is not.
    #[inline(never)]
    fn finish(
        &self,
        isa: Isa,
        (at, n): (usize, usize),
        (count, vectors): (usize, usize),
        sums: &mut [f32],
    ) {
        let (c, len) = (self.call.shape.c, sums.len() / count.max(1));
        for (i, sum) in sums.chunks_exact_mut(len).enumerate() {
            let Some(residual) = self.residual else { break };
            for (k, v) in residual[at + i * c..][..n].iter().enumerate() {
                sum[k % vectors * (len / vectors) + k / vectors] += v;
            }
        }
        activation::apply(isa, self.call.act, sums);
    }
}

/// Two vectors.
/// # Safety
/// They must be readable behind `p`.
#[inline(always)]
unsafe fn halves<S: Simd>(s: S, p: *const f32) -> [S::F; 2] {
    // SAFETY: as the caller promises.
    unsafe { [s.load(p), s.load(p.add(S::LANES))] }
}
