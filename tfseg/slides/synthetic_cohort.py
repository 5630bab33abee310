"""An annotated cohort of synthetic slides for the demo, tests and benchmarks."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfseg.files import write_text
from tfseg.slides.synthetic import GRADES, IHC_STAINS, SCANNERS, STAINS, Recipe, synthetic_slide
from tfseg.types import CohortError

Progress = Callable[[int, int, str], None]
"""Called with (slides done, slides in all, name of the slide just done)."""


def make_cohort(
    folder: str | Path,
    slides_per_grade: Mapping[str, int] | None = None,
    size_px: int = 6144,
    mpp: float = 0.5,
    seed: int = 0,
    workers: int = 2,
    progress: Progress | None = None,
    *,
    annotation: str = "tumour",
    unannotated: float = 0.25,
    stains: Sequence[str] = STAINS,
) -> Path:
    """Writes a cohort of synthetic slides, a third of each grade, and its manifest.

    ``slides/<name>.tif`` (pyramidal, pixel size, objective power), ``annotations/<name>.geojson`` (QuPath),
    ``labels/<name>.tif`` (the whole truth, see :func:`synthetic_slide`) and ``cohort.csv`` with the columns slide,
    annotation, split, grade, stain, scanner, paths relative to it. A slide depends on the settings, not on ``workers``.
    The manifest comes last: where there is one, the cohort is whole. A multi-class cohort also has ``truth.csv``, the
    same table with ``labels/<name>.tif`` for annotation, to measure against the complete truth.

    Args:
        folder: made when missing; slides of the same name are replaced.
        slides_per_grade: split → slides of each grade; default {"train": 3, "val": 1, "test": 1}.
        size_px: side of the slides.
        mpp: µm/px.
        seed: non-negative.
        workers: processes. With more than one the calling script needs the usual ``if __name__ == "__main__"``.
        progress: told of each finished slide.
        annotation: "tumour" (class "Tumour") or "multiclass" (the six classes of DMMN, in part).
        unannotated: share of the regions that a multi-class annotation leaves out.
        stains: of :data:`STAINS` and :data:`IHC_STAINS`; dealt out with the scanners, each about as often.

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
    kind = Recipe(size_px, mpp, annotation=annotation, unannotated=unannotated)
    if not stains:
        raise CohortError(f"stains must name at least one of {STAINS + IHC_STAINS}.")
    for recipe in (kind, *(replace(kind, stain=stain) for stain in stains)):
        recipe.check()
    jobs = _jobs(counts, kind, seed, stains)
    for manifest in ("cohort.csv", "truth.csv"):
        (folder / manifest).unlink(missing_ok=True)
    if workers == 1:
        for done, (name, recipe, _) in enumerate(jobs, start=1):
            _make(folder, name, recipe)
            if progress:
                progress(done, len(jobs), name)
    else:
        _make_parallel(folder, jobs, workers, progress)
    if annotation == "multiclass":
        _write_manifest(folder / "truth.csv", jobs, "labels/{}.tif")
    _write_manifest(folder / "cohort.csv", jobs, "annotations/{}.geojson")
    return folder / "cohort.csv"


Job = tuple[str, Recipe, str]
"""Name, recipe and split of a slide."""


def _jobs(counts: Mapping[str, int], kind: Recipe, seed: int, stains: Sequence[str]) -> list[Job]:
    """Every slide of a cohort, each like ``kind`` but with its own grade, stain, scanner and seed.

    Stains and scanners are crossed with grades. Of three stains: three slides of one split and grade show every stain
    and every scanner, three of each grade show every pair, nine of one grade too, and the next split has other pairs.
    """
    rng = np.random.default_rng(seed)
    stains, scanners = rng.permutation(stains).tolist(), rng.permutation(SCANNERS).tolist()
    jobs = []
    for place, (split, number) in enumerate(counts.items()):
        step = number + (number % len(stains) == 0)  # each grade begins with another stain
        for grade in GRADES:
            for index in range(number):
                name = f"{split}-grade{grade}-{index + 1:02d}"
                turn = index + step * grade + place
                stain = stains[turn % len(stains)]
                scanner = scanners[(turn + grade + place + index // len(stains)) % len(scanners)]
                own = (seed, zlib.crc32(name.encode()))
                jobs.append((name, replace(kind, grade=grade, stain=stain, scanner=scanner, seed=own), split))
    return jobs


def _write_manifest(path: Path, jobs: Sequence[Job], annotation: str) -> None:
    lines = ["slide,annotation,split,grade,stain,scanner"]
    for name, recipe, split in jobs:
        cells = f"slides/{name}.tif", annotation.format(name), split, str(recipe.grade), recipe.stain, recipe.scanner
        lines.append(",".join(cells))
    write_text(path, "\n".join(lines) + "\n")


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
