//! Chains of moves that only pick channels are one step: whatever reshapes, transposes, slices and
//! joins spell a shuffle of channels, `y[n, i, ..] == x_j[n, c, ..]` with a table of `(j, c)`.
//!
//! What a chain does is not read from its spelling: it is run on numbers that tell where each
//! element comes from.

use std::collections::{BTreeMap, BTreeSet};

use hetra_ir::{Attr, Node, ValueId};
use hetra_ops::{Kind, find};
use hetra_tensor::{Tensor, Value, element_count};

use crate::editor::Editor;
use crate::fold::eval;
use crate::optimise::Pass;
use crate::quant_move::MOVES;

pub(crate) static SHUFFLE: Pass = Pass {
    name: "shuffle",
    doc: "Replaces chains of reshapes, transposes, slices and joins that only pick channels by one \
          step.",
    run: |ed| {
        for at in ed.live() {
            if find(&ed.node(at).op).is_some() && ends_chain(ed, at) {
                join(ed, at);
            }
        }
    },
};

/// Most elements that a chain is run on.
const ELEMENTS_MAX: usize = 1 << 19;
/// Most nodes of a chain.
const NODES_MAX: usize = 12;

/// Whether a node goes on with a chain; a Concat begins one.
fn is_inner(ed: &Editor<'_>, at: usize) -> bool {
    MOVES.contains(&ed.node(at).op.as_str()) || ed.is(at, "Split")
}

/// Whether a node moves elements, and some of what reads it does more than that.
fn ends_chain(ed: &Editor<'_>, at: usize) -> bool {
    let ends = |id: ValueId| {
        let used = ed.users(id).iter().any(|&user| !is_inner(ed, user));
        used || ed.is_output(id)
    };
    is_inner(ed, at) && ed.node(at).defs().any(ends)
}

/// A chain that was followed back.
#[derive(Default)]
struct Chain {
    /// What it reads, with the number of its first element.
    leaves: BTreeMap<ValueId, i64>,
    elements: usize,
    nodes: BTreeSet<usize>,
    made: BTreeMap<ValueId, Tensor>,
}

impl Chain {
    /// The value, as the numbers of the elements that it is made of.
    fn value(&mut self, ed: &Editor<'_>, id: ValueId) -> Option<Tensor> {
        if let Some(made) = self.made.get(&id) {
            return Some(made.clone());
        }
        let moves = |at: &usize| is_inner(ed, *at) || ed.is(*at, "Concat");
        let tensor = match ed.producer(id).filter(moves) {
            Some(at) => {
                self.run(ed, at)?;
                return self.made.get(&id).cloned();
            }
            None => self.leaf(ed, id)?,
        };
        self.made.insert(id, tensor.clone());
        Some(tensor)
    }

    fn leaf(&mut self, ed: &Editor<'_>, id: ValueId) -> Option<Tensor> {
        let shape = ed.ty(id).known_shape().filter(|_| ed.constant(id).is_none())?;
        let (first, count) = (self.elements as i64, element_count(&shape).ok()?);
        self.elements = self.elements.checked_add(count).filter(|&all| all <= ELEMENTS_MAX)?;
        self.leaves.insert(id, first);
        let numbers: Vec<i32> = (first..first + count as i64).map(|i| i as i32).collect();
        Tensor::from_slice(&shape, &numbers).ok()
    }

    fn run(&mut self, ed: &Editor<'_>, at: usize) -> Option<()> {
        let node = ed.node(at);
        self.nodes.insert(at);
        if self.nodes.len() > NODES_MAX {
            return None;
        }
        let joins = ed.is(at, "Concat");
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (index, input) in node.inputs.iter().enumerate() {
            inputs.push(match input {
                Some(id) if index == 0 || joins => Some(Value::from(self.value(ed, *id)?)),
                Some(id) => Some(Value::from(ed.constant(*id)?.clone())),
                None => None,
            });
        }
        let values = eval(node, find(&node.op)?, &inputs).ok()?;
        for (id, value) in node.outputs.iter().zip(values) {
            if let (Some(id), Value::Tensor(tensor)) = (id, value) {
                self.made.insert(*id, tensor);
            }
        }
        Some(())
    }

