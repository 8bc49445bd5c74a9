//! From calls to values: one graph of all that is asked for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use hetra_exec::{Engine, RunOptions, Trace};
use hetra_ir::{Attr, Builder, Dim, Graph, Node, ValueId};
use hetra_pass::Options;
use hetra_tensor::{Tensor, Value};

use super::call::{Arg, Call};
use super::place::Place;
use super::{Array, ArrayError, Result, State};
use crate::builder::claim;
use crate::error::Error;

thread_local! {
    static TRACES: RefCell<Option<Vec<Trace>>> = const { RefCell::new(None) };
}

/// What `work` gives, and the trace of each run that computed arrays for it on this thread.
pub fn traced<T>(work: impl FnOnce() -> T) -> (T, Vec<Trace>) {
    let before = TRACES.replace(Some(Vec::new()));
    let result = work();
    (result, TRACES.replace(before).unwrap_or_default())
}

/// Computes arrays that are on one device each; what was computed already stays.
pub(crate) fn evaluate(roots: &[&Array]) -> Result<()> {
    for (index, root) in roots.iter().enumerate() {
        if root.is_ready() {
            continue;
        }
        let rest = roots[index..].iter();
        let same = rest.filter(|other| Arc::ptr_eq(other.place(), root.place()));
        let wanted: Vec<Array> = same.map(|&root| root.clone()).collect();
        run(wanted, root.place())?;
    }
    Ok(())
}

/// What is to be computed, in an order in which it can be.
#[derive(Default)]
struct Work {
    calls: Vec<Arc<Call>>,
    /// Where each call is, by address.
    places: HashMap<usize, usize>,
    /// Arrays that have values.
    leaves: Vec<Array>,
    leaf_places: HashMap<usize, usize>,
    /// Arrays that calls give, with how often the calls of this work read each.
    inner: Vec<(Array, Arc<Call>, usize, usize)>,
    inner_places: HashMap<usize, usize>,
}

fn address<T>(arc: &Arc<T>) -> usize {
    Arc::as_ptr(arc).addr()
}

impl Work {
    /// Follows what arrays are computed from. (A list of its own, not the stack: chains are long.)
    fn collect(roots: &[Array]) -> Work {
        let mut work = Work::default();
        let mut todo: Vec<(Arc<Call>, usize)> = Vec::new();
        let mut seen: HashMap<usize, ()> = HashMap::new();
        for root in roots {
            if let Some(call) = work.note(root) {
                todo.push((call, 0));
            }
            while let Some((call, next)) = todo.pop() {
                if next == 0 && seen.insert(address(&call), ()).is_some() {
                    continue;
                }
                let Some(arg) = call.args.get(next) else {
                    work.places.insert(address(&call), work.calls.len());
                    work.calls.push(call);
                    continue;
                };
                let below = match arg {
                    Arg::Array(array) => work.note(array),
                    Arg::Param(_) => None,
                };
                todo.push((call.clone(), next + 1));
                if let Some(below) = below.filter(|below| !seen.contains_key(&address(below))) {
                    todo.push((below, 0));
                }
            }
        }
        work
    }

    /// Notes an array that is read; gives the call that it is of.
    fn note(&mut self, array: &Array) -> Option<Arc<Call>> {
        let key = address(&array.0);
        if let Some(&at) = self.inner_places.get(&key) {
            self.inner[at].3 += 1;
            return Some(self.inner[at].1.clone());
        }
        if self.leaf_places.contains_key(&key) {
            return None;
        }
        let state = array.state().clone();
        match state {
            State::Ready(_) => {
                self.leaf_places.insert(key, self.leaves.len());
                self.leaves.push(array.clone());
                None
            }
            State::Pending(call, output) => {
                self.inner_places.insert(key, self.inner.len());
                self.inner.push((array.clone(), call.clone(), output, 1));
                Some(call)
            }
        }
    }

    /// The arrays whose values are kept: those that others have, too.
    fn kept(&self, roots: &[Array]) -> Vec<usize> {
        let is_root = |array: &Array| roots.iter().any(|root| Arc::ptr_eq(&root.0, &array.0));
        let held = |(array, _, _, reads): &(Array, Arc<Call>, usize, usize)| {
            // One is this list's.
            is_root(array) || Arc::strong_count(&array.0) > reads + 1
        };
        (0..self.inner.len()).filter(|&at| held(&self.inner[at])).collect()
    }

