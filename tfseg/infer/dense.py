"""Every pixel of a slide by a dense network: windows, blended where they overlap, to labels and probabilities on disk.

A network is *dense* when it labels the pixels of a window of known µm/px (``ModelSpec.dense``): one field or several
concentric ones go in, the probabilities of the pixels at their centre come out. Deep multi-magnification networks and
the multi-level network are of this kind, and so is any U-Net on patches.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from tfseg.infer.band_store import BandStore
from tfseg.infer.blend import Blend
from tfseg.infer.dense_options import DenseOptions, Rule
from tfseg.infer.fields import to_bytes
from tfseg.infer.predictors import Predictor
from tfseg.infer.tiles import BATCH, Streaming, predict_batches
from tfseg.infer.windows import Border, DenseGrid, dense_grid, read_fields
from tfseg.slides.base import Slide
from tfseg.slides.tissue import TissueMask
from tfseg.types import ModelSpec, SlideError

__all__ = ["DenseOptions", "DenseResult", "class_file_name", "segment_dense"]

ProgressCallback = Callable[[str, int, int], None]

_DEFAULT_STREAMING = Streaming()
_CHUNK_VALUES = 2**22
"""Most probabilities that are turned into labels at once."""


@dataclass(frozen=True)
class DenseResult:
    """A slide's labels and, where asked for, probabilities, on disk.

    Attributes:
        grid: the pixels and the windows.
        store: plane 0 holds class indices, planes 1 to C probabilities · 255, where they were asked for.
        predicted: bool (rows, columns), the windows that were not skipped.
        resumed: windows taken over from an interrupted run.
        background: class of skipped pixels.
    """

    grid: DenseGrid
    store: BandStore
    predicted: NDArray[np.bool_]
    resumed: int
    background: int

    @property
    def labels(self) -> NDArray[np.uint8]:
        """All class indices, uint8 (H, W): for slides that fit into memory."""
        return self.store.plane(0).rows(0, self.store.rows)


def segment_dense(
    slide: Slide,
    predict: Predictor,
    spec: ModelSpec,
    options: DenseOptions | None = None,
    *,
    tissue: TissueMask | None = None,
    probabilities: bool = False,
    open_store: Callable[[bytes, int, int], BandStore] | None = None,
    streaming: Streaming = _DEFAULT_STREAMING,
    progress: ProgressCallback | None = None,
) -> DenseResult:
    """Labels every pixel of a slide.

    Windows go through the network row by row. Where outputs overlap, a pixel's probabilities are Σ w·p / Σ w with the
    weights of :func:`tfseg.infer.blend.taper`; rows that no later window reaches become labels and go to the store. So
    memory is bounded by one row of windows, output height × slide width × C float32, and the result depends neither on
    batch size nor on threads, beyond rounding inside the network. A store that holds the first rows already is gone on
    with: windows that still reach into what is missing are computed again, in the same batches, and the result is the
    same to the bit.

    Args:
        slide: what to label.
        predict: the network: one float32 (B, H, W, 3) batch an input → (B, h, w, C).
        spec: its spec.
        options: how.
        tissue: windows with no more than ``options.min_tissue`` of it are skipped; None skips none.
        probabilities: also keep the probabilities.
        open_store: from a key of all that decides about the result, width and planes to the store; None takes a
            temporary file.
        streaming: batches and threads.
        progress: called with ("segment", windows done, windows in all).

    Raises:
        ModelError: the spec is not one of a dense network, an option cannot be, or the network returns something else
            than it says.
        SlideError: no tissue, or unreadable.
        OutputError: the store cannot be written.
    """
    options = (options or DenseOptions()).filled(border="zero")
    options.check()
    grid = dense_grid(slide, spec, options.stride_px)
    rule = Rule.of(spec.classes, options)
    wanted = wanted_windows(slide, grid, tissue, options.min_tissue)
    key = _key(grid, spec, options, wanted, probabilities)
    planes = 1 + len(spec.classes) * probabilities
    opener = open_store or (lambda key, width, planes: BandStore(None, key, width, planes))
    with contextlib.ExitStack() as closing:
        store = closing.enter_context(contextlib.closing(opener(key, grid.pixels.width_px, planes)))
        resumed = _fill(slide, predict, spec, options, grid, wanted, rule, store, probabilities, streaming, progress)
        closing.pop_all()
    return DenseResult(grid, store, wanted, resumed, rule.background)


def _fill(
    slide: Slide,
    predict: Predictor,
    spec: ModelSpec,
    options: DenseOptions,
    grid: DenseGrid,
    wanted: NDArray[np.bool_],
    rule: Rule,
    store: BandStore,
    probabilities: bool,
    streaming: Streaming,
    progress: ProgressCallback | None,
) -> int:
    """Appends what is missing of the slide's rows. Returns the number of windows that were there."""
    first, done = grid.first_row_at(store.rows), store.rows
    resumed = int(wanted[: first if done < grid.pixels.height_px else None].sum())
    report, total = progress or (lambda stage, done, total: None), int(wanted.sum())
    report("segment", resumed, total)
    if done < grid.pixels.height_px:
        blend = Blend(grid, len(spec.classes))
        rows = predicted_rows(slide, predict, spec, grid, wanted, first, options.border or "zero", streaming)
        counted = resumed
        with contextlib.closing(rows):
            for row, windows in rows:
                for column, values in windows:
                    blend.add(row, column, values)
                    counted += 1
                    report("segment", counted, total)
                end = grid.rows_done_after(row)
                if end > store.rows:
                    store.append(_bands(blend, row, store.rows, end, rule, probabilities))
                blend.advance()
    return resumed


