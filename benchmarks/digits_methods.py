"""Accuracy on digits with and without the methods, over several seeds.

    python benchmarks/digits_methods.py --seeds 10 --epochs 20

Prints a Markdown table: accuracy on the 360 images not trained on, in percent, as the mean over seeds, the standard
deviation, the extremes, and the mean difference from training without methods on the same seeds, with its standard
error. The split is fixed; a seed decides the initial weights, the order of the examples and every draw.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
from contextlib import redirect_stdout
from typing import Any

import counterpoint as cp

METHODS: dict[str, dict[str, Any]] = {
    "cutout": {"name": "cutout", "length": 0.5},
    "mixup": {"name": "mixup", "alpha": 0.2, "end": "0.9dur"},
    "label_smoothing": {"name": "label_smoothing", "smoothing": 0.1},
    "ema": {"name": "ema"},
}
LISTS = {"none": [], **{name: [name] for name in METHODS}, "all four": list(METHODS)}


def accuracy(names: list[str], seed: int, epochs: int) -> float:
    """Train as ``examples/digits.yaml`` does, and return the accuracy at the end in percent."""
    config = {
        "seed": seed,
        "task": "multiclass",
        "data": {"name": "digits", "batch_size": 128},
        "model": "small_cnn",
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
        "scheduler": "cosine",
        "max_duration": f"{epochs}ep",
        "eval_every": f"{epochs}ep",
        "algorithms": [METHODS[name] for name in names],
    }
    with redirect_stdout(io.StringIO()):
        metrics = cp.Trainer(config).fit().metrics
    return 100 * metrics["evaluation_accuracy"]


def row(name: str, found: list[float], base: list[float]) -> str:
    """Return a line of the table."""
    differences = [one - other for one, other in zip(found, base, strict=True)]
    difference = "—"
    if found is not base:
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        difference = f"{statistics.mean(differences):+.2f} ± {error:.2f}"
    spread = f"{statistics.mean(found):.2f} | {statistics.stdev(found):.2f} | {min(found):.2f} – {max(found):.2f}"
    return f"| {name} | {spread} | {difference} |"


def main() -> None:
    """Train with every list of methods on every seed, and print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    print(f"small_cnn on digits, {given.epochs} epochs, seeds 0 to {given.seeds - 1}\n")
    print("| methods | mean | deviation | extremes | difference from none |\n| --- | --- | --- | --- | --- |")
    base: list[float] = []
    for name, names in LISTS.items():
        found = [accuracy(names, seed, given.epochs) for seed in range(given.seeds)]
        base = base or found
        print(row(name, found, base), flush=True)


if __name__ == "__main__":
    main()
