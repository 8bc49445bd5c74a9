//! A run in steady state allocates its outputs, and the lists that they are given in: nothing for
//! its steps, be they many or few.

use hetra::{Attr, DType, Dim, GraphBuilder, Model, ModelInfo, Node, Session, Tensor, Tuned};

/// Most blocks of memory that a run takes: the inputs by name, an output and its list, twice, and
/// the list of a step that has several outputs.
const BLOCKS_MAX: u64 = 10;

/// Most bytes of them; a value between nodes is 256 KiB.
const BYTES_MAX: u64 = 4 << 10;

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
    // All of it is below what is mapped from the system by itself, which is not counted here.
    let none = b.constant("none", Tensor::from_slice::<f32>(&[0], &[]).unwrap());
    let twice = b.constant("twice", Tensor::vector(&[1.0f32, 1.0, 2.0, 1.0]));
    let resized = b.op("Resize", &[large, none, twice]);
    let window = || Attr::Ints(vec![2, 1]);
    let pooled = Node::new("MaxPool", &[resized], &[]).with("kernel_shape", window());
    let pooled = b.node(pooled.with("strides", window()), 1)[0];
    let lengths = b.constant("lengths", Tensor::vector(&[24i64, 40]));
    let parts = b.node(Node::new("Split", &[pooled, lengths], &[]).with("axis", 1i64), 2);
    let joined = Node::new("Concat", &[parts[1], rows, parts[0]], &[]);
    let pooled = b.node(joined.with("axis", 1i64), 1)[0];
    // Else all of this is one shuffle of channels, which keeps lists.
    let pooled = b.op("Abs", &[pooled]);
    let flat = b.constant("flat", Tensor::vector(&[0i64, 2, 64, 32, 32]));
    let shuffled = b.op("Reshape", &[pooled, flat]);
    let turned = Node::new("Transpose", &[shuffled], &[]);
    let turned = b.node(turned.with("perm", Attr::Ints(vec![0, 2, 1, 3, 4])), 1)[0];
    let planes = b.constant("planes", Tensor::vector(&[0i64, 128, 32, 32]));
    let again = b.op("Reshape", &[turned, planes]);
    let y = b.op("GlobalAveragePool", &[again]);
    b.output(y);
    let model = Model { graph: b.finish(), info: ModelInfo::default() };
    Session::builder().model(model).threads(1).tuned(Tuned::Shipped).build().unwrap()
}

#[test]
fn a_steady_run_allocates_nothing_but_what_it_gives() {
    let session = session();
    let x = Tensor::from_slice(&[1, 64, 32, 32], &vec![0.5f32; 64 * 32 * 32]).unwrap();
    session.warm_up([("x", x.clone())], 3).unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        // All of it is on this thread: there are no others.
        let run = || drop(session.run([("x", x.clone())]).unwrap());
        let info = allocation_counter::measure(run);
        assert_eq!(info.count_current, 0, "something stays");
        assert!(info.count_total <= BLOCKS_MAX, "{} blocks", info.count_total);
        assert!(info.bytes_total <= BYTES_MAX, "{} bytes", info.bytes_total);
        seen.push((info.count_total, info.bytes_total));
    }
    // It does not grow.
    assert!(seen.iter().all(|run| *run == seen[0]), "{seen:?}");
}
