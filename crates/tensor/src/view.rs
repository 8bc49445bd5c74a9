//! Borrowed, strided views: slices, permutations and broadcasts without copies.

use std::ops::Range;

use hetra_memory::Axes;
use smallvec::smallvec;

use crate::dtype::{DType, Element};
use crate::shape::{Shape, element_count, strides_of};
use crate::tensor::{Tensor, TensorError};

/// What a view looks at.
#[derive(Clone, Copy, Debug)]
enum Storage<'a> {
    Tensor(&'a Tensor),
    /// Elements that are no tensor's, as bytes.
    Slice(DType, &'a [u8]),
}

/// Elements of a tensor or slice with any strides, borrowed.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    storage: Storage<'a>,
    shape: Shape,
    strides: Axes<isize>,
    offset: usize,
}

impl<'a> TensorView<'a> {
    pub(crate) fn of(tensor: &'a Tensor) -> TensorView<'a> {
        let strides = strides_of(tensor.shape()).iter().map(|&stride| stride as isize).collect();
        let storage = Storage::Tensor(tensor);
        TensorView { storage, shape: tensor.shape().into(), strides, offset: 0 }
    }

    /// A view of elements in row-major order, which stay where they are.
    ///
    /// # Errors
    /// `Count` when the shape does not hold that many.
    pub fn from_slice<T: Element>(
        shape: &[usize],
        values: &'a [T],
    ) -> Result<TensorView<'a>, TensorError> {
        let wanted = element_count(shape)?;
        if wanted != values.len() {
            return Err(TensorError::Count { shape: shape.into(), wanted, got: values.len() });
        }
        let strides = strides_of(shape).iter().map(|&stride| stride as isize).collect();
        let storage = Storage::Slice(T::DTYPE, bytemuck::cast_slice(values));
        Ok(TensorView { storage, shape: shape.into(), strides, offset: 0 })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match self.storage {
            Storage::Tensor(tensor) => tensor.dtype(),
            Storage::Slice(dtype, _) => dtype,
        }
    }

