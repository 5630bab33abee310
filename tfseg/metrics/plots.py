"""Pictures of scores: box plots, confusion matrices, curves. Matplotlib without its global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tfseg.files import atomic_path
from tfseg.metrics.tables import need_columns, row_parts
from tfseg.types import ClassSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150


def box_plot(
    table: pd.DataFrame,
    path: str | Path,
    score: str = "dice",
    by: str = "design",
    hue: str | None = None,
    label: str | None = None,
) -> None:
    """Box plots of a score over slides, one box a value of ``by``, in the table's order of first appearance.

    Boxes span the quartiles with the median inside, whiskers reach the last value within 1.5 times the box; every
    slide is drawn as a dot, so that a box of three slides is seen to be one.

    Args:
        table: one row a slide; rows where ``score`` is NaN are left out.
        path: PNG, SVG or PDF.
        hue: a second column; its values stand side by side in colours.
        label: of the axis of scores; None takes the column's name.

    Raises:
        CohortError: a column is missing.
        OutputError: the target cannot be written.
    """
    need_columns(table, [by, score, *([hue] if hue else [])])
    groups = [str(v) for v in table[by].unique()]
    shades = [str(v) for v in table[hue].unique()] if hue else [""]
    width = 0.8 / len(shades)
    figure, axes = new_figure(max(4.0, 1.2 + 0.9 * width * len(groups) * len(shades) / 0.8), 4.2)
    palette = _palette(len(shades))
    random = np.random.default_rng(0)  # sideways scatter of the dots: the same picture every time
    for k, shade in enumerate(shades):
        rows = table[table[hue].astype(str) == shade] if hue else table
        values = [rows.loc[rows[by].astype(str) == g, score].dropna().to_numpy(dtype=float) for g in groups]
        places = np.arange(len(groups)) + (k - (len(shades) - 1) / 2) * width
        boxes = axes.boxplot(
            values, positions=places, widths=width * 0.75, showfliers=False, patch_artist=True, manage_ticks=False
        )
        for box in boxes["boxes"]:
            box.set(facecolor=palette[k], alpha=0.45)
        for line in boxes["medians"]:
            line.set(color="black")
        for place, dots in zip(places, values, strict=True):
            x = place + random.uniform(-0.15, 0.15, len(dots)) * width
            axes.plot(x, dots, "o", markersize=3, color=palette[k], markeredgecolor="black", markeredgewidth=0.3)
        if hue:
            axes.plot([], [], "s", color=palette[k], alpha=0.6, label=shade)
    axes.set_xticks(range(len(groups)), groups, rotation=30 if max(map(len, groups)) * len(groups) > 30 else 0)
    axes.set(xlabel=by, ylabel=label or score[:1].upper() + score[1:], xlim=(-0.6, len(groups) - 0.4))
    axes.set_ylim(0.0 if table[score].min() < 0.5 else 0.5, 1.02)
    axes.grid(axis="y", alpha=0.3)
    if hue:
        axes.legend(title=hue, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    save_figure(figure, path)


def confusion_plot(
    matrix: ArrayLike,
    names: Sequence[str],
    path: str | Path,
    units: str = "pixels",
    predicted: Sequence[str] | None = None,
) -> None:
    """A confusion matrix normalised by row: of what is truly a class, which part is called what; counts below.

    Rows without anything are grey and say so.

    Args:
        matrix: (C, P) counts, row = truth.
        names: of the C true classes.
        path: PNG, SVG or PDF.
        units: what was counted.
        predicted: names of the P columns; None takes ``names``.
    """
    columns = list(names if predicted is None else predicted)
    counts, parts = np.asarray(matrix, dtype=np.float64), row_parts(matrix)
    figure, axes = new_figure(3.0 + 0.8 * len(columns), 2.2 + 0.8 * len(names))
    axes.set_facecolor("lightgrey")
    picture = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*parts.shape):
        text = f"no {units}" if np.isnan(parts[i, j]) else f"{parts[i, j]:.3f}\n{counts[i, j]:,.0f}"
        axes.text(j, i, text, ha="center", va="center", color="white" if parts[i, j] > 0.5 else "black", fontsize=9)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="truth", title=f"{counts.sum():,.0f} {units}")
    figure.colorbar(picture, ax=axes, fraction=0.046, label="part of the true class")
    save_figure(figure, path)


def curves_plot(curves: pd.DataFrame, areas: pd.DataFrame, classes: Sequence[ClassSpec], path: str | Path) -> None:
    """Each class against the rest over all thresholds: IoU, precision-recall, sensitivity and specificity, ROC.

    Args:
        curves: of :func:`tfseg.metrics.curves.class_curves`.
        areas: from there too; classes without a pixel are left out.
        classes: their names and colours.
        path: PNG, SVG or PDF.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    iou, pr, over, roc = figure.subplots(2, 2).flat
    colors = {spec.name: tuple(part / 255 for part in spec.color) for spec in classes}
    for row in areas[areas["pixels"] > 0].itertuples():
        table, look = curves[curves["class"] == row[1]], {"color": colors[row[1]], "linewidth": 1.5}
        iou.plot(table["threshold"], table["iou"], label=f"{row[1]}: best {row.best_iou:.3f}", **look)
        pr.plot(table["recall"], table["precision"], label=f"{row[1]}: AP {row.average_precision:.3f}", **look)
        over.plot(table["threshold"], table["recall"], label=row[1], **look)
        over.plot(table["threshold"], table["specificity"], "--", **look)
        # The curve begins where nothing is called the class.
        ends = [[*(1 - table["specificity"]), 0.0], [*table["recall"], 0.0]]
        roc.plot(*ends, label=f"{row[1]}: AUC {row.auc:.3f}", **look)
    iou.set(title="IoU", xlabel="threshold", ylabel="IoU")
    pr.set(title="Precision and recall", xlabel="recall", ylabel="precision")
    over.set(title="Sensitivity (line) and specificity (dashes)", xlabel="threshold", ylabel="sensitivity, specificity")
    roc.set(title="ROC", xlabel="1 - specificity", ylabel="sensitivity")
    for axes in (iou, pr, over, roc):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    save_figure(figure, path)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that many inches with one pair of axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _palette(count: int) -> list[tuple[float, ...]]:
    from matplotlib import colormaps

    return [colormaps["tab10"](k % 10) for k in range(count)]


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure, whole or not at all; raises OutputError."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, bbox_inches="tight")
