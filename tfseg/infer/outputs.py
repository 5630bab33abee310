"""What a segmentation leaves on disk: pictures that QuPath and OpenSlide open, polygons, an overlay, a summary.

``OUT/<slide name>/`` holds

- ``mask.tiff``: class indices, tiled pyramid with pixel size, coloured; of a cascade in pixels of 2^k level-0 pixels,
  of a dense network in its output's pixels or 2^k × 2^k of them;
- ``heatmap.tiff``: the classifier's foreground probability · 255, one pixel a patch (where there is a classifier);
- ``probability.tiff``: foreground probability · 255 on the mask's pixels (on request); of a dense network
  ``probability_<class>.tiff`` of every class, what is neither letter nor digit replaced by "_";
- ``polygons.geojson`` (or ``.geojson.gz``): outlines in level-0 pixels for QuPath;
- ``overlay.png``: what to look at first;
- ``summary.json``: areas, times, settings, versions. It is written last: where it stands, the slide is finished.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

import tfseg
from tfseg.files import atomic_path
from tfseg.infer.overlay import draw_overlay, png, thumbnail_grid
from tfseg.infer.polygons import count_corners, mask_polygons
from tfseg.infer.segmentation import CLASS_PROBABILITY, HEATMAP, PROBABILITY, Picture, Segmentation
from tfseg.slides.base import Slide
from tfseg.slides.geojson import PolygonFeature, write_geojson
from tfseg.slides.rasterise import PixelGrid
from tfseg.slides.tiff_writer import TileSource, write_pyramid
from tfseg.slides.tissue import TissueMask
from tfseg.types import OutputError

MASK = "mask.tiff"
POLYGONS, POLYGONS_GZ, OVERLAY, SUMMARY = "polygons.geojson", "polygons.geojson.gz", "overlay.png", "summary.json"
OUTPUTS = (MASK, HEATMAP, PROBABILITY, CLASS_PROBABILITY, POLYGONS, POLYGONS_GZ, OVERLAY, SUMMARY)
"""Names of the files, the classes' as a pattern."""

MOST_POLYGON_PX = 2**25
"""Outlines are taken from a mask of at most this many pixels (16 bytes each); from larger slides, of larger pixels."""
MOST_CORNERS = 2**21
"""Outlines of a mask of more corners (a noisy one) are taken from larger pixels: each corner takes some 150 bytes."""
_BAND_PX = 256
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputOptions:
    """What is written, and how.

    Attributes:
        mask_mpp: µm per mask pixel to come near to: the slide's mpp, or a dense network's, times a power of two. None
            takes 4 µm, or a dense network's own.
        tissue_only: set the mask to class 0 (of a dense network: the background class) outside tissue.
        probability: also write probability.tiff; of a dense network one file a class.
        compress_polygons: write polygons.geojson.gz in place of polygons.geojson.
        min_area_um2: smaller polygons are left out (of the polygons, not of the mask).
    """

    mask_mpp: float | None = None
    tissue_only: bool = False
    probability: bool = False
    compress_polygons: bool = False
    min_area_um2: float = 0.0

    def check(self) -> None:
        """Raises OutputError for sizes that no mask or polygon can have."""
        if self.mask_mpp is not None and not 0 < self.mask_mpp < math.inf:
            raise OutputError(f"--mask-mpp {self.mask_mpp:g}: expected µm per pixel above 0, e.g. 4.")
        if not self.min_area_um2 >= 0:
            raise OutputError(f"--min-area-um2 {self.min_area_um2:g}: expected 0 or more µm².")


def write_outputs(folder: Path, segmentation: Segmentation, options: OutputOptions) -> dict[str, Any]:
    """Writes everything but the summary, each file whole or not at all.

    Memory is bounded: the mask is computed in bands and held as a whole only up to ``MOST_POLYGON_PX`` pixels.

    Returns:
        What the summary says of it: "outputs" (file names), "mask" (mpp, size, classes), "areas_mm2", "polygons".

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    slide = segmentation.slide
    grid = segmentation.grid(options.mask_mpp)
    pictures = segmentation.pictures(grid, options.probability)
    names = [MASK, POLYGONS_GZ if options.compress_polygons else POLYGONS, OVERLAY, *pictures]
    with ThreadPoolExecutor(2, "tfseg-write") as pool:
        jobs: list[Future[Any]] = [pool.submit(_write_overlay, folder / OVERLAY, segmentation, options)]
        jobs += [pool.submit(_write_picture, folder / name, one, slide) for name, one in pictures.items()]
        tally = Tally(segmentation.mask(grid, options.tissue_only), slide, grid)
        small = grid.width_px * grid.height_px <= MOST_POLYGON_PX
        mask = render(tally) if small else None
        colors = {index: spec.color for index, spec in enumerate(segmentation.classes) if index}
        polygons = pool.submit(_write_polygons, folder / names[1], segmentation, grid, mask, options)
        source = tally if mask is None else mask
        mpp, text = grid.step_x * slide.mpp, "; ".join(provenance(slide).values())
        write_pyramid(folder / MASK, source, mpp=mpp, kind="label", colors=colors, description=text)
        for job in jobs:
            job.result()
    return {
        "outputs": names,
        "mask": {
            "mpp": grid.step_x * slide.mpp,
            "size_px": [grid.width_px, grid.height_px],
            "classes": {str(i): spec.name for i, spec in enumerate(segmentation.classes)},
        },
        "areas_mm2": tally.areas_mm2(segmentation),
        "polygons": polygons.result(),
    }


class Tally:
    """Passes tiles of class indices on and counts the slide's area of each; each tile must be asked for once."""

    dtype = np.uint8

    def __init__(self, source: TileSource, slide: Slide, grid: PixelGrid) -> None:
        self._source, self.shape = source, source.shape
        # The last column and row reach past the slide: they count for the part that does not. Others count whole.
        width, height = slide.size
        self._across = np.clip(width / grid.step_x - np.arange(grid.width_px), 0, 1)
        self._down = np.clip(height / grid.step_y - np.arange(grid.height_px), 0, 1)
        self._pixel_mm2 = grid.step_x * grid.step_y * slide.mpp**2 / 1e6
        self._counts = np.zeros(256)

    def tile(self, row0: int, col0: int, height: int, width: int) -> NDArray[np.uint8]:
        labels = self._source.tile(row0, col0, height, width)
        across, down = self._across[col0 : col0 + width], self._down[row0 : row0 + height]
        self._counts[0] += across.sum() * down.sum()
        for index in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)):
            if index == 0:
                continue
            found = labels == index
            columns = found.sum(axis=0, dtype=np.uint32) - (1 - down[-1]) * found[-1]
            count = float(columns @ across)
            self._counts[index] += count
            self._counts[0] -= count
        return labels

    def areas_mm2(self, segmentation: Segmentation) -> dict[str, Any]:
        """Of the slide, its tissue (where it was looked for) and each class; see ``Segmentation.classes_apart``."""
        areas = slide_areas_mm2(segmentation.slide, segmentation.tissue)
        names = [spec.name for spec in segmentation.classes]
        classes = {name: round(float(self._counts[i] * self._pixel_mm2), 6) for i, name in enumerate(names)}
        return {**areas, "classes": classes} if segmentation.classes_apart else {**areas, **classes}


