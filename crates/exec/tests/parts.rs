//! Placed graphs: parts on devices that are slow, fail, panic or hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hetra_device::{Call, Device, DeviceError, DeviceInfo, Part, Program, Support, Values};
use hetra_exec::{Engine, RunOptions, Seat, Trace};
use hetra_ir::{Builder, Graph, Node};
use hetra_ops::OpError;
use hetra_tensor::{DType, Tensor, Value};

/// What a device does before it does what it should.
#[derive(Clone, Copy)]
enum Habit {
    Good,
    Slow(Duration),
    Fails,
    Panics,
    /// Fails so many times, and works from then on.
    FailsAtFirst(usize),
    /// Is slow so many times, and is not from then on.
    SlowAtFirst(usize, Duration),
}

/// Runs references, in its own manner; says how many of its programs run at once at most.
struct Odd {
    info: DeviceInfo,
    habit: Habit,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Odd {
    fn new(id: &str, habit: Habit) -> Odd {
        let info = DeviceInfo { id: id.to_string(), ..DeviceInfo::of_driver("odd") };
        Odd { info, habit, now: Arc::default(), most: Arc::default() }
    }
}

struct Reference {
    habit: Habit,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Device for Odd {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn supports(&self, _: &Node, _: &Graph) -> Support {
        Support::Kernel
    }

    fn compile(&self, part: &Part<'_>) -> Result<Arc<dyn Program>, DeviceError> {
        // Parts are done body by body; what counts is what is in them.
        let part = part.nodes.iter().any(|&id| part.graph.node(id).op == hetra_ops::PART);
        let habit = if part { Habit::Good } else { self.habit };
        Ok(Arc::new(Reference { habit, now: self.now.clone(), most: self.most.clone() }))
    }
}

impl Program for Reference {
    fn run(&self, call: Call<'_>) -> Result<Values, OpError> {
        match self.habit {
            Habit::Good => return call.reference(),
            Habit::Slow(time) => {
                let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(now, Ordering::SeqCst);
                std::thread::sleep(time);
                self.now.fetch_sub(1, Ordering::SeqCst);
            }
            Habit::Fails => return Err(OpError::unsupported("the device is on fire")),
            Habit::Panics => panic!("a bug of a driver"),
            Habit::FailsAtFirst(times) => {
                if self.most.fetch_add(1, Ordering::SeqCst) < times {
                    return Err(OpError::unsupported("the device has lost its context"));
                }
            }
            Habit::SlowAtFirst(times, length) => {
                if self.most.fetch_add(1, Ordering::SeqCst) < times {
                    std::thread::sleep(length);
                }
            }
        }
        call.reference()
    }

