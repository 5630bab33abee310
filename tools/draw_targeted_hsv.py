"""Draws ``docs/images/targeted_hsv.png``: ``python tools/draw_targeted_hsv.py``.

The picture is scikit-image's ``immunohistochemistry``: colon, DAB and haematoxylin.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from skimage import data

from tfseg.data.colour import BLUE_SATURATION, BLUE_VALUE, BROWN_SATURATION, BROWN_VALUE
from tfseg.data.photometric import BLUE, BROWN, stained_pixels, targeted_hsv
from tfseg.files import atomic_path

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "targeted_hsv.png"
_NONE = (0.0, 0.0)


def main(out: Path = OUT) -> None:
    """Draws the ends of the paper's four ranges, and below each which pixels moved, and how far.

    Args:
        out: the picture.
    """
    image = np.ascontiguousarray(data.immunohistochemistry()[:360, :360])
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    brown, blue = (stained_pixels(hsv, stain) > 0 for stain in (BROWN, BLUE))
    found = np.full_like(image, 255)
    found[brown], found[blue] = (150, 90, 40), (60, 80, 190)
    panels = [(image, "picture", found, f"found by hue: brown {brown.mean():.0%}, blue {blue.mean():.0%}")]
    for name, ranges, stained in (
        ("brown", (BROWN_SATURATION, BROWN_VALUE), brown),
        ("blue", (BLUE_SATURATION, BLUE_VALUE), blue),
    ):
        for end in (0, 1):
            shift = ranges[0][end], ranges[1][end]
            moved = targeted_hsv(image, *((shift, _NONE) if name == "brown" else (_NONE, shift)))
            change = np.abs(moved.astype(int) - image).max(axis=2)
            outside = int((change[~stained] > 0).sum())
            title = f"{name}: saturation {shift[0]:+d}, value {shift[1]:+d}"
            shown = np.repeat((3 * change).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
            panels.append((moved, title, shown, f"change × 3; moved outside: {outside} px"))
    figure = Figure(figsize=(15, 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(panels))
    for column, (upper, title, lower, below) in enumerate(panels):
        for axis, picture, text in zip(axes[:, column], (upper, lower), (title, below), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(text, fontsize=10)
            axis.axis("off")
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=80)
    print(out)


if __name__ == "__main__":
    tyro.cli(main)
