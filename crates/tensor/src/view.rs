//! Borrowed, strided views: slices, permutations and broadcasts without copies.

use crate::dtype::{DType, Element};
use crate::shape::{Shape, strides_of};
use crate::tensor::{Tensor, TensorError};

/// A borrowed tensor with any strides. Strings and packed types have no strided form; their
/// views can only be copied whole.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    tensor: &'a Tensor,
    shape: Shape,
    strides: Vec<isize>,
    offset: usize,
}

impl<'a> TensorView<'a> {
    pub(crate) fn of(tensor: &'a Tensor) -> TensorView<'a> {
        let strides = strides_of(tensor.shape()).iter().map(|&stride| stride as isize).collect();
        TensorView { tensor, shape: tensor.shape().to_vec(), strides, offset: 0 }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.tensor.dtype()
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
        let fault =
            || TensorError::Broadcast { left: self.tensor.shape().to_vec(), right: shape.to_vec() };
        let lead = shape.len().checked_sub(self.shape.len()).ok_or_else(fault)?;
        let mut strides = vec![0isize; shape.len()];
        for (axis, &extent) in self.shape.iter().enumerate() {
            if extent == shape[lead + axis] {
                strides[lead + axis] = self.strides[axis];
            } else if extent != 1 {
                return Err(fault());
            }
        }
        self.shape = shape.to_vec();
        self.strides = strides;
        Ok(self)
    }

    /// Calls `visit` with the storage index of each element, in row-major order of this view.
    pub fn for_each_index(&self, mut visit: impl FnMut(usize)) {
        if self.shape.contains(&0) {
            return;
        }
        let rank = self.shape.len();
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
        let data = self.tensor.as_slice::<T>()?;
        let mut values = Vec::with_capacity(crate::element_count(&self.shape)?);
        self.for_each_index(|index| values.push(data[index]));
        Ok(values)
    }

    /// A dense copy. Works for every dtype.
    ///
    /// # Errors
    /// `TooLarge` when a broadcast view is over the limit.
    pub fn to_tensor(&self) -> Result<Tensor, TensorError> {
        let dtype = self.dtype();
        if dtype == DType::String {
            let data = self.tensor.as_strings()?;
            let mut values = Vec::new();
            self.for_each_index(|index| values.push(data[index].clone()));
            return Tensor::from_strings(&self.shape, values);
        }
        let mut out = Tensor::zeros(dtype, &self.shape)?;
        if dtype.is_packed() {
            let per_byte = 8 / dtype.bits();
            let mask = (1u8 << dtype.bits()) - 1;
            let (source, target) = (self.tensor.bytes(), out.bytes_mut()?);
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
        let source: &[T] = bytemuck::cast_slice(self.tensor.bytes());
        let target: &mut [T] = bytemuck::cast_slice_mut(out.bytes_mut()?);
        let mut slots = target.iter_mut();
        self.for_each_index(|index| {
            if let Some(slot) = slots.next() {
                *slot = source[index];
            }
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
    fn packed_types_copy_bit_by_bit() {
        let tensor = Tensor::from_bytes(DType::U4, &[2, 2], &[0x21, 0x43]).unwrap();
        let turned = tensor.view().permute(&[1, 0]).unwrap().to_tensor().unwrap();
        assert_eq!(turned.bytes(), [0x31, 0x42]);
    }
}
