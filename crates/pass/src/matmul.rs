//! What stands around a product of matrices goes into it: transposes and numeric factors of its
//! operands, a bias, an activation. `act(alpha * op(a) op(b) + bias)` is one FusedMatMul.

use hetra_ir::{Node, ValueId};
use hetra_tensor::DType;

use crate::conv::activation_of;
use crate::editor::Editor;
use crate::optimise::Pass;

pub(crate) static MATMUL_OPERANDS: Pass = Pass {
    name: "matmul_operands",
    doc: "Takes transposes of the last two axes and numeric factors of its operands into a MatMul, \
          and transposes into a Gemm.",
    run: |ed| ed.sweep(operands),
};

pub(crate) static MATMUL_SCALE: Pass = Pass {
    name: "matmul_scale",
    doc: "Takes a numeric factor behind a MatMul into its alpha.",
    run: |ed| ed.sweep(scale),
};

pub(crate) static MATMUL_BIAS: Pass = Pass {
    name: "matmul_bias",
    doc: "Joins a MatMul or Gemm and the sum with a bias.",
    run: |ed| ed.sweep(bias),
};

pub(crate) static MATMUL_ACTIVATION: Pass = Pass {
    name: "matmul_activation",
    doc: "Joins a MatMul or Gemm and the activation behind it.",
    run: |ed| ed.sweep(activation),
};

const FUSED: &str = "com.microsoft.FusedMatMul";
const FUSED_GEMM: &str = "com.microsoft.FusedGemm";

/// A MatMul to which nothing is added yet.
fn is_product(ed: &Editor<'_>, at: usize) -> bool {
    let node = ed.node(at);
    let plain = ed.is(at, "MatMul") || ed.is(at, FUSED);
    plain && node.input(2).is_none() && !node.attrs.has("activation")
}

fn is_gemm(ed: &Editor<'_>, at: usize) -> bool {
    (ed.is(at, "Gemm") || ed.is(at, FUSED_GEMM)) && !ed.node(at).attrs.has("activation")
}

fn operands(ed: &mut Editor<'_>, at: usize) -> bool {
    let product = is_product(ed, at);
    if !product && !is_gemm(ed, at) {
        return false;
    }
    let mut node = ed.node(at).clone();
    let mut absorbed = Vec::new();
    for (index, flag) in [(0, "transA"), (1, "transB")] {
        let Some(value) = node.input(index).filter(|&value| ed.is_float(value)) else { continue };
        if product && narrow(ed, value) {
            let (inner, scale, nodes) = ed.scaled(value);
            let alpha = node.attrs.float_or("alpha", 1.0).unwrap_or(1.0);
            if !nodes.is_empty() && scale.is_finite() {
                node.attrs.set("alpha", (f64::from(alpha) * scale) as f32);
                node.inputs[index] = Some(inner);
                absorbed.extend(nodes);
            }
        }
        let Some(value) = node.input(index) else { continue };
        if let Some(turn) = ed.producer(value).filter(|&turn| swaps_last_two(ed, turn)) {
            if let Some(why) = ed.kept(value) {
                ed.miss(at, &format!("{} of Transpose: {why}", node.op));
                continue;
            }
            let turned = node.attrs.flag_or(flag, false).unwrap_or(false);
            node.attrs.set(flag, i64::from(!turned));
            node.inputs[index] = ed.input(turn, 0);
            absorbed.push(turn);
        }
    }
    if absorbed.is_empty() {
        return false;
    }
    let names: Vec<&str> = absorbed.iter().map(|&at| ed.node(at).op.as_str()).collect();
    let what = format!("{} + {}", names.join(" + "), node.op);
    if product {
        node.op = FUSED.to_string();
    }
    ed.fuse(at, node, &absorbed, &what)
}

/// `alpha` is an f32: it holds the factors of no wider dtype.
fn narrow(ed: &Editor<'_>, value: ValueId) -> bool {
    matches!(ed.dtype(value), Some(DType::F32 | DType::F16 | DType::BF16))
}

