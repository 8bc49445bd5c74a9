//! The class `hetra.Array`: operators and what asks for values.

use std::sync::{Mutex, PoisonError};

use hetra::Array;
use hetra::array::{Binary, Scalar, Unary};
use pyo3::basic::CompareOp;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyComplex, PyList, PyTuple};

use crate::convert::{self, Operand, operand, picks_of};
use crate::error::of_array;

/// An array on a device. What is called on it is computed when a value is asked for.
#[pyclass(name = "Array", module = "hetra", frozen, weakref)]
pub(crate) struct PyArray(Mutex<Array>);

impl PyArray {
    pub(crate) fn new(array: Array) -> PyArray {
        PyArray(Mutex::new(array))
    }

    pub(crate) fn array(&self) -> Array {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another array, made of this one, in its place: what NumPy does in place. Where another
    /// thread was first it is made again, of what that gave.
    fn change(&self, make: impl Fn(&Array) -> PyResult<Array>) -> PyResult<()> {
        loop {
            let before = self.array();
            let next = make(&before)?;
            let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if own.is_same(&before) {
                let old = std::mem::replace(&mut *own, next);
                // Not under the lock: what it holds may be somebody else's.
                drop(own);
                drop(old);
                return Ok(());
            }
        }
    }

    fn unary(&self, function: Unary) -> PyResult<PyArray> {
        self.array().unary(function).map(PyArray::new).map_err(of_array)
    }

    /// `NotImplemented` for what arrays do not work with.
    pub(crate) fn binary<'py>(
        &self,
        other: &Bound<'py, PyAny>,
        function: Binary,
        reversed: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = other.py();
        match combine(&self.array(), other, function, reversed)? {
            Some(array) => Ok(Bound::new(py, PyArray::new(array))?.into_any()),
            None => Ok(py.NotImplemented().into_bound(py)),
        }
    }

    pub(crate) fn update(&self, other: &Bound<'_, PyAny>, function: Binary) -> PyResult<()> {
        self.change(|own| {
            let result = combine(own, other, function, false)?;
            in_place(own, result.ok_or_else(|| no_operand(function, other))?)
        })
    }
}

/// The error of an operand that arrays do not work with.
pub(crate) fn no_operand(function: Binary, other: &Bound<'_, PyAny>) -> PyErr {
    let kind = other.get_type();
    PyTypeError::new_err(format!("{}: wanted an array or a number, got {kind}", function.name()))
}

/// A result that takes the place of an array: of its shape and, but for lost digits, its kind.
fn in_place(own: &Array, result: Array) -> PyResult<Array> {
    if result.shape() != own.shape() {
        let (a, b) = (own.shape(), result.shape());
        return Err(PyValueError::new_err(format!("{a:?} in place cannot become {b:?}")));
    }
    let kind = |dtype: hetra::DType| match dtype {
        hetra::DType::Bool => 0,
        _ if dtype.is_int() => 1,
        _ if dtype.is_float() => 2,
        _ => 3,
    };
    if kind(result.dtype()) > kind(own.dtype()) {
        let (a, b) = (own.dtype(), result.dtype());
        return Err(PyTypeError::new_err(format!("{a} in place cannot become {b}")));
    }
    result.cast(own.dtype()).map_err(of_array)
}

/// `None` for what arrays do not work with.
pub(crate) fn combine(
    array: &Array,
    other: &Bound<'_, PyAny>,
    function: Binary,
    reversed: bool,
) -> PyResult<Option<Array>> {
    let result = match operand(other)? {
        Some(Operand::Array(other)) if reversed => other.binary(function, array),
        Some(Operand::Array(other)) => array.binary(function, &other),
        Some(Operand::Scalar(scalar)) => array.binary_scalar(function, scalar, reversed),
        // Lists, NumPy's arrays and scalars, and what else has its memory to show.
        None if other.is_instance_of::<PyList>() || other.is_instance_of::<PyTuple>() => {
            let other = convert::array_beside(other, array)?;
            if reversed { other.binary(function, array) } else { array.binary(function, &other) }
        }
        None if other.hasattr("__array_interface__")? || other.hasattr("__dlpack__")? => {
            let other = convert::array_beside(other, array)?;
            if reversed { other.binary(function, array) } else { array.binary(function, &other) }
        }
        None => return Ok(None),
    };
    result.map(Some).map_err(of_array)
}

