//! Products of matrices: each item has four rows and four columns of the output.

use hetra_device::Part;
use hetra_ir::Node;
use hetra_kernel::kernel;
use hetra_ops::{Compute, GemmForm, MatMulForm, Operand};
use hetra_tensor::{DType, Shape};
use smallvec::{SmallVec, smallvec};

use crate::activation::Activate;
use crate::context::{A, Gpu, Outcome, Run, Stop};
use crate::math::activate;
use crate::panels::Panels;
use crate::program::Work;
use crate::stored::Stored;
use crate::table::{Form, Row};

pub(crate) const ROWS: &[Row] = &[Row {
    ops: &["MatMul", "com.microsoft.FusedMatMul", "Gemm", "com.microsoft.FusedGemm"],
    kernel: "matmul",
    on_device: &[0, 1, 2],
    takes: |form: &Form<'_>| {
        let f32 = Compute::of(&form.node.attrs).is_ok_and(|compute| compute == Compute::F32);
        let ty = |index| form.ty(index).dtype().is_none_or(|dtype| dtype == DType::F32);
        f32 && Activate::of(form.node).is_some() && (0..3).all(ty)
    },
    compile,
}];

/// Rows, and columns, of an item.
const TILE: usize = 4;

#[kernel(group = [8, 8])]
fn product(
    m: u32,
    n: u32,
    k: u32,
    a_row: u32,
    a_col: u32,
    b_row: u32,
    b_col: u32,
    inner: u32,
    a_inner: u32,
    b_inner: u32,
    a_outer: u32,
    b_outer: u32,
    alpha: f32,
    beta: f32,
    c_row: u32,
    c_col: u32,
    code: u32,
    act_a: f32,
    act_b: f32,
    scale: f32,
    shift: f32,
    a: &[f32],
    b: &[f32],
    c: &[f32],
    y: &mut [f32],
) {
    let column = global_id(0) * 4;
    let row = global_id(1) * 4;
    let batch = global_id(2);
    if row >= m || column >= n {
        return;
    }
    let a_batch = (batch / inner) * a_outer + (batch % inner) * a_inner;
    let b_batch = (batch / inner) * b_outer + (batch % inner) * b_inner;
    let mut a_at = [0u32; 4];
    let mut b_at = [0u32; 4];
    for i in 0..4 {
        // What is beyond the last row or column is computed and not stored.
        a_at[i] = a_batch + (row + i).min(m - 1) * a_row;
        b_at[i] = b_batch + (column + i).min(n - 1) * b_col;
    }
    let mut sums = [[0.0; 4]; 4];
    let mut left = [0.0; 4];
    for p in 0..k {
        for i in 0..4 {
            left[i] = a[a_at[i] + p * a_col];
        }
        for j in 0..4 {
            let right = b[b_at[j] + p * b_row];
            for i in 0..4 {
                sums[i][j] += left[i] * right;
            }
        }
    }
    for i in 0..4 {
        for j in 0..4 {
            if row + i < m && column + j < n {
                let mut sum = alpha * sums[i][j];
                if beta != 0.0 {
                    sum += beta * c[(row + i) * c_row + (column + j) * c_col];
                }
                y[(batch * m + row + i) * n + column + j] =
                    activate(sum, code, act_a, act_b, scale, shift);
            }
        }
    }
}

/// One product, or many of the same extents.
pub(crate) struct Product {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Steps from a row to the next and from a column to the next.
    pub(crate) a: (usize, usize),
    pub(crate) b: (usize, usize),
    /// Products, and those of the inner axis.
    pub(crate) batch: (usize, usize),
    /// Steps of both operands along the inner and the outer axis.
    pub(crate) steps: [(usize, usize); 2],
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) c: (usize, usize),
    output: Shape,
}

impl Product {
    /// What is done to its sums, as kernels take it: factors, steps of what is added, activation.
    pub(crate) fn tail<'a>(&self, act: Activate) -> impl Iterator<Item = A<'a>> {
        let own = [A::F(self.alpha), A::F(self.beta), A::U(self.c.0), A::U(self.c.1)];
        own.into_iter().chain(act.args())
    }
}

fn compile(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let (act, node) = (Activate::of(node)?, node.clone());
    Some(Box::new(move |run| {
        let (a, b, c) = (run.input(0)?, run.input(1)?, run.optional(2)?);
        if [Some(&a), Some(&b), c.as_ref()].into_iter().flatten().any(|of| of.dtype != DType::F32) {
            return Err(Stop::Host);
        }
        let product = if node.op.ends_with("Gemm") {
            gemm(&node, &a, &b, c.as_ref())?
        } else {
            matmul(&node, &a, &b, c.as_ref())?
        };
        multiply(run, act, &product, [&a, &b, c.as_ref().unwrap_or(&a)])
    }))
}

