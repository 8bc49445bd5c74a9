"""The engines that are compared: how each is started, and what each can do."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import child

FOLDER = Path(__file__).resolve().parent
NAMES = ["hetra", "onnxruntime", "openvino", "rten", "tract"]
PRECISIONS = ["f32", "bf16", "int8"]

# How near an answer must come to the recorded one: |found - wanted| <= rtol |wanted| + atol scale,
# the scale being about the output's largest value (worker.difference). bf16 keeps 8 bits of a
# number, and errors add up over a model's layers; in int8 one step of a scale is what engines
# may round differently.
NEAR = {"f32": (1e-3, 1e-3), "bf16": (5e-2, 1e-1), "int8": (5e-2, 1e-1)}

# What an engine does not do at all, with its reason.
LACKS = {
    ("onnxruntime", "bf16"): "its CPU provider computes f32 models in bf16 on ARM only",
    ("rten", "bf16"): "it computes in f32 and int8 only",
    ("tract", "bf16"): "it has no bf16 arithmetic on x86",
}

# The settings that are not the engine's defaults, or that must be said.
SETTINGS = {
    "hetra": "its command line, `hetra bench`; the precision is given where it can be, "
    "what was tuned here is left out (HETRA_STORE=off)",
    "onnxruntime": "CPU provider, all optimisations, sequential, spinning threads (default), "
    "inputs and outputs bound",
    "openvino": "CPU plugin, hint LATENCY, one stream, INFERENCE_PRECISION_HINT f32 or bf16 as the "
    "table says (left alone it takes bf16 on CPUs that have it), f32 for int8 models; dynamic "
    "quantisation off but for those; free dimensions set to those of the inputs; inputs shared",
    "rten": "weights packed at load, a thread pool of its own",
    "tract": "optimised for the shapes of the inputs, multi-threaded matrix product",
}


@dataclass
class Setup:
    """Where the engines are, and how long each may run."""

    hetra: Path
    rust_peers: Path
    seconds: float
    timeout: float
    hetra_has_precision: bool = False


@dataclass
class Job:
    """One model at one precision and number of threads; `scratch` holds its inputs as `feed`
    and its expected outputs as `reference`."""

    name: str
    model: str
    precision: str
    threads: int
    scratch: Path


def task(**fields):
    """The command line of a Python worker."""
    return [sys.executable, FOLDER / "worker.py", json.dumps(fields, default=str)]


def look_up(setup, names):
    """Versions of the engines, and what a Python host costs in memory before any model: the
    answers by name, with `error` where one cannot be started. Notes what this hetra can do."""
    found = {}
    for name in names:
        if name == "hetra":
            code, out, err, _ = child.run([str(setup.hetra), "--version"], setup.timeout)
            version = out.split()[-1] if code == 0 and out.split() else ""
            found[name] = {"version": version} if version else {"error": child.reason(err)}
            code, out, _, _ = child.run([str(setup.hetra), "bench", "--help"], setup.timeout)
            setup.hetra_has_precision = code == 0 and "--precision" in out
        elif name in ("rten", "tract"):
            found[name] = {"version": locked_version("tract-onnx" if name == "tract" else name)}
        else:
            answer = child.ask(task(kind="import", module=name), setup.timeout)
            found[name] = answer
    return found


def locked_version(package):
    """A peer's version, from its lock file; empty when it has none."""
    lines = (FOLDER / "rust-peers" / "Cargo.lock").read_text().splitlines()
    at = lines.index(f'name = "{package}"')
    return lines[at + 1].split('"')[1]


def lack(setup, name, precision):
    """Why an engine cannot compute at a precision, or None where it can."""
    if name == "hetra" and precision == "bf16" and not setup.hetra_has_precision:
        return "this `hetra` has no --precision"
    return LACKS.get((name, precision))


def hetra_precision(setup, job):
    """The arguments that pin the precision; int8 models keep f32 around their integers."""
    if not setup.hetra_has_precision:
        return []
    return ["--precision", "bf16" if job.precision == "bf16" else "f32"]


def measure(setup, name, job, out=None):
    """Runs one engine once: its JSON, or its error. With `out`, also its answer, as a folder of
    arrays or, for hetra, a .npz; `answer` is where."""
    feed = job.scratch / "feed"
    if name == "hetra":
        common = [job.model, "-i", feed / "feed.npz", "--threads", job.threads]
        common += hetra_precision(setup, job)
        command = [setup.hetra, "bench", *common, "-t", setup.seconds, "--json"]
        measured = child.ask(command, setup.timeout)
        if not out or "error" in measured:
            return measured
        answer = out / "out.npz"
        # `bench` gives no outputs; the same settings, so the same kernels.
        command = [setup.hetra, "run", *common, "-o", answer, "--json"]
        code, said, err, _ = child.run([str(part) for part in command], setup.timeout)
        if code != 0:
            return {"error": f"exit {code}: {child.reason(err.strip() or said)}"}
        return measured | {"answer": answer}
    fields = {"model": job.model, "feed": feed, "out": out, "threads": job.threads}
    fields |= {"seconds": setup.seconds}
    if name in ("rten", "tract"):
        command = [setup.rust_peers / name, json.dumps(fields, default=str)]
    else:
        command = task(kind=name, precision=job.precision, **fields)
    return child.ask(command, setup.timeout) | ({"answer": out} if out else {})


def check(setup, job, answer):
    """Whether an answer is near the expected one, and by how much it is off."""
    rtol, atol = NEAR[job.precision]
    fields = {"found": answer, "reference": job.scratch / "reference", "rtol": rtol, "atol": atol}
    return child.ask(task(kind="check", **fields), setup.timeout)
