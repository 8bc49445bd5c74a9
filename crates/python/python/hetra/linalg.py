"""Linear algebra. Products run on the device; decompositions run in NumPy on the host, since there
are no kernels for them, and their results go back to the device."""

from __future__ import annotations

import builtins
from typing import Any, NamedTuple

import numpy as np

from . import _core
from . import _functions as f
from ._core import Array
from ._functions import matmul, matrix_transpose, tensordot, vecdot

__all__ = """cholesky cross det diagonal eigh eigvalsh inv matmul matrix_norm matrix_power
matrix_rank matrix_transpose norm outer pinv qr slogdet solve svd svdvals tensordot trace vecdot
vector_norm""".split()


class EighResult(NamedTuple):
    eigenvalues: Array
    eigenvectors: Array


class QRResult(NamedTuple):
    Q: Array
    R: Array


class SlogdetResult(NamedTuple):
    sign: Array
    logabsdet: Array


class SVDResult(NamedTuple):
    U: Array
    S: Array
    Vh: Array


def _float(x: Any, name: str) -> Array:
    x = f.asarray(x)
    if x.dtype.kind not in "fc":
        raise TypeError(f"{name}: wanted floats, got {x.dtype}")
    return x


def _on_host(name: str, function: Any, x: Any, *more: Any, **kwargs: Any) -> Any:
    x = _float(x, name)
    try:
        result = function(f.asnumpy(x), *more, **kwargs)
    except np.linalg.LinAlgError as error:
        raise ValueError(f"{name}: {error}") from None
    if isinstance(result, tuple):
        return tuple(_back(one, x) for one in result)
    return _back(result, x)


def _back(value: Any, x: Array) -> Array:
    return f.asarray(np.array(value, order="C"), device=x.device)


def cholesky(x: Array, /, *, upper: builtins.bool = False) -> Array:
    """The triangle whose product with its transpose is x."""
    low = _on_host("cholesky", np.linalg.cholesky, x)
    return f.conj(low.mT) if upper else low


def inv(x: Array, /) -> Array:
    """The inverse matrices."""
    return _on_host("inv", np.linalg.inv, x)


def pinv(x: Array, /, *, rtol: Any = None) -> Array:
    """The pseudo-inverse matrices."""
    return _on_host("pinv", lambda a: np.linalg.pinv(a) if rtol is None else np.linalg.pinv(a, rtol), x)


def solve(x1: Array, x2: Array, /) -> Array:
    """What x1 multiplies to x2."""
    x1, x2 = _float(x1, "solve"), _float(x2, "solve")
    return _on_host("solve", np.linalg.solve, x1, f.asnumpy(x2))


def det(x: Array, /) -> Array:
    """The determinants."""
    x = _float(x, "det")
    return _on_host("det", np.linalg.det, x) if x.dtype.kind == "c" else x._det()


def slogdet(x: Array, /) -> SlogdetResult:
    """Sign and logarithm of the magnitude of the determinants."""
    return SlogdetResult(*_on_host("slogdet", lambda a: tuple(np.linalg.slogdet(a)), x))


def qr(x: Array, /, *, mode: str = "reduced") -> QRResult:
    """The product of an orthonormal matrix and a triangle."""
    if mode not in ("reduced", "complete"):
        raise ValueError(f"qr: mode is `{mode}`, wanted `reduced` or `complete`")
    return QRResult(*_on_host("qr", lambda a: tuple(np.linalg.qr(a, mode=mode)), x))


def svd(x: Array, /, *, full_matrices: builtins.bool = True) -> SVDResult:
    """The singular values with their vectors."""
    return SVDResult(
        *_on_host("svd", lambda a: tuple(np.linalg.svd(a, full_matrices=full_matrices)), x)
    )


def svdvals(x: Array, /) -> Array:
    """The singular values."""
    return _on_host("svdvals", lambda a: np.linalg.svd(a, compute_uv=False), x)


def eigh(x: Array, /) -> EighResult:
    """Eigenvalues and eigenvectors of symmetric matrices."""
    return EighResult(*_on_host("eigh", lambda a: tuple(np.linalg.eigh(a)), x))


def eigvalsh(x: Array, /) -> Array:
    """Eigenvalues of symmetric matrices."""
    return _on_host("eigvalsh", np.linalg.eigvalsh, x)


