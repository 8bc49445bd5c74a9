//! Models of MLPerf Inference on the devices of the catalogue, as they are modelled and as they are
//! published, as JSON. `cargo xtask bench sim` runs it.
#![allow(clippy::print_stdout, reason = "its output is its product")]

use hetra_cost::{Roofline, demands, estimate, joined};
use hetra_ir::{Builder, Dim, Graph, Node, Type, ValueId};
use hetra_machine::{Anchor, DeviceSpec, catalogue};
use hetra_tensor::{DType, Tensor};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Samples of a batch where many are at hand.
const BATCH: usize = 64;
/// Tokens of a question of SQuAD with its text, in the mean: what submitters compute, who leave out
/// the padding to 384.
const TOKENS: usize = 180;

/// A graph being made, its weights being inputs: only their shapes matter.
struct Net {
    b: Builder,
    made: usize,
}

impl Net {
    fn new(name: &str) -> Net {
        Net { b: Builder::new(name), made: 0 }
    }

    fn input(&mut self, shape: &[usize]) -> ValueId {
        self.made += 1;
        let dims: Vec<Dim> = shape.iter().map(|&extent| extent.into()).collect();
        self.b.input(&format!("w{}", self.made), DType::F32, dims)
    }

    /// A convolution with the bias that its normalisation folds into.
    fn conv(&mut self, x: ValueId, [from, to, kernel, stride]: [usize; 4]) -> ValueId {
        let (w, bias) = (self.input(&[to, from, kernel, kernel]), self.input(&[to]));
        let (pad, stride) = ((kernel / 2) as i64, stride as i64);
        let node = Node::new("Conv", &[x, w, bias], &[])
            .with("kernel_shape", vec![kernel as i64; 2])
            .with("pads", vec![pad; 4])
            .with("strides", vec![stride; 2]);
        self.b.node(node, 1)[0]
    }

    fn bottleneck(&mut self, x: ValueId, from: usize, width: usize, stride: usize) -> ValueId {
        let a = self.conv(x, [from, width, 1, 1]);
        let a = self.b.op("Relu", &[a]);
        let a = self.conv(a, [width, width, 3, stride]);
        let a = self.b.op("Relu", &[a]);
        let a = self.conv(a, [width, width * 4, 1, 1]);
        let beside = match from == width * 4 {
            true => x,
            false => self.conv(x, [from, width * 4, 1, stride]),
        };
        let sum = self.b.op("Add", &[a, beside]);
        self.b.op("Relu", &[sum])
    }

    fn dense(&mut self, x: ValueId, from: usize, to: usize) -> ValueId {
        let (w, bias) = (self.input(&[from, to]), self.input(&[to]));
        let product = self.b.op("MatMul", &[x, w]);
        self.b.op("Add", &[product, bias])
    }

    fn norm(&mut self, x: ValueId, width: usize) -> ValueId {
        let (scale, bias) = (self.input(&[width]), self.input(&[width]));
        self.b.op("LayerNormalization", &[x, scale, bias])
    }

    fn heads(&mut self, x: ValueId, shape: ValueId, order: [i64; 4]) -> ValueId {
        let x = self.b.op("Reshape", &[x, shape]);
        self.b.node(Node::new("Transpose", &[x], &[]).with("perm", order.to_vec()), 1)[0]
    }

    /// A layer of BERT.
    fn layer(&mut self, x: ValueId, [batch, width, heads, inner]: [usize; 4]) -> ValueId {
        let shape = [batch, TOKENS, heads, width / heads].map(|extent| extent as i64);
        let split = self.b.constant("split", Tensor::vector(&shape));
        let whole = [batch, TOKENS, width].map(|extent| extent as i64);
        let whole = self.b.constant("whole", Tensor::vector(&whole));
        let root = self.b.constant("root", Tensor::scalar(((width / heads) as f32).sqrt()));
        let [q, k, v] = [[0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]].map(|order| {
            let part = self.dense(x, width, width);
            self.heads(part, split, order)
        });
        let scores = self.b.op("MatMul", &[q, k]);
        let scores = self.b.op("Div", &[scores, root]);
        let shares = self.b.node(Node::new("Softmax", &[scores], &[]).with("axis", -1i64), 1)[0];
        let mixed = self.b.op("MatMul", &[shares, v]);
        let order = vec![0i64, 2, 1, 3];
        let mixed = self.b.node(Node::new("Transpose", &[mixed], &[]).with("perm", order), 1)[0];
        let mixed = self.b.op("Reshape", &[mixed, whole]);
        let mixed = self.dense(mixed, width, width);
        let sum = self.b.op("Add", &[mixed, x]);
        let x = self.norm(sum, width);
        let wide = self.dense(x, width, inner);
        let wide = self.b.op("Gelu", &[wide]);
        let narrow = self.dense(wide, inner, width);
        let sum = self.b.op("Add", &[narrow, x]);
        self.norm(sum, width)
    }
}

