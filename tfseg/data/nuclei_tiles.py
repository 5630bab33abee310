"""Tiles of images with labelled nuclei: which there are, and how one is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tfseg.data.nuclei import NucleiItem


def tile_starts(side_px: int, tile_px: int = 256, overlap: float = 0.1) -> list[int]:
    """First pixels of the tiles that cover a side.

    Tiles follow each other by round(tile_px · (1 − overlap)) pixels, 230 with the defaults; the last is moved back to
    end at the side's end, so that every pixel is in a tile, none reaches beyond, and neighbours overlap by at least
    ``overlap``. A side shorter than a tile has one tile, from 0.

    Args:
        side_px: of the image.
        tile_px: of a tile.
        overlap: of neighbours, as a fraction of the tile: GB U-Net trains with 0.1 and predicts with 0.5.

    Raises:
        ValueError: a size is not positive, or ``overlap`` not in [0, 1).
    """
    if side_px < 1 or tile_px < 1 or not 0 <= overlap < 1:
        raise ValueError(
            "tiles: expected an image and a tile of at least 1 px and 0 <= overlap < 1. "
            f"Received: {side_px}, {tile_px} and {overlap}."
        )
    step = max(1, round(tile_px * (1 - overlap)))
    last = max(0, side_px - tile_px)
    return [*range(0, last, step), last]


def tile_table(items: Sequence[NucleiItem], tile_px: int = 256, overlap: float = 0.1) -> pd.DataFrame:
    """The tiles of images, image by image, row by row; only the images' headers are read.

    Args:
        items: the images.
        tile_px, overlap: as :func:`tile_starts` takes them.

    Returns:
        one row a tile: name, organ, split, item (position in ``items``), top, left (pixels; where :func:`cut_tile`
        cuts).

    Raises:
        SlideError: an image is missing or not readable.
        ValueError: as :func:`tile_starts`.
    """
    rows = []
    for number, item in enumerate(items):
        height, width = item.size()
        for top in tile_starts(height, tile_px, overlap):
            for left in tile_starts(width, tile_px, overlap):
                rows.append((item.name, item.organ, item.split, number, top, left))
    return pd.DataFrame(rows, columns=["name", "organ", "split", "item", "top", "left"])


def cut_tile(pixels: NDArray[Any], top: int, left: int, tile_px: int = 256) -> NDArray[Any]:
    """A tile of an image, of its labels or of its weight map; cut all three alike.

    Where the image ends before the tile (it is smaller than one) it goes on mirrored, its outermost pixels twice. A
    nucleus at that edge then goes on in its mirror image, under the same id.

    Args:
        pixels: (H, W) or (H, W, C).
        top, left: the tile's corner, inside the image.
        tile_px: side of the tile.

    Returns:
        (tile_px, tile_px) or (tile_px, tile_px, C), the dtype of ``pixels``; a view where nothing is mirrored.

    Raises:
        ValueError: the corner lies outside the image.
    """
    if not (0 <= top < pixels.shape[0] and 0 <= left < pixels.shape[1]):
        raise ValueError(
            f"a tile's corner must lie inside the image of {pixels.shape[0]} × {pixels.shape[1]} px (height × width). "
            f"Received: top {top}, left {left}."
        )
    tile = pixels[top : top + tile_px, left : left + tile_px]
    short = [(0, tile_px - tile.shape[0]), (0, tile_px - tile.shape[1])] + [(0, 0)] * (pixels.ndim - 2)
    return np.pad(tile, short, mode="symmetric") if tile.shape[:2] != (tile_px, tile_px) else tile
