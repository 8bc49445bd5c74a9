"""How far predictions of models are off of which nothing was measured: docs/PREDICTION.md.

    cargo xtask bench predict [--models FOLDER]

Each model is measured on each device, whole and in parts, at one thread. What a device takes for the
models of a family is then predicted from what it took for the models of other families and for small
networks of random sizes (hetra/examples/predict.rs).
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path

import pages

DEVICES = ["cpu", "ort", "openvino", "opencl"]
NEAR = 0.2


def off(predicted, measured):
    return abs(predicted / measured - 1)


def name(row):
    return Path(row["model"]).stem


def counted(row):
    """A row with how many of its parts were predicted, and how many of them nearly enough, instead of
    them all."""
    parts = [part for part in row["parts"] if part["predicted_s"]]
    near = sum(off(part["predicted_s"], part["measured_s"]) <= NEAR for part in parts)
    return {**row, "model": name(row), "parts": len(parts), "near": near}


def summary(rows):
    """By device: models, mean and median error of whole models, parts and how many are near."""
    lines = []
    for device in dict.fromkeys(row["device"] for row in rows):
        own = [row for row in rows if row["device"] == device and row["predicted_s"]]
        whole = [off(row["predicted_s"], row["measured_s"]) for row in own]
        parts, near = (sum(row[what] for row in own) for what in ["parts", "near"])
        lines.append((device, len(own), statistics.mean(whole), statistics.median(whole), parts,
                      near / max(1, parts)))
    return lines


def page(data):
    rows = data["rows"]
    text = [
        "# Predictions beside measurements",
        "",
        "Written by `cargo xtask bench predict`; do not edit.",
        "",
        f"{data['cpu']}, {data['date']}, one thread. Of a model nothing was measured before it was predicted,",
        "nor of any other of its family: a device's costs are learned from what it took for the models of",
        "other families and for 250 small networks of random sizes (`hetra calibrate --learn 250`). Parts are the",
        "tasks that a plan places, about 48 of a model, each run by itself. All of these devices are played",
        "by the processor.",
        "",
        *([data["note"], ""] if "note" in data else []),
        "| device | models | mean error | median | parts | within 20 % |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for device, models, mean, median, parts, near in summary(rows):
        text.append(f"| `{device}` | {models} | {mean:.0%} | {median:.0%} | {parts} | {near:.0%} |")
    devices = list(dict.fromkeys(row["device"] for row in rows))
    text += ["", "Predicted over measured, and what was measured in ms:", "",
             "| model | " + " | ".join(f"`{device}`" for device in devices) + " |",
             "|---|" + "---:|" * len(devices)]
    for model in dict.fromkeys(name(row) for row in rows):
        cells = []
        for device in devices:
            row = next((r for r in rows if name(r) == model and r["device"] == device), None)
            cells.append("-" if row is None or not row["predicted_s"] else
                         f"{row['predicted_s'] / row['measured_s']:.2f} ({row['measured_s'] * 1e3:.2f})")
        text.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


FILES = {"PREDICTION.md": page}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--program", help="the built example of crates/hetra")
    add("--models", type=Path, help="a folder of folders of ONNX files")
    add("--devices", nargs="+", default=DEVICES)
    args = pages.parsed(parser, FILES)
    rows = []
    models = sorted(args.models.glob("*/*.onnx"))
    for device in args.devices:
        command = [args.program, device, *models]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows += [counted(row) for row in json.loads(done.stdout)]
    pages.keep(rows, args.out / "prediction.json", FILES)
    for line in summary(rows):
        print(*line)


if __name__ == "__main__":
    main()
