//! Several models, and what stands between them, as one graph: [`Pipeline::graph`] with [`runner`].

pub use hetra_pipeline::*;

use hetra_ir::Graph;
use hetra_tensor::Tensor;

use crate::session::Session;

/// Runs models on the processor.
pub fn runner(graph: &Graph) -> Option<Run> {
    let name = graph.value(*graph.inputs.first()?).name.clone();
    let session = Session::builder().graph(graph.clone()).build().ok()?;
    Some(Box::new(move |input: Tensor| {
        let outputs = session.run([(name.as_str(), input)]).ok()?;
        Some(outputs.iter().map(|(_, value)| value.clone()).collect())
    }))
}
