//! Product of 8-bit matrices with exact 32-bit sums, and what is done with the sums.
//!
//! `Σ (a - za)(b - zb)` is computed as `Σ ab - za (Σb - k zb) - zb Σa`: the inner loop knows no
//! zero points. Column sums come from a dot product with ones over the packed panel, row sums from
//! packing. A register tile of sums is turned into i32, requantised 8-bit or scaled f32 output at
//! once. Against the naive loop: 64 multiply-adds per instruction with VNNI (16 with AVX2).

pub use super::int8_pack::{IntMat, PackedIntA, PackedIntB};

use super::activation::{self, Activation};
use super::gemm_pack::block;
use super::int8_pack::{IntPanels, MatPanels, kg_of, pack_all};
use super::isa::{Isa, Kernel};
use super::scratch::{Shared, for_each, lend, threads};
use super::simd::Simd;

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
    I32(Shared<i32>),
    U8(Shared<u8>, Per<'a, f32>, i32),
    I8(Shared<i8>, Per<'a, f32>, i32),
    F32(Shared<f32>, Per<'a, f32>, Per<'a, f32>, Activation),
}

impl IntOut<'_> {
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

/// Multiply-adds below which a product stays on one thread (about 50 µs).
const PAR_MIN: usize = 8 << 20;

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
    let a = match a {
        IntLhs::Packed(p) => p,
        IntLhs::View(m) => {
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
            assert!(p.isa == isa && p.k == a.k, "packed otherwise, or inner sizes differ");
            let sink = out.sink(a.m, p.n, a.m * p.n);
            run(isa, a, Src::Packed(p.lanes()), (p.moved, p.n), terms, sink);
        }
    }
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
    assert_eq!(a.k, k, "inner sizes differ");
    let nr = block(isa).1;
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
    let nr = block(isa).1;
    let shared = matches!(b, Src::Packed(_));
    let job = Job { a, b, b_moved, n, nr, groups: a.k.div_ceil(kg_of(isa)), terms, sink };
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
        let (j0, k) = (self.j * job.nr, job.a.k as i32);
        let nv = job.nr.min(job.n - j0);
        let mut fix = Fix { q: column_sums(s, panel), zb: [0; 32], bias: [0; 32] };
        for c in 0..nv {
            fix.zb[c] = job.terms.b_zero.at(0, j0 + c) + job.b_moved;
            fix.q[c] = fix.q[c].wrapping_sub(k.wrapping_mul(fix.zb[c]));
            if let Per::Col(bias) = job.terms.bias {
                fix.bias[c] = bias[j0 + c];
            }
        }
        for r in self.r0..self.r1 {
            let i0 = r * job.a.mr;
            let mr = job.a.mr.min(job.a.m - i0);
            let a = &job.a.lanes()[i0 * job.groups..(i0 + mr) * job.groups];
            let mut tile = [0i32; 14 * 32];
            micro_any::<S>(mr, a, panel, &mut tile);
            for i in 0..mr {
                let za = job.terms.a_zero.at(i0 + i, 0) + job.a.moved;
                let bias = match job.terms.bias {
                    Per::Col(_) => 0,
                    ref other => other.at(i0 + i, 0),
                };
                let row = &mut tile[i * job.nr..(i + 1) * job.nr];
                fix.row(s, row, za, job.a.sums[i0 + i], bias);
                // SAFETY: this row's columns of this panel belong to this task alone.
                unsafe { put(s, &job.sink, i0 + i, j0, job.n, &row[..nv]) };
            }
        }
    }
}

/// What the zero points and the bias add to each column of a panel, in flipped numbers.
struct Fix {
    /// `Σb - k zb`.
    q: [i32; 32],
    zb: [i32; 32],
    bias: [i32; 32],
}

impl Fix {
    /// `row += bias - za q - zb Σa`.
    #[inline(always)]
    fn row<S: Simd>(&self, s: S, row: &mut [i32], za: i32, sum_a: i32, bias: i32) {
        assert!(row.len() == 2 * S::LANES);
        let (za, sum_a, bias) = (s.isplat(za), s.isplat(sum_a), s.isplat(bias));
        for at in [0, S::LANES] {
            // SAFETY: `at` plus one vector is inside the row and the 32 columns.
            unsafe {
                let d = row.as_mut_ptr().add(at);
                let q = s.imul(za, s.iload(self.q.as_ptr().add(at)));
                let z = s.imul(sum_a, s.iload(self.zb.as_ptr().add(at)));
                let up = s.iadd(bias, s.iload(self.bias.as_ptr().add(at)));
                s.istore(d, s.iadd(s.isub(s.iload(d), s.iadd(q, z)), up));
            }
        }
    }
}

/// Sums of the columns of a panel: a dot product with ones.
#[inline(always)]
fn column_sums<S: Simd>(s: S, panel: &[i32]) -> [i32; 32] {
    let ones = s.isplat(if S::KG == 4 { 0x0101_0101 } else { 0x0001_0001 });
    let mut acc = [s.isplat(0); 2];
    for row in panel.chunks_exact(2 * S::LANES) {
        for (j, a) in acc.iter_mut().enumerate() {
            // SAFETY: a row has two vectors.
            let v = unsafe { s.iload(row.as_ptr().add(j * S::LANES)) };
            *a = s.dot(ones, v, *a);
        }
    }
    let mut out = [0; 32];
    for (j, a) in acc.iter().enumerate() {
        // SAFETY: two vectors have at most 32 lanes.
        unsafe { s.istore(out.as_mut_ptr().add(j * S::LANES), *a) };
    }
    out
}

