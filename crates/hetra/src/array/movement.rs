//! The same elements in other places.

use hetra_tensor::Shape;

use super::call::Op;
use super::{Array, ArrayError, Result, promote};

/// An axis counted from either end.
pub(crate) fn axis_of(axis: i64, rank: usize) -> Result<usize> {
    let at = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    if at < 0 || at >= rank as i64 {
        return Err(ArrayError::Axis { axis, rank });
    }
    Ok(at as usize)
}

/// Axes counted from either end, each once.
pub(crate) fn axes_of(axes: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut all = Vec::with_capacity(axes.len());
    for &axis in axes {
        let at = axis_of(axis, rank)?;
        if all.contains(&at) {
            return Err(ArrayError::AxisTwice { axis });
        }
        all.push(at);
    }
    Ok(all)
}

/// Extents or axes as operators take them.
pub(crate) fn signed(extents: &[usize]) -> Vec<i64> {
    extents.iter().map(|&extent| extent as i64).collect()
}

impl Array {
    /// The elements in the same order in another shape; one extent may be -1, whatever is left.
    ///
    /// # Errors
    /// When the shape has another number of elements.
    pub fn reshape(&self, shape: &[i64]) -> Result<Array> {
        let misfit = || {
            let reason = format!("{:?} does not have the elements of {shape:?}", self.shape());
            ArrayError::shape("reshape", reason)
        };
        let mut known = 1usize;
        for &extent in shape.iter().filter(|&&extent| extent != -1) {
            let extent = usize::try_from(extent).map_err(|_| misfit())?;
            known = known.checked_mul(extent).ok_or_else(misfit)?;
        }
        let free = shape.iter().filter(|&&extent| extent == -1).count();
        let rest = match free {
            0 => 0,
            1 if known > 0 && self.size().is_multiple_of(known) => self.size() / known,
            _ => return Err(misfit()),
        };
        let extents: Shape =
            shape.iter().map(|&e| if e == -1 { rest } else { e as usize }).collect();
        if extents.iter().product::<usize>() != self.size() {
            return Err(misfit());
        }
        if extents[..] == *self.shape() {
            return Ok(self.clone());
        }
        let dims = signed(&extents);
        let op = Op::new("Reshape").attr("allowzero", 1i64).on(self).ints(&dims);
        op.typed(self.dtype(), extents)
    }

    /// As [`Array::reshape`], to extents that are all known.
    pub(crate) fn reshaped(&self, extents: &[usize]) -> Result<Array> {
        self.reshape(&signed(extents))
    }

    /// The axes in another order.
    ///
    /// # Errors
    /// When the axes are not each of them once.
    pub fn permute(&self, axes: &[i64]) -> Result<Array> {
        let order = axes_of(axes, self.rank())?;
        if order.len() != self.rank() {
            let reason = format!("{axes:?} is no order of {} axes", self.rank());
            return Err(ArrayError::shape("permute_dims", reason));
        }
        if order.iter().enumerate().all(|(to, &from)| to == from) {
            return Ok(self.clone());
        }
        let shape = order.iter().map(|&axis| self.shape()[axis]).collect();
        let op = Op::new("Transpose").attr("perm", signed(&order)).on(self);
        op.typed(self.dtype(), shape)
    }

    /// The axes in the opposite order.
    ///
    /// # Errors
    /// None of its own.
    pub fn transpose(&self) -> Result<Array> {
        self.permute(&(0..self.rank() as i64).rev().collect::<Vec<_>>())
    }

    /// The last two axes exchanged.
    ///
    /// # Errors
    /// For fewer than two axes.
    pub fn matrix_transpose(&self) -> Result<Array> {
        let rank = self.rank() as i64;
        if rank < 2 {
            return Err(ArrayError::shape("matrix_transpose", "wanted two axes or more"));
        }
        let mut axes: Vec<i64> = (0..rank).collect();
        axes.swap(rank as usize - 1, rank as usize - 2);
        self.permute(&axes)
    }

