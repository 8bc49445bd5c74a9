//! Operands of the matrix product in the order in which the register kernel reads them.
//!
//! The left matrix becomes panels of up to `MR` rows, the right one panels of two vectors of
//! columns; both are cut along k into equal blocks of at most [`KC_MAX`]. Panel heights are evened
//! out (64 rows are 13+13+13+13+12, not 14+14+14+14+8), so that no kernel runs nearly empty.

use super::bf16::{self, Operands};
use super::tiles::TileWeights;
use hetra_cpu_base::isa::{Isa, Kernel};
use hetra_cpu_base::scratch::{AlignedBuf, Shared, count};
use hetra_cpu_base::simd::Simd;
use hetra_cpu_base::threads::for_each;

/// Longest k block: a panel pair of it fits the first two cache levels.
pub(crate) const KC_MAX: usize = 384;

/// Register block of an instruction set: rows and columns.
pub(crate) fn block(isa: Isa) -> (usize, usize) {
    struct Block;
    impl Kernel for Block {
        type Output = (usize, usize);
        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> (usize, usize) {
            (S::MR, 2 * S::LANES)
        }
    }
    isa.dispatch(Block)
}

/// Length of the k blocks (the last may be shorter).
pub(crate) fn kc_of(k: usize) -> usize {
    let blocks = k.div_ceil(KC_MAX).max(1);
    k.div_ceil(blocks).next_multiple_of(4).max(1)
}

/// Height of row panels for `m` rows.
pub(crate) fn mr_of(isa: Isa, m: usize) -> usize {
    even(m, block(isa).0)
}

/// As `mr_of`, for the operands of a product.
pub(crate) fn mr_for(isa: Isa, operands: Operands, m: usize) -> usize {
    let most = block(isa).0;
    // Two halves of a step need registers: with 14 rows some of the sums lie in memory (measured:
    // 87 GFLOP/s in the place of 130).
    even(m, if operands == Operands::Wide { most.min(13) } else { most })
}

fn even(m: usize, most: usize) -> usize {
    let panels = m.div_ceil(most).max(1);
    m.div_ceil(panels).max(1)
}

/// A matrix somewhere in a slice: element (i, j) is at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Row after row without gaps.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Mat::strided(data, rows, cols, cols, 1)
    }
    /// The transpose of a `cols` by `rows` matrix that lies row after row.
    pub fn transposed(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Mat::strided(data, rows, cols, 1, rows)
    }
    /// Any strides. Panics if the last element is outside `data`.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, rs: usize, cs: usize) -> Self {
        if rows > 0 && cols > 0 {
            let (down, across) = ((rows - 1).checked_mul(rs), (cols - 1).checked_mul(cs));
            let last = down.zip(across).and_then(|(down, across)| down.checked_add(across));
            assert!(last.is_some_and(|last| last < data.len()), "matrix outside its slice");
        }
        Mat { data, rows, cols, row_stride: rs, col_stride: cs }
    }
    #[inline(always)]
    pub(crate) fn at(&self, i: usize, j: usize) -> usize {
        i * self.row_stride + j * self.col_stride
    }
}

/// A left operand in kernel order. Pack constant weights once.
#[derive(Debug)]
pub struct PackedA {
    pub(crate) data: AlignedBuf,
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) mr: usize,
    isa: Isa,
}

impl PackedA {
    /// Packs `a` for the kernels of `isa`.
    pub fn new(isa: Isa, a: Mat<'_>) -> Self {
        let mut p = PackedA {
            data: AlignedBuf::zeroed(count(&[a.rows, a.cols])),
            m: a.rows,
            k: a.cols,
            mr: mr_of(isa, a.rows),
            isa,
        };
        pack_a(isa, a, p.data.as_mut_slice());
        p
    }
    /// Rows.
    pub fn rows(&self) -> usize {
        self.m
    }
    /// Columns.
    pub fn cols(&self) -> usize {
        self.k
    }
    /// The instruction set it was packed for; the product must use the same.
    pub fn isa(&self) -> Isa {
        self.isa
    }
    pub(crate) fn view(&self) -> AView<'_> {
        AView { data: self.data.as_slice(), m: self.m, k: self.k, mr: self.mr }
    }
}

/// Borrowed packed left operand.
#[derive(Clone, Copy)]
pub(crate) struct AView<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) mr: usize,
}

