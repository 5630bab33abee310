"""Random changes of colour, sharpness and noise, drawn once for all fields of a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfseg.data import photometric
from tfseg.data.photometric import Image

BROWN_SATURATION, BROWN_VALUE = (-30, 81), (-80, 81)
BLUE_SATURATION, BLUE_VALUE = (-40, 61), (-60, 61)
"""Ranges of targeted HSV; multi-stain multi-level network, table 6."""


@dataclass(frozen=True)
class Colour:
    """How colours, sharpness and noise change; each kind is applied with probability ``p``, 0 turns one off.

    What is drawn is drawn once for all fields of a window; lengths are meant on the slide: a blur of the first field is
    narrower, in pixels, in a field of coarser pixels. Noise is drawn for each field.

    Attributes:
        p: of each kind.
        targeted_hsv: move saturation and value of brown and of blue pixels alone, by the paper's ranges.
        brightness: factor in 1 ± this.
        contrast: factor in 1 ± this, about mid-grey.
        gamma: exponent between 1 / (1 + this) and 1 + this.
        saturation: factor in 1 ± this.
        hue_deg: by up to this, either way.
        heavy: any hue, saturation times 0.2..2, channels times 0.7..1.3: colours no longer help.
        clahe: equalise the lightness with a clip limit of 1..1 + this, each field by its own histogram.
        pca: σ of the shift along the principal axes of the first field's colours, in their standard deviations.
        emboss: mix in by up to this.
        blur_px, glass_px, motion_px: σ, reach and length of the blurs, up to this, in pixels of the first field.
        intensity_noise: uniform noise on the intensity of up to ± so many grey levels.
        gaussian_noise: σ of normal noise, up to so many grey levels.
        occlusion: one to three boxes of random grey, sides up to this fraction of the first field's.
    """

    p: float = 0.5
    targeted_hsv: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    saturation: float = 0.0
    hue_deg: float = 0.0
    heavy: bool = False
    clahe: float = 0.0
    pca: float = 0.0
    emboss: float = 0.0
    blur_px: float = 0.0
    glass_px: float = 0.0
    motion_px: float = 0.0
    intensity_noise: float = 0.0
    gaussian_noise: float = 0.0
    occlusion: float = 0.0

    def apply(self, images: Sequence[Image], mpps: Sequence[float], random: np.random.Generator) -> list[Image]:
        """Changes all fields of a window, uint8 RGB, of so many µm/px."""
        images = list(images)
        for change in (self._stain, self._tone, self._hue, self._texture, self._blur, self._noise):
            images = change(images, mpps, random)
        return self._occlude(images, mpps, random) if self._chosen(self.occlusion, random) else images

    def _chosen(self, strength: float, random: np.random.Generator) -> bool:
        return bool(strength) and random.random() < self.p

    def _stain(self, images: list[Image], mpps: Sequence[float], random: np.random.Generator) -> list[Image]:
        if not self._chosen(self.targeted_hsv, random):
            return images
        brown = random.uniform(*BROWN_SATURATION), random.uniform(*BROWN_VALUE)
        blue = random.uniform(*BLUE_SATURATION), random.uniform(*BLUE_VALUE)
        return [photometric.targeted_hsv(image, brown, blue) for image in images]

    def _tone(self, images: list[Image], mpps: Sequence[float], random: np.random.Generator) -> list[Image]:
        brightness, contrast = (
            1 + random.uniform(-1, 1) * strength if self._chosen(strength, random) else 1.0
            for strength in (self.brightness, self.contrast)
        )
        gamma = (1 + self.gamma) ** random.uniform(-1, 1) if self._chosen(self.gamma, random) else 1.0
        if (brightness, contrast, gamma) != (1.0, 1.0, 1.0):
            images = [photometric.tone(image, brightness, contrast, gamma) for image in images]
        if self._chosen(self.clahe, random):
            limit = 1 + random.uniform(0, 1) * self.clahe
            images = [photometric.equalise(image, limit) for image in images]
        return images

    def _hue(self, images: list[Image], mpps: Sequence[float], random: np.random.Generator) -> list[Image]:
        degrees = random.uniform(-1, 1) * self.hue_deg if self._chosen(self.hue_deg, random) else 0.0
        saturation = 1 + random.uniform(-1, 1) * self.saturation if self._chosen(self.saturation, random) else 1.0
        if self._chosen(self.heavy, random):
            degrees, saturation = random.uniform(-180, 180), saturation * random.uniform(0.2, 2)
            factors = random.uniform(0.7, 1.3, 3)
            images = [photometric.gains(image, factors) for image in images]
        if degrees or saturation != 1.0:
            images = [photometric.shift_hue(image, degrees, saturation) for image in images]
        return images

    def _texture(self, images: list[Image], mpps: Sequence[float], random: np.random.Generator) -> list[Image]:
        if self._chosen(self.pca, random):
            colour = photometric.principal_colours(images[0]) @ random.normal(0, self.pca, 3)
            images = [photometric.add_colour(image, colour) for image in images]
        if self._chosen(self.emboss, random):
            alpha = random.uniform(0, 1) * self.emboss
            images = [photometric.emboss(image, alpha) for image in images]
        return images

    def _blur(self, images: list[Image], mpps: Sequence[float], random: np.random.Generator) -> list[Image]:
        """Blurs of less than a third of a pixel are left out: they change nothing."""
        sizes = [mpps[0] / mpp for mpp in mpps]
        if self._chosen(self.blur_px, random):
            sigma = random.uniform(0, 1) * self.blur_px
            pairs = zip(images, sizes, strict=True)
            images = [photometric.gaussian_blur(i, sigma * s) if sigma * s > 1 / 3 else i for i, s in pairs]
        if self._chosen(self.glass_px, random):
            reach = random.uniform(0, 1) * self.glass_px
            pairs = zip(images, sizes, strict=True)
            images = [photometric.glass_blur(i, reach * s, random) if reach * s > 1 / 3 else i for i, s in pairs]
        if self._chosen(self.motion_px, random):
            length, degrees = random.uniform(0, 1) * self.motion_px, random.uniform(0, 180)
            pairs = zip(images, sizes, strict=True)
            images = [photometric.motion_blur(i, length * s, degrees) if length * s > 4 / 3 else i for i, s in pairs]
        return images

    def _noise(self, images: list[Image], mpps: Sequence[float], random: np.random.Generator) -> list[Image]:
        if self._chosen(self.intensity_noise, random):
            amount = random.uniform(0, 1) * self.intensity_noise
            images = [photometric.intensity_noise(image, amount, random) for image in images]
        if self._chosen(self.gaussian_noise, random):
            sigma = random.uniform(0, 1) * self.gaussian_noise
            images = [photometric.gaussian_noise(image, sigma, random) for image in images]
        return images

    def _occlude(self, images: list[Image], mpps: Sequence[float], random: np.random.Generator) -> list[Image]:
        """The same boxes on the slide, so in every field."""
        count = int(random.integers(1, 4))
        side_um = max(images[0].shape[:2]) * mpps[0]
        centres = random.uniform(-0.5, 0.5, (count, 2)) * side_um
        halves = random.uniform(0, 0.5, (count, 2)) * self.occlusion * side_um
        boxes = np.concatenate([centres - halves, centres + halves], axis=1)
        colours = np.repeat(random.integers(0, 256, (count, 1)), 3, axis=1).astype(np.uint8)
        middles = [np.array([i.shape[1], i.shape[0]] * 2) / 2 for i in images]
        return [
            photometric.occlude(image, boxes / mpp + middle, colours)
            for image, mpp, middle in zip(images, mpps, middles, strict=True)
        ]
