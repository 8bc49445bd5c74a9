//! Normalisations: of rows, of channels and of groups of channels. A row is a run of elements that
//! have a mean and a deviation; an item has a row, or a group has one (`rows_shared.rs`).

use hetra_device::Part;
use hetra_ir::Node;
use hetra_kernel::kernel;
use hetra_ops::{LayerNormForm, resolve_axis};
use hetra_tensor::{DType, Tensor};
use smallvec::smallvec;

use crate::context::{A, Gpu, Outcome, Run, Stop};
use crate::elementwise::operate;
use crate::program::Work;
use crate::reduce::{Way, over_axes};
use crate::rows::{ROW_MAX, product, rows_of};
use crate::rows_shared::{self, factor_of};
use crate::stored::Stored;
use crate::table::{Form, Row};

/// A row of the table: what all of them have in common is said here.
const fn row(
    ops: &'static [&'static str],
    on_device: &'static [usize],
    takes: fn(&Form<'_>) -> bool,
    compile: fn(&Gpu, &Part<'_>, &Node) -> Option<Work>,
) -> Row {
    Row { ops, kernel: "norm", on_device, takes, compile }
}

pub(crate) const ROWS: &[Row] = &[
    row(
        &["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"],
        &[0, 1, 2],
        |form| {
            let one = form.node.output(1).is_none() && form.node.output(2).is_none();
            one && (0..3).all(|index| form.is_f32(index))
        },
        compile_layer_norm,
    ),
    row(
        &["com.microsoft.SkipLayerNormalization", "com.microsoft.SkipSimplifiedLayerNormalization"],
        &[0, 1, 2, 3, 4],
        |form| {
            let one = (1..4).all(|index| form.node.output(index).is_none());
            one && (0..5).all(|index| form.is_f32(index))
        },
        compile_skip,
    ),
    row(
        &["InstanceNormalization", "GroupNormalization"],
        &[0, 1, 2],
        |form| (0..3).all(|index| form.is_f32(index)),
        compile_channels,
    ),
    row(&["LpNormalization"], &[0], |form| form.is_f32(0), compile_lp),
    row(&["MeanVarianceNormalization"], &[0], |form| form.is_f32(0), compile_mean_variance),
];

/// Elements `i` of row `r` has number `(r * length + i) / per % factors` of the scale and the bias:
/// one for each element of a row, or for each channel.
#[kernel(group = [64])]
fn norm(
    rows: u32,
    length: u32,
    per: u32,
    factors: u32,
    epsilon: f32,
    centred: u32,
    has_bias: u32,
    x: &[f32],
    scale: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let row = global_id(0);
    if row >= rows {
        return;
    }
    let from = row * length;
    // Sums of few numbers, added up in turn, keep their digits.
    let mut sum = 0.0;
    for block in (0..length).step_by(64) {
        let mut part = 0.0;
        let end = (length - block).min(64);
        for i in 0..end {
            part += x[from + block + i];
        }
        sum += part;
    }
    let mean = if centred != 0 { sum / (length as f32) } else { 0.0 };
    let mut squares = 0.0;
    let mut off_mean = 0.0;
    for block in (0..length).step_by(64) {
        let mut part = 0.0;
        let mut off_part = 0.0;
        let end = (length - block).min(64);
        for i in 0..end {
            let off = x[from + block + i] - mean;
            off_part += off;
            part += off * off;
        }
        squares += part;
        off_mean += off_part;
    }
    // What the mean lost to rounding, of rows that hardly differ in themselves.
    let drift = if centred != 0 { off_mean / (length as f32) } else { 0.0 };
    let variance = squares / (length as f32) - drift * drift;
    let factor = 1.0 / (variance + epsilon).sqrt();
    for i in 0..length {
        let of = factor_of(from + i, per, factors);
        let mut value = ((x[from + i] - mean) - drift) * factor * scale[of];
        if has_bias != 0 {
            value += bias[of];
        }
        y[from + i] = value;
    }
}

/// Rows that are normalised.
struct Norm {
    rows: usize,
    length: usize,
    /// Neighbours that have a factor.
    per: usize,
    /// Factors before they repeat.
    factors: usize,
    epsilon: f32,
    centred: bool,
}

impl Norm {
    fn apply(
        &self,
        run: &Run<'_, '_>,
        x: &Stored,
        scale: &Stored,
        bias: Option<&Stored>,
    ) -> Outcome {
        let limits = run.gpu.limits();
        let together = rows_shared::pays(limits, self.rows, self.length, 1);
        if self.length > ROW_MAX && !together {
            return self.of_long_rows(run, x, scale, bias);
        }
        let out = rows_of(run, x, &x.shape)?;
        let args = [
            A::U(self.rows),
            A::U(self.length),
            A::U(self.per),
            A::U(self.factors),
            A::F(self.epsilon),
            A::U(usize::from(self.centred)),
            A::U(usize::from(bias.is_some())),
            A::M(x),
            A::M(scale),
            A::M(bias.unwrap_or(scale)),
            A::M(&out),
        ];
        if together {
            let make = || rows_shared::norm::with(&rows_shared::CONSTANTS);
            let kernel = run.gpu.kernel("norm shared", make)?;
            run.gpu.launch(&kernel, [self.rows, 1, 1], &args[1..])?;
        } else {
            let kernel = run.gpu.kernel("norm", || norm::with(&[]))?;
            run.gpu.line(&kernel, self.rows, &args)?;
        }
        Ok(smallvec![out.clone()])
    }

    /// Rows that are long for an item: by reductions in parts.
    fn of_long_rows(
        &self,
        run: &Run<'_, '_>,
        x: &Stored,
        scale: &Stored,
        bias: Option<&Stored>,
    ) -> Outcome {
        let rows = x.reshaped(&[self.rows, self.length]);
        let over = |of: &Stored, way: Way| over_axes(run, of, &[false, true], way);
        let off = match self.centred {
            true => operate(run.gpu, "Sub", &[&rows, &over(&rows, Way::Mean)?])?,
            false => rows,
        };
        let epsilon = run.gpu.place(&Tensor::scalar(self.epsilon))?;
        let variance = operate(run.gpu, "Add", &[&over(&off, Way::MeanSquare)?, &epsilon])?;
        let deviation = operate(run.gpu, "Sqrt", &[&variance])?;
        let normal = operate(run.gpu, "Div", &[&off, &deviation])?;
        // The factors repeat, each of them for neighbours.
        let repeats = x.count() / (self.factors * self.per);
        let normal = normal.reshaped(&[repeats, self.factors, self.per]);
        let factors = |of: &Stored| of.reshaped(&[self.factors, 1]);
        let mut result = operate(run.gpu, "Mul", &[&normal, &factors(scale)])?;
        if let Some(bias) = bias {
            result = operate(run.gpu, "Add", &[&result, &factors(bias)])?;
        }
        Ok(smallvec![result.reshaped(&x.shape)])
    }
}

fn floats<'a>(all: impl IntoIterator<Item = &'a Stored>) -> Result<(), Stop> {
    match all.into_iter().all(|of| of.dtype == DType::F32) {
        true => Ok(()),
        false => Err(Stop::Host),
    }
}

