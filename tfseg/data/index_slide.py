"""One slide's part of the patch index: tissue, grid, labels, overview picture."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tfseg.data.cohort import CohortRow
from tfseg.data.overview import DROPPED, UNANNOTATED, draw_overview, write_png
from tfseg.files import atomic_path
from tfseg.geometry import Grid
from tfseg.slides.annotations import Annotation, load_annotation
from tfseg.slides.base import Slide, open_slide
from tfseg.slides.class_table import ClassTable
from tfseg.slides.tissue import tissue_mask
from tfseg.types import IGNORE, CohortError, SlideError, Window

_PART_VERSION = 1
_METADATA = b"tfseg"


@dataclass(frozen=True)
class IndexConfig:
    """How patches are found and labelled. Defaults are H2G-Net's, section 2.2.

    Attributes:
        patch_px: side of a patch.
        stride_px: step between patches.
        mpp: µm/px of the patches; 1.0 is 10x.
        min_tissue: patches with more than this fraction of tissue are kept. What lies outside the slide is no tissue;
            a patch whose centre is outside is never kept.
        min_foreground: a patch with more than this fraction of foreground (any class but 0) belongs to the foreground
            class that covers most of it; without any foreground and wholly annotated it is of class 0; else it is
            dropped.
        label_mpp: µm/px at which annotations are rasterised to measure these fractions; None takes 4 · mpp. "Without
            any foreground" is thus meant at this resolution.
        tissue: arguments of ``tfseg.slides.tissue.tissue_mask``.

    Raises:
        CohortError: a value makes no sense.
    """

    patch_px: int = 256
    stride_px: int = 256
    mpp: float = 1.0
    min_tissue: float = 0.25
    min_foreground: float = 0.25
    label_mpp: float | None = None
    tissue: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("patch_px", "stride_px", "mpp", "label_mpp"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise CohortError(f"index: {name} must be above 0. Received: {value}.")
        for name in ("min_tissue", "min_foreground"):
            if not 0 <= getattr(self, name) < 1:
                raise CohortError(f"index: {name} is a fraction, 0 ≤ value < 1. Received: {getattr(self, name)}.")

    def window(self, x: float, y: float) -> Window:
        """The patch whose centre is (x, y), in level-0 pixels."""
        return Window(x, y, self.patch_px, self.patch_px, self.mpp)


@dataclass(frozen=True)
class SlidePatches:
    """A part of the index.

    Attributes:
        table: x, y (float64), tissue, foreground (float32), class_index (uint8).
        info: path, size, mpp, mpp_source, counts (patches by class name, "unannotated", "dropped", "no_tissue").
    """

    table: pd.DataFrame
    info: dict[str, Any]


def part_key(row: CohortRow, config: IndexConfig, classes: ClassTable) -> str:
    """Changes whenever the part would: configuration, classes, or path, size and time of change of the files."""
    files = [_stamp(path) for path in (row.slide, row.annotation) if path is not None]
    content = [_PART_VERSION, asdict(config), asdict(classes), files, row.mpp]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def part_paths(row: CohortRow, out: Path) -> tuple[Path, Path]:
    """(part, overview picture) of a slide."""
    return out / "parts" / f"{row.slide_name}.parquet", out / "overview" / f"{row.slide_name}.png"


def load_part(row: CohortRow, out: Path, key: str) -> SlidePatches | None:
    """A finished part; None where there is none for this key."""
    path, overview = part_paths(row, out)
    if not (path.is_file() and overview.is_file()):
        return None
    try:
        table = pq.read_table(path)
        content = json.loads((table.schema.metadata or {}).get(_METADATA, b"{}"))
    except (pa.ArrowException, OSError, ValueError):
        return None
    return SlidePatches(table.to_pandas(), content["info"]) if content.get("key") == key else None


def index_slide(row: CohortRow, config: IndexConfig, classes: ClassTable, out: Path, key: str) -> None:
    """Finds and labels the patches of one slide, and writes overview picture and, last, the part.

    Raises:
        SlideError: unreadable, smaller than a patch, or without a patch of tissue.
        AnnotationError: the annotation cannot be used.
        OutputError: ``out`` cannot be written.
    """
    path, overview = part_paths(row, out)
    with open_slide(row.slide, row.mpp) as slide:
        annotation = load_annotation(row.annotation, slide, classes) if row.annotation else None
        tissue = tissue_mask(slide, **config.tissue)
        grid = Grid(slide.size, slide.mpp, config.patch_px, config.stride_px, config.mpp)
        _check_size(slide, grid)
        patches, no_tissue = _tissue_patches(tissue.fractions(grid), grid, config)
        if patches.empty:
            raise SlideError(
                f"{row.slide}: no tissue: none of {grid.shape[0]} × {grid.shape[1]} patches has more than "
                f"{config.min_tissue:.0%} of it. Check the slide; for faint stains lower the tissue finder's "
                "saturation (--saturation, 20 unless given) or --min-tissue."
            )
        _label(patches, annotation, slide, config)
        write_png(overview, draw_overview(slide, tissue, annotation, patches, classes.classes, grid.patch_level0))
    counts = patches["class_index"].value_counts()
    info = {
        "path": str(row.slide),
        "size": list(slide.size),
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source if row.mpp is None else "given (manifest column mpp)",
        "counts": {
            **{spec.name: int(counts.get(i, 0)) for i, spec in enumerate(classes.classes)},
            UNANNOTATED: int(counts.get(IGNORE, 0)),
            "dropped": int(counts.get(DROPPED, 0)),
            "no_tissue": no_tissue,
        },
    }
    kept = patches[patches["class_index"] != DROPPED].astype({"class_index": np.uint8})
    table = pa.Table.from_pandas(kept, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), _METADATA: json.dumps({"key": key, "info": info}).encode()}
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)


def patch_label(labels: NDArray[np.uint8], inside: int, min_foreground: float) -> tuple[int, float]:
    """The class of a patch by the paper's thresholds.

    Args:
        labels: uint8 (h, w), class indices, 255 = not annotated or outside the slide.
        inside: number of pixels that lie in the slide.
        min_foreground: see :class:`IndexConfig`.

    Returns:
        class index (``DROPPED`` where neither rule holds), fraction of the patch that is foreground.
    """
    counts = np.bincount(labels.ravel(), minlength=256)
    foreground = int(counts[1:IGNORE].sum())
    fraction = foreground / labels.size
    if fraction > min_foreground:
        return int(counts[1:IGNORE].argmax()) + 1, fraction
    if foreground == 0 and counts[0] == inside:
        return 0, fraction
    return DROPPED, fraction


def _check_size(slide: Slide, grid: Grid) -> None:
    if min(slide.size) < grid.patch_level0:
        scale = grid.mpp / slide.mpp
        width, height = (side / scale for side in slide.size)
        raise SlideError(
            f"{slide.path or slide.name}: {width:.0f} × {height:.0f} px at {grid.mpp:g} µm/px, smaller than a patch of "
            f"{grid.patch_px} × {grid.patch_px}. Use smaller patches, a finer mpp, or check the slide's mpp "
            f"({slide.mpp:g}, from {slide.mpp_source})."
        )


def _tissue_patches(fractions: NDArray[np.float32], grid: Grid, config: IndexConfig) -> tuple[pd.DataFrame, int]:
    """Patches with enough tissue (x, y, tissue), and how many with their centre in the slide have not."""
    cells = [(row, column, grid.window(row, column)) for row, column in grid.cells()]
    width, height = grid.slide_size
    cells = [cell for cell in cells if cell[2].x < width and cell[2].y < height]
    kept = [(w.x, w.y, fractions[r, c]) for r, c, w in cells if fractions[r, c] > config.min_tissue]
    table = pd.DataFrame(kept, columns=["x", "y", "tissue"]).astype({"x": float, "y": float, "tissue": np.float32})
    return table, len(cells) - len(kept)


def _label(patches: pd.DataFrame, annotation: Annotation | None, slide: Slide, config: IndexConfig) -> None:
    """Adds foreground and class_index (int64, ``DROPPED`` and IGNORE too)."""
    labels, fractions = [], []
    samples = max(1, round(config.patch_px * config.mpp / (config.label_mpp or 4 * config.mpp)))
    mpp = config.patch_px * config.mpp / samples
    for x, y in zip(patches["x"], patches["y"], strict=True):
        if annotation is None:
            labels.append(IGNORE)
            fractions.append(np.nan)
            continue
        window = Window(x, y, samples, samples, mpp)
        inside = _samples_inside(window, slide)
        label, fraction = patch_label(annotation.labels(window, slide.mpp), inside, config.min_foreground)
        labels.append(label)
        fractions.append(fraction)
    patches["foreground"] = np.array(fractions, np.float32)
    patches["class_index"] = np.array(labels, np.int64)


def _samples_inside(window: Window, slide: Slide) -> int:
    """Pixels of a window whose centre lies in the slide."""
    left, top, _, _ = window.bounds(slide.mpp)
    step = window.mpp / slide.mpp
    x = left + (np.arange(window.width_px) + 0.5) * step
    y = top + (np.arange(window.height_px) + 0.5) * step
    width, height = slide.size
    return int(np.sum((x >= 0) & (x < width)) * np.sum((y >= 0) & (y < height)))


def _stamp(path: Path) -> list[Any]:
    try:
        stat = path.stat()
    except OSError:
        return [str(path), None, None]
    return [str(path), stat.st_size, stat.st_mtime_ns]
