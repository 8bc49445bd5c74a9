"""Tests of terminal_svg.py: `python3 -m unittest discover -s tools`."""

import unittest
from xml.etree import ElementTree

from terminal_svg import BACKGROUND, CELL_W, FOREGROUND, PAD, PALETTE, Style, grid_of, svg_of

SVG = "{http://www.w3.org/2000/svg}"


def lines(text):
    return ["".join(cell.char for cell in row) for row in grid_of(text)]


def texts(text):
    root = ElementTree.fromstring(svg_of(text))
    return [(e.text, e.get("fill"), float(e.get("x"))) for e in root.iter(f"{SVG}text")]


def bars(text):
    """Width in cells and opacity of what is drawn, behind the background."""
    rects = list(ElementTree.fromstring(svg_of(text)).iter(f"{SVG}rect"))[1:]
    opacity = [float(e.get("fill-opacity", "1")) for e in rects]
    return [(round(float(e.get("width")) / CELL_W, 3), o) for e, o in zip(rects, opacity)]


class TerminalSvg(unittest.TestCase):
    def test_the_grid_is_what_a_terminal_shows(self):
        self.assertEqual(lines("\na\tb  \r\n10 %\r100 %\n\n"), ["a       b", "100 %"])
        self.assertEqual(lines("half\r\x1b[Kdone\x1b]0;title\x07\x1b[2A"), ["done"])
        self.assertEqual([len(row) for row in grid_of("日本e\u0301")], [5])
        self.assertEqual(lines(""), [""])

    def test_colours_and_marks(self):
        row = grid_of("\x1b[1;31mr\x1b[22;39mp\x1b[38;5;196mx\x1b[48;2;1;2;3m \x1b[mz")[0]
        self.assertEqual(row[0].style, Style(fg=PALETTE[1], bold=True))
        self.assertEqual(row[1].style, Style())
        self.assertEqual(row[2].style.fg, "#ff0000")
        self.assertEqual(row[3].style.bg, "#010203")
        self.assertEqual(row[4].style, Style())
        swapped = texts("\x1b[7mon\x1b[0m")
        self.assertEqual(swapped[0][:2], ("on", BACKGROUND))
        self.assertEqual(bars("\x1b[7mon\x1b[0m"), [(2.0, 1.0)])

    def test_text_is_escaped_and_placed(self):
        self.assertEqual(texts("  <a> & b"), [("<a> & b", None, PAD + 2 * CELL_W)])
        self.assertIn(FOREGROUND, svg_of("x"))
        self.assertIn('aria-label="say &quot;hi&quot;"', svg_of("x", 'say "hi"'))

    def test_blocks_are_rectangles(self):
        self.assertEqual(bars("██▌"), [(2.0, 1.0), (0.5, 1.0)])
        self.assertEqual(bars("▏▏"), [(0.125, 1.0)] * 2)
        self.assertEqual(bars("░░▓"), [(2.0, 0.25), (1.0, 0.75)])
        self.assertEqual(len(bars("═══")), 2)
        self.assertEqual(texts("██"), [])

    def test_the_width_follows_the_longest_line(self):
        root = ElementTree.fromstring(svg_of("abc\n" + "x" * 40))
        self.assertAlmostEqual(float(root.get("width")), 40 * CELL_W + 2 * PAD, places=1)


if __name__ == "__main__":
    unittest.main()
