//! Builds a plan from a graph and the types of its inputs.

use std::collections::BTreeSet;

use hetra_ir::{Graph, Node, NodeId, Type, ValueId};
use hetra_ops::{Kind, NodeError, find};
use hetra_pass::{Inferred, infer};
use hetra_tensor::element_count;

use crate::memory::{Lifetime, assign};
use crate::{Plan, Step};

/// What the programs of the nodes allow.
pub trait Hints {
    /// Whether output 0 of the node will be written over its input `index`, where its inputs have
    /// these types.
    fn in_place(&self, node: NodeId, index: usize, types: &[Option<&Type>]) -> bool;
}

/// Builds the plan that makes `outputs` from inputs (and captures) of these types.
///
/// # Errors
/// The first node whose arguments contradict its operator.
pub fn build(
    graph: &Graph,
    inputs: &[Type],
    captures: &[Type],
    outputs: &[ValueId],
    hints: &dyn Hints,
) -> Result<Plan, NodeError> {
    let inferred = infer(graph, inputs, captures)?;
    let live = needed(graph, outputs, &inferred);
    let mut planner = Planner::new(graph, outputs, &inferred, &live);
    planner.follow_views();
    planner.find_last_reads();
    planner.write_over(hints);
    let (home, slots) = planner.slots();
    let steps = planner.steps(&home);
    let outputs = outputs.to_vec();
    Ok(Plan { steps, slots, home, outputs, types: inferred.types, known: inferred.known })
}

/// Nodes that must run: those that an output depends on and that are not known already.
fn needed(graph: &Graph, outputs: &[ValueId], inferred: &Inferred) -> Vec<NodeId> {
    let mut wanted: BTreeSet<ValueId> = outputs.iter().copied().collect();
    let mut live = Vec::new();
    for (id, node) in graph.nodes().collect::<Vec<_>>().into_iter().rev() {
        let open = |value: ValueId| wanted.contains(&value) && !inferred.known.contains_key(&value);
        if node.defs().any(open) {
            live.push(id);
            wanted.extend(node.uses());
        }
    }
    live.reverse();
    live
}

struct Planner<'a> {
    graph: &'a Graph,
    outputs: &'a [ValueId],
    inferred: &'a Inferred,
    live: &'a [NodeId],
    /// The value whose memory a value uses: itself, or what it views or overwrites.
    root: Vec<ValueId>,
    /// Last step that reads the memory of a root; `usize::MAX` when it leaves the run.
    last: Vec<usize>,
    /// Defined by a step of this plan.
    computed: Vec<bool>,
    in_place: Vec<Option<usize>>,
}

