"""Fourier transforms, by NumPy on the host: their results go back to the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _functions as f
from ._core import Array

__all__ = """fft fftfreq fftn fftshift hfft ifft ifftn ifftshift ihfft irfft irfftn rfft rfftfreq
rfftn""".split()


def _run(function: Any, x: Any, *, complex: bool, **kwargs: Any) -> Array:
    x = f.asarray(x)
    if x.dtype.kind not in "fc":
        raise TypeError(f"{function.__name__}: wanted floats or complex numbers, got {x.dtype}")
    if complex and x.dtype.kind == "f":
        x = x.astype("complex64" if x.dtype.itemsize <= 4 else "complex128")
    value = function(f.asnumpy(x), **kwargs)
    narrow = x.dtype in (np.dtype("float32"), np.dtype("complex64"))
    if narrow:
        # NumPy before 2.0 gives double precision.
        value = value.astype("complex64" if value.dtype.kind == "c" else "float32", copy=False)
    return f.asarray(np.array(value, order="C"), device=x.device)


def fft(x: Array, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Array:
    """The transform along an axis."""
    return _run(np.fft.fft, x, complex=True, n=n, axis=axis, norm=norm)


def ifft(x: Array, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Array:
    """The inverse transform along an axis."""
    return _run(np.fft.ifft, x, complex=True, n=n, axis=axis, norm=norm)


def fftn(x: Array, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Array:
    """The transform along several axes."""
    return _run(np.fft.fftn, x, complex=True, s=s, axes=_axes(s, axes), norm=norm)


def ifftn(x: Array, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Array:
    """The inverse transform along several axes."""
    return _run(np.fft.ifftn, x, complex=True, s=s, axes=_axes(s, axes), norm=norm)


def rfft(x: Array, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Array:
    """The transform of real numbers: the half that tells all."""
    _real(x, "rfft")
    return _run(np.fft.rfft, x, complex=False, n=n, axis=axis, norm=norm)


def irfft(x: Array, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Array:
    """The inverse of `rfft`."""
    return _run(np.fft.irfft, x, complex=True, n=n, axis=axis, norm=norm)


def rfftn(x: Array, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Array:
    """The transform of real numbers along several axes."""
    _real(x, "rfftn")
    return _run(np.fft.rfftn, x, complex=False, s=s, axes=_axes(s, axes), norm=norm)


def irfftn(x: Array, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Array:
    """The inverse of `rfftn`."""
    return _run(np.fft.irfftn, x, complex=True, s=s, axes=_axes(s, axes), norm=norm)


def hfft(x: Array, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Array:
    """The transform of what is its own mirror image: real numbers."""
    return _run(np.fft.hfft, x, complex=True, n=n, axis=axis, norm=norm)


def ihfft(x: Array, /, *, n: Any = None, axis: int = -1, norm: str = "backward") -> Array:
    """The inverse of `hfft`."""
    _real(x, "ihfft")
    return _run(np.fft.ihfft, x, complex=False, n=n, axis=axis, norm=norm)


def _axes(s: Any, axes: Any) -> Any:
    return axes if s is None or axes is not None else tuple(range(-len(s), 0))


def _real(x: Any, name: str) -> None:
    if f.asarray(x).dtype.kind != "f":
        raise TypeError(f"{name}: wanted real floats, got {f.asarray(x).dtype}")


def fftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Array:
    """The frequencies that a transform gives."""
    values = np.fft.fftfreq(n, d)
    return f.asarray(values if dtype is None else values.astype(dtype), device=device)


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Array:
    """The frequencies that `rfft` gives."""
    values = np.fft.rfftfreq(n, d)
    return f.asarray(values if dtype is None else values.astype(dtype), device=device)


def fftshift(x: Array, /, *, axes: Any = None) -> Array:
    """Frequency 0 in the middle."""
    return _shift(x, axes, lambda extent: extent // 2)


def ifftshift(x: Array, /, *, axes: Any = None) -> Array:
    """The inverse of `fftshift`."""
    return _shift(x, axes, lambda extent: -(extent // 2))


def _shift(x: Any, axes: Any, by: Any) -> Array:
    x = f.asarray(x)
    axes = tuple(range(x.ndim)) if axes is None else (axes,) if isinstance(axes, int) else tuple(axes)
    return f.roll(x, [by(x.shape[axis]) for axis in axes], axis=axes)
