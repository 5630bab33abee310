"""Instances of a picture that is labelled in overlapping tiles: each found once and whole, one row of tiles in memory.

Tiles come row by row. **The first tile that sees an instance whole owns it**: whole is what does not touch an edge that
the tile has inside the picture. The owner's pixels are taken; a later tile's instance that lies on taken pixels with
more than half of its own is the same one seen again, and is dropped; one that lies on fewer loses them and keeps the
largest 4-connected rest.

So every 8-connected instance whose bounding box is smaller than the overlap (at most overlap − 1 pixels each way) comes
back once and unchanged where the tiles agree, and once, in its owner's form, where they do not quite agree: along each
axis the last tile that begins before the instance ends behind it. (Of an instance in several parts a tile may see one
and not the others, and take it for the whole.)

An instance that no tile sees whole is **cut along the tiles' cores**, the parts before the next tile begins, into one
piece a tile: no pixel is lost, none counts twice, and every piece says that it is none whole (``whole`` is False). When
a core is passed, all tiles that reach it have been seen, so a piece is known at once, and rows above the next row of
tiles never change again.

Tiles of a network that draws instances itself **do not agree** (``TileGrid.agree`` is False): of a nucleus that one
finds at its edge, another may have seen the whole and found nothing, or something else. What touches an edge is then
left to the tile beyond it, which sees it better, unless what is seen reaches as far from the edge as the overlap: that
one does not see the whole either. Then the piece is all that is seen, less what is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from tfseg.infer.instances import number
from tfseg.types import ModelError

Read = Callable[[int, int, int, int], NDArray]
"""From (top, left, height, width) to those pixels of a picture, (height, width[, C])."""
Label = Callable[[NDArray], "ArrayLike | tuple[ArrayLike, Mapping[int, float]]"]
"""From pixels (h, w[, C]) to labels (h, w), integers, 0 background; or to these and a score a label."""
TakeRows = Callable[[NDArray[np.uint32]], None]
"""Takes the next finished rows of the label picture, uint32 (rows, W); they are overwritten afterwards."""


@dataclass(frozen=True)
class TileGrid:
    """Square tiles that cover a picture with overlap, from its top-left corner; those at its end may be smaller.

    Attributes:
        height_px, width_px: of the picture.
        tile_px: side of a tile.
        overlap_px: pixels that neighbours share; larger than every instance.
        agree: whether neighbours label what they share in the same way, but for how an instance goes on.

    Raises:
        ModelError: no picture, or an overlap that is not from 0 to tile_px − 1.
    """

    height_px: int
    width_px: int
    tile_px: int = 1024
    overlap_px: int = 128
    agree: bool = True

    def __post_init__(self) -> None:
        if min(self.height_px, self.width_px) < 1:
            raise ModelError(f"tiles need a picture of at least 1 × 1 px. Got {self.width_px} × {self.height_px}.")
        if not 0 <= self.overlap_px < self.tile_px:
            raise ModelError(
                f"tiles of {self.tile_px} px: expected an overlap from 0 to {self.tile_px - 1} px. Got "
                f"{self.overlap_px}. Take one that is larger than the largest nucleus."
            )

    @property
    def step_px(self) -> int:
        """From one tile to the next."""
        return self.tile_px - self.overlap_px

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of tiles."""
        rows, columns = (
            max(1, -(-(side - self.overlap_px) // self.step_px)) for side in (self.height_px, self.width_px)
        )
        return rows, columns

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of a tile."""
        top, left = row * self.step_px, column * self.step_px
        return top, left, min(self.height_px, top + self.tile_px), min(self.width_px, left + self.tile_px)

    def core(self, row: int, column: int) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of the part before the next tiles begin; the cores fill the picture."""
        top, left, bottom, right = self.box(row, column)
        rows, columns = self.shape
        bottom = bottom if row + 1 == rows else top + self.step_px
        return top, left, bottom, right if column + 1 == columns else left + self.step_px

    def tiles(self) -> Iterator[tuple[int, int]]:
        """(row, column) of every tile, row by row."""
        rows, columns = self.shape
        for row in range(rows):
            for column in range(columns):
                yield row, column


@dataclass(frozen=True)
class Tile:
    """What was found in a tile.

    Attributes:
        labels: integers (h, w), 0 background; any numbers, they mean nothing in other tiles.
        image: uint8 RGB (h, w, 3) of the same pixels, for measurements; or None.
        scores: label → how certain the instance is, 0..1; None where nobody says.
    """

    labels: ArrayLike
    image: NDArray[np.uint8] | None = None
    scores: Mapping[int, float] | None = None


@dataclass(frozen=True)
class Instance:
    """One instance of the whole picture.

    Attributes:
        id: 1, 2 … in order of discovery.
        top, left: of its bounding box, in the picture's pixels.
        mask: bool (h, w), its pixels in the bounding box.
        image: uint8 RGB (h, w, 3), the bounding box in the tile's image; None where the tile had none.
        whole: False for the piece of an instance that no tile saw whole.
        score: as its tile says, 0..1; None where it says none.
    """

    id: int
    top: int
    left: int
    mask: NDArray[np.bool_]
    image: NDArray[np.uint8] | None = None
    whole: bool = True
    score: float | None = None


def stitch(grid: TileGrid, tiles: Iterable[Tile], rows: TakeRows | None = None) -> Iterator[Instance]:
    """Every instance of the picture, once; see the module's text for the rule.

    Memory: the label picture in one row of tiles, 4 · tile_px · width bytes, and a tile.

    Args:
        grid: where the tiles lie.
        tiles: one for each of ``grid.tiles()``, in that order; consumed one at a time.
        rows: called with the label picture from top to bottom, a row of tiles at a time: uint32, ids, 0 background.

    Yields:
        Instances, a tile's whole ones before its pieces.

    Raises:
        ModelError: too few or too many tiles, or labels of another shape than the grid's tile.
    """
    canvas = np.zeros((min(grid.tile_px, grid.height_px), grid.width_px), np.uint32)
    given = iter(tiles)
    last_row, last_column = (count - 1 for count in grid.shape)
    found = 0
    for row, column in grid.tiles():
        tile = next(given, None)
        if tile is None:
            raise ModelError(
                f"expected {grid.shape[0]} × {grid.shape[1]} tiles, got none for row {row}, column {column}."
            )
        for instance in _new_in(grid, row, column, tile, canvas, found):
            found = instance.id
            yield instance
        if column == last_column:
            done = grid.core(row, column)[2] - grid.core(row, column)[0]
            if rows is not None:
                rows(canvas[:done])
            if row < last_row:
                canvas[:-done] = canvas[done:].copy() if done < len(canvas) - done else canvas[done:]
                canvas[len(canvas) - done :] = 0
    if next(given, None) is not None:
        raise ModelError(f"more tiles than the grid's {grid.shape[0]} × {grid.shape[1]}.")


def _new_in(
    grid: TileGrid, row: int, column: int, tile: Tile, canvas: NDArray[np.uint32], found: int
) -> Iterator[Instance]:
    """The instances that begin with this tile; they are drawn on the canvas, whose first row is the tile's."""
    top, left, bottom, right = grid.box(row, column)
    labels = np.asarray(tile.labels)
    if labels.shape != (bottom - top, right - left) or not np.issubdtype(labels.dtype, np.integer):
        raise ModelError(
            f"tile of row {row}, column {column}: expected integer labels {(bottom - top, right - left)}. Received: "
            f"{labels.dtype} {labels.shape}."
        )
    given, labels = labels, number(labels)
    inner = (top > 0, left > 0, bottom < grid.height_px, right < grid.width_px)
    taken = canvas[: bottom - top, left:right]
    core_top, core_left, core_bottom, core_right = grid.core(row, column)
    core = labels[: core_bottom - core_top, : core_right - core_left]
    boxes = ndimage.find_objects(labels)
    reaches = [_reach(box, labels.shape, inner) for box in boxes]
    wanted = [
        (label, box, labels, True)
        for label, (box, reach) in enumerate(zip(boxes, reaches, strict=True), 1)
        if not reach
    ]
    if any(reaches):
        picture = core if grid.agree else labels
        pieces = ndimage.find_objects(picture, max_label=len(boxes))
        wanted += [
            (label, box, picture, False)
            for label, (box, reach) in enumerate(zip(pieces, reaches, strict=True), 1)
            if reach and box is not None and (grid.agree or min(reach) >= grid.overlap_px)
        ]
    for label, box, picture, fits in wanted:
        mask = _free(picture[box] == label, taken[box])
        if mask is None:
            continue
        (rows, columns), mask = _trimmed(mask)
        y, x = box[0].start + rows, box[1].start + columns
        place = (slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1]))
        found += 1
        taken[place][mask] = found
        image = None if tile.image is None else tile.image[place]
        score = None if tile.scores is None else tile.scores.get(int(given[place][mask][0]))
        yield Instance(found, top + y, left + x, mask, image, fits, score)


