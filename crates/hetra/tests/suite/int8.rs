//! Models quantised by calibration inputs.

#![allow(clippy::print_stderr, reason = "what was measured is told")]

use std::path::Path;

use crate::numbers::numbers;
use crate::places;
use hetra::{
    DType, Dim, Error, Graph, GraphBuilder, Inputs, Node, Precision, Session, Tensor, Verdict,
};

/// Weights such that sums of so many products are about as large as what goes in.
fn weights(shape: &[usize], seed: u64) -> Tensor {
    let terms: usize = shape[1..].iter().product();
    let scale = (3.0 / terms as f32).sqrt();
    let data: Vec<f32> = numbers(shape.iter().product(), seed).iter().map(|x| x * scale).collect();
    Tensor::from_slice(shape, &data).expect("so many numbers")
}

/// Plain, depthwise and pointwise convolutions with activations and a residual, then a classifier.
fn model() -> Graph {
    let mut b = GraphBuilder::new("small");
    let x = b.input("x", DType::F32, [1, 16, 12, 12].map(Dim::Known).to_vec());
    let conv = |b: &mut GraphBuilder, x, shape: &[usize], group: usize, seed| {
        let w = b.constant(&format!("w{seed}"), weights(shape, seed));
        let bias = b.constant(&format!("b{seed}"), Tensor::vector(&numbers(shape[0], seed + 50)));
        let pad = (shape[2] / 2) as i64;
        let node = Node::new("Conv", &[x, w, bias], &[]).with("pads", vec![pad; 4]);
        b.node(node.with("group", group as i64), 1)[0]
    };
    let y = conv(&mut b, x, &[32, 16, 3, 3], 1, 1);
    let stem = b.op("Relu", &[y]);
    let y = conv(&mut b, stem, &[32, 1, 3, 3], 32, 2);
    let (zero, six) = (Tensor::scalar(0f32), Tensor::scalar(6f32));
    let (low, high) = (b.constant("low", zero), b.constant("high", six));
    let y = b.op("Clip", &[y, low, high]);
    let y = conv(&mut b, y, &[32, 32, 1, 1], 1, 3);
    let y = b.op("Add", &[stem, y]);
    let y = conv(&mut b, y, &[48, 32, 1, 1], 1, 4);
    let y = b.op("HardSwish", &[y]);
    let y = b.op("GlobalAveragePool", &[y]);
    let y = b.node(Node::new("Flatten", &[y], &[]), 1)[0];
    let w = b.constant("w5", weights(&[10, 48], 5));
    let y = b.node(Node::new("Gemm", &[y, w], &[]).with("transB", 1i64), 1)[0];
    b.output(y);
    b.finish()
}

fn inputs(seed: u64) -> Inputs {
    let x = Tensor::from_slice(&[1, 16, 12, 12], &numbers(16 * 144, seed));
    vec![("x".to_string(), x.expect("so many numbers").into())]
}

fn session(precision: Precision) -> Session {
    let builder = Session::builder().graph(model()).threads(1).precision(precision);
    builder.build().expect("a session")
}

fn output(session: &Session, inputs: Inputs) -> Vec<f32> {
    let outputs = session.run(inputs).expect("a run");
    outputs[0].as_tensor().expect("a tensor").as_slice::<f32>().expect("f32").to_vec()
}

/// The error as `PrecisionReport::error` defines it.
fn error(got: &[f32], wanted: &[f32]) -> f64 {
    let largest = wanted.iter().fold(0f32, |most, v| most.max(v.abs()));
    let worst = got.iter().zip(wanted).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    f64::from(worst / largest)
}

#[test]
fn a_small_network_runs_on_integers() {
    let f32 = session(Precision::F32);
    assert!(f32.quantised().is_empty());
    let int8 = session(Precision::Int8 { calibration: vec![inputs(7), inputs(8)] });
    assert_eq!(int8.quantised().len(), 5, "{:?}", int8.kernels());
    let kernels = int8.kernels();
    let count = |part: &str| kernels.iter().filter(|kernel| kernel.contains(part)).count();
    assert_eq!(count("conv int8 nhwc"), 4, "{kernels:?}");
    assert_eq!((count("gemm int8"), count("binary int8"), count("table int8")), (1, 1, 1));
    // In and out, and nothing between.
    assert_eq!(count("quantize"), 2, "{kernels:?}");
    let report = int8.precision().expect("a report");
    let chosen = report.int8.as_ref().expect("integers were asked for");
    assert_eq!((chosen.verdict, chosen.quantised.len()), (Verdict::Lowered, 5));
    let errors =
        [7, 8].map(|seed| error(&output(&int8, inputs(seed)), &output(&f32, inputs(seed))));
    assert!((errors[0].max(errors[1]) - report.error).abs() < 1e-6, "{errors:?} {report:?}");
    // Inputs that were not calibrated with are of the same kind.
    let other = error(&output(&int8, inputs(9)), &output(&f32, inputs(9)));
    assert!(report.error > 1e-4 && report.error < 0.04 && other < 0.06, "{other} {report:?}");
    let back = int8.with_precision(&Precision::F32).expect("a session");
    assert_eq!(output(&back, inputs(9)), output(&f32, inputs(9)));
}

#[test]
fn ranges_are_those_of_all_calibration_inputs() {
    let scaled = |factor: f32| -> Inputs {
        let data: Vec<f32> = numbers(16 * 144, 7).iter().map(|x| x * factor).collect();
        let x = Tensor::from_slice(&[1, 16, 12, 12], &data).expect("so many numbers");
        vec![("x".to_string(), x.into())]
    };
    let wanted = output(&session(Precision::F32), scaled(8.0));
    let error_by = |calibration| {
        error(&output(&session(Precision::Int8 { calibration }), scaled(8.0)), &wanted)
    };
    let (small, both) = (error_by(vec![scaled(1.0)]), error_by(vec![scaled(1.0), scaled(8.0)]));
    assert!(both < 0.05 && small > 4.0 * both, "{small} {both}");
}

