"""What an annotation says about the patches of a slide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tfseg.data.class_counts import pixel_column
from tfseg.data.index_config import DenseIndexConfig, IndexConfig
from tfseg.data.overview import DROPPED
from tfseg.slides.annotations import Annotation
from tfseg.slides.base import Slide
from tfseg.slides.class_table import ClassTable
from tfseg.types import IGNORE, Window


def label_patches(patches: pd.DataFrame, annotation: Annotation | None, slide: Slide, config: IndexConfig) -> None:
    """Adds foreground and class_index (int64, ``DROPPED`` and IGNORE too)."""
    labels, fractions = [], []
    samples = max(1, round(config.patch_px * config.mpp / (config.label_mpp or 4 * config.mpp)))
    mpp = config.patch_px * config.mpp / samples
    for x, y in zip(patches["x"], patches["y"], strict=True):
        if annotation is None:
            labels.append(IGNORE)
            fractions.append(np.nan)
            continue
        window = Window(x, y, samples, samples, mpp)
        inside = _samples_inside(window, slide)
        label, fraction = patch_label(annotation.labels(window, slide.mpp), inside, config.min_foreground)
        labels.append(label)
        fractions.append(fraction)
    patches["foreground"] = np.array(fractions, np.float32)
    patches["class_index"] = np.array(labels, np.int64)


def patch_label(labels: NDArray[np.uint8], inside: int, min_foreground: float) -> tuple[int, float]:
    """Class index of a patch, or ``DROPPED``, and the fraction of the patch that is foreground.

    Args:
        labels: uint8 (h, w), class indices and IGNORE.
        inside: how many of these pixels lie in the slide; beyond it nobody can annotate.
        min_foreground: as in :class:`IndexConfig`.
    """
    counts = np.bincount(labels.ravel(), minlength=256)
    foreground = int(counts[1:IGNORE].sum())
    fraction = foreground / labels.size
    if fraction > min_foreground:
        return int(counts[1:IGNORE].argmax()) + 1, fraction
    if foreground == 0 and counts[0] == inside:
        return 0, fraction
    return DROPPED, fraction


def label_windows(
    windows: pd.DataFrame, annotation: Annotation | None, slide: Slide, config: DenseIndexConfig, classes: ClassTable
) -> None:
    """Adds annotated (fraction of the target), pixels of every class and class_index.

    class_index is int64, ``DROPPED`` for windows that are not annotated by more than ``min_annotated``. Pixels are
    counted at the target's own size, so that they are the pixels a network learns from.
    """
    counts = np.zeros((len(windows), len(classes.classes)), np.int64)
    if annotation is not None:
        near = _near_annotation(windows, annotation, slide, config, classes)
        places = windows[["x", "y"]].to_numpy(np.float64)
        for row in np.flatnonzero(near):
            labels = annotation.labels(config.window(*places[row]), slide.mpp)
            counts[row] = np.bincount(labels.ravel(), minlength=256)[: counts.shape[1]]
    annotated = counts.sum(axis=1) / config.target_px**2
    windows["annotated"] = annotated.astype(np.float32)
    for index, spec in enumerate(classes.classes):
        windows[pixel_column(spec.name)] = counts[:, index].astype(np.int32)
    winners = window_classes(counts, config.order(classes))
    windows["class_index"] = np.where(annotated > config.min_annotated, winners, DROPPED)


def window_classes(counts: ArrayLike, order: Sequence[int] = ()) -> NDArray[np.int64]:
    """The class of each window: the first of ``order`` that occurs in it, else the one with most pixels.

    Args:
        counts: (N, C), annotated pixels of each class.
        order: class indices, first the one that wins over all others.

    Returns:
        int64 (N,); of equal counts the lower index, 0 where nothing is annotated.
    """
    pixels = np.asarray(counts)
    winners = pixels.argmax(axis=1)
    for index in reversed(order):
        winners = np.where(pixels[:, index] > 0, index, winners)
    return winners.astype(np.int64)


def _near_annotation(
    windows: pd.DataFrame, annotation: Annotation, slide: Slide, config: DenseIndexConfig, classes: ClassTable
) -> NDArray[np.bool_]:
    """Which windows can hold annotated pixels: where what is not drawn means a class, all."""
    bounds = annotation.bounds()
    if classes.rest != IGNORE:
        return np.ones(len(windows), bool)
    if bounds is None:
        return np.zeros(len(windows), bool)
    half = config.target_px * config.mpp / slide.mpp / 2
    left, top, right, bottom = bounds
    x, y = windows["x"].to_numpy(), windows["y"].to_numpy()
    return (x + half > left) & (x - half < right) & (y + half > top) & (y - half < bottom)


def _samples_inside(window: Window, slide: Slide) -> int:
    """Pixels of a window whose centre lies in the slide."""
    left, top, _, _ = window.bounds(slide.mpp)
    step = window.mpp / slide.mpp
    x = left + (np.arange(window.width_px) + 0.5) * step
    y = top + (np.arange(window.height_px) + 0.5) * step
    width, height = slide.size
    return int(np.sum((x >= 0) & (x < width)) * np.sum((y >= 0) & (y < height)))
