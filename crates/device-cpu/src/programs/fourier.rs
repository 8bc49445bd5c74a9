//! Fourier transforms: the plan of the last length is kept.

use std::sync::{Arc, Mutex, PoisonError};

use hetra_device::{Call, Part, Program};
use hetra_ir::Node;
use hetra_ops::{DftForm, StftForm};
use hetra_tensor::{DType, Tensor};

use super::{Compile, Outcome, one, program};
use hetra_cpu_rows::fourier::Plan;

pub(super) static OPS: &[(&str, Compile)] = &[("DFT", compile_dft), ("STFT", compile_stft)];

/// Most points of a transform: each task holds a few numbers for each. The reference has a bound
/// on its time.
const POINTS_MAX: usize = 1 << 20;

/// The plan of the last run.
#[derive(Default)]
struct Kept(Mutex<Option<Plan>>);

impl Kept {
    fn plan(&self, length: usize, inverse: bool) -> Plan {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(plan) if plan.length() == length && plan.inverse() == inverse => plan.clone(),
            _ => kept.insert(Plan::new(length, inverse)).clone(),
        }
    }
}

fn compile_dft(_: &Part<'_>, _: &Node) -> Option<Arc<dyn Program>> {
    let kept = Kept::default();
    program("fft", move |call| run_dft(call, &kept))
}

fn run_dft(call: &mut Call<'_>, kept: &Kept) -> Outcome {
    let x = call.tensor(0)?.clone();
    let form = DftForm::of(&call.context())?;
    if x.dtype() != DType::F32 || x.is_empty() || form.length > POINTS_MAX {
        return Ok(None);
    }
    let DftForm { outer, signal, inner, parts, length, bins, inverse, .. } = form;
    let values = x.as_slice::<f32>()?;
    let mut out = call.output(0, DType::F32, &form.shape)?;
    let plan = kept.plan(length, inverse);
    plan.run(
        [outer, bins, inner],
        |block, rest, line| {
            for (index, point) in line.iter_mut().take(signal).enumerate() {
                let at = ((block * signal + index) * inner + rest) * parts;
                point.re = f64::from(values[at]);
                point.im = if parts == 2 { f64::from(values[at + 1]) } else { 0.0 };
            }
        },
        out.as_mut_slice()?,
    );
    one(out)
}

fn compile_stft(_: &Part<'_>, _: &Node) -> Option<Arc<dyn Program>> {
    let kept = Kept::default();
    program("fft", move |call| run_stft(call, &kept))
}

fn run_stft(call: &mut Call<'_>, kept: &Kept) -> Outcome {
    let (x, window) = (call.tensor(0)?.clone(), call.tensor_opt(2).cloned());
    let form = StftForm::of(&call.context())?;
    let floats = [Some(&x), window.as_ref()];
    if floats.into_iter().flatten().any(|t| t.dtype() != DType::F32) || form.length > POINTS_MAX {
        return Ok(None);
    }
    let StftForm { batch, signal, parts, frames, step, length, bins, .. } = form;
    let values = x.as_slice::<f32>()?;
    let window = window.as_ref().map(Tensor::as_slice::<f32>).transpose()?;
    let mut out = call.output(0, DType::F32, &form.shape)?;
    let plan = kept.plan(length, false);
    plan.run(
        [batch * frames, bins, 1],
        |frame, _, line| {
            let first = frame / frames * signal + frame % frames * step;
            // Past the end of a short window the weight is 0.
            let taken = window.map_or(length, |window| window.len().min(length));
            for (index, point) in line.iter_mut().take(taken).enumerate() {
                let at = (first + index) * parts;
                let weight = window.map_or(1.0, |window| f64::from(window[index]));
                point.re = f64::from(values[at]) * weight;
                point.im = if parts == 2 { f64::from(values[at + 1]) * weight } else { 0.0 };
            }
        },
        out.as_mut_slice()?,
    );
    one(out)
}
