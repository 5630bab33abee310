"""``tfseg evaluate``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from tfseg.data.cohort import Cohort
from tfseg.data.index import PatchIndex
from tfseg.evaluation import evaluate_cohort
from tfseg.evaluation_classes import segmented_classes
from tfseg.types import TfsegError


def evaluate(
    cohort: Positional[Path],
    /,
    segmentations: tuple[Path, ...],
    out: Path,
    split: str = "test",
    by: tuple[str, ...] = (),
    index: Path | None = None,
    map: tuple[str, ...] = (),
    within_tissue: bool = False,
) -> None:
    """Compares segmentations with the annotations of a cohort: scores per slide, tables, box plots, Tukey's test.

    Args:
        cohort: manifest CSV.
        segmentations: folders that `tfseg segment --out` wrote, one a design; the folder's name names the design.
        out: gets scores.csv, summary.csv, summary.md, boxes*.png and, for two designs or more, tukey.csv; with more
            than two classes also classes.csv and a folder a design with confusion.csv and .png, boxes*.png of each
            class, and, where `tfseg segment` wrote the probabilities, curves.csv and .png.
        split: the slides of this split are compared.
        by: columns of the manifest to group by; where none is given, grade, or with more than two classes stain,
            scanner and source, those that the manifest has.
        index: folder that `tfseg index` wrote: annotations are read with its classes and their spellings. Without
            it, classes are those of the segmentations, by their own names and the spellings of known tables.
        map: names in annotation files that mean a class, as NAME=CLASS.
        within_tissue: compare within tissue alone.
    """
    classes = segmented_classes(segmentations) if index is None else PatchIndex.load(index).labels
    designs = {folder.name: folder for folder in segmentations}
    if len(designs) < len(segmentations):
        given = ", ".join(str(folder) for folder in segmentations)
        raise TfsegError(f"two folders have the same name, which names the design: {given}. Rename one.")
    slides = Cohort.read(cohort).split(split)
    usual = ("grade",) if len(classes.classes) == 2 else ("stain", "scanner", "source")
    by = by or tuple(column for column in usual if column in slides.table.columns)
    evaluate_cohort(slides, designs, out, by, classes.with_aliases(map), within_tissue)
    print((out / "summary.md").read_text(encoding="utf-8"))
    print(f"scores: {out}")