def class_file_name(name: str) -> str:
    """A class's name as part of a file name: letters, digits, dot and minus stay, anything else becomes "_"."""
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in name)


def _bands(blend: Blend, row: int, start: int, end: int, rule: Rule, probabilities: bool) -> list[NDArray[np.uint8]]:
    """Rows of pixels [start, end) of the row of windows ``row``: labels, and each class's probability · 255."""
    top = blend.grid.corner(row, 0)[0]
    width, classes = blend.sums.shape[1:]
    bands = [np.empty((end - start, width), np.uint8) for _ in range(1 + classes * probabilities)]
    count = max(1, _CHUNK_VALUES // (width * classes))
    for first in range(start, end, count):
        part = slice(first - top, min(end, first + count) - top)
        total = blend.total[part]
        skipped = total == 0
        found = np.divide(blend.sums[part], np.where(skipped, np.float32(1), total)[..., None], dtype=np.float32)
        found[skipped] = np.eye(classes, dtype=np.float32)[rule.background]
        labels = rule.labels(found)
        labels[skipped] = rule.background
        target = slice(first - start, first - start + len(labels))
        bands[0][target] = labels
        for index, band in enumerate(bands[1:]):
            band[target] = to_bytes(found[..., index])
    return bands


def predicted_rows(
    slide: Slide,
    predict: Predictor,
    spec: ModelSpec,
    grid: DenseGrid,
    wanted: NDArray[np.bool_],
    first: int,
    border: Border,
    streaming: Streaming,
    planes: int | None = None,
) -> Generator[tuple[int, Iterator[tuple[int, NDArray[np.float32]]]], None, None]:
    """(row, (column, probabilities (h, w, C)) …) of every row of windows from ``first`` on; all must be taken.

    C is ``planes``, or the number of the spec's classes. Batches end with their row, so that they hold the same windows
    wherever a run begins.
    """
    columns = [np.flatnonzero(row).tolist() for row in wanted]
    size = streaming.batch_size or BATCH
    batches = (
        [(row, column) for column in columns[row][start : start + size]]
        for row in range(first, len(columns))
        for start in range(0, len(columns[row]), size)
    )
    stream = predict_batches(
        batches,
        lambda batch: read_fields(slide, spec.inputs, [grid.centre(*cell) for cell in batch], border),
        predict,
        (*grid.output_px, planes or len(spec.classes)),
        streaming.readers,
    )

    def windows(row: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for start in range(0, len(columns[row]), size):
            yield from zip(columns[row][start : start + size], next(stream), strict=True)

    with contextlib.closing(stream):
        for row in range(first, len(columns)):
            yield row, windows(row)


def wanted_windows(slide: Slide, grid: DenseGrid, tissue: TissueMask | None, min_tissue: float) -> NDArray[np.bool_]:
    """Which windows are predicted, bool (rows, columns)."""
    rows, columns = grid.shape
    if tissue is None:
        return np.ones((rows, columns), bool)
    fractions = np.array([[tissue.fraction(grid.bounds(r, c)) for c in range(columns)] for r in range(rows)])
    if not (fractions > min_tissue).any():
        raise SlideError(
            f"{slide.path or slide.name}: no tissue: none of {rows} × {columns} windows has more than {min_tissue:.0%} "
            f"of it; the fullest has {fractions.max():.1%}. Check the slide, lower --min-tissue, or segment all of it "
            "(--tissue none)."
        )
    return fractions > min_tissue


def _key(
    grid: DenseGrid, spec: ModelSpec, options: DenseOptions, wanted: NDArray[np.bool_], probabilities: bool
) -> bytes:
    """Changes with all that decides about the pixels but slide file and weights, which the caller knows."""
    content = [1, asdict(grid), {**spec.to_dict(), "provenance": None}, asdict(options), probabilities]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode() + np.packbits(wanted).tobytes()).digest()