    /// Axes moved to other places; the others keep their order.
    ///
    /// # Errors
    /// When an axis is not there or named twice.
    pub fn move_axes(&self, from: &[i64], to: &[i64]) -> Result<Array> {
        let (from, to) = (axes_of(from, self.rank())?, axes_of(to, self.rank())?);
        if from.len() != to.len() {
            return Err(ArrayError::shape("moveaxis", "as many axes as places are wanted"));
        }
        let mut rest = (0..self.rank()).filter(|axis| !from.contains(axis));
        let mut order = Vec::with_capacity(self.rank());
        for place in 0..self.rank() {
            let moved = to.iter().position(|&at| at == place).map(|index| from[index]);
            order.extend(moved.or_else(|| rest.next()).map(|axis| axis as i64));
        }
        self.permute(&order)
    }

    /// Adds axes of extent 1; places are those of the result.
    ///
    /// # Errors
    /// When a place is not there or named twice.
    pub fn expand_dims(&self, axes: &[i64]) -> Result<Array> {
        let places = axes_of(axes, self.rank() + axes.len())?;
        let mut own = self.shape().iter();
        let extents = (0..self.rank() + axes.len()).map(|place| {
            if places.contains(&place) { 1 } else { own.next().copied().unwrap_or(1) }
        });
        self.reshaped(&extents.collect::<Vec<_>>())
    }

    /// Leaves axes of extent 1 out.
    ///
    /// # Errors
    /// When one of them has another extent.
    pub fn squeeze(&self, axes: &[i64]) -> Result<Array> {
        let axes = axes_of(axes, self.rank())?;
        if let Some(axis) = axes.iter().find(|&&axis| self.shape()[axis] != 1) {
            let reason = format!("axis {axis} has {} places, wanted 1", self.shape()[*axis]);
            return Err(ArrayError::shape("squeeze", reason));
        }
        let left = self.shape().iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
        self.reshaped(&left.map(|(_, &extent)| extent).collect::<Vec<_>>())
    }

