//! Products whose operands are rounded to bf16 (8 bits of precision instead of 24) and whose sums
//! are f32.
//!
//! Constant operands are stored as pairs: two neighbours along the axis of the sum in one 32-bit
//! word, the first one in the low half, as the instructions of AVX512-BF16 take them. The other
//! operand is f32 in memory and is rounded while it is packed, in a block that stays in the cache.
//! There are two ways to multiply: by those instructions ([`Pairs`]), or by splitting a word of the
//! constant operand in two registers and multiplying as f32 ([`Wide`]), which needs no instruction
//! of its own. Where there are matrix registers, they are faster than both (`tiles`). Products of
//! bf16 numbers are exact in f32 and both ways add them in the same order, so they give the same
//! bits (but that the instructions take denormal numbers for zero).
//!
//! [`Pairs`] is not always the faster way: measured on one core, an Intel core of Sapphire Rapids
//! makes 80 GFLOP/s by its instruction and 165 by f32 multiply-adds. So it is measured once, see
//! [`operands`]. Where `Wide` is chosen only products that wait for the memory gain: their constant
//! operand is half as long.

use super::gemm_pack::Mat;
use half::bf16;
use hetra_cpu_base::amx;
use hetra_cpu_base::isa::{Isa, Kernel, detected, with_bf16};
use hetra_cpu_base::numbers::{Number, Numbers};
use hetra_cpu_base::scratch::{Shared, count};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_ranges;
use std::sync::OnceLock;
use std::time::Instant;

/// The form of the operands of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// Both are f32.
    F32,
    /// Both are pairs of bf16 numbers. Needs AVX512-BF16.
    Pairs,
    /// The left ones are f32 numbers, rounded to bf16, the right ones pairs.
    Wide,
    /// Both are pairs, in the order of matrix registers (`tiles`).
    Tiles,
}

/// How the register kernels multiply: [`Operands`] as a type.
pub(crate) trait Product: Copy + 'static {
    /// Words of the left operand that meet one vector of the right one.
    const WORDS: usize;
    /// The numbers that the words of the left operand are made of, as they lie in memory.
    type Left: Number;

    /// Adds to each row of sums the products of `WORDS` words of the left operand, which `left`
    /// tells for a row and the index of a word, and a vector of the right one for each column.
    ///
    /// # Safety
    /// `left` must give readable words for the rows below `MR`, of any alignment for [`Pairs`]; `b`
    /// must be readable for `NV` vectors.
    unsafe fn step<S: Simd, const MR: usize, const NV: usize>(
        s: S,
        left: impl Fn(usize, usize) -> *const f32,
        b: *const f32,
        sums: &mut [[S::F; NV]; MR],
    );

    /// Runs a kernel with the instructions that this product needs.
    #[inline(always)]
    fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        isa.dispatch(kernel)
    }
}

/// [`Operands::F32`].
#[derive(Clone, Copy)]
pub(crate) struct F32;
/// [`Operands::Pairs`].
#[derive(Clone, Copy)]
pub(crate) struct Pairs;
/// [`Operands::Wide`].
#[derive(Clone, Copy)]
pub(crate) struct Wide;

/// # Safety
/// `b` must be readable for `NV` vectors.
#[inline(always)]
unsafe fn vectors<S: Simd, const NV: usize>(s: S, b: *const f32) -> [S::F; NV] {
    let mut all = [s.splat(0.0); NV];
    for (j, v) in all.iter_mut().enumerate() {
        // SAFETY: `j < NV`, which the caller promises.
        *v = unsafe { s.load(b.add(j * S::LANES)) };
    }
    all
}

impl Product for F32 {
    const WORDS: usize = 1;
    type Left = f32;

    #[inline(always)]
    unsafe fn step<S: Simd, const MR: usize, const NV: usize>(
        s: S,
        left: impl Fn(usize, usize) -> *const f32,
        b: *const f32,
        sums: &mut [[S::F; NV]; MR],
    ) {
        // SAFETY: as the caller promises.
        let b: [S::F; NV] = unsafe { vectors(s, b) };
        for (i, row) in sums.iter_mut().enumerate() {
            // SAFETY: `i < MR`.
            let a = s.splat(unsafe { *left(i, 0) });
            for j in 0..NV {
                row[j] = s.fma(a, b[j], row[j]);
            }
        }
    }
}

