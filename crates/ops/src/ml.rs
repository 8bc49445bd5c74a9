//! Tables and features of ai.onnx.ml: LabelEncoder, CategoryMapper, ArrayFeatureExtractor,
//! Binarizer, ZipMap.

use std::collections::HashMap;

use hetra_ir::{Attr, Attrs, Dim, Type};
use hetra_tensor::{DType, Tensor, Value, from_f64, to_f64, to_i64};

use crate::context::{EvalCtx, InferCtx, same_shape};
use crate::def::{Arity, Kind, OpDef, onnx};
use crate::elementwise::{Accepts, infer_number};
use crate::error::OpError;

/// The operators of this file.
pub(crate) static OPS: &[&OpDef] =
    &[&LABEL_ENCODER, &CATEGORY_MAPPER, &ARRAY_FEATURE_EXTRACTOR, &BINARIZER, &ZIP_MAP];

const DOMAIN: &str = "ai.onnx.ml";

static LABEL_ENCODER: OpDef = OpDef {
    name: "ai.onnx.ml.LabelEncoder",
    doc: "Replaces each element by the value that a table has for it.",
    onnx: &[onnx(DOMAIN, "LabelEncoder", 4)],
    infer: infer_label_encoder,
    eval: eval_label_encoder,
    ..OpDef::DEFAULT
};

static CATEGORY_MAPPER: OpDef = OpDef {
    name: "ai.onnx.ml.CategoryMapper",
    doc: "Replaces texts by the numbers that a table has for them, or numbers by texts.",
    onnx: &[onnx(DOMAIN, "CategoryMapper", 1)],
    infer: |ctx| match ctx.dtype_opt(0) {
        None => Ok(vec![Type::Unknown]),
        Some(DType::String) => same_shape(ctx, DType::I64),
        Some(DType::I64) => same_shape(ctx, DType::String),
        Some(other) => Err(OpError::input(0, "texts or i64", other.name())),
    },
    eval: |ctx| {
        let (attrs, x) = (ctx.attrs(), ctx.tensor(0)?);
        let (texts, numbers) = (attrs.strs("cats_strings")?, attrs.ints("cats_int64s")?);
        let texts = Tensor::from_strings(&[texts.len()], texts.clone())?;
        let numbers = Tensor::vector(numbers);
        let (keys, values) = match x.dtype() {
            DType::String => (texts, numbers),
            DType::I64 => (numbers, texts),
            _ => return Err(OpError::input(0, "texts or i64", x.describe())),
        };
        let default = default_of(attrs, &values)?;
        look_up(x, &Table::of(keys, values, default)?)
    },
    ..OpDef::DEFAULT
};

static ZIP_MAP: OpDef = OpDef {
    name: "ai.onnx.ml.ZipMap",
    doc: "A sequence with the values of each row. ONNX has a map in the place of each, from the \
          keys in the attribute to the values, which stand in the order of the keys.",
    onnx: &[onnx(DOMAIN, "ZipMap", 1)],
    infer: |ctx| {
        keys_of_maps(ctx.attrs())?;
        Ok(vec![Type::Sequence(Box::new(InferCtx::make(ctx.dtype_opt(0), None)))])
    },
    eval: |ctx| {
        let (x, keys) = (ctx.tensor(0)?, keys_of_maps(ctx.attrs())?);
        let rows = match *x.shape() {
            [columns] if columns == keys => 1,
            [rows, columns] if columns == keys => rows,
            _ => return Err(OpError::input(0, format!("rows of {keys}"), x.describe())),
        };
        let table = x.reshape(&[rows, keys])?;
        let item = |row| -> Result<Value, OpError> {
            let row = table.view().slice(0, row, 1, 1)?.to_tensor()?;
            Ok(row.reshape(&[keys])?.into())
        };
        Ok(vec![Value::Sequence((0..rows).map(item).collect::<Result<_, _>>()?)])
    },
    ..OpDef::DEFAULT
};

/// How many keys the maps have.
fn keys_of_maps(attrs: &Attrs) -> Result<usize, OpError> {
    let keys = list(attrs, &["classlabels_int64s", "classlabels_strings"])?;
    keys.map(|(_, keys)| keys.len()).ok_or_else(|| OpError::invalid("the maps have no keys"))
}

static ARRAY_FEATURE_EXTRACTOR: OpDef = OpDef {
    name: "ai.onnx.ml.ArrayFeatureExtractor",
    doc: "Takes the given places of the last axis.",
    onnx: &[onnx(DOMAIN, "ArrayFeatureExtractor", 1)],
    inputs: Arity::exactly(2),
    infer: infer_extractor,
    eval: eval_extractor,
    ..OpDef::DEFAULT
};

