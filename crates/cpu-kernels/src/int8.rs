//! Product of 8-bit matrices with exact 32-bit sums, and what is done with the sums.
//!
//! `Σ (a - za)(b - zb)` is computed as `Σ ab - za (Σb - k zb) - zb Σa`: the inner loop knows no
//! zero points. Column sums come from a dot product with ones over the packed panel, row sums from
//! packing; both are left out where they are multiplied by zero. A register tile of sums is turned
//! into i32, requantised 8-bit or scaled f32 output at once. Where there are matrix registers, they
//! multiply by packed operands (`tiles`): the sums are the same. Against the naive loop: 64
//! multiply-adds per instruction with VNNI (16 with AVX2).

pub use super::int8_pack::{IntMat, PackedIntA, PackedIntB};

use super::gemm_pack::block as block_of;
use super::int8_pack::{IntPanels, MatPanels, kg_of, pack_all};
use super::quant::Byte;
use super::tiles;
use hetra_cpu_base::activation::Activation;
use hetra_cpu_base::amx::{self, Element, Product, ROW, SIDE, Tiles};
use hetra_cpu_base::isa::{Isa, Kernel, detected};
use hetra_cpu_base::scratch::{Shared, lend};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::{for_each, threads};
use std::ops::Range;

/// A number for all, one for each row, or one for each column.
#[derive(Clone, Copy, Debug)]
pub enum Per<'a, T> {
    /// One for all.
    All(T),
    /// One for each row of the output.
    Row(&'a [T]),
    /// One for each column of the output.
    Col(&'a [T]),
}

impl<T: Copy> Per<'_, T> {
    #[inline(always)]
    pub(crate) fn at(&self, i: usize, j: usize) -> T {
        match self {
            Per::All(v) => *v,
            Per::Row(v) => v[i],
            Per::Col(v) => v[j],
        }
    }
    /// The same for the rows from `row` on.
    fn rows_from(&self, row: usize) -> Self {
        match self {
            Per::Row(v) => Per::Row(&v[row..]),
            other => *other,
        }
    }
    fn check(&self, m: usize, n: usize) {
        match self {
            Per::All(_) => {}
            Per::Row(v) => assert!(v.len() >= m, "one for each row"),
            Per::Col(v) => assert!(v.len() >= n, "one for each column"),
        }
    }
}

