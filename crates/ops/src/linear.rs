//! Linear models and the preparation of features of ai.onnx.ml: LinearRegressor,
//! LinearClassifier, Scaler, Normalizer, Imputer, OneHotEncoder, FeatureVectorizer.

use std::collections::HashMap;

use hetra_ir::{Attrs, Dim, Type};
use hetra_tensor::{DType, Tensor, Value, from_f64, to_f64, to_i64};

use crate::context::{EvalCtx, InferCtx, same_shape};
use crate::def::{Arity, OpDef, onnx};
use crate::elementwise::Accepts;
use crate::error::OpError;
use crate::scores::{Labels, Transform};
use crate::trees::reals;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] =
    &[&REGRESSOR, &CLASSIFIER, &SCALER, &NORMALIZER, &IMPUTER, &ONE_HOT, &VECTORIZER];

const DOMAIN: &str = "ai.onnx.ml";

static REGRESSOR: OpDef = OpDef {
    name: "ai.onnx.ml.LinearRegressor",
    doc: "Rows times coefficients, plus intercepts.",
    onnx: &[onnx(DOMAIN, "LinearRegressor", 1)],
    infer: |ctx| Ok(vec![infer_rows(ctx, DType::F32, Some(targets(ctx.attrs())?))?]),
    eval: eval_regressor,
    ..OpDef::DEFAULT
};

static CLASSIFIER: OpDef = OpDef {
    name: "ai.onnx.ml.LinearClassifier",
    doc: "Classes, and their scores, from rows times coefficients plus intercepts.",
    onnx: &[onnx(DOMAIN, "LinearClassifier", 1)],
    outputs: Arity::exactly(2),
    infer: infer_classifier,
    eval: eval_classifier,
    ..OpDef::DEFAULT
};

static SCALER: OpDef = OpDef {
    name: "ai.onnx.ml.Scaler",
    doc: "(x - `offset`) * `scale`, by feature.",
    onnx: &[onnx(DOMAIN, "Scaler", 1)],
    infer: infer_f32,
    eval: eval_scaler,
    ..OpDef::DEFAULT
};

static NORMALIZER: OpDef = OpDef {
    name: "ai.onnx.ml.Normalizer",
    doc: "Rows divided by their largest size, or their L1 or L2 norm.",
    onnx: &[onnx(DOMAIN, "Normalizer", 1)],
    infer: infer_f32,
    eval: eval_normalizer,
    ..OpDef::DEFAULT
};

static IMPUTER: OpDef = OpDef {
    name: "ai.onnx.ml.Imputer",
    doc: "Replaces a value that stands for a missing one, by feature.",
    onnx: &[onnx(DOMAIN, "Imputer", 1)],
    infer: crate::elementwise::infer_number,
    eval: eval_imputer,
    ..OpDef::DEFAULT
};

static ONE_HOT: OpDef = OpDef {
    name: "ai.onnx.ml.OneHotEncoder",
    doc: "A row of zeros with a one at the category, for each element.",
    onnx: &[onnx(DOMAIN, "OneHotEncoder", 1)],
    infer: infer_one_hot,
    eval: eval_one_hot,
    ..OpDef::DEFAULT
};

static VECTORIZER: OpDef = OpDef {
    name: "ai.onnx.ml.FeatureVectorizer",
    doc: "Joins the rows of all inputs, each cut or padded to its length.",
    onnx: &[onnx(DOMAIN, "FeatureVectorizer", 1)],
    inputs: Arity::at_least(1),
    infer: infer_vectorizer,
    eval: eval_vectorizer,
    ..OpDef::DEFAULT
};

fn infer_f32(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    Accepts::Numbers.check(ctx, 0)?;
    same_shape(ctx, DType::F32)
}

/// A row of `columns` per row of the input; a vector counts as one row.
pub(crate) fn infer_rows(
    ctx: &InferCtx<'_>,
    dtype: DType,
    columns: Option<usize>,
) -> Result<Type, OpError> {
    Accepts::Numbers.check(ctx, 0)?;
    let rows = match ctx.dims(0) {
        None => Dim::Unknown,
        Some([_]) => Dim::Known(1),
        Some([rows, _]) => rows.clone(),
        Some(_) => return Err(OpError::input(0, "a matrix", "another rank")),
    };
    let columns = columns.map(Dim::Known);
    Ok(Type::shaped(dtype, std::iter::once(rows).chain(columns).collect()))
}

