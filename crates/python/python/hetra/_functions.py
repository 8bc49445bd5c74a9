"""The functions of the Python array API standard (2024.12), and what NumPy calls differently."""

from __future__ import annotations

import builtins
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from . import _core
from ._core import Array
from . import _dtypes as dt

Device = str
Scalar = "bool | int | float"


# Elementwise functions, from the table in Rust: one definition for both.
def _make_unary(name: str, code: int) -> Callable[[Any], Array]:
    def function(x: Any, /) -> Array:
        return _core.unary(code, x)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{name} of each element."
    return function


def _make_binary(name: str, code: int) -> Callable[[Any, Any], Array]:
    def function(x1: Any, x2: Any, /) -> Array:
        return _core.binary(code, x1, x2)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{name} of the elements of two arrays, or of an array and a number."
    return function


UNARY, BINARY = _core.names()
for _code, _name in enumerate(UNARY):
    globals()[_name] = _make_unary(_name, _code)
for _code, _name in enumerate(BINARY):
    globals()[_name] = _make_binary(_name, _code)


def positive(x: Any, /) -> Array:
    """The same numbers."""
    x = asarray(x)
    if x.dtype.kind == "b":
        raise TypeError("positive: wanted numbers, got bool")
    return +x


def where(condition: Any, x1: Any, x2: Any, /) -> Array:
    """x1 where the condition is true, x2 elsewhere."""
    return _core.select(condition, x1, x2)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Array:
    """Not below `min` and not above `max`."""
    return _core.clip(x, min, max)


# Creation.
def asarray(
    obj: Any,
    /,
    *,
    dtype: Any = None,
    device: Device | None = None,
    copy: "builtins.bool | None" = None,
) -> Array:
    """An array of anything: numbers, nested lists, NumPy's arrays, what has `__dlpack__`."""
    if isinstance(obj, Array):
        array = obj
        if device is not None:
            array = array.to_device(device)
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError("asarray: another dtype needs a copy")
            array = array._cast(dtype)
        return _again(array, copy)
    if not isinstance(obj, (np.ndarray, np.generic)) and hasattr(obj, "__dlpack__"):
        # Nothing is computed at once: what its owner writes later must not be seen.
        array = from_dlpack(obj, device=device, copy=True if copy is None else copy)
        return array if dtype is None else array._cast(dtype)
    if copy is False and not isinstance(obj, np.ndarray):
        raise ValueError("asarray: this cannot be an array without a copy")
    _check_range(obj, dtype)
    if isinstance(obj, np.ma.MaskedArray):
        raise TypeError("arrays have no masks: fill them first (`filled`)")
    made = np.asarray(obj, dtype=None if dtype is None else np.dtype(dtype))
    if copy is False and (made is not obj or made.dtype.kind == "b" or not made.flags.writeable):
        raise ValueError("asarray: this cannot be an array without a copy")
    if made.dtype.kind not in "biufc" or made.dtype.itemsize > (16 if made.dtype.kind == "c" else 8):
        raise TypeError(f"arrays have no dtype {made.dtype}")
    if not made.dtype.isnative:
        made = made.astype(made.dtype.newbyteorder("="))
    return _from_numpy(made, device, True if copy is None else copy)


def _again(array: Array, copy: Any) -> Array:
    # Values do not change; the object that names one may be given another.
    return array._reshape(array.shape) if copy else array


def _check_range(obj: Any, dtype: Any) -> None:
    """Python's own numbers must fit: NumPy says so for some only."""
    if dtype is None and isinstance(obj, int) and not -(2**63) <= obj < 2**64:
        raise OverflowError(f"{obj} is out of the range of int64")


def _from_numpy(array: np.ndarray, device: Device | None, copy: "builtins.bool | None") -> Array:
    if not array.flags.c_contiguous or not array.flags.writeable:
        # Copied by NumPy, which knows how; what is read-only the old protocol does not give away.
        if copy is False:
            raise BufferError("the elements are not one after the other, or read-only: copy")
        array, copy = np.array(array, order="C"), None
    return _core.from_dlpack(array.__dlpack__(), copy, device)


