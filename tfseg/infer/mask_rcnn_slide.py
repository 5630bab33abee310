"""Instances of a whole slide by Mask R-CNN, field by field, kept on disk: a stopped run goes on.

Fields follow each other by half of their side; of each the outermost sixteenth is looked at and not used, and what is
left are the tiles that :func:`tfseg.infer.instance_stitch.stitch` joins, as in
:func:`tfseg.infer.mask_rcnn.predict_instances`. Beyond its edges the slide is mirrored.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tfseg.infer.band_store import BandStore
from tfseg.infer.dense import DenseResult, predicted_rows, wanted_windows
from tfseg.infer.instance_stitch import Read, Tile, TileGrid
from tfseg.infer.mask_rcnn import CONTEXT, InstancePredictor, PasteOptions, field_px, find_in_fields, tile_px
from tfseg.infer.predictors import Predictor
from tfseg.infer.slide import ProgressCallback
from tfseg.infer.tiles import Streaming
from tfseg.infer.windows import DenseGrid, check_enlarged
from tfseg.slides.base import Slide
from tfseg.slides.tissue import TissueMask
from tfseg.types import ModelError, ModelSpec

_DEFAULT_STREAMING = Streaming()
_LOW, _HIGH, _SCORE = range(3)
"""Planes of the store: a number's two bytes, and the score · 255."""


@dataclass(frozen=True)
class FieldGrid(DenseGrid):
    """The tiles of a slide, ``output_px`` at every ``stride_px`` from its top-left corner; each is a field's middle."""

    @property
    def margin(self) -> tuple[int, int]:
        """(0, 0): tiles begin with their cells."""
        return 0, 0

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of tiles."""
        return self.tiles.shape

    @property
    def tiles(self) -> TileGrid:
        """For :func:`tfseg.infer.instance_stitch.stitch`."""
        side = self.output_px[0]
        return TileGrid(self.pixels.height_px, self.pixels.width_px, side, side - self.stride_px, agree=False)


def field_grid(slide: Slide, spec: ModelSpec) -> FieldGrid:
    """The tiles of a slide for a network.

    Raises:
        ModelError: the spec is none of Mask R-CNN, or its input has no mpp.
        SlideError: the slide's pixels are too large for the network.
    """
    side, mpp = field_px(spec), spec.inputs[0].mpp
    if not mpp:
        raise ModelError(f"{spec.name}: its input has no mpp, so it is not known at which pixel size to read a slide.")
    check_enlarged(slide, mpp)
    tile = tile_px(spec)
    return FieldGrid(slide.size, slide.mpp, (tile, tile), side // 2, mpp)


def find_instances(
    slide: Slide,
    predict: InstancePredictor,
    spec: ModelSpec,
    options: PasteOptions,
    *,
    tissue: TissueMask | None = None,
    min_tissue: float = 0.0,
    open_store: Callable[[bytes, int, int], BandStore] | None = None,
    streaming: Streaming = _DEFAULT_STREAMING,
    progress: ProgressCallback | None = None,
) -> DenseResult:
    """What the network finds in every tile of a slide, for :func:`stored_tiles`.

    Memory: one row of tiles, three bytes a pixel, a few batches of fields, and what the network takes for one.

    Args:
        slide: where to look.
        predict: the network.
        spec: of it.
        options: how detections become labels.
        tissue: tiles with no more than ``min_tissue`` of it are skipped; None skips none.
        min_tissue: fraction.
        open_store: from a key of all that decides about the result, width and planes to the store; None takes a
            temporary file. A store that holds the first rows of tiles is gone on with.
        streaming: fields a call of the network, threads that read.
        progress: called with ("segment", tiles done, tiles in all).

    Returns:
        Its ``grid`` is a :class:`FieldGrid`; its ``store`` has a band a row of tiles, the tiles side by side.

    Raises:
        ModelError, SlideError: as :func:`field_grid`; or the network returns what does not belong together.
        OutputError: the store cannot be written.
    """
    options.check()
    grid = field_grid(slide, spec)
    wanted = wanted_windows(slide, grid, tissue, min_tissue)
    content = [1, asdict(grid), {**spec.to_dict(), "provenance": None}, asdict(options)]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode() + np.packbits(wanted).tobytes()).digest()
    opener = open_store or (lambda key, width, planes: BandStore(None, key, width, planes))
    report = progress or (lambda stage, done, total: None)
    with contextlib.ExitStack() as closing:
        store = closing.enter_context(contextlib.closing(opener(key, grid.shape[1] * grid.tiles.tile_px, 3)))
        resumed = _fill(store, grid, wanted, slide, _labeller(predict, spec, options), spec, streaming, report)
        closing.pop_all()
    return DenseResult(grid, store, wanted, resumed, 0)


def _labeller(predict: InstancePredictor, spec: ModelSpec, options: PasteOptions) -> Predictor:
    """From fields (B, side, side, 3) to their tiles' numbers and scores (B, tile, tile, 2)."""
    context = field_px(spec) // CONTEXT
    middle = slice(context, context + tile_px(spec))

    def label(images: NDArray[np.float32]) -> NDArray[np.float32]:
        tiles = np.empty((len(images), tile_px(spec), tile_px(spec), 2), np.float32)
        for tile, found in zip(tiles, find_in_fields(predict, images, spec, options), strict=True):
            scores = np.zeros(len(found.scores) + 1, np.float32)
            scores[list(found.scores)] = list(found.scores.values())
            labels = found.labels[middle, middle]
            tile[..., 0], tile[..., 1] = labels, scores[labels]
        return tiles

    return label


