//! Runs of graphs with bodies: what a trace tells of them, what ends them early, and outputs that
//! are not what their bodies give.

use std::thread;
use std::time::{Duration, Instant};

use hetra::{Cancel, DType, Error, ExecError, RunOptions, Session, StepTime, Tensor, Type};

fn session(source: &str) -> Session {
    let graph = hetra_ir::parse(source).unwrap_or_else(|fault| panic!("{fault} in {source}"));
    Session::builder().graph(graph).threads(1).build().expect("a session")
}

/// A loop in a loop: `turns` times 3 additions.
fn nested() -> Session {
    session(
        "graph \"g\" (%t: i64[], %x: f32[4]) {
           const %three = i64[] [3]
           %y = Loop(%t, _, %x) {body = graph \"outer\" (%i: i64[], %go: bool[], %v: f32[4])
               captures (%n = %three) {
             %w = Loop(%n, _, %v) {body = graph \"inner\" (%j: i64[], %on: bool[], %a: f32[4]) {
               %b = Add(%a, %a)
               return (%on, %b)
             }}
             return (%go, %w)
           }}
           return (%y)
         }",
    )
}

fn inputs(turns: i64) -> [(&'static str, Tensor); 2] {
    [("t", Tensor::scalar(turns)), ("x", Tensor::vector(&[0f32; 4]))]
}

#[test]
fn a_trace_tells_of_the_steps_in_bodies() {
    let session = nested();
    let (_, trace) = session.trace(inputs(5)).expect("a run");
    let [outer] = trace.steps.as_slice() else { panic!("{:?}", trace.steps) };
    let ops = |steps: &[StepTime]| steps.iter().map(|step| step.op.clone()).collect::<Vec<_>>();
    assert_eq!(ops(&outer.inner), ["Loop"; 5]);
    for turn in &outer.inner {
        assert_eq!(ops(&turn.inner), ["Add"; 3]);
        let within = |inner: &StepTime| {
            let end = |step: &StepTime| step.start_ns + step.duration_ns;
            turn.start_ns <= inner.start_ns && end(inner) <= end(turn)
        };
        assert!(turn.inner.iter().all(within), "{turn:?}");
    }
    let runs: usize = trace.by_kernel().iter().filter(|row| row.0 == "Add").map(|row| row.2).sum();
    assert_eq!((runs, trace.turns_left_out), (15, 0));
    // A long loop does not fill the memory with its times.
    let (_, trace) = session.trace(inputs(20_000)).expect("a run");
    let all: usize = trace.by_kernel().iter().map(|row| row.2).sum();
    assert!((60_000..70_000).contains(&all), "{all}");
    assert!(trace.turns_left_out > 0);
}

#[test]
fn a_run_ends_at_its_deadline_or_when_it_is_cancelled() {
    let session = nested();
    let stopped = |options: &RunOptions| match session.run_within(inputs(i64::MAX), options) {
        Err(Error::Exec(ExecError::Stopped(error))) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let begun = Instant::now();
    let deadline = Some(begun + Duration::from_millis(50));
    let message = stopped(&RunOptions { deadline, ..RunOptions::default() });
    assert!(begun.elapsed() >= Duration::from_millis(50));
    assert!(message.contains("(Loop)") && message.contains("past its deadline"), "{message}");
    let cancel = Cancel::default();
    let options = RunOptions { cancel: Some(cancel.clone()), ..RunOptions::default() };
    assert!(session.run_within(inputs(2), &options).is_ok());
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            cancel.cancel();
        });
        assert!(stopped(&options).contains("the run was stopped: it was cancelled"));
    });
    assert!(cancel.is_cancelled());
    // Nothing is run any more with this handle; the session is none the worse for it.
    stopped(&options);
    assert!(session.run(inputs(2)).is_ok());
}

/// A body without a step is run as long as any other.
#[test]
fn a_loop_of_nothing_ends_at_its_deadline() {
    let session = session(
        "graph \"g\" (%t: i64[], %x: f32[4]) {
           %y = Loop(%t, _, %x) {body = graph \"b\" (%i: i64[], %go: bool[], %v: f32[4]) {
             return (%go, %v)
           }}
           return (%y)
         }",
    );
    let deadline = Some(Instant::now() + Duration::from_millis(20));
    let options = RunOptions { deadline, ..RunOptions::default() };
    let result = session.run_within(inputs(i64::MAX), &options);
    assert!(matches!(result, Err(Error::Exec(ExecError::Stopped(_)))), "{result:?}");
}

#[test]
fn an_output_is_what_it_is_declared_as() {
    let source = "graph \"g\" (%x: f32[n,2]) { %y = Relu(%x) return (%y) }";
    let graph = |ty: Type| {
        let mut graph = hetra_ir::parse(source).expect("a graph");
        let output = graph.outputs[0];
        graph.values[output.index()].ty = ty;
        graph
    };
    let build = |ty: Type| Session::builder().graph(graph(ty)).build();
    let error = build(Type::ranked(DType::I64, 2)).err().expect("a contradiction").to_string();
    assert_eq!(error, "output `y`: the model declares i64[?,?], its nodes give f32[n,2]");
    // A wrong shape is mended, and the right one shown.
    let session = build(Type::tensor(DType::F32, &[7])).expect("a session");
    assert_eq!(session.outputs()[0].ty.to_string(), "f32[n,2]");
}

#[test]
fn branches_of_two_dtypes_are_refused() {
    let graph = hetra_ir::parse(
        "graph \"g\" (%c: bool[]) {
           %y = If \"bad\" (%c) {else_branch = graph \"e\" () { const %a = i64[] [3] return (%a) },
             then_branch = graph \"t\" () { const %b = f32[] [3.0] return (%b) }}
           return (%y)
         }",
    );
    let error = Session::builder().graph(graph.expect("a graph")).build().err();
    let error = error.expect("a contradiction").to_string();
    assert_eq!(error, "node `bad` (If): its branches give f32 and i64 as the same output");
}
