//! Runs the passes over a graph and its bodies.

use std::collections::BTreeSet;
use std::sync::Arc;

use hetra_ir::{Attr, DEPTH_MAX, Graph, Node, Type, ValueId};

use crate::dead::compact;
use crate::editor::Editor;
use crate::infer::infer;
use crate::outputs::described;
use crate::report::Report;
use crate::table::{FINAL, PASSES, TIDYING};

/// Most rounds of all passes: one feeds on what another made.
const ROUNDS_MAX: usize = 4;

/// A rewrite that keeps what a graph computes, up to rounding.
pub struct Pass {
    /// Unique; what users switch it off by.
    pub name: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// Rewrites one graph, bodies aside.
    pub run: fn(&mut Editor<'_>),
}

/// How the device would run a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// By a kernel of its own.
    Kernel,
    /// By the reference: right, but slow.
    Reference,
    /// Not at all.
    No,
}

/// What the passes may do.
#[derive(Clone)]
pub struct Options<'a> {
    /// Names of passes that are switched off.
    pub off: BTreeSet<String>,
    /// How the device would run a node, which need not be in the graph: its inputs and outputs
    /// are, with their types. No fusion makes a node that it does not run, or one for the reference
    /// out of nodes that it has kernels for.
    pub claims: &'a dyn Fn(&Node, &Graph) -> Claim,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { off: BTreeSet::new(), claims: &|_, _| Claim::Kernel }
    }
}

/// The graph rewritten by all [`PASSES`] that are not off, and what they did.
pub fn optimise(graph: &Graph, options: &Options<'_>) -> (Graph, Report) {
    let mut report = Report::default();
    let mut result = graph.clone();
    run(&mut result, false, options, &mut report, 0);
    for (&old, &new) in graph.outputs.iter().zip(&result.outputs) {
        let ty = &mut result.values[new.index()].ty;
        *ty = described(ty, graph.ty(old));
    }
    // A fusion that the device had better not run leaves the constants that were made for it.
    let left_over = result.values.len() > graph.values.len();
    if report.total() > 0 || left_over { (compact(&result), report) } else { (result, report) }
}

fn run(graph: &mut Graph, body: bool, options: &Options<'_>, report: &mut Report, depth: usize) {
    let on = |pass: &&&Pass| !options.off.contains(pass.name);
    let last = |pass: &&&Pass| FINAL.iter().any(|last| last.name == pass.name);
    let active: Vec<&Pass> =
        PASSES.iter().filter(|pass| on(pass) && !last(pass)).copied().collect();
    if !active.is_empty() {
        for _ in 0..ROUNDS_MAX {
            let before = report.total();
            refine(graph, body);
            active.iter().for_each(|pass| apply(graph, pass, options, report));
            bodies(graph, options, report, depth);
            if report.total() == before {
                break;
            }
        }
    }
    for pass in FINAL.iter().filter(|pass| on(pass)) {
        let before = report.total();
        refine(graph, body);
        apply(graph, pass, options, report);
        if report.total() > before {
            refine(graph, body);
            TIDYING.iter().filter(|pass| on(pass)).for_each(|pass| {
                apply(graph, pass, options, report);
            });
        }
    }
}

fn apply(graph: &mut Graph, pass: &Pass, options: &Options<'_>, report: &mut Report) {
    report.of(pass.name);
    let mut editor = Editor::new(std::mem::take(graph), pass.name, options, report);
    (pass.run)(&mut editor);
    *graph = editor.finish();
}

fn bodies(graph: &mut Graph, options: &Options<'_>, report: &mut Report, depth: usize) {
    if depth >= DEPTH_MAX {
        return;
    }
    let types: Vec<Type> = graph.values.iter().map(|value| value.ty.clone()).collect();
    for node in &mut graph.nodes {
        for attr in node.attrs.0.values_mut() {
            let bodies = match attr {
                Attr::Graph(body) => std::slice::from_mut(body),
                Attr::Graphs(bodies) => bodies.as_mut_slice(),
                _ => continue,
            };
            for body in bodies {
                let body = Arc::make_mut(body);
                for capture in &body.captures {
                    body.values[capture.inner.index()].ty = types[capture.outer.index()].clone();
                }
                let outputs: Vec<Type> =
                    body.outputs.iter().map(|&id| body.ty(id).clone()).collect();
                run(body, true, options, report, depth + 1);
                // A loop without a turn has nothing else to tell what it would have given.
                for (id, declared) in body.outputs.clone().into_iter().zip(outputs) {
                    let ty = &mut body.values[id.index()].ty;
                    *ty = described(ty, &declared);
                }
            }
        }
    }
}

/// Writes what inference finds over the declared types. Where it fails, nothing is believed but
/// the inputs, the constants and the dtypes.
fn refine(graph: &mut Graph, body: bool) {
    let input = |id: &ValueId| match body {
        // The inputs of a loop's body change shape from turn to turn, whatever the file declares.
        true => graph.ty(*id).dtype().map_or(Type::Unknown, Type::unranked),
        false => graph.ty(*id).clone(),
    };
    let inputs: Vec<Type> = graph.inputs.iter().map(input).collect();
    let captures: Vec<Type> =
        graph.captures.iter().map(|capture| graph.ty(capture.inner).clone()).collect();
    match infer(graph, &inputs, &captures) {
        Ok(inferred) => {
            for (value, ty) in graph.values.iter_mut().zip(inferred.types) {
                // Inference forgets the kind of what it does not know.
                let keep = ty == Type::Unknown && value.ty.as_tensor().is_none();
                value.ty = if keep { value.ty.clone() } else { ty };
            }
        }
        Err(_) => {
            let given = graph.inputs.iter().filter(|_| !body).chain(graph.constants.keys());
            let given = given.copied().chain(graph.captures.iter().map(|capture| capture.inner));
            let given: BTreeSet<ValueId> = given.collect();
            for (index, value) in graph.values.iter_mut().enumerate() {
                if !given.contains(&ValueId(index as u32)) {
                    value.ty = value.ty.dtype().map_or(Type::Unknown, Type::unranked);
                }
            }
        }
    }
}