def array(
    obj: Any, dtype: Any = None, *, copy: "builtins.bool" = True, device: Device | None = None
) -> Array:
    """An array of anything, which is another one than what it is made of."""
    return asarray(obj, dtype=dtype, device=device, copy=copy or None)


def from_dlpack(
    x: Any, /, *, device: Device | None = None, copy: "builtins.bool | None" = None
) -> Array:
    """An array of what somebody else holds: on the CPU without a copy."""
    if isinstance(x, Array):
        return asarray(x, device=device, copy=copy)
    if isinstance(x, np.ndarray):
        return _from_numpy(x, device, copy)
    return _core.from_dlpack(x.__dlpack__(), copy, device)


def asnumpy(x: Any, /) -> np.ndarray:
    """A NumPy array of the value; NumPy's to write in."""
    x = x if isinstance(x, Array) else asarray(x)
    return np.from_dlpack(x).copy()


def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: Device | None = None) -> Array:
    """One number in every place."""
    return _core.full(shape, fill_value, dtype, device)


def zeros(shape: Any, *, dtype: Any = None, device: Device | None = None) -> Array:
    """Zeros."""
    return _core.full(shape, 0.0, dt.float64 if dtype is None else dtype, device)


def ones(shape: Any, *, dtype: Any = None, device: Device | None = None) -> Array:
    """Ones."""
    return _core.full(shape, 1.0, dt.float64 if dtype is None else dtype, device)


def empty(shape: Any, *, dtype: Any = None, device: Device | None = None) -> Array:
    """An array of whatever: of zeros."""
    return zeros(shape, dtype=dtype, device=device)


def full_like(
    x: Array, /, fill_value: Any, *, dtype: Any = None, device: Device | None = None
) -> Array:
    """One number in every place of an array like this one."""
    return _core.full(x.shape, fill_value, dtype or x.dtype, device or x.device)


def zeros_like(x: Array, /, *, dtype: Any = None, device: Device | None = None) -> Array:
    """Zeros in an array like this one."""
    return full_like(x, 0, dtype=dtype, device=device)


def ones_like(x: Array, /, *, dtype: Any = None, device: Device | None = None) -> Array:
    """Ones in an array like this one."""
    return full_like(x, 1, dtype=dtype, device=device)


def empty_like(x: Array, /, *, dtype: Any = None, device: Device | None = None) -> Array:
    """An array like this one, of zeros."""
    return zeros_like(x, dtype=dtype, device=device)


def arange(
    start: Any,
    /,
    stop: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    device: Device | None = None,
) -> Array:
    """The numbers from `start` up to `stop`, `step` apart; from 0 where only one is given."""
    if stop is None:
        start, stop = 0, start
    return _core.arange(start, stop, step, dtype, device)


def linspace(
    start: Any,
    stop: Any,
    /,
    num: int,
    *,
    dtype: Any = None,
    device: Device | None = None,
    endpoint: "builtins.bool" = True,
) -> Array:
    """`num` numbers from `start` to `stop`, evenly apart."""
    if num < 0:
        raise ValueError(f"linspace: {num} numbers, wanted 0 or more")
    return _core.linspace(start, stop, num, endpoint, dtype, device)


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: Any = None,
    device: Device | None = None,
) -> Array:
    """Ones where the column is the row and `k` more."""
    n_cols = n_rows if n_cols is None else n_cols
    k = builtins.max(-n_rows, builtins.min(k, n_cols))
    return _core.eye(n_rows, n_cols, k, dtype, device)


def tril(x: Array, /, *, k: int = 0) -> Array:
    """What is on and below a diagonal."""
    return asarray(x)._triangle(False, k)