fn targets(attrs: &Attrs) -> Result<usize, OpError> {
    let targets = usize::try_from(attrs.int_or("targets", 1)?).ok().filter(|&count| count > 0);
    targets.ok_or_else(|| OpError::invalid("`targets` is not positive"))
}

/// Rows, features and elements of an input.
pub(crate) fn matrix(x: &Tensor) -> Result<(usize, usize, Vec<f64>), OpError> {
    Accepts::Numbers.check_tensor(0, x)?;
    match *x.shape() {
        [features] => Ok((1, features, to_f64(x)?)),
        [rows, features] => Ok((rows, features, to_f64(x)?)),
        _ => Err(OpError::input(0, "a matrix", x.describe())),
    }
}

/// Each row times each target's coefficients, plus the intercepts.
fn scores(attrs: &Attrs, x: &Tensor, targets: usize) -> Result<(usize, Vec<f64>), OpError> {
    let (rows, features, values) = matrix(x)?;
    let coefficients = reals(attrs, "coefficients")?;
    if targets.checked_mul(features) != Some(coefficients.len()) {
        let wanted = format!("{} coefficients / {targets} features", coefficients.len());
        return Err(OpError::input(0, wanted, x.describe()));
    }
    let mut intercepts = reals(attrs, "intercepts")?;
    if intercepts.is_empty() {
        intercepts = vec![0.0; targets];
    }
    if intercepts.len() != targets {
        return Err(OpError::invalid("as many intercepts as targets are wanted"));
    }
    let mut out = Tensor::zeros(DType::F64, &[rows, targets])?;
    for (row, slots) in out.as_mut_slice::<f64>()?.chunks_exact_mut(targets).enumerate() {
        let row = &values[row * features..(row + 1) * features];
        for (target, slot) in slots.iter_mut().enumerate() {
            let weights = &coefficients[target * features..(target + 1) * features];
            let products = row.iter().zip(weights).map(|(x, weight)| x * weight);
            *slot = intercepts[target] + products.sum::<f64>();
        }
    }
    Ok((rows, out.as_slice::<f64>()?.to_vec()))
}

fn eval_regressor(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let targets = targets(ctx.attrs())?;
    let transform = Transform::from_name(ctx.attrs().str_or("post_transform", "NONE")?)?;
    let (rows, mut scores) = scores(ctx.attrs(), ctx.tensor(0)?, targets)?;
    scores.chunks_exact_mut(targets).for_each(|row| transform.apply(row));
    Ok(vec![from_f64(DType::F32, &[rows, targets], &scores)?.into()])
}

fn infer_classifier(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let labels = Labels::new(ctx.attrs(), "classlabels_ints")?;
    let mut types = vec![
        infer_rows(ctx, labels.dtype(), None)?,
        infer_rows(ctx, DType::F32, Some(labels.len().max(2)))?,
    ];
    types.truncate(ctx.node.outputs.len());
    Ok(types)
}

fn eval_classifier(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (attrs, x) = (ctx.attrs(), ctx.tensor(0)?);
    let labels = Labels::new(attrs, "classlabels_ints")?;
    let transform = Transform::from_name(attrs.str_or("post_transform", "NONE")?)?;
    let classes = labels.len().max(2);
    let (_, features, _) = matrix(x)?;
    // Two classes may have the coefficients of the second only.
    let one_sided = classes == 2 && reals(attrs, "coefficients")?.len() == features;
    let (rows, mut scores) = scores(attrs, x, if one_sided { 1 } else { classes })?;
    if one_sided {
        scores = scores.into_iter().flat_map(|score| [-score, score]).collect();
    }
    scores.chunks_exact_mut(classes).for_each(|row| transform.apply(row));
    let mut outputs = vec![
        labels.of_rows(&scores, classes)?.into(),
        from_f64(DType::F32, &[rows, classes], &scores)?.into(),
    ];
    outputs.truncate(ctx.node.outputs.len().max(1));
    Ok(outputs)
}

/// The value of each feature, from a list of one for each or one for all.
fn by_feature(list: &[f64], features: usize, name: &str) -> Result<Vec<f64>, OpError> {
    match *list {
        [one] => Ok(vec![one; features]),
        _ if list.len() == features => Ok(list.to_vec()),
        _ => Err(OpError::invalid(format!("`{name}` has {} entries", list.len()))),
    }
}

fn last_extent(x: &Tensor) -> usize {
    x.shape().last().copied().unwrap_or(1)
}

