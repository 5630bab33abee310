"""Overlays pixel by pixel, curves by the values of their lines."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from tfseg.metrics.instance_plots import COLOURS, FALSE, HIT, MISSED, ap_curves, ap_figure, hit_overlay
from tfseg.metrics.instance_tables import image_table, pooled
from tfseg.metrics.instances import THRESHOLDS
from tfseg.metrics.plots import box_plot
from tfseg.types import CohortError, ModelError

TRUTH = np.array([[0, 0, 7, 7, 3]])
FOUND = np.array([[0, 9, 9, 8, 0]], np.uint16)
IMAGE = np.array([[[10, 20, 30], [10, 20, 30], [100, 100, 100], [0, 255, 255], [200, 200, 200]]], np.uint8)


def test_opaque_colours_say_what_each_pixel_is():
    shown = hit_overlay(IMAGE, TRUTH, FOUND, opacity=1)
    assert shown.dtype == np.uint8 and shown.shape == (1, 5, 3)
    assert [tuple(p) for p in shown[0].tolist()] == [(10, 20, 30), FALSE, HIT, HIT, MISSED]


def test_opacity_and_lightening_by_hand():
    shown = hit_overlay(IMAGE, TRUTH, FOUND, opacity=0.5, lighten=0.2)
    # 10 + 0.2 · 245 = 59; 20 + 0.2 · 235 = 67; 30 + 0.2 · 225 = 75; 100 → 131; 0 → 51; 255 → 255; 200 → 211
    assert shown[0].tolist() == [[59, 67, 75], [30, 68, 165], [66, 166, 66], [26, 228, 128], [216, 106, 106]]
    np.testing.assert_array_equal(hit_overlay(IMAGE, TRUTH, FOUND, opacity=0), IMAGE)
    assert IMAGE[0, 0].tolist() == [10, 20, 30], "the image itself is not drawn on"


def test_colours_differ_in_lightness():
    red, blue, green = (np.dot((0.2126, 0.7152, 0.0722), colour) for colour in (MISSED, FALSE, HIT))
    assert red < blue < green / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": IMAGE / 255}, r"uint8 RGB .* float64 \(1, 5, 3\)"),
        ({"image": IMAGE[..., 0]}, r"uint8 RGB .* \(1, 5\)"),
        ({"truth": TRUTH[:, :4]}, r"one size.*\(1, 5\), \(1, 4\) and \(1, 5\)"),
        ({"prediction": FOUND / 2}, "prediction must hold integers"),
        ({"truth": TRUTH - 1}, "truth must hold labels from 0 on"),
        ({"opacity": 1.5}, "opacity must be 0 … 1. Received: 1.5"),
        ({"lighten": -1}, "lighten must be 0 … 1"),
    ],
)
def test_what_cannot_be_drawn(change, message):
    with pytest.raises(ValueError, match=message):
        hit_overlay(**({"image": IMAGE, "truth": TRUTH, "prediction": FOUND} | change))


def row(*lengths):
    return np.concatenate([np.full(length, label) for label, length in lengths])[None]


@pytest.fixture(scope="module")
def table():
    """Two images: IoU 1 twice; IoU 0.6 and a nucleus that is not there. And one where nothing is found."""
    images = [
        ("a", row((1, 4), (2, 4), (0, 4)), row((1, 4), (2, 4), (0, 4))),
        ("b", row((1, 10), (0, 2)), row((1, 6), (0, 4), (2, 2))),
        ("c", row((1, 10), (0, 2)), row((0, 12))),
    ]
    return image_table(({"image": name}, truth, found) for name, truth, found in images)


@pytest.mark.parametrize(
    ("score", "over", "low", "high"),
    [
        ("precision", "images", (1 + 1 / 2) / 2, (1 + 0) / 2),
        ("precision", "nuclei", 3 / 4, 2 / 4),
        ("jaccard", "nuclei", 3 / 5, 2 / 6),
        ("recall", "images", (1 + 1 + 0) / 3, (1 + 0 + 0) / 3),
        ("f1", "nuclei", 6 / 8, 4 / 8),
    ],
)
def test_values_of_the_lines_by_hand(table, score, over, low, high):
    (axes,) = ap_figure({"one": table}, score, over).axes
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_xdata(), [float(t) for t in THRESHOLDS])
    np.testing.assert_allclose(line.get_ydata(), [low] * 3 + [high] * 7)
    assert line.get_label() == f"one: {0.3 * low + 0.7 * high:.3f}"
    assert ("together" in axes.get_ylabel()) == (over == "nuclei")


def test_mean_is_the_papers_map(table):
    (axes,) = ap_figure({"one": table}, over="nuclei").axes
    assert axes.lines[0].get_label() == f"one: {pooled(table)['map_precision'][0]:.3f}"
    assert axes.get_ylabel().startswith("AP = TP / (TP + FP)\n")


def test_every_system_has_its_own_look(table):
    (axes,) = ap_figure({f"system {k}": table for k in range(21)}).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 21
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [name.split(":")[0] for name in named] == [f"system {k}" for k in range(21)]


def test_file(table, tmp_path):
    empty = table[table["predicted"] == 0]
    ap_curves({"A": table, "finds nothing": empty}, tmp_path / "ap.png")
    pixels = np.asarray(Image.open(tmp_path / "ap.png").convert("RGB"))
    assert tuple(round(255 * part) for part in to_rgb(COLOURS[0])) in {tuple(p) for p in pixels.reshape(-1, 3).tolist()}
    assert [path.name for path in tmp_path.iterdir()] == ["ap.png"]
    (axes,) = ap_figure({"finds nothing": empty}).axes
    assert axes.lines[0].get_label() == "finds nothing: not defined"


def test_errors(table, tmp_path):
    with pytest.raises(CohortError, match="no system to draw"):
        ap_curves({}, tmp_path / "a.png")
    with pytest.raises(CohortError, match="A: no image"):
        ap_curves({"A": table.iloc[:0]}, tmp_path / "a.png")
    with pytest.raises(CohortError, match=r"precision 0\.50"):
        ap_curves({"A": pd.DataFrame({"image": ["a"]})}, tmp_path / "a.png")
    with pytest.raises(ModelError, match="score: unknown 'ap'"):
        ap_curves({"A": table}, tmp_path / "a.png", score="ap")
    with pytest.raises(ModelError, match="over: unknown 'all'"):
        ap_curves({"A": table}, tmp_path / "a.png", over="all")
    assert list(tmp_path.iterdir()) == []


def test_aji_by_organ_and_system_in_boxes(table, tmp_path):
    both = pd.concat([table.assign(system=name, organ=["colon", "colon", "breast"]) for name in ("A", "B")])
    box_plot(both, tmp_path / "a.png", score="aji", by="organ", hue="system", label="AJI")
    assert (tmp_path / "a.png").stat().st_size > 0
