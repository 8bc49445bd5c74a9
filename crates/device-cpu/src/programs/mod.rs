//! Which kernel runs which operator: binds nodes and tensors to the loops in `kernels`.
//!
//! A program is a closure that resolves its node's shapes at run time and calls a kernel. Where
//! the arguments are outside what the kernel does (another dtype, a rare form), it gives `None`
//! and the reference runs: the result is right either way.

mod attention;
mod attention_group;
mod attention_microsoft;
mod binary;
mod cast;
mod codes;
mod conv;
mod conv_transpose;
mod conv_volume;
mod einsum;
mod elements;
mod embed;
mod extents;
mod fourier;
mod fused;
mod heads;
mod int8_conv;
mod last_shape;
mod matmul;
mod movement;
mod nbits;
mod nhwc;
mod nhwc_conv;
mod nhwc_int8;
mod nhwc_task;
mod norm;
mod pointwise;
mod pool;
mod quantised;
mod recurrent;
mod reduce;
mod resize;
mod rotary;
mod top;
mod warp;

use std::sync::Arc;

use hetra_device::{Call, Part, Program, Space, Task, Values};
use hetra_ir::{Dim, Graph, Node, Type, ValueId};
use hetra_ops::{FIRST_INPUT_PLAIN, OpError};
use hetra_tensor::{DType, Tensor};
use smallvec::smallvec;

pub(crate) use hetra_device::Schedules;
pub(crate) use last_shape::{LastShape, only_first_varies};

/// Builds the program of a node that its family takes; `None` when an attribute is malformed.
type Compile = fn(&Part<'_>, &Node) -> Option<Arc<dyn Program>>;

/// Whether a kernel does this form of a node. Passes ask it of nodes that they may make, so it
/// packs nothing.
type Takes = fn(&Form<'_>) -> bool;

/// What is known of a node before it runs.
struct Form<'a> {
    /// For its constants only: the types stand below, as the node may not be in a graph yet.
    part: &'a Part<'a>,
    node: &'a Node,
    types: &'a dyn Fn(ValueId) -> &'a Type,
}

impl<'a> Form<'a> {
    fn ty(&self, id: Option<ValueId>) -> &'a Type {
        id.map_or(&Type::Unknown, self.types)
    }

    /// Whether input `index` may be of one of these dtypes: what is open is seen at run time.
    fn may_be(&self, index: usize, dtypes: &[DType]) -> bool {
        self.ty(self.node.input(index)).dtype().is_none_or(|dtype| dtypes.contains(&dtype))
    }

    /// The number of axes of input `index`, if it is known.
    fn rank(&self, index: usize) -> Option<usize> {
        self.ty(self.node.input(index)).dims().map(<[Dim]>::len)
    }
}

/// Operators that have kernels, of one kind.
struct Family {
    ops: &'static [(&'static str, Compile)],
    /// The kernels are for f32 only.
    floats: bool,
    takes: Takes,
}

const fn floats(ops: &'static [(&'static str, Compile)], takes: Takes) -> Family {
    Family { ops, floats: true, takes }
}

const fn any(ops: &'static [(&'static str, Compile)], takes: Takes) -> Family {
    Family { ops, floats: false, takes }
}

fn every_form(_: &Form<'_>) -> bool {
    true
}

/// Every operator that has kernels.
static FAMILIES: &[Family] = &[
    floats(attention::OPS, attention::takes),
    floats(attention_group::OPS, attention_group::takes),
    any(attention_microsoft::OPS, attention_microsoft::takes),
    any(binary::OPS, binary::takes),
    any(cast::OPS, cast::takes),
    any(codes::OPS, codes::takes),
    floats(conv::OPS, conv::takes),
    floats(conv_transpose::OPS, conv_transpose::takes),
    floats(einsum::OPS, einsum::takes),
    any(elements::OPS, movement::takes),
    any(embed::OPS, embed::takes),
    floats(fourier::OPS, every_form),
    any(fused::OPS, fused::takes),
    floats(matmul::OPS, matmul::takes),
    any(movement::OPS, movement::takes),
    floats(nbits::OPS, nbits::takes),
    any(nhwc::OPS, nhwc::takes),
    any(nhwc_int8::OPS, nhwc_int8::takes),
    floats(norm::OPS, norm::takes),
    floats(pointwise::OPS, pointwise::takes),
    floats(pool::OPS, pool::takes),
    any(quantised::OPS, quantised::takes),
    floats(recurrent::OPS, recurrent::takes),
    floats(reduce::OPS, every_form),
    any(resize::OPS, resize::takes),
    floats(rotary::OPS, every_form),
    floats(top::OPS, every_form),
    any(warp::OPS, warp::takes),
];

