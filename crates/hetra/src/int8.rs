//! Quantises the model of a session by what its values are on calibration inputs.

use std::collections::BTreeSet;

use hetra_ir::{Graph, Node, NodeId, ValueId};
use hetra_pass::{Claim, Options, Range, Ranges};
use hetra_tensor::{DType, Value};

use crate::builder::claim;
use crate::error::Error;
use crate::precision::Inputs;
use crate::session::Session;

/// A graph before the passes, and the names of those that are off.
#[derive(Clone)]
pub(crate) struct Unfused {
    pub(crate) graph: Graph,
    pub(crate) off: BTreeSet<String>,
}

/// Products of integers, as the passes make them.
const PRODUCTS: &[&str] =
    &["hetra.QLinearConvLast", "QLinearConv", "QLinearMatMul", "com.microsoft.QGemm"];

/// Most bytes of values that one run of calibration keeps, as far as their extents are known; of
/// others, this many values.
const KEPT_BYTES: usize = 256 << 20;
const KEPT_UNKNOWN: usize = 8;
/// Most times that products without an integer kernel are left out anew.
const ROUNDS_MAX: usize = 4;

/// The labels of the products of integers.
pub(crate) fn quantised(graph: &Graph) -> Vec<String> {
    let product = |node: &&Node| PRODUCTS.contains(&node.op.as_str());
    graph.nodes.iter().filter(product).map(|node| node.label(graph)).collect()
}

/// A model that is ready to be quantised.
pub(crate) struct Calibrated<'a> {
    base: &'a Session,
    off: BTreeSet<String>,
    /// The float graph that is quantised: [`hetra_pass::float_form`].
    form: Graph,
    ranges: Ranges,
    /// The nodes of `form` for which there are integer kernels, in order.
    pub(crate) products: Vec<NodeId>,
    /// Values that were seen to be no finite numbers: their names, and in which inputs.
    pub(crate) odd: Vec<(String, usize)>,
}

impl<'a> Calibrated<'a> {
    /// Runs the model in f32 on all `calibration`, and keeps the range of each value that lies
    /// between products.
    pub(crate) fn of<'i>(
        base: &'a Session,
        unfused: &Unfused,
        calibration: impl Iterator<Item = &'i Inputs>,
    ) -> Result<Calibrated<'a>, Error> {
        let off = unfused.off.clone();
        let device = base.raw_device();
        let claims = |node: &Node, graph: &Graph| claim(device.as_ref(), node, graph);
        let options = Options { off: off.clone(), claims: &claims };
        let form = hetra_pass::float_form(&unfused.graph, &options);
        let all = hetra_pass::can_quantise(&form);
        let (ranges, odd) = (Ranges::new(), Vec::new());
        let mut calibrated = Calibrated { base, off, form, ranges, products: all, odd };
        calibrated.observe(calibration)?;
        calibrated.keep_kernels();
        Ok(calibrated)
    }

    /// The session with just these products on integers, and what lies between them.
    pub(crate) fn session(&self, nodes: &BTreeSet<NodeId>) -> Result<Session, Error> {
        let (graph, report) = self.graph(nodes);
        self.base.compiled_as(graph, report)
    }

    /// The names of these products, which they keep.
    pub(crate) fn names(&self, nodes: &BTreeSet<NodeId>) -> BTreeSet<String> {
        nodes.iter().map(|&id| self.form.node(id).label(&self.form)).collect()
    }

    fn graph(&self, nodes: &BTreeSet<NodeId>) -> (Graph, hetra_pass::Report) {
        let device = self.base.raw_device();
        let claims = |node: &Node, graph: &Graph| claim(device.as_ref(), node, graph);
        let options = Options { off: self.off.clone(), claims: &claims };
        hetra_pass::optimise(&hetra_pass::quantise(&self.form, nodes, &self.ranges), &options)
    }

    /// Leaves out the products that the passes and the device make no integer kernel of.
    fn keep_kernels(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let (graph, _) = self.graph(&self.products.iter().copied().collect());
            let device = self.base.raw_device().as_ref();
            let by_kernel = |node: &&Node| {
                PRODUCTS.contains(&node.op.as_str()) && claim(device, node, &graph) == Claim::Kernel
            };
            let nodes = graph.nodes.iter().filter(by_kernel);
            let names: BTreeSet<&str> = nodes.map(|node| node.name.as_str()).collect();
            let count = self.products.len();
            self.products.retain(|&id| names.contains(self.form.node(id).name.as_str()));
            if self.products.len() == count {
                return;
            }
        }
    }

    fn observe<'i>(&mut self, calibration: impl Iterator<Item = &'i Inputs>) -> Result<(), Error> {
        let wanted = hetra_pass::observed(&self.form, &self.products.iter().copied().collect());
        let float = self.base.compiled_as(self.form.clone(), hetra_pass::Report::default())?;
        for (index, inputs) in calibration.enumerate() {
            for ids in batches(&self.form, &wanted) {
                let values = float.run_for_values(inputs, &ids)?;
                for (&id, value) in ids.iter().zip(&values) {
                    self.saw(id, value, index);
                }
            }
        }
        Ok(())
    }

    fn saw(&mut self, id: ValueId, value: &Value, index: usize) {
        let Some(range) = range(value) else { return };
        if !range.low.is_finite() || !range.high.is_finite() {
            self.odd.push((self.form.value(id).name.clone(), index));
        }
        let range = self.ranges.get(&id).map_or(range, |old| old.joined(range));
        self.ranges.insert(id, range);
    }
}

