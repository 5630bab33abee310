"""Every score of nuclei of one image beside one ``np.unique`` over the same pixels, in one run.

Called by ``tools/benchmark.py instances``. The raw limit finds the pairs of labels that occur and how often, without
scoring anything; a second one is ``np.bincount`` of the pairs, which wants labels that are numbered 1 … n already.
Repeats alternate, so that whatever else the machine does hits all alike; figures are medians.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tfseg.metrics import instance_scores

MOST_MS = 50


def instances_benchmark(*, size_px: int = 1000, nuclei: int = 1000, repeats: int = 21) -> dict[str, float]:
    """Measures and prints.

    Args:
        size_px: side of the image.
        nuclei: about how many true ones; as many predicted ones, most displaced, some merged, missed or invented.
        repeats: of each side.

    Returns:
        scores_ms (of all scores at once, goal at most 50), unique_ms, bincount_ms (of the raw limits), ratio and
        bincount_ratio (raw limit / scores; above 1 tfseg is the faster one), true, predicted (nuclei), aji.
    """
    truth, prediction = nuclei_images(size_px, nuclei)
    pairs = truth.astype(np.int64) * (int(prediction.max()) + 1) + prediction
    sides: dict[str, Callable[[], object]] = {
        "scores": lambda: instance_scores(truth, prediction),
        "unique": lambda: np.unique(pairs, return_counts=True),
        "bincount": lambda: np.bincount(pairs.ravel()),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, work in sides.items():
            before = time.perf_counter()
            work()
            if repeat:  # the first one warms up
                times[name].append((time.perf_counter() - before) * 1000)
    scores = instance_scores(truth, prediction)
    result = {f"{name}_ms": statistics.median(values) for name, values in times.items()}
    result["ratio"] = statistics.median(u / s for u, s in zip(times["unique"], times["scores"], strict=True))
    result["bincount_ratio"] = statistics.median(b / s for b, s in zip(times["bincount"], times["scores"], strict=True))
    result |= {name: scores[name] for name in ("true", "predicted", "aji")}
    print(
        f"instances: {size_px} x {size_px} px, {result['true']:.0f} true and {result['predicted']:.0f} predicted "
        f"nuclei, AJI {result['aji']:.3f}; all scores {result['scores_ms']:.1f} ms (goal at most {MOST_MS}; slowest "
        f"{max(times['scores']):.1f})\n  beside np.unique of the pairs ({result['unique_ms']:.1f} ms): "
        f"{result['ratio']:.2f}; beside np.bincount ({result['bincount_ms']:.1f} ms): {result['bincount_ratio']:.2f}"
    )
    if result["scores_ms"] > MOST_MS:
        print(f"instances: goal of {MOST_MS} ms missed", file=sys.stderr)
    return result


def nuclei_images(size_px: int, nuclei: int, seed: int = 0) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Label images of ellipses that nearly touch, and of what a network might have made of them."""
    random = np.random.default_rng(seed)
    side = max(int(np.ceil(np.sqrt(nuclei))), 1)
    step = size_px / side
    truth, prediction = np.zeros((2, size_px, size_px), np.int32)
    rows, columns = np.mgrid[:size_px, :size_px].astype(np.float32)
    for k in range(nuclei):
        centre = (np.array(divmod(k, side)) + 0.5 + random.uniform(-0.15, 0.15, 2)) * step
        radii = random.uniform(0.3, 0.55, 2) * step
        where = tuple(slice(max(int(c - step), 0), int(c + step) + 1) for c in centre)
        y, x = rows[where], columns[where]
        truth[where][((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1] = k + 1
        centre, radii = centre + random.normal(0, 0.06 * step, 2), radii * random.uniform(0.85, 1.15, 2)
        if random.random() < 0.05:  # missed, and something else invented
            centre = random.uniform(0, size_px, 2)
            where = tuple(slice(max(int(c - step), 0), int(c + step) + 1) for c in centre)
            y, x = rows[where], columns[where]
        label = k if k and random.random() < 0.05 else k + 1  # merged with the one before
        prediction[where][((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1] = label
    return truth, prediction
