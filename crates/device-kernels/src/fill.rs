//! Tensors of one number.

use hetra_device::Part;
use hetra_ir::Node;
use hetra_kernel::{f16, kernel};
use hetra_tensor::{DType, Tensor};
use smallvec::smallvec;

use crate::context::{A, Gpu, Outcome, Run, Stop};
use crate::program::Work;
use crate::stored::bytes_of;
use crate::table::{Form, Row};

pub(crate) const ROWS: &[Row] = &[Row {
    ops: &["ConstantOfShape"],
    kernel: "fill",
    on_device: &[],
    takes: |form: &Form<'_>| {
        let Ok(value) = form.node.attrs.tensor_opt("value") else { return false };
        form.gpu.scalar(value.map_or(DType::F32, |value| value.dtype())).is_some()
    },
    compile,
}];

#[kernel(group = [64])]
fn fill(n: u32, word: u32, y: &mut [u32]) {
    let i = global_id(0);
    if i < n {
        y[i] = word;
    }
}

#[kernel(group = [64])]
fn fill_halves(n: u32, value: f32, y: &mut [f16]) {
    let i = global_id(0);
    if i < n {
        y[i] = value as f16;
    }
}

/// The element, as a kernel is given it.
#[derive(Clone, Copy)]
enum Element {
    Word(u32),
    Half(f32),
}

fn compile(gpu: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let value = match node.attrs.tensor_opt("value").ok()? {
        Some(value) => value.clone(),
        None => Tensor::zeros(DType::F32, &[1]).ok()?,
    };
    let bytes = bytes_of(&value, gpu.limits().f16)?;
    let element = match bytes[..] {
        [a, b, c, d] => Element::Word(u32::from_le_bytes([a, b, c, d])),
        [a, b] => Element::Half(f16::from_le_bytes([a, b]).into()),
        _ => return None,
    };
    let dtype = value.dtype();
    Some(Box::new(move |run| filled(run, dtype, element)))
}

fn filled(run: &Run<'_, '_>, dtype: DType, element: Element) -> Outcome {
    let shape = run.numbers(0)?.ok_or(Stop::Host)?;
    let extent = |extent: i64| usize::try_from(extent).map_err(|_| Stop::Host);
    let shape: Vec<usize> = shape.into_iter().map(extent).collect::<Result<_, _>>()?;
    let out = run.gpu.room(dtype, &shape)?;
    let (kernel, value) = match element {
        Element::Word(word) => (run.gpu.kernel("fill", || fill::with(&[]))?, A::U(word as usize)),
        Element::Half(value) => {
            (run.gpu.kernel("fill_halves", || fill_halves::with(&[]))?, A::F(value))
        }
    };
    run.gpu.line(&kernel, out.count(), &[A::U(out.count()), value, A::W(&out)])?;
    Ok(smallvec![out])
}
