//! Matrix registers of x86 (AMX): tiles of 16 rows of 64 bytes, and products of them.
//!
//! A tile of the left operand has 16 rows of 32 bf16 numbers (64 bytes); one of the right operand
//! has 16 columns, as pairs (groups of four bytes) of neighbours along the axis of the sum: its row
//! `r` holds terms `2 r` and `2 r + 1` (`4 r` to `4 r + 3`) of every column. A product adds to a
//! tile of 16 by 16 sums of 32 bits.
//!
//! The registers have a layout that a thread sets before it uses them, and that it should give up
//! when it is done, as the system saves them otherwise: [`Tiles`] is the time in between. The
//! system gives them to a process that asks for them, for good. As frames of signals grow by that,
//! it is asked only when a product wants them.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Rows and columns of a tile of sums.
pub const SIDE: usize = 16;
/// Bytes of a row of a tile.
pub const ROW: usize = 64;

/// What the elements of the operands are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// bf16 in both; sums are f32. Numbers too small to be normal count as zero.
    Bf16,
    /// Unsigned bytes on the left, signed ones on the right; sums are i32 and wrap.
    U8I8,
}

/// Whether there are tiles that multiply bf16 numbers and bytes.
pub fn available() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(system::granted)
}

thread_local! {
    static IN_USE: Cell<bool> = const { Cell::new(false) };
}

/// The tiles of this thread, for as long as this lives.
#[derive(Debug)]
pub struct Tiles {
    here: PhantomData<*const ()>,
}

/// One or two blocks of rows of the left operand by one or two tiles of columns of the right one.
/// The pointers are used as it is said here, and in no other way.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Products that are added up, each of [`ROW`] bytes of a row of the left operand.
    pub steps: usize,
    /// Read: rows of `steps * ROW` bytes, [`Product::stride`] bytes apart; the second block of rows
    /// begins [`SIDE`] rows below the first.
    pub left: *const u8,
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Read: for each step [`SIDE`] rows of two blocks of columns, one beside the other.
    pub right: *const u8,
    /// What each step brings nearer, as many bytes as it reads there, as they are read next: any
    /// address, or null for nothing.
    pub ahead: *const u8,
    /// Written: rows of `2 * SIDE` sums of 32 bits, one behind the other, of which those of the
    /// columns are written.
    pub sums: *mut f32,
}

impl Tiles {
    /// Takes the tiles of this thread; `None` where there are none. Panics if they are in use.
    pub fn take() -> Option<Tiles> {
        if !available() {
            return None;
        }
        assert!(!IN_USE.replace(true), "the tiles of this thread are in use");
        system::shape();
        Some(Tiles { here: PhantomData })
    }

