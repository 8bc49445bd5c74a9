//! What can be said in several ways is said in one: `x ^ 2 == x * x`, `sum(a, b) == a + b`. Devices
//! have kernels for these, and patterns are spelt in them.

use hetra_ir::Node;

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static SPELLING: Pass = Pass {
    name: "spelling",
    doc: "Makes Mul out of Pow where the exponent is 2, and Add out of Sum of two.",
    run: |ed| ed.sweep(|ed, at| square(ed, at) || sum(ed, at)),
};

fn sum(ed: &mut Editor<'_>, at: usize) -> bool {
    let &[Some(a), Some(b)] = &ed.node(at).inputs[..] else { return false };
    if !ed.is(at, "Sum") {
        return false;
    }
    let node = Node { name: ed.node(at).name.clone(), ..Node::new("Add", &[a, b], &[]) };
    ed.fuse(at, node, &[], "Sum of two")
}

fn square(ed: &mut Editor<'_>, at: usize) -> bool {
    if !ed.is(at, "Pow") {
        return false;
    }
    let (Some(x), Some(power)) = (ed.input(at, 0), ed.input(at, 1)) else { return false };
    if !ed.is_float(x) || ed.scalar(power, x) != Some(2.0) {
        return false;
    }
    let node = Node { name: ed.node(at).name.clone(), ..Node::new("Mul", &[x, x], &[]) };
    ed.fuse(at, node, &[], "Pow of 2")
}
