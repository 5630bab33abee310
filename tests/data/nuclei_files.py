"""Small images of nuclei in every layout that can be read, with labels known by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

LABELS = np.zeros((12, 20), np.int32)
LABELS[1:5, 1:6] = 1
LABELS[1:5, 6:10] = 2  # touches 1
LABELS[8:11, 14:19] = 3
"""12 px high, 20 wide; nuclei 1 and 2 touch."""
BOXES = ((1, 1, 6, 5), (6, 1, 10, 5), (14, 8, 19, 11))
"""Their left, top, right, bottom."""


def image(seed: int = 0, shape: tuple[int, int] = LABELS.shape) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def write(path: Path, pixels: np.ndarray) -> Path:
    """By suffix: NPY, TIFF, or what Pillow writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, pixels)
    else:
        Image.fromarray(pixels).save(path)
    return path


def pair(folder: Path, name: str, labels: np.ndarray | None = None, suffix: str = ".png") -> Path:
    """images/NAME.png and labels/NAME; returns the label."""
    labels = LABELS.astype(np.uint16) if labels is None else labels
    write(folder / "images" / f"{name}.png", image(shape=labels.shape[:2]))
    return write(folder / "labels" / f"{name}{suffix}", labels)


def imagescope(path: Path, outlines: list[list[tuple[float, float]]], negative: tuple[int, ...] = ()) -> Path:
    """Outlines as Aperio ImageScope writes them, a region each; those of number ``negative`` are holes."""
    regions = []
    for number, points in enumerate(outlines):
        vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
        hole = int(number in negative)
        regions.append(
            f'<Region Id="{number + 1}" Type="0" NegativeROA="{hole}"><Vertices>{vertices}</Vertices></Region>'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<Annotations MicronsPerPixel="0.252"><Annotation Id="1"><Regions>{"".join(regions)}</Regions></Annotation>'
        "</Annotations>"
    )
    return path


def ring(box: tuple[float, float, float, float]) -> list[tuple[float, float]]:
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]