def _fill(
    store: BandStore,
    grid: FieldGrid,
    wanted: NDArray[np.bool_],
    slide: Slide,
    label: Predictor,
    spec: ModelSpec,
    streaming: Streaming,
    report: ProgressCallback,
) -> int:
    """Appends what is missing of the rows of tiles. Returns the number of tiles that were there."""
    tiles, first = grid.tiles, len(store.starts(_LOW))
    side = tiles.tile_px
    done = resumed = int(wanted[:first].sum())
    total = int(wanted.sum())
    report("segment", done, total)
    single = replace(streaming, batch_size=streaming.batch_size or 1)
    with contextlib.closing(predicted_rows(slide, label, spec, grid, wanted, first, "reflect", single, 2)) as rows:
        for row, found in rows:
            top, _, bottom, _ = tiles.box(row, 0)
            bands = np.zeros((3, bottom - top, store.width), np.uint8)
            for column, values in found:
                numbers, scores = np.moveaxis(values[: bottom - top], -1, 0)
                place = np.s_[:, column * side : (column + 1) * side]
                bands[_LOW][place], bands[_HIGH][place] = numbers % 256, numbers // 256
                bands[_SCORE][place] = np.rint(scores * 255)
                done += 1
                report("segment", done, total)
            store.append(list(bands))
    return resumed


def stored_tiles(store: BandStore, grid: TileGrid, image: Read) -> Iterator[Tile]:
    """The tiles of :func:`find_instances` with their scores, which were kept as bytes.

    Args:
        store: of its result.
        grid: ``result.grid.tiles``.
        image: reads a tile's RGB, such as of :func:`tfseg.infer.instance_outputs.slide_image`.
    """
    row_of, bands = -1, np.empty((3, 0, 0), np.uint8)
    for row, column in grid.tiles():
        if row != row_of:
            row_of, bands = row, np.stack([store.band(plane, row) for plane in range(3)])
        top, left, bottom, right = grid.box(row, column)
        start = column * grid.tile_px
        low, high, score = bands[..., start : start + right - left]
        labels = low.astype(np.int32) + (high.astype(np.int32) << 8)
        numbers, places = np.unique(labels, return_index=True)
        scores = dict(zip(numbers.tolist(), (score.ravel()[places] / 255).tolist(), strict=True))
        yield Tile(labels, image(top, left, bottom - top, right - left), scores)
