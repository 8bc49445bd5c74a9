"""Placement policies on published graphs: the figures, a page and a chart.

    cargo xtask bench place                                   # builds what runs, and runs this
    python bench/place.py --render-only docs/placement.json   # the page again

The graphs are the workloads of Tarnawski et al., Efficient Algorithms for Device Placement of DNN
Graph Operators (NeurIPS 2020): times of each node on a processor and on an accelerator, the time of
each copy, sizes, bounds. `crates/place/examples/placebench.rs` says what is made of them.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import chart as drawing
from pages import keep, parsed
from report import grid

# What others reach on the same graphs. Latency: 12 s of annealing that begins with HEFT, one seed.
# Throughput: the least of what the authors' own programs (dynamic programming, ten restarts of local
# search, PipeDream's rule; 180 s at most) and HiGHS on the integer programme (90 s) give.
KNOWN = {
    ("latency", "layers", "bert24_inference"): 100.2,
    ("latency", "layers", "gnmt_inference"): 219.1,
    ("latency", "layers", "inceptionv3_inference"): 951.4,
    ("latency", "layers", "resnet50_inference"): 1051.0,
    ("latency", "operators", "bert_l-12_inference"): 637.0,
    ("latency", "operators", "bert_l-3_inference"): 398.1,
    ("latency", "operators", "bert_l-6_inference"): 426.3,
    ("latency", "operators", "resnet50_inference"): 360.1,
    ("throughput", "layers", "bert24_inference"): 17.715,
    ("throughput", "layers", "bert24_training"): 39.943,
    ("throughput", "layers", "gnmt_inference"): 31.689,
    ("throughput", "layers", "gnmt_training"): 90.95,
    ("throughput", "layers", "resnet50_inference"): 33.775,
    ("throughput", "layers", "resnet50_training"): 78.632,
    ("throughput", "layers", "inceptionv3_inference"): 54.16,
    ("throughput", "layers", "inceptionv3_training"): 128.3,
    ("throughput", "operators", "bert_L-12_training"): 437.998,
    ("throughput", "operators", "bert_l-3_inference"): 21.908,
}
RULES = ["host", "single", "fill", "heft", "peft", "chain", "pipeline"]
RUNS = ["1:1", "1:2", "1:3", "10:1"]  # seconds of search, seed
TARGETS = {"heft": 1.15, "best latency": 1.02, "best load": 1.01}


def number(value):
    """Four significant digits, as a cell."""
    return "-" if value is None else f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def geo_mean(values):
    return math.exp(statistics.fmean(math.log(value) for value in values))


def graphs(data, goal, groups):
    """(key, rows) of each graph, in the order of the runs."""
    found = {}
    for row in data["rows"]:
        if row["goal"] == goal and (row["groups"] == groups or ungrouped(data, row)):
            found.setdefault((goal, row["grain"], row["graph"]), []).append(row)
    return found


def ungrouped(data, row):
    """Whether a graph is one of those that were run with groups only, since it has none."""
    same = [r for r in data["rows"] if (r["goal"], r["graph"]) == (row["goal"], row["graph"])]
    return all(r["groups"] for r in same if r["grain"] == row["grain"])


def search(rows, seconds):
    """Scores of the search with so many seconds, one for each seed."""
    return [best(row) for row in rows if row["seconds"] == seconds]


def best(row):
    """Of the search, or of what was proven to be the best without it."""
    return min(row["scores"].values())


def fast(rows):
    """The best of the rules that take no time."""
    return min(score for name, score in rows[0]["scores"].items() if name in RULES)


def summary(data):
    """The figures that the targets are for."""
    apart = graphs(data, "latency", False)
    together = graphs(data, "latency", True)
    load = graphs(data, "throughput", True)
    over = {}
    for name, found in [("apart", apart), ("together", together)]:
        ratios = [
            rows[0]["scores"]["heft"] / statistics.median(search(rows, 1.0))
            for rows in found.values()
        ]
        over[name] = (geo_mean(ratios), min(ratios), max(ratios))
    known = [search(rows, 10.0)[0] / KNOWN[key] for key, rows in apart.items()]
    loads = [search(rows, 10.0)[0] / KNOWN[key] for key, rows in load.items() if key in KNOWN]
    worse = [
        max(search(rows, seconds)) / fast(rows)
        for found in (apart, together, load)
        for rows in found.values()
        for seconds in (1.0, 10.0)
    ]
    return {"heft": over, "latency": known, "load": loads, "fast": max(worse)}


def table(data, goal, groups):
    head = ["graph", "nodes", "devices", "host", "fill", "HEFT", "PEFT", "search 1 s"]
    head += ["10 s", "best known", "10 s to it", "bound"]
    lines = []
    for key, rows in graphs(data, goal, groups).items():
        row = rows[0]
        scores = row["scores"]
        one, ten = search(rows, 1.0), search(rows, 10.0)[0]
        known = KNOWN.get(key)
        if groups and goal == "latency" and not ungrouped(data, row):
            known = None  # it was found without groups
        line = [f"{row['graph']} ({row['grain']})", str(row["tasks"])]
        line += [f"{row['accelerators']} + {row['cpus']}"]
        line += [number(scores.get(name)) for name in ["host", "fill", "heft", "peft"]]
        line += [f"{number(statistics.median(one))} ({number(max(one))})", f"**{number(ten)}**"]
        line += [number(known), "-" if known is None else f"{ten / known:.3f}"]
        line += [f"{number(row['bound'])} ({row['bound_by']})"]
        lines.append(line)
    return grid(head, lines)


def page(data):
    facts = summary(data)
    apart, together = facts["heft"]["apart"], facts["heft"]["together"]
    lines = [
        "# Placement policies on published graphs",
        "",
        "Written by `cargo xtask bench place`; do not edit. Rerun it for the figures of your machine.",
        "",
        f"Measured on {data['cpu']}, {data['date']}, one thread. Times that the graphs give are in",
        "milliseconds, so scores are, too. The graphs, with the times of each node on a processor",
        "and on an accelerator, are the workloads of Tarnawski et al. (NeurIPS 2020). They are given",
        "data: nothing of ours ran on an accelerator for this.",
        "",
        "| what | target | is |",
        "|---|---:|---:|",
        "| latency: HEFT over search, 1 s, geometric mean of 8 graphs (median of 3 seeds) "
        f"| {TARGETS['heft']} | **{apart[0]:.3f}** ({apart[1]:.2f}-{apart[2]:.2f}) |",
        "| the same with nodes of a group on one device "
        f"| - | {together[0]:.2f} ({together[1]:.2f}-{together[2]:.2f}) |",
        "| latency: search, 10 s, over the best that was known, worst graph "
        f"| {TARGETS['best latency']} | **{max(facts['latency']):.3f}** |",
        "| load: search, 10 s, over the best that was known, worst graph "
        f"| {TARGETS['best load']} | **{max(facts['load']):.3f}** |",
        "| search over the best fast policy, worst of all runs "
        f"| 1 | **{facts['fast']:.3f}** |",
        "",
        "![How much more the policies take than the search](placement.svg)",
        "",
        "`host`: everything on the processor. `fill`: device after device, until its memory is full.",
        "HEFT and PEFT are as published, with bounds of memory and gaps filled. `bound`: no placement",
        "is below it; `path` is the longest way through the graph with copies, `work` a linear",
        "programme's spread of the work. In brackets: the worst of 3 seeds.",
        "",
        "## Time of one run",
        "",
        "Accelerators with bounded memory and 8 cores of a processor. A copy between accelerator and",
        "host takes what the graph says, between two accelerators twice that; copies overlap.",
        "Groups of nodes (operators that share weights) may be torn here, as in the published figures",
        "that these are compared with:",
        "",
        table(data, "latency", False),
        "The same graphs of operators with groups kept together, which is what Hetra does:",
        "",
        table(data, "latency", True),
        "## Load of the busiest device",
        "",
        "The time between two results when runs overlap. A device is busy with what it computes and",
        "with copies of what goes out and comes in, each value once. Groups stay together.",
        "",
        table(data, "throughput", True),
    ]
    return "\n".join(lines)


def chart(data):
    """Bars for each latency graph: how much more HEFT and the best rule take than 10 s of search."""
    found = graphs(data, "latency", False)
    wide, row_h, left, top = 720, 34, 190, 56
    height = top + row_h * len(found) + 40
    ratios = {
        key: (rows[0]["scores"]["heft"] / search(rows, 10.0)[0], fast(rows) / search(rows, 10.0)[0])
        for key, rows in found.items()
    }
    most = max(max(pair) for pair in ratios.values())
    scale = (wide - left - 90) / (most - 1 or 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{height}" '
        f'viewBox="0 0 {wide} {height}" font-family="{drawing.FONT}" role="img" '
        'aria-label="How much more time rules take than the search">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        drawing.text(16, 24, "Time of one run, over that of the search (10 s)", 15, weight="bold"),
        f'<rect x="{left}" y="36" width="10" height="10" fill="#0969da"/>',
        drawing.text(left + 16, 45, "HEFT"),
        f'<rect x="{left + 80}" y="36" width="10" height="10" fill="#8c959f"/>',
        drawing.text(left + 96, 45, "the best of all fast policies"),
    ]
    for index, (key, pair) in enumerate(ratios.items()):
        y = top + index * row_h
        name = key[2].replace("_inference", "") + (" op" if key[1] == "operators" else "")
        parts.append(drawing.text(left - 8, y + 19, name, anchor="end"))
        for at, (ratio, colour) in enumerate(zip(pair, ["#0969da", "#8c959f"])):
            w = max((ratio - 1) * scale, 1)
            bar = f'x="{left}" y="{y + 4 + 12 * at}" width="{w:.1f}" height="11"'
            parts.append(f'<rect {bar} fill="{colour}"/>')
            parts.append(drawing.text(left + w + 6, y + 13 + 12 * at, f"{ratio:.2f}", 10))
    parts.append(f'<line x1="{left}" y1="{top}" x2="{left}" y2="{height - 36}" stroke="#1f2328"/>')
    parts.append(drawing.text(left, height - 20, "1 = as fast", 11, "middle", "#59636e"))
    return "\n".join([*parts, "</svg>", ""])


FILES = {"PLACEMENT.md": page, "placement.svg": chart}


def measure(args):
    command = [args.program, args.graphs, args.filter, *RUNS]
    rows = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            rows.append(json.loads(line))
            row = rows[-1]
            print(row["goal"], row["grain"], row["graph"], row["seconds"], best(row), flush=True)
    if process.returncode:
        sys.exit(process.returncode)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--program", help="the built example of crates/place")
    add("--graphs", help="the folder of the workloads")
    add("--filter", default="", help="only graphs whose path holds this; writes no page")
    add("--rows", type=Path, help="lines that the example printed before, in the place of a run")
    args = parsed(parser, FILES)
    if args.rows:
        rows = [json.loads(line) for line in args.rows.read_text().splitlines()]
    else:
        rows = measure(args)
    if args.filter:
        return
    keep(rows, args.out / "placement.json", FILES)


if __name__ == "__main__":
    main()
