"""Augmentation of segmentation windows: one geometry for all fields and the labels, one change of colour for all.

Everything is a function of the sample's seed. NumPy and OpenCV, for threads that read slides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfseg.data.colour import Colour, Image
from tfseg.data.elastic import ElasticGrid
from tfseg.data.geometric import Geometry
from tfseg.data.warp import Warp

_GEOMETRY, _COLOUR = 1, 2


@dataclass(frozen=True)
class DrawnAugment:
    """The augmentation of one window."""

    warp: Warp
    colour: Colour
    seed: int

    def recolour(self, images: Sequence[Image], mpps: Sequence[float]) -> list[Image]:
        """Changes the colours of a window's fields, uint8 RGB, in the order of their ``mpps``."""
        return self.colour.apply(images, mpps, _random(self.seed, _COLOUR))


@dataclass(frozen=True)
class DenseAugment:
    """Augmentation of a segmentation network's windows.

    Attributes:
        geometry: of fields and labels.
        colour: of fields.
    """

    geometry: Geometry
    colour: Colour

    def draw(self, seed: int, window_um: float, target_um: float) -> DrawnAugment:
        """What happens to the window of a seed; sides of its widest field and of its target in µm."""
        return DrawnAugment(self.geometry.draw(_random(seed, _GEOMETRY), window_um, target_um), self.colour, seed)


DMMN_AUGMENT = DenseAugment(
    Geometry(flips=True, turns=True, rotate_deg=180.0),
    Colour(brightness=0.2, contrast=0.2, saturation=0.2, hue_deg=10.0),
)
"""Deep multi-magnification networks, section 2.5: rotation, flips, brightness, contrast, colour jitter. The paper gives
no amounts."""

CD_UNET_AUGMENT = DenseAugment(
    Geometry(flips=True, scale=0.1, rotate_deg=10.0, shift=0.05, shear_deg=5.0),
    Colour(hue_deg=20.0, brightness=0.2, intensity_noise=20.0, occlusion=0.25),
)
"""Colour-deconvolution U-Net, section 2: hue, brightness and scale jitter, uniform noise on the intensity, random
occlusion, flips, small affine maps. The paper gives no amounts."""

GB_UNET_AUGMENT = DenseAugment(
    Geometry(
        flips=True,
        turns=True,
        rotate_deg=180.0,
        shear_deg=10.0,
        elastic=ElasticGrid(9, 4.0, window_px=256, mpp=1.0),
        grid_distortion=0.2,
        skew=0.2,
    ),
    Colour(),
)
"""GB U-Net, "Data augmentation": rotation, distortion, skew, shear, flip. The paper gives no amounts. In pixels."""

NUCLEI_AUGMENT = dataclasses.replace(
    GB_UNET_AUGMENT,
    geometry=dataclasses.replace(GB_UNET_AUGMENT.geometry, scale=0.25),
    colour=Colour(brightness=0.2, contrast=0.2, gamma=0.3, saturation=0.3, hue_deg=15.0, blur_px=1.0),
)
"""The same with size, colours and sharpness, for networks that meet other laboratories' images."""

NUCLEI_ANY_STAIN_AUGMENT = dataclasses.replace(
    NUCLEI_AUGMENT,
    geometry=dataclasses.replace(NUCLEI_AUGMENT.geometry, scale=0.35),
    colour=dataclasses.replace(NUCLEI_AUGMENT.colour, heavy=True),
)
"""The same with any hue in half of the tiles, for networks that meet other stains than they were trained on."""

LEVELS = 6
"""Steps of iterative training: the base model and five rounds."""


def multi_level_augment(level: int) -> DenseAugment:
    """Augmentation of a step of iterative training; multi-stain multi-level network, "Augmentations" and table 8.

    Level 0, the base model: crop, flip, rotate, rescale. Each further level is stronger and adds kinds: 1 shift, shear,
    brightness, contrast, gamma, CLAHE; 2 blurs and noise; 3 elastic, grid and optical distortion; 4 targeted HSV, hue,
    PCA, emboss; 5 heavy colour. Table 8's list is lost from the text; order and amounts are ours. Style transfer is
    not in it.

    Raises:
        ValueError: level beyond 0..5.
    """
    if not 0 <= level < LEVELS:
        raise ValueError(f"level of augmentation: 0 (base model) to {LEVELS - 1}. Received: {level}.")
    part = level / (LEVELS - 1)
    late = float(level >= 3)
    geometry = Geometry(
        flips=True,
        turns=True,
        rotate_deg=180.0,
        scale=0.1 + 0.1 * part,
        crop=0.1 + 0.1 * part,
        shift=0.1 * part,
        shear_deg=10.0 * part,
        elastic=ElasticGrid(33, 8.0 * part, window_px=2048) if late else None,
        grid_distortion=0.3 * part * late,
        optical_distortion=0.2 * part * late,
    )
    noisy, stained = float(level >= 2), float(level >= 4)
    colour = Colour(
        p=0.2 + 0.2 * part,
        brightness=0.3 * part,
        contrast=0.3 * part,
        gamma=0.5 * part,
        clahe=3.0 * part,
        blur_px=2.0 * part * noisy,
        glass_px=2.0 * part * noisy,
        motion_px=7.0 * part * noisy,
        intensity_noise=20.0 * part * noisy,
        gaussian_noise=10.0 * part * noisy,
        targeted_hsv=bool(stained),
        hue_deg=20.0 * part * stained,
        saturation=0.3 * part * stained,
        pca=0.2 * part * stained,
        emboss=0.5 * part * stained,
        heavy=level >= 5,
    )
    return DenseAugment(geometry, colour)


def _random(seed: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng((seed & (2**64 - 1), purpose))
