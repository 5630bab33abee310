"""Scores of one class against the rest over all thresholds, from histograms of its probability.

A histogram has a fixed size whatever the number of pixels: add those of tiles or slides, then score the sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tfseg.types import IGNORE

LEVELS = 256
"""Probabilities are told apart in steps of 1/255, as probability pyramids store them."""
_ROUNDING = 1e-3
"""How far a mean of float16 or float32 softmax outputs may lie outside [0, 1]."""


def score_histogram(is_class: ArrayLike, probability: ArrayLike) -> NDArray[np.int64]:
    """Counts pixels by truth and probability of one class.

    Args:
        is_class: bool, any shape; leave out pixels that nobody annotated.
        probability: of the class, of that shape: uint8 (probability · 255, rounded) or floats in [0, 1].

    Returns:
        (2, 256) int64: row 0 pixels of other classes, row 1 pixels of the class; column k probability k / 255.

    Raises:
        ValueError: the shapes differ, or a probability is outside [0, 1] or NaN.
    """
    positive, scores = np.asarray(is_class, bool).ravel(), np.asarray(probability)
    if scores.shape != np.shape(is_class):
        raise ValueError(f"truth and probability must have one shape. Received: {np.shape(is_class)}, {scores.shape}.")
    if scores.dtype != np.uint8:
        if scores.size and not -_ROUNDING <= scores.min() <= scores.max() <= 1 + _ROUNDING:
            raise ValueError(f"probabilities must be in [0, 1] or uint8. Received: {scores.min()}..{scores.max()}.")
        scores = np.rint(scores * (LEVELS - 1)).astype(np.uint8)
    index = positive * np.intp(LEVELS) + scores.ravel()
    return np.bincount(index, minlength=2 * LEVELS).reshape(2, LEVELS)


def score_histograms(truth: ArrayLike, probabilities: ArrayLike, ignore: int = IGNORE) -> NDArray[np.int64]:
    """:func:`score_histogram` of every class against the others.

    Args:
        truth: (…), class indices; ``ignore`` counts nowhere.
        probabilities: (…, C), uint8 or floats.

    Returns:
        (C, 2, 256) int64.
    """
    truth, probabilities = np.asarray(truth), np.asarray(probabilities)
    known = truth != ignore
    labels, scores = truth[known], probabilities[known]
    return np.stack([score_histogram(labels == c, scores[:, c]) for c in range(probabilities.shape[-1])])


def curve(histogram: ArrayLike) -> pd.DataFrame:
    """What a class scores when pixels of at least a threshold are called it, for every threshold.

    Args:
        histogram: (2, 256), of :func:`score_histogram`, or a sum of them.

    Returns:
        256 rows by rising threshold: "threshold" (0, 1/255, …, 1), "tp", "fp", "fn", "tn" (pixels), "iou" =
        TP / (TP + FP + FN), "precision" = TP / (TP + FP), "recall" (sensitivity) = TP / (TP + FN), "specificity" =
        TN / (TN + FP). NaN where a denominator is 0.
    """
    negative, positive = np.asarray(histogram, np.float64)
    tp, fp = (np.cumsum(counts[::-1])[::-1] for counts in (positive, negative))
    fn, tn = tp[0] - tp, fp[0] - fp
    with np.errstate(invalid="ignore"):
        scores = {"iou": tp / (tp + fp + fn), "precision": tp / (tp + fp), "recall": tp / (tp + fn)}
        scores["specificity"] = tn / (tn + fp)
    threshold = np.arange(len(tp)) / (len(tp) - 1)
    return pd.DataFrame({"threshold": threshold, "tp": tp, "fp": fp, "fn": fn, "tn": tn, **scores})


def auc(histogram: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a pixel of the class has the higher probability, ties half.

    NaN without a pixel of the class or without one of the others.
    """
    negative, positive = np.asarray(histogram, np.float64)
    pairs = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative / 2
    return float(positive @ below / pairs) if pairs else float("nan")


def average_precision(histogram: ArrayLike) -> float:
    """Area under the precision-recall curve as Σ (R_n − R_{n−1}) P_n over falling thresholds; NaN without the class."""
    negative, positive = np.asarray(histogram, np.float64)[:, ::-1]
    tp, total = np.cumsum(positive), positive.sum()
    called = np.maximum(tp + np.cumsum(negative), 1)
    return float((positive / total) @ (tp / called)) if total else float("nan")


def class_curves(histograms: ArrayLike, names: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curves and areas of several classes.

    Args:
        histograms: (C, 2, 256).
        names: of the classes.

    Returns:
        All :func:`curve` tables below each other with a column "class"; and one row a class: "class", "auc",
        "average_precision", "best_iou" (highest IoU over the thresholds), "best_threshold" (the lowest that gives it),
        "pixels" (of the class). Classes without a pixel are NaN in all of these.
    """
    curves, areas = [], []
    for name, histogram in zip(names, np.asarray(histograms), strict=True):
        table = curve(histogram)
        curves.append(table.assign(**{"class": name}))
        ious = table["iou"].to_numpy()
        there = histogram[1].sum() > 0
        best = int(np.argmax(ious)) if there else 0
        row = {"class": name, "auc": auc(histogram), "average_precision": average_precision(histogram)}
        row["best_iou"] = ious[best] if there else np.nan
        row["best_threshold"] = table["threshold"][best] if there else np.nan
        areas.append({**row, "pixels": int(histogram[1].sum())})
    return pd.concat(curves, ignore_index=True), pd.DataFrame(areas)