fn eval_scaler(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    Accepts::Numbers.check_tensor(0, x)?;
    let features = last_extent(x);
    let scale = by_feature(&reals(ctx.attrs(), "scale")?, features, "scale")?;
    let offset = by_feature(&reals(ctx.attrs(), "offset")?, features, "offset")?;
    let mut values = to_f64(x)?;
    for row in values.chunks_exact_mut(features.max(1)) {
        for (x, (scale, offset)) in row.iter_mut().zip(scale.iter().zip(&offset)) {
            *x = (*x - offset) * scale;
        }
    }
    Ok(vec![from_f64(DType::F32, x.shape(), &values)?.into()])
}

fn eval_normalizer(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    let (_, features, mut values) = matrix(x)?;
    let norm: fn(&[f64]) -> f64 = match ctx.attrs().str_or("norm", "MAX")? {
        "MAX" => |row| row.iter().fold(0.0, |most, x| x.abs().max(most)),
        "L1" => |row| row.iter().map(|x| x.abs()).sum(),
        "L2" => |row| row.iter().map(|x| x * x).sum::<f64>().sqrt(),
        other => return Err(OpError::invalid(format!("`norm` is `{other}`"))),
    };
    for row in values.chunks_exact_mut(features.max(1)) {
        let size = norm(row).max(1e-30);
        row.iter_mut().for_each(|x| *x /= size);
    }
    Ok(vec![from_f64(DType::F32, x.shape(), &values)?.into()])
}

fn eval_imputer(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (attrs, x) = (ctx.attrs(), ctx.tensor(0)?);
    let (_, features, mut values) = matrix(x)?;
    let (new, old) = match attrs.ints_opt("imputed_value_int64s")? {
        Some(ints) if !ints.is_empty() => {
            let new = ints.iter().map(|&int| int as f64).collect();
            (new, attrs.int_or("replaced_value_int64", 0)? as f64)
        }
        _ => {
            let old = f64::from(attrs.float_or("replaced_value_float", 0.0)?);
            (reals(attrs, "imputed_value_floats")?, old)
        }
    };
    let new = by_feature(&new, features, "imputed_value")?;
    for row in values.chunks_exact_mut(features.max(1)) {
        for (x, new) in row.iter_mut().zip(&new) {
            if *x == old || x.is_nan() && old.is_nan() {
                *x = *new;
            }
        }
    }
    Ok(vec![from_f64(x.dtype(), x.shape(), &values)?.into()])
}

fn categories(attrs: &Attrs) -> Result<usize, OpError> {
    let ints = attrs.ints_opt("cats_int64s")?.map_or(0, Vec::len);
    let texts = attrs.strs_opt("cats_strings")?.map_or(0, Vec::len);
    match ints.max(texts) {
        0 => Err(OpError::invalid("there are no categories")),
        count => Ok(count),
    }
}

fn infer_one_hot(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let count = categories(ctx.attrs())?;
    let dims = ctx.dims(0).map(|dims| [dims, &[Dim::Known(count)]].concat());
    Ok(vec![InferCtx::make(Some(DType::F32), dims)])
}

fn eval_one_hot(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (attrs, x) = (ctx.attrs(), ctx.tensor(0)?);
    let count = categories(attrs)?;
    let found: Vec<Option<usize>> = if x.dtype() == DType::String {
        let names: HashMap<&str, usize> =
            attrs.strs("cats_strings")?.iter().map(String::as_str).zip(0..).collect();
        x.as_strings()?.iter().map(|text| names.get(text.as_str()).copied()).collect()
    } else {
        let numbers: HashMap<i64, usize> =
            attrs.ints("cats_int64s")?.iter().copied().zip(0..).collect();
        to_i64(x)?.iter().map(|number| numbers.get(number).copied()).collect()
    };
    if !attrs.flag_or("zeros", true)? && found.contains(&None) {
        return Err(OpError::input(0, "a category", "an element that is none"));
    }
    let mut out = Tensor::zeros(DType::F32, &[x.shape(), &[count]].concat())?;
    for (row, found) in out.as_mut_slice::<f32>()?.chunks_exact_mut(count).zip(found) {
        if let Some(slot) = found.and_then(|at| row.get_mut(at)) {
            *slot = 1.0;
        }
    }
    Ok(vec![out.into()])
}

/// The length that each input is cut or padded to.
fn lengths(attrs: &Attrs, inputs: usize) -> Result<Vec<usize>, OpError> {
    let list = attrs.ints("inputdimensions")?;
    let lengths: Option<Vec<usize>> =
        list.iter().map(|&length| usize::try_from(length).ok()).collect();
    let lengths = lengths.filter(|lengths| lengths.len() == inputs);
    lengths.ok_or_else(|| OpError::invalid("`inputdimensions` does not fit the inputs"))
}