#[pymethods]
impl PyArray {
    fn __pow__<'py>(
        &self,
        other: &Bound<'py, PyAny>,
        _modulo: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.binary(other, Binary::Pow, false)
    }

    fn __rpow__<'py>(
        &self,
        other: &Bound<'py, PyAny>,
        _modulo: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.binary(other, Binary::Pow, true)
    }

    fn __ipow__(
        &self,
        other: &Bound<'_, PyAny>,
        _modulo: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.update(other, Binary::Pow)
    }

    fn __matmul__(&self, other: &Bound<'_, PyAny>) -> PyResult<PyArray> {
        let a = self.array();
        let b = convert::array_beside(other, &a)?;
        a.matmul(&b).map(PyArray::new).map_err(of_array)
    }

    fn __rmatmul__(&self, other: &Bound<'_, PyAny>) -> PyResult<PyArray> {
        let b = self.array();
        let a = convert::array_beside(other, &b)?;
        a.matmul(&b).map(PyArray::new).map_err(of_array)
    }

    fn __imatmul__(&self, other: &Bound<'_, PyAny>) -> PyResult<()> {
        self.change(|own| {
            let other = convert::array_beside(other, own)?;
            in_place(own, own.matmul(&other).map_err(of_array)?)
        })
    }

    fn __neg__(&self) -> PyResult<PyArray> {
        self.unary(Unary::Negative)
    }

    fn __pos__(&self) -> PyArray {
        PyArray::new(self.array())
    }

    fn __abs__(&self) -> PyResult<PyArray> {
        self.unary(Unary::Abs)
    }

    fn __invert__(&self) -> PyResult<PyArray> {
        self.unary(Unary::BitwiseInvert)
    }

    fn __richcmp__<'py>(
        &self,
        other: &Bound<'py, PyAny>,
        op: CompareOp,
    ) -> PyResult<Bound<'py, PyAny>> {
        let function = match op {
            CompareOp::Lt => Binary::Less,
            CompareOp::Le => Binary::LessEqual,
            CompareOp::Eq => Binary::Equal,
            CompareOp::Ne => Binary::NotEqual,
            CompareOp::Gt => Binary::Greater,
            CompareOp::Ge => Binary::GreaterEqual,
        };
        self.binary(other, function, false)
    }

    fn __getitem__(&self, key: &Bound<'_, PyAny>) -> PyResult<PyArray> {
        let array = self.array();
        let picks = picks_of(key, &array)?;
        key.py().detach(|| array.index(&picks)).map(PyArray::new).map_err(of_array)
    }

    fn __setitem__(&self, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let array = self.array();
        let picks = picks_of(key, &array)?;
        let values = match operand(value)? {
            Some(Operand::Array(values)) => values,
            Some(Operand::Scalar(scalar)) => {
                let one = Array::full(&[], scalar, array.dtype(), &array.device_handle());
                one.map_err(of_array)?
            }
            None => convert::array_beside(value, &array)?,
        };
        self.change(|own| key.py().detach(|| own.with(&picks, &values)).map_err(of_array))
    }

    fn __len__(&self) -> PyResult<usize> {
        let array = self.array();
        array
            .shape()
            .first()
            .copied()
            .ok_or_else(|| PyTypeError::new_err("it has no axes, so no length"))
    }

    fn __bool__(&self, py: Python<'_>) -> PyResult<bool> {
        if self.array().size() != 1 {
            let text = "an array of several elements is neither true nor false: use any or all";
            return Err(PyValueError::new_err(text));
        }
        Ok(match self.number(py)? {
            Scalar::Complex(re, im) => re != 0.0 || im != 0.0,
            number => number.as_f64() != 0.0,
        })
    }

    fn __float__(&self, py: Python<'_>) -> PyResult<f64> {
        match self.number(py)? {
            Scalar::Complex(..) => Err(PyTypeError::new_err("a complex number is no float")),
            number => Ok(number.as_f64()),
        }
    }

    fn __int__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let int = py.get_type::<pyo3::types::PyInt>();
        int.call1((self.item(py)?,))
    }

    fn __index__(&self, py: Python<'_>) -> PyResult<i128> {
        match self.number(py)? {
            Scalar::Int(value) if self.array().rank() == 0 => Ok(value),
            _ => Err(PyTypeError::new_err("only a whole number without axes is an index")),
        }
    }

    /// The one element, as Python's own number.
    fn item<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self.number(py)? {
            Scalar::Bool(value) => value.into_pyobject(py)?.to_owned().into_any(),
            Scalar::Int(value) => value.into_pyobject(py)?.into_any(),
            Scalar::Float(value) => value.into_pyobject(py)?.into_any(),
            Scalar::Complex(re, im) => PyComplex::from_doubles(py, re, im).into_any(),
        })
    }

    /// The same array on another device. What is computed there from it stays there.
    #[pyo3(signature = (device, /, *, stream=None))]
    fn to_device(
        &self,
        py: Python<'_>,
        device: &Bound<'_, PyAny>,
        stream: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyArray> {
        if stream.is_some_and(|stream| !stream.is_none()) {
            return Err(PyValueError::new_err("there are no streams to choose"));
        }
        let (array, id) = (self.array(), device.str()?.to_string());
        py.detach(|| array.to(&id)).map(PyArray::new).map_err(of_array)
    }

    /// Computes it now, where it is.
    fn eval(&self, py: Python<'_>) -> PyResult<()> {
        let array = self.array();
        py.detach(|| array.eval().map(|_| ())).map_err(of_array)
    }

    /// The same elements as another dtype.
    #[pyo3(name = "_cast")]
    fn cast(&self, dtype: &Bound<'_, PyAny>) -> PyResult<PyArray> {
        self.array().cast(convert::dtype_of(dtype)?).map(PyArray::new).map_err(of_array)
    }

    #[pyo3(name = "_reshape")]
    fn reshape(&self, shape: &Bound<'_, PyAny>) -> PyResult<PyArray> {
        self.array().reshape(&convert::shape_of(shape)?).map(PyArray::new).map_err(of_array)
    }

    #[pyo3(name = "_permute")]
    fn permute(&self, axes: Vec<i64>) -> PyResult<PyArray> {
        self.array().permute(&axes).map(PyArray::new).map_err(of_array)
    }

    #[pyo3(name = "_move_axes")]
    fn move_axes(&self, from: Vec<i64>, to: Vec<i64>) -> PyResult<PyArray> {
        self.array().move_axes(&from, &to).map(PyArray::new).map_err(of_array)
    }

    #[pyo3(name = "_expand_dims")]
    fn expand_dims(&self, axes: Vec<i64>) -> PyResult<PyArray> {
        self.array().expand_dims(&axes).map(PyArray::new).map_err(of_array)
    }

    #[pyo3(name = "_squeeze")]
    fn squeeze(&self, axes: Vec<i64>) -> PyResult<PyArray> {
        self.array().squeeze(&axes).map(PyArray::new).map_err(of_array)
    }

    #[pyo3(name = "_broadcast_to")]
    fn broadcast_to(&self, shape: &Bound<'_, PyAny>) -> PyResult<PyArray> {
        let shape = convert::extents_of(shape)?;
        self.array().broadcast_to(&shape).map(PyArray::new).map_err(of_array)
    }

    #[pyo3(name = "_flip")]
    fn flip(&self, axes: Vec<i64>) -> PyResult<PyArray> {
        self.array().flip(&axes).map(PyArray::new).map_err(of_array)
    }

    #[pyo3(name = "_roll")]
    fn roll(&self, shifts: Vec<i64>, axes: Vec<i64>) -> PyResult<PyArray> {
        self.array().roll(&shifts, &axes).map(PyArray::new).map_err(of_array)
    }

    #[pyo3(name = "_tile")]
    fn tile(&self, repeats: Vec<usize>) -> PyResult<PyArray> {
        self.array().tile(&repeats).map(PyArray::new).map_err(of_array)
    }

    #[pyo3(name = "_repeat")]
    fn repeat(&self, repeats: usize, axis: i64) -> PyResult<PyArray> {
        self.array().repeat(repeats, axis).map(PyArray::new).map_err(of_array)
    }

    #[pyo3(name = "_triangle")]
    fn triangle(&self, upper: bool, k: i64) -> PyResult<PyArray> {
        self.array().triangle(upper, k).map(PyArray::new).map_err(of_array)
    }

    #[pyo3(name = "_diff")]
    fn diff(&self, times: usize, axis: i64) -> PyResult<PyArray> {
        self.array().diff(times, axis).map(PyArray::new).map_err(of_array)
    }

    #[pyo3(name = "_diagonal")]
    fn diagonal(&self, k: i64) -> PyResult<PyArray> {
        self.array().diagonal(k).map(PyArray::new).map_err(of_array)
    }

    #[pyo3(name = "_det")]
    fn det(&self) -> PyResult<PyArray> {
        self.array().det().map(PyArray::new).map_err(of_array)
    }

    /// A DLPack capsule of the value, on the host; in the form of version 1 (`versioned`) it says
    /// that a consumer may only read.
    #[pyo3(name = "_capsule")]
    fn capsule<'py>(
        &self,
        py: Python<'py>,
        versioned: bool,
        copy: bool,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        crate::dlpack::give(py, &self.array(), versioned, copy)
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.array().shape())
    }

    #[getter]
    fn dtype<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        convert::numpy_dtype(py, self.array().dtype())
    }

    #[getter]
    fn ndim(&self) -> usize {
        self.array().rank()
    }

    #[getter]
    fn size(&self) -> usize {
        self.array().size()
    }

    #[getter]
    fn device(&self) -> String {
        self.array().device().to_string()
    }

    #[getter(T)]
    fn transposed(&self) -> PyResult<PyArray> {
        self.array().transpose().map(PyArray::new).map_err(of_array)
    }

    #[getter(mT)]
    fn matrix_transposed(&self) -> PyResult<PyArray> {
        self.array().matrix_transpose().map(PyArray::new).map_err(of_array)
    }

    /// Whether the value was computed already.
    #[getter]
    fn is_ready(&self) -> bool {
        self.array().is_ready()
    }
}

impl PyArray {
    fn number(&self, py: Python<'_>) -> PyResult<Scalar> {
        let array = self.array();
        py.detach(|| array.item()).map_err(|error| match error {
            hetra::ArrayError::NotScalar { .. } => PyTypeError::new_err(error.to_string()),
            error => of_array(error),
        })
    }
}
