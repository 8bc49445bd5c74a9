//! A run in steady state allocates its outputs, and little things of a step: no values between
//! nodes, no scratch.

use hetra::{Attr, DType, Dim, GraphBuilder, Model, ModelInfo, Node, Session, Tensor, Tuned};

/// Bytes of a value between two nodes.
const VALUE_BYTES: u64 = 64 * 32 * 32 * 4;

/// Most bytes that a run may allocate for each step, all together: lists of inputs and outputs,
/// shapes, counters of references. A value between nodes is over 40 times as large.
const STEP_BYTES_MAX: u64 = 6 << 10;

/// Convolutions of two forms, a sum, an activation, products and softmaxes; the last product is
/// too large to be written over one of its operands.
fn session() -> Session {
    let weights = |shape: &[usize]| {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| (i % 13) as f32 / 130.0 - 0.04).collect();
        Tensor::from_slice(shape, &values).unwrap()
    };
    let mut b = GraphBuilder::new("steady");
    let x = b.input("x", DType::F32, [1, 64, 32, 32].map(Dim::Known).to_vec());
    let mut conv = |x, name: &str, kernel: usize| {
        let w = b.constant(name, weights(&[64, 64, kernel, kernel]));
        let pads = Attr::Ints(vec![kernel as i64 / 2; 4]);
        b.node(Node::new("Conv", &[x, w], &[]).with("pads", pads), 1)[0]
    };
    let first = conv(x, "w1", 3);
    let second = conv(first, "w2", 1);
    let sum = b.op("Add", &[first, second]);
    let erf = b.op("Erf", &[sum]);
    let rows = b.op("Softmax", &[erf]);
    let m = b.constant("m", weights(&[32, 32]));
    let product = b.op("MatMul", &[rows, m]);
    let again = b.op("Softmax", &[product]);
    let large = b.op("Mul", &[product, again]);
    let y = b.op("GlobalAveragePool", &[large]);
    b.output(y);
    let model = Model { graph: b.finish(), info: ModelInfo::default() };
    Session::builder().model(model).threads(1).tuned(Tuned::Shipped).build().unwrap()
}

#[test]
fn a_steady_run_allocates_no_values_and_no_scratch() {
    let session = session();
    let x = Tensor::from_slice(&[1, 64, 32, 32], &vec![0.5f32; 64 * 32 * 32]).unwrap();
    session.warm_up([("x", x.clone())], 3).unwrap();
    let steps = session.graph().nodes.len() as u64;
    let mut seen = Vec::new();
    for _ in 0..4 {
        // All of it is on this thread: there are no others.
        let run = || drop(session.run([("x", x.clone())]).unwrap());
        let info = allocation_counter::measure(run);
        assert_eq!(info.count_current, 0, "something stays");
        let most = steps * STEP_BYTES_MAX;
        assert!(info.bytes_total <= most, "{} bytes in {steps} steps", info.bytes_total);
        seen.push((info.count_total, info.bytes_total));
    }
    assert!(steps * STEP_BYTES_MAX < VALUE_BYTES, "one value more would not show");
    // It does not grow.
    assert!(seen.iter().all(|run| *run == seen[0]), "{seen:?}");
}
