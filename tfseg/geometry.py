"""Arithmetic of pixel sizes, tile grids and feature alignment. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tfseg.types import ModelError, Window

MPP_AT_40X = 0.25


def mpp_of(magnification: float) -> float:
    """µm/px of an objective magnification: 40x is 0.25, 10x is 1.0."""
    return MPP_AT_40X * 40.0 / magnification


def magnification_of(mpp: float) -> float:
    """Objective magnification of a pixel size in µm/px; inverse of :func:`mpp_of`."""
    return MPP_AT_40X * 40.0 / mpp


@dataclass(frozen=True)
class Grid:
    """A regular grid of cells that covers a slide from its top-left corner, with a square patch centred on each cell.

    With ``stride_px == patch_px`` patch and cell are the same; with a smaller stride patches overlap and reach over the
    slide's edge, and each still speaks for the cell at its centre.

    Attributes:
        slide_size: (width, height) of the slide in level-0 pixels.
        slide_mpp: µm/px of level 0.
        patch_px: side of a patch at ``mpp``.
        stride_px: step between patches at ``mpp``.
        mpp: µm/px at which patches are read.
    """

    slide_size: tuple[int, int]
    slide_mpp: float
    patch_px: int
    stride_px: int
    mpp: float

    @property
    def stride_level0(self) -> float:
        """Step between patches in level-0 pixels."""
        return self.stride_px * self.mpp / self.slide_mpp

    @property
    def patch_level0(self) -> float:
        """Side of a patch in level-0 pixels."""
        return self.patch_px * self.mpp / self.slide_mpp

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns); the last ones may reach past the slide's edge."""
        columns, rows = (max(1, math.ceil(side / self.stride_level0 - 1e-6)) for side in self.slide_size)
        return rows, columns

    def window(self, row: int, column: int) -> Window:
        """The patch centred on a cell."""
        x = (column + 0.5) * self.stride_level0
        y = (row + 0.5) * self.stride_level0
        return Window(x, y, self.patch_px, self.patch_px, self.mpp)

    def cells(self) -> Iterator[tuple[int, int]]:
        """(row, column) of every cell, row by row."""
        rows, columns = self.shape
        for row in range(rows):
            for column in range(columns):
                yield row, column


def check_divisible(size_px: int, divisor: int, what: str) -> None:
    """Raises ModelError naming the nearest sizes that fit when ``size_px`` is no multiple of ``divisor``."""
    if size_px % divisor or size_px <= 0:
        below = size_px // divisor * divisor
        nearest = f"{below} or {below + divisor}" if below > 0 else f"{divisor}"
        raise ModelError(f"size must be divisible by {divisor} ({what}). Received: {size_px}. Nearest: {nearest}.")