def triu(x: Array, /, *, k: int = 0) -> Array:
    """What is on and above a diagonal."""
    return asarray(x)._triangle(True, k)


def meshgrid(*arrays: Array, indexing: str = "xy") -> list[Array]:
    """Vectors spread over the grid that they span."""
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing is `{indexing}`, wanted `xy` or `ij`")
    swap = indexing == "xy" and len(arrays) > 1
    vectors = [asarray(one) for one in arrays]
    if swap:
        vectors[0], vectors[1] = vectors[1], vectors[0]
    shape = tuple(one.size for one in vectors)
    grids = []
    for axis, one in enumerate(vectors):
        own = [1] * len(vectors)
        own[axis] = one.size
        grids.append(one._reshape(own)._broadcast_to(shape))
    if swap:
        grids[0], grids[1] = grids[1], grids[0]
    return grids


# Dtypes and devices.
def astype(
    x: Array, dtype: Any, /, *, copy: "builtins.bool" = True, device: Device | None = None
) -> Array:
    """The same elements as another dtype."""
    x = asarray(x, device=device)
    return x._cast(dtype) if np.dtype(dtype) != x.dtype else _again(x, copy)


def broadcast_arrays(*arrays: Array) -> list[Array]:
    """Arrays repeated until all are of one shape."""
    all = [asarray(one) for one in arrays]
    shape = np.broadcast_shapes(*(one.shape for one in all))
    return [one._broadcast_to(shape) for one in all]


def broadcast_to(x: Array, /, shape: Any) -> Array:
    """An array repeated until it is of this shape."""
    return asarray(x)._broadcast_to(shape)


# Shapes.
def reshape(x: Array, /, shape: Any, *, copy: "builtins.bool | None" = None) -> Array:
    """The elements in the same order in another shape."""
    return asarray(x)._reshape(shape)


def permute_dims(x: Array, /, axes: Sequence[int]) -> Array:
    """The axes in another order."""
    return asarray(x)._permute(list(axes))


def matrix_transpose(x: Array, /) -> Array:
    """The last two axes exchanged."""
    return asarray(x).mT


def moveaxis(x: Array, source: Any, destination: Any, /) -> Array:
    """Axes moved to other places."""
    return asarray(x)._move_axes(_list(source), _list(destination))


def _list(axes: Any) -> list[int]:
    return [axes] if isinstance(axes, int) else list(axes)


def expand_dims(x: Array, /, axis: Any = 0) -> Array:
    """A new axis of extent 1."""
    return asarray(x)._expand_dims(_list(axis))


def squeeze(x: Array, /, axis: Any) -> Array:
    """Without axes of extent 1."""
    return asarray(x)._squeeze(_list(axis))


def concat(arrays: Sequence[Array], /, *, axis: int | None = 0) -> Array:
    """Arrays one after the other along an axis."""
    if axis is None:
        return _core.concat([asarray(one)._reshape(-1) for one in arrays], 0)
    return _core.concat(arrays, axis)


def stack(arrays: Sequence[Array], /, *, axis: int = 0) -> Array:
    """Arrays along a new axis."""
    return _core.stack(arrays, axis)


def unstack(x: Array, /, *, axis: int = 0) -> tuple[Array, ...]:
    """The parts along an axis."""
    x = asarray(x)
    axis = _axis(axis, x.ndim)
    before = (slice(None),) * axis
    return tuple(x[(*before, at)] for at in range(x.shape[axis]))


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise IndexError(f"axis {axis} is out of range for an array of {rank} axes")
    return axis % rank


def flip(x: Array, /, *, axis: Any = None) -> Array:
    """The elements in the opposite order along axes."""
    x = asarray(x)
    return x._flip(list(range(x.ndim)) if axis is None else _list(axis))


