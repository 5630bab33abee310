"""Where the labels of an image's nuclei come from: a picture of ids, drawn outlines, or one mask a nucleus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from tfseg.data.nuclei_pictures import LABEL_PICTURES, PICTURES, read_label_picture
from tfseg.slides.annotation_formats import DrawnObject, read_objects
from tfseg.slides.rasterise import edges, fill
from tfseg.types import AnnotationError

_SHOWN = 5

Part = tuple[str, int, int, NDArray[np.bool_]]
"""A nucleus: where in the file it stands, row and column of its mask's corner in the image, and the mask (h, w)."""


class LabelSource(Protocol):
    """Labels of one image.

    Attributes:
        path: the file or folder, for messages.
    """

    @property
    def path(self) -> Path: ...

    def read(self, shape: tuple[int, int]) -> tuple[NDArray[np.integer], list[str]]:
        """Ids (H, W), 0 background, not necessarily contiguous, and what a user should know of them.

        Args:
            shape: (H, W) of the image.

        Raises:
            AnnotationError: missing, unreadable, wrong, or not of that size.
        """
        ...

    def files(self) -> list[Path]:
        """What is read, to notice a change."""
        ...


@dataclass(frozen=True)
class LabelPicture:
    """One picture of ids: PNG, TIFF or NPY."""

    path: Path

    def read(self, shape: tuple[int, int]) -> tuple[NDArray[np.integer], list[str]]:
        labels = read_label_picture(self.path)
        check_size(self.path, labels.shape, shape)
        if labels.min(initial=0) < 0:
            raise AnnotationError(
                f"{self.path}: an id is {labels.min()}. Ids are 1 and more, 0 is background; give marks such as "
                "'not annotated' an id of their own or 0."
            )
        return labels, []

    def files(self) -> list[Path]:
        return [self.path]


@dataclass(frozen=True)
class OutlineFile:
    """Aperio ImageScope XML as MoNuSeg's: a region is a nucleus, its vertices are pixels of the image.

    A pixel belongs to a nucleus when its centre lies inside the outline, by the even-odd rule; pixel (i, j) of the
    image covers [i, i + 1) × [j, j + 1). Where outlines overlap, the one that comes first in the file keeps the pixel,
    as in ``he_to_binary_mask.m`` that came with the data (Kumar et al. 2017). Negative regions are cut out of all.
    Outlines that cover no pixel's centre are left out and said.

    Differs from that script in: MATLAB's poly2mask takes the centre of the first pixel for (1, 1), ImageScope for
    (0.5, 0.5), so its masks lie half a pixel up and left of these.
    """

    path: Path

    def read(self, shape: tuple[int, int]) -> tuple[NDArray[np.integer], list[str]]:
        drawn = read_objects(self.path)
        outside = [item.place for item in drawn if _outside(item.polygon, shape)]
        if outside:
            raise AnnotationError(
                f"{self.path}: {named(outside)} outside the image of {shape[1]}×{shape[0]} px (width × height). Is "
                "the file of another image, or drawn at another resolution?"
            )
        labels, notes = lay(shape, (self._part(item, shape) for item in drawn if not item.is_hole))
        for item in drawn:
            if item.is_hole:
                _, top, left, mask = self._part(item, shape)
                labels[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = 0
        return labels, notes

    @staticmethod
    def _part(item: DrawnObject, shape: tuple[int, int]) -> Part:
        return (item.place, *polygon_mask(item.polygon, shape))

    def files(self) -> list[Path]:
        return [self.path]


@dataclass(frozen=True)
class MaskFolder:
    """A folder of pictures, one a nucleus, not 0 inside it; 2018 Data Science Bowl.

    Its rules say that no pixel belongs to two masks, so an overlap is an error. Masks are taken in the order of their
    names.
    """

    path: Path

    def read(self, shape: tuple[int, int]) -> tuple[NDArray[np.integer], list[str]]:
        labels = np.zeros(shape, np.int32)
        paths = self.files()
        if not paths:
            raise AnnotationError(f"{self.path}: no masks. Expected one picture (PNG) a nucleus, not 0 inside it.")
        for number, path in enumerate(paths, start=1):
            mask = _read_mask(path)
            check_size(path, mask.shape, shape)
            if not mask.any():
                raise AnnotationError(f"{path}: the mask is empty (0 everywhere). Delete it or draw its nucleus.")
            below = labels[mask]
            if below.any():
                others = [paths[i - 1].name for i in np.unique(below[below > 0])]
                raise AnnotationError(
                    f"{path}: overlaps {', '.join(others[:_SHOWN])} in {np.count_nonzero(below)} px. A pixel belongs "
                    "to one nucleus; take it out of one of the masks."
                )
            labels[mask] = number
        return labels, []

    def files(self) -> list[Path]:
        if not self.path.is_dir():
            return []
        return sorted(p for p in self.path.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))


