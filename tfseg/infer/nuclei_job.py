"""One slide or picture to its nuclei: a network's probabilities or detections, instances tile by tile, measurements.

``OUT/<name>/`` holds ``nuclei.geojson`` (or ``.geojson.gz``), ``nuclei.tiff``, ``overlay.png`` and, written last,
``summary.json``; see :mod:`tfseg.infer.instance_outputs`. A dense network's probabilities are kept on disk as
bytes: pixels within half a byte (0.002) of the threshold may fall otherwise than by
:func:`tfseg.infer.nuclei.label_image`. So are Mask R-CNN's scores, after the threshold.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tfseg.files import atomic_path
from tfseg.infer.band_store import BandStore
from tfseg.infer.dense import DenseResult
from tfseg.infer.dense_job import DenseJob
from tfseg.infer.instance_outputs import NUCLEUS, DetectionOptions, StoredProbabilities, slide_image, write_nuclei
from tfseg.infer.instance_stitch import Instance, Tile, TileGrid, label_tiles
from tfseg.infer.instances import label_instances
from tfseg.infer.job import SegmentOptions
from tfseg.infer.mask_rcnn_slide import FieldGrid, find_instances, stored_tiles
from tfseg.infer.nuclei import nuclei_classes
from tfseg.infer.nuclei_model import STAINS, MaskRCNNModel, NucleiModel
from tfseg.infer.outputs import OVERLAY, slide_areas_mm2
from tfseg.infer.overlay import draw_overlay, png, thumbnail_grid
from tfseg.infer.segmentation import DenseSegmentation, Segmentation
from tfseg.infer.slide import ProgressCallback
from tfseg.infer.summary import content_hash
from tfseg.slides.base import Slide, open_slide
from tfseg.slides.mpp import ASSUMED
from tfseg.slides.rasterise import PixelGrid
from tfseg.slides.tissue import TissueMask
from tfseg.types import ClassSpec

TILE_PX = 1024
"""Side of the tiles in which probabilities become instances."""
_SHIFT = 4
"""Binary digits of a pixel with which OpenCV draws."""
_log = logging.getLogger(__name__)


class NucleiJob(DenseJob):
    """Finds the nuclei of one slide or picture."""

    keeps_probabilities = True
    _model: NucleiModel

    def __init__(
        self, source: str | Path | Slide, model: NucleiModel, out: Path, options: SegmentOptions, name: str | None
    ) -> None:
        """Without a stride half of each tile overlaps; without a border the slide is mirrored at its edges.

        Raises:
            ModelError: options that the network would pass over without a word.
        """
        model.check(options.dense)
        dense = options.dense.filled(border="reflect", stride_px=model.stride_px)
        super().__init__(source, model, out, replace(options, dense=dense), name)

    def _opened(self, source: str | Path | Slide) -> Slide:
        return open_slide(source, self._options.mpp, assumed=self._model.mpp)

    def _analysed(self, progress: ProgressCallback) -> DenseSegmentation:
        if self._slide.mpp_source == ASSUMED:
            _log.warning(
                "%s: the picture does not say its pixel size; assumed is the network's, %g µm/px. Which nuclei are "
                "found, and every area and length in µm, depend on it: if it is another, give it with --mpp.",
                self._slide.path or self._slide.name, self._slide.mpp,
            )  # fmt: skip
        return super()._analysed(progress)

    def _seen(self) -> Slide:
        return self._slide if self._model.view is None else self._model.view(self._slide)

    def _opened_store(self, key: bytes, width: int, planes: int) -> BandStore:
        view = self._model.view
        if view is not None:
            key = bytes.fromhex(content_hash([key.hex(), view.describe()]))
        return super()._opened_store(key, width, planes)

    def _tile_grid(self, pixels: PixelGrid) -> TileGrid:
        """In which tiles probabilities become instances."""
        overlap = self._model.overlap_px
        return TileGrid(pixels.height_px, pixels.width_px, max(TILE_PX, 8 * overlap), overlap)

    def _tiles(self, grid: TileGrid, pixels: PixelGrid) -> Iterator[Tile]:
        """What was found in each tile of ``grid``."""
        assert self._result is not None
        instances = self._model.instances(self._options.dense)
        probabilities = StoredProbabilities(
            self._result.store, [1 + index for index in nuclei_classes(self._model.network.spec)]
        )
        return label_tiles(
            grid,
            probabilities,
            lambda part: label_instances(part, instances),
            context_px=self._model.how.overlap_px // 2,
            image=slide_image(self._slide, pixels),
        )

    def _written(self, segmentation: Segmentation) -> dict[str, Any]:
        assert self._result is not None
        slide, pixels, how = self._slide, self._result.grid.pixels, self._model.how
        grid = self._tile_grid(pixels)
        options = DetectionOptions(stains=STAINS[how.stains], compress=self._options.outputs.compress_polygons)
        seen = Seen(segmentation.thumbnail, thumbnail_grid(slide.size), pixels)
        written = write_nuclei(self._folder, slide, pixels, grid, self._tiles(grid, pixels), options, seen.add)
        with atomic_path(self._folder / OVERLAY) as temporary:
            temporary.write_bytes(png(seen.overlay(slide)))
        return {
            **written,
            "outputs": [*written["outputs"], OVERLAY],
            **measured(seen.areas_px, written["nuclei_mpp"], slide, slide_areas_mm2(slide, segmentation.tissue)),
        }


class MaskRCNNJob(NucleiJob):
    """Finds the nuclei of one slide or picture by Mask R-CNN."""

    state_suffix = ".instances"
    _model: MaskRCNNModel

    def _segmented(self, tissue: TissueMask | None, progress: ProgressCallback) -> DenseResult:
        dense, network = self._options.dense, self._model.network
        return find_instances(
            self._seen(),
            self._model.find,
            network.spec,
            self._model.instances(dense),
            tissue=self._sought(tissue),
            min_tissue=dense.min_tissue,
            open_store=self._opened_store,
            streaming=self._options.streaming,
            progress=progress,
        )

    def _tile_grid(self, pixels: PixelGrid) -> TileGrid:
        assert self._result is not None and isinstance(self._result.grid, FieldGrid)
        return self._result.grid.tiles

    def _tiles(self, grid: TileGrid, pixels: PixelGrid) -> Iterator[Tile]:
        assert self._result is not None
        return stored_tiles(self._result.store, grid, slide_image(self._slide, pixels))


def measured(areas_px: NDArray[np.int64], mpp: float, slide: Slide, areas_mm2: dict[str, float]) -> dict[str, Any]:
    """What the summary says of the nuclei's number and sizes.

    Args:
        areas_px: of the nuclei, pixels.
        mpp: µm per such pixel.
        slide: where they lie.
        areas_mm2: of the "slide" and perhaps its "tissue".

    Returns:
        "areas_mm2"; "nuclei_per_mm2", of the tissue where it was looked for, else of the slide, and None where the
        slide's µm/px is only assumed; "median_area_px" and "median_area_um2", None without a nucleus.
    """
    median = float(np.median(areas_px)) if len(areas_px) else None
    area = areas_mm2.get("tissue", areas_mm2["slide"])
    known = slide.mpp_source != ASSUMED and area > 0
    return {
        "areas_mm2": areas_mm2,
        "nuclei_per_mm2": round(len(areas_px) / area, 2) if known else None,
        "median_area_px": median,
        "median_area_um2": None if median is None else round(median * mpp**2, 3),
    }


class Seen:
    """Nuclei as they are found: their areas, and their outlines on a thumbnail."""

    def __init__(self, image: NDArray[np.uint8], grid: PixelGrid, pixels: PixelGrid) -> None:
        """``grid``: pixels of ``image`` on the slide; ``pixels``: those of the nuclei."""
        self._image, self._grid, self._pixels = image.copy(), grid, pixels
        self._areas = array("q")

    @property
    def areas_px(self) -> NDArray[np.int64]:
        """Of every nucleus, in its own pixels."""
        return np.array(self._areas, np.int64)

    def add(self, nucleus: Instance) -> None:
        """Takes a nucleus: its outline runs through the centres of its outermost pixels."""
        self._areas.append(int(np.count_nonzero(nucleus.mask)))
        contours = cv2.findContours(nucleus.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        corner, scale = np.array([nucleus.left + 0.5, nucleus.top + 0.5]), self._pixels.step_x / self._grid.step_x
        # OpenCV counts from the centre of the first pixel.
        lines = [np.rint(((points + corner) * scale - 0.5) * 2**_SHIFT).astype(np.int32) for points in contours]
        cv2.polylines(self._image, lines, True, NUCLEUS.color, 1, cv2.LINE_8, _SHIFT)

    def overlay(self, slide: Slide) -> NDArray[np.uint8]:
        """The thumbnail with the outlines, and a legend below: uint8 RGB."""
        classes = (ClassSpec("background", (0, 0, 0)), ClassSpec(f"{len(self._areas)} nuclei", NUCLEUS.color))
        size = f"{slide.size[0]} × {slide.size[1]} px, {slide.mpp:.4g} µm/px ({slide.mpp_source})"
        drawn = np.zeros(self._image.shape[:2], np.uint8)  # the outlines are in the picture
        return draw_overlay(self._image, drawn, classes, self._grid.step_x * slide.mpp, f"{slide.name}   {size}")
