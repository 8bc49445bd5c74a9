//! What several programs ask of shapes and axes.

use hetra_tensor::{Shape, Tensor};

/// Product of extents of a tensor that is in memory.
pub(super) fn product(extents: &[usize]) -> usize {
    extents.iter().product()
}

/// An axis, or an index along one, counted from either end; `None` when it is out of range (the
/// reference says so).
pub(super) fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(i64::try_from(rank).ok()?)? } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

/// The extents of these one after the other.
pub(super) fn chained<const N: usize>(parts: [&[usize]; N]) -> Shape {
    parts.into_iter().flatten().copied().collect()
}

/// What an operator says of one or two spatial axes, as the 2-D kernels want it: a single axis is
/// the width, and `lead` stands for the height. `None` for other ranks.
pub(super) fn pair(list: &[usize], lead: usize) -> Option<[usize; 2]> {
    match *list {
        [w] => Some([lead, w]),
        [h, w] => Some([h, w]),
        _ => None,
    }
}

/// Tensors joined along an axis: the shape of the whole, and what one step of the axis holds.
pub(super) struct Join {
    pub(super) shape: Shape,
    /// Blocks: the product of the extents before the axis.
    pub(super) count: usize,
    /// Elements of a block for each index of the axis.
    pub(super) inner: usize,
    pub(super) axis: usize,
}

impl Join {
    /// `None` when the parts do not fit together or differ in dtype: the reference says so.
    pub(super) fn of(parts: &[Tensor], axis: i64) -> Option<Join> {
        let first = parts.first()?;
        let axis = axis_of(axis, first.rank())?;
        let same = |part: &Tensor| {
            part.dtype() == first.dtype()
                && part.rank() == first.rank()
                && part.shape()[..axis] == first.shape()[..axis]
                && part.shape()[axis + 1..] == first.shape()[axis + 1..]
        };
        if !parts.iter().all(same) {
            return None;
        }
        let mut shape = Shape::from_slice(first.shape());
        let mut extents = parts.iter().map(|part| part.shape()[axis]);
        shape[axis] = extents.try_fold(0usize, |sum, extent| sum.checked_add(extent))?;
        let (count, inner) = (product(&shape[..axis]), product(&shape[axis + 1..]));
        Some(Join { shape, count, inner, axis })
    }

    /// Elements of a block of the whole.
    pub(super) fn block(&self) -> usize {
        self.shape[self.axis] * self.inner
    }

    /// Elements of a block of one part.
    pub(super) fn part(&self, part: &Tensor) -> usize {
        part.shape()[self.axis] * self.inner
    }
}

#[cfg(test)]
mod tests {
    use hetra_tensor::DType;

    use super::*;

    #[test]
    fn axes_count_from_either_end() {
        assert_eq!(axis_of(-1, 3), Some(2));
        assert_eq!(axis_of(0, 3), Some(0));
        assert_eq!(axis_of(3, 3), None);
        assert_eq!(axis_of(-4, 3), None);
        assert_eq!(axis_of(i64::MIN, 3), None);
        assert_eq!(axis_of(0, 0), None);
    }

    #[test]
    fn parts_that_differ_do_not_join() {
        let zeros = |dtype, shape: &[usize]| Tensor::zeros(dtype, shape).unwrap();
        let (a, b) = (zeros(DType::F32, &[2, 3, 4]), zeros(DType::F32, &[2, 1, 4]));
        let join = Join::of(&[a.clone(), b.clone()], -2).unwrap();
        assert_eq!((&join.shape[..], join.count, join.inner), (&[2, 4, 4][..], 2, 4));
        assert_eq!((join.block(), join.part(&a), join.part(&b)), (16, 12, 4));
        assert!(Join::of(&[a.clone(), b], 0).is_none());
        assert!(Join::of(&[a.clone(), zeros(DType::I32, &[2, 3, 4])], 1).is_none());
        assert!(Join::of(&[a], 3).is_none());
        assert!(Join::of(&[], 0).is_none());
    }
}
