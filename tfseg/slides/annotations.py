"""What pathologists drew, as labels of any window of the slide, without ever rasterising the slide."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from tfseg.slides.annotation_formats import DrawnObject, read_objects
from tfseg.slides.class_table import SKIP, ClassTable
from tfseg.slides.label_raster import LabelRaster
from tfseg.slides.rasterise import PixelGrid, draw, edges, within
from tfseg.types import IGNORE, AnnotationError, Window

if TYPE_CHECKING:
    from tfseg.slides.base import Slide

__all__ = [
    "SKIP",
    "Annotation",
    "ClassTable",
    "LabelledPolygon",
    "PolygonAnnotation",
    "RasterAnnotation",
    "load_annotation",
]

_VECTOR = {".geojson", ".json", ".gz", ".xml"}
_RASTER = {".png", ".tif", ".tiff", ".btf", ".bmp"}
_SHOWN = 5
_log = logging.getLogger(__name__)


class Annotation(ABC):
    """Labels of one slide.

    Attributes:
        slide_size: (W, H) in level-0 pixels; there is nothing but IGNORE outside.
    """

    slide_size: tuple[int, int]

    def labels(self, window: Window, slide_mpp: float) -> NDArray[np.uint8]:
        """Labels of a window, each pixel by its centre.

        Returns:
            (height_px, width_px) uint8: class index; 255 where not annotated and outside the slide; the class table's
            ``rest`` on the slide where nothing is drawn.
        """
        return self.labels_on(PixelGrid.of(window, slide_mpp))

    def labels_on(self, grid: PixelGrid) -> NDArray[np.uint8]:
        """As :meth:`labels`, on any grid of pixels, also one with different steps in x and y."""
        labels = self._labels(grid)
        columns, rows = within(self.slide_size, grid)
        labels[~rows] = IGNORE
        labels[:, ~columns] = IGNORE
        return labels

    @abstractmethod
    def _labels(self, grid: PixelGrid) -> NDArray[np.uint8]:
        """Labels without regard to the slide's edges."""

    def close(self) -> None:
        """Lets go of open files."""
        return None

    @abstractmethod
    def has(self, class_index: int) -> bool:
        """Whether pixels of this class occur, be it drawn or as the class of what nobody drew."""

    @abstractmethod
    def bounds(self) -> tuple[float, float, float, float] | None:
        """(left, top, right, bottom) of what is annotated, level-0 pixels; None where nothing is."""


@dataclass(frozen=True)
class LabelledPolygon:
    """A Polygon or MultiPolygon in level-0 pixels and the label (class index or IGNORE) of what is inside."""

    polygon: shapely.Polygon | shapely.MultiPolygon
    label: int


class PolygonAnnotation(Annotation):
    """Labels from polygons.

    Where polygons overlap, the smaller lies on top, whatever the order in the file: an island drawn inside a tumour is
    seen whether it was drawn before or after it. Of equal areas the later lies on top.

    Args:
        polygons: valid shapes with labels.
        slide_size: (W, H) in level-0 pixels.
        rest: label of the slide where nothing is drawn.
    """

    def __init__(self, polygons: Sequence[LabelledPolygon], slide_size: tuple[int, int], rest: int = IGNORE) -> None:
        self.slide_size = slide_size
        self.rest = rest
        self.polygons = tuple(sorted(polygons, key=lambda item: -item.polygon.area))  # stable: ties keep their order
        self._edges = [edges(item.polygon) for item in self.polygons]

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree([item.polygon for item in self.polygons])

    def _labels(self, grid: PixelGrid) -> NDArray[np.uint8]:
        labels = np.full(grid.shape, self.rest, dtype=np.uint8)
        for k in np.sort(self._tree.query(shapely.box(*grid.bounds))):
            draw(labels, self._edges[k], self.polygons[k].label, grid)
        return labels

    def has(self, class_index: int) -> bool:
        return class_index == self.rest or any(item.label == class_index for item in self.polygons)

    def bounds(self) -> tuple[float, float, float, float] | None:
        if not self.polygons:
            return None
        left, top, right, bottom = shapely.total_bounds([item.polygon for item in self.polygons]).tolist()
        return left, top, right, bottom