fn gemm(node: &Node, a: &Stored, b: &Stored, c: Option<&Stored>) -> Result<Product, Stop> {
    let form = GemmForm::resolve(&node.attrs, &a.shape, &b.shape)?;
    let GemmForm { m, n, k, trans_a, trans_b, alpha, beta } = form;
    let c_steps = match c.map(|c| &c.shape[..]) {
        None | Some([] | [1] | [1, 1]) => (0, 0),
        Some([of] | [1, of]) if *of == n => (0, 1),
        Some([of, 1]) if *of == m => (1, 0),
        Some([rows, columns]) if (*rows, *columns) == (m, n) => (n, 1),
        _ => return Err(Stop::Host),
    };
    Ok(Product {
        m,
        n,
        k,
        a: if trans_a { (1, m) } else { (k, 1) },
        b: if trans_b { (1, k) } else { (n, 1) },
        batch: (1, 1),
        steps: [(0, 0); 2],
        alpha,
        beta: if c.is_some() { beta } else { 0.0 },
        c: c_steps,
        output: smallvec![m, n],
    })
}

fn matmul(node: &Node, a: &Stored, b: &Stored, c: Option<&Stored>) -> Result<Product, Stop> {
    let form = MatMulForm::resolve(&node.attrs, &a.shape, &b.shape)?;
    let axes = batches(&form.batch, &form.a, &form.b);
    let (inner, outer) = match &axes[..] {
        [] => ((1, 0, 0), (1, 0, 0)),
        [one] => (*one, (1, 0, 0)),
        [inner, outer] => (*inner, *outer),
        _ => return Err(Stop::Host),
    };
    // A fused bias belongs to columns.
    let bias = match c {
        None => 0.0,
        Some(c) if c.count() == form.n && c.shape.last() == Some(&form.n) => 1.0,
        Some(_) => return Err(Stop::Host),
    };
    Ok(Product {
        m: form.m,
        n: form.n,
        k: form.k,
        a: (form.a.row_stride, form.a.col_stride),
        b: (form.b.row_stride, form.b.col_stride),
        batch: (inner.0 * outer.0, inner.0),
        steps: [(inner.1, inner.2), (outer.1, outer.2)],
        alpha: form.alpha,
        beta: bias,
        c: (0, 1),
        output: form.output,
    })
}

/// The batch axes, innermost first, those that are one as one: extent and both steps.
fn batches(extents: &[usize], a: &Operand, b: &Operand) -> SmallVec<[(usize, usize, usize); 4]> {
    let mut axes: SmallVec<[(usize, usize, usize); 4]> = SmallVec::new();
    for axis in (0..extents.len()).rev().filter(|&axis| extents[axis] != 1) {
        let (a, b) = (a.batch_strides[axis], b.batch_strides[axis]);
        match axes.last_mut() {
            Some((extent, inner_a, inner_b))
                if a == *inner_a * *extent && b == *inner_b * *extent =>
            {
                *extent *= extents[axis];
            }
            _ => axes.push((extents[axis], a, b)),
        }
    }
    axes
}

fn multiply(run: &Run<'_, '_>, act: Activate, by: &Product, [a, b, c]: [&Stored; 3]) -> Outcome {
    let gpu = run.gpu;
    let out = gpu.room(DType::F32, &by.output)?;
    if out.count() == 0 || by.k == 0 {
        return Err(Stop::Host);
    }
    if let Some(panels) = Panels::of(gpu, by) {
        panels.multiply(gpu, act, by, [a, b, c], &out)?;
        return Ok(smallvec![out]);
    }
    let kernel = gpu.kernel("product", || product::with(&[]))?;
    let [(a_inner, b_inner), (a_outer, b_outer)] = by.steps;
    let mut args: SmallVec<[A<'_>; 32]> = smallvec![
        A::U(by.m),
        A::U(by.n),
        A::U(by.k),
        A::U(by.a.0),
        A::U(by.a.1),
        A::U(by.b.0),
        A::U(by.b.1),
        A::U(by.batch.1),
        A::U(a_inner),
        A::U(b_inner),
        A::U(a_outer),
        A::U(b_outer),
    ];
    args.extend(by.tail(act));
    args.extend([A::M(a), A::M(b), A::M(c), A::M(&out)]);
    let groups = [by.n.div_ceil(8 * TILE), by.m.div_ceil(8 * TILE), by.batch.0];
    gpu.launch(&kernel, groups, &args)?;
    drop(args);
    Ok(smallvec![out])
}