fn compile_layer_norm(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let node = node.clone();
    Some(Box::new(move |run| {
        let (x, scale, bias) = (run.input(0)?, run.input(1)?, run.optional(2)?);
        let form = LayerNormForm::resolve(&node.attrs, &x.shape)?;
        floats([&scale].into_iter().chain(&bias))?;
        let fits = |of: &Stored| form.is_row(&x.shape, &of.shape);
        if !fits(&scale) || !bias.as_ref().is_none_or(fits) {
            return Err(Stop::Host);
        }
        let LayerNormForm { rows, length, epsilon, .. } = form;
        let centred = node.op == "LayerNormalization";
        let norm = Norm { rows, length, per: 1, factors: length, epsilon, centred };
        norm.apply(run, &x, &scale, bias.as_ref())
    }))
}

/// Inputs: x, skip, scale, bias (not in the simplified form), bias of the sum.
fn compile_skip(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let centred = node.op == "com.microsoft.SkipLayerNormalization";
    let epsilon = node.attrs.float_or("epsilon", 1e-12).ok()?;
    Some(Box::new(move |run| {
        let (x, skip, scale) = (run.input(0)?, run.input(1)?, run.input(2)?);
        let (bias, more) = match centred {
            true => (run.optional(3)?, run.optional(4)?),
            false => (None, run.optional(3)?),
        };
        let length = x.shape.last().copied().unwrap_or(0);
        floats([&x, &skip, &scale].into_iter().chain(&bias).chain(&more))?;
        let mut factors = [&scale].into_iter().chain(&bias).chain(&more);
        if x.count() == 0 || skip.shape != x.shape || !factors.all(|of| of.count() == length) {
            return Err(Stop::Host);
        }
        let mut sum = operate(run.gpu, "Add", &[&x, &skip])?;
        if let Some(more) = &more {
            sum = operate(run.gpu, "Add", &[&sum, &more.reshaped(&[length])])?;
        }
        let rows = x.count() / length;
        let norm = Norm { rows, length, per: 1, factors: length, epsilon, centred };
        norm.apply(run, &sum, &scale, bias.as_ref())
    }))
}

