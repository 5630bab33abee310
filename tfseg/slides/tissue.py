"""Where the tissue is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from tfseg.geometry import Grid
from tfseg.slides.base import Slide
from tfseg.slides.resample import integral, integral_at


@dataclass(frozen=True)
class TissueMask:
    """A tissue mask of a whole slide, from its top-left corner.

    Attributes:
        mask: bool (h, w).
        mpp: µm per pixel of the mask.
        slide_mpp: µm per level-0 pixel of the slide.
        slide_size: (width, height) of the slide in level-0 pixels; the mask's last pixels may reach past it.
    """

    mask: NDArray[np.bool_]
    mpp: float
    slide_mpp: float
    slide_size: tuple[int, int]

    @cached_property
    def _table(self) -> NDArray[np.float64]:
        return integral(self.mask.astype(np.uint8))

    def fraction(self, bounds: tuple[float, float, float, float]) -> float:
        """Part of (left, top, right, bottom), in level-0 pixels, that is tissue; outside the slide there is none."""
        left, top, right, bottom = bounds
        return float(self._fractions(np.array([left]), np.array([top]), right - left, bottom - top)[0, 0])

    def fractions(self, grid: Grid) -> NDArray[np.float32]:
        """Part of each patch of a grid that is tissue, float32 (rows, columns).

        Exact for patches whose edges cut pixels of the mask: ∬ mask over the patch / area of the patch.
        """
        rows, columns = grid.shape
        left = np.array([grid.window(0, column).bounds(grid.slide_mpp)[0] for column in range(columns)])
        top = np.array([grid.window(row, 0).bounds(grid.slide_mpp)[1] for row in range(rows)])
        return self._fractions(left, top, grid.patch_level0, grid.patch_level0)

    def _fractions(
        self, left: NDArray[np.float64], top: NDArray[np.float64], width: float, height: float
    ) -> NDArray[np.float32]:
        scale = self.mpp / self.slide_mpp
        # Clipped to slide and mask: nothing outside is tissue, even where the mask's last pixel reaches past the edge.
        x_end, y_end = (
            min(side / scale, n) for side, n in zip(self.slide_size, reversed(self.mask.shape), strict=True)
        )
        x0, x1 = (np.clip(edge / scale, 0, x_end) for edge in (left, left + width))
        y0, y1 = (np.clip(edge / scale, 0, y_end) for edge in (top, top + height))
        rows = integral_at(self._table, y1, 0) - integral_at(self._table, y0, 0)
        sums = integral_at(rows, x1, 1) - integral_at(rows, x0, 1)
        return np.clip(sums / (width * height / scale**2), 0, 1).astype(np.float32)


def tissue_mask(slide: Slide, mpp: float = 8.0, saturation: int = 20, closing: tuple[int, ...] = (5, 3)) -> TissueMask:
    """Tissue as in H2G-Net: coloured pixels of the 1.25x plane, small gaps closed.

    Args:
        slide: what to read.
        mpp: µm/px of the plane; 8.0 is 1.25x.
        saturation: pixels whose HSV saturation, 0..255, is above this are tissue.
        closing: sides in pixels of the square structuring elements of the morphological closings, one after the other.
    """
    mask = (_saturation(slide.whole(mpp)) > saturation).astype(np.uint8)
    for side in closing:
        mask = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8)), np.uint8)
    return TissueMask(mask.astype(bool), mpp, slide.mpp, slide.size)


def otsu_tissue(slide: Slide, size_px: int = 1024) -> NDArray[np.bool_]:
    """The Otsu baseline of H2G-Net: the slide resized to ``size_px``², HSV saturation above Otsu's threshold.

    Returns:
        bool (size_px, size_px); all False where the slide is of one colour.
    """
    values = _saturation(slide.fit((size_px, size_px)))
    threshold, _ = cv2.threshold(values, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return values > threshold


def otsu_tissue_mask(slide: Slide, mpp: float = 8.0) -> TissueMask:
    """Tissue by Otsu's threshold on the HSV saturation of the plane at ``mpp``; all False where it is of one colour."""
    values = _saturation(slide.whole(mpp))
    threshold, _ = cv2.threshold(values, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return TissueMask(values > threshold, mpp, slide.mpp, slide.size)


def _saturation(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """HSV saturation 255 · (max - min) / max of uint8 RGB (h, w, 3), rounded: uint8 (h, w)."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1], dtype=np.uint8)
