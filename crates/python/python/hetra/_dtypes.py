"""Dtypes: NumPy's own objects, and what the array API standard asks of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._core import Array

bool = np.dtype("bool")
int8 = np.dtype("int8")
int16 = np.dtype("int16")
int32 = np.dtype("int32")
int64 = np.dtype("int64")
uint8 = np.dtype("uint8")
uint16 = np.dtype("uint16")
uint32 = np.dtype("uint32")
uint64 = np.dtype("uint64")
float16 = np.dtype("float16")
float32 = np.dtype("float32")
float64 = np.dtype("float64")
complex64 = np.dtype("complex64")
complex128 = np.dtype("complex128")

ALL = {
    "bool": bool,
    "int8": int8,
    "int16": int16,
    "int32": int32,
    "int64": int64,
    "uint8": uint8,
    "uint16": uint16,
    "uint32": uint32,
    "uint64": uint64,
    "float32": float32,
    "float64": float64,
    "complex64": complex64,
    "complex128": complex128,
}

_KINDS = {
    "bool": "b",
    "signed integer": "i",
    "unsigned integer": "u",
    "integral": "iu",
    "real floating": "f",
    "complex floating": "c",
    "numeric": "iufc",
}


def _dtype(of: Any) -> np.dtype:
    if isinstance(of, (Array, np.ndarray)):
        return of.dtype
    return np.dtype(of)


def isdtype(dtype: Any, kind: Any) -> "bool":
    """Whether a dtype is of a kind: a dtype, a name of the standard, or a tuple of these."""
    dtype = np.dtype(dtype)
    if isinstance(kind, tuple):
        return any(isdtype(dtype, one) for one in kind)
    if isinstance(kind, str) and kind in _KINDS:
        return dtype.kind in _KINDS[kind]
    if isinstance(kind, str):
        raise ValueError(f"`{kind}` is no kind of dtype; there are {', '.join(_KINDS)}")
    return dtype == np.dtype(kind)


def can_cast(from_: Any, to: Any, /) -> "bool":
    """Whether the standard lets this dtype be taken for that one."""
    from_, to = _dtype(from_), _dtype(to)
    try:
        return result_type(from_, to) == to
    except TypeError:
        return False


def result_type(*of: Any) -> np.dtype:
    """The dtype that arrays, dtypes and numbers of these have together."""
    if not of:
        raise ValueError("result_type: wanted at least one array or dtype")
    found: np.dtype | None = None
    numbers = [one for one in of if isinstance(one, (int, float, complex)) and not _is_typed(one)]
    for one in of:
        if _is_typed(one) or not isinstance(one, (int, float, complex)):
            dtype = _dtype(one)
            found = dtype if found is None else np.promote_types(found, dtype)
    if found is None:
        return np.result_type(*(type(number) for number in numbers))
    for number in numbers:
        if isinstance(number, complex):
            found = np.result_type(found, complex64)
        elif isinstance(number, float) and found.kind not in "fc":
            found = float64
        elif type(number) is int and found.kind == "b":
            found = int64
    return found


def _is_typed(one: Any) -> "bool":
    return isinstance(one, (Array, np.ndarray, np.generic, np.dtype, type, str))


class finfo:
    """The limits of a float dtype."""

    def __init__(self, type: Any, /) -> None:
        info = np.finfo(_dtype(type))
        self.bits = info.bits
        self.eps = float(info.eps)
        self.max = float(info.max)
        self.min = float(info.min)
        self.smallest_normal = float(info.smallest_normal)
        self.dtype = np.dtype(info.dtype)

    def __repr__(self) -> str:
        return f"finfo(dtype={self.dtype}, eps={self.eps}, max={self.max})"


class iinfo:
    """The limits of an integer dtype."""

    def __init__(self, type: Any, /) -> None:
        info = np.iinfo(_dtype(type))
        self.bits = info.bits
        self.max = int(info.max)
        self.min = int(info.min)
        self.dtype = np.dtype(info.dtype)

    def __repr__(self) -> str:
        return f"iinfo(dtype={self.dtype}, min={self.min}, max={self.max})"
