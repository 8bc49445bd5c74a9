//! The vector vocabulary that every kernel is written in.
//!
//! [`Simd`] is implemented by three tokens. A token of an x86 type exists only where its
//! instructions may run (its constructor is unsafe), so that arithmetic on it is safe; only raw
//! loads and stores stay unsafe. All methods inline into the dispatching function of `isa.rs`.

use super::isa::Isa;

mod sealed {
    /// Unsafe code relies on what the tokens say of themselves: there are no others.
    pub trait Sealed {}
    impl Sealed for super::Portable {}
    #[cfg(target_arch = "x86_64")]
    impl Sealed for super::Avx2 {}
    #[cfg(target_arch = "x86_64")]
    impl<const BF16: bool> Sealed for super::Avx512<BF16> {}
}

/// Arithmetic on vectors of f32 and i32 with the same number of lanes.
pub trait Simd: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The instruction set of this token.
    const ISA: Isa;
    /// Lanes in a vector; at most 16, which unsafe code relies on (see `to_array`).
    const LANES: usize;
    /// Rows that the matrix kernels keep in registers at once, with two vectors of columns.
    const MR: usize;
    /// Bytes of the k axis that one `dot` step takes: 4 for u8·i8, 2 for i16·i16.
    const KG: usize;
    /// A vector of f32.
    type F: Copy;
    /// A vector of i32.
    type I: Copy;
    /// One truth value for each lane.
    type M: Copy;

    /// All lanes equal to `x`.
    fn splat(self, x: f32) -> Self::F;
    /// All lanes equal to `x`.
    fn isplat(self, x: i32) -> Self::I;
    /// Asks for the line at `p` to be brought into the second cache level; any address will do.
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        let _ = p;
    }
    /// Asks for the line at `p` to be brought near, to be written; any address will do.
    #[inline(always)]
    fn prefetch_write(self, p: *const f32) {
        let _ = p;
    }
    /// Reads `LANES` floats.
    /// # Safety
    /// `p` must be readable for `LANES` floats; any alignment.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// Reads the first `n <= LANES` floats; the other lanes are zero.
    /// # Safety
    /// `p` must be readable for `n` floats.
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::F;
    /// Writes `LANES` floats.
    /// # Safety
    /// `p` must be writable for `LANES` floats.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// Writes the first `n <= LANES` lanes.
    /// # Safety
    /// `p` must be writable for `n` floats.
    unsafe fn store_n(self, p: *mut f32, v: Self::F, n: usize);
    /// Reads `LANES` 32-bit integers.
    /// # Safety
    /// `p` must be readable for `LANES` integers.
    unsafe fn iload(self, p: *const i32) -> Self::I;
    /// Writes `LANES` 32-bit integers.
    /// # Safety
    /// `p` must be writable for `LANES` integers.
    unsafe fn istore(self, p: *mut i32, v: Self::I);
    /// Reads the first `n <= LANES` bytes, widened; the other lanes are zero.
    /// # Safety
    /// `p` must be readable for `n` bytes.
    unsafe fn load_u8(self, p: *const u8, n: usize) -> Self::I;
    /// Reads the first `n <= LANES` signed bytes, widened; the other lanes are zero.
    /// # Safety
    /// `p` must be readable for `n` bytes.
    unsafe fn load_i8(self, p: *const i8, n: usize) -> Self::I;
    /// Writes the low byte of the first `n <= LANES` lanes.
    /// # Safety
    /// `p` must be writable for `n` bytes.
    unsafe fn store_u8(self, p: *mut u8, v: Self::I, n: usize);
    /// Reads the first `n <= 2 * LANES` bytes as 16-bit numbers, low byte first, widened; missing
    /// bytes are zero.
    /// # Safety
    /// `p` must be readable for `n` bytes.
    unsafe fn load_u16(self, p: *const u8, n: usize) -> Self::I;
    /// Every other one of the first `n <= 2 * LANES` floats, beginning with the first; missing ones
    /// are zero.
    /// # Safety
    /// `p` must be readable for `n` floats.
    unsafe fn load_evens(self, p: *const f32, n: usize) -> Self::F;
    /// Reads `LANES` bytes of each of the first `KG` rows, flips the bits of `flip` in them, and
    /// puts byte `i` of every row into lane `i`, in the form that `dot` takes as its `a`.
    /// # Safety
    /// The first `KG` pointers must be readable for `LANES` bytes.
    unsafe fn interleave(self, rows: [*const u8; 4], flip: u8) -> Self::I;
    /// Reads the first `n <= 4 * LANES` bytes as they are; the others are zero.
    /// # Safety
    /// `p` must be readable for `n` bytes.
    unsafe fn load_bytes(self, p: *const u8, n: usize) -> Self::I;
    /// Writes the first `n <= 4 * LANES` bytes of a vector.
    /// # Safety
    /// `p` must be writable for `n` bytes.
    unsafe fn store_bytes(self, p: *mut u8, v: Self::I, n: usize);
    /// Takes a vector of two rows of `2 * LANES` bytes, in turn eight bytes of each, and writes the
    /// first `n` bytes of each row.
    /// # Safety
    /// Both pointers must be writable for `n <= 2 * LANES` bytes.
    unsafe fn store_pair(self, p: [*mut u8; 2], v: Self::I, n: usize);
    /// Takes a vector of four rows of `LANES` bytes, in turn four bytes of each, and writes the
    /// first `n` bytes of each row.
    /// # Safety
    /// All pointers must be writable for `n <= LANES` bytes.
    unsafe fn store_quad(self, p: [*mut u8; 4], v: Self::I, n: usize);
    /// Puts byte `i` of four vectors of bytes together into one lane: lane `4 l + i` of vector `r`
    /// has their bytes at `16 l + 4 r + i`. The opposite of `to_bytes`.
    fn unpack4(self, v: [Self::I; 4]) -> [Self::I; 4];
    /// `v + zero`, limited to `0..=255`, as bytes: lane `4 l + i` of vector `r` at
    /// `16 l + 4 r + i`. Numbers are limited to 16 bits first, and `zero` has no more.
    fn to_bytes(self, v: [Self::I; 4], zero: i32) -> Self::I;

    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `1 / b` within 1 ulp, for `b` in 1..=2^126: faster where there is a quick estimate.
    #[inline(always)]
    fn recip(self, b: Self::F) -> Self::F {
        self.div(self.splat(1.0), b)
    }
    /// `a * 2^n` for a whole `n` in -252..=254: rounded once, through the subnormal numbers to 0.
    #[inline(always)]
    fn scale(self, a: Self::F, n: Self::F) -> Self::F {
        // Two factors, since 2^n itself may be out of range.
        let n = self.to_int(n);
        let half = self.sar::<1>(n);
        let pow2 = |n: Self::I| self.of_bits(self.shl::<23>(self.iadd(n, self.isplat(127))));
        self.mul(self.mul(a, pow2(half)), pow2(self.isub(n, half)))
    }
    /// `a * b + c`, with one rounding where the hardware has it.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b`: a NaN in either gives `b`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`: a NaN in either gives `b`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// Square root, correctly rounded.
    fn sqrt(self, a: Self::F) -> Self::F;
    /// Nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `a < b` for each lane; false for NaN.
    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    /// Whether each lane is NaN.
    fn is_nan(self, a: Self::F) -> Self::M;
    /// Whether any lane is true.
    fn any(self, m: Self::M) -> bool;
    /// `m ? a : b`.
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// Nearest integer; lanes out of range give `i32::MIN`.
    fn to_int(self, a: Self::F) -> Self::I;
    /// Exact where below 2^24, else rounded.
    fn to_float(self, a: Self::I) -> Self::F;
    /// The same bits as integers.
    fn bits(self, a: Self::F) -> Self::I;
    /// The same bits as floats.
    fn of_bits(self, a: Self::I) -> Self::F;
    /// Wrapping `a + b`.
    fn iadd(self, a: Self::I, b: Self::I) -> Self::I;
    /// Wrapping `a - b`.
    fn isub(self, a: Self::I, b: Self::I) -> Self::I;
    /// Low half of `a * b`.
    fn imul(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise and.
    fn iand(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise or.
    fn ior(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise exclusive or.
    fn ixor(self, a: Self::I, b: Self::I) -> Self::I;
    /// Shift left.
    fn shl<const N: u32>(self, a: Self::I) -> Self::I;
    /// Shift right, copying the sign.
    fn sar<const N: u32>(self, a: Self::I) -> Self::I;
    /// `c` + the dot product of each lane's `KG` packed numbers of `a` (u8 or i16) and `b` (i8 or
    /// i16). Exact: nothing saturates.
    fn dot(self, a: Self::I, b: Self::I, c: Self::I) -> Self::I;

    /// `c` + the products of the two bf16 numbers that each lane of `a` and `b` holds: that of the
    /// high halves is added first, each sum is rounded to f32.
    #[inline(always)]
    fn dot_bf16(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        dot_bf16_by_parts(self, a, b, c)
    }
    /// Reads `2 * LANES` floats, rounds them to bf16 (to nearest, ties to even) and puts two
    /// neighbours into each lane, the first one into the low half.
    /// # Safety
    /// `p` must be readable for `2 * LANES` floats.
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const f32) -> Self::F {
        // SAFETY: passed on to the caller.
        unsafe { load_bf16_by_parts(self, p) }
    }
    /// The numbers of two vectors rounded to bf16, as [`Simd::load_bf16`] puts them.
    #[inline(always)]
    fn narrow_bf16(self, low: Self::F, high: Self::F) -> Self::F {
        const { assert!(Self::LANES <= 16, "a vector longer than its half of the array") };
        let mut both = [0.0; 32];
        // SAFETY: the array has room for two vectors.
        unsafe {
            self.store(both.as_mut_ptr(), low);
            self.store(both.as_mut_ptr().add(Self::LANES), high);
            self.load_bf16(both.as_ptr())
        }
    }
    /// Writes the lanes, rounded to bf16, as half as many bytes.
    /// # Safety
    /// `p` must be writable for `LANES` numbers of two bytes.
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u8, v: Self::F) {
        let words = self.bits(self.narrow_bf16(v, self.splat(0.0)));
        // SAFETY: as the caller promises.
        unsafe { self.store_bytes(p, words, 2 * Self::LANES) }
    }
    /// The numbers of two vectors rounded to bf16, those of `low` in the low halves of the lanes.
    #[inline(always)]
    fn pair_bf16(self, low: Self::F, high: Self::F) -> Self::F {
        pair_bf16_by_parts(self, low, high)
    }
    /// The low halves of the lanes as numbers.
    #[inline(always)]
    fn low_bf16(self, pairs: Self::F) -> Self::F {
        self.of_bits(self.shl::<16>(self.bits(pairs)))
    }
    /// The high halves of the lanes as numbers.
    #[inline(always)]
    fn high_bf16(self, pairs: Self::F) -> Self::F {
        self.of_bits(self.iand(self.bits(pairs), self.isplat(!0xffff)))
    }
    /// The lanes of two vectors in turn: `a` 0, `b` 0, `a` 1 and so on, in two vectors.
    fn zip(self, a: Self::F, b: Self::F) -> [Self::F; 2];
    /// Lane `i` is lane `lanes[i]` of `a` or, from `LANES` on, of `b`; these are below `2 * LANES`.
    fn pick(self, a: Self::F, b: Self::F, lanes: Self::I) -> Self::F;
    /// The nearest number that bf16 has, ties to even; NaN stays NaN.
    #[inline(always)]
    fn round_bf16(self, a: Self::F) -> Self::F {
        let bits = self.bits(a);
        let odd = self.iand(self.sar::<16>(bits), self.isplat(1));
        // What is cut off rounds up from one half on, or from more than that if the rest is even.
        let up = self.iadd(bits, self.iadd(odd, self.isplat(0x7fff)));
        let quiet = self.ior(bits, self.isplat(0x40_0000));
        let nearest = self.select(self.is_nan(a), self.of_bits(quiet), self.of_bits(up));
        self.high_bf16(nearest)
    }

    /// `|a|`.
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        self.of_bits(self.iand(self.bits(a), self.isplat(0x7fff_ffff)))
    }
    /// `|a|` with the sign of `b`.
    #[inline(always)]
    fn copysign(self, a: Self::F, b: Self::F) -> Self::F {
        let sign = self.iand(self.bits(b), self.isplat(i32::MIN));
        self.of_bits(self.ior(self.bits(self.abs(a)), sign))
    }
    /// The lanes as an array; lanes past `LANES` are zero.
    #[inline(always)]
    fn to_array(self, a: Self::F) -> [f32; 16] {
        const { assert!(Self::LANES <= 16, "a vector longer than its array") };
        let mut out = [0.0; 16];
        // SAFETY: `LANES <= 16`, as was just checked.
        unsafe { self.store(out.as_mut_ptr(), a) };
        out
    }
    /// Sum of the lanes, as a tree (the same order each time).
    #[inline(always)]
    fn hsum(self, a: Self::F) -> f32 {
        let mut x = self.to_array(a);
        let mut n = Self::LANES;
        while n > 1 {
            n /= 2;
            for i in 0..n {
                x[i] += x[i + n];
            }
        }
        x[0]
    }
    /// Greatest lane; NaN if any lane is NaN.
    #[inline(always)]
    fn hmax(self, a: Self::F) -> f32 {
        let x = self.to_array(a);
        x[1..Self::LANES].iter().fold(x[0], |m, &v| if v > m || v.is_nan() { v } else { m })
    }
    /// Least lane; NaN if any lane is NaN.
    #[inline(always)]
    fn hmin(self, a: Self::F) -> f32 {
        let x = self.to_array(a);
        x[1..Self::LANES].iter().fold(x[0], |m, &v| if v < m || v.is_nan() { v } else { m })
    }
    /// The greater, or NaN if either is NaN.
    #[inline(always)]
    fn max_nan(self, a: Self::F, b: Self::F) -> Self::F {
        self.select(self.is_nan(a), a, self.max(a, b))
    }
    /// The lesser, or NaN if either is NaN.
    #[inline(always)]
    fn min_nan(self, a: Self::F, b: Self::F) -> Self::F {
        self.select(self.is_nan(a), a, self.min(a, b))
    }
    /// Reads the first `LANES` floats of a slice.
    #[inline(always)]
    fn loads(self, x: &[f32]) -> Self::F {
        assert!(x.len() >= Self::LANES);
        // SAFETY: the length was just checked.
        unsafe { self.load(x.as_ptr()) }
    }
    /// Reads up to `LANES` floats of a slice; missing lanes are zero.
    #[inline(always)]
    fn loads_tail(self, x: &[f32]) -> Self::F {
        // SAFETY: no more floats are read than the slice has.
        unsafe { self.load_n(x.as_ptr(), x.len().min(Self::LANES)) }
    }
    /// Writes the first `LANES` floats of a slice.
    #[inline(always)]
    fn stores(self, x: &mut [f32], v: Self::F) {
        assert!(x.len() >= Self::LANES);
        // SAFETY: the length was just checked.
        unsafe { self.store(x.as_mut_ptr(), v) }
    }
    /// Writes as many lanes as the slice has room for.
    #[inline(always)]
    fn stores_tail(self, x: &mut [f32], v: Self::F) {
        // SAFETY: no more floats are written than the slice has.
        unsafe { self.store_n(x.as_mut_ptr(), v, x.len().min(Self::LANES)) }
    }
}

