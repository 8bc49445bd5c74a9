//! The two x86 vector tokens. Each method is one instruction, or the two or three that stand
//! for it.

use super::Simd;
use crate::isa::Isa;
use std::arch::x86_64::*;

/// Eight lanes with AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The machine must have AVX2 and FMA.
    pub unsafe fn new() -> Self {
        Avx2(())
    }
}

/// Sixteen lanes with AVX-512 F, BW, DQ, VL and VNNI; with `BF16`, that extension, too.
#[derive(Clone, Copy, Debug)]
pub struct Avx512<const BF16: bool = false>(());

impl<const BF16: bool> Avx512<BF16> {
    /// # Safety
    /// The machine must have the five AVX-512 extensions, and AVX512-BF16 where `BF16` says so.
    pub unsafe fn new() -> Self {
        Avx512(())
    }
}

macro_rules! ops {
    ($($name:ident($($arg:ident: $ty:ty),+) -> $out:ty = $body:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),+) -> $out {
            // SAFETY: the token proves that the machine has the instructions; registers only.
            unsafe { $body }
        }
    )+};
}

/// The mask with the first `n` lanes set, for masked moves.
#[inline(always)]
fn mask8(_: Avx2, n: usize) -> __m256i {
    const ONES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the token proves that the machine has the instruction; `8 - min(n, 8)` is at most 8,
    // so the eight integers read are inside the array.
    unsafe { _mm256_loadu_si256(ONES.as_ptr().add(8 - n.min(8)).cast()) }
}

/// The first `n <= 8` bytes of an SSE vector; the others are zero or not used.
/// # Safety
/// `p` must be readable for `n` bytes.
#[inline(always)]
unsafe fn eight(p: *const u8, n: usize) -> __m128i {
    let mut bytes = [0u8; 8];
    // SAFETY: eight bytes are read only if `n` allows it, else `n` of them.
    unsafe {
        if n >= 8 {
            return _mm_loadl_epi64(p.cast());
        }
        std::ptr::copy_nonoverlapping(p, bytes.as_mut_ptr(), n);
        _mm_loadl_epi64(bytes.as_ptr().cast())
    }
}

#[inline(always)]
fn mask64(n: usize) -> __mmask64 {
    if n >= 64 { !0 } else { (1 << n) - 1 }
}

#[inline(always)]
fn mask16(n: usize) -> __mmask16 {
    ((1u32 << n.min(16)) - 1) as __mmask16
}

