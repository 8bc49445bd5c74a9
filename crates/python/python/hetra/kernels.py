"""Kernels as CuPy has them. Their bodies become the calls of arrays, which are compiled together
for whatever device the arrays are on."""

from __future__ import annotations

import functools
from typing import Any, Callable

import numpy as np

from . import _functions as f
from ._array import Array
from ._expression import KernelSyntaxError, Program, expression

__all__ = ["ElementwiseKernel", "KernelSyntaxError", "ReductionKernel", "fuse"]


class _Parameter:
    def __init__(self, text: str) -> None:
        parts = text.split()
        parts = [part for part in parts if part != "raw"]
        if len(parts) != 2 or "raw" in text.split():
            raise KernelSyntaxError(f"`{text.strip()}` is no parameter: wanted a dtype and a name")
        self.type, self.name = parts
        # A single capital stands for any dtype, the same wherever it stands.
        self.dtype = None if len(self.type) == 1 and self.type.isupper() else np.dtype(self.type)


def _parameters(text: str) -> list[_Parameter]:
    return [_Parameter(one) for one in text.split(",") if one.strip()]


def _bind(parameters: list[_Parameter], arguments: tuple[Any, ...], name: str) -> tuple[dict, dict]:
    if len(arguments) != len(parameters):
        raise TypeError(f"{name}: wanted {len(parameters)} arguments, got {len(arguments)}")
    first = next((one for one in arguments if isinstance(one, Array)), None)
    values: dict[str, Any] = {}
    types: dict[str, np.dtype] = {}
    for parameter, argument in zip(parameters, arguments):
        scalar = isinstance(argument, (bool, int, float))
        wanted = parameter.dtype or types.get(parameter.type)
        if scalar:
            wanted = wanted or (first.dtype if first is not None else None)
            argument = f.full((), argument, dtype=wanted, device=first.device if first is not None else None)
        else:
            # What is no array of a device yet goes where the others are.
            here = not isinstance(argument, Array) and first is not None
            argument = f.asarray(argument, device=first.device if here else None)
        if wanted is not None and argument.dtype != wanted:
            if parameter.dtype is None or not np.can_cast(argument.dtype, wanted, "same_kind"):
                raise TypeError(f"{name}: `{parameter.name}` is {wanted}, got {argument.dtype}")
            argument = argument.astype(wanted)
        if parameter.dtype is None:
            types[parameter.type] = argument.dtype
        values[parameter.name] = argument
    return values, types


def _cast(value: Any, parameter: _Parameter, types: dict[str, np.dtype]) -> Array:
    dtype = parameter.dtype or types.get(parameter.type)
    value = f.asarray(value)
    return value if dtype is None or value.dtype == dtype else value.astype(dtype)


class ElementwiseKernel:
    """A function of the elements at one place, by statements as C writes them.

    >>> squared = ElementwiseKernel("float32 x, float32 y", "float32 z", "z = (x - y) * (x - y)")
    """

    def __init__(
        self, in_params: str, out_params: str, operation: str, name: str = "kernel", **options: Any
    ) -> None:
        self.name = name
        self._in, self._out = _parameters(in_params), _parameters(out_params)
        if not self._out:
            raise KernelSyntaxError(f"{name}: wanted a result or more")
        self._program = Program(operation)
        if options.pop("preamble", ""):
            raise KernelSyntaxError(f"{name}: there is no preamble: statements and functions only")

    def __call__(self, *arguments: Any, **kwargs: Any) -> Any:
        most = len(self._in) + len(self._out)
        if len(arguments) > most:
            raise TypeError(f"{self.name}: wanted {most} arguments at most, got {len(arguments)}")
        out = list(arguments[len(self._in):])
        values, types = _bind(self._in, arguments[: len(self._in)], self.name)
        after = self._program.run(values, types=types)
        shape = np.broadcast_shapes(*(one.shape for one in values.values()))
        results = []
        for parameter in self._out:
            if parameter.name not in after:
                raise KernelSyntaxError(f"{self.name}: nothing is assigned to `{parameter.name}`")
            result = _cast(after[parameter.name], parameter, types)
            results.append(f.broadcast_to(result, shape) if values else result)
        for target, result in zip(out, results):
            target[...] = result
        results = out or results
        return results[0] if len(results) == 1 else tuple(results)