/// The left operand.
#[derive(Clone, Copy)]
pub enum IntLhs<'a> {
    /// Packed for this call.
    View(IntMat<'a>),
    /// Packed before.
    Packed(&'a PackedIntA),
}

/// The right operand.
#[derive(Clone, Copy)]
pub enum IntRhs<'a> {
    /// Packed for this call.
    View(IntMat<'a>),
    /// Packed before.
    Packed(&'a PackedIntB),
}

/// Where the sums go; rows are contiguous and `n` long.
#[derive(Debug)]
pub enum IntOut<'a> {
    /// The sums themselves.
    I32(&'a mut [i32]),
    /// `saturate(round(sum * scale) + zero)`.
    U8(&'a mut [u8], Per<'a, f32>, i32),
    /// `saturate(round(sum * scale) + zero)`.
    I8(&'a mut [i8], Per<'a, f32>, i32),
    /// `act(sum * scale + bias)`.
    F32(&'a mut [f32], Per<'a, f32>, Per<'a, f32>, Activation),
}

/// An output that tasks share.
#[derive(Clone, Copy)]
pub(crate) enum Sink<'a> {
    I32(Shared<'a, i32>),
    U8(Shared<'a, u8>, Per<'a, f32>, i32),
    I8(Shared<'a, i8>, Per<'a, f32>, i32),
    F32(Shared<'a, f32>, Per<'a, f32>, Per<'a, f32>, Activation),
}

impl IntOut<'_> {
    pub(crate) fn is_per_column(&self) -> bool {
        let columns = |p: &Per<'_, f32>| matches!(p, Per::Col(_));
        match self {
            IntOut::I32(_) => false,
            IntOut::U8(_, scale, _) | IntOut::I8(_, scale, _) => columns(scale),
            IntOut::F32(_, scale, bias, _) => columns(scale) || columns(bias),
        }
    }

    /// The output for tasks, checked to have `need` numbers and scales for `m` rows, `n` columns.
    pub(crate) fn sink(&mut self, m: usize, n: usize, need: usize) -> Sink<'_> {
        let (len, scale) = match self {
            IntOut::I32(o) => (o.len(), Per::All(1.0)),
            IntOut::U8(o, s, _) => (o.len(), *s),
            IntOut::I8(o, s, _) => (o.len(), *s),
            IntOut::F32(o, s, b, _) => {
                b.check(m, n);
                (o.len(), *s)
            }
        };
        assert!(len >= need, "output too short");
        scale.check(m, n);
        match self {
            IntOut::I32(o) => Sink::I32(Shared::new(o)),
            IntOut::U8(o, s, z) => Sink::U8(Shared::new(o), *s, *z),
            IntOut::I8(o, s, z) => Sink::I8(Shared::new(o), *s, *z),
            IntOut::F32(o, s, b, a) => Sink::F32(Shared::new(o), *s, *b, *a),
        }
    }
}

impl Sink<'_> {
    /// The `len` numbers from `at`, whose first row is row `row` for the scales.
    pub(crate) fn part(&self, at: usize, len: usize, row: usize) -> Self {
        match self {
            Sink::I32(o) => Sink::I32(o.part(at, len)),
            Sink::U8(o, s, z) => Sink::U8(o.part(at, len), s.rows_from(row), *z),
            Sink::I8(o, s, z) => Sink::I8(o.part(at, len), s.rows_from(row), *z),
            Sink::F32(o, s, b, a) => {
                Sink::F32(o.part(at, len), s.rows_from(row), b.rows_from(row), *a)
            }
        }
    }
}

/// Zero points and an integer bias.
#[derive(Clone, Copy, Debug)]
pub struct IntTerms<'a> {
    /// Zero point of A: for all or for each row.
    pub a_zero: Per<'a, i32>,
    /// Zero point of B: for all or for each column.
    pub b_zero: Per<'a, i32>,
    /// Added to the sums.
    pub bias: Per<'a, i32>,
}

impl Default for IntTerms<'_> {
    fn default() -> Self {
        IntTerms { a_zero: Per::All(0), b_zero: Per::All(0), bias: Per::All(0) }
    }
}

/// Multiply-adds below which a product stays on one thread (about 5 µs).
const PAR_MIN: usize = 1 << 20;

enum Src<'a> {
    Packed(&'a [i32]),
    Panels(&'a dyn IntPanels),
}

struct Job<'a> {
    a: &'a PackedIntA,
    b: Src<'a>,
    b_moved: i32,
    n: usize,
    nr: usize,
    groups: usize,
    terms: &'a IntTerms<'a>,
    /// Whether A has a zero point in some row, so that sums of the columns of B are needed.
    shifted: bool,
    sink: Sink<'a>,
}

/// `Σ (a - za)(b - zb) + bias`, then as `out` says. Panics if shapes do not fit.
pub fn gemm_int8(
    isa: Isa,
    a: IntLhs<'_>,
    b: IntRhs<'_>,
    terms: &IntTerms<'_>,
    out: &mut IntOut<'_>,
) {
    let made;
    let a = match (a, &b) {
        (IntLhs::Packed(p), _) => p,
        (IntLhs::View(m), IntRhs::Packed(b)) if tiles_pay(isa, &m, b) => {
            made = PackedIntA::rows_of(isa, m);
            &made
        }
        (IntLhs::View(m), _) => {
            made = PackedIntA::new(isa, m);
            &made
        }
    };
    match b {
        IntRhs::View(mat) => {
            let panels = MatPanels { mat, kg: kg_of(isa) };
            let sink = out.sink(a.m, mat.cols(), a.m * mat.cols());
            product(isa, a, &panels, (mat.rows(), mat.cols()), terms, sink);
        }
        IntRhs::Packed(p) => {
            let fits = p.isa == isa && p.k == a.k && !a.signed;
            assert!(fits, "packed otherwise, or inner sizes differ");
            let sink = out.sink(a.m, p.n, a.m * p.n);
            run(isa, a, Src::Packed(p.lanes()), (p.moved, p.n), terms, sink);
        }
    }
}

