"""Draws the figures of the documentation that come from code: ``python tools/draw_docs.py FIGURE``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import tyro
from matplotlib.figure import Figure

from tfseg.files import atomic_path
from tfseg.types import CohortError, Window

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
OUTLINES = Path(__file__).resolve().parent / "notebooks" / "immunohistochemistry_nuclei.geojson"
CORNER = np.s_[228:420, 160:352]
"""Where the outlines were drawn."""
TILE_PX = 256


def schedules() -> Figure:
    """The stepwise cyclic learning rate with its defaults, over five cycles, its falling tops joined."""
    from tfseg.train.schedules import StepwiseCyclic

    schedule, cycles = StepwiseCyclic(), 5
    steps = np.arange(cycles * schedule.cycle_steps)
    tops = np.arange(cycles) * schedule.cycle_steps
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, np.asarray(schedule(steps)), label="learning rate")
    axes.plot(tops, np.asarray(schedule(tops)), "o--", color="0.5", markersize=4, label="tops of the cycles")
    axes.set(xlabel="updates", ylabel="learning rate", ylim=(0, None), xlim=(0, steps[-1]))
    axes.set_title(", ".join(f"{name}={value:g}" for name, value in schedule.get_config().items()), fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def targeted_hsv() -> Figure:
    """The ends of the paper's four ranges, and below each which pixels moved, and how far.

    The picture is scikit-image's ``immunohistochemistry``: colon, DAB and haematoxylin.
    """
    from skimage import data

    from tfseg.data.colour import BLUE_SATURATION, BLUE_VALUE, BROWN_SATURATION, BROWN_VALUE
    from tfseg.data.photometric import BLUE, BROWN, stained_pixels
    from tfseg.data.photometric import targeted_hsv as move

    image, still = np.ascontiguousarray(data.immunohistochemistry()[:360, :360]), (0.0, 0.0)
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
            moved = move(image, *((shift, still) if name == "brown" else (still, shift)))
            change = np.abs(moved.astype(int) - image).max(axis=2)
            outside = int((change[~stained] > 0).sum())
            title = f"{name}: saturation {shift[0]:+d}, value {shift[1]:+d}"
            shown = np.repeat((3 * change).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
            panels.append((moved, title, shown, f"change × 3; moved outside: {outside} px"))
    figure = Figure(figsize=(15, 6.6), layout="constrained")
    axes = figure.subplots(2, len(panels))
    for column, (upper, title, lower, below) in enumerate(panels):
        for axis, picture, text in zip(axes[:, column], (upper, lower), (title, below), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(text, fontsize=10)
            axis.axis("off")
    return figure


def colour_normalisation() -> Figure:
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
        "other stains: immunohistochemistry": np.ascontiguousarray(data.immunohistochemistry()[:TILE_PX, :TILE_PX]),
    }
    figure = Figure(figsize=(2.9 * (len(METHODS) + 2), 3.1 * len(images)), layout="constrained")
    rows = figure.subplots(len(images), len(METHODS) + 2)
    for row, (name, image) in zip(rows, images.items(), strict=True):
        panels = {"target: stain A, scanner P": target, name: image}
        panels |= {method: fit(target, method).apply(image) for method in METHODS}
        for axis, (title, picture) in zip(row, panels.items(), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(title, fontsize=8)
            axis.axis("off")
    return figure


def restain() -> Figure:
    """A synthetic tile with its nuclei as Fiji's steps label them, the second stain of another, and eight restained."""
    from tfseg.data.restain import Restain, counterstains
    from tfseg.infer.classical import fiji

    image = _synthetic_tile("A", "P")
    labels = fiji(image, channel="haematoxylin")
    with tempfile.TemporaryDirectory() as temporary:
        pictures = Path(temporary) / "pictures"
        pictures.mkdir()
        cv2.imwrite(str(pictures / "tile.png"), _synthetic_tile("C", "R", side_px=512)[..., ::-1])
        source = counterstains(pictures, Path(temporary))
        second = np.load(source.files[0])[:TILE_PX, :TILE_PX]
        panels = {"second stain of another picture": np.repeat(255 - second[..., None], 3, axis=2)}
        for name, brown in (("eosin", 0.0), ("DAB", 1.0)):
            panels |= {f"{name}, seed {seed}": Restain(source, 1.0, brown)(image, labels, seed) for seed in range(4)}
    panels = {"labelled nuclei": _outlined(image, labels, (255, 255, 0)), **panels}
    figure = Figure(figsize=(13.5, 5.9), layout="constrained")
    for axis, (title, picture) in zip(figure.subplots(2, 5).flat, panels.items(), strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    return figure


def nuclei_hits() -> Figure:
    """Three systems without a network on a corner of scikit-image's ``immunohistochemistry``: hits and misses, scores.

    The truth is the labelling that was drawn for ``tools/notebooks``, which measures no method.
    """
    from skimage import data

    from tfseg.data.nuclei_labels import lay, polygon_mask
    from tfseg.infer.classical import fiji, otsu, watershed
    from tfseg.infer.instances import InstanceOptions
    from tfseg.metrics.instance_plots import hit_overlay
    from tfseg.metrics.instances import instance_scores
    from tfseg.slides.geojson import read_geojson

    whole = data.immunohistochemistry()
    outlines = [nucleus.polygon for nucleus in read_geojson(OUTLINES)]
    labels, _ = lay(whole.shape[:2], [("", *polygon_mask(outline, whole.shape[:2])) for outline in outlines])
    image, truth = np.ascontiguousarray(whole[CORNER]), labels[CORNER]
    options = InstanceOptions(min_area_px=20)
    systems = {
        "Otsu": otsu(image, options),
        "watershed": watershed(image, options),
        "Fiji on haematoxylin": fiji(image, options, channel="haematoxylin", sigma_px=1),
    }
    panels = {f"truth: {len(outlines)} nuclei": _outlined(image, truth, (255, 255, 0))}
    for name, found in systems.items():
        scores = instance_scores(truth, found)
        title = f"{name}\nAJI {scores['aji']:.3f}, map_precision {scores['map_precision']:.3f}"
        panels[title] = hit_overlay(image, truth, found, lighten=0.5)
    figure = Figure(figsize=(3.2 * len(panels), 3.75), layout="constrained")
    for axis, (title, picture) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axis.imshow(picture)
        axis.set_anchor("S")
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    return figure


def nuclei_ihc() -> Figure:
    """scikit-image's ``immunohistochemistry`` and what the network that comes with tfseg finds on it."""
    from skimage import data

    from tfseg.infer.nuclei import label_image
    from tfseg.infer.nuclei_model import default_model
    from tfseg.infer.predictors import load_predictor

    image = np.ascontiguousarray(data.immunohistochemistry())
    labels = label_image(*load_predictor(default_model()), image)
    figure = Figure(figsize=(12, 6.2), layout="constrained")
    panels = {"picture": image, f"{labels.max()} nuclei": _outlined(image, labels, (0, 255, 0))}
    for axis, (title, picture) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        axis.imshow(picture, interpolation="antialiased")
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    return figure


def ap_curves(scores: Path) -> Figure:
    """AP over IoU thresholds of the systems in ``classical.csv``, which ``tools/score_classical.py`` wrote."""
    import pandas as pd

    from tfseg.metrics.instance_plots import ap_figure

    return ap_figure(dict(list(pd.read_csv(scores).groupby("system", sort=False))))


def _outlined(image: np.ndarray, labels: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """The picture, twice as large, with the edge of every instance."""
    from skimage.segmentation import find_boundaries

    large, numbers = (array.repeat(2, axis=0).repeat(2, axis=1) for array in (image, labels))
    large[find_boundaries(numbers, mode="inner")] = color
    return large


def _synthetic_tile(stain: str, scanner: str, side_px: int = TILE_PX) -> np.ndarray:
    """The middle of a synthetic slide, uint8 RGB (side_px, side_px, 3)."""
    from tfseg.slides import open_slide
    from tfseg.slides.synthetic import Recipe, synthetic_slide

    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "slide.tif"
        synthetic_slide(path, Recipe(size_px=2048, stain=stain, scanner=scanner, seed=5))
        with open_slide(path) as slide:
            return slide.read(Window(1024, 1024, side_px, side_px, 0.5))


FIGURES = {
    "schedules": (schedules, "stepwise_cyclic.png", 110),
    "targeted_hsv": (targeted_hsv, "targeted_hsv.png", 80),
    "colour_normalisation": (colour_normalisation, "colour_normalisation.png", 72),
    "restain": (restain, "restain.png", 80),
    "nuclei_ihc": (nuclei_ihc, "nuclei_ihc.png", 90),
    "nuclei_hits": (nuclei_hits, "nuclei_hits.png", 120),
}
"""Name → function, file, dots per inch."""
MEASURED = {"ap_curves": (ap_curves, "ap_curves.png", 110)}
"""The same of figures that show what was measured elsewhere."""


def main(
    figure: tyro.conf.Positional[
        Literal[
            "schedules", "targeted_hsv", "colour_normalisation", "restain", "nuclei_hits", "nuclei_ihc", "ap_curves"
        ]
    ],
    /,
    folder: Path = IMAGES,
    scores: Path | None = None,
) -> None:
    """Draws one figure.

    Args:
        figure: which.
        folder: where it goes.
        scores: for ap_curves: scores.csv of pipelines/gb_unet.py, or classical.csv of tools/score_classical.py.
    """
    if figure in MEASURED:
        if scores is None:
            raise CohortError(f"{figure} shows measurements. Give classical.csv of tools/score_classical.py: --scores.")
        measure, name, dpi = MEASURED[figure]
        drawn = measure(scores)
    else:
        draw, name, dpi = FIGURES[figure]
        drawn = draw()
    with atomic_path(folder / name) as temporary:
        drawn.savefig(temporary, dpi=dpi)
    print(folder / name)


if __name__ == "__main__":
    tyro.cli(main)
