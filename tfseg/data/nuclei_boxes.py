"""Labelled nuclei as what Mask R-CNN trains on: a fixed number of boxes, their classes, and labels that number them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label

MAX_INSTANCES = 256
"""Of a tile; one of 256² at 40x holds up to about 220 nuclei."""


@dataclass(frozen=True)
class InstanceTargets:
    """What Mask R-CNN learns of a tile, for ``tfseg.data.nuclei_stream.nuclei_dataset``.

    What the tile shows of an id in several pieces that do not touch, by corners neither, is as many instances: where a
    tile reaches beyond its image, a nucleus and its mirror image have one id.

    Attributes:
        max_instances, min_px: as :func:`instance_boxes` takes them.
    """

    max_instances: int = MAX_INSTANCES
    min_px: int = 10

    def shapes(self, tile_px: int) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        """Name → (shape, dtype) of each of the three arrays of :func:`instance_boxes`."""
        return {
            "boxes": ((self.max_instances, 4), np.float32),
            "classes": ((self.max_instances,), np.int32),
            "labels": ((tile_px, tile_px), np.int32),
        }

    def __call__(self, labels: NDArray[np.integer], border: object = None) -> dict[str, NDArray]:
        """From labels (H, W); border weights count nothing here."""
        arrays = instance_boxes(label(labels, background=0, connectivity=2), self.max_instances, self.min_px)
        return dict(zip(("boxes", "classes", "labels"), arrays, strict=True))


def as_inputs(inputs: Mapping[str, Any], targets: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A batch of :class:`InstanceTargets` as the training network takes it, all of it being input; for ``map``."""
    return {**inputs, **targets}, {}


def instance_boxes(
    labels: NDArray[np.integer], max_instances: int = MAX_INSTANCES, min_px: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
    """The instances of a tile, in order of their label.

    Args:
        labels: (H, W), any integer dtype, one id an instance, 0 background.
        max_instances: G. Where there are more, the largest are kept, of equals those of lower label; the others become
            background.
        min_px: smaller instances, such as the rest of a nucleus at the tile's edge, become background.

    Returns:
        boxes: (G, 4) float32, y1, x1, y2, x2 in pixels: rows 3 … 5 are 3 to 6. Zeros behind the last instance.
        classes: (G,) int32, 1 for a nucleus, 0 behind the last.
        numbered: (H, W) int32, g + 1 on the pixels of instance g, 0 background.

    Raises:
        ValueError: labels are not of two axes and integer, an id is negative, or ``max_instances`` is below 1.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "iu" or (labels.size and labels.min() < 0):
        raise ValueError(
            "labels must be integers of at least 0, of shape (H, W), one id a nucleus and 0 for background. "
            f"Received: {labels.dtype} of shape {labels.shape}."
        )
    if max_instances < 1:
        raise ValueError(f"max_instances must be at least 1. Received: {max_instances}.")
    values, which, pixels = np.unique(labels, return_inverse=True, return_counts=True)
    candidates = np.flatnonzero((values > 0) & (pixels >= min_px))
    largest = candidates[np.argsort(-pixels[candidates], kind="stable")[:max_instances]]
    kept = np.sort(largest)
    numbers = np.zeros(len(values), np.int32)
    numbers[kept] = np.arange(1, len(kept) + 1)
    numbered = numbers[which].reshape(labels.shape)
    boxes, classes = np.zeros((max_instances, 4), np.float32), np.zeros(max_instances, np.int32)
    for place, (rows, columns) in enumerate(ndimage.find_objects(numbered)):
        boxes[place] = rows.start, columns.start, rows.stop, columns.stop
    classes[: len(kept)] = 1
    return boxes, classes, numbered
