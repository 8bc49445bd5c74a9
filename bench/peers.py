#!/usr/bin/env python3
"""Hetra and ONNX Runtime side by side, in one go, on one machine.

Two figures taken at different times compare the weather as much as the
software. So the two sides alternate, round by round, each in a process of its
own; who goes first changes every round; and the ratio is formed within a round
before the median over the rounds is taken. Its spread is printed with it.

    pip install -r bench/requirements.txt
    cargo build --release
    python bench/peers.py                                   # the shared models
    python bench/peers.py --models a.onnx --data folder/    # your own
    python bench/peers.py --mem                             # one inference each

This process stays small on purpose (no numpy, no onnx): on Linux a child's
ru_maxrss begins at what its parent had resident when it was started.
"""

import argparse
import json
import math
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT.parent / "shared" / "models" / "manifest.json"
MIB = 1024.0 * 1024.0
FAST_POLL_S, SLOW_POLL_S = 0.001, 0.02
WARM_UP_SHARE = 0.1  # of the seconds: ONNX Runtime may settle before it is timed


# --- the ONNX Runtime side: runs in a child process --------------------------


def worker_convert(data, out):
    """input_N.pb -> N.npy, in a process of its own so that the timed one need
    not import `onnx`, which would count as ONNX Runtime's memory."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    names = {}
    for index in range(1000):
        path = Path(data) / f"input_{index}.pb"
        if not path.exists():
            break
        tensor = onnx.TensorProto.FromString(path.read_bytes())
        np.save(Path(out) / f"{index}.npy", numpy_helper.to_array(tensor))
        names[index] = tensor.name
    (Path(out) / "names.json").write_text(json.dumps(names))
    return {"inputs": len(names)}


def worker_baseline():
    """Imports and nothing else: what a Python host costs before any model."""
    import numpy
    import onnxruntime

    return {"numpy": numpy.__version__, "onnxruntime": onnxruntime.__version__}


def load_feed(session, arrays):
    """The recorded inputs by name, else by position; without a recording,
    fixed numbers in 0..1 with every free dimension at 1. (Not numpy.random: its
    import would count as ONNX Runtime's memory.)"""
    import numpy as np

    inputs = session.get_inputs()
    if arrays:
        names = json.loads((Path(arrays) / "names.json").read_text())
        loaded = {int(k): np.load(Path(arrays) / f"{k}.npy") for k in names}
        if len(loaded) < len(inputs):
            raise SystemExit(f"{len(loaded)} recorded inputs, {len(inputs)} wanted")
        by_name = {names[str(k)]: v for k, v in loaded.items()}
        return {x.name: by_name.get(x.name, loaded[i]) for i, x in enumerate(inputs)}
    kinds = {
        "tensor(float)": np.float32,
        "tensor(double)": np.float64,
        "tensor(float16)": np.float16,
    }
    whole = {
        "tensor(int64)": np.int64,
        "tensor(int32)": np.int32,
        "tensor(uint8)": np.uint8,
        "tensor(bool)": np.bool_,
    }
    feed = {}
    for x in inputs:
        shape = [d if isinstance(d, int) and d > 0 else 1 for d in x.shape]
        if x.type in kinds:
            steps = np.arange(math.prod(shape)) * 0.6180339887
            feed[x.name] = (steps % 1).reshape(shape).astype(kinds[x.type])
        elif x.type in whole:
            feed[x.name] = np.ones(shape, whole[x.type])
        else:
            raise SystemExit(f"input {x.name}: no way to make up a {x.type}")
    return feed


def percentile(ordered, share):
    """Nearest rank, on an ordered list."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def steady_of(samples):
    """Milliseconds -> the figures that `hetra bench --json` gives."""
    if not samples:
        return {"samples": 0}
    ordered = sorted(samples)
    return {
        "min_ms": ordered[0],
        "median_ms": statistics.median(ordered),
        "mean_ms": statistics.fmean(ordered),
        "p90_ms": percentile(ordered, 0.90),
        "p95_ms": percentile(ordered, 0.95),
        "p99_ms": percentile(ordered, 0.99),
        "samples": len(ordered),
    }


def worker_ort(model, arrays, threads, seconds, call, once):
    """Load, first run, then runs for `seconds`; the JSON of `hetra bench`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    clock = time.perf_counter
    start = clock()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    load_ms = (clock() - start) * 1e3
    feed = load_feed(session, arrays)

    if call == "binding":
        # The leaner way in: the feed is bound once and answers stay in ONNX
        # Runtime's memory, so little of Python is timed.
        binding = session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)
        for output in session.get_outputs():
            binding.bind_output(output.name, "cpu")

        def infer():
            session.run_with_iobinding(binding)

    else:

        def infer():
            session.run(None, feed)

    start = clock()
    infer()
    first_ms = (clock() - start) * 1e3
    samples = []
    if not once:
        warm_until = clock() + WARM_UP_SHARE * seconds
        while clock() < warm_until:
            infer()
        until = clock() + seconds
        while True:
            start = clock()
            infer()
            end = clock()
            samples.append((end - start) * 1e3)
            if end >= until:
                break
    return {
        "model": model,
        "device": "cpu",
        "threads": threads,
        "load_ms": load_ms,
        "first_ms": first_ms,
        "steady": steady_of(samples),
    }