class RasterAnnotation(Annotation):
    """Labels from a picture that covers the whole slide, read at pixel centres.

    Args:
        raster: the picture, at any downsample.
        slide_size: (W, H) in level-0 pixels.
        classes: its ``values`` say what a pixel value stands for.
    """

    def __init__(self, raster: LabelRaster, slide_size: tuple[int, int], classes: ClassTable) -> None:
        self.raster = raster
        self.slide_size = slide_size
        self._values = dict(classes.values)
        self._known = classes.known()
        self._table = np.full(65536, SKIP, dtype=np.int16)
        for value, label in classes.values.items():
            self._table[value] = label

    def _labels(self, grid: PixelGrid) -> NDArray[np.uint8]:
        values = self.raster.read(grid)
        labels = self._table[values]
        if (labels == SKIP).any():
            row, column = np.argwhere(labels == SKIP)[0]
            x, y = grid.centres()
            table = ", ".join(f"{value}={label}" for value, label in sorted(self._values.items()))
            raise AnnotationError(
                f"{self.raster.path}: unknown value {values[row, column]} at slide position "
                f"({x[column]:.0f}, {y[row]:.0f}). Known values and their labels: {table} (255 = not annotated); "
                f"classes: {self._known}. Map it, as in --map {values[row, column]}=ignore, or correct the raster."
            )
        return labels.astype(np.uint8)

    def close(self) -> None:
        self.raster.close()

    @cached_property
    def _present(self) -> frozenset[int]:
        """Labels found in one pass over the raster, tile by tile."""
        tiles = self.raster.grid.tiles()
        return frozenset(label for tile in tiles for label in np.unique(self._labels(tile)).tolist())

    def has(self, class_index: int) -> bool:
        return class_index in self._present

    def bounds(self) -> tuple[float, float, float, float] | None:
        return 0.0, 0.0, float(self.slide_size[0]), float(self.slide_size[1])


def load_annotation(
    path: str | Path, slide: Slide, classes: ClassTable | None = None, *, repair: bool = False
) -> Annotation:
    """Reads the annotation of a slide.

    Formats, by suffix: QuPath GeoJSON (``.geojson``, ``.json``, ``.gz``), ASAP and Aperio ImageScope (``.xml``), label
    rasters that cover the whole slide (``.png``, ``.tif``, ``.tiff``). QuPath's coordinates are those of
    the slide as QuPath shows it; ASAP and ImageScope count from the corner of the uncropped scan, so the slide's
    ``origin`` (of its OpenSlide bounds) is subtracted.

    Args:
        path: annotation file.
        slide: anything with ``size`` (level-0 pixels) and ``mpp``.
        classes: names and values → labels; None takes :meth:`ClassTable.h2g`.
        repair: mend instead of refusing: outlines that cross themselves are made valid, polygons without area or wholly
            outside the slide are dropped. Each is logged as a warning.

    Raises:
        AnnotationError: unreadable; a class that the table does not know; an outline that crosses itself, has no area,
            or lies outside the slide. The message names file and object and says what would help.
    """
    path = Path(path)
    classes = classes or ClassTable.h2g()
    suffix = path.suffix.lower()
    if suffix in _RASTER:
        return RasterAnnotation(LabelRaster(path, slide.size, slide.mpp), slide.size, classes)
    if suffix not in _VECTOR:
        known = ", ".join(sorted(_VECTOR | _RASTER))
        raise AnnotationError(f"{path}: unknown kind of annotation {suffix!r}. Known: {known}.")
    objects = read_objects(path)
    _check_classes(path, objects, classes)
    objects = [item for item in objects if classes.index(item.class_name) != SKIP]
    if suffix == ".xml":
        objects = _moved(objects, getattr(slide, "origin", (0, 0)))
    objects = _cut_holes(_checked(path, objects, slide.size, repair))
    polygons = [LabelledPolygon(item.polygon, int(classes.index(item.class_name) or 0)) for item in objects]
    return PolygonAnnotation(polygons, slide.size, classes.rest)