    fn kernel(&self) -> &str {
        "odd"
    }
}

/// Two branches of one input, and their sum: Neg for the first device, Abs for the second.
fn branches() -> Graph {
    let mut b = Builder::new("branches");
    let x = b.input("x", DType::F32, vec![2usize.into()]);
    let left = b.op("Neg", &[x]);
    let right = b.op("Abs", &[x]);
    let sum = b.op("Add", &[left, right]);
    b.output(sum);
    hetra_pass::cut(&b.finish(), &[0, 1, 0], &["host", "other"])
}

fn engine(host: Habit, other: Habit) -> Engine {
    let seat = |id: &str, habit| Seat::from(Arc::new(Odd::new(id, habit)) as Arc<dyn Device>);
    Engine::compile_on(Arc::new(branches()), vec![seat("host", host), seat("other", other)])
        .unwrap()
}

/// The same, where the host can do what the other device does; and a wish not to wait.
fn guarded(other: Habit) -> Engine {
    let mut graph = branches();
    for node in graph.nodes.iter_mut() {
        if node.attrs.str_or("device", "").unwrap() == "other" {
            let body = node.attrs.graph("body").unwrap().clone();
            node.attrs.set(hetra_pass::PART_SPARE, body);
        }
    }
    let seat = |id: &str, habit| Seat::from(Arc::new(Odd::new(id, habit)) as Arc<dyn Device>);
    let seats = vec![seat("host", Habit::Good), seat("other", other)];
    let engine = Engine::compile_on(Arc::new(graph), seats).unwrap();
    engine.giving_up_after(Duration::from_millis(50))
}

/// A run with its events.
fn traced(engine: &Engine) -> (Vec<Value>, Vec<String>) {
    let x = Some(Value::from(Tensor::vector(&[1f32, -2.0])));
    let outputs = engine.graph().outputs.clone();
    let mut trace = Trace::default();
    let got = engine.run(vec![x], &outputs, &RunOptions::default(), Some(&mut trace)).unwrap();
    assert!(trace.events.iter().all(|event| event.device == "other" && event.node == "part1"));
    let by_host = trace.steps.iter().any(|step| step.kernel == "spare" && step.device == "host");
    assert_eq!(by_host, !trace.events.is_empty());
    (got, trace.events.into_iter().map(|event| event.what).collect())
}

fn run(engine: &Engine, options: &RunOptions) -> Result<Vec<Value>, String> {
    let x = Value::from(Tensor::vector(&[1f32, -2.0]));
    let outputs = engine.graph().outputs.clone();
    engine.run(vec![Some(x)], &outputs, options, None).map_err(|error| error.to_string())
}

fn wanted() -> Vec<Value> {
    vec![Tensor::vector(&[0f32, 4.0]).into()]
}

#[test]
fn branches_run_at_once() {
    let slow = Habit::Slow(Duration::from_millis(60));
    let engine = engine(slow, slow);
    let begun = Instant::now();
    assert_eq!(run(&engine, &RunOptions::default()), Ok(wanted()));
    // Neg beside Abs, then Add: two sleeps and not three.
    assert!(begun.elapsed() < Duration::from_millis(175), "{:?}", begun.elapsed());
    let mut trace = Trace::default();
    let x = Some(Value::from(Tensor::vector(&[1f32, -2.0])));
    let outputs = engine.graph().outputs.clone();
    engine.run(vec![x], &outputs, &RunOptions::default(), Some(&mut trace)).unwrap();
    let devices: Vec<&str> = trace.steps.iter().map(|step| step.device.as_str()).collect();
    assert_eq!(devices.len(), 3);
    assert_eq!(devices.iter().filter(|device| **device == "other").count(), 1);
    let (first, second) = (&trace.steps[0], &trace.steps[1]);
    assert!(second.start_ns < first.start_ns + first.duration_ns, "they overlap");
    assert!(trace.steps.iter().all(|step| step.inner.len() == 1));
}

#[test]
fn a_device_does_one_part_at_a_time() {
    let slow = Habit::Slow(Duration::from_millis(5));
    let host = Odd::new("host", slow);
    let most = host.most.clone();
    let seats: Vec<Seat> = vec![
        Seat::from(Arc::new(host) as Arc<dyn Device>),
        Seat::from(Arc::new(Odd::new("other", slow)) as Arc<dyn Device>),
    ];
    let engine = Engine::compile_on(Arc::new(branches()), seats).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert_eq!(run(&engine, &RunOptions::default()), Ok(wanted())));
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

#[test]
fn a_device_on_processors_of_its_own() {
    let seat = |id: &str, cores: &[usize]| Seat {
        device: Arc::new(Odd::new(id, Habit::Good)) as Arc<dyn Device>,
        cores: cores.to_vec(),
    };
    // A processor that is not there is no reason not to run.
    let seats = vec![seat("host", &[0]), seat("other", &[900])];
    let engine = Engine::compile_on(Arc::new(branches()), seats).unwrap();
    assert_eq!(run(&engine, &RunOptions::default()), Ok(wanted()));
}

#[test]
fn faults_are_told_and_the_next_run_goes_on() {
    let failing = engine(Habit::Good, Habit::Fails);
    for _ in 0..3 {
        let error = run(&failing, &RunOptions::default()).unwrap_err();
        assert!(error.contains("on fire") && error.contains("Abs"), "{error}");
    }
    let panicking = engine(Habit::Good, Habit::Panics);
    for _ in 0..3 {
        let error = run(&panicking, &RunOptions::default()).unwrap_err();
        assert!(error.contains("panicked"), "{error}");
    }
}

#[test]
fn nobody_waits_for_a_device_that_hangs() {
    let hanging = engine(Habit::Good, Habit::Slow(Duration::from_secs(3)));
    let begun = Instant::now();
    let deadline = Some(begun + Duration::from_millis(50));
    let error = run(&hanging, &RunOptions { deadline, ..RunOptions::default() }).unwrap_err();
    assert!(error.contains("deadline"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn a_part_for_a_device_that_is_not_there_is_refused() {
    let host: Arc<dyn Device> = Arc::new(Odd::new("host", Habit::Good));
    let error = Engine::compile_on(Arc::new(branches()), vec![host.into()]).err().unwrap();
    assert!(error.to_string().contains("other"), "{error}");
}

#[test]
fn the_host_does_what_a_device_fails_at_and_tries_it_again() {
    let engine = guarded(Habit::FailsAtFirst(2));
    let (got, events) = traced(&engine);
    assert_eq!(got, wanted());
    assert!(events[0].contains("lost its context") && events[0].contains("the host"), "{events:?}");
    assert_eq!(engine.failing(), [("other".to_string(), 1)]);
    // It is left alone for a while, then tried, and left alone for longer.
    let (got, events) = traced(&engine);
    assert_eq!(got, wanted());
    assert!(events[0].contains("left alone"), "{events:?}");
    std::thread::sleep(Duration::from_millis(110));
    assert!(traced(&engine).1[0].contains("lost its context"));
    std::thread::sleep(Duration::from_millis(110));
    assert!(traced(&engine).1[0].contains("left alone"));
    // It is admitted again once it works.
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(traced(&engine), (wanted(), vec![]));
    assert_eq!(engine.failing(), []);
    // Where nothing may be done by another, the fault is told.
    let strict = RunOptions { no_fallback: true, ..RunOptions::default() };
    let error = run(&guarded(Habit::Fails), &strict).unwrap_err();
    assert!(error.contains("on fire"), "{error}");
    // A thread that panics is no more than a device that fails.
    let (got, events) = traced(&guarded(Habit::Panics));
    assert_eq!(got, wanted());
    assert!(events[0].contains("panicked"), "{events:?}");
}

#[test]
fn the_host_does_what_a_device_hangs_in() {
    let engine = guarded(Habit::SlowAtFirst(1, Duration::from_millis(400)));
    let begun = Instant::now();
    let (got, events) = traced(&engine);
    assert_eq!(got, wanted());
    assert!(events[0].contains("hangs"), "{events:?}");
    assert!(begun.elapsed() < Duration::from_millis(300), "{:?}", begun.elapsed());
    // While it hangs nobody waits for it, although its rest is over.
    std::thread::sleep(Duration::from_millis(120));
    let begun = Instant::now();
    assert!(traced(&engine).1[0].contains("left alone"));
    assert!(begun.elapsed() < Duration::from_millis(40), "{:?}", begun.elapsed());
    // It comes back, and is used again.
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(traced(&engine), (wanted(), vec![]));
}

#[test]
fn many_runs_while_a_device_comes_and_goes() {
    let engine = guarded(Habit::SlowAtFirst(3, Duration::from_millis(80)));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..40 {
                    assert_eq!(run(&engine, &RunOptions::default()), Ok(wanted()));
                    std::thread::sleep(Duration::from_millis(3));
                }
            });
        }
    });
    // It may yet be slow once or twice; each rest is longer than the one before.
    let calm = (0..10).any(|_| {
        std::thread::sleep(Duration::from_millis(500));
        traced(&engine) == (wanted(), vec![])
    });
    assert!(calm && engine.failing().is_empty());
}

