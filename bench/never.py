"""Whether plans are ever worse than the best single device: docs/NEVER.md.

    cargo xtask bench never [--models FOLDER] [--limit N]

Each model is planned on each set of devices that are here, for each goal. Then the plan and every single
device of the set run in turn, each in a process of its own (`hetra bench`), some rounds; what the plan
takes is divided by what the best device takes.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pages

OTHERS = ["ort", "openvino", "opencl", "wgpu"]
GOALS = ["latency", "throughput"]
WORST = 1.03
ROUNDS = 3
AGAIN = 4
SECONDS = 0.5


def hetra(program, *args, **env):
    done = subprocess.run([program, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env={**os.environ, **env}, check=False)
    return done.stdout if done.returncode == 0 else None


def bench(program, model, how, together, store):
    """Seconds between two results."""
    more = ["--sessions", together] if together > 1 else []
    out = hetra(program, "bench", model, "-t", SECONDS, "--json", *more, *how, HETRA_STORE=store)
    if out is None:
        return None
    found = json.loads(out)
    if together > 1:
        return 1 / max(found["together"]["one_by_one"], found["together"]["at_once"])
    return found["steady"]["median_ms"] / 1e3


def compared(program, model, plan, devices, goal, store):
    """What the plan and each device take, in turn: the least of the rounds of each."""
    together = 2 if goal == "throughput" else 1
    ways = {device: ["-d", device] for device in devices}
    ways["plan"] = ["--plan", plan]
    took, rounds = {}, 0
    for _ in range(ROUNDS * AGAIN):
        for name, how in ways.items():
            seconds = bench(program, model, how, together, store) if took.get(name, 0) is not None else None
            took[name] = seconds if seconds is None else min(seconds, took.get(name) or seconds)
        rounds += 1
        # What else a machine does slows some of a few rounds: what seems worse is looked at again.
        others = [seconds for name, seconds in took.items() if name != "plan" and seconds]
        if rounds >= ROUNDS and (not took["plan"] or not others or took["plan"] <= WORST * min(others)):
            break
    return took


def row(program, model, devices, goal, folder):
    plan, store = Path(folder) / "plan.json", str(Path(folder) / "costs.sqlite")
    plan.unlink(missing_ok=True)
    out = hetra(program, "plan", model, "-d", ",".join(devices), "--goal", goal, "-o", plan, "--json",
                HETRA_STORE=store, HETRA_PLANS="off")
    case = {"model": model.stem, "devices": devices, "goal": goal}
    if out is None:
        # No device runs it, or its inputs cannot be made up: that is told by `hetra bench`, too.
        fails = bench(program, model, ["-d", "cpu"], 1, store) is None
        return {**case, "failed": "no plan"} if not fails else None
    found = json.loads(out)
    took = compared(program, model, plan, devices, goal, store)
    # A device whose results are not those of the processor in f32 is none to be beaten.
    wrong = {one["name"].split(":")[0] for one in found["refused"] if "outputs differ" in one["reason"]}
    singles = {name: seconds for name, seconds in took.items()
               if name not in {"plan", *wrong} and seconds}
    if not singles or not took.get("plan"):
        return {**case, "failed": "its plan does not run" if singles else "no device runs it"}
    best = min(singles, key=singles.get)
    return {**case, "chosen": found["chosen"], "best": best,
            "plan_s": took["plan"], "best_s": singles[best]}


def ratio(one):
    return one["plan_s"] / one["best_s"]


def page(data):
    failed = [one for one in data["rows"] if "failed" in one]
    rows = [one for one in data["rows"] if "failed" not in one]
    ratios = [ratio(one) for one in rows]
    over = [one for one in rows if ratio(one) > WORST]
    text = [
        "# Plans beside the best single device",
        "",
        "Written by `cargo xtask bench never`; do not edit.",
        "",
        f"{data['cpu']}, {data['date']}. {len({one['model'] for one in rows})} models on sets of devices, each",
        f"for two goals: {len(rows)} plans. A plan and every device of its set ran in turn, {ROUNDS} rounds (up to",
        f"{ROUNDS * AGAIN} where it seemed worse), each in a process of its own for {SECONDS} s; the least counts.",
        "`opencl` and `wgpu` are played by the host's processor (PoCL, lavapipe). Devices that give wrong results for",
        "a model do not count.",
        "",
        f"**Plan over best device: median {statistics.median(ratios):.3f}, most {max(ratios):.3f};"
        f" {len(over)} of {len(rows)} beyond {WORST}; least {min(ratios):.3f}; {len(failed)} failed.**",
        "",
        "| model | goal | devices | chosen | best | plan, ms | best, ms | ratio |",
        "|---|---|---|---|---|---:|---:|---:|",
    ]
    for one in sorted(rows, key=ratio, reverse=True):
        text.append(f"| {one['model']} | {one['goal']} | {', '.join(one['devices'])} | {one['chosen']} | "
                    f"{one['best']} | {one['plan_s'] * 1e3:.3f} | {one['best_s'] * 1e3:.3f} | {ratio(one):.3f} |")
    text += [f"| {one['model']} | {one['goal']} | {', '.join(one['devices'])} | {one['failed']} | | | | |"
             for one in failed]
    return "\n".join(text) + "\n"


FILES = {"NEVER.md": page}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--hetra", help="the command")
    add("--models", type=Path, help="a folder of folders of ONNX files")
    add("--limit", type=int, default=0, help="so many pairs of a model and a set, evenly chosen; 0: all")
    args = pages.parsed(parser, FILES)
    models = sorted(args.models.glob("*/*.onnx"))
    sets = [["cpu", *others] for count in range(1, len(OTHERS) + 1)
            for others in itertools.combinations(OTHERS, count)]
    cases = list(itertools.product(models, sets))
    if args.limit:
        # A step without a divisor in common with the number of sets walks through all of them.
        step = max(1, len(cases) // args.limit)
        while step > 1 and math.gcd(step, len(sets)) > 1:
            step -= 1
        cases = cases[::step][:args.limit]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model, devices in cases:
            for goal in GOALS:
                found = row(args.hetra, model, devices, goal, folder)
                if found:
                    rows.append(found)
                    told = found.get("failed") or f"{found['chosen']} {ratio(found):.3f}"
                    print(found["model"], goal, ",".join(devices), told, file=sys.stderr)
    pages.keep(rows, args.out / "never.json", FILES)


if __name__ == "__main__":
    main()