static BINARIZER: OpDef = OpDef {
    name: "ai.onnx.ml.Binarizer",
    doc: "1 above the threshold, else 0.",
    onnx: &[onnx(DOMAIN, "Binarizer", 1)],
    kind: Kind::Elementwise,
    infer: infer_number,
    eval: |ctx| {
        let x = ctx.tensor(0)?;
        Accepts::Numbers.check_tensor(0, x)?;
        let threshold = f64::from(ctx.attrs().float_or("threshold", 0.0)?);
        let above = |x: f64| f64::from(u8::from(x > threshold));
        let values: Vec<f64> = to_f64(x)?.into_iter().map(above).collect();
        Ok(vec![from_f64(x.dtype(), x.shape(), &values)?.into()])
    },
    ..OpDef::DEFAULT
};

/// A key of a table. Floats by their bits, all NaN being one key, and so both zeros.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Int(i64),
    Float(u64),
    Text(String),
}

fn keys_of(tensor: &Tensor) -> Result<Vec<Key>, OpError> {
    if tensor.dtype() == DType::String {
        return Ok(tensor.as_strings()?.iter().cloned().map(Key::Text).collect());
    }
    if tensor.dtype().is_int() {
        return Ok(to_i64(tensor)?.into_iter().map(Key::Int).collect());
    }
    // Adding 0 turns -0 into 0.
    let bits = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { (x + 0.0).to_bits() };
    Ok(to_f64(tensor)?.into_iter().map(|x| Key::Float(bits(x))).collect())
}

/// A list in an attribute, as a vector.
fn list(attrs: &Attrs, names: &[&str]) -> Result<Option<(usize, Tensor)>, OpError> {
    for (index, name) in names.iter().enumerate() {
        let tensor = match attrs.0.get(*name) {
            None => continue,
            Some(Attr::Ints(values)) => Tensor::vector(values),
            Some(Attr::Floats(values)) => Tensor::vector(values),
            Some(Attr::Strs(values)) => Tensor::from_strings(&[values.len()], values.clone())?,
            Some(Attr::Tensor(tensor)) => tensor.reshape(&[tensor.len()])?,
            Some(_) => return Err(OpError::invalid(format!("`{name}` is not a list"))),
        };
        // An empty list may stand for none.
        if !tensor.is_empty() {
            return Ok(Some((index, tensor)));
        }
    }
    Ok(None)
}

/// Keys, their values, and the value of all other keys.
struct Table {
    keys: Tensor,
    values: Tensor,
    default: Tensor,
}

impl Table {
    /// `input` decides the direction of the oldest form, which only lists strings.
    fn new(attrs: &Attrs, input: DType) -> Result<Table, OpError> {
        if let Some((_, texts)) = list(attrs, &["classes_strings"])? {
            let numbers: Vec<i64> = (0..texts.len() as i64).collect();
            let numbers = Tensor::vector(&numbers);
            let (keys, values) =
                if input == DType::String { (texts, numbers) } else { (numbers, texts) };
            let default = default_of(attrs, &values)?;
            return Ok(Table { keys, values, default });
        }
        let keys = ["keys_tensor", "keys_strings", "keys_int64s", "keys_floats"];
        let values = ["values_tensor", "values_strings", "values_int64s", "values_floats"];
        let (Some((_, keys)), Some((_, values))) = (list(attrs, &keys)?, list(attrs, &values)?)
        else {
            return Err(OpError::invalid("the table has no keys or no values"));
        };
        let default = default_of(attrs, &values)?;
        Table::of(keys, values, default)
    }

    fn of(keys: Tensor, values: Tensor, default: Tensor) -> Result<Table, OpError> {
        match keys.len() == values.len() {
            true => Ok(Table { keys, values, default }),
            false => Err(OpError::invalid("the table has more keys than values, or fewer")),
        }
    }
}

fn default_of(attrs: &Attrs, values: &Tensor) -> Result<Tensor, OpError> {
    let default = match attrs.tensor_opt("default_tensor")? {
        Some(tensor) => tensor.clone(),
        None => match values.dtype() {
            DType::String => {
                let text = attrs.str_or("default_string", "_Unused")?.to_string();
                Tensor::from_strings(&[1], vec![text])?
            }
            dtype if dtype.is_int() => {
                hetra_tensor::from_i64(dtype, &[1], &[attrs.int_or("default_int64", -1)?])?
            }
            dtype => from_f64(dtype, &[1], &[f64::from(attrs.float_or("default_float", -0.0)?)])?,
        },
    };
    match default.len() == 1 && default.dtype() == values.dtype() {
        true => Ok(default),
        false => Err(OpError::invalid(format!("the default is {}", default.describe()))),
    }
}

