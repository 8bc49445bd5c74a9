"""`torch.compile(model, backend="hetra")`: what Dynamo cuts out of a program becomes an ONNX model,
which runs here.

What cannot be exported or run, and all that gradients flow through, stays in PyTorch, with a
warning that says why. How a graph becomes a model is in `_torch_model`.
"""

from __future__ import annotations

import importlib.metadata
import re
import threading
import warnings
from typing import Any, NamedTuple, Sequence

try:
    import torch
except ImportError as error:
    raise ImportError("hetra.torch needs PyTorch, which is not here: pip install torch") from error

from . import _core
from ._torch_graph import Inputs, Outputs, Refused
from ._torch_model import Model

__all__ = ["Options", "backend"]

# Models of one graph: for the numbers that are part of it, and shapes that one model does not take.
_MODELS_MAX = 8
# Sets of shapes for which the model is known.
_SHAPES_MAX = 1024

_told: set[str] = set()


class Options(NamedTuple):
    """What `torch.compile(.., options={..})` takes: `device`, an id of `hetra.devices()`; `strict`,
    which makes a graph that would stay in PyTorch an error; `freeze`, by which parameters are
    constants of the model, and else are read anew in each call; `threads` of the host, 0 for one on
    each core; `no_fallback`, which makes an operator without a kernel on the device an error."""

    device: str = "cpu"
    strict: bool = False
    freeze: bool = True
    threads: int = 0
    no_fallback: bool = False


def backend(
    graph: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: dict[str, Any] | None = None,
    **_: Any,
) -> Any:
    """What Dynamo calls with each graph, and what it gets to call in its place."""
    unknown = sorted(set(options or {}) - set(Options._fields))
    if unknown:
        there = ", ".join(Options._fields)
        raise ValueError(f"backend hetra: no option `{unknown[0]}`: there are {there}")
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        text = "backend hetra: PyTorch exports models by onnxscript, which is not here"
        raise ImportError(f"{text}: pip install onnxscript") from error
    chosen = Options(**(options or {}))
    _core.open_device(chosen.device)
    if _differentiates(example_inputs):
        _say("gradients are wanted: where they are not, call it under torch.no_grad()", once=True)
        return graph.forward
    return _Graph(graph, example_inputs, chosen)


def _differentiates(args: Sequence[Any]) -> bool:
    tensors = (one for one in args if isinstance(one, torch.Tensor))
    return torch.is_grad_enabled() and any(one.requires_grad for one in tensors)


def _say(reason: str, once: bool = False) -> None:
    if not (once and reason in _told):
        _told.add(reason)
        warnings.warn(f"hetra leaves a graph to PyTorch: {reason}", RuntimeWarning, stacklevel=4)


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom of it, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().split("\n")[0]
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'", text)
    if operator:
        # A whole layer as one operator, which eval mode takes where it is let.
        fast = "_transformer_encoder_layer_fwd" in text or "_native_multi_head_attention" in text
        hint = ": torch.backends.mha.set_fastpath_enabled(False) keeps to others" if fast else ""
        return f"there is no ONNX form of {operator[1]}{hint}"
    ours = isinstance(error, (Refused, _core.ModelError))
    return text if ours else f"{type(error).__name__}: {text}"


class _Graph:
    """A graph of Dynamo's. It is exported when it is first called, since Dynamo is not at work then
    and all that surrounds the call (autocast, say) is as it will be."""

    def __init__(self, graph: torch.fx.GraphModule, examples: Sequence[Any], options: Options):
        self.graph, self.options = graph, options
        self.models: list[Model] = []
        self.by_key: dict[tuple, Model] = {}
        self.lock = threading.Lock()
        self.left = self.full = False
        self.enables_gradients = any(
            node.target is torch._C._set_grad_enabled and node.args[0] for node in graph.graph.nodes
        )
        try:
            self.inputs = Inputs(graph, examples)
            self.outputs = Outputs(graph, self.inputs)
            self.left = not self.outputs.computed
        except Refused as error:
            self._leave(error)

    def __call__(self, *args: Any) -> Any:
        model = None if self._is_left(args) else self._model(args)
        if model is None:
            return self.graph.forward(*args)
        try:
            results = model.run(args)
        except _core.DeviceError:
            raise
        except Exception as error:
            self._raise_if_strict(error)
            # Where these inputs are at fault PyTorch says so here, and the next ones may be right.
            found = self.graph.forward(*args)
            self._leave(error)
            return found
        return self.outputs.of(args, results)

    def _is_left(self, args: Sequence[Any]) -> bool:
        if self.left or _differentiates(args):
            return True
        if not self.enables_gradients:
            return False
        with torch.enable_grad():
            return _differentiates(args)

    def _leave(self, error: Exception) -> None:
        """This graph stays in PyTorch from now on."""
        self._raise_if_strict(error)
        self.left = True
        self.models.clear()
        self.by_key.clear()
        _say(_reason(error))

    def _raise_if_strict(self, error: Exception) -> None:
        if self.options.strict:
            raise _core.ModelError(f"backend hetra: {_reason(error)}") from error

    def _model(self, args: Sequence[Any]) -> Model | None:
        key = self.inputs.key(args)
        model = self.by_key.get(key)
        return model if model is not None else self._new_model(key, args)

    def _new_model(self, key: tuple, args: Sequence[Any]) -> Model | None:
        with self.lock:
            model = next((one for one in self.models if one.takes(args)), None)
            if model is None and len(self.models) == _MODELS_MAX:
                text = f"its other numbers and shapes: they want more than {_MODELS_MAX} models"
                self._raise_if_strict(Refused(text))
                if not self.full:
                    self.full = True
                    _say(text)
                return None
            if model is None:
                # Where open shapes were not to be had, or do not go as far as these.
                still = any(one.same_numbers(args) for one in self.models)
                try:
                    model = Model(self.graph, self.inputs, self.outputs, args, still, self.options)
                except Exception as error:  # An exporter may fail in any way.
                    self._leave(error)
                    return None
                self.models.append(model)
            if len(self.by_key) >= _SHAPES_MAX:
                self.by_key.clear()
            self.by_key[key] = model
        return model


# Where the package is installed torch finds the name by itself, and takes a name once.
if "hetra" not in importlib.metadata.entry_points(group="torch_dynamo_backends").names:
    torch._dynamo.register_backend(backend, name="hetra")
