"""Pictures of a trained classifier: confusion matrix, and what the clusters hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tfseg.files import atomic_path


def write_confusion(path: Path, counts: np.ndarray, names: list[str]) -> None:
    """Draws a confusion matrix, truth in rows: fraction of the row and number of patches in every cell.

    Args:
        path: .png to write.
        counts: int (C, C), rows are the truth.
        names: of the classes.
    """
    side = 2.2 + 0.9 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    totals = counts.sum(1, keepdims=True)
    fractions = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    picture = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        colour = "white" if fractions[row, column] > 0.6 else "black"
        text = f"{fractions[row, column]:.3f}\n{counts[row, column]}"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set(xticks=range(len(names)), yticks=range(len(names)), xlabel="predicted", ylabel="annotated")
    axes.set_xticklabels(names, rotation=30, ha="right")
    axes.set_yticklabels(names)
    axes.set_title(f"{int(counts.sum())} validation patches", fontsize="medium")
    figure.colorbar(picture, label="fraction of the annotated class", shrink=0.8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


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
