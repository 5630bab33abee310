"""Synthetic slides with exact truth, for the demo, tests and benchmarks; ``synthetic_cohort`` makes a cohort of them.

A caricature of breast tissue, for software and not for science: a specimen with collagen, fat, benign ducts and
lobules, vessels, lymphocytes and one to three tumour foci. With the grade (1..3, after Nottingham) tubules give way to
nests and sheets, and nuclei become larger, denser and more varied. Lymphocytes, crowded benign glands and tumour cells
beyond the border make it hard on purpose. Stained with haematoxylin and eosin, or for ER, Ki67 or HER2 with a brown
(DAB) over haematoxylin: sections of one seed show the same tissue in every stain.

Annotated in one of two ways: "tumour", the smooth outline of the foci with their stroma that a pathologist would draw;
or "multiclass", the partial annotation of the DMMN paper, six classes drawn region by region with thin gaps between
them and a share of the regions left out. Slides of the second kind have necrosis and more benign glands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from tfseg.geometry import magnification_of
from tfseg.slides.class_table import DMMN_CLASSES
from tfseg.slides.geojson import PolygonFeature, write_geojson
from tfseg.slides.tiff_writer import write_pyramid
from tfseg.types import H2G_CLASSES, CohortError

if TYPE_CHECKING:
    from tfseg.slides.synthetic_nuclei import Templates

STAINS = ("A", "B", "C")
"""Haematoxylin and eosin of three laboratories."""

IHC_STAINS = ("ER", "Ki67", "HER2")
"""Brown nuclei (ER, Ki67) or membranes (HER2) in a part of the tumour's cells, and in few others."""

SCANNERS = ("P", "Q", "R")
GRADES = (1, 2, 3)
ANNOTATIONS = ("tumour", "multiclass")
LABEL_STEP = 4
"""Level-0 pixels per pixel of the label TIFF."""

_SMALLEST_UM = 250.0


@dataclass(frozen=True)
class Recipe:
    """All that decides a synthetic slide; the same recipe gives the same bytes.

    Attributes:
        size_px: (width, height) of level 0, or the side of a square.
        mpp: µm/px of level 0; the objective power written is 10 / mpp.
        grade: 1, 2 or 3.
        stain: one of :data:`STAINS` or :data:`IHC_STAINS`.
        scanner: "P", "Q" or "R".
        seed: one or several non-negative numbers.
        annotation: "tumour" or "multiclass".
        unannotated: share of the regions that a multi-class annotation leaves out, 0 to less than 1.
    """

    size_px: int | tuple[int, int] = 6144
    mpp: float = 0.5
    grade: int = 2
    stain: str = "A"
    scanner: str = "P"
    seed: int | tuple[int, ...] = 0
    annotation: str = "tumour"
    unannotated: float = 0.25

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return (self.size_px, self.size_px) if isinstance(self.size_px, int) else self.size_px

    def check(self) -> None:
        """Raises CohortError when no slide can be made of it."""
        if not (math.isfinite(self.mpp) and 0.1 <= self.mpp <= 2.0):
            raise CohortError(f"synthetic slide: mpp must be 0.1 to 2.0 µm/px, got {self.mpp}. 0.5 is 20x.")
        if min(self.size) * self.mpp < _SMALLEST_UM:
            least = math.ceil(_SMALLEST_UM / self.mpp)
            raise CohortError(
                f"synthetic slide: at {self.mpp} µm/px size_px must be at least {least}, got {self.size_px}."
            )
        for what, value, known in (
            ("grade", self.grade, GRADES),
            ("stain", self.stain, STAINS + IHC_STAINS),
            ("scanner", self.scanner, SCANNERS),
            ("annotation", self.annotation, ANNOTATIONS),
        ):
            if value not in known:
                raise CohortError(f"synthetic slide: {what} must be one of {known}, got {value!r}.")
        if not 0 <= self.unannotated < 1:
            raise CohortError(f"synthetic slide: unannotated must be 0 to less than 1, got {self.unannotated}.")


@dataclass(frozen=True)
class Truth:
    """What is on a synthetic slide.

    Attributes:
        tumour: the foci with their stroma, level-0 px.
        tissue: specimen, level-0 px.
        nuclei: (N, 4) float32: x, y (level-0 px), kind (0 tumour, 1 benign epithelium, 2 lymphocyte, 3 spindle,
            4 dead), area (µm²).
        regions: of a multi-class slide, class name → where it is, level-0 px; they fill the slide without overlap.
    """

    tumour: shapely.MultiPolygon
    tissue: shapely.MultiPolygon
    nuclei: NDArray[np.float32]
    regions: dict[str, shapely.MultiPolygon] = field(default_factory=dict)