def roll(x: Array, /, shift: Any, *, axis: Any = None) -> Array:
    """The elements further along axes, those from the end to the front."""
    x = asarray(x)
    if axis is None:
        return x._reshape(-1)._roll([shift], [0])._reshape(x.shape)
    axes, shifts = _list(axis), _list(shift)
    if len(shifts) == 1:
        shifts = shifts * len(axes)
    if len(shifts) != len(axes):
        raise ValueError("roll: wanted as many shifts as axes")
    return x._roll(shifts, axes)


def tile(x: Array, repetitions: Sequence[int], /) -> Array:
    """The whole repeated along axes."""
    return asarray(x)._tile(_list(repetitions))


def repeat(x: Array, repeats: Any, /, *, axis: int | None = None) -> Array:
    """Each element repeated along an axis."""
    x = asarray(x)
    if axis is None:
        x, axis = x._reshape(-1), 0
    if isinstance(repeats, int):
        return x._repeat(repeats, axis)
    counts = asnumpy(repeats) if isinstance(repeats, Array) else np.asarray(repeats)
    if counts.size == 1:
        return x._repeat(int(counts.reshape(())), axis)
    places = np.repeat(np.arange(x.shape[axis]), counts)
    return _core.take(x, asarray(places, device=x.device), axis)


# Reductions.
def sum(
    x: Array, /, *, axis: Any = None, dtype: Any = None, keepdims: "builtins.bool" = False
) -> Array:
    """The sum along axes, or of all."""
    return _core.reduce("sum", x, axis, keepdims, dtype)


def prod(
    x: Array, /, *, axis: Any = None, dtype: Any = None, keepdims: "builtins.bool" = False
) -> Array:
    """The product along axes, or of all."""
    return _core.reduce("prod", x, axis, keepdims, dtype)


def mean(x: Array, /, *, axis: Any = None, keepdims: "builtins.bool" = False) -> Array:
    """The mean along axes, or of all."""
    return _core.reduce("mean", x, axis, keepdims)


def max(x: Array, /, *, axis: Any = None, keepdims: "builtins.bool" = False) -> Array:
    """The greatest along axes, or of all."""
    return _core.reduce("max", x, axis, keepdims)


def min(x: Array, /, *, axis: Any = None, keepdims: "builtins.bool" = False) -> Array:
    """The least along axes, or of all."""
    return _core.reduce("min", x, axis, keepdims)


def any(x: Array, /, *, axis: Any = None, keepdims: "builtins.bool" = False) -> Array:
    """Whether one is not 0."""
    return _core.reduce("any", x, axis, keepdims)


def all(x: Array, /, *, axis: Any = None, keepdims: "builtins.bool" = False) -> Array:
    """Whether none is 0."""
    return _core.reduce("all", x, axis, keepdims)


def var(
    x: Array, /, *, axis: Any = None, correction: float = 0.0, keepdims: "builtins.bool" = False
) -> Array:
    """The mean square of the distance from the mean."""
    return _core.variance(x, axis, correction, keepdims)


def std(
    x: Array, /, *, axis: Any = None, correction: float = 0.0, keepdims: "builtins.bool" = False
) -> Array:
    """The root of `var`."""
    return sqrt(var(x, axis=axis, correction=correction, keepdims=keepdims))  # noqa: F821


def argmax(x: Array, /, *, axis: int | None = None, keepdims: "builtins.bool" = False) -> Array:
    """The place of the greatest."""
    return _core.extreme(x, False, axis, keepdims)


def argmin(x: Array, /, *, axis: int | None = None, keepdims: "builtins.bool" = False) -> Array:
    """The place of the least."""
    return _core.extreme(x, True, axis, keepdims)


def count_nonzero(x: Array, /, *, axis: Any = None, keepdims: "builtins.bool" = False) -> Array:
    """How many are not 0."""
    return sum(asarray(x)._cast(dt.bool), axis=axis, keepdims=keepdims)