def _check_classes(path: Path, objects: list[DrawnObject], classes: ClassTable) -> None:
    unknown = sorted({item.class_name for item in objects if classes.index(item.class_name) is None})
    if not unknown:
        return
    found = ", ".join(_quoted(name) for name in sorted({item.class_name for item in objects}))
    first = next(item for item in objects if item.class_name == unknown[0])
    raise AnnotationError(
        f"{path}: unknown {'class' if len(unknown) == 1 else 'classes'} {', '.join(map(_quoted, unknown))} "
        f"(first at {first.place}). Classes in the file: {found}. Known: {classes.known()} and their usual spellings. "
        f"Correct the name in the file, or map it (--map '{unknown[0]}=CLASS'), where CLASS is a known class, 'ignore' "
        "(its pixels count as not annotated) or 'skip' (it is not drawn)."
    )


def _quoted(name: str) -> str:
    return repr(name) if name else "'' (no class set)"


def _moved(objects: list[DrawnObject], origin: tuple[float, float]) -> list[DrawnObject]:
    if tuple(origin) == (0, 0):
        return objects
    shift = np.asarray(origin, dtype=np.float64)
    return [
        DrawnObject(shapely.transform(o.polygon, lambda xy: xy - shift), o.class_name, o.place, o.is_hole, o.layer)
        for o in objects
    ]


def _checked(path: Path, objects: list[DrawnObject], size: tuple[int, int], repair: bool) -> list[DrawnObject]:
    """The objects that can be used; with ``repair`` mended ones too."""
    good: list[DrawnObject] = []
    problems: list[str] = []
    for item in objects:
        problem = _problem(item.polygon, size)
        if problem is None:
            good.append(item)
            continue
        problems.append(f"{item.place}, class {_quoted(item.class_name)}, {problem}")
        mended = _mended(item.polygon, size) if repair else None
        if mended is not None:
            good.append(DrawnObject(mended, item.class_name, item.place, item.is_hole, item.layer))
    if problems and not repair:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise AnnotationError(
            f"{path}: {'; '.join(problems[:_SHOWN])}{more}. Mend or delete in the program that drew it and save again. "
            "From Python, load_annotation with repair=True makes crossing outlines valid and drops polygons without "
            "area or outside the slide."
        )
    for problem in problems:
        _log.warning("%s: repaired: %s.", path, problem)
    return good


def _problem(polygon: shapely.Polygon | shapely.MultiPolygon, size: tuple[int, int]) -> str | None:
    if polygon.is_empty or polygon.convex_hull.area == 0:
        return "is empty: it has no area (fewer than three different points, or all on one line)"
    left, top, right, bottom = polygon.bounds
    if left >= size[0] or top >= size[1] or right <= 0 or bottom <= 0:
        return (
            f"lies outside the slide: it spans x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f}, the slide is "
            f"{size[0]}×{size[1]} px (is the file of another slide, or drawn at another resolution?)"
        )
    if not polygon.is_valid:
        reason, _, place = shapely.is_valid_reason(polygon).partition("[")
        what = "crosses or touches itself" if "elf-intersection" in reason else f"is invalid ({reason.lower()})"
        return f"{what} near ({place.rstrip(']').replace(' ', ', ')})"
    return None


def _mended(
    polygon: shapely.Polygon | shapely.MultiPolygon, size: tuple[int, int]
) -> shapely.Polygon | shapely.MultiPolygon | None:
    """The areas of the polygon made valid; None where nothing on the slide is left."""
    if polygon.is_empty:
        return None
    areas = [part for part in shapely.get_parts(shapely.make_valid(polygon)) if part.area > 0]
    flat = [part for area in areas for part in shapely.get_parts(area)]
    result = flat[0] if len(flat) == 1 else shapely.MultiPolygon(flat)
    return result if flat and result.is_valid and _problem(result, size) is None else None


def _cut_holes(objects: list[DrawnObject]) -> list[DrawnObject]:
    """Cuts the holes of every layer (ImageScope's negative regions) out of its other objects."""
    layers = {item.layer for item in objects if item.is_hole}
    holes = {n: shapely.union_all([o.polygon for o in objects if o.is_hole and o.layer == n]) for n in layers}
    result = []
    for item in objects:
        if item.is_hole:
            continue
        polygon = item.polygon.difference(holes[item.layer]) if item.layer in holes else item.polygon
        if not polygon.is_empty:
            result.append(DrawnObject(polygon, item.class_name, item.place))
    return result