/// Whether a product is done by matrix registers: a block of few rows would be mostly empty.
fn tiles_pay(isa: Isa, a: &IntMat<'_>, b: &PackedIntB) -> bool {
    let rows = a.rows() >= SIDE / 4 && a.cols() > 0;
    rows && isa.min(detected()) == Isa::Avx512 && b.isa == isa && amx::available()
}

/// The product with a right operand that packs itself.
pub(crate) fn product(
    isa: Isa,
    a: &PackedIntA,
    b: &dyn IntPanels,
    (k, n): (usize, usize),
    terms: &IntTerms<'_>,
    sink: Sink<'_>,
) {
    assert!(a.k == k && a.signed != b.signed(), "inner sizes differ, or both of one sign");
    let nr = block_of(isa).1;
    let panels = n.div_ceil(nr);
    if a.m * n * k < PAR_MIN || threads() == 1 || panels >= 4 * threads() {
        run(isa, a, Src::Panels(b), (b.moved(), n), terms, sink);
    } else {
        let mut all = lend(k.div_ceil(kg_of(isa)) * panels * nr);
        let all: &mut [i32] = bytemuck::cast_slice_mut(&mut all);
        pack_all(isa, b, (k, n), all);
        run(isa, a, Src::Packed(all), (b.moved(), n), terms, sink);
    }
}

fn run(
    isa: Isa,
    a: &PackedIntA,
    b: Src<'_>,
    (b_moved, n): (i32, usize),
    terms: &IntTerms<'_>,
    sink: Sink<'_>,
) {
    assert_eq!(a.isa, isa, "packed for another instruction set");
    terms.a_zero.check(a.m, n);
    terms.b_zero.check(a.m, n);
    terms.bias.check(a.m, n);
    if a.m == 0 || n == 0 {
        return;
    }
    let nr = block_of(isa).1;
    let shared = matches!(b, Src::Packed(_));
    let groups = a.k.div_ceil(kg_of(isa));
    let shifted = (0..a.m).any(|i| terms.a_zero.at(i, 0).wrapping_add(a.moved) != 0);
    let job = Job { a, b, b_moved, n, nr, groups, terms, shifted, sink };
    if a.mr == 0 {
        return by_tiles(&job);
    }
    let (row_panels, col_panels) = (a.m.div_ceil(a.mr), n.div_ceil(nr));
    let parallel = a.m * n * a.k >= PAR_MIN && threads() > 1;
    // Tasks are single column panels; with few of them, rows are cut too.
    let mut cut = 1;
    while parallel && shared && cut * 2 <= row_panels && cut * col_panels < 4 * threads() {
        cut *= 2;
    }
    let rows = row_panels.div_ceil(cut);
    for_each(cut * col_panels, parallel, |t| {
        let (r0, j) = (t % cut * rows, t / cut);
        isa.dispatch(Column { job: &job, j, r0, r1: (r0 + rows).min(row_panels) });
    });
}

/// The product of a left operand of rows.
fn by_tiles(job: &Job<'_>) {
    tiles::for_parts((job.a.m, job.n, job.a.k), |rows, panels| {
        Isa::Avx512.dispatch(TileTask { job, rows, panels });
    });
}

/// Rows and panels that one task multiplies by matrix registers.
struct TileTask<'a> {
    job: &'a Job<'a>,
    rows: Range<usize>,
    panels: Range<usize>,
}

