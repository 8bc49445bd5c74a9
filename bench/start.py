#!/usr/bin/env python3
"""How soon the first answer is there, and the memory that it takes: Hetra beside ONNX Runtime.

    pip install -r bench/requirements.txt
    cargo build --release -p hetra-cli
    python bench/start.py                           # every model of the manifest, 1 and 2 threads
    python bench/start.py --models yunet --rounds 9
    python bench/start.py --models my/model.onnx    # your own, on inputs made up

Time goes from opening the file to the end of the first inference: the start of the process and the
import of the library are not in it, the file is in the system's cache. Memory is the peak (VmHWM) of
the process less what it had before it opened the model: after the first inference, and after ten.
Engines take turns, each in a process of its own; figures are medians over the rounds.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import child
import cpu
import engines

RUNS = 10
ENGINES = ["hetra", "onnxruntime"]
FIGURES = ["load_ms", "first_ms", "first_mib", "later_mib"]


def hetra_once(args, model, feed, threads):
    """Hetra's figures, all of one process."""
    command = [args.hetra, "bench", model, "-i", feed / "feed.npz", "--threads", threads, "--json"]
    # The first inference and the warm-up are two of the ten.
    command += ["-t", args.timeout, "--warmup", 1, "--iterations", RUNS - 2]
    said = child.own_json(command, args.timeout)
    if "error" in said:
        return said
    peak = said["memory_mib"]
    peaks = {"first_mib": peak["first"] - peak["start"], "later_mib": peak["end"] - peak["start"]}
    return {"load_ms": said["load_ms"], "first_ms": said["first_ms"]} | peaks


def ort_once(args, model, feed, threads):
    """ONNX Runtime's figures, all of one process."""
    task = {"kind": "start", "model": model, "feed": feed, "threads": threads, "runs": RUNS}
    return child.ask(engines.task(**task), args.timeout)


def measure(args, model, feed, threads):
    """The medians of each engine over the rounds, or its error."""
    found = {name: [] for name in ENGINES}
    for number in range(args.rounds):
        for name in ENGINES if number % 2 == 0 else ENGINES[::-1]:
            if name == "hetra":
                found[name].append(hetra_once(args, model, feed, threads))
            else:
                found[name].append(ort_once(args, model, feed, threads))
    return {name: medians(answers) for name, answers in found.items()}


def medians(answers):
    """The figures of several answers in one; the first error where there is one."""
    errors = [answer["error"] for answer in answers if "error" in answer]
    if errors:
        return {"error": errors[0]}
    return {name: statistics.median(answer[name] for answer in answers) for name in FIGURES}


def start_ms(figures):
    """From opening the file to the first answer."""
    return figures["load_ms"] + figures["first_ms"]


def row(name, threads, both):
    """A line of the table; Hetra's figures stand before ONNX Runtime's."""
    head = f"{name:34} {threads}"
    for engine, figures in both.items():
        if "error" in figures:
            return f"{head}  {engine}: {figures['error']}"
    a, b = (both[name] for name in ENGINES)
    times = f"{a['load_ms']:7.1f} +{a['first_ms']:6.1f}  {b['load_ms']:7.1f} +{b['first_ms']:6.1f}"
    text = f"{head}  {times}  {start_ms(a) / start_ms(b):5.2f}"
    for key in ("first_mib", "later_mib"):
        text += f"  {a[key]:6.1f} {b[key]:6.1f} {a[key] / max(b[key], 0.1):5.2f}"
    return text


HEAD = (
    f"{'model':34} #  {'hetra load + first':>15}  {'ORT load + first':>15}  ratio  "
    f"{'MiB after 1: hetra, ORT':>20}  {'after 10':>16}"
)


def run(args):
    """Measures every model, prints a line for each, and how many of them are within the bounds."""
    if not args.hetra.exists():
        sys.exit(f"no {args.hetra}: cargo build --release -p hetra-cli")
    print(HEAD)
    results = []
    for name, file, golden in cpu.find_models(args):
        with tempfile.TemporaryDirectory() as scratch:
            ready = cpu.prepare(args, (name, file, golden), Path(scratch))
            if "error" in ready:
                print(f"{name}: {ready['error']}", flush=True)
                continue
            for threads in args.threads:
                feed = Path(scratch) / "feed"
                both = measure(args, file, feed, threads)
                results.append({"model": name, "threads": threads} | both)
                print(row(name, threads, both), flush=True)
    whole = [x for x in results if not any("error" in x[name] for name in ENGINES)]
    sooner = sum(start_ms(x["hetra"]) <= start_ms(x["onnxruntime"]) for x in whole)
    smaller = sum(x["hetra"]["later_mib"] <= x["onnxruntime"]["later_mib"] for x in whole)
    print(f"of {len(whole)}: no slower to start {sooner}, no more memory after {RUNS} {smaller}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def main():
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--models", nargs="+", metavar="NAME", help="parts of names in the manifest, or files")
    add("--manifest", type=Path, default=cpu.SHARED / "models" / "manifest.json", metavar="JSON")
    add("--threads", type=cpu.counts, default="1,2", help="how many, one run each (%(default)s)")
    add("--rounds", type=int, default=5, help="turns of each engine (%(default)s)")
    add("--hetra", type=Path, default=cpu.TARGET / "release" / "hetra", help="use this binary")
    add("--json", type=Path, metavar="FILE", help="save the figures")
    add("--timeout", type=float, default=300.0, metavar="SECONDS", help="for each process")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