fn infer_label_encoder(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    let Some(dtype) = ctx.dtype_opt(0) else { return Ok(vec![Type::Unknown]) };
    let table = Table::new(ctx.attrs(), dtype)?;
    if (table.keys.dtype() == DType::String) != (dtype == DType::String) {
        return Err(OpError::input(0, table.keys.dtype().name(), dtype.name()));
    }
    same_shape(ctx, table.values.dtype())
}

fn eval_label_encoder(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let x = ctx.tensor(0)?;
    let table = Table::new(ctx.attrs(), x.dtype())?;
    let class = |dtype: DType| (dtype == DType::String, dtype.is_int());
    if class(x.dtype()) != class(table.keys.dtype()) {
        return Err(OpError::input(0, table.keys.dtype().name(), x.describe()));
    }
    look_up(x, &table)
}

/// The value for each element; of equal keys the last counts.
fn look_up(x: &Tensor, table: &Table) -> Result<Vec<Value>, OpError> {
    let places: HashMap<Key, usize> = keys_of(&table.keys)?.into_iter().zip(0..).collect();
    let picks: Vec<Option<usize>> =
        keys_of(x)?.iter().map(|key| places.get(key).copied()).collect();
    Ok(vec![pick(&table.values, &table.default, x.shape(), &picks)?.into()])
}

/// Elements of `values`, or the default where there is none. The picks are within the values.
fn pick(
    values: &Tensor,
    default: &Tensor,
    shape: &[usize],
    picks: &[Option<usize>],
) -> Result<Tensor, OpError> {
    if values.dtype() == DType::String {
        let (texts, other) = (values.as_strings()?, default.as_strings()?);
        let text = |pick: &Option<usize>| pick.map_or(&other[0], |at| &texts[at]).clone();
        return Ok(Tensor::from_strings(shape, picks.iter().map(text).collect())?);
    }
    let width = values.dtype().bits() / 8;
    if width == 0 {
        return Err(OpError::unsupported(format!("tables of {}", values.dtype())));
    }
    let mut out = Tensor::zeros(values.dtype(), shape)?;
    for (slot, pick) in out.bytes_mut()?.chunks_exact_mut(width).zip(picks) {
        let bytes = pick.map_or(default.bytes(), |at| &values.bytes()[at * width..][..width]);
        slot.copy_from_slice(bytes);
    }
    Ok(out)
}

fn infer_extractor(ctx: &InferCtx<'_>) -> Result<Vec<Type>, OpError> {
    Accepts::Ints.check(ctx, 1)?;
    let places = ctx.dims(1).and_then(|dims| {
        let known: Option<Vec<usize>> = dims.iter().map(Dim::known).collect();
        known?.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent))
    });
    let places = places.map_or(Dim::Unknown, Dim::Known);
    let dims = match ctx.dims(0) {
        None => None,
        Some([]) => return Err(OpError::input(0, "at least one axis", "a scalar")),
        Some([_]) => Some(vec![Dim::Known(1), places]),
        Some([outer @ .., _]) => Some([outer, &[places]].concat()),
    };
    Ok(vec![InferCtx::make(ctx.dtype_opt(0), dims)])
}