impl Kernel for TileTask<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let job = self.job;
        let Src::Packed(b) = &job.b else { unreachable!("packed before") };
        let (row, steps) = (job.a.k.next_multiple_of(ROW), job.a.k.div_ceil(ROW));
        let (left, size) = (job.a.data.as_bytes(), job.groups * job.nr);
        assert!(2 * S::LANES == tiles::BLOCK && S::KG == 4, "tiles come with vectors of 16 lanes");
        let mut tiles = Tiles::take().expect("rows are packed where there are tiles");
        let mut sums = lend(tiles::BLOCK * tiles::BLOCK);
        for panel in self.panels.clone() {
            let (at, columns) = (panel * size, (job.n - panel * job.nr).div_ceil(SIDE).min(2));
            let fix = Fix::new(s, job, panel * job.nr, &b[at..at + size]);
            for first in self.rows.clone().step_by(tiles::BLOCK) {
                let height = tiles::BLOCK.min(self.rows.end - first);
                let blocks = height.div_ceil(SIDE);
                let product = Product {
                    steps,
                    left: left[first * row..][..blocks * SIDE * row].as_ptr(),
                    stride: row,
                    right: b[at..][..steps * tiles::STEP].as_ptr().cast(),
                    ahead: std::ptr::null(),
                    sums: sums.as_mut_ptr(),
                };
                // SAFETY: left and right were sliced to what the steps read, and there is room for
                // the sums of four blocks.
                unsafe { tiles.multiply(Element::U8I8, [blocks, columns], &product) };
                let all: &[i32] = bytemuck::cast_slice(&sums);
                for (i, sums) in all.chunks_exact(tiles::BLOCK).take(height).enumerate() {
                    let (low, high) = sums.split_at(S::LANES);
                    // SAFETY: both halves have as many numbers as lanes.
                    let row = unsafe { [s.iload(low.as_ptr()), s.iload(high.as_ptr())] };
                    fix.row(s, first + i, &row);
                }
            }
        }
    }
}

struct Column<'a> {
    job: &'a Job<'a>,
    j: usize,
    r0: usize,
    r1: usize,
}

impl Kernel for Column<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let job = self.job;
        assert!(job.nr == 2 * S::LANES && job.a.mr <= S::MR, "packed for another set");
        let size = job.groups * job.nr;
        let mut made;
        let panel: &[i32] = match &job.b {
            Src::Packed(b) => &b[self.j * size..(self.j + 1) * size],
            Src::Panels(p) => {
                made = lend(size + job.nr);
                let made: &mut [i32] = bytemuck::cast_slice_mut(&mut made);
                p.pack(self.j * job.nr, job.nr, made);
                &made[..size]
            }
        };
        let fix = Fix::new(s, job, self.j * job.nr, panel);
        for r in self.r0..self.r1 {
            let i0 = r * job.a.mr;
            let mr = job.a.mr.min(job.a.m - i0);
            let a = &job.a.lanes()[i0 * job.groups..(i0 + mr) * job.groups];
            block::<S>(mr, Block { a, b: panel, i0, fix: &fix });
        }
    }
}

/// What the zero points and the bias add to the columns of a panel.
struct Fix<'a> {
    job: &'a Job<'a>,
    j0: usize,
    /// `Σb - k zb`, if A has zero points.
    q: [i32; 32],
    zb: [i32; 32],
    /// The part of the bias that belongs to columns.
    bias: [i32; 32],
    /// All columns have the same `zb` and no bias, and A has no zero points.
    uniform: bool,
}