def worker(task):
    """Entry of a child: a JSON task in, a JSON answer out."""
    kinds = {"convert": worker_convert, "baseline": worker_baseline, "ort": worker_ort}
    print(json.dumps(kinds[task.pop("kind")](**task)))


# --- the judge: starts the children, measures them, compares -----------------


def peak_so_far(pid):
    """VmHWM in bytes while the process lives, else 0 (also where there is no /proc)."""
    try:
        with open(f"/proc/{pid}/status") as lines:
            for line in lines:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def own_peak():
    """What a child's ru_maxrss may have inherited from this process, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    mine = peak_so_far("self")
    return mine or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_child(command, timeout, slowest_poll=SLOW_POLL_S):
    """Run to the end; returns (exit status, stdout, stderr, peak bytes, exact).

    The peak is ru_maxrss from wait4. Where that is about what this process had
    when it forked, it says nothing about the child; then the last VmHWM seen
    while polling stands in, and `exact` is False.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        deadline = time.monotonic() + timeout
        polled, done, delay = 0, 0, FAST_POLL_S
        while not done:
            # Popen returns after the exec, so this is the new program's mark;
            # it never falls, and it is 0 once the process is gone.
            polled = peak_so_far(child.pid) or polled
            done, status, usage = os.wait4(child.pid, os.WNOHANG)
            if not done:
                if time.monotonic() > deadline:
                    os.kill(child.pid, signal.SIGKILL)
                time.sleep(delay)
                delay = min(slowest_poll, delay * 1.2)
        child.returncode = os.waitstatus_to_exitcode(status)
        unit = 1 if sys.platform == "darwin" else 1024
        peak, exact = usage.ru_maxrss * unit, True
        if polled and peak <= own_peak() + MIB:
            peak, exact = polled, False
        out.seek(0)
        err.seek(0)
        text = out.read().decode(errors="replace")
        return child.returncode, text, err.read().decode(errors="replace"), peak, exact


def last_json(text):
    """The last line of stdout that is a JSON object, or the whole of stdout."""
    for candidate in [text, *reversed(text.splitlines())]:
        try:
            value = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    raise ValueError("no JSON on stdout")


def measured(command, timeout, slowest_poll=SLOW_POLL_S):
    """A child's JSON with its peak memory; {"error": ...} where it failed. A
    failure is a result and is shown: it must not drop out of the table."""
    code, out, err, peak, exact = run_child(command, timeout, slowest_poll)
    memory = {"peak_bytes": peak, "peak_exact": exact}
    if code != 0:
        said = " ".join((err.strip() or out.strip() or "no message").split())
        what = f"signal {-code}" if code < 0 else f"exit {code}"
        return {"error": f"{what}: {said[-200:]}"} | memory
    try:
        return last_json(out) | memory
    except ValueError as error:
        return {"error": str(error)} | memory


def worker_command(**task):
    """The command line that makes this very file a worker."""
    return [sys.executable, __file__, "--worker", json.dumps(task)]


def hetra_command(args, job):
    """`hetra bench`; with --mem zero seconds, so that only the first run is left."""
    seconds = "0" if args.mem else str(args.seconds)
    command = [args.hetra, "bench", job["model"]]
    command += ["--threads", str(args.threads), "-t", seconds]
    if job["data"]:
        command += ["--data", job["data"]]
    return command + ["--json"]


def ort_command(args, job, arrays):
    """The same job for the ONNX Runtime worker."""
    return worker_command(
        kind="ort",
        model=job["model"],
        arrays=arrays,
        threads=args.threads,
        seconds=args.seconds,
        call=args.ort_call,
        once=args.mem,
    )


def find_jobs(args):
    """Which models, with which recorded inputs (None: each side makes its own)."""
    if args.models:
        jobs = []
        for model in args.models:
            data = None
            if args.data:
                own = args.data / Path(model).stem
                data = own if own.is_dir() else args.data
            jobs.append({"name": Path(model).stem, "model": model, "data": data})
    else:
        folder = args.manifest.parent
        jobs = [
            {
                "name": Path(entry["file"]).with_suffix("").as_posix(),
                "model": str(folder / entry["file"]),
                "data": folder / entry["golden"] if entry.get("golden") else None,
            }
            for entry in json.loads(args.manifest.read_text())
        ]
    for job in jobs:
        usable = job["data"] and (job["data"] / "input_0.pb").exists()
        job["data"] = str(job["data"]) if usable else None
    return [
        j for j in jobs if not args.filter or any(f in j["name"] for f in args.filter)
    ]


