"""Nuclei that `tfseg segment --nuclei` found against labelled ones: scores per image, by organ, by design."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

from tfseg.data.nuclei import NucleiItem
from tfseg.data.overview import write_png
from tfseg.infer.instance_outputs import LABELS
from tfseg.infer.outputs import SUMMARY
from tfseg.infer.summary import slide_identity
from tfseg.metrics.instance_plots import ap_curves, hit_overlay
from tfseg.metrics.instance_tables import image_table, write_report
from tfseg.metrics.tables import need_columns
from tfseg.slides.base import open_slide
from tfseg.types import CohortError, read_config

CURVES, OVERLAYS = "curves.png", "overlays"
_NAMED = 5


def evaluate_nuclei(
    items: Sequence[NucleiItem], segmentations: Mapping[str, Path], out: str | Path, by: Sequence[str] = ("organ",)
) -> pd.DataFrame:
    """Scores every labelled image under every design.

    Writes into ``out``: scores.csv (one row an image and design), summary.csv (mean ± sd over images), pooled.csv (all
    nuclei together) and summary.md, each by design and by design and each column of ``by``; see
    :func:`tfseg.metrics.instance_tables.write_report`. And pictures: curves.png, precision over IoU thresholds, a line
    a design; overlays/<design>/<image>.png, hits green, misses red, false blue.

    Args:
        items: labelled images, as :func:`tfseg.data.nuclei.read_nuclei` finds them.
        segmentations: design → the folder that ``tfseg segment --nuclei --out`` wrote.
        out: folder.
        by: "organ", "split" or other columns of the manifest.

    Returns:
        The table of scores.csv: "design", "image", "organ", "split", the manifest's other columns, scores.

    Raises:
        CohortError: no image, a column or a segmentation is missing, two images have one file name, or a segmentation
            is of another picture; names it.
        SlideError, AnnotationError: an image or its label cannot be read.
    """
    out = Path(out)
    _check(items, segmentations, by)
    table = image_table(_pairs(items, segmentations, out / OVERLAYS))
    write_report(table, out, by, within=["design"])
    ap_curves(dict(list(table.groupby("design", sort=False))), out / CURVES)
    return table


def segmented_nuclei(folder: Path, image: Path) -> NDArray[np.uint32]:
    """The nuclei that were found in an image, on the image's own pixels.

    Labels of other pixels than the image's are those at its pixels' centres.

    Args:
        folder: of this image, such as ``OUT/<name>``.
        image: the file that was segmented, or a copy.

    Returns:
        uint32 (H, W), 0 background.

    Raises:
        CohortError: nothing finished is there, or it is of another picture.
    """
    if not (folder / SUMMARY).is_file() or not (folder / LABELS).is_file():
        raise CohortError(f"{folder}: no nuclei of {image.name}. {_remedy(image, folder.parent)}")
    summary = read_config(folder / SUMMARY)
    slide = summary["slide"]
    found = slide_identity(open_slide(image, slide["mpp"]))["sha256_ends"]
    if found != slide["sha256_ends"]:
        raise CohortError(
            f"{folder}: the nuclei of another picture ({slide['path']}) than {image}. {_remedy(image, folder.parent)}"
        )
    labels = np.asarray(tifffile.imread(folder / LABELS, series=0, level=0), np.uint32)
    step = summary["nuclei_mpp"] / slide["mpp"]
    width, height = slide["size_px"]
    rows, columns = (
        np.minimum(((np.arange(side) + 0.5) / step).astype(np.intp), length - 1)
        for side, length in zip((height, width), labels.shape, strict=True)
    )
    return labels[rows][:, columns]


def _check(items: Sequence[NucleiItem], segmentations: Mapping[str, Path], by: Sequence[str]) -> None:
    """Finds what is missing before anything is scored."""
    if not items or not segmentations:
        raise CohortError("no labelled image, or no segmentation, to score. Give at least one of each.")
    need_columns(pd.DataFrame([_about(item) for item in items]), by, "the images' table")
    names = [item.image.stem for item in items]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CohortError(
            f"images of the same file name, {', '.join(twice[:_NAMED])}: their segmentations would have the same "
            "folder. Rename them."
        )
    for folder in segmentations.values():
        missing = [item for item in items if not (Path(folder) / item.image.stem / SUMMARY).is_file()]
        if missing:
            named = ", ".join(item.image.stem for item in missing[:_NAMED]) + (" …" if len(missing) > _NAMED else "")
            raise CohortError(
                f"{folder}: no nuclei of {len(missing)} of {len(items)} images: {named}. "
                f"{_remedy(missing[0].image, folder)}"
            )


def _remedy(image: Path, out: Path) -> str:
    return f"Run `tfseg segment --nuclei {image} --out {out}`."


def _about(item: NucleiItem) -> dict[str, str]:
    return {"image": item.name, "organ": item.organ, "split": item.split, **item.values}


def _pairs(
    items: Sequence[NucleiItem], segmentations: Mapping[str, Path], overlays: Path
) -> Iterator[tuple[dict[str, str], NDArray[Any], NDArray[Any]]]:
    """(what is known, truth, prediction) of each image and design, one after the other, each drawn."""
    for design, folder in segmentations.items():
        for item in items:
            image, truth = item.load()
            found = segmented_nuclei(Path(folder) / item.image.stem, item.image)
            write_png(overlays / design / f"{item.name}.png", hit_overlay(image, truth, found))
            yield {"design": design, **_about(item)}, truth, found