    /// The bytes of the storage; empty for strings.
    fn bytes(&self) -> &'a [u8] {
        match self.storage {
            Storage::Tensor(tensor) => tensor.bytes(),
            Storage::Slice(_, bytes) => bytes,
        }
    }

    /// The tensor, where this is a view of all of it, as it is.
    fn whole(&self) -> Option<&'a Tensor> {
        let Storage::Tensor(tensor) = self.storage else { return None };
        let same = self.offset == 0 && self.shape[..] == *tensor.shape() && self.run_axes() == 0;
        same.then_some(tensor)
    }

    /// The extent of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The step of each axis, in elements; 0 on a broadcast axis.
    pub fn strides(&self) -> &[isize] {
        &self.strides
    }

    /// Axis `i` of the result is axis `axes[i]` of this view.
    ///
    /// # Errors
    /// `Axis` when `axes` is not a permutation.
    pub fn permute(mut self, axes: &[usize]) -> Result<TensorView<'a>, TensorError> {
        let rank = self.shape.len();
        let mut seen = vec![false; rank];
        for &axis in axes {
            if axis >= rank || std::mem::replace(&mut seen[axis], true) {
                return Err(TensorError::Axis { axis: axis as i64, rank });
            }
        }
        if axes.len() != rank {
            return Err(TensorError::Axis { axis: axes.len() as i64, rank });
        }
        self.shape = axes.iter().map(|&axis| self.shape[axis]).collect();
        self.strides = axes.iter().map(|&axis| self.strides[axis]).collect();
        Ok(self)
    }

    /// Takes `count` elements of `axis` from `start`, `step` apart (a negative step walks back).
    ///
    /// # Errors
    /// `Axis` when the walk leaves the axis.
    pub fn slice(
        mut self,
        axis: usize,
        start: usize,
        step: isize,
        count: usize,
    ) -> Result<TensorView<'a>, TensorError> {
        let extent = *self
            .shape
            .get(axis)
            .ok_or(TensorError::Axis { axis: axis as i64, rank: self.shape.len() })?;
        if count > 0 {
            let last = start as i128 + (count as i128 - 1) * step as i128;
            if start >= extent || last < 0 || last >= extent as i128 {
                return Err(TensorError::Axis { axis: last as i64, rank: extent });
            }
            self.offset = (self.offset as isize + start as isize * self.strides[axis]) as usize;
        }
        self.shape[axis] = count;
        self.strides[axis] = self.strides[axis].saturating_mul(step);
        Ok(self)
    }

    /// Stretches axes of extent 1 (and adds leading ones) to `shape`.
    ///
    /// # Errors
    /// `Broadcast` when an axis cannot stretch.
    pub fn broadcast_to(mut self, shape: &[usize]) -> Result<TensorView<'a>, TensorError> {
        let fault = || TensorError::Broadcast { left: self.shape.clone(), right: shape.into() };
        let lead = shape.len().checked_sub(self.shape.len()).ok_or_else(fault)?;
        let mut strides: Axes<isize> = smallvec![0; shape.len()];
        for (axis, &extent) in self.shape.iter().enumerate() {
            if extent == shape[lead + axis] {
                strides[lead + axis] = self.strides[axis];
            } else if extent != 1 {
                return Err(fault());
            }
        }
        self.shape = shape.into();
        self.strides = strides;
        Ok(self)
    }

    /// Calls `visit` with the storage index of each element, in row-major order of this view.
    pub fn for_each_index(&self, mut visit: impl FnMut(usize)) {
        self.for_each(self.shape.len(), &mut visit);
    }

    /// The first axis from which on the elements lie side by side in the storage.
    fn run_axes(&self) -> usize {
        let mut stride = 1;
        for axis in (0..self.shape.len()).rev() {
            if self.shape[axis] != 1 && self.strides[axis] != stride {
                return axis + 1;
            }
            stride = stride.saturating_mul(self.shape[axis] as isize);
        }
        0
    }

    /// Calls `visit` with the places of elements that lie side by side in the storage, in
    /// row-major order of this view.
    fn for_each_run(&self, mut visit: impl FnMut(Range<usize>)) {
        let axis = self.run_axes();
        let length: usize = self.shape[axis..].iter().product();
        self.for_each(axis, &mut |start| visit(start..start + length));
    }

    /// Walks the first `rank` axes.
    fn for_each(&self, rank: usize, visit: &mut impl FnMut(usize)) {
        if self.shape.contains(&0) {
            return;
        }
        let mut index = vec![0usize; rank];
        let mut at = self.offset as isize;
        loop {
            visit(at as usize);
            let mut axis = rank;
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * self.shape[axis] as isize;
                index[axis] = 0;
            }
        }
    }

    /// The elements in row-major order of this view.
    ///
    /// # Errors
    /// `DType` when the elements are of another type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        if T::DTYPE != self.dtype() {
            return Err(TensorError::DType { wanted: T::DTYPE, got: self.dtype() });
        }
        let data: &[T] = bytemuck::cast_slice(self.bytes());
        let mut values = Vec::with_capacity(element_count(&self.shape)?);
        self.for_each_run(|run| values.extend_from_slice(&data[run]));
        Ok(values)
    }

    /// A tensor of these elements: a clone where this is a view of a whole tensor as it is, which
    /// shares its storage, else a copy. Works for every dtype.
    ///
    /// # Errors
    /// `TooLarge` when a broadcast view is over the limit.
    pub fn to_tensor(&self) -> Result<Tensor, TensorError> {
        if let Some(tensor) = self.whole() {
            return Ok(tensor.clone());
        }
        let dtype = self.dtype();
        if let (Storage::Tensor(tensor), DType::String) = (self.storage, dtype) {
            let data = tensor.as_strings()?;
            let mut values = Vec::new();
            self.for_each_index(|index| values.push(data[index].clone()));
            return Tensor::from_strings(&self.shape, values);
        }
        let mut out = Tensor::zeros(dtype, &self.shape)?;
        if dtype.is_packed() {
            let per_byte = 8 / dtype.bits();
            let mask = (1u8 << dtype.bits()) - 1;
            let (source, target) = (self.bytes(), out.bytes_mut()?);
            let mut to = 0;
            self.for_each_index(|from| {
                let bits = source[from / per_byte] >> (from % per_byte * dtype.bits()) & mask;
                target[to / per_byte] |= bits << (to % per_byte * dtype.bits());
                to += 1;
            });
            return Ok(out);
        }
        match dtype.bits() {
            8 => self.gather::<u8>(&mut out)?,
            16 => self.gather::<u16>(&mut out)?,
            32 => self.gather::<u32>(&mut out)?,
            64 => self.gather::<u64>(&mut out)?,
            _ => self.gather::<u128>(&mut out)?,
        }
        Ok(out)
    }

    fn gather<T: bytemuck::Pod>(&self, out: &mut Tensor) -> Result<(), TensorError> {
        let source: &[T] = bytemuck::cast_slice(self.bytes());
        let target: &mut [T] = bytemuck::cast_slice_mut(out.bytes_mut()?);
        // One number for all of a shape: weights of files that state no more than that.
        if let [one] = source {
            target.fill(*one);
            return Ok(());
        }
        let mut at = 0;
        self.for_each_run(|run| {
            let length = run.len();
            target[at..at + length].copy_from_slice(&source[run]);
            at += length;
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> Tensor {
        Tensor::from_slice(&[2, 3], &[1i32, 2, 3, 4, 5, 6]).unwrap()
    }

    #[test]
    fn permute_slice_broadcast() {
        let tensor = numbers();
        let turned = tensor.view().permute(&[1, 0]).unwrap();
        assert_eq!(turned.to_vec::<i32>().unwrap(), [1, 4, 2, 5, 3, 6]);
        let back = tensor.view().slice(1, 2, -2, 2).unwrap();
        assert_eq!(back.to_vec::<i32>().unwrap(), [3, 1, 6, 4]);
        let wide = tensor.view().slice(0, 1, 1, 1).unwrap().broadcast_to(&[2, 2, 3]).unwrap();
        assert_eq!(wide.to_tensor().unwrap().shape(), [2, 2, 3]);
        assert!(tensor.view().permute(&[0, 0]).is_err());
        assert!(tensor.view().slice(1, 2, 1, 2).is_err());
    }

    #[test]
    fn a_slice_is_looked_at_where_it_lies() {
        let values = [1i32, 2, 3, 4, 5, 6];
        let view = TensorView::from_slice(&[2, 3], &values).unwrap();
        assert_eq!((view.dtype(), view.shape()), (DType::I32, [2, 3].as_slice()));
        assert_eq!(view.to_tensor().unwrap(), numbers());
        let turned = view.permute(&[1, 0]).unwrap().to_tensor().unwrap();
        assert_eq!(turned.as_slice::<i32>().unwrap(), [1, 4, 2, 5, 3, 6]);
        let fault = TensorView::from_slice(&[4], &values).unwrap_err();
        assert_eq!(fault, TensorError::Count { shape: [4][..].into(), wanted: 4, got: 6 });
        assert!(TensorView::from_slice(&[0, 3], &values[..0]).unwrap().to_tensor().is_ok());
        let huge = TensorView::from_slice::<i32>(&[usize::MAX, 3], &[]);
        assert!(matches!(huge, Err(TensorError::TooLarge { .. })));
    }

    #[test]
    fn only_what_must_be_copied_is() {
        let tensor = numbers();
        assert!(tensor.view().to_tensor().unwrap().shares_storage(&tensor));
        let same = tensor.view().slice(0, 0, 1, 2).unwrap().permute(&[0, 1]).unwrap();
        assert!(same.to_tensor().unwrap().shares_storage(&tensor));
        // The places of each run: whole rows where they lie side by side.
        let check = |view: TensorView<'_>, wanted: &[(usize, usize)]| {
            let mut runs = Vec::new();
            view.for_each_run(|run| runs.push((run.start, run.end)));
            assert_eq!(runs, wanted);
            let mut indices = Vec::new();
            view.for_each_index(|index| indices.push(index));
            assert_eq!(
                runs.iter().flat_map(|&(start, end)| start..end).collect::<Vec<_>>(),
                indices
            );
            assert!(!view.to_tensor().unwrap().shares_storage(&tensor));
        };
        let part = |axis, start, step, count| tensor.view().slice(axis, start, step, count);
        check(part(0, 1, 1, 1).unwrap(), &[(3, 6)]);
        check(part(1, 1, 1, 2).unwrap(), &[(1, 3), (4, 6)]);
        check(part(0, 1, -1, 2).unwrap(), &[(3, 6), (0, 3)]);
        check(part(1, 0, 2, 2).unwrap(), &[(0, 1), (2, 3), (3, 4), (5, 6)]);
        check(part(0, 0, 1, 1).unwrap().broadcast_to(&[2, 3]).unwrap(), &[(0, 3), (0, 3)]);
        check(part(0, 0, 1, 0).unwrap(), &[]);
    }

    #[test]
    fn packed_types_copy_bit_by_bit() {
        let tensor = Tensor::from_bytes(DType::U4, &[2, 2], &[0x21, 0x43]).unwrap();
        let turned = tensor.view().permute(&[1, 0]).unwrap().to_tensor().unwrap();
        assert_eq!(turned.bytes(), [0x31, 0x42]);
    }
}
