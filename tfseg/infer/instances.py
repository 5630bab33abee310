"""From probability maps to instances: threshold, holes filled, touching nuclei split, specks removed, numbered.

All lengths and areas are pixels of the probability map; a nucleus of 8 µm is 32 px across at 40x (0.25 µm/px). The same
input gives the same labels: nothing is drawn at random, and instances are numbered by their first pixel in row order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from tfseg.metrics.instances import THRESHOLDS, instance_scores
from tfseg.types import ModelError, one_of

Split = Literal["none", "distance", "border"]
SPLITS = ("none", "distance", "border")

CANDIDATES = tuple(round(0.05 * step, 2) for step in range(2, 20))
"""Thresholds that :func:`choose_threshold` tries: 0.10, 0.15 … 0.95."""

_EVERY_SIDE = np.ones((3, 3), bool)


@dataclass(frozen=True)
class InstanceOptions:
    """How a probability map becomes instances.

    Attributes:
        threshold: pixels of at least this foreground probability are nucleus.
        split: "none": what touches is one instance. "distance": watershed on the distance to the background, for maps
            of foreground alone. "border": watershed from the insides of a three-class map.
        min_area_px: smaller instances are removed.
        max_hole_px: holes of at most this area are filled; larger ones are lumina that nuclei lie around.
        smoothing_px: "distance": σ of the Gaussian over the distances.
        min_depth_px: "distance": a maximum of the smoothed distances gets a marker if a way from it to any higher one
            goes down by more than this (h-maxima, Soille, Morphological Image Analysis, section 6.3).
        inside: "border": markers are connected pixels of at least this probability of "inside".
        min_marker_px: "border": smaller markers are none.
    """

    threshold: float = 0.5
    split: Split = "distance"
    min_area_px: int = 30
    max_hole_px: int = 100
    smoothing_px: float = 1.0
    min_depth_px: float = 0.5
    inside: float = 0.5
    min_marker_px: int = 10

    def check(self) -> None:
        """Raises ModelError for values that give no instances."""
        one_of("split", self.split, SPLITS)
        for name in ("threshold", "inside"):
            if not 0 < getattr(self, name) <= 1:
                raise ModelError(f"{name}: expected a probability above 0, at most 1. Received: {getattr(self, name)}.")
        for name in ("min_area_px", "max_hole_px", "smoothing_px", "min_depth_px", "min_marker_px"):
            if not getattr(self, name) >= 0:
                raise ModelError(f"{name}: expected 0 or more pixels. Received: {getattr(self, name)}.")


def label_instances(probabilities: ArrayLike, options: InstanceOptions | None = None) -> NDArray[np.int32]:
    """Instances of a probability map.

    Every 4-connected piece of foreground keeps at least one instance, with or without a marker in it; instances are
    4-connected and fill the foreground.

    Args:
        probabilities: floats in 0..1: foreground, (H, W) or (H, W, 1); or background, inside and border, (H, W, 3),
            where nuclei are what is not background. A bool mask (H, W) counts as 0 and 1.
        options: how.

    Returns:
        int32 (H, W), 0 background, then 1, 2 … in order of the first pixel.

    Raises:
        ModelError: a map of another shape, values that are no probabilities, or "border" without three classes.
    """
    options = options or InstanceOptions()
    options.check()
    foreground, inside = _classes(np.asarray(probabilities), options.split)
    mask = fill_small_holes(foreground >= options.threshold, options.max_hole_px)
    if options.split == "none":
        labels = ndimage.label(mask)[0]
    elif options.split == "distance":
        labels = _split_by_distance(mask, options)
    else:
        assert inside is not None
        labels = _flood(1 - inside, _markers_of(inside >= options.inside, options.min_marker_px), mask)
    return number(remove_small(labels, options.min_area_px))


def fill_small_holes(mask: NDArray[np.bool_], max_px: int) -> NDArray[np.bool_]:
    """Fills holes (8-connected background that does not reach the picture's edge) of at most ``max_px`` pixels."""
    holes = ndimage.label(~mask, _EVERY_SIDE)[0]
    fill = np.bincount(holes.ravel()) <= max_px
    edge = np.concatenate([holes[:1].ravel(), holes[-1:].ravel(), holes[:, :1].ravel(), holes[:, -1:].ravel()])
    fill[edge] = False
    fill[0] = False
    return mask | fill[holes]


def remove_small(labels: NDArray[np.integer], min_px: int) -> NDArray[np.integer]:
    """Sets instances of fewer than ``min_px`` pixels to 0."""
    small = np.bincount(labels.ravel()) < min_px
    small[:1] = False
    return np.where(small[labels], 0, labels)


def number(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """The same instances with the numbers 1, 2 … in order of their first pixel, 0 staying 0; int32."""
    values, first, which = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.where(values == 0, -1, first))
    numbers = np.empty(len(values), np.int32)
    numbers[order] = np.arange(len(values)) + (0 not in values)
    return numbers[which].reshape(labels.shape)


def _classes(values: NDArray, split: str) -> tuple[NDArray, NDArray | None]:
    """(foreground probability (H, W), probability of "inside" or None)."""
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    three = values.ndim == 3 and values.shape[2] == 3
    if values.ndim != 2 and not three:
        raise ModelError(
            "probabilities: expected foreground (H, W) or (H, W, 1), or background, inside, border (H, W, 3). "
            f"Received: {values.shape}. Of two classes give the foreground's alone, [..., 1]."
        )
    if split == "border" and not three:
        raise ModelError(
            f'split "border" needs probabilities of background, inside and border, (H, W, 3). Received: {values.shape}.'
            ' Split by "distance", or use a network with a border class.'
        )
    if values.dtype == bool:
        values = values.astype(np.float32)
    if not np.issubdtype(values.dtype, np.floating) or (
        values.size and not (values.min() >= 0 and values.max() <= 1.001)
    ):
        span = f"{values.min():g} to {values.max():g}" if values.size else "none"
        raise ModelError(
            f"probabilities: expected floats from 0 to 1. Received: {values.dtype}, {span}. Divide maps that were kept "
            "as bytes by 255; apply softmax or sigmoid to logits."
        )
    return (1 - values[..., 0], values[..., 1]) if three else (values, None)


def _split_by_distance(mask: NDArray[np.bool_], options: InstanceOptions) -> NDArray[np.integer]:
    """Watershed from the h-maxima of the smoothed distance to the background."""
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), options.smoothing_px, truncate=3)
    distance[~mask] = 0
    levelled = distance
    if options.min_depth_px > 0 and mask.any():
        levelled = reconstruction(distance - options.min_depth_px, distance)
    return _flood(-distance, ndimage.label(local_maxima(levelled) & mask, _EVERY_SIDE)[0], mask)


