//! Products of bf16 numbers by matrix registers (`hetra_cpu_base::amx`): the left operand is
//! rounded row by row into a block that stays in the first cache level, the right one was packed
//! before. Blocks of 32 by 32 sums are finished (bias, residual, activation) while they are there.
//!
//! Sums are f32. The instruction adds up 32 terms at a time, those of even places and those of odd
//! ones by themselves, and takes numbers too small to be normal for zero.

use super::bf16::pair;
use super::gemm::{Bias, Epilogue};
use super::gemm_pack::Mat;
use super::nhwc::{cuts, part};
use hetra_cpu_base::activation::{self, Activation};
use hetra_cpu_base::amx::{Element, Product, ROW, SIDE, Tiles};
use hetra_cpu_base::isa::{Kernel, with_bf16};
use hetra_cpu_base::numbers::{Numbers, NumbersOut, SharedOut};
use hetra_cpu_base::scratch::{AlignedBuf, Shared, count, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::{for_each, threads};
use std::ops::Range;

/// Rows and columns of a block of sums.
pub(crate) const BLOCK: usize = 2 * SIDE;
/// Terms of a step: bf16 numbers of a row of a tile.
pub(crate) const TERMS: usize = ROW / 2;
/// Words of a panel that a step takes: as many rows of pairs as a tile has.
pub(crate) const STEP: usize = SIDE * BLOCK;
/// Bytes of the left operand that a task multiplies at a time: half of the first cache level.
pub(crate) const LEFT_BLOCK: usize = 24 << 10;
/// Floats of weights that are brought nearer before they are read, at least.
const AHEAD_MIN: usize = 4 << 10;
/// Multiply-adds below which a product stays on one thread (about 5 µs).
const PAR_MIN: usize = 2 << 20;
/// Multiply-adds that a task has at least, as far as there are enough for all threads.
const TASK_MIN: usize = 512 << 10;

/// A constant right operand: for each 32 columns, pair after pair of terms, a word for each column.
#[derive(Debug)]
pub(crate) struct TileWeights {
    pub(crate) k: usize,
    pub(crate) n: usize,
    data: AlignedBuf,
}

impl TileWeights {
    /// Packs `at(term, column)` for `k` terms, at least one, and `n` columns.
    pub(crate) fn new(k: usize, n: usize, at: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        assert!(k > 0, "a product of nothing");
        let (panels, words) = (n.div_ceil(BLOCK), k.div_ceil(TERMS) * STEP);
        let mut data = AlignedBuf::zeroed(count(&[panels, words]));
        let out = Shared::new(data.as_mut_slice());
        for_each(panels, k * n > 64 << 10, |panel| {
            // SAFETY: each panel is written by one task.
            let panel_words = unsafe { out.slice(panel * words, words) };
            for (i, word) in panel_words.iter_mut().enumerate() {
                let (term, j) = (i / BLOCK * 2, panel * BLOCK + i % BLOCK);
                if term < k && j < n {
                    let second = if term + 1 < k { at(term + 1, j) } else { 0.0 };
                    *word = pair(at(term, j), second);
                }
            }
        });
        TileWeights { k, n, data }
    }

    pub(crate) fn steps(&self) -> usize {
        self.k.div_ceil(TERMS)
    }

    /// The words of a panel, and how many blocks of 16 columns it has.
    fn panel(&self, panel: usize) -> (&[f32], usize) {
        let (words, columns) = (self.steps() * STEP, self.n - panel * BLOCK);
        (&self.data.as_slice()[panel * words..][..words], columns.div_ceil(SIDE).min(2))
    }

    /// bf16 numbers of a row of the left operand, with the zeros behind it.
    pub(crate) fn row(&self) -> usize {
        self.steps() * TERMS
    }

    /// Rows of the left operand that fit into so many bytes: whole blocks, one at least.
    pub(crate) fn rows_within(&self, bytes: usize) -> usize {
        (bytes / (2 * self.row()) / BLOCK).max(1) * BLOCK
    }
}

/// Cuts a product of rows, columns and terms into parts of blocks of 16 rows by parts of the panels
/// of columns, and runs them.
pub(crate) fn for_parts(
    (rows, n, k): (usize, usize, usize),
    run: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    let (blocks, panels) = (rows.div_ceil(SIDE), n.div_ceil(BLOCK));
    let work = count(&[rows, n]).saturating_mul(k);
    let want = match work >= PAR_MIN && threads() > 1 {
        true => (work / TASK_MIN).min(threads().saturating_mul(4)).max(threads()),
        false => 1,
    };
    let (down, across) = cuts(want, rows >= n, blocks, panels);
    for_each(down * across, down * across > 1, |task| {
        let blocks = part(blocks, down, task % down);
        let rows = blocks.start * SIDE..(blocks.end * SIDE).min(rows);
        run(rows, part(panels, across, task / down));
    });
}

/// What becomes of sums: `act(alpha sum + bias + residual)`.
#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) alpha: f32,
    pub(crate) bias: Bias<'a>,
    /// A matrix and the distance of its rows.
    pub(crate) residual: Option<(Numbers<'a>, usize)>,
    pub(crate) act: Activation,
    pub(crate) out: SharedOut<'a>,
    /// Distance of the rows of the output.
    pub(crate) ldc: usize,
}

/// Rows of the left operand: rows of bf16 numbers as `TileWeights::row` says, as many as fill
/// blocks of 16; what is in those behind the last one is of no matter.
pub(crate) struct Left<'a> {
    pub(crate) data: &'a [u16],
    /// Rows of the output that they make.
    pub(crate) rows: Range<usize>,
}

