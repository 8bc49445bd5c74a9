//! What cases are made of: a generator, arguments, nodes.

use std::cell::RefCell;

use hetra_ir::{Attr, Node};
use hetra_tensor::{DType, Tensor, from_f64};

/// A generator that may be drawn from while it is shared: a seed gives the same cases everywhere.
pub(super) struct Random(RefCell<crate::Random>);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(RefCell::new(crate::Random::new(seed)))
    }

    pub(super) fn below(&self, bound: usize) -> usize {
        self.0.borrow_mut().index(bound)
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
        let mut random = self.0.borrow_mut();
        let values: Vec<f64> = (0..count).map(|_| low + (high - low) * random.unit()).collect();
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
