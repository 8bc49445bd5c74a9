"""A chart of ratios as SVG: one row per model, one mark per peer, on a logarithmic axis.

The line in the middle is 1: marks left of it are peers that Hetra is faster than.
"""

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

COLOURS = {
    "onnxruntime": "#0969da",
    "openvino": "#8250df",
    "rten": "#bc4c00",
    "tract": "#6e7781",
}
FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
LABEL_W, PLOT_W, GAP, PAD = 260, 330, 24, 16  # pixels
ROW_H, HEAD_H, AXIS_H, TOP_H = 18, 44, 34, 64
OCTAVES_MAX = 4  # the axis ends at 1/16 and 16; marks past it stand at its end
AHEAD, BEHIND, UNKNOWN = "#dafbe1", "#ffebe9", "#f6f8fa"


@dataclass
class Panel:
    """One precision and number of threads. `ratios`: {peer: {model: (median, least, largest)}}."""

    precision: str
    threads: int
    title: str
    caption: str
    models: list
    ratios: dict


def text(x, y, said, size=12, anchor="start", colour="#1f2328", weight="normal"):
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" '
        f'font-weight="{weight}">{escape(said)}</text>'
    )


def octaves(panels):
    """(least, largest) power of two on the axis, which holds 1 and all medians."""
    values = [v[0] for panel in panels for found in panel.ratios.values() for v in found.values()]
    low = math.floor(math.log2(min([*values, 0.5])))
    high = math.ceil(math.log2(max([*values, 2.0])))
    return max(low, -OCTAVES_MAX), min(high, OCTAVES_MAX)


def mark(engine, x, y):
    """A peer's mark: told apart by shape as well as by colour."""
    colour = COLOURS.get(engine, "#1f2328")
    if engine == "openvino":
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
    if engine == "rten":
        points = f"{x:.1f},{y - 5:.1f} {x + 5:.1f},{y:.1f} {x:.1f},{y + 5:.1f} {x - 5:.1f},{y:.1f}"
        return f'<polygon points="{points}" fill="{colour}"/>'
    if engine == "tract":
        points = f"{x:.1f},{y - 5:.1f} {x + 5:.1f},{y + 4:.1f} {x - 5:.1f},{y + 4:.1f}"
        return f'<polygon points="{points}" fill="{colour}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'


def axis(low, high, x0, top, bottom):
    """Lines and labels at the powers of two."""
    parts = []
    for power in range(low, high + 1):
        x = x0 + (power - low) / (high - low) * PLOT_W
        one = power == 0
        colour, width = ("#1f2328", 1.5) if one else ("#d1d9e0", 1)
        parts.append(
            f'<line x1="{x:.1f}" y1="{top:g}" x2="{x:.1f}" y2="{bottom:g}" stroke="{colour}" '
            f'stroke-width="{width}"/>'
        )
        said = f"{2**power}" if power >= 0 else f"1/{2**-power}"
        weight = "bold" if one else "normal"
        parts.append(text(x, bottom + 14, said, 11, "middle", "#59636e", weight))
    return parts


def row(panel, model, position, x0, y):
    """A model's ground, coloured by its best peer, and a mark per peer with its range."""
    found = {engine: ratios[model] for engine, ratios in panel.ratios.items() if model in ratios}
    worst = max((value[0] for value in found.values()), default=None)
    ground = UNKNOWN if worst is None else AHEAD if worst < 1 else BEHIND
    parts = [f'<rect x="{x0:g}" y="{y:g}" width="{PLOT_W}" height="{ROW_H - 2}" fill="{ground}"/>']
    middle = y + (ROW_H - 2) / 2
    marks = []
    for engine, (ratio, least, largest) in found.items():
        colour = COLOURS.get(engine, "#1f2328")
        parts.append(
            f'<line x1="{position(least):.1f}" y1="{middle:g}" x2="{position(largest):.1f}" '
            f'y2="{middle:g}" stroke="{colour}" stroke-opacity="0.5" stroke-width="2"/>'
        )
        said = escape(f"{model}: {ratio:.2f} of {engine} ({least:.2f}-{largest:.2f})")
        marks.append(f"<g><title>{said}</title>{mark(engine, position(ratio), middle)}</g>")
    return parts, marks


def panel_parts(panel, models, bounds, x0, y0):
    """A panel whose head begins at `y0`, with a row for each of `models`; its plot begins at
    `x0`."""
    low, high = bounds

    def position(ratio):
        power = min(max(math.log2(ratio), low), high)
        return x0 + (power - low) / (high - low) * PLOT_W

    top = y0 + HEAD_H
    bottom = top + ROW_H * len(models)
    parts = [text(x0, y0 + 16, panel.title, 14, weight="bold")]
    parts.append(text(x0, y0 + 34, panel.caption, 12, colour="#59636e"))
    grounds, marks = [], []
    for index, model in enumerate(models):
        ground, points = row(panel, model, position, x0, top + ROW_H * index)
        # The first drawn is the ground; ranges and marks go over the axis.
        grounds.append(ground[0])
        marks += ground[1:] + points
    return parts + grounds + axis(low, high, x0, top, bottom) + marks


def legend(labels):
    """What the marks are, and which side is which."""
    parts, x = [], PAD + LABEL_W
    for engine, label in labels.items():
        parts += [mark(engine, x + 5, 46), text(x + 15, 50, label)]
        x += 30 + 7 * len(label)
    return parts


def svg(panels, labels, where):
    """The chart; `labels` names the peers, `where` the machine. Panels of one precision stand
    side by side, and precisions below each other."""
    columns = sorted({panel.threads for panel in panels})
    width = PAD * 2 + LABEL_W + max(1, len(columns)) * (PLOT_W + GAP) - GAP
    head = "Hetra's time divided by a peer's: left of 1 Hetra is faster, right of 1 the peer is"
    parts = [text(PAD, 24, head, 16, weight="bold"), text(PAD, 50, where, 11, colour="#59636e")]
    parts += legend(labels)
    bounds, y = octaves(panels), TOP_H
    for precision in dict.fromkeys(panel.precision for panel in panels):
        beside = [panel for panel in panels if panel.precision == precision]
        models = list(dict.fromkeys(model for panel in beside for model in panel.models))
        for index, model in enumerate(models):
            at = y + HEAD_H + ROW_H * index + 12
            parts.append(text(PAD + LABEL_W - 8, at, model, 11, "end"))
        for panel in beside:
            x0 = PAD + LABEL_W + columns.index(panel.threads) * (PLOT_W + GAP)
            parts += panel_parts(panel, models, bounds, x0, y)
        y += HEAD_H + ROW_H * len(models) + AXIS_H
    if not panels:
        parts.append(text(PAD, y + 16, "Nothing to compare: no peer and Hetra ran one model."))
        y += 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" '
        f'viewBox="0 0 {width} {y}" font-family="{FONT}" role="img" '
        f'aria-label="{escape(head)}">\n<rect width="100%" height="100%" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
