"""Draws the figures of the documentation that come from code: ``python tools/draw_docs.py FIGURE``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tfseg.files import atomic_path
from tfseg.types import Window

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def schedules(folder: Path) -> Path:
    """The stepwise cyclic learning rate with its defaults, over five cycles, its falling tops joined."""
    from tfseg.train.schedules import StepwiseCyclic

    schedule, cycles = StepwiseCyclic(), 5
    steps = np.arange(cycles * schedule.cycle_steps)
    tops = np.arange(cycles) * schedule.cycle_steps
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps, np.asarray(schedule(steps)), label="learning rate")
    axes.plot(tops, np.asarray(schedule(tops)), "o--", color="0.5", markersize=4, label="tops of the cycles")
    axes.set(xlabel="updates", ylabel="learning rate", ylim=(0, None), xlim=(0, steps[-1]))
    axes.set_title(", ".join(f"{name}={value:g}" for name, value in schedule.get_config().items()), fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend()
    path = folder / "stepwise_cyclic.png"
    figure.savefig(path, dpi=110)
    return path


def colour_normalisation(folder: Path) -> Path:
    """Tiles in three stains and from three scanners, and scikit-image's immunohistochemistry, normalised three ways.

    The first column is the target; the synthetic tiles are those of one seed, so the same tissue differently stained.
    The last row has other stains than the target (brown where that has eosin): it shows what is done to colours that do
    not belong together, not a use.
    """
    from skimage import data

    from tfseg.data.colour_normalisation import METHODS, fit

    target = _synthetic_tile("A", "P")
    images = {
        "synthetic, stain B, scanner Q": _synthetic_tile("B", "Q"),
        "synthetic, stain C, scanner R": _synthetic_tile("C", "R"),
        "other stains: immunohistochemistry": np.ascontiguousarray(data.immunohistochemistry()[:SIDE, :SIDE]),
    }
    figure = Figure(figsize=(2.9 * (len(METHODS) + 2), 3.1 * len(images)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(images), len(METHODS) + 2)
    for row, (name, image) in zip(rows, images.items(), strict=True):
        panels = {"target: stain A, scanner P": target, name: image}
        panels |= {method: fit(target, method).apply(image) for method in METHODS}
        for axis, (title, picture) in zip(row, panels.items(), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(title, fontsize=8)
            axis.axis("off")
    path = folder / "colour_normalisation.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=72)
    return path


SIDE = 256


def _synthetic_tile(stain: str, scanner: str) -> np.ndarray:
    """The middle of a synthetic slide, uint8 RGB (SIDE, SIDE, 3)."""
    from tfseg.slides import open_slide
    from tfseg.slides.synthetic import Recipe, synthetic_slide

    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "slide.tif"
        synthetic_slide(path, Recipe(size_px=2048, stain=stain, scanner=scanner, seed=5))
        with open_slide(path) as slide:
            return slide.read(Window(1024, 1024, SIDE, SIDE, 0.5))


FIGURES = {"schedules": schedules, "colour_normalisation": colour_normalisation}


def main(figure: tyro.conf.Positional[Literal["schedules", "colour_normalisation"]], /, folder: Path = IMAGES) -> None:
    """Draws one figure.

    Args:
        figure: which.
        folder: where it goes.
    """
    print(FIGURES[figure](folder))


if __name__ == "__main__":
    tyro.cli(main)
