"""Segmentations of many classes against partial annotation, over a cohort: which class is called what, how well."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tfseg.data.cohort import CohortRow
from tfseg.files import atomic_path, write_text
from tfseg.infer.dense import class_file_name
from tfseg.infer.evaluate import NO_CLASS, ClassCounts, count_classes
from tfseg.infer.outputs import MASK, SUMMARY
from tfseg.infer.segmentation import CLASS_PROBABILITY
from tfseg.metrics.curves import class_curves
from tfseg.metrics.pixel import SCORES, scores_from_confusion
from tfseg.metrics.plots import box_plot, confusion_plot, curves_plot
from tfseg.metrics.tables import confusion_table, markdown, summarise, tukey, tukey_lines
from tfseg.slides.base import open_slide
from tfseg.slides.class_table import ClassTable
from tfseg.slides.known_tables import TABLES
from tfseg.types import ClassSpec, CohortError

_log = logging.getLogger(__name__)
_MEANS = tuple(f"{score} mean" for score in SCORES)


@dataclass(frozen=True)
class DesignScores:
    """Of one design.

    Attributes:
        slides: one row a slide, as in scores.csv.
        confusion: int64 (C, C + 1), pixels of all slides; row = truth, column = prediction, the last "no class".
        histograms: class index → int64 (2, 256), of all slides, for the classes whose probabilities every slide has.
    """

    slides: pd.DataFrame
    confusion: NDArray[np.int64]
    histograms: dict[int, NDArray[np.int64]]

    def classes(self, names: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame | None]:
        """One row a class and one, "mean", of their means, over the pixels of all slides; and the curves, if any."""
        found = _scores(self.confusion, names)
        rows = [*names, "mean"]
        table = pd.DataFrame({"class": rows, **{score: [found[f"{score} {row}"] for row in rows] for score in SCORES}})
        table["pixels"] = [*self.confusion.sum(axis=1).tolist(), int(self.confusion.sum())]
        if not self.histograms:
            return table, None
        curves, areas = class_curves(list(self.histograms.values()), [names[index] for index in self.histograms])
        mean = {"class": "mean", **areas[["auc", "average_precision", "best_iou"]].mean().to_dict()}
        return table.merge(pd.concat([areas, pd.DataFrame([mean])]).drop(columns="pixels"), "left", "class"), curves


def score_design(
    folder: Path, rows: Sequence[CohortRow], by: Sequence[str], classes: ClassTable, within_tissue: bool
) -> DesignScores:
    """Compares every slide of a design with its annotation.

    Args:
        folder: what ``tfseg segment --out`` wrote; holds a mask of every slide.
        rows: the slides.
        by: columns of the manifest to take over into the table.
        classes: of annotations and masks.
        within_tissue: compare within tissue alone.

    Raises:
        CohortError: no pixel of any slide is annotated.
    """
    names = [spec.name for spec in classes.classes]
    files = _probability_files(folder, rows, names)
    table, pooled = [], []
    for row in rows:
        place = folder / row.slide_name
        probabilities = {index: place / file for index, file in files.items()}
        with open_slide(row.slide, mpp=row.mpp) as slide:
            counts = count_classes(place / MASK, slide, row.annotation or "", classes, probabilities, within_tissue)
        matrix = np.column_stack([counts.confusion, counts.missed])
        cells = {
            f"pixels {t} as {p}": int(matrix[i, j])
            for i, t in enumerate(names)
            for j, p in enumerate([*names, NO_CLASS])
        }
        manifest = {column: {"split": row.split, **row.values}[column] for column in by}
        table.append({"slide_name": row.slide_name, **manifest, **_scores(matrix, names), **cells})
        pooled.append(counts)
    matrix, histograms = _sum(pooled)
    check_annotated(matrix.sum(), rows, names)
    return DesignScores(pd.DataFrame(table), matrix, histograms)


def _sum(counts: Sequence[ClassCounts]) -> tuple[NDArray[np.int64], dict[int, NDArray[np.int64]]]:
    matrix = np.sum([np.column_stack([one.confusion, one.missed]) for one in counts], axis=0)
    histograms = {index: np.sum([one.histograms[index] for one in counts], axis=0) for index in counts[0].histograms}
    return matrix, histograms


def _scores(matrix: NDArray[np.int64], names: Sequence[str]) -> dict[str, float]:
    """Of (C, C + 1) pixels; classes that nobody annotated are NaN."""
    return scores_from_confusion(matrix[:, :-1], names, missed=matrix[:, -1], annotated_only=True)


def _probability_files(folder: Path, rows: Sequence[CohortRow], names: Sequence[str]) -> dict[int, str]:
    """Class index → file name, for the classes whose probability pyramid every slide has."""
    files = {index: CLASS_PROBABILITY.replace("*", class_file_name(name)) for index, name in enumerate(names)}
    return {i: file for i, file in files.items() if all((folder / row.slide_name / file).is_file() for row in rows)}


def _named_classes(summary: Path) -> list[str] | None:
    """The mask's classes by the slide's summary; None where there is none."""
    try:
        named = json.loads(summary.read_text(encoding="utf-8"))["mask"]["classes"]
        return [named[str(index)] for index in range(len(named))]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_names(summaries: Sequence[Path], names: Sequence[str]) -> None:
    """Raises CohortError where a slide's summary names other classes than ``names``; where none does, it warns."""
    found = {summary: _named_classes(summary) for summary in summaries}
    for summary, named in found.items():
        if named is not None and named != list(names):
            raise CohortError(
                f"{summary.parent}: segmented into the classes {', '.join(named)}; the annotations are read as "
                f"{', '.join(names)}. Compare with the classes of the model's training index (--index)."
            )
    silent = [summary for summary, named in found.items() if named is None]
    if silent:
        _log.warning(
            "%s: missing, or does not name the mask's classes%s. Its values are taken as %s, unchecked: make sure that "
            "they are, or run `tfseg segment` again, which writes the summary last.",
            silent[0],
            f" (so in {len(silent)} of {len(found)} segmentations)" if len(found) > 1 else "",
            ", ".join(f"{value} {name}" for value, name in enumerate(names)),
        )


