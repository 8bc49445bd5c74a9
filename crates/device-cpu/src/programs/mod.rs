//! Which kernel runs which operator: binds nodes and tensors to the loops in `kernels`.
//!
//! A program is a closure that resolves its node's shapes at run time and calls a kernel. Where
//! the arguments are outside what the kernel does (another dtype, a rare form), it gives `None`
//! and the reference runs: the result is right either way.

mod attention;
mod binary;
mod codes;
mod conv;
mod conv_transpose;
mod extents;
mod matmul;
mod movement;
mod norm;
mod pointwise;
mod pool;
mod quantised;
mod reduce;

use std::sync::Arc;

use hetra_device::{Call, Part, Program};
use hetra_ir::{Graph, Node};
use hetra_ops::OpError;
use hetra_tensor::Value;

/// Builds the program of a node; `None` when the kernel does not do this form of it.
type Compile = fn(&Part<'_>, &Node) -> Option<Arc<dyn Program>>;

/// Every operator that has kernels, by family.
static TABLES: &[&[(&str, Compile)]] = &[
    attention::OPS,
    binary::OPS,
    codes::OPS,
    conv::OPS,
    conv_transpose::OPS,
    matmul::OPS,
    movement::OPS,
    norm::OPS,
    pointwise::OPS,
    pool::OPS,
    quantised::OPS,
    reduce::OPS,
];

fn find(op: &str) -> Option<Compile> {
    TABLES.iter().copied().flatten().find(|(name, _)| *name == op).map(|(_, compile)| *compile)
}

/// Whether there is a kernel for this operator.
pub(crate) fn claims(node: &Node, _: &Graph) -> bool {
    find(&node.op).is_some()
}

/// The program of a node, if a kernel does this form of it.
pub(crate) fn compile(part: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    find(&node.op).and_then(|compile| compile(part, node))
}

/// What a kernel gives: its outputs, or `None` when the reference has to run.
pub(crate) type Outcome = Result<Option<Vec<Value>>, OpError>;

/// A program made of a closure.
struct Fast<F> {
    name: String,
    in_place: &'static [usize],
    run: F,
}

impl<F: Fn(&mut Call<'_>) -> Outcome + Send + Sync> Program for Fast<F> {
    fn run(&self, mut call: Call<'_>) -> Result<Vec<Value>, OpError> {
        match (self.run)(&mut call)? {
            Some(values) => Ok(values),
            None => {
                call.fell_back.set(true);
                call.reference()
            }
        }
    }

    fn kernel(&self) -> &str {
        &self.name
    }

    fn in_place(&self, index: usize) -> bool {
        self.in_place.contains(&index)
    }
}

/// A program that runs `run`; `in_place` are the inputs that output 0 may be written over.
pub(crate) fn program<F>(name: &str, in_place: &'static [usize], run: F) -> Option<Arc<dyn Program>>
where
    F: Fn(&mut Call<'_>) -> Outcome + Send + Sync + 'static,
{
    let isa = format!("{:?}", crate::kernels::isa::isa()).to_lowercase();
    Some(Arc::new(Fast { name: format!("{name} {isa}"), in_place, run }))
}
