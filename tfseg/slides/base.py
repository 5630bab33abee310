"""What a slide is: its size, its pixel size, and reading any window of it at any pixel size."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tfseg.slides.mpp import GIVEN, check_given
from tfseg.slides.resample import Axis, resample
from tfseg.types import MppError, SlideError, Window

CHUNK_PX = 2**22
"""Most pixels that are read and averaged at once: about 30 MB while OpenSlide hands them over."""

LEVEL_TOLERANCE = 1.001
"""A level this little coarser than asked for is still used: µm/px are seldom exact, and for a ratio of 3.998 the level
of 4 has a sixteenth of the pixels of level 0. A pixel of the output then mixes two of the level's at most."""

SlideType = TypeVar("SlideType", bound="Slide")


@dataclass(frozen=True)
class Level:
    """One resolution of a slide file.

    Attributes:
        size: (width, height) in pixels of the level.
        downsample: (x, y) level-0 pixels per pixel of the level.
    """

    size: tuple[int, int]
    downsample: tuple[float, float]


def make_levels(sizes: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """Levels from their sizes, finest first.

    The downsample of an axis is W / w; but where w is W / k rounded up or down for the whole number k next to W / w,
    it is exactly k: writers drop or add a pixel when halving odd sizes, which moves no other pixel.
    """
    width, height = sizes[0]
    return tuple(Level((w, h), (_downsample(width, w), _downsample(height, h))) for w, h in sizes)


def _downsample(full: int, size: int) -> float:
    whole = max(1, round(full / size))
    return float(whole) if size in (full // whole, -(-full // whole)) else full / size


class Slide(ABC):
    """A slide that can be read from many threads and sent to other processes.

    Coordinates are level-0 pixels of the slide as QuPath shows it: a file with OpenSlide bounds begins at its bounds.

    Attributes:
        path: the file; None for arrays.
        name: file name without its last suffix.
        size: (width, height) in level-0 pixels.
        mpp: µm per level-0 pixel.
        mpp_source: where ``mpp`` comes from, for the record: "openslide.mpp-x", "given (--mpp)", …
        objective_power: magnification of the objective, None where the file does not say.
    """

    def __init__(
        self,
        path: Path | None,
        name: str,
        levels: tuple[Level, ...],
        mpp: tuple[float, str],
        objective_power: float | None = None,
        bounds: tuple[int, int, int, int] | None = None,
    ) -> None:
        """``mpp`` is (value, source); ``bounds`` is (x, y, width, height) of the part to show, in the file's pixels."""
        self.path = path
        self.name = name
        self.mpp, self.mpp_source = mpp
        self.objective_power = objective_power
        self._levels = levels
        x, y, width, height = bounds or (0, 0, *levels[0].size)
        self._origin = (x, y)
        self.size = (width, height)

    @property
    def origin(self) -> tuple[int, int]:
        """(x, y) of the shown part's corner in the file's own level-0 pixels; (0, 0) without OpenSlide bounds."""
        return self._origin

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel of each level, finest first (the larger of both axes)."""
        return tuple(max(level.downsample) for level in self._levels)

    @abstractmethod
    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels of a level, uint8 (height, width, 3); the rectangle lies inside the level. Thread-safe."""

    def _level_shift(self, level: int, x: int, y: int) -> tuple[float, float]:
        """How far right and down of (x, y), in pixels of the level, ``_read_level`` really begins."""
        return 0.0, 0.0

    def close(self) -> None:
        """Releases what this thread holds open; reading again opens it again."""
        return None

    def __enter__(self: SlideType) -> SlideType:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        width, height = self.size
        return f"{type(self).__name__}({self.name!r}, {width}×{height} px, {self.mpp:g} µm/px from {self.mpp_source})"

    def with_mpp(self: SlideType, mpp: float) -> SlideType:
        """The same slide with another pixel size, recorded as given."""
        other = copy.copy(self)
        other.mpp, other.mpp_source = check_given(mpp, str(self.path or self.name)), GIVEN
        return other

    def read(self, window: Window, fill: int = 255) -> NDArray[np.uint8]:
        """The window at its mpp: each pixel is the mean over the area that it covers.

        Read from the coarsest level that is not coarser than the window (by more than 0.1 %). Any size may be asked
        for: memory beyond the output is bounded.

        Args:
            window: centre in level-0 pixels, size and mpp of the output.
            fill: value of all channels beyond the slide's edges; pixels across an edge blend both by area.

        Returns:
            uint8 RGB (height_px, width_px, 3), contiguous.

        Raises:
            SlideError: the file cannot be read there.
        """
        left, top, _, _ = window.bounds(self.mpp)
        scale = window.mpp / self.mpp
        if not (math.isfinite(left + top) and 0 < scale < math.inf and min(window.width_px, window.height_px) > 0):
            raise SlideError(
                f"{self.path or self.name}: a window needs a position, a size and an mpp above 0. {window}."
            )
        return self._read_box((left, top), (scale, scale), (window.width_px, window.height_px), fill)

    def whole(self, mpp: float, fill: int = 255) -> NDArray[np.uint8]:
        """The whole slide at ``mpp``, uint8 (ceil(height / scale), ceil(width / scale), 3), scale = mpp / self.mpp."""
        if not 0 < mpp < math.inf:
            raise SlideError(f"{self.path or self.name}: mpp must be above 0, in µm/px. Received: {mpp}.")
        scale = mpp / self.mpp
        width, height = (max(1, math.ceil(side / scale - 1e-6)) for side in self.size)
        return self._read_box((0.0, 0.0), (scale, scale), (width, height), fill)

    def fit(self, size_px: tuple[int, int]) -> NDArray[np.uint8]:
        """The whole slide resized to exactly (height, width), each axis by its own ratio: uint8 (height, width, 3)."""
        height, width = size_px
        if min(height, width) < 1:
            raise SlideError(f"{self.path or self.name}: size must be at least 1×1 px. Received: {size_px}.")
        return self._read_box((0.0, 0.0), (self.size[0] / width, self.size[1] / height), (width, height), 255)

    def _best_level(self, scale: tuple[float, float]) -> int:
        """Coarsest level that is no coarser than ``scale`` on either axis; level 0 where none is."""
        fits = [
            index
            for index, level in enumerate(self._levels)
            if all(d <= s * LEVEL_TOLERANCE for d, s in zip(level.downsample, scale, strict=True))
        ]
        return max(fits, key=lambda index: self._levels[index].downsample, default=0)

    def _read_box(
        self, corner: tuple[float, float], scale: tuple[float, float], size_px: tuple[int, int], fill: int
    ) -> NDArray[np.uint8]:
        """``size_px`` (width, height) pixels of ``scale`` level-0 pixels each from ``corner``; all as (x, y)."""
        level = self._best_level(scale)
        x, y = (
            Axis(
                (corner[i] + self._origin[i]) / self._levels[level].downsample[i],
                scale[i] / self._levels[level].downsample[i],
                size_px[i],
                self._origin[i] / self._levels[level].downsample[i],
                (self._origin[i] + self.size[i]) / self._levels[level].downsample[i],
            ).snapped()
            for i in (0, 1)
        )
        if max(1, x.step * x.count) * max(1, y.step * y.count) <= CHUNK_PX and x.count * y.count <= CHUNK_PX:
            return self._average(level, x, y, fill)
        out = np.empty((y.count, x.count, 3), np.uint8)
        columns = _pieces(x)
        for row, rows in _pieces(y):
            for column, width in columns:
                part = self._average(level, x.part(column, width), y.part(row, rows), fill)
                out[row : row + rows, column : column + width] = part
        return out

    def _average(self, level: int, x: Axis, y: Axis, fill: int) -> NDArray[np.uint8]:
        """One piece, axes in pixels of the level."""
        (x0, x1), (y0, y1) = x.source(), y.source()
        if x1 <= x0 or y1 <= y0:
            return np.full((y.count, x.count, 3), fill, np.uint8)
        width, height = self._levels[level].size
        # A level whose size was rounded down lacks part of a pixel at the right and lower edge: repeat its last.
        left, top = min(x0, width - 1), min(y0, height - 1)
        right, bottom = max(left + 1, min(x1, width)), max(top + 1, min(y1, height))
        image = self._read_level(level, left, top, right - left, bottom - top)
        if (left, top, right, bottom) != (x0, y0, x1, y1):
            lacking = ((top - y0, y1 - bottom), (left - x0, x1 - right))
            image = np.pad(image, [(max(0, a), max(0, b)) for a, b in lacking] + [(0, 0)], mode="edge")
        x, y = x.shifted(left), y.shifted(top)
        if not (x.is_whole() and y.is_whole()):
            dx, dy = self._level_shift(level, left, top)
            x, y = x.shifted(dx), y.shifted(dy)
        return resample(image, x, y, fill)


def _pieces(axis: Axis) -> list[tuple[int, int]]:
    """(first, count) of the pieces into which an axis is cut so that a piece squared is at most ``CHUNK_PX``."""
    side = math.isqrt(CHUNK_PX)
    count = max(1, min(side, math.floor(side / axis.step)))
    return [(first, min(count, axis.count - first)) for first in range(0, axis.count, count)]


def open_slide(
    source: str | Path | Slide | Sequence[NDArray[np.uint8]], mpp: float | None = None, assumed: float | None = None
) -> Slide:
    """Opens a slide file, or wraps arrays.

    Args:
        source: a file that OpenSlide reads; a plain TIFF, PNG or JPEG, taken as a slide of one level; a list of
            uint8 (H, W, 3) arrays, a pyramid with the finest first; or a Slide, which is passed on.
        mpp: µm per level-0 pixel, used in place of what the file says.
        assumed: µm per pixel of a plain TIFF, PNG or JPEG that does not say it; of a file that OpenSlide reads nothing
            is assumed.

    Raises:
        SlideError: missing, unreadable, or no picture.
        MppError: neither the file nor ``mpp`` gives a pixel size.
    """
    if isinstance(source, Slide):
        return source if mpp is None else source.with_mpp(mpp)
    from tfseg.slides import array_backend, openslide_backend

    if not isinstance(source, (str, Path)):
        if mpp is None:
            raise MppError("a list of arrays has no pixel size: give it as mpp=, in µm/px of the first array.")
        return array_backend.ArraySlide(source, mpp)
    path = Path(source)
    if not path.exists():
        raise SlideError(f"{path}: no such file. Check the path; paths in a manifest are relative to the manifest.")
    if path.is_dir():
        raise SlideError(f"{path}: a folder, expected a slide file. Give the slide inside it.")
    if path.stat().st_size == 0:
        raise SlideError(f"{path}: the file is empty (0 bytes). Copy or download it again.")
    slide = openslide_backend.open_file(path, mpp)
    return slide if slide is not None else array_backend.open_file(path, mpp, assumed)
