//! The operators of `hetra.Array`, a row each.
#![allow(unsafe_op_in_unsafe_fn, reason = "what pyo3 writes out where a macro names the methods")]

use hetra::array::Binary;
use pyo3::prelude::*;

use crate::array::PyArray;

macro_rules! operators {
    ($($plain:ident $reversed:ident $in_place:ident $function:ident;)*) => {
        #[pymethods]
        impl PyArray {
            $(
                fn $plain<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
                    self.binary(other, Binary::$function, false)
                }

                fn $reversed<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
                    self.binary(other, Binary::$function, true)
                }

                fn $in_place(&self, other: &Bound<'_, PyAny>) -> PyResult<()> {
                    self.update(other, Binary::$function)
                }
            )*
        }
    };
}

operators! {
    __add__ __radd__ __iadd__ Add;
    __sub__ __rsub__ __isub__ Subtract;
    __mul__ __rmul__ __imul__ Multiply;
    __truediv__ __rtruediv__ __itruediv__ Divide;
    __floordiv__ __rfloordiv__ __ifloordiv__ FloorDivide;
    __mod__ __rmod__ __imod__ Remainder;
    __and__ __rand__ __iand__ BitwiseAnd;
    __or__ __ror__ __ior__ BitwiseOr;
    __xor__ __rxor__ __ixor__ BitwiseXor;
    __lshift__ __rlshift__ __ilshift__ ShiftLeft;
    __rshift__ __rrshift__ __irshift__ ShiftRight;
}
