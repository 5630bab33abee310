"""Arithmetic of pixel sizes, tile grids and feature alignment. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tfseg.types import ModelError, Window

MPP_AT_40X = 0.25
_WHOLE = 1e-6


def mpp_of(magnification: float) -> float:
    """µm/px of an objective magnification: 40x is 0.25, 10x is 1.0."""
    return MPP_AT_40X * 40.0 / magnification


def magnification_of(mpp: float) -> float:
    """Objective magnification of a pixel size in µm/px; inverse of :func:`mpp_of`."""
    return MPP_AT_40X * 40.0 / mpp


def field_name(mpp: float) -> str:
    """Name of the input that sees the slide at ``mpp``: 0.5 is "image_20x", 8.0 is "image_1.25x"."""
    return f"image_{magnification_of(mpp):g}x"


def join_depth(depth: int, mpp: float, other_mpp: float) -> int | None:
    """Depth at which another field's map may be concatenated with a field's map at ``depth``.

    The one rule of every multi-resolution network: maps fit where mpp · 2^depth, the size of their pixels, is equal.
    So the other depth is depth − log2(other_mpp / mpp).

    Args:
        depth: of the map, whose pixels are mpp · 2^depth µm.
        mpp: µm/px of its field.
        other_mpp: µm/px of the other field.

    Returns:
        The other map's depth; None where it would be negative: the other field has no map as fine as this one.

    Raises:
        ModelError: other_mpp / mpp is no power of two, so no two of their maps ever fit.
    """
    steps = math.log2(other_mpp / mpp)
    if abs(steps - round(steps)) > _WHOLE:
        below, above = (mpp * 2.0**n for n in (math.floor(steps), math.ceil(steps)))
        raise ModelError(
            f"mpp of two fields must differ by a power of two, for their maps to fit. Received: {mpp:g} and "
            f"{other_mpp:g}. Nearest: {below:g} or {above:g}."
        )
    other = depth - round(steps)
    return other if other >= 0 else None


def check_fields(mpps: Sequence[float], deepest: int) -> None:
    """Checks the fields of a multi-resolution network: the target's first, then its context from fine to coarse.

    Args:
        mpps: µm/px of each field.
        deepest: depth of the target's deepest map; a field whose maps are all coarser could not be joined with any.

    Raises:
        ModelError: fewer than two fields, not in order, a ratio that is no power of two or too large.
    """
    if len(mpps) < 2 or list(mpps) != sorted(set(mpps)) or mpps[0] <= 0:
        raise ModelError(f"mpps: at least two fields, finest first, in µm/px. Received: {tuple(mpps)}.")
    for mpp in mpps[1:]:
        if join_depth(deepest, mpps[0], mpp) is None:
            raise ModelError(
                f"mpps: a field may be at most {2**deepest} times as coarse as the first ({deepest} poolings), so at "
                f"most {mpps[0] * 2**deepest:g} µm/px. Received: {mpp:g}."
            )


def crop_border(size_px: int, mpp: float, target_px: int, target_mpp: float) -> int:
    """Pixels to cut off both ends of an axis of a map so that it covers a concentric smaller field.

    (size_px − target_px · target_mpp / mpp) / 2: for pixels of one size the difference of the sizes, halved.

    Args:
        size_px, mpp: the map's extent, and the µm of its pixels (field's mpp · 2^depth).
        target_px, target_mpp: those of the field that is to be covered.

    Raises:
        ModelError: the field is no whole number of the map's pixels, is larger than the map, or its edges fall
            between the map's pixels, so that a crop would shift it.
    """
    border = (size_px - target_px * target_mpp / mpp) / 2
    if border < -_WHOLE or abs(border - round(border)) > _WHOLE:
        raise ModelError(
            f"a map of {size_px} px of {mpp:g} µm cannot be cropped to the {target_px} px of {target_mpp:g} µm at its "
            f"centre: {border:g} px would have to go from each side. Expected a whole number, 0 or more."
        )
    return round(border)


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
