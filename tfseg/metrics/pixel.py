"""Pixel-wise scores from one confusion matrix. Add the matrices of tiles or slides, then score the sum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfseg.types import IGNORE, ClassSpec

SCORES = ("recall", "precision", "dice", "iou")


def confusion(truth: ArrayLike, prediction: ArrayLike, num_classes: int, ignore: int = IGNORE) -> NDArray[np.int64]:
    """Counts pixels by true and predicted class.

    Args:
        truth, prediction: integers of one shape, in 0..num_classes-1; pixels whose truth is ``ignore`` count nowhere,
            whatever is predicted there.

    Returns:
        (num_classes, num_classes) int64; row = truth, column = prediction.

    Raises:
        ValueError: the shapes differ, or a label that counts is no class.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"truth and prediction must have one shape. Received: {truth.shape} and {prediction.shape}.")
    counted = truth != ignore
    t, p = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for what, labels in (("truth", t), ("prediction", p)):
        if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
            found = f"{labels.min()}..{labels.max()}"
            raise ValueError(f"{what} must hold 0..{num_classes - 1} where truth is not {ignore}. Received: {found}.")
    return np.bincount(t * num_classes + p, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores_from_confusion(
    matrix: ArrayLike,
    names: Sequence[str | ClassSpec] | None = None,
    missed: ArrayLike | None = None,
    annotated_only: bool = False,
) -> dict[str, float]:
    """Recall, precision, Dice and IoU of every class, their means, and the accuracy.

    With TP, FP, FN of a class against all others: recall = TP / (TP + FN), precision = TP / (TP + FP),
    Dice = 2 TP / (2 TP + FP + FN), IoU = TP / (TP + FP + FN). A score whose denominator is 0 is NaN, never 0 or 1;
    means are over the classes where the score is defined, NaN where there is none.

    Args:
        matrix: (C, C), row = truth, column = prediction; counts or areas.
        names: of the classes, for the keys; None takes "0", "1", ….
        missed: (C,), pixels of each class to which the prediction gave no class; they count as FN. None is none.
        annotated_only: a class without a true pixel is NaN in every score, also where some were wrongly called so:
            for partial annotation, and for a class that is never a target.

    Returns:
        "recall <class>", "precision <class>", "dice <class>", "iou <class>" for every class, "recall mean", …,
        "accuracy"; floats.

    Raises:
        ValueError: the matrix is not square, or the number of names is not its size.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a confusion matrix is square. Received: shape {matrix.shape}.")
    labels = [n.name if isinstance(n, ClassSpec) else str(n) for n in (names or range(len(matrix)))]
    if len(labels) != len(matrix):
        raise ValueError(f"{len(matrix)} classes need as many names. Received: {len(labels)}.")
    right, true, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    true = true if missed is None else true + np.asarray(missed, np.float64)
    if annotated_only:
        predicted = np.where(true > 0, predicted, 0)
    values = {
        "recall": _ratio(right, true),
        "precision": _ratio(right, predicted),
        "dice": _ratio(2 * right, true + predicted),
        "iou": _ratio(right, true + predicted - right),
    }
    scores: dict[str, float] = {}
    for score in SCORES:
        scores.update((f"{score} {label}", float(value)) for label, value in zip(labels, values[score], strict=True))
        defined = values[score][~np.isnan(values[score])]
        scores[f"{score} mean"] = float(defined.mean()) if defined.size else float("nan")
    scores["accuracy"] = float(_ratio(right.sum(keepdims=True), true.sum(keepdims=True))[0])
    return scores


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Elementwise; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator != 0)