def cpu_name():
    """The processor as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def load_average():
    """One-minute load; a figure taken on a busy machine should say so."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def facts(args):
    """Everything about machine and versions that a reader needs to judge by."""
    baseline = measured(worker_command(kind="baseline"), args.timeout)
    if "error" in baseline:
        sys.exit(f"cannot import onnxruntime: {baseline['error']}")
    code, out, err, _, _ = run_child([args.hetra, "--version"], args.timeout)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "cpu": cpu_name(),
        "cpus_usable": usable or os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "hetra": (out.strip() or "unknown").splitlines()[0] if code == 0 else "unknown",
        "onnxruntime": baseline["onnxruntime"],
        "numpy": baseline["numpy"],
        "threads": args.threads,
        "rounds": args.rounds,
        "seconds": 0 if args.mem else args.seconds,
        "mode": "one inference" if args.mem else "steady",
        "ort_call": args.ort_call,
        "ort_baseline_bytes": baseline["peak_bytes"],
        "rss_floor_bytes": own_peak(),
        "load_average_start": load_average(),
    }


def run_job(args, job):
    """All rounds of one model; the sides alternate, and so does who begins."""
    with tempfile.TemporaryDirectory() as scratch:
        arrays = None
        if job["data"]:
            convert = worker_command(kind="convert", data=job["data"], out=scratch)
            answer = measured(convert, args.timeout)
            if "error" in answer:
                failed = {"error": f"inputs: {answer['error']}"}
                return [{"hetra": failed, "ort": failed}]
            arrays = scratch
        commands = {
            "hetra": hetra_command(args, job),
            "ort": ort_command(args, job, arrays),
        }
        # While timing, poll rarely so as not to disturb; with --mem, often.
        poll = FAST_POLL_S if args.mem else SLOW_POLL_S
        rounds = []
        for number in range(args.rounds):
            order = ["hetra", "ort"] if number % 2 == 0 else ["ort", "hetra"]
            answers = {}
            for side in order:
                answers[side] = measured(commands[side], args.timeout, poll)
            rounds.append(answers)
        return rounds


def pick(rounds, side, *keys):
    """One figure from every round that has it."""
    values = []
    for entry in rounds:
        value = entry[side]
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, (int, float)):
            values.append(value)
    return values


def middle(values):
    """Median, or None for nothing."""
    return statistics.median(values) if values else None


def summarise(name, rounds, once):
    """The row of one model: medians over the rounds, ratios within them."""
    key = ("first_ms",) if once else ("steady", "median_ms")
    ratios = []
    for entry in rounds:
        ours, theirs = pick([entry], "hetra", *key), pick([entry], "ort", *key)
        if ours and theirs and theirs[0] > 0:
            ratios.append(ours[0] / theirs[0])
    row = {"model": name, "ratio": middle(ratios), "ratios": ratios, "rounds": rounds}
    for side in ("hetra", "ort"):
        errors = [r[side]["error"] for r in rounds if "error" in r[side]]
        healthy = [r for r in rounds if "error" not in r[side]]
        exact = pick(healthy, side, "peak_exact")
        row[side] = {
            "ms": middle(pick(healthy, side, *key)),
            "load_ms": middle(pick(healthy, side, "load_ms")),
            "peak_bytes": middle(pick(healthy, side, "peak_bytes")),
            "peak_exact": all(exact),
            "errors": errors,
        }
    return row


def ms(value):
    """Milliseconds with three useful digits."""
    if value is None:
        return "failed"
    digits = 4 if value < 0.1 else 3 if value < 10 else 2 if value < 100 else 1
    return f"{value:.{digits}f}"


def mib(value, exact=True):
    """MiB; a tilde marks a polled figure."""
    return "-" if value is None else f"{'' if exact else '~'}{value / MIB:.1f}"


def table_row(row, baseline):
    """One line of the Markdown table."""
    ours, theirs = row["hetra"], row["ort"]
    ratio = "-"
    if row["ratios"]:
        low, high = min(row["ratios"]), max(row["ratios"])
        ratio = f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})"
    net = None
    if theirs["peak_bytes"] is not None:
        net = max(0, theirs["peak_bytes"] - baseline)
    cells = [
        row["model"],
        ms(ours["ms"]),
        ms(theirs["ms"]),
        ratio,
        "-" if ours["load_ms"] is None else ms(ours["load_ms"]),
        "-" if theirs["load_ms"] is None else ms(theirs["load_ms"]),
        mib(ours["peak_bytes"], ours["peak_exact"]),
        mib(theirs["peak_bytes"], theirs["peak_exact"]),
        mib(net),
    ]
    return "| " + " | ".join(cells) + " |"