def _markers_of(inside: NDArray[np.bool_], min_px: int) -> NDArray[np.integer]:
    return remove_small(ndimage.label(inside)[0], min_px)


def _flood(landscape: NDArray, markers: NDArray[np.integer], mask: NDArray[np.bool_]) -> NDArray[np.integer]:
    """Watershed in the mask; a piece of it without a marker becomes one instance, a marker in two pieces two."""
    pieces, count = ndimage.label(mask)
    without = np.ones(count + 1, bool)
    without[pieces[markers > 0]] = False
    without[0] = False
    markers = np.where(without[pieces], markers.max(initial=0) + pieces, markers * mask)
    return label(watershed(landscape, markers, mask=mask), connectivity=1)  # markers may hang together by a corner


@dataclass(frozen=True)
class ThresholdChoice:
    """A threshold, and what led to it.

    Attributes:
        threshold: the chosen one.
        score: what it reaches on these images.
        table: of every candidate: "threshold", "precision", "recall" (at the given IoU, all nuclei of all images
            pooled) and "aji" (mean over images); NaN where not defined.
    """

    threshold: float
    score: float
    table: tuple[dict[str, float], ...]


def choose_threshold(
    probabilities: Iterable[ArrayLike],
    truths: Iterable[ArrayLike],
    options: InstanceOptions | None = None,
    *,
    maximise: Literal["precision", "aji"] = "precision",
    iou: float = 0.5,
    min_recall: float = 0.0,
    candidates: Sequence[float] = CANDIDATES,
) -> ThresholdChoice:
    """The threshold that scores best on validation images, after all other steps of :func:`label_instances`.

    GB U-Net (Lagree et al. 2021) takes the one of highest precision TP / (TP + FP) at a given IoU. Precision alone may
    be highest where a few sure nuclei are left: ``min_recall`` rules that out. Of equal scores the one with the higher
    recall wins, then the lower threshold.

    Args:
        probabilities: maps as for :func:`label_instances`; read one after the other, as are
        truths: label images (H, W), integers, 0 background.
        options: all but the threshold.
        maximise: "precision" at ``iou``, or "aji", the mean aggregated Jaccard index.
        iou: 0.50, 0.55 … 0.95.
        min_recall: thresholds with a lower recall at ``iou`` are left out.
        candidates: thresholds to try.

    Raises:
        ModelError: no image or not as many maps as truths, an IoU that is not counted, or no candidate that finds
            anything (with the recall asked for).
    """
    own = options or InstanceOptions()

    def at(values: ArrayLike) -> Callable[[float], NDArray[np.int32]]:
        return lambda candidate: label_instances(values, replace(own, threshold=candidate))

    return choose_level(
        map(at, probabilities), truths, maximise=maximise, iou=iou, min_recall=min_recall, candidates=candidates
    )


