"""A network's predictions as labels of a slide, below what pathologists drew; multi-stain multi-level network."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfseg.data.cohort import CohortRow
from tfseg.files import write_json
from tfseg.infer.band_store import BandStore
from tfseg.infer.dense import DenseOptions, DenseResult, segment_dense
from tfseg.infer.fields import tissue_at
from tfseg.infer.job import STATE_FOLDER
from tfseg.infer.networks import Network
from tfseg.infer.summary import content_hash, slide_identity
from tfseg.infer.tiles import Streaming
from tfseg.slides.annotations import Annotation, PolygonAnnotation, load_annotation
from tfseg.slides.base import Slide, open_slide
from tfseg.slides.class_table import ClassTable
from tfseg.slides.rasterise import PixelGrid, within
from tfseg.slides.tiff_writer import write_pyramid
from tfseg.slides.tissue import TissueMask, otsu_tissue_mask, tissue_mask
from tfseg.train.run_config import plain
from tfseg.types import IGNORE, CohortError

_DEFAULT_STREAMING = Streaming()


@dataclass(frozen=True)
class LabelCounts:
    """Pixels of a slide, or of several, in the network's output pixels.

    Attributes:
        pixels: all of the slide.
        tissue: those on tissue.
        manual, manual_tissue: those that somebody annotated, and of them those on tissue.
        labelled, labelled_tissue: those that have a label now, manual ones among them.
    """

    pixels: int = 0
    tissue: int = 0
    manual: int = 0
    manual_tissue: int = 0
    labelled: int = 0
    labelled_tissue: int = 0

    def __add__(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))


def raster_codes(classes: ClassTable) -> tuple[ClassTable, NDArray[np.uint8]]:
    """How labels stand in a label raster so that this table reads them back.

    A label is its own value where the table allows it, as tables of plain class indices do; else the lowest value that
    means it, or, where none does, a value that means nothing yet.

    Returns:
        the table, with values for the classes that had none, and uint8 (256,): label → value. A class that is never a
        target, as class 0 of DMMN, has the value of "not annotated".
    """
    values = dict(classes.values)
    codes = np.zeros(256, np.uint8)
    for label in (IGNORE, *range(len(classes.classes))):
        target = label
        if label != IGNORE and classes.index(classes.classes[label].name) == IGNORE:
            target = IGNORE
        meant = [value for value in (target, *range(256)) if values.get(value) == target]
        free = [value for value in (target, *range(256)) if value not in values]
        if not meant and not free:
            raise CohortError(f"label rasters: all 256 values have a meaning, none is left for label {label}.")
        code = (meant or free)[0]
        values[code] = target
        codes[label] = code
    return dataclasses.replace(classes, values=values), codes


def label_slide(
    row: CohortRow,
    network: Network,
    classes: ClassTable,
    path: Path,
    threshold: float,
    tissue: str = "otsu",
    streaming: Streaming = _DEFAULT_STREAMING,
) -> LabelCounts:
    """Writes a slide's labels: where somebody annotated the manual ones, elsewhere the network's where it is sure.

    ``path`` becomes a label TIFF in the network's output pixels: the class whose probability is highest and at least
    ``threshold``, else "not annotated", in the values of :func:`raster_codes`. A manual label always wins, whatever is
    predicted, and stays where the tissue mask says glass; what is drawn as not annotated ("Ignore*") stays without a
    label (in a label raster, 255 is what nobody drew). A JSON file beside it tells what it was made from; made from
    the same, it is taken as it is. Killed on the way, the next call goes on with the rows of windows that are done.

    Args:
        row: the slide; its annotation may be None.
        network: dense, of the classes of ``classes``.
        classes: of the annotation.
        path: of the TIFF.
        threshold: in 0..1.
        tissue: "otsu" or "saturation": the network labels tissue alone; "none": glass as well.
        streaming: batches and threads.

    Raises:
        CohortError: the class table has another class for what nobody drew, so that there is nothing to label.
        SlideError, AnnotationError: unreadable. OutputError: the disk is full.
    """
    if classes.rest != IGNORE:
        raise CohortError(
            f"cannot label {row.slide_name}: what nobody drew means {classes.classes[classes.rest].name!r} by the "
            "class table, so every pixel has a manual label already. Use a table whose rest is not annotated."
        )
    with open_slide(row.slide, row.mpp) as slide:
        annotation = None if row.annotation is None else load_annotation(row.annotation, slide, classes)
        drawn = None if row.annotation is None else [str(row.annotation), row.annotation.stat().st_mtime_ns]
        what = [slide_identity(slide), slide.mpp, network.identity, drawn, plain(asdict(classes)), threshold, tissue]
        key = content_hash([2, *what])
        note = path.with_suffix(".json")
        state = path.parent / STATE_FOLDER / f"{path.stem}.dense"
        found = _finished(path, note, key)
        if found is not None:
            _drop(state)  # killed after the note, before the state was gone
            return found
        mask = tissue_mask(slide) if tissue == "saturation" else otsu_tissue_mask(slide)

        def opened(inner: bytes, width: int, planes: int) -> BandStore:
            return BandStore(state, bytes.fromhex(content_hash([inner.hex(), key])), width, planes)

        result = segment_dense(
            slide,
            network.predict,
            network.spec,
            DenseOptions(tissue="none", threshold=threshold, below="ignore"),
            tissue=None if tissue == "none" else mask,
            open_store=opened,
            streaming=streaming,
        )
        note.unlink(missing_ok=True)  # from here on the slide is not finished
        with contextlib.closing(result.store):
            counts = write_labels(path, slide, result, annotation, classes, mask, tissue != "none")
    write_json(note, {"key": key, **asdict(counts)})
    _drop(state)
    return counts


def _drop(state: Path) -> None:
    state.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another slide's state may be there
        state.parent.rmdir()


def _finished(path: Path, note: Path, key: str) -> LabelCounts | None:
    """The counts of a label TIFF that was made from what ``key`` stands for; None where there is none."""
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        same = path.is_file() and content.pop("key") == key
        return LabelCounts(**content) if same else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_labels(
    path: Path,
    slide: Slide,
    result: DenseResult,
    manual: Annotation | None,
    classes: ClassTable,
    tissue: TissueMask,
    tissue_only: bool,
) -> LabelCounts:
    """Manual labels over predicted ones as a label TIFF at the network's output pixels; bounded memory.

    Args:
        path: of the TIFF, written whole or not at all.
        slide: the slide.
        result: its predicted labels, 255 where the network is not sure.
        manual: what was drawn; None is nothing.
        classes: give the values and colours.
        tissue: of the slide, for the counts.
        tissue_only: whether predictions outside of it are dropped.
    """
    codes = raster_codes(classes)[1]
    source = _Labels(slide, result, manual, tissue, tissue_only, codes)
    pixels = result.grid.pixels
    colors = {int(codes[label]): spec.color for label, spec in enumerate(classes.classes)}
    colors[int(codes[IGNORE])] = (255, 255, 255)
    mpp = pixels.step_x * slide.mpp, pixels.step_y * slide.mpp
    write_pyramid(path, source, mpp=mpp, kind="label", colors=colors)
    return source.counts


class _Labels:
    """A TileSource; ``counts`` is of the tiles that were read, each of which :func:`write_pyramid` reads once."""

    dtype = np.uint8

    def __init__(
        self,
        slide: Slide,
        result: DenseResult,
        manual: Annotation | None,
        tissue: TissueMask,
        tissue_only: bool,
        codes: NDArray[np.uint8],
    ) -> None:
        self._slide, self._manual, self._codes = slide, manual, codes
        self._tissue, self._tissue_only = tissue, tissue_only
        self._grid, self._plane = result.grid.pixels, result.store.plane(0)
        self.shape: tuple[int, ...] = self._grid.shape
        self.counts = LabelCounts()

    def tile(self, row0: int, col0: int, height: int, width: int) -> NDArray[np.uint8]:
        """Pixels [row0, row0 + height) × [col0, col0 + width)."""
        part = self._grid.part(row0, col0, height, width)
        columns, rows = within(self._slide.size, part)
        inside = rows[:, None] & columns
        tissue = tissue_at(self._tissue, *part.centres()) & inside
        labels = self._plane.rows(row0, height)[:, col0 : col0 + width].copy()
        labels[~(tissue if self._tissue_only else inside)] = IGNORE
        drawn = np.zeros(labels.shape, bool)
        if self._manual is not None:
            manual = self._manual.labels_on(part)
            drawn = manual != IGNORE
            labels[drawn] = manual[drawn]
            labels[_left_out(self._manual, part)] = IGNORE
        values = self._codes[labels]
        known = values != self._codes[IGNORE]
        counted = (inside, tissue, drawn, drawn & tissue, known, known & tissue)
        self.counts += LabelCounts(*(int(np.count_nonzero(one)) for one in counted))
        return values


def _left_out(annotation: Annotation, grid: PixelGrid) -> NDArray[np.bool_]:
    """Which pixels somebody drew as "not annotated": labelled so whatever the rest is called."""
    if not isinstance(annotation, PolygonAnnotation):
        return np.zeros(grid.shape, bool)
    labels = PolygonAnnotation(annotation.polygons, annotation.slide_size, rest=0).labels_on(grid)
    return labels == IGNORE
