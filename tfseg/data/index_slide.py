"""One slide's part of the patch index: tissue, grid, labels, overview picture."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tfseg.data.class_counts import pixel_column
from tfseg.data.cohort import CohortRow
from tfseg.data.index_config import DenseIndexConfig, IndexConfig
from tfseg.data.index_labels import label_patches, label_windows
from tfseg.data.overview import DROPPED, UNANNOTATED, draw_overview, write_png
from tfseg.files import atomic_path
from tfseg.geometry import Grid
from tfseg.slides.annotations import load_annotation
from tfseg.slides.base import Slide, open_slide
from tfseg.slides.class_table import ClassTable
from tfseg.slides.tissue import tissue_mask
from tfseg.types import IGNORE, SlideError

_PART_VERSION, _DENSE_PART_VERSION = 1, 2
_METADATA = b"tfseg"

AnyIndexConfig = IndexConfig | DenseIndexConfig


@dataclass(frozen=True)
class SlidePatches:
    """A part of the index.

    Attributes:
        table: x, y (float64), tissue (float32), class_index (uint8); of a classifier's patches also foreground
            (float32), of a segmentation network's windows annotated (float32) and one int32 column a class with its
            annotated pixels.
        info: path, annotation (path or None), size, mpp, mpp_source, counts (patches by class name, "unannotated",
            "dropped", "no_tissue") and, of windows, pixels (annotated ones by class name) and annotation_sha256 (the
            first 16 digits; None without annotation; parts of before do not have it).
    """

    table: pd.DataFrame
    info: dict[str, Any]


def part_key(row: CohortRow, config: AnyIndexConfig, classes: ClassTable) -> str:
    """Changes whenever the part would: configuration, classes, or path, size and time of change of the files."""
    files = [_stamp(path) for path in (row.slide, row.annotation) if path is not None]
    kind = [_DENSE_PART_VERSION, config.kind] if isinstance(config, DenseIndexConfig) else [_PART_VERSION]
    content = [*kind, asdict(config), asdict(classes), files, row.mpp]
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
    if content.get("key") != key:
        return None
    annotation = str(row.annotation) if row.annotation else None  # parts of patches did not always say
    return SlidePatches(table.to_pandas(), {"annotation": annotation, **content["info"]})


def index_slide(row: CohortRow, config: AnyIndexConfig, classes: ClassTable, out: Path, key: str) -> None:
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
            option = "--dense.min-tissue" if isinstance(config, DenseIndexConfig) else "--min-tissue"
            raise SlideError(
                f"{row.slide}: no tissue: none of {grid.shape[0]} × {grid.shape[1]} patches has more than "
                f"{config.min_tissue:.0%} of it. Check the slide; for faint stains lower the tissue finder's "
                f"saturation (--saturation, 20 unless given) or {option}."
            )
        if isinstance(config, DenseIndexConfig):
            label_windows(patches, annotation, slide, config, classes)
            drawn = patches[patches["class_index"] != DROPPED]  # most of a slide: drawn, they would hide the others
        else:
            label_patches(patches, annotation, slide, config)
            drawn = patches
        write_png(overview, draw_overview(slide, tissue, annotation, drawn, classes, grid.patch_level0))
    counts = patches["class_index"].value_counts()
    kept = patches[patches["class_index"] != DROPPED].astype({"class_index": np.uint8})
    info = {
        "path": str(row.slide),
        "annotation": str(row.annotation) if row.annotation else None,
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
    if isinstance(config, DenseIndexConfig):
        info["annotation_sha256"] = _file_hash(row.annotation) if row.annotation else None
        info["pixels"] = {spec.name: int(kept[pixel_column(spec.name)].sum()) for spec in classes.classes}
    table = pa.Table.from_pandas(kept, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), _METADATA: json.dumps({"key": key, "info": info}).encode()}
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)


def _check_size(slide: Slide, grid: Grid) -> None:
    if min(slide.size) < grid.patch_level0:
        scale = grid.mpp / slide.mpp
        width, height = (side / scale for side in slide.size)
        raise SlideError(
            f"{slide.path or slide.name}: {width:.0f} × {height:.0f} px at {grid.mpp:g} µm/px, smaller than a patch of "
            f"{grid.patch_px} × {grid.patch_px}. Use smaller patches, a finer mpp, or check the slide's mpp "
            f"({slide.mpp:g}, from {slide.mpp_source})."
        )


def _tissue_patches(fractions: NDArray[np.float32], grid: Grid, config: AnyIndexConfig) -> tuple[pd.DataFrame, int]:
    """Patches with enough tissue (x, y, tissue), and how many with their centre in the slide have not."""
    least = -1.0 if config.min_tissue is None else config.min_tissue
    cells = [(row, column, grid.window(row, column)) for row, column in grid.cells()]
    width, height = grid.slide_size
    cells = [cell for cell in cells if cell[2].x < width and cell[2].y < height]
    kept = [(w.x, w.y, fractions[r, c]) for r, c, w in cells if fractions[r, c] > least]
    table = pd.DataFrame(kept, columns=["x", "y", "tissue"]).astype({"x": float, "y": float, "tissue": np.float32})
    return table, len(cells) - len(kept)


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):  # a label raster may be large
            digest.update(block)
    return digest.hexdigest()[:16]


def _stamp(path: Path) -> list[Any]:
    try:
        stat = path.stat()
    except OSError:
        return [str(path), None, None]
    return [str(path), stat.st_size, stat.st_mtime_ns]
