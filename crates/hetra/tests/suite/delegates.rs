//! Other runtimes as devices: whole models and parts of them.
//!
//! Their libraries are found as users' are (`HETRA_ORT_LIB`, `HETRA_OPENVINO_LIB`, Python
//! packages); a driver without one is left out, unless `HETRA_REQUIRE_DEVICES` names it.

#![allow(clippy::print_stderr, reason = "a test that is left out says so")]

use std::sync::Arc;

use crate::places;
use hetra::placing::{self, PlanFile, PlanGoal, PlanOptions};
use hetra::{
    DType, Device, Dim, Graph, GraphBuilder, Node, Seat, Session, Tensor, Value, import_file,
};

const DELEGATES: [&str; 2] = ["ort", "openvino"];

/// The delegates that are here.
fn found() -> Vec<(&'static str, Arc<dyn Device>)> {
    let open = |id: &'static str| match hetra::open(id, Some(1)) {
        Ok(device) => Some((id, device)),
        Err(error) if hetra::is_required(id) => panic!("{error}"),
        Err(error) => {
            eprintln!("SKIPPED: {id}: {error}");
            None
        }
    };
    DELEGATES.into_iter().filter_map(open).collect()
}

fn digits() -> Graph {
    import_file(places::digits(), &Default::default()).expect("the model").graph
}

fn picture(seed: usize) -> Tensor {
    let pixels: Vec<f32> = (0..64).map(|at| ((at * 7 + seed * 13) % 17) as f32 / 16.0).collect();
    let shape = digits_shape();
    Tensor::from_slice(&shape, &pixels).expect("64 pixels")
}

/// The shape of one picture, as the model declares it.
fn digits_shape() -> Vec<usize> {
    let graph = digits();
    let dims = graph.ty(graph.inputs[0]).dims().expect("a tensor").to_vec();
    dims.iter().map(|dim| dim.known().unwrap_or(1)).collect()
}

fn on(graph: Graph, device: &Arc<dyn Device>) -> Result<Session, String> {
    let builder = Session::builder().graph(graph).on(device.clone());
    builder.build().map_err(|error| error.to_string())
}

fn near(got: &Value, wanted: &Value) {
    let numbers = |value: &Value| -> Vec<f64> {
        let tensor = value.as_tensor().expect("a tensor");
        hetra_tensor::to_f64(tensor).expect("numbers")
    };
    let (got, wanted) = (numbers(got), numbers(wanted));
    assert_eq!(got.len(), wanted.len());
    let scale = wanted.iter().fold(1f64, |most, number| most.max(number.abs()));
    for (got, wanted) in got.iter().zip(&wanted) {
        assert!((got - wanted).abs() <= 1e-4 * scale, "{got} for {wanted}");
    }
}

#[test]
fn a_model_runs_whole_and_gives_the_same() {
    let cpu = on(digits(), &hetra::open("cpu", Some(1)).unwrap()).unwrap();
    let name = cpu.inputs()[0].name.clone();
    for (id, device) in found() {
        let session = on(digits(), &device).unwrap();
        assert_eq!(session.device().id, id);
        for seed in 0..3 {
            let input = || [(name.as_str(), picture(seed))];
            let wanted = cpu.run(input()).unwrap();
            let (got, trace) = session.trace(input()).unwrap();
            assert_eq!(got.len(), wanted.len());
            (0..got.len()).for_each(|at| near(&got[at], &wanted[at]));
            assert_eq!(trace.steps.len(), 1);
            assert_eq!(trace.steps[0].device, id);
        }
        // From several threads at once.
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let (session, cpu, name) = (&session, &cpu, name.as_str());
                scope.spawn(move || {
                    for _ in 0..5 {
                        let wanted = cpu.run([(name, picture(seed))]).unwrap();
                        near(&session.run([(name, picture(seed))]).unwrap()[0], &wanted[0]);
                    }
                });
            }
        });
    }
}