/// The values in lists whose tensors may be kept at one time.
fn batches(graph: &Graph, ids: &[ValueId]) -> Vec<Vec<ValueId>> {
    let mut batches: Vec<Vec<ValueId>> = Vec::new();
    let mut room = 0;
    for &id in ids {
        let shape = graph.ty(id).known_shape();
        let len = shape.map(|shape| shape.iter().fold(4usize, |len, &n| len.saturating_mul(n)));
        let bytes = len.unwrap_or(KEPT_BYTES / KEPT_UNKNOWN);
        if batches.is_empty() || bytes > room {
            batches.push(Vec::new());
            room = KEPT_BYTES;
        }
        room = room.saturating_sub(bytes);
        batches.last_mut().into_iter().for_each(|batch| batch.push(id));
    }
    batches
}

/// The range of the elements of a tensor of f32; both ends are NaN where an element is. `None` for
/// others, and where there are none.
fn range(value: &Value) -> Option<Range> {
    let tensor = value.as_tensor().filter(|tensor| tensor.dtype() == DType::F32)?;
    let elements = tensor.as_slice::<f32>().ok()?;
    let first = *elements.first()?;
    let mut range = Range { low: first, high: first };
    for &x in elements {
        if x.is_nan() {
            return Some(Range { low: x, high: x });
        }
        range = range.joined(Range { low: x, high: x });
    }
    Some(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hetra_ir::Type;
    use hetra_tensor::Tensor;

    #[test]
    fn ranges_of_tensors() {
        let range = |x: &[f32]| range(&Tensor::vector(x).into()).map(|r| (r.low, r.high));
        assert_eq!(range(&[1.0, -2.0, 0.5]), Some((-2.0, 1.0)));
        assert_eq!(range(&[0.0]), Some((0.0, 0.0)));
        assert_eq!(range(&[]), None);
        assert!(
            range(&[1.0, f32::NAN, 3.0]).is_some_and(|(low, high)| low.is_nan() && high.is_nan())
        );
        assert_eq!(range(&[1.0, f32::INFINITY]), Some((1.0, f32::INFINITY)));
    }

    #[test]
    fn batches_keep_within_bounds() {
        let mut graph = Graph::default();
        let quarter = KEPT_BYTES / 16;
        let mut add = |ty| graph.add_value("v", ty);
        let known: Vec<ValueId> =
            (0..5).map(|_| add(Type::tensor(DType::F32, &[quarter]))).collect();
        let large = add(Type::tensor(DType::F32, &[KEPT_BYTES]));
        let unknown: Vec<ValueId> = (0..9).map(|_| add(Type::unranked(DType::F32))).collect();
        let lengths =
            |ids: &[ValueId]| batches(&graph, ids).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&known), [4, 1]);
        assert_eq!(lengths(&unknown), [8, 1]);
        assert_eq!(lengths(&[known[0], large, known[1]]), [1, 1, 1]);
        assert!(batches(&graph, &[]).is_empty());
    }
}
