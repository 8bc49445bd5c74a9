//! The conformance suite: what any device claims, it must do as the reference does.
//!
//! A [`Case`] is one node with inputs. [`check`] compiles it on the device, runs it and compares
//! each output with the reference, bounding the error relative to the output's range. [`cases`]
//! makes cases of many operators on generated shapes.

mod attention;
mod cases;
mod contraction;
mod fused;
mod quantised;
mod random;
mod resize;
mod rows;
mod sequence;
mod signal;

pub use cases::cases;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use hetra_ir::{Graph, Node, NodeId, Type, ValueId};
use hetra_ops::{Compute, Interpreter, interpret};
use hetra_tensor::{Buffer, DType, Tensor, Value, to_f64};

use crate::{Call, Device, Part, Random, Room, Schedule, Support};

/// One node with its inputs.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it tests.
    pub name: String,
    /// A graph of one node.
    pub graph: Graph,
    /// Values of the graph's inputs.
    pub inputs: Vec<Value>,
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It agrees.
    Passed {
        /// The largest error, relative to the output's range.
        error: f64,
        /// What ran: the program's kernel, or `reference`.
        kernel: String,
    },
    /// The device does not claim it.
    Refused(String),
    /// It differs, or it failed.
    Failed(String),
}

impl Case {
    /// A case of one node with `outputs` outputs; inputs marked constant are weights.
    pub fn new(
        name: &str,
        node: Node,
        inputs: Vec<(Option<Tensor>, bool)>,
        outputs: usize,
    ) -> Case {
        let mut graph = Graph { name: name.to_string(), ..Graph::default() };
        let mut values = Vec::new();
        let mut ids = Vec::new();
        for (index, (tensor, constant)) in inputs.into_iter().enumerate() {
            ids.push(tensor.map(|tensor| {
                if constant {
                    return graph.add_constant(&format!("c{index}"), tensor);
                }
                let ty = Type::tensor(tensor.dtype(), tensor.shape());
                let id = graph.add_value(&format!("i{index}"), ty);
                graph.inputs.push(id);
                values.push(Value::Tensor(tensor));
                id
            }));
        }
        let outs: Vec<ValueId> = (0..outputs)
            .map(|index| graph.add_value(&format!("o{index}"), Type::Unknown))
            .collect();
        let mut node = node;
        node.inputs = ids;
        node.outputs = outs.iter().copied().map(Some).collect();
        graph.nodes.push(node);
        graph.outputs = outs;
        Case { name: name.to_string(), graph, inputs: values }
    }
}

/// Greatest error of a convolution whose inputs and taps are transformed before they are rounded to
/// bf16 (Winograd), where the reference rounds them as they are.
const TRANSFORMED: f64 = 1e-2;

/// Whether a node rounds its operands, in a form that allows to transform them before.
fn may_transform(node: &Node, graph: &Graph) -> bool {
    let of_ones = |name| node.attrs.ints_opt(name).is_ok_and(|v| v.is_none_or(|v| *v == [1, 1]));
    let weights = node.input(1).and_then(|id| graph.ty(id).known_shape());
    let taps = weights.is_some_and(|shape| shape.len() == 4 && shape[2..] == [3, 3]);
    let rounds = Compute::of(&node.attrs).is_ok_and(|compute| compute == Compute::Bf16);
    let one = node.attrs.int_or("group", 1).is_ok_and(|groups| groups == 1);
    node.op == "hetra.ConvLast"
        && rounds
        && taps
        && one
        && of_ones("strides")
        && of_ones("dilations")
}

/// Runs one case on a device and on the reference; `tolerance` bounds the error of floats relative
/// to the largest magnitude of the reference's output; floats of 16 bits may be neighbours.
/// Integers are equal, but for one step of codes that come from rounding a real value, which may
/// lie on the edge between two.
pub fn check(device: &dyn Device, case: &Case, tolerance: f64) -> Outcome {
    check_by(device, case, None, tolerance)
}

/// As `check`, and by a schedule as well: they say how, never what.
fn check_by(
    device: &dyn Device,
    case: &Case,
    schedule: Option<Schedule>,
    tolerance: f64,
) -> Outcome {
    let node = &case.graph.nodes[0];
    let transformed = if may_transform(node, &case.graph) { TRANSFORMED } else { 0.0 };
    let tolerance = tolerance.max(transformed);
    match device.supports(node, &case.graph) {
        Support::No(reason) => return Outcome::Refused(reason),
        Support::Kernel | Support::Reference => {}
    }
    let want = interpret(&case.graph, case.inputs.clone(), &|_| None);
    let mut outcome = None;
    for schedule in std::iter::once(None).chain(schedule.map(Some)) {
        let got = run(device, case, schedule.as_ref(), want.as_deref().unwrap_or_default());
        let next = compare(node, got, &want, tolerance);
        match (next, schedule) {
            (Outcome::Failed(reason), Some(schedule)) => {
                return Outcome::Failed(format!("by {schedule}: {reason}"));
            }
            (failed @ Outcome::Failed(_), None) => return failed,
            // The name of what runs when nobody tuned.
            (next, _) => outcome = outcome.or(Some(next)),
        }
    }
    outcome.unwrap_or_else(|| Outcome::Refused("it was not run".to_string()))
}

