"""What goes into a graph of PyTorch's and comes out of it, by the places of its arguments.

Extents that Dynamo keeps open stay open in a model, and numbers that are such extents are found
there; all other numbers are part of it. Memory that values share in PyTorch they share here.
"""

from __future__ import annotations

from typing import Any, Sequence

import torch


class Refused(Exception):
    """Why a graph stays in PyTorch."""


class Inputs:
    """The inputs of a graph, by their places."""

    def __init__(self, graph: torch.fx.GraphModule, examples: Sequence[Any]):
        nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
        # What Dynamo computed with: fake tensors, in whose shapes open extents are symbols.
        self.values = [n.meta.get("example_value", one) for n, one in zip(nodes, examples)]
        self.tensors: list[int] = []
        self.weights: set[int] = set()
        self.numbers: list[int] = []
        self.open: dict[int, list[int]] = {}
        for at, (node, example, value) in enumerate(zip(nodes, examples, self.values)):
            if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool, int, float)):
                self.numbers.append(at)
            elif _is_wrapped(node, value):
                # Dynamo hands over Python's floats so where they may change.
                self.numbers.append(at)
            else:
                _check(node.name, example)
                self.tensors.append(at)
                marks = node.meta.get("tensor_dict") or {}
                still = "_dynamo_static_input_type" in marks
                axes = [a for a, size in enumerate(value.shape) if isinstance(size, torch.SymInt)]
                if axes:
                    self.open[at] = axes
                elif still or isinstance(example, torch.nn.Parameter):
                    self.weights.add(at)
        # Sizes of tensors are not part of the model.
        sizes = {str(self.values[at].shape[a]): (at, a) for at in self.open for a in self.open[at]}
        symbols = {at: str(self.values[at]) for at in self.numbers}
        self.sizes = {at: sizes[name] for at, name in symbols.items() if name in sizes}
        self.fixed = [at for at in self.numbers if at not in self.sizes]

    def key(self, args: Sequence[Any]) -> tuple:
        """What a model is chosen by: the numbers that are part of it, and the open shapes."""
        return self.fixed_in(args), self.shapes_in(args)

    def fixed_in(self, args: Sequence[Any]) -> tuple:
        # `repr`, since 1, 1.0 and True are one key.
        return tuple(repr(_plain(args[at])) for at in self.fixed)

    def shapes_in(self, args: Sequence[Any]) -> tuple:
        return tuple(tuple(args[at].shape) for at in self.open)


def _plain(number: Any) -> Any:
    return number.item() if isinstance(number, torch.Tensor) else number


def _is_wrapped(node: torch.fx.Node, value: Any) -> bool:
    """Whether a tensor is a number, of which nothing is used but that."""
    users = list(node.users)
    items = all(user.op == "call_method" and user.target == "item" for user in users)
    return isinstance(value, torch.Tensor) and value.dim() == 0 and bool(users) and items


def _check(name: str, tensor: Any) -> None:
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise Refused(f"`{name}` is a {type(tensor).__name__}, no plain tensor")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise Refused(f"`{name}` has no elements one after the other")
    if tensor.dtype.is_complex:
        raise Refused(f"`{name}` is complex")


