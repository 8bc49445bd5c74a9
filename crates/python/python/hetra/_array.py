"""Methods of `Array` that are functions by another name, and the protocols of others."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from . import _core
from . import _functions as f
from ._core import Array


def _method(function: Any) -> Any:
    def method(self: Array, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    method.__name__ = function.__name__
    method.__qualname__ = f"Array.{function.__name__}"
    method.__doc__ = function.__doc__
    return method


def _reduction(function: Any) -> Any:
    """NumPy lets the axis be said by place."""

    def method(
        self: Array,
        axis: Any = None,
        dtype: Any = None,
        *,
        keepdims: builtins.bool = False,
        ddof: Any = None,
        **more: Any,
    ) -> Array:
        if ddof is not None:
            more["correction"] = ddof
        if dtype is not None and function.__name__ not in ("sum", "prod"):
            self = self.astype(dtype)
        elif dtype is not None:
            more["dtype"] = dtype
        return function(self, axis=axis, keepdims=keepdims, **more)

    method.__name__ = function.__name__
    method.__qualname__ = f"Array.{function.__name__}"
    method.__doc__ = function.__doc__
    return method


def _reshape(self: Array, *shape: Any, copy: Any = None) -> Array:
    """The elements in the same order in another shape."""
    wanted = shape[0] if len(shape) == 1 else shape
    return self._reshape(wanted)


def _transpose(self: Array, *axes: Any) -> Array:
    """The axes in another order; in the opposite one where none is said."""
    if not axes or axes == (None,):
        return self.T
    return self._permute(list(axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes))


def _squeeze(self: Array, axis: Any = None) -> Array:
    """Without axes of extent 1."""
    axes = [at for at, extent in enumerate(self.shape) if extent == 1] if axis is None else axis
    return f.squeeze(self, axes)


def _astype(self: Array, dtype: Any, copy: builtins.bool = True) -> Array:
    """The same elements as another dtype."""
    return f.astype(self, dtype, copy=copy)


def _tolist(self: Array) -> Any:
    """Nested lists of Python's numbers."""
    return f.asnumpy(self).tolist()


def _repr(self: Array) -> str:
    text = np.array2string(f.asnumpy(self), separator=", ", prefix="Array(")
    return f"Array({text}, dtype={self.dtype}, device={self.device!r})"


def _str(self: Array) -> str:
    return str(f.asnumpy(self))


def _iter(self: Array) -> Any:
    if self.ndim == 0:
        raise TypeError("an array without axes has nothing to go through")
    return (self[at] for at in range(self.shape[0]))


def _format(self: Array, spec: str) -> str:
    return format(self.item(), spec) if self.ndim == 0 else format(_str(self), spec)


def _as_numpy(self: Array, dtype: Any = None, copy: Any = None) -> np.ndarray:
    if copy is False:
        array = np.from_dlpack(self)
        if dtype is not None and np.dtype(dtype) != array.dtype:
            raise ValueError("another dtype needs a copy")
        return array
    array = f.asnumpy(self)
    return array if dtype is None else array.astype(dtype, copy=False)


def _dlpack(
    self: Array,
    *,
    stream: Any = None,
    max_version: Any = None,
    dl_device: Any = None,
    copy: Any = None,
) -> Any:
    if stream is not None:
        raise ValueError("the value is on the host: there are no streams")
    if dl_device is not None and tuple(int(one) for one in dl_device) != (1, 0):
        raise BufferError(f"the value is given on the host, not on DLPack device {dl_device}")
    # Of version 1 on, a consumer can be told that it may only read; others get a copy.
    # Who says that there must be none takes it on not to write.
    versioned = max_version is not None and tuple(max_version) >= (1, 0)
    return self._capsule(versioned, bool(copy) or copy is None and not versioned)


def _dlpack_device(self: Array) -> tuple[int, int]:
    return (1, 0)


def _namespace(self: Array, *, api_version: str | None = None) -> Any:
    if api_version not in (None, "2021.12", "2022.12", "2023.12", "2024.12"):
        raise ValueError(f"there is no array API {api_version} here")
    import hetra

    return hetra


def _sort(self: Array, axis: int = -1) -> None:
    """Puts the elements in order, in place, as NumPy does; `hetra.sort` gives a new array."""
    self[...] = f.sort(self, axis=axis)


def _swapaxes(self: Array, a: int, b: int) -> Array:
    """Two axes exchanged."""
    order = list(range(self.ndim))
    order[a], order[b] = order[b], order[a]
    return self._permute(order)


def _along(function: Any, self: Array, indices: Any, axis: Any) -> Array:
    return function(self._reshape(-1) if axis is None else self, indices, axis=axis or 0)


def _running(function: Any, self: Array, axis: Any, dtype: Any) -> Array:
    return function(self._reshape(-1) if axis is None else self, axis=axis or 0, dtype=dtype)


def _round(self: Array, decimals: int = 0) -> Array:
    """The nearest number with so many decimals; halves go to the even one."""
    if decimals == 0:
        return f.round(self)
    return f.round(self * 10.0**decimals) / 10.0**decimals


def _rebuild(value: np.ndarray, device: str) -> Array:
    return f.asarray(value, device=device)


def _reduce_pickle(self: Array) -> Any:
    return _rebuild, (f.asnumpy(self), self.device)


def _deepcopy(self: Array, memo: Any = None) -> Array:
    return self._reshape(self.shape)


_METHODS: dict[str, Any] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "astype": _astype,
    "tolist": _tolist,
    "__repr__": _repr,
    "__str__": _str,
    "__iter__": _iter,
    "__format__": _format,
    "__array__": _as_numpy,
    "__dlpack__": _dlpack,
    "__dlpack_device__": _dlpack_device,
    "__array_namespace__": _namespace,
    "__reduce__": _reduce_pickle,
    "__copy__": _deepcopy,
    "__deepcopy__": _deepcopy,
    "__complex__": lambda self: complex(self.item()),
    "__hash__": None,
    "copy": _deepcopy,
    "ravel": lambda self: self._reshape(-1),
    "flatten": lambda self: self._reshape(-1),
    "get": lambda self: f.asnumpy(self),
    "real": property(lambda self: f.real(self)),
    "imag": property(lambda self: f.imag(self)),
    "itemsize": property(lambda self: self.dtype.itemsize),
    "nbytes": property(lambda self: self.dtype.itemsize * self.size),
    "swapaxes": _swapaxes,
    "__contains__": lambda self, value: bool(f.any(f.equal(self, value))),
    "sort": _sort,
    "take": lambda self, indices, axis=None: _along(f.take, self, indices, axis),
    "repeat": lambda self, repeats, axis=None: f.repeat(self, repeats, axis=axis),
    "cumsum": lambda self, axis=None, dtype=None: _running(f.cumsum, self, axis, dtype),
    "cumprod": lambda self, axis=None, dtype=None: _running(f.cumprod, self, axis, dtype),
    "round": _round,
    "argsort": lambda self, axis=-1, *, descending=False: f.argsort(
        self, axis=axis, descending=descending
    ),
    "to": lambda self, device: self.to_device(device),
}


def install() -> None:
    """Gives the class its methods."""
    for name, method in _METHODS.items():
        setattr(Array, name, method)
    for name in "sum prod mean max min any all var std argmax argmin".split():
        setattr(Array, name, _reduction(getattr(f, name)))
    for name in "dot clip nonzero conj".split():
        setattr(Array, name, _method(getattr(f, name)))


_ = _core
