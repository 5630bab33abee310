"""A segmentation against an annotation, pixel by pixel, tile by tile."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfseg.metrics.curves import LEVELS, score_histogram
from tfseg.metrics.pixel import SCORES, confusion, scores_from_confusion
from tfseg.slides.annotations import Annotation, ClassTable, load_annotation
from tfseg.slides.base import Slide, open_slide
from tfseg.slides.label_raster import LabelRaster
from tfseg.slides.rasterise import PixelGrid
from tfseg.slides.tissue import TissueMask, tissue_mask
from tfseg.types import IGNORE, AnnotationError

_TOLERANCE = 0.02
NO_CLASS = "no class"


class ClassCounts(NamedTuple):
    """What :func:`count_classes` finds; add those of slides.

    Attributes:
        confusion: int64 (C, C), row = truth, column = prediction.
        missed: int64 (C,), pixels of each class whose mask says 255: no class.
        histograms: class index → int64 (2, 256), of :func:`tfseg.metrics.curves.score_histogram`.
    """

    confusion: NDArray[np.int64]
    missed: NDArray[np.int64]
    histograms: dict[int, NDArray[np.int64]]


def count_classes(
    mask_path: str | Path,
    slide: Slide,
    annotation: str | Path | Annotation,
    classes: ClassTable,
    probabilities: Mapping[int, Path] | None = None,
    within_tissue: bool = False,
) -> ClassCounts:
    """Counts the annotated pixels of a slide by true and predicted class, and by the probability of each class.

    Memory is bounded whatever the slide's size. What nobody annotated counts nowhere. The pixels are the mask's.

    Args:
        mask_path: class indices as TIFF, as ``tfseg segment`` writes it; 255 is no class.
        slide: the slide, for its size, mpp and tissue.
        annotation: annotation file of the slide, or as loaded.
        classes: names and values → class indices.
        probabilities: class index → its probability · 255 as TIFF over the whole slide; None is of none.
        within_tissue: leave out what :func:`tfseg.slides.tissue.tissue_mask` calls glass.

    Raises:
        AnnotationError: mask, probabilities or annotation cannot be read, or are not of this slide, or the mask holds
            other values than class indices.
        SlideError: the slide cannot be read.
    """
    if not isinstance(annotation, Annotation):
        annotation = load_annotation(annotation, slide, classes)
    count = len(classes.classes)
    matrix = np.zeros((count + 1, count + 1), np.int64)
    histograms = {index: np.zeros((2, LEVELS), np.int64) for index in probabilities or {}}
    with contextlib.ExitStack() as stack:

        def opened(path: str | Path) -> LabelRaster:
            raster = stack.enter_context(contextlib.closing(LabelRaster(path, slide.size, slide.mpp)))
            _check_extent(raster, slide)
            return raster

        mask = opened(mask_path)
        rasters = {index: opened(path) for index, path in (probabilities or {}).items()}
        tissue = tissue_mask(slide) if within_tissue else None
        for part, truth in _truth(annotation, mask.grid, tissue):
            found, known = _classes_on(mask, part, truth, count), truth != IGNORE
            matrix += confusion(truth, np.where(found == IGNORE, count, found), count + 1)
            for index, raster in rasters.items():
                histograms[index] += score_histogram(truth[known] == index, raster.read(part)[known])
    return ClassCounts(matrix[:count, :count], matrix[:count, count], histograms)


def evaluate_slide(
    mask_path: str | Path,
    slide: str | Path | Slide,
    annotation: str | Path | Annotation,
    classes: ClassTable | None = None,
    mpp: float | None = None,
    within_tissue: bool = False,
    foreground: int = -1,
) -> dict[str, float]:
    """Scores of one slide; memory is bounded whatever its size.

    Every pixel of the slide counts that the annotation labels: with a class table whose ``rest`` is a class, as in
    H2G-Net, that is the whole slide, glass included. (There true negatives change no recall, precision, Dice or IoU of
    the tumour class.)

    Args:
        mask_path: class indices as TIFF, as ``tfseg segment`` writes it: the whole slide from its top-left corner,
            mpp in the resolution tags.
        slide: the slide, for its size, mpp and tissue.
        annotation: annotation file of the slide, or as loaded.
        classes: names and values → class indices; None takes :meth:`ClassTable.h2g`.
        mpp: pixel size at which to compare, both sides read at pixel centres; None takes the mask's own pixels.
        within_tissue: leave out what :func:`tfseg.slides.tissue.tissue_mask` calls glass.
        foreground: index of the class that the short keys describe; -1 is the last, tumour.

    Returns:
        "recall", "precision", "dice", "iou" of the foreground class; "truth_mm2", "predicted_mm2" (its areas) and
        "evaluated_mm2"; "mpp_x", "mpp_y" of the comparison; all of :func:`scores_from_confusion` ("dice tumour", …,
        "accuracy"); and the confusion matrix as "pixels <true> as <predicted>". Where the mask is 255, no class,
        annotated pixels count as missed, and there are also "pixels <true> as no class".

    Raises:
        AnnotationError: mask or annotation cannot be read, or the mask is not of this slide, or holds other values than
            class indices.
        SlideError: the slide cannot be read.
    """
    classes = classes or ClassTable.h2g()
    names = [spec.name for spec in classes.classes]
    slide = open_slide(slide)
    if not isinstance(annotation, Annotation):
        annotation = load_annotation(annotation, slide, classes)
    mask = LabelRaster(mask_path, slide.size, slide.mpp)
    try:
        _check_extent(mask, slide)
        grid = _grid(mask, slide, mpp)
        tissue = tissue_mask(slide) if within_tissue else None
        matrix, missed = _confusion(mask, annotation, grid, tissue, len(names))
    finally:
        mask.close()
    scores = scores_from_confusion(matrix, names, missed=missed)
    name = names[foreground]
    pixel_mm2 = grid.step_x * grid.step_y * slide.mpp**2 / 1e6
    return {
        **{score: scores[f"{score} {name}"] for score in SCORES},
        "truth_mm2": float((matrix[foreground].sum() + missed[foreground]) * pixel_mm2),
        "predicted_mm2": float(matrix[:, foreground].sum() * pixel_mm2),
        "evaluated_mm2": float((matrix.sum() + missed.sum()) * pixel_mm2),
        "mpp_x": grid.step_x * slide.mpp,
        "mpp_y": grid.step_y * slide.mpp,
        **scores,
        **{f"pixels {t} as {p}": float(matrix[i, j]) for i, t in enumerate(names) for j, p in enumerate(names)},
        **({f"pixels {t} as {NO_CLASS}": float(missed[i]) for i, t in enumerate(names)} if missed.any() else {}),
    }


def _check_extent(mask: LabelRaster, slide: Slide) -> None:
    """By its resolution tags the mask must cover as many µm as the slide, up to 2 % or two of its pixels."""
    if mask.mpp is None:
        return
    for size, mpp, side in zip(mask.size, mask.mpp, slide.size, strict=True):
        if abs(size * mpp - side * slide.mpp) > max(_TOLERANCE * side * slide.mpp, 2 * mpp):
            raise AnnotationError(
                f"{mask.path}: covers {mask.size[0] * mask.mpp[0]:.0f}×{mask.size[1] * mask.mpp[1]:.0f} µm by its "
                f"resolution tags, slide {slide.name} {slide.size[0] * slide.mpp:.0f}×"
                f"{slide.size[1] * slide.mpp:.0f} µm ({slide.mpp:g} µm/px from {slide.mpp_source}). Is it the mask of "
                "another slide? If it was segmented with another mpp, give the same one here."
            )


def _grid(mask: LabelRaster, slide: Slide, mpp: float | None) -> PixelGrid:
    if mpp is None:
        return mask.grid
    step = mpp / slide.mpp
    width, height = (max(1, math.ceil(side / step - 1e-6)) for side in slide.size)
    return PixelGrid(0.0, 0.0, step, step, width, height)


def _confusion(
    mask: LabelRaster, annotation: Annotation, grid: PixelGrid, tissue: TissueMask | None, num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(C, C), row = truth, column = prediction; and (C,), pixels that the mask gives no class."""
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for part, truth in _truth(annotation, grid, tissue):
        found = _classes_on(mask, part, truth, num_classes)
        matrix += confusion(truth, np.where(found == IGNORE, num_classes, found), num_classes + 1)
    return matrix[:num_classes, :num_classes], matrix[:num_classes, num_classes]


