"""Changes of colour, sharpness and noise of one RGB picture; uint8 (H, W, 3) in and out. NumPy and OpenCV."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
"""uint8 RGB (H, W, 3); OpenCV's stubs do not tell dtypes apart."""


@dataclass(frozen=True)
class StainColour:
    """Which pixels a stain has coloured.

    Attributes:
        hues: first and last, in OpenCV's half degrees (0..179).
        min_saturation: paler pixels, 0..255, are unstained whatever their hue: glass and faint stroma have hues too.
    """

    hues: tuple[int, int]
    min_saturation: int


BROWN, BLUE = StainColour((5, 27), 30), StainColour((95, 145), 20)
"""DAB and haematoxylin."""


def targeted_hsv(
    image: Image, brown: tuple[float, float] = (0.0, 0.0), blue: tuple[float, float] = (0.0, 0.0)
) -> Image:
    """Moves saturation and value of stained pixels alone; multi-stain multi-level network, "Targeted HSV", table 6.

    Args:
        image: RGB.
        brown: (saturation, value) added to pixels of DAB's hue, 0..255; the paper draws −30..81 and −80..81.
        blue: the same for haematoxylin's hue; −40..61 and −60..61.

    Returns:
        the picture; pixels that are neither brown nor blue are the same to the bit.
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    moved, stained = hsv.copy(), np.zeros(image.shape[:2], np.uint8)
    for stain, shift in ((BROWN, brown), (BLUE, blue)):
        saturation, value = (round(part) for part in shift)
        if saturation or value:
            mask = stained_pixels(hsv, stain)
            moved = cv2.add(moved, np.array([0.0, saturation, value, 0.0]), dst=moved, mask=mask)
            stained |= mask
    return cv2.copyTo(cv2.cvtColor(moved, cv2.COLOR_HSV2RGB), stained, image.copy())


def stained_pixels(hsv: Image, stain: StainColour) -> NDArray[Any]:
    """Which pixels of an 8-bit HSV picture the stain has coloured: uint8 (H, W), 255 or 0."""
    first, last = stain.hues
    return cv2.inRange(hsv, (first, stain.min_saturation, 0), (last, 255, 255))


def tone(image: Image, brightness: float = 1.0, contrast: float = 1.0, gamma: float = 1.0) -> Image:
    """255 · (v / 255)^gamma, then stretched about mid-grey by ``contrast``, then times ``brightness``; clipped."""
    values = 255.0 * (np.arange(256) / 255.0) ** gamma
    values = ((values - 127.5) * contrast + 127.5) * brightness
    return cv2.LUT(image, np.rint(values).clip(0, 255).astype(np.uint8))


def shift_hue(image: Image, degrees: float, saturation: float = 1.0) -> Image:
    """Turns the hue by ``degrees`` and multiplies the saturation."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    levels = np.arange(256)
    hue = ((levels + round(degrees * 256 / 360)) % 256).astype(np.uint8)
    chroma = np.rint(levels * saturation).clip(0, 255).astype(np.uint8)
    table = np.stack([hue, chroma, levels.astype(np.uint8)], axis=-1)[None]
    return cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB_FULL)


def gains(image: Image, factors: NDArray[np.float64]) -> Image:
    """Multiplies each channel by its factor, (3,)."""
    table = np.rint(np.arange(256)[:, None] * factors).clip(0, 255).astype(np.uint8)
    return cv2.LUT(image, table[None])


def equalise(image: Image, clip_limit: float, tiles: int = 8) -> Image:
    """Contrast-limited adaptive histogram equalisation (CLAHE) of the lightness, in tiles × tiles parts."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clip_limit, (tiles, tiles)).apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def principal_colours(image: Image) -> NDArray[np.float64]:
    """(3, 3): columns are the principal axes of the picture's colours, each times its standard deviation.

    Of every fourth pixel along each axis.
    """
    pixels = image[::4, ::4].reshape(-1, 3).astype(np.float64)
    variances, axes = np.linalg.eigh(np.cov(pixels, rowvar=False))
    return axes * np.sqrt(variances.clip(0))


def add_colour(image: Image, colour: NDArray[np.float64]) -> Image:
    """Adds (3,) grey levels to all pixels."""
    return cv2.add(image, np.array([*colour, 0.0])) if np.any(colour) else image


def emboss(image: Image, alpha: float, strength: float = 1.0) -> Image:
    """Mixes in, by ``alpha``, the picture lit from its upper left: kernel [[-1-s, -s, 0], [-s, 1, s], [0, s, 1+s]]."""
    s = strength
    kernel = np.array([[-1 - s, -s, 0.0], [-s, 1.0, s], [0.0, s, 1 + s]])
    unchanged = np.zeros((3, 3))
    unchanged[1, 1] = 1.0
    return cv2.filter2D(image, -1, (1 - alpha) * unchanged + alpha * kernel, borderType=cv2.BORDER_REFLECT_101)


def gaussian_blur(image: Image, sigma_px: float) -> Image:
    """Out of focus."""
    return cv2.GaussianBlur(image, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101)


def motion_blur(image: Image, length_px: float, degrees: float) -> Image:
    """The mean along a line of ``length_px``, at an angle."""
    half = math.ceil(length_px / 2)
    across, down = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    along, beside = np.abs(x * across + y * down), np.abs(y * across - x * down)
    kernel = (0.5 * length_px + 0.5 - along).clip(0, 1) * (1 - beside).clip(0, 1)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def glass_blur(image: Image, reach_px: float, random: np.random.Generator) -> Image:
    """Every pixel taken from a random place within ``reach_px``, then slightly blurred: as through frosted glass."""
    height, width = image.shape[:2]
    places = random.uniform(-reach_px, reach_px, (2, height, width)).astype(np.float32)
    columns = np.arange(width, dtype=np.float32) + places[0]
    rows = np.arange(height, dtype=np.float32)[:, None] + places[1]
    shuffled = cv2.remap(image, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
    return gaussian_blur(shuffled, 0.7)


def intensity_noise(image: Image, amount: float, random: np.random.Generator) -> Image:
    """Uniform noise of ± ``amount`` grey levels on the intensity (HSV value); hue and saturation stay. CD-UNET."""
    value = image.max(axis=2).astype(np.float32)
    noise = (random.random(value.shape, np.float32) - np.float32(0.5)) * np.float32(2 * amount)
    factor = np.clip(value + noise, 0, 255) / np.maximum(value, 1)
    return cv2.multiply(image, cv2.merge([factor] * 3), dtype=cv2.CV_8U)


def gaussian_noise(image: Image, sigma: float, random: np.random.Generator) -> Image:
    """Normal noise of ``sigma`` grey levels, each channel by itself."""
    noise = random.standard_normal(image.shape, np.float32) * np.float32(sigma)
    return cv2.add(image, noise, dtype=cv2.CV_8U)


def occlude(image: Image, boxes: NDArray[np.float64], colours: NDArray[np.uint8]) -> Image:
    """Fills boxes (N, 4), left, top, right, bottom in pixels, with their colours (N, 3)."""
    image = image.copy()
    height, width = image.shape[:2]
    for (left, top, right, bottom), colour in zip(np.rint(boxes).astype(int), colours, strict=True):
        image[max(0, top) : min(height, max(0, bottom)), max(0, left) : min(width, max(0, right))] = colour
    return image