/// What compiles a node, if there is a kernel for this form of it.
fn find(form: &Form<'_>) -> Option<Compile> {
    let own = |family: &'static Family| {
        let (_, compile) = family.ops.iter().find(|(op, _)| *op == form.node.op)?;
        Some((family, *compile))
    };
    let (family, compile) = FAMILIES.iter().find_map(own)?;
    let dtype = form.ty(form.node.input(0)).dtype();
    let fits = !family.floats || dtype.is_none_or(|dtype| dtype == DType::F32);
    // One kernel turns images itself.
    let plain = form.node.attrs.has(FIRST_INPUT_PLAIN) && form.node.op != "hetra.ConvLast";
    (fits && !plain && (family.takes)(form)).then_some(compile)
}

/// Whether there is a kernel for a node, which need not be in the graph that holds its inputs.
pub(crate) fn claims(node: &Node, graph: &Graph) -> bool {
    let part = Part { graph, nodes: &[], types: &[] };
    find(&Form { part: &part, node, types: &|id| graph.ty(id) }).is_some()
}

/// An operator whose kernels have knobs.
struct Tuned {
    op: &'static str,
    /// What is to be tuned of a node whose types are known.
    tunes: fn(&Part<'_>, &Node) -> Option<(Task, Space)>,
    /// In the place of what the family says.
    compile: fn(&Part<'_>, &Node, &Schedules) -> Option<Arc<dyn Program>>,
}

static TUNED: &[Tuned] =
    &[Tuned { op: "hetra.ConvLast", tunes: nhwc_task::tunes, compile: nhwc::conv_by }];

fn tuned(node: &Node) -> Option<&'static Tuned> {
    TUNED.iter().find(|tuned| tuned.op == node.op)
}

/// The program of a node, if a kernel does this form of it, which finds its schedules here.
pub(crate) fn compile(
    part: &Part<'_>,
    node: &Node,
    schedules: &Schedules,
) -> Option<Arc<dyn Program>> {
    let compile = find(&Form { part, node, types: &|id| &part.types[id.index()] })?;
    match tuned(node) {
        Some(tuned) => (tuned.compile)(part, node, schedules),
        None => compile(part, node),
    }
}

/// What is to be tuned of a node, if a kernel does this form of it and has knobs.
pub(crate) fn tunes(part: &Part<'_>, node: &Node) -> Option<(Task, Space)> {
    find(&Form { part, node, types: &|id| &part.types[id.index()] })?;
    (tuned(node)?.tunes)(part, node)
}

/// What a kernel gives: its outputs, or `None` when the reference has to run.
pub(crate) type Outcome = Result<Option<Values>, OpError>;

/// The outcome of a kernel with one output.
fn one(out: Tensor) -> Outcome {
    Ok(Some(smallvec![out.into()]))
}

/// A program made of a closure.
struct Fast<F> {
    name: String,
    in_place: InPlace,
    run: F,
}

impl<F: Fn(&mut Call<'_>) -> Outcome + Send + Sync> Program for Fast<F> {
    fn run(&self, mut call: Call<'_>) -> Result<Values, OpError> {
        match (self.run)(&mut call)? {
            Some(values) => Ok(values),
            None => {
                call.fell_back.set(true);
                call.reference()
            }
        }
    }

    fn kernel(&self) -> &str {
        &self.name
    }

    fn in_place(&self, index: usize, types: &[Option<&Type>]) -> bool {
        (self.in_place)(index, types)
    }
}

/// Whether a kernel writes output 0 over an input, as [`Program::in_place`] says.
type InPlace = fn(usize, &[Option<&Type>]) -> bool;

/// A program that runs `run`; its outputs have memory of their own.
pub(crate) fn program<F>(name: &str, run: F) -> Option<Arc<dyn Program>>
where
    F: Fn(&mut Call<'_>) -> Outcome + Send + Sync + 'static,
{
    program_over(name, |_, _| false, run)
}

/// A program that runs `run`, which takes the inputs that `in_place` names
/// ([`Call::take_in_place`]).
pub(crate) fn program_over<F>(name: &str, in_place: InPlace, run: F) -> Option<Arc<dyn Program>>
where
    F: Fn(&mut Call<'_>) -> Outcome + Send + Sync + 'static,
{
    let isa = format!("{:?}", hetra_cpu_base::isa::isa()).to_lowercase();
    Some(Arc::new(Fast { name: format!("{name} {isa}"), in_place, run }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hetra_device::conformance::cases;
    use hetra_ir::NodeId;

    use super::*;

    /// What passes are told of a node is what becomes of it.
    #[test]
    fn a_form_is_claimed_if_it_compiles() {
        let mut claimed = BTreeSet::new();
        for case in cases(20_261_124, 12) {
            let (graph, node) = (&case.graph, &case.graph.nodes[0]);
            let types: Vec<Type> = graph.values.iter().map(|value| value.ty.clone()).collect();
            let part = Part { graph, nodes: &[NodeId(0)], types: &types };
            let claims = claims(node, graph);
            assert_eq!(
                claims,
                compile(&part, node, &Schedules::default()).is_some(),
                "{}: {:?}",
                case.name,
                node.attrs
            );
            if claims {
                claimed.insert(node.op.clone());
            }
        }
        let ops = FAMILIES.iter().flat_map(|family| family.ops).map(|(op, _)| *op);
        let never: Vec<_> = ops.filter(|op| !claimed.contains(*op)).collect();
        assert!(never.is_empty(), "no case has a form that these claim: {never:?}");
    }

    #[test]
    fn a_product_is_claimed_with_a_row_or_a_residual_as_its_bias() {
        let mut graph = Graph::default();
        let n = Dim::Sym("n".into());
        let mut value = |dims: &[Dim]| graph.add_value("", Type::shaped(DType::F32, dims.to_vec()));
        let a = value(&[Dim::Known(7), Dim::Known(3)]);
        let b = value(&[Dim::Known(3), n.clone()]);
        let y = value(&[Dim::Known(7), n.clone()]);
        let [row, flat] = [value(std::slice::from_ref(&n)), value(&[Dim::Known(1), n.clone()])];
        let [one, open] = [value(&[Dim::Known(1)]), value(&[Dim::Unknown])];
        let column = value(&[Dim::Known(7), Dim::Known(1)]);
        // What is open is seen at run time.
        let rows = [(row, true), (open, true), (flat, true), (y, true)];
        for (bias, wanted) in rows.into_iter().chain([(one, false), (column, false)]) {
            for op in ["com.microsoft.FusedMatMul", "com.microsoft.FusedGemm"] {
                let node = Node::new(op, &[a, b, bias], &[y]);
                assert_eq!(claims(&node, &graph), wanted, "{op} {bias:?}");
            }
        }
        let halved = |bias: &[ValueId]| {
            let inputs = [&[a, b], bias].concat();
            Node::new("Gemm", &inputs, &[y]).with("beta", 0.5f32)
        };
        assert!(!claims(&halved(&[row]), &graph));
        assert!(claims(&halved(&[]), &graph));
    }

    /// What is known of codes before a run decides it then.
    #[test]
    fn codes_are_claimed_by_their_dtypes() {
        let mut graph = Graph::default();
        let mut value = |dtype| graph.add_value("", Type::ranked(dtype, 2));
        let [x, scale, y] = [(); 3].map(|()| value(DType::F32));
        let [u8s, i8s, i16s, i32s] = [DType::U8, DType::I8, DType::I16, DType::I32].map(&mut value);
        let half = value(DType::F16);
        let check = |node: Node, wanted: bool| {
            assert_eq!(claims(&node, &graph), wanted, "{} {:?}", node.op, node.attrs);
        };
        let quantise = |inputs: &[ValueId]| Node::new("QuantizeLinear", inputs, &[y]);
        let named = |node: Node, dtype: DType| node.with("output_dtype", i64::from(dtype.onnx()));
        check(quantise(&[x, scale]), true);
        check(quantise(&[x, scale, i8s]), true);
        check(quantise(&[x, scale, i16s]), false);
        check(quantise(&[half, scale, i8s]), false);
        check(quantise(&[x, scale]).with("block_size", 2i64), false);
        check(named(quantise(&[x, scale]), DType::I8), true);
        check(named(quantise(&[x, scale]), DType::I4), false);
        let back =
            |codes: ValueId, scale: ValueId| Node::new("DequantizeLinear", &[codes, scale], &[y]);
        check(back(u8s, scale), true);
        check(back(i32s, scale), true);
        check(back(i16s, scale), false);
        check(back(u8s, half), false);
        check(back(u8s, scale).with("block_size", 2i64), false);
        check(named(back(u8s, scale), DType::F16), false);
        let add = |a: ValueId, b: ValueId| {
            Node::new("com.microsoft.QLinearAdd", &[a, scale, u8s, b, scale, u8s, scale, u8s], &[y])
        };
        check(add(u8s, u8s), true);
        check(add(i16s, i16s), false);
        let mean = Node::new("com.microsoft.QLinearGlobalAveragePool", &[u8s], &[y]);
        check(mean.clone(), true);
        check(mean.with("channels_last", 1i64), false);
    }

    #[test]
    fn forms_without_a_kernel_are_not_claimed() {
        let mut graph = Graph::default();
        let x = graph.add_value("x", Type::ranked(DType::F32, 4));
        let codes = graph.add_value("codes", Type::ranked(DType::U8, 4));
        let far = graph.add_value("far", Type::ranked(DType::F32, 6));
        let texts = graph.add_value("texts", Type::ranked(DType::String, 4));
        let nibbles = graph.add_value("nibbles", Type::ranked(DType::I4, 4));
        let y = graph.add_value("y", Type::Unknown);
        graph.inputs = vec![x, codes];
        let check = |node: Node, wanted: bool| {
            assert_eq!(claims(&node, &graph), wanted, "{} {:?}", node.op, node.attrs);
        };
        let pool = |from| Node::new("MaxPool", &[from], &[y]);
        check(pool(x), true);
        check(pool(codes), false);
        let average = Node::new("AveragePool", &[x], &[y]);
        check(average.clone(), true);
        check(average.with("ceil_mode", 1i64), false);
        check(Node::new("Attention", &[x, x, x], &[y]).with("is_causal", 1i64), true);
        check(Node::new("Attention", &[x, x, x], &[y]).with("softcap", 1.0f32), false);
        let conv = Node::new("com.microsoft.FusedConv", &[x, x], &[y]);
        check(conv.clone().with("activation", "Relu"), true);
        check(conv.with("activation", "Nothing"), false);
        check(Node::new("Conv", &[far, x], &[y]), false);
        check(pool(far), false);
        check(Node::new("GatherElements", &[codes, x], &[y]), true);
        check(Node::new("GatherElements", &[texts, x], &[y]), false);
        check(Node::new("Transpose", &[nibbles], &[y]), false);
        let resize = Node::new("Resize", &[codes], &[y]);
        check(resize.clone(), true);
        check(resize.with("mode", "linear"), false);
        // Its weights are not constant.
        check(Node::new("QLinearMatMul", &[codes; 8], &[y]), false);
        check(Node::new("com.microsoft.QLinearSigmoid", &[codes], &[y]), false);
    }
}