def slide_areas_mm2(slide: Slide, tissue: TissueMask | None) -> dict[str, float]:
    """Areas of the "slide" and of its "tissue" (where it was looked for)."""
    areas = {"slide": slide.size[0] * slide.size[1] * slide.mpp**2 / 1e6}
    if tissue is not None:
        areas["tissue"] = areas["slide"] * tissue.fraction((0.0, 0.0, float(slide.size[0]), float(slide.size[1])))
    return {what: round(area, 6) for what, area in areas.items()}


def render(source: TileSource) -> NDArray[np.uint8]:
    """A tile source as an array, computed band by band."""
    height, width = source.shape
    out = np.empty((height, width), np.uint8)
    for row in range(0, height, _BAND_PX):
        rows = min(_BAND_PX, height - row)
        out[row : row + rows] = source.tile(row, 0, rows, width)
    return out


def provenance(slide: Slide) -> dict[str, str]:
    """What every file says of the slide that it was made from, ASCII alone as TIFF wants it."""
    name = slide.name.encode("ascii", "replace").decode()
    return {
        "software": f"tfseg {tfseg.__version__}",
        "slide": f"slide {name}, {slide.size[0]} x {slide.size[1]} px",
        "mpp": f"{slide.mpp:.6g} um/px from {slide.mpp_source}",
    }


def _write_picture(path: Path, picture: Picture, slide: Slide) -> None:
    text = "; ".join(provenance(slide).values())
    write_pyramid(path, picture.source, mpp=picture.mpp, kind="heatmap", description=text)


def _write_overlay(path: Path, segmentation: Segmentation, options: OutputOptions) -> None:
    slide, image = segmentation.slide, segmentation.thumbnail
    grid = thumbnail_grid(slide.size)
    data = png(
        draw_overlay(
            image,
            render(segmentation.mask(grid, options.tissue_only)),
            segmentation.classes,
            grid.step_x * slide.mpp,
            f"{slide.name}   {slide.size[0]} × {slide.size[1]} px, {slide.mpp:.4g} µm/px ({slide.mpp_source})",
            segmentation.heat(grid),
        )
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _write_polygons(
    path: Path, segmentation: Segmentation, grid: PixelGrid, mask: NDArray[np.uint8] | None, options: OutputOptions
) -> int:
    """Number of polygons written. ``mask`` on ``grid``; None where that is too large to be held."""
    slide, finest = segmentation.slide, grid
    if mask is None:
        grid = coarser(grid, slide.size, MOST_POLYGON_PX)
        mask = render(segmentation.mask(grid, options.tissue_only))
    while count_corners(mask) > MOST_CORNERS:
        grid = coarser(grid, slide.size, mask.size - 1)
        mask = render(segmentation.mask(grid, options.tissue_only))
    if grid.step_x > finest.step_x:
        _log.info("%s: outlines are those of pixels of %.4g µm.", slide.name, grid.step_x * slide.mpp)
    return write_geojson(path, _features(segmentation, grid, mask, options), slide.mpp, about=provenance(slide))


def coarser(grid: PixelGrid, slide_size: tuple[int, int], most_px: int) -> PixelGrid:
    """A grid over the same slide with pixels 2, 4, 8 … times as large, so that it has at most ``most_px`` pixels."""
    while grid.width_px * grid.height_px > most_px:
        step = grid.step_x * 2
        width, height = (int(-(-side // step)) for side in slide_size)
        grid = PixelGrid(0.0, 0.0, step, step, width, height)
    return grid


def _features(
    segmentation: Segmentation, grid: PixelGrid, mask: NDArray[np.uint8], options: OutputOptions
) -> Iterator[PolygonFeature]:
    slide = segmentation.slide
    edge = np.array(slide.size, np.float64)
    step = (grid.step_x, grid.step_y)
    found = mask_polygons(mask, step, min_area_um2=options.min_area_um2, slide_mpp=slide.mpp)
    for index, polygon in found:
        # Pixels of the last column and row reach past the slide; nothing else lies between them and its edge.
        inside = shapely.transform(polygon, lambda points: np.minimum(points, edge))
        yield PolygonFeature(inside, segmentation.classes[index].name, segmentation.classes[index].color)