/// Of so many cases that can be tuned, one is tried by a schedule, too: devices compile long.
const TUNED_OF: u64 = 8;

/// A schedule of a case that can be tuned, and whether it is one of those that are tried anyway.
fn schedule_of(device: &dyn Device, case: &Case) -> Option<(Schedule, bool)> {
    let types: Vec<Type> = case.graph.values.iter().map(|value| value.ty.clone()).collect();
    let part = Part { graph: &case.graph, nodes: &[NodeId(0)], types: &types };
    let (task, space) = device.tunes(&part)?;
    let seed = task.key().bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    let mut random = Random::new(seed);
    let tried = random.unit() * (TUNED_OF as f64) < 1.0;
    Some((space.nth((random.unit() * space.size() as f64) as u64)?, tried))
}

fn compare(
    node: &Node,
    got: Result<(Vec<Value>, String), String>,
    want: &Result<Vec<Value>, hetra_ops::NodeError>,
    tolerance: f64,
) -> Outcome {
    match (got, want) {
        (Ok((got, kernel)), Ok(want)) => match largest_error(&node.op, &got, want) {
            Ok(error) if error <= tolerance => Outcome::Passed { error, kernel },
            Ok(error) => Outcome::Failed(format!("error {error:.3e} is over {tolerance:.1e}")),
            Err(reason) => Outcome::Failed(reason),
        },
        (Err(_), Err(_)) => Outcome::Passed { error: 0.0, kernel: "reference".to_string() },
        (Ok(_), Err(error)) => Outcome::Failed(format!("only the reference refuses: {error}")),
        (Err(error), Ok(_)) => Outcome::Failed(format!("only the device refuses: {error}")),
    }
}

/// A block for an output, full of old data as those of a planner are: a kernel that leaves out an
/// element gives a NaN, or -1.
fn dirty(want: Option<&Value>) -> Option<Arc<Buffer>> {
    let mut block = Buffer::zeroed(want?.as_tensor()?.byte_len()).ok()?;
    block.bytes_mut().fill(u8::MAX);
    Some(Arc::new(block))
}

/// The outputs, and the name of what ran.
fn run(
    device: &dyn Device,
    case: &Case,
    schedule: Option<&Schedule>,
    want: &[Value],
) -> Result<(Vec<Value>, String), String> {
    let types: Vec<Type> = case.graph.values.iter().map(|value| value.ty.clone()).collect();
    let part = Part { graph: &case.graph, nodes: &[NodeId(0)], types: &types };
    let program = match schedule {
        Some(schedule) => device.compile_with(&part, schedule),
        None => device.compile(&part),
    };
    let program = program.map_err(|error| error.to_string())?;
    let node = &case.graph.nodes[0];
    let mut given = case.graph.inputs.iter().zip(&case.inputs);
    let inputs: Vec<_> = node
        .inputs
        .iter()
        .map(|id| {
            let id = (*id)?;
            case.graph.constants.get(&id).cloned().or_else(|| given.next().map(|(_, v)| v.clone()))
        })
        .collect();
    let outputs = 0..node.outputs.len();
    let room = |index| Room { block: dirty(want.get(index)), bytes: 0 };
    let rooms: Vec<_> = outputs.map(room).collect();
    let mut result = Err("the device did not run".to_string());
    let mut inputs = Some((inputs, rooms));
    device.scope(&mut || {
        let Some((mut inputs, mut rooms)) = inputs.take() else { return };
        let (outer, runner) = (&|_| None, &Interpreter);
        let fell_back = &Cell::new(false);
        let call = Call {
            modelled: &Cell::new(None),
            node,
            inputs: &mut inputs,
            in_place: None,
            rooms: &mut rooms,
            outer,
            runner,
            fell_back,
        };
        result = program.run(call).map_err(|error| error.to_string()).map(|values| {
            let kernel = if fell_back.get() { "reference" } else { program.kernel() };
            (values.into_vec(), kernel.to_string())
        });
    });
    for value in result.iter().flat_map(|(values, _)| values) {
        value.as_tensor().map_or(Ok(()), Tensor::fetch).map_err(|error| error.to_string())?;
    }
    result
}

