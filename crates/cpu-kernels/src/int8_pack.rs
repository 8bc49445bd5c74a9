//! Operands of the integer product in kernel order.
//!
//! One operand is made unsigned and the other signed by flipping the top bit where needed (which
//! adds or takes 128; the zero point moves with it). So one kernel serves all four combinations.
//! Products take an unsigned left matrix, convolutions a signed one (their weights, which mostly
//! are signed and have no zero point: then nothing is flipped and no correction is left). Then `KG`
//! neighbours along k are put into one 32-bit lane: four bytes for `vpdpbusd`, two 16-bit numbers
//! for `pmaddwd`, which cannot saturate.

use super::gemm_pack::{block, mr_of};
use super::tiles::STEP;
use hetra_cpu_base::amx::{ROW, SIDE};
use hetra_cpu_base::isa::Isa;
use hetra_cpu_base::scratch::{AlignedBuf, Shared, count, lend};
use hetra_cpu_base::threads::{for_each, for_ranges};

/// A matrix of 8-bit numbers somewhere in a slice.
#[derive(Clone, Copy, Debug)]
pub struct IntMat<'a> {
    data: &'a [u8],
    signed: bool,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> IntMat<'a> {
    /// Element (i, j) of the matrix is at `i * strides.0 + j * strides.1`. Panics if the last
    /// element is outside `data`.
    pub fn u8(data: &'a [u8], rows: usize, cols: usize, strides: (usize, usize)) -> Self {
        let (row_stride, col_stride) = strides;
        if rows > 0 && cols > 0 {
            let down = (rows - 1).checked_mul(row_stride);
            let right = (cols - 1).checked_mul(col_stride);
            let last = down.and_then(|down| down.checked_add(right?));
            assert!(last.is_some_and(|last| last < data.len()), "matrix outside its slice");
        }
        IntMat { data, signed: false, rows, cols, row_stride, col_stride }
    }
    /// The same for signed numbers.
    pub fn i8(data: &'a [i8], rows: usize, cols: usize, strides: (usize, usize)) -> Self {
        let mut m = IntMat::u8(bytemuck::cast_slice(data), rows, cols, strides);
        m.signed = true;
        m
    }
    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }
}

/// Numbers of the k axis in one lane.
pub(crate) fn kg_of(isa: Isa) -> usize {
    if isa.min(hetra_cpu_base::isa::detected()) == Isa::Avx512 { 4 } else { 2 }
}

/// Puts up to `KG` bytes into a lane. `signed` tells how to widen them.
#[inline(always)]
pub(crate) fn lane(kg: usize, bytes: [u8; 4], signed: bool) -> i32 {
    if kg == 4 {
        return i32::from_le_bytes(bytes);
    }
    (wide(bytes[0], signed) & 0xffff) | (wide(bytes[1], signed) << 16)
}

#[inline(always)]
fn wide(b: u8, signed: bool) -> i32 {
    if signed { i32::from(b as i8) } else { i32::from(b) }
}

/// Puts a contiguous row into lanes that lie `step` apart.
#[inline(always)]
fn pack_row(kg: usize, row: &[u8], flip: u8, signed: bool, d: &mut [i32], step: usize) {
    let whole = row.chunks_exact(kg);
    let rest = whole.remainder();
    let put = |d: &mut i32, b: &[u8]| {
        let mut bytes = [0; 4];
        bytes.iter_mut().zip(b).for_each(|(d, b)| *d = b ^ flip);
        *d = lane(kg, bytes, signed);
    };
    let used = row.len() / kg * step;
    if kg == 4 {
        let mask = u32::from_le_bytes([flip; 4]);
        for (d, b) in d.iter_mut().step_by(step).zip(whole) {
            *d = (u32::from_le_bytes([b[0], b[1], b[2], b[3]]) ^ mask) as i32;
        }
    } else {
        d.iter_mut().step_by(step).zip(whole).for_each(|(d, b)| put(d, b));
    }
    if !rest.is_empty() {
        put(&mut d[used], rest);
    }
}

