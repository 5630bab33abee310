"""Polygons onto pixels: a pixel belongs to a polygon when its centre lies inside, by the even-odd rule. NumPy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from tfseg.types import Window

_SUBPIXEL = 65536.0


@dataclass(frozen=True)
class PixelGrid:
    """Pixels laid over a slide: pixel (i, j) has its centre at (left + (j + ½)·step_x, top + (i + ½)·step_y).

    Attributes:
        left, top: corner of the grid in level-0 pixels.
        step_x, step_y: size of a grid pixel in level-0 pixels.
        width_px, height_px: number of grid pixels.
    """

    left: float
    top: float
    step_x: float
    step_y: float
    width_px: int
    height_px: int

    @classmethod
    def of(cls, window: Window, slide_mpp: float) -> PixelGrid:
        """The pixels of ``window`` on a slide of ``slide_mpp`` µm/px."""
        left, top, _, _ = window.bounds(slide_mpp)
        step = window.mpp / slide_mpp
        return cls(left, top, step, step, window.width_px, window.height_px)

    def part(self, row: int, column: int, height_px: int, width_px: int) -> PixelGrid:
        """The same pixels, from (row, column) on."""
        left = self.left + column * self.step_x
        return PixelGrid(left, self.top + row * self.step_y, self.step_x, self.step_y, width_px, height_px)

    def tiles(self, side_px: int = 1024) -> Iterator[PixelGrid]:
        """The grid in parts of at most ``side_px`` squared, row by row."""
        for row in range(0, self.height_px, side_px):
            for column in range(0, self.width_px, side_px):
                size = min(side_px, self.height_px - row), min(side_px, self.width_px - column)
                yield self.part(row, column, *size)

    @property
    def shape(self) -> tuple[int, int]:
        """(height_px, width_px)."""
        return self.height_px, self.width_px

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in level-0 pixels."""
        right = self.left + self.width_px * self.step_x
        return self.left, self.top, right, self.top + self.height_px * self.step_y

    def centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x of the columns (width_px,) and y of the rows (height_px,), in level-0 pixels, ascending.

        They are rounded to 1/65536 px: the corners of neighbouring windows carry different rounding errors, and
        without this two windows could disagree about a pixel whose centre lies exactly on a polygon's edge.
        """
        x = self.left + (np.arange(self.width_px) + 0.5) * self.step_x
        y = self.top + (np.arange(self.height_px) + 0.5) * self.step_y
        return np.round(x * _SUBPIXEL) / _SUBPIXEL, np.round(y * _SUBPIXEL) / _SUBPIXEL


def edges(shape: shapely.Geometry) -> NDArray[np.float64]:
    """The edges of all rings of a Polygon or MultiPolygon: (N, 4) float64, x and y of the upper, then the lower end.

    Horizontal edges are left out: no row of pixel centres crosses them. Every edge points down, so that two polygons
    that share one compute the same crossings and neither overlap nor leave a gap.
    """
    rings = shapely.get_rings(shapely.get_parts(shape))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    segments = np.concatenate([points[:-1][same], points[1:][same]], axis=1)
    segments = segments[segments[:, 1] != segments[:, 3]]
    upward = segments[:, 1] > segments[:, 3]
    segments[upward] = segments[upward][:, [2, 3, 0, 1]]
    return segments


def fill(segments: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the points (x[j], y[i]) are inside.

    A point is inside when an odd number of edges crosses its row at or left of it. An edge covers the rows
    y_upper ≤ y < y_lower, so a vertex counts once; points on a left edge are inside, on a right edge outside.

    Args:
        segments: (N, 4) as :func:`edges` gives.
        x, y: (W,) and (H,), ascending, level-0 pixels.

    Returns:
        (H, W) bool.
    """
    if not len(x) or not len(y):
        return np.zeros((len(y), len(x)), dtype=bool)
    first = np.searchsorted(y, segments[:, 1], side="left")
    last = np.searchsorted(y, segments[:, 3], side="left")
    # Edges wholly right of the points toggle nothing; those left of them toggle whole rows and must stay.
    used = (last > first) & (np.minimum(segments[:, 0], segments[:, 2]) <= x[-1])
    segments, first, count = segments[used], first[used], (last - first)[used]
    edge = np.repeat(np.arange(len(segments)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    x1, y1, x2, y2 = segments[edge].T
    column = np.searchsorted(x, x1 + (y[row] - y1) * (x2 - x1) / (y2 - y1), side="left")
    crossed = column < len(x)
    toggles = np.bincount(row[crossed] * len(x) + column[crossed], minlength=len(y) * len(x))
    return np.bitwise_xor.accumulate((toggles & 1).astype(np.uint8).reshape(len(y), len(x)), axis=1).astype(bool)


def draw(labels: NDArray[np.uint8], segments: NDArray[np.float64], value: int, grid: PixelGrid) -> None:
    """Sets ``labels`` (height_px, width_px) of ``grid`` to ``value`` inside a polygon, given by its :func:`edges`."""
    if not len(segments):
        return
    x, y = grid.centres()
    left, right = segments[:, [0, 2]].min(), segments[:, [0, 2]].max()
    columns = slice(*np.searchsorted(x, (left, right)))
    rows = slice(*np.searchsorted(y, (segments[:, 1].min(), segments[:, 3].max())))
    labels[rows, columns][fill(segments, x[columns], y[rows])] = value


def within(size: tuple[int, int], grid: PixelGrid) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which columns (width_px,) and rows (height_px,) of ``grid`` have their centre on a slide of ``size`` (W, H)."""
    x, y = grid.centres()
    return (x >= 0) & (x < size[0]), (y >= 0) & (y < size[1])
