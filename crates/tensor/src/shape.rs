//! Shapes, strides and broadcasting, with checked arithmetic.

use hetra_memory::Axes;
use smallvec::smallvec;

use crate::tensor::TensorError;

/// The extent of each axis.
pub type Shape = Axes;

/// Number of elements of a shape.
///
/// # Errors
/// `TooLarge` when the product overflows.
pub fn element_count(shape: &[usize]) -> Result<usize, TensorError> {
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(1usize, |product, &extent| product.checked_mul(extent))
        .ok_or(TensorError::TooLarge { bytes: u128::MAX })
}

/// Row-major strides of a shape, in elements.
pub fn strides_of(shape: &[usize]) -> Axes {
    let mut strides: Axes = smallvec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis].max(1));
    }
    strides
}

/// The shape that both shapes broadcast to (right-aligned, an extent of 1 stretches).
///
/// # Errors
/// `Broadcast` when two extents differ and neither is 1.
pub fn broadcast(a: &[usize], b: &[usize]) -> Result<Shape, TensorError> {
    let rank = a.len().max(b.len());
    let extent = |shape: &[usize], axis: usize| {
        (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis])
    };
    (0..rank)
        .map(|axis| match (extent(a, axis), extent(b, axis)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(TensorError::Broadcast { left: a.into(), right: b.into() }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_follows_the_right_edge() {
        assert_eq!(broadcast(&[2, 1, 4], &[3, 1]).unwrap()[..], [2, 3, 4]);
        assert_eq!(broadcast(&[], &[0]).unwrap()[..], [0]);
        assert!(broadcast(&[2], &[3]).is_err());
    }

    #[test]
    fn counts_are_checked() {
        assert_eq!(element_count(&[usize::MAX, 0]).unwrap(), 0);
        assert!(element_count(&[usize::MAX, 2]).is_err());
        assert_eq!(strides_of(&[2, 3, 4])[..], [12, 4, 1]);
    }
}
