//! Moves elements of any dtype between tensors: runs of elements, and strided copies.
//!
//! A move never looks at a value, so it works on bytes, one element being `width` of them.
//! Elements narrower than a byte are unpacked to one per byte first and packed at the end;
//! strings are cloned. Operators only say which run goes where.

use std::borrow::Cow;

use hetra_tensor::{DType, Tensor, TensorError, bytes_max, element_count};

use crate::error::OpError;

/// Number of elements of a shape. It saturates: an empty tensor may have other extents whose
/// product overflows, and then nothing is ever done with it.
pub(crate) fn volume(shape: &[usize]) -> usize {
    shape.iter().fold(1, |product, &extent| product.saturating_mul(extent))
}

/// Zeros to compute the elements of a tensor in, within the memory limit.
pub(crate) fn float_buffer(shape: &[usize]) -> Result<Vec<f64>, OpError> {
    let count = element_count(shape)?;
    let bytes = count as u128 * size_of::<f64>() as u128;
    match bytes > bytes_max() as u128 {
        true => Err(TensorError::TooLarge { bytes }.into()),
        false => Ok(vec![0.0; count]),
    }
}

/// The sources and the target of a move; see [`assemble`].
pub(crate) struct Runs<'a> {
    /// Bytes of an element; 0 for strings.
    width: usize,
    bytes: Vec<Cow<'a, [u8]>>,
    strings: Vec<&'a [String]>,
    target: &'a mut [u8],
    texts: Vec<String>,
}

/// A new tensor whose elements `plan` copies from `sources`, all of dtype `dtype`; what it does
/// not write is zero (or empty). `plan` must stay inside the sources and the target; it is not
/// called when the target has no elements.
pub(crate) fn assemble(
    dtype: DType,
    shape: &[usize],
    sources: &[&Tensor],
    plan: impl FnOnce(&mut Runs<'_>),
) -> Result<Tensor, OpError> {
    for (index, source) in sources.iter().enumerate() {
        if source.dtype() != dtype {
            return Err(OpError::input(index, dtype.name(), source.describe()));
        }
    }
    // Also checks the size against the memory limit, whatever the dtype.
    let mut out = Tensor::zeros(dtype, shape)?;
    if out.is_empty() {
        return Ok(out);
    }
    if dtype == DType::String {
        let strings = sources.iter().map(|source| source.as_strings()).collect::<Result<_, _>>()?;
        let texts = vec![String::new(); element_count(shape)?];
        let mut runs = Runs { width: 0, bytes: vec![], strings, target: &mut [], texts };
        plan(&mut runs);
        return Ok(Tensor::from_strings(shape, runs.texts)?);
    }
    if dtype.is_packed() {
        let bytes = sources.iter().map(|source| Cow::Owned(unpack(source))).collect();
        let mut codes = Tensor::zeros(DType::U8, shape)?;
        let target = codes.bytes_mut()?;
        plan(&mut Runs { width: 1, bytes, strings: vec![], target, texts: vec![] });
        pack(codes.bytes(), &mut out)?;
        return Ok(out);
    }
    let bytes = sources.iter().map(|source| Cow::Borrowed(source.bytes())).collect();
    let (width, target) = (dtype.bits() / 8, out.bytes_mut()?);
    plan(&mut Runs { width, bytes, strings: vec![], target, texts: vec![] });
    Ok(out)
}

impl Runs<'_> {
    /// Copies `len` elements of source `source` from index `from` to index `to` of the target.
    #[inline]
    pub(crate) fn copy(&mut self, source: usize, from: usize, to: usize, len: usize) {
        let width = self.width;
        if width == 0 {
            let texts = &mut self.texts[to..to + len];
            texts.clone_from_slice(&self.strings[source][from..from + len]);
            return;
        }
        let bytes = &self.bytes[source];
        // A call to memcpy costs more than the copy of one element.
        match (len, width) {
            (1, 4) => one::<4>(bytes, from, self.target, to),
            (1, 8) => one::<8>(bytes, from, self.target, to),
            (1, 1) => self.target[to] = bytes[from],
            (1, 2) => one::<2>(bytes, from, self.target, to),
            _ => self.target[to * width..(to + len) * width]
                .copy_from_slice(&bytes[from * width..(from + len) * width]),
        }
    }

    /// Writes element `from` of source `source` to `len` places of the target.
    pub(crate) fn fill(&mut self, source: usize, from: usize, to: usize, len: usize) {
        self.copy_strided(source, from as isize, 0, to, len);
    }

    /// Copies `len` elements that stand `stride` apart in the source to a run of the target.
    pub(crate) fn copy_strided(
        &mut self,
        source: usize,
        from: isize,
        stride: isize,
        to: usize,
        len: usize,
    ) {
        let walk = (from, stride);
        if stride == 1 {
            return self.copy(source, from as usize, to, len);
        }
        let range = to * self.width..(to + len) * self.width;
        match self.width {
            0 => {
                for (index, text) in self.texts[to..to + len].iter_mut().enumerate() {
                    let at = from + stride * index as isize;
                    text.clone_from(&self.strings[source][at as usize]);
                }
            }
            1 => strided::<1>(&self.bytes[source], walk, &mut self.target[range]),
            2 => strided::<2>(&self.bytes[source], walk, &mut self.target[range]),
            4 => strided::<4>(&self.bytes[source], walk, &mut self.target[range]),
            8 => strided::<8>(&self.bytes[source], walk, &mut self.target[range]),
            _ => strided::<16>(&self.bytes[source], walk, &mut self.target[range]),
        }
    }
}

