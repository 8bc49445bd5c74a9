//! Edits a graph in place: what passes are given.
//!
//! The editor keeps, for each value, the node that makes it and the nodes that read it. Nodes are
//! never moved while a pass runs: new ones are anchored before an old one, removed ones are
//! marked, and [`Editor::finish`] puts the order right.

use hetra_ir::{Dim, Graph, Node, Type, ValueId};
use hetra_ops::{Kind, find};
use hetra_tensor::{DType, Tensor, Value};

use crate::optimise::{Claim, Options};
use crate::report::Report;

/// Most sweeps of one rule over a graph: each one feeds on what the last one made.
const SWEEPS_MAX: usize = 16;

/// Whether dims are known to broadcast to others without stretching those.
pub(crate) fn broadcasts_to(small: &[Dim], big: &[Dim]) -> bool {
    let fits = |(s, b): (&Dim, &Dim)| *s == Dim::Known(1) || (s == b && *s != Dim::Unknown);
    small.len() <= big.len() && small.iter().rev().zip(big.iter().rev()).all(fits)
}

/// A graph that is being rewritten by one pass.
pub struct Editor<'a> {
    graph: Graph,
    options: &'a Options<'a>,
    report: &'a mut Report,
    pass: &'static str,
    /// Node that makes each value.
    producers: Vec<Option<usize>>,
    /// Nodes that read each value, once for each reading.
    users: Vec<Vec<usize>>,
    /// Whether each value is an input (one with a default is not a constant).
    inputs: Vec<bool>,
    dead: Vec<bool>,
    /// Old nodes stand at their index; a new one stands before the node that it names.
    anchors: Vec<usize>,
    /// Number of old nodes.
    old: usize,
}

