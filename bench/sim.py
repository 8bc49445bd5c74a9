"""Described devices against published results: the figures, a page and a chart.

    cargo xtask bench sim                                      # builds what runs, and runs this
    python bench/sim.py --render-only docs/simulation.json     # the page again

`crates/cost/examples/anchors.rs` says what is modelled, and how.
"""

import argparse
import json
import math
import statistics
import subprocess
from pathlib import Path

import chart as drawing
from pages import keep, parsed
from report import grid

TARGET = 0.25  # the median error of devices that are calibrated


def off(row):
    """The error of an entry, in parts of what is published."""
    return row["modelled"] / row["published"] - 1


def median(rows):
    return statistics.median(abs(off(row)) for row in rows)


def figure(value, unit):
    return f"{value:.3g} ms" if unit == "ms" else f"{value:,.0f}/s" if value >= 100 else f"{value:.3g}/s"


def calibrated(data, yes=True):
    return [row for row in data["rows"] if row["calibrated"] == yes]


def table(rows):
    head = ["device", "task", "numbers", "published", "modelled", "off by"]
    lines = [
        [
            row["device"],
            row["task"],
            row["number"],
            figure(row["published"], row["unit"]),
            figure(row["modelled"], row["unit"]),
            f"{100 * off(row):+.0f} %",
        ]
        for row in rows
    ]
    return grid(head, lines)


def page(data):
    own, others = calibrated(data), calibrated(data, False)
    sources = sorted({f"- {row['device']}, {row['task']}: {row['source']}." for row in data["rows"]})
    lines = [
        "# Described devices against published results",
        "",
        "Written by `cargo xtask bench sim`; do not edit. Nothing was run on any of these devices: what is",
        "modelled follows from the figures of the catalogue (`hetra devices --catalogue --json`), and",
        "what is published is MLPerf's, or a maker's. No published result was used to set a figure.",
        "",
        "| what | target | is |",
        "|---|---:|---:|",
        f"| median error, {len(own)} results on devices whose kernels were measured (`calibrated`) "
        f"| {100 * TARGET:.0f} % | **{100 * median(own):.0f} %** |",
        f"| median error, {len(others)} results on others (data sheets only) "
        f"| - | {100 * median(others):.0f} % |",
        "",
        "![What is modelled over what is published](simulation.svg)",
        "",
        "ResNet-50 v1.5 at 224 x 224 and the layers of BERT-large at 180 tokens, which is about the mean",
        "of the questions (submitters leave the padding out), after the passes have joined what any good",
        "runtime joins. Each kernel takes `c + max(a F, b B)`: a start, and its operations or its bytes,",
        "whichever is slower, at what large kernels reach of the peaks. `offline` is a batch of 64, what",
        "one at a time takes is `single-stream`. Products are of the narrowest numbers that a device has,",
        "down to 8 bits. What this leaves out shows: caches that hold what is between two kernels (L40S,",
        "RTX 4090), clocks that fall under load (T4, L4), runtimes that reach little of a device",
        "(processors with ONNX Runtime, NPUs with BERT).",
        "",
        "## Calibrated",
        "",
        table(own),
        "## Not calibrated",
        "",
        table(others),
        "## Sources",
        "",
        *sources,
        "",
    ]
    return "\n".join(lines)


def chart(data):
    """A mark for each result, on a scale of what is modelled over what is published."""
    rows = [*calibrated(data), *calibrated(data, False)]
    wide, row_h, left, top = 720, 18, 260, 56
    height = top + row_h * len(rows) + 40
    low, high = -4, 4  # octaves

    def x_of(ratio):
        octave = min(max(math.log2(ratio), low), high)
        return left + (wide - left - 30) * (octave - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{height}" '
        f'viewBox="0 0 {wide} {height}" font-family="{drawing.FONT}" role="img" '
        'aria-label="What is modelled over what is published">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        drawing.text(16, 24, "Time modelled over time published", 15, weight="bold"),
        '<circle cx="22" cy="42" r="4" fill="#0969da"/>',
        drawing.text(32, 46, "calibrated"),
        '<circle cx="122" cy="42" r="4" fill="#8c959f"/>',
        drawing.text(132, 46, "from data sheets"),
    ]
    for octave in range(low, high + 1):
        x = x_of(2.0**octave)
        colour = "#1f2328" if octave == 0 else "#d0d7de"
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{height - 34}" stroke="{colour}"/>')
        name = f"1/{2**-octave}" if octave < 0 else str(2**octave)
        parts.append(drawing.text(x, height - 18, name, 11, "middle", "#59636e"))
    for index, row in enumerate(rows):
        y = top + row_h * index + 9
        ratio = row["modelled"] / row["published"]
        ratio = ratio if row["unit"] == "ms" else 1 / ratio
        colour = "#0969da" if row["calibrated"] else "#8c959f"
        parts.append(drawing.text(left - 10, y + 4, f"{row['device']}, {row['task']}", 11, "end"))
        parts.append(f'<circle cx="{x_of(ratio):.1f}" cy="{y}" r="4" fill="{colour}"/>')
    return "\n".join([*parts, "</svg>", ""])


FILES = {"SIMULATION.md": page, "simulation.svg": chart}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", help="the built example of crates/cost")
    args = parsed(parser, FILES)
    done = subprocess.run([args.program], stdout=subprocess.PIPE, text=True, check=True)
    rows = json.loads(done.stdout)
    keep(rows, args.out / "simulation.json", FILES)
    print(f"median error: {100 * median([row for row in rows if row['calibrated']]):.1f} %")


if __name__ == "__main__":
    main()
