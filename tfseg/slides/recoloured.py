"""A slide whose windows are recoloured as they are read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tfseg.slides.base import Slide
from tfseg.types import Window

Recolour = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""uint8 RGB (H, W, 3) → the same shape, each pixel by itself, so that windows have no seams."""


class RecolouredSlide(Slide):
    """Another slide, recoloured in :meth:`read`; :meth:`whole` and :meth:`fit` give its own colours."""

    def __init__(self, slide: Slide, recolour: Recolour) -> None:
        mpp, bounds = (slide.mpp, slide.mpp_source), (*slide.origin, *slide.size)
        super().__init__(slide.path, slide.name, slide._levels, mpp, slide.objective_power, bounds)
        self._slide, self._recolour = slide, recolour

    def read(self, window: Window, fill: int = 255) -> NDArray[np.uint8]:
        """As :meth:`Slide.read`, recoloured."""
        return np.ascontiguousarray(self._recolour(self._slide.read(window, fill)))

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        return self._slide._read_level(level, x, y, width, height)

    def _level_shift(self, level: int, x: int, y: int) -> tuple[float, float]:
        return self._slide._level_shift(level, x, y)

    def close(self) -> None:
        """Closes the slide."""
        self._slide.close()
