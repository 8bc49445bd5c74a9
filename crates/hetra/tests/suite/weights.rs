//! Weights that kernels have packed are not kept beside that.

use hetra::{Attr, DType, Dim, ExportOptions, GraphBuilder, Node, Session, Tensor, Tuned, Value};

/// A convolution with a normalisation behind it (which is folded into its weights), and a product
/// behind both; the weights of each are over the size of what stays loaded.
fn model() -> Vec<u8> {
    let ramp = |shape: &[usize]| {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| (i % 13) as f32 / 13.0 - 0.4).collect();
        Tensor::from_slice(shape, &values).unwrap()
    };
    let mut b = GraphBuilder::new("weights");
    let dims = [1, 64, 8, 8].map(Dim::Known);
    let x = b.input("x", DType::F32, dims.to_vec());
    let w = b.constant("w", ramp(&[64, 64, 3, 3]));
    let conv = Node::new("Conv", &[x, w], &[]).with("pads", Attr::Ints(vec![1; 4]));
    let conv = b.node(conv, 1)[0];
    let [scale, bias, mean] = ["scale", "bias", "mean"].map(|name| b.constant(name, ramp(&[64])));
    let var = b.constant("var", Tensor::from_slice(&[64], &[2.0f32; 64]).unwrap());
    let normal = b.op("BatchNormalization", &[conv, scale, bias, mean, var]);
    let flat = b.node(Node::new("Flatten", &[normal], &[]).with("axis", 1i64), 1)[0];
    let m = b.constant("m", ramp(&[64 * 64, 32]));
    let y = b.op("MatMul", &[flat, m]);
    b.output(y);
    hetra::export(&b.finish(), &ExportOptions::default()).unwrap()
}

fn loaded(session: &Session) -> Vec<String> {
    let graph = session.graph();
    let large = |value: &Value| value.byte_len() >= 64 << 10;
    let tensors = graph.constants.iter().filter(|(_, value)| large(value));
    let loaded = tensors.filter(|(_, value)| value.as_tensor().is_none_or(Tensor::is_loaded));
    loaded.map(|(id, _)| graph.value(*id).name.clone()).collect()
}

#[test]
fn large_weights_are_let_go_when_they_are_packed_and_come_back_when_they_are_wanted() {
    let bytes = model();
    let builder = || Session::builder().model_bytes(bytes.clone()).threads(1).tuned(Tuned::Shipped);
    let (session, plain) =
        (builder().build().unwrap(), builder().without_pass("all").build().unwrap());
    let values: Vec<f32> = (0..64 * 64).map(|i| (i % 7) as f32 / 7.0).collect();
    let x = Tensor::from_slice(&[1, 64, 8, 8], &values).unwrap();
    let run = |session: &Session| {
        let outputs = session.run([("x", x.clone())]).unwrap();
        let (_, y) = outputs.iter().next().unwrap();
        y.as_tensor().unwrap().as_slice::<f32>().unwrap().to_vec()
    };
    assert_eq!(loaded(&session), Vec::<String>::new());
    let (got, wanted) = (run(&session), run(&plain));
    assert_eq!(loaded(&session), Vec::<String>::new());
    for (got, wanted) in got.iter().zip(&wanted) {
        assert!((got - wanted).abs() <= 1e-3 * wanted.abs().max(1.0), "{got} not {wanted}");
    }
    // The graph still has all of them, scaled ones as well.
    let again = hetra::export(session.graph(), &ExportOptions::default()).unwrap();
    let again = Session::builder().model_bytes(again).threads(1).tuned(Tuned::Shipped).build();
    for (got, wanted) in run(&again.unwrap()).iter().zip(&wanted) {
        assert!((got - wanted).abs() <= 1e-3 * wanted.abs().max(1.0), "{got} not {wanted}");
    }
}
