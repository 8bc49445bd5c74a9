//! What becomes of the sums of a block of convolutions with channels last: what is added to them,
//! bounds, and where they are stored, as f32 or as bf16.

use half::bf16;

use hetra_cpu_base::activation::{self, Activation};
use hetra_cpu_base::numbers::{Number, Numbers, SharedOut};
use hetra_cpu_base::scratch::{Lent, Shared, count, lend};
use hetra_cpu_base::simd::Simd;

/// Where sums are stored.
#[derive(Clone, Copy)]
pub(crate) enum Sink {
    F32(*mut f32),
    Bf16(*mut bf16),
}

/// What is added to sums.
#[derive(Clone, Copy)]
pub(crate) enum Added {
    None,
    F32(*const f32),
    Bf16(*const bf16),
}

/// Rows of sums, one for each pixel, of the output channels of a panel.
#[derive(Clone, Copy)]
pub(crate) struct Outputs {
    /// Output channels of the panel that exist: at least 1, at most two vectors.
    pub(crate) nv: usize,
    /// Written: rows of `nv` numbers, `ldc` apart. No other thread uses them.
    pub(crate) c: Sink,
    pub(crate) ldc: usize,
    /// Read: as many rows, `lda` apart.
    pub(crate) added: Added,
    pub(crate) lda: usize,
    /// Bounds of the outputs.
    pub(crate) lo: f32,
    pub(crate) hi: f32,
}

/// The outputs of a panel, for some pixels one behind the other.
pub(crate) struct Panel<'a> {
    pub(crate) out: SharedOut<'a>,
    /// What is added, in the layout of the output.
    pub(crate) added: Option<Numbers<'a>>,
    pub(crate) act: Activation,
    /// The first output, pixels, numbers from one pixel to the next, output channels.
    pub(crate) at: usize,
    pub(crate) rows: usize,
    pub(crate) step: usize,
    pub(crate) nv: usize,
    /// Whether numbers that are rounded are f32 first, in a place of their own: the register kernel
    /// does not round well, or the activation is not done yet.
    pub(crate) by_sums: bool,
}

impl Panel<'_> {
    /// A place for the sums, where they need one: rows of two vectors.
    pub(crate) fn sums<S: Simd>(&self) -> Option<Lent> {
        let apart = self.by_sums && matches!(self.out, SharedOut::Bf16(_));
        apart.then(|| lend(count(&[self.rows, 2 * S::LANES])))
    }

    /// Where the register kernel stores: the outputs, or the place for the sums. Panics if they are
    /// not inside.
    pub(crate) fn places<S: Simd>(&self, sums: Option<&mut [f32]>) -> Outputs {
        let (at, (rows, step), nv) = (self.at, (self.rows, self.step), self.nv);
        let (c, ldc) = match (self.out, sums) {
            (_, Some(sums)) => {
                let width = 2 * S::LANES;
                (Sink::F32(Shared::new(sums).rows(0, (rows, width), width)), width)
            }
            (SharedOut::F32(out), None) => (Sink::F32(out.rows(at, (rows, step), nv)), step),
            (SharedOut::Bf16(out), None) => (Sink::Bf16(out.rows(at, (rows, step), nv)), step),
        };
        let range = at..at + (rows - 1) * step + nv;
        let added = match self.added {
            None => Added::None,
            Some(Numbers::F32(x)) => Added::F32(x[range].as_ptr()),
            Some(Numbers::Bf16(x)) => Added::Bf16(x[range].as_ptr()),
        };
        let (lo, hi) = self.act.clamp().unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        Outputs { nv, c, ldc, added, lda: step, lo, hi }
    }

    /// Does the activation of sums that have a place of their own, and stores them.
    ///
    /// # Safety
    /// The outputs must be this task's, and no other reference to them may be alive.
    #[inline(always)]
    pub(crate) unsafe fn finish<S: Simd>(&self, s: S, sums: Option<Lent>) {
        let (Some(mut sums), SharedOut::Bf16(out)) = (sums, self.out) else { return };
        if self.act.clamp().is_none() {
            activation::apply(S::ISA, self.act, &mut sums);
        }
        let out = out.rows(self.at, (self.rows, self.step), self.nv);
        for (i, row) in sums.chunks_exact(2 * S::LANES).enumerate() {
            for (j, v) in row.chunks_exact(S::LANES).enumerate() {
                let n = S::LANES.min(self.nv.saturating_sub(j * S::LANES));
                // SAFETY: `i < rows`, and `n` numbers behind `j * LANES` are below `nv`: they are
                // inside (`rows`) and, as the caller promises, nobody else's.
                unsafe { bf16::store_n(s, out.add(i * self.step + j * S::LANES), s.loads(v), n) }
            }
        }
    }
}