def label_source(path: Path) -> LabelSource:
    """The source for a label file or folder, by its suffix.

    Raises:
        AnnotationError: no label has this suffix.
    """
    if path.is_dir():
        return MaskFolder(path)
    if path.suffix.lower() == ".xml":
        return OutlineFile(path)
    if path.suffix.lower() in LABEL_PICTURES:
        return LabelPicture(path)
    raise AnnotationError(
        f"{path}: no label by its suffix. Expected ids in {', '.join(sorted(LABEL_PICTURES))}, outlines in .xml, or a "
        "folder of one mask a nucleus. COCO JSON is given as a whole, not as the label of one image."
    )


def check_size(path: Path, found: tuple[int, ...], shape: tuple[int, int]) -> None:
    """Raises AnnotationError where a label is not of the image's size."""
    if tuple(found) != tuple(shape):
        raise AnnotationError(
            f"{path}: {found[1]}×{found[0]} px, its image has {shape[1]}×{shape[0]} (width × height). A label has a "
            "pixel for each of the image; is it of another image, or resized?"
        )


def polygon_mask(polygon: shapely.Geometry, shape: tuple[int, int]) -> tuple[int, int, NDArray[np.bool_]]:
    """Pixels of an image with their centre inside a polygon, by the even-odd rule.

    Args:
        polygon: in pixels (x, y); it may cross itself and reach beyond the image.
        shape: (H, W) of the image.

    Returns:
        row and column of the mask's corner in the image, and the mask (h, w), cut to the image; (0, 0) where nothing is
        inside.
    """
    segments = edges(polygon)
    if not len(segments):
        return 0, 0, np.zeros((0, 0), bool)
    x, y = segments[:, [0, 2]], segments[:, [1, 3]]
    left, right = (int(np.clip(side, 0, shape[1])) for side in (np.floor(x.min()), np.ceil(x.max())))
    top, bottom = (int(np.clip(side, 0, shape[0])) for side in (np.floor(y.min()), np.ceil(y.max())))
    x_centres = np.arange(left, right, dtype=np.float64) + 0.5
    y_centres = np.arange(top, bottom, dtype=np.float64) + 0.5
    return top, left, fill(segments, x_centres, y_centres)


def lay(shape: tuple[int, int], parts: Iterable[Part]) -> tuple[NDArray[np.int32], list[str]]:
    """Nuclei put on an image one by one; where they overlap, the earlier keeps the pixel.

    Returns:
        (H, W) int32, the n-th part has id n; and notes: overlaps, parts without a pixel or hidden below others.
    """
    labels = np.zeros(shape, np.int32)
    empty, hidden, over, overlap_px = [], [], [], 0
    for number, (place, top, left, mask) in enumerate(parts, start=1):
        below = labels[top : top + mask.shape[0], left : left + mask.shape[1]]
        free = mask & (below == 0)
        taken = int(np.count_nonzero(mask)) - int(np.count_nonzero(free))
        if not mask.any():
            empty.append(place)
        elif not free.any():
            hidden.append(place)
        if taken:
            over.append(place)
            overlap_px += taken
        below[free] = number
    notes = []
    if over:
        notes.append(f"{len(over)} overlap earlier ones in {overlap_px} px, which the earlier keep")
    if empty:
        notes.append(f"{named(empty)} left out: no pixel's centre lies inside")
    if hidden:
        notes.append(f"{named(hidden)} left out: wholly under earlier ones")
    return labels, notes


def named(places: Sequence[str]) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return ", ".join(places[:_SHOWN]) + more


def _outside(polygon: shapely.Geometry, shape: tuple[int, int]) -> bool:
    if polygon.is_empty:
        return False
    left, top, right, bottom = polygon.bounds
    return left >= shape[1] or top >= shape[0] or right <= 0 or bottom <= 0


def _read_mask(path: Path) -> NDArray[np.bool_]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except Exception as error:  # Pillow raises a wide choice of types on damaged data
        raise AnnotationError(f"{path}: not readable as a mask ({error}). Expected a PNG, not 0 inside.") from error
    if pixels.ndim != 2:
        raise AnnotationError(
            f"{path}: a mask has one channel, this one has shape {'×'.join(map(str, pixels.shape))}. Save it as grey."
        )
    return pixels != 0
