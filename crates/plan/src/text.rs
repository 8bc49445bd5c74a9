//! The text form of a plan.

use std::fmt::Write;

use hetra_ir::Graph;

use crate::Plan;

/// A line for each step: what runs, where its outputs live, what dies.
pub fn print(plan: &Plan, graph: &Graph) -> String {
    let mut text = String::new();
    for (index, step) in plan.steps.iter().enumerate() {
        let node = graph.node(step.node);
        let _ = write!(text, "{index:4}  {:<28}", node.op);
        for (at, (output, slot)) in node.outputs.iter().zip(&step.slots).enumerate() {
            let Some(output) = output else { continue };
            let ty = &plan.types[output.index()];
            let _ = match (slot, step.in_place.filter(|_| at == 0)) {
                (Some(slot), _) => write!(text, " {ty} -> slot {slot}"),
                (None, Some(input)) => write!(text, " {ty} over input {input}"),
                (None, None) => write!(text, " {ty}"),
            };
        }
        text.push('\n');
    }
    let slots = plan.slots.len();
    let plural = if slots == 1 { "" } else { "s" };
    let _ = writeln!(text, "{slots} slot{plural}, {} bytes", plan.slot_bytes());
    text
}