impl<'a> Fix<'a> {
    #[inline(always)]
    fn new<S: Simd>(s: S, job: &'a Job<'a>, j0: usize, panel: &[i32]) -> Self {
        let mut fix = Fix { job, j0, q: [0; 32], zb: [0; 32], bias: [0; 32], uniform: false };
        let (zero, bias) = (job.terms.b_zero, job.terms.bias);
        fix.uniform = !job.shifted && !matches!(zero, Per::Col(_)) && !matches!(bias, Per::Col(_));
        if job.shifted {
            fix.q = if job.a.signed {
                column_sums::<S, true>(s, panel)
            } else {
                column_sums::<S, false>(s, panel)
            };
        }
        for c in 0..job.nr.min(job.n - j0) {
            fix.zb[c] = zero.at(0, j0 + c).wrapping_add(job.b_moved);
            fix.q[c] = fix.q[c].wrapping_sub((job.a.k as i32).wrapping_mul(fix.zb[c]));
            if let Per::Col(bias) = bias {
                fix.bias[c] = bias[j0 + c];
            }
        }
        fix
    }

    /// Takes a row of products of the panel to the sink, as `Σ (a - za)(b - zb) + bias`, which is
    /// `Σab - zb Σa - za (Σb - k zb) + bias`.
    #[inline(always)]
    fn row<S: Simd>(&self, s: S, i: usize, products: &[S::I; 2]) {
        let job = self.job;
        let sum_a = job.a.sums[i];
        let bias = match job.terms.bias {
            Per::Col(_) => 0,
            ref other => other.at(i, 0),
        };
        let all = s.isplat(bias.wrapping_sub(self.zb[0].wrapping_mul(sum_a)));
        for (j, v) in products.iter().enumerate() {
            let at = j * S::LANES;
            let w = S::LANES.min((job.n - self.j0).saturating_sub(at));
            if w == 0 {
                break;
            }
            let sums = if self.uniform {
                s.iadd(*v, all)
            } else {
                let za = s.isplat(job.terms.a_zero.at(i, 0).wrapping_add(job.a.moved));
                // SAFETY: `at` plus one vector is inside the 32 columns.
                let (q, zb, up) = unsafe {
                    let of = |x: &[i32; 32]| s.iload(x.as_ptr().add(at));
                    (of(&self.q), of(&self.zb), of(&self.bias))
                };
                let down = s.iadd(s.imul(za, q), s.imul(s.isplat(sum_a), zb));
                s.iadd(s.isub(*v, down), s.iadd(up, s.isplat(bias)))
            };
            // SAFETY: this row's columns of this panel belong to this task alone.
            unsafe { put(s, &job.sink, (i, self.j0 + at), job.n, w, sums) };
        }
    }
}

/// Sums of the columns of a panel: a dot product with ones.
#[inline(always)]
fn column_sums<S: Simd, const A_SIGNED: bool>(s: S, panel: &[i32]) -> [i32; 32] {
    let ones = s.isplat(if S::KG == 4 { 0x0101_0101 } else { 0x0001_0001 });
    let mut acc = [s.isplat(0); 2];
    for row in panel.chunks_exact(2 * S::LANES) {
        for (j, a) in acc.iter_mut().enumerate() {
            // SAFETY: a row has two vectors.
            let v = unsafe { s.iload(row.as_ptr().add(j * S::LANES)) };
            *a = dot::<S, A_SIGNED>(s, ones, v, *a);
        }
    }
    let mut out = [0; 32];
    for (j, a) in acc.iter().enumerate() {
        // SAFETY: two vectors have at most 32 lanes.
        unsafe { s.istore(out.as_mut_ptr().add(j * S::LANES), *a) };
    }
    out
}

/// The product of lanes of A and B, whichever of them is signed.
#[inline(always)]
fn dot<S: Simd, const A_SIGNED: bool>(s: S, a: S::I, b: S::I, c: S::I) -> S::I {
    if A_SIGNED { s.dot(b, a, c) } else { s.dot(a, b, c) }
}

/// A row panel of A times a column panel of B.
#[derive(Clone, Copy)]
struct Block<'a> {
    a: &'a [i32],
    b: &'a [i32],
    /// First row.
    i0: usize,
    fix: &'a Fix<'a>,
}

