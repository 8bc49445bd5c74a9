//! Functions of arrays. Their signatures are in `python/hetra`.

use std::cell::RefCell;

use hetra::array::{Binary, Device, Random, Reduction, Scalar, Unary};
use hetra::{Array, ArrayError, DType};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict, PyList};

use crate::array::{PyArray, combine, no_operand};
use crate::convert::{
    Operand, array_beside, array_of, arrays_of, axes_of, device_of, dtype_of, dtype_or, extents_of,
    operand, scalar_of,
};
use crate::error::of_array;

thread_local! {
    /// Where new arrays go in this thread; the CPU when nobody said.
    static DEFAULT: RefCell<Option<Device>> = const { RefCell::new(None) };
}

/// The default device of this thread.
pub(crate) fn current_device() -> PyResult<Device> {
    match DEFAULT.with_borrow(Clone::clone) {
        Some(device) => Ok(device),
        None => Device::host().map_err(of_array),
    }
}

fn made(result: Result<Array, ArrayError>) -> PyResult<PyArray> {
    result.map(PyArray::new).map_err(of_array)
}

/// The id of the default device.
#[pyfunction]
pub(crate) fn default_device() -> PyResult<String> {
    Ok(current_device()?.id().to_string())
}

/// Sets the default device of this thread; gives the one before.
#[pyfunction]
pub(crate) fn set_default_device(py: Python<'_>, id: &str) -> PyResult<String> {
    let before = default_device()?;
    let device = py.detach(|| Device::named(id)).map_err(of_array)?;
    DEFAULT.set(Some(device));
    Ok(before)
}

/// The id of a device as it calls itself, once it was opened.
#[pyfunction]
pub(crate) fn open_device(py: Python<'_>, id: &str) -> PyResult<String> {
    Ok(py.detach(|| Device::named(id)).map_err(of_array)?.id().to_string())
}

/// Waits until what was launched on a device is done.
#[pyfunction]
pub(crate) fn synchronize(py: Python<'_>, id: &str) -> PyResult<()> {
    py.detach(|| Device::named(id)?.wait()).map_err(of_array)
}

/// What each driver found: dictionaries of what it is, its state and what bounds it.
#[pyfunction]
pub(crate) fn devices(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let list = PyList::empty(py);
    for found in py.detach(hetra::devices) {
        let row = PyDict::new(py);
        row.set_item("id", found.info.id)?;
        row.set_item("name", found.info.name)?;
        row.set_item("driver", found.info.driver)?;
        row.set_item("version", found.info.version)?;
        row.set_item("memory_bytes", found.info.memory_bytes)?;
        row.set_item("features", found.info.features)?;
        row.set_item("software", found.info.software)?;
        row.set_item("dtypes", found.info.dtypes)?;
        row.set_item("subgroup", found.info.subgroup)?;
        let limits = PyDict::new(py);
        for limit in found.info.limits {
            limits.set_item(limit.of, limit.most)?;
        }
        row.set_item("limits", limits)?;
        row.set_item("state", format!("{:?}", found.state).to_lowercase())?;
        row.set_item("hint", found.hint)?;
        list.append(row)?;
    }
    Ok(list)
}

/// Has drivers asked for their devices by this command, with the driver's name behind it.
#[pyfunction]
pub(crate) fn set_prober(command: Vec<std::ffi::OsString>) {
    hetra::probe::set_prober(command);
}

/// What the other process does: prints what a driver finds.
#[pyfunction]
pub(crate) fn tell_devices(driver: &str) -> bool {
    hetra::probe::tell(driver)
}

/// The names of the functions of one and of two arrays; the place of a name is its code.
#[pyfunction]
pub(crate) fn names() -> (Vec<&'static str>, Vec<&'static str>) {
    let one = Unary::ALL.iter().map(|function| function.name());
    let two = Binary::ALL.iter().map(|function| function.name());
    (one.collect(), two.collect())
}

