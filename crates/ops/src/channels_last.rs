//! Operators on images that are stored with their channels last: `[N, spatial, C]` in the place of
//! ONNX's `[N, C, spatial]`.
//!
//! ONNX has no such forms; a pass makes them for devices that have kernels for them. Each stands
//! for an operator of the table and means just that, between two transposes: its weights and
//! attributes are the same. So a row here has no rules of its own.

use hetra_ir::{Attrs, Node, Type};
use hetra_tensor::{DType, Rounding, Tensor, Value, cast};

use crate::context::{EvalCtx, InferCtx};
use crate::def::{Arity, Kind, OpDef};
use crate::error::OpError;
use crate::table::find;
use crate::work::Work;

/// An operator of this file, and the one it stands for.
pub struct ChannelsLast {
    /// Its name (`Node::op`).
    pub op: &'static str,
    /// The operators that it can stand for. The first one includes the others.
    pub of: &'static [&'static str],
    /// The inputs that are images; so is the output.
    images: &'static [usize],
}

/// The attribute of a node whose first input has its channels first after all, so that a kernel
/// can turn it while it reads.
pub const FIRST_INPUT_PLAIN: &str = "first_input_plain";

/// The attribute of a node that reckons in f32 with images that may be stored as bf16, and of what
/// its output is stored as. ONNX knows no such nodes: without it, types are as there.
const STORED: &str = "stored";

/// What the output of a node of a form is stored as, f32 or bf16, whatever the images that it
/// reads; `None` where all are of the type that they are reckoned with.
///
/// # Errors
/// For another type.
pub fn stored(attrs: &Attrs) -> Result<Option<DType>, OpError> {
    match attrs.str_or(STORED, "")? {
        "" => Ok(None),
        "f32" => Ok(Some(DType::F32)),
        "bf16" => Ok(Some(DType::BF16)),
        other => Err(OpError::unsupported(format!("images stored as `{other}`"))),
    }
}

/// Says what [`stored`] tells. Other types than f32 and bf16 count as none.
pub fn set_stored(node: &mut Node, dtype: Option<DType>) {
    match dtype {
        Some(DType::BF16) => node.attrs.set(STORED, "bf16"),
        Some(DType::F32) => node.attrs.set(STORED, "f32"),
        _ => drop(node.attrs.take(STORED)),
    }
}

impl ChannelsLast {
    /// The form of an operator with its channels last, if there is one.
    pub fn of(op: &str) -> Option<&'static ChannelsLast> {
        FORMS.iter().find(|form| form.of.contains(&op))
    }

    /// The form of this name.
    pub fn named(op: &str) -> Option<&'static ChannelsLast> {
        FORMS.iter().find(|form| form.op == op)
    }

    /// The inputs of a node that are images with their channels last.
    pub fn images(&self, node: &Node) -> impl Iterator<Item = usize> + use<> {
        let plain = node.attrs.flag_or(FIRST_INPUT_PLAIN, false).unwrap_or(false);
        self.images.iter().copied().filter(move |&index| index > 0 || !plain)
    }

    /// The same node, on images with their channels first.
    pub fn channels_first(&self, node: &Node) -> Node {
        let mut first = Node { op: self.of[0].to_string(), ..node.clone() };
        first.attrs.0.remove(FIRST_INPUT_PLAIN);
        first.attrs.0.remove(STORED);
        first
    }
}

/// The axes of `[N, C, spatial]` in the order in which they are stored with channels last.
pub fn channels_last_perm(rank: usize) -> Vec<usize> {
    (0..rank).map(|axis| if axis == 0 { 0 } else { axis % (rank - 1) + 1 }).collect()
}

/// The axes of `[N, spatial, C]` in the order in which they are stored with channels first.
pub fn channels_first_perm(rank: usize) -> Vec<usize> {
    let mut inverse = vec![0; rank];
    channels_last_perm(rank).into_iter().enumerate().for_each(|(i, axis)| inverse[axis] = i);
    inverse
}

macro_rules! forms {
    ($(
        $name:ident = $op:literal, $doc:literal, $of:expr,
        images $images:expr, inputs $arity:expr, $kind:ident;
    )*) => {
        /// The operators of this file.
        pub(crate) static OPS: &[&OpDef] = &[$(&$name),*];

        static FORMS: &[ChannelsLast] =
            &[$(ChannelsLast { op: $op, of: $of, images: $images }),*];

        $(static $name: OpDef = OpDef {
            name: $op,
            doc: $doc,
            inputs: $arity,
            kind: Kind::$kind,
            infer,
            work,
            eval,
            ..OpDef::DEFAULT
        };)*
    };
}

