//! What becomes of the sums of a block of convolutions with channels last: what is added to them,
//! bounds, and where they are stored, as f32 or as bf16.

use half::bf16;

use hetra_cpu_base::activation::{self, Activation, Curve};
use hetra_cpu_base::numbers::{Number, Numbers, SharedOut};
use hetra_cpu_base::scratch::{Lent, Shared, count, lend};
use hetra_cpu_base::simd::Simd;
use std::ops::Range;

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

impl Added {
    /// Those of `numbers` in `range`, if there are some. Panics if they are not.
    pub(crate) fn of(numbers: Option<Numbers<'_>>, range: Range<usize>) -> Self {
        match numbers {
            None => Added::None,
            Some(Numbers::F32(x)) => Added::F32(x[range].as_ptr()),
            Some(Numbers::Bf16(x)) => Added::Bf16(x[range].as_ptr()),
        }
    }
}

/// An activation that is cheap enough to be done in registers, before sums are stored.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// The least and the largest output.
    Bounds(f32, f32),
    /// `a f(x) + b`, `f` being [`Activation::HardSwish`].
    HardSwish(f32, f32),
}

impl End {
    /// Outputs are the sums.
    pub(crate) const NONE: End = End::Bounds(f32::NEG_INFINITY, f32::INFINITY);

    /// What `act` is in registers; `None` if it is done behind the sums.
    pub(crate) fn of(act: Activation) -> Option<End> {
        match act {
            Activation::HardSwish => Some(End::HardSwish(1.0, 0.0)),
            Activation::Scaled(Curve::HardSwish, a, b) => Some(End::HardSwish(a, b)),
            _ => act.clamp().map(|(lo, hi)| End::Bounds(lo, hi)),
        }
    }

    /// Does it to a vector.
    #[inline(always)]
    pub(crate) fn vector<S: Simd>(self, s: S, x: S::F) -> S::F {
        match self {
            End::Bounds(lo, hi) => s.min(s.splat(hi), s.max(s.splat(lo), x)),
            End::HardSwish(a, b) => {
                s.fma(Activation::HardSwish.vector(s, x), s.splat(a), s.splat(b))
            }
        }
    }
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
    pub(crate) end: End,
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
    /// Pixels that the register kernel stores: at least so many as there are.
    pub(crate) room: usize,
    pub(crate) step: usize,
    pub(crate) nv: usize,
    /// Whether numbers that are rounded are f32 first, in a place of their own: the register kernel
    /// does not round well, or the activation is not done yet.
    pub(crate) by_sums: bool,
}

impl Panel<'_> {
    /// A place for the sums, where they need one: rows of two vectors.
    pub(crate) fn sums<S: Simd>(&self) -> Option<Lent> {
        let apart = self.by_sums && matches!(self.out, SharedOut::Bf16(_)) || self.room > self.rows;
        apart.then(|| lend(count(&[self.room, 2 * S::LANES])))
    }

    /// Where the register kernel stores: the outputs, or the place for the sums. Panics if they are
    /// not inside.
    pub(crate) fn places<S: Simd>(&self, sums: Option<&mut [f32]>) -> Outputs {
        let (at, (rows, step), nv) = (self.at, (self.rows, self.step), self.nv);
        let (c, ldc) = match (self.out, sums) {
            (_, Some(sums)) => {
                let width = 2 * S::LANES;
                (Sink::F32(Shared::new(sums).rows(0, (self.room, width), width)), width)
            }
            (SharedOut::F32(out), None) => (Sink::F32(out.rows(at, (rows, step), nv)), step),
            (SharedOut::Bf16(out), None) => (Sink::Bf16(out.rows(at, (rows, step), nv)), step),
        };
        let range = at..at + (rows - 1) * step + nv;
        // It has no more pixels than there are.
        let added = Added::of(self.added.filter(|_| self.room == self.rows), range);
        let end = End::of(self.act).filter(|_| self.room == self.rows);
        let end = end.unwrap_or(End::NONE);
        Outputs { nv, c, ldc, added, lda: step, end }
    }

    /// Does the activation of sums that have a place of their own, and stores them.
    ///
    /// # Safety
    /// The outputs must be this task's, and no other reference to them may be alive.
    #[inline(always)]
    pub(crate) unsafe fn finish<S: Simd>(&self, s: S, sums: Option<Lent>) {
        let Some(mut sums) = sums else { return };
        if self.room > self.rows {
            self.add(s, &mut sums);
        }
        if self.room > self.rows || End::of(self.act).is_none() {
            activation::apply(S::ISA, self.act, &mut sums);
        }
        // SAFETY: as the caller promises.
        unsafe {
            match self.out {
                SharedOut::F32(out) => self.copy(s, &sums, out),
                SharedOut::Bf16(out) => self.copy(s, &sums, out),
            }
        }
    }

    /// Adds to sums that have a place of their own what the register kernel did not.
    fn add<S: Simd>(&self, _: S, sums: &mut [f32]) {
        let Some(added) = self.added else { return };
        for (i, row) in sums.chunks_exact_mut(2 * S::LANES).enumerate().take(self.rows) {
            for (j, v) in row.iter_mut().enumerate().take(self.nv) {
                let at = self.at + i * self.step + j;
                *v += match added {
                    Numbers::F32(x) => x[at],
                    Numbers::Bf16(x) => x[at].to_f32(),
                };
            }
        }
    }

    /// Stores sums that have a place of their own.
    ///
    /// # Safety
    /// As `finish`.
    #[inline(always)]
    unsafe fn copy<S: Simd, O: Number>(&self, s: S, sums: &[f32], out: Shared<'_, O>) {
        let out = out.rows(self.at, (self.rows, self.step), self.nv);
        for (i, row) in sums.chunks_exact(2 * S::LANES).enumerate().take(self.rows) {
            for (j, v) in row.chunks_exact(S::LANES).enumerate() {
                let n = S::LANES.min(self.nv.saturating_sub(j * S::LANES));
                // SAFETY: `i < rows`, and `n` numbers behind `j * LANES` are below `nv`: they are
                // inside (`rows`) and, as the caller promises, nobody else's.
                unsafe { O::store_n(s, out.add(i * self.step + j * S::LANES), s.loads(v), n) }
            }
        }
    }
}

/// The sums of a block before anything is added up: the bias of each column.
///
/// # Safety
/// `bias` must be readable for `NV` vectors.
#[inline(always)]
pub(crate) unsafe fn begin<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    bias: *const f32,
) -> [[S::F; NV]; MR] {
    let mut row = [s.splat(0.0); NV];
    for (j, v) in row.iter_mut().enumerate() {
        // SAFETY: `j < NV`.
        *v = unsafe { s.load(bias.add(j * S::LANES)) };
    }
    [row; MR]
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
                v = t.end.vector(s, v);
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
    let rest = t.nv - (NV - 1) * S::LANES;
    // The one bound of a ReLU is half the work of two.
    let (below, other) = match t.end {
        End::Bounds(lo, f32::INFINITY) => (Some(s.splat(lo)), None),
        other => (None, Some(other)),
    };
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
                if let Some(lo) = below {
                    v = s.max(lo, v);
                }
                if let Some(end) = other {
                    v = end.vector(s, v);
                }
                let p = to.add(at);
                s.prefetch_write(p.wrapping_add(MR * t.ldc).cast());
                if whole { C::store(s, p, v) } else { C::store_n(s, p, v, rest) }
            }
        }
    }
}