def _cumulative(x: Any, product: "builtins.bool", axis: Any, dtype: Any, initial: Any) -> Array:
    x = asarray(x)
    if axis is None:
        if x.ndim != 1:
            raise ValueError("a running sum of several axes wants the axis said")
        axis = 0
    axis = _axis(axis, x.ndim)
    wanted = np.dtype(dtype) if dtype is not None else None
    result = _core.cumulative(x if wanted is None else x._cast(wanted), product, axis)
    if wanted is not None:
        result = result._cast(wanted)
    if initial:
        shape = list(x.shape)
        shape[axis] = 1
        first = full(shape, 1 if product else 0, dtype=result.dtype, device=x.device)
        result = concat([first, result], axis=axis)
    return result


def cumulative_sum(
    x: Array,
    /,
    *,
    axis: int | None = None,
    dtype: Any = None,
    include_initial: "builtins.bool" = False,
) -> Array:
    """Sums of all elements so far."""
    return _cumulative(x, False, axis, dtype, include_initial)


def cumulative_prod(
    x: Array,
    /,
    *,
    axis: int | None = None,
    dtype: Any = None,
    include_initial: "builtins.bool" = False,
) -> Array:
    """Products of all elements so far."""
    return _cumulative(x, True, axis, dtype, include_initial)


def diff(
    x: Array,
    /,
    *,
    axis: int = -1,
    n: int = 1,
    prepend: Array | None = None,
    append: Array | None = None,
) -> Array:
    """The differences of neighbours."""
    parts = [asarray(one) for one in (prepend, x, append) if one is not None]
    return concat(parts, axis=axis)._diff(n, axis)


# Searching and sorting.
def sort(
    x: Array,
    /,
    *,
    axis: int = -1,
    descending: "builtins.bool" = False,
    stable: "builtins.bool" = True,
) -> Array:
    """The elements in order along an axis."""
    return _core.sort(x, axis, descending)[0]


def argsort(
    x: Array,
    /,
    *,
    axis: int = -1,
    descending: "builtins.bool" = False,
    stable: "builtins.bool" = True,
) -> Array:
    """The places of the elements in order; equal ones keep theirs."""
    return _core.sort(x, axis, descending)[1]


def nonzero(x: Array, /) -> tuple[Array, ...]:
    """The places that are not 0, an array for each axis."""
    return tuple(_core.nonzero(x))


def searchsorted(
    x1: Array, x2: Any, /, *, side: str = "left", sorter: Array | None = None
) -> Array:
    """Where each of x2 belongs in the sorted x1."""
    if side not in ("left", "right"):
        raise ValueError(f"searchsorted: side is `{side}`, wanted `left` or `right`")
    x1 = asarray(x1)
    if sorter is not None:
        x1 = _core.take(x1, sorter, 0)
    return _core.search_sorted(x1, x2, side == "right")


def take(x: Array, indices: Array, /, *, axis: int | None = None) -> Array:
    """The places that integers name along an axis."""
    x = asarray(x)
    if axis is None:
        if x.ndim != 1:
            raise ValueError("take: wanted an axis for an array of several")
        axis = 0
    return _core.take(x, indices, axis)


def take_along_axis(x: Array, indices: Array, /, *, axis: int = -1) -> Array:
    """For each index the element at its place, but at that index along the axis."""
    return _core.take_along(x, indices, axis)


def isin(x1: Any, x2: Any, /, *, invert: "builtins.bool" = False) -> Array:
    """Whether each of x1 is among x2."""
    found = _core.is_in(x1, x2)
    return ~found if invert else found


# Sets.
class UniqueAll(NamedTuple):
    values: Array
    indices: Array
    inverse_indices: Array
    counts: Array


class UniqueCounts(NamedTuple):
    values: Array
    counts: Array


class UniqueInverse(NamedTuple):
    values: Array
    inverse_indices: Array


def unique_all(x: Array, /) -> UniqueAll:
    """The different elements: values, first places, which each is, how many."""
    return UniqueAll(*_core.unique(x))