/// Packs into `dst` (`rows * cols` floats): k block after k block, in each panel after panel.
pub(crate) fn pack_a(isa: Isa, a: Mat<'_>, dst: &mut [f32]) {
    pack_a_by(a, (mr_of(isa, a.rows), kc_of(a.cols)), dst);
}

/// As `pack_a`, by panels of `mr` rows and blocks of `kc` columns.
pub(crate) fn pack_a_by(a: Mat<'_>, (mr, kc): (usize, usize), dst: &mut [f32]) {
    let (m, k) = (a.rows, a.cols);
    assert!(dst.len() >= count(&[m, k]), "packed matrix too short");
    let out = Shared::new(dst);
    let panels = m.div_ceil(mr);
    for_each(panels, m * k > 64 << 10, |p| {
        let rows = mr.min(m - p * mr);
        for k0 in (0..k).step_by(kc) {
            let len = kc.min(k - k0);
            // SAFETY: block k0 has the m*len floats from k0*m, and in it panel p the rows*len from
            // p*mr*len. A task has one p, so no two use the same floats; none of these products
            // wraps, since m*k does not.
            let d = unsafe { out.slice(k0 * m + p * mr * len, rows * len) };
            pack_rows(a, p * mr, rows, k0, d);
        }
    });
}

fn pack_rows(a: Mat<'_>, i0: usize, rows: usize, k0: usize, d: &mut [f32]) {
    let len = d.len() / rows;
    if a.row_stride == 1 {
        for (kk, out) in d.chunks_exact_mut(rows).enumerate() {
            let at = a.at(i0, k0 + kk);
            out.copy_from_slice(&a.data[at..at + rows]);
        }
        return;
    }
    for i in 0..rows {
        let base = a.at(i0 + i, k0);
        if a.col_stride == 1 {
            for (out, v) in d[i..].iter_mut().step_by(rows).zip(&a.data[base..base + len]) {
                *out = *v;
            }
        } else {
            for kk in 0..len {
                d[kk * rows + i] = a.data[base + kk * a.col_stride];
            }
        }
    }
}

/// A right operand in kernel order. Pack constant weights once.
#[derive(Debug)]
pub struct PackedB {
    pub(crate) data: AlignedBuf,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) operands: Operands,
    /// What is in the place of `data` for matrix registers.
    pub(crate) tiles: Option<TileWeights>,
    isa: Isa,
}