#[inline]
fn one<const WIDTH: usize>(source: &[u8], from: usize, target: &mut [u8], to: usize) {
    target.as_chunks_mut::<WIDTH>().0[to] = source.as_chunks::<WIDTH>().0[from];
}

fn strided<const WIDTH: usize>(source: &[u8], (from, stride): (isize, isize), target: &mut [u8]) {
    let source = source.as_chunks::<WIDTH>().0;
    let mut at = from;
    for slot in target.as_chunks_mut::<WIDTH>().0 {
        *slot = source[at as usize];
        at += stride;
    }
}

/// One code of a packed dtype per byte.
fn unpack(tensor: &Tensor) -> Vec<u8> {
    let bits = tensor.dtype().bits();
    let (per_byte, mask) = (8 / bits, u8::MAX >> (8 - bits));
    let bytes = tensor.bytes();
    (0..tensor.len()).map(|at| bytes[at / per_byte] >> (at % per_byte * bits) & mask).collect()
}

fn pack(codes: &[u8], out: &mut Tensor) -> Result<(), TensorError> {
    let bits = out.dtype().bits();
    let per_byte = 8 / bits;
    let target = out.bytes_mut()?;
    for (at, code) in codes.iter().enumerate() {
        target[at / per_byte] |= code << (at % per_byte * bits);
    }
    Ok(())
}

/// A walk over a tensor: axis `i` has `shape[i]` steps of `strides[i]` elements, from `offset`.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<isize>,
    pub(crate) offset: isize,
}

impl Walk {
    /// The elements of a dense tensor of this shape, in order.
    pub(crate) fn dense(shape: &[usize]) -> Walk {
        let strides = hetra_tensor::strides_of(shape);
        let strides = strides.into_iter().map(|stride| stride as isize).collect();
        Walk { shape: shape.to_vec(), strides, offset: 0 }
    }

    /// Axis `i` becomes axis `axes[i]` of now. `axes` must be a permutation.
    pub(crate) fn permuted(mut self, axes: &[usize]) -> Walk {
        self.shape = axes.iter().map(|&axis| self.shape[axis]).collect();
        self.strides = axes.iter().map(|&axis| self.strides[axis]).collect();
        self
    }

    /// The same walk with as few axes as it takes: no extents of 1, no axis that continues the
    /// one inside it.
    fn merged(&self) -> Walk {
        let mut walk = Walk { shape: vec![], strides: vec![], offset: self.offset };
        for (&extent, &stride) in self.shape.iter().zip(&self.strides) {
            if extent == 1 {
                continue;
            }
            match (walk.shape.last_mut(), walk.strides.last_mut()) {
                (Some(last), Some(outer))
                    if Some(*outer) == stride.checked_mul(extent as isize) =>
                {
                    *last *= extent;
                    *outer = stride;
                }
                _ => {
                    walk.shape.push(extent);
                    walk.strides.push(stride);
                }
            }
        }
        walk
    }

