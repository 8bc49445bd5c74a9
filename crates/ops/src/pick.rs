//! A tensor made of chosen places along every axis: what padding, cropping and nearest-neighbour
//! resizing have in common.

use hetra_tensor::{Tensor, TensorError, bytes_max, element_count, strides_of};

use crate::elements::{assemble, volume};
use crate::error::OpError;

/// A place that is not in the source: the fill value stands there.
pub(crate) const OUTSIDE: usize = usize::MAX;

/// Consecutive places of an axis: `len` of them from `from` of the source to `to` of the result.
struct Stretch {
    from: usize,
    to: usize,
    len: usize,
}

/// Element `i, j, ..` of the result is `source[places[0][i], places[1][j], ..]`, or `fill` (zero
/// without it) where any place is [`OUTSIDE`]. There must be places for each axis, in range.
pub(crate) fn pick(
    tensor: &Tensor,
    places: &[Vec<usize>],
    fill: Option<&Tensor>,
) -> Result<Tensor, OpError> {
    let shape: Vec<usize> = places.iter().map(Vec::len).collect();
    let same = |axis: usize| {
        let all = &places[axis];
        all.len() == tensor.shape()[axis] && all.iter().enumerate().all(|(at, &place)| at == place)
    };
    let Some(last) = (0..shape.len()).rev().find(|&axis| !same(axis)) else {
        return Ok(tensor.clone());
    };
    let block: usize = volume(&shape[last + 1..]);
    let stretches = stretches(&places[last], block);
    let strides = strides_of(tensor.shape());
    let rows = element_count(&shape[..last])?;
    let row_len: usize = volume(&shape[last..]);
    let sources: Vec<&Tensor> = std::iter::once(tensor).chain(fill).collect();
    assemble(tensor.dtype(), &shape, &sources, |runs| {
        if fill.is_some() && places.iter().flatten().any(|&place| place == OUTSIDE) {
            runs.fill(1, 0, 0, rows * row_len);
        }
        let mut index = vec![0usize; last];
        for row in 0..rows {
            let mut base = Some(0);
            for (axis, &at) in index.iter().enumerate() {
                let place = places[axis][at];
                base = base.filter(|_| place != OUTSIDE).map(|sum| sum + place * strides[axis]);
            }
            if let Some(base) = base {
                for stretch in &stretches {
                    let to = row * row_len + stretch.to;
                    runs.copy(0, base + stretch.from, to, stretch.len);
                }
            }
            for axis in (0..last).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
    })
}

/// The places inside as runs of blocks of `block` elements.
fn stretches(places: &[usize], block: usize) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for (at, &place) in places.iter().enumerate().filter(|(_, place)| **place != OUTSIDE) {
        let (from, to) = (place * block, at * block);
        match stretches.last_mut() {
            Some(last) if last.from + last.len == from && last.to + last.len == to => {
                last.len += block;
            }
            _ => stretches.push(Stretch { from, to, len: block }),
        }
    }
    stretches
}

/// The memory limit for a tensor like `tensor` of this shape, before lists of places are made
/// for it. `true` when it has elements at all.
pub(crate) fn check_size(tensor: &Tensor, shape: &[usize]) -> Result<bool, OpError> {
    let count = element_count(shape)?;
    let bytes = count as u128 * tensor.dtype().bits().max(8) as u128 / 8;
    if bytes > bytes_max() as u128 {
        return Err(TensorError::TooLarge { bytes }.into());
    }
    Ok(count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_fill() {
        let tensor = Tensor::from_slice(&[2, 3], &[1i32, 2, 3, 4, 5, 6]).unwrap();
        let check = |rows: &[usize], columns: &[usize], wanted: &[i32]| {
            let fill = Tensor::scalar(9i32);
            let places = [rows.to_vec(), columns.to_vec()];
            let picked = pick(&tensor, &places, Some(&fill)).unwrap();
            assert_eq!(picked.as_slice::<i32>().unwrap(), wanted);
            assert_eq!(picked.shape(), [rows.len(), columns.len()]);
        };
        check(&[1, 0], &[0, 1, 2], &[4, 5, 6, 1, 2, 3]);
        check(&[OUTSIDE, 1], &[2, 2], &[9, 9, 6, 6]);
        check(&[0, 1], &[1, 2, OUTSIDE], &[2, 3, 9, 5, 6, 9]);
        check(&[0, 1], &[0, 1, 2], &[1, 2, 3, 4, 5, 6]);
        check(&[], &[0], &[]);
    }
}
