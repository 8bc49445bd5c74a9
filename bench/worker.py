"""The Python side of the comparison: each task is a process of its own.

Run as `python worker.py TASK`, TASK being JSON with its `kind`; the answer is JSON on stdout.
Imports stand inside the functions, so that a process pays only for what it times. Tensors cross
to the Rust peers as raw little-endian numbers with a list of names, types and shapes.
"""

import json
import math
import statistics
import sys
import time
from pathlib import Path

WARM_UP_SHARE = 0.1  # of the window: an engine may settle before it is timed
SCALE_MIN = 0.1  # of an output, where answers are compared
LIST = "tensors.json"
clock = time.perf_counter


# --- tensors in files ---------------------------------------------------------


def write_arrays(folder, arrays):
    """A dict of numpy arrays -> raw files and their list; keeps the order."""
    import numpy as np

    folder = Path(folder)
    listed = []
    for index, (name, array) in enumerate(arrays.items()):
        array = np.asarray(array)
        file = f"{index}.bin"
        array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).tofile(folder / file)
        shape = list(array.shape)
        listed.append({"name": name, "dtype": array.dtype.name, "shape": shape, "file": file})
    (folder / LIST).write_text(json.dumps(listed))


def read_arrays(folder):
    """What `write_arrays` or a Rust peer wrote, by name and in order."""
    import numpy as np

    folder = Path(folder)
    return {
        x["name"]: np.fromfile(folder / x["file"], dtype=x["dtype"]).reshape(x["shape"])
        for x in json.loads((folder / LIST).read_text())
    }


# --- timing -------------------------------------------------------------------


def steady_of(samples):
    """Milliseconds, at least one -> the figures, named as `hetra bench --json` names them."""
    return {
        "min_ms": min(samples),
        "median_ms": statistics.median(samples),
        "samples": len(samples),
    }


def timed(started, infer, seconds):
    """The first inference, a warm-up, then inferences for `seconds`. `started` is when loading
    began; loading is done by now."""
    load_ms = (clock() - started) * 1e3
    start = clock()
    infer()
    first_ms = (clock() - start) * 1e3
    end = clock() + WARM_UP_SHARE * seconds
    while clock() < end:
        infer()
    samples, end = [], clock() + seconds
    while not samples or clock() < end:
        start = clock()
        infer()
        samples.append((clock() - start) * 1e3)
    return {"load_ms": load_ms, "first_ms": first_ms, "steady": steady_of(samples)}