/// Finishes and stores the sums of a block, whose rows begin with `first`.
///
/// # Safety
/// `MR` rows from `first` on must be among those of the output and of what is added. Sums that are
/// stored as bf16 must be so by the instructions for it, or it takes long.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    t: &Outputs,
    first: usize,
    acc: [[S::F; NV]; MR],
) {
    // Of blocks that are nearly as high as they can be, all rows are written out by themselves: in
    // a loop that asks for each what is to be done the sums would go by way of the stack.
    if MR + 2 >= S::MR && t.nv > (NV - 1) * S::LANES {
        // SAFETY: as the caller promises.
        return unsafe {
            match t.c {
                Sink::F32(c) => high(s, t, first, c, acc),
                Sink::Bf16(c) => high(s, t, first, c, acc),
            }
        };
    }
    let (lo, hi) = (s.splat(t.lo), s.splat(t.hi));
    for (i, row) in acc.into_iter().enumerate() {
        for (j, mut v) in row.into_iter().enumerate() {
            let col = j * S::LANES;
            if col >= t.nv {
                break;
            }
            let n = S::LANES.min(t.nv - col);
            let (at, from) = ((first + i) * t.ldc + col, (first + i) * t.lda + col);
            // SAFETY: `i < MR` and `col + n <= nv`: the numbers are those that the caller promises.
            unsafe {
                match t.added {
                    Added::None => {}
                    Added::F32(p) => v = s.add(v, f32::load_n(s, p.add(from), n)),
                    Added::Bf16(p) => v = s.add(v, bf16::load_n(s, p.add(from), n)),
                }
                v = s.min(hi, s.max(lo, v));
                match t.c {
                    Sink::F32(p) => f32::store_n(s, p.add(at), v, n),
                    Sink::Bf16(p) => bf16::store_n(s, p.add(at), v, n),
                }
            }
        }
    }
}

/// A high block.
///
/// # Safety
/// As `rows`.
#[inline(always)]
unsafe fn high<S: Simd, C: Number, const MR: usize, const NV: usize>(
    s: S,
    t: &Outputs,
    first: usize,
    to: *mut C,
    acc: [[S::F; NV]; MR],
) {
    let (whole, none) = (t.nv == NV * S::LANES, None::<*const f32>);
    // SAFETY: as the caller promises.
    unsafe {
        match t.added {
            Added::None if whole => rows::<_, _, _, MR, NV, true>(s, t, first, none, to, acc),
            Added::None => rows::<_, _, _, MR, NV, false>(s, t, first, none, to, acc),
            Added::F32(a) => rows::<_, _, _, MR, NV, false>(s, t, first, Some(a), to, acc),
            Added::Bf16(a) => rows::<_, _, _, MR, NV, false>(s, t, first, Some(a), to, acc),
        }
    }
}

/// Rows of vectors, with what is added `from`.
///
/// # Safety
/// As `store`, with all vectors but the last one whole, and that too if `WHOLE`.
#[inline(always)]
unsafe fn rows<
    S: Simd,
    A: Number,
    C: Number,
    const MR: usize,
    const NV: usize,
    const WHOLE: bool,
>(
    s: S,
    t: &Outputs,
    first: usize,
    from: Option<*const A>,
    to: *mut C,
    acc: [[S::F; NV]; MR],
) {
    let (lo, hi) = (s.splat(t.lo), s.splat(t.hi));
    let rest = t.nv - (NV - 1) * S::LANES;
    let (below, above) = (t.lo > f32::NEG_INFINITY, t.hi < f32::INFINITY);
    for (i, sums) in acc.into_iter().enumerate() {
        for (j, mut v) in sums.into_iter().enumerate() {
            let at = (first + i) * t.ldc + j * S::LANES;
            let whole = WHOLE || j + 1 < NV;
            // SAFETY: `i < MR` and `j < NV`: the numbers are those that the caller promises.
            unsafe {
                if let Some(from) = from {
                    let from = from.add((first + i) * t.lda + j * S::LANES);
                    v = s.add(v, if whole { A::load(s, from) } else { A::load_n(s, from, rest) });
                }
                if below {
                    v = s.max(lo, v);
                }
                if above {
                    v = s.min(hi, v);
                }
                let p = to.add(at);
                s.prefetch_write(p.wrapping_add(MR * t.ldc).cast());
                if whole { C::store(s, p, v) } else { C::store_n(s, p, v, rest) }
            }
        }
    }
}