forms! {
    CONV = "hetra.ConvLast", "FusedConv of images with their channels last.",
        &["com.microsoft.FusedConv", "Conv"], images &[0, 3], inputs Arity::between(2, 4), Heavy;
    MAX_POOL = "hetra.MaxPoolLast", "MaxPool of images with their channels last.",
        &["MaxPool"], images &[0], inputs Arity::exactly(1), Reduce;
    AVERAGE_POOL = "hetra.AveragePoolLast", "AveragePool of images with their channels last.",
        &["AveragePool"], images &[0], inputs Arity::exactly(1), Reduce;
    GLOBAL_AVERAGE = "hetra.GlobalAveragePoolLast",
        "GlobalAveragePool of images with their channels last.",
        &["GlobalAveragePool"], images &[0], inputs Arity::exactly(1), Reduce;
    GLOBAL_MAX = "hetra.GlobalMaxPoolLast", "GlobalMaxPool of images with their channels last.",
        &["GlobalMaxPool"], images &[0], inputs Arity::exactly(1), Reduce;
    QLINEAR_CONV = "hetra.QLinearConvLast", "QLinearConv of images with their channels last.",
        &["QLinearConv"], images &[0], inputs Arity::between(8, 9), Heavy;
    QLINEAR_GLOBAL_AVERAGE = "hetra.QLinearGlobalAveragePoolLast",
        "QLinearGlobalAveragePool of images with their channels last.",
        &["com.microsoft.QLinearGlobalAveragePool"], images &[0], inputs Arity::exactly(5), Reduce;
}

fn form(node: &Node) -> Result<(&'static ChannelsLast, &'static OpDef, Node), OpError> {
    let form = ChannelsLast::named(&node.op).ok_or_else(|| OpError::unsupported("no such form"))?;
    let first = form.channels_first(node);
    let def = find(&first.op).ok_or_else(|| OpError::unsupported("no operator to stand for"))?;
    Ok((form, def, first))
}

/// The type of a value whose axes are put in another order by `perm` of its rank.
fn turned(ty: &Type, perm: fn(usize) -> Vec<usize>) -> Type {
    match (ty.dtype(), ty.dims()) {
        (Some(dtype), Some(dims)) if dims.len() > 1 => {
            let axes = perm(dims.len());
            Type::shaped(dtype, axes.into_iter().map(|axis| dims[axis].clone()).collect())
        }
        _ => ty.clone(),
    }
}