impl Simd for Avx2 {
    const ISA: Isa = Isa::Avx2;
    const LANES: usize = 8;
    const MR: usize = 6;
    const KG: usize = 2;
    type F = __m256;
    type I = __m256i;
    type M = __m256;

    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a hint, which does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: the caller promises eight readable floats.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: masked lanes are not read; the caller promises the first `n`.
        unsafe { _mm256_maskload_ps(p, mask8(self, n)) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller promises eight writable floats.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: __m256, n: usize) {
        // SAFETY: masked lanes are not written; the caller promises the first `n`.
        unsafe { _mm256_maskstore_ps(p, mask8(self, n), v) }
    }
    #[inline(always)]
    unsafe fn iload(self, p: *const i32) -> __m256i {
        // SAFETY: the caller promises eight readable integers.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8, n: usize) -> __m256i {
        // SAFETY: eight bytes of the copy are there; the caller promises `n`.
        unsafe { _mm256_cvtepu8_epi32(eight(p, n)) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8, n: usize) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_cvtepi8_epi32(eight(p.cast(), n)) }
    }
    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8, v: __m256i, n: usize) {
        // SAFETY: the token proves that the machine has the instructions; the caller promises `n`
        // writable bytes.
        unsafe {
            // The low byte of each lane to the front of its half, then both halves together.
            let pick = _mm256_setr_epi8(
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1, -1,
                -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
            );
            let halves = _mm256_shuffle_epi8(v, pick);
            let (low, high) =
                (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            let bytes = _mm_unpacklo_epi32(low, high);
            if n >= 8 {
                _mm_storel_epi64(p.cast(), bytes);
            } else {
                let mut all = [0u8; 8];
                _mm_storel_epi64(all.as_mut_ptr().cast(), bytes);
                std::ptr::copy_nonoverlapping(all.as_ptr(), p, n);
            }
        }
    }
    #[inline(always)]
    unsafe fn interleave(self, rows: [*const u8; 4], flip: u8) -> __m256i {
        // SAFETY: the token proves that the machine has the instructions; the caller promises
        // eight bytes of two rows.
        unsafe {
            let pairs =
                _mm_unpacklo_epi8(_mm_loadl_epi64(rows[0].cast()), _mm_loadl_epi64(rows[1].cast()));
            _mm256_cvtepu8_epi16(_mm_xor_si128(pairs, _mm_set1_epi8(flip as i8)))
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8, n: usize) -> __m256i {
        let mut bytes = [0u8; 32];
        // SAFETY: thirty-two bytes are read only if `n` allows it, else `n` of them.
        unsafe {
            if n >= 32 {
                return _mm256_loadu_si256(p.cast());
            }
            std::ptr::copy_nonoverlapping(p, bytes.as_mut_ptr(), n);
            _mm256_loadu_si256(bytes.as_ptr().cast())
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: __m256i, n: usize) {
        let mut bytes = [0u8; 32];
        // SAFETY: thirty-two bytes are written only if `n` allows it, else `n` of them.
        unsafe {
            if n >= 32 {
                return _mm256_storeu_si256(p.cast(), v);
            }
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), v);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), p, n);
        }
    }
    #[inline(always)]
    unsafe fn store_pair(self, p: [*mut u8; 2], v: __m256i, n: usize) {
        let mut bytes = [0u8; 32];
        // SAFETY: the token proves that the machine has the instructions. Sixteen bytes are written
        // to each row only if `n` allows it, else `n` of them.
        unsafe {
            let rows = _mm256_permute4x64_epi64::<0b11_01_10_00>(v);
            if n >= 16 {
                _mm_storeu_si128(p[0].cast(), _mm256_castsi256_si128(rows));
                return _mm_storeu_si128(p[1].cast(), _mm256_extracti128_si256::<1>(rows));
            }
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), rows);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), p[0], n);
            std::ptr::copy_nonoverlapping(bytes[16..].as_ptr(), p[1], n);
        }
    }
    #[inline(always)]
    unsafe fn store_quad(self, p: [*mut u8; 4], v: __m256i, n: usize) {
        let mut bytes = [0u8; 32];
        // SAFETY: the token proves that the machine has the instructions; the caller promises `n`
        // bytes of each row, which are at most eight.
        unsafe {
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let rows = _mm256_permutevar8x32_epi32(v, order);
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), rows);
            for (p, row) in p.into_iter().zip(bytes.chunks_exact(8)) {
                if n >= 8 {
                    std::ptr::copy_nonoverlapping(row.as_ptr(), p, 8);
                } else {
                    std::ptr::copy_nonoverlapping(row.as_ptr(), p, n);
                }
            }
        }
    }
    #[inline(always)]
    fn unpack4(self, [a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
        // SAFETY: the token proves that the machine has the instructions; registers only.
        unsafe {
            let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
            let (after_ab, after_cd) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
            [
                _mm256_unpacklo_epi16(ab, cd),
                _mm256_unpackhi_epi16(ab, cd),
                _mm256_unpacklo_epi16(after_ab, after_cd),
                _mm256_unpackhi_epi16(after_ab, after_cd),
            ]
        }
    }
    #[inline(always)]
    fn to_bytes(self, [a, b, c, d]: [__m256i; 4], zero: i32) -> __m256i {
        // SAFETY: the token proves that the machine has the instructions; registers only.
        unsafe {
            let zero = _mm256_set1_epi16(zero as i16);
            let ab = _mm256_adds_epi16(_mm256_packs_epi32(a, b), zero);
            let cd = _mm256_adds_epi16(_mm256_packs_epi32(c, d), zero);
            _mm256_packus_epi16(ab, cd)
        }
    }
    #[inline(always)]
    unsafe fn load_u16(self, p: *const u8, n: usize) -> __m256i {
        let mut bytes = [0u8; 16];
        // SAFETY: sixteen bytes are read only if `n` allows it, else `n` of them.
        unsafe {
            if n >= 16 {
                return _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            }
            std::ptr::copy_nonoverlapping(p, bytes.as_mut_ptr(), n);
            _mm256_cvtepu16_epi32(_mm_loadu_si128(bytes.as_ptr().cast()))
        }
    }
    #[inline(always)]
    unsafe fn load_evens(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: the caller promises `n` readable floats; `wrapping_add` reads nothing, and the
        // second load reads what is left of `n` after eight.
        unsafe {
            let (a, b) =
                (self.load_n(p, n.min(8)), self.load_n(p.wrapping_add(8), n.saturating_sub(8)));
            let mixed = _mm256_shuffle_ps::<0b10_00_10_00>(a, b);
            // The halves of both vectors lie crossed; in pairs of floats.
            let pairs = _mm256_castps_pd(mixed);
            _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(pairs))
        }
    }
    #[inline(always)]
    fn zip(self, a: __m256, b: __m256) -> [__m256; 2] {
        // SAFETY: the token proves AVX2.
        unsafe {
            // Each gives a quarter of the first half and a quarter of the second.
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            [
                _mm256_permute2f128_ps::<0b10_0000>(low, high),
                _mm256_permute2f128_ps::<0b11_0001>(low, high),
            ]
        }
    }
    #[inline(always)]
    fn pick(self, a: __m256, b: __m256, lanes: __m256i) -> __m256 {
        // SAFETY: the token proves AVX2.
        unsafe {
            let (a, b) = (_mm256_permutevar8x32_ps(a, lanes), _mm256_permutevar8x32_ps(b, lanes));
            // Bit 3 tells which.
            _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(lanes)))
        }
    }
    #[inline(always)]
    unsafe fn istore(self, p: *mut i32, v: __m256i) {
        // SAFETY: the caller promises eight writable integers.
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    ops! {
        splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        isplat(x: i32) -> __m256i = _mm256_set1_epi32(x);
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        sqrt(a: __m256) -> __m256 = _mm256_sqrt_ps(a);
        round(a: __m256) -> __m256 =
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        lt(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_LT_OQ>(a, b);
        any(m: __m256) -> bool = _mm256_movemask_ps(m) != 0;
        is_nan(a: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a);
        select(m: __m256, a: __m256, b: __m256) -> __m256 = _mm256_blendv_ps(b, a, m);
        to_int(a: __m256) -> __m256i = _mm256_cvtps_epi32(a);
        to_float(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);
        bits(a: __m256) -> __m256i = _mm256_castps_si256(a);
        of_bits(a: __m256i) -> __m256 = _mm256_castsi256_ps(a);
        iadd(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        isub(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32(a, b);
        imul(a: __m256i, b: __m256i) -> __m256i = _mm256_mullo_epi32(a, b);
        iand(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        ior(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        ixor(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256(a, b);
        dot(a: __m256i, b: __m256i, c: __m256i) -> __m256i =
            _mm256_add_epi32(c, _mm256_madd_epi16(a, b));
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: __m256i) -> __m256i {
        // SAFETY: the token proves that the machine has the instruction.
        unsafe { _mm256_sllv_epi32(a, _mm256_set1_epi32(N as i32)) }
    }
    #[inline(always)]
    fn sar<const N: u32>(self, a: __m256i) -> __m256i {
        // SAFETY: the token proves that the machine has the instruction.
        unsafe { _mm256_srav_epi32(a, _mm256_set1_epi32(N as i32)) }
    }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    const ISA: Isa = Isa::Avx512;
    const LANES: usize = 16;
    const MR: usize = 14;
    const KG: usize = 4;
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;

    #[inline(always)]
    fn any(self, m: __mmask16) -> bool {
        m != 0
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a hint, which does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_write(self, p: *const f32) {
        // SAFETY: a hint, which does not fault. Processors with AVX-512 have it.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller promises sixteen readable floats.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: masked lanes are not read; the caller promises the first `n`.
        unsafe { _mm512_maskz_loadu_ps(mask16(n), p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller promises sixteen writable floats.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: __m512, n: usize) {
        // SAFETY: masked lanes are not written; the caller promises the first `n`.
        unsafe { _mm512_mask_storeu_ps(p, mask16(n), v) }
    }
    #[inline(always)]
    unsafe fn iload(self, p: *const i32) -> __m512i {
        // SAFETY: the caller promises sixteen readable integers.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8, n: usize) -> __m512i {
        // SAFETY: masked bytes are not read; the caller promises the first `n`.
        unsafe { _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask16(n), p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8, n: usize) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask16(n), p)) }
    }
    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8, v: __m512i, n: usize) {
        // SAFETY: masked bytes are not written; the caller promises the first `n`.
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(v);
            if n >= 16 {
                _mm_storeu_si128(p.cast(), bytes);
            } else {
                _mm_mask_storeu_epi8(p.cast(), mask16(n), bytes);
            }
        }
    }
    #[inline(always)]
    unsafe fn interleave(self, rows: [*const u8; 4], flip: u8) -> __m512i {
        // SAFETY: the token proves that the machine has the instructions; the caller promises
        // sixteen bytes of four rows.
        unsafe {
            let at = |q: usize| _mm_loadu_si128(rows[q].cast());
            let v = _mm512_castsi128_si512(at(0));
            let v = _mm512_inserti32x4::<1>(v, at(1));
            let v = _mm512_inserti32x4::<2>(v, at(2));
            let v = _mm512_inserti32x4::<3>(v, at(3));
            // Four columns of four rows into each quarter, which is then transposed in itself.
            let quarters = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let v = _mm512_permutexvar_epi32(quarters, v);
            let transpose = _mm512_broadcast_i32x4(_mm_setr_epi8(
                0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
            ));
            let v = _mm512_shuffle_epi8(v, transpose);
            _mm512_xor_si512(v, _mm512_set1_epi8(flip as i8))
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8, n: usize) -> __m512i {
        // SAFETY: masked bytes are not read; the caller promises the first `n`.
        unsafe { _mm512_maskz_loadu_epi8(mask64(n), p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: __m512i, n: usize) {
        // SAFETY: masked bytes are not written; the caller promises the first `n`.
        unsafe {
            if n >= 64 {
                _mm512_storeu_si512(p.cast(), v);
            } else {
                _mm512_mask_storeu_epi8(p.cast(), mask64(n), v);
            }
        }
    }
    #[inline(always)]
    unsafe fn store_pair(self, p: [*mut u8; 2], v: __m512i, n: usize) {
        // SAFETY: the token proves that the machine has the instructions; masked bytes are not
        // written, and the caller promises the first `n` of each row.
        unsafe {
            let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
            let rows = _mm512_permutexvar_epi64(order, v);
            let rows = [_mm512_castsi512_si256(rows), _mm512_extracti64x4_epi64::<1>(rows)];
            for (p, row) in p.into_iter().zip(rows) {
                if n >= 32 {
                    _mm256_storeu_si256(p.cast(), row);
                } else {
                    _mm256_mask_storeu_epi8(p.cast(), mask64(n) as u32, row);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn store_quad(self, p: [*mut u8; 4], v: __m512i, n: usize) {
        // SAFETY: as above.
        unsafe {
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let rows = _mm512_permutexvar_epi32(order, v);
            let rows = [
                _mm512_castsi512_si128(rows),
                _mm512_extracti32x4_epi32::<1>(rows),
                _mm512_extracti32x4_epi32::<2>(rows),
                _mm512_extracti32x4_epi32::<3>(rows),
            ];
            for (p, row) in p.into_iter().zip(rows) {
                if n >= 16 {
                    _mm_storeu_si128(p.cast(), row);
                } else {
                    _mm_mask_storeu_epi8(p.cast(), mask16(n), row);
                }
            }
        }
    }
    #[inline(always)]
    fn unpack4(self, [a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
        // SAFETY: the token proves that the machine has the instructions; registers only.
        unsafe {
            let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
            let (after_ab, after_cd) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
            [
                _mm512_unpacklo_epi16(ab, cd),
                _mm512_unpackhi_epi16(ab, cd),
                _mm512_unpacklo_epi16(after_ab, after_cd),
                _mm512_unpackhi_epi16(after_ab, after_cd),
            ]
        }
    }
    #[inline(always)]
    fn to_bytes(self, [a, b, c, d]: [__m512i; 4], zero: i32) -> __m512i {
        // SAFETY: the token proves that the machine has the instructions; registers only.
        unsafe {
            let zero = _mm512_set1_epi16(zero as i16);
            let ab = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero);
            let cd = _mm512_adds_epi16(_mm512_packs_epi32(c, d), zero);
            _mm512_packus_epi16(ab, cd)
        }
    }
    #[inline(always)]
    unsafe fn load_u16(self, p: *const u8, n: usize) -> __m512i {
        let mask = if n >= 32 { !0 } else { (1u32 << n) - 1 };
        // SAFETY: masked bytes are not read; the caller promises the first `n`.
        unsafe { _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi8(mask, p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_evens(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: the caller promises `n` readable floats; `wrapping_add` reads nothing, and the
        // second load reads what is left of `n` after sixteen.
        unsafe {
            let (a, b) =
                (self.load_n(p, n.min(16)), self.load_n(p.wrapping_add(16), n.saturating_sub(16)));
            let evens =
                _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            _mm512_permutex2var_ps(a, evens, b)
        }
    }
    #[inline(always)]
    unsafe fn istore(self, p: *mut i32, v: __m512i) {
        // SAFETY: the caller promises sixteen writable integers.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    ops! {
        splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        isplat(x: i32) -> __m512i = _mm512_set1_epi32(x);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        recip(b: __m512) -> __m512 = {
            // A step of Newton's method doubles the 14 bits.
            let r = _mm512_rcp14_ps(b);
            _mm512_fmadd_ps(r, _mm512_fnmadd_ps(b, r, _mm512_set1_ps(1.0)), r)
        };
        scale(a: __m512, n: __m512) -> __m512 = _mm512_scalef_ps(a, n);
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        sqrt(a: __m512) -> __m512 = _mm512_sqrt_ps(a);
        round(a: __m512) -> __m512 =
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        lt(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
        is_nan(a: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
        select(m: __mmask16, a: __m512, b: __m512) -> __m512 = _mm512_mask_blend_ps(m, b, a);
        to_int(a: __m512) -> __m512i = _mm512_cvtps_epi32(a);
        to_float(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        bits(a: __m512) -> __m512i = _mm512_castps_si512(a);
        of_bits(a: __m512i) -> __m512 = _mm512_castsi512_ps(a);
        iadd(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        isub(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        imul(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi32(a, b);
        iand(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        ior(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        ixor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
        dot(a: __m512i, b: __m512i, c: __m512i) -> __m512i = _mm512_dpbusd_epi32(c, a, b);
    }
    #[inline(always)]
    fn dot_bf16(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        if !BF16 {
            return super::dot_bf16_by_parts(self, a, b, c);
        }
        // SAFETY: with `BF16` the token proves that the machine has the instruction. A transmute
        // gives the same bits another type of the same size.
        unsafe {
            let a = std::mem::transmute::<__m512, __m512bh>(a);
            let b = std::mem::transmute::<__m512, __m512bh>(b);
            _mm512_dpbf16_ps(c, a, b)
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const f32) -> __m512 {
        if !BF16 {
            // SAFETY: passed on to the caller.
            return unsafe { super::load_bf16_by_parts(self, p) };
        }
        // SAFETY: the caller promises 32 readable floats.
        unsafe { self.narrow_bf16(_mm512_loadu_ps(p), _mm512_loadu_ps(p.add(16))) }
    }
    #[inline(always)]
    fn narrow_bf16(self, low: __m512, high: __m512) -> __m512 {
        if !BF16 {
            let mut both = [0.0; 32];
            // SAFETY: the array has room for two vectors.
            return unsafe {
                _mm512_storeu_ps(both.as_mut_ptr(), low);
                _mm512_storeu_ps(both.as_mut_ptr().add(16), high);
                super::load_bf16_by_parts(self, both.as_ptr())
            };
        }
        // SAFETY: as in `dot_bf16`.
        unsafe { std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low)) }
    }
    #[inline(always)]
    fn zip(self, a: __m512, b: __m512) -> [__m512; 2] {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            [_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b)]
        }
    }
    #[inline(always)]
    fn pick(self, a: __m512, b: __m512, lanes: __m512i) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_permutex2var_ps(a, lanes, b) }
    }
    #[inline(always)]
    fn pair_bf16(self, low: __m512, high: __m512) -> __m512 {
        const TURNS: [i16; 32] = {
            let (mut turns, mut i) = ([0; 32], 0);
            while i < 32 {
                turns[i as usize] = i / 2 + i % 2 * 16;
                i += 1;
            }
            turns
        };
        if !BF16 {
            return super::pair_bf16_by_parts(self, low, high);
        }
        // SAFETY: as in `dot_bf16`; there are as many indices as numbers.
        unsafe {
            let both = self.bits(self.narrow_bf16(low, high));
            let turns = _mm512_loadu_si512(TURNS.as_ptr().cast());
            self.of_bits(_mm512_permutexvar_epi16(turns, both))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u8, v: __m512) {
        // SAFETY: as in `dot_bf16`; the caller promises 32 writable bytes.
        unsafe {
            let half = if BF16 {
                std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v))
            } else {
                let rounded = self.bits(self.round_bf16(v));
                _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded))
            };
            _mm256_storeu_si256(p.cast(), half);
        }
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: the token proves that the machine has the instruction.
        unsafe { _mm512_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn sar<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: the token proves that the machine has the instruction.
        unsafe { _mm512_srai_epi32::<N>(a) }
    }
}
