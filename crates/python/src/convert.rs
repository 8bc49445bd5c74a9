//! From Python's objects to arrays, numbers, dtypes and indices.

use hetra::array::{DTYPES, Device, Pick, Scalar};
use hetra::{Array, DType};
use pyo3::exceptions::{PyIndexError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyComplex, PyEllipsis, PyFloat, PyInt, PySlice, PyTuple};

use crate::array::PyArray;
use crate::error::of_array;

/// NumPy's name of a dtype; `None` where it has none.
pub(crate) fn numpy_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::Bool => "bool",
        DType::I8 => "int8",
        DType::I16 => "int16",
        DType::I32 => "int32",
        DType::I64 => "int64",
        DType::U8 => "uint8",
        DType::U16 => "uint16",
        DType::U32 => "uint32",
        DType::U64 => "uint64",
        DType::F16 => "float16",
        DType::F32 => "float32",
        DType::F64 => "float64",
        DType::C64 => "complex64",
        DType::C128 => "complex128",
        _ => return None,
    })
}

/// NumPy's dtype object.
pub(crate) fn numpy_dtype(py: Python<'_>, dtype: DType) -> PyResult<Bound<'_, PyAny>> {
    static ALL: PyOnceLock<Vec<(DType, Py<PyAny>)>> = PyOnceLock::new();
    let all = ALL.get_or_try_init(py, || {
        let make = py.import("numpy")?.getattr("dtype")?;
        let named = DTYPES.iter().filter_map(|&dtype| Some((dtype, numpy_name(dtype)?)));
        let made = named.map(|(dtype, name)| Ok((dtype, make.call1((name,))?.unbind())));
        made.collect::<PyResult<Vec<_>>>()
    })?;
    let found = all.iter().find(|(own, _)| *own == dtype);
    let fault = || PyTypeError::new_err(format!("NumPy has no dtype for {dtype}"));
    Ok(found.ok_or_else(fault)?.1.bind(py).clone())
}

/// The dtype that an object names: NumPy's dtypes and scalar types, Python's types, strings.
pub(crate) fn dtype_of(object: &Bound<'_, PyAny>) -> PyResult<DType> {
    let py = object.py();
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = MAKE
        .get_or_try_init(py, || Ok::<_, PyErr>(py.import("numpy")?.getattr("dtype")?.unbind()))?;
    let made = make.bind(py).call1((object,))?;
    let name: String = made.getattr("name")?.extract()?;
    let found = DTYPES.iter().find(|&&dtype| numpy_name(dtype) == Some(name.as_str()));
    found.copied().ok_or_else(|| PyTypeError::new_err(format!("arrays have no dtype {name}")))
}

pub(crate) fn dtype_or(object: Option<&Bound<'_, PyAny>>, other: DType) -> PyResult<DType> {
    object.filter(|object| !object.is_none()).map_or(Ok(other), dtype_of)
}

/// A number of Python's own; `None` for anything else.
pub(crate) fn scalar_of(object: &Bound<'_, PyAny>) -> PyResult<Option<Scalar>> {
    if object.is_instance_of::<PyBool>() {
        return Ok(Some(Scalar::Bool(object.extract()?)));
    }
    // Not of a class below: NumPy's f64 is one, and has a dtype.
    if object.is_exact_instance_of::<PyFloat>() {
        return Ok(Some(Scalar::Float(object.extract()?)));
    }
    if object.is_instance_of::<PyInt>() {
        let whole = object.extract::<i128>();
        let text = "a whole number is too large for any dtype";
        return whole
            .map(|value| Some(Scalar::Int(value)))
            .map_err(|_| PyOverflowError::new_err(text));
    }
    if object.is_exact_instance_of::<PyComplex>() {
        let part = |name: &str| object.getattr(name)?.extract::<f64>();
        return Ok(Some(Scalar::Complex(part("real")?, part("imag")?)));
    }
    Ok(None)
}

/// An operand.
pub(crate) enum Operand {
    Array(Array),
    Scalar(Scalar),
}

/// An array or a number; `None` for what arrays do not work with.
pub(crate) fn operand(object: &Bound<'_, PyAny>) -> PyResult<Option<Operand>> {
    if let Ok(array) = object.cast::<PyArray>() {
        return Ok(Some(Operand::Array(array.get().array())));
    }
    Ok(scalar_of(object)?.map(Operand::Scalar))
}

/// An array, whatever it is made of: `hetra.asarray` for what is none.
pub(crate) fn array_of(object: &Bound<'_, PyAny>) -> PyResult<Array> {
    if let Ok(array) = object.cast::<PyArray>() {
        return Ok(array.get().array());
    }
    let py = object.py();
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = MAKE
        .get_or_try_init(py, || Ok::<_, PyErr>(py.import("hetra")?.getattr("asarray")?.unbind()))?;
    let made = make.bind(py).call1((object,))?;
    Ok(made.cast::<PyArray>()?.get().array())
}

/// As [`array_of`]; what is none yet goes where `beside` is.
pub(crate) fn array_beside(object: &Bound<'_, PyAny>, beside: &Array) -> PyResult<Array> {
    let array = array_of(object)?;
    if object.is_instance_of::<PyArray>() {
        return Ok(array);
    }
    array.to(beside.device()).map_err(of_array)
}

/// A list of arrays; what is none yet goes where the first of them is.
pub(crate) fn arrays_of(object: &Bound<'_, PyAny>) -> PyResult<Vec<Array>> {
    let items: Vec<_> = object.try_iter()?.collect::<PyResult<_>>()?;
    let first = items.iter().find_map(|item| item.cast::<PyArray>().ok());
    let first = first.map(|array| array.get().array());
    let items = items.iter().map(|item| match &first {
        Some(first) => array_beside(item, first),
        None => array_of(item),
    });
    items.collect()
}

/// Extents: a number, or several.
pub(crate) fn shape_of(object: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    if let Ok(extent) = object.extract::<i64>() {
        return Ok(vec![extent]);
    }
    object.try_iter()?.map(|item| item?.extract::<i64>()).collect()
}

/// Extents that are none below 0.
pub(crate) fn extents_of(object: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    let all = shape_of(object)?.into_iter().map(|extent| {
        usize::try_from(extent)
            .map_err(|_| PyValueError::new_err(format!("an extent is {extent}, wanted 0 or more")))
    });
    all.collect()
}

/// Axes: none said, one, or several.
pub(crate) fn axes_of(object: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<i64>>> {
    match object.filter(|object| !object.is_none()) {
        None => Ok(None),
        Some(object) => Ok(Some(shape_of(object)?)),
    }
}

/// The device that is said, or else the default of this thread.
pub(crate) fn device_of(object: Option<&Bound<'_, PyAny>>) -> PyResult<Device> {
    match object.filter(|object| !object.is_none()) {
        None => crate::functions::current_device(),
        Some(object) => {
            let id = object.str()?.to_string();
            object.py().detach(|| Device::named(&id)).map_err(of_array)
        }
    }
}

/// What stands in brackets.
pub(crate) fn picks_of(object: &Bound<'_, PyAny>, of: &Array) -> PyResult<Vec<Pick>> {
    match object.cast::<PyTuple>() {
        Ok(all) => all.iter().map(|item| pick_of(&item, of)).collect(),
        Err(_) => Ok(vec![pick_of(object, of)?]),
    }
}

fn pick_of(object: &Bound<'_, PyAny>, of: &Array) -> PyResult<Pick> {
    if object.is_none() {
        return Ok(Pick::New);
    }
    if object.is_instance_of::<PyEllipsis>() {
        return Ok(Pick::Rest);
    }
    if let Ok(slice) = object.cast::<PySlice>() {
        let bound = |name: &str| -> PyResult<Option<i64>> {
            let value = slice.getattr(name)?;
            if value.is_none() {
                return Ok(None);
            }
            // As Python cuts what is too far to either side.
            let index = value
                .call_method0("__index__")
                .map_err(|_| PyTypeError::new_err("slices are of integers"))?;
            let far = || if index.lt(0).unwrap_or(false) { i128::MIN } else { i128::MAX };
            let value: i128 = index.extract().unwrap_or_else(|_| far());
            Ok(Some(value.clamp(i128::from(i64::MIN + 1), i128::from(i64::MAX)) as i64))
        };
        return Ok(Pick::Range(bound("start")?, bound("stop")?, bound("step")?.unwrap_or(1)));
    }
    if object.is_instance_of::<PyBool>() {
        return Err(PyIndexError::new_err("a boolean is no index"));
    }
    if let Ok(array) = object.cast::<PyArray>() {
        let array = array.get().array();
        if array.rank() == 0 && array.dtype().is_int() {
            let value = object.py().detach(|| array.item()).map_err(of_array)?;
            return Ok(Pick::At(value.as_f64() as i64));
        }
        return Ok(Pick::Array(array));
    }
    if let Ok(at) = object.extract::<i64>() {
        return Ok(Pick::At(at));
    }
    if object.is_instance_of::<PyFloat>() {
        return Err(PyIndexError::new_err("indices are integers, slices, `...`, None or arrays"));
    }
    Ok(Pick::Array(array_beside(object, of)?))
}