fn swaps_last_two(ed: &Editor<'_>, at: usize) -> bool {
    let node = ed.node(at);
    let perm = node.attrs.ints_opt("perm").ok().flatten().cloned();
    // Without `perm` the order is reversed, which is a swap for two axes.
    let two = node.input(0).and_then(|x| ed.rank(x)) == Some(2);
    let Some(perm) = perm.or(two.then(|| vec![1, 0])) else { return false };
    let rank = perm.len() as i64;
    let wanted = (0..rank - 2).chain([rank - 1, rank - 2]);
    ed.is(at, "Transpose") && rank >= 2 && perm.iter().copied().eq(wanted)
}

fn scale(ed: &mut Editor<'_>, at: usize) -> bool {
    if !ed.is(at, "Mul") && !ed.is(at, "Div") {
        return false;
    }
    let (Some(a), Some(b)) = (ed.input(at, 0), ed.input(at, 1)) else { return false };
    let by_division = ed.is(at, "Div");
    let (x, factor) = match (ed.scalar(b, a), ed.scalar(a, b)) {
        (Some(factor), _) if by_division => (a, 1.0 / factor),
        (Some(factor), _) => (a, factor),
        (None, Some(factor)) if !by_division => (b, factor),
        _ => return false,
    };
    let Some(product) = ed.producer(x).filter(|&product| is_product(ed, product)) else {
        return false;
    };
    let mut node = ed.node(product).clone();
    let what = format!("{} + {}", node.op, ed.node(at).op);
    if let Some(why) = ed.kept(x) {
        ed.miss(at, &format!("{what}: {why}"));
        return false;
    }
    if !narrow(ed, x) || !factor.is_finite() {
        return false;
    }
    let alpha = f64::from(node.attrs.float_or("alpha", 1.0).unwrap_or(1.0));
    node.attrs.set("alpha", (alpha * factor) as f32);
    node.op = FUSED.to_string();
    ed.fuse(at, node, &[product], &what)
}

fn bias(ed: &mut Editor<'_>, at: usize) -> bool {
    if !ed.is(at, "Add") {
        return false;
    }
    let (Some(a), Some(b)) = (ed.input(at, 0), ed.input(at, 1)) else { return false };
    let open = |value| {
        let maker = ed.producer(value)?;
        let gemm = is_gemm(ed, maker) && ed.input(maker, 2).is_none();
        (gemm || is_product(ed, maker)).then_some(maker)
    };
    // Of two products, that whose partner is no product takes it as its bias.
    let (product, x, bias) = match (open(a), open(b)) {
        (Some(product), _) => (product, a, b),
        (None, Some(product)) => (product, b, a),
        _ => return false,
    };
    let node = ed.node(product).clone();
    let what = format!("{} + Add", node.op);
    let why = if !ed.broadcasts_into(bias, x) {
        Some("the bias may have another shape".to_string())
    } else {
        ed.kept(x).filter(|_| ed.is_float(x))
    };
    if let Some(why) = why {
        ed.miss(at, &format!("{what}: {why}"));
        return false;
    }
    if !ed.is_float(x) {
        return false;
    }
    fuse_product(ed, at, product, node, Some(bias), &what)
}

fn fuse_product(
    ed: &mut Editor<'_>,
    at: usize,
    product: usize,
    mut node: Node,
    bias: Option<ValueId>,
    what: &str,
) -> bool {
    if node.op == "MatMul" {
        node.op = FUSED.to_string();
    }
    if let Some(bias) = bias {
        node.inputs.resize(3, None);
        node.inputs[2] = Some(bias);
        // Without a third input the factor of it said nothing.
        node.attrs.take("beta");
    }
    ed.fuse(at, node, &[product], what)
}

fn activation(ed: &mut Editor<'_>, at: usize) -> bool {
    let Some(activation) = activation_of(ed, at) else { return false };
    let Some(x) = ed.input(at, 0) else { return false };
    let open = |&maker: &usize| {
        let product = ed.is(maker, "MatMul") || ed.is(maker, FUSED);
        is_gemm(ed, maker) || (product && !ed.node(maker).attrs.has("activation"))
    };
    let Some(product) = ed.producer(x).filter(open) else { return false };
    let mut node = ed.node(product).clone();
    let what = format!("{} + {}", node.op, ed.node(at).op);
    if let Some(why) = ed.kept(x) {
        ed.miss(at, &format!("{what}: {why}"));
        return false;
    }
    if node.op == "Gemm" {
        node.op = FUSED_GEMM.to_string();
    }
    activation.set(&mut node);
    fuse_product(ed, at, product, node, None, &what)
}
