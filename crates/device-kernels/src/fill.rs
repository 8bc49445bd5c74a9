//! Tensors of one number.

use hetra_device::Part;
use hetra_ir::Node;
use hetra_kernel::{Scalar, kernel};
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
        let scalar = form.gpu.scalar(value.map_or(DType::F32, |value| value.dtype()));
        scalar.is_some_and(|scalar| scalar != Scalar::F16)
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

fn compile(gpu: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let value = match node.attrs.tensor_opt("value").ok()? {
        Some(value) => value.clone(),
        None => Tensor::zeros(DType::F32, &[1]).ok()?,
    };
    let bytes = bytes_of(&value, gpu.limits().f16)?;
    let &[a, b, c, d] = &bytes[..] else { return None };
    let (word, dtype) = (u32::from_le_bytes([a, b, c, d]), value.dtype());
    Some(Box::new(move |run| filled(run, dtype, word)))
}

fn filled(run: &Run<'_, '_>, dtype: DType, word: u32) -> Outcome {
    let shape = run.numbers(0)?.ok_or(Stop::Host)?;
    let extent = |extent: i64| usize::try_from(extent).map_err(|_| Stop::Host);
    let shape: Vec<usize> = shape.into_iter().map(extent).collect::<Result<_, _>>()?;
    let out = run.gpu.room(dtype, &shape)?;
    let kernel = run.gpu.kernel("fill", || fill::with(&[]))?;
    let args = [A::U(out.count()), A::U(word as usize), A::W(&out)];
    run.gpu.line(&kernel, out.count(), &args)?;
    Ok(smallvec![out])
}
