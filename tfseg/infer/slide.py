"""From a slide and a patch classifier to a heatmap (H2G-Net, section 2.5)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfseg.files import atomic_path
from tfseg.geometry import Grid
from tfseg.infer.fields import Field, foreground
from tfseg.infer.predictors import Predictor
from tfseg.infer.tiles import Streaming, predict_windows
from tfseg.slides.base import Slide
from tfseg.slides.rasterise import PixelGrid
from tfseg.slides.tissue import TissueMask
from tfseg.types import ModelError, ModelSpec, OutputError, SlideError, TfsegError

ProgressCallback = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""

_DEFAULT_STREAMING = Streaming()


@dataclass(frozen=True)
class Heatmap:
    """Class probabilities of a slide, one vector a cell of a grid.

    Attributes:
        probabilities: float32 (rows, columns, C). Cells that were not classified hold 1 for class 0, 0 for the others.
        grid: where the cells lie; the last row and column may reach past the slide's edge.
        classified: bool (rows, columns), the cells with enough tissue.
        resumed: cells taken over from an interrupted run.
    """

    probabilities: NDArray[np.float32]
    grid: Grid
    classified: NDArray[np.bool_]
    resumed: int = 0

    @cached_property
    def foreground(self) -> NDArray[np.float32]:
        """Probability of any class but 0, float32 (rows, columns)."""
        return foreground(self.probabilities)

    def field(self, smooth: bool) -> Field:
        """The probabilities as values on the slide; see :class:`tfseg.infer.fields.Field`."""
        return Field(self.probabilities, (self.grid.stride_level0, self.grid.stride_level0), smooth)


@dataclass(frozen=True)
class Checkpoint:
    """Where a heatmap that is being made is kept, so that a run that was killed goes on.

    Attributes:
        path: an .npz file, written whole or not at all; the caller removes it when it is no longer needed.
        identity: of slide file and network. State of another identity, or another choice of patches, is not used.
        seconds: between two writings.
    """

    path: Path
    identity: str
    seconds: float = 3.0


def heatmap(
    slide: Slide,
    predict: Predictor,
    spec: ModelSpec,
    tissue: TissueMask | None = None,
    *,
    min_tissue: float = 0.25,
    streaming: Streaming = _DEFAULT_STREAMING,
    checkpoint: Checkpoint | None = None,
    progress: ProgressCallback | None = None,
) -> Heatmap:
    """Classifies every patch with enough tissue and stitches the probabilities.

    Reading and computing overlap; memory is bounded by ``streaming`` and the size of the grid. Interrupted in whatever
    way and called again with the same ``checkpoint``, it goes on and gives the same result.

    Args:
        slide: what to classify.
        predict: the classifier.
        spec: its spec: patch size, stride and mpp.
        tissue: of the slide; None classifies every patch.
        min_tissue: only patches with more than this fraction of tissue are classified.
        streaming: batches and threads.
        checkpoint: where state is kept; None keeps none.
        progress: called with ("classify", patches done, patches in all).

    Raises:
        ModelError: the spec is not one of a patch classifier, or the network returns something else than it says.
        SlideError: smaller than a patch, no patch with enough tissue, or unreadable.
        OutputError: state cannot be written.
    """
    grid = patch_grid(slide, spec)
    cells = _cells(slide, grid, tissue, min_tissue)
    rows, columns = grid.shape
    probabilities = np.zeros((rows, columns, len(spec.classes)), np.float32)
    probabilities[..., 0] = 1
    state = _State(checkpoint, grid, cells, len(spec.classes)) if checkpoint is not None else None
    found = np.empty((len(cells), len(spec.classes)), np.float32)
    done = resumed = state.load(found) if state is not None else 0
    windows = [grid.window(row, column) for row, column in cells[done:].tolist()]
    try:
        if progress is not None:
            progress("classify", done, len(cells))
        with contextlib.closing(predict_windows(slide, windows, predict, len(spec.classes), streaming)) as batches:
            for batch in batches:
                found[done : done + len(batch)] = batch
                done += len(batch)
                if state is not None:
                    state.save_sometimes(found[:done])
                if progress is not None:
                    progress("classify", done, len(cells))
    except BaseException:
        if state is not None:
            with contextlib.suppress(TfsegError):  # what stopped the run matters more than that its state is older
                state.save(found[:done])
        raise
    if state is not None:
        state.save(found)
    probabilities[cells[:, 0], cells[:, 1]] = found
    classified = np.zeros((rows, columns), bool)
    classified[cells[:, 0], cells[:, 1]] = True
    return Heatmap(probabilities, grid, classified, resumed)


def patch_grid(slide: Slide, spec: ModelSpec) -> Grid:
    """The grid of patches that a classifier's spec asks for. Raises ModelError or SlideError."""
    check_classifier(spec)
    side, mpp, stride = spec.inputs[0].size_px[0], spec.inputs[0].mpp, spec.stride_px
    assert mpp is not None and stride is not None
    grid = Grid(slide.size, slide.mpp, side, stride, mpp)
    if min(slide.size) < grid.patch_level0:
        width, height = (length * slide.mpp / mpp for length in slide.size)
        raise SlideError(
            f"{slide.path or slide.name}: {width:.0f} × {height:.0f} px at {mpp:g} µm/px, smaller than a patch of "
            f"{side} × {side}. Check the slide's mpp ({slide.mpp:g}, from {slide.mpp_source}), or use a classifier of "
            "smaller patches or of a finer mpp."
        )
    return grid


