"""Where the windows of a dense network lie on a slide, and what its concentric fields see there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tfseg.infer.tiles import Images
from tfseg.slides.base import Slide
from tfseg.slides.rasterise import PixelGrid
from tfseg.types import InputSpec, ModelError, ModelSpec, SlideError, Window

Border = Literal["zero", "white", "reflect"]
"""What lies beyond the slide's edges."""

MOST_ENLARGED = 16.0
"""Times that a slide's pixels may be as large as the network's: a 2.5x picture for a 40x network, no wrong µm/px."""
_FILL = {"zero": 0, "white": 255}
_NEAR = 1e-6


@dataclass(frozen=True)
class DenseGrid:
    """The pixels that a dense network labels, from the slide's top-left corner, and the windows that cover them.

    Window (r, c) outputs ``output_px`` pixels around the cell of ``stride_px``² pixels that begins at pixel
    (r, c) · stride: from ⌊(output − stride) / 2⌋ pixels before the cell. With a stride equal to the output, windows and
    cells are the same; with a smaller one neighbours overlap and the outermost reach past the slide's edges.

    Attributes:
        slide_size: (width, height) of the slide in level-0 pixels.
        slide_mpp: µm/px of level 0.
        output_px: (height, width) of a window's output.
        stride_px: step between windows in output pixels, both ways.
        mpp: µm per output pixel.
    """

    slide_size: tuple[int, int]
    slide_mpp: float
    output_px: tuple[int, int]
    stride_px: int
    mpp: float

    @property
    def pixels(self) -> PixelGrid:
        """The pixels that are labelled; the last column and row may reach past the slide's edge."""
        step = self.mpp / self.slide_mpp
        if abs(step / max(1, round(step)) - 1) < _NEAR:
            step = float(round(step))
        width, height = (max(1, math.ceil(side / step - _NEAR)) for side in self.slide_size)
        return PixelGrid(0.0, 0.0, step, step, width, height)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of windows."""
        pixels = self.pixels
        return -(-pixels.height_px // self.stride_px), -(-pixels.width_px // self.stride_px)

    @property
    def margin(self) -> tuple[int, int]:
        """Pixels (down, across) by which a window begins before its cell."""
        return (self.output_px[0] - self.stride_px) // 2, (self.output_px[1] - self.stride_px) // 2

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """(y, x) of a window's first output pixel."""
        return row * self.stride_px - self.margin[0], column * self.stride_px - self.margin[1]

    def bounds(self, row: int, column: int) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of a window's output in level-0 pixels."""
        (y, x), (height, width) = self.corner(row, column), self.output_px
        step = self.pixels.step_x
        return x * step, y * step, (x + width) * step, (y + height) * step

    def centre(self, row: int, column: int) -> tuple[float, float]:
        """(x, y) of the window's centre, and so of all its fields, in level-0 pixels."""
        left, top, right, bottom = self.bounds(row, column)
        return (left + right) / 2, (top + bottom) / 2

    def first_row_at(self, pixel_row: int) -> int:
        """First row of windows whose output reaches a row of pixels."""
        return max(0, (pixel_row + self.margin[0] - self.output_px[0]) // self.stride_px + 1)

    def rows_done_after(self, row: int) -> int:
        """Rows of pixels that no row of windows behind ``row`` reaches."""
        height = self.pixels.height_px
        return height if row + 1 >= self.shape[0] else min(height, max(0, self.corner(row + 1, 0)[0]))


def dense_grid(slide: Slide, spec: ModelSpec, stride_px: int | None = None) -> DenseGrid:
    """The grid that a dense network's spec asks for.

    Args:
        slide: what to cover.
        spec: of the network.
        stride_px: output pixels between windows; None takes the spec's.

    Raises:
        ModelError: the spec is not one of a dense network, or the stride leaves gaps.
        SlideError: the slide's pixels are more than ``MOST_ENLARGED`` times as large as the network's.
    """
    check_dense(spec)
    assert spec.output_px is not None and spec.output_mpp is not None
    stride = (spec.stride_px or min(spec.output_px)) if stride_px is None else stride_px
    if not 0 < stride <= min(spec.output_px):
        raise ModelError(
            f"{spec.name}: a stride of {stride} px leaves gaps between outputs of {spec.output_px[0]} × "
            f"{spec.output_px[1]} px. Expected 1 to {min(spec.output_px)}."
        )
    check_enlarged(slide, spec.output_mpp)
    return DenseGrid(slide.size, slide.mpp, spec.output_px, stride, spec.output_mpp)


def check_enlarged(slide: Slide, mpp: float) -> None:
    """Raises SlideError where the slide's pixels are more than ``MOST_ENLARGED`` times as large as a network's."""
    if slide.mpp > MOST_ENLARGED * mpp:
        raise SlideError(
            f"{slide.path or slide.name}: its pixels of {slide.mpp:g} µm are {slide.mpp / mpp:.3g} times as large as "
            f"the network's, {mpp:g} µm; at most {MOST_ENLARGED:g} times is expected, enlarging adds nothing to see. "
            "Check the slide's µm/px (--mpp; 40x is about 0.25, 20x 0.5), or take a network for such slides."
        )


def check_dense(spec: ModelSpec) -> None:
    """Raises ModelError unless ``spec`` is one of a dense network: images of known mpp, and an output of known size."""
    fits = spec.dense and spec.output_px is not None and spec.output_mpp
    if not fits or any(one.kind != "image" or not one.mpp for one in spec.inputs):
        raise ModelError(
            f"{spec.name}: not a dense network. Expected task segmentation, image inputs with an mpp, output_px and "
            f"output_mpp. Received: task {spec.task}, inputs {[asdict(i) for i in spec.inputs]}, output_px "
            f"{spec.output_px}, output_mpp {spec.output_mpp}."
        )


def read_fields(
    slide: Slide, inputs: Sequence[InputSpec], centres: Sequence[tuple[float, float]], border: Border
) -> Images:
    """What each input of a network sees around some points: float32 RGB (B, H, W, 3), 0..255, one array an input."""
    batches = tuple(np.empty((len(centres), *one.size_px, 3), np.float32) for one in inputs)
    for batch, one in zip(batches, inputs, strict=True):
        height, width = one.size_px
        assert one.mpp is not None
        for image, (x, y) in zip(batch, centres, strict=True):
            image[...] = read_field(slide, Window(x, y, width, height, one.mpp), border)
    return batches


def read_field(slide: Slide, window: Window, border: Border) -> NDArray[np.uint8]:
    """A window, with a choice of what lies beyond the slide.

    "reflect" mirrors the window's pixels at the outermost ones that lie wholly on the slide, which are repeated (as
    NumPy's mode "symmetric"), as often as it takes to fill the window.

    Args:
        slide: what to read.
        window: where, in pixels of which size.
        border: what lies beyond.

    Returns:
        uint8 RGB (height_px, width_px, 3).

    Raises:
        SlideError: it cannot be read, or has less than one whole pixel to reflect.
    """
    if border != "reflect":
        return slide.read(window, fill=_FILL[border])
    left, top, right, bottom = window.bounds(slide.mpp)
    if left >= 0 and top >= 0 and right <= slide.size[0] and bottom <= slide.size[1]:
        return slide.read(window)
    scale = window.mpp / slide.mpp
    columns = _mirrored(left / scale, window.width_px, slide.size[0] / scale, slide)
    rows = _mirrored(top / scale, window.height_px, slide.size[1] / scale, slide)
    width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
    x = left + (columns.min() + width / 2) * scale
    y = top + (rows.min() + height / 2) * scale
    image = slide.read(Window(float(x), float(y), int(width), int(height), window.mpp))
    return image[rows - rows.min()][:, columns - columns.min()]


def _mirrored(start: float, count: int, length: float, slide: Slide) -> NDArray[np.intp]:
    """Which pixel stands for each of ``count`` pixels from position ``start`` on an axis that is ``length`` long.

    Pixels are counted from ``start``, so those on the slide may be negative or beyond ``count``.
    """
    first = math.ceil(-start - _NEAR)
    inside = math.floor(length - start + _NEAR) - first
    if inside < 1:
        raise SlideError(
            f"{slide.path or slide.name}: {slide.size[0]} × {slide.size[1]} px at {slide.mpp:g} µm/px are less than a "
            "pixel of the network's coarsest field; nothing to reflect. Use border zero or white."
        )
    position = (np.arange(count, dtype=np.intp) - first) % (2 * inside)
    return first + np.minimum(position, 2 * inside - 1 - position)
