"""Synthetic tissue as a scanner sees it: stains by optical density (Beer–Lambert), then optics, sensor and colour."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tfseg.slides.synthetic_ihc import MARKERS, MASKING, Brown, Marker, Place
from tfseg.slides.synthetic_nuclei import FULL_OD, Templates
from tfseg.slides.synthetic_plan import FIELD_UM
from tfseg.slides.synthetic_tissue import Tissue

COARSE_UM = 1.0
"""Pixel size at which outlines are filled; nuclei and fibres are drawn at the slide's own."""

_PAD = 48
"""Pixels round a band, so that nuclei need no clipping and blur no border case."""

_TEXTURE_PX = 1024


@dataclass(frozen=True)
class Stain:
    """A laboratory's haematoxylin and eosin, or its haematoxylin under an antibody's brown.

    Attributes:
        haematoxylin, eosin: optical density of unit stain in red, green, blue; scaled to length 1 when used. Without
            eosin, in its place what all tissue takes up of haematoxylin and of brown: a dull grey.
        strength: factors of (haematoxylin, eosin).
        marker: what is brown; None for haematoxylin and eosin.
    """

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    strength: tuple[float, float]
    marker: Marker | None = None


@dataclass(frozen=True)
class Scanner:
    """A scanner's colours and faults.

    Attributes:
        white: red, green, blue of empty glass.
        gamma: exponent of the transmitted light.
        blur_px: sigma of the optics at 0.5 µm/px, in pixels.
        noise: standard deviation of the sensor noise in grey levels.
        quality: of the JPEG tiles.
    """

    white: tuple[float, float, float]
    gamma: float
    blur_px: float
    noise: float
    quality: int


STAINS = {
    "A": Stain((0.56, 0.72, 0.41), (0.22, 0.84, 0.50), (1.00, 1.00)),
    "B": Stain((0.65, 0.70, 0.29), (0.14, 0.90, 0.36), (1.15, 0.85)),
    "C": Stain((0.60, 0.74, 0.32), (0.30, 0.82, 0.45), (0.85, 1.20)),
    "ER": Stain((0.74, 0.60, 0.30), (0.45, 0.58, 0.68), (0.75, 0.36), MARKERS["ER"]),
    "Ki67": Stain((0.76, 0.60, 0.24), (0.50, 0.58, 0.64), (0.85, 0.30), MARKERS["Ki67"]),
    "HER2": Stain((0.72, 0.62, 0.31), (0.42, 0.58, 0.70), (0.65, 0.42), MARKERS["HER2"]),
}
SCANNERS = {
    "P": Scanner((243, 243, 244), 1.00, 0.55, 1.4, 88),
    "Q": Scanner((248, 245, 240), 0.92, 0.75, 2.2, 82),
    "R": Scanner((236, 240, 246), 1.10, 0.45, 1.0, 92),
}