/// A function of one array, by its code.
#[pyfunction]
pub(crate) fn unary(code: usize, x: &Bound<'_, PyAny>) -> PyResult<PyArray> {
    let function = Unary::ALL.get(code).ok_or_else(|| PyValueError::new_err("no such function"))?;
    made(array_of(x)?.unary(*function))
}

/// A function of two arrays, or of an array and a number, by its code.
#[pyfunction]
pub(crate) fn binary(code: usize, a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<PyArray> {
    let function =
        *Binary::ALL.get(code).ok_or_else(|| PyValueError::new_err("no such function"))?;
    let wrong = |of: &Bound<'_, PyAny>| no_operand(function, of);
    match operand(a)? {
        Some(Operand::Scalar(_)) if matches!(operand(b)?, Some(Operand::Array(_))) => {
            let b = array_of(b)?;
            Ok(PyArray::new(combine(&b, a, function, true)?.ok_or_else(|| wrong(a))?))
        }
        Some(Operand::Array(a)) if operand(b)?.is_some() => {
            Ok(PyArray::new(combine(&a, b, function, false)?.ok_or_else(|| wrong(b))?))
        }
        _ => {
            let (a, b) = pair_of(a, b)?;
            made(a.binary(function, &b))
        }
    }
}

/// Two arrays; what is none yet goes where the other is.
fn pair_of(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<(Array, Array)> {
    if a.is_instance_of::<PyArray>() {
        let a = array_of(a)?;
        let b = array_beside(b, &a)?;
        return Ok((a, b));
    }
    let b = array_of(b)?;
    Ok((array_beside(a, &b)?, b))
}

/// An operand beside an array: numbers take its dtype where they can.
fn beside(array: &Array, other: &Bound<'_, PyAny>) -> PyResult<Array> {
    match scalar_of(other)? {
        Some(scalar) => {
            let device = array.device_handle();
            Array::full(&[], scalar, scalar.beside(array.dtype()), &device).map_err(of_array)
        }
        None => array_beside(other, array),
    }
}

#[pyfunction]
pub(crate) fn select(
    condition: &Bound<'_, PyAny>,
    a: &Bound<'_, PyAny>,
    b: &Bound<'_, PyAny>,
) -> PyResult<PyArray> {
    let arrays = [condition, a, b].into_iter().find_map(|of| of.cast::<PyArray>().ok());
    let on = match arrays {
        Some(array) => array.get().array(),
        None => array_of(condition)?,
    };
    let condition = array_beside(condition, &on)?;
    let (a, b) = match (scalar_of(a)?, scalar_of(b)?) {
        (Some(_), None) => {
            let b = array_beside(b, &on)?;
            (beside(&b, a)?, b)
        }
        (None, _) => {
            let a = array_beside(a, &on)?;
            let b = beside(&a, b)?;
            (a, b)
        }
        (Some(left), Some(_)) => {
            let device = condition.device_handle();
            let a = Array::full(&[], left, left.dtype(), &device).map_err(of_array)?;
            let b = beside(&a, b)?;
            (a, b)
        }
    };
    made(condition.select(&a, &b))
}

#[pyfunction]
#[pyo3(signature = (x, low=None, high=None))]
pub(crate) fn clip(
    x: &Bound<'_, PyAny>,
    low: Option<&Bound<'_, PyAny>>,
    high: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyArray> {
    let x = array_of(x)?;
    let bound = |of: Option<&Bound<'_, PyAny>>| {
        of.filter(|of| !of.is_none()).map(|of| beside(&x, of)).transpose()
    };
    let (low, high) = (bound(low)?, bound(high)?);
    made(x.clip(low.as_ref(), high.as_ref()))
}

#[pyfunction]
#[pyo3(signature = (name, x, axis=None, keepdims=false, dtype=None))]
pub(crate) fn reduce(
    name: &str,
    x: &Bound<'_, PyAny>,
    axis: Option<&Bound<'_, PyAny>>,
    keepdims: bool,
    dtype: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyArray> {
    use Reduction::{All, Any, Max, Mean, Min, Prod, Sum};
    let how = [Sum, Prod, Mean, Max, Min, Any, All].into_iter().find(|how| how.name() == name);
    let how = how.ok_or_else(|| PyValueError::new_err(format!("no reduction {name}")))?;
    let mut x = array_of(x)?;
    if let Some(dtype) = dtype.filter(|dtype| !dtype.is_none()) {
        let dtype = dtype_of(dtype)?;
        x = x.cast(dtype).map_err(of_array)?;
        let reduced = x.reduce(how, axes_of(axis)?.as_deref(), keepdims).map_err(of_array)?;
        return made(reduced.cast(dtype));
    }
    made(x.reduce(how, axes_of(axis)?.as_deref(), keepdims))
}

#[pyfunction]
#[pyo3(signature = (x, axis=None, correction=0.0, keepdims=false))]
pub(crate) fn variance(
    x: &Bound<'_, PyAny>,
    axis: Option<&Bound<'_, PyAny>>,
    correction: f64,
    keepdims: bool,
) -> PyResult<PyArray> {
    made(array_of(x)?.var(axes_of(axis)?.as_deref(), correction, keepdims))
}

#[pyfunction]
#[pyo3(signature = (x, least, axis=None, keepdims=false))]
pub(crate) fn extreme(
    x: &Bound<'_, PyAny>,
    least: bool,
    axis: Option<i64>,
    keepdims: bool,
) -> PyResult<PyArray> {
    made(array_of(x)?.arg_extreme(least, axis, keepdims))
}

#[pyfunction]
pub(crate) fn cumulative(x: &Bound<'_, PyAny>, product: bool, axis: i64) -> PyResult<PyArray> {
    made(array_of(x)?.cumulative(product, axis))
}

#[pyfunction]
pub(crate) fn concat(arrays: &Bound<'_, PyAny>, axis: i64) -> PyResult<PyArray> {
    made(Array::concat(&arrays_of(arrays)?, axis))
}

#[pyfunction]
pub(crate) fn stack(arrays: &Bound<'_, PyAny>, axis: i64) -> PyResult<PyArray> {
    made(Array::stack(&arrays_of(arrays)?, axis))
}

#[pyfunction]
pub(crate) fn take(
    x: &Bound<'_, PyAny>,
    indices: &Bound<'_, PyAny>,
    axis: i64,
) -> PyResult<PyArray> {
    let x = array_of(x)?;
    made(x.take(&array_beside(indices, &x)?, axis))
}

#[pyfunction]
pub(crate) fn take_along(
    x: &Bound<'_, PyAny>,
    indices: &Bound<'_, PyAny>,
    axis: i64,
) -> PyResult<PyArray> {
    let x = array_of(x)?;
    made(x.take_along(&array_beside(indices, &x)?, axis))
}

/// Values and places in order.
#[pyfunction]
pub(crate) fn sort(
    x: &Bound<'_, PyAny>,
    axis: i64,
    descending: bool,
) -> PyResult<(PyArray, PyArray)> {
    let (values, places) = array_of(x)?.sorted(axis, descending).map_err(of_array)?;
    Ok((PyArray::new(values), PyArray::new(places)))
}

#[pyfunction]
pub(crate) fn nonzero(x: &Bound<'_, PyAny>) -> PyResult<Vec<PyArray>> {
    let array = array_of(x)?;
    let all = x.py().detach(|| array.nonzero()).map_err(of_array)?;
    Ok(all.into_iter().map(PyArray::new).collect())
}

#[pyfunction]
pub(crate) fn unique(x: &Bound<'_, PyAny>) -> PyResult<Vec<PyArray>> {
    let array = array_of(x)?;
    let all = x.py().detach(|| array.unique()).map_err(of_array)?;
    Ok(all.into_iter().map(PyArray::new).collect())
}

#[pyfunction]
pub(crate) fn search_sorted(
    sorted: &Bound<'_, PyAny>,
    values: &Bound<'_, PyAny>,
    right: bool,
) -> PyResult<PyArray> {
    let sorted = array_of(sorted)?;
    let values = beside(&sorted, values)?;
    made(sorted.search_sorted(&values, right))
}

#[pyfunction]
pub(crate) fn is_in(x: &Bound<'_, PyAny>, others: &Bound<'_, PyAny>) -> PyResult<PyArray> {
    let x = array_of(x)?;
    let others = beside(&x, others)?;
    made(x.is_in(&others))
}

#[pyfunction]
pub(crate) fn matmul(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<PyArray> {
    let (a, b) = pair_of(a, b)?;
    made(a.matmul(&b))
}

#[pyfunction]
pub(crate) fn einsum(expression: &str, operands: &Bound<'_, PyAny>) -> PyResult<PyArray> {
    made(Array::einsum(expression, &arrays_of(operands)?))
}

#[pyfunction]
pub(crate) fn tensordot(
    a: &Bound<'_, PyAny>,
    b: &Bound<'_, PyAny>,
    own: Vec<i64>,
    others: Vec<i64>,
) -> PyResult<PyArray> {
    let (a, b) = pair_of(a, b)?;
    made(a.tensordot(&b, &own, &others))
}

#[pyfunction]
pub(crate) fn vecdot(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>, axis: i64) -> PyResult<PyArray> {
    let (a, b) = pair_of(a, b)?;
    made(a.vecdot(&b, axis))
}

/// A whole power, by halves.
#[pyfunction]
pub(crate) fn power_of(x: &Bound<'_, PyAny>, exponent: u32) -> PyResult<PyArray> {
    let x = array_of(x)?;
    let mut square = x.clone();
    let mut result: Option<Array> = None;
    let mut left = exponent.max(1);
    loop {
        if left & 1 == 1 {
            let next = match &result {
                Some(result) => result.matmul(&square),
                None => Ok(square.clone()),
            };
            result = Some(next.map_err(of_array)?);
        }
        left >>= 1;
        if left == 0 {
            return Ok(PyArray::new(result.unwrap_or(x)));
        }
        square = square.matmul(&square).map_err(of_array)?;
    }
}

fn number(object: &Bound<'_, PyAny>) -> PyResult<Scalar> {
    let found = match operand(object)? {
        Some(Operand::Scalar(scalar)) => return Ok(scalar),
        Some(Operand::Array(array)) => Some(object.py().detach(|| array.item()).map_err(of_array)?),
        // NumPy's scalars and the like: whole ones stay whole.
        None => match object.call_method0("__index__") {
            Ok(index) => index.extract().ok().map(Scalar::Int),
            Err(_) => match object.call_method0("item") {
                Ok(item) => scalar_of(&item)?,
                Err(_) => object.extract::<f64>().ok().map(Scalar::Float),
            },
        },
    };
    found.ok_or_else(|| PyTypeError::new_err(format!("wanted a number, got {}", object.get_type())))
}

/// The dtype of a number of Python's.
#[pyfunction]
pub(crate) fn scalar_dtype<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    crate::convert::numpy_dtype(object.py(), number(object)?.dtype())
}

#[pyfunction]
#[pyo3(signature = (shape, value, dtype=None, device=None))]
pub(crate) fn full(
    shape: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
    dtype: Option<&Bound<'_, PyAny>>,
    device: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyArray> {
    let value = number(value)?;
    let dtype = dtype_or(dtype, value.dtype())?;
    made(Array::full(&extents_of(shape)?, value, dtype, &device_of(device)?))
}

#[pyfunction]
#[pyo3(signature = (start, stop, step, dtype=None, device=None))]
pub(crate) fn arange(
    start: &Bound<'_, PyAny>,
    stop: &Bound<'_, PyAny>,
    step: &Bound<'_, PyAny>,
    dtype: Option<&Bound<'_, PyAny>>,
    device: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyArray> {
    let (start, stop, step) = (number(start)?, number(stop)?, number(step)?);
    let float = [start, stop, step].iter().any(|number| matches!(number, Scalar::Float(_)));
    let dtype = dtype_or(dtype, if float { DType::F64 } else { DType::I64 })?;
    made(Array::arange(start, stop, step, dtype, &device_of(device)?))
}

#[pyfunction]
#[pyo3(signature = (start, stop, count, endpoint, dtype=None, device=None))]
pub(crate) fn linspace(
    start: &Bound<'_, PyAny>,
    stop: &Bound<'_, PyAny>,
    count: usize,
    endpoint: bool,
    dtype: Option<&Bound<'_, PyAny>>,
    device: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyArray> {
    let (start, stop) = (number(start)?, number(stop)?);
    let dtype = dtype_or(dtype, DType::F64)?;
    made(Array::linspace(start, stop, count, endpoint, dtype, &device_of(device)?))
}

#[pyfunction]
#[pyo3(signature = (rows, columns, k, dtype=None, device=None))]
pub(crate) fn eye(
    rows: usize,
    columns: usize,
    k: i64,
    dtype: Option<&Bound<'_, PyAny>>,
    device: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyArray> {
    let dtype = dtype_or(dtype, DType::F64)?;
    made(Array::eye(rows, columns, k, dtype, &device_of(device)?))
}

/// An array of what a DLPack capsule holds.
#[pyfunction]
#[pyo3(signature = (capsule, copy=None, device=None))]
pub(crate) fn from_dlpack(
    capsule: &Bound<'_, PyCapsule>,
    copy: Option<bool>,
    device: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyArray> {
    let device = device_of(device)?;
    if copy == Some(false) && device.id() != "cpu" {
        return Err(PyValueError::new_err("memory of the host goes to a device by a copy only"));
    }
    let tensor = crate::dlpack::take(capsule, copy)?;
    Ok(PyArray::new(Array::from_tensor(tensor, &device)))
}

/// Random numbers: draw `index` of the stream of a seed.
#[pyfunction]
#[pyo3(signature = (kind, seed, index, shape, dtype=None, device=None, low=0, high=0))]
#[allow(clippy::too_many_arguments, reason = "the Python face names them")]
pub(crate) fn random_draw(
    kind: &str,
    seed: u64,
    index: u64,
    shape: &Bound<'_, PyAny>,
    dtype: Option<&Bound<'_, PyAny>>,
    device: Option<&Bound<'_, PyAny>>,
    low: i64,
    high: i64,
) -> PyResult<PyArray> {
    let mut random = Random::at(seed, index);
    let (shape, device) = (extents_of(shape)?, device_of(device)?);
    let dtype = dtype_or(dtype, DType::F64)?;
    made(match kind {
        "uniform" => random.uniform(&shape, dtype, &device),
        "normal" => random.normal(&shape, dtype, &device),
        "integers" => random.integers(low, high, &shape, &device),
        _ => return Err(PyValueError::new_err(format!("no random numbers {kind}"))),
    })
}

/// Computes several arrays together.
#[pyfunction]
pub(crate) fn eval(arrays: &Bound<'_, PyAny>) -> PyResult<()> {
    let all = arrays_of(arrays)?;
    arrays.py().detach(|| Array::eval_all(&all)).map_err(of_array)
}

/// What a call gives, and for each run that computed arrays in it: nanoseconds, and its steps as
/// (operator, kernel, device, nanoseconds).
#[pyfunction]
pub(crate) fn traced_run<'py>(
    call: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyList>)> {
    let py = call.py();
    let (result, traces) = hetra::array::traced(|| call.call0());
    let list = PyList::empty(py);
    for trace in traces {
        let steps: Vec<(String, String, String, u64)> = trace
            .steps
            .into_iter()
            .map(|step| (step.op, step.kernel, step.device, step.duration_ns))
            .collect();
        let row = PyDict::new(py);
        row.set_item("total_ns", trace.total_ns)?;
        row.set_item("steps", steps)?;
        list.append(row)?;
    }
    Ok((result?, list))
}
