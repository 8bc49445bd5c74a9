"""Tests of the comparison's pure parts: `python3 -m unittest discover -s bench`.

They need nothing but Python; those of numbers in arrays are skipped without numpy.
"""

import argparse
import importlib.util
import json
import tempfile
import unittest
from pathlib import Path
from xml.etree import ElementTree

import child
import cpu
import engines
import never
import predict
import report
import stats
import worker

HAS_NUMPY = importlib.util.find_spec("numpy") is not None
SVG = "{http://www.w3.org/2000/svg}"


def figures(times, near=True):
    """What is saved of an engine; `times` is the median of each round, or why it failed."""
    if isinstance(times, str):
        return {"error": times}
    found = {"median_ms": times, "min_ms": min(times), "load_ms": 3.0, "first_ms": 4.0}
    return found | {"peak_mib": 20.0, "near": near, "worst": 0.25}


def result(model="m", precision="f32", threads=1, **engines):
    """What is saved of a job; an engine's value is its figures, or the times of its rounds."""
    found = {k: v if isinstance(v, dict) else figures(v) for k, v in engines.items()}
    return {"model": model, "precision": precision, "threads": threads, "engines": found}


def saved(results):
    """Everything that `cpu.py` saves, around some results."""
    machine = {"cpu": "A <fast> CPU", "cpus_usable": 2, "flags": ["avx2"], "memory_gib": 8.0}
    machine |= {"system": "Linux 6", "python": "3.11", "date": "2026-11-26", "commit": "abc"}
    engine = {"version": "1.0", "settings": "as it comes", "host_mib": None}
    weather = {"minutes": 2.0, "load_start": 0.5, "load_end": 1.5}
    weather |= {"others_share": 0.125, "steal_share": 0.0}
    near = {"f32": [1e-3, 1e-4], "bf16": [0.05, 0.05]}
    return {
        "machine": machine,
        "settings": {"rounds": 3, "seconds": 0.5, "threads": [1, 2], "near": near},
        "engines": {name: engine for name in ("hetra", "openvino", "rten")},
        "lacking": [{"engine": "rten", "precision": "bf16", "reason": "it computes in f32"}],
        "models": [{"model": "m", "reference": "recorded"}],
        "failed": [],
        "weather": weather,
        "results": results,
    }


class Comparisons(unittest.TestCase):
    def test_a_ratio_is_formed_within_a_round(self):
        # The second round was slow for both: the ratio of the medians would be 1.
        ours, theirs = figures([1.0, 10.0, 2.0]), figures([2.0, 20.0, 2.0])
        self.assertEqual(stats.ratio(ours, theirs), (0.5, 0.5, 1.0))

    def test_wrong_or_failed_does_not_count(self):
        ours = figures([4.0])
        row = {"hetra": ours, "rten": figures([1.0], near=False)}
        row |= {"tract": figures("exit 1"), "openvino": figures([2.0])}
        self.assertEqual(stats.best_peer(row), "openvino")
        self.assertIsNone(stats.ratio(ours, row["rten"]))
        self.assertIsNone(stats.ratio(ours, row["tract"]))
        self.assertIsNone(stats.ratio(figures([4.0], near=False), row["openvino"]))
        self.assertIsNone(stats.best_peer({"hetra": ours}))

    def test_the_summary_is_of_models(self):
        found = {"a": (0.5, 0.4, 0.6), "b": (2.0, 1.0, 3.0), "c": (0.125, 0.1, 0.2)}
        summary = stats.summary(found)
        self.assertAlmostEqual(summary["mean"], 0.5)
        self.assertEqual((summary["count"], summary["ahead"]), (3, 2))
        self.assertEqual((summary["worst"], summary["worst_ratio"]), ("b", 2.0))
        self.assertIsNone(stats.summary({}))

    def test_the_best_peer_is_chosen_for_each_model(self):
        results = [
            result("a", hetra=[2.0], rten=[1.0], openvino=[4.0]),
            result("b", hetra=[2.0], rten=[8.0], openvino=[4.0]),
            result("a", threads=2, openvino=[0.1]),
        ]
        rows = stats.table(results, "f32", 1)
        self.assertEqual({m: r[0] for m, r in stats.against(rows).items()}, {"a": 2.0, "b": 0.5})
        self.assertEqual(stats.against(rows, "openvino")["a"][0], 0.5)


