#!/usr/bin/env python3
"""Terminal output to a picture: text with ANSI colours on stdin, SVG on stdout.

    script -qc 'stty cols 96; target/release/hetra demo' /dev/null \
        | python3 tools/terminal_svg.py --title 'hetra demo' > docs/demo.svg

(`script` gives the program a terminal, so that it writes colours.)

The text is first laid into a grid of cells, as a terminal does; the grid is as
wide as the longest line. Each run of cells of one style is one text element
that is stretched to its cells, so that columns stay aligned whatever font the
reader has. Blocks, shades and rules are drawn as rectangles: a font would
leave gaps between lines.
"""

import argparse
import re
import sys
import unicodedata
from typing import NamedTuple
from xml.sax.saxutils import escape

CELL_W, CELL_H, FONT_SIZE = 8.4, 18.0, 14
PAD, TITLE_H = 16.0, 34.0
FONTS = "ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace"
BACKGROUND, FRAME, FOREGROUND, TITLE = "#16191f", "#2a2f3a", "#d5dae3", "#8b93a3"
PALETTE = (
    "#3b414d", "#ef6b73", "#8fc873", "#e2b55a", "#68a8f0", "#c586e0", "#4fc1c9", "#c3c9d4",
    "#6b7382", "#ff8a91", "#a9dd8f", "#f2ce7c", "#8fc2ff", "#d9a4f0", "#74dbe2", "#ffffff",
)  # fmt: skip
# Escape sequences: a colour or cursor command, an operating-system command, any other.
ESCAPE = re.compile(r"\x1b(?:\[([0-9;:?]*)([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
SHADES = {"░": 0.25, "▒": 0.5, "▓": 0.75}
RULES = {"─": ((0.47, 0.06),), "━": ((0.44, 0.12),), "═": ((0.40, 0.06), (0.54, 0.06))}


class Style(NamedTuple):
    """How a cell looks; colours are `#rrggbb`, or None for the default."""

    fg: str | None = None
    bg: str | None = None
    bold: bool = False
    dim: bool = False
    italic: bool = False
    underline: bool = False
    reverse: bool = False


class Cell(NamedTuple):
    """A character and its style; an empty character is the right half of a wide one."""

    char: str
    style: Style


BLANK = Cell(" ", Style())
FLAGS = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "reverse"}
OFF = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 27: ("reverse",)}


