//! Devices that are only described: results by the host, times by a model, faults on demand.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::places;
use hetra::placing::{self, Adaptive, PlanBounds, PlanFile, PlanGoal, PlanOptions};
use hetra::{Faults, Faulty, Graph, Machine, RunOptions, Seat, Session, Tensor, import_file};

/// A box whose devices stand in a file: a quick one and a frugal one, and what the processor draws.
const BOX: &str = r#"
[device.cpu]
power.idle = { value = 2, source = "a test" }
power.max = { value = 20, source = "a test" }
price.per_hour_usd = { value = 0.1, source = "a test" }
[device.quick]
name = "quick"
kind = "gpu"
peak.f32 = { value = 5e13, source = "a test" }
memory.bandwidth = { value = 1e12, source = "a test" }
memory.bytes = { value = 1e9, source = "a test" }
launch_us = { value = 1, source = "a test" }
power.idle = { value = 100, source = "a test" }
power.max = { value = 1000, source = "a test" }
price.per_hour_usd = { value = 9, source = "a test" }
host_link = "wire"
[device.frugal]
name = "frugal"
kind = "npu"
peak.f32 = { value = 1e12, source = "a test" }
memory.bandwidth = { value = 1e11, source = "a test" }
launch_us = { value = 2, source = "a test" }
power.max = { value = 1, source = "a test" }
price.per_hour_usd = { value = 0.05, source = "a test" }
host_link = "wire"
[device.tiny]
name = "tiny"
peak.f32 = { value = 1e12, source = "a test" }
memory.bytes = { value = 1000, source = "a test" }
[link.wire]
name = "a wire"
bandwidth = { value = 1e10, source = "a test" }
latency_us = { value = 1, source = "a test" }
"#;

/// The file, for a test by this name.
fn boxed(test: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("hetra-box-{test}-{}.toml", std::process::id()));
    std::fs::write(&path, BOX).expect("a file");
    path
}

fn digits() -> Graph {
    import_file(places::digits(), &Default::default()).expect("the model").graph
}

fn picture(graph: &Graph) -> Tensor {
    let dims = graph.ty(graph.inputs[0]).dims().expect("a tensor").to_vec();
    let shape: Vec<usize> = dims.iter().map(|dim| dim.known().unwrap_or(1)).collect();
    let count: usize = shape.iter().product();
    let pixels: Vec<f32> = (0..count).map(|at| (at % 17) as f32 / 16.0).collect();
    Tensor::from_slice(&shape, &pixels).expect("pixels")
}

fn session(id: &str) -> Session {
    Session::builder().graph(digits()).device(id).build().expect("a session")
}

fn run(session: &Session) -> (Vec<f32>, hetra::Trace) {
    let name = session.inputs()[0].name.clone();
    let (outputs, trace) = session.trace([(name, picture(&digits()))]).expect("a run");
    (outputs[0].as_tensor().expect("a tensor").as_slice().expect("floats").to_vec(), trace)
}

fn wanted() -> Vec<f32> {
    run(&session("cpu")).0
}