class Pages(unittest.TestCase):
    def setUp(self):
        wrong = figures([1.0, 1.0, 1.0], near=False)
        results = [
            result(hetra=[2.0, 2.0, 4.0], openvino=[4.0, 4.0, 4.0], rten="exit 1: no `Foo`"),
            result(threads=2, hetra=[9.0, 9.0, 9.0], openvino=[3.0, 3.0, 3.0], rten=wrong),
            result(precision="bf16", openvino=[1.0, 1.0, 1.0]),
        ]
        self.data = saved(results)

    def test_the_page_says_where_it_stands(self):
        page = report.page(self.data)
        for line in (
            "| f32, 1 thread | **0.50** | 1 of 1 | m 0.50 | 0.50 (1 of 1) | - |",
            "| f32, 2 threads | **3.00** | 0 of 1 | m 3.00 | 3.00 (0 of 1) | - |",
            "| bf16, 1 thread | - | - | - | - | - |",
            "| m | 2.00 (2.00) | 4.00 (4.00) | failed | 0.50 (0.50-1.00) | OpenVINO |",
            "| m | 9.00 (9.00) | 3.00 (3.00) | 1.00 (1.00) wrong | 3.00 (3.00-3.00) | OpenVINO |",
            "| m | - | 1.00 (1.00) | - | - | OpenVINO |",
            "- rten has no bf16: it computes in f32.",
            "- m (f32, threads 1): rten failed: `exit 1: no Foo`",
            "- m (f32, threads 2): rten gave another answer, off by 25.0% of the output's scale",
            "| m | 3.00 + 4.00 | 3.00 + 4.00 | 3.00 + 4.00 |",
        ):
            self.assertIn(line + "\n", page)
        self.assertIn("other processes took 12.5% of the CPUs' time", page)
        self.assertIn(
            "**Others took 12% of the machine meanwhile: these figures are rough.**", page
        )
        self.data["weather"]["others_share"] = 0.0
        self.assertNotIn("are rough", report.page(self.data))
        self.data["settings"]["rounds"] = 2
        self.assertIn("**This was a short run of 2 rounds", report.page(self.data))

    def test_the_chart_has_a_mark_for_every_ratio(self):
        root = ElementTree.fromstring(report.chart(self.data))
        said = [title.text for title in root.iter(f"{SVG}title")]
        wanted = ["m: 0.50 of openvino (0.50-1.00)", "m: 3.00 of openvino (3.00-3.00)"]
        self.assertEqual(said, wanted)
        marks = [group.find(f"{SVG}rect") for group in root.iter(f"{SVG}g")]
        first, second = (float(mark.get("x")) + 4 for mark in marks)
        ones = [x for x in root.iter(f"{SVG}line") if x.get("stroke-width") == "1.5"]
        left, right = (float(line.get("x1")) for line in ones)
        self.assertLess(first, left)  # ahead: left of 1
        self.assertGreater(second, right)

    def test_a_chart_without_a_peer_is_still_one(self):
        root = ElementTree.fromstring(report.chart(saved([result(hetra=[1.0])])))
        self.assertIn("Nothing to compare", "".join(root.itertext()))

    def test_ratios_past_the_axis_stand_at_its_end(self):
        results = [result(hetra=[1.0], rten=[1000.0])]
        root = ElementTree.fromstring(report.chart(saved(results)))
        (mark,) = (group.find(f"{SVG}polygon") for group in root.iter(f"{SVG}g"))
        x = float(mark.get("points").split(",")[0])
        lines = [line for line in root.iter(f"{SVG}line") if line.get("y1") != line.get("y2")]
        self.assertEqual(x, min(float(line.get("x1")) for line in lines))

    def test_numbers_have_three_digits(self):
        values = [0.0512, 1.234, 12.34, 123.4, None]
        self.assertEqual([report.number(x) for x in values], ["0.051", "1.23", "12.3", "123", "-"])