class Outputs:
    """The outputs of a graph. A model computes those that have memory of their own."""

    def __init__(self, graph: torch.fx.GraphModule, inputs: Inputs):
        (node,) = [node for node in graph.graph.nodes if node.op == "output"]
        places = [n for n in graph.graph.nodes if n.op == "placeholder"]
        self.inputs = inputs
        self.all: list[Any] = list(node.args[0])
        node_type = torch.fx.Node
        self.values = [
            one.meta.get("example_value") if isinstance(one, node_type) else one for one in self.all
        ]
        self.given = {at: places.index(one) for at, one in enumerate(self.all) if one in places}
        owners = {_memory(inputs.values[at]): at for at in inputs.tensors}
        memories = [_memory(one) if isinstance(one, torch.Tensor) else None for one in self.values]
        self.views: dict[int, int] = {}
        self.shared: dict[int, int] = {}
        self.computed: dict[int, int] = {}
        slots: dict[Any, int] = {}
        for at, (one, value, memory) in enumerate(zip(self.all, self.values, memories)):
            if at in self.given or not isinstance(one, node_type):
                continue
            if value is None or isinstance(value, torch.Tensor) and value.dtype.is_complex:
                raise Refused(f"the output `{one.name}` is no tensor of real numbers")
            if memory in owners:
                self.views[at] = owners[memory]
                continue
            self.computed[at] = slots.setdefault(one, len(slots))
            others = (self.all[b] for b, other in enumerate(memories) if other == memory)
            if memory is not None and any(other is not one for other in others):
                self.shared[at] = memory
        self.first = [next(at for at in self.computed if self.all[at] is one) for one in slots]

    def of(self, args: Sequence[Any], results: Sequence[torch.Tensor]) -> list[Any]:
        """All outputs, of what a model computed. Those that share memory in PyTorch do here:
        what follows may write there."""
        known = {
            one.node.expr: args[at]
            for at, one in enumerate(self.inputs.values)
            if isinstance(one, torch.SymInt)
        }
        storages: dict[int, Any] = {}
        found: list[Any] = []
        for at, value in enumerate(self.values):
            if at in self.given:
                found.append(args[self.given[at]])
            elif at in self.views:
                owner, seen = args[self.views[at]], self.inputs.values[self.views[at]]
                # The part of its memory where a tensor starts is not fixed.
                start = owner.storage_offset() * owner.element_size()
                start -= _number(seen.storage_offset(), known) * seen.element_size()
                found.append(_view(value, owner.untyped_storage(), start, known))
            elif at in self.shared:
                size = _number(value.untyped_storage().nbytes(), known)
                made = torch.UntypedStorage(size, device=value.device)
                storage = storages.setdefault(self.shared[at], made)
                part = _view(value, storage, 0, known)
                found.append(part.copy_(results[self.computed[at]]))
            elif at in self.computed:
                result = results[self.computed[at]]
                found.append(result if isinstance(value, torch.Tensor) else result.item())
            else:
                found.append(value)
        return found


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _number(number: Any, known: dict[Any, Any]) -> int:
    return int(number.node.expr.xreplace(known)) if isinstance(number, torch.SymInt) else number


def _view(like: torch.Tensor, storage: Any, start: int, known: dict[Any, Any]) -> torch.Tensor:
    shape = [_number(one, known) for one in like.shape]
    strides = [_number(one, known) for one in like.stride()]
    offset = _number(like.storage_offset(), known) + start // like.element_size()
    empty = torch.empty(0, dtype=like.dtype, device=storage.device)
    return empty.set_(storage, offset, shape, strides)


class Caller(torch.nn.Module):
    """A graph as a function of its tensors: its numbers are sizes of these, or fixed."""

    def __init__(self, graph: torch.fx.GraphModule, inputs: Inputs, outputs: Outputs, args: Any):
        super().__init__()
        self.graph, self.inputs, self.outputs = graph, inputs, outputs
        self.fixed = {at: _plain(args[at]) for at in inputs.fixed}
        self.written: list[int] = []

    def forward(self, *tensors: torch.Tensor) -> tuple:
        args: dict[int, Any] = dict(zip(self.inputs.tensors, tensors))
        for at, number in self.fixed.items():
            wrapped = isinstance(self.inputs.values[at], torch.Tensor)
            args[at] = torch.tensor(number, dtype=torch.float64) if wrapped else number
        for at, (tensor, axis) in self.inputs.sizes.items():
            args[at] = args[tensor].shape[axis]
        results = self.graph(*(args[at] for at in range(len(self.inputs.values))))
        given = [results[at] for at in self.outputs.first]
        tensors = [one if isinstance(one, torch.Tensor) else _scalar(one) for one in given]
        # A copy, for the value after the last write to be an output like others.
        return *tensors, *(torch.clone(args[at]) for at in self.written)


def _scalar(number: Any) -> torch.Tensor:
    kinds = (torch.SymBool, bool), (torch.SymInt, int), (torch.SymFloat, float)
    dtypes = torch.bool, torch.int64, torch.float64
    dtype = next(dtype for kind, dtype in zip(kinds, dtypes) if isinstance(number, kind))
    return torch.scalar_tensor(number, dtype=dtype)
