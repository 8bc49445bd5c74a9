//! What a model is known by.

use hetra_ir::{Attr, Graph};
use hetra_tensor::Value;
use sha2::{Digest, Sha256};

/// `sha256` of a graph: its nodes and types as the text form has them, and all of its constants.
pub(crate) fn of(graph: &Graph) -> String {
    let mut hash = Sha256::new();
    add(graph, &mut hash);
    let bytes = hash.finalize();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn add(graph: &Graph, hash: &mut Sha256) {
    hash.update(hetra_ir::outline(graph).as_bytes());
    for (id, value) in &graph.constants {
        hash.update(id.0.to_le_bytes());
        constant(value, hash);
    }
    for node in &graph.nodes {
        for attr in node.attrs.0.values() {
            if let Attr::Tensor(tensor) = attr {
                constant(&Value::from(tensor.clone()), hash);
            }
        }
        node.attrs.graphs().for_each(|(_, body)| add(body, hash));
    }
}

fn constant(value: &Value, hash: &mut Sha256) {
    hash.update(value.describe().as_bytes());
    if let Some(tensor) = value.as_tensor() {
        match tensor.as_strings() {
            Ok(texts) => texts.iter().for_each(|text| {
                hash.update(text.len().to_le_bytes());
                hash.update(text.as_bytes());
            }),
            Err(_) => hash.update(tensor.bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use hetra_ir::Builder;
    use hetra_tensor::{DType, Tensor};

    use super::*;

    #[test]
    fn weights_and_operators_tell() {
        let graph = |weight: f32, op: &str| {
            let mut b = Builder::new("g");
            let x = b.input("x", DType::F32, vec![2usize.into()]);
            let w = b.constant("w", Tensor::vector(&[weight, 1.0]));
            let y = b.op(op, &[x, w]);
            b.output(y);
            b.finish()
        };
        let of = |weight: f32, op: &str| of(&graph(weight, op));
        assert_eq!(of(1.0, "Mul"), of(1.0, "Mul"));
        assert_ne!(of(1.0, "Mul"), of(1.5, "Mul"));
        assert_ne!(of(1.0, "Mul"), of(1.0, "Add"));
    }
}
