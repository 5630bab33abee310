"""Writes an annotated cohort of synthetic H&E slides: ``python tools/make_cohort.py runs/cohort``."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from tfseg.slides.synthetic import Recipe, make_cohort, synthetic_slide
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
    """
    if out.suffix.lower() in (".tif", ".svs"):
        synthetic_slide(out, Recipe(size_px, mpp, seed=seed), annotation=out.with_suffix(".geojson"))
        print(out)
        return
    counts = {"train": train, "val": val, "test": test}
    print(make_cohort(out, counts, size_px, mpp, seed, workers, lambda n, of, name: print(f"{n}/{of} {name}")))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except TfsegError as error:
        sys.exit(f"error: {error}")