def _reach(box: tuple[slice, slice], shape: tuple[int, int], inner: tuple[bool, bool, bool, bool]) -> list[int]:
    """How far an instance reaches into a tile from the edges inside the picture that it touches; [] where none."""
    rows, columns = box
    touched = (
        (inner[0] and rows.start == 0) or (inner[2] and rows.stop == shape[0]),
        (inner[1] and columns.start == 0) or (inner[3] and columns.stop == shape[1]),
    )
    return [side.stop - side.start for side, edge in zip(box, touched, strict=True) if edge]


def _free(mask: NDArray[np.bool_], taken: NDArray[np.uint32]) -> NDArray[np.bool_] | None:
    """What is left of an instance: all of it, the largest part that is free, or None where most of it is taken."""
    free = mask & (taken == 0)
    left, area = np.count_nonzero(free), np.count_nonzero(mask)
    if left == area:
        return mask
    if 2 * left < area:
        return None
    parts = ndimage.label(free)[0]
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1


def _trimmed(mask: NDArray[np.bool_]) -> tuple[tuple[int, int], NDArray[np.bool_]]:
    """((row, column) of the first pixels, the mask without empty rows and columns around)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (int(rows[0]), int(columns[0])), mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def label_tiles(
    grid: TileGrid,
    read: Read,
    label: Label,
    *,
    context_px: int = 64,
    image: Read | None = None,
) -> Iterator[Tile]:
    """Labels a picture tile by tile, for :func:`stitch`.

    What ``read`` gives and ``label`` takes is left to the two: probabilities of a dense network, or the picture itself
    for a network that finds instances in it.

    A tile is labelled together with ``context_px`` more pixels on every side, so that where a nucleus is split depends
    little on where the tile ends, and neighbours agree. Make it about as large as a nucleus.

    Args:
        grid: where the tiles lie.
        read: such as :class:`tfseg.infer.instance_outputs.StoredProbabilities`, or what
            :func:`tfseg.infer.instance_outputs.slide_image` returns.
        label: of what was read, such as :func:`tfseg.infer.instances.label_instances`, or also its scores.
        context_px: more pixels on every side that are labelled and then cut off.
        image: reads the tile's RGB, uint8 (h, w, 3), at the picture's pixels; None leaves images out.
    """
    for row, column in grid.tiles():
        top, left, bottom, right = grid.box(row, column)
        y, x = max(0, top - context_px), max(0, left - context_px)
        height, width = min(grid.height_px, bottom + context_px) - y, min(grid.width_px, right + context_px) - x
        found = label(read(y, x, height, width))
        given, scores = found if isinstance(found, tuple) else (found, None)
        labels = np.asarray(given)[top - y : bottom - y, left - x : right - x]
        yield Tile(labels, None if image is None else image(top, left, bottom - top, right - left), scores)