def check_classifier(spec: ModelSpec) -> None:
    """Raises ModelError unless ``spec`` is one of a patch classifier: one square image of known mpp, and a stride."""
    image = spec.inputs[0] if len(spec.inputs) == 1 else None
    fits = image is not None and image.kind == "image" and image.size_px[0] == image.size_px[1] and image.mpp
    if spec.task != "classification" or not fits or not spec.stride_px:
        raise ModelError(
            f"{spec.name}: not a patch classifier. Expected task classification, one square image input with an mpp, "
            f"and stride_px. Received: task {spec.task}, inputs {[asdict(i) for i in spec.inputs]}, "
            f"stride_px {spec.stride_px}."
        )


def heatmap_to_field(heatmap: Heatmap, size_px: tuple[int, int]) -> NDArray[np.float32]:
    """Foreground probability on the whole slide resized to ``size_px``, as the refinement network takes it.

    The centre of each output pixel is looked up on the slide: level-0 position → cells, x / stride − ½ → linear
    interpolation between cell centres; outside the outermost centres the outermost value. So the heatmap fits the
    picture of :meth:`Slide.fit` although its last cells reach past the slide's edge.

    Args:
        heatmap: of the slide.
        size_px: (h, w).

    Returns:
        float32 (h, w).
    """
    height, width = size_px
    slide_width, slide_height = heatmap.grid.slide_size
    x, y = PixelGrid(0.0, 0.0, slide_width / width, slide_height / height, width, height).centres()
    field = heatmap.field(smooth=True)
    return Field(heatmap.foreground[..., None], field.step, field.smooth).at(x, y)[..., 0]


def _cells(slide: Slide, grid: Grid, tissue: TissueMask | None, min_tissue: float) -> NDArray[np.int64]:
    """(row, column) of the cells to classify, (N, 2), row by row."""
    if tissue is None:
        return np.argwhere(np.ones(grid.shape, bool))
    fractions = tissue.fractions(grid)
    cells = np.argwhere(fractions > min_tissue)
    if not len(cells):
        most = "" if not fractions.size else f"; the fullest has {float(fractions.max()):.1%}"
        raise SlideError(
            f"{slide.path or slide.name}: no tissue: none of {grid.shape[0]} × {grid.shape[1]} patches has more than "
            f"{min_tissue:.0%} of it{most}. Check the slide; for faint stains lower `saturation` (tissue) or "
            "`min_tissue` in the model's config.json."
        )
    return cells


class _State:
    """The checkpoint's file: the probabilities of the first cells, in the order in which they are classified."""

    def __init__(self, checkpoint: Checkpoint, grid: Grid, cells: NDArray[np.int64], num_classes: int) -> None:
        self._path, self._seconds = checkpoint.path, checkpoint.seconds
        content = json.dumps([1, checkpoint.identity, asdict(grid), num_classes]).encode() + cells.tobytes()
        self._key = hashlib.sha256(content).hexdigest()
        self._saved_at, self._saved = time.monotonic(), 0

    def load(self, found: NDArray[np.float32]) -> int:
        """Fills in what is known; returns how many cells that is. State that cannot be read or is another's is none."""
        try:
            with np.load(self._path, allow_pickle=False) as content:
                if str(content["key"]) != self._key:
                    return 0
                known = content["probabilities"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return 0
        found[: len(known)] = known
        self._saved = len(known)
        return len(known)

    def save_sometimes(self, known: NDArray[np.float32]) -> None:
        if time.monotonic() - self._saved_at >= self._seconds:
            self.save(known)

    def save(self, known: NDArray[np.float32]) -> None:
        if len(known) > self._saved:
            try:
                self._write(known)
            except OutputError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                self._write(known)  # the slide before removed the folder, which was empty
            self._saved = len(known)
        self._saved_at = time.monotonic()

    def _write(self, known: NDArray[np.float32]) -> None:
        with atomic_path(self._path) as temporary, temporary.open("wb") as file:
            np.savez(file, key=np.asarray(self._key), probabilities=known)
