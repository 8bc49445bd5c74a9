"""What pages of figures share: where they were measured, and how they are written again."""

import json
import platform
import sys
import time
from pathlib import Path


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def render(figures, files, check):
    """Writes what each function makes of the figures beside them; with `check` compares. False: they
    differ."""
    data = json.loads(figures.read_text())
    same = True
    for name, text in files.items():
        path, made = figures.parent / name, text(data)
        if check and (not path.is_file() or path.read_text() != made):
            print(f"{path} is not what its figures give", file=sys.stderr)
            same = False
        elif not check:
            path.write_text(made)
    return same


def parsed(parser, files):
    """What was asked for, with the options of every script that writes a page; one that only writes
    its page again ends here."""
    add = parser.add_argument
    add("--out", type=Path, default=Path("docs"), help="where figures and page go")
    add("--render-only", type=Path, metavar="JSON", help="measure nothing; write the page again")
    add("--check", action="store_true", help="with --render-only: compare, write nothing")
    args = parser.parse_args()
    if args.render_only:
        sys.exit(0 if render(args.render_only, files, args.check) else 1)
    return args


def keep(rows, path, files, **more):
    """Keeps figures, and writes their page."""
    data = {"cpu": processor(), "date": time.strftime("%Y-%m-%d"), **more, "rows": rows}
    path.write_text(json.dumps(data, indent=1) + "\n")
    render(path, files, check=False)