impl Product for Pairs {
    const WORDS: usize = 1;
    type Left = bf16;

    #[inline(always)]
    unsafe fn step<S: Simd, const MR: usize, const NV: usize>(
        s: S,
        left: impl Fn(usize, usize) -> *const f32,
        b: *const f32,
        sums: &mut [[S::F; NV]; MR],
    ) {
        // SAFETY: as the caller promises.
        let b: [S::F; NV] = unsafe { vectors(s, b) };
        for (i, row) in sums.iter_mut().enumerate() {
            // SAFETY: `i < MR`.
            let a = s.splat(unsafe { left(i, 0).read_unaligned() });
            for j in 0..NV {
                row[j] = s.dot_bf16(a, b[j], row[j]);
            }
        }
    }

    #[inline(always)]
    fn dispatch<K: Kernel>(_: Isa, kernel: K) -> K::Output {
        with_bf16(kernel).expect("`operands` chooses pairs where there are instructions for them")
    }
}

impl Product for Wide {
    const WORDS: usize = 2;
    type Left = f32;

    #[inline(always)]
    unsafe fn step<S: Simd, const MR: usize, const NV: usize>(
        s: S,
        left: impl Fn(usize, usize) -> *const f32,
        b: *const f32,
        sums: &mut [[S::F; NV]; MR],
    ) {
        // SAFETY: as the caller promises.
        let pairs: [S::F; NV] = unsafe { vectors(s, b) };
        let mut half = pairs;
        for v in &mut half {
            *v = s.high_bf16(*v);
        }
        for (i, row) in sums.iter_mut().enumerate() {
            // SAFETY: `i < MR`.
            let a = s.splat(unsafe { *left(i, 1) });
            for j in 0..NV {
                row[j] = s.fma(a, half[j], row[j]);
            }
        }
        for (v, pair) in half.iter_mut().zip(&pairs) {
            *v = s.low_bf16(*pair);
        }
        for (i, row) in sums.iter_mut().enumerate() {
            // SAFETY: `i < MR`.
            let a = s.splat(unsafe { *left(i, 0) });
            for j in 0..NV {
                row[j] = s.fma(a, half[j], row[j]);
            }
        }
    }
}

impl Operands {
    /// Steps of the register kernel for `terms` terms of a sum.
    pub(crate) fn steps(self, terms: usize) -> usize {
        if self == Operands::F32 { terms } else { terms.div_ceil(2) }
    }

    /// Words of the left operand that a step takes: [`Product::WORDS`].
    pub(crate) fn words(self) -> usize {
        if self == Operands::Wide { 2 } else { 1 }
    }

    /// Writes rows of `terms` numbers as rows of words, with a zero behind an odd number of terms.
    /// Panics if `rows` is no whole number of rows, or `words` too short.
    pub(crate) fn round(self, isa: Isa, terms: usize, rows: Numbers<'_>, words: &mut [f32]) {
        let row = self.steps(terms) * self.words();
        assert!(
            rows.len().is_multiple_of(terms.max(1))
                && words.len() >= rows.len() / terms.max(1) * row
        );
        let one = |from: Numbers<'_>, to: &mut [f32]| match (self, from) {
            (Operands::F32, _) => isa.dispatch(Widen(from, to)),
            (Operands::Pairs, Numbers::F32(from)) => Pairs::dispatch(isa, Narrow(from, to)),
            (Operands::Pairs, Numbers::Bf16(from)) => copy_pairs(from, to),
            (Operands::Wide, Numbers::F32(from)) => isa.dispatch(Round(from, to)),
            (Operands::Wide, Numbers::Bf16(_)) => isa.dispatch(Widen(from, to)),
            (Operands::Tiles, _) => unreachable!("rows of tiles are made by `tiles`"),
        };
        if terms.is_multiple_of(2) || self == Operands::F32 {
            // Nothing to fill up: all rows are one.
            return one(rows, words);
        }
        let all = rows.len() / terms;
        for (i, to) in words.chunks_exact_mut(row).take(all).enumerate() {
            one(rows.part(i * terms..(i + 1) * terms), to);
        }
    }

    /// The matrix in words, row after row, as [`Operands::round`] makes them; `words` must have
    /// `a.rows * steps(a.cols) * words()` floats.
    pub(crate) fn round_matrix(self, isa: Isa, a: Mat<'_>, words: &mut [f32]) {
        let row = self.steps(a.cols) * self.words();
        assert!(words.len() >= count(&[a.rows, row]), "words too short");
        let out = Shared::new(words);
        for_ranges(a.rows, (16 << 10) / a.cols.max(1), |start, len| {
            // SAFETY: each row is one task's.
            let words = unsafe { out.slice(start * row, len * row) };
            if a.col_stride == 1 && a.row_stride == a.cols {
                let rows = &a.data[start * a.cols..(start + len) * a.cols];
                return self.round(isa, a.cols, Numbers::F32(rows), words);
            }
            let mut line = hetra_cpu_base::scratch::lend(a.cols);
            for (i, to) in words.chunks_exact_mut(row.max(1)).enumerate() {
                for (j, v) in line.iter_mut().enumerate() {
                    *v = a.data[a.at(start + i, j)];
                }
                self.round(isa, a.cols, Numbers::F32(&line), to);
            }
        });
    }
}

