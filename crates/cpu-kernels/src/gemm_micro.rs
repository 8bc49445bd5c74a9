//! The register kernel: a block of `MR` rows by one or two vectors of columns that stays in
//! registers over a whole k block. Each k step loads the columns once and broadcasts each row's
//! number, so that there is one multiply-add per cycle and less than one load.

use super::bf16::Product;
use hetra_cpu_base::isa::Kernel;
use hetra_cpu_base::simd::Simd;
use std::marker::PhantomData;

/// One call of the register kernel. The pointers are used as it is said here, and in no other way.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// Row panel, read: `kc` steps of `WORDS * mr` words. A word is a float, or what [`Product`]
    /// says, which has the number of words, too.
    pub(crate) a: *const f32,
    /// Column panel, read: `kc` steps of two vectors.
    pub(crate) b: *const f32,
    /// What is brought nearer meanwhile, a line for each step, as it is read next. Any address.
    pub(crate) next: *const f32,
    pub(crate) kc: usize,
    /// Rows, at least 1.
    pub(crate) mr: usize,
    /// Columns of the panel that exist: at least 1, at most two vectors.
    pub(crate) nv: usize,
    /// Output, read and written: `mr` rows of `nv` floats, `ldc` apart. No other thread uses them.
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
    pub(crate) end: TileEnd,
}

/// What happens between the sum and the store. Null pointers mean absent.
#[derive(Clone, Copy)]
pub(crate) struct TileEnd {
    pub(crate) alpha: f32,
    /// Add what the output holds.
    pub(crate) add_c: bool,
    /// Read: `mr` floats.
    pub(crate) bias_row: *const f32,
    /// Read: `nv` floats.
    pub(crate) bias_col: *const f32,
    /// Read: `mr` rows of `nv` floats, `ldr` apart.
    pub(crate) residual: *const f32,
    pub(crate) ldr: usize,
    pub(crate) lo: f32,
    pub(crate) hi: f32,
}

/// # Safety
/// `p` must be readable for `min(n, LANES)` floats.
#[inline(always)]
unsafe fn load_some<S: Simd>(s: S, p: *const f32, n: usize) -> S::F {
    // SAFETY: `LANES` floats are read if there are `n >= LANES`, else `n`; the caller promises
    // them.
    unsafe { if n >= S::LANES { s.load(p) } else { s.load_n(p, n) } }
}

/// # Safety
/// The pointers of `t` must cover the sizes that `Tile` and `TileEnd` state, and `t.mr == MR`.
#[inline(always)]
unsafe fn micro<S: Simd, P: Product, const MR: usize, const NV: usize>(s: S, t: &Tile) {
    if MR > S::MR {
        return; // Never asked for; keeps the compiler from building it.
    }
    let mut acc = [[s.splat(0.0); NV]; MR];
    let (mut a, mut b, mut next) = (t.a, t.b, t.next);
    // SAFETY: both panels have `kc` steps, of `WORDS * MR` words and of two vectors, which is how
    // often and how far they are read and advanced (`NV` is at most 2). For `store_tile`:
    // `MR == mr`.
    unsafe {
        for _ in 0..t.kc {
            P::step(s, |i, word| a.add(word * MR + i), b, &mut acc);
            a = a.add(P::WORDS * MR);
            b = b.add(2 * S::LANES);
            s.prefetch(next);
            next = next.wrapping_add(S::LANES);
        }
        store_tile(s, &t.end, (t.c, t.ldc, t.nv), acc);
    }
}

/// Finishes and stores the sums of a block whose output begins at `c` and has `nv` columns in rows
/// `ldc` apart.
///
/// # Safety
/// `MR` rows of `nv` columns must be inside the output and inside every array of `e` that is not
/// null, as `TileEnd` states.
#[inline(always)]
pub(crate) unsafe fn store_tile<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    e: &TileEnd,
    (c, ldc, nv): (*mut f32, usize, usize),
    acc: [[S::F; NV]; MR],
) {
    for (i, row) in acc.iter().enumerate() {
        for (j, v) in row.iter().enumerate() {
            let col = j * S::LANES;
            if col < nv {
                // SAFETY: `i < MR`, which the caller promises, and `col < nv`.
                unsafe { finish(s, e, c.add(i * ldc + col), (i, col), nv - col, *v) };
            }
        }
    }
}

/// # Safety
/// The `n` columns from `col` of row `i` must be inside the output, where they begin at `c`, and
/// inside every array of `e` that is not null.
#[inline(always)]
unsafe fn finish<S: Simd>(
    s: S,
    e: &TileEnd,
    c: *mut f32,
    (i, col): (usize, usize),
    n: usize,
    acc: S::F,
) {
    // SAFETY: no more than the `n` columns of this row are read or written.
    unsafe {
        let mut v = s.mul(acc, s.splat(e.alpha));
        if e.add_c {
            v = s.add(v, load_some(s, c, n));
        }
        if !e.bias_row.is_null() {
            v = s.add(v, s.splat(*e.bias_row.add(i)));
        }
        if !e.bias_col.is_null() {
            v = s.add(v, load_some(s, e.bias_col.add(col), n));
        }
        if !e.residual.is_null() {
            v = s.add(v, load_some(s, e.residual.add(i * e.ldr + col), n));
        }
        v = s.min(s.splat(e.hi), s.max(s.splat(e.lo), v));
        if n >= S::LANES {
            s.store(c, v);
        } else {
            s.store_n(c, v, n);
        }
    }
}

/// A register kernel as a function of its own: inside a larger one the compiler may run out of
/// registers and spill the accumulators.
struct Call<'a, P, const MR: usize, const NV: usize>(&'a Tile, PhantomData<P>);

impl<P: Product, const MR: usize, const NV: usize> Kernel for Call<'_, P, MR, NV> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `Call` is made by `call` only, which has the same contract.
        unsafe { micro::<S, P, MR, NV>(s, self.0) }
    }
}

/// # Safety
/// As `micro`.
#[inline(always)]
unsafe fn call<S: Simd, P: Product, const MR: usize, const NV: usize>(t: &Tile) {
    if MR <= S::MR {
        P::dispatch(S::ISA, Call::<P, MR, NV>(t, PhantomData));
    }
}

/// Runs the register kernel of the right height and width.
/// # Safety
/// As `micro`; `t.mr <= S::MR`.
#[inline(always)]
pub(crate) unsafe fn tile<S: Simd, P: Product>(t: &Tile) {
    macro_rules! heights {
        ($nv:literal: $($m:literal)+) => {
            match t.mr {
                // SAFETY: passed on to the caller.
                $($m => unsafe { call::<S, P, $m, $nv>(t) },)+
                _ => unreachable!("row panel higher than the register block"),
            }
        };
    }
    if t.nv <= S::LANES {
        heights!(1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    } else {
        heights!(2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}
