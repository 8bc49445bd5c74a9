//! Patches of pictures.

use std::sync::Arc;

use hetra_cpu_rows::warp::{Warp, warp};
use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::WarpForm;
use hetra_tensor::DType;

use super::{Compile, Form, Outcome, one, program};

pub(super) static OPS: &[(&str, Compile)] = &[("hetra.Warp", compile)];

pub(super) fn takes(form: &Form<'_>) -> bool {
    form.may_be(0, &[DType::U8]) && form.may_be(1, &[DType::F32]) && form.may_be(2, &[DType::I64])
}

fn compile(_: &Part<'_>, node: &Node) -> Option<Arc<dyn Program>> {
    let form = WarpForm::of(&node.attrs).ok()?;
    program("warp", move |call| run(&form, call))
}

fn run(form: &WarpForm, call: &mut Call<'_>) -> Outcome {
    let (picture, maps) = (call.tensor(0)?.clone(), call.tensor(1)?.clone());
    let (&[height, width, 3], &[count, 2, 3]) = (picture.shape(), maps.shape()) else {
        return Ok(None);
    };
    if (picture.dtype(), maps.dtype()) != (DType::U8, DType::F32) || height == 0 || width == 0 {
        return Ok(None);
    }
    let [h, w] = match call.tensor_opt(2) {
        None => form.size,
        Some(size) => match size.as_slice::<i64>().map(WarpForm::sides) {
            Ok(Ok(size)) => size,
            _ => return Ok(None),
        },
    };
    let mut out = call.output(0, DType::F32, &[count, 3, h, w])?;
    let p = Warp {
        pixels: picture.as_slice()?,
        picture: (height, width),
        size: (h, w),
        mean: form.mean,
        scale: form.scale,
        channels: [0, 1, 2].map(|channel| form.channel(channel)),
        fill: form.fill,
    };
    warp(&p, maps.as_slice()?, out.as_mut_slice()?);
    one(out)
}
