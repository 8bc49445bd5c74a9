//! Models on the devices that are here.

#![allow(clippy::print_stderr, reason = "says what is left out")]

use hetra::{Attr, DType, Dim, Error, GraphBuilder, Model, ModelInfo, Node, Session, Tensor};

/// Ids of the devices beside the CPU that are here. A driver that is required and has none fails.
fn others() -> Vec<String> {
    let mut ids = Vec::new();
    for found in hetra::devices().into_iter().filter(|found| found.info.driver != "cpu") {
        if found.state == hetra::DriverState::Found {
            ids.push(found.info.id);
        } else {
            let driver = found.info.driver;
            assert!(!hetra::is_required(&driver), "{driver} is required: {}", found.hint);
            eprintln!("left out: {driver}: {}", found.hint);
        }
    }
    ids
}

fn numbers(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    Tensor::from_slice(shape, &values).unwrap()
}

/// A small network: convolutions, a residual sum, pooling, a product, a softmax.
fn network() -> Model {
    let mut b = GraphBuilder::new("network");
    let x = b.input("x", DType::F32, vec![Dim::Sym("n".into()), 3.into(), 16.into(), 16.into()]);
    let conv = |b: &mut GraphBuilder, x, name: &str, shape: [usize; 4], groups: i64| {
        let w = b.constant(name, numbers(&shape));
        let pads = Attr::Ints(vec![shape[2] as i64 / 2; 4]);
        let node = Node::new("Conv", &[x, w], &[]).with("pads", pads).with("group", groups);
        b.node(node, 1)[0]
    };
    let first = conv(&mut b, x, "w1", [12, 3, 3, 3], 1);
    let first = b.op("Relu", &[first]);
    let second = conv(&mut b, first, "w2", [12, 1, 3, 3], 12);
    let third = conv(&mut b, second, "w3", [12, 12, 1, 1], 1);
    let sum = b.op("Add", &[first, third]);
    let pooled = b.op("GlobalAveragePool", &[sum]);
    let flat = b.op("Flatten", &[pooled]);
    let m = b.constant("m", numbers(&[12, 10]));
    let product = b.op("MatMul", &[flat, m]);
    let y = b.op("Softmax", &[product]);
    b.output(y);
    Model { graph: b.finish(), info: ModelInfo::default() }
}

fn run(session: &Session, x: &Tensor) -> Vec<f32> {
    let outputs = session.run([("x", x.clone())]).unwrap();
    outputs[0].as_tensor().unwrap().as_slice::<f32>().unwrap().to_vec()
}

#[test]
fn a_network_gives_the_same_on_every_device() {
    let cpu = Session::builder().model(network()).build().unwrap();
    for id in others() {
        let session =
            Session::builder().model(network()).device(&id).no_fallback().build().unwrap();
        for images in [1, 3, 1] {
            let x = numbers(&[images, 3, 16, 16]);
            let (wanted, got) = (run(&cpu, &x), run(&session, &x));
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5;
            assert!(wanted.iter().zip(&got).all(close), "{id}: {wanted:?} {got:?}");
        }
    }
}

#[test]
fn what_has_no_kernel_runs_on_the_host_or_is_an_error() {
    let model = || {
        let mut b = GraphBuilder::new("host");
        let x = b.input("x", DType::F32, vec![2.into(), 2.into()]);
        let twice = b.op("Add", &[x, x]);
        let inverse = b.op("Det", &[twice]);
        let y = b.op("Neg", &[inverse]);
        b.output(y);
        Model { graph: b.finish(), info: ModelInfo::default() }
    };
    let x = Tensor::from_slice(&[2, 2], &[1f32, 2.0, 3.0, 4.0]).unwrap();
    let whole = |id: &String| hetra::open(id, None).is_ok_and(|device| device.info().takes_parts);
    // Another runtime takes a model as it is, or not at all.
    for id in others().into_iter().filter(|id| !whole(id)) {
        let session = Session::builder().model(model()).device(&id).build().unwrap();
        assert_eq!(run(&session, &x), [8.0], "{id}");
        let strict = Session::builder().model(model()).device(&id).no_fallback().build().unwrap();
        let error = strict.run([("x", x.clone())]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("(Det)") && text.contains("no kernel"), "{text}");
    }
}

#[test]
fn devices_that_are_not_there_are_named_errors() {
    for id in ["wgpu:99", "opencl:99", "opencl:0.77", "gpu"] {
        let Err(error) = Session::builder().model(network()).device(id).build() else {
            panic!("{id} is there")
        };
        assert!(matches!(error, Error::Device(_)), "{id}: {error}");
    }
}

/// A product with everything around it, of extents that no tile divides, by either order of memory.
#[test]
fn large_products_are_those_of_the_cpu() {
    for (trans_a, trans_b) in [(0i64, 0i64), (1, 0), (0, 1), (1, 1)] {
        let (m, n, k) = (77, 131, 150);
        let mut b = GraphBuilder::new("product");
        let shape = |a: usize, b: usize, turned: i64| if turned == 1 { [b, a] } else { [a, b] };
        let x = shape(m, k, trans_a);
        let input = b.input("x", DType::F32, vec![x[0].into(), x[1].into()]);
        let w = b.constant("w", numbers(&shape(k, n, trans_b)));
        let bias = b.constant("bias", numbers(&[n]));
        let node = Node::new("Gemm", &[input, w, bias], &[])
            .with("transA", trans_a)
            .with("transB", trans_b)
            .with("alpha", 0.5f32)
            .with("beta", 2.0f32);
        let product = b.node(node, 1)[0];
        let y = b.op("Relu", &[product]);
        b.output(y);
        let model = Model { graph: b.finish(), info: ModelInfo::default() };
        let run = |id: &str| {
            let session = Session::builder().model(model.clone()).device(id);
            let session = if id == "cpu" { session } else { session.no_fallback() };
            let outputs = session.build().unwrap().run([("x", numbers(&x))]).unwrap();
            outputs[0].as_tensor().unwrap().as_slice::<f32>().unwrap().to_vec()
        };
        let wanted = run("cpu");
        for id in others() {
            let got = run(&id);
            let far = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(far < 1e-4, "{id} {trans_a} {trans_b}: {far}");
        }
    }
}
