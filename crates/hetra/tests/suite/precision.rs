//! How exactly a session computes: f32 to the bit, bf16 near it, and what is chosen between them.

use crate::numbers::numbers;
use hetra::{
    DType, Dim, Error, Graph, GraphBuilder, Inputs, Node, Precision, Session, Tensor, Verdict,
};

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_slice(shape, &numbers(shape.iter().product(), seed)).expect("so many numbers")
}

/// Two convolutions and a product, the last of which is long enough to wait for the memory.
fn model() -> Graph {
    let mut b = GraphBuilder::new("mixed");
    let dims = [1, 32, 9, 9].map(Dim::Known).to_vec();
    let x = b.input("x", DType::F32, dims);
    let w = b.constant("w", tensor(&[48, 32, 3, 3], 1));
    let conv = Node::new("Conv", &[x, w], &[]).with("pads", vec![1i64; 4]);
    let y = b.node(conv, 1)[0];
    let y = b.op("Relu", &[y]);
    let w = b.constant("w1", tensor(&[21, 48, 1, 1], 2));
    let y = b.op("Conv", &[y, w]);
    let y = b.node(Node::new("Flatten", &[y], &[]), 1)[0];
    let w = b.constant("w2", tensor(&[21 * 81, 2000], 3));
    let bias = b.constant("bias", tensor(&[2000], 4));
    let y = b.op("Gemm", &[y, w, bias]);
    b.output(y);
    b.finish()
}

fn inputs(seed: u64) -> Inputs {
    vec![("x".to_string(), tensor(&[1, 32, 9, 9], seed).into())]
}

fn session(precision: Precision, threads: usize) -> Session {
    let builder = Session::builder().graph(model()).threads(threads).precision(precision);
    builder.build().expect("a session")
}

fn output(session: &Session, seed: u64) -> Vec<f32> {
    let outputs = session.run(inputs(seed)).expect("a run");
    outputs[0].as_tensor().expect("a tensor").as_slice::<f32>().expect("f32").to_vec()
}

/// The error as `PrecisionReport::error` defines it.
fn error(got: &[f32], wanted: &[f32]) -> f32 {
    let largest = wanted.iter().fold(0f32, |most, v| most.max(v.abs()));
    let worst = got.iter().zip(wanted).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    worst / largest
}

#[test]
fn bf16_is_near_f32_and_the_same_for_any_threads() {
    let f32 = output(&session(Precision::F32, 1), 7);
    let low = session(Precision::Bf16, 1);
    assert_eq!(low.lowered().len(), 3, "{:?}", low.kernels());
    assert!(low.kernels().iter().filter(|kernel| kernel.contains("bf16")).count() == 3);
    let bf16 = output(&low, 7);
    let error = error(&bf16, &f32);
    assert!(error > 1e-5 && error < 1e-2, "an error of {error}");
    assert_eq!(bf16, output(&session(Precision::Bf16, 2), 7));
}

#[test]
fn f32_is_the_same_to_the_bit_for_any_threads_and_by_any_way() {
    let plain = Session::builder().graph(model()).build().expect("a session");
    let wanted = output(&plain, 7);
    for threads in [1, 2, 3] {
        assert_eq!(output(&session(Precision::F32, threads), 7), wanted);
    }
    let back = session(Precision::Bf16, 2).with_precision(&Precision::F32).expect("a session");
    assert!(back.lowered().is_empty() && back.precision().is_none());
    assert_eq!(output(&back, 7), wanted);
}

#[test]
fn what_is_chosen_keeps_within_the_budget() {
    let f32 = session(Precision::F32, 1);
    for max_error in [1e-2, 1e-9, 0.0] {
        let auto = Precision::Auto { max_error, calibration: vec![inputs(7), inputs(8)] };
        // Not one that is quantisable: integers are another test's subject.
        let chosen = f32.with_precision(&auto).expect("a session");
        let report = chosen.precision().expect("a report");
        assert!(report.int8.is_none());
        assert_eq!((report.products, report.calibration), (3, 2));
        assert_eq!(report.lowered, chosen.lowered());
        assert_eq!(report.verdict == Verdict::Lowered, !report.lowered.is_empty(), "{report:?}");
        let errors = [7, 8].map(|seed| error(&output(&chosen, seed), &output(&f32, seed)));
        let worst = f64::from(errors[0].max(errors[1]));
        assert!(worst <= max_error && (worst - report.error).abs() <= 1e-6, "{worst} {report:?}");
        if max_error < 1e-6 {
            assert!(report.lowered.is_empty(), "{report:?}");
        }
    }
}

#[test]
fn a_budget_and_inputs_are_needed() {
    let base = session(Precision::F32, 1);
    let auto = |max_error, calibration| {
        base.with_precision(&Precision::Auto { max_error, calibration }).map(drop)
    };
    for budget in [f64::NAN, -1.0, f64::INFINITY] {
        assert!(matches!(auto(budget, vec![inputs(7)]), Err(Error::MaxError(_))));
    }
    assert!(matches!(auto(0.1, Vec::new()), Err(Error::NoCalibration)));
}
