//! A square is a product: `x ^ 2 == x * x`. Devices have kernels for products, and patterns are
//! spelt in them.

use hetra_ir::Node;

use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static POWER: Pass = Pass {
    name: "power",
    doc: "Makes Mul out of Pow where the exponent is 2.",
    run: |ed| ed.sweep(square),
};

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