/// All of it on the other device.
fn all_on_the_other(habit: Habit) -> Engine {
    let mut b = Builder::new("one");
    let x = b.input("x", DType::F32, vec![2usize.into()]);
    let y = b.op("Abs", &[x]);
    b.output(y);
    let mut graph = hetra_pass::cut(&b.finish(), &[1], &["host", "other"]);
    let body = graph.nodes[0].attrs.graph("body").unwrap().clone();
    graph.nodes[0].attrs.set(hetra_pass::PART_SPARE, body);
    let seat = |id: &str, habit| Seat::from(Arc::new(Odd::new(id, habit)) as Arc<dyn Device>);
    let seats = vec![seat("host", Habit::Good), seat("other", habit)];
    let engine = Engine::compile_on(Arc::new(graph), seats).unwrap();
    engine.giving_up_after(Duration::from_millis(50))
}

#[test]
fn a_plan_on_one_device_is_guarded_too() {
    let wanted = Ok(vec![Value::from(Tensor::vector(&[1f32, 2.0]))]);
    let begun = Instant::now();
    let hangs = all_on_the_other(Habit::SlowAtFirst(1, Duration::from_millis(400)));
    assert_eq!(run(&hangs, &RunOptions::default()), wanted);
    assert!(begun.elapsed() < Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!(run(&all_on_the_other(Habit::Panics), &RunOptions::default()), wanted);
    assert_eq!(run(&all_on_the_other(Habit::Fails), &RunOptions::default()), wanted);
}

#[test]
fn a_hang_that_nobody_waits_for_is_noticed() {
    let engine = guarded(Habit::SlowAtFirst(1, Duration::from_millis(600)));
    // This run ends before its device would be given up on.
    let cancel = hetra_exec::Cancel::default();
    let ends = cancel.clone();
    let ending = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(10));
        ends.cancel();
    });
    let options = RunOptions { cancel: Some(cancel), ..RunOptions::default() };
    let error = run(&engine, &options).unwrap_err();
    ending.join().unwrap();
    assert!(error.contains("cancelled"), "{error}");
    for _ in 0..5 {
        let begun = Instant::now();
        assert_eq!(run(&engine, &RunOptions::default()), Ok(wanted()));
        assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    }
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(traced(&engine), (wanted(), vec![]));
}