    /// Repeated along axes until it has this shape.
    ///
    /// # Errors
    /// When it does not broadcast to it.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Array> {
        let both = hetra_tensor::broadcast(self.shape(), shape);
        if both.as_ref().is_ok_and(|both| both[..] == *shape) {
            if *self.shape() == *shape {
                return Ok(self.clone());
            }
            let op = Op::new("Expand").on(self).ints(&signed(shape));
            return op.typed(self.dtype(), shape.into());
        }
        let reason = format!("{:?} does not broadcast to {shape:?}", self.shape());
        Err(ArrayError::shape("broadcast_to", reason))
    }

    /// Arrays one after the other along an axis.
    ///
    /// # Errors
    /// When there are none, or other extents or dtypes do not fit.
    pub fn concat(arrays: &[Array], axis: i64) -> Result<Array> {
        let Some(first) = arrays.first() else {
            return Err(ArrayError::shape("concat", "wanted at least one array"));
        };
        let axis = axis_of(axis, first.rank())?;
        let mut dtype = first.dtype();
        for other in arrays {
            let (left, right) = (dtype, other.dtype());
            dtype =
                promote(left, right).ok_or(ArrayError::Promotion { op: "concat", left, right })?;
            let others = |shape: &[usize]| {
                let rest = shape.iter().enumerate().filter(|(at, _)| *at != axis);
                rest.map(|(_, &extent)| extent).collect::<Vec<_>>()
            };
            let fits = other.rank() == first.rank();
            if !fits || others(other.shape()) != others(first.shape()) {
                let (a, b) = (first.shape(), other.shape());
                let reason = format!("{a:?} and {b:?} differ beside axis {axis}");
                return Err(ArrayError::shape("concat", reason));
            }
        }
        if arrays.len() == 1 {
            return Ok(first.clone());
        }
        let mut op = Op::new("Concat").attr("axis", axis as i64);
        let mut shape: Shape = first.shape().into();
        shape[axis] = arrays.iter().map(|array| array.shape()[axis]).sum();
        for array in arrays {
            op = op.on(&array.cast(dtype)?);
        }
        op.typed(dtype, shape)
    }

    /// Arrays of one shape along a new axis.
    ///
    /// # Errors
    /// As [`Array::concat`].
    pub fn stack(arrays: &[Array], axis: i64) -> Result<Array> {
        if let Some(other) = arrays.iter().find(|array| array.shape() != arrays[0].shape()) {
            let (a, b) = (arrays[0].shape(), other.shape());
            return Err(ArrayError::shape("stack", format!("shapes {a:?} and {b:?} differ")));
        }
        let wider: Vec<Array> =
            arrays.iter().map(|array| array.expand_dims(&[axis])).collect::<Result<_>>()?;
        Array::concat(&wider, axis)
    }

    /// The elements in the opposite order along axes.
    ///
    /// # Errors
    /// When an axis is not there or named twice.
    pub fn flip(&self, axes: &[i64]) -> Result<Array> {
        let axes = axes_of(axes, self.rank())?;
        if axes.is_empty() {
            return Ok(self.clone());
        }
        let all = |value: i64| vec![value; axes.len()];
        let op = Op::new("Slice").on(self).ints(&all(-1)).ints(&all(i64::MIN + 1));
        op.ints(&signed(&axes)).ints(&all(-1)).typed(self.dtype(), self.shape().into())
    }

    /// The elements further along axes, those from the end to the front.
    ///
    /// # Errors
    /// When an axis is not there.
    pub fn roll(&self, shifts: &[i64], axes: &[i64]) -> Result<Array> {
        let mut x = self.clone();
        for (&shift, &axis) in shifts.iter().zip(axes) {
            let axis = axis_of(axis, self.rank())?;
            let extent = self.shape()[axis] as i64;
            let shift = if extent == 0 { 0 } else { shift.rem_euclid(extent) };
            if shift != 0 {
                let end = x.slice_axis(axis, extent - shift, extent)?;
                let start = x.slice_axis(axis, 0, extent - shift)?;
                x = Array::concat(&[end, start], axis as i64)?;
            }
        }
        Ok(x)
    }

    pub(crate) fn slice_axis(&self, axis: usize, from: i64, to: i64) -> Result<Array> {
        let op = Op::new("Slice").on(self).ints(&[from]).ints(&[to]).ints(&[axis as i64]);
        op.ints(&[1]).one()
    }

    /// The whole repeated along each axis.
    ///
    /// # Errors
    /// When the result is too large.
    pub fn tile(&self, repeats: &[usize]) -> Result<Array> {
        let rank = self.rank().max(repeats.len());
        let mut shape = vec![1; rank - self.rank()];
        shape.extend(self.shape());
        let mut all = vec![1i64; rank - repeats.len()];
        all.extend(signed(repeats));
        Op::new("Tile").on(&self.reshaped(&shape)?).ints(&all).one()
    }

    /// Each element repeated so often along an axis.
    ///
    /// # Errors
    /// When the axis is not there.
    pub fn repeat(&self, repeats: usize, axis: i64) -> Result<Array> {
        let axis = axis_of(axis, self.rank())?;
        let mut wide: Vec<usize> = self.shape().to_vec();
        wide.insert(axis + 1, repeats);
        let all = self.expand_dims(&[axis as i64 + 1])?.broadcast_to(&wide)?;
        let mut shape = self.shape().to_vec();
        shape[axis] = shape[axis].checked_mul(repeats).ok_or_else(|| {
            ArrayError::shape("repeat", format!("{repeats} times {} is too much", shape[axis]))
        })?;
        all.reshaped(&shape)
    }

    /// What is on and below (or, `upper`, above) the diagonal that is `k` above the main one;
    /// zeros elsewhere.
    ///
    /// # Errors
    /// For fewer than two axes.
    pub fn triangle(&self, upper: bool, k: i64) -> Result<Array> {
        if self.rank() < 2 {
            return Err(ArrayError::shape(if upper { "triu" } else { "tril" }, "wanted two axes"));
        }
        let op = Op::new("Trilu").attr("upper", i64::from(upper)).on(self).int(k);
        op.typed(self.dtype(), self.shape().into())
    }
}
