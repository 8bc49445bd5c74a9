#!/usr/bin/env python3
"""Train the small digit classifier that ships inside the `hetra` binary.

Why it exists: a new user should be able to try a whole model, with real
weights and a real test set, without fetching anything. So the model has to be
tiny, its origin clear, and its accuracy a number that anyone can reproduce.

The training is plain numpy: at 8x8 pixels a deep-learning framework would be
a far larger dependency than the job. Everything is seeded, the schedule is
fixed beforehand, and the held-out split is looked at exactly once, at the end.

    python tools/train_digits.py            # writes crates/cli/assets
"""

import argparse
import os
import struct
from pathlib import Path

# One BLAS thread: the order of the sums, and so the weights, then no longer
# depend on how many cores the machine has. Must precede the numpy import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

ASSETS = Path(__file__).resolve().parent.parent / "crates" / "cli" / "assets"
PIXEL_MAX = 16  # the data set counts ink in 17 steps, 0..16
CONV1, CONV2, HIDDEN = 16, 32, 64
OPSET = 21
IR_VERSION = 10  # the IR version that belongs to opset 21
MAX_BYTES = 200 * 1024


def he(rng, shape, fan_in):
    """He initialisation, right for ReLU networks."""
    return (rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)


def init_params(rng):
    """Fresh weights; names are those of the ONNX initialisers."""
    flat = CONV2 * 4 * 4
    return {
        "conv1.weight": he(rng, (CONV1, 1, 3, 3), 9),
        "conv1.bias": np.zeros(CONV1, np.float32),
        "conv2.weight": he(rng, (CONV2, CONV1, 3, 3), CONV1 * 9),
        "conv2.bias": np.zeros(CONV2, np.float32),
        "fc1.weight": he(rng, (HIDDEN, flat), flat),
        "fc1.bias": np.zeros(HIDDEN, np.float32),
        "fc2.weight": he(rng, (10, HIDDEN), HIDDEN),
        "fc2.bias": np.zeros(10, np.float32),
    }


def im2col(x):
    """[n,c,8,8] -> [n*64, c*9]: a padded 3x3 convolution becomes one matmul."""
    n, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * 9)


def col2im(cols, shape):
    """The adjoint of `im2col`: adds every window's gradient back to its pixel."""
    n, c, h, w = shape
    cols = cols.reshape(n, h, w, c, 3, 3).transpose(0, 3, 1, 2, 4, 5)
    padded = np.zeros((n, c, h + 2, w + 2), cols.dtype)
    for dy in range(3):
        for dx in range(3):
            padded[:, :, dy : dy + h, dx : dx + w] += cols[:, :, :, :, dy, dx]
    return padded[:, :, 1:-1, 1:-1]


def conv(x, weight, bias):
    """3x3 convolution, stride 1, padding 1; also returns what backward needs."""
    n, _, h, w = x.shape
    cols = im2col(x)
    out = cols @ weight.reshape(len(weight), -1).T + bias
    return out.reshape(n, h, w, -1).transpose(0, 3, 1, 2), cols


def conv_backward(grad, cols, weight, x_shape):
    """Gradients of `conv` for weight, bias and input."""
    flat = grad.transpose(0, 2, 3, 1).reshape(-1, len(weight))
    d_weight = (flat.T @ cols).reshape(weight.shape)
    d_x = col2im(flat @ weight.reshape(len(weight), -1), x_shape)
    return d_weight, flat.sum(0), d_x


