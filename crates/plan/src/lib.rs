//! Graph and placement to plan: nothing is left to decide.
//!
//! A [`Plan`] is made for the types of one set of inputs. It says which nodes run and in which
//! order, which value lives in which memory slot, which output may be written over an input, and
//! when each value dies. Values that are known before the run (shapes, folded constants) stand in
//! it. Where an extent depends on data, the value has no slot and gets memory at run time.
//!
//! Pure: no clock, thread or device handle.

mod build;
mod memory;
mod text;

pub use build::{Hints, build};
pub use memory::{Lifetime, assign};
pub use text::print;

use std::collections::BTreeMap;

use hetra_ir::{NodeId, Type, ValueId};
use hetra_tensor::Value;

/// What one device does in one go.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The node to run.
    pub node: NodeId,
    /// The memory slot of each output; `None` where the size is open, the output is a view of an
    /// input, or the value leaves the run.
    pub slots: Vec<Option<usize>>,
    /// Output 0 is written over this input.
    pub in_place: Option<usize>,
    /// Values that nobody reads after this step.
    pub release: Vec<ValueId>,
}

/// Everything that a run needs to know.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Steps, in order.
    pub steps: Vec<Step>,
    /// Bytes of each memory slot.
    pub slots: Vec<usize>,
    /// The slot that a value's memory goes back to when it dies, by `ValueId`.
    pub home: Vec<Option<usize>>,
    /// What the run gives.
    pub outputs: Vec<ValueId>,
    /// Type of each value at these inputs, by `ValueId`.
    pub types: Vec<Type>,
    /// Values that are known before the run.
    pub known: BTreeMap<ValueId, Value>,
}

impl Plan {
    /// Bytes of all slots: the memory for intermediate values whose sizes are known.
    pub fn slot_bytes(&self) -> usize {
        self.slots.iter().sum()
    }
}
