"""One picture per slide that shows the result: the slide, the heatmap over it, the outline of the mask."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tfseg.infer.fields import Field, foreground
from tfseg.slides.base import Slide
from tfseg.slides.rasterise import PixelGrid
from tfseg.types import ClassSpec

MAX_SIDE_PX = 2048
_LEGEND_PX = 72
_LINE_PX = 28
_SMALLEST_WIDTH_PX = 760
_OPACITY = 0.45
_PNG_LEVEL = 1


def thumbnail_grid(slide_size: tuple[int, int], max_side_px: int = MAX_SIDE_PX - _LEGEND_PX) -> PixelGrid:
    """Pixels of 2^k level-0 pixels over the whole slide, as fine as ``max_side_px`` on its longer side allows.

    Powers of two, because slides have such levels: reading one is several times faster than resampling it.
    """
    step = 1
    while max(slide_size) > step * max_side_px:
        step *= 2
    width, height = (-(-side // step) for side in slide_size)
    return PixelGrid(0.0, 0.0, float(step), float(step), width, height)


def thumbnail(slide: Slide) -> NDArray[np.uint8]:
    """The slide on the pixels of :func:`thumbnail_grid`, uint8 (H, W, 3)."""
    return slide.whole(thumbnail_grid(slide.size).step_x * slide.mpp)


def draw_overlay(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    classes: Sequence[ClassSpec],
    pixel_um: float,
    title: str,
    heat: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """Draws the result over a thumbnail, with a legend below.

    Args:
        image: the thumbnail, uint8 RGB (H, W, 3).
        labels: class indices on its pixels, uint8 (H, W); class 0 gets no outline.
        classes: names and colours.
        pixel_um: µm per thumbnail pixel.
        title: name of the slide.
        heat: probability 0..1 on its pixels, (H, W); None draws none.

    Returns:
        uint8 RGB, 72 px higher than ``image`` (28 px more for each further line of classes) and at least 760 px wide.
    """
    out = image.copy()
    if heat is not None:
        weight = (np.clip(heat, 0, 1) * _OPACITY)[..., None]
        out = np.rint(out * (1 - weight) + _colors(heat) * weight).astype(np.uint8)
    for index, spec in enumerate(classes):
        if index:
            _outline(out, labels == index, spec.color)
    height, width = out.shape[:2]
    canvas = np.full((height + _LEGEND_PX, max(width, _SMALLEST_WIDTH_PX), 3), 255, np.uint8)
    canvas[:height, :width] = out
    return _legend(canvas, height, classes[1:], pixel_um, title, heat is not None)


def field_on(field: Field, grid: PixelGrid) -> NDArray[np.float32]:
    """Foreground probability of a field on pixels, float32 (H, W)."""
    return Field(foreground(field.values)[..., None], field.step, field.smooth).at(*grid.centres())[..., 0]


def png(image: NDArray[np.uint8]) -> bytes:
    """The bytes of a PNG file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=_PNG_LEVEL)
    return out.getvalue()


def _colors(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Probability to colour, RGB: blue to green to yellow, which haematoxylin and eosin are not."""
    bytes_ = np.rint(np.clip(heat, 0, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(bytes_, cv2.COLORMAP_VIRIDIS), np.uint8)[..., ::-1]


def _outline(image: NDArray[np.uint8], mask: NDArray[np.bool_], color: tuple[int, int, int]) -> None:
    """Draws the outline of a mask, a thin white line outside of it so that it shows on any ground."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    width = max(2, round(max(image.shape) / 700))
    cv2.drawContours(image, contours, -1, (255, 255, 255), width + 2)
    cv2.drawContours(image, contours, -1, color, width)


def _legend(
    canvas: NDArray[np.uint8], top: int, classes: Sequence[ClassSpec], pixel_um: float, title: str, heat: bool
) -> NDArray[np.uint8]:
    picture = Image.fromarray(canvas)
    draw, font = ImageDraw.Draw(picture), _font(17)
    black = (0, 0, 0)
    draw.text((16, top + 8), title, fill=black, font=font)
    length_px, length_text = scale_bar(pixel_um, canvas.shape[1])
    y = top + 50
    draw.rectangle((16, y - 3, 16 + length_px, y + 3), fill=black)
    draw.text((28 + length_px, y), length_text, fill=black, font=font, anchor="lm")
    x = 28 + length_px + draw.textlength(length_text, font) + 40
    if heat:
        ramp = np.repeat(np.linspace(0, 1, 120, dtype=np.float32)[None], 16, 0)
        weight = (ramp * _OPACITY)[..., None]
        bar = np.rint(255 * (1 - weight) + _colors(ramp) * weight).astype(np.uint8)
        names = " + ".join(spec.name for spec in classes)
        for text in ("0", bar, f"1  probability of {names}"):
            if isinstance(text, str):
                draw.text((x, y), text, fill=black, font=font, anchor="lm")
                x += draw.textlength(text, font) + 6
            else:
                picture.paste(Image.fromarray(text), (round(x), y - 8))
                x += 126
        x += 30
    places: list[tuple[float, int]] = []
    line = 0
    for spec in classes:
        width = 32 + draw.textlength(spec.name, font)
        if x + width > picture.width and places:
            x, line = 16, line + 1
        places.append((x, y + line * _LINE_PX))
        x += width + 30
    higher = Image.new("RGB", (picture.width, picture.height + line * _LINE_PX), (255, 255, 255))
    higher.paste(picture)
    picture, draw = higher, ImageDraw.Draw(higher)
    for (x, y), spec in zip(places, classes, strict=True):
        draw.rectangle((x, y - 8, x + 24, y + 8), outline=spec.color, width=3)
        draw.text((x + 32, y), spec.name, fill=black, font=font, anchor="lm")
    return np.asarray(picture)


@functools.lru_cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's own DejaVu Sans: Pillow's font lacks µ and ×."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size_px)


def scale_bar(pixel_um: float, width_px: int) -> tuple[int, str]:
    """Length in pixels, and its text, of a bar of 1, 2 or 5 · 10^n µm, about a sixth of the picture at most."""
    most = width_px * pixel_um / 6
    power = 10.0 ** np.floor(np.log10(most))
    length = max(step * power for step in (1, 2, 5) if step * power <= most)
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    return max(1, round(length / pixel_um)), text