def indexed(number):
    """A colour of the table of 256."""
    if number < 16:
        return PALETTE[number]
    if number < 232:
        steps = (0, 95, 135, 175, 215, 255)
        number -= 16
        red, green, blue = steps[number // 36], steps[number // 6 % 6], steps[number % 6]
    else:
        red = green = blue = 8 + 10 * (number - 232)
    return f"#{red:02x}{green:02x}{blue:02x}"


def extended(codes):
    """The colour behind a code 38 or 48; takes its arguments off `codes`."""
    kind = codes.pop(0) if codes else None
    if kind == 5 and codes:
        return indexed(min(codes.pop(0), 255))
    if kind == 2 and len(codes) >= 3:
        red, green, blue = (min(codes.pop(0), 255) for _ in range(3))
        return f"#{red:02x}{green:02x}{blue:02x}"
    return None


def restyle(style, text):
    """The style after a command `ESC [ text m`."""
    codes = [int(code) if code.isdigit() else 0 for code in re.split("[;:]", text)]
    while codes:
        code = codes.pop(0)
        if code == 0:
            style = Style()
        elif code in FLAGS:
            style = style._replace(**{FLAGS[code]: True})
        elif code in OFF:
            style = style._replace(**dict.fromkeys(OFF[code], False))
        elif code in (38, 48):
            style = style._replace(**{"fg" if code == 38 else "bg": extended(codes)})
        elif code in (39, 49):
            style = style._replace(**{"fg" if code == 39 else "bg": None})
        else:
            for first, side, offset in ((30, "fg", 0), (40, "bg", 0), (90, "fg", 8), (100, "bg", 8)):
                if first <= code < first + 8:
                    style = style._replace(**{side: PALETTE[code - first + offset]})
    return style


def cells_of(char):
    """How many cells a character takes."""
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def put(row, column, char, style):
    """Writes a character into a row; returns the next column."""
    width = cells_of(char)
    if width == 0:
        if column and column <= len(row):
            row[column - 1] = row[column - 1]._replace(char=row[column - 1].char + char)
        return column
    row.extend([BLANK] * (column + width - len(row)))
    row[column] = Cell(char, style)
    if width == 2:
        row[column + 1] = Cell("", style)
    return column + width


def grid_of(text):
    """Rows of cells. Carriage return overwrites, as progress bars do; other moves are ignored."""
    rows, column, style, at = [[]], 0, Style(), 0
    while at < len(text):
        found = ESCAPE.match(text, at)
        if found:
            if found[2] == "m":
                style = restyle(style, found[1])
            elif found[2] == "K":
                rows[-1] = [] if found[1] == "2" else rows[-1][:column]
            at = found.end()
            continue
        char = text[at]
        at += 1
        if char == "\n":
            rows.append([])
            column = 0
        elif char == "\r":
            column = 0
        elif char == "\t":
            column = (column // 8 + 1) * 8
        elif char >= " " and char != "\x7f":
            column = put(rows[-1], column, char, style)
    for row in rows:
        while row and row[-1].char == " " and not (row[-1].style.bg or row[-1].style.reverse):
            row.pop()
    while len(rows) > 1 and not rows[-1]:
        rows.pop()
    while len(rows) > 1 and not rows[0]:
        rows.pop(0)
    return rows


def runs_of(row):
    """Stretches of one style and one kind: (column, cells, text, style, kind)."""
    runs = []
    for column, cell in enumerate(row):
        kind = cell.char if cell.char in RULES or cell.char in SHADES else "text"
        if "\u2588" <= cell.char <= "\u258f":
            kind = cell.char
        if runs:
            start, count, text, style, last = runs[-1]
            # A partial block ends where it stands: only full cells can be joined.
            joins = kind == last and not "\u2589" <= kind <= "\u258f"
            if joins and style == cell.style:
                runs[-1] = (start, count + 1, text + cell.char, style, kind)
                continue
        runs.append((column, 1, cell.char, cell.style, kind))
    return runs


def number(value):
    """A coordinate, short."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def rect(x, y, width, height, fill, opacity=1.0):
    """A rectangle; crisp edges, or neighbours would show a seam."""
    shade = "" if opacity == 1.0 else f' fill-opacity="{number(opacity)}"'
    size = f'width="{number(width)}" height="{number(height)}"'
    return f'<rect x="{number(x)}" y="{number(y)}" {size} fill="{fill}"{shade}/>'


def draw_text(x, y, count, text, style, fill):
    """Text elements for a run: leading and trailing blanks are left out."""
    body = text.strip(" ")
    if not body:
        return []
    before = len(text) - len(text.lstrip(" "))
    after = len(text) - len(text.rstrip(" "))
    words = f'x="{number(x + before * CELL_W)}" y="{number(y + CELL_H * 0.75)}"'
    words += f' textLength="{number((count - before - after) * CELL_W)}"'
    for asked, attribute in (
        (fill != FOREGROUND, f'fill="{fill}"'),
        (style.bold, 'font-weight="bold"'),
        (style.dim, 'opacity="0.6"'),
        (style.italic, 'font-style="italic"'),
        (style.underline, 'text-decoration="underline"'),
    ):
        words += f" {attribute}" if asked else ""
    return [f'<text {words} lengthAdjust="spacingAndGlyphs">{escape(body)}</text>']


def draw_run(x, y, run):
    """The elements of one run at the left end `x` and top `y` of its cells."""
    _, count, text, style, kind = run
    fg, bg = style.fg or FOREGROUND, style.bg
    if style.reverse:
        fg, bg = bg or BACKGROUND, style.fg or FOREGROUND
    width = count * CELL_W
    opacity = 0.6 if style.dim else 1.0
    parts = [rect(x, y, width, CELL_H, bg)] if bg else []
    if kind == "text":
        return parts + draw_text(x, y, count, text, style, fg)
    if kind in RULES:
        bars = RULES[kind]
        return parts + [rect(x, y + t * CELL_H, width, h * CELL_H, fg, opacity) for t, h in bars]
    if kind in SHADES:
        return parts + [rect(x, y, width, CELL_H, fg, opacity * SHADES[kind])]
    # U+2588 is the full block, U+2589 seven eighths of it from the left, and so on.
    share = (8 - (ord(kind) - 0x2588)) / 8
    return parts + [rect(x, y, width * share, CELL_H, fg, opacity)]


def svg_of(text, title="", columns_min=0):
    """The picture of a terminal that shows `text`."""
    rows = grid_of(text)
    columns = max(columns_min, max(len(row) for row in rows), 1)
    top = PAD + (TITLE_H - PAD / 2 if title else 0)
    width, height = columns * CELL_W + 2 * PAD, top + len(rows) * CELL_H + PAD
    label = escape(title or "terminal output", {'"': "&quot;"})
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{number(width)}"'
        f' height="{number(height)}" viewBox="0 0 {number(width)} {number(height)}"'
        f' font-family="{FONTS}" role="img" aria-label="{label}">',
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}" stroke="{FRAME}"/>',
    ]
    if title:
        parts += [
            f'<circle cx="{number(PAD + 4 + 16 * at)}" cy="19" r="5" fill="{PALETTE[color]}"/>'
            for at, color in enumerate((1, 3, 2))
        ]
        parts.append(
            f'<text x="{number(width / 2)}" y="23" text-anchor="middle" fill="{TITLE}"'
            f' font-size="12">{escape(title)}</text>'
        )
    parts.append(
        f'<g fill="{FOREGROUND}" font-size="{FONT_SIZE}" shape-rendering="crispEdges"'
        ' xml:space="preserve">'
    )
    for line, row in enumerate(rows):
        for run in runs_of(row):
            parts += draw_run(PAD + run[0] * CELL_W, top + line * CELL_H, run)
    parts += ["</g>", "</svg>"]
    return "\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--title", default="", help="a title bar with this text")
    parser.add_argument("--columns", type=int, default=0, help="at least this wide [0]")
    args = parser.parse_args()
    text = sys.stdin.buffer.read().decode("utf-8", errors="replace")
    sys.stdout.buffer.write(svg_of(text, args.title, args.columns).encode())


if __name__ == "__main__":
    main()