/// Runs the cases of a seed on a device. What it claims agrees with the reference, and of each kind
/// of case that it claims a kernel ran; operators in `open` may fall back where only the run shows
/// that they have to. Gives the number of kinds of cases that kernels ran.
///
/// # Errors
/// What differs, or fell back, in all cases.
pub fn suite(
    device: &dyn Device,
    (seed, rounds): (u64, usize),
    tolerance: f64,
    open: &[&str],
) -> Result<usize, String> {
    // Kinds of cases of which some is claimed, and those whose kernel ran in some case.
    let (mut claimed, mut ran) = (BTreeSet::new(), BTreeSet::new());
    let mut failures = Vec::new();
    // Operators of which a case was tried by a schedule: the first that can be, and some.
    let mut tried = BTreeSet::new();
    for case in &cases(seed, rounds) {
        let node = &case.graph.nodes[0];
        let schedule = schedule_of(device, case);
        let schedule = schedule.filter(|(_, tried_anyway)| *tried_anyway || tried.insert(&node.op));
        let schedule = schedule.map(|(schedule, _)| schedule);
        let claims = device.supports(node, &case.graph) == Support::Kernel;
        if claims {
            claimed.insert((node.op.clone(), case.name.clone()));
        }
        match check_by(device, case, schedule, tolerance) {
            Outcome::Passed { kernel, .. } if kernel != "reference" => {
                ran.insert((node.op.clone(), case.name.clone()));
            }
            Outcome::Passed { .. } if claims && !open.contains(&node.op.as_str()) => {
                // An error is the reference's to report, and what is empty is its to make.
                let want = interpret(&case.graph, case.inputs.clone(), &|_| None);
                if want.is_ok_and(|want| want.iter().all(|value| value.byte_len() > 0)) {
                    let types = case.graph.values.iter().map(|value| value.ty.to_string());
                    let types = types.collect::<Vec<_>>().join(" ");
                    failures.push(format!("{} fell back: {:?} {types}", case.name, node.attrs));
                }
            }
            Outcome::Passed { .. } | Outcome::Refused(_) => {}
            Outcome::Failed(reason) => {
                let inputs = format!("{:?} {:?}", node.attrs, case.inputs);
                failures.push(format!("{}: {reason}\n  {inputs}", case.name));
            }
        }
    }
    let never = claimed.difference(&ran).map(|kind| format!("no kernel ever ran of {kind:?}"));
    failures.extend(never);
    match failures.is_empty() {
        true => Ok(ran.len()),
        false => Err(format!("{} failed:\n{}", failures.len(), failures.join("\n"))),
    }
}

fn largest_error(op: &str, got: &[Value], want: &[Value]) -> Result<f64, String> {
    let rounds = ["QLinear", "Quantize", "QGemm"].iter().any(|part| op.contains(part));
    if got.len() < want.len() {
        return Err(format!("{} outputs, wanted {}", got.len(), want.len()));
    }
    let mut largest: f64 = 0.0;
    for (got, want) in got.iter().zip(want) {
        let (Some(a), Some(b)) = (got.as_tensor(), want.as_tensor()) else {
            if got != want {
                return Err("values differ".to_string());
            }
            continue;
        };
        if a.dtype() != b.dtype() || a.shape() != b.shape() {
            return Err(format!("got {}, wanted {}", a.describe(), b.describe()));
        }
        // Sums that differ in their last bits may be rounded to neighbours.
        let step = match a.dtype() {
            DType::BF16 => 2.0f64.powi(-7),
            DType::F16 => 2.0f64.powi(-10),
            _ => 0.0,
        };
        let steps = a.dtype().is_int().then_some(if rounds { 1.0 } else { 0.0 });
        let (Ok(a), Ok(b)) = (to_f64(a), to_f64(b)) else {
            if got != want {
                return Err("values differ".to_string());
            }
            continue;
        };
        let range = b.iter().filter(|v| v.is_finite()).fold(1e-6f64, |m, v| m.max(v.abs()));
        for (x, y) in a.iter().zip(&b) {
            let same = x == y || (x.is_nan() && y.is_nan());
            match steps {
                Some(steps) if (x - y).abs() <= steps => continue,
                Some(_) => return Err(format!("got {x}, wanted {y}")),
                None => {}
            }
            let near = same || (x - y).abs() <= step * y.abs();
            let error = if near { 0.0 } else { (x - y).abs() / range };
            largest = largest.max(if error.is_nan() { f64::INFINITY } else { error });
        }
    }
    Ok(largest)
}
