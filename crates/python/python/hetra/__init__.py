"""Hetra: one model, every chip.

Arrays with NumPy's and CuPy's habits on any device, and ONNX models by ONNX Runtime's calls:

>>> import hetra
>>> a = hetra.asarray([[1.0, 2.0], [3.0, 4.0]])
>>> hetra.asnumpy(hetra.matmul(a, a))
array([[ 7., 10.],
       [15., 22.]])
"""

from __future__ import annotations

from typing import Any

import numpy as _np

from . import _core
from ._core import Array, DeviceError, ModelError
from . import _functions
from ._dtypes import *  # noqa: F403
from ._dtypes import ALL as _DTYPES
from ._dtypes import can_cast, finfo, iinfo, isdtype, result_type
from . import _array, fft, linalg, random
from . import _numpy, _probe
from .kernels import ElementwiseKernel, KernelSyntaxError, ReductionKernel, fuse
from .session import (
    ExecutionMode,
    GraphOptimizationLevel,
    InferenceSession,
    IOBinding,
    ModelMetadata,
    NodeArg,
    OrtValue,
    RunOptions,
    SessionOptions,
    get_available_providers,
    get_device,
    set_default_logger_severity,
)

__version__ = "0.1.0"
__array_api_version__ = "2024.12"

for _name in [*_functions.STANDARD, *_functions.MORE]:
    globals()[_name] = getattr(_functions, _name)

from ._dtypes import bool, float16, float32, float64, int8, int16, int32, int64  # noqa: E402
from ._dtypes import complex64, complex128, uint8, uint16, uint32, uint64  # noqa: E402

e, pi, nan, inf = _np.e, _np.pi, _np.nan, _np.inf
newaxis = None
ndarray = Array
matrix_transpose = _functions.matrix_transpose

_array.install()
_numpy.install()
_probe.install()


class device:
    """The device for new arrays: for a block, or, by `use`, from now on in this thread.

    >>> with hetra.device("opencl:0"):
    ...     x = hetra.zeros((2, 2))
    """

    def __init__(self, id: str) -> None:
        self.id = _core.open_device(str(id))
        self._before: list[str] = []

    def __enter__(self) -> "device":
        self._before.append(_core.set_default_device(self.id))
        return self

    def __exit__(self, *error: Any) -> None:
        _core.set_default_device(self._before.pop())

    def use(self) -> "device":
        """From now on, in this thread."""
        _core.set_default_device(self.id)
        return self

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"device({self.id!r})"

    def __eq__(self, other: object) -> "bool":
        return str(other) == self.id

    def __hash__(self) -> int:
        return hash(self.id)


Device = device


def devices() -> list[dict[str, Any]]:
    """What each driver found: id, name, driver, version, memory, and what to install if nothing."""
    return _core.devices()


def synchronize(device: Any = None) -> None:
    """Waits until what was launched on a device, the default one where none is named, is done.

    Reading an array waits by itself; who times `eval` waits before the clock is read.
    """
    _core.synchronize(_core.default_device() if device is None else str(device))


def trace(function: Any) -> tuple[Any, list[dict[str, Any]]]:
    """What a call gives, and what was run for it: for each run its nanoseconds and its steps as
    (operator, kernel, device, nanoseconds)."""
    return _core.traced_run(function)


class _Info:
    """What the array API standard lets a library say of itself."""

    def capabilities(self) -> dict[str, Any]:
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        return _core.default_device()

    def default_dtypes(self, *, device: Any = None) -> dict[str, Any]:
        return {"real floating": float64, "complex floating": complex128, "integral": int64, "indexing": int64}

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, Any]:
        if kind is None:
            return dict(_DTYPES)
        return {name: one for name, one in _DTYPES.items() if isdtype(one, kind)}

    def devices(self) -> list[str]:
        return [one["id"] for one in _core.devices() if one["state"] == "found"]


def __array_namespace_info__() -> _Info:
    return _Info()


__all__ = [
    *_functions.STANDARD,
    *_functions.MORE,
    *_DTYPES,
    "Array",
    "DeviceError",
    "ElementwiseKernel",
    "ExecutionMode",
    "GraphOptimizationLevel",
    "IOBinding",
    "InferenceSession",
    "KernelSyntaxError",
    "ModelError",
    "ModelMetadata",
    "NodeArg",
    "OrtValue",
    "ReductionKernel",
    "RunOptions",
    "SessionOptions",
    "__array_api_version__",
    "__array_namespace_info__",
    "can_cast",
    "device",
    "devices",
    "e",
    "finfo",
    "float16",
    "fft",
    "fuse",
    "get_available_providers",
    "get_device",
    "iinfo",
    "inf",
    "isdtype",
    "linalg",
    "nan",
    "newaxis",
    "pi",
    "random",
    "result_type",
    "set_default_logger_severity",
    "synchronize",
    "trace",
]
