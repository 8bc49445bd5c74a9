"""The face pipeline beside the same one written with ONNX Runtime, OpenCV and NumPy.

    python bench/face.py --hetra target/release/hetra --pipeline FOLDER/face.toml --picture P.jpg

Needs onnxruntime, opencv-python-headless and numpy. Both read the file from memory of the system,
decode it, find faces, turn them upright, and turn each into numbers. They run in turn, each in a
process of its own, alone on the machine; the figures are of the runs inside.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time

ROUNDS = 5
UPRIGHT = [
    [38.2946, 51.6963],
    [73.5318, 51.5014],
    [56.0252, 71.7366],
    [41.5493, 92.3655],
    [70.7299, 92.2041],
]


class Peer:
    """What a user of ONNX Runtime writes."""

    def __init__(self, folder, threads):
        import cv2
        import numpy as np
        import onnxruntime as ort

        self.cv2, self.np = cv2, np
        cv2.setNumThreads(threads)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads

        def session(name):
            providers = ["CPUExecutionProvider"]
            return ort.InferenceSession(f"{folder}/{name}", options, providers=providers)

        self.detect = session("yunet_n_320_320.onnx")
        self.embed = session("mobilefacenet.onnx")
        self.input = self.embed.get_inputs()[0].name
        self.names = [output.name for output in self.detect.get_outputs()]
        self.upright = np.array(UPRIGHT, np.float32)
        self.priors = {}
        for stride in (8, 16, 32):
            side = 320 // stride
            rows, columns = np.mgrid[:side, :side]
            self.priors[stride] = np.stack([columns, rows], -1).reshape(-1, 2) * stride

    def similarity(self, points):
        np = self.np
        target, source = self.upright, points
        middle = target.mean(0)
        apart = target - middle
        square = (apart**2).sum()
        a = (source * apart).sum() / square
        b = (source[:, 1] * apart[:, 0] - source[:, 0] * apart[:, 1]).sum() / square
        shift = source.mean(0) - np.array([a * middle[0] - b * middle[1], b * middle[0] + a * middle[1]])
        return np.array([[a, -b, shift[0]], [b, a, shift[1]]], np.float32)

    def run(self, path):
        cv2, np = self.cv2, self.np
        image = cv2.imread(path)
        height, width = image.shape[:2]
        factor = max(height / 320, width / 320)
        size = (round(width / factor), round(height / factor))
        small = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        padded = np.zeros((320, 320, 3), np.uint8)
        padded[: size[1], : size[0]] = small
        blob = padded.astype(np.float32).transpose(2, 0, 1)[None]
        found = dict(zip(self.names, self.detect.run(None, {self.detect.get_inputs()[0].name: blob})))
        boxes, scores, points = [], [], []
        for stride, prior in self.priors.items():
            cls, obj = found[f"cls_{stride}"][0, :, 0], found[f"obj_{stride}"][0, :, 0]
            score = np.sqrt(np.clip(cls, 0, 1) * np.clip(obj, 0, 1))
            keep = score >= 0.6
            box, point = found[f"bbox_{stride}"][0][keep], found[f"kps_{stride}"][0][keep]
            middle = box[:, :2] * stride + prior[keep]
            extent = np.exp(box[:, 2:]) * stride
            boxes.append(np.concatenate([middle - extent / 2, extent], 1))
            scores.append(score[keep])
            points.append(point.reshape(-1, 5, 2) * stride + prior[keep][:, None])
        boxes, scores = np.concatenate(boxes), np.concatenate(scores)
        points = np.concatenate(points)
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), 0.6, 0.3) if len(boxes) else []
        rows = []
        for index in np.array(kept, int).reshape(-1):
            matrix = self.similarity(points[index] * factor)
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            face = cv2.warpAffine(image, matrix, (112, 112), flags=flags)
            face = face[:, :, ::-1].astype(np.float32).transpose(2, 0, 1)[None]
            face = (face - 127.5) * 0.0078125
            rows.append(self.embed.run(None, {self.input: face})[0][0])
        return [boxes[index] * factor for index in np.array(kept, int).reshape(-1)], rows


def quantile(numbers, part):
    numbers = sorted(numbers)
    return numbers[round((len(numbers) - 1) * part)]


def peer(folder, picture, repeat, jobs, threads):
    """Runs the peer in this process; milliseconds of each picture, and pictures a second."""
    workers = [Peer(folder, threads) for _ in range(jobs)]
    for worker in workers:
        worker.run(picture)
    times, lock, left = [], threading.Lock(), [repeat]

    def work(worker):
        while True:
            with lock:
                if left[0] == 0:
                    return
                left[0] -= 1
            begun = time.perf_counter()
            worker.run(picture)
            taken = (time.perf_counter() - begun) * 1e3
            with lock:
                times.append(taken)

    begun = time.perf_counter()
    others = [threading.Thread(target=work, args=(worker,)) for worker in workers[1:]]
    for other in others:
        other.start()
    work(workers[0])
    for other in others:
        other.join()
    seconds = time.perf_counter() - begun
    boxes, rows = workers[0].run(picture)
    return {
        "median_ms": statistics.median(times),
        "p99_ms": quantile(times, 0.99),
        "per_second": repeat / seconds,
        "faces": len(boxes),
        "numbers": [float(number) for number in rows[0]] if rows else [],
    }


def hetra(program, pipeline, picture, repeat, jobs, threads, precision):
    command = [program, "pipeline", pipeline, picture, "--repeat", str(repeat), "--json"]
    command += ["--precision", precision]
    command += ["--jobs", str(jobs), "--threads", str(threads)]
    done = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    outputs = done["pictures"][0]["outputs"]
    return {
        "median_ms": done["total"]["median_ms"],
        "p99_ms": done["total"]["p99_ms"],
        "per_second": done["per_second"],
        "faces": outputs["boxes"]["shape"][0],
        "numbers": outputs["numbers"]["values"][: outputs["numbers"]["shape"][1]],
    }


def cosine(one, other):
    def dot(a, b):
        return sum(x * y for x, y in zip(a, b))

    return dot(one, other) / (dot(one, one) * dot(other, other)) ** 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--hetra", help="the built program")
    add("--pipeline", help="face.toml, its models beside it")
    add("--picture", help="a JPEG with a face, such as 640 x 480")
    add("--repeat", type=int, default=300)
    add("--worker", nargs=2, type=int, metavar=("JOBS", "THREADS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = args.pipeline.rsplit("/", 1)[0]
    if args.worker:
        print(json.dumps(peer(folder, args.picture, args.repeat, *args.worker)))
        return
    results = {}
    for _ in range(ROUNDS):
        for jobs, threads in [(1, 2), (2, 1)]:
            what = (args.hetra, args.pipeline, args.picture, args.repeat, jobs, threads)
            own, low = hetra(*what, "f32"), hetra(*what, "bf16")
            command = [sys.executable, *sys.argv, "--worker", str(jobs), str(threads)]
            other = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
            for name, row in [("hetra", own), ("hetra, bf16", low), ("onnxruntime", other)]:
                results.setdefault((name, jobs, threads), []).append(row)
    print("| | at one time | threads | median | p99 | pictures a second |")
    print("|---|---:|---:|---:|---:|---:|")
    best = {}
    for (name, jobs, threads), rows in results.items():
        of = {key: [row[key] for row in rows] for key in ("median_ms", "p99_ms", "per_second")}
        middle = {key: statistics.median(values) for key, values in of.items()}
        best[name] = max(best.get(name, 0), middle["per_second"])
        spread = f"{min(of['per_second']):.0f}-{max(of['per_second']):.0f}"
        print(
            f"| {name} | {jobs} | {threads} | {middle['median_ms']:.2f} ms | {middle['p99_ms']:.2f} ms "
            f"| {middle['per_second']:.1f} ({spread}) |"
        )
    other = results["onnxruntime", 1, 2][0]
    print()
    for name in ("hetra", "hetra, bf16"):
        own = results[name, 1, 2][0]
        print(
            f"{name}: {best[name] / best['onnxruntime']:.2f} times the throughput, each at its best; "
            f"faces {own['faces']} and {other['faces']}, cosine of the numbers of the first "
            f"{cosine(own['numbers'], other['numbers']):.5f}"
        )


if __name__ == "__main__":
    main()
