"""Nuclei of a whole slide on disk: detections for QuPath with measurements, and the label picture as a pyramid.

Neither the picture nor the list of nuclei is ever held: tiles stream through
:func:`tfseg.infer.instance_stitch.stitch`, nuclei go to the GeoJSON as they are found, and finished rows of labels wait
compressed until the pyramid is written.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from skimage.color import rgb_from_hed
from skimage.measure import perimeter

from tfseg.infer.band_store import KEY_BYTES, BandStore
from tfseg.infer.instance_stitch import Instance, Read, Tile, TileGrid, stitch
from tfseg.infer.outputs import provenance
from tfseg.infer.polygons import mask_polygons
from tfseg.slides.base import Slide
from tfseg.slides.geojson import PolygonFeature, write_geojson
from tfseg.slides.rasterise import PixelGrid
from tfseg.slides.tiff_writer import write_pyramid
from tfseg.types import ClassSpec, ModelError, Window

DETECTIONS, DETECTIONS_GZ, LABELS = "nuclei.geojson", "nuclei.geojson.gz", "nuclei.tiff"
NUCLEI_OUTPUTS = (DETECTIONS, DETECTIONS_GZ, LABELS)
PERIMETER, ECCENTRICITY, SCORE = "Perimeter µm", "Eccentricity", "Score"

NUCLEUS = ClassSpec("Nucleus", (40, 160, 60))

HAEMATOXYLIN, EOSIN, DAB = (tuple(map(float, stain)) for stain in rgb_from_hed)
HE_STAINS = {"Hematoxylin": HAEMATOXYLIN, "Eosin": EOSIN}
DAB_STAINS = {"Hematoxylin": HAEMATOXYLIN, "DAB": DAB}
"""Optical densities in red, green, blue of Ruifrok and Johnston (2001), as in scikit-image."""

_BATCH = 256
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DetectionOptions:
    """What is written of nuclei.

    Attributes:
        nucleus: class of the detections, as QuPath shows it.
        stains: name → (red, green, blue) optical density of two or three stains, whose mean over each nucleus is
            measured where tiles carry images; none measures none.
        compress: write nuclei.geojson.gz in place of nuclei.geojson.
    """

    nucleus: ClassSpec = NUCLEUS
    stains: Mapping[str, Sequence[float]] = field(default_factory=lambda: dict(HE_STAINS))
    compress: bool = False


def write_nuclei(
    folder: str | Path,
    slide: Slide,
    pixels: PixelGrid,
    grid: TileGrid,
    tiles: Iterable[Tile],
    options: DetectionOptions | None = None,
    seen: Callable[[Instance], None] | None = None,
) -> dict[str, Any]:
    """Writes ``nuclei.geojson`` and ``nuclei.tiff``, each whole or not at all.

    Args:
        folder: made where it is missing.
        slide: what was segmented.
        pixels: where the pixels of the tiles lie on the slide.
        grid: where the tiles lie on those pixels.
        tiles: see :func:`tfseg.infer.instance_stitch.stitch`; consumed once.
        options: what of it.
        seen: called with every nucleus as it is found.

    Returns:
        For the summary: "outputs" (file names), "nuclei" (how many), "nuclei_cut" (pieces among them of what no tile
        saw whole), "nuclei_mpp" (µm per pixel of the labels).

    Raises:
        ModelError: tiles that do not fit the grid, a grid that does not fit the pixels, or stains that cannot be told
            apart.
        OutputError: the folder cannot be written or the disk is full.
    """
    options, folder = options or DetectionOptions(), Path(folder)
    if pixels.shape != (grid.height_px, grid.width_px):
        raise ModelError(f"tiles cover {(grid.height_px, grid.width_px)} px, the slide's pixels are {pixels.shape}.")
    pieces = itertools.count()

    def counted(instances: Iterable[Instance]) -> Iterator[Instance]:
        for instance in instances:
            if not instance.whole:
                next(pieces)
            if seen is not None:
                seen(instance)
            yield instance

    detections = folder / (DETECTIONS_GZ if options.compress else DETECTIONS)
    about = provenance(slide)
    with LabelBands(grid.width_px) as labels:
        features = nuclei_features(counted(stitch(grid, tiles, labels.append)), slide, pixels, options)
        nuclei = write_geojson(detections, features, slide.mpp, about=about)
        mpp = pixels.step_x * slide.mpp, pixels.step_y * slide.mpp
        write_pyramid(folder / LABELS, labels, mpp=mpp, kind="label", description="; ".join(about.values()))
    cut = next(pieces)
    if cut:
        _log.warning(
            "%s: %d of %d nuclei are pieces of what was larger than the overlap of %d px. If real nuclei are that "
            "large, take a larger overlap (--overlap-px; of Mask R-CNN a network with larger fields).",
            slide.name, cut, nuclei, grid.overlap_px,
        )  # fmt: skip
    return {"outputs": [detections.name, LABELS], "nuclei": nuclei, "nuclei_cut": cut, "nuclei_mpp": mpp[0]}


def nuclei_features(
    instances: Iterable[Instance], slide: Slide, pixels: PixelGrid, options: DetectionOptions
) -> Iterator[PolygonFeature]:
    """QuPath detections: outlines along pixel edges, in level-0 pixels, with measurements.

    Measured: "Perimeter µm" (``skimage.measure.perimeter``: through the centres of the outermost pixels) and
    "Eccentricity" (:func:`eccentricity`); "Score" where instances have one; where they carry an image
    "<stain>: Mean", the mean optical density −log₁₀(I / 255) of each stain over the nucleus. "Area µm^2" is added by
    :func:`tfseg.slides.geojson.write_geojson`.

    Args:
        instances: in pixels of ``pixels``; 256 at a time are held.
        slide: whose level-0 pixels; outlines end at its edges.
        pixels: where the instances' pixels lie on it.
        options: class and stains.

    Raises:
        ModelError: stains that cannot be told apart.
    """
    unmix = _unmixing(options.stains)
    scale, corner = np.array([pixels.step_x, pixels.step_y]), np.array([pixels.left, pixels.top])
    edge = np.array(slide.size, np.float64)
    mpp = math.sqrt(pixels.step_x * pixels.step_y) * slide.mpp
    stream = iter(instances)
    while batch := list(itertools.islice(stream, _BATCH)):
        for instance, outline in zip(batch, outlines([one.mask for one in batch]), strict=True):
            place = corner + scale * (instance.left, instance.top)
            shape = shapely.transform(outline, lambda points, at=place: np.minimum(at + scale * points, edge))
            yield PolygonFeature(
                shape,
                options.nucleus.name,
                options.nucleus.color,
                measurements=_measurements(instance, mpp, options.stains, unmix),
                object_type="detection",
            )


def outlines(masks: Sequence[NDArray[np.bool_]]) -> list[shapely.Polygon | shapely.MultiPolygon]:
    """The outline of each mask along pixel edges, in its own pixels; of several 4-connected parts a MultiPolygon.

    All masks are laid side by side and outlined at once, which is some ten times as fast as one by one.
    """
    widths = np.array([mask.shape[1] + 1 for mask in masks])
    starts = np.concatenate([[0], np.cumsum(widths)])
    strip = np.zeros((max(mask.shape[0] for mask in masks), starts[-1]), np.uint8)
    for mask, start in zip(masks, starts, strict=False):
        strip[: mask.shape[0], start : start + mask.shape[1]] = mask
    parts: list[list[shapely.Polygon]] = [[] for _ in masks]
    for _, polygon in mask_polygons(strip, classes=[1]):
        index = int(np.searchsorted(starts, polygon.bounds[0], side="right")) - 1
        parts[index].append(shapely.transform(polygon, lambda points, at=starts[index]: points - (at, 0)))
    return [found[0] if len(found) == 1 else shapely.MultiPolygon(found) for found in parts]


def eccentricity(mask: NDArray[np.bool_]) -> float:
    """√(1 − λ₂ / λ₁) with the variances λ₁ ≥ λ₂ along the main axes: of the ellipse with the mask's moments.

    0 a circle (or one pixel), 1 a line. It is what ``skimage.measure.regionprops`` gives, of which 100 000 calls for it
    and the perimeter would take two minutes.
    """
    least, most = np.linalg.eigvalsh(np.cov(np.nonzero(mask), bias=True))
    return math.sqrt(1 - max(0.0, least) / most) if most > 0 else 0.0


def _measurements(
    instance: Instance, mpp: float, stains: Mapping[str, Sequence[float]], unmix: NDArray[np.float64]
) -> dict[str, float]:
    around = float(perimeter(instance.mask)) * mpp
    values = {PERIMETER: round(around, 3), ECCENTRICITY: round(eccentricity(instance.mask), 4)}
    if instance.score is not None:
        values[SCORE] = round(float(instance.score), 4)
    if instance.image is not None and stains:
        density = -np.log10(np.maximum(instance.image[instance.mask], 1) / 255)
        means = density.mean(axis=0) @ unmix
        values.update({f"{name}: Mean": round(float(mean), 4) for name, mean in zip(stains, means, strict=False)})
    return values


def _unmixing(stains: Mapping[str, Sequence[float]]) -> NDArray[np.float64]:
    """(3, 3): optical density @ it = amounts of the stains; of two, the third is what neither explains."""
    if not stains:
        return np.eye(3)
    vectors = np.array(list(stains.values()), np.float64)
    if vectors.shape == (2, 3):
        vectors = np.concatenate([vectors, [np.cross(*vectors)]])
    if vectors.shape != (3, 3):
        raise ModelError(f"stains: expected two or three of (red, green, blue). Received: {dict(stains)}.")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.where(lengths > 0, lengths, 1)
    if abs(np.linalg.det(vectors)) < 1e-3:
        raise ModelError(f"stains: {dict(stains)} cannot be told apart: one is a mixture of the others.")
    return np.asarray(np.linalg.inv(vectors), np.float64)


class LabelBands:
    """A label picture, uint32 (H, W), that grows from the top and waits compressed in a file without a name.

    A tile source for :func:`tfseg.slides.tiff_writer.write_pyramid`. To be used in a ``with``.

    Attributes:
        shape: (rows that are there, width).
    """

    dtype = np.uint32

    def __init__(self, width_px: int) -> None:
        self.shape: tuple[int, ...] = (0, width_px)
        self._store = BandStore(None, bytes(KEY_BYTES), 4 * width_px, 1)

    def append(self, rows: NDArray[np.uint32]) -> None:
        """Adds the next rows, (rows, W). Raises OutputError when the disk is full."""
        self._store.append([np.ascontiguousarray(rows, np.uint32).view(np.uint8)])
        self.shape = (self._store.rows, self.shape[1])

    def tile(self, row0: int, col0: int, height: int, width: int) -> NDArray[np.uint32]:
        """Pixels [row0, row0 + height) × [col0, col0 + width)."""
        rows = self._store.plane(0).rows(row0, height).view(np.uint32)
        return rows[:, col0 : col0 + width]

    def __enter__(self) -> LabelBands:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()


class StoredProbabilities:
    """Reads float32 0..1 from planes of bytes (probability · 255), as a dense run keeps them.

    The rows read last are kept, so tiles of one row are decoded once: (rows, W, planes) bytes.

    Args:
        store: such as ``DenseResult.store`` of a run with probabilities: plane 1 + c is class c.
        planes: one for the foreground, (h, w); or three, background, inside and border, (h, w, 3).
    """

    def __init__(self, store: BandStore, planes: Sequence[int]) -> None:
        self._planes = [store.plane(index) for index in planes]
        self._at = (0, 0)
        self._rows = np.empty((0, store.width, len(planes)), np.uint8)

    def __call__(self, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        if (top, height) != self._at:
            self._rows = np.stack([plane.rows(top, height) for plane in self._planes], axis=-1)
            self._at = (top, height)
        part = self._rows[:, left : left + width].astype(np.float32) / np.float32(255)
        return part[..., 0] if part.shape[2] == 1 else part


def slide_image(slide: Slide, pixels: PixelGrid) -> Read:
    """Reads a slide's RGB at a grid's pixels, uint8 (h, w, 3), for :func:`tfseg.infer.instance_stitch.label_tiles`."""

    def read(top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        x = pixels.left + (left + width / 2) * pixels.step_x
        y = pixels.top + (top + height / 2) * pixels.step_y
        return slide.read(Window(x, y, width, height, pixels.step_x * slide.mpp))

    return read