def print_facts(machine):
    """The head of the report."""
    m = machine
    print(f"- CPU: {m['cpu']}, {m['cpus_usable']} usable; {m['system']}")
    print(
        f"- {m['hetra']}; ONNX Runtime {m['onnxruntime']} (CPU provider, all "
        f"optimisations, inter-op 1, {m['ort_call']}); Python {m['python']}, "
        f"numpy {m['numpy']}"
    )
    length = "one inference" if m["seconds"] == 0 else f"{m['seconds']} s per side"
    print(f"- {m['threads']} thread(s), {m['rounds']} rounds, {length} and round")
    print(f"- load average at the start: {m['load_average_start']}")
    print()


def print_notes(machine, rows):
    """What the figures do not say by themselves."""
    ratios = [row["ratio"] for row in rows if row["ratio"]]
    if ratios:
        mean = math.exp(statistics.fmean(math.log(r) for r in ratios))
        ahead = sum(r < 1 for r in ratios)
        print(
            f"\nGeometric mean of hetra/ort: **{mean:.2f}** over {len(ratios)} of "
            f"{len(rows)} models; hetra is ahead on {ahead}."
        )
    base, floor = machine["ort_baseline_bytes"], machine["rss_floor_bytes"]
    print(
        "\n- ms: median over the rounds; ratio: median of the ratios within the "
        "rounds (smallest-largest); below 1 hetra is faster. Load: reading the file "
        "up to being ready to run, without starting the process or imports."
        f"\n- Peak: largest resident set of the whole process. For ONNX Runtime that "
        f"includes Python, numpy and the import of onnxruntime, {mib(base)} MiB without "
        "any model; the last column is the peak less that. It is a fair guess at what "
        "the model adds, not a measurement of a C or C++ host: such a host would need "
        "less than the peak, and more than the last column, since the runtime's own "
        "library is in what was taken off. Compare hetra with both."
        f"\n- Peaks up to about {mib(floor + MIB)} MiB cannot be read from ru_maxrss here; ~ marks "
        "those that were polled instead."
        f"\n- Load average at the end: {machine['load_average_end']}. Answers are not "
        "compared here; `tests/` does that."
    )
    for row in rows:
        for side in ("hetra", "ort"):
            for error in sorted(set(row[side]["errors"])):
                print(f"- {row['model']}: {side} failed: {error}")


def parse_args():
    parser = argparse.ArgumentParser(description="hetra next to ONNX Runtime")
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--models", nargs="+", help="model files, not the manifest")
    parser.add_argument(
        "--data",
        type=Path,
        help="with --models: folder of input_N.pb, or of one such folder per model",
    )
    parser.add_argument("--filter", nargs="+", help="only names with one of these")
    parser.add_argument(
        "--hetra", default=str(ROOT / "target" / "release" / "hetra"), help="binary"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-t", "--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--mem", action="store_true", help="one inference per process: memory and start"
    )
    parser.add_argument(
        "--ort-call",
        choices=["binding", "run"],
        default="binding",
        help="how Python calls ONNX Runtime; binding has the lower overhead",
    )
    parser.add_argument("--timeout", type=float, default=300.0, help="s per process")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 1 or args.threads < 1 or args.seconds <= 0:
        parser.error("--rounds, --threads and --seconds must be positive")
    return args


def main():
    args = parse_args()
    if args.worker:
        worker(args.worker)
        return
    if not args.models and not args.manifest.exists():
        sys.exit(f"no {args.manifest}; give --models")
    if not os.access(args.hetra, os.X_OK):
        sys.exit(f"no {args.hetra}; build it with `cargo build --release`")
    jobs = find_jobs(args)
    if not jobs:
        sys.exit("no model fits")

    machine = facts(args)
    print_facts(machine)
    what = "first" if args.mem else "median"
    print(
        f"| model | hetra {what} ms | ort {what} ms | hetra/ort | hetra load ms "
        "| ort load ms | hetra peak MiB | ort peak MiB | ort less import MiB |"
    )
    print("|---|" + "---:|" * 8)
    rows = []
    for job in jobs:
        rounds = run_job(args, job)
        row = summarise(job["name"], rounds, args.mem)
        rows.append(row)
        print(table_row(row, machine["ort_baseline_bytes"]), flush=True)
    machine["load_average_end"] = load_average()
    print_notes(machine, rows)
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "models": rows}, indent=1))


if __name__ == "__main__":
    main()
