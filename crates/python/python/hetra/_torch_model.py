"""A graph of PyTorch's as an ONNX model, and the session that runs it.

Parameters and buffers become constants, which kernels pack, and are watched: when PyTorch counts a
change, or another tensor stands in their place, the session is made anew, of the same export.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import warnings
import weakref
from typing import Any, Iterator, Sequence

import torch

from . import _functions as f
from ._torch_graph import Caller, Inputs, Outputs, Refused
from .session import InferenceSession, SessionOptions

# A model in one message must be under 2 GiB; a larger one goes through files.
_MESSAGE_BYTES_MAX = 1 << 30
# Sets of shapes whose outputs are known to be copied or not.
_SHAPES_MAX = 1024


class Model:
    """A graph, exported for the numbers in `args`, and for open shapes or, if `still`, theirs."""

    def __init__(
        self,
        graph: Any,
        inputs: Inputs,
        outputs: Outputs,
        args: Sequence[Any],
        still: bool,
        options: Any,
    ):
        self.inputs, self.outputs, self.options = inputs, outputs, options
        self.numbers = inputs.fixed_in(args)
        self.shapes = inputs.shapes_in(args) if still else None
        self.guards: Any = None
        self.caller = Caller(graph, inputs, outputs, args)
        with _quiet(), torch.no_grad():
            program = self._export(args)
            signature = program.exported_program.graph_signature
            if signature.user_inputs_to_mutate:
                # The exporter leaves out what is written to inputs, unless it is an output.
                places = dict(zip(signature.user_inputs, inputs.tensors))
                written = signature.user_inputs_to_mutate.values()
                self.caller.written = [places[one] for one in written]
                program = self._export(args)
        self.model = program.model
        self.ports = dict(zip(inputs.tensors, list(program.model.graph.inputs)))
        self.lock = threading.Lock()
        self.session: InferenceSession | None = None
        # Each constant's tensor, where it was and how often PyTorch had changed it.
        self.stamps: dict[int, tuple] = {}
        # What changes from call to call stays an input.
        self.restless = set(self.caller.written)
        self.calls = 0
        self.own: dict[tuple, list[bool]] = {}
        self.held: tuple[Any, ...] | None = None

    def _export(self, args: Sequence[Any]) -> Any:
        tensors = [args[at].detach() for at in self.inputs.tensors]
        if _overlap(tensors):
            # The exporter does not get along with views of one memory that are written to.
            tensors = [one.clone() for one in tensors]
        auto = torch.export.Dim.AUTO
        shapes: Any = None
        if self.inputs.open and self.shapes is None:
            rows = (self.inputs.open.get(at, ()) for at in self.inputs.tensors)
            shapes = (tuple({axis: auto for axis in row} for row in rows),)
        program = torch.export.export(
            self.caller, tuple(tensors), dynamic_shapes=shapes, strict=False
        )
        _check(program)
        if shapes:
            # Sizes that this export found a use for and Dynamo did not.
            self.guards = getattr(program.module(), "_guards_fn", None)
            seen = {node.name: node.meta.get("val") for node in program.graph.nodes}
            values = [seen[name] for name in program.graph_signature.user_inputs]
            shapes_seen = dict(zip(self.inputs.tensors, (value.shape for value in values)))
            rows = ([shapes_seen[at][a] for a in axes] for at, axes in self.inputs.open.items())
            if any(isinstance(size, int) for row in rows for size in row):
                self.shapes = self.inputs.shapes_in(args)
        return torch.onnx.export(program, dynamo=True, verbose=False)

    def same_numbers(self, args: Sequence[Any]) -> bool:
        return self.numbers == self.inputs.fixed_in(args)

    def takes(self, args: Sequence[Any]) -> bool:
        """Whether the model is one for these numbers and shapes."""
        if not self.same_numbers(args):
            return False
        if self.shapes is not None:
            return self.shapes == self.inputs.shapes_in(args)
        try:
            if self.guards is not None:
                self.guards(*(args[at] for at in self.inputs.tensors))
        except AssertionError:
            return False
        return True

    def run(self, args: Sequence[Any]) -> list[torch.Tensor]:
        """What the model computes, each in memory of its own; writes what the graph writes."""
        session, constants = self._watched(args)
        fed = {at: _dense(args[at]) for at in self.inputs.tensors if at not in constants}
        if self.caller.written and _overlap(args[at] for at in self.inputs.tensors):
            raise Refused("it writes into memory that two of its inputs share")
        feed = {self.ports[at].name: f.from_dlpack(one, device="cpu") for at, one in fed.items()}
        arrays = session.run_arrays(None, feed)
        results = [torch.from_dlpack(array._capsule(False, False)) for array in arrays]
        results = self._owned(self.inputs.shapes_in(args), list(fed.values()), arrays, results)
        wanted = [self.outputs.values[at] for at in self.outputs.first]
        found = [_as(value, result) for value, result in zip(wanted, results)]
        for at, result in zip(self.caller.written, results[len(found) :]):
            with torch.no_grad():
                args[at].copy_(result)
        return found

    def _owned(
        self, shapes: tuple, fed: list[torch.Tensor], arrays: Any, results: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Outputs for others to write to: a model may also give an input, a constant, or parts of
        one memory. Constants are where they were in the call before, which is kept for that."""
        pointers = [one.data_ptr() for one in results]
        own, held = self.own.get(shapes), self.held
        if own is None and held is not None and held[0] == shapes:
            own = self.own[shapes] = [a != b for a, b in zip(pointers, held[1])]
        if len(self.own) > _SHAPES_MAX:
            self.own.clear()
        self.held = (shapes, pointers, arrays) if own is None else None
        ranges = [(one.data_ptr(), one.data_ptr() + one.nbytes) for one in fed]
        found = []
        for at, one in enumerate(results):
            start, end = pointers[at], pointers[at] + one.nbytes
            apart = all(end <= first or last <= start for first, last in ranges)
            ranges.append((start, end))
            found.append(one if apart and own is not None and own[at] else one.clone())
        return found

    def _watched(self, args: Sequence[Any]) -> tuple[InferenceSession, dict[int, tuple]]:
        """The session, its constants being what their tensors are now."""
        with self.lock:
            changed = [at for at, stamp in self.stamps.items() if not _same(stamp, args[at])]
            if self.session is None or changed:
                if self.session is not None and self.calls == 1:
                    self.restless.update(changed)
                self._make(args)
            self.calls += 1
            assert self.session is not None
            return self.session, self.stamps

    def _make(self, args: Sequence[Any]) -> None:
        from onnxscript import ir

        kept = self.inputs.weights - self.restless if self.options.freeze else set()
        # Of tensors of inference mode changes are not counted.
        kept = {at for at in kept if not args[at].is_inference()}
        graph = self.model.graph
        graph.inputs.clear()
        for at, port in self.ports.items():
            graph.initializers.pop(port.name, None)
            if at in kept:
                port.const_value = ir.tensor(args[at].detach(), name=port.name)
                graph.initializers.add(port)
            else:
                port.const_value = None
                graph.inputs.append(port)
        stamps = {at: (weakref.ref(args[at]), *_state(args[at])) for at in kept}
        self.session = _session(self.model, self.options)
        for at in kept:
            self.ports[at].const_value = None
        self.stamps, self.calls, self.held = stamps, 0, None
        self.own.clear()


