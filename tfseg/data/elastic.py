"""Elastic deformation of a window: random displacements of a few grid points, smooth in between. NumPy and OpenCV."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

_KEYS = -0.5
"""Keys' parameter of bicubic interpolation: the one whose error falls with the third power of the grid's spacing."""
_LATTICE_PX = 4
"""Bicubic interpolation is done at every so many pixels, linear interpolation in between: the DMMN paper's grid leaves
less than 0.1 px of error, and a field costs milliseconds."""


@dataclass(frozen=True)
class ElasticGrid:
    """How a window is deformed. Defaults are the DMMN paper's, section 2.3.

    Attributes:
        points: grid points on each side of the window; the outermost lie on its edges.
        sigma_px: standard deviation of a grid point's displacement along each axis, in pixels of ``mpp``.
        window_px: side of the window, in pixels of ``mpp``. Beyond its edges displacements are those of its edges.
        mpp: µm/px.
    """

    points: int = 17
    sigma_px: float = 4.0
    window_px: int = 1024
    mpp: float = 0.5

    def __post_init__(self) -> None:
        if self.points < 2 or not self.sigma_px >= 0 or self.window_px < 1 or not self.mpp > 0:
            raise ValueError(
                f"expected at least 2 points, sigma_px ≥ 0, a window and an mpp above 0. Received: {self}."
            )

    def draw(self, random: np.random.Generator) -> Displacement:
        """One deformation."""
        grid = random.normal(0.0, self.sigma_px * self.mpp, (self.points, self.points, 2))
        return Displacement(grid.astype(np.float32), self.window_px * self.mpp, self.window_px // _LATTICE_PX)


class Displacement:
    """A displacement of every point of the plane: bicubic between the points of a square grid around the origin.

    Args:
        grid: float32 (P, P, 2): displacement (x, y) in µm at (row, column) of the grid.
        extent_um: side of the grid.
        cells: the bicubic is evaluated on a lattice of cells + 1 points a side, linear in between.
    """

    def __init__(self, grid: NDArray[np.float32], extent_um: float, cells: int = 256) -> None:
        weights = bicubic_weights(grid.shape[0], max(1, cells))
        # OpenCV's product runs in this thread; NumPy's would start a pool of its own in every thread that reads.
        nothing = np.empty(0, np.float32)
        down = (cv2.gemm(weights, np.ascontiguousarray(grid[..., k]), 1.0, nothing, 0.0) for k in (0, 1))
        self._lattice = cv2.merge([cv2.gemm(part, weights, 1.0, nothing, 0.0, flags=cv2.GEMM_2_T) for part in down])
        self._step = extent_um / max(1, cells)
        self._half = extent_um / 2

    def __call__(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Moves points: (x + d_x(x, y), y + d_y(x, y)); x, y float32 (H, W), µm from the window's centre."""
        moved = cv2.remap(
            self._lattice,
            (x + self._half) / self._step,
            (y + self._half) / self._step,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return x + moved[..., 0], y + moved[..., 1]


@lru_cache(maxsize=8)
def bicubic_weights(points: int, cells: int) -> NDArray[np.float32]:
    """Weights of ``points`` grid points at cells + 1 evenly spaced places from the first to the last.

    Bicubic convolution (Keys 1981), the outermost points repeated beyond the grid.

    Returns:
        float32 (cells + 1, points); rows sum to 1.
    """
    places = np.linspace(0, points - 1, cells + 1)
    first = np.minimum(np.floor(places), points - 2).astype(int)
    weights = np.zeros((cells + 1, points))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(places - (first + offset))
        near = (_KEYS + 2) * distance**3 - (_KEYS + 3) * distance**2 + 1
        far = _KEYS * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        value = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        np.add.at(weights, (np.arange(cells + 1), np.clip(first + offset, 0, points - 1)), value)
    return weights.astype(np.float32)
