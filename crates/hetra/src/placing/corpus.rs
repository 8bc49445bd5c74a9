//! Small networks to learn costs from: blocks as models have them, of sizes drawn at random.

use fastrand::Rng;
use hetra_ir::{Builder, Graph, Node, ValueId};
use hetra_tensor::{DType, Tensor, TensorError};

/// Channels, and sides of pictures.
const CHANNELS: [usize; 12] = [8, 16, 24, 32, 40, 64, 96, 128, 160, 256, 384, 512];
const SIDES: [usize; 12] = [5, 7, 10, 14, 20, 28, 40, 56, 80, 112, 160, 240];
/// Rows, and widths, of matrices.
const ROWS: [usize; 8] = [1, 4, 16, 40, 64, 128, 197, 384];
const WIDTHS: [usize; 9] = [32, 64, 96, 120, 192, 256, 384, 512, 768];
/// Most blocks of a network.
const BLOCKS_MAX: usize = 20;
/// Most multiply-adds of a network, about, and elements of a value.
const MACS_MAX: usize = 600_000_000;
const ELEMENTS_MAX: usize = 2 << 20;

/// A network that grows.
struct Net<'a> {
    b: Builder,
    rng: &'a mut Rng,
    macs: usize,
}

/// A picture: value, channels, height and width.
#[derive(Clone, Copy)]
struct Map {
    value: ValueId,
    channels: usize,
    side: [usize; 2],
}