/// Multiplies rows by panels and finishes the sums.
///
/// # Safety
/// No other task may use these rows and columns of the output.
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd>(
    s: S,
    tiles: &mut Tiles,
    left: &Left<'_>,
    (right, panels): (&TileWeights, Range<usize>),
    end: &End<'_>,
) {
    let (row, rows) = (right.row(), left.rows.len());
    assert!(left.data.len() >= rows.next_multiple_of(SIDE) * row, "rows are missing");
    let mut sums = lend(BLOCK * BLOCK);
    // What is in columns that a panel does not have is reckoned with, too, and may be slow.
    sums.fill(0.0);
    for panel in panels {
        let (b, columns) = right.panel(panel);
        for first in (0..rows).step_by(BLOCK) {
            let height = BLOCK.min(rows - first);
            let product = Product {
                steps: right.steps(),
                left: left.data[first * row..].as_ptr().cast(),
                stride: 2 * row,
                right: b.as_ptr().cast(),
                // The next panel, while this one is read for the first time.
                ahead: match first {
                    0 => b.as_ptr().wrapping_add(b.len().max(AHEAD_MIN)).cast(),
                    _ => std::ptr::null(),
                },
                sums: sums.as_mut_ptr(),
            };
            // SAFETY: whole blocks of rows are there, as was checked, each with as many numbers as
            // the steps take; the panel has a tile for each step and block of columns, and there
            // is room for all sums of a block. The output is the caller's promise.
            unsafe {
                tiles.multiply(Element::Bf16, [height.div_ceil(SIDE), columns], &product);
                let (row, column) = (left.rows.start + first, panel * BLOCK);
                let n = BLOCK.min(right.n - column);
                finish(s, &mut sums, Place { height, row, n, column }, end);
            }
        }
    }
}

/// Where a block of sums goes.
#[derive(Clone, Copy)]
struct Place {
    /// Rows, and the first one of the output.
    height: usize,
    row: usize,
    /// Columns, and the first one of the output.
    n: usize,
    column: usize,
}

/// Finishes a block of sums.
///
/// # Safety
/// As `multiply`.
#[inline(always)]
unsafe fn finish<S: Simd>(s: S, sums: &mut [f32], place: Place, end: &End<'_>) {
    const { assert!(BLOCK == 2 * 16) };
    assert!(2 * S::LANES == BLOCK, "tiles come with vectors of half a block");
    let mut bias = [s.splat(0.0); 2];
    if let Bias::Col(all) = end.bias {
        bias = Numbers::F32(all).load(s, place.column, place.n);
    }
    let (lo, hi) = end.act.clamp().unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
    let mut last = Last { factor: end.alpha, bias, lo, hi };
    if end.residual.is_some() || matches!(end.bias, Bias::Row(_)) || end.act.clamp().is_none() {
        add(s, sums, place, (last.factor, bias), end);
        if end.act.clamp().is_none() {
            activation::apply(S::ISA, end.act, &mut sums[..place.height * BLOCK]);
        }
        (last.factor, last.bias) = (1.0, [s.splat(0.0); 2]);
    }
    // SAFETY: passed on to the caller.
    unsafe {
        match place.n {
            BLOCK => put::<S, BLOCK>(s, sums, place, &last, end),
            SIDE => put::<S, SIDE>(s, sums, place, &last, end),
            _ => put::<S, 0>(s, sums, place, &last, end),
        }
    }
}

/// What is left to do to sums before they are stored.
struct Last<F> {
    factor: f32,
    bias: [F; 2],
    lo: f32,
    hi: f32,
}

