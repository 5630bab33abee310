"""Slides and networks for tests of inference: what they return is known exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfseg.infer.networks import Cascade, Network
from tfseg.slides.base import Slide, open_slide
from tfseg.slides.tiff_writer import write_pyramid
from tfseg.types import CascadeSpec, InputSpec, ModelSpec

PATCH_PX = 32
TISSUE, TUMOUR = (230, 150, 190), (140, 60, 150)


def picture(height: int = 420, width: int = 560) -> NDArray[np.uint8]:
    """Glass with a rectangle of tissue, whose right half is tumour; nothing falls on the patch grid."""
    image = np.full((height, width, 3), 250, np.uint8)
    image[height // 6 : height * 5 // 6, width // 8 : width * 7 // 8] = TISSUE
    image[height // 6 : height * 5 // 6, width // 2 : width * 7 // 8] = TUMOUR
    return image


def array_slide(mpp: float = 1.0) -> Slide:
    return open_slide([picture()], mpp=mpp)


def slide_file(path: Path, image: NDArray[np.uint8] | None = None, mpp: float = 1.0) -> Path:
    """A tiled TIFF with mpp; deflate keeps every pixel."""
    write_pyramid(path, picture() if image is None else image, mpp=mpp, tile_px=64, compression="deflate")
    return path


def classifier_spec(stride_px: int = PATCH_PX, mpp: float = 1.0) -> ModelSpec:
    inputs = (InputSpec("image", (PATCH_PX, PATCH_PX), 3, mpp),)
    return ModelSpec("fake", "fake", {}, "classification", inputs, ("probabilities",), stride_px=stride_px)


def refinement_spec(side: int = 64, heatmap: bool = True) -> ModelSpec:
    inputs = [InputSpec("image", (side, side))]
    if heatmap:
        inputs.append(InputSpec("heatmap", (side, side), 1, None, "heatmap"))
    return ModelSpec("fake refinement", "fake", {}, "segmentation", tuple(inputs), ("segmentation",))


def darkness(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """A patch classifier: the darker a patch is on average, the likelier tumour; tissue about 0.25, tumour 0.75."""
    mean = np.asarray(batch, np.float64).mean(axis=(1, 2, 3))
    tumour = np.clip((226 - mean) / 147, 0, 1).astype(np.float32)
    return np.stack([1 - tumour, tumour], axis=1)


def heat_where_dark(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """A refinement network: the heatmap's value where the picture is dark, else 0."""
    dark = np.asarray(image, np.float32).mean(axis=-1) < 160
    tumour = np.where(dark, np.maximum(heat[..., 0], 0.6), 0).astype(np.float32)
    return np.stack([1 - tumour, tumour], axis=-1)


def cascade(refine: bool = True, predict=darkness) -> Cascade:
    network = Network(predict, classifier_spec(), "classifier 1")
    refinement = Network(heat_where_dark, refinement_spec(), "refinement 1") if refine else None
    spec = CascadeSpec("fake", "classifier", "refinement" if refine else None)
    return Cascade(spec, network, refinement)