impl Net<'_> {
    fn pick(&mut self, of: &[usize]) -> usize {
        of[self.rng.usize(..of.len())]
    }

    fn weights(&mut self, shape: &[usize]) -> Result<ValueId, TensorError> {
        let count: usize = shape.iter().product();
        let numbers: Vec<f32> = (0..count).map(|_| self.rng.f32() * 0.2 - 0.1).collect();
        Ok(self.b.constant("w", Tensor::from_slice(shape, &numbers)?))
    }

    fn activation(&mut self, value: ValueId) -> ValueId {
        match self.rng.usize(..9) {
            7 => self.b.op("Sigmoid", &[value]),
            8 => self.b.op("LeakyRelu", &[value]),
            0..3 => self.b.op("Relu", &[value]),
            3 => {
                let gate = self.b.op("Sigmoid", &[value]);
                self.b.op("Mul", &[value, gate])
            }
            4 => self.b.op("HardSwish", &[value]),
            5 => {
                let [low, high] = [0f32, 6.0].map(|at| self.b.constant("at", Tensor::scalar(at)));
                self.b.op("Clip", &[value, low, high])
            }
            _ => value,
        }
    }

    fn conv(
        &mut self,
        x: Map,
        out: usize,
        (kernel, stride, groups): (usize, usize, usize),
    ) -> Result<Map, TensorError> {
        let weights = self.weights(&[out, x.channels / groups, kernel, kernel])?;
        let bias = self.weights(&[out])?;
        let pads = vec![(kernel / 2) as i64; 4];
        let node = Node::new("Conv", &[x.value, weights, bias], &[])
            .with("kernel_shape", vec![kernel as i64; 2])
            .with("strides", vec![stride as i64; 2])
            .with("group", groups as i64)
            .with("pads", pads);
        let value = self.b.node(node, 1)[0];
        let side = x.side.map(|side| (side - 1) / stride + 1);
        self.macs += side[0] * side[1] * out * x.channels / groups * kernel * kernel;
        Ok(Map { value, channels: out, side })
    }

    /// Channels to go on with, of which there are not too many products.
    fn channels(&mut self, x: Map, window: usize) -> usize {
        let places = x.side[0] * x.side[1];
        let fits = |out: &usize| {
            places * out * x.channels * window < MACS_MAX / 3 && places * out <= ELEMENTS_MAX
        };
        let all: Vec<usize> = CHANNELS.into_iter().filter(fits).collect();
        if all.is_empty() { CHANNELS[0] } else { self.pick(&all) }
    }

    /// A block of a network of pictures.
    fn block(&mut self, x: Map) -> Result<Map, TensorError> {
        let stride = if self.rng.usize(..4) == 0 && x.side[0].min(x.side[1]) > 6 { 2 } else { 1 };
        let mut y = match self.rng.usize(..16) {
            12 => self.mean(x),
            13 => self.branches(x)?,
            14 => self.local(x),
            15 => self.slope(x)?,
            0..3 => {
                let out = self.channels(x, 9);
                self.conv(x, out, (3, stride, 1))?
            }
            3..6 => {
                let out = self.channels(x, 1);
                self.conv(x, out, (1, 1, 1))?
            }
            6..9 => {
                let kernel = if self.rng.usize(..4) == 0 { 5 } else { 3 };
                let mut deep = self.conv(x, x.channels, (kernel, stride, x.channels))?;
                deep.value = self.activation(deep.value);
                let out = self.channels(deep, 1);
                self.conv(deep, out, (1, 1, 1))?
            }
            9 => self.squeeze(x)?,
            10 => self.pool(x),
            _ => {
                let inner = self.conv(x, x.channels, (3, 1, x.channels))?;
                Map { value: self.b.op("Add", &[inner.value, x.value]), ..x }
            }
        };
        y.value = self.activation(y.value);
        Ok(y)
    }

    /// Channels weighed by what all of the picture says.
    fn squeeze(&mut self, x: Map) -> Result<Map, TensorError> {
        let mean = self.b.op("GlobalAveragePool", &[x.value]);
        let small = Map { value: mean, side: [1, 1], ..x };
        let mut inner = self.conv(small, (x.channels / 4).max(4), (1, 1, 1))?;
        inner.value = self.b.op("Relu", &[inner.value]);
        let outer = self.conv(inner, x.channels, (1, 1, 1))?;
        let gate = self.b.op("HardSigmoid", &[outer.value]);
        Ok(Map { value: self.b.op("Mul", &[x.value, gate]), ..x })
    }

    /// Means of places near each other.
    fn mean(&mut self, x: Map) -> Map {
        let node = Node::new("AveragePool", &[x.value], &[])
            .with("kernel_shape", vec![3i64, 3])
            .with("pads", vec![1i64; 4]);
        Map { value: self.b.node(node, 1)[0], ..x }
    }

    /// Convolutions of different windows beside each other, as one.
    fn branches(&mut self, x: Map) -> Result<Map, TensorError> {
        let few = (x.channels / 2).max(4);
        let near = self.conv(x, few, (1, 1, 1))?;
        let far = self.conv(near, few, (3, 1, 1))?;
        let both = Node::new("Concat", &[near.value, far.value], &[]).with("axis", 1i64);
        Ok(Map { value: self.b.node(both, 1)[0], channels: 2 * few, ..x })
    }

    /// Channels normalised by their neighbours.
    fn local(&mut self, x: Map) -> Map {
        let node = Node::new("LRN", &[x.value], &[]).with("size", 5i64);
        Map { value: self.b.node(node, 1)[0], ..x }
    }

    /// A convolution and a slope for each channel.
    fn slope(&mut self, x: Map) -> Result<Map, TensorError> {
        let y = self.conv(x, x.channels, (1, 1, 1))?;
        let slope = self.weights(&[x.channels, 1, 1])?;
        Ok(Map { value: self.b.op("PRelu", &[y.value, slope]), ..y })
    }

    fn pool(&mut self, x: Map) -> Map {
        let larger = self.rng.bool() && x.side[0] * x.side[1] * x.channels * 4 < ELEMENTS_MAX;
        if larger {
            let scales = Tensor::vector(&[1f32, 1.0, 2.0, 2.0]);
            let scales = self.b.constant("scales", scales);
            let nowhere = self.b.constant("roi", Tensor::vector::<f32>(&[]));
            let node = Node::new("Resize", &[x.value, nowhere, scales], &[])
                .with("mode", "nearest")
                .with("coordinate_transformation_mode", "asymmetric")
                .with("nearest_mode", "floor");
            let value = self.b.node(node, 1)[0];
            return Map { value, side: x.side.map(|side| side * 2), ..x };
        }
        if x.side[0].min(x.side[1]) < 4 {
            return x;
        }
        let node = Node::new("MaxPool", &[x.value], &[])
            .with("kernel_shape", vec![2i64, 2])
            .with("strides", vec![2i64, 2]);
        Map { value: self.b.node(node, 1)[0], side: x.side.map(|side| side / 2), ..x }
    }

    fn product(&mut self, x: ValueId, [inner, outer]: [usize; 2]) -> Result<ValueId, TensorError> {
        let (weights, bias) = (self.weights(&[inner, outer])?, self.weights(&[outer])?);
        let y = self.b.op("MatMul", &[x, weights]);
        Ok(self.b.op("Add", &[y, bias]))
    }

    /// Attention of one head, with products before and behind it.
    fn attention(&mut self, x: ValueId, width: usize) -> Result<ValueId, TensorError> {
        let [q, k, v] = [0, 1, 2].map(|_| self.product(x, [width, width]));
        let k = self.b.node(Node::new("Transpose", &[k?], &[]).with("perm", vec![1i64, 0]), 1)[0];
        let alike = self.b.op("MatMul", &[q?, k]);
        let scale = self.b.constant("scale", Tensor::scalar(1.0 / (width as f32).sqrt()));
        let alike = self.b.op("Mul", &[alike, scale]);
        let soft = self.b.node(Node::new("Softmax", &[alike], &[]).with("axis", -1i64), 1)[0];
        let mixed = self.b.op("MatMul", &[soft, v?]);
        let back = self.product(mixed, [width, width])?;
        self.normed(back, x, width)
    }

    fn normed(&mut self, a: ValueId, b: ValueId, width: usize) -> Result<ValueId, TensorError> {
        let sum = self.b.op("Add", &[a, b]);
        let (scale, bias) = (self.weights(&[width])?, self.weights(&[width])?);
        let norm = Node::new("LayerNormalization", &[sum, scale, bias], &[]).with("axis", -1i64);
        Ok(self.b.node(norm, 1)[0])
    }

    /// A product of codes of 8 bits, which are chosen in each run.
    fn codes(&mut self, x: ValueId, width: usize) -> Result<ValueId, TensorError> {
        let coded = self.b.node(Node::new("DynamicQuantizeLinear", &[x], &[]), 3);
        let count = width * width;
        let codes: Vec<i8> = (0..count).map(|_| self.rng.i8(-100..=100)).collect();
        let weights = self.b.constant("codes", Tensor::from_slice(&[width, width], &codes)?);
        let zero = self.b.constant("zero", Tensor::scalar(0i8));
        let sums = self.b.op("MatMulInteger", &[coded[0], weights, coded[2], zero]);
        let to = i64::from(DType::F32.onnx());
        let sums = self.b.node(Node::new("Cast", &[sums], &[]).with("to", to), 1)[0];
        let scale = self.b.constant("scale", Tensor::scalar(0.01f32));
        let scale = self.b.op("Mul", &[coded[1], scale]);
        Ok(self.b.op("Mul", &[sums, scale]))
    }

    /// A block of a network of rows, which stay of one width.
    fn layer(&mut self, x: ValueId, width: usize, coded: bool) -> Result<ValueId, TensorError> {
        match self.rng.usize(..5) {
            // What has codes has no Gelu between two products: the plugin of OpenVINO 2026.4
            // crashes where these follow each other.
            1 | 4 if coded => self.codes(x, width),
            0 => self.attention(x, width),
            1 | 4 => {
                let inner = self.product(x, [width, 4 * width])?;
                let inner = self.b.op("Gelu", &[inner]);
                let back = self.product(inner, [4 * width, width])?;
                self.normed(back, x, width)
            }
            2 => {
                let y = self.product(x, [width, width])?;
                Ok(self.activation(y))
            }
            _ => {
                let y = self.product(x, [width, width])?;
                Ok(self.b.op("Tanh", &[y]))
            }
        }
    }
}