_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "a+b": f.sum,
    "a*b": f.prod,
    "max(a,b)": f.max,
    "min(a,b)": f.min,
    "fmax(a,b)": f.max,
    "fmin(a,b)": f.min,
    "a>b?a:b": f.max,
    "a<b?a:b": f.min,
    "a&&b": f.all,
    "a||b": f.any,
}


_COMBINED: dict[Any, Callable[..., Array]] = {
    f.sum: lambda a, b: a + b if b else a,
    f.prod: lambda a, b: a * b if b != 1 else a,
    f.max: f.maximum,
    f.min: f.minimum,
    f.all: lambda a, b: f.logical_and(a, bool(b)),
    f.any: lambda a, b: f.logical_or(a, bool(b)),
}


class ReductionKernel:
    """Maps elements, reduces them along axes, and maps the result.

    >>> norm = ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "norm")
    """

    def __init__(
        self,
        in_params: str,
        out_params: str,
        map_expr: str,
        reduce_expr: str,
        post_map_expr: str,
        identity: Any = None,
        name: str = "kernel",
        **options: Any,
    ) -> None:
        self.name = name
        self._in, self._out = _parameters(in_params), _parameters(out_params)
        if len(self._out) != 1:
            raise KernelSyntaxError(f"{name}: wanted one result")
        self._map = map_expr
        expression(map_expr, {}, dry=True)
        reduce = _REDUCTIONS.get("".join(reduce_expr.split()))
        if reduce is None:
            known = ", ".join(_REDUCTIONS)
            raise KernelSyntaxError(f"{name}: no reduction by `{reduce_expr}`; there are {known}")
        self._reduce = reduce
        self._post = Program(post_map_expr)
        # The neutral element, as text or as a number; what is another one is taken in.
        self._identity = expression(str(identity), {}) if identity not in (None, "") else None

    def _reduced(self, mapped: Array, axis: Any, keepdims: bool) -> Array:
        if self._reduce in (f.sum, f.prod):
            reduced = self._reduce(mapped, axis=axis, keepdims=keepdims, dtype=mapped.dtype)
        elif mapped.size == 0 and self._identity is not None:
            shape = f.sum(mapped, axis=axis, keepdims=keepdims).shape
            return f.full(shape, self._identity, dtype=mapped.dtype, device=mapped.device)
        else:
            reduced = self._reduce(mapped, axis=axis, keepdims=keepdims)
        if self._identity is None:
            return reduced
        combine = _COMBINED[self._reduce]
        return combine(reduced, self._identity)

    def __call__(self, *arguments: Any, axis: Any = None, keepdims: bool = False, out: Any = None) -> Array:
        values, types = _bind(self._in, arguments, self.name)
        # As CuPy: in the dtype of the result.
        mapped = _cast(expression(self._map, values, types=types), self._out[0], types)
        reduced = self._reduced(mapped, axis, keepdims)
        name = self._out[0].name
        after = self._post.run({"a": reduced}, types=types)
        if name not in after:
            raise KernelSyntaxError(f"{self.name}: nothing is assigned to `{name}`")
        result = _cast(after[name], self._out[0], types)
        if out is not None:
            out[...] = result
            return out
        return result


def fuse(*decorated: Any, kernel_name: str | None = None) -> Any:
    """Marks a function of arrays whose calls are to be computed together. Arrays do that without
    it: nothing is computed before a value is asked for; so this only gives the function a name."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def fused(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        if kernel_name:
            fused.__name__ = kernel_name
        return fused

    return wrap(decorated[0]) if decorated and callable(decorated[0]) else wrap