#[inline(always)]
fn micro_any<S: Simd>(mr: usize, a: &[i32], b: &[i32], tile: &mut [i32; 14 * 32]) {
    macro_rules! heights {
        ($($m:literal)+) => {
            match mr {
                $($m => call::<S, $m>(a, b, tile),)+
                _ => unreachable!("row panel higher than the register block"),
            }
        };
    }
    heights!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// A register kernel as a function of its own, as for f32.
struct Call<'a, const MR: usize>(&'a [i32], &'a [i32], &'a mut [i32; 14 * 32]);

impl<const MR: usize> Kernel for Call<'_, MR> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        micro::<S, MR>(s, self.0, self.1, self.2);
    }
}

#[inline(always)]
fn call<S: Simd, const MR: usize>(a: &[i32], b: &[i32], tile: &mut [i32; 14 * 32]) {
    if MR <= S::MR {
        S::ISA.dispatch(Call::<MR>(a, b, tile));
    }
}

#[inline(always)]
fn micro<S: Simd, const MR: usize>(s: S, a: &[i32], b: &[i32], tile: &mut [i32; 14 * 32]) {
    if MR > S::MR {
        return; // Never asked for; keeps the compiler from building it.
    }
    let mut acc = [[s.isplat(0); 2]; MR];
    for (a, b) in a.chunks_exact(MR).zip(b.chunks_exact(2 * S::LANES)) {
        // SAFETY: a row of the panel has two vectors.
        let (b0, b1) = unsafe { (s.iload(b.as_ptr()), s.iload(b.as_ptr().add(S::LANES))) };
        for (i, row) in acc.iter_mut().enumerate() {
            let v = s.isplat(a[i]);
            row[0] = s.dot(v, b0, row[0]);
            row[1] = s.dot(v, b1, row[1]);
        }
    }
    for (i, row) in acc.iter().enumerate() {
        for (j, v) in row.iter().enumerate() {
            // SAFETY: `MR` rows of two vectors fit in the tile.
            unsafe { s.istore(tile.as_mut_ptr().add((2 * i + j) * S::LANES), *v) };
        }
    }
}

/// # Safety
/// The caller alone may write row `i`, columns `j0..j0 + row.len()`.
#[inline(always)]
pub(crate) unsafe fn put<S: Simd>(
    s: S,
    sink: &Sink<'_>,
    i: usize,
    j0: usize,
    n: usize,
    row: &[i32],
) {
    let (at, len) = (i * n + j0, row.len());
    // SAFETY: passed on to the caller.
    unsafe {
        match sink {
            Sink::I32(o) => o.slice(at, len).copy_from_slice(row),
            Sink::U8(o, scale, zero) => {
                let d = o.slice(at, len);
                requantize_row(s, row, (i, j0), scale, *zero, (0, 255), |c, v| d[c] = v as u8);
            }
            Sink::I8(o, scale, zero) => {
                let d = o.slice(at, len);
                requantize_row(s, row, (i, j0), scale, *zero, (-128, 127), |c, v| d[c] = v as i8);
            }
            Sink::F32(o, scale, bias, act) => {
                let d = o.slice(at, len);
                for (c, (d, v)) in d.iter_mut().zip(row).enumerate() {
                    *d = *v as f32 * scale.at(i, j0 + c) + bias.at(i, j0 + c);
                }
                if *act != Activation::None {
                    activation::apply(S::ISA, *act, d);
                }
            }
        }
    }
}

/// `clamp(round(v * scale) + zero)`, ties to even. The clamp comes before the conversion, so that
/// large products cannot wrap.
#[inline(always)]
pub(crate) fn requantize_row<S: Simd>(
    s: S,
    row: &[i32],
    (i, j0): (usize, usize),
    scale: &Per<'_, f32>,
    zero: i32,
    (lo, hi): (i32, i32),
    mut put: impl FnMut(usize, i32),
) {
    let (lo, hi) = (s.splat((lo - zero) as f32), s.splat((hi - zero) as f32));
    for (q, chunk) in row.chunks(S::LANES).enumerate() {
        let m = match scale {
            Per::Col(m) => s.loads_tail(&m[j0 + q * S::LANES..]),
            other => s.splat(other.at(i, 0)),
        };
        let mut x = [0i32; 16];
        x[..chunk.len()].copy_from_slice(chunk);
        // SAFETY: a vector has at most sixteen lanes.
        let v = s.to_float(unsafe { s.iload(x.as_ptr()) });
        let v = s.round(s.mul(v, m));
        let v = s.to_int(s.min(hi, s.max(lo, v)));
        let mut out = [0i32; 16];
        // SAFETY: a vector has at most sixteen lanes.
        unsafe { s.istore(out.as_mut_ptr(), v) };
        for (c, v) in out.iter().enumerate().take(chunk.len()) {
            put(q * S::LANES + c, *v + zero);
        }
    }
}

#[cfg(test)]
#[path = "int8_tests.rs"]
mod tests;
