"""Models, by the calls of ONNX Runtime: a script of its users runs when it imports this instead."""

from __future__ import annotations

import ctypes
import enum
import itertools
import json
import os
import time
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


# ONNX Runtime's options of a session, and what they are where nobody sets them.
_OPTIONS: dict[str, Any] = {
    "enable_cpu_mem_arena": True,
    "enable_mem_pattern": True,
    "enable_mem_reuse": True,
    "enable_profiling": False,
    "execution_mode": ExecutionMode.ORT_SEQUENTIAL,
    "execution_order": 0,
    "graph_optimization_level": GraphOptimizationLevel.ORT_ENABLE_ALL,
    "inter_op_num_threads": 0,
    "intra_op_num_threads": 0,
    "log_severity_level": 2,
    "log_verbosity_level": 0,
    "logid": "",
    "optimized_model_filepath": "",
    "profile_file_prefix": "hetra_profile",
    "use_deterministic_compute": False,
}

# Those that Hetra heeds.
_HEEDED = ("enable_profiling", "intra_op_num_threads", "log_severity_level", "profile_file_prefix")


class SessionOptions:
    """How a session is made. What Hetra has no choice in may be set and does nothing: it says so in
    `ignored`. Names that ONNX Runtime does not have are refused, as there."""

    def __init__(self) -> None:
        object.__setattr__(self, "ignored", {})
        object.__setattr__(self, "_entries", {})

    def __getattr__(self, name: str) -> Any:
        if name not in _OPTIONS:
            raise AttributeError(f"SessionOptions has no option `{name}`")
        return _OPTIONS[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _OPTIONS:
            raise AttributeError(f"SessionOptions has no option `{name}`")
        if name not in _HEEDED:
            self.ignored[name] = value
        object.__setattr__(self, name, value)

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.ignored[key] = self._entries[key] = value

    def get_session_config_entry(self, key: str) -> str:
        return self._entries[key]

    def add_free_dimension_override_by_name(self, name: str, extent: int) -> None:
        """Nothing is left to do: extents are those of what a run is given."""
        self.ignored[name] = extent

    def add_free_dimension_override_by_denotation(self, denotation: str, extent: int) -> None:
        """As `add_free_dimension_override_by_name`."""
        self.ignored[denotation] = extent


class RunOptions:
    """Options of a run; none of them changes anything here."""

    def __init__(self) -> None:
        self.log_severity_level = 2
        self.log_verbosity_level = 0
        self.logid = ""
        self.only_execute_path_to_fetches = False
        self.terminate = False
        self._entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self._entries[key] = value

    def get_run_config_entry(self, key: str) -> str:
        return self._entries[key]


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


def _no_software(name: str, device: str) -> None:
    """A name of hardware does not stand for a device that the processor plays."""
    if _is_software(device):
        raise _core.DeviceError(f"{name}: the only GPU that was found is software: ask for its id")


def _device(provider: str, options: dict[str, Any]) -> str:
    driver = _PROVIDERS.get(provider, provider)
    index = options.get("device_id")
    return f"{driver}:{index}" if index is not None and ":" not in driver and driver != "cpu" else driver


# Files of profiles that this process has written.
_PROFILES = itertools.count()

# Most steps of a profile: what goes on longer is not kept.
_STEPS_MAX = 1 << 20


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
        disabled_optimizers: Sequence[str] | None = None,
        enable_fallback: bool | int = True,
        read_config_from_model: bool | int = False,
    ) -> None:
        model = path_or_bytes
        if not isinstance(model, bytes):
            model = os.fspath(model) if not isinstance(model, (bytearray, memoryview)) else bytes(model)
        self._options = sess_options or SessionOptions()
        self._asked = (model, no_fallback)
        self._profile: list[dict[str, Any]] = []
        self._begun = time.perf_counter_ns()
        self.set_providers(providers, provider_options)

    def set_providers(
        self,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """The model compiled for the first of these that can be opened."""
        model, no_fallback = self._asked
        threads = self._options.intra_op_num_threads or None
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
                if name in _VENDORS:
                    _no_software(name, device)
                self._session = _core.Session(model, device, threads, no_fallback)
                self._provider, self._provider_options = name, options
                break
            except _core.DeviceError as error:
                failed = failed or error
        else:
            raise failed or ValueError("no providers were given")

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """The options that the provider was given."""
        return {self._provider: {key: str(value) for key, value in self._provider_options.items()}}

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
        if not self._options.enable_profiling:
            return self._session.run(names, dict(input_feed))
        start = (time.perf_counter_ns() - self._begun) / 1e3
        result, steps = self._session.run_traced(names, dict(input_feed))
        for op, kernel, device, at, took in steps[: _STEPS_MAX - len(self._profile)]:
            # As viewers of traces have it: microseconds since the beginning.
            row = {"name": op, "cat": kernel, "ph": "X", "ts": start + at / 1e3, "dur": took / 1e3}
            self._profile.append({**row, "pid": os.getpid(), "tid": device})
        return result

    def end_profiling(self) -> str:
        """Writes the steps of all runs so far, where `enable_profiling` is set, and gives the file's
        name."""
        if not self._options.enable_profiling:
            return ""
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        # Sessions of one process may end within a second.
        name = f"{self._options.profile_file_prefix}_{stamp}_{os.getpid()}_{next(_PROFILES)}.json"
        with open(name, "w", encoding="utf-8") as file:
            json.dump(self._profile, file)
        self._profile = []
        return name

    def get_profiling_start_time_ns(self) -> int:
        return self._begun

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
    """A value of a session: an array, which a run that it is bound to as an output replaces."""

    def __init__(self, array: Array) -> None:
        self._array = array

    @staticmethod
    def ortvalue_from_numpy(array: np.ndarray, device_type: str = "cpu", device_id: int = 0) -> "OrtValue":
        return OrtValue(f.asarray(array, device=_place(device_type, device_id)))

    @staticmethod
    def ortvalue_from_shape_and_type(
        shape: Sequence[int], element_type: Any, device_type: str = "cpu", device_id: int = 0
    ) -> "OrtValue":
        return OrtValue(f.zeros(tuple(shape), dtype=element_type, device=_place(device_type, device_id)))

    @staticmethod
    def from_dlpack(value: Any, is_bool_tensor: bool = False) -> "OrtValue":
        return OrtValue(f.from_dlpack(value))

    def numpy(self) -> np.ndarray:
        return f.asnumpy(self._array)

    def update_inplace(self, array: np.ndarray) -> None:
        """Other elements of the same shape and dtype."""
        wanted = (self._array.shape, self._array.dtype)
        if (tuple(array.shape), array.dtype) != wanted:
            raise ValueError(f"update_inplace: wanted {wanted}, got {(tuple(array.shape), array.dtype)}")
        self._array = f.asarray(array, device=self._array.device)

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def data_type(self) -> str:
        name = str(self._array.dtype)
        return _TYPES.get(name, f"tensor({name})")

    def element_type(self) -> str:
        return str(self._array.dtype)

    def device_name(self) -> str:
        return self._array.device

    def has_value(self) -> bool:
        return True

    def is_tensor(self) -> bool:
        return True

    def is_sparse_tensor(self) -> bool:
        return False

    def is_tensor_sequence(self) -> bool:
        return False

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


def _place(device_type: str, device_id: int = 0) -> str | None:
    """The device that ONNX Runtime calls so; the default one for the processor."""
    if device_type in ("cpu", ""):
        return None
    driver = {"cuda": "wgpu", "dml": "wgpu", "gpu": "wgpu", "webgpu": "wgpu"}.get(device_type)
    device = f"{driver or device_type}:{device_id}"
    if driver:
        _no_software(device_type, device)
    return device


def _memory(pointer: int, element_type: Any, shape: Sequence[int]) -> np.ndarray:
    """The host's memory at an address, which the caller keeps."""
    if not pointer:
        raise ValueError("an address is null")
    dtype = np.dtype(element_type)
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return np.frombuffer((ctypes.c_byte * count).from_address(pointer), dtype).reshape(tuple(shape))


class IOBinding:
    """Inputs and outputs that are named before a run."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        # A value that is bound may be another array when it is read.
        self._inputs: dict[str, Array | OrtValue] = {}
        # Where a result goes: into memory, into a value, or to whoever asks.
        self._outputs: dict[str, np.ndarray | OrtValue | None] = {}
        self._values: dict[str, Array] = {}

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self._inputs[name] = f.asarray(array)

    def bind_ortvalue_input(self, name: str, value: OrtValue) -> None:
        self._inputs[name] = value

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Any, buffer_ptr: int
    ) -> None:
        """The elements that are at an address of the host now."""
        _on_host("bind_input", device_type)
        self._inputs[name] = f.asarray(_memory(buffer_ptr, element_type, shape).copy())

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Any = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """An output; with an address, it is written there."""
        if buffer_ptr is None:
            self._outputs[name] = None
            return
        _on_host("bind_output", device_type)
        self._outputs[name] = _memory(buffer_ptr, element_type, shape)

    def bind_ortvalue_output(self, name: str, value: OrtValue) -> None:
        """The value has the result after each run."""
        self._outputs[name] = value

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
        inputs = self._inputs.items()
        feed = {name: one._array if isinstance(one, OrtValue) else one for name, one in inputs}
        values = self._session.run_arrays(names, feed)
        named = names or [one.name for one in self._session.get_outputs()]
        self._values = dict(zip(named, values))
        for name, into in self._outputs.items():
            value = self._values[name]
            if isinstance(into, OrtValue):
                into._array = value
            elif into is not None:
                if into.shape != value.shape or into.dtype != value.dtype:
                    wanted = f"{value.dtype}{list(value.shape)}"
                    raise ValueError(f"output `{name}` is {wanted}, bound as {into.dtype}{list(into.shape)}")
                into[...] = f.asnumpy(value)

    def get_outputs(self) -> list[OrtValue]:
        return [OrtValue(one) for one in self._values.values()]

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        return [f.asnumpy(one) for one in self._values.values()]


def _on_host(call: str, device_type: str) -> None:
    if device_type not in ("cpu", ""):
        raise TypeError(f"{call}: an address is one of the host, not of `{device_type}`: bind an OrtValue")
