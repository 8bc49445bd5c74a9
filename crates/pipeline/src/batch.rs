//! Models that take one at a time, made to take many.

use hetra_ir::{Dim, Graph, Type, ValueId};
use hetra_tensor::{Tensor, Value};

/// How many are tried at one time.
const TRIED: usize = 3;
/// The largest difference from one at a time, in parts of the largest number: sums are added in
/// another order where there are more of them.
const OFF_MAX: f32 = 1e-4;

/// A graph that is ready: its outputs for an input; none where a run fails.
pub type Run = Box<dyn Fn(Tensor) -> Option<Vec<Value>>>;

/// Makes a graph of one input ready; none where it cannot be.
pub type Runner<'a> = &'a dyn Fn(&Graph) -> Option<Run>;

/// The same model for any number at one time; none where that does not give what one at a time
/// gives. Exporters write the 1 of the batch into shapes: it is taken out there, and the result is
/// tried on numbers.
pub(crate) fn batched(model: &Graph, runner: Runner<'_>) -> Option<Graph> {
    let many = opened(model)?;
    same(model, &many, runner)?.then_some(many)
}

/// The graph with its first extent open.
fn opened(model: &Graph) -> Option<Graph> {
    let &[input] = &model.inputs[..] else { return None };
    let ty = model.ty(input);
    let [Dim::Known(1), rest @ ..] = ty.dims()? else { return None };
    let dims = [&[Dim::Sym("each".into())][..], rest].concat();
    let mut many = model.clone();
    many.values[input.index()].ty = Type::shaped(ty.dtype()?, dims);
    for index in 0..many.nodes.len() {
        let node = &many.nodes[index];
        let shape = node.input(1).filter(|_| node.op == "Reshape" && !node.attrs.has("allowzero"));
        let Some(shape) = shape.and_then(|id| many.constant(id)?.as_slice::<i64>().ok()) else {
            continue;
        };
        // 0 takes the extent of what is reshaped.
        if let [1, rest @ ..] = shape {
            let shape = [&[0][..], rest].concat();
            let open = many.add_constant("", Value::from(Tensor::vector(&shape)));
            many.nodes[index].inputs[1] = Some(open);
        }
    }
    // What was inferred for one says nothing of many.
    let made: Vec<ValueId> = many.nodes.iter().flat_map(hetra_ir::Node::defs).collect();
    for id in made {
        many.values[id.index()].ty = Type::Unknown;
    }
    Some(many)
}

/// Whether both give the same for a few; none where one cannot be run.
fn same(one: &Graph, many: &Graph, runner: Runner<'_>) -> Option<bool> {
    let shape = one.ty(one.inputs[0]).known_shape()?;
    let each: usize = shape.iter().product();
    let mut random = fastrand::Rng::with_seed(1);
    let numbers: Vec<f32> = (0..each * TRIED).map(|_| random.f32() * 2.0 - 1.0).collect();
    let (alone, together) = (runner(one)?, runner(many)?);
    let tensor = |shape: &[usize], numbers: &[f32]| Tensor::from_slice(shape, numbers).ok();
    let all = [&[TRIED][..], &shape[1..]].concat();
    let got = together(tensor(&all, &numbers)?)?;
    let none = [&[0][..], &shape[1..]].concat();
    let empty = together(tensor(&none, &[])?)?;
    for (index, part) in numbers.chunks_exact(each).enumerate() {
        let wanted = alone(tensor(&shape, part)?)?;
        for output in 0..wanted.len() {
            let tensor = |outputs: &[Value]| outputs.get(output)?.as_tensor().cloned();
            let (wanted, got, empty) = (tensor(&wanted)?, tensor(&got)?, tensor(&empty)?);
            let shapes = (wanted.shape(), got.shape(), empty.shape());
            let ([1, one @ ..], [TRIED, many @ ..], [0, none @ ..]) = shapes else {
                return Some(false);
            };
            if one != many || one != none {
                return Some(false);
            }
            let width = wanted.len();
            let (wanted, got) = (wanted.as_slice::<f32>().ok()?, got.as_slice::<f32>().ok()?);
            let largest = wanted.iter().fold(1e-6f32, |most, number| most.max(number.abs()));
            let pairs = wanted.iter().zip(&got[index * width..][..width]);
            // What is no number is not near.
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= OFF_MAX * largest;
            if !pairs.into_iter().all(near) {
                return Some(false);
            }
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use hetra_ir::{Builder, Node};
    use hetra_tensor::DType;

    use super::*;

    /// A model of one row of four numbers; `shape` is what they are reshaped to, and back.
    fn model(shape: &[i64], axes: &[i64]) -> Graph {
        let mut b = Builder::new("model");
        let x = b.input("x", DType::F32, vec![1usize.into(), 4usize.into()]);
        let shape = b.constant("shape", Tensor::vector(shape));
        let y = b.op("Reshape", &[x, shape]);
        let axes = b.constant("axes", Tensor::vector(axes));
        let sum = Node::new("ReduceSum", &[y, axes], &[]).with("keepdims", 1i64);
        let y = b.node(sum, 1)[0];
        b.output(y);
        b.finish()
    }

    /// By the references.
    fn by_reference(graph: &Graph) -> Option<Run> {
        let graph = graph.clone();
        Some(Box::new(move |input: Tensor| {
            hetra_ops::interpret(&graph, vec![input.into()], &|_| None).ok()
        }))
    }

    #[test]
    fn what_gives_the_same_for_many_takes_many() {
        let batched = |model: &Graph| batched(model, &by_reference);
        let many = batched(&model(&[1, 2, 2], &[2])).unwrap();
        let run = by_reference(&many).unwrap();
        let x = Tensor::from_slice(&[2, 4], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).unwrap();
        let outputs = run(x).unwrap();
        let sums = outputs[0].as_tensor().unwrap();
        assert_eq!(sums.as_slice::<f32>().unwrap(), [3.0, 7.0, 11.0, 15.0]);
        // Sums over the batch, too, and a batch that moves elsewhere.
        assert!(batched(&model(&[1, 2, 2], &[0, 2])).is_none());
        assert!(batched(&model(&[2, 2], &[1])).is_none());
        // Nothing runs: nothing is known.
        assert!(super::batched(&model(&[1, 2, 2], &[2]), &|_| None).is_none());
    }
}