/// A left operand in kernel order, with its row sums.
#[derive(Debug)]
pub struct PackedIntA {
    pub(crate) data: AlignedBuf,
    pub(crate) m: usize,
    pub(crate) k: usize,
    /// Rows of a panel; 0 where rows lie as they are, for matrix registers.
    pub(crate) mr: usize,
    pub(crate) sums: Vec<i32>,
    /// What the flipping added to each number, and so to the zero point.
    pub(crate) moved: i32,
    /// Whether the lanes are signed numbers; those of the right operand are then unsigned.
    pub(crate) signed: bool,
    pub(crate) isa: Isa,
}

impl PackedIntA {
    /// Packs `a` for the kernels of `isa`, as unsigned numbers.
    pub fn new(isa: Isa, a: IntMat<'_>) -> Self {
        PackedIntA::of(isa, a, false)
    }

    /// Rows of unsigned numbers, one behind the other, for matrix registers: each with zeros behind
    /// it up to whole steps, and as many rows as fill blocks.
    pub(crate) fn rows_of(isa: Isa, a: IntMat<'_>) -> Self {
        let (m, k, row) = (a.rows, a.cols, a.cols.next_multiple_of(ROW));
        let flip = if a.signed { 0x80 } else { 0 };
        let mut data = AlignedBuf::zeroed(count(&[m.next_multiple_of(SIDE), row / 4]));
        let mut sums = vec![0; m];
        let out = Shared::new(data.as_bytes_mut());
        let sum_out = Shared::new(&mut sums);
        for_ranges(m, (64 << 10) / k.max(1), |start, len| {
            // SAFETY: tasks have different rows.
            let (bytes, sums) =
                unsafe { (out.slice(start * row, len * row), sum_out.slice(start, len)) };
            for (i, (bytes, sum)) in bytes.chunks_exact_mut(row.max(1)).zip(sums).enumerate() {
                let base = (start + i) * a.row_stride;
                if a.col_stride == 1 {
                    let from = &a.data[base..base + k];
                    bytes.iter_mut().zip(from).for_each(|(to, from)| *to = from ^ flip);
                } else {
                    let from = |j: usize| a.data[base + j * a.col_stride];
                    bytes[..k].iter_mut().enumerate().for_each(|(j, to)| *to = from(j) ^ flip);
                }
                *sum = bytes[..k].iter().map(|byte| i32::from(*byte)).sum();
            }
        });
        PackedIntA { data, m, k, mr: 0, sums, moved: i32::from(flip), signed: false, isa }
    }

    /// The same as signed numbers.
    pub fn signed(isa: Isa, a: IntMat<'_>) -> Self {
        PackedIntA::of(isa, a, true)
    }

    fn of(isa: Isa, a: IntMat<'_>, signed: bool) -> Self {
        let (m, k, kg) = (a.rows, a.cols, kg_of(isa));
        let (mr, groups) = (mr_of(isa, m), k.div_ceil(kg));
        let flip = if a.signed == signed { 0 } else { 0x80 };
        let mut data = AlignedBuf::zeroed(m * groups);
        let mut sums = vec![0; m];
        let out = Shared::new(bytemuck::cast_slice_mut::<f32, i32>(data.as_mut_slice()));
        let sum_out = Shared::new(&mut sums);
        for_each(m.div_ceil(mr), m * k > 128 << 10, |p| {
            let rows = mr.min(m - p * mr);
            // SAFETY: panels and their rows are disjoint.
            let (d, sums) =
                unsafe { (out.slice(p * mr * groups, rows * groups), sum_out.slice(p * mr, rows)) };
            for (i, sum) in sums.iter_mut().enumerate() {
                let base = (p * mr + i) * a.row_stride;
                if a.col_stride == 1 && k > 0 {
                    let row = &a.data[base..base + k];
                    *sum = row.iter().map(|b| wide(b ^ flip, signed)).sum();
                    pack_row(kg, row, flip, signed, &mut d[i..], rows);
                    continue;
                }
                for g in 0..groups {
                    let mut bytes = [0; 4];
                    for (q, b) in bytes.iter_mut().enumerate().take(kg.min(k - g * kg)) {
                        *b = a.data[base + (g * kg + q) * a.col_stride] ^ flip;
                        *sum += wide(*b, signed);
                    }
                    d[g * rows + i] = lane(kg, bytes, signed);
                }
            }
        });
        let moved = if signed { -i32::from(flip) } else { i32::from(flip) };
        PackedIntA { data, m, k, mr, sums, moved, signed, isa }
    }
    /// Rows.
    pub fn rows(&self) -> usize {
        self.m
    }
    /// Columns.
    pub fn cols(&self) -> usize {
        self.k
    }
    pub(crate) fn lanes(&self) -> &[i32] {
        bytemuck::cast_slice(self.data.as_slice())
    }
}

