//! Products of matrices, and what belongs to them.

use hetra_tensor::{DType, Shape, broadcast};

use super::call::Op;
use super::movement::axes_of;
use super::{Array, ArrayError, Result, promote};

/// Both as their common dtype, which is of numbers.
fn both(op: &'static str, a: &Array, b: &Array) -> Result<(Array, Array)> {
    let (left, right) = (a.dtype(), b.dtype());
    let dtype = promote(left, right).ok_or(ArrayError::Promotion { op, left, right })?;
    if dtype == DType::Bool {
        return Err(ArrayError::dtype(op, "numbers", dtype));
    }
    Ok((a.cast(dtype)?, b.cast(dtype)?))
}

impl Array {
    /// The product of the matrices in the last two axes; the others are broadcast. A vector is a
    /// row on the left and a column on the right, and its axis goes away.
    ///
    /// # Errors
    /// When the extents do not fit, or one has no axes.
    pub fn matmul(&self, other: &Array) -> Result<Array> {
        let misfit = || {
            let (a, b) = (self.shape(), other.shape());
            ArrayError::shape("matmul", format!("shapes {a:?} and {b:?} do not multiply"))
        };
        if self.rank() == 0 || other.rank() == 0 {
            return Err(misfit());
        }
        let (a, b) = both("matmul", self, other)?;
        let row = a.rank() == 1;
        let column = b.rank() == 1;
        let inner = a.shape()[a.rank() - 1];
        if inner != b.shape()[b.rank().saturating_sub(2)] {
            return Err(misfit());
        }
        let a_outer = &a.shape()[..a.rank().saturating_sub(2)];
        let b_outer = &b.shape()[..b.rank().saturating_sub(2)];
        let mut shape: Shape = broadcast(a_outer, b_outer).map_err(|_| misfit())?;
        if !row {
            shape.push(a.shape()[a.rank() - 2]);
        }
        if !column {
            shape.push(b.shape()[b.rank() - 1]);
        }
        let dtype = a.dtype();
        if dtype.is_complex() && inner > 0 {
            // (a + ib)(c + id) by parts, which devices have kernels for.
            let (re, im) = ((a.real()?, b.real()?), (a.imag()?, b.imag()?));
            let real = re.0.matmul(&re.1)?.subtract(&im.0.matmul(&im.1)?)?;
            return Array::complex(&real, &re.0.matmul(&im.1)?.add(&im.0.matmul(&re.1)?)?);
        }
        if inner == 0 {
            return Array::full(&shape, 0i64, dtype, &a.device_handle());
        }
        // The operator takes integers of 32 bits and more.
        let narrow = dtype.is_int() && dtype.bits() < 32;
        if narrow {
            let wide = a.cast(DType::I32)?.matmul(&b.cast(DType::I32)?)?;
            return wide.cast(dtype);
        }
        Op::new("MatMul").on(&a).on(&b).typed(dtype, shape)
    }

    /// Sums of products as an expression such as `ij,jk->ik` says.
    ///
    /// # Errors
    /// When the expression and the operands do not belong together.
    pub fn einsum(expression: &str, operands: &[Array]) -> Result<Array> {
        let Some(first) = operands.first() else {
            return Err(ArrayError::shape("einsum", "wanted an operand or more"));
        };
        let mut dtype = first.dtype();
        for other in operands {
            let (left, right) = (dtype, other.dtype());
            dtype =
                promote(left, right).ok_or(ArrayError::Promotion { op: "einsum", left, right })?;
        }
        if dtype == DType::Bool || dtype.is_complex() {
            return Err(ArrayError::dtype("einsum", "real numbers", dtype));
        }
        let mut op = Op::new("Einsum").attr("equation", expression);
        for operand in operands {
            op = op.on(&operand.cast(dtype)?);
        }
        op.one()
    }

    /// The sum of products along axes of both.
    ///
    /// # Errors
    /// When the axes are not there or their extents differ.
    pub fn tensordot(&self, other: &Array, own: &[i64], others: &[i64]) -> Result<Array> {
        let (a, b) = both("tensordot", self, other)?;
        let (own, others) = (axes_of(own, a.rank())?, axes_of(others, b.rank())?);
        let extents = |array: &Array, axes: &[usize]| -> Vec<usize> {
            axes.iter().map(|&axis| array.shape()[axis]).collect()
        };
        if extents(&a, &own) != extents(&b, &others) {
            let (a, b) = (a.shape(), b.shape());
            let reason = format!("{a:?} along {own:?} and {b:?} along {others:?} differ");
            return Err(ArrayError::shape("tensordot", reason));
        }
        let free = |array: &Array, axes: &[usize]| -> Vec<usize> {
            (0..array.rank()).filter(|axis| !axes.contains(axis)).collect()
        };
        let (rows, columns) = (free(&a, &own), free(&b, &others));
        let inner: usize = extents(&a, &own).iter().product();
        let order = |first: &[usize], then: &[usize]| -> Vec<i64> {
            first.iter().chain(then).map(|&axis| axis as i64).collect()
        };
        let count = |array: &Array, axes: &[usize]| extents(array, axes).iter().product::<usize>();
        let (m, n) = (count(&a, &rows) as i64, count(&b, &columns) as i64);
        let left = a.permute(&order(&rows, &own))?.reshape(&[m, inner as i64])?;
        let right = b.permute(&order(&others, &columns))?.reshape(&[inner as i64, n])?;
        let shape = [extents(&a, &rows), extents(&b, &columns)].concat();
        left.matmul(&right)?.reshaped(&shape)
    }

    /// The sum of products along an axis of both, which is counted from the end.
    ///
    /// # Errors
    /// When the extents do not fit.
    pub fn vecdot(&self, other: &Array, axis: i64) -> Result<Array> {
        let (a, b) = both("vecdot", self, other)?;
        let misfit = |reason: &str| ArrayError::shape("vecdot", reason);
        if axis >= 0 || axis < -(a.rank().min(b.rank()) as i64) {
            return Err(ArrayError::Axis { axis, rank: a.rank().min(b.rank()) });
        }
        let extent = |array: &Array| array.shape()[(array.rank() as i64 + axis) as usize];
        if extent(&a) != extent(&b) {
            return Err(misfit("the extents of the axis differ"));
        }
        let dtype = a.dtype();
        a.conj()?.multiply(&b)?.sum(Some(&[axis]), false)?.cast(dtype)
    }

    /// The elements whose column is the row and `k` more, of the matrices in the last two axes.
    ///
    /// # Errors
    /// For fewer than two axes.
    pub fn diagonal(&self, k: i64) -> Result<Array> {
        let rank = self.rank();
        if rank < 2 {
            return Err(ArrayError::shape("diagonal", "wanted two axes or more"));
        }
        let (rows, columns) = (self.shape()[rank - 2] as i64, self.shape()[rank - 1] as i64);
        let k = k.clamp(-rows, columns);
        let (row, column) = ((-k).max(0), k.max(0));
        let count = (rows - row).min(columns - column).max(0);
        let mut shape = self.shape()[..rank - 2].to_vec();
        shape.push(self.shape()[rank - 2] * self.shape()[rank - 1]);
        let start = row * columns + column;
        let (first, last) = (start.into(), (start + count * (columns + 1)).into());
        let step = (columns + 1).into();
        let places = Array::arange(first, last, step, DType::I64, &self.device_handle())?;
        self.reshaped(&shape)?.take(&places, -1)
    }

    /// The determinants of the matrices in the last two axes.
    ///
    /// # Errors
    /// When they are not square, or no floats.
    pub fn det(&self) -> Result<Array> {
        Op::new("Det").on(self).one()
    }
}
