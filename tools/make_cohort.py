"""Writes an annotated cohort of synthetic slides: ``python tools/make_cohort.py runs/cohort``.

With six classes and immunohistochemistry beside H&E::

    python tools/make_cohort.py runs/cohort --annotation multiclass --stains A B C ER Ki67 HER2
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import tyro

from tfseg.slides.synthetic import STAINS, Recipe, synthetic_slide
from tfseg.slides.synthetic_cohort import make_cohort
from tfseg.types import TfsegError


def main(
    out: tyro.conf.Positional[Path],
    train: int = 3,
    val: int = 1,
    test: int = 1,
    size_px: int = 6144,
    mpp: float = 0.5,
    seed: int = 0,
    workers: int = 2,
    annotation: Literal["tumour", "multiclass"] = "tumour",
    unannotated: float = 0.25,
    stains: tuple[str, ...] = STAINS,
    grade: int = 2,
    scanner: str = "P",
) -> None:
    """Writes a cohort, or a single slide.

    Args:
        out: folder of the cohort, or the name of a single slide (.tif or .svs).
        train: training slides of each grade.
        val: validation slides of each grade.
        test: test slides of each grade.
        size_px: side of a slide in pixels.
        mpp: micrometres a pixel.
        seed: the same seed gives the same bytes.
        workers: processes.
        annotation: what is drawn: the tumour's outline, or six classes of tissue in part (then with truth.csv beside
            cohort.csv, whose annotations are the complete truth).
        unannotated: share of the regions that a multi-class annotation leaves out.
        stains: A, B, C (H&E of three laboratories), ER, Ki67, HER2 (brown on haematoxylin); a single slide takes the
            first.
        grade: of a single slide.
        scanner: of a single slide: P, Q or R.
    """
    if out.suffix.lower() in (".tif", ".svs"):
        recipe = Recipe(size_px, mpp, grade, stains[0], scanner, seed, annotation, unannotated)
        synthetic_slide(out, recipe, annotation=out.with_suffix(".geojson"))
        print(out)
        return
    counts = {"train": train, "val": val, "test": test}

    def report(number: int, total: int, name: str) -> None:
        print(f"{number}/{total} {name}")

    print(
        make_cohort(
            out,
            counts,
            size_px,
            mpp,
            seed,
            workers,
            report,
            annotation=annotation,
            unannotated=unannotated,
            stains=stains,
        )
    )


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except TfsegError as error:
        sys.exit(f"error: {error}")
