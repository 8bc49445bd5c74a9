"""The page and the chart, from the saved figures and nothing else."""

import chart as drawing
import stats
from stats import US

LABELS = {
    "hetra": "Hetra",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "rten": "rten",
    "tract": "tract",
}
NONE = "-"
ROUNDS_MIN = 3  # fewer have no middle
BUSY_SHARE = 0.05  # of the CPUs' time, taken by others


def number(value):
    """Three significant digits, without an exponent."""
    if value is None:
        return NONE
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.{2 if value < 10 else 1}f}" if value >= 1 else f"{value:.3f}"


def cell(entry):
    """An engine's median and least time, or why there is none."""
    if entry is None:
        return NONE
    if "error" in entry:
        return "failed"
    text = f"{number(stats.middle(entry))} ({number(entry['min_ms'])})"
    return text if entry["near"] else f"{text} wrong"


def spread(value):
    """A ratio with its range over the rounds."""
    return NONE if value is None else f"{value[0]:.2f} ({value[1]:.2f}-{value[2]:.2f})"


def grid(head, rows):
    """A Markdown table; the first column is text, the others numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def combos(data):
    """(precision, threads, rows) of everything that was measured."""
    for precision in data["settings"]["near"]:
        for threads in data["settings"]["threads"]:
            rows = stats.table(data["results"], precision, threads)
            if rows:
                yield precision, threads, rows


def title(precision, threads):
    return f"{precision}, {threads} thread{'s' if threads > 1 else ''}"


def peers(data):
    return [name for name in data["engines"] if name != US]


def glance(data):
    """One line per precision and number of threads."""
    head = ["", "to the best peer", "ahead on", "worst model"]
    head += [f"to {LABELS[name]}" for name in peers(data)]
    lines = []
    for precision, threads, rows in combos(data):
        best = stats.summary(stats.against(rows))
        line = [title(precision, threads)]
        if best:
            line += [f"**{best['mean']:.2f}**", f"{best['ahead']} of {best['count']}"]
            line += [f"{best['worst']} {best['worst_ratio']:.2f}"]
        else:
            line += [NONE] * 3
        for name in peers(data):
            one = stats.summary(stats.against(rows, name))
            line.append(f"{one['mean']:.2f} ({one['ahead']} of {one['count']})" if one else NONE)
        lines.append(line)
    return grid(head, lines)


def times(data, rows):
    """Every engine's times on every model."""
    names = list(data["engines"])
    head = ["model", *(LABELS[name] for name in names), "Hetra / best", "best peer"]
    lines = []
    for model, row in rows.items():
        best = stats.best_peer(row)
        line = [model, *(cell(row.get(name)) for name in names)]
        line += [spread(stats.ratio(row.get(US), row.get(best))), LABELS.get(best, NONE)]
        lines.append(line)
    return grid(head, lines)


def own_rows(data):
    """{model: {engine: figures}} at each model's own precision (f32 or int8) and most threads."""
    threads = max(data["settings"]["threads"])
    rows = {}
    for precision in data["settings"]["near"]:
        if precision != "bf16":
            rows |= stats.table(data["results"], precision, threads)
    return rows


def starts(data):
    """Loading and the first inference."""
    names = list(data["engines"])

    def one(entry):
        if entry is None or "error" in entry:
            return NONE
        return f"{number(entry['load_ms'])} + {number(entry['first_ms'])}"

    lines = [
        [model, *(one(row.get(name)) for name in names)] for model, row in own_rows(data).items()
    ]
    return grid(["model", *(LABELS[name] for name in names)], lines)


def memory(data):
    """The peak of each process."""
    names = list(data["engines"])

    def one(entry):
        return NONE if entry is None or "error" in entry else f"{entry['peak_mib']:.1f}"

    bare = [data["engines"][name]["host_mib"] for name in names]
    lines = [["(imports, no model)", *(NONE if x is None else f"{x:.1f}" for x in bare)]]
    lines += [
        [model, *(one(row.get(name)) for name in names)] for model, row in own_rows(data).items()
    ]
    return grid(["model", *(LABELS[name] for name in names)], lines)


def complaint(figures):
    """Why an engine's times do not count."""
    if "error" in figures:
        return f"failed: `{figures['error'].replace('`', '')}`"
    if figures["worst"] is None:
        return "gave another answer, off in its shapes, or NaN"
    return f"gave another answer, off by {figures['worst']:.1%} of the output's scale"


def answers(data):
    """What did not run, or gave another answer; each reason with the models it holds for."""
    lines = [
        f"- {LABELS[x['engine']]} has no {x['precision']}: {x['reason']}." for x in data["lacking"]
    ]
    lines += [f"- {x['model']} was left out: {x['error']}" for x in data["failed"]]
    found = {}
    for result in data["results"]:
        for engine, figures in result["engines"].items():
            if not stats.good(figures):
                place = (engine, result["model"], result["precision"], complaint(figures))
                found.setdefault(place, []).append(str(result["threads"]))
    for (engine, model, precision, why), threads in found.items():
        where = f"{precision}, threads {', '.join(threads)}"
        lines.append(f"- {model} ({where}): {LABELS[engine]} {why}")
    return "\n".join(lines or ["Everything ran, and all answers agree."]) + "\n"


