//! Rounds the operands of products as a device would that multiplies other numbers.
//!
//! No pass of [`crate::PASSES`]: it shows what a device loses that is not there.

use std::collections::BTreeMap;

use hetra_ir::{Graph, Node, Type, ValueId};
use hetra_tensor::DType;

/// Operators whose first two inputs are multiplied with each other.
const PRODUCTS: [&str; 4] = ["Conv", "ConvTranspose", "Gemm", "MatMul"];

/// The same graph, bodies aside, with the operands of products rounded to `number`: `f32` rounds
/// nothing; `f16` and `bf16` each element; `i8` to codes of 8 bits over the range of the tensor as
/// it is in the run.
///
/// # Errors
/// Any other number.
pub fn rounded(graph: &Graph, number: &str) -> Result<Graph, String> {
    let way = match number {
        "f32" => return Ok(graph.clone()),
        "f16" => Way::Cast(DType::F16),
        "bf16" => Way::Cast(DType::BF16),
        "i8" => Way::Codes,
        _ => return Err(format!("rounding to {number} is not simulated: f32, f16, bf16, i8 are")),
    };
    let mut result = graph.clone();
    let mut known = BTreeMap::new();
    for mut node in std::mem::take(&mut result.nodes) {
        if PRODUCTS.contains(&node.op.as_str()) {
            for operand in node.inputs.iter_mut().take(2).flatten() {
                if graph.ty(*operand).dtype() == Some(DType::F32) {
                    let made = known.get(operand).copied();
                    let made = made.unwrap_or_else(|| way.apply(&mut result, *operand));
                    known.insert(*operand, made);
                    *operand = made;
                }
            }
        }
        result.nodes.push(node);
    }
    Ok(result)
}

#[derive(Clone, Copy)]
enum Way {
    Cast(DType),
    Codes,
}

impl Way {
    /// Adds the nodes that round a value, and gives what they make.
    fn apply(self, graph: &mut Graph, value: ValueId) -> ValueId {
        let ty = graph.ty(value).clone();
        let mut fresh = |ty: Type| graph.add_value("", ty);
        match self {
            Way::Cast(dtype) => {
                let (low, wide) = (fresh(Type::Unknown), fresh(ty));
                let cast = |from, into, dtype: DType| {
                    Node::new("Cast", &[from], &[into]).with("to", i64::from(dtype.onnx()))
                };
                graph.nodes.push(cast(value, low, dtype));
                graph.nodes.push(cast(low, wide, DType::F32));
                wide
            }
            Way::Codes => {
                let [codes, scale, zero] = [(); 3].map(|()| fresh(Type::Unknown));
                let wide = fresh(ty);
                let quantise = Node::new("DynamicQuantizeLinear", &[value], &[codes, scale, zero]);
                graph.nodes.push(quantise);
                let real = Node::new("DequantizeLinear", &[codes, scale, zero], &[wide]);
                graph.nodes.push(real);
                wide
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hetra_ops::interpret;
    use hetra_tensor::{Tensor, Value};

    use super::*;

    #[test]
    fn operands_are_rounded_once() {
        let graph = hetra_ir::parse(
            "graph \"g\" (%x: f32[1,2], %w: f32[2,1]) {
               %y = MatMul(%x, %w)
               %z = MatMul(%x, %w)
               %s = Add(%y, %z)
               return (%s)
             }",
        );
        let graph = graph.unwrap();
        let run = |number: &str| {
            let rounded = rounded(&graph, number).unwrap();
            let x = Value::from(Tensor::from_slice(&[1, 2], &[1.000_9f32, -0.5]).unwrap());
            let w = Value::from(Tensor::from_slice(&[2, 1], &[1f32, 0.0]).unwrap());
            let outputs = interpret(&rounded, vec![x, w], &|_| None).unwrap();
            (rounded.nodes.len(), outputs[0].as_tensor().unwrap().as_slice::<f32>().unwrap()[0])
        };
        assert_eq!(run("f32"), (3, 2.0018));
        // Ten bits behind the point, seven, and codes in steps of 1.5009 / 255.
        let near = |(nodes, got): (usize, f32), wanted: f32| {
            assert_eq!(nodes, 7);
            assert!((got - wanted).abs() < 1e-6, "{got}");
        };
        near(run("f16"), 2.0 * (1.0 + 1.0 / 1024.0));
        near(run("bf16"), 2.0);
        near(run("i8"), 2.0 * 170.0 * (1.500_9 / 255.0));
        assert!(rounded(&graph, "i4").unwrap_err().contains("is not simulated"));
    }
}
