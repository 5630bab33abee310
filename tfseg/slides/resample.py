"""Area averaging at any ratio and any fractional offset. NumPy and OpenCV only.

An output pixel is the mean of the input over the rectangle it covers: input pixel j is constant over [j, j + 1).
The mean needs the integral of the image at the corners of the rectangles alone, so the cost does not grow with
the ratio: the summed-area table of the image, interpolated linearly between pixel edges, is that integral exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SNAP_PX = 1e-3
"""An axis that drifts from whole pixels by less than this is taken as whole: an error below 0.26 grey levels."""


BLOCK_PX = 2**17
"""Input pixels that are integrated at once."""


@dataclass(frozen=True)
class Axis:
    """One axis of a resampling: ``count`` output pixels of ``step`` input pixels each, the first one from ``start``.

    Attributes:
        start: left (or top) edge of the first output pixel, in input pixels.
        step: size of an output pixel in input pixels; above 1 the picture shrinks.
        count: number of output pixels.
        low, high: where the picture begins and ends, in input pixels; need not be whole. Outside lies the fill.
    """

    start: float
    step: float
    count: int
    low: float
    high: float

    @property
    def end(self) -> float:
        """Right (or bottom) edge of the last output pixel."""
        return self.start + self.step * self.count

    def snapped(self) -> Axis:
        """The same axis with rounding errors removed from ends and steps that are whole numbers."""
        low, high = _near_whole(self.low), _near_whole(self.high)
        step, start = round(self.step), round(self.start)
        if step >= 1 and abs(self.step - step) * self.count < SNAP_PX and abs(self.start - start) < SNAP_PX:
            return Axis(start, step, self.count, low, high)
        return Axis(self.start, self.step, self.count, low, high)

    def part(self, first: int, count: int) -> Axis:
        """Output pixels ``first`` .. ``first + count - 1``."""
        return Axis(self.start + self.step * first, self.step, count, self.low, self.high)

    def shifted(self, origin: float) -> Axis:
        """The same axis counted from input position ``origin``."""
        return Axis(self.start - origin, self.step, self.count, self.low - origin, self.high - origin)

    def source(self) -> tuple[int, int]:
        """(first, behind the last) input pixel that this axis touches; both equal where it touches none."""
        first = math.floor(max(self.start, self.low))
        return first, max(first, math.ceil(min(self.end, self.high)))

    def edges(self) -> NDArray[np.float64]:
        """Edges of the output pixels, (count + 1,), moved into the picture."""
        edges = self.start + self.step * np.arange(self.count + 1)
        return edges.clip(self.low, max(self.low, self.high))

    def is_whole(self) -> bool:
        """Whether every output pixel is a whole number of whole input pixels, and so is the picture."""
        return all(float(v).is_integer() for v in (self.start, self.step, self.low, self.high))


def resample(image: NDArray[np.uint8], x: Axis, y: Axis, fill: int = 255) -> NDArray[np.uint8]:
    """Area average of an image.

    Where the axes fall on whole input pixels this is a crop or OpenCV's ``INTER_AREA``, else :func:`box_average`;
    the two differ by rounding only (at most one grey level).

    Args:
        image: uint8 (h, w, 3); should cover the pixels of ``x.source()`` and ``y.source()``.
        x, y: what to compute, in pixels of ``image``.
        fill: value of what lies outside the picture; output pixels on its edge are blended by area.

    Returns:
        uint8 (y.count, x.count, 3), contiguous.
    """
    if x.is_whole() and y.is_whole():
        return _whole_average(image, x, y, fill)
    return box_average(image, x, y, fill)


def box_average(image: NDArray[np.uint8], x: Axis, y: Axis, fill: int = 255) -> NDArray[np.uint8]:
    """:func:`resample` for any axes: out = (∬ image + fill · area outside the picture) / area of an output pixel."""
    out = np.empty((y.count, x.count, 3), np.uint8)
    # A few rows at a time: tables that fit the processor's cache are several times faster than one of the whole image.
    rows = max(1, int(BLOCK_PX / max(1.0, y.step) / max(image.shape[1], x.count)))
    for first in range(0, y.count, rows):
        part = y.part(first, min(rows, y.count - first))
        top, bottom = part.source()
        if bottom > top:
            top = min(max(top, 0), len(image) - 1)  # beyond the image its outermost pixels go on
            out[first : first + part.count] = _box_block(image[top:bottom], x, part.shifted(top), fill)
        else:
            out[first : first + part.count] = fill
    return out


def _box_block(image: NDArray[np.uint8], x: Axis, y: Axis, fill: int) -> NDArray[np.uint8]:
    x_edges, y_edges = x.edges(), y.edges()
    rows = np.diff(integral_at(integral(image), y_edges, 0), axis=0)
    sums = np.diff(integral_at(rows, x_edges, 1), axis=1)
    area = x.step * y.step
    if min(x.start - x.low, y.start - y.low, x.high - x.end, y.high - y.end) < 0:
        covered = np.outer(np.diff(y_edges), np.diff(x_edges))
        sums += (fill * (area - covered))[..., None]
    return np.asarray(cv2.convertScaleAbs(sums, alpha=1.0 / area), dtype=np.uint8)  # rounds and keeps to 0..255


def integral(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Summed-area table: uint8 (h, w) or (h, w, c) to float64 (h + 1, w + 1[, c]) with zero first row and column."""
    return np.asarray(cv2.integral(np.ascontiguousarray(image), sdepth=cv2.CV_64F))


def integral_at(table: NDArray[np.float64], positions: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """A summed-area table at fractional ``positions`` (n,) along ``axis``: exact, as the integral is linear between."""
    whole = np.clip(np.floor(positions).astype(np.intp), 0, table.shape[axis] - 2)
    shape = [1] * table.ndim
    shape[axis] = len(positions)
    fraction = (positions - whole).reshape(shape)
    below = table.take(whole, axis=axis)
    above = table.take(whole + 1, axis=axis)
    above -= below
    above *= fraction
    above += below
    return above


def _whole_average(image: NDArray[np.uint8], x: Axis, y: Axis, fill: int) -> NDArray[np.uint8]:
    """:func:`resample` where all edges are whole input pixels."""
    left, right, top, bottom = int(x.start), int(x.end), int(y.start), int(y.end)
    (x0, x1), (y0, y1) = x.source(), y.source()
    inside = image[y0:y1, x0:x1]
    if (x0, x1, y0, y1) != (left, right, top, bottom):
        canvas = np.full((bottom - top, right - left, 3), fill, np.uint8)
        canvas[y0 - top : y1 - top, x0 - left : x1 - left] = inside
        inside = canvas
    if x.step != 1 or y.step != 1:
        return np.asarray(cv2.resize(inside, (x.count, y.count), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return np.ascontiguousarray(inside)


def _near_whole(value: float) -> float:
    """``value``, or the whole number that it misses by a rounding error."""
    return float(round(value)) if abs(value - round(value)) < 1e-6 else value
