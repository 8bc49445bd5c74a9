#!/usr/bin/env python3
"""Hetra and its peers side by side on this machine's CPU; started by `cargo xtask bench cpu`.

Two figures taken at different times compare the weather as much as the software. So the engines
take turns, round by round, each in a process of its own; who begins changes every round; and a
ratio is formed within a round before the median over the rounds is taken. Its spread is shown.

    cargo xtask bench cpu                            # everything, into target/bench
    cargo xtask bench cpu --out docs                 # the same, into docs/
    cargo xtask bench cpu --quick --models yunet     # a first look at a model
    cargo xtask bench cpu --models my/model.onnx     # your own, on inputs made up
    python bench/cpu.py --render-only docs/performance.json     # the pages again
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import child
import engines
import report

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "target"
SHARED = Path(os.environ.get("HETRA_SHARED", ROOT.parent / "shared"))
FLAGS = ["avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"]
FLAGS += ["amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm", "sve"]
DIGITS = 4  # significant, of what is saved


# --- the machine ----------------------------------------------------------------


def cpu_facts():
    """The processor as the system names it, and those of its instructions that matter here."""
    name, flags = platform.processor() or platform.machine(), []
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = value
            elif key in ("flags", "Features"):
                flags = [flag for flag in FLAGS if flag in value.split()]
    except OSError:
        pass
    return name, flags


def memory_gib():
    """The machine's memory, or None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def commit():
    """What was checked out, with a mark for changes since; empty without git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def machine_facts():
    """Everything about the machine that a reader needs to judge by."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name, flags = cpu_facts()
    return {
        "cpu": name,
        "cpus_usable": usable,
        "flags": flags,
        "memory_gib": memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
    }


class Weather:
    """How much of the machine others took while this ran."""

    def __init__(self):
        self.load_start = self.load()
        self.began = time.monotonic()
        self.stat = self.jiffies()
        self.own = self.own_seconds()

    @staticmethod
    def load():
        """One-minute load average, or None where there is none."""
        return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None

    @staticmethod
    def jiffies():
        """(seconds that all CPUs worked here, seconds stolen by the hypervisor), or None."""
        try:
            first = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        except OSError:
            return None
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, first[:8])
        tick = os.sysconf("SC_CLK_TCK")
        return (user + nice + system + irq + softirq) / tick, steal / tick

    @staticmethod
    def own_seconds():
        """CPU seconds of this process and of its ended children."""
        usages = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    def facts(self):
        """Shares are of all CPU time since the start."""
        facts = {"load_start": self.load_start, "load_end": self.load()}
        now = self.jiffies()
        seconds = time.monotonic() - self.began
        facts["minutes"] = round(seconds / 60, 1)
        if self.stat and now:
            whole = seconds * (os.cpu_count() or 1)
            others = now[0] - self.stat[0] - (self.own_seconds() - self.own)
            facts["others_share"] = round(max(0.0, others) / whole, 3)
            facts["steal_share"] = round((now[1] - self.stat[1]) / whole, 3)
        return facts


# --- what is measured -------------------------------------------------------------


def find_models(args):
    """[(name, file, folder of recordings or None)]: those of the manifest whose name has one of
    the words given, and the files given."""
    words = args.models or [""]
    files = [word for word in words if word.endswith(".onnx") and Path(word).is_file()]
    words = [word for word in words if word not in files]
    found = [(Path(file).stem, file, None) for file in files]
    if words and not args.manifest.exists():
        sys.exit(f"no {args.manifest}: give files to --models, or set HETRA_SHARED")
    folder = args.manifest.parent
    for entry in json.loads(args.manifest.read_text()) if words else []:
        name = Path(entry["file"]).with_suffix("").as_posix()
        if any(word in name for word in words):
            golden = folder / entry["golden"] if entry.get("golden") else None
            found.append((name, str(folder / entry["file"]), golden))
    return found


def significant(value):
    """A number as it is saved: no more digits than it is worth."""
    return None if value is None else float(f"{value:.{DIGITS}g}")


def middle(values):
    """Median of what is there, as it is saved."""
    values = [value for value in values if value is not None]
    return significant(statistics.median(values)) if values else None


