//! Numbers in memory that are f32 or bf16: kernels read and write either and reckon in f32.

use crate::isa::{Isa, Kernel};
use crate::scratch::Shared;
use crate::simd::Simd;
use half::bf16;
use std::ops::Range;

/// f32 or bf16.
pub trait Number: bytemuck::Pod + Default + Send + Sync {
    /// Reads a vector.
    /// # Safety
    /// `p` must be readable for `LANES` numbers.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F;
    /// Reads the first `n <= LANES` numbers; the other lanes are zero.
    /// # Safety
    /// `p` must be readable for `n` numbers.
    unsafe fn load_n<S: Simd>(s: S, p: *const Self, n: usize) -> S::F;
    /// Writes a vector.
    /// # Safety
    /// `p` must be writable for `LANES` numbers.
    unsafe fn store<S: Simd>(s: S, p: *mut Self, v: S::F);
    /// Writes the first `n <= LANES` lanes.
    /// # Safety
    /// `p` must be writable for `n` numbers.
    unsafe fn store_n<S: Simd>(s: S, p: *mut Self, v: S::F, n: usize);
    /// Writes the lanes of two vectors in turn, the first `n <= 2 * LANES` numbers.
    /// # Safety
    /// `p` must be writable for `n` numbers.
    unsafe fn store_pairs<S: Simd>(s: S, p: *mut Self, even: S::F, odd: S::F, n: usize);
    /// Runs a kernel that reads and writes such numbers, with the instructions for them.
    fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output;
}