def check_annotated(pixels: float, rows: Sequence[CohortRow], names: Sequence[str]) -> None:
    """Raises CohortError where no pixel was compared: the annotations of the slides hold none of the classes."""
    if not pixels:
        slides = ", ".join(row.slide_name for row in rows[:10]) + (", …" if len(rows) > 10 else "")
        raise CohortError(
            f"nothing to compare with: the annotations of {len(rows)} slides ({slides}) hold no pixel of the classes "
            f"{', '.join(names)}. First file: {rows[0].annotation}. Check the column annotation and which class the "
            "names or raster values there mean (--index, --map NAME=CLASS); --within-tissue leaves out glass."
        )


def segmented_classes(folders: Sequence[Path]) -> ClassTable:
    """The classes of segmentations by their summaries, for annotations that use the same names.

    Returns:
        The table of :data:`tfseg.slides.known_tables.TABLES` with these names, if there is one, and H2G-Net's where no
        summary tells; else each class by its own name, and what nobody drew not annotated. (The index that the network
        was trained from knows the other spellings.)
    """
    from matplotlib import colormaps

    summaries = (path for folder in folders for path in sorted(Path(folder).glob(f"*/{SUMMARY}")))
    names = next((found for found in map(_named_classes, summaries) if found is not None), None)
    if names is None:
        return TABLES["h2g"]
    for table in TABLES.values():
        if [spec.name for spec in table.classes] == names:
            return table
    tab10 = np.rint(255 * colormaps["tab10"](np.arange(10))).astype(int)
    shades = [(int(red), int(green), int(blue)) for red, green, blue, _ in tab10]
    return ClassTable.plain(ClassSpec(name, shades[index % 10]) for index, name in enumerate(names))