impl PackedB {
    /// Columns that `n` are filled up to: whole panels.
    pub fn columns(isa: Isa, n: usize) -> usize {
        n.next_multiple_of(block(isa).1)
    }
    /// Packs `b` for the kernels of `isa`.
    pub fn new(isa: Isa, b: Mat<'_>) -> Self {
        let (k, n) = (b.rows, b.cols);
        let mut data = AlignedBuf::zeroed(count(&[k, Self::columns(isa, n)]));
        pack_b_all(isa, &b, k, n, data.as_mut_slice());
        PackedB { data, k, n, operands: Operands::F32, tiles: None, isa }
    }
    /// Packs `b` rounded to bf16: the other operand of its products is rounded, too.
    pub fn bf16(isa: Isa, b: Mat<'_>) -> Self {
        Self::rounded(isa, bf16::operands(isa), b)
    }
    /// As `bf16`, in one of the forms of such operands.
    pub(crate) fn rounded(isa: Isa, operands: Operands, b: Mat<'_>) -> Self {
        let (k, n) = (b.rows, b.cols);
        if operands == Operands::Tiles && k > 0 {
            let tiles = TileWeights::new(k, n, |i, j| b.data[b.at(i, j)]);
            return PackedB {
                data: AlignedBuf::default(),
                k,
                n,
                operands,
                tiles: Some(tiles),
                isa,
            };
        }
        let operands = if operands == Operands::Tiles { Operands::Wide } else { operands };
        let steps = operands.steps(k);
        let mut data = AlignedBuf::zeroed(count(&[steps, Self::columns(isa, n)]));
        pack_b_all(isa, &PairRows(b), steps, n, data.as_mut_slice());
        PackedB { data, k, n, operands, tiles: None, isa }
    }
    /// Rows.
    pub fn rows(&self) -> usize {
        self.k
    }
    /// Columns.
    pub fn cols(&self) -> usize {
        self.n
    }
    /// The instruction set it was packed for; the product must use the same.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

/// A right operand that writes its own panels, such as the patches of a convolution.
pub trait Panels: Sync {
    /// Writes rows `k0..k0+kc` of columns `j0..j0+nr` to `dst`, row after row of `nr` floats.
    /// `dst` has `nr` floats more than that, which may be overwritten. Columns past the last one
    /// may hold anything finite.
    fn pack(&self, k0: usize, kc: usize, j0: usize, nr: usize, dst: &mut [f32]);
}

impl Panels for Mat<'_> {
    fn pack(&self, k0: usize, kc: usize, j0: usize, nr: usize, dst: &mut [f32]) {
        let w = nr.min(self.cols - j0);
        if self.col_stride == 1 {
            for (kk, d) in dst.chunks_exact_mut(nr).take(kc).enumerate() {
                let at = self.at(k0 + kk, j0);
                if w == nr {
                    let row = &self.data[at..at + nr];
                    match nr {
                        32 => copy::<32>(row, d),
                        16 => copy::<16>(row, d),
                        _ => d.copy_from_slice(row),
                    }
                } else {
                    d[..w].copy_from_slice(&self.data[at..at + w]);
                    d[w..].fill(0.0);
                }
            }
            return;
        }
        if w < nr {
            dst[..kc * nr].fill(0.0);
        }
        for j in 0..w {
            let base = self.at(k0, j0 + j);
            if self.row_stride == 1 {
                for (d, v) in dst[j..].iter_mut().step_by(nr).zip(&self.data[base..base + kc]) {
                    *d = *v;
                }
            } else {
                for kk in 0..kc {
                    dst[kk * nr + j] = self.data[base + kk * self.row_stride];
                }
            }
        }
    }
}

/// Two rows of a matrix at a time, rounded to bf16; a missing last one is zero.
struct PairRows<'a>(Mat<'a>);

impl Panels for PairRows<'_> {
    fn pack(&self, k0: usize, kc: usize, j0: usize, nr: usize, dst: &mut [f32]) {
        let (b, width) = (&self.0, nr.min(self.0.cols - j0));
        let at = |i: usize, j: usize| if i < b.rows { b.data[b.at(i, j0 + j)] } else { 0.0 };
        for (kk, row) in dst.chunks_exact_mut(nr).take(kc).enumerate() {
            let i = 2 * (k0 + kk);
            for (j, word) in row[..width].iter_mut().enumerate() {
                *word = bf16::pair(at(i, j), at(i + 1, j));
            }
            row[width..].fill(0.0);
        }
    }
}

/// Copies `N` floats by moves of a known size, where a call would take longer than they do.
#[inline(always)]
fn copy<const N: usize>(from: &[f32], to: &mut [f32]) {
    if let (Some(from), Some(to)) = (from.first_chunk::<N>(), to.first_chunk_mut::<N>()) {
        *to = *from;
    }
}

/// Packs all panels of `b` (`k` by `n`) into `dst`: k block after k block, in each panel after
/// panel. A panel's overrun is kept out of its neighbour by a private copy of the last row.
pub(crate) fn pack_b_all(isa: Isa, b: &dyn Panels, k: usize, n: usize, dst: &mut [f32]) {
    let (nr, kc) = (block(isa).1, kc_of(k));
    let n_pad = n.next_multiple_of(nr);
    assert!(dst.len() >= count(&[k, n_pad]), "packed matrix too short");
    let out = Shared::new(dst);
    for_each(n.div_ceil(nr), k * n > 64 << 10, |p| {
        let mut tmp = hetra_cpu_base::scratch::lend((kc + 1) * nr);
        for k0 in (0..k).step_by(kc) {
            let len = kc.min(k - k0);
            b.pack(k0, len, p * nr, nr, &mut tmp);
            // SAFETY: block k0 has the n_pad*len floats from k0*n_pad, and in it panel p the nr*len
            // from p*nr*len. A task has one p, so no two use the same floats; none of these
            // products wraps, since k*n_pad does not.
            let d = unsafe { out.slice(k0 * n_pad + p * nr * len, nr * len) };
            d.copy_from_slice(&tmp[..nr * len]);
        }
    });
}