def _session(model: Any, options: Any) -> InferenceSession:
    from onnxscript import ir

    wanted = SessionOptions()
    wanted.intra_op_num_threads = options.threads
    more = {"providers": [options.device], "no_fallback": options.no_fallback}
    constants = (one.const_value for one in model.graph.initializers.values())
    size = sum(one.nbytes for one in constants if one is not None)
    if size < _MESSAGE_BYTES_MAX:
        return InferenceSession(ir.to_proto(model).SerializeToString(), wanted, **more)
    # The session maps the files: where that keeps them, they go when the process ends.
    with tempfile.TemporaryDirectory(prefix="hetra-", ignore_cleanup_errors=True) as folder:
        path = os.path.join(folder, "model.onnx")
        ir.save(model, path, external_data="weights")
        return InferenceSession(path, wanted, **more)


def _state(tensor: torch.Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor._version


def _same(stamp: tuple, tensor: torch.Tensor) -> bool:
    return stamp[0]() is tensor and stamp[1:] == _state(tensor)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().resolve_neg().cpu().contiguous()


def _overlap(tensors: Any) -> bool:
    owners = [one.untyped_storage()._cdata for one in tensors]
    return len(set(owners)) < len(owners)


def _as(value: Any, result: torch.Tensor) -> torch.Tensor:
    """A result as PyTorch's operators would give it, if it can be."""
    if not isinstance(value, torch.Tensor):
        return result
    wanted = [size if isinstance(size, int) else None for size in value.shape]
    sizes = zip(wanted, result.shape)
    if len(wanted) != result.dim() or any(size not in (None, got) for size, got in sizes):
        raise Refused(f"an output has the shape {tuple(result.shape)}, and {wanted} in PyTorch")
    return result.to(device=value.device, dtype=value.dtype)


def _check(program: Any) -> None:
    """Refuses what would be exported, but not to the same."""
    graphs = [one.graph for one in program.graph_module.modules() if hasattr(one, "graph")]
    for node in (node for graph in graphs for node in graph.nodes):
        schema = getattr(node.target, "_schema", None)
        names = [one.name for one in schema.arguments] if schema else []
        given = {**dict(zip(names, node.args)), **node.kwargs}
        training = any(given.get(name) for name in ("train", "training"))
        if training and "batch_norm" in str(node.target):
            raise Refused(f"{node.target} is exported as that of eval mode")
        if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        # These draw only where they are told so.
        told = {"train", "training", "dropout_p"} & set(names)
        if not told or training or given.get("dropout_p"):
            raise Refused(f"{node.target} draws random numbers, which are torch.manual_seed's")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks are on its own work."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels):
            log.setLevel(level)
