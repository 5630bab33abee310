"""Segmentations of a cohort against its annotations: scores per slide, by any column, and between designs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from tfseg.data.cohort import Cohort, CohortRow
from tfseg.evaluation_classes import check_annotated, check_names, score_design, write_designs
from tfseg.files import atomic_path, write_text
from tfseg.infer.evaluate import evaluate_slide
from tfseg.infer.outputs import MASK, SUMMARY
from tfseg.metrics.plots import box_plot
from tfseg.metrics.tables import markdown, need_columns, summarise, tukey, tukey_lines
from tfseg.slides.base import open_slide
from tfseg.slides.class_table import ClassTable
from tfseg.types import H2G_CLASSES, IGNORE, CohortError

SCORES = ("recall", "precision", "dice")


def evaluate_cohort(
    cohort: Cohort,
    segmentations: Mapping[str, Path],
    out: str | Path,
    by: Sequence[str] = ("grade",),
    classes: ClassTable | None = None,
    within_tissue: bool = False,
    baselines: Sequence[str] = (),
) -> pd.DataFrame:
    """Scores every annotated slide of a cohort under every design, and writes tables and pictures.

    Writes into ``out``: scores.csv (one row a slide and design), summary.csv and summary.md (mean ± sd by design, and
    by design and each column of ``by``), boxes.png and boxes_<column>.png, and with two designs or more and two slides
    or more tukey.csv (Tukey's range test). All are of the second class's recall, precision and Dice where there are two
    classes, such as H2G-Net's.

    With more classes they are of the means over classes of recall, precision, Dice and IoU; annotated pixels alone
    count, and a class that nobody annotated is undefined. Then there are also classes.csv (scores of each class over
    the pixels of all slides) and a folder a design: confusion.csv and .png (normalised by row), boxes.png and
    boxes_<column>.png (IoU of each class by slide), and where every slide has ``probability_<class>.tiff``
    (``tfseg segment --probability``) curves.csv and .png: IoU, precision, sensitivity and specificity of each class
    against the rest over all thresholds, whose AUC and average precision stand in classes.csv.

    Args:
        cohort: its annotated slides are compared; for one split give ``cohort.split("test")``.
        segmentations: design → the folder that ``tfseg segment --out`` wrote.
        out: folder.
        by: columns of the manifest; those that it does not have are an error.
        classes: of the annotations; None takes :meth:`ClassTable.h2g`.
        within_tissue: compare within tissue alone.
        baselines: designs that Tukey's test leaves out; H2G-Net tests between the learned designs only.

    Returns:
        The table of scores.csv.

    Raises:
        CohortError: no annotated slide, or no annotated pixel on any; a column or a segmentation is missing, or has
            other classes; names it.
    """
    out, classes = Path(out), classes or ClassTable.h2g()
    rows = check_evaluation(cohort, by)
    masks = {(design, row.slide_name): _mask(folder, row) for design, folder in segmentations.items() for row in rows}
    names = [spec.name for spec in classes.classes]
    check_names([path.with_name(SUMMARY) for path in masks.values()], names)
    if len(names) > 2:
        found = {d: score_design(Path(f), rows, by, classes, within_tissue) for d, f in segmentations.items()}
        return write_designs(found, out, by, classes.classes, baselines)
    scores = []
    for design in segmentations:
        for row in rows:
            with open_slide(row.slide, mpp=row.mpp) as slide:
                values = evaluate_slide(
                    masks[design, row.slide_name], slide, row.annotation, classes, within_tissue=within_tissue
                )
            manifest = {column: {"split": row.split, **row.values}[column] for column in by}
            scores.append({"design": design, "slide_name": row.slide_name, **manifest, **values})
    table = pd.DataFrame(scores)
    check_annotated(table["evaluated_mm2"].sum(), rows, names)
    _write(table, out, by, baselines, _what_rest_is(classes))
    return table


def check_evaluation(cohort: Cohort, by: Sequence[str]) -> list[CohortRow]:
    """The annotated slides of a cohort.

    Raises:
        CohortError: there are none, or the manifest lacks a column of ``by``.
    """
    rows = [row for row in cohort.rows() if row.annotation is not None]
    if not rows:
        raise CohortError(f"{cohort.path}: no slide has an annotation to compare with. Fill the column annotation.")
    need_columns(pd.DataFrame([{"split": row.split, **row.values} for row in rows]), by, str(cohort.path))
    return rows


def _mask(folder: Path, row: CohortRow) -> Path:
    path = Path(folder) / row.slide_name / MASK
    if not path.is_file():
        raise CohortError(
            f"{path}: no segmentation of slide {row.slide_name!r}. "
            f"Run `tfseg segment {row.slide} --out {folder} --model …`."
        )
    return path


def _what_rest_is(classes: ClassTable) -> str:
    """A line for the summary; H2G-Net's needs none."""
    if classes.classes == H2G_CLASSES:
        return ""
    if classes.rest == IGNORE:
        return "What nobody annotated does not count (rest: ignore).\n\n"
    return f"What nobody annotated counts as {classes.classes[classes.rest].name} (rest).\n\n"


def _write(table: pd.DataFrame, out: Path, by: Sequence[str], baselines: Sequence[str], about: str) -> None:
    with atomic_path(out / "scores.csv") as temporary:
        table.to_csv(temporary, index=False)
    parts = {"All slides": summarise(table, SCORES, "design")}
    parts |= {f"By {column}": summarise(table, SCORES, ["design", column]) for column in by}
    with atomic_path(out / "summary.csv") as temporary:
        pd.concat([part.assign(part=name) for name, part in parts.items()]).to_csv(temporary, index=False)
    text = about + "".join(f"## {name}\n\n{markdown(part)}\n" for name, part in parts.items())
    box_plot(table, out / "boxes.png")
    for column in by:
        box_plot(table, out / f"boxes_{column}.png", hue=column)
    tested = table[~table["design"].isin(list(baselines))]
    slides = tested.groupby("design")["dice"].count()
    if len(slides) > 1 and slides.min() > 1:
        test = tukey(tested)
        with atomic_path(out / "tukey.csv") as temporary:
            test.to_csv(temporary, index=False)
        text += "## Tukey's range test on Dice\n\n" + tukey_lines(test)
    write_text(out / "summary.md", text)
