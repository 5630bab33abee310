"""Pictures are made, whole or not at all, and without matplotlib's global state."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tfseg.metrics.plots import box_plot, confusion_plot
from tfseg.types import CohortError

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
