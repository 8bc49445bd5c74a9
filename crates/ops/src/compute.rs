//! How exactly a product is computed.
//!
//! Products of large matrices and convolutions may round their operands to a smaller dtype while
//! everything in memory stays f32. ONNX has no word for that: `compute` is an attribute of our own,
//! which a pass sets and an export leaves out.

use std::borrow::Cow;

use hetra_ir::{Attrs, Node, ValueId};
use hetra_tensor::{DType, Element, Rounding, Tensor, cast};

use crate::error::OpError;
use crate::real::elements_as;

/// What the operands of a product of f32 tensors are rounded to. Sums are f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compute {
    /// Nothing: they stay as they are.
    #[default]
    F32,
    /// bf16, to nearest even: both operands, not the bias or the residual.
    Bf16,
}

impl Compute {
    /// The name of the attribute.
    pub const ATTR: &'static str = "compute";

    /// Reads the attribute `compute`: `f32` when it is not there.
    ///
    /// # Errors
    /// For a name that is not known.
    pub fn of(attrs: &Attrs) -> Result<Compute, OpError> {
        match attrs.str_or(Compute::ATTR, "f32")? {
            "f32" => Ok(Compute::F32),
            "bf16" => Ok(Compute::Bf16),
            other => Err(OpError::unsupported(format!("compute `{other}`"))),
        }
    }

    /// Writes the attribute, so that [`Compute::of`] reads it.
    pub fn set(self, node: &mut Node) {
        match self {
            Compute::F32 => drop(node.attrs.take(Compute::ATTR)),
            Compute::Bf16 => node.attrs.set(Compute::ATTR, "bf16"),
        }
    }

    /// The elements of an operand at input `index`, rounded where it is f32.
    pub(crate) fn operand<T: Element>(
        self,
        index: usize,
        tensor: &Tensor,
    ) -> Result<Cow<'_, [T]>, OpError> {
        if self == Compute::F32 || tensor.dtype() != DType::F32 {
            return elements_as(index, tensor);
        }
        let rounded = cast(tensor, DType::BF16, true, Rounding::NearestEven)?;
        Ok(Cow::Owned(elements_as::<T>(index, &rounded)?.into_owned()))
    }
}

/// What a node multiplies, by its attributes and the dtypes of its inputs: f32, bf16, or 8-bit
/// integers, for which u8 stands.
pub fn multiplied(node: &Node, dtype: impl Fn(ValueId) -> Option<DType>) -> DType {
    let bytes = |index: usize| {
        let dtype = node.input(index).and_then(&dtype);
        matches!(dtype, Some(DType::I8 | DType::U8))
    };
    // Weights of few bits are made floats, one by one.
    let dynamic = bytes(1) && node.op != "com.microsoft.MatMulNBits";
    match Compute::of(&node.attrs) {
        Ok(Compute::Bf16) => DType::BF16,
        _ if bytes(0) || dynamic => DType::U8,
        _ => DType::F32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{floats, node, run};

    #[test]
    fn operands_are_rounded_and_sums_are_not() {
        // 1 + 2^-9 is 1 in bf16; the product of the second terms is not one of its numbers.
        let x = floats(&[1, 1, 1, 2], &[1.0 + f32::powi(2.0, -9), 257.0]);
        let w = floats(&[1, 1, 1, 2], &[1.0, 1.0 + f32::powi(2.0, -7)]);
        let rounded = 1.0 + 256.0 * (1.0 + f32::powi(2.0, -7));
        for (op, shape) in [("Conv", &[1, 1, 1, 2][..]), ("MatMul", &[1, 2]), ("Gemm", &[1, 2])] {
            let reshape = |t: &Option<Tensor>, shape: &[usize]| {
                let data = t.as_ref().unwrap().as_slice::<f32>().unwrap();
                floats(shape, data)
            };
            let right = if op == "Conv" { shape.to_vec() } else { vec![2, 1] };
            let inputs = [reshape(&x, shape), reshape(&w, &right)];
            let got = |node: Node| {
                let y = run(node, &inputs).unwrap().remove(0);
                y.as_slice::<f32>().unwrap()[0]
            };
            assert_eq!(got(node(op, 1).with("compute", "bf16")), rounded, "{op}");
            assert_ne!(got(node(op, 1)), rounded, "{op}");
        }
    }

    #[test]
    fn other_names_are_refused() {
        let mut conv = Node::new("Conv", &[], &[]);
        assert_eq!(Compute::of(&conv.attrs).unwrap(), Compute::F32);
        Compute::Bf16.set(&mut conv);
        assert_eq!(Compute::of(&conv.attrs).unwrap(), Compute::Bf16);
        Compute::F32.set(&mut conv);
        assert!(!conv.attrs.has(Compute::ATTR));
        let odd = conv.with("compute", "f7");
        assert!(Compute::of(&odd.attrs).is_err());
    }
}
