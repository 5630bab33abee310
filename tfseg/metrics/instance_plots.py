"""Pictures of instance scores: hits and misses on the image, average precision over IoU thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tfseg.metrics.instance_tables import pooled
from tfseg.metrics.instances import RATES, THRESHOLDS, check_labels
from tfseg.metrics.plots import new_figure, save_figure
from tfseg.metrics.tables import need_columns
from tfseg.types import CohortError, one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIT, MISSED, FALSE = (0, 200, 0), (220, 0, 0), (0, 70, 255)
"""Green, red and blue as in figure 3 of the GB U-Net paper. Green is much the lightest and red the darkest, so that who
cannot tell the two by hue can by lightness."""
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7")
"""Of lines. Okabe and Ito, "Color Universal Design", 2008, without yellow, which white paper swallows."""
_DASHES = ("-", "--", ":")
_MARKERS = "os^Dv"
_FORMULAS = {
    "precision": "AP = TP / (TP + FP)",
    "recall": "recall = TP / (TP + FN)",
    "f1": "F1 = 2 TP / (2 TP + FP + FN)",
    "jaccard": "AP = TP / (TP + FP + FN)",
}

Over = Literal["images", "nuclei"]
Rate = Literal["precision", "recall", "f1", "jaccard"]


def hit_overlay(
    image: ArrayLike, truth: ArrayLike, prediction: ArrayLike, opacity: float = 0.6, lighten: float = 0.0
) -> NDArray[np.uint8]:
    """Which pixels were found, in the colours of the GB U-Net paper's figure 3.

    Green: nucleus in both; red: true nucleus that was missed; blue: predicted where there is none. Pixels are compared,
    not instances: a nucleus cut in two is all green. With v the image's value and c the colour's,

        background: v + lighten · (255 − v)        coloured: (1 − opacity) · background + opacity · c

    rounded to the nearest (halves to even).

    Args:
        image: uint8 RGB (H, W, 3).
        truth, prediction: integers (H, W), 0 where there is no instance.
        opacity: of the colours, 0 … 1; 1 hides the image below them.
        lighten: 0 leaves the image as it is, 1 makes it white.

    Returns:
        uint8 RGB (H, W, 3).

    Raises:
        ValueError: the image is not uint8 RGB, labels are no labels, sizes differ, or a part is not in 0 … 1.
    """
    picture = np.asarray(image)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"image must be uint8 RGB (H, W, 3). Received: {picture.dtype} {picture.shape}.")
    true, found = check_labels("truth", truth) > 0, check_labels("prediction", prediction) > 0
    if not true.shape == found.shape == picture.shape[:2]:
        raise ValueError(
            f"image, truth and prediction must be of one size. Received: {picture.shape[:2]}, {true.shape} and "
            f"{found.shape}. Cut or resize the labels (nearest neighbour) to the image."
        )
    for name, part in (("opacity", opacity), ("lighten", lighten)):
        if not 0 <= part <= 1:
            raise ValueError(f"{name} must be 0 … 1. Received: {part}.")
    shown = picture + lighten * (255.0 - picture)
    for pixels, colour in ((true & found, HIT), (true & ~found, MISSED), (found & ~true, FALSE)):
        shown[pixels] = (1 - opacity) * shown[pixels] + opacity * np.asarray(colour, float)
    return np.rint(shown).astype(np.uint8)


def ap_curves(
    tables: Mapping[str, pd.DataFrame], path: str | Path, score: Rate = "precision", over: Over = "images"
) -> None:
    """Draws :func:`ap_figure` into a file.

    Args:
        tables, score, over: of :func:`ap_figure`.
        path: PNG, SVG or PDF.

    Raises:
        CohortError, ModelError: of :func:`ap_figure`.
        OutputError: the target cannot be written.
    """
    save_figure(ap_figure(tables, score, over), path)


def ap_figure(tables: Mapping[str, pd.DataFrame], score: Rate = "precision", over: Over = "images") -> Figure:
    """A score over the IoU thresholds 0.50 … 0.95, a line a system, as in the GB U-Net paper's figure 2.

    The paper's AP at a threshold is precision, TP / (TP + FP), and the mean over the ten thresholds, which stands
    behind each name, its mAP (``map_precision``). "jaccard" draws what the 2018 Data Science Bowl, StarDist and
    Cellpose call average precision; neither is COCO's, which needs ranked predictions. The axis says which it is.

    Differs from the paper in: it does not say whether AP is a mean over images or of all nuclei together; both are
    drawn on request.

    Args:
        tables: name of the system → what :func:`tfseg.metrics.instance_tables.image_table` gave for it. Of a table of
            several systems take ``dict(list(table.groupby("system", sort=False)))``.
        score: "precision" (the paper's), "recall", "f1" or "jaccard".
        over: "images": means over images, those left out where the score is not defined (no prediction); "nuclei": TP,
            FP and FN of all images are added up, then divided.

    Returns:
        The figure, 8 × 4.2 inches; its scale ends above the highest value.

    Raises:
        CohortError: no system, no image of one, or a column is missing.
        ModelError: an unknown score or way to put images together.
    """
    one_of("score", score, RATES)
    one_of("over", over, ("images", "nuclei"))
    if not tables:
        raise CohortError("no system to draw. Give at least one {name: table of image_table}.")
    figure, axes = new_figure(8.0, 4.2)
    thresholds, highest = [float(t) for t in THRESHOLDS], 0.0
    for k, (name, table) in enumerate(tables.items()):
        values = _curve(name, table, score, over)
        mean, highest = values.mean(), max(highest, np.nanmax(values, initial=0))
        axes.plot(
            thresholds,
            values,
            _DASHES[k // len(COLOURS) % len(_DASHES)],
            color=COLOURS[k % len(COLOURS)],
            marker=_MARKERS[k % len(_MARKERS)],
            markersize=4,
            label=f"{name}: {'not defined' if np.isnan(mean) else f'{mean:.3f}'}",
        )
    axes.set(xlabel="IoU threshold", xlim=(0.48, 0.97), xticks=thresholds[::2])
    axes.set_ylim(-0.01, min(1.02, highest + 0.1))
    axes.set_ylabel(f"{_FORMULAS[score]}\n{'mean over images' if over == 'images' else 'all nuclei together'}")
    axes.grid(alpha=0.3)
    axes.legend(title="mean over thresholds", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def _curve(name: str, table: pd.DataFrame, score: Rate, over: Over) -> NDArray[np.float64]:
    """(10,), NaN where not defined."""
    columns = [f"{score} {threshold}" for threshold in THRESHOLDS]
    need_columns(table, columns)
    if not len(table):
        raise CohortError(f"{name}: no image. Give a table with at least one row, or leave the system out.")
    return np.asarray((pooled(table) if over == "nuclei" else table)[columns].mean(), np.float64)
