"""Overlapping windows joined without seams: weighted sums of probabilities, one row of windows at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tfseg.infer.windows import DenseGrid


def taper(length: int, stride: int) -> NDArray[np.float64]:
    """Weights of an output's pixels along one axis, (length,): 1 in the middle, falling to the ends over the overlap.

    w_k = sin²(π/2 · (k + ½) / n) over the first n = min(length − stride, ⌊length / 2⌋) pixels, and mirrored over the
    last: where two neighbours overlap, their weights add up to 1. Without overlap all are 1.
    """
    ramp = min(length - stride, length // 2)
    weights = np.ones(length)
    rising = np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / max(1, ramp)) ** 2
    weights[:ramp] = rising
    weights[length - ramp :] = rising[::-1]
    return weights


class Blend:
    """Σ w·p, (h, W, C), and Σ w, (h, W), of the rows of pixels that the current row of windows outputs."""

    def __init__(self, grid: DenseGrid, num_classes: int) -> None:
        (height, width), self._width = grid.output_px, grid.pixels.width_px
        self.grid = grid
        self._weights = np.outer(taper(height, grid.stride_px), taper(width, grid.stride_px)).astype(np.float32)
        self.sums = np.zeros((height, self._width, num_classes), np.float32)
        self.total = np.zeros((height, self._width), np.float32)

    def add(self, row: int, column: int, values: NDArray[np.float32]) -> None:
        """Takes a window's probabilities, (h, w, C)."""
        x = self.grid.corner(row, column)[1]
        inside = slice(max(0, -x), min(values.shape[1], self._width - x))
        columns = slice(x + inside.start, x + inside.stop)
        weights = self._weights[:, inside]
        self.sums[:, columns] += weights[..., None] * values[:, inside]
        self.total[:, columns] += weights

    def advance(self) -> None:
        """Goes on to the next row of windows."""
        step = self.grid.stride_px
        for array in (self.sums, self.total):
            # Blocks that do not overlap: of views that do, NumPy would copy everything first.
            for first in range(0, len(array) - step, step):
                block = array[first + step : first + 2 * step]
                array[first : first + len(block)] = block
            array[len(array) - step :] = 0