fn infer_vectorizer(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let columns = lengths(ctx.attrs(), ctx.len())?;
    let columns = columns.iter().try_fold(0usize, |sum, &length| sum.checked_add(length));
    let rows = match ctx.dims(0) {
        Some([rows] | [rows, _]) => rows.clone(),
        None => Dim::Unknown,
        Some(_) => return Err(OpError::input(0, "a matrix", "another rank")),
    };
    Ok(vec![Type::shaped(DType::F32, vec![rows, columns.map_or(Dim::Unknown, Dim::Known)])])
}

fn eval_vectorizer(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let lengths = lengths(ctx.attrs(), ctx.inputs.len())?;
    let rows = ctx.tensor(0)?.shape().first().copied().unwrap_or(0);
    let columns = lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length));
    let columns = columns.ok_or_else(|| OpError::invalid("`inputdimensions` is too large"))?;
    let mut out = Tensor::zeros(DType::F64, &[rows, columns])?;
    let slots = out.as_mut_slice::<f64>()?;
    let mut start = 0;
    for (index, length) in lengths.into_iter().enumerate() {
        let x = ctx.tensor(index)?;
        Accepts::Numbers.check_tensor(index, x)?;
        let features = match *x.shape() {
            [count] if count == rows => 1,
            [count, features] if count == rows => features,
            _ => return Err(OpError::input(index, format!("{rows} rows"), x.describe())),
        };
        let values = to_f64(x)?;
        let taken = length.min(features);
        for row in 0..rows {
            let source = &values[row * features..][..taken];
            slots[row * columns + start..][..taken].copy_from_slice(source);
        }
        start += length;
    }
    Ok(vec![from_f64(DType::F32, &[rows, columns], out.as_slice::<f64>()?)?.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    fn x() -> Tensor {
        Tensor::from_slice(&[2, 2], &[1f32, -2.0, 3.0, 4.0]).unwrap()
    }

    fn case(op: &str) -> Case {
        Case::new(&format!("ai.onnx.ml.{op}")).tensor(&x())
    }

    #[test]
    fn linear_models() {
        let regressor = case("LinearRegressor").attr("coefficients", vec![1f32, 10.0]);
        let regressor = regressor.attr("intercepts", vec![0.5f32]);
        check(&regressor, 0, &[2, 1], &[-18.5, 43.5]);
        assert!(regressor.attr("targets", 2i64).eval().is_err());
        assert!(regressor.attr("targets", 0i64).eval().is_err());
        let classifier = case("LinearClassifier").attr("coefficients", vec![1f32, 10.0]);
        let classifier = classifier.attr("classlabels_ints", vec![7i64, 8]).outputs(2);
        check(&classifier, 0, &[2], &[7.0, 8.0]);
        check(&classifier, 1, &[2, 2], &[19.0, -19.0, -43.0, 43.0]);
        assert!(classifier.attr("classlabels_ints", vec![7i64, 8, 9]).eval().is_err());
    }

    #[test]
    fn features() {
        let scaler = case("Scaler").attr("scale", vec![2f32]).attr("offset", vec![1f32, 0.0]);
        check(&scaler, 0, &[2, 2], &[0.0, -4.0, 4.0, 8.0]);
        check(&case("Normalizer"), 0, &[2, 2], &[0.5, -1.0, 0.75, 1.0]);
        check(
            &case("Normalizer").attr("norm", "L2"),
            0,
            &[2, 2],
            &[0.447_213_6, -0.894_427_2, 0.6, 0.8],
        );
        let imputer = case("Imputer").attr("imputed_value_floats", vec![9f32]);
        check(&imputer.attr("replaced_value_float", 3f32), 0, &[2, 2], &[1.0, -2.0, 9.0, 4.0]);
        let one_hot = case("OneHotEncoder").attr("cats_int64s", vec![3i64, 1]);
        let wanted = [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
        check(&one_hot, 0, &[2, 2, 2], &wanted);
        assert!(one_hot.attr("zeros", 0i64).eval().is_err());
        let joined = case("FeatureVectorizer").tensor(&Tensor::vector(&[5i64, 6]));
        let joined = joined.attr("inputdimensions", vec![1i64, 2]);
        check(&joined, 0, &[2, 3], &[1.0, 5.0, 0.0, 3.0, 6.0, 0.0]);
        assert!(joined.attr("inputdimensions", vec![1i64, -2]).eval().is_err());
    }
}
