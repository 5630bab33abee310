"""Synthetic H&E slides with exact truth: one slide, or an annotated cohort for the demo, tests and benchmarks.

A caricature of breast tissue, for software and not for science: a specimen with collagen, fat, benign ducts and
lobules, vessels, lymphocytes and one to three tumour foci. With the grade (1..3, after Nottingham) tubules give way to
nests and sheets, and nuclei become larger, denser and more varied. The annotation is what a pathologist would draw: a
smooth outline of the foci with their stroma. Lymphocytes, crowded benign glands and tumour cells beyond the border make
it hard on purpose.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from tfseg.files import write_text
from tfseg.geometry import magnification_of
from tfseg.slides.geojson import PolygonFeature, write_geojson
from tfseg.slides.rasterise import PixelGrid, draw, edges
from tfseg.slides.tiff_writer import write_pyramid
from tfseg.types import H2G_CLASSES, CohortError

if TYPE_CHECKING:
    from tfseg.slides.synthetic_nuclei import Templates

STAINS = ("A", "B", "C")
SCANNERS = ("P", "Q", "R")
GRADES = (1, 2, 3)
LABEL_STEP = 4
"""Level-0 pixels per pixel of the label TIFF."""

_SMALLEST_UM = 250.0

Progress = Callable[[int, int, str], None]
"""Called with (slides done, slides in all, name of the slide just done)."""


@dataclass(frozen=True)
class Recipe:
    """All that decides a synthetic slide; the same recipe gives the same bytes.

    Attributes:
        size_px: (width, height) of level 0, or the side of a square.
        mpp: µm/px of level 0; the objective power written is 10 / mpp.
        grade: 1, 2 or 3.
        stain: laboratory, "A", "B" or "C".
        scanner: "P", "Q" or "R".
        seed: one or several non-negative numbers.
    """

    size_px: int | tuple[int, int] = 6144
    mpp: float = 0.5
    grade: int = 2
    stain: str = "A"
    scanner: str = "P"
    seed: int | tuple[int, ...] = 0

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
            ("stain", self.stain, STAINS),
            ("scanner", self.scanner, SCANNERS),
        ):
            if value not in known:
                raise CohortError(f"synthetic slide: {what} must be one of {known}, got {value!r}.")


@dataclass(frozen=True)
class Truth:
    """What is on a synthetic slide.

    Attributes:
        tumour: annotated region, level-0 px.
        tissue: specimen, level-0 px.
        nuclei: (N, 4) float32: x, y (level-0 px), kind (0 tumour, 1 benign epithelium, 2 lymphocyte, 3 spindle),
            area (µm²).
    """

    tumour: shapely.MultiPolygon
    tissue: shapely.MultiPolygon
    nuclei: NDArray[np.float32]


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
        annotation: also write the tumour's outline as QuPath GeoJSON, class "Tumour".
        labels: also write the truth as pyramidal label TIFF, 4 level-0 pixels a pixel: 1 tumour, 0 all else, glass
            included (as the GeoJSON says with "everything not drawn is non-tumour").

    Raises:
        CohortError: settings out of range.
        OutputError: the target cannot be written.
    """
    from tfseg.slides import synthetic_nuclei, synthetic_render, synthetic_tissue

    recipe = recipe or Recipe()
    recipe.check()
    mpp = recipe.mpp
    rng = np.random.default_rng(recipe.seed)
    nuclei = synthetic_nuclei.templates(recipe.grade, mpp, rng)
    width, height = recipe.size
    tissue = synthetic_tissue.grow((width * mpp, height * mpp), recipe.grade, nuclei, rng)
    scanner = synthetic_render.SCANNERS[recipe.scanner]
    picture = synthetic_render.Picture(tissue, nuclei, mpp, synthetic_render.STAINS[recipe.stain], scanner, rng)
    write_pyramid(path, picture, mpp=mpp, objective_power=magnification_of(mpp), quality=scanner.quality)
    outline = _in_pixels(tissue.layout.tumour, mpp)
    if annotation is not None:
        tumour = H2G_CLASSES[1]
        features = [PolygonFeature(part, "Tumour", tumour.color) for part in outline.geoms]
        write_geojson(annotation, features, mpp)
    if labels is not None:
        write_pyramid(labels, _Labels(outline, (width, height)), mpp=mpp * LABEL_STEP, kind="label")
    return Truth(outline, _in_pixels(tissue.layout.tissue, mpp), _nuclei(tissue.nuclei, nuclei, mpp))