def choose_level(
    images: Iterable[Callable[[float], ArrayLike]],
    truths: Iterable[ArrayLike],
    *,
    maximise: Literal["precision", "aji"] = "precision",
    iou: float = 0.5,
    min_recall: float = 0.0,
    candidates: Sequence[float] = CANDIDATES,
) -> ThresholdChoice:
    """As :func:`choose_threshold`, for whatever finds instances at a threshold: of each image, candidate → labels."""
    one_of("maximise", maximise, ("precision", "aji"))
    at = one_of("iou", f"{iou:.2f}", THRESHOLDS)
    scores: list[list[dict[str, float]]] = [[] for _ in candidates]
    try:
        for labelled, truth in zip(images, truths, strict=True):
            for found, candidate in zip(scores, candidates, strict=True):
                found.append(instance_scores(truth, labelled(candidate)))
    except ValueError as error:
        raise ModelError(f"choosing a threshold: {error}") from error
    if not candidates or not scores[0]:
        raise ModelError("choosing a threshold needs at least one validation image and one candidate.")
    table = tuple(_row(candidate, found, at) for candidate, found in zip(candidates, scores, strict=True))
    fit = [row for row in table if row[maximise] >= 0 and not row["recall"] < min_recall]  # NaN is never >= 0
    if not fit:
        raise ModelError(
            f"choosing a threshold: no candidate from {min(candidates):g} to {max(candidates):g} finds nuclei with a "
            f"recall of at least {min_recall:g} at IoU {at}; the highest is {max(row['recall'] for row in table):.3f}."
            " Lower min_recall or min_area_px, or train longer."
        )
    best = max(fit, key=lambda row: (row[maximise], row["recall"], -row["threshold"]))
    return ThresholdChoice(best["threshold"], best[maximise], table)


def _row(threshold: float, images: list[dict[str, float]], at: str) -> dict[str, float]:
    """A candidate's scores: counts summed over images before dividing; AJI averaged over those that have one."""
    hits, wrong, missed = (sum(image[f"{what} {at}"] for image in images) for what in ("tp", "fp", "fn"))
    ajis = [image["aji"] for image in images if image["aji"] >= 0]
    nan = float("nan")
    return {
        "threshold": float(threshold),
        "precision": hits / (hits + wrong) if hits + wrong else nan,
        "recall": hits / (hits + missed) if hits + missed else nan,
        "aji": float(np.mean(ajis)) if ajis else nan,
    }