#[inline(always)]
fn block<S: Simd>(mr: usize, block: Block<'_>) {
    macro_rules! heights {
        ($($m:literal)+) => {
            match mr {
                $($m => call::<S, $m>(block),)+
                _ => unreachable!("row panel higher than the register block"),
            }
        };
    }
    heights!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// A register kernel as a function of its own, as for f32.
struct Call<'a, const MR: usize, const A_SIGNED: bool>(Block<'a>);

impl<const MR: usize, const A_SIGNED: bool> Kernel for Call<'_, MR, A_SIGNED> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if MR > S::MR {
            return; // Never asked for; keeps the compiler from building it.
        }
        let Block { a, b, i0, fix } = self.0;
        let mut acc = [[s.isplat(0); 2]; MR];
        for (a, b) in a.chunks_exact(MR).zip(b.chunks_exact(2 * S::LANES)) {
            // SAFETY: a row of the panel has two vectors.
            let (b0, b1) = unsafe { (s.iload(b.as_ptr()), s.iload(b.as_ptr().add(S::LANES))) };
            for (i, row) in acc.iter_mut().enumerate() {
                let v = s.isplat(a[i]);
                row[0] = dot::<S, A_SIGNED>(s, v, b0, row[0]);
                row[1] = dot::<S, A_SIGNED>(s, v, b1, row[1]);
            }
        }
        for (i, row) in acc.iter().enumerate() {
            fix.row(s, i0 + i, row);
        }
    }
}

#[inline(always)]
fn call<S: Simd, const MR: usize>(block: Block<'_>) {
    if MR <= S::MR && block.fix.job.a.signed {
        S::ISA.dispatch(Call::<MR, true>(block));
    } else if MR <= S::MR {
        S::ISA.dispatch(Call::<MR, false>(block));
    }
}

/// The first `w` lanes of `sums` to row `i`, columns from `j` on, of an output of `n` columns.
///
/// # Safety
/// The caller alone may write these numbers.
#[inline(always)]
pub(crate) unsafe fn put<S: Simd>(
    s: S,
    sink: &Sink<'_>,
    (i, j): (usize, usize),
    n: usize,
    w: usize,
    sums: S::I,
) {
    let at = i * n + j;
    let per = |p: &Per<'_, f32>| match p {
        Per::Col(v) => s.loads_tail(&v[j..]),
        other => s.splat(other.at(i, 0)),
    };
    // SAFETY: passed on to the caller.
    unsafe {
        match sink {
            Sink::I32(o) => {
                let mut row = [0i32; 16];
                s.istore(row.as_mut_ptr(), sums);
                o.slice(at, w).copy_from_slice(&row[..w]);
            }
            Sink::U8(o, scale, zero) => {
                u8::stores(s, o.slice(at, w), requantize::<S, u8>(s, sums, per(scale), *zero));
            }
            Sink::I8(o, scale, zero) => {
                i8::stores(s, o.slice(at, w), requantize::<S, i8>(s, sums, per(scale), *zero));
            }
            Sink::F32(o, scale, bias, act) => {
                let v = s.add(s.mul(s.to_float(sums), per(scale)), per(bias));
                s.stores_tail(o.slice(at, w), act.vector(s, v));
            }
        }
    }
}

/// `clamp(round(v * scale) + zero)`, ties to even. The clamp comes before the conversion, which
/// rounds, so that large products cannot wrap; the limits are whole numbers, so that both orders
/// give the same.
#[inline(always)]
fn requantize<S: Simd, T: Byte>(s: S, sums: S::I, scale: S::F, zero: i32) -> S::I {
    let limit = |v: i32| s.splat((v - zero) as f32);
    let v = s.mul(s.to_float(sums), scale);
    let v = s.min(limit(T::RANGE.1), s.max(limit(T::RANGE.0), v));
    s.iadd(s.to_int(v), s.isplat(zero))
}

#[cfg(test)]
#[path = "int8_tests.rs"]
mod tests;