/// The bits of the nearest bf16 number, ties to even; NaN stays NaN.
pub fn bf16_bits(x: f32) -> u16 {
    half::bf16::from_f32(x).to_bits()
}

/// Two numbers, rounded, in one word.
pub(crate) fn pair(low: f32, high: f32) -> f32 {
    f32::from_bits(u32::from(bf16_bits(low)) | u32::from(bf16_bits(high)) << 16)
}

/// Floats rounded and written as pairs.
struct Narrow<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Narrow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (from, to) = (self.0, &mut self.1[..self.0.len().div_ceil(2)]);
        let mut floats = from.chunks_exact(2 * S::LANES);
        let mut words = to.chunks_exact_mut(S::LANES);
        for (floats, words) in (&mut floats).zip(&mut words) {
            // SAFETY: there are `2 * LANES` floats.
            s.stores(words, unsafe { s.load_bf16(floats.as_ptr()) });
        }
        let done = from.len() / (2 * S::LANES) * S::LANES;
        for (floats, word) in floats.remainder().chunks(2).zip(&mut to[done..]) {
            *word = pair(floats[0], floats.get(1).copied().unwrap_or(0.0));
        }
    }
}

/// Numbers of bf16 as pairs, with a zero behind an odd number of them.
fn copy_pairs(from: &[half::bf16], to: &mut [f32]) {
    let to: &mut [half::bf16] = bytemuck::cast_slice_mut(&mut to[..from.len().div_ceil(2)]);
    let (to, rest) = to.split_at_mut(from.len());
    to.copy_from_slice(from);
    rest.fill(half::bf16::ZERO);
}

/// Numbers as floats, and a zero behind them if there is room.
struct Widen<'a>(Numbers<'a>, &'a mut [f32]);

impl Kernel for Widen<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (to, rest) = self.1.split_at_mut(self.0.len());
        rest.iter_mut().take(1).for_each(|zero| *zero = 0.0);
        self.0.widen(s, 0, to);
    }
}

/// Floats rounded, and a zero behind them if there is room.
struct Round<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (to, rest) = self.1.split_at_mut(self.0.len());
        rest.iter_mut().take(1).for_each(|zero| *zero = 0.0);
        for (from, to) in self.0.chunks(S::LANES).zip(to.chunks_mut(S::LANES)) {
            if from.len() == S::LANES {
                s.stores(to, s.round_bf16(s.loads(from)));
            } else {
                s.stores_tail(to, s.round_bf16(s.loads_tail(from)));
            }
        }
    }
}

/// Steps and rounds of the measurement: some 100 µs in all.
const STEPS: usize = 1 << 9;
const ROUNDS: usize = 20;

/// Sums of which none waits for another, by one way to multiply.
struct Race<P>(P);