def figures_of(answers, checked):
    """What is saved of one engine's rounds; an error in any round is the engine's result."""
    errors = [answer["error"] for answer in [*answers, checked] if "error" in answer]
    if errors:
        return {"error": errors[0]}
    steady = [answer["steady"] for answer in answers]
    return {
        "median_ms": [significant(x["median_ms"]) for x in steady],
        "min_ms": significant(min(x["min_ms"] for x in steady)),
        "load_ms": middle([answer["load_ms"] for answer in answers]),
        "first_ms": middle([answer["first_ms"] for answer in answers]),
        "peak_mib": middle([answer["peak_mib"] for answer in answers]),
        "near": checked["near"],
        "worst": significant(checked["worst"]),
    }


def run_job(setup, names, job, rounds, progress):
    """All rounds of one job; the order turns by one each round. An engine that failed is not
    asked again. Answers are taken and checked in the first round."""
    answers = {name: [] for name in names}
    checked = {}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if any("error" in answer for answer in answers[name]):
                continue
            progress.step(
                f"{job.name} {job.precision} {job.threads} thr, round {number + 1}: {name}"
            )
            out = None
            if name not in checked:
                out = job.scratch / "out" / name
                out.mkdir(parents=True, exist_ok=True)
            answer = engines.measure(setup, name, job, out)
            answers[name].append(answer)
            if "error" in answer:
                checked[name] = answer
            elif out:
                checked[name] = engines.check(setup, job, answer["answer"])
    found = {name: figures_of(answers[name], checked[name]) for name in names}
    place = {"model": job.name, "precision": job.precision, "threads": job.threads}
    return place | {"engines": found}


class Progress:
    """One line on the terminal that says where it is, and lines that stay."""

    def __init__(self, total):
        self.total, self.done, self.began = total, 0, time.monotonic()
        self.live = sys.stderr.isatty()

    def step(self, what):
        """`what` is about to run."""
        if self.live:
            spent = (time.monotonic() - self.began) / 60
            left = f"{spent / self.done * (self.total - self.done):.0f}" if self.done else "?"
            line = f"[model {self.done + 1} of {self.total}, {left} min left] {what}"
            sys.stderr.write(f"\r\x1b[K{line[:100]}")
            sys.stderr.flush()

    def line(self, text):
        """A line that stays."""
        if self.live:
            sys.stderr.write("\r\x1b[K")
        print(text, flush=True)


def one_line(result):
    """A job's medians, for the terminal."""
    parts = [f"{name} {report.cell(figures)}" for name, figures in result["engines"].items()]
    head = f"{result['model']:36} {result['precision']:4} {result['threads']}  "
    return head + "  ".join(parts)


