"""Models by ONNX Runtime's calls."""

import json
import pathlib
import struct
import threading

import numpy as np
import pytest

import hetra


def _varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number, value):
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    value = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _port(name, dims):
    shape = b"".join(
        _field(1, _field(1, dim) if isinstance(dim, int) else _field(2, dim)) for dim in dims
    )
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, shape)))


def model(weights):
    """y = relu(x @ weights), s = sum(y), as the bytes of an ONNX file."""
    def node(op, inputs, output):
        return _field(1, b"".join(_field(1, one) for one in inputs) + _field(2, output) + _field(4, op))

    tensor = b"".join(_field(1, dim) for dim in weights.shape) + _field(2, 1) + _field(8, "w")
    tensor += _field(9, struct.pack(f"<{weights.size}f", *weights.ravel()))
    graph = node("MatMul", ["x", "w"], "m") + node("Relu", ["m"], "y")
    graph += node("ReduceSum", ["y"], "s") + _field(2, "small") + _field(5, tensor)
    graph += _field(11, _port("x", ["n", weights.shape[0]]))
    graph += _field(12, _port("y", ["n", weights.shape[1]])) + _field(12, _port("s", [1, 1]))
    return _field(1, 8) + _field(2, "tests") + _field(7, graph) + _field(8, _field(1, "") + _field(2, 17))


W = np.random.default_rng(4).standard_normal((5, 3)).astype(np.float32)
X = np.random.default_rng(5).standard_normal((4, 5)).astype(np.float32)
Y = np.maximum(X @ W, 0)


def test_a_script_of_onnx_runtime(device, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model(W))
    options = hetra.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = 99
    session = hetra.InferenceSession(str(path), options, providers=[device])
    (x,) = session.get_inputs()
    assert (x.name, x.shape, x.type) == ("x", ["n", 5], "tensor(float)")
    assert [one.name for one in session.get_outputs()] == ["y", "s"]
    assert session.get_modelmeta().producer_name == "tests"
    assert session.get_modelmeta().graph_name == "small"
    assert session.get_providers() == [device] and session.device.startswith(device)
    y, s = session.run(None, {"x": X})
    np.testing.assert_allclose(y, Y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(s, [[Y.sum()]], rtol=1e-5)
    (s,) = session.run(["s"], {x.name: hetra.asarray(X)})
    np.testing.assert_allclose(s, [[Y.sum()]], rtol=1e-5)
    assert options.ignored == {"graph_optimization_level": 99}


def test_bindings():
    session = hetra.InferenceSession(model(W))
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    np.testing.assert_allclose(binding.copy_outputs_to_cpu()[0], Y, rtol=1e-5, atol=1e-6)
    (value,) = binding.get_outputs()
    assert value.shape() == [4, 3] and value.data_type() == "tensor(float)"
    feed = {"x": hetra.OrtValue.ortvalue_from_numpy(X)}
    np.testing.assert_allclose(session.run_with_ort_values(["y"], feed)[0].numpy(), Y, rtol=1e-5, atol=1e-6)


def test_providers_are_tried_in_order():
    session = hetra.InferenceSession(model(W), providers=["nonsense", "CPUExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"] and session.device == "cpu"
    with pytest.raises(hetra.DeviceError, match="nonsense"):
        hetra.InferenceSession(model(W), providers=["nonsense"])
    assert "CPUExecutionProvider" in hetra.get_available_providers()


def test_what_is_wrong_is_said():
    session = hetra.InferenceSession(model(W))
    with pytest.raises(ValueError, match="no input `z`"):
        session.run(None, {"z": X})
    with pytest.raises(hetra.ModelError, match="input `x`"):
        session.run(None, {})
    with pytest.raises(hetra.ModelError, match="input `x`: wanted f32"):
        session.run(None, {"x": X.astype(np.float64)})
    with pytest.raises(ValueError, match="no output `q`"):
        session.run(["q"], {"x": X})


def test_runs_let_other_threads_go_on():
    session = hetra.InferenceSession(model(W))
    results = []

    def run():
        for _ in range(20):
            results.append(session.run(["y"], {"x": X})[0])

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80 and all(np.array_equal(one, results[0]) for one in results)


def test_results_go_where_they_are_bound():
    session = hetra.InferenceSession(model(W))
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, X.shape, X.ctypes.data)
    into = np.zeros_like(Y)
    binding.bind_output("y", "cpu", 0, np.float32, into.shape, into.ctypes.data)
    total = hetra.OrtValue.ortvalue_from_shape_and_type((1, 1), np.float32)
    binding.bind_ortvalue_output("s", total)
    session.run_with_iobinding(binding)
    np.testing.assert_allclose(into, Y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(total.numpy(), [[Y.sum()]], rtol=1e-5)
    binding.bind_output("y", "cpu", 0, np.float32, (2, 2), np.zeros((2, 2), np.float32).ctypes.data)
    with pytest.raises(ValueError, match="output `y`"):
        session.run_with_iobinding(binding)
    value = hetra.OrtValue.ortvalue_from_numpy(X)
    again = session.io_binding()
    again.bind_ortvalue_input("x", value)
    again.bind_output("y")
    session.run_with_iobinding(again)
    value.update_inplace(np.zeros_like(X))
    session.run_with_iobinding(again)
    np.testing.assert_array_equal(again.copy_outputs_to_cpu()[0], np.zeros_like(Y))
    with pytest.raises(ValueError, match="update_inplace"):
        value.update_inplace(np.zeros(X.shape))
    with pytest.raises(TypeError, match="address"):
        binding.bind_input("x", "cuda", 0, np.float32, X.shape, 16)


def test_options_are_those_of_onnx_runtime(tmp_path):
    options = hetra.SessionOptions()
    assert options.graph_optimization_level == hetra.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "steps")
    options.add_free_dimension_override_by_name("n", 4)
    with pytest.raises(AttributeError, match="graph_optimisation_level"):
        options.graph_optimisation_level = 1
    with pytest.raises(TypeError, match="provider"):
        hetra.InferenceSession(model(W), provider=["cpu"])
    session = hetra.InferenceSession(model(W), options, providers=[("cpu", {"arena": 1})])
    assert session.get_provider_options() == {"cpu": {"arena": "1"}}
    run_options = hetra.RunOptions()
    run_options.add_run_config_entry("memory.enable", "1")
    session.run(None, {"x": X}, run_options)
    steps = json.loads(pathlib.Path(session.end_profiling()).read_text())
    assert len(steps) >= 2 and all(step["ph"] == "X" and step["dur"] > 0 for step in steps)
