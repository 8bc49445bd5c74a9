//! What lies at the edge of what kernels take agrees with the reference all the same.

use hetra_device::conformance::{Case, Outcome, check};
use hetra_device_cpu::CpuDevice;
use hetra_ir::{Attr, Builder, Dim, Node};
use hetra_tensor::{Tensor, Value};

/// One node: its arguments, of which some are constants.
struct Edge {
    node: Node,
    arguments: Vec<(Tensor, bool)>,
}

impl Edge {
    fn new(op: &str) -> Edge {
        Edge { node: Node::new(op, &[], &[]), arguments: Vec::new() }
    }

    fn with(mut self, name: &str, value: impl Into<Attr>) -> Edge {
        self.node.attrs.set(name, value);
        self
    }

    fn input(mut self, tensor: Tensor) -> Edge {
        self.arguments.push((tensor, false));
        self
    }

    fn constant(mut self, tensor: Tensor) -> Edge {
        self.arguments.push((tensor, true));
        self
    }

    /// Its kernel, or `reference`.
    fn check(mut self) -> String {
        let mut b = Builder::new("edge");
        let mut inputs = Vec::new();
        for (index, (tensor, constant)) in self.arguments.into_iter().enumerate() {
            let name = format!("x{index}");
            let id = if constant {
                b.constant(&name, tensor)
            } else {
                let shape = tensor.shape().iter().map(|&extent| Dim::Known(extent)).collect();
                let id = b.input(&name, tensor.dtype(), shape);
                inputs.push(Value::from(tensor));
                id
            };
            self.node.inputs.push(Some(id));
        }
        let name = format!("{} {:?}", self.node.op, self.node.attrs);
        let outputs = b.node(self.node, 1);
        b.output(outputs[0]);
        let case = Case { name: name.clone(), graph: b.finish(), inputs };
        match check(&CpuDevice::new(Some(2)).unwrap(), &case, 2e-5) {
            Outcome::Passed { kernel, .. } => kernel,
            other => panic!("{name}: {other:?}"),
        }
    }
}

fn floats(shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i * 7 % 13) as f32 / 8.0 - 0.7).collect();
    Tensor::from_slice(shape, &values).unwrap()
}

fn codes(shape: &[usize]) -> Tensor {
    let values: Vec<u8> = (0..shape.iter().product()).map(|i| (i * 37 % 251) as u8).collect();
    Tensor::from_slice(shape, &values).unwrap()
}

fn weights(shape: &[usize]) -> Tensor {
    let values: Vec<i8> = (0..shape.iter().product()).map(|i| (i * 29 % 255) as i8).collect();
    Tensor::from_slice(shape, &values).unwrap()
}

fn number<T: hetra_tensor::Element>(value: T) -> Tensor {
    Tensor::from_slice(&[], &[value]).unwrap()
}

fn quantised(op: &str, x: Tensor, w: Tensor, y_scale: f32) -> Edge {
    Edge::new(op)
        .input(x)
        .constant(number(0.1f32))
        .constant(number(7u8))
        .constant(w)
        .constant(number(0.05f32))
        .constant(number(0i8))
        .constant(number(y_scale))
        .constant(number(100u8))
}

#[test]
fn images_without_channels() {
    let pads = Attr::Ints(vec![1; 4]);
    let (x, w) = (floats(&[1, 0, 16, 16]), floats(&[4, 0, 3, 3]));
    let conv = || Edge::new("Conv").with("pads", pads.clone()).input(x.clone());
    conv().input(w.clone()).check();
    conv().constant(w.clone()).check();
    conv().with("group", 2).constant(w).check();
    quantised("QLinearConv", codes(&[1, 0, 8, 8]), weights(&[8, 0, 3, 3]), 0.2).check();
    let last =
        quantised("hetra.QLinearConvLast", codes(&[1, 8, 8, 0]), weights(&[8, 0, 3, 3]), 0.2);
    last.check();
}

#[test]
fn images_without_pixels() {
    let image = codes(&[1, 4, 0, 128]);
    let conv = quantised("hetra.QLinearConvLast", image, weights(&[128, 1, 3, 3]), 0.2);
    conv.with("pads", Attr::Ints(vec![2; 4])).with("group", 128).check();
}

#[test]
fn outputs_that_are_borders_only() {
    let image = codes(&[1, 8, 8, 16]);
    let conv = quantised("hetra.QLinearConvLast", image, weights(&[16, 1, 3, 3]), 3.0);
    let kernel = conv.with("pads", Attr::Ints(vec![1, 1, 1, 300])).with("group", 16).check();
    assert!(kernel.starts_with("conv int8 nhwc"), "{kernel}");
}

/// What is no number becomes the zero point.
#[test]
fn codes_of_no_scale() {
    let image = Tensor::from_slice(&[1, 4, 4, 16], &[7u8; 256]).unwrap();
    quantised("hetra.QLinearConvLast", image, weights(&[32, 16, 1, 1]), 0.0).check();
}

#[test]
fn powers_of_what_is_not_positive() {
    let norm = |bias: f32, alpha: f32, beta: f32| {
        let lrn = Edge::new("LRN").with("size", 3).with("bias", bias).with("alpha", alpha);
        lrn.with("beta", beta).input(floats(&[1, 5, 3, 4])).check()
    };
    assert!(norm(1.0, 0.1, 0.75).starts_with("lrn"));
    norm(-1.0, 0.0, 2.0);
    norm(0.0, 0.0, 0.0);
}