def forward(p, x):
    """Logits and the intermediate values that `backward` uses."""
    a1, cols1 = conv(x, p["conv1.weight"], p["conv1.bias"])
    r1 = np.maximum(a1, 0)
    a2, cols2 = conv(r1, p["conv2.weight"], p["conv2.bias"])
    r2 = np.maximum(a2, 0)
    n, c, h, w = r2.shape
    blocks = r2.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5)
    blocks = blocks.reshape(n, c, h // 2, w // 2, 4)
    winner = blocks.argmax(-1)
    flat = blocks.max(-1).reshape(n, -1)
    a3 = flat @ p["fc1.weight"].T + p["fc1.bias"]
    r3 = np.maximum(a3, 0)
    logits = r3 @ p["fc2.weight"].T + p["fc2.bias"]
    return logits, (a1, cols1, r1, a2, cols2, winner, flat, a3, r3)


def backward(p, x, d_logits, saved):
    """Gradient of every parameter, given the gradient of the logits."""
    a1, cols1, r1, a2, cols2, winner, flat, a3, r3 = saved
    g = {"fc2.weight": d_logits.T @ r3, "fc2.bias": d_logits.sum(0)}
    d = (d_logits @ p["fc2.weight"]) * (a3 > 0)
    g["fc1.weight"], g["fc1.bias"] = d.T @ flat, d.sum(0)
    d = (d @ p["fc1.weight"]).reshape(winner.shape)
    # Max pooling hands the gradient to the winner of each 2x2 block alone.
    blocks = np.zeros(winner.shape + (4,), d.dtype)
    np.put_along_axis(blocks, winner[..., None], d[..., None], -1)
    n, c, h, w = a2.shape
    d = blocks.reshape(n, c, h // 2, w // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5)
    d = d.reshape(a2.shape) * (a2 > 0)
    g["conv2.weight"], g["conv2.bias"], d = conv_backward(
        d, cols2, p["conv2.weight"], r1.shape
    )
    g["conv1.weight"], g["conv1.bias"], _ = conv_backward(
        d * (a1 > 0), cols1, p["conv1.weight"], x.shape
    )
    return g


def softmax_loss(logits, labels):
    """Mean cross entropy and its gradient."""
    z = logits - logits.max(1, keepdims=True)
    prob = np.exp(z)
    prob /= prob.sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(prob[rows, labels] + 1e-12).mean()
    prob[rows, labels] -= 1
    return loss, (prob / len(labels)).astype(np.float32)


def shift(rng, x):
    """Move each picture by up to one pixel: digits do not always sit centred."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    moves = rng.integers(0, 3, (len(x), 2))
    return np.stack(
        [img[:, dy : dy + 8, dx : dx + 8] for img, (dy, dx) in zip(padded, moves)]
    )


def train(x, y, seed, epochs, batch=32, rate=2e-3, decay=1e-4):
    """Adam with a cosine schedule and decoupled weight decay."""
    rng = np.random.default_rng(seed)
    p = init_params(rng)
    m = {k: np.zeros_like(v) for k, v in p.items()}
    v = {k: np.zeros_like(v) for k, v in p.items()}
    steps = epochs * (len(x) // batch)
    step = 0
    for epoch in range(epochs):
        order = rng.permutation(len(x))
        losses = []
        for start in range(0, len(x) - batch + 1, batch):
            pick = order[start : start + batch]
            # Every second batch stays as it is, so the centred pictures that
            # the test set consists of remain the common case.
            xb = shift(rng, x[pick]) if step % 2 else x[pick]
            logits, saved = forward(p, xb)
            loss, d_logits = softmax_loss(logits, y[pick])
            losses.append(loss)
            grads = backward(p, xb, d_logits, saved)
            lr = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
            step += 1
            for k, grad in grads.items():
                m[k] = 0.9 * m[k] + 0.1 * grad
                v[k] = 0.999 * v[k] + 0.001 * grad * grad
                unbiased_m = m[k] / (1 - 0.9**step)
                unbiased_v = v[k] / (1 - 0.999**step)
                update = unbiased_m / (np.sqrt(unbiased_v) + 1e-8)
                if k.endswith("weight"):
                    update = update + decay / rate * p[k]
                p[k] = (p[k] - lr * update).astype(np.float32)
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1:3}: loss {np.mean(losses):.4f}")
    return p


def check_gradients(seed):
    """Compare `backward` with finite differences; a wrong gradient often still
    learns, only worse, so accuracy alone would not show it."""
    rng = np.random.default_rng(seed)
    p = {k: v.astype(np.float64) for k, v in init_params(rng).items()}
    x, y = rng.random((4, 1, 8, 8)), np.array([0, 3, 5, 9])

    def loss(params):
        return softmax_loss(forward(params, x)[0], y)[0]

    logits, saved = forward(p, x)
    d_logits = softmax_loss(logits, y)[1].astype(np.float64)
    grads = backward(p, x, d_logits, saved)
    worst = 0.0
    for k, value in p.items():
        for index in rng.integers(0, value.size, 5):
            kept, eps = value.flat[index], 1e-6
            value.flat[index] = kept + eps
            up = loss(p)
            value.flat[index] = kept - eps
            down = loss(p)
            value.flat[index] = kept
            worst = max(worst, abs((up - down) / (2 * eps) - grads[k].flat[index]))
    assert worst < 1e-5, f"gradients are off by {worst}"
    return worst


def to_onnx(p):
    """The trained network as a checked ONNX model, weights inside the file."""
    node = helper.make_node
    conv_attrs = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}
    pool_attrs = {"kernel_shape": [2, 2], "strides": [2, 2]}

    def layer(op, name, x, **attrs):
        ins = [x, f"{name}.weight", f"{name}.bias"]
        return node(op, ins, [f"{name}.out"], name=name, **attrs)

    nodes = [
        layer("Conv", "conv1", "image", **conv_attrs),
        node("Relu", ["conv1.out"], ["relu1.out"], name="relu1"),
        layer("Conv", "conv2", "relu1.out", **conv_attrs),
        node("Relu", ["conv2.out"], ["relu2.out"], name="relu2"),
        node("MaxPool", ["relu2.out"], ["pool.out"], name="pool", **pool_attrs),
        node("Flatten", ["pool.out"], ["flat.out"], name="flatten", axis=1),
        layer("Gemm", "fc1", "flat.out", transB=1),
        node("Relu", ["fc1.out"], ["relu3.out"], name="relu3"),
        layer("Gemm", "fc2", "relu3.out", transB=1),
    ]
    nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(v, k) for k, v in p.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="hetra tools/train_digits.py",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def accuracy(path, pixels, labels):
    """How many held-out pictures ONNX Runtime gets right with the written file:
    the figure is about what ships, not about the arrays in this process."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = pixels.reshape(-1, 1, 8, 8).astype(np.float32) / PIXEL_MAX
    (logits,) = session.run(["logits"], {"image": x})
    return logits.argmax(1) == labels


def write_test_set(path, pixels, labels):
    """HDIG1: magic, count, then 64 pixel bytes and one label byte per picture."""
    with open(path, "wb") as out:
        out.write(b"HDIG1\n" + struct.pack("<I", len(labels)))
        for image, label in zip(pixels, labels):
            out.write(image.tobytes() + bytes([label]))


def write_pictures(folder, pixels, labels):
    """The first held-out picture of each class, not the prettiest, as PNG."""
    chosen = []
    for digit in range(10):
        index = int(np.flatnonzero(labels == digit)[0])
        grey = np.rint(pixels[index].reshape(8, 8) * (255.0 / PIXEL_MAX))
        image = Image.fromarray(grey.astype(np.uint8))
        image = image.resize((64, 64), Image.Resampling.NEAREST)
        image.save(folder / f"digit_{digit}.png", optimize=True)
        chosen.append(index)
    return chosen


README = """\
# Assets inside the binary

Written by `tools/train_digits.py`; do not edit by hand. To make them again:

    pip install -r tools/requirements.txt
    python tools/train_digits.py

| file | what |
|---|---|
| `digits.onnx` | the classifier: `image` f32 [batch,1,8,8] in 0..1 -> `logits` f32 [batch,10]; opset {opset}; {params} parameters; {model_bytes} bytes |
| `digits_test.bin` | the {count} held-out pictures: `HDIG1\\n`, count (u32 LE), then per picture 64 bytes (row by row, 0..16) and one label byte |
| `digit_0.png` .. `digit_9.png` | the first held-out picture of each class, 64x64 grey (each of the 8x8 pixels is an 8x8 block; grey = round(pixel * 255 / 16)) |

**Accuracy**: {right} of {count} held-out pictures ({percent:.2f} %), measured with ONNX Runtime
{ort} on `digits.onnx` itself.{missed} The split is stratified 80/20 with seed {split_seed}. The held-out pictures were
not trained on, and the schedule ({epochs} epochs, seed {seed}) was fixed before they were looked at.
The data set does not say who wrote what, so one hand may be on both sides of the split: the figure
is about more digits like these, not about yours.

The pictures are the digits data set of scikit-learn (1,797 pictures of 8x8 pixels, ink in 0..16),
which is the test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak,
UCI Machine Learning Repository, DOI 10.24432/C50P49, licence CC BY 4.0. Changes: split, packed,
and enlarged for the PNG files. The weights are our own and come under the project's licence.
"""


def main():
    parser = argparse.ArgumentParser(description="train and export the digit model")
    parser.add_argument("--out", type=Path, default=ASSETS, help="asset folder")
    parser.add_argument("--seed", type=int, default=7, help="weights and batches")
    parser.add_argument("--split-seed", type=int, default=1, help="held-out split")
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()

    print(f"gradient check: largest error {check_gradients(args.seed):.1e}")
    digits = load_digits()
    pixels, labels = digits.data.astype(np.uint8), digits.target.astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(
        pixels, labels, test_size=0.2, stratify=labels, random_state=args.split_seed
    )
    x = x_train.reshape(-1, 1, 8, 8).astype(np.float32) / PIXEL_MAX
    params = train(x, y_train, args.seed, args.epochs)

    args.out.mkdir(parents=True, exist_ok=True)
    model_path = args.out / "digits.onnx"
    model_path.write_bytes(to_onnx(params).SerializeToString(deterministic=True))
    size = model_path.stat().st_size
    assert size <= MAX_BYTES, f"{model_path.name} has {size} bytes"
    write_test_set(args.out / "digits_test.bin", x_test, y_test)
    chosen = write_pictures(args.out, x_test, y_test)

    right = accuracy(model_path, x_test, y_test)
    wrong_pictures = [d for d, i in enumerate(chosen) if not right[i]]
    missed = ""
    if wrong_pictures:
        names = ", ".join(f"`digit_{d}.png`" for d in wrong_pictures)
        missed = f" It gets these of the pictures above wrong: {names}."
    percent = 100.0 * right.mean()
    readme = README.format(
        opset=OPSET,
        params=f"{sum(v.size for v in params.values()):,}",
        model_bytes=f"{size:,}",
        count=len(y_test),
        right=int(right.sum()),
        percent=percent,
        ort=onnxruntime.__version__,
        missed=missed,
        split_seed=args.split_seed,
        epochs=args.epochs,
        seed=args.seed,
    )
    (args.out / "README.md").write_text(readme)
    print(f"{model_path.name}: {size} bytes, {len(y_test)} held-out pictures")
    print(f"held-out accuracy (onnxruntime): {percent:.2f} %, wrong: {wrong_pictures}")
    assert percent >= 97.0, "accuracy is below what the README promises"


if __name__ == "__main__":
    main()
