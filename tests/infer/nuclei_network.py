"""A network of nuclei whose output is known: green is nucleus, red is background, blue is border."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from dense_networks import dense_spec, write_dense
from numpy.typing import NDArray

from tfseg.types import NUCLEI_BORDER_CLASSES, ModelSpec

MPP = 0.5
DISCS = ((20, 20, 8), (20, 60, 6), (50, 40, 9), (63, 64, 8), (100, 110, 10))
"""Row, column and radius, all in pixels of ``MPP``; one lies on a corner of the network's tiles."""


def nuclei_spec(tile_px: int = 64, mpp: float = MPP, **instances) -> ModelSpec:
    spec = dense_spec(tile_px, (tile_px, tile_px), (mpp,), classes=NUCLEI_BORDER_CLASSES)
    instances = {"threshold": 0.5, "split": "distance", "min_area_px": 20, **instances}
    return dataclasses.replace(spec, name="tiny nuclei", instances=instances)


def write_network(folder: Path, spec: ModelSpec | None = None) -> Path:
    """A model folder of it."""
    return write_dense(folder, spec or nuclei_spec())


def disc_labels(height: int = 130, width: int = 150, discs=DISCS) -> NDArray[np.int32]:
    """(H, W): 1, 2 … in the order of ``discs``."""
    rows, columns = np.mgrid[:height, :width]
    labels = np.zeros((height, width), np.int32)
    for number, (row, column, radius) in enumerate(discs, start=1):
        labels[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = number
    return labels


def disc_picture(labels: NDArray[np.int32] | None = None) -> NDArray[np.uint8]:
    """uint8 RGB (H, W, 3): red with green discs."""
    labels = disc_labels() if labels is None else labels
    return np.where((labels > 0)[..., None], np.uint8([0, 200, 0]), np.uint8([230, 0, 0]))