#[test]
fn open_shapes_and_every_dtype_cross_the_border() {
    let same = |dtype: DType| {
        let mut b = GraphBuilder::new("same");
        let x = b.input("x", dtype, vec![Dim::Sym("n".into()), 2usize.into()]);
        let y = b.op("Concat", &[x, x]);
        let mut graph = {
            b.output(y);
            b.finish()
        };
        graph.nodes[0].attrs.set("axis", 0i64);
        graph
    };
    let dtypes = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::Bool,
    ];
    for (id, device) in found() {
        for dtype in dtypes {
            let session = on(same(dtype), &device).unwrap_or_else(|error| panic!("{id}: {error}"));
            for rows in [1usize, 3, 0] {
                let numbers: Vec<f64> = (0..rows * 2).map(|at| (at % 2) as f64).collect();
                let x = hetra_tensor::from_f64(dtype, &[rows, 2], &numbers).unwrap();
                let got = match session.run([("x", x)]) {
                    Ok(got) => got,
                    // What has no elements is nothing to some.
                    Err(_) if rows == 0 => continue,
                    Err(error) => panic!("{id}, {dtype}: {error}"),
                };
                let got = got[0].as_tensor().unwrap();
                assert_eq!((got.dtype(), got.shape()), (dtype, &[rows * 2, 2][..]), "{id}");
                let twice = [numbers.clone(), numbers].concat();
                assert_eq!(hetra_tensor::to_f64(got).unwrap(), twice, "{id}, {dtype}");
            }
        }
    }
}

/// With one thread OpenVINO 2026.4 gives stale outputs for such a run, and a crash later.
#[test]
fn a_shape_that_does_not_fit_in_a_run_is_an_error() {
    for (id, device) in found() {
        let mut b = GraphBuilder::new("window");
        let dims = vec![1usize.into(), 2usize.into(), Dim::Sym("h".into()), Dim::Sym("w".into())];
        let x = b.input("x", DType::F32, dims);
        let pool = Node::new("MaxPool", &[x], &[]).with("kernel_shape", vec![3i64, 3]);
        let y = b.node(pool, 1)[0];
        b.output(y);
        let graph = b.finish();
        let picture =
            |side: usize| Value::from(Tensor::zeros(DType::F32, &[1, 2, side, side]).unwrap());
        for _ in 0..4 {
            let session = on(graph.clone(), &device).expect(id);
            assert!(session.run([("x", picture(8))]).is_ok(), "{id}");
            // Some call it a picture without pixels.
            if let Ok(outputs) = session.run([("x", picture(2))]) {
                assert!(outputs[0].as_tensor().expect("a tensor").is_empty(), "{id}");
            }
        }
        // What was made and let go of since has done no harm.
        let session = on(graph, &device).expect(id);
        let outputs = session.run([("x", picture(5))]).expect(id);
        assert_eq!(outputs[0].as_tensor().expect("a tensor").shape(), [1, 2, 3, 3], "{id}");
    }
}

#[test]
fn what_a_runtime_would_get_wrong_is_refused() {
    let one = |dtype: DType, node: Node| {
        let mut b = GraphBuilder::new("one");
        let x = b.input("x", dtype, vec![2usize.into()]);
        let y = b.node(Node { inputs: vec![Some(x)], ..node }, 1)[0];
        b.output(y);
        b.finish()
    };
    for (id, device) in found() {
        let texts = on(one(DType::String, Node::new("Identity", &[], &[])), &device).err().unwrap();
        assert!(texts.contains("string"), "{id}: {texts}");
        let ours = on(one(DType::F32, Node::new("hetra.Expm1", &[], &[])), &device).err().unwrap();
        assert!(ours.contains("hetra.Expm1"), "{id}: {ours}");
        let wrong = one(DType::F32, Node::new("Neg", &[], &[]));
        let session = on(wrong, &device).unwrap();
        let error = session.run([("x", Tensor::vector(&[1f32]))]).unwrap_err().to_string();
        assert!(error.contains("`x`"), "{id}: {error}");
        if id == "openvino" {
            let doubles = on(one(DType::F64, Node::new("Neg", &[], &[])), &device).err().unwrap();
            assert!(doubles.contains("f64"), "{doubles}");
            let longs = on(one(DType::I64, Node::new("Neg", &[], &[])), &device).unwrap();
            let error = longs.run([("x", Tensor::vector(&[1i64 << 40, 1]))]).unwrap_err();
            assert!(error.to_string().contains("32 bits"), "{error}");
        }
    }
    // Devices that there are not.
    for id in ["ort:nothing", "openvino:tpu", "ort?x"] {
        let driver = id.split([':', '?']).next().unwrap();
        if found().iter().any(|(found, _)| *found == driver) {
            let error = hetra::open(id, Some(1)).err().unwrap().to_string();
            assert!(error.contains(id), "{error}");
        }
    }
}

fn seats(ids: &[&str]) -> Vec<Seat> {
    ids.iter().map(|id| hetra::open(id, Some(1)).unwrap().into()).collect()
}

/// A plan of the digits model on the processor and another device.
fn plan(id: &str, options: &PlanOptions) -> Result<PlanFile, String> {
    let mut moments = 0;
    let plan = placing::plan(
        &digits(),
        &seats(&["cpu", id]),
        &[picture(1).into()],
        options,
        &mut |moment| {
            moments += 1;
            assert!(moment.done <= moment.of && !moment.what.is_empty());
        },
    );
    assert!(moments > 2);
    plan.map_err(|error| error.to_string())
}