class Saving(unittest.TestCase):
    def test_what_is_saved_is_rendered_and_checked(self):
        data = saved([result(hetra=[2.0], rten=[1.0])])
        with tempfile.TemporaryDirectory() as folder:
            path = cpu.save(Path(folder), data)
            self.assertEqual(json.loads(path.read_text()), data)
            self.assertFalse(cpu.render(path, check=True))
            self.assertTrue(cpu.render(path, check=False))
            self.assertTrue(cpu.render(path, check=True))

    def test_rounds_become_one_entry(self):
        steady = {"median_ms": 1.23456, "min_ms": 1.0, "samples": 9}
        answer = {"steady": steady, "load_ms": 5.0, "first_ms": 6.0, "peak_mib": 7.0}
        slower = answer | {"steady": {"median_ms": 3.0, "min_ms": 2.0, "samples": 9}}
        slower |= {"load_ms": 7.0}
        checked = {"near": True, "worst": 1e-7}
        made = cpu.figures_of([slower, answer], checked)
        self.assertEqual(made["median_ms"], [3.0, 1.235])
        self.assertEqual((made["min_ms"], made["load_ms"]), (1.0, 6.0))
        failed = cpu.figures_of([answer, {"error": "signal 9"}], checked)
        self.assertEqual(failed["error"], "signal 9")
        self.assertNotIn("median_ms", failed)

    def test_names_are_known_and_ordered(self):
        parse = cpu.names_from(engines.NAMES)
        self.assertEqual(parse("tract,hetra"), ["hetra", "tract"])
        with self.assertRaises(argparse.ArgumentTypeError):
            parse("hetra,tensorrt")


class Engines(unittest.TestCase):
    def test_every_engine_says_how_it_is_set(self):
        self.assertEqual(set(engines.SETTINGS), set(engines.NAMES))
        self.assertEqual(set(report.LABELS), set(engines.NAMES))
        self.assertTrue({name for name, _ in engines.LACKS} <= set(engines.NAMES))

    def test_precision_is_pinned_where_it_can_be(self):
        setup = engines.Setup(Path("hetra"), Path(), 1.0, 1.0)
        job = engines.Job("m", "m.onnx", "bf16", 1, Path())
        self.assertEqual(engines.hetra_precision(setup, job), [])
        self.assertIn("no --precision", engines.lack(setup, "hetra", "bf16"))
        setup.hetra_has_precision = True
        self.assertEqual(engines.hetra_precision(setup, job), ["--precision", "bf16"])
        self.assertIsNone(engines.lack(setup, "hetra", "bf16"))
        job.precision = "int8"
        self.assertEqual(engines.hetra_precision(setup, job), ["--precision", "f32"])

    def test_the_peers_are_the_pinned_ones(self):
        self.assertTrue(engines.locked_version("rten").startswith("0.27."))
        self.assertTrue(engines.locked_version("tract-onnx").startswith("0.23."))

    def test_the_answer_is_the_last_json(self):
        self.assertEqual(child.last_json('noise\n{"a": 1}\n'), {"a": 1})
        with self.assertRaises(ValueError):
            child.last_json("noise\n[1]\n")

    def test_a_child_that_fails_or_hangs_is_an_error(self):
        self.assertIn("exit 3: oh", child.ask(["sh", "-c", "echo oh >&2; exit 3"], 10)["error"])
        late = child.ask(["sleep", "10"], 0.05)
        self.assertIn("not done after 0.05 s", late["error"])
        fine = child.ask(["sh", "-c", 'echo "{}"'], 10)
        self.assertGreater(fine["peak_mib"], 0)

    def test_the_steady_state_is_at_least_one_inference(self):
        calls = []
        timed = worker.timed(worker.clock(), lambda: calls.append(0), 0.0)
        self.assertEqual((len(calls), timed["steady"]["samples"]), (2, 1))


