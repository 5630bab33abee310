"""Pictures of what the clusters hold, and of the steps of iterative training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tfseg.files import atomic_path


def write_montage(path: Path, thumbnails: np.ndarray, clusters: np.ndarray, titles: list[str], shown: int = 12) -> None:
    """Draws example patches, one row a cluster.

    Args:
        path: .png to write.
        thumbnails: uint8 (N, h, w, 3).
        clusters: int (N,), row of each thumbnail.
        titles: of the rows, one a cluster.
        shown: patches a row at most, the first ones.
    """
    figure = Figure(figsize=(1.6 + 0.9 * shown, 0.95 * len(titles) + 0.2), layout="constrained")
    FigureCanvasAgg(figure)
    for cluster, row in enumerate(figure.subplots(len(titles), shown, squeeze=False)):
        examples = thumbnails[clusters == cluster][:shown]
        for axes, example in zip(row, examples, strict=False):
            axes.imshow(example)
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(titles[cluster], rotation=0, ha="right", va="center", fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def steps_plot(table: pd.DataFrame, path: Path) -> None:
    """Draws what :func:`tfseg.train.self_training.self_train` tells of its steps.

    Args:
        table: steps.csv.
        path: .png to write.
    """
    figure = Figure(figsize=(max(5.0, 1.2 + len(table)), 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    places = np.arange(len(table))
    for column, label in (("labelled_tissue", "of tissue"), ("labelled", "of all")):
        above.plot(places, 100 * table[column], marker="o", label=label)
    above.set(ylabel="labelled pixels, %", ylim=(0, 102))
    above.legend()
    for column in (name for name in table.columns if name.startswith("iou ")):
        mean = column == "iou mean"
        style = {"color": "black", "linewidth": 2.5, "marker": "o"} if mean else {"linewidth": 1.0, "marker": "."}
        below.plot(places, table[column], label=column.removeprefix("iou "), **style)
    below.set(ylabel="IoU, validation, manual labels", ylim=(0, 1), xticks=places)
    below.set_xticklabels(_step_labels(table), fontsize="small")
    below.legend(fontsize="small")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _step_labels(table: pd.DataFrame) -> list[str]:
    """Name of each step, with its threshold where it has one."""
    found = zip(table["step"], table["threshold"], strict=True)
    return [name if np.isnan(threshold) else f"{name}\np ≥ {threshold:g}" for name, threshold in found]
