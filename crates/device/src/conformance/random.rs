//! What cases are made of: a generator, arguments, nodes.

use std::cell::Cell;

use hetra_ir::{Attr, Node};
use hetra_tensor::{DType, Tensor, from_f64};

/// A small generator (splitmix64), so that a seed gives the same cases everywhere.
pub(super) struct Random(Cell<u64>);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(Cell::new(seed))
    }

    fn next(&self) -> u64 {
        let mut z = self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.0.set(z);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub(super) fn pick<T: Copy>(&self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    pub(super) fn tensor(&self, dtype: DType, shape: &[usize]) -> Tensor {
        let count: usize = shape.iter().product();
        let (low, high) = match dtype {
            DType::U8 => (0.0, 255.0),
            DType::I8 => (-128.0, 127.0),
            _ => (-2.0, 2.0),
        };
        let unit = |bits: u64| (bits >> 11) as f64 / (1u64 << 53) as f64;
        let values: Vec<f64> = (0..count).map(|_| low + (high - low) * unit(self.next())).collect();
        from_f64(dtype, shape, &values).unwrap_or_else(|_| Tensor::vector::<f32>(&[]))
    }

    pub(super) fn floats(&self, shape: &[usize]) -> Tensor {
        self.tensor(DType::F32, shape)
    }

    pub(super) fn shape(&self, rank: usize) -> Vec<usize> {
        (0..rank).map(|_| self.pick(&[1, 2, 3, 5, 8, 17])).collect()
    }
}

/// An input, and whether it is a weight.
pub(super) type Argument = (Option<Tensor>, bool);

pub(super) fn live(tensor: Tensor) -> Argument {
    (Some(tensor), false)
}

pub(super) fn weight(tensor: Tensor) -> Argument {
    (Some(tensor), true)
}

pub(super) fn node(op: &str) -> Node {
    Node::new(op, &[], &[])
}

/// A list of extents as an attribute.
pub(super) fn ints(values: &[usize]) -> Attr {
    Attr::Ints(values.iter().map(|&value| value as i64).collect())
}
