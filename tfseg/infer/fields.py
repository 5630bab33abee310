"""Values on a coarse lattice over a whole slide, and the pictures that are computed from them tile by tile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfseg.slides.rasterise import PixelGrid
from tfseg.slides.tissue import TissueMask


@dataclass(frozen=True)
class Field:
    """Values of a slide from its top-left corner: value (i, j) stands for the cell [j, j + 1) × [i, i + 1) · step.

    Attributes:
        values: (h, w, C); float32 where ``smooth``.
        step: (x, y) level-0 pixels per cell.
        smooth: between the cells' centres values go over linearly, and beyond the outermost centres they stay as they
            are; otherwise each cell has its value throughout.
    """

    values: NDArray[Any]
    step: tuple[float, float]
    smooth: bool

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[Any]:
        """(len(y), len(x), C) at level-0 positions, column by column and row by row."""
        # Position (x, y) in cells; the centre of cell j is j + 1/2.
        columns, rows = x / self.step[0], y / self.step[1]
        if not self.smooth:
            # The small addition: a position on the edge of two cells belongs to the second, whatever the rounding.
            across, down = (np.floor(position + 1e-9).astype(np.intp) for position in (columns, rows))
            return self.values.take(down, axis=0, mode="clip").take(across, axis=1, mode="clip")
        return _linear(_linear(self.values, rows - 0.5, 0), columns - 0.5, 1)


def _linear(values: NDArray[np.float32], positions: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """Linear interpolation along an axis at fractional indices, clamped to the first and last value."""
    last = values.shape[axis] - 1
    positions = np.clip(positions, 0, last)
    below = np.minimum(np.floor(positions).astype(np.intp), max(0, last - 1))
    shape = [1, 1, 1]
    shape[axis] = len(positions)
    fraction = (positions - below).astype(np.float32).reshape(shape)
    low = values.take(below, axis=axis)
    high = values.take(np.minimum(below + 1, last), axis=axis)
    high -= low
    high *= fraction
    high += low
    return high


def mask_grid(slide_size: tuple[int, int], slide_mpp: float, mpp: float) -> PixelGrid:
    """Pixels of 2^k level-0 pixels over the whole slide, k ≥ 0 such that they are nearest to ``mpp`` µm (by ratio).

    Whole powers of two, so that outlines of the mask lie on whole level-0 pixels and viewers show it without
    resampling. The last column and row may reach past the slide's edge by less than a pixel.
    """
    step = 2 ** max(0, round(math.log2(mpp / slide_mpp)))
    width, height = (-(-side // step) for side in slide_size)
    return PixelGrid(0.0, 0.0, float(step), float(step), width, height)


class MaskTiles:
    """Class indices, uint8 (h, w): a :class:`tfseg.slides.tiff_writer.TileSource`.

    A pixel is of the most probable foreground class where that has at least ``threshold``, else 0. The values are those
    at the pixel's centre.
    """

    dtype = np.uint8

    def __init__(self, field: Field, grid: PixelGrid, threshold: float, tissue: TissueMask | None = None) -> None:
        """``tissue``: outside of it the mask is 0; None leaves the mask as it is."""
        # Class 0 decides nothing, so it need not be interpolated; where nothing is, cells are decided once.
        values = np.ascontiguousarray(field.values[..., 1:])
        self._threshold = np.float32(threshold)
        self._smooth = field.smooth
        self._field = Field(values if field.smooth else self._labels(values)[..., None], field.step, field.smooth)
        self._grid, self._tissue = grid, tissue
        self.shape: tuple[int, ...] = (grid.height_px, grid.width_px)

    def tile(self, row0: int, col0: int, height: int, width: int) -> NDArray[np.uint8]:
        """Pixels [row0, row0 + height) × [col0, col0 + width)."""
        x, y = self._grid.part(row0, col0, height, width).centres()
        values = self._field.at(x, y)
        labels = self._labels(values) if self._smooth else values[..., 0]
        if self._tissue is not None:
            labels[~tissue_at(self._tissue, x, y)] = 0
        return labels

    def _labels(self, probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Foreground probabilities (h, w, C - 1) to class indices (h, w)."""
        if probabilities.shape[2] == 1:
            return (probabilities[..., 0] >= self._threshold).astype(np.uint8)
        found = probabilities.max(axis=2) >= self._threshold
        return np.where(found, probabilities.argmax(axis=2) + 1, 0).astype(np.uint8)


class ProbabilityTiles:
    """Foreground probability · 255, rounded, uint8 (h, w): a :class:`tfseg.slides.tiff_writer.TileSource`."""

    dtype = np.uint8

    def __init__(self, field: Field, grid: PixelGrid) -> None:
        self._field = Field(foreground(field.values)[..., None], field.step, field.smooth)
        self._grid = grid
        self.shape: tuple[int, ...] = (grid.height_px, grid.width_px)

    def tile(self, row0: int, col0: int, height: int, width: int) -> NDArray[np.uint8]:
        """Pixels [row0, row0 + height) × [col0, col0 + width)."""
        return to_bytes(self._field.at(*self._grid.part(row0, col0, height, width).centres())[..., 0])


def foreground(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probability of any class but 0: (…, C) to (…)."""
    return probabilities[..., 1:].sum(axis=-1, dtype=np.float32)


def to_bytes(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """0..1 to 0..255, rounded."""
    return np.rint(np.clip(probability, 0, 1) * 255).astype(np.uint8)


def tissue_at(tissue: TissueMask, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the tissue mask's pixel at level-0 positions is tissue: (len(y), len(x))."""
    scale = tissue.mpp / tissue.slide_mpp
    height, width = tissue.mask.shape
    rows = np.clip((y / scale).astype(np.intp), 0, height - 1)
    return tissue.mask[rows[:, None], np.clip((x / scale).astype(np.intp), 0, width - 1)]