/// ResNet-50 v1.5, as inference runs it: normalisations are in the convolutions.
fn resnet50(batch: usize) -> Graph {
    let mut net = Net::new("resnet50");
    let x = net.input(&[batch, 3, 224, 224]);
    let x = net.conv(x, [3, 64, 7, 2]);
    let x = net.b.op("Relu", &[x]);
    let pool = Node::new("MaxPool", &[x], &[])
        .with("kernel_shape", vec![3i64; 2])
        .with("pads", vec![1i64; 4])
        .with("strides", vec![2i64; 2]);
    let mut x = net.b.node(pool, 1)[0];
    let mut from = 64;
    for (stage, blocks) in [3, 4, 6, 3].into_iter().enumerate() {
        let width = 64 << stage;
        for block in 0..blocks {
            let stride = if block == 0 && stage > 0 { 2 } else { 1 };
            x = net.bottleneck(x, from, width, stride);
            from = width * 4;
        }
    }
    let x = net.b.op("GlobalAveragePool", &[x]);
    let x = net.b.op("Flatten", &[x]);
    let x = net.dense(x, 2048, 1000);
    net.b.output(x);
    net.b.finish()
}

/// The layers of BERT-large, and what tells where an answer begins and ends.
fn bert_large(batch: usize) -> Graph {
    let mut net = Net::new("bert-large");
    let mut x = net.input(&[batch, TOKENS, 1024]);
    for _ in 0..24 {
        x = net.layer(x, [batch, 1024, 16, 4096]);
    }
    let x = net.dense(x, 1024, 2);
    net.b.output(x);
    net.b.finish()
}

/// What a task of an anchor runs: the samples at one time, and the graph.
fn task(name: &str) -> Option<(usize, Graph)> {
    let batch = match name.rsplit_once('-')?.1 {
        "offline" => BATCH,
        // Of `-single-stream`.
        "stream" => 1,
        _ => return None,
    };
    let model = name.trim_end_matches("-offline").trim_end_matches("-single-stream");
    let graph = match model {
        "resnet50" => resnet50(batch),
        "bert-large" => bert_large(batch),
        _ => return None,
    };
    Some((batch, joined(&graph)))
}

/// What a published run multiplied: the narrowest number that a device has, of 8 bits at least.
fn number(spec: &DeviceSpec) -> Option<&'static str> {
    ["i8", "f16", "bf16", "f32"].into_iter().find(|number| spec.peak.contains_key(*number))
}

/// The figure of an anchor as it is modelled.
fn modelled(spec: &DeviceSpec, anchor: &Anchor) -> Result<Option<(f64, String)>> {
    let Some((batch, graph)) = task(&anchor.task) else { return Ok(None) };
    let roofline = Roofline::of(spec, number(spec))?;
    let types: Vec<Type> = graph.inputs.iter().map(|&id| graph.ty(id).clone()).collect();
    let found = estimate(&demands(&graph, &types, roofline.bits)?, &roofline);
    let figure = match anchor.unit.as_str() {
        "samples/s" => batch as f64 / found.seconds,
        "ms" => found.seconds * 1e3,
        unit => return Err(format!("{}: {unit} is no unit of ours", anchor.task).into()),
    };
    Ok(Some((figure, roofline.number)))
}

fn main() -> Result<()> {
    let mut rows = Vec::new();
    for (id, spec) in catalogue().devices() {
        for anchor in &spec.anchors {
            let Some((figure, number)) = modelled(spec, anchor)? else { continue };
            rows.push(format!(
                "  {{\"device\": {id:?}, \"calibrated\": {}, \"task\": {:?}, \"number\": {number:?}, \
                 \"published\": {}, \"modelled\": {figure:.6e}, \"unit\": {:?}, \"source\": {:?}}}",
                spec.is_calibrated(),
                anchor.task,
                anchor.value,
                anchor.unit,
                anchor.source
            ));
        }
    }
    println!("[\n{}\n]", rows.join(",\n"));
    Ok(())
}
