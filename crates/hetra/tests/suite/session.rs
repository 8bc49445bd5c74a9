//! What a session promises, on the small model of the checkout and on graphs made by hand.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::places;
use hetra::{DType, Device, Dim, Error, Session, Tensor, TensorView, Type, Value};
use hetra_device::{DeviceError, Part, Program};
use hetra_ir::{Builder, Node};

fn digits(threads: usize) -> Session {
    let builder = Session::builder().model_file(places::digits()).threads(threads);
    builder.build().expect("the model of the checkout")
}

/// The held-out pictures: 64 pixels in 0..=1 each, and their labels.
fn pictures() -> (Vec<f32>, Vec<usize>) {
    let path = places::root().join("crates/cli/assets/digits_test.bin");
    let bytes = std::fs::read(path).expect("the held-out pictures");
    // `HDIG1\n` and a count stand in front.
    let records = bytes[10..].as_chunks::<65>().0;
    let pixels = records.iter().flat_map(|record| &record[..64]);
    let pixels = pixels.map(|&ink| f32::from(ink) / 16.0).collect();
    (pixels, records.iter().map(|record| usize::from(record[64])).collect())
}

/// `count` pictures from the `first` on.
fn batch(first: usize, count: usize) -> Tensor {
    let (pixels, _) = pictures();
    Tensor::from_slice(&[count, 1, 8, 8], &pixels[first * 64..(first + count) * 64])
        .expect("64 pixels a picture")
}

fn logits(session: &Session, image: Tensor) -> Vec<f32> {
    let outputs = session.run([("image", image)]).expect("a run");
    outputs.tensor("logits").expect("logits").as_slice::<f32>().expect("f32").to_vec()
}

fn assert_close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (x, y) in got.iter().zip(want) {
        assert!((x - y).abs() <= 1e-5 * (1.0 + y.abs()), "{what}: got {x}, wanted {y}");
    }
}