def make_cohort(
    folder: str | Path,
    slides_per_grade: Mapping[str, int] | None = None,
    size_px: int = 6144,
    mpp: float = 0.5,
    seed: int = 0,
    workers: int = 2,
    progress: Progress | None = None,
) -> Path:
    """Writes a cohort of synthetic slides, a third of each grade, and its manifest.

    ``slides/<name>.tif`` (pyramidal, pixel size, objective power), ``annotations/<name>.geojson`` (QuPath; class
    "Tumour"), ``labels/<name>.tif`` (1 tumour, 0 all else) and ``cohort.csv`` with the columns slide, annotation,
    split, grade, stain, scanner, paths relative to it. A slide depends on the settings, not on ``workers``. The
    manifest comes last: where there is one, the cohort is whole.

    Args:
        folder: made when missing; slides of the same name are replaced.
        slides_per_grade: split → slides of each grade; default {"train": 3, "val": 1, "test": 1}.
        size_px: side of the slides.
        mpp: µm/px.
        seed: non-negative.
        workers: processes. With more than one the calling script needs the usual ``if __name__ == "__main__"``.
        progress: told of each finished slide.

    Returns:
        Path of ``cohort.csv``.

    Raises:
        CohortError: settings out of range.
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    counts = dict(slides_per_grade or {"train": 3, "val": 1, "test": 1})
    if any(number < 0 for number in counts.values()) or sum(counts.values()) < 1:
        raise CohortError(f"slides_per_grade must name at least one slide and no negative number, got {counts}.")
    if workers < 1 or seed < 0:
        raise CohortError(f"workers must be at least 1 and seed at least 0, got workers={workers}, seed={seed}.")
    jobs = _jobs(counts, size_px, mpp, seed)
    for _, recipe, _ in jobs:
        recipe.check()
    (folder / "cohort.csv").unlink(missing_ok=True)
    if workers == 1:
        for done, (name, recipe, _) in enumerate(jobs, start=1):
            _make(folder, name, recipe)
            if progress:
                progress(done, len(jobs), name)
    else:
        _make_parallel(folder, jobs, workers, progress)
    lines = ["slide,annotation,split,grade,stain,scanner"]
    for name, recipe, split in jobs:
        lines.append(
            f"slides/{name}.tif,annotations/{name}.geojson,{split},{recipe.grade},{recipe.stain},{recipe.scanner}"
        )
    write_text(folder / "cohort.csv", "\n".join(lines) + "\n")
    return folder / "cohort.csv"


Job = tuple[str, Recipe, str]
"""Name, recipe and split of a slide."""


def _jobs(counts: Mapping[str, int], size_px: int, mpp: float, seed: int) -> list[Job]:
    """Every slide of a cohort. Nine in a row of one split show every pair of stain and scanner."""
    pairs = [(stain, scanner) for stain in STAINS for scanner in SCANNERS]
    order = np.random.default_rng(seed).permutation(len(pairs))
    jobs = []
    for place, (split, number) in enumerate(counts.items()):
        for grade in GRADES:
            for index in range(number):
                name = f"{split}-grade{grade}-{index + 1:02d}"
                stain, scanner = pairs[order[(3 * (grade - 1) + index + 2 * place) % len(pairs)]]
                own = (seed, zlib.crc32(name.encode()))
                jobs.append((name, Recipe(size_px, mpp, grade, stain, scanner, own), split))
    return jobs


def _make(folder: Path, name: str, recipe: Recipe) -> None:
    synthetic_slide(
        folder / "slides" / f"{name}.tif",
        recipe,
        annotation=folder / "annotations" / f"{name}.geojson",
        labels=folder / "labels" / f"{name}.tif",
    )


def _make_parallel(folder: Path, jobs: list[Job], workers: int, progress: Progress | None) -> None:
    import multiprocessing

    # Spawned, not forked: the caller may hold TensorFlow's threads, which a fork would break.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _one_thread) as pool:
        futures: dict[Future[None], str] = {pool.submit(_make, folder, name, recipe): name for name, recipe, _ in jobs}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if progress:
                    progress(done, len(jobs), futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def _in_pixels(shape: shapely.MultiPolygon, mpp: float) -> shapely.MultiPolygon:
    """From µm to level-0 pixels, to 1/100 px as GeoJSON keeps it, so that every output has the same outline."""
    return shapely.transform(shape, lambda points: np.round(points / mpp, 2))


def _nuclei(table: NDArray[np.void], templates: Templates, mpp: float) -> NDArray[np.float32]:
    """The nuclei of :class:`Truth`."""
    area = [templates[kind][number].area_um2 for kind, number in zip(table["kind"], table["template"], strict=True)]
    columns = [table["x"] / mpp, table["y"] / mpp, table["kind"], np.array(area)]
    return np.column_stack(columns).astype(np.float32)


class _Labels:
    """The tumour's outline as a tile source of labels."""

    dtype = np.dtype(np.uint8)

    def __init__(self, outline: shapely.MultiPolygon, size: tuple[int, int]) -> None:
        width, height = size
        self.shape: tuple[int, ...] = (math.ceil(height / LABEL_STEP), math.ceil(width / LABEL_STEP))
        self.grid = PixelGrid(0.0, 0.0, LABEL_STEP, LABEL_STEP, self.shape[1], self.shape[0])
        self.parts = [edges(part) for part in outline.geoms]

    def tile(self, row0: int, col0: int, height: int, width: int) -> NDArray[np.uint8]:
        labels = np.zeros((height, width), np.uint8)
        for part in self.parts:
            draw(labels, part, 1, self.grid.part(row0, col0, height, width))
        return labels
