//! What is known of tensors that hold extents, where the extents are symbols.
//!
//! Exporters compute shapes from shapes: `Concat(Slice(Shape(x)), 8)`. With a symbol among the
//! extents of `x` the result is no value that could be folded, but each of its elements is known as
//! a [`Dim`]: those are followed here, as far as the operators only move them.

use hetra_ir::{Dim, Node, Type};
use hetra_tensor::{DType, Tensor, to_f64};

/// What rules may ask about the inputs of a node.
pub(crate) struct Inputs<'a> {
    pub(crate) node: &'a Node,
    pub(crate) types: &'a [Option<Type>],
    pub(crate) known: &'a [Option<Tensor>],
    /// Elements that were followed, of inputs that are not known.
    pub(crate) followed: &'a [Option<Vec<Dim>>],
}

/// Most elements that are followed: more axes than any tensor has.
const ELEMENTS_MAX: usize = 64;

impl Inputs<'_> {
    fn dims(&self, index: usize) -> Option<&[Dim]> {
        self.types.get(index)?.as_ref()?.dims()
    }

    fn ints(&self, index: usize) -> Option<Vec<i64>> {
        let tensor = self.known.get(index)?.as_ref()?;
        let whole = matches!(tensor.dtype(), DType::I32 | DType::I64);
        let values = to_f64(tensor).ok().filter(|_| whole && tensor.len() <= ELEMENTS_MAX)?;
        Some(values.into_iter().map(|value| value as i64).collect())
    }

    /// The elements of an input of at most one axis.
    fn elements(&self, index: usize) -> Option<Vec<Dim>> {
        if let Some(dims) = self.followed.get(index)? {
            return Some(dims.clone());
        }
        let flat = self.known.get(index)?.as_ref()?.rank() <= 1;
        let dim = |value: i64| usize::try_from(value).map_or(Dim::Unknown, Dim::Known);
        Some(self.ints(index).filter(|_| flat)?.into_iter().map(dim).collect())
    }

    /// The elements of the first output, if it is of at most one axis and they are followed.
    pub(crate) fn follow(&self) -> Option<Vec<Dim>> {
        let attrs = &self.node.attrs;
        let elements = match self.node.op.as_str() {
            "Shape" => {
                let dims = self.dims(0)?;
                let rank = dims.len() as i64;
                let start = clamped(attrs.int_or("start", 0).ok()?, rank);
                let end = clamped(attrs.int_or("end", rank).ok()?, rank);
                dims.get(start..end)?.to_vec()
            }
            "Identity" | "Squeeze" | "Unsqueeze" => self.elements(0)?,
            "Cast" => {
                let to = *attrs.int("to").ok()?;
                let whole = [DType::I32, DType::I64].iter().any(|dtype| dtype.onnx() as i64 == to);
                self.elements(0).filter(|_| whole)?
            }
            "Concat" => {
                let parts = (0..self.node.inputs.len()).map(|index| self.elements(index));
                parts.collect::<Option<Vec<_>>>()?.concat()
            }
            "Gather" if attrs.int_or("axis", 0).ok()? == 0 => {
                let (elements, indices) = (self.elements(0)?, self.ints(1)?);
                let at = |&index: &i64| {
                    let from = if index < 0 { elements.len() as i64 } else { 0 };
                    elements.get(usize::try_from(index + from).ok()?).cloned()
                };
                indices.iter().map(at).collect::<Option<Vec<_>>>()?
            }
            "Slice" => {
                let elements = self.elements(0)?;
                let (starts, ends) = (self.ints(1)?, self.ints(2)?);
                let steps = self.node.input(4).is_none() || self.ints(4)? == [1];
                let (&[start], &[end], true) = (&starts[..], &ends[..], steps) else { return None };
                let len = elements.len() as i64;
                elements.get(clamped(start, len)..clamped(end, len))?.to_vec()
            }
            _ => return None,
        };
        (elements.len() <= ELEMENTS_MAX).then_some(elements)
    }

    /// The extents of the first output, where the node makes it by elements that were followed.
    pub(crate) fn shape(&self) -> Option<Vec<Dim>> {
        let wanted = self.followed.get(1)?.as_ref()?;
        match self.node.op.as_str() {
            "Expand" => Some(broadcast(self.dims(0)?, wanted)),
            "Reshape" => {
                let dims = self.dims(0)?;
                // 0 copies an extent: a symbol may be 0, and is what it says if it copies itself.
                let same = |(axis, dim): (usize, &Dim)| match dim {
                    Dim::Known(extent) if *extent > 0 => dim.clone(),
                    _ if dim.symbol().is_some() && dims.get(axis) == Some(dim) => dim.clone(),
                    _ => Dim::Unknown,
                };
                Some(wanted.iter().enumerate().map(same).collect())
            }
            _ => None,
        }
    }
}

/// A place among `len` ones, counted from the end where it is negative.
fn clamped(at: i64, len: i64) -> usize {
    let from = if at < 0 { len } else { 0 };
    usize::try_from(at.saturating_add(from).clamp(0, len)).unwrap_or(0)
}

/// The extents of what is broadcast to another shape; both are made as long as the longer one.
fn broadcast(x: &[Dim], to: &[Dim]) -> Vec<Dim> {
    let rank = x.len().max(to.len());
    let one = Dim::Known(1);
    let at = |dims: &[Dim], axis: usize| {
        (axis + dims.len()).checked_sub(rank).map_or(one.clone(), |axis| dims[axis].clone())
    };
    let axis = |axis: usize| match (at(x, axis), at(to, axis)) {
        (a, b) if b == one || a == b && a.symbol().is_some() => a,
        (a, b) if a == one => b,
        // Where one of them is more than 1, the other one is as many or 1.
        (Dim::Known(extent), _) | (_, Dim::Known(extent)) => Dim::Known(extent),
        _ => Dim::Unknown,
    };
    (0..rank).map(axis).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_symbols_are_broadcast() {
        let dims = |text: &str| -> Vec<Dim> {
            let dim = |word: &str| match word.parse() {
                Ok(extent) => Dim::Known(extent),
                Err(_) if word == "?" => Dim::Unknown,
                Err(_) => Dim::Sym(word.into()),
            };
            text.split(' ').map(dim).collect()
        };
        let check = |x: &str, to: &str, wanted: &str| {
            assert_eq!(broadcast(&dims(x), &dims(to)), dims(wanted), "{x} to {to}");
        };
        check("n 4 1", "n 4 3", "n 4 3");
        check("1 1", "a b c", "a b c");
        check("a b c", "1 1", "a b c");
        check("n", "m", "?");
        check("n 1", "m ?", "? ?");
        check("n 5", "7 m", "7 5");
        check("? 1", "? n", "? n");
    }
}
