//! What a program has worked out for the last shape that it saw.

use std::sync::{Arc, Mutex, PoisonError};

use hetra_device::Part;
use hetra_ir::Node;
use hetra_tensor::Shape;

/// What follows from the shape of the first input, kept for the next run: as a rule the shape stays
/// the same, and a steady run allocates nothing.
pub(crate) struct LastShape<T>(Mutex<Option<(Shape, Arc<T>)>>);

impl<T> LastShape<T> {
    pub(crate) fn new() -> LastShape<T> {
        LastShape(Mutex::new(None))
    }

    /// What was kept for this shape.
    pub(crate) fn get(&self, shape: &[usize]) -> Option<Arc<T>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|(of, _)| **of == *shape).map(|(_, value)| value.clone())
    }

    /// Keeps this in the place of what there is.
    pub(crate) fn set(&self, shape: &[usize], value: T) -> Arc<T> {
        let value = Arc::new(value);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((shape.into(), value.clone()));
        value
    }
}

/// Whether the first input alone differs from run to run: the others are constant.
pub(crate) fn only_first_varies(part: &Part<'_>, node: &Node) -> bool {
    let constant = |index| node.input(index).is_none() || part.constant(node, index).is_some();
    (1..node.inputs.len()).all(constant)
}
