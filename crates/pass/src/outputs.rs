//! What a file declares of its outputs beside what its nodes give.

use hetra_ir::{Dim, Graph, Type};

use crate::infer::infer;

/// An output that is declared as what its nodes do not give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("output `{name}`: the model declares {declared}, its nodes give {inferred}")]
#[allow(missing_docs, reason = "the message says what each field is")]
pub struct OutputError {
    pub name: String,
    pub declared: Type,
    pub inferred: Type,
}

/// The types of the outputs: what follows from the inputs, and what only the file says of it. Of
/// two shapes the inferred one is believed: files declare wrong shapes more often than dtypes.
/// Where the graph contradicts itself the declared types stand, and a run says what is wrong.
///
/// # Errors
/// The first output with another dtype, or of another kind, than declared.
pub fn output_types(graph: &Graph) -> Result<Vec<Type>, OutputError> {
    let inputs: Vec<Type> = graph.inputs.iter().map(|&id| graph.ty(id).clone()).collect();
    let inferred = infer(graph, &inputs, &[]).ok();
    let settle = |&id| {
        let declared = graph.ty(id);
        let Some(inferred) = inferred.as_ref().map(|inferred| &inferred.types[id.index()]) else {
            return Ok(declared.clone());
        };
        if differ(declared, inferred) {
            return Err(OutputError {
                name: graph.value(id).name.clone(),
                declared: declared.clone(),
                inferred: inferred.clone(),
            });
        }
        Ok(described(inferred, declared))
    };
    graph.outputs.iter().map(settle).collect()
}

/// Whether no value is of both types, whatever its shape. An optional may be a bare value.
fn differ(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Tensor(a), Type::Tensor(b)) => a.dtype != b.dtype,
        (Type::Sequence(a), Type::Sequence(b)) | (Type::Optional(a), Type::Optional(b)) => {
            differ(a, b)
        }
        (Type::Optional(a), b) | (b, Type::Optional(a)) => differ(a, b),
        (Type::Unknown, _) | (_, Type::Unknown) => false,
        (Type::Tensor(_), Type::Sequence(_)) | (Type::Sequence(_), Type::Tensor(_)) => true,
    }
}

/// An inferred type with what only the file says of it: users know outputs by that.
pub(crate) fn described(inferred: &Type, declared: &Type) -> Type {
    match (inferred, declared) {
        (Type::Unknown, declared) => declared.clone(),
        (Type::Tensor(a), Type::Tensor(b)) if a.dtype == b.dtype => match (&a.shape, &b.shape) {
            (Some(p), Some(q)) if p.len() == q.len() => {
                let pick = |(p, q): (&Dim, &Dim)| if *p == Dim::Unknown { q } else { p }.clone();
                Type::shaped(a.dtype, p.iter().zip(q).map(pick).collect())
            }
            (None, _) => declared.clone(),
            _ => inferred.clone(),
        },
        _ => inferred.clone(),
    }
}

#[cfg(test)]
mod tests {
    use hetra_ir::Builder;
    use hetra_tensor::DType;

    use super::*;

    /// The type that a graph shows for `y = relu(x)`, declared as `declared`.
    fn relu(declared: Type) -> Result<Type, String> {
        let mut b = Builder::new("g");
        let x = b.input("x", DType::F32, vec![Dim::Sym("n".into()), Dim::Known(2)]);
        let y = b.op("Relu", &[x]);
        b.output(y);
        let mut graph = b.finish();
        graph.values[y.index()].name = "y".to_string();
        graph.values[y.index()].ty = declared;
        let types = output_types(&graph).map_err(|error| error.to_string())?;
        Ok(types[0].clone())
    }

    #[test]
    fn a_wrong_dtype_is_refused_and_a_wrong_shape_is_mended() {
        let given = Type::shaped(DType::F32, vec![Dim::Sym("n".into()), Dim::Known(2)]);
        for declared in [
            given.clone(),
            Type::Unknown,
            Type::unranked(DType::F32),
            Type::ranked(DType::F32, 2),
            Type::tensor(DType::F32, &[7, 3]),
            Type::tensor(DType::F32, &[7]),
        ] {
            assert_eq!(relu(declared.clone()), Ok(given.clone()), "{declared}");
        }
        let refused = |declared: Type| relu(declared).unwrap_err();
        assert_eq!(
            refused(Type::ranked(DType::I64, 1)),
            "output `y`: the model declares i64[?], its nodes give f32[n,2]"
        );
        let seq = Type::Sequence(Box::new(given.clone()));
        assert!(refused(seq.clone()).contains("declares seq<f32[n,2]>"));
        assert!(refused(Type::Optional(Box::new(seq))).contains("declares opt<seq<f32"));
        assert!(relu(Type::Optional(Box::new(given))).is_ok());
    }
}