#[test]
fn results_are_the_hosts_and_times_the_models() {
    let path = boxed("times");
    let on = |entry: &str| run(&session(&format!("sim:{entry}?machine={}", path.display())));
    let (quick, frugal) = (on("quick"), on("frugal"));
    assert_eq!((&quick.0, &frugal.0), (&wanted(), &wanted()));
    let of = |trace: &hetra::Trace| trace.simulated.clone().expect("a model");
    let (quick, frugal) = (of(&quick.1), of(&frugal.1));
    // Two copies and a few kernels, of two microseconds and less.
    assert!(quick.total_s > 2e-6 && quick.total_s < 1e-4, "{quick:?}");
    assert!(frugal.total_s > quick.total_s && frugal.busiest_s <= frugal.total_s);
    let joules = |simulated: &hetra::Simulated| simulated.joules.values().sum::<f64>();
    assert!(joules(&quick) > joules(&frugal) && joules(&frugal) > 0.0);
    // A copy in and one out: what a slower wire takes more is all that a run takes more.
    let slow = BOX.replace("latency_us = { value = 1,", "latency_us = { value = 501,");
    std::fs::write(&path, slow).unwrap();
    let slower = of(&on("quick").1).total_s - quick.total_s;
    assert!((slower - 2.0 * 500e-6).abs() < 1e-9, "{slower}");
    std::fs::write(&path, BOX).unwrap();
    // The same each time.
    assert_eq!(of(&on("quick").1), quick);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn links_take_energy_and_may_have_one_direction_at_a_time() {
    let slow = |more: &str| {
        BOX.replace("bandwidth = { value = 1e10", &format!("{more}\nbandwidth = {{ value = 1e6"))
    };
    let simulated = |test: &str, text: String| {
        let path = std::env::temp_dir().join(format!("hetra-{test}-{}.toml", std::process::id()));
        std::fs::write(&path, text).expect("a file");
        let (_, trace) = run(&session(&format!("sim:quick?machine={}", path.display())));
        std::fs::remove_file(path).expect("the file");
        trace.simulated.expect("it is only described")
    };
    let both =
        simulated("both-ways", slow("energy_pj_per_bit = { value = 5, source = \"a test\" }"));
    let one = simulated("one-way", slow("duplex = false"));
    // 64 floats in, 10 out; each copy begins with 1 us.
    let (into, out) = (1e-6 + 256e-6, 1e-6 + 40e-6);
    assert!((both.busiest_s - into).abs() < 1e-9, "{both:?}");
    assert!((one.busiest_s - into - out).abs() < 1e-9, "{one:?}");
    let joules = both.link_joules.values().sum::<f64>();
    assert!((joules - 296.0 * 8.0 * 5e-12).abs() < 1e-15, "{both:?}");
    assert!(one.link_joules.is_empty());
}

#[test]
fn an_entry_of_the_catalogue_rounds_as_it_would() {
    let wanted = wanted();
    let off = |id: &str| {
        let got = run(&session(id)).0;
        let differences = got.iter().zip(&wanted).map(|(got, wanted)| (got - wanted).abs());
        differences.fold(0f32, f32::max)
    };
    assert_eq!(off("sim:h100-sxm?number=f16&round=no"), 0.0);
    let (half, brain, codes) = (
        off("sim:h100-sxm?number=f16"),
        off("sim:h100-sxm?number=bf16&round=yes"),
        off("sim:h100-sxm?number=i8&round=yes"),
    );
    assert!(half > 0.0 && half < brain && brain < 0.1, "{half} {brain}");
    assert!(codes > half && codes < 0.5, "{codes}");
}

#[test]
fn what_cannot_be_is_said() {
    let path = boxed("faults");
    let build = |id: &str| {
        let built = Session::builder().graph(digits()).device(id).build();
        built.err().expect("it is refused").to_string()
    };
    let of = |entry: &str| format!("sim:{entry}?machine={}", path.display());
    let memory = build(&of("tiny"));
    assert!(memory.contains("no memory") && memory.contains("it has 1000"), "{memory}");
    assert!(build(&of("other")).contains("it has cpu, frugal, quick, tiny"));
    assert!(build("sim:quick?machine=/none.toml").contains("/none.toml"));
    assert!(build("sim:h200-sxm-9").contains("it has h200"), "{}", build("sim:h200-sxm-9"));
    let number = build("sim:edge-tpu?number=f32");
    assert!(number.contains("f32 is none of the numbers"), "{number}");
    std::fs::remove_file(path).unwrap();
}

/// A plan over the box's devices.
fn plan(path: &Path, options: &PlanOptions) -> Result<PlanFile, String> {
    let graph = digits();
    let ids = ["cpu".to_string()]
        .into_iter()
        .chain(["quick", "frugal"].map(|entry| format!("sim:{entry}?machine={}", path.display())));
    let seats: Vec<Seat> =
        ids.map(|id| hetra::open(&id, Some(1)).expect("a device").into()).collect();
    let options = PlanOptions {
        machine: Some(Machine::read(path).expect("a machine")),
        compare: Duration::from_millis(50),
        ..options.clone()
    };
    let inputs = [picture(&graph).into()];
    placing::plan(&graph, &seats, &inputs, &options, &mut |_| {}).map_err(|error| error.to_string())
}

#[test]
fn goals_choose_devices() {
    let path = boxed("goals");
    let chosen = |goal: PlanGoal| {
        let plan = plan(&path, &PlanOptions { goal, ..PlanOptions::default() }).unwrap();
        let row = plan.considered.iter().find(|row| row.name == plan.chosen).unwrap();
        assert!(row.modelled && row.figures.is_some());
        assert_eq!(PlanFile::parse(&plan.print()).unwrap(), plan);
        plan.chosen
    };
    assert!(chosen(PlanGoal::LATENCY).starts_with("sim:quick"));
    assert!(chosen(PlanGoal::ENERGY).starts_with("sim:frugal"));
    assert!(chosen(PlanGoal::COST).starts_with("sim:frugal"));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn bounds_are_kept_or_no_plan_is_made() {
    let path = boxed("bounds");
    let with = |bounds: PlanBounds| plan(&path, &PlanOptions { bounds, ..PlanOptions::default() });
    // The quick one draws too much.
    let watts = Some(30.0);
    let frugal = with(PlanBounds { watts, ..PlanBounds::default() }).unwrap();
    assert!(frugal.chosen.starts_with("sim:frugal"), "{}", frugal.chosen);
    let none = with(PlanBounds { latency_s: Some(1e-9), ..PlanBounds::default() }).unwrap_err();
    assert!(none.contains("no plan keeps to the bounds; the nearest: sim:quick"), "{none}");
    let odd = with(PlanBounds { joules: Some(f64::NAN), ..PlanBounds::default() }).unwrap_err();
    assert!(odd.contains("no bound"), "{odd}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_frontier_has_no_plan_that_another_beats() {
    let path = boxed("frontier");
    let plan = plan(&path, &PlanOptions { frontier: true, ..PlanOptions::default() }).unwrap();
    assert!(plan.frontier.len() > 1);
    for (index, one) in plan.frontier.iter().enumerate() {
        let beaten = plan.frontier.iter().enumerate().any(|(other, row)| {
            let (a, b) = (row.figures, one.figures);
            let below = |a: Option<f64>, b: Option<f64>| a.unwrap_or(0.0) < b.unwrap_or(0.0);
            other != index
                && a.latency_s < b.latency_s
                && a.interval_s < b.interval_s
                && below(a.joules, b.joules)
                && below(a.dollars, b.dollars)
        });
        assert!(!beaten, "{one:?}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_mix_with_described_devices_is_modelled_and_runs() {
    let path = boxed("mix");
    let graph = placing::placed_graph(&digits());
    let label = |node: Option<&hetra::Node>| node.map(|node| node.label(&graph)).unwrap();
    let quick = format!("sim:quick?machine={}", path.display());
    let pins = vec![
        (label(graph.nodes.first()), "cpu".to_string()),
        (label(graph.nodes.last()), quick.clone()),
    ];
    let exclusions = vec![("*".to_string(), format!("sim:frugal?machine={}", path.display()))];
    let options = PlanOptions { pins, exclusions, ..PlanOptions::default() };
    let made = plan(&path, &options).unwrap();
    assert_eq!(made.chosen, "mix");
    assert!(made.parts.iter().all(|part| !part.device.starts_with("sim:frugal")));
    let session = Session::builder().graph(digits()).plan(made).build().unwrap();
    let (got, trace) = run(&session);
    let off =
        got.iter().zip(wanted()).map(|(got, wanted)| (got - wanted).abs()).fold(0.0, f32::max);
    assert!(off < 1e-4, "{off}");
    assert!(session.is_simulated() && trace.simulated.unwrap().total_s > 0.0);
    // Steps stand one behind the other on the line that the model draws.
    let steps = &trace.steps;
    assert!(steps.windows(2).all(|pair| pair[0].start_ns <= pair[1].start_ns));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_a_described_device_fails_at_the_host_does() {
    let path = boxed("fails");
    let id = format!("sim:quick?machine={}&lose_at=3", path.display());
    let graph = digits();
    let seats: Vec<Seat> =
        ["cpu", id.as_str()].map(|id| hetra::open(id, Some(1)).expect("a device").into()).to_vec();
    let pins = vec![("*".to_string(), id.clone())];
    let options =
        PlanOptions { pins, compare: Duration::from_millis(20), ..PlanOptions::default() };
    // It is lost while it is planned with, and then left out.
    let inputs = [picture(&graph).into()];
    let none = placing::plan(&graph, &seats, &inputs, &options, &mut |_| {});
    assert!(none.is_err_and(|error| error.to_string().contains("is lost")));
    // A session falls back, and says so.
    let slow = session(&format!("sim:quick?machine={}&slow_at=2&slow_by=10", path.display()));
    let times: Vec<f64> =
        (0..3).map(|_| run(&slow).1.simulated.unwrap().busy_s.values().sum()).collect();
    assert!((times[1] / times[0] - 10.0).abs() < 1e-6 && times[1] == times[2], "{times:?}");
    let failing = session(&format!("sim:quick?machine={}&fail_at=2", path.display()));
    let name = failing.inputs()[0].name.clone();
    let run = || failing.run_within([(name.as_str(), picture(&graph))], &RunOptions::default());
    assert!(run().is_ok());
    let error = run().err().unwrap().to_string();
    assert!(error.contains("a fault that was asked for"), "{error}");
    assert!(run().is_ok());
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_plan_whose_runs_drift_is_made_anew() {
    use std::sync::Arc;
    let faulty = |id: &str, faults: &str| {
        let cpu = hetra::open("cpu", Some(1)).expect("the processor");
        Arc::new(Faulty::named(id, cpu, Faults::parse(faults).expect("faults")))
    };
    // The host sleeps as well as it computes; the other one does not, at first.
    let (host, other) = (faulty("cpu", "slow_at=1&slow_by=40"), faulty("other", ""));
    let seats: Vec<Seat> =
        [&host, &other].map(|device| Seat::from(device.clone() as Arc<dyn hetra::Device>)).to_vec();
    let graph = digits();
    let (input, name) = (picture(&graph), graph.value(graph.inputs[0]).name.clone());
    let options = PlanOptions { compare: Duration::from_millis(50), ..PlanOptions::default() };
    let adaptive =
        Adaptive::new(graph.clone(), seats, vec![input.clone().into()], options).unwrap();
    let used = |adaptive: &Adaptive| -> Vec<String> {
        adaptive.plan().parts.iter().map(|part| part.device.clone()).collect()
    };
    assert_eq!(used(&adaptive), ["other"]);
    let run = || adaptive.run([(name.as_str(), input.clone())]).expect("a run");
    let wanted = run();
    // Now they change places.
    host.meet(Faults::default());
    other.meet(Faults::parse("slow_at=1&slow_by=200").unwrap());
    let begun = std::time::Instant::now();
    while adaptive.replans().is_empty() && begun.elapsed() < Duration::from_secs(60) {
        assert_eq!(run()[0], wanted[0]);
    }
    let replans = adaptive.replans();
    assert!(replans[0].drift.ratio() > 1.15, "{replans:?}");
    assert_eq!((replans[0].from.as_str(), replans[0].to.as_deref()), ("other", Ok("cpu")));
    assert_eq!(used(&adaptive), ["cpu"]);
    run();
}