@unittest.skipUnless(HAS_NUMPY, "no numpy")
class Answers(unittest.TestCase):
    def near(self, found, wanted, rtol=1e-3, atol=1e-3):
        import numpy as np

        return worker.difference(np.array(found), np.array(wanted), rtol, atol)

    def test_near_is_relative_or_a_share_of_the_largest(self):
        self.assertEqual(self.near([0.05, 100.0], [0.0, 100.0])[0], True)
        self.assertEqual(self.near([0.5, 100.0], [0.0, 100.0]), (False, 0.005))
        self.assertEqual(self.near([2e-5], [1e-5])[0], True)
        self.assertEqual(self.near([1e-3], [1e-5])[0], False)
        self.assertEqual(self.near([1.0, 2.0], [[1.0, 2.0]]), (False, None))
        self.assertEqual(self.near([float("nan")], [1.0]), (False, None))
        self.assertEqual(self.near([], []), (True, 0.0))

    def test_arrays_survive_their_files(self):
        import numpy as np

        arrays = {"x": np.arange(6, dtype=np.int64).reshape(2, 3).T, "s": np.float32(1.5)}
        with tempfile.TemporaryDirectory() as folder:
            worker.write_arrays(folder, arrays)
            found = worker.read_arrays(folder)
        self.assertEqual(list(found), ["x", "s"])
        self.assertEqual(
            (found["x"].tolist(), found["x"].dtype.name), ([[0, 3], [1, 4], [2, 5]], "int64")
        )
        self.assertEqual((found["s"].shape, float(found["s"])), ((), 1.5))


class PlacedPages(unittest.TestCase):
    def test_predictions_are_counted_by_device(self):
        def row(model, predicted, parts):
            return {"device": "cpu", "model": f"a/{model}.onnx", "predicted_s": predicted, "measured_s": 1e-3,
                    "parts": [{"predicted_s": p, "measured_s": m} for p, m in parts]}

        rows = [row("x", 1.1e-3, [(1.0, 1.1), (1.0, 2.0)]), row("y", 0.7e-3, [(None, 1.0), (1.0, 1.0)])]
        rows = [predict.counted(row) for row in rows]
        [(device, models, mean, median, parts, near)] = predict.summary(rows)
        self.assertEqual((device, models, parts), ("cpu", 2, 3))
        self.assertAlmostEqual(mean, 0.2)
        self.assertAlmostEqual(median, 0.2)
        self.assertAlmostEqual(near, 2 / 3)
        page = predict.page({"rows": rows, "cpu": "a chip", "date": "a day"})
        self.assertIn("| `cpu` | 2 | 20% | 20% | 3 | 67% |", page)
        self.assertIn("| y | 0.70 (1.00) |", page)

    def test_plans_that_are_worse_are_told(self):
        def row(plan, best, predicted):
            return {"model": "m", "devices": ["cpu", "ort"], "goal": "latency", "chosen": "cpu", "best": "ort",
                    "plan_s": plan, "best_s": best, "predicted": {"cpu": [predicted, 1.0], "ort": [1.0, 1.0]}}

        rows = [row(1.0, 1.0, 1.1), row(1.1, 1.0, 1.1)]
        page = never.page({"rows": rows, "cpu": "a chip", "date": "a day"})
        self.assertIn("most 1.100; 1 of 2 beyond 1.03", page)
        self.assertIn("| `cpu` | 1 | 10.0% | 10.0% |", page)
        self.assertIn("| m | latency | 2 | cpu, ort | cpu | ort | 1100.000 | 1000.000 | 1.100 |", page)

    def test_what_seems_worse_is_run_again(self):
        times = {"plan": [2.0] * never.ROUNDS + [1.0], "cpu": [1.0] * 9, "wgpu": [never.FAR + 1.0]}
        ways = {name: ["-d", name] if name != "plan" else ["--plan", name] for name in times}
        took = never.compared(ways, [("plan", ["cpu", "wgpu"])], lambda how: times[how[1]].pop(0))
        self.assertEqual(took, {"plan": 1.0, "cpu": 1.0, "wgpu": never.FAR + 1.0})
        failing = never.compared({"plan": ["--plan", "p"]}, [("plan", [])], lambda how: None)
        self.assertEqual(failing, {"plan": None})


if __name__ == "__main__":
    unittest.main()