def unique_counts(x: Array, /) -> UniqueCounts:
    """The different elements, and how many of each."""
    values, _, _, counts = _core.unique(x)
    return UniqueCounts(values, counts)


def unique_inverse(x: Array, /) -> UniqueInverse:
    """The different elements, and which each is."""
    values, _, inverse, _ = _core.unique(x)
    return UniqueInverse(values, inverse)


def unique_values(x: Array, /) -> Array:
    """The different elements in order."""
    return _core.unique(x)[0]


# Products.
def matmul(x1: Array, x2: Array, /) -> Array:
    """The product of matrices."""
    return _core.matmul(x1, x2)


def einsum(expression: str, *operands: Array) -> Array:
    """Sums of products, as an expression such as `ij,jk->ik` says."""
    return _core.einsum(expression, operands)


def tensordot(x1: Array, x2: Array, /, *, axes: Any = 2) -> Array:
    """The sum of products along axes of both."""
    x1, x2 = asarray(x1), asarray(x2)
    if isinstance(axes, int):
        own, others = list(range(x1.ndim - axes, x1.ndim)), list(range(axes))
    else:
        own, others = _list(axes[0]), _list(axes[1])
    return _core.tensordot(x1, x2, own, others)


def vecdot(x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
    """The sum of products along an axis of both."""
    return _core.vecdot(x1, x2, axis)


def dot(x1: Any, x2: Any, /) -> Array:
    """NumPy's product: of vectors, of matrices, or by a number."""
    x1, x2 = asarray(x1), asarray(x2)
    if x1.ndim == 0 or x2.ndim == 0:
        return x1 * x2
    if x2.ndim <= 2:
        return _core.matmul(x1, x2)
    return tensordot(x1, x2, axes=([-1], [-2]))


def eval(*arrays: Array) -> None:
    """Computes arrays now, those of one device together."""
    _core.eval(arrays)


# NumPy's names.
absolute = abs  # noqa: F821
concatenate = concat
transpose = permute_dims
power = pow  # noqa: F821
true_divide = divide  # noqa: F821
mod = remainder  # noqa: F821
arccos, arcsin, arctan = acos, asin, atan  # noqa: F821
arccosh, arcsinh, arctanh = acosh, asinh, atanh  # noqa: F821
arctan2 = atan2  # noqa: F821
left_shift, right_shift = bitwise_left_shift, bitwise_right_shift  # noqa: F821
invert = bitwise_not = bitwise_invert  # noqa: F821
cumsum, cumprod = cumulative_sum, cumulative_prod
amax, amin = max, min

STANDARD = """abs acos acosh add all any arange argmax argmin argsort asarray asin asinh astype atan
atan2 atanh bitwise_and bitwise_invert bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor
broadcast_arrays broadcast_to ceil clip concat conj copysign cos cosh count_nonzero cumulative_prod
cumulative_sum diff divide empty empty_like equal exp expand_dims expm1 eye flip floor floor_divide
from_dlpack full full_like greater greater_equal hypot imag isfinite isin isinf isnan less less_equal
linspace log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor
matmul matrix_transpose max maximum mean meshgrid min minimum moveaxis multiply negative nextafter
nonzero not_equal ones ones_like permute_dims positive pow prod real reciprocal remainder repeat
reshape roll round searchsorted sign signbit sin sinh sort sqrt square squeeze stack std subtract sum
take take_along_axis tan tanh tensordot tile tril triu trunc unique_all unique_counts unique_inverse
unique_values unstack var vecdot where zeros zeros_like""".split()

MORE = """absolute amax amin array arccos arccosh arcsin arcsinh arctan arctan2 arctanh asnumpy
bitwise_not concatenate cumprod cumsum dot einsum erf eval invert left_shift mod power right_shift
sigmoid transpose true_divide""".split()
