"""From a class mask to polygons whose edges are the pixels' edges, so that drawing them gives the mask back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from tfseg.types import IGNORE

BACKGROUND = 0
_COUNTED_ROWS = 256


def mask_polygons(
    mask: NDArray[np.uint8],
    scale_xy: tuple[float, float] = (1.0, 1.0),
    *,
    classes: Sequence[int] | None = None,
    min_area_um2: float = 0.0,
    slide_mpp: float | None = None,
) -> Iterator[tuple[int, shapely.Polygon]]:
    """One valid polygon, with its holes, for every 4-connected area of one class.

    Corners are where the outline turns; the outline runs along pixel edges, unsmoothed. Ordered by class.
    Memory: about 16 bytes per mask pixel.

    Args:
        mask: (h, w) class indices.
        scale_xy: level-0 pixels per mask pixel across and down; the mask begins at the slide's top-left corner.
        classes: which to outline; None takes all but 0 (background) and 255 (not annotated).
        min_area_um2: areas smaller than this, holes taken off, are left out.
        slide_mpp: µm per level-0 pixel; needed with ``min_area_um2``.

    Yields:
        (class index, Polygon in level-0 pixels).

    Raises:
        ValueError: ``mask`` is not (h, w), or ``min_area_um2`` without ``slide_mpp``.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask must be (h, w) class indices. Received: shape {mask.shape}.")
    if min_area_um2 > 0 and slide_mpp is None:
        raise ValueError("min_area_um2 needs slide_mpp, µm per level-0 pixel.")
    min_area = min_area_um2 / slide_mpp**2 if slide_mpp else 0.0
    if classes is None:
        present = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
        classes = [int(c) for c in present if c not in (BACKGROUND, IGNORE)]
    scale = np.asarray(scale_xy, dtype=np.float64)
    for index in classes:
        for outer, holes in _outlines(mask == index):
            polygon = shapely.Polygon(outer * scale, [hole * scale for hole in holes])
            if polygon.area >= min_area:
                yield index, polygon


def count_corners(mask: NDArray[np.uint8]) -> int:
    """Lattice points inside of a mask (h, w) where some outline turns; what outlining costs grows with their number."""
    found = 0
    for first in range(0, len(mask) - 1, _COUNTED_ROWS):
        part = mask[first : first + _COUNTED_ROWS + 1]
        across, down = part[:, 1:] != part[:, :-1], part[1:] != part[:-1]
        turns = (across[1:] | across[:-1]) & (down[:, 1:] | down[:, :-1])
        found += int(np.count_nonzero(turns))
    return found


def _outlines(mask: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.int64]]]]:
    """(outer ring, holes) of each 4-connected component, rings as (N, 2) x, y of their corners on the pixel lattice."""
    _, components = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    x, y, owner, order_in_column = _corners(np.asarray(components, dtype=np.int32))
    following = _links(x, y, order_in_column, mask)
    points = np.stack([x, y], axis=1)
    outer: dict[int, NDArray[np.int64]] = {}
    holes: dict[int, list[NDArray[np.int64]]] = {}
    for ring in _rings(following):
        corners = points[ring]
        component = int(owner[ring[0]])
        if _signed_area(corners) > 0:
            outer[component] = corners
        else:
            holes.setdefault(component, []).append(corners)
    for component in sorted(outer):
        yield outer[component], holes.get(component, [])


def _corners(components: NDArray[np.int32]) -> tuple[NDArray[np.int64], ...]:
    """Lattice points where outlines turn, sorted by y, then x.

    Around a lattice point lie four pixels, upper left a, upper right b, lower left c, lower right d. One or three of
    them in the mask: one turn. Two diagonal ones: two turns at the same point. If both belong to one component, the
    outline goes around the two empty pixels (else its ring would touch itself), otherwise around the two full ones.

    Returns:
        x, y: lattice coordinates; owner: component whose outline it is; order_in_column: 0 or 1, which of the two
        turns at a point ends the vertical edge from above.
    """
    ids = np.pad(components, 1)
    full = ids > 0
    count = full[:-1, :-1].astype(np.uint8) + full[:-1, 1:] + full[1:, :-1] + full[1:, 1:]
    y, x = np.nonzero((count == 1) | (count == 3) | ((count == 2) & (full[:-1, :-1] == full[1:, 1:])))
    a, b, c, d = ids[y, x], ids[y, x + 1], ids[y + 1, x], ids[y + 1, x + 1]
    single = np.maximum(np.maximum(a, b), np.maximum(c, d))
    falling = (a > 0) & (d > 0) & (b == 0) & (c == 0)
    rising = (b > 0) & (c > 0) & (a == 0) & (d == 0)
    one = (falling & (a == d)) | (rising & (b == c))
    # The pixels that are gone around: a and d (left turn point first), or c and b.
    around_ad = (falling & ~one) | (rising & one)
    around_cb = (rising & ~one) | (falling & one)
    double = around_ad | around_cb
    repeat = 1 + double.astype(np.int64)
    start = np.cumsum(repeat) - repeat
    owner = np.repeat(single, repeat)
    second = start[double] + 1
    owner[start[double]] = np.where(falling, a, c)[double]  # differ only where the full pixels are gone around
    owner[second] = np.where(falling, d, b)[double]
    order = np.zeros(len(owner), dtype=np.int64)
    order[second] = 1
    swapped = start[around_cb]
    order[swapped], order[swapped + 1] = 1, 0
    return np.repeat(x, repeat), np.repeat(y, repeat), owner, order


def _links(
    x: NDArray[np.int64], y: NDArray[np.int64], order_in_column: NDArray[np.int64], mask: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The corner after each corner, going round with the mask on the right hand: outer rings clockwise on screen.

    Along a row of the lattice, sorted by x, corners 0 and 1, 2 and 3, … are joined by an edge; so they are along a
    column, sorted by y.
    """
    padded = np.pad(mask, 1)
    following = np.empty(len(x), dtype=np.int64)
    left, right = np.arange(0, len(x), 2), np.arange(1, len(x), 2)
    below = padded[y[left] + 1, x[left] + 1]  # the pixel under the edge: then the edge runs to the right
    following[np.where(below, left, right)] = np.where(below, right, left)
    columns = np.lexsort((order_in_column, y, x))
    top, bottom = columns[0::2], columns[1::2]
    beside = padded[y[top] + 1, x[top]]  # the pixel left of the edge: then the edge runs down
    following[np.where(beside, top, bottom)] = np.where(beside, bottom, top)
    return following


def _rings(following: NDArray[np.int64]) -> Iterator[list[int]]:
    after = following.tolist()
    seen = bytearray(len(after))
    for first in range(len(after)):
        if seen[first]:
            continue
        ring = []
        corner = first
        while not seen[corner]:
            seen[corner] = 1
            ring.append(corner)
            corner = after[corner]
        yield ring


def _signed_area(corners: NDArray[np.int64]) -> float:
    """Positive for rings that run clockwise on screen (y down)."""
    x, y = corners.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
