"""Plans on devices that fail, hang and get lost: the figures and a page.

    cargo xtask bench faults                               # builds what runs, and runs this
    python bench/faults.py --render-only docs/faults.json  # the page again

`crates/hetra/examples/faults.rs` says what is done.
"""

import argparse
import json
import subprocess

from pages import keep, parsed
from report import grid

DEVICES = ["opencl:0", "wgpu:0", "openvino", "ort", "sim:l4"]
SAID = {"fail": "a call fails", "hang": "a call hangs", "lose": "the device is lost"}


def table(data):
    head = ["device", "what happens", "steps", "runs", "answered", "refused", "late", "wrong"]
    head += ["device back", "a run takes", "more, p50", "p99", "threads", "MiB"]
    lines = []
    for row in data["rows"]:
        counts = [row[name] for name in ["positions", "runs", "answered", "refused", "late", "wrong"]]
        lines.append(
            [row["device"], SAID[row["kind"]], *map(str, counts), str(row["admitted_again"])]
            + [f"{row[name]:.1f} ms" for name in ["normal_ms", "recovery_p50_ms", "recovery_p99_ms"]]
            + [f"{row['threads'][1] - row['threads'][0]:+d}"]
            + [f"{(row['kib'][1] - row['kib'][0]) / 1024:+.1f}"]
        )
    return grid(head, lines)


def page(data):
    rows = data["rows"]
    runs, answered = (sum(row[name] for row in rows) for name in ["runs", "answered"])
    late, wrong = (sum(row[name] for row in rows) for name in ["late", "wrong"])
    lines = [
        "# Devices that fail",
        "",
        "Written by `cargo xtask bench faults`; do not edit. Rerun it for the figures of your machine.",
        "",
        f"Measured on {data['cpu']}, {data['date']}: {data['model']}, its parts on the host and on a device",
        "in turn. In every run one call of the device fails, hangs for 600 ms, or finds the device lost,",
        "each step in its turn. A run must end within 400 ms; a device is given up on after 250 ms, or half",
        "of what is left of the deadline. `sim` is a device that is only described; all others here are",
        "played by the host's processor (lavapipe, PoCL, OpenVINO's CPU plugin, ONNX Runtime).",
        "",
        f"**{runs} runs: {answered} answered, {late} after the deadline, {wrong} with wrong results.**",
        "",
        table(data),
        "`more` is what such a run takes beside what it takes when all is well. `device back`: after how",
        "many of the runs the device did its parts again, which it is let try after 0.1 s, then twice as",
        "long each time. Threads and memory are of the process, from after the first fault of a kind to",
        "after the last.",
        "",
    ]
    return "\n".join(lines)


FILES = {"FAULTS.md": page}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--program", help="the built example of crates/hetra")
    add("--model", help="the model, an ONNX file")
    add("--runs", type=int, default=1005, help="runs in all")
    add("--devices", nargs="+", default=DEVICES)
    args = parsed(parser, FILES)
    command = [args.program, args.model, str(args.runs), *args.devices]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    model = args.model.rsplit("/", 1)[-1]
    keep(json.loads(done.stdout), args.out / "faults.json", FILES, model=model)


if __name__ == "__main__":
    main()