def ort_options(threads):
    """Sequential, every optimisation, spinning threads (the default)."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return options


def task_onnxruntime(model, feed, out, threads, seconds, precision):
    """Inputs are bound once, outputs stay in ONNX Runtime's memory: little of Python is timed."""
    import onnxruntime as ort

    del precision  # what the model says: there is no other on x86
    arrays = read_arrays(feed)
    started = clock()
    session = ort.InferenceSession(model, ort_options(threads), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in arrays.items():
        binding.bind_cpu_input(name, array)
    names = [output.name for output in session.get_outputs()]
    for name in names:
        binding.bind_output(name, "cpu")
    answer = timed(started, lambda: session.run_with_iobinding(binding), seconds)
    if out:
        write_arrays(out, dict(zip(names, binding.copy_outputs_to_cpu(), strict=True)))
    return answer


def peak_mib():
    """The most memory that this process had resident, where the system tells (VmHWM)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("the system does not tell the peak of a process")


def task_start(model, feed, threads, runs):
    """ONNX Runtime: load, first inference, and the memory beyond what was there before, after the
    first of `runs` inferences and after the last."""
    arrays = read_arrays(feed)
    import onnxruntime as ort

    options, before = ort_options(threads), peak_mib()
    started = clock()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    load_ms = (clock() - started) * 1e3
    peaks = []
    for _ in range(runs):
        session.run(None, arrays)
        if not peaks:
            first_ms = (clock() - started) * 1e3 - load_ms
        peaks.append(peak_mib() - before)
    peaks = {"first_mib": peaks[0], "later_mib": peaks[-1]}
    return {"load_ms": load_ms, "first_ms": first_ms} | peaks


def task_openvino(model, feed, out, threads, seconds, precision):
    """One stream, hint for latency; the precision is always said: on a CPU with bf16
    instructions OpenVINO computes f32 models in bf16 unless told otherwise."""
    import openvino as ov

    arrays = read_arrays(feed)
    started = clock()
    core = ov.Core()
    graph = core.read_model(model)
    if graph.is_dynamic():
        graph.reshape({name: array.shape for name, array in arrays.items()})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    if precision != "int8":
        # Else products with weights kept in 8 bits are computed in int8 (off by 1 % on MiniLM).
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "0"
    compiled = core.compile_model(graph, "CPU", settings)
    request = compiled.create_infer_request()
    for name, array in arrays.items():
        request.set_tensor(name, ov.Tensor(array, shared_memory=True))
    answer = timed(started, request.infer, seconds)
    if out:
        # By position: an output may have several names, or none.
        outputs = [request.get_output_tensor(k).data for k in range(len(compiled.outputs))]
        write_arrays(out, {str(k): array for k, array in enumerate(outputs)})
    return answer


# --- before and after ---------------------------------------------------------


def is_quantised(graph):
    """Whether a model computes in integers of 8 bits, by its operators."""
    marks = ("QuantizeLinear", "DequantizeLinear", "QLinear", "Integer")
    return any(any(mark in node.op_type for mark in marks) for node in graph.node)


def recorded(data, kind):
    """The tensors of input_N.pb or output_N.pb: a list of (name, array)."""
    import onnx
    from onnx import numpy_helper

    found = []
    for index in range(1000):
        path = Path(data) / f"{kind}_{index}.pb"
        if not path.exists():
            break
        tensor = onnx.TensorProto.FromString(path.read_bytes())
        found.append((tensor.name, numpy_helper.to_array(tensor)))
    return found


def made_up(value):
    """Fixed numbers for an input without a recording; free dimensions are 1."""
    import numpy as np
    from onnx import helper

    kind = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    shape = [d.dim_value if d.dim_value > 0 else 1 for d in kind.shape.dim]
    if np.issubdtype(dtype, np.floating):
        return (np.arange(math.prod(shape)) * 0.6180339887 % 1).reshape(shape).astype(dtype)
    return np.ones(shape, dtype)


def task_prepare(model, data, feed, reference):
    """Writes the inputs, and the outputs that every engine must come near to: the recorded ones,
    else those of ONNX Runtime with every optimisation off."""
    import numpy as np
    import onnx

    graph = onnx.load(model).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    given = recorded(data, "input") if data else []
    by_name = dict(given)
    if given and len(given) < len(inputs):
        raise SystemExit(f"{len(given)} recorded inputs, {len(inputs)} wanted")
    arrays = {}
    for index, value in enumerate(inputs):
        array = by_name.get(value.name, given[index][1]) if given else made_up(value)
        arrays[value.name] = array
    write_arrays(feed, arrays)
    np.savez(Path(feed) / "feed.npz", **arrays)

    outputs = recorded(data, "output") if data else []
    source = "recorded"
    if not outputs:
        import onnxruntime as ort

        source = "ONNX Runtime, no optimisation"
        options = ort_options(1)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        outputs = [("", array) for array in session.run(None, arrays)]
    write_arrays(reference, {str(k): array for k, (_, array) in enumerate(outputs)})
    return {"quantised": is_quantised(graph), "reference": source}


def difference(found, wanted, rtol, atol):
    """(whether it is near, the worst error as a share of the output's scale).

    Near: every |found - wanted| is at most rtol |wanted| + atol scale. The scale is the output's
    largest value, and SCALE_MIN where all are smaller: nobody acts on the digits of a
    probability of 1e-5, and no precision keeps them.
    """
    import numpy as np

    if found.shape != wanted.shape:
        return False, None
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    if wanted.size == 0:
        return True, 0.0
    if not np.array_equal(np.isfinite(found), np.isfinite(wanted)):
        return False, None
    finite = np.isfinite(wanted)
    found, wanted = found[finite], wanted[finite]
    scale = float(np.abs(wanted).max(initial=SCALE_MIN))
    error = np.abs(found - wanted)
    near = bool((error <= rtol * np.abs(wanted) + atol * scale).all())
    return near, float(error.max(initial=0.0)) / scale


def task_check(found, reference, rtol, atol):
    """Compares outputs by position. `found` is a folder of arrays or hetra's .npz."""
    import numpy as np

    wanted = list(read_arrays(reference).values())
    if found.endswith(".npz"):
        with np.load(found) as file:
            outputs = [file[name] for name in file.files]
    else:
        outputs = list(read_arrays(found).values())
    if len(outputs) != len(wanted):
        return {"near": False, "worst": None}
    results = [difference(*pair, rtol, atol) for pair in zip(outputs, wanted, strict=True)]
    shares = [share for _, share in results]
    worst = None if None in shares else max(shares, default=0.0)
    return {"near": all(near for near, _ in results), "worst": worst}


def task_import(module):
    """Imports an engine and nothing else: its version, and what its host costs before any model."""
    import importlib

    import numpy

    version = importlib.import_module(module).__version__.split("-")[0]
    return {"version": version, "numpy": numpy.__version__}


TASKS = {
    "prepare": task_prepare,
    "check": task_check,
    "import": task_import,
    "onnxruntime": task_onnxruntime,
    "start": task_start,
    "openvino": task_openvino,
}


def main():
    """Entry of a child: a JSON task in, a JSON answer out."""
    task = json.loads(sys.argv[1])
    print(json.dumps(TASKS[task.pop("kind")](**task)))


if __name__ == "__main__":
    main()
