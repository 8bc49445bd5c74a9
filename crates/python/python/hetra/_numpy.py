"""NumPy's protocols: its functions, called on these arrays, are these arrays' functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _functions as f
from . import linalg
from ._core import Array

# Ufuncs by NumPy's name where that is another than ours.
_UFUNCS = {
    "absolute": "abs",
    "true_divide": "divide",
    "power": "pow",
    "float_power": "pow",
    "mod": "remainder",
    "arccos": "acos",
    "arcsin": "asin",
    "arctan": "atan",
    "arccosh": "acosh",
    "arcsinh": "asinh",
    "arctanh": "atanh",
    "arctan2": "atan2",
    "left_shift": "bitwise_left_shift",
    "right_shift": "bitwise_right_shift",
    "invert": "bitwise_invert",
    "conjugate": "conj",
    "rint": "round",
    "fabs": "abs",
}

_REDUCTIONS = {
    "add": f.sum,
    "multiply": f.prod,
    "maximum": f.max,
    "minimum": f.min,
    "logical_and": f.all,
    "logical_or": f.any,
}

# Functions by NumPy's name where that or their form is another.
_FUNCTIONS = {
    "concatenate": lambda arrays, axis=0: f.concat(arrays, axis=axis),
    "transpose": lambda x, axes=None: x.transpose() if axes is None else f.permute_dims(x, axes),
    "cumsum": lambda x, axis=None, dtype=None: f.cumsum(_flat(x, axis), axis=axis or 0, dtype=dtype),
    "cumprod": lambda x, axis=None, dtype=None: f.cumprod(_flat(x, axis), axis=axis or 0, dtype=dtype),
    "amax": lambda x, axis=None, keepdims=False: f.max(x, axis=axis, keepdims=keepdims),
    "amin": lambda x, axis=None, keepdims=False: f.min(x, axis=axis, keepdims=keepdims),
    "ravel": lambda x: x.reshape(-1),
    "squeeze": lambda x, axis=None: x.squeeze(axis),
    "dot": lambda a, b: f.dot(a, b),
    "swapaxes": lambda x, a, b: x.swapaxes(a, b),
    "clip": lambda x, a_min=None, a_max=None, **k: f.clip(
        x, k.get("min", a_min), k.get("max", a_max)
    ),
    "where": lambda condition, *both: f.where(condition, *both) if both else f.nonzero(condition),
    "expand_dims": lambda x, axis: f.expand_dims(x, axis=axis),
    "stack": lambda arrays, axis=0: f.stack(arrays, axis=axis),
    "vstack": lambda arrays: f.concat([_rows(one) for one in arrays], axis=0),
    "hstack": lambda arrays: f.concat(arrays, axis=0 if arrays[0].ndim == 1 else 1),
    "take": lambda x, indices, axis=None: f.take(_flat(x, axis), indices, axis=axis or 0),
    "unique": lambda x: f.unique_values(x),
    "flip": lambda x, axis=None: f.flip(x, axis=axis),
    "roll": lambda x, shift, axis=None: f.roll(x, shift, axis=axis),
    "sort": lambda x, axis=-1: f.sort(x, axis=axis),
    "argsort": lambda x, axis=-1: f.argsort(x, axis=axis),
    "einsum": lambda expression, *operands: f.einsum(expression, *operands),
    "tensordot": lambda a, b, axes=2: f.tensordot(a, b, axes=axes),
    "tril": lambda x, k=0: f.tril(x, k=k),
    "triu": lambda x, k=0: f.triu(x, k=k),
    "outer": lambda a, b: linalg.outer(a.reshape(-1), b.reshape(-1)),
    "trace": lambda x, offset=0: linalg.trace(x, offset=offset),
    "repeat": lambda x, repeats, axis=None: f.repeat(x, repeats, axis=axis),
    "var": lambda x, axis=None, ddof=0, keepdims=False: f.var(
        x, axis=axis, correction=ddof, keepdims=keepdims
    ),
    "std": lambda x, axis=None, ddof=0, keepdims=False: f.std(
        x, axis=axis, correction=ddof, keepdims=keepdims
    ),
    "allclose": lambda a, b, **k: np.allclose(f.asnumpy(a), f.asnumpy(b), **k),
    "array_equal": lambda a, b: np.array_equal(f.asnumpy(a), f.asnumpy(b)),
    "isclose": lambda a, b, **k: f.asarray(np.isclose(f.asnumpy(a), f.asnumpy(b), **k)),
    "shape": lambda x: x.shape,
    "ndim": lambda x: x.ndim,
    "size": lambda x: x.size,
    "may_share_memory": lambda a, b: False,
    "array2string": lambda x, **k: np.array2string(f.asnumpy(x), **k),
    "array_repr": lambda x, **k: repr(x),
    "array_str": lambda x, **k: str(x),
    "result_type": lambda *of: np.result_type(*(getattr(one, "dtype", one) for one in of)),
}

_SAME = set(f.STANDARD) - set(_FUNCTIONS)


def _flat(x: Array, axis: Any) -> Array:
    return x.reshape(-1) if axis is None else x


def _rows(x: Any) -> Array:
    x = f.asarray(x)
    return x.reshape(1, -1) if x.ndim == 1 else x


def _into(result: Any, out: Any) -> Any:
    target = out[0] if isinstance(out, tuple) else out
    if not isinstance(target, Array):
        raise TypeError("out: wanted an array of Hetra")
    target[...] = result
    return target


def array_ufunc(self: Array, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
    out = kwargs.pop("out", None)
    name = ufunc.__name__
    if method == "__call__":
        function = f.matmul if name == "matmul" else getattr(f, _UFUNCS.get(name, name), None)
        if function is None or kwargs:
            return NotImplemented
        result = function(*inputs)
    elif method == "reduce" and name in _REDUCTIONS:
        axis, keep = kwargs.pop("axis", 0), kwargs.pop("keepdims", False)
        if any(value is not None for value in kwargs.values()):
            return NotImplemented
        result = _REDUCTIONS[name](*inputs, axis=axis, keepdims=keep)
    elif method == "accumulate" and name in ("add", "multiply"):
        result = (f.cumsum if name == "add" else f.cumprod)(*inputs, axis=kwargs.pop("axis", 0))
    else:
        return NotImplemented
    return result if out is None else _into(result, out)


def array_function(self: Array, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
    name = func.__name__
    out = kwargs.pop("out", None)
    if func.__module__ == "numpy.linalg":
        function = getattr(linalg, name, None)
    else:
        function = _FUNCTIONS.get(name) or (getattr(f, name) if name in _SAME else None)
    if function is None:
        return NotImplemented
    # NumPy's way to say that nothing was said.
    kwargs = {key: value for key, value in kwargs.items() if value is not np._NoValue}
    result = function(*args[:1], *args[1:], **kwargs) if name in _FUNCTIONS else _named(
        function, args, kwargs
    )
    return result if out is None else _into(result, out)


def _named(function: Any, args: Any, kwargs: Any) -> Any:
    """NumPy says an axis by place where the standard has it by name."""
    try:
        return function(*args, **kwargs)
    except TypeError:
        if len(args) == 2 and "axis" not in kwargs and isinstance(args[1], (int, tuple)):
            return function(args[0], axis=args[1], **kwargs)
        raise


def install() -> None:
    """Gives the class the protocols."""
    Array.__array_ufunc__ = array_ufunc
    Array.__array_function__ = array_function