impl<'a> Planner<'a> {
    fn new(
        graph: &'a Graph,
        outputs: &'a [ValueId],
        inferred: &'a Inferred,
        live: &'a [NodeId],
    ) -> Planner<'a> {
        let mut computed = vec![false; graph.values.len()];
        for &id in live {
            graph.node(id).defs().for_each(|value| computed[value.index()] = true);
        }
        Planner {
            graph,
            outputs,
            inferred,
            live,
            root: (0..graph.values.len() as u32).map(ValueId).collect(),
            last: vec![0; graph.values.len()],
            computed,
            in_place: vec![None; live.len()],
        }
    }

    fn follow_views(&mut self) {
        for &id in self.live {
            let node = self.graph.node(id);
            let view = find(&node.op).is_some_and(|def| def.kind == Kind::View);
            if view && let (Some(from), Some(to)) = (node.input(0), node.output(0)) {
                self.root[to.index()] = self.root[from.index()];
            }
        }
    }

    fn find_last_reads(&mut self) {
        for (step, &id) in self.live.iter().enumerate() {
            let node = self.graph.node(id);
            for value in node.uses().chain(node.defs()) {
                let root = self.root[value.index()];
                self.last[root.index()] = self.last[root.index()].max(step);
            }
        }
        for &output in self.outputs {
            self.last[self.root[output.index()].index()] = usize::MAX;
        }
    }

    /// Bytes of a value whose shape is known and whose memory the plan may place.
    fn bytes(&self, value: ValueId) -> Option<usize> {
        let ty = &self.inferred.types[value.index()];
        let (dtype, shape) = (ty.dtype()?, ty.known_shape()?);
        let bytes = dtype.bytes(element_count(&shape).ok()?)?;
        (dtype.bits() > 0).then_some(bytes)
    }

    /// Lets an output take over the memory of an input that dies at the same step.
    fn write_over(&mut self, hints: &dyn Hints) {
        for step in 0..self.live.len() {
            let id = self.live[step];
            let node = self.graph.node(id);
            let Some(output) = node.output(0) else { continue };
            if self.root[output.index()] != output {
                continue;
            }
            let ty = |input: &Option<ValueId>| input.map(|id| &self.inferred.types[id.index()]);
            let types: Vec<Option<&Type>> = node.inputs.iter().map(ty).collect();
            let chosen = (0..node.inputs.len()).find(|&index| {
                self.may_take(node, index, output, step) && hints.in_place(id, index, &types)
            });
            let Some(index) = chosen else { continue };
            let Some(input) = node.input(index) else { continue };
            let root = self.root[input.index()];
            self.in_place[step] = Some(index);
            self.last[root.index()] = self.last[output.index()];
            for value in &mut self.root {
                if *value == output {
                    *value = root;
                }
            }
        }
    }

    fn may_take(&self, node: &Node, index: usize, output: ValueId, step: usize) -> bool {
        let Some(input) = node.input(index) else { return false };
        let root = self.root[input.index()];
        let once = node.uses().filter(|&value| self.root[value.index()] == root).count() == 1;
        let types = &self.inferred.types;
        once && self.computed[root.index()]
            && self.last[root.index()] == step
            && self.last[output.index()] != usize::MAX
            && self.bytes(input).is_some()
            && types[input.index()] == types[output.index()]
    }

    /// The slot of each value, and the bytes of each slot.
    fn slots(&self) -> (Vec<Option<usize>>, Vec<usize>) {
        let mut lives = Vec::new();
        let mut values = Vec::new();
        for (step, &id) in self.live.iter().enumerate() {
            for value in self.graph.node(id).defs() {
                let own = self.root[value.index()] == value;
                let last = self.last[value.index()];
                if own
                    && last != usize::MAX
                    && let Some(bytes) = self.bytes(value)
                {
                    lives.push(Lifetime { bytes, first: step, last });
                    values.push(value);
                }
            }
        }
        let (of, slots) = assign(&lives);
        let mut home = vec![None; self.graph.values.len()];
        for (value, slot) in values.into_iter().zip(of) {
            home[value.index()] = Some(slot);
        }
        for index in 0..home.len() {
            home[index] = home[self.root[index].index()];
        }
        (home, slots)
    }

    fn steps(&self, home: &[Option<usize>]) -> Vec<Step> {
        let mut last_use = vec![None; self.graph.values.len()];
        for (step, &id) in self.live.iter().enumerate() {
            let node = self.graph.node(id);
            node.uses().chain(node.defs()).for_each(|value| last_use[value.index()] = Some(step));
        }
        self.outputs.iter().for_each(|output| last_use[output.index()] = None);
        let mut release = vec![Vec::new(); self.live.len()];
        for (index, step) in last_use.into_iter().enumerate() {
            if let Some(step) = step {
                release[step].push(ValueId(index as u32));
            }
        }
        let make = |(step, &id): (usize, &NodeId)| Step {
            node: id,
            slots: self
                .graph
                .node(id)
                .outputs
                .iter()
                .map(|output| {
                    let output = (*output)?;
                    let own = self.root[output.index()] == output;
                    own.then(|| home[output.index()]).flatten()
                })
                .collect(),
            in_place: self.in_place[step],
            release: release[step].clone(),
        };
        self.live.iter().enumerate().map(make).collect()
    }
}