/// Calls `rule` with the context of the operator that this one stands for.
fn first<R>(
    ctx: &InferCtx<'_>,
    rule: impl FnOnce(&OpDef, &InferCtx<'_>) -> R,
) -> Result<R, OpError> {
    let (form, def, node) = form(ctx.node)?;
    let mut inputs = ctx.inputs.to_vec();
    let stored = stored(&ctx.node.attrs)?;
    for index in form.images(ctx.node) {
        if let Some(Some(ty)) = inputs.get_mut(index) {
            *ty = turned(ty, channels_first_perm);
            if stored.is_some() {
                *ty = of_dtype(ty, DType::BF16, DType::F32);
            }
        }
    }
    Ok(rule(def, &InferCtx { node: &node, inputs: &inputs, ..*ctx }))
}

fn infer(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let types = first(ctx, |def, ctx| (def.infer)(ctx))??;
    let mut types: Vec<Type> = types.iter().map(|ty| turned(ty, channels_last_perm)).collect();
    if let (Some(dtype), Some(first)) = (stored(&ctx.node.attrs)?, types.first_mut()) {
        *first = of_dtype(first, DType::F32, dtype);
    }
    Ok(types)
}

/// A type with one element type in the place of another.
fn of_dtype(ty: &Type, from: DType, to: DType) -> Type {
    match (ty.dtype(), ty.dims()) {
        (Some(dtype), Some(dims)) if dtype == from => Type::shaped(to, dims.to_vec()),
        _ => ty.clone(),
    }
}

fn work(ctx: &InferCtx<'_>, outputs: &[Type]) -> Work {
    let outputs: Vec<Type> = outputs.iter().map(|ty| turned(ty, channels_first_perm)).collect();
    first(ctx, |def, ctx| (def.work)(ctx, &outputs)).unwrap_or_default()
}

fn eval(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (form, def, node) = form(ctx.node)?;
    let turned = |tensor: &Tensor, perm: fn(usize) -> Vec<usize>| match tensor.rank() {
        0 | 1 => Ok(tensor.clone()),
        rank => tensor.view().permute(&perm(rank)).and_then(|view| view.to_tensor()),
    };
    let stored = stored(&ctx.node.attrs)?;
    let mut inputs = ctx.inputs.to_vec();
    for index in form.images(ctx.node) {
        if let Some(Some(value)) = inputs.get_mut(index)
            && let Some(tensor) = value.as_tensor()
        {
            let tensor = turned(tensor, channels_first_perm)?;
            *value = match tensor.dtype() {
                DType::BF16 if stored.is_some() => {
                    cast(&tensor, DType::F32, true, Rounding::NearestEven)?.into()
                }
                _ => tensor.into(),
            };
        }
    }
    let values = (def.eval)(&EvalCtx { node: &node, inputs: &inputs, ..*ctx })?;
    let last = |value: &Value| match value.as_tensor() {
        Some(tensor) => {
            let turned = turned(tensor, channels_last_perm)?;
            match stored {
                Some(dtype) if turned.dtype() == DType::F32 => {
                    Ok(cast(&turned, dtype, true, Rounding::NearestEven)?.into())
                }
                _ => Ok(turned.into()),
            }
        }
        None => Ok(value.clone()),
    };
    values.iter().map(last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{floats, iota, node, run};

    #[test]
    fn images_stored_as_bf16_are_reckoned_with_as_f32() {
        let x = floats(&[1, 1, 3, 1], &[1.001, 2.5, -0.3]);
        let w = floats(&[1, 1, 1, 1], &[0.7]);
        let cast = |x: &Tensor, dtype| cast(x, dtype, true, Rounding::NearestEven).unwrap();
        let low = cast(x.as_ref().unwrap(), DType::BF16);
        let wide = Some(cast(&low, DType::F32));
        let plain = run(node("hetra.ConvLast", 2), &[wide, w.clone()]).unwrap().remove(0);
        for dtype in [DType::F32, DType::BF16] {
            let mut conv = node("hetra.ConvLast", 2);
            set_stored(&mut conv, Some(dtype));
            let got = run(conv, &[Some(low.clone()), w.clone()]).unwrap().remove(0);
            assert_eq!(got, cast(&plain, dtype));
        }
        let mut odd = node("hetra.ConvLast", 2);
        odd.attrs.set(STORED, "f16");
        assert!(run(odd, &[x, w]).is_err());
    }

    #[test]
    fn permutations_of_any_rank() {
        assert_eq!(channels_last_perm(4), [0, 2, 3, 1]);
        assert_eq!(channels_first_perm(4), [0, 3, 1, 2]);
        assert_eq!(channels_last_perm(3), [0, 2, 1]);
        assert_eq!(channels_last_perm(2), [0, 1]);
    }

    #[test]
    fn a_form_is_its_operator_between_two_transposes() {
        let x = iota(&[1, 2, 3, 3]);
        let w = floats(&[1, 2, 2, 2], &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]);
        let last = |t: &Option<Tensor>| {
            let t = t.as_ref().unwrap();
            Some(t.view().permute(&channels_last_perm(4)).unwrap().to_tensor().unwrap())
        };
        let wanted = run(node("Conv", 1), &[x.clone(), w.clone()]).unwrap().remove(0);
        let got = run(node("hetra.ConvLast", 1), &[last(&x), w]).unwrap().remove(0);
        assert_eq!(got.shape(), [1, 2, 2, 1]);
        assert_eq!(got.as_slice::<f32>().unwrap(), wanted.as_slice::<f32>().unwrap());
        let mean = run(node("hetra.GlobalAveragePoolLast", 1), &[last(&x)]).unwrap().remove(0);
        assert_eq!(mean.shape(), [1, 1, 1, 2]);
        assert_eq!(mean.as_slice::<f32>().unwrap(), [4.0, 13.0]);
    }

    #[test]
    fn every_form_stands_for_rows_of_the_table() {
        for form in FORMS {
            for op in form.of {
                let def = find(op).unwrap_or_else(|| panic!("no {op}"));
                assert_eq!(def.outputs.min, 1);
            }
        }
    }
}
