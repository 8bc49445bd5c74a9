"""Arrays beside NumPy and JAX: products, fused chains, and what a call costs.

    pip install numpy jax target/wheels/hetra-*.whl
    python bench/arrays.py [--rounds 5]

Each library runs in a process of its own, in turn; the figure of a round is the median of its runs,
the figure shown the median of the rounds, with the least and the greatest. All compute the same
numbers, which is checked. JAX runs on the CPU; what is not installed is left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

TASKS = {
    "matmul 1024": ("numpy", "jax", "hetra cpu", "hetra opencl"),
    "matmul 256": ("numpy", "jax", "hetra cpu", "hetra opencl"),
    "chain 16M": ("numpy", "jax", "hetra cpu", "hetra opencl"),
    "three operators, noted": ("hetra cpu",),
    "three operators, computed": ("numpy", "jax", "hetra cpu"),
}


def median_ms(run, least=7, seconds=1.0):
    """The median of runs, after two that are not counted."""
    run(), run()
    times, end = [], time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def prepare(task, library):
    """What is timed, and a number that tells whether it is right."""
    import numpy as np

    name, *device = library.split()
    rng = np.random.default_rng(1)
    if name == "hetra":
        import hetra as xp

        xp.device(device[0]).use()
        done = lambda x: (x.eval(), x)[1]
        settle = (lambda x: done(x)[0, 0].item()) if device[0] != "cpu" else done
    elif name == "jax":
        import jax.numpy as xp

        settle = done = lambda x: x.block_until_ready()
    else:
        xp = np
        settle = done = lambda x: x
    if task.startswith("matmul"):
        size = int(task.split()[1])
        a, b = (xp.asarray(rng.random((size, size), dtype=np.float32)) for _ in range(2))
        return lambda: settle(xp.matmul(a, b)), lambda: float(np.asarray(xp.matmul(a, b))[3, 5])
    if task.startswith("chain"):
        a, b, c = (xp.asarray(rng.random(16_000_000, dtype=np.float32)) for _ in range(3))
        chain = lambda a, b, c: xp.sum(xp.exp(a * b + c))
        if name == "jax":
            import jax

            chain = jax.jit(chain)
        # What a device launches is done when its number is read.
        whole = (lambda x: x.item()) if device and device[0] != "cpu" else done
        return lambda: whole(chain(a, b, c)), lambda: float(chain(a, b, c))
    x = xp.asarray(np.ones(4, np.float32))
    small = lambda: (x * x + x) * x
    if task.endswith("noted"):
        return lambda: [small() for _ in range(100)], lambda: float(small()[0])
    return lambda: [done(small()) for _ in range(100)], lambda: float(small()[0])


def child(task, library):
    run, value = prepare(task, library)
    time_ms = median_ms(run)
    if task.startswith("three"):
        time_ms /= 100
    print(json.dumps({"ms": time_ms, "value": value()}))


def measure(task, library):
    command = [sys.executable, __file__, "--child", task, library]
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    if ran.returncode != 0:
        return None
    return json.loads(ran.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(*options.child)
    print("| | " + " | ".join(["numpy", "jax", "hetra cpu", "hetra opencl"]) + " |")
    print("|---|---|---|---|---|")
    for task, libraries in TASKS.items():
        found = {library: [] for library in libraries}
        for _ in range(options.rounds):
            for library in libraries:
                found[library].append(measure(task, library))
        cells, values = [], []
        for library in ("numpy", "jax", "hetra cpu", "hetra opencl"):
            rounds = [one for one in found.get(library, []) if one]
            if not rounds:
                cells.append("")
                continue
            times = [one["ms"] for one in rounds]
            values.append(rounds[0]["value"])
            cells.append(f"{statistics.median(times):.4g} ({min(times):.4g} to {max(times):.4g})")
        print(f"| {task}, ms | " + " | ".join(cells) + " |", flush=True)
        far = max(values) - min(values)
        if far > 1e-3 * abs(values[0]):
            print(f"{task}: the results differ: {values}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