def matrix_rank(x: Array, /, *, rtol: Any = None) -> Array:
    """How many singular values are not nearly 0."""
    values = svdvals(x)
    largest = f.max(values, axis=-1, keepdims=True)
    if rtol is None:
        rtol = builtins.max(f.asarray(x).shape[-2:]) * float(np.finfo(values.dtype).eps)
    elif isinstance(rtol, Array):
        rtol = f.expand_dims(rtol, axis=-1)
    return f.count_nonzero(values > largest * rtol, axis=-1)


def matrix_power(x: Array, n: int, /) -> Array:
    """The product of n times the same matrix."""
    x = f.asarray(x)
    if n < 0:
        x, n = inv(x), -n
    if n == 0:
        one = f.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return f.broadcast_to(one, x.shape)
    return _core.power_of(x, n)


def diagonal(x: Array, /, *, offset: int = 0) -> Array:
    """The elements whose column is the row and `offset` more."""
    return f.asarray(x)._diagonal(offset)


def trace(x: Array, /, *, offset: int = 0, dtype: Any = None) -> Array:
    """The sum of a diagonal."""
    return f.sum(diagonal(x, offset=offset), axis=-1, dtype=dtype)


def outer(x1: Array, x2: Array, /) -> Array:
    """The products of each of x1 with each of x2."""
    x1, x2 = f.asarray(x1), f.asarray(x2)
    if x1.ndim != 1 or x2.ndim != 1:
        raise ValueError("outer: wanted two vectors")
    return x1.reshape(-1, 1) * x2.reshape(1, -1)


def cross(x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
    """The vector at right angles to both, of the area between them."""
    x1, x2 = f.broadcast_arrays(x1, x2)
    if x1.shape[axis] != 3:
        raise ValueError("cross: wanted three places along the axis")
    a, b = f.unstack(x1, axis=axis), f.unstack(x2, axis=axis)
    parts = [a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return f.stack(parts, axis=axis)


def vector_norm(
    x: Array, /, *, axis: Any = None, keepdims: builtins.bool = False, ord: Any = 2
) -> Array:
    """The length of vectors along axes."""
    x = f.abs(_float(x, "vector_norm"))
    if ord == float("inf"):
        return f.max(x, axis=axis, keepdims=keepdims)
    if ord == -float("inf"):
        return f.min(x, axis=axis, keepdims=keepdims)
    if ord == 0:
        return f.count_nonzero(x, axis=axis, keepdims=keepdims).astype(x.dtype)
    if ord == 1:
        return f.sum(x, axis=axis, keepdims=keepdims)
    if ord == 2:
        return f.sqrt(f.sum(x * x, axis=axis, keepdims=keepdims))
    return f.sum(x**ord, axis=axis, keepdims=keepdims) ** (1 / ord)


def matrix_norm(x: Array, /, *, keepdims: builtins.bool = False, ord: Any = "fro") -> Array:
    """The norm of the matrices in the last two axes."""
    x = _float(x, "matrix_norm")
    if ord == "fro":
        return vector_norm(x, axis=(-2, -1), keepdims=keepdims)
    if ord in (1, -1, float("inf"), -float("inf")):
        along = -2 if ord in (1, -1) else -1
        sums = f.sum(f.abs(x), axis=along, keepdims=True)
        pick = f.max if ord > 0 else f.min
        result = pick(sums, axis=(-2, -1), keepdims=keepdims)
        return result
    values = svdvals(x)
    if ord == "nuc":
        result = f.sum(values, axis=-1)
    elif ord in (2, -2):
        result = (f.max if ord > 0 else f.min)(values, axis=-1)
    else:
        raise ValueError(f"matrix_norm: there is no norm {ord!r}")
    return result.reshape(*result.shape, 1, 1) if keepdims else result


def norm(x: Array, ord: Any = None, axis: Any = None, keepdims: builtins.bool = False) -> Array:
    """NumPy's norm: of vectors along an axis, of matrices along two, or of all."""
    x = f.asarray(x)
    x = x.astype("float64") if x.dtype.kind in "iu" else x
    if axis is None and ord is None:
        return vector_norm(x, keepdims=keepdims)
    axes = tuple(range(x.ndim)) if axis is None else axis
    if isinstance(axes, int) or len(axes) == 1:
        return vector_norm(x, axis=axes, keepdims=keepdims, ord=2 if ord is None else ord)
    if len(axes) != 2:
        raise ValueError(f"norm: {ord!r} is of matrices: say the two axes")
    moved = f.moveaxis(x, axes, (-2, -1))
    result = matrix_norm(moved, ord="fro" if ord is None else ord)
    kept = [axis % x.ndim for axis in axes]
    return f.expand_dims(result, sorted(kept)) if keepdims else result


_ = (matmul, matrix_transpose, tensordot, vecdot)