def synthetic_slide(
    path: str | Path,
    recipe: Recipe | None = None,
    *,
    annotation: str | Path | None = None,
    labels: str | Path | None = None,
) -> Truth:
    """Writes one slide as a tiled pyramidal TIFF with pixel size and objective power.

    Drawn in bands of 256 rows, so memory grows with the width (and slowly with the number of cells), not with the area.

    Args:
        path: ``….tif`` or ``….svs``; OpenSlide, QuPath and FAST read both alike.
        recipe: what to draw; None for the defaults.
        annotation: also write QuPath GeoJSON: the tumour's outline, class "Tumour"; or the multi-class annotation.
        labels: also write the truth as pyramidal label TIFF, 4 level-0 pixels a pixel: 1 tumour, 0 all else, glass
            included (as the GeoJSON says with "everything not drawn is non-tumour"); or the complete truth, with
            ``DMMN_CLASSES[value]`` for the values 1 to 6 (:meth:`ClassTable.of_raster` maps them to other classes).

    Raises:
        CohortError: settings out of range.
        OutputError: the target cannot be written.
    """
    from tfseg.slides import synthetic_nuclei, synthetic_regions, synthetic_render, synthetic_tissue

    recipe = recipe or Recipe()
    recipe.check()
    mpp, multiclass = recipe.mpp, recipe.annotation == "multiclass"
    rng = np.random.default_rng(recipe.seed)
    of_debris, of_annotator = rng.spawn(2)  # their own numbers: rng gives what it gives without them
    nuclei = (*synthetic_nuclei.templates(recipe.grade, mpp, rng), synthetic_nuclei.debris(mpp, of_debris))
    width, height = recipe.size
    tissue = synthetic_tissue.grow((width * mpp, height * mpp), recipe.grade, nuclei, rng, every_class=multiclass)
    scanner = synthetic_render.SCANNERS[recipe.scanner]
    picture = synthetic_render.Picture(tissue, nuclei, mpp, synthetic_render.STAINS[recipe.stain], scanner, rng)
    write_pyramid(path, picture, mpp=mpp, objective_power=magnification_of(mpp), quality=scanner.quality)
    outline = synthetic_regions.in_pixels(tissue.layout.tumour, mpp)
    regions = synthetic_regions.regions_of(tissue) if multiclass else {}
    if annotation is not None:
        features = [PolygonFeature(part, "Tumour", H2G_CLASSES[1].color) for part in outline.geoms]
        if multiclass:
            drawn = synthetic_regions.partial_annotation(regions, recipe.unannotated, of_annotator)
            features = synthetic_regions.features(drawn, mpp)
        write_geojson(annotation, features, mpp)
    regions = {name: synthetic_regions.in_pixels(region, mpp) for name, region in regions.items()}
    if labels is not None:
        _write_labels(labels, regions, outline, recipe)
    whole = synthetic_regions.in_pixels(tissue.layout.tissue, mpp)
    return Truth(outline, whole, _nuclei(tissue.nuclei, nuclei, mpp), regions)


def _write_labels(
    path: str | Path, regions: Mapping[str, shapely.MultiPolygon], tumour: shapely.MultiPolygon, recipe: Recipe
) -> None:
    from tfseg.slides.synthetic_regions import Labels

    names = [spec.name for spec in DMMN_CLASSES]
    shapes = [(region, names.index(name)) for name, region in regions.items()] or [(tumour, 1)]
    source = Labels(shapes, recipe.size, LABEL_STEP, names.index("background") if regions else 0)
    colors = {value: spec.color for value, spec in enumerate(DMMN_CLASSES)} if regions else None
    write_pyramid(path, source, mpp=recipe.mpp * LABEL_STEP, kind="label", colors=colors)


def _nuclei(table: NDArray[np.void], templates: Templates, mpp: float) -> NDArray[np.float32]:
    """The nuclei of :class:`Truth`."""
    area = [templates[kind][number].area_um2 for kind, number in zip(table["kind"], table["template"], strict=True)]
    columns = [table["x"] / mpp, table["y"] / mpp, table["kind"], np.array(area)]
    return np.column_stack(columns).astype(np.float32)
