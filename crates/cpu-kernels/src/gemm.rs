//! Matrix product with everything around it fused: `C = act(alpha A B + bias + residual)`.
//!
//! Idea: pack both operands into panels (`gemm_pack`), cut the output into tiles that tasks take,
//! and in each tile walk k block by block, so that the block of A stays in the second cache level
//! and the panel of B in the first. Against the naive loop: each loaded number is used 14 or 32
//! times instead of once. Sums run over k in one fixed order, whatever the tiles or threads.
//!
//! Measured on one Zen 4 core (peak about 115 GFLOP/s): 107 GFLOP/s for 512x512x512 with AVX-512,
//! 104 with AVX2, 35 portable. Rerun with `HETRA_BENCH=1 cargo test --release gemm_speed`.

pub use super::gemm_pack::{Mat, PackedA, PackedB, Panels};

use super::bf16::{F32, Operands, Pairs, Wide};
use super::gemm_micro::{Tile, TileEnd, tile};
use super::gemm_pack::{AView, block, kc_of, mr_for, pack_a, pack_a_by, pack_b_all};
use super::gemv;
use super::tiles;
use hetra_cpu_base::activation::{self, Activation};
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::scratch::{self, Shared, count};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::{for_each, in_task, threads};
use std::ops::Range;

/// The left operand.
#[derive(Clone, Copy)]
pub enum Lhs<'a> {
    /// Packed for this call.
    View(Mat<'a>),
    /// Packed before.
    Packed(&'a PackedA),
}

/// The right operand.
#[derive(Clone, Copy)]
pub enum Rhs<'a> {
    /// Packed for this call.
    View(Mat<'a>),
    /// Packed before.
    Packed(&'a PackedB),
    /// Rows, columns, and what writes the panels.
    Panels(usize, usize, &'a dyn Panels),
}

/// A vector to add to the product.
#[derive(Clone, Copy, Debug, Default)]
pub enum Bias<'a> {
    /// Nothing.
    #[default]
    None,
    /// One number for each row.
    Row(&'a [f32]),
    /// One number for each column.
    Col(&'a [f32]),
}

/// What is done to the product before it is stored: `act(alpha P + old C + bias + residual)`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// Factor of the product.
    pub alpha: f32,
    /// Add what the output holds.
    pub accumulate: bool,
    /// Vector to add.
    pub bias: Bias<'a>,
    /// Matrix to add, with its row stride.
    pub residual: Option<(&'a [f32], usize)>,
    /// Function applied last.
    pub act: Activation,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Epilogue {
            alpha: 1.0,
            accumulate: false,
            bias: Bias::None,
            residual: None,
            act: Activation::None,
        }
    }
}

/// Multiply-adds below which a product stays on one thread (about 5 µs).
const PAR_MIN: usize = 256 << 10;
/// Multiply-adds that a task has at least, as far as there are enough for all threads.
const TASK_MIN: usize = 64 << 10;
/// Multiply-adds from which threads share copies of the operands.
const PARTS_MAX: usize = 32 << 20;
/// Most floats of a copy of B, of which each task else copies what it needs.
const COPY_MAX: usize = 64 << 20;
/// Floats of A that a tile keeps in the second cache level.
const A_BLOCK: usize = 72 << 10;
/// Column panels in a tile.
const COL_PANELS: usize = 8;

pub(crate) enum BSrc<'a> {
    Packed(&'a [f32]),
    Panels(&'a dyn Panels),
}

pub(crate) struct Job<'a> {
    pub(crate) a: AView<'a>,
    pub(crate) b: BSrc<'a>,
    /// With those of bf16, `a.k` and the blocks of k count steps of two terms.
    pub(crate) operands: Operands,
    pub(crate) n: usize,
    pub(crate) nr: usize,
    pub(crate) c: Shared<'a, f32>,
    pub(crate) ldc: usize,
    pub(crate) ep: &'a Epilogue<'a>,
}

/// `c = act(alpha a b + ...)`; `c` has rows of `ldc` floats, of which the first n are written.
/// Panics if shapes or packings do not fit, which is the caller's mistake.
pub fn gemm(isa: Isa, a: Lhs<'_>, b: Rhs<'_>, c: &mut [f32], ldc: usize, ep: &Epilogue<'_>) {
    let (m, k) = match &a {
        Lhs::View(a) => (a.rows, a.cols),
        Lhs::Packed(p) => (p.rows(), p.cols()),
    };
    let (kb, n) = match &b {
        Rhs::View(b) => (b.rows, b.cols),
        Rhs::Packed(p) => (p.rows(), p.cols()),
        Rhs::Panels(k, n, _) => (*k, *n),
    };
    assert_eq!(k, kb, "inner sizes differ");
    if m == 0 || n == 0 {
        return;
    }
    check(m, n, c.len(), ldc, ep);
    if let (Lhs::View(a), Rhs::View(b)) = (&a, &b)
        && m <= 4
        && (b.col_stride == 1 || b.row_stride == 1)
        && gemv::rows(isa, *a, *b, c, ldc, ep)
    {
        return;
    }
    if let (Lhs::View(a), Rhs::View(b)) = (&a, &b)
        && has_parts(m, n, k)
    {
        return by_parts(isa, *a, *b, c, ldc, ep);
    }
    match a {
        Lhs::Packed(p) => {
            assert_eq!(p.isa(), isa, "packed for another instruction set");
            assert!(operands(&b) == Operands::F32, "one operand is f32, the other bf16");
            with_a(isa, p.view(), b, n, c, ldc, ep);
        }
        Lhs::View(a) => {
            if let Rhs::Packed(packed @ PackedB { tiles: Some(tiles), .. }) = &b {
                assert_eq!(packed.isa(), isa, "packed for another instruction set");
                return tiles::gemm(a, tiles, c, ldc, ep);
            }
            let operands = operands(&b);
            let (steps, words) = (operands.steps(k), operands.words());
            let mr = mr_for(isa, operands, m);
            let mut buf = scratch::lend(count(&[m, steps, words]));
            if operands == Operands::F32 {
                pack_a(isa, a, &mut buf);
            } else {
                let mut rows = scratch::lend(count(&[m, steps, words]));
                operands.round_matrix(isa, a, &mut rows);
                let rows = Mat::new(&rows, m, steps * words);
                pack_a_by(rows, (mr, kc_of(steps) * words), &mut buf);
            }
            let view = AView { data: &buf, m, k: steps, mr };
            with_a(isa, view, b, n, c, ldc, ep);
        }
    }
}

/// Whether each thread had better do some rows by itself, copies of the whole of B included: in
/// smaller products that costs less than to share copies, which then go from one core's cache to
/// another's (measured with two cores: 128 x 128 x 128 took longer by two threads than by one).
fn has_parts(m: usize, n: usize, k: usize) -> bool {
    let work = m.saturating_mul(n).saturating_mul(k);
    (PAR_MIN..PARTS_MAX).contains(&work) && threads() > 1 && !in_task() && m >= 8 * threads()
}

fn by_parts(isa: Isa, a: Mat<'_>, b: Mat<'_>, c: &mut [f32], ldc: usize, ep: &Epilogue<'_>) {
    let (n, each) = (b.cols, a.rows.div_ceil(threads()));
    let parts = a.rows.div_ceil(each);
    let out = Shared::new(c);
    for_each(parts, true, |part| {
        let first = part * each;
        let rows = each.min(a.rows - first);
        let a = Mat { data: &a.data[a.at(first, 0)..], rows, ..a };
        let bias = match ep.bias {
            Bias::Row(bias) => Bias::Row(&bias[first..first + rows]),
            other => other,
        };
        let residual = ep.residual.map(|(r, ld)| (&r[first * ld..], ld));
        let ep = Epilogue { bias, residual, ..*ep };
        // SAFETY: parts have different rows of the output, and each is there as a whole (`check`).
        let c = unsafe { out.slice(first * ldc, (rows - 1) * ldc + n) };
        gemm(isa, Lhs::View(a), Rhs::View(b), c, ldc, &ep);
    });
}

fn operands(b: &Rhs<'_>) -> Operands {
    if let Rhs::Packed(b) = b { b.operands } else { Operands::F32 }
}

/// The output, its residual and its bias have all that `m` rows of `n` columns need: the register
/// kernel reads and writes there without further checks. Panics if not; `m` is not 0.
fn check(m: usize, n: usize, c_len: usize, ldc: usize, ep: &Epilogue<'_>) {
    let fits = |ld: usize, len: usize| {
        let end = (m - 1).checked_mul(ld).and_then(|last| last.checked_add(n));
        ld >= n && end.is_some_and(|end| end <= len)
    };
    assert!(fits(ldc, c_len), "output too small");
    match ep.bias {
        Bias::None => {}
        Bias::Row(b) => assert!(b.len() >= m, "row bias too short"),
        Bias::Col(b) => assert!(b.len() >= n, "column bias too short"),
    }
    if let Some((r, ld)) = ep.residual {
        assert!(fits(ld, r.len()), "residual too small");
    }
}

fn with_a(
    isa: Isa,
    a: AView<'_>,
    b: Rhs<'_>,
    n: usize,
    c: &mut [f32],
    ldc: usize,
    ep: &Epilogue<'_>,
) {
    let (nr, operands) = (block(isa).1, operands(&b));
    let c = Shared::new(c);
    let run = |b: BSrc<'_>, split_rows: bool| {
        split(isa, &Job { a, b, operands, n, nr, c, ldc, ep }, split_rows);
    };
    let live: &dyn Panels = match &b {
        Rhs::Packed(p) => {
            assert_eq!(p.isa(), isa, "packed for another instruction set");
            return run(BSrc::Packed(p.data.as_slice()), true);
        }
        Rhs::View(m) => m,
        Rhs::Panels(_, _, p) => *p,
    };
    // With many column panels each task packs its own; with few, tasks must share rows instead,
    // and all is packed first.
    let panels = n.div_ceil(nr);
    let alone = a.m.saturating_mul(n).saturating_mul(a.k) < PAR_MIN || threads() == 1;
    let fits = a.k.checked_mul(panels * nr).is_some_and(|floats| floats <= COPY_MAX);
    if alone || !fits || panels >= 4 * threads() {
        run(BSrc::Panels(live), false);
    } else {
        let mut buf = scratch::lend(count(&[a.k, panels, nr]));
        pack_b_all(isa, live, a.k, n, &mut buf);
        run(BSrc::Packed(&buf), true);
    }
}

fn split(isa: Isa, job: &Job<'_>, split_rows: bool) {
    let row_panels = job.a.m.div_ceil(job.a.mr);
    let col_panels = job.n.div_ceil(job.nr);
    let work = job.a.m.saturating_mul(job.n).saturating_mul(job.a.k);
    let parallel = work >= PAR_MIN && threads() > 1;
    let (mut rows, mut cols) = (row_panels, COL_PANELS.min(col_panels));
    if parallel {
        let want = (work / TASK_MIN).clamp(threads(), 4 * threads());
        if split_rows {
            let block = kc_of(job.a.k) * job.operands.words() * job.a.mr;
            rows = (A_BLOCK / block).clamp(1, row_panels);
        }
        while row_panels.div_ceil(rows) * col_panels.div_ceil(cols) < want {
            if split_rows && rows > 1 && (rows >= 2 * cols || cols == 1) {
                rows = rows.div_ceil(2);
            } else if cols > 1 {
                cols = cols.div_ceil(2);
            } else {
                break;
            }
        }
    }
    let across = row_panels.div_ceil(rows);
    for_each(across * col_panels.div_ceil(cols), parallel, |t| {
        let (r, c) = (t % across * rows, t / across * cols);
        isa.dispatch(Block {
            job,
            rows: r..(r + rows).min(row_panels),
            cols: c..(c + cols).min(col_panels),
        });
    });
}

struct Block<'a> {
    job: &'a Job<'a>,
    rows: Range<usize>,
    cols: Range<usize>,
}

impl Kernel for Block<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let job = self.job;
        let (k, nr) = (job.a.k, job.nr);
        let (kc, n_pad) = (kc_of(k), job.n.next_multiple_of(nr));
        assert!(nr == 2 * S::LANES && job.a.mr <= S::MR, "packed for another instruction set");
        // Without a k axis the sum is empty, but bias and activation still apply.
        for k0 in (0..k.max(1)).step_by(kc) {
            let len = kc.min(k - k0);
            let size = self.cols.len() * nr * len;
            let mut buf;
            let b = match &job.b {
                BSrc::Packed(b) => &b[k0 * n_pad + self.cols.start * nr * len..][..size],
                BSrc::Panels(p) => {
                    buf = scratch::lend(size + nr);
                    for (i, j) in self.cols.clone().enumerate() {
                        let dst = &mut buf[i * nr * len..(i + 1) * nr * len + nr];
                        p.pack(k0, len, j * nr, nr, dst);
                    }
                    &buf[..size]
                }
            };
            walk::<S>(&self, k0, len, b);
        }
    }
}

