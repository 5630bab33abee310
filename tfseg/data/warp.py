"""Reading windows through a geometric map that all fields of a window share. NumPy and OpenCV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from tfseg.slides.annotations import Annotation
from tfseg.slides.base import Slide
from tfseg.slides.rasterise import PixelGrid
from tfseg.types import Window

Points = tuple[NDArray[np.float32], NDArray[np.float32]]
Step = Callable[[NDArray[np.float32], NDArray[np.float32]], Points]
"""Map of points: x and y, float32 of any shape, in µm from the window's centre → the same."""

Border = Literal["zero", "white"]
FILL: dict[str, int] = {"zero": 0, "white": 255}
"""What lies beyond the slide's edges."""

_REACH = 2
"""Pixels that bicubic interpolation takes on either side of a point."""


@dataclass(frozen=True)
class Warp:
    """From a point of a finished field to the point of the slide that is seen there.

    In µm about the window's centre, so that the same map serves fields of every size and pixel size, and they stay
    concentric and aligned.

    Attributes:
        steps: maps of points, the first applied to points of the field, the last gives points of the slide.
        quarters: after these, the finished field is turned by so many times 90° counter-clockwise, …
        flip: … and then mirrored left to right. Both move whole pixels, so nothing is interpolated.
    """

    steps: tuple[Step, ...] = ()
    quarters: int = 0
    flip: bool = False

    def then(self, *steps: Step) -> Warp:
        """The map followed by further steps, nearer to the slide."""
        return replace(self, steps=(*self.steps, *steps))

    def __call__(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> Points:
        """Points of the slide that ``steps`` put at (x, y); turn and flip are not in it."""
        for step in self.steps:
            x, y = step(x, y)
        return x, y

    def orient(self, image: NDArray) -> NDArray:
        """Turns and mirrors a field (H, W, …)."""
        image = np.rot90(image, self.quarters)
        return np.ascontiguousarray(image[:, ::-1] if self.flip else image)


def affine(matrix: NDArray[np.float64], shift: tuple[float, float] = (0.0, 0.0)) -> Step:
    """The step p → matrix · p + shift, matrix (2, 2), shift (x, y) in µm."""
    (a, b), (c, d) = np.asarray(matrix, np.float32)
    left, down = np.float32(shift[0]), np.float32(shift[1])
    return lambda x, y: (a * x + b * y + left, c * x + d * y + down)


def read_field(slide: Slide, window: Window, warp: Warp | None = None, *, border: Border = "zero") -> NDArray[np.uint8]:
    """A window seen through a map: bicubic between the slide's pixels at the window's own µm/px.

    What the map brings in from beyond the window is read from the slide, so that corners hold tissue.

    Args:
        slide: what to read.
        window: the field; turns by 90° want it square.
        warp: the map; None or one without steps gives the slide's pixels themselves.
        border: what lies beyond the slide's edges.

    Returns:
        uint8 RGB (height_px, width_px, 3).

    Raises:
        SlideError: the file cannot be read there.
    """
    if warp is None or not warp.steps:
        image = slide.read(window, fill=FILL[border])
        return image if warp is None else warp.orient(image)
    wider, columns, rows = _source(window, warp, slide.mpp)
    image = slide.read(wider, fill=FILL[border])
    return warp.orient(cv2.remap(image, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))


def read_labels(
    annotation: Annotation, slide_mpp: float, window: Window, warp: Warp | None = None
) -> NDArray[np.uint8]:
    """The labels of a window seen through the same map, each the nearest one: uint8 (height_px, width_px)."""
    if warp is None or not warp.steps:
        labels = annotation.labels(window, slide_mpp)
        return labels if warp is None else warp.orient(labels)
    wider, columns, rows = _source(window, warp, slide_mpp)
    labels = annotation.labels_on(PixelGrid.of(wider, slide_mpp))
    return warp.orient(cv2.remap(labels, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE))


def lattice(height_px: int, width_px: int, mpp: float, warp: Warp) -> Points:
    """(columns, rows), float32 (height_px, width_px): where in a window each of its pixels comes from.

    In pixels of the window, whose first one's centre is at (0, 0); turn and flip are not in it.
    """
    across = (np.arange(width_px, dtype=np.float32) + 0.5 - width_px / 2) * mpp
    down = (np.arange(height_px, dtype=np.float32) + 0.5 - height_px / 2) * mpp
    x, y = warp(*np.meshgrid(across.astype(np.float32), down.astype(np.float32)))
    columns = x / np.float32(mpp) + np.float32(width_px / 2 - 0.5)
    rows = y / np.float32(mpp) + np.float32(height_px / 2 - 0.5)
    return columns, rows


def _source(window: Window, warp: Warp, slide_mpp: float) -> tuple[Window, NDArray[np.float32], NDArray[np.float32]]:
    """The window to read, on the same grid of pixels, and the (column, row) in it where each pixel comes from."""
    columns, rows = lattice(window.height_px, window.width_px, window.mpp, warp)
    left, right = int(np.floor(columns.min())) - _REACH, int(np.ceil(columns.max())) + _REACH + 1
    top, bottom = int(np.floor(rows.min())) - _REACH, int(np.ceil(rows.max())) + _REACH + 1
    scale = window.mpp / slide_mpp
    wider = Window(
        window.x + ((left + right) / 2 - window.width_px / 2) * scale,
        window.y + ((top + bottom) / 2 - window.height_px / 2) * scale,
        right - left,
        bottom - top,
        window.mpp,
    )
    return wider, columns - np.float32(left), rows - np.float32(top)