#[test]
fn a_deadline_leaves_time_to_the_host() {
    let engine = guarded(Habit::SlowAtFirst(1, Duration::from_millis(600)));
    // Longer than its device would be waited for: it is given up on at half of the time.
    let engine = engine.giving_up_after(Duration::from_secs(1));
    let begun = Instant::now();
    let deadline = Some(begun + Duration::from_millis(300));
    assert_eq!(run(&engine, &RunOptions { deadline, ..RunOptions::default() }), Ok(wanted()));
    assert!(begun.elapsed() < Duration::from_millis(300), "{:?}", begun.elapsed());
}

#[test]
fn bad_inputs_are_no_fault_of_the_device() {
    // Neither the device nor the host does it.
    let mut b = Builder::new("one");
    let x = b.input("x", DType::F32, vec![hetra_ir::Dim::Unknown]);
    let y = b.input("y", DType::F32, vec![hetra_ir::Dim::Unknown]);
    let sum = b.op("Add", &[x, y]);
    b.output(sum);
    let mut graph = hetra_pass::cut(&b.finish(), &[1], &["host", "other"]);
    let body = graph.nodes[0].attrs.graph("body").unwrap().clone();
    graph.nodes[0].attrs.set(hetra_pass::PART_SPARE, body);
    let seat = |id: &str| Seat::from(Arc::new(Odd::new(id, Habit::Good)) as Arc<dyn Device>);
    let engine = Engine::compile_on(Arc::new(graph), vec![seat("host"), seat("other")]).unwrap();
    let inputs = [&[1f32, 2.0][..], &[1f32, 2.0, 3.0]];
    let inputs = inputs.map(|numbers| Some(Value::from(Tensor::vector(numbers))));
    let outputs = engine.graph().outputs.clone();
    let result = engine.run(inputs.to_vec(), &outputs, &RunOptions::default(), None);
    assert!(result.is_err());
    assert_eq!(engine.failing(), []);
}
