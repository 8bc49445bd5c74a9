#!/usr/bin/env python3
"""Models of one operator, Hetra beside ONNX Runtime: finds what a profile of whole models hides.

    pip install -r bench/requirements.txt
    cargo build --release -p hetra-cli
    python bench/ops.py                  # every case
    python bench/ops.py 'Resize|LSTM'    # those whose name matches
    python bench/ops.py --threads 1

Times are the least of about 0.15 s on each side, hetra in a process of its own, ONNX Runtime here;
so the ratios are rough: good enough to see a factor of two, no more. Inputs are random.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
HETRA = ROOT / "target" / "release" / "hetra"
SECONDS = 0.15
SLOW = 4.0
rng = np.random.default_rng(0)
cases = []


def op(name, inputs, outs=1, consts=(), opset=21, domain="", **attrs):
    """A case: `name` is the operator, and after `@` which form of it."""
    cases.append((name, inputs, outs, consts, opset, domain, attrs))


def f(*shape):
    """An input of floats."""
    return ("f", shape)


def i64(values):
    return np.array(values, dtype=np.int64)


def weights(*shape):
    """A constant of floats in -0.5..0.5."""
    return rng.random(shape, dtype=np.float32) - 0.5


def recurrent(name, gates, hidden, directions=1, **attrs):
    """50 steps of 128 numbers; the outputs are those of all steps, and the last states."""
    rows = gates * hidden
    consts = (
        weights(directions, rows, 128),
        weights(directions, rows, hidden),
        weights(directions, 2 * rows),
    )
    outs = 3 if gates == 4 else 2
    op(name, [f(50, 1, 128)], outs, consts, hidden_size=hidden, **attrs)


# --- the cases --------------------------------------------------------------

x4 = f(1, 64, 56, 56)
for (
    u
) in "Abs Neg Exp Log Sqrt Sigmoid Tanh Relu LeakyRelu Elu Selu Erf Gelu HardSwish HardSigmoid Softplus Softsign Sin Cos Floor Round Reciprocal Mish Celu ThresholdedRelu Atan Sign Ceil".split():
    op(u, [f(1, 64, 112, 112)], opset=22 if u != "Gelu" else 22)
op("Clip", [f(1, 64, 112, 112)], consts=(np.float32(0), np.float32(6)))
for b in "Add Mul Sub Div Pow Max Min".split():
    op(b, [f(1, 64, 56, 56), f(1, 64, 56, 56)])
    op(b + "@row", [f(1, 64, 56, 56), f(1, 64, 1, 1)])
    op(b + "@last", [f(1, 197, 768), f(768)])
op("PRelu", [f(1, 64, 56, 56)], consts=(rng.random((64, 1, 1), dtype=np.float32),))
op("Greater", [f(1, 64, 56, 56), f(1, 64, 56, 56)])
op("Equal", [f(1, 64, 56, 56), f(1, 64, 56, 56)])
op("Where", [("b", (1, 64, 56, 56)), f(1, 64, 56, 56), f(1, 64, 56, 56)])
op("Softmax", [f(8, 128, 128)], axis=-1)
op("Softmax@ax1", [f(1, 21, 65, 65)], axis=1)
op("LogSoftmax", [f(8, 128, 128)], axis=-1)
op(
    "LayerNormalization",
    [f(1, 197, 768)],
    consts=(rng.random(768, dtype=np.float32), rng.random(768, dtype=np.float32)),
)
op("RMSNormalization", [f(1, 197, 768)], consts=(rng.random(768, dtype=np.float32),), opset=23)
op(
    "InstanceNormalization",
    [f(1, 64, 56, 56)],
    consts=(rng.random(64, dtype=np.float32), rng.random(64, dtype=np.float32)),
)
op(
    "GroupNormalization",
    [f(1, 64, 56, 56)],
    consts=(rng.random(64, dtype=np.float32), rng.random(64, dtype=np.float32)),
    num_groups=8,
)
op(
    "BatchNormalization",
    [f(1, 64, 56, 56)],
    consts=tuple(rng.random(64, dtype=np.float32) + 0.5 for _ in range(4)),
)
op("LRN", [f(1, 64, 56, 56)], size=5)
op("LpNormalization", [f(64, 512)])
for r in "ReduceMean ReduceSum ReduceMax ReduceL2 ReduceProd ReduceMin".split():
    op(r + "@hw", [f(1, 64, 56, 56)], consts=(i64([2, 3]),))
    op(r + "@c", [f(1, 64, 56, 56)], consts=(i64([1]),))
    op(r + "@last", [f(1, 197, 768)], consts=(i64([-1]),))
op("ArgMax", [f(1, 21, 128, 128)], axis=1)
op("ArgMax@last", [f(128, 1000)], axis=-1)
op("TopK", [f(100, 1000)], outs=2, consts=(i64([5]),))
op("GlobalAveragePool", [f(1, 256, 14, 14)])
op("GlobalMaxPool", [f(1, 256, 14, 14)])
op("AveragePool", [x4], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
op("MaxPool", [x4], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
op("MaxPool@13", [f(1, 128, 20, 20)], kernel_shape=[13, 13], strides=[1, 1], pads=[6, 6, 6, 6])
op("MaxPool@2", [x4], kernel_shape=[2, 2], strides=[2, 2])
op("Conv@1d", [f(1, 64, 1000)], consts=(rng.random((64, 64, 5), dtype=np.float32),), pads=[2, 2])
op(
    "Conv@3d",
    [f(1, 8, 16, 32, 32)],
    consts=(rng.random((16, 8, 3, 3, 3), dtype=np.float32),),
    pads=[1] * 6,
)
op(
    "Conv@dil",
    [x4],
    consts=(rng.random((64, 64, 3, 3), dtype=np.float32),),
    pads=[2] * 4,
    dilations=[2, 2],
)
op("Conv@grp", [x4], consts=(rng.random((64, 8, 3, 3), dtype=np.float32),), pads=[1] * 4, group=8)
op("Conv@dw7", [x4], consts=(rng.random((64, 1, 7, 7), dtype=np.float32),), pads=[3] * 4, group=64)
op("Conv@3x3", [x4], consts=(rng.random((64, 64, 3, 3), dtype=np.float32),), pads=[1] * 4)
op("Conv@1x1", [x4], consts=(rng.random((128, 64, 1, 1), dtype=np.float32),))
op("Conv@dyn", [x4, f(64, 64, 3, 3)], pads=[1] * 4)
op(
    "ConvTranspose",
    [f(1, 64, 28, 28)],
    consts=(rng.random((64, 32, 2, 2), dtype=np.float32),),
    strides=[2, 2],
)
op(
    "ConvTranspose@4",
    [f(1, 64, 28, 28)],
    consts=(rng.random((64, 32, 4, 4), dtype=np.float32),),
    strides=[2, 2],
    pads=[1] * 4,
)
op("MatMul", [f(1, 197, 768)], consts=(rng.random((768, 768), dtype=np.float32),))
op("MatMul@dyn", [f(12, 197, 64), f(12, 64, 197)])
op("MatMul@vec", [f(1, 1024)], consts=(rng.random((1024, 4096), dtype=np.float32),))
op(
    "Gemm",
    [f(32, 512)],
    consts=(rng.random((1000, 512), dtype=np.float32), rng.random(1000, dtype=np.float32)),
    transB=1,
)
op("Einsum", [f(1, 12, 128, 64), f(1, 12, 128, 64)], equation="bhqd,bhkd->bhqk")
op("Transpose", [f(1, 197, 12, 64)], perm=[0, 2, 1, 3])
op("Transpose@nhwc", [x4], perm=[0, 2, 3, 1])
op("Transpose@01", [f(1000, 1000)], perm=[1, 0])
op("Concat", [x4, x4], axis=1)
op("Concat@last", [f(1, 197, 64), f(1, 197, 64)], axis=-1)
op("Split", [f(1, 197, 2304)], outs=3, axis=-1, num_outputs=3)
op("Slice", [x4], consts=(i64([0, 0]), i64([56, 56]), i64([2, 3]), i64([2, 2])))
op("Pad", [x4], consts=(i64([0, 0, 1, 1, 0, 0, 1, 1]),))
op("Pad@reflect", [x4], consts=(i64([0, 0, 1, 1, 0, 0, 1, 1]),), mode="reflect")
op("Gather", [f(30000, 384)], consts=(rng.integers(0, 30000, (1, 128)),))
op("Gather@1", [f(128, 1000)], consts=(rng.integers(0, 1000, (64,)),), axis=1)
op("GatherElements", [f(128, 1000)], consts=(rng.integers(0, 1000, (128, 64)),), axis=1)
op("GatherND", [f(128, 100, 10)], consts=(rng.integers(0, 100, (2000, 2)),))
op(
    "ScatterND",
    [f(128, 1000)],
    consts=(rng.integers(0, 128, (50, 1)), rng.random((50, 1000), dtype=np.float32)),
)
op(
    "ScatterElements",
    [f(128, 1000)],
    consts=(rng.integers(0, 1000, (128, 64)), rng.random((128, 64), dtype=np.float32)),
    axis=1,
)
op("Expand", [f(1, 64, 1, 1)], consts=(i64([1, 64, 56, 56]),))
op("Tile", [f(1, 64, 28, 28)], consts=(i64([1, 1, 2, 2]),))
op("CumSum", [f(128, 1000)], consts=(np.array(1, dtype=np.int64),))
no_region, doubled = np.array([], dtype=np.float32), np.array([1, 1, 2, 2], dtype=np.float32)
op("Resize@lin", [f(1, 64, 28, 28)], consts=(no_region, doubled), mode="linear")
op("Resize@near", [f(1, 64, 28, 28)], consts=(no_region, doubled), mode="nearest")
op("Resize@cubic", [f(1, 16, 28, 28)], consts=(no_region, doubled), mode="cubic")
op("DepthToSpace", [f(1, 64, 28, 28)], blocksize=2)
op("SpaceToDepth", [x4], blocksize=2)
op("GridSample", [f(1, 16, 56, 56), f(1, 56, 56, 2)])
recurrent("LSTM", gates=4, hidden=256)
recurrent("LSTM@bi", gates=4, hidden=128, directions=2, direction="bidirectional")
recurrent("GRU", gates=3, hidden=256, linear_before_reset=1)
recurrent("RNN", gates=1, hidden=256)
op("Cast@i32", [f(1, 64, 56, 56)], to=T.INT32)
op("Cast@f16", [f(1, 64, 56, 56)], to=T.FLOAT16)
op("Cast@u8", [f(1, 64, 56, 56)], to=T.UINT8)
op("QuantizeLinear", [x4], consts=(np.float32(0.01), np.uint8(128)))
op("DynamicQuantizeLinear", [x4], outs=3)
op("Mod", [("i", (1, 64, 56, 56))], consts=(np.array(7, dtype=np.int64),))
op("Add@i64", [("i", (1, 64, 56, 56)), ("i", (1, 64, 56, 56))])
op("NonZero", [f(128, 1000)])
op(
    "OneHot",
    [("i", (128,))],
    consts=(np.array(1000, dtype=np.int64), np.array([0, 1], dtype=np.float32)),
)
op("Trilu", [f(1, 512, 512)])
op("IsNaN", [x4])
op("Sum", [x4, x4, x4])
op("Mean", [x4, x4])
op("Attention", [f(1, 12, 128, 64), f(1, 12, 128, 64), f(1, 12, 128, 64)], opset=23)
op("ReverseSequence", [f(50, 8, 64)], consts=(i64([50] * 8),))
op("Shrink", [x4])
op("Hardmax", [f(128, 1000)])
op("Dropout", [x4])
op("Identity", [x4])
op("Flatten", [x4])
op("CenterCropPad", [f(64, 64)], consts=(i64([48, 48]),))
op("Unique", [f(2000)], outs=1, axis=0)
op("Compress", [f(128, 1000)], consts=(rng.random(128) > 0.5,), axis=0)
op(
    "RoiAlign",
    [f(1, 64, 28, 28)],
    consts=(rng.random((20, 4), dtype=np.float32) * 20, np.zeros(20, dtype=np.int64)),
    output_height=7,
    output_width=7,
)
op(
    "NonMaxSuppression",
    [f(1, 1000, 4), f(1, 5, 1000)],
    consts=(i64([100]), np.array([0.5], dtype=np.float32), np.array([0.3], dtype=np.float32)),
)
op(
    "STFT",
    [f(1, 4000, 1)],
    consts=(np.array(128, dtype=np.int64), np.hanning(256).astype("float32")),
)
op("DFT", [f(8, 1024, 1)])
op("AffineGrid", [f(1, 2, 3)], consts=(i64([1, 1, 56, 56]),))
op(
    "SkipLayerNormalization",
    [f(1, 128, 384), f(1, 128, 384)],
    consts=(rng.random(384, dtype=np.float32), rng.random(384, dtype=np.float32)),
    domain="com.microsoft",
)
op(
    "BiasGelu",
    [f(1, 128, 1536)],
    consts=(rng.random(1536, dtype=np.float32),),
    domain="com.microsoft",
)
op("FastGelu", [f(1, 128, 1536)], domain="com.microsoft")
op("QuickGelu", [f(1, 128, 1536)], domain="com.microsoft")
op(
    "MatMulNBits",
    [f(1, 1024)],
    consts=(
        rng.integers(0, 255, (1024, 32, 16)).astype("uint8"),
        rng.random(1024 * 32, dtype=np.float32),
    ),
    domain="com.microsoft",
    K=1024,
    N=1024,
    bits=4,
    block_size=32,
)
op(
    "MatMulNBits@32",
    [f(32, 1024)],
    consts=(
        rng.integers(0, 255, (1024, 32, 16)).astype("uint8"),
        rng.random(1024 * 32, dtype=np.float32),
    ),
    domain="com.microsoft",
    K=1024,
    N=1024,
    bits=4,
    block_size=32,
)
op(
    "MatMulInteger",
    [("u", (128, 384))],
    consts=(rng.integers(-127, 127, (384, 384)).astype("int8"),),
)
op(
    "ConvInteger",
    [("u", (1, 64, 28, 28))],
    consts=(rng.integers(-127, 127, (64, 64, 3, 3)).astype("int8"), np.uint8(3)),
    pads=[1] * 4,
)
op(
    "MultiHeadAttention",
    [f(1, 128, 384), f(1, 128, 384), f(1, 128, 384)],
    domain="com.microsoft",
    num_heads=6,
)
op(
    "Attention@ms",
    [f(1, 128, 384)],
    consts=(rng.random((384, 1152), dtype=np.float32) - 0.5, rng.random(1152, dtype=np.float32)),
    domain="com.microsoft",
    num_heads=6,
)
op(
    "RotaryEmbedding",
    [f(1, 12, 128, 64)],
    consts=(
        np.arange(128, dtype=np.int64)[None],
        rng.random((128, 32), dtype=np.float32),
        rng.random((128, 32), dtype=np.float32),
    ),
    domain="com.microsoft",
)

# --- running them -----------------------------------------------------------

DTYPES = {"f": T.FLOAT, "b": T.BOOL, "i": T.INT64, "u": T.UINT8}


def random_input(kind, shape):
    if kind == "b":
        return rng.random(shape) > 0.5
    if kind == "i":
        return rng.integers(0, 100, shape)
    if kind == "u":
        return rng.integers(0, 255, shape).astype("uint8")
    return rng.random(shape, dtype=np.float32)


def build(name, inputs, outs, consts, opset, domain, attrs):
    """The model and what is fed to it."""
    feed = {f"x{k}": random_input(*given) for k, given in enumerate(inputs)}
    infos = [
        helper.make_tensor_value_info(f"x{k}", DTYPES[kind], shape)
        for k, (kind, shape) in enumerate(inputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(c), f"c{k}") for k, c in enumerate(consts)]
    names = list(feed) + [tensor.name for tensor in tensors]
    if name == "STFT":
        names = ["x0", "c0", "c1"]
    outputs = [f"y{k}" for k in range(outs)]
    node = helper.make_node(name.split("@")[0], names, outputs, domain=domain, **attrs)
    empty = [helper.make_empty_tensor_value_info(output) for output in outputs]
    graph = helper.make_graph([node], "g", infos, empty, tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), feed


def time_hetra(path, data, threads):
    command = [HETRA, "bench", path, "--threads", str(threads), "-t", str(SECONDS)]
    command += ["--warmup", "3", "--json", "-i", data]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return None, done.stderr.strip()[-150:]
    return json.loads(done.stdout)["steady"]["min_ms"], ""


def time_ort(path, feed, threads):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(3):
            session.run(None, feed)
    except Exception as error:  # what ONNX Runtime lacks is not our business
        return None, str(error).splitlines()[0][:100]
    times, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return min(times) * 1e3, ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default="", help="regular expression on names")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not HETRA.exists():
        sys.exit("build first: cargo build --release -p hetra-cli")
    chosen = [case for case in cases if re.search(args.pattern, case[0])]
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / "model.onnx", Path(folder) / "in.npz"
        print(f"{'operator':24} {'hetra ms':>9} {'ort ms':>9} {'ratio':>7}")
        for case in chosen:
            model, feed = build(*case)
            onnx.save(model, path)
            np.savez(data, **feed)
            ours, why = time_hetra(path, data, args.threads)
            theirs, their_why = time_ort(path, feed, args.threads)
            shown = [f"{value:9.3f}" if value else f"{'-':>9}" for value in (ours, theirs)]
            ratio = ours / theirs if ours and theirs else None
            note = (why or their_why) if ratio is None else "slow" if ratio > SLOW else ""
            ratio = f"{ratio:7.2f}" if ratio else f"{'-':>7}"
            print(f"{case[0]:24} {shown[0]} {shown[1]} {ratio} {note}", flush=True)


if __name__ == "__main__":
    main()