def weather(data):
    """How quiet the machine was."""
    w = data["weather"]
    text = f"the run took {w['minutes']:g} minutes"
    if w.get("load_start") is not None:
        text += f"; load average {w['load_start']:g} at its start, {w['load_end']:g} at its end"
    if "others_share" in w:
        text += f"; other processes took {w['others_share']:.1%} of the CPUs' time meanwhile"
        text += f", the hypervisor {w['steal_share']:.1%}"
    return text


def doubts(data):
    """What a reader must know before believing a figure: a short run, a busy machine."""
    lines = []
    if data["settings"]["rounds"] < ROUNDS_MIN:
        lines.append(f"This was a short run of {data['settings']['rounds']} rounds: a first look.")
    share = data["weather"].get("others_share", 0.0) + data["weather"].get("steal_share", 0.0)
    if share > BUSY_SHARE:
        lines.append(f"Others took {share:.0%} of the machine meanwhile: these figures are rough.")
    return [f"**{' '.join(lines)}**\n"] if lines else []


def method(data):
    """Machine, engines and rules."""
    m, s = data["machine"], data["settings"]
    memory_of = "" if m["memory_gib"] is None else f", {m['memory_gib']} GiB"
    lines = [
        f"- Machine: {m['cpu']}, {m['cpus_usable']} usable CPUs{memory_of}; {m['system']}, "
        f"Python {m['python']}.",
        f"- Instructions: {' '.join(m['flags']) or 'not known'}.",
        f"- On {m['date']}, checkout `{m['commit'] or 'unknown'}`; {weather(data)}.",
    ]
    for name, engine in data["engines"].items():
        lines.append(f"- {LABELS[name]} {engine['version']}: {engine['settings']}.")
    lines += [
        f"- Every engine runs in a process of its own, {s['seconds']:g} s at a time after a "
        f"warm-up, {s['rounds']} rounds in turn; who begins changes every round. All are given the "
        "same inputs, and how many threads they may use.",
        "- f32 and bf16 are how the same float models are computed; int8 are models with "
        "quantised operators, the others of theirs in f32. MiniLM keeps its weights in int8 and "
        "computes in floats, so it is among those.",
        "- Answers are compared with the recorded ones (without a recording: with ONNX Runtime's, "
        "optimisations off): |found - wanted| <= rtol |wanted| + atol scale, the scale being the "
        "output's largest value, at least 0.1, with (rtol, atol) "
        + ", ".join(f"({r:g}, {a:g}) in {p}" for p, (r, a) in s["near"].items())
        + ". The times of a wrong answer are shown and do not count.",
    ]
    return "\n".join(lines) + "\n"


def page(data):
    """docs/PERFORMANCE.md."""
    parts = [
        "# Performance on a CPU\n",
        "Generated from `performance.json` by `cargo xtask bench cpu`; do not edit. Measure your\n"
        "own machine with `cargo xtask bench cpu` (about half an hour), your own model with\n"
        "`cargo xtask bench cpu --models model.onnx`.\n",
        "Hetra beside its peers. Ratios are Hetra's time by the peer's, geometric means over the\n"
        "models that both run: **below 1 Hetra is faster**. The best peer is chosen anew for each\n"
        "model.\n",
        *doubts(data),
        glance(data),
        "![Hetra's time by each peer's, model by model](performance.svg)\n",
        "## How it was measured\n",
        method(data),
        "## What did not run\n",
        answers(data),
    ]
    for precision, threads, rows in combos(data):
        parts.append(f"## {title(precision, threads)}\n")
        parts += [
            "Milliseconds: the median over the rounds (the least). Ratio: the median of the\n"
            "ratios within the rounds (smallest-largest).\n",
            times(data, rows),
        ]
    parts += [
        "## Load and first inference\n",
        "Milliseconds: load + first inference, in f32 or int8, threads: "
        f"{max(data['settings']['threads'])}. Load is\nfrom the file up to being ready to run, "
        "without starting the process or imports.\n",
        starts(data),
        "## Memory\n",
        "MiB: the largest resident set of the whole process, which for ONNX Runtime and OpenVINO\n"
        "includes Python; its first line is what they need before any model.\n",
        memory(data),
    ]
    return "\n".join(parts)


def chart(data):
    """docs/performance.svg: a panel for each precision and number of threads that Hetra has."""
    panels = []
    for precision, threads, rows in combos(data):
        ratios = {name: stats.against(rows, name) for name in peers(data)}
        best = stats.summary(stats.against(rows))
        if not best:
            continue
        mean, ahead, count = best["mean"], best["ahead"], best["count"]
        caption = f"mean {mean:.2f} to the best peer; ahead on {ahead} of {count}"
        head = title(precision, threads)
        panels.append(drawing.Panel(precision, threads, head, caption, list(rows), ratios))
    labels = {name: LABELS[name] for name in peers(data)}
    m = data["machine"]
    return drawing.svg(panels, labels, f"{m['cpu']}, {m['date']}")
