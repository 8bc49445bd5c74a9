//! A graph cut into parts, each for one device.
//!
//! What comes of it is a graph of `hetra.Part` nodes: the text form of a placement. The bodies hold
//! the nodes as they were, with the constants that they read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hetra_ir::{Graph, Node, NodeId, ValueId};
use hetra_ops::{PART, PART_BODY, PART_DEVICE};

use crate::optimise::{Claim, Options, optimise};
use crate::table::PASSES;

/// An attribute of a part beside those of its row: the same nodes for the host, which runs them
/// when the part's own device does not.
pub const PART_SPARE: &str = "spare";

/// The passes of [`portable`].
const PORTABLE: [&str; 5] = ["noop", "fold", "branch", "dead_code", "cse"];

/// The same graph without what no device need do: constants that can be known now, nodes that do
/// nothing or that nobody reads. Whatever is left are operators of ONNX, as any device reads them.
pub fn portable(graph: &Graph) -> Graph {
    // Folded, weights of 8 bits would be floats.
    let quantised = graph.nodes.iter().any(|node| node.op == "DequantizeLinear");
    let kept = |name: &str| PORTABLE.contains(&name) && !(quantised && name == "fold");
    let names = PASSES.iter().map(|pass| pass.name).filter(|name| !kept(name));
    let off = names.map(str::to_string).collect();
    optimise(graph, &Options { off, claims: &|_, _| Claim::No }).0
}

/// A graph whose nodes are in one part, for a device.
pub fn whole(graph: &Graph, device: &str) -> Graph {
    cut(graph, &vec![0; graph.nodes.len()], &[device])
}

/// Cuts a graph: `choice` is the place of each node's device in `devices`. There are as few parts
/// as there can be without one that waits, or lets others wait, for what it would not have to.
///
/// # Panics
/// When there is not a choice for each node, or it is none of the devices.
pub fn cut(graph: &Graph, choice: &[usize], devices: &[&str]) -> Graph {
    assert_eq!(choice.len(), graph.nodes.len(), "a device for each node");
    let parts = parts(graph, choice);
    let mut cutter = Cutter { graph, outer: Graph::default(), known: BTreeMap::new() };
    cutter.outer.name.clone_from(&graph.name);
    for &input in &graph.inputs {
        let id = cutter.keep(input);
        cutter.outer.inputs.push(id);
    }
    let mut group = vec![0; graph.nodes.len()];
    for (index, part) in parts.iter().enumerate() {
        part.iter().for_each(|id| group[id.index()] = index);
    }
    let wanted = leaving(graph, &group);
    for (index, part) in parts.iter().enumerate() {
        let device = devices[choice[part[0].index()]];
        cutter.part(index, part, device, &wanted);
    }
    for &output in &graph.outputs {
        let id = cutter.keep(output);
        cutter.outer.outputs.push(id);
    }
    cutter.outer
}

/// Which of the nodes on borders a node is behind, and which are behind it: those of other devices
/// that give a value to another device, and those that take one.
type Border = Vec<u64>;

/// The nodes of each part, parts and nodes in an order in which they can run.
///
/// Nodes of a device are of one part where they wait for the same of other devices, and the same of
/// other devices waits for them: so nobody waits longer than it must. Between two such nodes no way
/// leads over another device (what is on it would be behind the second one and not behind the
/// first), so parts wait for each other in no circle.
fn parts(graph: &Graph, choice: &[usize]) -> Vec<Vec<NodeId>> {
    let producers = graph.producers();
    let reads = |node: &Node| -> BTreeSet<usize> {
        node.uses().filter_map(|value| Some(producers[value.index()]?.index())).collect()
    };
    let reads: Vec<BTreeSet<usize>> = graph.nodes.iter().map(reads).collect();
    let (before, behind) = borders(&reads, choice);
    let mut of = BTreeMap::new();
    let mut parts: Vec<Vec<NodeId>> = Vec::new();
    let mut part_of = Vec::new();
    for (id, _) in graph.nodes() {
        let key = (choice[id.index()], &before[id.index()], &behind[id.index()]);
        let part = *of.entry(key).or_insert_with(|| {
            parts.push(Vec::new());
            parts.len() - 1
        });
        parts[part].push(id);
        part_of.push(part);
    }
    let waits = |part: &Vec<NodeId>| -> BTreeSet<usize> {
        let from = part.iter().flat_map(|id| &reads[id.index()]).map(|&node| part_of[node]);
        from.filter(|&from| from != part_of[part[0].index()]).collect()
    };
    let waits = parts.iter().map(waits).collect();
    in_order(parts, waits)
}