/// One k block of a tile: groups of row panels that fit the cache, columns, rows.
#[inline(always)]
fn walk<S: Simd>(t: &Block<'_>, k0: usize, len: usize, b: &[f32]) {
    let job = t.job;
    let words = len.max(1) * job.operands.words();
    let group = (A_BLOCK / (words * job.a.mr)).max(1);
    let mut r0 = t.rows.start;
    while r0 < t.rows.end {
        let r1 = (r0 + group).min(t.rows.end);
        for (i, j) in t.cols.clone().enumerate() {
            let panel = &b[i * job.nr * len..(i + 1) * job.nr * len];
            for r in r0..r1 {
                one::<S>(job, (r, r - r0), j, k0, len, panel);
            }
        }
        r0 = r1;
    }
}

/// One register tile, and the activation if registers alone cannot do it.
#[inline(always)]
fn one<S: Simd>(
    job: &Job<'_>,
    (r, first): (usize, usize),
    j: usize,
    k0: usize,
    len: usize,
    b: &[f32],
) {
    let (a, nr, ep) = (&job.a, job.nr, job.ep);
    let (i0, j0) = (r * a.mr, j * nr);
    let (mr, nv) = (a.mr.min(a.m - i0), nr.min(job.n - j0));
    let words = job.operands.words();
    let at = (k0 * a.m + i0 * len) * words;
    let last = k0 + len == a.k;
    let (lo, hi) = match ep.act.clamp() {
        Some(bounds) if last => bounds,
        _ => (f32::NEG_INFINITY, f32::INFINITY),
    };
    let null = std::ptr::null();
    let mut end = TileEnd {
        alpha: ep.alpha,
        add_c: k0 > 0 || ep.accumulate,
        bias_row: null,
        bias_col: null,
        residual: null,
        ldr: 0,
        lo,
        hi,
    };
    if last {
        match ep.bias {
            Bias::None => {}
            Bias::Row(b) => end.bias_row = b[i0..].as_ptr(),
            Bias::Col(b) => end.bias_col = b[j0..].as_ptr(),
        }
        if let Some((x, ld)) = ep.residual {
            end.residual = x[i0 * ld + j0..].as_ptr();
            end.ldr = ld;
        }
    }
    let a_ptr = a.data[at..at + mr * len * words].as_ptr();
    assert!(b.len() >= len * nr, "column panel too short");
    let c = job.c.rows(i0 * job.ldc + j0, (mr, job.ldc), nv);
    // The first two blocks of rows bring half of the next column panel each.
    let half = len * nr / 2;
    let next = match first {
        0 | 1 => b.as_ptr().wrapping_add(len * nr + first * half),
        _ => b.as_ptr(),
    };
    // SAFETY: the row panel was sliced to `mr * len` steps and the column panel has `len` steps
    // of `nr`, two vectors (`Block::run`). Rows i0..i0+mr and columns j0..j0+nv are inside the
    // output (`rows`) and, by `check`, inside bias and residual. Tasks have different blocks of
    // panels, so no other one uses this part of the output, and the slices of it are made when the
    // tile has been written.
    unsafe {
        let t = Tile { a: a_ptr, b: b.as_ptr(), next, kc: len, mr, nv, c, ldc: job.ldc, end };
        match job.operands {
            Operands::F32 => tile::<S, F32>(&t),
            Operands::Pairs => tile::<S, Pairs>(&t),
            Operands::Wide => tile::<S, Wide>(&t),
            Operands::Tiles => unreachable!("done by another kernel"),
        }
        if last && ep.act.clamp().is_none() {
            for i in 0..mr {
                activation::apply(S::ISA, ep.act, job.c.slice((i0 + i) * job.ldc + j0, nv));
            }
        }
    }
}

