"""From saved figures to comparisons: pure functions on the JSON of `cpu.py`."""

import math
import statistics

US = "hetra"


def good(figures):
    """Whether an engine ran and gave the expected answer: only then do its times count."""
    return figures is not None and "error" not in figures and figures["near"]


def table(results, precision, threads):
    """{model: {engine: figures}} of one precision and number of threads, in the order saved."""
    place = (precision, threads)
    return {r["model"]: r["engines"] for r in results if (r["precision"], r["threads"]) == place}


def middle(figures):
    """Milliseconds: the median over the rounds of the medians within them."""
    return statistics.median(figures["median_ms"])


def ratio(ours, theirs):
    """(median, least, largest) over the rounds of our time by theirs; None where one does not
    count. Below 1 we are faster."""
    if not good(ours) or not good(theirs):
        return None
    shares = [a / b for a, b in zip(ours["median_ms"], theirs["median_ms"], strict=True)]
    return statistics.median(shares), min(shares), max(shares)


def best_peer(row):
    """The name of the fastest peer by its median over the rounds; None where none counts."""
    times = {e: middle(x) for e, x in row.items() if e != US and good(x)}
    return min(times, key=times.get) if times else None


def against(rows, engine=None):
    """{model: ratio} of us to one engine, or to each model's best peer."""
    found = {}
    for model, row in rows.items():
        value = ratio(row.get(US), row.get(engine or best_peer(row)))
        if value:
            found[model] = value
    return found


def geometric_mean(values):
    """Of positive numbers, at least one."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def summary(ratios):
    """What a reader asks of `against`: mean, models ahead, the worst; None without any."""
    if not ratios:
        return None
    medians = {model: value[0] for model, value in ratios.items()}
    worst = max(medians, key=medians.get)
    return {
        "mean": geometric_mean(medians.values()),
        "count": len(medians),
        "ahead": sum(value < 1 for value in medians.values()),
        "worst": worst,
        "worst_ratio": medians[worst],
    }