/// Channels of an (N, C, ..) tensor, each by itself or in groups.
fn compile_channels(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let epsilon = node.attrs.float_or("epsilon", 1e-5).ok()?;
    let groups = match node.op.as_str() {
        "GroupNormalization" => Some(usize::try_from(*node.attrs.int("num_groups").ok()?).ok()?),
        _ => None,
    };
    Some(Box::new(move |run| {
        let (x, scale, bias) = (run.input(0)?, run.input(1)?, run.input(2)?);
        floats([&scale, &bias])?;
        let &[images, channels, ..] = &x.shape[..] else { return Err(Stop::Host) };
        let groups = groups.unwrap_or(channels);
        let fits = [&scale, &bias].iter().all(|of| of.shape[..] == [channels]);
        if !fits || groups == 0 || !channels.is_multiple_of(groups) {
            return Err(Stop::Host);
        }
        let per = product(&x.shape[2..]);
        let length = channels / groups * per;
        let rows = images * groups;
        let norm = Norm { rows, length, per, factors: channels, epsilon, centred: true };
        norm.apply(run, &x, &scale, Some(&bias))
    }))
}

fn compile_lp(_: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let axis = node.attrs.int_or("axis", -1).ok()?;
    let way = match node.attrs.int_or("p", 2).ok()? {
        1 => Way::Sizes,
        2 => Way::Norm,
        _ => return None,
    };
    Some(Box::new(move |run| {
        let x = run.input(0)?;
        let axis = resolve_axis(axis, x.shape.len())?;
        let chosen: Vec<bool> = (0..x.shape.len()).map(|at| at == axis).collect();
        let norm = over_axes(run, &x, &chosen, way)?;
        Ok(smallvec![operate(run.gpu, "Div", &[&x, &norm])?])
    }))
}

fn compile_mean_variance(gpu: &Gpu, _: &Part<'_>, node: &Node) -> Option<Work> {
    let axes = node.attrs.ints_opt("axes").ok()?.map_or(vec![0, 2, 3], Clone::clone);
    // What the specification adds to the deviation.
    let least = gpu.place(&Tensor::scalar(1e-9f32)).ok()?;
    Some(Box::new(move |run| {
        let x = run.input(0)?;
        // Without axes: all of them.
        let mut chosen = vec![axes.is_empty(); x.shape.len()];
        for &axis in &axes {
            chosen[resolve_axis(axis, x.shape.len())?] = true;
        }
        let mean = over_axes(run, &x, &chosen, Way::Mean)?;
        let off = operate(run.gpu, "Sub", &[&x, &mean])?;
        let variance = over_axes(run, &off, &chosen, Way::MeanSquare)?;
        let deviation = operate(run.gpu, "Sqrt", &[&variance])?;
        let deviation = operate(run.gpu, "Add", &[&deviation, &least])?;
        Ok(smallvec![operate(run.gpu, "Div", &[&off, &deviation])?])
    }))
}
