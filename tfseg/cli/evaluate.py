"""``tfseg evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from tfseg.data.cohort import Cohort
from tfseg.data.index import PatchIndex
from tfseg.data.nuclei import NucleiOptions, read_nuclei
from tfseg.evaluation import evaluate_cohort
from tfseg.evaluation_classes import segmented_classes
from tfseg.evaluation_nuclei import evaluate_nuclei
from tfseg.types import CohortError, TfsegError


def evaluate(
    cohort: Positional[Path | None] = None,
    /,
    *,
    segmentations: tuple[Path, ...],
    out: Path,
    split: str | None = None,
    by: tuple[str, ...] = (),
    index: Path | None = None,
    map: tuple[str, ...] = (),
    within_tissue: bool = False,
    nuclei: Path | None = None,
    nuclei_options: OmitArgPrefixes[NucleiOptions] = NucleiOptions(),  # noqa: B008
) -> None:
    """Compares segmentations with the annotations of a cohort: scores per slide, tables, box plots, Tukey's test.

    With --nuclei in place of a cohort: found nuclei with labelled ones: scores.csv (a row an image), summary.csv
    (mean ± sd over images), pooled.csv (all nuclei together), summary.md, curves.png and overlays/.

    Args:
        cohort: manifest CSV.
        segmentations: folders that `tfseg segment --out` wrote, one a design; the folder's name names the design.
        out: gets scores.csv, summary.csv, summary.md, boxes*.png and, for two designs or more, tukey.csv; with more
            than two classes also classes.csv and a folder a design with confusion.csv and .png, boxes*.png of each
            class, and, where `tfseg segment` wrote the probabilities, curves.csv and .png.
        split: the slides of this split are compared. None takes test, with --nuclei all images.
        by: columns of the manifest to group by; where none is given, grade, or with more than two classes stain,
            scanner and source, those that the manifest has; with --nuclei organ.
        index: folder that `tfseg index` wrote: annotations are read with its classes and their spellings. Without
            it, classes are those of the segmentations, by their own names and the spellings of known tables.
        map: names in annotation files that mean a class, as NAME=CLASS.
        within_tissue: compare within tissue alone.
        nuclei: images with labels of nuclei, as of `tfseg index --nuclei`: a folder, a manifest CSV or COCO JSON.
        nuclei_options: how images of nuclei are read.
    """
    if (cohort is None) == (nuclei is None):
        raise TfsegError(
            "give either a cohort's manifest (CSV) or --nuclei with labelled images of nuclei. See --help."
        )
    designs = {folder.name: folder for folder in segmentations}
    if len(designs) < len(segmentations):
        given = ", ".join(str(folder) for folder in segmentations)
        raise TfsegError(f"two folders have the same name, which names the design: {given}. Rename one.")
    if nuclei is not None:
        if index is not None or map or within_tissue:
            raise TfsegError(
                "--index, --map and --within-tissue are for slides of a cohort; --nuclei has none of them."
            )
        _evaluate_nuclei(nuclei, nuclei_options, designs, out, split, by)
    else:
        assert cohort is not None
        if nuclei_options != NucleiOptions():
            raise TfsegError("--organ-pattern, --organ-column, --images and --allow-empty: add --nuclei.")
        classes = segmented_classes(segmentations) if index is None else PatchIndex.load(index).labels
        slides = Cohort.read(cohort).split(split or "test")
        usual = ("grade",) if len(classes.classes) == 2 else ("stain", "scanner", "source")
        by = by or tuple(column for column in usual if column in slides.table.columns)
        evaluate_cohort(slides, designs, out, by, classes.with_aliases(map), within_tissue)
    print((out / "summary.md").read_text(encoding="utf-8"))
    print(f"scores: {out}")


def _evaluate_nuclei(
    source: Path, options: NucleiOptions, designs: dict[str, Path], out: Path, split: str | None, by: Sequence[str]
) -> None:
    items = read_nuclei(source, options)
    chosen = [item for item in items if split in (None, item.split)]
    if not chosen:
        known = ", ".join(sorted({item.split for item in items}))
        raise CohortError(f"{source}: no image of split {split!r}. Its splits are: {known}.")
    evaluate_nuclei(chosen, designs, out, by or ("organ",))
