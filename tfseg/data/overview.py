"""One picture per slide that shows what indexing found: tissue, annotation and patches by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tfseg.files import atomic_path
from tfseg.slides.base import Slide
from tfseg.slides.class_table import ClassTable
from tfseg.slides.tissue import TissueMask
from tfseg.types import IGNORE, ClassSpec, OutputError, Window

if TYPE_CHECKING:
    from tfseg.slides.annotations import Annotation

MAX_SIDE_PX = 1600
UNANNOTATED = "unannotated"
"""Class name of patches of slides that nobody annotated."""
DROPPED = -1
"""Class index of patches that the label rule drops; they are drawn, and not in the index."""

_TISSUE_COLOR = (0, 130, 0)
_DROPPED_COLOR = (255, 140, 0)
_UNANNOTATED_COLOR = (40, 110, 220)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_overview(
    slide: Slide,
    tissue: TissueMask,
    annotation: Annotation | None,
    patches: pd.DataFrame,
    table: ClassTable,
    patch_level0: float,
) -> NDArray[np.uint8]:
    """The slide at most 1600 px wide and high, with tissue outlined, what was drawn tinted, patches as squares.

    Args:
        slide: what was indexed.
        tissue: its tissue.
        annotation: its annotation, if any.
        patches: columns x, y (centre, level-0 pixels) and class_index (``DROPPED`` and IGNORE too).
        table: names and colours of the classes, and which of them, if any, is what nobody drew.
        patch_level0: side of a patch in level-0 pixels.

    Returns:
        uint8 RGB (H, W, 3), a legend below the slide.
    """
    mpp = max(slide.mpp, max(slide.size) * slide.mpp / MAX_SIDE_PX)
    scale = slide.mpp / mpp
    image = slide.whole(mpp).copy()  # what a slide gives may be read-only
    if annotation is not None:
        _tint(image, _whole_labels(annotation, slide, mpp, image.shape[:2]), table)
    mask = _to_thumbnail(tissue, mpp, image.shape[:2])
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, _TISSUE_COLOR, 2)
    half = patch_level0 * scale / 2 - 1  # one pixel inside, so that neighbours' colours do not overwrite each other
    for x, y, index in zip(patches["x"], patches["y"], patches["class_index"], strict=True):
        start = (round(x * scale - half), round(y * scale - half))
        end = (round(x * scale + half), round(y * scale + half))
        cv2.rectangle(image, start, end, _color(int(index), table.classes), 2, cv2.LINE_8)
    return np.concatenate([image, _legend(image.shape[1], slide, patches, table.classes)])


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes uint8 RGB as PNG, whole or not at all."""
    ok, data = cv2.imencode(".png", image[..., ::-1])
    if not ok:
        raise OutputError(f"cannot encode {path} (shape {image.shape}).")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _whole_labels(annotation: Annotation, slide: Slide, mpp: float, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    height, width = shape
    scale = mpp / slide.mpp
    return annotation.labels(Window(width * scale / 2, height * scale / 2, width, height, mpp), slide.mpp)


def _tint(image: NDArray[np.uint8], labels: NDArray[np.uint8], table: ClassTable) -> None:
    """Draws classes as a quarter of their colour with a full outline, but not the one of what nobody drew."""
    for index, spec in enumerate(table.classes):
        if index == table.rest:
            continue
        inside = labels == index
        color = np.array(spec.color, np.float32)
        image[inside] = (0.75 * image[inside] + 0.25 * color).astype(np.uint8)
        contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, contours, -1, spec.color, 2)


def _to_thumbnail(tissue: TissueMask, mpp: float, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    height, width = shape
    rows = np.minimum(((np.arange(height) + 0.5) * mpp / tissue.mpp).astype(int), tissue.mask.shape[0] - 1)
    columns = np.minimum(((np.arange(width) + 0.5) * mpp / tissue.mpp).astype(int), tissue.mask.shape[1] - 1)
    return tissue.mask[np.ix_(rows, columns)].astype(np.uint8)


def _color(index: int, classes: Sequence[ClassSpec]) -> tuple[int, int, int]:
    if index == DROPPED:
        return _DROPPED_COLOR
    return _UNANNOTATED_COLOR if index == IGNORE else classes[index].color


def _legend(width: int, slide: Slide, patches: pd.DataFrame, classes: Sequence[ClassSpec]) -> NDArray[np.uint8]:
    """White strip: name and size of the slide, then one coloured word a class with its number of patches."""
    counts = patches["class_index"].value_counts()
    words = [(f"{spec.name} {counts.get(i, 0)}", spec.color) for i, spec in enumerate(classes)]
    words += [(f"dropped {counts.get(DROPPED, 0)}", _DROPPED_COLOR), ("tissue", _TISSUE_COLOR)]
    if counts.get(IGNORE, 0):
        words.append((f"unannotated {counts.get(IGNORE, 0)}", _UNANNOTATED_COLOR))
    title = f"{slide.name}  {slide.size[0]} x {slide.size[1]} px, {slide.mpp:.4g} um/px"
    lines: list[list[tuple[str, tuple[int, int, int]]]] = [[(title, (0, 0, 0))], []]
    used = 8
    for word in words:
        step = cv2.getTextSize(word[0], _FONT, 0.5, 1)[0][0] + 36
        if used + step > width and lines[-1]:
            lines.append([])
            used = 8
        lines[-1].append(word)
        used += step
    strip = np.full((22 * len(lines) + 8, width, 3), 255, np.uint8)
    for row, line in enumerate(lines):
        left = 8
        for text, color in line:
            base = 22 * (row + 1)
            if row:
                cv2.rectangle(strip, (left, base - 11), (left + 12, base + 1), color, -1)
                left += 18
            cv2.putText(strip, text, (left, base), _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
            left += cv2.getTextSize(text, _FONT, 0.5, 1)[0][0] + 18
    return strip