/// [`Simd::dot_bf16`] where no instruction does it. Products of two bf16 numbers are exact in f32.
#[inline(always)]
fn dot_bf16_by_parts<S: Simd>(s: S, a: S::F, b: S::F, c: S::F) -> S::F {
    let high = s.fma(s.high_bf16(a), s.high_bf16(b), c);
    s.fma(s.low_bf16(a), s.low_bf16(b), high)
}

/// [`Simd::load_bf16`] where no instruction does it.
/// # Safety
/// `p` must be readable for `2 * LANES` floats.
#[inline(always)]
unsafe fn load_bf16_by_parts<S: Simd>(s: S, p: *const f32) -> S::F {
    // SAFETY: the floats read are from 0 to `2 * LANES - 1`.
    let (even, odd) =
        unsafe { (s.load_evens(p, 2 * S::LANES), s.load_evens(p.add(1), 2 * S::LANES - 1)) };
    pair_bf16_by_parts(s, even, odd)
}

/// [`Simd::pair_bf16`] where no instruction does it.
#[inline(always)]
fn pair_bf16_by_parts<S: Simd>(s: S, low: S::F, high: S::F) -> S::F {
    let low = s.iand(s.sar::<16>(s.bits(s.round_bf16(low))), s.isplat(0xffff));
    s.of_bits(s.ior(low, s.bits(s.round_bf16(high))))
}