    /// Calls `visit` with the start in the source of each innermost row, its stride and extent.
    pub(crate) fn for_each_row(&self, mut visit: impl FnMut(isize, isize, usize)) {
        if self.shape.contains(&0) {
            return;
        }
        let walk = self.merged();
        let outer = walk.shape.len().saturating_sub(1);
        let extent = walk.shape.last().copied().unwrap_or(1);
        let stride = walk.strides.last().copied().unwrap_or(1);
        let mut index = vec![0usize; outer];
        let mut at = walk.offset;
        loop {
            visit(at, stride, extent);
            let mut axis = outer;
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                index[axis] += 1;
                at += walk.strides[axis];
                if index[axis] < walk.shape[axis] {
                    break;
                }
                at -= walk.strides[axis] * walk.shape[axis] as isize;
                index[axis] = 0;
            }
        }
    }

    /// A tensor of `shape` from the elements that the walk visits; shares the storage when these
    /// are all of them in order. The walk must stay inside the tensor.
    pub(crate) fn copy(&self, tensor: &Tensor, shape: &[usize]) -> Result<Tensor, OpError> {
        if element_count(shape)? == 0 {
            return Ok(Tensor::zeros(tensor.dtype(), shape)?);
        }
        let walk = self.merged();
        let whole = walk.shape.len() <= 1 && walk.strides.first().is_none_or(|&s| s == 1);
        if whole && walk.offset == 0 && element_count(shape)? == tensor.len() {
            return Ok(tensor.reshape(shape)?);
        }
        assemble(tensor.dtype(), shape, &[tensor], |runs| {
            let mut to = 0;
            self.for_each_row(|from, stride, extent| {
                runs.copy_strided(0, from, stride, to, extent);
                to += extent;
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_moves() {
        for dtype in DType::all().filter(|&dtype| dtype != DType::String) {
            let mut tensor = Tensor::zeros(dtype, &[2, 3]).unwrap();
            let fill = |(at, byte): (usize, &mut u8)| *byte = at as u8 & 1;
            tensor.bytes_mut().unwrap().iter_mut().enumerate().for_each(fill);
            let turn = Walk::dense(&[2, 3]).permuted(&[1, 0]);
            let turned = turn.copy(&tensor, &[3, 2]).unwrap();
            let back = Walk::dense(&[3, 2]).permuted(&[1, 0]).copy(&turned, &[2, 3]).unwrap();
            assert!(back == tensor, "{dtype}");
            let wanted = tensor.view().permute(&[1, 0]).unwrap().to_tensor().unwrap();
            assert!(wanted == turned, "{dtype}");
        }
        let texts = ["a", "b", "c", "d"].map(String::from).to_vec();
        let tensor = Tensor::from_strings(&[2, 2], texts).unwrap();
        let turned = Walk::dense(&[2, 2]).permuted(&[1, 0]).copy(&tensor, &[2, 2]).unwrap();
        assert_eq!(turned.as_strings().unwrap(), ["a", "c", "b", "d"]);
    }

    #[test]
    fn a_walk_in_order_shares() {
        let tensor = Tensor::vector(&[1i32, 2, 3, 4, 5, 6]).reshape(&[1, 2, 3]).unwrap();
        let walk = Walk::dense(tensor.shape()).permuted(&[1, 0, 2]);
        assert!(walk.copy(&tensor, &[2, 1, 3]).unwrap().shares_storage(&tensor));
        let back = Walk { shape: vec![6], strides: vec![-1], offset: 5 };
        let wanted = [6, 5, 4, 3, 2, 1];
        assert_eq!(back.copy(&tensor, &[6]).unwrap().as_slice::<i32>().unwrap(), wanted);
        let again = Walk { shape: vec![2, 2], strides: vec![0, 1], offset: 1 };
        let again = again.copy(&tensor, &[2, 2]).unwrap();
        assert_eq!(again.as_slice::<i32>().unwrap(), [2, 3, 2, 3]);
    }
}