/// A right operand that writes its own panels of lanes: `groups` rows of `nr` lanes, with `nr`
/// lanes of room after them.
pub(crate) trait IntPanels: Sync {
    fn pack(&self, j0: usize, nr: usize, dst: &mut [i32]);
    /// What the flipping added to each number.
    fn moved(&self) -> i32;
    /// Whether the lanes are signed numbers.
    fn signed(&self) -> bool;
}

pub(crate) struct MatPanels<'a> {
    pub(crate) mat: IntMat<'a>,
    pub(crate) kg: usize,
}

impl IntPanels for MatPanels<'_> {
    fn signed(&self) -> bool {
        true
    }
    fn moved(&self) -> i32 {
        if self.mat.signed { 0 } else { -128 }
    }
    fn pack(&self, j0: usize, nr: usize, dst: &mut [i32]) {
        let (m, kg) = (&self.mat, self.kg);
        let w = nr.min(m.cols - j0);
        let flip = if m.signed { 0 } else { 0x80 };
        for (g, row) in dst.chunks_exact_mut(nr).take(m.rows.div_ceil(kg)).enumerate() {
            let have = kg.min(m.rows - g * kg);
            for (j, d) in row[..w].iter_mut().enumerate() {
                let base = g * kg * m.row_stride + (j0 + j) * m.col_stride;
                let mut bytes = [0; 4];
                for (q, b) in bytes.iter_mut().enumerate().take(have) {
                    *b = m.data[base + q * m.row_stride] ^ flip;
                }
                *d = lane(kg, bytes, true);
            }
            row[w..].fill(0);
        }
    }
}

/// A right operand in kernel order.
#[derive(Debug)]
pub struct PackedIntB {
    pub(crate) data: AlignedBuf,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) moved: i32,
    pub(crate) isa: Isa,
}

impl PackedIntB {
    /// Packs `b` for the kernels of `isa`.
    pub fn new(isa: Isa, b: IntMat<'_>) -> Self {
        let panels = MatPanels { mat: b, kg: kg_of(isa) };
        let nr = block(isa).1;
        let groups = b.rows.div_ceil(panels.kg);
        // Steps of matrix registers go on behind the last row, where the left operand is zero.
        let lanes = groups * b.cols.next_multiple_of(nr) + STEP;
        let mut data = AlignedBuf::zeroed(lanes);
        pack_all(isa, &panels, (b.rows, b.cols), bytemuck::cast_slice_mut(data.as_mut_slice()));
        PackedIntB { data, k: b.rows, n: b.cols, moved: panels.moved(), isa }
    }
    /// Rows.
    pub fn rows(&self) -> usize {
        self.k
    }
    /// Columns.
    pub fn cols(&self) -> usize {
        self.n
    }
    pub(crate) fn lanes(&self) -> &[i32] {
        bytemuck::cast_slice(self.data.as_slice())
    }
}

/// Packs all panels of a `k` by `n` matrix one after another.
pub(crate) fn pack_all(isa: Isa, b: &dyn IntPanels, (k, n): (usize, usize), dst: &mut [i32]) {
    let (nr, groups) = (block(isa).1, k.div_ceil(kg_of(isa)));
    let out = Shared::new(dst);
    for_each(n.div_ceil(nr), k * n > 128 << 10, |p| {
        // The spare room after a panel is its neighbour's, so a private copy takes the overrun.
        let mut tmp = lend((groups + 1) * nr);
        let tmp: &mut [i32] = bytemuck::cast_slice_mut(&mut tmp);
        b.pack(p * nr, nr, tmp);
        // SAFETY: the panels are disjoint.
        let d = unsafe { out.slice(p * nr * groups, nr * groups) };
        d.copy_from_slice(&tmp[..nr * groups]);
    });
}