    /// What the graph is known by: operators, how they are joined, types, outputs.
    fn key(&self, kept: &[usize]) -> Vec<u8> {
        let mut key = Vec::with_capacity(64 * (self.calls.len() + 1));
        let number = |key: &mut Vec<u8>, value: usize| key.extend((value as u64).to_le_bytes());
        for leaf in &self.leaves {
            key.push(b'x');
            key.push(leaf.dtype() as u8);
            number(&mut key, leaf.rank());
            leaf.shape().iter().for_each(|&extent| number(&mut key, extent));
        }
        for call in &self.calls {
            key.push(b'c');
            key.extend(call.op.as_bytes());
            key.push(0);
            number(&mut key, call.outputs);
            for (name, attr) in &call.attrs.0 {
                key.push(b'@');
                key.extend(name.as_bytes());
                key.push(0);
                write_attr(&mut key, attr);
            }
            for arg in &call.args {
                match arg {
                    Arg::Array(array) => match self.leaf_places.get(&address(&array.0)) {
                        Some(&leaf) => {
                            key.push(b'l');
                            number(&mut key, leaf);
                        }
                        None => {
                            let (_, call, output, _) =
                                &self.inner[self.inner_places[&address(&array.0)]];
                            key.push(b'i');
                            number(&mut key, self.places[&address(call)]);
                            number(&mut key, *output);
                        }
                    },
                    Arg::Param(tensor) => {
                        key.push(b'p');
                        key.push(tensor.dtype() as u8);
                        number(&mut key, tensor.rank());
                        tensor.shape().iter().for_each(|&extent| number(&mut key, extent));
                        key.extend(tensor.bytes());
                    }
                }
            }
        }
        for &at in kept {
            let (_, call, output, _) = &self.inner[at];
            key.push(b'o');
            number(&mut key, self.places[&address(call)]);
            number(&mut key, *output);
        }
        key
    }

    fn graph(&self, kept: &[usize]) -> Graph {
        let mut builder = Builder::new("array");
        let leaves: Vec<ValueId> = self
            .leaves
            .iter()
            .enumerate()
            .map(|(index, leaf)| {
                let dims = leaf.shape().iter().map(|&extent| Dim::Known(extent)).collect();
                builder.input(&format!("x{index}"), leaf.dtype(), dims)
            })
            .collect();
        let mut results: Vec<Vec<ValueId>> = Vec::with_capacity(self.calls.len());
        for call in &self.calls {
            let args: Vec<ValueId> = call
                .args
                .iter()
                .map(|arg| match arg {
                    Arg::Array(array) => match self.leaf_places.get(&address(&array.0)) {
                        Some(&leaf) => leaves[leaf],
                        None => {
                            let (_, call, output, _) =
                                &self.inner[self.inner_places[&address(&array.0)]];
                            results[self.places[&address(call)]][*output]
                        }
                    },
                    Arg::Param(tensor) => builder.constant("", tensor.clone()),
                })
                .collect();
            results.push(builder.node(call.node(|index| args[index]), call.outputs));
        }
        for &at in kept {
            let (_, call, output, _) = &self.inner[at];
            builder.output(results[self.places[&address(call)]][*output]);
        }
        builder.finish()
    }
}

/// An attribute as bytes that no other one has.
fn write_attr(key: &mut Vec<u8>, attr: &Attr) {
    match attr {
        // Text shows a few elements, and one NaN as another.
        Attr::Tensor(tensor) => {
            key.push(tensor.dtype() as u8);
            key.extend((tensor.rank() as u64).to_le_bytes());
            tensor.shape().iter().for_each(|&extent| key.extend((extent as u64).to_le_bytes()));
            key.extend(tensor.bytes());
        }
        other => {
            let text = format!("{other:?}");
            key.extend((text.len() as u64).to_le_bytes());
            key.extend(text.as_bytes());
        }
    }
}

fn compile(graph: &Graph, place: &Place) -> std::result::Result<Engine, Error> {
    let device = place.device();
    let claims = |node: &Node, graph: &Graph| claim(device.as_ref(), node, graph);
    let options = Options { off: Default::default(), claims: &claims };
    let (graph, _) = hetra_pass::optimise(graph, &options);
    Ok(Engine::compile(Arc::new(graph), device.clone())?)
}

fn run(roots: Vec<Array>, place: &Arc<Place>) -> Result<()> {
    let work = Work::collect(&roots);
    // Their own handles are not somebody else's.
    let kept = work.kept(&roots);
    let engine = place.engine(work.key(&kept), || compile(&work.graph(&kept), place))?;
    let mut inputs: Vec<Option<Value>> = Vec::with_capacity(work.leaves.len());
    for leaf in &work.leaves {
        inputs.push(Some(placed(leaf, place)?.into()));
    }
    let options = RunOptions { on_device: true, ..RunOptions::default() };
    let outputs = engine.graph().outputs.clone();
    let wants_trace = TRACES.with_borrow(Option::is_some);
    let mut trace = Trace::default();
    let values = engine
        .run(inputs, &outputs, &options, wants_trace.then_some(&mut trace))
        .map_err(|error| ArrayError::Run(error.into()))?;
    if wants_trace {
        TRACES.with_borrow_mut(|traces| traces.iter_mut().for_each(|all| all.push(trace.clone())));
    }
    for (&at, value) in kept.iter().zip(values) {
        if let Value::Tensor(tensor) = value {
            // What it was computed from may go now: outside the lock, since that may be a lot.
            let before = std::mem::replace(&mut *work.inner[at].0.state(), State::Ready(tensor));
            drop(before);
        }
    }
    Ok(())
}

/// The value of a leaf, in the memory of the device where that holds such values: copied once, not
/// at every use.
fn placed(leaf: &Array, place: &Place) -> Result<Tensor> {
    let tensor = leaf.value()?;
    let device = place.device();
    let Some(there) = device.place(&tensor).map_err(|error| ArrayError::Run(error.into()))? else {
        return Ok(tensor);
    };
    *leaf.state() = State::Ready(there.clone());
    Ok(there)
}
