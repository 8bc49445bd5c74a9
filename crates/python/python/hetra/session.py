"""Models, by the calls of ONNX Runtime: a script of its users runs when it imports this instead."""

from __future__ import annotations

import enum
import os
from typing import Any, NamedTuple, Sequence

import numpy as np

from . import _core
from . import _functions as f
from ._core import Array

__all__ = """ExecutionMode GraphOptimizationLevel InferenceSession IOBinding ModelMetadata NodeArg OrtValue RunOptions SessionOptions
get_available_providers get_device""".split()

# Providers of ONNX Runtime, and the driver that does their work here.
_PROVIDERS = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "wgpu",
    "TensorrtExecutionProvider": "wgpu",
    "ROCMExecutionProvider": "wgpu",
    "DmlExecutionProvider": "wgpu",
    "CoreMLExecutionProvider": "wgpu",
    "WebGpuExecutionProvider": "wgpu",
    "OpenCLExecutionProvider": "opencl",
}

_TYPES = {
    "float32": "tensor(float)",
    "float64": "tensor(double)",
    "float16": "tensor(float16)",
    "bf16": "tensor(bfloat16)",
}


class GraphOptimizationLevel(enum.IntEnum):
    """ONNX Runtime's levels. Hetra always does all that its passes do."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_ALL = 99


class ExecutionMode(enum.IntEnum):
    """ONNX Runtime's modes. Hetra runs a model's steps in order."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


def set_default_logger_severity(severity: int) -> None:
    """Hetra logs nothing."""


class NodeArg(NamedTuple):
    """Name, extents and type of an input or output."""

    name: str
    shape: list[Any]
    type: str


class ModelMetadata(NamedTuple):
    """What the file says of the model."""

    producer_name: str
    graph_name: str
    domain: str
    description: str
    version: int
    custom_metadata_map: dict[str, str]


class SessionOptions:
    """How a session is made. What Hetra has no choice in may be set and does nothing: it says so in
    `ignored`."""

    def __init__(self) -> None:
        self.intra_op_num_threads = 0
        self.log_severity_level = 2
        self.ignored: dict[str, Any] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        known = ("intra_op_num_threads", "log_severity_level", "ignored")
        if name not in known:
            self.ignored[name] = value
        object.__setattr__(self, name, value)

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.ignored[key] = value


class RunOptions:
    """Options of a run; none of them changes anything here."""


def _port(name: str, dtype: str | None, dims: Any) -> NodeArg:
    text = _TYPES.get(dtype or "", f"tensor({dtype})")
    return NodeArg(name, list(dims) if dims is not None else [], text)


def get_available_providers() -> list[str]:
    """The providers that a device was found for."""
    found = {one["driver"] for one in _core.devices() if one["state"] == "found"}
    # Which of the vendors' names is right is not known: the one that is Hetra's way.
    names = [name for name, driver in _PROVIDERS.items() if driver in found]
    return [name for name in names if name not in _VENDORS][::-1]


def get_device() -> str:
    """`GPU` where a GPU was found, `CPU` elsewhere."""
    gpu = "WebGpuExecutionProvider" in get_available_providers() and not _is_software("wgpu")
    return "GPU" if gpu else "CPU"


# Providers of one vendor's hardware: a software device does not stand for them.
_VENDORS = {
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
    "ROCMExecutionProvider",
    "DmlExecutionProvider",
    "CoreMLExecutionProvider",
}


def _is_software(device: str) -> bool:
    found = [one for one in _core.devices() if one["state"] == "found"]
    same = [one for one in found if one["id"] == device or one["driver"] == device]
    return bool(same) and same[0]["software"]


def _device(provider: str, options: dict[str, Any]) -> str:
    driver = _PROVIDERS.get(provider, provider)
    index = options.get("device_id")
    return f"{driver}:{index}" if index is not None and ":" not in driver and driver != "cpu" else driver