impl Number for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { s.load(p) }
    }
    #[inline(always)]
    unsafe fn load_n<S: Simd>(s: S, p: *const f32, n: usize) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { s.load_n(p, n) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f32, v: S::F) {
        // SAFETY: as the caller promises.
        unsafe { s.store(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n<S: Simd>(s: S, p: *mut f32, v: S::F, n: usize) {
        // SAFETY: as the caller promises.
        unsafe { s.store_n(p, v, n) }
    }
    #[inline(always)]
    unsafe fn store_pairs<S: Simd>(s: S, p: *mut f32, even: S::F, odd: S::F, n: usize) {
        let [low, high] = s.zip(even, odd);
        let rest = n.saturating_sub(S::LANES);
        // SAFETY: as the caller promises, `n` floats are written; nothing behind them is.
        unsafe {
            match rest >= S::LANES {
                true => {
                    s.store(p, low);
                    s.store(p.add(S::LANES), high);
                }
                false => {
                    s.store_n(p, low, n.min(S::LANES));
                    s.store_n(p.wrapping_add(S::LANES), high, rest);
                }
            }
        }
    }
    fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        isa.dispatch(kernel)
    }
}

impl Number for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const bf16) -> S::F {
        // SAFETY: as the caller promises, who has two bytes for each lane.
        unsafe { Self::load_n(s, p, S::LANES) }
    }
    #[inline(always)]
    unsafe fn load_n<S: Simd>(s: S, p: *const bf16, n: usize) -> S::F {
        // SAFETY: as the caller promises, who has two bytes for each number.
        s.of_bits(s.shl::<16>(unsafe { s.load_u16(p.cast(), 2 * n) }))
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut bf16, v: S::F) {
        // SAFETY: as the caller promises, who has two bytes for each lane.
        unsafe { s.store_bf16(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn store_n<S: Simd>(s: S, p: *mut bf16, v: S::F, n: usize) {
        if n >= S::LANES {
            // SAFETY: as the caller promises.
            return unsafe { Self::store(s, p, v) };
        }
        let words = s.bits(s.narrow_bf16(v, s.splat(0.0)));
        // SAFETY: as the caller promises, who has two bytes for each lane that is written.
        unsafe { s.store_bytes(p.cast(), words, 2 * n) }
    }
    #[inline(always)]
    unsafe fn store_pairs<S: Simd>(s: S, p: *mut bf16, even: S::F, odd: S::F, n: usize) {
        let words = s.bits(s.pair_bf16(even, odd));
        // SAFETY: as the caller promises, who has two bytes for each number that is written.
        unsafe {
            match n >= 2 * S::LANES {
                true => s.istore(p.cast(), words),
                false => s.store_bytes(p.cast(), words, 2 * n),
            }
        }
    }
    fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        isa.dispatch_bf16(kernel)
    }
}

/// Numbers that are read.
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    /// As they are.
    F32(&'a [f32]),
    /// Widened.
    Bf16(&'a [bf16]),
}

/// Numbers that are written.
#[derive(Debug)]
pub enum NumbersOut<'a> {
    /// As they are.
    F32(&'a mut [f32]),
    /// Rounded to nearest, ties to even.
    Bf16(&'a mut [bf16]),
}

/// [`NumbersOut`], of which tasks write disjoint parts.
#[derive(Clone, Copy, Debug)]
pub enum SharedOut<'a> {
    /// As they are.
    F32(Shared<'a, f32>),
    /// Rounded to nearest, ties to even.
    Bf16(Shared<'a, bf16>),
}

impl<'a> Numbers<'a> {
    /// Some of them. Panics if they are outside.
    pub fn part(self, range: Range<usize>) -> Numbers<'a> {
        match self {
            Numbers::F32(x) => Numbers::F32(&x[range]),
            Numbers::Bf16(x) => Numbers::Bf16(&x[range]),
        }
    }
}

impl Numbers<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Numbers::F32(x) => x.len(),
            Numbers::Bf16(x) => x.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Two vectors of the `n` numbers from `at` on, of which the first `2 * LANES` are read; the
    /// rest is zero. Panics if they are outside.
    #[inline(always)]
    pub fn load<S: Simd>(&self, s: S, at: usize, n: usize) -> [S::F; 2] {
        let (first, second) = (n.min(S::LANES), n.saturating_sub(S::LANES).min(S::LANES));
        if let Numbers::F32(x) = self
            && n >= 2 * S::LANES
        {
            let x = &x[at..at + 2 * S::LANES];
            return [s.loads(x), s.loads(&x[S::LANES..])];
        }
        // SAFETY: the slices have as many numbers as are read.
        unsafe {
            match self {
                Numbers::F32(x) => {
                    let x = &x[at..at + first + second];
                    let p = x.as_ptr();
                    [s.load_n(p, first), s.load_n(p.wrapping_add(first), second)]
                }
                Numbers::Bf16(x) => {
                    let p = x[at..at + first + second].as_ptr();
                    let rest = p.wrapping_add(first);
                    [bf16::load_n(s, p, first), bf16::load_n(s, rest, second)]
                }
            }
        }
    }

    /// Writes `n` numbers from `at` on as bf16, and zeros behind them up to a whole number of
    /// `2 * LANES`. Panics if they are outside, or `to` is shorter.
    #[inline(always)]
    pub fn narrow<S: Simd>(&self, s: S, at: usize, n: usize, to: &mut [u16]) {
        let wide = 2 * S::LANES;
        let to = &mut to[..n.next_multiple_of(wide)];
        // SAFETY: as many numbers are read as the slices have, and `to` has room for whole pairs
        // of vectors.
        unsafe {
            match self {
                Numbers::F32(x) => {
                    let x = &x[at..at + n];
                    for (x, to) in x.chunks(wide).zip(to.chunks_exact_mut(wide)) {
                        let p = x.as_ptr();
                        let pairs = match x.len() == wide {
                            true => s.load_bf16(p),
                            false => {
                                let first = x.len().min(S::LANES);
                                let second = s.load_n(p.add(first), x.len() - first);
                                s.narrow_bf16(s.load_n(p, first), second)
                            }
                        };
                        s.istore(to.as_mut_ptr().cast(), s.bits(pairs));
                    }
                }
                Numbers::Bf16(x) => {
                    let x = &x[at..at + n];
                    for (x, to) in x.chunks(wide).zip(to.chunks_exact_mut(wide)) {
                        let words = s.load_bytes(x.as_ptr().cast(), 2 * x.len());
                        s.istore(to.as_mut_ptr().cast(), words);
                    }
                }
            }
        }
    }
}

impl Numbers<'_> {
    /// Writes the numbers from `at` on as f32, as many as there is room for. Panics if there are
    /// not so many.
    #[inline(always)]
    pub fn widen<S: Simd>(&self, s: S, at: usize, to: &mut [f32]) {
        let x = match self {
            Numbers::F32(x) => return to.copy_from_slice(&x[at..at + to.len()]),
            Numbers::Bf16(x) => &x[at..at + to.len()],
        };
        let mut wide = to.chunks_exact_mut(S::LANES);
        for (to, from) in (&mut wide).zip(x.chunks_exact(S::LANES)) {
            // SAFETY: there are as many numbers as lanes.
            s.stores(to, unsafe { bf16::load(s, from.as_ptr()) });
        }
        let rest = &x[x.len() / S::LANES * S::LANES..];
        // SAFETY: as many numbers are read as there are.
        s.stores_tail(wide.into_remainder(), unsafe { bf16::load_n(s, rest.as_ptr(), rest.len()) });
    }

    /// Writes all numbers as bf16. Panics if there are not as many.
    #[inline(always)]
    pub fn narrow_all<S: Simd>(&self, s: S, to: &mut [bf16]) {
        let wide = 2 * S::LANES;
        assert_eq!(self.len(), to.len(), "another number of numbers");
        let to: &mut [u16] = bytemuck::cast_slice_mut(to);
        let whole = to.len() / wide * wide;
        self.narrow(s, 0, whole, to);
        if whole < to.len() {
            let rest = to.len() - whole;
            self.columns(s, (whole, 0, rest), to, (whole, 0, rest), 1);
        }
    }

    /// Copies `count` runs of `n` numbers, at most `2 * LANES`, as bf16: the first one from `from`
    /// to `place`, the others `step` and `row` numbers behind. `room` numbers are written of each,
    /// with zeros behind the run. Panics if they are outside.
    #[inline(always)]
    pub fn columns<S: Simd>(
        &self,
        s: S,
        (from, step, n): (usize, usize, usize),
        to: &mut [u16],
        (place, row, room): (usize, usize, usize),
        count: usize,
    ) {
        let wide = 2 * S::LANES;
        assert!(n <= wide && room <= wide && count > 0);
        let last = (count - 1) * step + n;
        let to = &mut to[place..][..(count - 1) * row + room];
        match self {
            Numbers::F32(x) => {
                let x = &x[from..from + last];
                let (first, second) = (n.min(S::LANES), n.saturating_sub(S::LANES));
                for i in 0..count {
                    // SAFETY: `i < count`: the runs end inside the slices, as they were cut.
                    unsafe {
                        let p = x.as_ptr().wrapping_add(i * step);
                        let low = s.load_n(p, first);
                        let high = s.load_n(p.wrapping_add(first), second);
                        let words = s.bits(s.narrow_bf16(low, high));
                        s.store_bytes(to.as_mut_ptr().add(i * row).cast(), words, 2 * room);
                    }
                }
            }
            Numbers::Bf16(x) => {
                let x = &x[from..from + last];
                for i in 0..count {
                    // SAFETY: as above.
                    unsafe {
                        let words = s.load_bytes(x.as_ptr().wrapping_add(i * step).cast(), 2 * n);
                        s.store_bytes(to.as_mut_ptr().add(i * row).cast(), words, 2 * room);
                    }
                }
            }
        }
    }
}

impl<'a> NumbersOut<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            NumbersOut::F32(x) => x.len(),
            NumbersOut::Bf16(x) => x.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same for tasks.
    pub fn share(self) -> SharedOut<'a> {
        match self {
            NumbersOut::F32(x) => SharedOut::F32(Shared::new(x)),
            NumbersOut::Bf16(x) => SharedOut::Bf16(Shared::new(x)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Kernel, with_bf16};

    /// Reads and writes back all runs of so many numbers.
    struct There<'a>(&'a [f32], usize);

    impl Kernel for There<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let There(x, n) = self;
            let low: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
            let n = n.min(2 * S::LANES);
            for from in [Numbers::F32(x), Numbers::Bf16(&low)] {
                let mut narrow = vec![7u16; 4 * S::LANES];
                from.narrow(s, 3, n, &mut narrow);
                let end = n.next_multiple_of(2 * S::LANES);
                let want = (0..4 * S::LANES).map(|i| match i {
                    _ if i < n => low[3 + i].to_bits(),
                    _ if i < end => 0,
                    _ => 7,
                });
                assert!(narrow.into_iter().eq(want), "{n} numbers narrowed");

                let mut wide = vec![9.0f32; n + 3];
                from.widen(s, 1, &mut wide[..n]);
                for (i, wide) in wide.into_iter().enumerate() {
                    let exact =
                        if let Numbers::F32(x) = from { x[i + 1] } else { low[i + 1].into() };
                    assert_eq!(wide, if i < n { exact } else { 9.0 });
                }
                let [first, second] = from.load(s, 3, n).map(|v| s.to_array(v));
                let loaded = first[..S::LANES].iter().chain(&second[..S::LANES]).take(n);
                let exact = (3..3 + n).map(|i| match from {
                    Numbers::F32(x) => x[i],
                    Numbers::Bf16(_) => low[i].to_f32(),
                });
                assert!(loaded.copied().eq(exact), "{n} numbers loaded");
                // The numbers at even places and those at odd ones, in turn again.
                let halves = [0, 1].map(|at| {
                    let mut half = [0.0; 16];
                    (half.iter_mut().zip(x[at..].iter().step_by(2))).for_each(|(h, x)| *h = *x);
                    s.loads(&half)
                });
                let (mut f32s, mut bf16s) = (vec![9.0f32; 33], vec![bf16::ONE; 33]);
                // SAFETY: there is room for more than two vectors.
                unsafe {
                    f32::store_pairs(s, f32s.as_mut_ptr(), halves[0], halves[1], n);
                    bf16::store_pairs(s, bf16s.as_mut_ptr(), halves[0], halves[1], n);
                }
                assert!(f32s[..n] == x[..n] && f32s[n..].iter().all(|&x| x == 9.0), "{n} in turn");
                let kept = bf16s[n..].iter().all(|&x| x == bf16::ONE);
                assert!(bf16s[..n] == low[..n] && kept, "{n} in turn as bf16");
                let mut all = vec![bf16::NAN; x.len()];
                from.narrow_all(s, &mut all);
                assert_eq!(all, low);
                let mut all = vec![bf16::NAN; n];
                Numbers::F32(&x[..n]).narrow_all(s, &mut all);
                assert_eq!(all, low[..n]);
            }
        }
    }

    #[test]
    fn runs_of_any_length_are_read_and_written() {
        let x: Vec<f32> = (0..64).map(|i| (i as f32 - 20.0) * 1.0371).collect();
        for n in 0..=32 {
            for isa in Isa::available() {
                isa.dispatch(There(&x, n));
            }
            let _where_there_is_an_instruction = with_bf16(There(&x, n));
        }
    }
}