impl<P: Product> Kernel for Race<P> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (a, b) = ([pair(0.5, 0.25); 16], [pair(0.25, 0.5); 32]);
        let (a, b) = (std::hint::black_box(&a), std::hint::black_box(&b));
        let mut sums = [[s.splat(0.0); 2]; 6];
        for _ in 0..STEPS {
            // SAFETY: rows are below 6 and words below 2; `b` has two vectors.
            unsafe { P::step(s, |i, _| a.as_ptr().add(i), b.as_ptr(), &mut sums) };
        }
        let all = sums.as_flattened().iter().fold(s.splat(0.0), |all, &sum| s.add(all, sum));
        s.hsum(all)
    }
}

/// Whether the machine multiplies pairs faster by its instruction than as f32. Measured once.
fn pairs_pay() -> bool {
    static PAY: OnceLock<bool> = OnceLock::new();
    let best = |run: &dyn Fn() -> Option<f32>| {
        let round = |_| {
            let begun = Instant::now();
            std::hint::black_box(run()).map(|_| begun.elapsed())
        };
        (0..ROUNDS).filter_map(round).min()
    };
    *PAY.get_or_init(|| {
        let wide = best(&|| Some(Isa::Avx512.dispatch(Race(Wide))));
        let pairs = best(&|| with_bf16(Race(Pairs)));
        pairs.zip(wide).is_some_and(|(pairs, wide)| pairs < wide)
    })
}

/// The faster form of bf16 operands for an instruction set.
pub fn operands(isa: Isa) -> Operands {
    match isa.min(detected()) {
        Isa::Avx512 if amx::available() => Operands::Tiles,
        Isa::Avx512 if pairs_pay() => Operands::Pairs,
        _ => Operands::Wide,
    }
}

/// Every form of bf16 operands that the machine can multiply.
#[cfg(test)]
pub(crate) fn available(isa: Isa) -> Vec<Operands> {
    struct Nothing;
    impl Kernel for Nothing {
        type Output = ();
        fn run<S: Simd>(self, _: S) {}
    }
    let pairs = isa == Isa::Avx512 && with_bf16(Nothing).is_some();
    let tiles = isa == Isa::Avx512 && amx::available();
    let forms = [(true, Operands::Wide), (pairs, Operands::Pairs), (tiles, Operands::Tiles)];
    forms.into_iter().filter(|(there, _)| *there).map(|(_, form)| form).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Rng;

    fn rounded(x: f32) -> f32 {
        f32::from_bits(u32::from(bf16_bits(x)) << 16)
    }

    /// Bit patterns of all exponents, ties among them.
    fn samples() -> Vec<f32> {
        let mut rng = Rng::new(5);
        let mut all: Vec<f32> = (0..4000)
            .map(|i| {
                let bits = rng.next() as u32;
                f32::from_bits(if i % 2 == 0 { bits } else { bits & 0xffff_0000 | 0x8000 })
            })
            .filter(|x| x.is_normal() || *x == 0.0)
            .collect();
        all.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1.0]);
        all
    }

    #[test]
    fn vectors_round_as_single_numbers_do() {
        let mut x = samples();
        x.push(f32::NAN);
        for isa in Isa::available() {
            for kind in available(isa).into_iter().filter(|kind| *kind != Operands::Tiles) {
                for terms in [x.len(), 7, 1] {
                    let rows = &x[..x.len() / terms * terms];
                    let row = kind.steps(terms) * kind.words();
                    let mut words = vec![f32::NAN; rows.len() / terms * row];
                    kind.round(isa, terms, Numbers::F32(rows), &mut words);
                    for (i, want) in rows.iter().enumerate() {
                        let got = numbers(kind, &words[i / terms * row..][..row])[i % terms];
                        let want = rounded(*want);
                        assert!(got == want || (got.is_nan() && want.is_nan()), "{kind:?} {want}");
                    }
                    let last = numbers(kind, &words[words.len() - row..]);
                    assert!(terms % 2 == 0 || last[terms] == 0.0, "{kind:?}: no zero behind");
                }
            }
        }
    }

    fn numbers(kind: Operands, words: &[f32]) -> Vec<f32> {
        let halves = |word: &f32| {
            let bits = word.to_bits();
            [f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)]
        };
        match kind {
            Operands::Pairs => words.iter().flat_map(halves).collect(),
            _ => words.to_vec(),
        }
    }

    #[test]
    fn the_faster_form_is_one_that_runs() {
        for isa in Isa::available() {
            assert!(available(isa).contains(&operands(isa)));
        }
    }
}