/// Multiplies sums by the factor and adds bias and residual to them.
#[inline(always)]
fn add<S: Simd>(
    s: S,
    sums: &mut [f32],
    place: Place,
    (factor, bias): (f32, [S::F; 2]),
    end: &End<'_>,
) {
    let factor = s.splat(factor);
    for (i, sums) in sums.chunks_exact_mut(BLOCK).take(place.height).enumerate() {
        let bias = match end.bias {
            Bias::Row(rows) => [s.splat(rows[place.row + i]); 2],
            _ => bias,
        };
        let more = match end.residual {
            Some((residual, ld)) => residual.load(s, (place.row + i) * ld + place.column, place.n),
            None => [s.splat(0.0); 2],
        };
        let (first, second) = sums.split_at_mut(S::LANES);
        s.stores(first, s.add(s.fma(s.loads(first), factor, bias[0]), more[0]));
        s.stores(second, s.add(s.fma(s.loads(second), factor, bias[1]), more[1]));
    }
}

/// Stores sums: `N` columns, or as many as the place says where it is 0.
///
/// # Safety
/// As `multiply`.
#[inline(always)]
unsafe fn put<S: Simd, const N: usize>(
    s: S,
    sums: &[f32],
    place: Place,
    last: &Last<S::F>,
    end: &End<'_>,
) {
    let (lo, hi, factor) = (s.splat(last.lo), s.splat(last.hi), s.splat(last.factor));
    let n = if N == 0 { place.n } else { N };
    let at = place.row * end.ldc + place.column;
    macro_rules! value {
        ($sums:ident, $half:literal) => {{
            let v = s.fma(s.loads(&$sums[$half * S::LANES..]), factor, last.bias[$half]);
            s.min(hi, s.max(lo, v))
        }};
    }
    let rows = sums.chunks_exact(BLOCK).take(place.height).enumerate();
    // SAFETY: the output has the columns of these rows (`rows`), which are this task's.
    unsafe {
        match &end.out {
            SharedOut::F32(out) => {
                let p = out.rows(at, (place.height, end.ldc), n);
                for (i, sums) in rows {
                    let p = p.add(i * end.ldc);
                    match N {
                        BLOCK => {
                            s.store(p, value!(sums, 0));
                            s.store(p.add(S::LANES), value!(sums, 1));
                        }
                        SIDE => s.store(p, value!(sums, 0)),
                        _ => {
                            let first = n.min(S::LANES);
                            s.store_n(p, value!(sums, 0), first);
                            s.store_n(p.add(first), value!(sums, 1), n - first);
                        }
                    }
                }
            }
            SharedOut::Bf16(out) => {
                let p = out.rows(at, (place.height, end.ldc), n);
                for (i, sums) in rows {
                    let second = if N == SIDE { s.splat(0.0) } else { value!(sums, 1) };
                    let words = s.bits(s.narrow_bf16(value!(sums, 0), second));
                    s.store_bytes(p.add(i * end.ldc).cast(), words, 2 * n);
                }
            }
        }
    }
}

/// `c = act(alpha a b + ...)`, as [`super::gemm::gemm`] says, which has checked the sizes.
pub(crate) fn gemm(a: Mat<'_>, b: &TileWeights, c: &mut [f32], ldc: usize, ep: &Epilogue<'_>) {
    assert!(a.cols == b.k && !ep.accumulate, "another product");
    let end = End {
        alpha: ep.alpha,
        bias: ep.bias,
        residual: ep.residual.map(|(r, ld)| (Numbers::F32(r), ld)),
        act: ep.act,
        out: NumbersOut::F32(c).share(),
        ldc,
    };
    for_parts((a.rows, b.n, b.k), |rows, panels| {
        let task = Task { a, b, rows, panels, end: &end };
        with_bf16(task).expect("tiles come with the instructions of bf16");
    });
}

/// Rows and panels of a product of matrices that one task computes.
struct Task<'a> {
    a: Mat<'a>,
    b: &'a TileWeights,
    rows: Range<usize>,
    panels: Range<usize>,
    end: &'a End<'a>,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut tiles = Tiles::take().expect("weights are packed where there are tiles");
        let (row, most) = (self.b.row(), self.b.rows_within(LEFT_BLOCK));
        let size = most.min(self.rows.len().next_multiple_of(SIDE));
        let mut left = lend(size * row / 2);
        let left: &mut [u16] = bytemuck::cast_slice_mut(&mut left);
        let mut line = lend(if self.a.col_stride == 1 { 0 } else { self.a.cols });
        for start in self.rows.clone().step_by(most) {
            let rows = start..(start + most).min(self.rows.end);
            for (i, to) in rows.clone().zip(left.chunks_exact_mut(row)) {
                if self.a.col_stride == 1 {
                    Numbers::F32(self.a.data).narrow(s, self.a.at(i, 0), self.a.cols, to);
                    continue;
                }
                line.iter_mut().enumerate().for_each(|(j, v)| *v = self.a.data[self.a.at(i, j)]);
                Numbers::F32(&line).narrow(s, 0, self.a.cols, to);
            }
            let left = Left { data: left, rows };
            // SAFETY: tasks have different rows or panels.
            unsafe { multiply(s, &mut tiles, &left, (self.b, self.panels.clone()), self.end) };
        }
    }
}
