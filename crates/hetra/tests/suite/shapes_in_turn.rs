//! What a session keeps of the last shape, or of constants, is never taken for another.

use hetra::{Attr, DType, Dim, GraphBuilder, Model, ModelInfo, Node, Session, Tensor, Tuned};

/// Views, a Resize and an 8-bit convolution of images whose extents are open.
fn session() -> Session {
    let mut b = GraphBuilder::new("turns");
    let open = |name: &str| Dim::Sym(name.into());
    let x = b.input("x", DType::F32, vec![open("n"), Dim::Known(4), open("h"), open("w")]);
    let none = b.constant("none", Tensor::from_slice::<f32>(&[0], &[]).unwrap());
    let twice = b.constant("twice", Tensor::vector(&[1.0f32, 1.0, 2.0, 1.0]));
    let resized = b.op("Resize", &[x, none, twice]);
    let scale = b.constant("scale", Tensor::scalar(0.02f32));
    let zero = b.constant("zero", Tensor::scalar(128u8));
    let codes = b.op("QuantizeLinear", &[resized, scale, zero]);
    let weights: Vec<i8> = (0..8 * 4 * 9).map(|i| (i * 29 % 255) as i8).collect();
    let weights = b.constant("w", Tensor::from_slice(&[8, 4, 3, 3], &weights).unwrap());
    let of_w = b.constant("of_w", Tensor::scalar(0.01f32));
    let zero_w = b.constant("zero_w", Tensor::scalar(0i8));
    let of_y = b.constant("of_y", Tensor::scalar(0.1f32));
    let inputs = [codes, scale, zero, weights, of_w, zero_w, of_y, zero];
    let padded = Node::new("QLinearConv", &inputs, &[]).with("auto_pad", Attr::from("SAME_UPPER"));
    let convolved = b.node(padded, 1)[0];
    let plain = b.op("DequantizeLinear", &[convolved, of_y, zero]);
    let flat = b.constant("flat", Tensor::vector(&[0i64, -1]));
    let y = b.op("Reshape", &[plain, flat]);
    b.output(y);
    let model = Model { graph: b.finish(), info: ModelInfo::default() };
    Session::builder().model(model).threads(2).tuned(Tuned::Shipped).build().unwrap()
}

fn image(shape: [usize; 4]) -> Tensor {
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    Tensor::from_slice(&shape, &values).unwrap()
}

#[test]
fn shapes_in_any_order_give_what_each_gives_alone() {
    let shapes = [[1, 4, 6, 5], [2, 4, 6, 5], [1, 4, 7, 3], [1, 4, 3, 7], [3, 4, 2, 2]];
    let alone: Vec<Vec<f32>> = shapes.iter().map(|&shape| run(&session(), shape)).collect();
    let together = session();
    for turn in 0..12 {
        let which = turn * 7 % shapes.len();
        let got = run(&together, shapes[which]);
        assert_eq!(got, alone[which], "turn {turn}");
        assert_eq!(run(&together, shapes[which]), got, "at once again, turn {turn}");
    }
}

fn run(session: &Session, shape: [usize; 4]) -> Vec<f32> {
    let outputs = session.run([("x", image(shape))]).unwrap();
    outputs[0].as_tensor().unwrap().as_slice::<f32>().unwrap().to_vec()
}