class InferenceSession:
    """A model compiled for a device.

    `providers` are names of ONNX Runtime or ids of `hetra.devices()`, the first that can be opened
    being taken; with none it is the CPU.
    """

    def __init__(
        self,
        path_or_bytes: Any,
        sess_options: SessionOptions | None = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[dict[str, Any]] | None = None,
        *,
        no_fallback: bool = False,
        **kwargs: Any,
    ) -> None:
        model = path_or_bytes
        if not isinstance(model, bytes):
            model = os.fspath(model) if not isinstance(model, (bytearray, memoryview)) else bytes(model)
        threads = (sess_options.intra_op_num_threads if sess_options else 0) or None
        wanted: list[tuple[str, dict[str, Any]]] = []
        if isinstance(providers, str):
            providers = [providers]
        for at, provider in enumerate(providers or ["cpu"]):
            own = provider_options[at] if provider_options and at < len(provider_options) else {}
            name, more = provider if isinstance(provider, tuple) else (provider, {})
            wanted.append((name, {**own, **more}))
        failed: Exception | None = None
        for name, options in wanted:
            try:
                device = _device(name, options)
                if name in _VENDORS and _is_software(device):
                    reason = "the only GPU that was found is software: ask for its id"
                    raise _core.DeviceError(f"{name}: {reason}")
                self._session = _core.Session(model, device, threads, no_fallback)
                self._provider = name
                break
            except _core.DeviceError as error:
                failed = failed or error
        else:
            raise failed or ValueError("no providers were given")
        self._options = sess_options or SessionOptions()

    def get_inputs(self) -> list[NodeArg]:
        return [_port(*one) for one in self._session.inputs()]

    def get_overridable_initializers(self) -> list[NodeArg]:
        return [_port(*one) for one in self._session.defaults()]

    def get_outputs(self) -> list[NodeArg]:
        return [_port(*one) for one in self._session.outputs()]

    def get_modelmeta(self) -> ModelMetadata:
        return ModelMetadata(**self._session.model())

    def get_providers(self) -> list[str]:
        """The provider that runs the model; `device` says which device that is."""
        return [self._provider]

    def get_session_options(self) -> SessionOptions:
        return self._options

    @property
    def device(self) -> str:
        """The id of the device."""
        return self._session.device()

    def run(
        self, output_names: Sequence[str] | None, input_feed: dict[str, Any], run_options: Any = None
    ) -> list[np.ndarray]:
        """The outputs of these names, or all, as NumPy's arrays."""
        return [f.asnumpy(one) for one in self.run_arrays(output_names, input_feed)]

    def run_arrays(
        self, output_names: Sequence[str] | None, input_feed: dict[str, Any]
    ) -> list[Array]:
        """The same as Hetra's arrays, without a copy."""
        if isinstance(output_names, str):
            raise TypeError(f"run: wanted a list of names, got the text `{output_names}`")
        if not isinstance(input_feed, dict):
            raise TypeError("run: wanted a dictionary of inputs by name")
        names = list(output_names) if output_names else None
        return self._session.run(names, dict(input_feed))

    def run_with_ort_values(
        self, output_names: Sequence[str] | None, input_feed: dict[str, "OrtValue"], run_options: Any = None
    ) -> list["OrtValue"]:
        feed = {name: value._array for name, value in input_feed.items()}
        return [OrtValue(one) for one in self.run_arrays(output_names, feed)]

    def io_binding(self) -> "IOBinding":
        return IOBinding(self)

    def run_with_iobinding(self, iobinding: "IOBinding", run_options: Any = None) -> None:
        iobinding._run()


class OrtValue:
    """A value of a session."""

    def __init__(self, array: Array) -> None:
        self._array = array

    @staticmethod
    def ortvalue_from_numpy(array: np.ndarray, device_type: str = "cpu", device_id: int = 0) -> "OrtValue":
        if device_type not in ("cpu", ""):
            return OrtValue(f.asarray(array, device=_device(device_type, {"device_id": device_id})))
        return OrtValue(f.asarray(array))

    @staticmethod
    def from_dlpack(value: Any) -> "OrtValue":
        return OrtValue(f.from_dlpack(value))

    def numpy(self) -> np.ndarray:
        return f.asnumpy(self._array)

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def data_type(self) -> str:
        name = str(self._array.dtype)
        return _TYPES.get(name, f"tensor({name})")

    def device_name(self) -> str:
        return self._array.device

    def is_tensor(self) -> bool:
        return True

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


class IOBinding:
    """Inputs and outputs that are named before a run."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._inputs: dict[str, Array] = {}
        self._outputs: dict[str, np.ndarray | None] = {}
        self._values: dict[str, Array] = {}

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self._inputs[name] = f.asarray(array)

    def bind_ortvalue_input(self, name: str, value: OrtValue) -> None:
        self._inputs[name] = value._array

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Any, buffer_ptr: int
    ) -> None:
        raise TypeError("bind_input takes an address: bind_cpu_input and bind_ortvalue_input take arrays")

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Any = None,
        buffer_ptr: int | None = None,
    ) -> None:
        if buffer_ptr is not None:
            raise TypeError("bind_output takes no address: the results are in get_outputs")
        self._outputs[name] = None

    def bind_ortvalue_output(self, name: str, value: OrtValue) -> None:
        raise TypeError("bind_ortvalue_output: values do not change: the results are in get_outputs")

    def synchronize_inputs(self) -> None:
        """Nothing is left to do: inputs are there when they are bound."""

    def synchronize_outputs(self) -> None:
        """Nothing is left to do: outputs are there when a run returns."""

    def clear_binding_inputs(self) -> None:
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        self._outputs.clear()

    def _run(self) -> None:
        names = list(self._outputs) or None
        values = self._session.run_arrays(names, self._inputs)
        named = names or [one.name for one in self._session.get_outputs()]
        self._values = dict(zip(named, values))

    def get_outputs(self) -> list[OrtValue]:
        return [OrtValue(one) for one in self._values.values()]

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        return [f.asnumpy(one) for one in self._values.values()]