fn borders(reads: &[BTreeSet<usize>], choice: &[usize]) -> (Vec<Border>, Vec<Border>) {
    let crossing = |gives: bool| -> BTreeMap<usize, usize> {
        let edges =
            reads.iter().enumerate().flat_map(|(to, from)| from.iter().map(move |&f| (f, to)));
        let crossing = edges.filter(|&(from, to)| choice[from] != choice[to]);
        let nodes: BTreeSet<usize> =
            crossing.map(|(from, to)| if gives { from } else { to }).collect();
        nodes.into_iter().zip(0..).collect()
    };
    let (gives, takes) = (crossing(true), crossing(false));
    let empty =
        |bits: &BTreeMap<usize, usize>| vec![vec![0u64; bits.len().div_ceil(64)]; reads.len()];
    let (mut before, mut behind) = (empty(&gives), empty(&takes));
    let set = |border: &mut Border, bit: usize| border[bit / 64] |= 1 << (bit % 64);
    let join = |all: &mut [Border], into: usize, from: usize| {
        let other = all[from].clone();
        all[into].iter_mut().zip(other).for_each(|(into, other)| *into |= other);
    };
    for (to, from) in reads.iter().enumerate() {
        for &from in from {
            join(&mut before, to, from);
            if let Some(&bit) = gives.get(&from) {
                set(&mut before[to], bit);
            }
        }
    }
    for (to, from) in reads.iter().enumerate().rev() {
        for &from in from {
            join(&mut behind, from, to);
            if let Some(&bit) = takes.get(&to) {
                set(&mut behind[from], bit);
            }
        }
    }
    // What is on a node's own device does not keep it apart from others there.
    for (node, &device) in choice.iter().enumerate() {
        for (borders, bits) in [(&mut before, &gives), (&mut behind, &takes)] {
            for (_, &bit) in bits.iter().filter(|(other, _)| choice[**other] == device) {
                borders[node][bit / 64] &= !(1 << (bit % 64));
            }
        }
    }
    (before, behind)
}

/// Parts behind those that they wait for, else in the order of their first nodes.
fn in_order(mut parts: Vec<Vec<NodeId>>, waits: Vec<BTreeSet<usize>>) -> Vec<Vec<NodeId>> {
    let mut left: Vec<usize> = waits.iter().map(BTreeSet::len).collect();
    let mut ready: BTreeSet<usize> = (0..parts.len()).filter(|&part| left[part] == 0).collect();
    let mut order = Vec::with_capacity(parts.len());
    while let Some(part) = ready.pop_first() {
        order.push(std::mem::take(&mut parts[part]));
        for (later, waits) in waits.iter().enumerate().filter(|(_, waits)| waits.contains(&part)) {
            left[later] -= 1;
            if left[later] == 0 {
                debug_assert!(waits.len() <= parts.len());
                ready.insert(later);
            }
        }
    }
    order
}

/// The values that leave the graph, or the group of nodes that they are made in; `group` is that of
/// each node.
pub fn leaving(graph: &Graph, group: &[usize]) -> BTreeSet<ValueId> {
    let producers = graph.producers();
    let mut leaving: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
    for (id, node) in graph.nodes() {
        let away = |value: &ValueId| {
            producers[value.index()].is_some_and(|from| group[from.index()] != group[id.index()])
        };
        leaving.extend(node.uses().filter(away));
    }
    leaving
}

struct Cutter<'a> {
    graph: &'a Graph,
    outer: Graph,
    /// The values of the graph that stand in the outer one.
    known: BTreeMap<ValueId, ValueId>,
}

impl Cutter<'_> {
    /// The value in the outer graph.
    fn keep(&mut self, value: ValueId) -> ValueId {
        if let Some(&id) = self.known.get(&value) {
            return id;
        }
        let info = self.graph.value(value);
        let id = self.outer.add_value(&info.name, info.ty.clone());
        if let Some(constant) = self.graph.constants.get(&value) {
            self.outer.constants.insert(id, constant.clone());
        }
        self.known.insert(value, id);
        id
    }

    fn part(&mut self, index: usize, nodes: &[NodeId], device: &str, wanted: &BTreeSet<ValueId>) {
        let Extract { mut graph, inputs, outputs } = extract(self.graph, nodes, wanted);
        graph.name = format!("part{index}");
        let inputs: Vec<ValueId> = inputs.into_iter().map(|value| self.keep(value)).collect();
        let outputs: Vec<ValueId> = outputs.into_iter().map(|value| self.keep(value)).collect();
        let mut node = Node::new(PART, &inputs, &outputs);
        node.name = format!("part{index}");
        node.attrs.set(PART_BODY, Arc::new(graph));
        node.attrs.set(PART_DEVICE, device);
        self.outer.nodes.push(node);
    }
}