def _truth(
    annotation: Annotation, grid: PixelGrid, tissue: TissueMask | None
) -> Iterator[tuple[PixelGrid, NDArray[np.uint8]]]:
    """Parts of the grid that have annotated pixels, and their labels."""
    for part in grid.tiles():
        truth = annotation.labels_on(part)
        if tissue is not None:
            truth[~_tissue(tissue, part)] = IGNORE
        if not (truth == IGNORE).all():
            yield part, truth


def _classes_on(mask: LabelRaster, part: PixelGrid, truth: NDArray[np.uint8], num_classes: int) -> NDArray[np.uint8]:
    """The mask's values; those where the truth is known are class indices, or 255: no class."""
    prediction = mask.read(part)
    wrong = (truth != IGNORE) & (prediction >= num_classes) & (prediction != IGNORE)
    if wrong.any():
        raise AnnotationError(
            f"{mask.path}: value {prediction[wrong][0]} is no class. Expected 0..{num_classes - 1}, "
            "as `tfseg segment` writes; if this is a heatmap or an overlay, give the mask."
        )
    return prediction


def _tissue(tissue: TissueMask, grid: PixelGrid) -> NDArray[np.bool_]:
    """Whether the pixel of the tissue mask under each pixel centre is tissue."""
    x, y = grid.centres()
    scale = tissue.mpp / tissue.slide_mpp
    height, width = tissue.mask.shape
    rows = np.clip((y / scale).astype(np.int64), 0, height - 1)
    return tissue.mask[np.ix_(rows, np.clip((x / scale).astype(np.int64), 0, width - 1))]