def write_designs(
    designs: Mapping[str, DesignScores],
    out: Path,
    by: Sequence[str],
    classes: Sequence[ClassSpec],
    baselines: Sequence[str],
) -> pd.DataFrame:
    """Writes tables and pictures of all designs; see :func:`tfseg.evaluation.evaluate_cohort`.

    Returns:
        The table of scores.csv.
    """
    names = [spec.name for spec in classes]
    slides = pd.concat([one.slides.assign(design=design) for design, one in designs.items()], ignore_index=True)
    slides.insert(0, "design", slides.pop("design"))
    _csv(slides, out / "scores.csv")
    tables = []
    for design, one in designs.items():
        table, curves = one.classes(names)
        tables.append(table)
        _write_design(out / design, one, table, curves, by, classes)
    pooled = pd.concat([t.assign(design=d) for d, t in zip(designs, tables, strict=True)], ignore_index=True)
    pooled.insert(0, "design", pooled.pop("design"))
    _csv(pooled, out / "classes.csv")
    parts = {"All slides": summarise(slides, _MEANS, "design")}
    parts |= {f"By {column}": summarise(slides, _MEANS, ["design", column]) for column in by}
    _csv(pd.concat([part.assign(part=name) for name, part in parts.items()]), out / "summary.csv")
    text = "## Classes, over the annotated pixels of all slides\n\n" + _class_lines(pooled) + "\n"
    text += "".join(f"## {name}, means over classes, by slide\n\n{markdown(part)}\n" for name, part in parts.items())
    shown = slides.rename(columns={"iou mean": "mean IoU"})
    box_plot(shown, out / "boxes.png", "mean IoU")
    for column in by:
        box_plot(shown, out / f"boxes_{column}.png", "mean IoU", hue=column)
    tested = slides[~slides["design"].isin(list(baselines))]
    counts = tested.groupby("design")["iou mean"].count()
    if len(counts) > 1 and counts.min() > 1:
        test = tukey(tested, "iou mean")
        _csv(test, out / "tukey.csv")
        text += "## Tukey's range test on mean IoU\n\n" + tukey_lines(test)
    write_text(out / "summary.md", text)
    return slides


def _write_design(
    folder: Path,
    design: DesignScores,
    table: pd.DataFrame,
    curves: pd.DataFrame | None,
    by: Sequence[str],
    classes: Sequence[ClassSpec],
) -> None:
    """Confusion matrix, IoU of each class by slide and column, and curves where there are probabilities."""
    names = [spec.name for spec in classes]
    columns = [*names, NO_CLASS] if design.confusion[:, -1].any() else names
    matrix = design.confusion[:, : len(columns)]
    _csv(confusion_table(matrix, names, columns), folder / "confusion.csv")
    confusion_plot(matrix, names, folder / "confusion.png", predicted=columns)
    there = [name for name, row in zip(names, matrix, strict=True) if row.any()]
    ious = design.slides.melt(list(by), [f"iou {name}" for name in there], "class", "IoU")
    ious["class"] = ious["class"].str.removeprefix("iou ")
    box_plot(ious, folder / "boxes.png", "IoU", by="class")
    for column in by:
        box_plot(ious, folder / f"boxes_{column}.png", "IoU", by="class", hue=column)
    if curves is not None:
        _csv(curves, folder / "curves.csv")
        curves_plot(curves, table[table["class"] != "mean"].dropna(subset="auc"), classes, folder / "curves.png")


def _class_lines(pooled: pd.DataFrame) -> str:
    """The table of classes.csv as Markdown; undefined is "–"."""
    scores = [column for column in pooled.columns if column not in ("design", "class", "pixels")]
    lines = ["| design | class | " + " | ".join([*(s.replace("_", " ") for s in scores), "pixels"]) + " |"]
    lines.append("| --- | --- |" + " ---: |" * (len(scores) + 1))
    for row in pooled.to_dict("records"):
        cells = ["–" if np.isnan(row[score]) else f"{row[score]:.3f}" for score in scores]
        lines.append(f"| {row['design']} | {row['class']} | {' | '.join(cells)} | {row['pixels']:,} |")
    return "\n".join(lines) + "\n"


def _csv(table: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
