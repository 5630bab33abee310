"""Pictures are made, whole or not at all, and without matplotlib's global state."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tfseg.metrics.curves import class_curves, score_histograms
from tfseg.metrics.plots import box_plot, confusion_plot, curves_plot
from tfseg.types import ClassSpec, CohortError

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    [
        {"design": design, "grade": grade, "dice": value}
        for design in ("Otsu", "Mob-PW-UNet")
        for grade in (1, 2)
        for value in [*RNG.uniform(0.4, 1, 5), np.nan]
    ]
)


def colours(path):
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert min(pixels.shape[:2]) > 200
    return {tuple(c) for c in pixels.reshape(-1, 3).tolist()}


@pytest.mark.parametrize("hue", [None, "grade"])
def test_box_plot(tmp_path, hue):
    box_plot(TABLE, tmp_path / "a.png", hue=hue)
    found = colours(tmp_path / "a.png")
    assert ((31, 119, 180) in found) and (((255, 127, 14) in found) == (hue is not None))
    box_plot(TABLE, tmp_path / "b.png", hue=hue)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_box_plot_with_an_empty_group_or_no_value(tmp_path):
    box_plot(TABLE[(TABLE.design == "Otsu") | (TABLE.grade == 1)], tmp_path / "a.png", hue="grade")
    box_plot(TABLE.assign(dice=np.nan), tmp_path / "b.png")
    assert colours(tmp_path / "a.png") and colours(tmp_path / "b.png")


def test_box_plot_of_a_missing_column(tmp_path):
    with pytest.raises(CohortError, match="'stain'"):
        box_plot(TABLE, tmp_path / "a.png", by="stain")
    assert list(tmp_path.iterdir()) == []


def test_confusion_plot(tmp_path):
    confusion_plot([[9, 1, 0], [0, 0, 0], [0, 5, 5]], ["a", "b", "c"], tmp_path / "a.png")
    found = colours(tmp_path / "a.png")
    assert (211, 211, 211) in found  # the row without a pixel


def test_confusion_plot_with_pixels_that_got_no_class(tmp_path):
    confusion_plot([[9, 1, 0], [0, 5, 5]], ["a", "b"], tmp_path / "a.png", predicted=["a", "b", "no class"])
    width, height = Image.open(tmp_path / "a.png").size
    assert width > height


def test_curves_plot_draws_classes_in_their_colours_and_leaves_out_those_without_a_pixel(tmp_path):
    classes = [ClassSpec("a", (200, 0, 0)), ClassSpec("b", (0, 0, 200)), ClassSpec("c", (0, 200, 0))]
    truth, scores = RNG.integers(0, 2, 500), RNG.random((500, 3))
    curves, areas = class_curves(score_histograms(truth, scores), "abc")
    curves_plot(curves, areas, classes, tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert [(pixels == spec.color).all(-1).any() for spec in classes] == [True, True, False]
    curves_plot(curves, areas.assign(pixels=0), classes, tmp_path / "nothing.png")


def test_matplotlib_is_imported_late_and_keeps_its_state(tmp_path):
    code = (
        "import sys, pandas as pd; from tfseg.metrics.plots import box_plot\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import matplotlib; backend = matplotlib.get_backend()\n"
        f"box_plot(pd.DataFrame({{'design': ['a'], 'dice': [1.0]}}), {str(tmp_path / 'a.png')!r})\n"
        "from matplotlib import pyplot\n"
        "assert pyplot.get_fignums() == [] and matplotlib.get_backend() == backend"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