/// Some nodes of a graph as a graph by themselves.
#[derive(Clone, Debug)]
pub struct Extract {
    /// The graph; the constants that its nodes read are its own.
    pub graph: Graph,
    /// What its inputs are in the graph that it is taken from.
    pub inputs: Vec<ValueId>,
    /// The same of its outputs.
    pub outputs: Vec<ValueId>,
}

/// Takes nodes, in order, out of a graph; outputs are those of their values that are `wanted`.
pub fn extract(graph: &Graph, nodes: &[NodeId], wanted: &BTreeSet<ValueId>) -> Extract {
    let mut body = Graph { name: graph.name.clone(), ..Graph::default() };
    let mut inside: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for &id in nodes {
        let mut node = graph.node(id).clone();
        for value in node.uses().collect::<Vec<_>>() {
            if inside.contains_key(&value) {
                continue;
            }
            let info = graph.value(value);
            let here = body.add_value(&info.name, info.ty.clone());
            inside.insert(value, here);
            match graph.constants.get(&value).filter(|_| !graph.inputs.contains(&value)) {
                Some(constant) => drop(body.constants.insert(here, constant.clone())),
                None => {
                    body.inputs.push(here);
                    inputs.push(value);
                }
            }
        }
        node.map_uses(|value| inside[&value]);
        for output in node.outputs.iter_mut().flatten() {
            let info = graph.value(*output);
            let here = body.add_value(&info.name, info.ty.clone());
            inside.insert(*output, here);
            if wanted.contains(output) {
                body.outputs.push(here);
                outputs.push(*output);
            }
            *output = here;
        }
        body.nodes.push(node);
    }
    Extract { graph: body, inputs, outputs }
}

#[cfg(test)]
mod tests {
    use hetra_ir::{Builder, print, verify};
    use hetra_ops::interpret;
    use hetra_tensor::{DType, Tensor, Value};

    use super::*;

    /// x -> a -> b -> d, x -> c -> d, and weights; e is d again.
    fn diamond() -> Graph {
        let mut b = Builder::new("diamond");
        let x = b.input("x", DType::F32, vec![2usize.into()]);
        let w = b.constant("w", Tensor::vector(&[3f32, 4.0]));
        let a = b.op("Mul", &[x, w]);
        let left = b.op("Relu", &[a]);
        let right = b.op("Neg", &[x]);
        let d = b.op("Add", &[left, right]);
        let e = b.op("Mul", &[d, w]);
        b.output(e);
        b.output(a);
        b.finish()
    }

    fn check(choice: &[usize], parts: usize) {
        let graph = diamond();
        let cut = cut(&graph, choice, &["cpu", "gpu"]);
        verify(&cut).unwrap();
        assert_eq!(cut.nodes.len(), parts, "{}", print(&cut));
        let x = || vec![Value::from(Tensor::vector(&[1f32, -2.0]))];
        let run = |graph: &Graph| interpret(graph, x(), &|_| None).unwrap();
        assert_eq!(run(&cut), run(&graph));
        for node in &cut.nodes {
            assert!(node.attrs.graphs().all(|(_, body)| verify(body).is_ok()));
        }
    }

    #[test]
    fn what_is_portable_has_the_names_of_passes() {
        assert!(PORTABLE.iter().all(|name| PASSES.iter().any(|pass| pass.name == *name)));
        let mut b = Builder::new("g");
        let x = b.input("x", DType::F32, vec![2usize.into()]);
        let w = b.constant("w", Tensor::vector(&[3f32, 4.0]));
        let w2 = b.op("Neg", &[w]);
        let y = b.op("Identity", &[x]);
        let z = b.op("Mul", &[y, w2]);
        let z = b.op("Relu", &[z]);
        b.output(z);
        let ops: Vec<String> =
            portable(&b.finish()).nodes.into_iter().map(|node| node.op).collect();
        assert_eq!(ops, ["Mul", "Relu"]);
    }

    #[test]
    fn every_choice_computes_the_same() {
        for code in 0..32 {
            let choice: Vec<usize> = (0..5).map(|node| code >> node & 1).collect();
            let cut = cut(&diamond(), &choice, &["cpu", "gpu"]);
            check(&choice, cut.nodes.len());
            // Each node is there once.
            let nodes: usize = cut
                .nodes
                .iter()
                .flat_map(|node| node.attrs.graphs())
                .map(|(_, body)| body.nodes.len())
                .sum();
            assert_eq!(nodes, 5);
        }
    }

    #[test]
    fn nobody_waits_for_what_it_does_not_need() {
        check(&[0; 5], 1);
        check(&[1; 5], 1);
        // Relu elsewhere: Mul is not held up by Neg, which nobody there waits for, and the rest
        // waits for Relu.
        check(&[0, 1, 0, 0, 0], 4);
        // The branches on two devices, and what joins them.
        check(&[0, 0, 1, 0, 0], 3);
        check(&[0, 1, 1, 1, 0], 4);
    }
}