/// A network.
///
/// # Errors
/// Never, as its sizes are limited.
pub(crate) fn network(rng: &mut Rng) -> Result<Graph, TensorError> {
    let mut net = Net { b: Builder::new("corpus"), rng, macs: 0 };
    let blocks = 1 + net.rng.usize(..BLOCKS_MAX);
    if net.rng.usize(..4) == 0 {
        let (rows, width, coded) = (net.pick(&ROWS), net.pick(&WIDTHS), net.rng.bool());
        let mut x = net.b.input("x", DType::F32, vec![rows.into(), width.into()]);
        for _ in 0..blocks.min(1 + MACS_MAX / (rows * width * width * 8)) {
            x = net.layer(x, width, coded)?;
        }
        net.b.output(x);
        return Ok(net.b.finish());
    }
    let (height, width) = (net.pick(&SIDES), net.pick(&SIDES));
    let few: Vec<usize> = [3].into_iter().chain(CHANNELS).collect();
    let fits = |channels: &usize| height * width * channels <= ELEMENTS_MAX / 4;
    let few: Vec<usize> = few.into_iter().filter(fits).collect();
    let channels = net.pick(&few);
    let dims = [1, channels, height, width].map(hetra_ir::Dim::from);
    let value = net.b.input("x", DType::F32, dims.to_vec());
    let mut x = Map { value, channels, side: [height, width] };
    for _ in 0..blocks {
        x = net.block(x)?;
        if net.macs > MACS_MAX || x.side[0] * x.side[1] * x.channels > ELEMENTS_MAX {
            break;
        }
    }
    net.b.output(x.value);
    Ok(net.b.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_run_and_are_not_large() {
        let mut rng = Rng::with_seed(7);
        for _ in 0..60 {
            let graph = network(&mut rng).unwrap();
            assert!((1..200).contains(&graph.nodes.len()));
            assert!(hetra_ir::verify(&graph).is_ok());
            let types: Vec<_> = graph.inputs.iter().map(|&id| graph.ty(id).clone()).collect();
            let inferred = hetra_pass::infer(&graph, &types, &[]).unwrap();
            let elements =
                |ty: &hetra_ir::Type| ty.known_shape().unwrap().iter().product::<usize>();
            assert!(inferred.types.iter().all(|ty| elements(ty) <= 4 * ELEMENTS_MAX));
        }
    }
}