    /// Multiplies blocks of [`SIDE`] rows by blocks of [`SIDE`] columns: one or two of each, as
    /// `blocks` says.
    ///
    /// # Safety
    /// The pointers must cover what [`Product`] says, for so many blocks.
    pub unsafe fn multiply(&mut self, element: Element, blocks: [usize; 2], product: &Product) {
        assert!(blocks.iter().all(|blocks| (1..=2).contains(blocks)) && product.steps > 0);
        // SAFETY: there are tiles and they have their layout (`take`); the rest is the caller's
        // promise.
        unsafe { system::multiply(element, blocks, product) }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        system::release();
        IN_USE.set(false);
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod system {
    use super::{Element, Product, ROW, SIDE};
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;

    /// `arch_prctl`: asks for a part of the processor's state, here the tiles' data.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    /// Bits of EDX in leaf 7 of CPUID: AMX-BF16, AMX-TILE, AMX-INT8.
    const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;

    pub(super) fn granted() -> bool {
        let has = is_x86_feature_detected!("avx512bf16")
            && __cpuid_count(0, 0).eax >= 7
            && __cpuid_count(7, 0).edx & FEATURES == FEATURES;
        // SAFETY: a request that touches no memory of this process; it fails where the system
        // knows nothing of it.
        has && unsafe {
            libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0
        }
    }

    /// The layout in memory: that of palette 1.
    #[repr(C, align(64))]
    struct Layout {
        palette: u8,
        start: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// Sums are in tiles 0 to 3 (two for each block of rows), the left operand in 4 and 5, the
    /// right one in 6 and 7.
    pub(super) fn shape() {
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].fill(ROW as u16);
        rows[..8].fill(SIDE as u8);
        let layout = Layout { palette: 1, start: 0, reserved: [0; 14], row_bytes, rows };
        // SAFETY: there are tiles (`Tiles::take`), the layout is a valid one of 64 bytes, and
        // compiled code uses no tiles of its own.
        unsafe {
            asm!(
                "ldtilecfg [{}]", in(reg) &raw const layout,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly),
            );
        }
    }

    pub(super) fn release() {
        // SAFETY: there are tiles, as there is a `Tiles`, which ends.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, nomem),
            );
        }
    }

    /// The loop over the steps of a product: which tiles it clears, reads, multiplies and writes.
    macro_rules! steps {
        ($p:ident, $op:literal, clear $($clear:literal)*, load $($load:literal)*,
         dot $($dot:literal)*, store $($store:literal)*) => {
            asm!(
                $(concat!("tilezero ", $clear),)*
                "2:",
                "test {ahead}, {ahead}",
                "jz 4f",
                "lea {t}, [{ahead} + 2048]",
                "3:",
                "prefetcht1 [{ahead}]",
                "prefetcht1 [{ahead} + 64]",
                "prefetcht1 [{ahead} + 128]",
                "prefetcht1 [{ahead} + 192]",
                "add {ahead}, 256",
                "cmp {ahead}, {t}",
                "jne 3b",
                "4:",
                $(concat!("tileloadd ", $load),)*
                $(concat!($op, " ", $dot),)*
                "add {a0}, 64",
                "add {a1}, 64",
                "add {b}, 2048",
                "dec {n}",
                "jnz 2b",
                $(concat!("tilestored ", $store),)*
                a0 = inout(reg) $p.left => _,
                a1 = inout(reg) $p.left.wrapping_add(SIDE * $p.stride) => _,
                lda = in(reg) $p.stride,
                b = inout(reg) $p.right => _,
                ldb = in(reg) 2 * ROW,
                n = inout(reg) $p.steps => _,
                ahead = inout(reg) $p.ahead => _,
                t = out(reg) _,
                c = in(reg) $p.sums,
                ldc = in(reg) 2 * ROW,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }

    /// The four numbers of blocks of rows and columns.
    macro_rules! blocks {
        ($p:ident, $blocks:ident, $op:literal) => {
            match $blocks {
                [1, 1] => steps!($p, $op,
                    clear "tmm0",
                    load "tmm4, [{a0} + {lda}]" "tmm6, [{b} + {ldb}]",
                    dot "tmm0, tmm4, tmm6",
                    store "[{c} + {ldc}], tmm0"),
                [1, 2] => steps!($p, $op,
                    clear "tmm0" "tmm1",
                    load "tmm4, [{a0} + {lda}]" "tmm6, [{b} + {ldb}]"
                         "tmm7, [{b} + {ldb} + 64]",
                    dot "tmm0, tmm4, tmm6" "tmm1, tmm4, tmm7",
                    store "[{c} + {ldc}], tmm0" "[{c} + {ldc} + 64], tmm1"),
                [2, 1] => steps!($p, $op,
                    clear "tmm0" "tmm2",
                    load "tmm4, [{a0} + {lda}]" "tmm6, [{b} + {ldb}]" "tmm5, [{a1} + {lda}]",
                    dot "tmm0, tmm4, tmm6" "tmm2, tmm5, tmm6",
                    store "[{c} + {ldc}], tmm0" "[{c} + {ldc} + 2048], tmm2"),
                [2, 2] => steps!($p, $op,
                    clear "tmm0" "tmm1" "tmm2" "tmm3",
                    load "tmm4, [{a0} + {lda}]" "tmm6, [{b} + {ldb}]"
                         "tmm7, [{b} + {ldb} + 64]" "tmm5, [{a1} + {lda}]",
                    dot "tmm0, tmm4, tmm6" "tmm1, tmm4, tmm7" "tmm2, tmm5, tmm6"
                        "tmm3, tmm5, tmm7",
                    store "[{c} + {ldc}], tmm0" "[{c} + {ldc} + 64], tmm1"
                          "[{c} + {ldc} + 2048], tmm2" "[{c} + {ldc} + 2112], tmm3"),
                _ => unreachable!("one or two blocks of rows and of columns"),
            }
        };
    }

    /// # Safety
    /// The tiles must have their layout; the pointers must cover what `Product` says of so many
    /// blocks, and there must be a step.
    pub(super) unsafe fn multiply(element: Element, blocks: [usize; 2], p: &Product) {
        // SAFETY: what is read and written is what `Product` says: for each step `ROW` bytes of
        // each row and 16 rows of both blocks of columns, and at the end the sums of each block of
        // rows by each of columns. Compiled code uses no tiles; which ones are used is said.
        unsafe {
            match element {
                Element::Bf16 => blocks!(p, blocks, "tdpbf16ps"),
                Element::U8I8 => blocks!(p, blocks, "tdpbusd"),
            }
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod system {
    use super::{Element, Product};

    pub(super) fn granted() -> bool {
        false
    }

    pub(super) fn shape() {}

    pub(super) fn release() {}

    pub(super) unsafe fn multiply(_: Element, _: [usize; 2], _: &Product) {
        unreachable!("there are no tiles");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of numbers of which all sums are exact.
    fn check(blocks: [usize; 2], steps: usize) {
        let Some(mut tiles) = Tiles::take() else { return };
        let [rows, columns] = blocks.map(|blocks| blocks * SIDE);
        let terms = steps * 32;
        let a = |i: usize, k: usize| ((i * 7 + k * 3) % 11) as f32 - 5.0;
        let b = |k: usize, j: usize| ((k * 5 + j * 13) % 7) as f32 - 3.0;
        let bits = |x: f32| (x.to_bits() >> 16) as u16;
        let mut left = vec![0x7fc0u16; rows * (terms + 32)];
        for (i, row) in left.chunks_exact_mut(terms + 32).enumerate() {
            row[..terms].iter_mut().enumerate().for_each(|(k, to)| *to = bits(a(i, k)));
        }
        let mut right = Vec::new();
        for (pair, j) in (0..steps * 16).flat_map(|p| (0..32).map(move |j| (p, j))) {
            right.extend([bits(b(2 * pair, j)), bits(b(2 * pair + 1, j))]);
        }
        let mut sums = vec![f32::NAN; rows * 32];
        let product = Product {
            steps,
            left: left.as_ptr().cast(),
            stride: 2 * (terms + 32),
            right: right.as_ptr().cast(),
            ahead: right.as_ptr().cast(),
            sums: sums.as_mut_ptr(),
        };
        // SAFETY: the vectors were made as long as `Product` says.
        unsafe { tiles.multiply(Element::Bf16, blocks, &product) };
        for (at, sum) in sums.iter().enumerate() {
            let (i, j) = (at / 32, at % 32);
            match j < columns {
                true => assert_eq!(*sum, (0..terms).map(|k| a(i, k) * b(k, j)).sum::<f32>()),
                false => assert!(sum.is_nan(), "a column that was not asked for"),
            }
        }
    }

    #[test]
    fn products_of_all_blocks() {
        for blocks in [[1, 1], [1, 2], [2, 1], [2, 2]] {
            for steps in [1, 2, 5] {
                check(blocks, steps);
            }
        }
    }

    #[test]
    fn bytes_are_multiplied_as_unsigned_by_signed() {
        let Some(mut tiles) = Tiles::take() else { return };
        let (left, right) = ([250u8; 64 * 32], [-128i8; 2048]);
        let mut sums = [0.5f32; 32 * 32];
        let product = Product {
            steps: 1,
            left: left.as_ptr(),
            stride: 64,
            right: right.as_ptr().cast(),
            ahead: right.as_ptr().cast(),
            sums: sums.as_mut_ptr(),
        };
        // SAFETY: 32 rows of 64 bytes, 16 rows of two blocks, and as many rows of sums.
        unsafe { tiles.multiply(Element::U8I8, [2, 2], &product) };
        assert!(sums.iter().all(|sum| sum.to_bits() as i32 == 64 * 250 * -128));
    }

    #[test]
    fn tiles_are_taken_once() {
        let first = Tiles::take();
        let second = std::panic::catch_unwind(|| Tiles::take().is_some());
        assert_eq!(second.is_err(), first.is_some());
        drop(first);
        assert_eq!(Tiles::take().is_some(), available());
    }
}