impl<'a> Editor<'a> {
    pub(crate) fn new(
        graph: Graph,
        pass: &'static str,
        options: &'a Options<'a>,
        report: &'a mut Report,
    ) -> Editor<'a> {
        let mut users = vec![Vec::new(); graph.values.len()];
        for (at, node) in graph.nodes.iter().enumerate() {
            node.uses().for_each(|value| users[value.index()].push(at));
        }
        let mut inputs = vec![false; graph.values.len()];
        graph.inputs.iter().for_each(|id| inputs[id.index()] = true);
        let producers =
            graph.producers().into_iter().map(|node| node.map(|id| id.index())).collect();
        let dead = vec![false; graph.nodes.len()];
        let old = graph.nodes.len();
        let anchors = (0..old).collect();
        Editor { graph, options, report, pass, producers, users, inputs, dead, anchors, old }
    }

    /// The edited graph: nodes in their old order, each new one before the node it was made for,
    /// but always behind those that feed it.
    pub(crate) fn finish(mut self) -> Graph {
        let mut wanted = self.live();
        wanted.sort_by_key(|&at| (self.anchors[at], at < self.old, at));
        let mut nodes: Vec<Option<Node>> =
            std::mem::take(&mut self.graph.nodes).into_iter().map(Some).collect();
        for first in wanted {
            let mut stack = vec![first];
            while let Some(&at) = stack.last() {
                let feeds = nodes[at].iter().flat_map(Node::uses);
                let mut feeds = feeds.filter_map(|value| self.producers[value.index()]);
                // A node that feeds itself would be a fault of a pass; `verify` reports it.
                let missing = feeds.find(|&feed| nodes[feed].is_some() && !stack.contains(&feed));
                drop(feeds);
                match missing {
                    Some(feed) => stack.push(feed),
                    None => {
                        stack.pop();
                        self.graph.nodes.extend(nodes[at].take());
                    }
                }
            }
        }
        self.graph
    }

    /// The graph as it is now. Its nodes are not in order, and some of them are removed.
    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// For passes that edit constants, captures and bodies themselves.
    pub(crate) fn graph_mut(&mut self) -> &mut Graph {
        &mut self.graph
    }

    /// Calls `rule` for each node until it changes nothing more. The rule says whether it did.
    pub(crate) fn sweep(&mut self, rule: impl Fn(&mut Editor<'a>, usize) -> bool) {
        for _ in 0..SWEEPS_MAX {
            let mut changed = false;
            for at in 0..self.graph.nodes.len() {
                changed |= !self.dead[at] && rule(self, at);
            }
            if !changed {
                return;
            }
        }
    }

    /// The node at this place.
    pub(crate) fn node(&self, at: usize) -> &Node {
        &self.graph.nodes[at]
    }

    /// Whether the node at this place is one of these operators.
    pub(crate) fn is(&self, at: usize, op: &str) -> bool {
        !self.dead[at] && self.graph.nodes[at].op == op
    }

    /// Whether the node at this place is there.
    pub(crate) fn is_live(&self, at: usize) -> bool {
        !self.dead[at]
    }

    /// All places of nodes that are there.
    pub(crate) fn live(&self) -> Vec<usize> {
        (0..self.graph.nodes.len()).filter(|&at| !self.dead[at]).collect()
    }

    /// Input `index` of the node at this place.
    pub(crate) fn input(&self, at: usize, index: usize) -> Option<ValueId> {
        self.graph.nodes[at].input(index)
    }

    /// The only output of the node that anything may read: the others are left out.
    pub(crate) fn sole_output(&self, at: usize) -> Option<ValueId> {
        let node = &self.graph.nodes[at];
        let rest = node.outputs.iter().skip(1).flatten();
        let unread = |id: &ValueId| self.users[id.index()].is_empty() && !self.is_output(*id);
        node.output(0).filter(|_| rest.copied().all(|id| unread(&id)))
    }

    /// The node that makes a value.
    pub(crate) fn producer(&self, value: ValueId) -> Option<usize> {
        self.producers[value.index()]
    }

    /// The node that makes a value, if it is of this operator.
    pub(crate) fn made_by(&self, value: ValueId, op: &str) -> Option<usize> {
        self.producer(value).filter(|&at| self.is(at, op))
    }

    /// The nodes that read a value, once for each reading.
    pub(crate) fn users(&self, value: ValueId) -> &[usize] {
        &self.users[value.index()]
    }

    /// The only node that reads a value, if it is read once and is no graph output.
    pub(crate) fn only_user(&self, value: ValueId) -> Option<usize> {
        match (self.users(value), self.is_output(value)) {
            (&[one], false) => Some(one),
            _ => None,
        }
    }

    pub(crate) fn is_output(&self, value: ValueId) -> bool {
        self.graph.outputs.contains(&value)
    }

    /// Why a value may not vanish into a fusion, if it may not.
    pub(crate) fn kept(&self, value: ValueId) -> Option<String> {
        let name = &self.graph.value(value).name;
        if self.is_output(value) {
            return Some(format!("`{name}` is a graph output"));
        }
        match self.users(value).len() {
            0 | 1 => None,
            uses => Some(format!("`{name}` is used {uses} times")),
        }
    }

    /// The constant tensor behind a value. An input with a default is none.
    pub(crate) fn constant(&self, value: ValueId) -> Option<&Tensor> {
        if self.inputs[value.index()] { None } else { self.graph.constant(value) }
    }

    /// All elements of a constant of real numbers.
    pub(crate) fn reals(&self, value: ValueId) -> Option<Vec<f64>> {
        hetra_tensor::to_f64(self.constant(value)?).ok()
    }

    /// All elements of a constant of integers.
    pub(crate) fn ints(&self, value: ValueId) -> Option<Vec<i64>> {
        let tensor = self.constant(value)?;
        if tensor.dtype().is_int() { hetra_tensor::to_i64(tensor).ok() } else { None }
    }

    /// The one number of a float constant that only scales or shifts what stands beside it: it
    /// must not add axes.
    pub(crate) fn scalar(&self, value: ValueId, beside: ValueId) -> Option<f64> {
        let tensor = self.constant(value)?;
        let adds_no_axes =
            tensor.rank() == 0 || self.rank(beside).is_some_and(|rank| rank >= tensor.rank());
        let one = tensor.len() == 1 && tensor.dtype().is_float() && adds_no_axes;
        if one { hetra_tensor::to_f64(tensor).ok()?.first().copied() } else { None }
    }

    /// Whether a value is an input that a run may leave out.
    pub(crate) fn has_default(&self, value: ValueId) -> bool {
        self.inputs[value.index()] && self.graph.constants.contains_key(&value)
    }

    pub(crate) fn is_input(&self, value: ValueId) -> bool {
        self.inputs[value.index()]
    }

    pub(crate) fn ty(&self, value: ValueId) -> &Type {
        self.graph.ty(value)
    }

    pub(crate) fn dtype(&self, value: ValueId) -> Option<DType> {
        self.graph.ty(value).dtype()
    }

    /// Whether this value is known to be of a float dtype.
    pub(crate) fn is_float(&self, value: ValueId) -> bool {
        self.dtype(value).is_some_and(DType::is_float)
    }

    pub(crate) fn rank(&self, value: ValueId) -> Option<usize> {
        self.graph.ty(value).dims().map(<[_]>::len)
    }

    /// Whether two values are known to have the same shape.
    pub(crate) fn same_dims(&self, a: ValueId, b: ValueId) -> bool {
        match (self.ty(a).dims(), self.ty(b).dims()) {
            (Some(a), Some(b)) => a == b && !a.contains(&Dim::Unknown),
            _ => false,
        }
    }

    /// Whether `small` is known to broadcast to the shape of `big` without stretching it.
    pub(crate) fn broadcasts_into(&self, small: ValueId, big: ValueId) -> bool {
        let (Some(small), Some(big)) = (self.ty(small).dims(), self.ty(big).dims()) else {
            return false;
        };
        broadcasts_to(small, big)
    }

    /// What users know a node by.
    pub(crate) fn label(&self, at: usize) -> String {
        self.graph.nodes[at].label(&self.graph)
    }

    /// Adds a value.
    pub(crate) fn value(&mut self, name: &str, ty: Type) -> ValueId {
        let id = self.graph.add_value(name, ty);
        self.producers.push(None);
        self.users.push(Vec::new());
        self.inputs.push(false);
        id
    }

    /// Adds a constant.
    pub(crate) fn add_constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let id = self.value(name, Type::tensor(tensor.dtype(), tensor.shape()));
        self.graph.constants.insert(id, tensor.into());
        id
    }

    /// Makes a value that no node makes (any more) a constant.
    pub(crate) fn define(&mut self, id: ValueId, value: Value) {
        self.graph.values[id.index()].ty = Type::of(&value);
        self.graph.constants.insert(id, value);
    }

    /// How the device would run a node, which need not be in the graph.
    pub(crate) fn claim(&self, node: &Node) -> Claim {
        (self.options.claims)(node, &self.graph)
    }

    /// Why the device had better not run a node in the place of others, if so.
    pub(crate) fn unclaimed(&self, node: &Node, instead_of: &[usize]) -> Option<String> {
        let claim = |node: &Node| self.claim(node);
        // A view costs nothing, whatever runs it.
        let view = |node: &Node| find(&node.op).is_some_and(|def| def.kind == Kind::View);
        let by_kernel = |at: &&usize| claim(self.node(**at)) == Claim::Kernel;
        match claim(node) {
            Claim::Kernel => None,
            Claim::No => Some(format!("the device does not claim {}", node.op)),
            Claim::Reference if view(node) => None,
            Claim::Reference => instead_of.iter().find(by_kernel).map(|&at| {
                let op = &self.node(at).op;
                format!("the device has a kernel for {op} and none for this form of {}", node.op)
            }),
        }
    }

    /// Removes a node. What only it read is left for the pass that removes dead code.
    pub(crate) fn remove(&mut self, at: usize) {
        for value in self.graph.nodes[at].uses().collect::<Vec<_>>() {
            let users = &mut self.users[value.index()];
            if let Some(index) = users.iter().position(|&user| user == at) {
                users.swap_remove(index);
            }
        }
        for value in self.graph.nodes[at].defs().collect::<Vec<_>>() {
            if self.producers[value.index()] == Some(at) {
                self.producers[value.index()] = None;
            }
        }
        self.dead[at] = true;
    }

    /// Puts another node in the place of one.
    pub(crate) fn set(&mut self, at: usize, node: Node) {
        self.remove(at);
        self.dead[at] = false;
        node.uses().for_each(|value| self.users[value.index()].push(at));
        node.defs().for_each(|value| self.producers[value.index()] = Some(at));
        self.graph.nodes[at] = node;
    }

    /// Puts a new node before the node at `before`.
    pub(crate) fn insert(&mut self, before: usize, node: Node) -> usize {
        let at = self.graph.nodes.len();
        self.graph.nodes.push(Node::new("", &[], &[]));
        self.dead.push(false);
        self.anchors.push(self.anchors[before]);
        self.set(at, node);
        at
    }

    /// Replaces the node at `root` by `node`, which takes over its outputs, and removes the nodes
    /// it absorbed; not done when the device had better not run it. `what` names the pattern.
    pub(crate) fn fuse(
        &mut self,
        root: usize,
        mut node: Node,
        absorbed: &[usize],
        what: &str,
    ) -> bool {
        let label = self.label(root);
        node.outputs = self.graph.nodes[root].outputs.iter().take(1).copied().collect();
        let replaced = [absorbed, &[root]].concat();
        if let Some(why) = self.unclaimed(&node, &replaced) {
            self.miss(root, &format!("{what}: {why}"));
            return false;
        }
        for &at in absorbed {
            if at != root && !self.dead[at] {
                self.remove(at);
            }
        }
        self.set(root, node);
        // What missed in an earlier round matches by now.
        let stale = format!("{label}: ");
        self.report.of(self.pass).misses.retain(|line| !line.starts_with(&stale));
        self.note(format!("fused {what} at {label}"));
        true
    }

    /// Reports a rewrite.
    pub(crate) fn note(&mut self, line: String) {
        self.report.rewrote(self.pass, line);
    }

    /// Reports what stood in the way of a rewrite at a node.
    pub(crate) fn miss(&mut self, at: usize, why: &str) {
        let label = self.label(at);
        self.report.missed(self.pass, format!("{label}: {why}"));
    }

    /// Removes a node whose only output equals `same`, a value that is there before it. A graph
    /// output keeps its name: then the node that makes `same` makes the output instead. False when
    /// that cannot be, as when an input is given out as it is.
    pub(crate) fn bypass(&mut self, at: usize, same: ValueId) -> bool {
        let Some(old) = self.sole_output(at).filter(|&old| old != same) else { return false };
        if !self.is_output(old) {
            self.remove(at);
            self.redirect(old, same);
            return true;
        }
        let maker = self.producer(same).filter(|_| !self.is_output(same));
        let Some(maker) = maker else { return false };
        self.remove(at);
        let outputs = &mut self.graph.nodes[maker].outputs;
        outputs.iter_mut().filter(|id| **id == Some(same)).for_each(|id| *id = Some(old));
        self.producers[same.index()] = None;
        self.producers[old.index()] = Some(maker);
        self.redirect(same, old);
        true
    }

    /// Lets all that reads `old` read `new`; graph outputs stay.
    pub(crate) fn redirect(&mut self, old: ValueId, new: ValueId) {
        let users = std::mem::take(&mut self.users[old.index()]);
        for &at in &users {
            // A node that reads the value twice stands here twice; the second call changes nothing.
            self.graph.nodes[at].map_uses(|id| if id == old { new } else { id });
        }
        self.users[new.index()].extend(users);
    }
}