/// Sizes and strides of a batch of products of equal shape. Operand `i` of a batch starts at its
/// entry in the offsets, so that any broadcast is a repeated offset.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
    /// Row and column stride of A.
    pub a_strides: (usize, usize),
    /// Row and column stride of B.
    pub b_strides: (usize, usize),
    /// Start of each A.
    pub a_offsets: &'a [usize],
    /// Start of each B.
    pub b_offsets: &'a [usize],
}

/// `c[i] = act(alpha a[i] b[i] + ...)` for a batch; the outputs lie one after another. The bias of
/// the epilogue is shared; its residual, if any, has the layout of the output.
pub fn gemm_batch(
    isa: Isa,
    batch: &Batch<'_>,
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    ep: &Epilogue<'_>,
) {
    let (m, n, k) = (batch.m, batch.n, batch.k);
    let products = batch.a_offsets.len();
    assert!(batch.b_offsets.len() == products && c.len() >= count(&[products, m, n]));
    let out = Shared::new(c);
    for_each(products, (products * m * n).saturating_mul(k) >= PAR_MIN, |i| {
        let (ars, acs) = batch.a_strides;
        let (brs, bcs) = batch.b_strides;
        let a = Mat::strided(&a[batch.a_offsets[i].min(a.len())..], m, k, ars, acs);
        let b = Mat::strided(&b[batch.b_offsets[i].min(b.len())..], k, n, brs, bcs);
        let residual = ep.residual.map(|(r, _)| (&r[i * m * n..], n));
        // SAFETY: each index has its own part of the output.
        let c = unsafe { out.slice(i * m * n, m * n) };
        gemm(isa, Lhs::View(a), Rhs::View(b), c, n, &Epilogue { residual, ..*ep });
    });
}

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