/// The labels of the first and the last node that plans place.
fn ends() -> (String, String) {
    let graph = placing::placed_graph(&digits());
    let label = |node: Option<&Node>| node.map(|node| node.label(&graph)).expect("nodes");
    (label(graph.nodes.first()), label(graph.nodes.last()))
}

#[test]
fn a_plan_is_made_saved_and_run() {
    let cpu = on(digits(), &hetra::open("cpu", Some(1)).unwrap()).unwrap();
    let name = cpu.inputs()[0].name.clone();
    for (id, _) in found() {
        let plan_of = |goal| plan(id, &PlanOptions { goal, ..PlanOptions::default() }).unwrap();
        for goal in [PlanGoal::LATENCY, PlanGoal::THROUGHPUT] {
            let made = plan_of(goal);
            assert!(made.considered.iter().any(|considered| considered.name == "cpu"));
            assert!(made.bound.as_ref().unwrap().score > 0.0 && !made.tasks.is_empty());
            let read = PlanFile::parse(&made.print()).unwrap();
            assert_eq!(read, made);
        }
        // Pins to both leave a mix only.
        let (first, last) = ends();
        let pins = vec![(first.clone(), "cpu".to_string()), (last.clone(), id.to_string())];
        let mixed = plan(id, &PlanOptions { pins, ..PlanOptions::default() }).unwrap();
        assert_eq!(mixed.chosen, "mix");
        let used: Vec<&str> = mixed.parts.iter().map(|part| part.device.as_str()).collect();
        assert!(used.contains(&"cpu") && used.contains(&id), "{used:?}");
        let session = Session::builder().graph(digits()).plan(mixed.clone()).build().unwrap();
        let input = || [(name.as_str(), picture(5))];
        near(&session.run(input()).unwrap()[0], &cpu.run(input()).unwrap()[0]);
        let trace = session.trace(input()).unwrap().1;
        assert!(trace.steps.iter().any(|step| step.device == id));
        stale(&mixed);
    }
}

/// Plans that do not fit any more are refused with the reason.
fn stale(plan: &PlanFile) {
    let fault = |change: &dyn Fn(&mut PlanFile), graph: Graph| {
        let mut plan = plan.clone();
        change(&mut plan);
        let built = Session::builder().graph(graph).plan(plan).build();
        built.err().expect("it is refused").to_string()
    };
    let version = fault(&|plan| plan.devices[0].version = "0.0.1".to_string(), digits());
    assert!(version.contains("stale") && version.contains("0.0.1"), "{version}");
    let gone = fault(&|plan| plan.devices[0].id = "npu:7".to_string(), digits());
    assert!(gone.contains("npu:7"), "{gone}");
    let twice = fault(&|plan| plan.parts.push(plan.parts[0].clone()), digits());
    assert!(twice.contains("2 times"), "{twice}");
    let mut other = digits();
    let weight = *other.constants.keys().next().unwrap();
    let ones = other.constants[&weight].as_tensor().unwrap();
    let ones = Tensor::zeros(ones.dtype(), ones.shape()).unwrap();
    other.constants.insert(weight, ones.into());
    let model = fault(&|_| {}, other);
    assert!(model.contains("another model"), "{model}");
    let both = Session::builder().graph(digits()).plan(plan.clone()).device("cpu").build();
    assert!(both.err().unwrap().to_string().contains("no other one"));
}

#[test]
fn pins_that_cannot_be_are_told() {
    let Some((id, _)) = found().into_iter().next() else { return };
    let fault = |pattern: &str, device: &str| {
        let pins = vec![(pattern.to_string(), device.to_string())];
        plan_error(id, PlanOptions { pins, ..PlanOptions::default() })
    };
    assert!(fault("*", "gpu9").contains("it has cpu"), "{}", fault("*", "gpu9"));
    assert!(fault("nothing*", "cpu").contains("no node"), "{}", fault("nothing*", "cpu"));
    let twice = placing::plan(
        &digits(),
        &seats(&["cpu", "cpu"]),
        &[picture(1).into()],
        &PlanOptions::default(),
        &mut |_| {},
    );
    assert!(twice.err().unwrap().to_string().contains("twice"));
}

fn plan_error(id: &str, options: PlanOptions) -> String {
    let inputs = [picture(1).into()];
    placing::plan(&digits(), &seats(&["cpu", id]), &inputs, &options, &mut |_| {})
        .expect_err("a fault")
        .to_string()
}
