"""Picture of what the clusters hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