#[test]
fn digits_are_read_as_the_model_card_says() {
    let (_, labels) = pictures();
    let logits = logits(&digits(2), batch(0, labels.len()));
    let class = |row: &[f32]| (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
    let rows = logits.as_chunks::<10>().0.iter();
    let right = rows.zip(&labels).filter(|(row, label)| class(&row[..]) == **label).count();
    // The figure of crates/cli/assets/README.md.
    assert_eq!((right, labels.len()), (358, 360));
}

#[test]
fn any_batch_size_gives_what_one_by_one_gives() {
    let session = digits(2);
    let alone: Vec<f32> = (0..32).flat_map(|index| logits(&session, batch(index, 1))).collect();
    for count in [1, 3, 32, 1] {
        let together = logits(&session, batch(0, count));
        assert_close(&together, &alone[..count * 10], &format!("a batch of {count}"));
    }
    assert_eq!(logits(&session, batch(0, 1)), alone[..10], "the same run twice");
}

#[test]
fn an_empty_batch_gives_an_empty_output() {
    let session = digits(1);
    let empty = Tensor::zeros(DType::F32, &[0, 1, 8, 8]).expect("no memory at all");
    let outputs = session.run([("image", empty)]).expect("a run");
    assert_eq!(outputs[0].describe(), "f32[0,10]");
}

#[test]
fn threads_share_a_session() {
    let session = digits(2);
    let wanted: Vec<Vec<f32>> =
        (0..5).map(|index| logits(&session, batch(index, index + 1))).collect();
    thread::scope(|scope| {
        for worker in 0..8 {
            let (session, wanted) = (&session, &wanted);
            scope.spawn(move || {
                for turn in 0..25 {
                    let index = (worker + turn) % wanted.len();
                    let got = logits(session, batch(index, index + 1));
                    assert_eq!(got, wanted[index], "worker {worker}, turn {turn}");
                }
            });
        }
    });
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let image = batch(7, 13);
    let one = logits(&digits(1), image.clone());
    for threads in [2, 3] {
        let got = logits(&digits(threads), image.clone());
        let same = got.iter().zip(&one).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{threads} threads: {got:?}\n1 thread: {one:?}");
    }
}

#[test]
fn passes_keep_the_results() {
    let image = batch(3, 9);
    let with = logits(&digits(2), image.clone());
    let build = |passes: &[&str]| {
        let builder = Session::builder().model_file(places::digits()).threads(2);
        let off = |builder: hetra::Builder, name: &&str| builder.without_pass(name);
        passes.iter().fold(builder, off).build().expect("a session")
    };
    assert_close(&logits(&build(&["all"]), image.clone()), &with, "all passes off");
    for pass in hetra::PASSES {
        let without = logits(&build(&[pass.name]), image.clone());
        assert_close(&without, &with, &format!("without `{}`", pass.name));
    }
    let builder = Session::builder().model_file(places::digits()).without_pass("polish");
    let error = builder.build().err().expect("no such pass").to_string();
    assert!(error.contains("`polish`") && error.contains(hetra::PASSES[0].name), "{error}");
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn runs_in_the_background_can_be_awaited_or_waited_for() {
    let session = digits(2);
    let wanted = logits(&session, batch(0, 4));
    let start = || session.run_async([("image", batch(0, 4))]).expect("a run begins");
    let read = |outputs: hetra::Outputs| {
        outputs[0].as_tensor().expect("a tensor").as_slice::<f32>().expect("f32").to_vec()
    };
    assert_eq!(read(start().wait().expect("a run")), wanted);
    assert_eq!(read(block_on(start()).expect("a run")), wanted);
    assert_eq!(read(block_on(async { start().await }).expect("a run")), wanted);
    // Many at a time, and the session may go before they end.
    let pending: Vec<_> = (0..6).map(|_| start()).collect();
    for run in pending {
        assert_eq!(read(run.wait().expect("a run")), wanted);
    }
    let last = start();
    drop(session);
    assert_eq!(read(last.wait().expect("a run")), wanted);
}

#[test]
fn faults_of_a_background_run_come_with_its_result() {
    let session = digits(1);
    let bad = Tensor::zeros(DType::F32, &[1, 8, 8]).expect("small");
    let error = session.run_async([("image", bad)]).expect("a run begins").wait();
    assert!(matches!(error, Err(Error::Exec(_))));
    let image = batch(0, 1);
    assert!(matches!(session.run_async([("picture", image)]), Err(Error::Name { .. })));
}

/// The CPU, counting the runs that are on it at one time.
struct Counting {
    cpu: Arc<dyn Device>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Device for Counting {
    fn info(&self) -> &hetra::DeviceInfo {
        self.cpu.info()
    }

    fn supports(&self, node: &Node, graph: &hetra::Graph) -> hetra::Support {
        self.cpu.supports(node, graph)
    }

    fn compile(&self, part: &Part<'_>) -> Result<Arc<dyn Program>, DeviceError> {
        self.cpu.compile(part)
    }

    fn scope(&self, work: &mut (dyn FnMut() + Send)) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        // Long enough for the others to come in, if they may.
        thread::sleep(Duration::from_millis(5));
        self.cpu.scope(work);
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn runs_at_one_time_are_bounded() {
    let cpu = hetra::open("cpu", Some(1)).expect("a device");
    let device = Arc::new(Counting { cpu, now: 0.into(), most: 0.into() });
    let builder = || Session::builder().model_file(places::digits()).on(device.clone());
    assert!(matches!(builder().runs_max(0).build(), Err(Error::NoRuns)));
    let session = builder().runs_max(3).build().expect("a session");
    let start = |_| session.run_async([("image", batch(0, 1))]).expect("a run begins");
    thread::scope(|scope| {
        let pending: Vec<_> = (0..12).map(start).collect();
        for _ in 0..6 {
            scope.spawn(|| logits(&session, batch(0, 1)));
        }
        pending.into_iter().for_each(|run| drop(run.wait().expect("a run")));
    });
    assert_eq!(device.most.load(Ordering::SeqCst), 3);
}

/// Two inputs of one symbolic extent, three outputs.
fn sums() -> Session {
    let mut b = Builder::new("sums");
    let n = || vec![Dim::Sym("n".into()), Dim::Known(2)];
    let (x, y) = (b.input("x", DType::F32, n()), b.input("y", DType::F32, n()));
    let sum = b.op("Add", &[x, y]);
    let product = b.op("Mul", &[x, y]);
    let flipped = b.node(Node::new("Transpose", &[sum], &[]).with("perm", vec![1i64, 0]), 1)[0];
    [sum, product, flipped].into_iter().for_each(|id| b.output(id));
    let mut graph = b.finish();
    for (id, name) in [(sum, "sum"), (product, "product"), (flipped, "flipped")] {
        graph.values[id.index()].name = name.to_string();
    }
    Session::builder().graph(graph).threads(1).build().expect("a session")
}

#[test]
fn outputs_can_be_chosen_and_inputs_borrowed() {
    let session = sums();
    let x = Tensor::from_slice(&[2, 2], &[1.0f32, 2.0, 3.0, 4.0]).expect("a matrix");
    let y = Tensor::from_slice(&[2, 2], &[10.0f32, 20.0, 30.0, 40.0]).expect("a matrix");
    let inputs = || [("x", x.clone()), ("y", y.clone())];
    let all = session.run(inputs()).expect("a run");
    assert_eq!(all.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["sum", "product", "flipped"]);
    let chosen = session.run_for(inputs(), &["flipped", "sum"]).expect("a run");
    assert_eq!(chosen.len(), 2);
    assert_eq!(chosen[0], all[2]);
    assert_eq!(chosen[1], all[0]);
    let error = session.run_for(inputs(), &["total"]).expect_err("no such output").to_string();
    assert_eq!(error, "the model has no output `total`; it has sum, product, flipped");
    // A strided view: the transpose of x.
    let turned = x.view().permute(&[1, 0]).expect("two axes");
    let outputs = session.run_borrowed(&[("y", y.view()), ("x", turned)]).expect("a run");
    let sum = outputs.tensor("sum").expect("a tensor").as_slice::<f32>().expect("f32").to_vec();
    assert_eq!(sum, [11.0, 23.0, 32.0, 44.0]);
    // A slice that is no tensor.
    let slice = TensorView::from_slice(&[2, 2], &[1.0f32, 2.0, 3.0, 4.0]).expect("a view");
    let outputs = session.run_borrowed(&[("x", slice), ("y", y.view())]).expect("a run");
    assert_eq!(outputs[0], all[0]);
    // What the caller gave is not written to, though outputs may be written over inputs.
    session.warm_up(inputs(), 3).expect("runs");
    assert_eq!(x.as_slice::<f32>().expect("f32"), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(session.run(inputs()).expect("a run")[0], all[0]);
}

#[test]
fn a_symbol_has_one_extent_in_a_run() {
    let session = sums();
    let rows = |rows: usize| Tensor::zeros(DType::F32, &[rows, 2]).expect("small");
    session.run([("x", rows(3)), ("y", rows(3))]).expect("a run");
    session.run([("x", rows(1)), ("y", rows(1))]).expect("another run");
    let error = session.run([("x", rows(3)), ("y", rows(1))]).expect_err("n is 3 and 1");
    assert!(matches!(error, Error::Symbol { wanted: 3, got: 1, .. }), "{error}");
    // `?` is no symbol, but what some exporters write for an axis of any extent.
    let mut b = Builder::new("open");
    let open = || vec![Dim::Sym("?".into())];
    let (x, y) = (b.input("x", DType::F32, open()), b.input("y", DType::F32, open()));
    let (x, y) = (b.op("Relu", &[x]), b.op("Relu", &[y]));
    [x, y].into_iter().for_each(|id| b.output(id));
    let session = Session::builder().graph(b.finish()).threads(1).build().expect("a session");
    let (one, two) = (Tensor::vector(&[1f32]), Tensor::vector(&[1f32, 2.0]));
    session.run([("x", one), ("y", two)]).expect("a run");
}

#[test]
fn an_open_device_and_a_chosen_one_contradict_each_other() {
    let device = hetra::open("cpu", Some(1)).expect("a device");
    let builder = || Session::builder().model_file(places::digits()).on(device.clone());
    builder().build().expect("a session");
    for builder in [builder().device("null"), builder().threads(2)] {
        assert!(matches!(builder.build(), Err(Error::TwoDevices)));
    }
}

#[test]
fn what_only_other_outputs_need_is_not_run() {
    let mut b = Builder::new("two");
    let x = b.input("x", DType::F32, vec![Dim::Sym("n".into())]);
    let at = b.input("at", DType::I64, vec![]);
    let (good, bad) = (b.op("Relu", &[x]), b.op("Gather", &[x, at]));
    [good, bad].into_iter().for_each(|id| b.output(id));
    let mut graph = b.finish();
    graph.values[good.index()].name = "good".to_string();
    graph.values[bad.index()].name = "bad".to_string();
    let session = Session::builder().graph(graph).threads(1).build().expect("a session");
    let inputs = |at: i64| [("x", Tensor::vector(&[1f32, -1.0])), ("at", Tensor::scalar(at))];
    // There is no item 9: whoever runs the node sees its fault.
    session.run(inputs(9)).expect_err("a fault");
    session.run_for(inputs(9), &["bad"]).expect_err("a fault");
    for _ in 0..2 {
        let outputs = session.run_for(inputs(9), &["good"]).expect("a run");
        assert_eq!(outputs[0], Tensor::vector(&[1f32, 0.0]).into());
    }
    let outputs = session.run_for(inputs(1), &["bad", "good", "bad"]).expect("a run");
    assert_eq!(outputs.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["bad", "good", "bad"]);
    assert_eq!(outputs[2], Tensor::scalar(-1f32).into());
    assert!(session.run_for(inputs(9), &[]).expect("nothing to run").is_empty());
}

/// A residual is no row: the kernel of the fused product does not add it, and the whole product
/// would be left to the reference.
#[test]
fn no_fusion_takes_a_kernel_away() {
    let mut b = Builder::new("residual");
    let x = b.input("x", DType::F32, vec![Dim::Sym("n".into()), Dim::Known(4)]);
    let w = b.constant("w", Tensor::from_slice(&[4, 4], &[0.5f32; 16]).expect("a matrix"));
    let product = b.op("MatMul", &[x, w]);
    let y = b.op("Add", &[product, x]);
    b.output(y);
    let session = Session::builder().graph(b.finish()).threads(1).build().expect("a session");
    let kernels = session.kernels();
    assert!(kernels.iter().all(|kernel| *kernel != "reference"), "{kernels:?}");
    let x = Tensor::from_slice(&[1, 4], &[1f32, 2.0, 3.0, 4.0]).expect("a row");
    let (outputs, trace) = session.trace([("x", x)]).expect("a run");
    let wanted = Tensor::from_slice(&[1, 4], &[6f32, 7.0, 8.0, 9.0]).expect("a row");
    assert_eq!(outputs[0], wanted.into());
    assert!(trace.steps.iter().all(|step| step.kernel != "reference"), "{:?}", trace.steps);
}

#[test]
fn a_graph_is_verified() {
    let mut b = Builder::new("main");
    let x = b.input("x", DType::F32, vec![]);
    let y = b.op("Relu", &[x]);
    b.output(y);
    let mut graph = b.finish();
    graph.nodes[0].inputs[0] = Some(hetra_ir::ValueId(9));
    let error = Session::builder().graph(graph).build().err().expect("a fault").to_string();
    assert!(error.contains("graph `main`") && error.contains("there is no value 9"), "{error}");
}

#[test]
fn sequences_and_optionals_are_checked() {
    let f32s = |shape: &[usize]| Value::from(Tensor::zeros(DType::F32, shape).expect("small"));
    let mut b = Builder::new("lists");
    let list = b.input("list", DType::F32, vec![]);
    let perhaps = b.input("perhaps", DType::F32, vec![]);
    let (count, there) = (b.op("SequenceLength", &[list]), b.op("OptionalHasElement", &[perhaps]));
    [count, there].into_iter().for_each(|id| b.output(id));
    let mut graph = b.finish();
    let pair = Type::shaped(DType::F32, vec![Dim::Unknown, Dim::Known(2)]);
    graph.values[list.index()].ty = Type::Sequence(Box::new(pair.clone()));
    graph.values[perhaps.index()].ty = Type::Optional(Box::new(pair));
    let session = Session::builder().graph(graph).build().expect("a session");
    let run = |list: &[Value], perhaps: Value| {
        let inputs = [("list", Value::Sequence(list.to_vec())), ("perhaps", perhaps)];
        session.run(inputs).map_err(|error| error.to_string())
    };
    let outputs = run(&[f32s(&[1, 2]), f32s(&[3, 2])], Value::Optional(None)).expect("a run");
    assert_eq!(outputs[0], Tensor::scalar(2i64).into());
    let check = |list: &[Value], perhaps: Value, wanted: &str| {
        assert_eq!(run(list, perhaps).expect_err("a fault"), wanted);
    };
    let wanted = "input `list`: wanted seq<f32[?,2]>, got a sequence whose item 1 is f32[1,3]";
    check(&[f32s(&[1, 2]), f32s(&[1, 3])], Value::Optional(None), wanted);
    check(&[], f32s(&[2]), "input `perhaps`: wanted opt<f32[?,2]>, got f32[2]");
}

#[test]
fn wrong_inputs_are_named_with_their_types() {
    let session = sums();
    let f32s = |shape: &[usize]| Tensor::zeros(DType::F32, shape).expect("small");
    let check = |inputs: Vec<(&str, Tensor)>, wanted: &str| {
        let error = session.run(inputs).expect_err("a fault").to_string();
        assert_eq!(error, wanted);
    };
    check(
        vec![("x", f32s(&[1, 2])), ("z", f32s(&[1, 2]))],
        "the model has no input `z`; it has x, y",
    );
    check(vec![("x", f32s(&[1, 2]))], "input `y`: wanted f32[n,2], got nothing");
    let ones = || f32s(&[1, 2]);
    check(vec![("x", ones()), ("y", ones()), ("x", ones())], "input `x` is given twice");
    let guess = "the model has no input `Y`; it has x, y; did you mean `y`?";
    check(vec![("x", ones()), ("Y", ones())], guess);
    let ints = Tensor::zeros(DType::I64, &[1, 2]).expect("small");
    check(vec![("x", ints), ("y", f32s(&[1, 2]))], "input `x`: wanted f32[n,2], got i64[1,2]");
    let flat = f32s(&[2]);
    check(vec![("x", f32s(&[1, 2])), ("y", flat)], "input `y`: wanted f32[n,2], got f32[2]");
    let wide = f32s(&[1, 3]);
    check(vec![("x", wide), ("y", f32s(&[1, 2]))], "input `x`: wanted f32[n,2], got f32[1,3]");
    // Each fits its own type, but `n` differs.
    let rows = vec![("x", f32s(&[3, 2])), ("y", f32s(&[2, 2]))];
    check(rows, "input `y`: wanted n = 3, as in input `x`, got 2");
    assert!(matches!(Session::builder().build(), Err(Error::NoModel)));
    let missing = Session::builder().model_file("no/such/model.onnx").build().err();
    let missing = missing.expect("no such file").to_string();
    assert!(missing.contains("no/such/model.onnx"), "{missing}");
    let nowhere = Session::builder().model_file(places::digits()).device("gpu9").build().err();
    let nowhere = nowhere.expect("no such device").to_string();
    assert!(nowhere.contains("gpu9") && nowhere.contains("cpu"), "{nowhere}");
}

#[test]
fn nan_flows_through() {
    let session = digits(2);
    let mut image = batch(0, 2);
    image.as_mut_slice::<f32>().expect("f32")[64 + 27] = f32::NAN;
    let got = logits(&session, image);
    assert!(got[..10].iter().all(|value| value.is_finite()), "the first picture has no NaN");
    assert!(got[10..].iter().any(|value| value.is_nan()), "a NaN in the second is lost: {got:?}");
    // Nothing stays behind in the memory of the session.
    assert_eq!(logits(&session, batch(0, 1)), got[..10]);
}

#[test]
fn inputs_with_defaults_may_be_left_out() {
    let mut b = Builder::new("scaled");
    let x = b.input("x", DType::F32, vec![Dim::Known(2)]);
    let scale = b.input("scale", DType::F32, vec![]);
    let y = b.op("Mul", &[x, scale]);
    b.output(y);
    let mut graph = b.finish();
    graph.constants.insert(scale, Tensor::scalar(3f32).into());
    let session = Session::builder().graph(graph).build().expect("a session");
    let read = |outputs: hetra::Outputs| {
        outputs[0].as_tensor().expect("a tensor").as_slice::<f32>().expect("f32").to_vec()
    };
    let x = Tensor::vector(&[1f32, 2.0]);
    assert_eq!(read(session.run([("x", x.clone())]).expect("a run")), [3.0, 6.0]);
    let own = [("x", x), ("scale", Tensor::scalar(5f32))];
    assert_eq!(read(session.run(own).expect("a run")), [5.0, 10.0]);
}

#[test]
fn more_shapes_than_the_plan_cache_holds() {
    let session = sums();
    for _ in 0..2 {
        for rows in 0..40 {
            let x = Tensor::from_slice(&[rows, 2], &vec![1f32; rows * 2]).expect("a matrix");
            let outputs = session.run([("x", x.clone()), ("y", x)]).expect("a run");
            assert_eq!(outputs[2].describe(), format!("f32[2,{rows}]"));
            let product = outputs.tensor("product").expect("a tensor").as_slice::<f32>();
            assert!(product.expect("f32").iter().all(|&value| value == 1.0));
        }
    }
}

/// Resident bytes of this process.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<usize>().expect("a number") << 10
}

/// In a process of its own: other tests of this file run beside it and take memory too.
#[test]
#[cfg(target_os = "linux")]
fn a_warm_session_does_not_grow() {
    const ALONE: &str = "HETRA_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let this = std::env::current_exe().expect("this test");
        let mut child = std::process::Command::new(this);
        child.args(["--exact", "session::a_warm_session_does_not_grow"]).env(ALONE, "1");
        let output = child.output().expect("this test runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let session = digits(2);
    let image = batch(0, 256);
    session.warm_up([("image", image.clone())], 10).expect("runs");
    let before = resident();
    for _ in 0..50 {
        session.run([("image", image.clone())]).expect("a run");
    }
    let grown = resident().saturating_sub(before);
    // One leaked intermediate value of each run would be over 100 MiB.
    assert!(grown < 4 << 20, "50 runs grew the process by {grown} bytes");
}

#[test]
fn weights_listed_as_inputs_fold_once_their_defaults_are_fixed() {
    let mut b = Builder::new("weights as inputs");
    let x = b.input("x", DType::F32, [1, 1, 2, 2].map(Dim::from).to_vec());
    let w = b.constant("w", Tensor::from_slice(&[1, 1, 1, 1], &[3.0f32]).unwrap());
    let one = b.constant("one", Tensor::vector(&[1.0f32]));
    let c = b.op("Conv", &[x, w]);
    let y = b.op("BatchNormalization", &[c, one, one, one, one]);
    b.output(y);
    let mut graph = b.finish();
    graph.inputs.extend([w, one]);
    let open = Session::builder().graph(graph.clone()).build().unwrap();
    assert_eq!((open.inputs().len(), open.graph().nodes.len()), (3, 2));
    assert!(open.passes().to_string().contains("a run may replace its weights"));
    let fixed = Session::builder().graph(graph).fix_defaults().build().unwrap();
    let ops: Vec<&str> = fixed.graph().nodes.iter().map(|node| node.op.as_str()).collect();
    assert_eq!((fixed.inputs().len(), ops.contains(&"BatchNormalization")), (1, false), "{ops:?}");
    let x = || [("x", Tensor::from_slice(&[1, 1, 2, 2], &[1.0f32, 2.0, 3.0, 4.0]).unwrap())];
    let run = |session: &Session| session.run(x()).unwrap()[0].as_tensor().unwrap().clone();
    assert_close(
        run(&fixed).as_slice::<f32>().unwrap(),
        run(&open).as_slice::<f32>().unwrap(),
        "fixed",
    );
    assert!(matches!(fixed.run([("w", Tensor::scalar(1.0f32))]), Err(Error::Name { .. })));
}