#[test]
fn values_that_are_always_zero_are_no_hindrance() {
    let zeros = Tensor::zeros(DType::F32, &[1, 16, 12, 12]).expect("zeros");
    let zeros: Inputs = vec![("x".to_string(), zeros.into())];
    let int8 = session(Precision::Int8 { calibration: vec![zeros.clone()] });
    let wanted = output(&session(Precision::F32), zeros.clone());
    assert!(error(&output(&int8, zeros), &wanted) < 0.04);
}

#[test]
fn inputs_that_are_not_finite_are_refused_by_name() {
    for odd in [f32::NAN, f32::INFINITY] {
        let mut data = numbers(16 * 144, 7);
        data[100] = odd;
        let x = Tensor::from_slice(&[1, 16, 12, 12], &data).expect("so many numbers");
        let calibration = vec![inputs(8), vec![("x".to_string(), x.into())]];
        let int8 = Precision::Int8 { calibration };
        let built = Session::builder().graph(model()).threads(1).precision(int8).build();
        match built.map(drop) {
            Err(Error::NotFinite { value, index: 1 }) => assert_eq!(value, "x"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_int8_needs_is_asked_for() {
    let f32 = session(Precision::F32);
    let int8 = |calibration| Precision::Int8 { calibration };
    let refused = f32.with_precision(&int8(vec![inputs(7)])).map(drop);
    assert!(matches!(refused, Err(Error::NotQuantisable)));
    let builder = Session::builder().graph(model()).threads(1).quantisable();
    let kept = builder.build().expect("a session");
    assert!(kept.quantised().is_empty());
    assert!(matches!(kept.with_precision(&int8(vec![])).map(drop), Err(Error::NoCalibration)));
    let int8 = kept.with_precision(&int8(vec![inputs(7)])).expect("a session");
    assert_eq!(int8.quantised().len(), 5);
}

#[test]
fn what_auto_puts_on_integers_keeps_within_the_budget() {
    let f32 = session(Precision::F32);
    for max_error in [0.1, 0.01, 0.0] {
        let auto = Precision::Auto { max_error, calibration: vec![inputs(7), inputs(8)] };
        let chosen = session(auto);
        let report = chosen.precision().expect("a report");
        let int8 = report.int8.as_ref().expect("a session of this kind is quantisable");
        assert_eq!(int8.quantised.len(), chosen.quantised().len(), "{report:?}");
        assert_eq!(int8.verdict == Verdict::Lowered, !int8.quantised.is_empty(), "{report:?}");
        let errors =
            [7, 8].map(|seed| error(&output(&chosen, inputs(seed)), &output(&f32, inputs(seed))));
        let worst = errors[0].max(errors[1]);
        assert!(worst <= max_error && (worst - report.error).abs() <= 1e-6, "{worst} {report:?}");
        if max_error == 0.0 {
            assert!(int8.quantised.is_empty(), "{report:?}");
        }
    }
}

/// The inputs of a session that are recorded in this folder.
fn recorded(session: &Session, golden: &Path) -> Inputs {
    let open = session.inputs().into_iter().filter(|port| !port.has_default);
    let one = |(index, port): (usize, hetra::Port)| {
        let path = golden.join(format!("input_{index}.pb"));
        let bytes = std::fs::read(&path).expect("recorded inputs");
        (port.name, hetra_onnx::value_from_pb(&bytes, &port.ty).expect("a value"))
    };
    open.enumerate().map(one).collect()
}

/// Error and time of real models, where they are given. Run with
/// `HETRA_BENCH=1 cargo test --release -p hetra --test suite int8::real_models -- --nocapture`;
/// `HETRA_MODELS` picks others, by their files.
#[test]
fn real_models() {
    if std::env::var_os("HETRA_BENCH").is_none() {
        eprintln!("SKIPPED: HETRA_BENCH is not set");
        return;
    }
    let folder = places::shared().join("models");
    let files = std::env::var("HETRA_MODELS").unwrap_or_else(|_| {
        "face_rec/mobilefacenet_vface.onnx cls/pplcnet_doc_orientation.onnx \
         face_det/ultraface_rfb320.onnx light/light_resnet50.onnx objdet/yolox_nano.onnx"
            .to_string()
    });
    for file in files.split_whitespace() {
        let builder = Session::builder().model_file(folder.join(file)).fix_defaults();
        let f32 = builder.threads(1).quantisable().build().expect("a session");
        let name = file.trim_end_matches(".onnx").replace('/', "__");
        let calibration = vec![recorded(&f32, &folder.join("golden").join(name))];
        let auto = Precision::Auto { max_error: 0.05, calibration: calibration.clone() };
        for precision in [Precision::Int8 { calibration }, auto] {
            let session = f32.with_precision(&precision).expect("a session");
            let report = session.precision().expect("a report");
            let int8 = report.int8.as_ref().expect("it is quantisable");
            let ms = report.times_ns.map(|(f32, now)| [f32, now].map(|ns| ns as f64 / 1e6));
            eprintln!(
                "{file}: error {:.4} of {}, {} of {} products on integers, {} in bf16, f32 and \
                 then in ms: {ms:.2?}",
                report.error,
                report.max_error,
                int8.quantised.len(),
                int8.products,
                report.lowered.len()
            );
        }
    }
}