fn eval_extractor(ctx: &EvalCtx<'_>) -> Result<Vec<Value>, OpError> {
    let (x, places) = (ctx.tensor(0)?, ctx.ints(1)?);
    let Some((&extent, outer)) = x.shape().split_last() else {
        return Err(OpError::input(0, "at least one axis", x.describe()));
    };
    let place = |&place: &i64| {
        let found = usize::try_from(place).ok().filter(|&place| place < extent);
        found.ok_or_else(|| OpError::input(1, format!("places below {extent}"), place.to_string()))
    };
    let places: Vec<usize> = places.iter().map(place).collect::<Result<_, _>>()?;
    let mut shape = if outer.is_empty() { vec![1] } else { outer.to_vec() };
    shape.push(places.len());
    // Checks the size before the picks are listed.
    Tensor::zeros(DType::I64, &shape)?;
    let rows = x.len().checked_div(extent).unwrap_or(0);
    let picks: Vec<Option<usize>> = (0..rows)
        .flat_map(|row| places.iter().map(move |place| Some(row * extent + place)))
        .collect();
    // Nothing is left out, so that any tensor of the dtype serves as the default.
    Ok(vec![pick(x, x, &shape, &picks)?.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, check};

    fn strings(values: &[&str]) -> Tensor {
        let texts = values.iter().map(ToString::to_string).collect();
        Tensor::from_strings(&[values.len()], texts).unwrap()
    }

    #[test]
    fn labels() {
        let x = strings(&["a", "b", "d"]);
        let names =
            |names: &[&str]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
        let encoder = Case::new("ai.onnx.ml.LabelEncoder");
        let case = encoder.attr("keys_strings", names(&["a", "b", "a"]));
        let case = case.attr("values_int64s", vec![1i64, 2, 3]);
        check(&case.with_input(0, &x), 0, &[3], &[3.0, 2.0, -1.0]);
        assert!(case.with_input(0, &Tensor::vector(&[1i64])).eval().is_err());
        let floats = encoder.attr("keys_floats", vec![f32::NAN, 0.0]);
        let floats = floats.attr("values_tensor", Tensor::vector(&[5i16, 6]));
        assert!(floats.attr("default_tensor", Tensor::vector(&[1i32])).eval().is_err());
        let floats = floats.attr("default_tensor", Tensor::vector(&[9i16]));
        let x = Tensor::vector(&[-0f32, -f32::NAN, 1.0]);
        check(&floats.with_input(0, &x), 0, &[3], &[6.0, 5.0, 9.0]);
        let oldest = encoder.attr("classes_strings", names(&["x", "y"]));
        check(&oldest.with_input(0, &strings(&["y", "z"])), 0, &[2], &[1.0, -1.0]);
        assert!(encoder.with_input(0, &x).eval().is_err());
    }

    #[test]
    fn categories() {
        let names = ["a", "b", "c"].map(str::to_string).to_vec();
        let mapper = Case::new("ai.onnx.ml.CategoryMapper").attr("cats_strings", names);
        let mapper = mapper.attr("cats_int64s", vec![3i64, 1, 3]);
        let numbers = mapper.attr("default_int64", -5i64);
        check(&numbers.with_input(0, &strings(&["a", "c", "z"])), 0, &[3], &[3.0, 3.0, -5.0]);
        let texts = mapper.with_input(0, &Tensor::vector(&[3i64, 1, 7])).eval().unwrap();
        assert_eq!(texts[0].as_tensor().unwrap(), &strings(&["c", "b", "_Unused"]));
        assert!(mapper.with_input(0, &Tensor::vector(&[3i32])).eval().is_err());
        let odd = mapper.attr("cats_int64s", vec![3i64]);
        assert!(odd.with_input(0, &strings(&["a"])).eval().is_err());
    }

    #[test]
    fn maps_are_rows() {
        let x = Tensor::from_slice(&[2, 2], &[0.25f32, 0.75, 1.0, 0.0]).unwrap();
        let zip = Case::new("ai.onnx.ml.ZipMap").attr("classlabels_int64s", vec![7i64, 3]);
        let rows: Vec<Value> =
            [[0.25f32, 0.75], [1.0, 0.0]].map(|row| Value::from(Tensor::vector(&row))).to_vec();
        assert_eq!(zip.with_input(0, &x).eval().unwrap(), [Value::Sequence(rows.clone())]);
        let one = zip.with_input(0, &Tensor::vector(&[0.25f32, 0.75])).eval().unwrap();
        assert_eq!(one, [Value::Sequence(rows[..1].to_vec())]);
        assert!(zip.with_input(0, &Tensor::vector(&[1f32])).eval().is_err());
        let none = zip.attr("classlabels_int64s", Vec::<i64>::new());
        assert!(none.with_input(0, &x).eval().is_err());
    }

    #[test]
    fn features() {
        let x = Tensor::from_slice(&[2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let take = |places: &[i64]| {
            let case = Case::new("ai.onnx.ml.ArrayFeatureExtractor").tensor(&x);
            case.tensor(&Tensor::vector(places))
        };
        check(&take(&[2, 0]), 0, &[2, 2], &[3.0, 1.0, 6.0, 4.0]);
        let flat = take(&[5]).with_input(0, &x.reshape(&[6]).unwrap());
        check(&flat, 0, &[1, 1], &[6.0]);
        assert!(take(&[3]).eval().is_err() && take(&[-1]).eval().is_err());
        let empty = Tensor::zeros(DType::F32, &[2, 0]).unwrap();
        check(&take(&[]).with_input(0, &empty), 0, &[2, 0], &[]);
        let case = Case::new("ai.onnx.ml.Binarizer").tensor(&Tensor::vector(&[1f32, 2.0]));
        check(&case.attr("threshold", 1f32), 0, &[2], &[0.0, 1.0]);
    }
}