    /// Whether it takes several steps over its elements, one of which puts them in another order.
    fn is_worth_it(&self, ed: &Editor<'_>) -> bool {
        let moves = |at: &&usize| find(&ed.node(**at).op).is_some_and(|def| def.kind != Kind::View);
        let turns = |at: &usize| ed.is(*at, "Transpose");
        self.nodes.iter().filter(moves).count() > 1 && self.nodes.iter().any(turns)
    }
}

/// Puts one step in the place of the chain that ends with a node, for each of its outputs.
fn join(ed: &mut Editor<'_>, at: usize) {
    let mut chain = Chain::default();
    let outputs: Vec<ValueId> = ed.node(at).defs().collect();
    let mut steps = Vec::new();
    for &id in &outputs {
        let Some(numbers) = chain.value(ed, id) else { return };
        let Some(step) = picked(ed, &chain, &numbers) else { return };
        steps.push(Node { outputs: vec![Some(id)], name: ed.node(at).name.clone(), ..step });
    }
    if steps.is_empty() || !chain.is_worth_it(ed) {
        return;
    }
    let replaced: Vec<usize> = chain.nodes.iter().copied().collect();
    for step in &steps {
        if let Some(why) = ed.unclaimed(step, &replaced) {
            return ed.miss(at, &format!("a shuffle of channels: {why}"));
        }
    }
    let label = ed.label(at);
    let mut steps = steps.into_iter();
    let first = steps.next();
    for step in steps {
        ed.insert(at, step);
    }
    if let Some(first) = first {
        ed.set(at, first);
    }
    ed.note(format!("one step for {} that pick channels at {label}", replaced.len()));
}

/// The step that gives elements of these numbers, if they are whole channels of what a chain reads.
fn picked(ed: &Editor<'_>, chain: &Chain, numbers: &Tensor) -> Option<Node> {
    let &[n, channels, ref rest @ ..] = numbers.shape() else { return None };
    let inner = element_count(rest).ok().filter(|&inner| inner > 0 && channels > 0)?;
    let numbers = numbers.as_slice::<i32>().ok()?;
    let mut leaves = Vec::new();
    for (&id, &first) in &chain.leaves {
        let shape = ed.ty(id).known_shape()?;
        let &[batch, c, ref spatial @ ..] = shape.as_slice() else { return None };
        if (batch, spatial) != (n, rest) {
            return None;
        }
        leaves.push(Leaf { id, first: first as usize, channels: c });
    }
    let mut picks = Vec::with_capacity(channels);
    for i in 0..channels {
        let number = *numbers.get(i * inner)? as usize;
        // The first image is the first one of what is read, too.
        let inside =
            |leaf: &Leaf| (leaf.first..leaf.first + leaf.channels * inner).contains(&number);
        let which = leaves.iter().position(inside)?;
        let leaf = &leaves[which];
        let channel = (number - leaf.first) / inner;
        let whole = |batch: usize| {
            let from = leaf.first + (batch * leaf.channels + channel) * inner;
            let to = &numbers[(batch * channels + i) * inner..][..inner];
            to.iter().enumerate().all(|(k, &number)| number as usize == from + k)
        };
        if !(0..n).all(whole) {
            return None;
        }
        picks.push((which, channel));
    }
    // The channels of what is read at all, one behind the other.
    let (mut inputs, mut before) = (Vec::new(), vec![0; leaves.len()]);
    let mut joined = 0;
    for (which, leaf) in leaves.iter().enumerate() {
        if picks.iter().any(|pick| pick.0 == which) {
            inputs.push(leaf.id);
            before[which] = joined;
            joined += leaf.channels;
        }
    }
    let indices = picks.iter().map(|&(which, channel)| (before[which] + channel) as i64);
    let step = Node::new("hetra.GatherConcat", &inputs, &[]).with("axis", 1i64);
    Some(step.with("indices", Attr::Ints(indices.collect())))
}

/// What a chain reads.
struct Leaf {
    id: ValueId,
    /// The number of its first element.
    first: usize,
    channels: usize,
}
