"""Whether plans are ever worse than the best single device: docs/NEVER.md.

    cargo xtask bench never [--models FOLDER] [--limit N] [--more]

Each model is planned on each set of devices that are here, for each goal. Then every plan that differs,
and every single device, run in turn, each in a process of its own (`hetra bench`), some rounds; what a
plan takes is divided by what the best device of its set takes.
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
# Extents that models leave open: of a picture, a wave, and words.
PICTURE, WAVE, WORDS = [1, 3, 64, 320], [1, 512], [1, 64]
# A device that takes so many times as long as the best way is not run again.
FAR = 2


def hetra(program, *args, **env):
    done = subprocess.run([program, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env={**os.environ, **env}, check=False)
    return done.stdout if done.returncode == 0 else None


def inputs(program, model):
    """Options that say the extents of inputs which the model leaves open."""
    out = hetra(program, "inspect", model, "--json")
    options = []
    for one in json.loads(out)["inputs"] if out else []:
        extents = one["type"].partition("[")[2].rstrip("]").split(",")
        if "default" in one or extents in ([""], [".."]) or all(extent.isdigit() for extent in extents):
            continue
        usual = {4: PICTURE, 2: WAVE if one["type"].startswith("f") else WORDS}.get(len(extents), [1] * len(extents))
        shape = ",".join(extent if extent.isdigit() else str(other) for extent, other in zip(extents, usual))
        options += ["-i", f"{one['name']}=random:{shape}"]
    return options


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


def plan(program, model, given, devices, goal, path, store):
    """A plan as JSON, and in a file; None where there is none."""
    out = hetra(program, "plan", model, "-d", ",".join(devices), "--goal", goal, "-o", path, "--json", *given,
                HETRA_STORE=store, HETRA_PLANS="off")
    return None if out is None else json.loads(out)


def form(found):
    """What a plan does: plans of the same form run alike."""
    parts = [[part["device"], part["nodes"]] for part in found["parts"]]
    return json.dumps([found["chosen"], [device["id"] for device in found["devices"]], parts])


def wrong(found):
    """Devices whose results are not those of the processor in f32: none of them is to be beaten."""
    return {one["name"].split(":")[0] for one in found["refused"] if "outputs differ" in one["reason"]}


def predicted(found):
    """What single devices should take by their tasks, and what they took."""
    return {row["name"].split(":")[0]: [row["predicted"], row["measured"]]
            for row in found["considered"] if row["name"] != "mix" and row["predicted"] and row["measured"]}


def compared(ways, sets, run):
    """What each way takes, the least of some rounds in turn; `sets` are pairs of a plan's way and those
    of its devices."""
    took = {}
    for rounds in range(1, ROUNDS * AGAIN + 1):
        for name, how in ways.items():
            # What failed is not tried again, nor is a device that is far behind.
            if rounds > 1 and (took[name] is None or took[name] > FAR * least(took, ways) and "-d" in how):
                continue
            seconds = run(how)
            took[name] = min([seconds, took.get(name) or seconds]) if seconds else None
        # What else a machine does slows some of a few rounds: what seems worse is looked at again.
        worse = [one for one, devices in sets
                 if took[one] and took[one] > WORST * (least(took, devices) or math.inf)]
        if rounds >= ROUNDS and not worse:
            break
    return took


def least(took, names):
    return min((took[name] for name in names if took.get(name)), default=None)


def rows_of(program, model, goal, sets, folder):
    """A row for each set of devices."""
    store = str(Path(folder) / "costs.sqlite")
    together = 2 if goal == "throughput" else 1
    found, plans, ways, given = [], {}, {}, inputs(program, model)
    for index, devices in enumerate(sets):
        path = Path(folder) / f"plan{index}.json"
        path.unlink(missing_ok=True)
        found.append(plan(program, model, given, devices, goal, path, store))
        if found[-1] is not None:
            plans.setdefault(form(found[-1]), path)
    # No device runs it, or its inputs cannot be made up: that is told by `hetra bench`, too.
    if not plans and bench(program, model, ["-d", "cpu", *given], 1, store) is None:
        return []
    ways.update({key: ["--plan", path] for key, path in plans.items()})
    ways.update({device: ["-d", device] for device in sets[-1]})
    right = [[device for device in devices if one and device not in wrong(one)]
             for devices, one in zip(sets, found)]
    pairs = [(form(one), devices) for devices, one in zip(right, found) if one]
    took = compared(ways, pairs, lambda how: bench(program, model, [*how, *given], together, store))
    rows = []
    for devices, able, one in zip(sets, right, found):
        row = {"model": model.stem, "devices": devices, "goal": goal}
        singles = {name: took[name] for name in able if took.get(name)}
        if one is None:
            rows.append({**row, "failed": "no plan"})
        elif not singles or not took[form(one)]:
            rows.append({**row, "failed": "its plan does not run" if singles else "no device runs it"})
        else:
            best = min(singles, key=singles.get)
            rows.append({**row, "chosen": one["chosen"], "best": best, "plan_s": took[form(one)],
                         "best_s": singles[best], "predicted": predicted(one)})
    return rows


def ratio(one):
    return one["plan_s"] / one["best_s"]


def off(rows):
    """By device: how many models, and by how much the sum of tasks is off, in the mean and the median. The
    plan of a model with the most devices counts."""
    last = {}
    for row in sorted(rows, key=lambda row: len(row["devices"])):
        if row["goal"] == "latency":
            last[row["model"]] = row["predicted"]
    devices = dict.fromkeys(device for row in last.values() for device in row)
    lines = []
    for device in devices:
        # Where a device does not do all of the tasks nothing is added up.
        pairs = [row[device] for row in last.values() if device in row and row[device][0] != row[device][1]]
        if not pairs:
            continue
        errors = [abs(sum_s / whole_s - 1) for sum_s, whole_s in pairs]
        lines.append((device, len(errors), statistics.mean(errors), statistics.median(errors)))
    return lines


def page(data):
    failed = [one for one in data["rows"] if "failed" in one]
    rows = [one for one in data["rows"] if "failed" not in one]
    ratios = [ratio(one) for one in rows]
    over = [one for one in rows if ratio(one) > WORST]
    cases = len({(one["model"], one["goal"]) for one in rows})
    text = [
        "# Plans beside the best single device",
        "",
        "Written by `cargo xtask bench never`; do not edit.",
        "",
        f"{data['cpu']}, {data['date']}. {len({one['model'] for one in rows})} models, {cases} pairs of a model and a",
        f"goal, each on the sets of devices: {len(rows)} plans. Plans that differ and all devices ran in turn,",
        f"{ROUNDS} rounds (up to {ROUNDS * AGAIN} where a plan seemed worse), each in a process of its own for",
        f"{SECONDS} s; the least counts. A device that took more than {FAR} times the least in the first round ran",
        f"once. `opencl` and `wgpu` are played by the host's processor (PoCL, lavapipe).",
        "Devices that give wrong results for a model do not count.",
        "",
        f"**Plan over best device: median {statistics.median(ratios):.3f}, most {max(ratios):.3f};"
        f" {len(over)} of {len(rows)} beyond {WORST}; least {min(ratios):.3f}; {len(failed)} failed.**",
        "",
        "What a whole model should take on one device, by the tasks that were timed there, beside what it takes:",
        "",
        "| device | models | off, mean | median |",
        "|---|---:|---:|---:|",
        *(f"| `{device}` | {count} | {mean:.1%} | {median:.1%} |" for device, count, mean, median in off(rows)),
        "",
        "Of each model and goal the set with the largest ratio, and how many sets there were:",
        "",
        "| model | goal | sets | devices | chosen | best | plan, ms | best, ms | ratio |",
        "|---|---|---:|---|---|---|---:|---:|---:|",
    ]
    groups = {}
    for one in rows:
        groups.setdefault((one["model"], one["goal"]), []).append(one)
    for (model, goal), group in groups.items():
        one = max(group, key=ratio)
        text.append(f"| {model} | {goal} | {len(group)} | {', '.join(one['devices'])} | {one['chosen']} | "
                    f"{one['best']} | {one['plan_s'] * 1e3:.3f} | {one['best_s'] * 1e3:.3f} | {ratio(one):.3f} |")
    text += [f"| {one['model']} | {one['goal']} | | {', '.join(one['devices'])} | {one['failed']} | | | | |"
             for one in failed]
    return "\n".join(text) + "\n"


FILES = {"NEVER.md": page}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--hetra", help="the command")
    add("--models", type=Path, help="a folder of folders of ONNX files")
    add("--limit", type=int, default=0, help="so many pairs of a model and a goal, evenly chosen; 0: all")
    add("--more", action="store_true", help="keep the figures that are there, and add what is missing")
    args = pages.parsed(parser, FILES)
    sets = [["cpu", *others] for count in range(1, len(OTHERS) + 1)
            for others in itertools.combinations(OTHERS, count)]
    cases = [(model, goal) for goal in GOALS for model in sorted(args.models.glob("*/*.onnx"))]
    if args.limit:
        cases = cases[::max(1, len(cases) // args.limit)][:args.limit]
    path, rows = args.out / "never.json", []
    if args.more and path.is_file():
        data = json.loads(path.read_text())
        if data["cpu"] != pages.processor():
            raise SystemExit(f"{path} has figures of another processor")
        rows = data["rows"]
    there = {(row["model"], row["goal"]) for row in rows}
    for model, goal in cases:
        if (model.stem, goal) in there:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = rows_of(args.hetra, model, goal, sets, folder)
        rows += found
        for row in found:
            told = row.get("failed") or f"{row['chosen']} {ratio(row):.3f}"
            print(row["model"], goal, ",".join(row["devices"]), told, file=sys.stderr)
        # What was measured so far is not lost.
        if any("failed" not in row for row in rows):
            pages.keep(rows, path, FILES)


if __name__ == "__main__":
    main()