def save(folder, data):
    """Writes the JSON, one result a line and without spaces: it is committed, and a committed
    file is at most 100 KiB. Whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "performance.json"
    head = {key: value for key, value in data.items() if key != "results"}
    text = json.dumps(head, indent=1)[:-2] + ',\n "results": [\n'
    lines = (json.dumps(result, separators=(",", ":")) for result in data["results"])
    text += ",\n".join(lines) + "\n ]\n}\n"
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)
    return path


def prepare(args, model, scratch):
    """Writes a model's inputs and expected outputs below `scratch`; says whether it is
    quantised and where the outputs are from, or its error."""
    _, file, golden = model
    for folder in ("feed", "reference"):
        (scratch / folder).mkdir()
    fields = {"model": file, "data": golden, "feed": scratch / "feed"}
    fields |= {"reference": scratch / "reference"}
    return child.ask(engines.task(kind="prepare", **fields), args.timeout)


def run_model(args, setup, model, scratch, quantised, progress):
    """The results of one model at every precision that it has and every number of threads."""
    name, file, _ = model
    results = []
    kinds = ["int8"] if quantised else ["f32", "bf16"]
    for precision in [kind for kind in kinds if kind in args.precisions]:
        able = [e for e in args.engines if not engines.lack(setup, e, precision)]
        for threads in args.threads if able else []:
            job = engines.Job(name, file, precision, threads, scratch)
            results.append(run_job(setup, able, job, args.rounds, progress))
            progress.line(one_line(results[-1]))
    return results


def run_models(args, setup, data, weather):
    """Every model; what is there is saved after each, should the run be cut off."""
    models = find_models(args)
    if not models:
        sys.exit("no model fits")
    progress = Progress(len(models))
    for model in models:
        with tempfile.TemporaryDirectory() as scratch:
            ready = prepare(args, model, Path(scratch))
            if "error" in ready:
                progress.line(f"{model[0]}: {ready['error']}")
                data["failed"].append({"model": model[0], "error": ready["error"]})
            else:
                data["models"].append({"model": model[0], "reference": ready["reference"]})
                quantised = ready["quantised"]
                data["results"] += run_model(args, setup, model, Path(scratch), quantised, progress)
        progress.done += 1
        data["weather"] = weather.facts()
        save(args.out, data)


def run(args):
    """Measures, saves and renders."""
    weather = Weather()
    setup = engines.Setup(args.hetra, args.rust_peers, args.seconds, args.timeout)
    found = engines.look_up(setup, args.engines)
    for name, answer in found.items():
        if "error" in answer:
            sys.exit(f"{name} cannot be started: {answer['error']}")
    lacking = [
        {"engine": name, "precision": precision, "reason": why}
        for name in args.engines
        for precision in args.precisions
        if (why := engines.lack(setup, name, precision))
    ]
    data = {
        "machine": machine_facts(),
        "settings": {
            "rounds": args.rounds,
            "seconds": args.seconds,
            "threads": args.threads,
            "near": {precision: list(engines.NEAR[precision]) for precision in args.precisions},
        },
        "engines": {
            name: {
                "version": answer["version"],
                "settings": engines.SETTINGS[name],
                "host_mib": significant(answer.get("peak_mib")),
            }
            for name, answer in found.items()
        },
        "lacking": lacking,
        "models": [],
        "failed": [],
        "weather": weather.facts(),
        "results": [],
    }
    run_models(args, setup, data, weather)
    render(args.out / "performance.json", check=False)


def render(path, check):
    """Writes the page and the chart beside the JSON, or compares them with what is there."""
    data = json.loads(path.read_text())
    good = True
    for name, text in (
        ("PERFORMANCE.md", report.page(data)),
        ("performance.svg", report.chart(data)),
    ):
        target = path.parent / name
        old = target.read_text() if target.exists() else None
        if old == text:
            print(f"bench: {target} is up to date")
        elif check:
            print(f"bench: {target} differs: run `cargo xtask docs`")
            good = False
        else:
            target.write_text(text)
            print(f"bench: {target} written")
    return good


def names_from(known):
    """An argument type: names separated by commas, all of them known; in the known order."""

    def parse(text):
        wanted = text.split(",")
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return [name for name in known if name in wanted]

    return parse


def counts(text):
    """An argument type: positive integers separated by commas."""
    values = sorted({int(part) for part in text.split(",")})
    if values[0] < 1:
        raise argparse.ArgumentTypeError("wanted 1 or more")
    return values


def parse_args():
    parser = argparse.ArgumentParser(
        prog="cargo xtask bench cpu", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--models", nargs="+", metavar="NAME", help="parts of names in the manifest, or files")
    add("--manifest", type=Path, default=SHARED / "models" / "manifest.json", metavar="JSON")
    every = ",".join(engines.NAMES)
    add("--engines", type=names_from(engines.NAMES), default=every, help=f"of {every}")
    every = ",".join(engines.PRECISIONS)
    add("--precisions", type=names_from(engines.PRECISIONS), default=every, help=f"of {every}")
    add("--threads", type=counts, default="1,2", help="how many, one run each (%(default)s)")
    add("-t", "--seconds", type=float, help="timed in each process (0.5; 0.1 with --quick)")
    add("--rounds", type=int, help="turns of every engine (5; 2 with --quick)")
    add("--quick", action="store_true", help="a first look: short and rough")
    add("--hetra", type=Path, default=TARGET / "release" / "hetra", help="use this binary")
    peers = TARGET / "rust-peers" / "release"
    add("--rust-peers", type=Path, default=peers, metavar="FOLDER", help="use rten, tract here")
    add("--out", type=Path, default=TARGET / "bench", metavar="FOLDER", help="for the results")
    add("--timeout", type=float, default=300.0, metavar="SECONDS", help="for each process")
    add("--render-only", type=Path, metavar="JSON", help="measure nothing; write pages beside it")
    add("--check", action="store_true", help="with --render-only: compare, write nothing")
    args = parser.parse_args()
    args.seconds = args.seconds or (0.1 if args.quick else 0.5)
    args.rounds = args.rounds or (2 if args.quick else 5)
    if args.rounds < 1 or args.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return args


def main():
    args = parse_args()
    if args.render_only:
        sys.exit(0 if render(args.render_only, args.check) else 1)
    run(args)


if __name__ == "__main__":
    main()