/// Plain Rust on four lanes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable(());

impl Portable {
    /// Always allowed.
    pub fn new() -> Self {
        Portable(())
    }
}

macro_rules! lanes {
    ($($name:ident($($arg:ident: $ty:ty),+) -> $out:ty = |$i:ident| $body:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),+) -> $out {
            std::array::from_fn(|$i| $body)
        }
    )+};
}

impl Simd for Portable {
    const ISA: Isa = Isa::Portable;
    const LANES: usize = 4;
    const MR: usize = 4;
    const KG: usize = 2;
    type F = [f32; 4];
    type I = [i32; 4];
    type M = [bool; 4];

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> [i32; 4] {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> [f32; 4] {
        // SAFETY: the caller promises four readable floats.
        unsafe { p.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> [f32; 4] {
        // SAFETY: only lanes below `n`, which the caller promises, are read.
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: [f32; 4]) {
        // SAFETY: the caller promises four writable floats.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: [f32; 4], n: usize) {
        for (i, x) in v.iter().enumerate().take(n) {
            // SAFETY: `i < n`, which the caller promises.
            unsafe { *p.add(i) = *x };
        }
    }
    #[inline(always)]
    unsafe fn iload(self, p: *const i32) -> [i32; 4] {
        // SAFETY: the caller promises four readable integers.
        unsafe { p.cast::<[i32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn istore(self, p: *mut i32, v: [i32; 4]) {
        // SAFETY: the caller promises four writable integers.
        unsafe { p.cast::<[i32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    fn any(self, m: [bool; 4]) -> bool {
        m.contains(&true)
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8, n: usize) -> [i32; 4] {
        // SAFETY: only lanes below `n`, which the caller promises, are read.
        std::array::from_fn(|i| if i < n { i32::from(unsafe { *p.add(i) }) } else { 0 })
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8, n: usize) -> [i32; 4] {
        // SAFETY: only lanes below `n`, which the caller promises, are read.
        std::array::from_fn(|i| if i < n { i32::from(unsafe { *p.add(i) }) } else { 0 })
    }
    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8, v: [i32; 4], n: usize) {
        for (i, x) in v.iter().enumerate().take(n) {
            // SAFETY: `i < n`, which the caller promises.
            unsafe { *p.add(i) = *x as u8 };
        }
    }
    #[inline(always)]
    unsafe fn interleave(self, rows: [*const u8; 4], flip: u8) -> [i32; 4] {
        std::array::from_fn(|i| {
            // SAFETY: `i < LANES`, and the caller promises so many bytes of two rows.
            let at = |q: usize| i32::from(unsafe { *rows[q].add(i) } ^ flip);
            at(0) | (at(1) << 16)
        })
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8, n: usize) -> [i32; 4] {
        // SAFETY: only bytes below `n`, which the caller promises, are read.
        let at = |i: usize| if i < n { unsafe { *p.add(i) } } else { 0 };
        std::array::from_fn(|i| i32::from_le_bytes(std::array::from_fn(|q| at(4 * i + q))))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: [i32; 4], n: usize) {
        for (i, byte) in v.map(i32::to_le_bytes).as_flattened().iter().enumerate().take(n) {
            // SAFETY: `i < n`, which the caller promises.
            unsafe { *p.add(i) = *byte };
        }
    }
    #[inline(always)]
    unsafe fn store_pair(self, p: [*mut u8; 2], v: [i32; 4], n: usize) {
        // SAFETY: passed on to the caller; `n` is at most eight.
        unsafe {
            self.store_bytes(p[0], v, n);
            self.store_bytes(p[1], [v[2], v[3], 0, 0], n);
        }
    }
    #[inline(always)]
    unsafe fn store_quad(self, p: [*mut u8; 4], v: [i32; 4], n: usize) {
        for (p, row) in p.into_iter().zip(v) {
            // SAFETY: passed on to the caller; `n` is at most four.
            unsafe { self.store_bytes(p, [row, 0, 0, 0], n) };
        }
    }
    #[inline(always)]
    fn unpack4(self, v: [[i32; 4]; 4]) -> [[i32; 4]; 4] {
        let byte = |q: usize, at: usize| v[q][at / 4].to_le_bytes()[at % 4];
        let lane = |at: usize| i32::from_le_bytes(std::array::from_fn(|q| byte(q, at)));
        std::array::from_fn(|r| std::array::from_fn(|i| lane(4 * r + i)))
    }
    #[inline(always)]
    fn to_bytes(self, v: [[i32; 4]; 4], zero: i32) -> [i32; 4] {
        let byte = |x: i32| (x.clamp(-0x8000, 0x7fff) + zero).clamp(0, 255) as u8;
        v.map(|lanes| i32::from_le_bytes(lanes.map(byte)))
    }
    #[inline(always)]
    unsafe fn load_u16(self, p: *const u8, n: usize) -> [i32; 4] {
        // SAFETY: only bytes below `n`, which the caller promises, are read.
        let at = |i: usize| if i < n { i32::from(unsafe { *p.add(i) }) } else { 0 };
        std::array::from_fn(|i| at(2 * i) | (at(2 * i + 1) << 8))
    }
    #[inline(always)]
    unsafe fn load_evens(self, p: *const f32, n: usize) -> [f32; 4] {
        // SAFETY: only floats below `n`, which the caller promises, are read.
        std::array::from_fn(|i| if 2 * i < n { unsafe { *p.add(2 * i) } } else { 0.0 })
    }
    lanes! {
        add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = |i| a[i] + b[i];
        sub(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = |i| a[i] - b[i];
        mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = |i| a[i] * b[i];
        div(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = |i| a[i] / b[i];
        fma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] = |i| a[i] * b[i] + c[i];
        max(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = |i| if a[i] > b[i] { a[i] } else { b[i] };
        min(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = |i| if a[i] < b[i] { a[i] } else { b[i] };
        sqrt(a: [f32; 4]) -> [f32; 4] = |i| a[i].sqrt();
        round(a: [f32; 4]) -> [f32; 4] = |i| round_even(a[i]);
        lt(a: [f32; 4], b: [f32; 4]) -> [bool; 4] = |i| a[i] < b[i];
        is_nan(a: [f32; 4]) -> [bool; 4] = |i| a[i].is_nan();
        select(m: [bool; 4], a: [f32; 4], b: [f32; 4]) -> [f32; 4] =
            |i| if m[i] { a[i] } else { b[i] };
        to_int(a: [f32; 4]) -> [i32; 4] = |i| int_of(a[i]);
        to_float(a: [i32; 4]) -> [f32; 4] = |i| a[i] as f32;
        bits(a: [f32; 4]) -> [i32; 4] = |i| a[i].to_bits() as i32;
        of_bits(a: [i32; 4]) -> [f32; 4] = |i| f32::from_bits(a[i] as u32);
        iadd(a: [i32; 4], b: [i32; 4]) -> [i32; 4] = |i| a[i].wrapping_add(b[i]);
        isub(a: [i32; 4], b: [i32; 4]) -> [i32; 4] = |i| a[i].wrapping_sub(b[i]);
        imul(a: [i32; 4], b: [i32; 4]) -> [i32; 4] = |i| a[i].wrapping_mul(b[i]);
        iand(a: [i32; 4], b: [i32; 4]) -> [i32; 4] = |i| a[i] & b[i];
        ior(a: [i32; 4], b: [i32; 4]) -> [i32; 4] = |i| a[i] | b[i];
        ixor(a: [i32; 4], b: [i32; 4]) -> [i32; 4] = |i| a[i] ^ b[i];
        dot(a: [i32; 4], b: [i32; 4], c: [i32; 4]) -> [i32; 4] = |i| dot2(a[i], b[i], c[i]);
    }
    #[inline(always)]
    fn zip(self, a: [f32; 4], b: [f32; 4]) -> [[f32; 4]; 2] {
        [[a[0], b[0], a[1], b[1]], [a[2], b[2], a[3], b[3]]]
    }
    #[inline(always)]
    fn pick(self, a: [f32; 4], b: [f32; 4], lanes: [i32; 4]) -> [f32; 4] {
        let both = [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]];
        lanes.map(|lane| both[lane as usize % 8])
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: [i32; 4]) -> [i32; 4] {
        a.map(|x| x << N)
    }
    #[inline(always)]
    fn sar<const N: u32>(self, a: [i32; 4]) -> [i32; 4] {
        a.map(|x| x >> N)
    }
}

/// Adding and removing 1.5·2^23 rounds to even without a call; larger numbers are whole already.
#[inline(always)]
fn round_even(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    if x.abs() < 4_194_304.0 { ((x + MAGIC) - MAGIC).copysign(x) } else { x }
}

#[inline(always)]
fn int_of(x: f32) -> i32 {
    let r = if x.abs() < 4_194_304.0 { round_even(x) } else { x.round_ties_even() };
    if (-2_147_483_648.0..2_147_483_648.0).contains(&r) { r as i32 } else { i32::MIN }
}

#[inline(always)]
fn dot2(a: i32, b: i32, c: i32) -> i32 {
    let lo = i32::from(a as i16) * i32::from(b as i16);
    c.wrapping_add(lo).wrapping_add((a >> 16) * (b >> 16))
}

pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
#[path = "simd_x86.rs"]
mod x86;

/// Elsewhere the x86 names are the portable token, which dispatch never reaches under that name.
#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    pub use super::Portable as Avx2;
    pub use super::Portable as Avx512;
}