class Picture:
    """The slide's level 0 as a tile source: every tile is drawn when it is asked for.

    Args:
        tissue: what to draw.
        nuclei: the templates that the tissue's nuclei name.
        mpp: µm/px.
        stain, scanner: how to draw; the slide's own small deviation from both comes from ``rng``.
    """

    def __init__(
        self, tissue: Tissue, nuclei: Templates, mpp: float, stain: Stain, scanner: Scanner, rng: np.random.Generator
    ) -> None:
        width, height = (round(side / mpp) for side in tissue.layout.size_um)
        self.shape: tuple[int, ...] = (height, width, 3)
        self.dtype = np.dtype(np.uint8)
        self.mpp, self.tissue, self.nuclei, self.scanner = mpp, tissue, nuclei, scanner
        self.colors = _color_table(stain, scanner, rng)
        self.fibres = _fibre_texture(mpp, rng)
        self.grain: NDArray[Any] = np.clip(128 + 20 * rng.normal(size=(_TEXTURE_PX, _TEXTURE_PX)), 0, 255).astype(
            np.uint8
        )
        self.grain = cv2.GaussianBlur(self.grain, (0, 0), 0.6 * 0.5 / mpp + 0.3)
        noise = np.rint(rng.normal(size=(2 * _TEXTURE_PX, _TEXTURE_PX, 3)) * scanner.noise)
        self.noise_up, self.noise_down = (np.clip(sign * noise, 0, 255).astype(np.uint8) for sign in (1, -1))
        self.clouds = _clouds(tissue, rng)
        self.boxes = np.array([[s.outline[:, 1].min(), s.outline[:, 1].max()] for s in tissue.shapes])
        self.seed = int(rng.integers(2**31))
        self.brown = Brown(stain.marker, tissue, mpp, scanner.gamma, rng) if stain.marker else None

    def tile(self, row0: int, col0: int, height: int, width: int) -> NDArray[Any]:
        """Pixels [row0, row0 + height) × [col0, col0 + width), (height, width, 3) uint8."""
        eosin, haematoxylin, brown = self._stains(row0 - _PAD, col0 - _PAD, height + 2 * _PAD, width + 2 * _PAD)
        halo = 6
        inner = np.s_[_PAD - halo : _PAD + height + halo, _PAD - halo : _PAD + width + halo]
        index = haematoxylin[inner].astype(np.uint16) << 8
        index |= eosin[inner]
        rgb = np.ascontiguousarray(self.colors[index].view(np.uint8).reshape(*index.shape, 4)[..., :3])
        if self.brown is not None and brown is not None:
            rgb = cv2.multiply(rgb, self.brown.colors[brown[inner]], scale=1 / 255)
        blur = self.scanner.blur_px * 0.5 / self.mpp
        rgb = cv2.GaussianBlur(rgb, (0, 0), max(blur, 0.3), borderType=cv2.BORDER_REPLICATE)
        rgb = rgb[halo : halo + height, halo : halo + width]
        return self._with_noise(rgb, row0, col0)

    def _stains(
        self, top: int, left: int, height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
        """Eosin, haematoxylin and brown planes (height, width) uint8 of a padded field; no brown plane in H&E."""
        base = self._fills(top, left, height, width)
        eosin, haematoxylin, fibre = cv2.split(base)
        eosin = self._textured(eosin, fibre, top, left)
        haematoxylin = np.ascontiguousarray(haematoxylin)
        places = list(self._places(top, left, height, width))
        self._stamp(eosin, haematoxylin, places)
        if self.brown is None:
            return eosin, haematoxylin, None
        brown = self.brown.plane(top, left, (height, width), places)
        return eosin, cv2.subtract(haematoxylin, cv2.convertScaleAbs(brown, alpha=MASKING)), brown

    def _fills(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Outlines filled at 1 µm/px and enlarged: (height, width, 3) eosin, haematoxylin, fibre weight."""
        step = COARSE_UM / self.mpp
        row0, col0 = math.floor(top / step) - 2, math.floor(left / step) - 2
        rows, columns = math.ceil(height / step) + 5, math.ceil(width / step) + 5
        canvas: NDArray[Any] = np.zeros((rows, columns, 3), np.uint8)
        low, high = row0 * COARSE_UM, (row0 + rows) * COARSE_UM
        origin = np.array([col0 + 0.5, row0 + 0.5])
        for number in np.nonzero((self.boxes[:, 1] >= low) & (self.boxes[:, 0] <= high))[0]:
            shape = self.tissue.shapes[number]
            points = np.rint((shape.outline / COARSE_UM - origin) * 16).astype(np.int32)
            cv2.fillPoly(canvas, [points], shape.fill, cv2.LINE_AA, 4)
        # Density drifts over the slide, and tumour stroma is looser and bluer (desmoplasia).
        drift = self._field(self.clouds, row0, col0, rows, columns, COARSE_UM)
        canvas = cv2.multiply(canvas, drift, scale=1 / 128)
        row, column = (top + 0.5) / step - 0.5 - row0, (left + 0.5) / step - 0.5 - col0
        return _enlarge(canvas, (height, width), step, row, column)

    def _field(self, field, row0: float, col0: float, rows: int, columns: int, pixel_um: float) -> NDArray[Any]:
        """A smooth field at a window of pixels of ``pixel_um``."""
        step = FIELD_UM / pixel_um
        return _enlarge(field, (rows, columns), step, (row0 + 0.5) / step - 0.5, (col0 + 0.5) / step - 0.5)

    def _textured(self, eosin: NDArray[Any], fibre: NDArray[Any], top: int, left: int) -> NDArray[Any]:
        """Eosin times fibre pattern where there are fibres, times fine grain elsewhere."""
        height, width = eosin.shape
        plan = self.tissue.layout
        along, across = (self._field(field, top, left, height, width, self.mpp) for field in plan.sway)
        x = (np.arange(left, left + width, dtype=np.float32) + 0.5) * self.mpp
        y = (np.arange(top, top + height, dtype=np.float32) + 0.5)[:, None] * self.mpp
        cos, sin = np.float32(math.cos(plan.turn)), np.float32(math.sin(plan.turn))
        along += x * cos + y * sin
        across += y * cos - x * sin
        # Wrapped by hand: OpenCV's remap takes no coordinates beyond 32767.
        scale = np.float32(1 / self.mpp)
        for axis in (along, across):
            axis *= scale
            axis -= np.floor(axis / _TEXTURE_PX) * np.float32(_TEXTURE_PX)
        pattern = cv2.remap(self.fibres, along, across, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        grain = _wrapped(self.grain, top, left, height, width)
        loose = cv2.multiply(grain, cv2.bitwise_not(fibre), scale=1 / 255)
        mixed = cv2.add(cv2.multiply(pattern, fibre, scale=1 / 255), loose)
        return cv2.multiply(eosin, mixed, scale=1 / 128)

    def _places(self, top: int, left: int, height: int, width: int) -> Iterator[Place]:
        """Nuclei whose whole picture fits into the padded field; the others lie outside the tile."""
        table = self.tissue.nuclei
        first, last = np.searchsorted(table["y"], (top * self.mpp, (top + height) * self.mpp))
        table = table[first:last]
        columns = np.rint(table["x"] / self.mpp).astype(np.int64) - left
        rows = np.rint(table["y"] / self.mpp).astype(np.int64) - top
        kinds, numbers = table["kind"].tolist(), table["template"].tolist()
        nuclei = zip(columns.tolist(), rows.tolist(), kinds, numbers, strict=True)
        for row_of_table, (column, row, kind, number) in enumerate(nuclei, start=int(first)):
            template = self.nuclei[kind][number]
            side = template.haematoxylin.shape[0]
            row, column = row - side // 2, column - side // 2
            if row >= 0 and column >= 0 and row + side <= height and column + side <= width:
                yield row_of_table, template, np.s_[row : row + side, column : column + side]

    def _stamp(self, eosin: NDArray[Any], haematoxylin: NDArray[Any], places: list[Place]) -> None:
        for _, template, pixels in places:
            dark, pink = haematoxylin[pixels], eosin[pixels]
            np.maximum(dark, template.haematoxylin, out=dark)
            np.minimum(pink, template.eosin, out=pink)

    def _with_noise(self, rgb: NDArray[Any], row0: int, col0: int) -> NDArray[Any]:
        """Sensor noise: a fixed pattern, moved by a pseudo-random step for every band."""
        height, width = rgb.shape[:2]
        step = np.random.default_rng([self.seed, row0, col0]).integers(0, _TEXTURE_PX, 2)
        up, down = (_wrapped(n, int(step[0]), int(step[1]), height, width) for n in (self.noise_up, self.noise_down))
        return cv2.subtract(cv2.add(rgb, up), down)


def _enlarge(field: NDArray[Any], shape: tuple[int, int], step: float, row: float, column: float) -> NDArray[Any]:
    """``field`` sampled bilinearly at ``shape`` points 1 / ``step`` apart, the first at (row, column)."""
    matrix = np.array([[1 / step, 0, column], [0, 1 / step, row]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(field, matrix, (shape[1], shape[0]), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _wrapped(texture: NDArray[Any], top: int, left: int, height: int, width: int) -> NDArray[Any]:
    """A window of a texture repeated without end."""
    rows = np.arange(top, top + height) % texture.shape[0]
    columns = np.arange(left, left + width) % texture.shape[1]
    return texture.take(rows, axis=0).take(columns, axis=1)


def _color_table(stain: Stain, scanner: Scanner, rng: np.random.Generator) -> NDArray[np.uint32]:
    """(65536,) uint32, red in the lowest byte: colour of haematoxylin · 256 + eosin.

    I = white · 10^(−γ (h·H + e·E)): Beer–Lambert for each colour channel, then the scanner's gamma.
    """
    vectors = np.array([stain.haematoxylin, stain.eosin]) + rng.normal(size=(2, 3)) * 0.025
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strength = np.array(stain.strength) * np.exp(rng.normal(size=2) * 0.07)
    levels = np.arange(256) / 255 * FULL_OD
    density = levels[:, None, None] * strength[0] * vectors[0] + levels[None, :, None] * strength[1] * vectors[1]
    white = np.array(scanner.white) + rng.normal(size=3) * 1.2
    rgb = np.clip(np.rint(white * 10 ** (-density * scanner.gamma)), 0, 255).astype(np.uint32)
    return (rgb[..., 0] | rgb[..., 1] << 8 | rgb[..., 2] << 16).reshape(-1)


def _fibre_texture(mpp: float, rng: np.random.Generator) -> NDArray[Any]:
    """Periodic pattern of collagen, fibres along the rows: 128 on average, clefts pale."""
    frequency_x = np.fft.rfftfreq(_TEXTURE_PX)[None, :] / mpp
    frequency_y = np.fft.fftfreq(_TEXTURE_PX)[:, None] / mpp
    total = np.zeros((_TEXTURE_PX, _TEXTURE_PX))
    for length, thickness, weight in ((8, 0.8, 0.7), (18, 1.6, 1.0), (45, 5.0, 0.8)):
        spectrum = np.fft.rfft2(rng.normal(size=total.shape))
        spectrum *= np.exp(-2 * math.pi**2 * ((length * frequency_x) ** 2 + (thickness * frequency_y) ** 2))
        layer = np.fft.irfft2(spectrum, total.shape)
        total += weight * layer / layer.std()
    total /= total.std()
    pattern = 128 + 26 * total - 60 * np.clip(-1.2 - total, 0, 1.2)
    return np.clip(pattern, 8, 255).astype(np.uint8)


def _clouds(tissue: Tissue, rng: np.random.Generator) -> NDArray[Any]:
    """(h, w, 3) uint8 factors · 128 of eosin, haematoxylin and fibre weight."""
    plan = tissue.layout
    shape = plan.depth.shape
    slow = cv2.resize(rng.normal(size=(9, 9)).astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    near = (1 + np.tanh((plan.depth + 30 * plan.cells) / 70)) / 2
    eosin = 1 + 0.06 * slow + 0.09 * plan.cells - 0.16 * near
    haematoxylin = 1 + 0.06 * slow + 0.4 * near
    factors = np.stack([eosin, haematoxylin, 1 - 0.1 * near], axis=-1)
    return np.clip(np.rint(factors * 128), 0, 255).astype(np.uint8)
