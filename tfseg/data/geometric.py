"""Random maps of a window's plane: what moves and bends all fields and the labels together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tfseg.data.elastic import ElasticGrid
from tfseg.data.warp import Points, Step, Warp, affine

_GRID_STEPS = 5


@dataclass(frozen=True)
class Geometry:
    """How windows are moved and bent; each kind is applied with probability ``p``, 0 turns one off.

    Attributes:
        p: of each kind.
        flips: mirror left to right, and top to bottom, each by itself.
        turns: by 90°, 180° or 270°.
        rotate_deg: by any angle up to this, either way.
        scale: magnify by a factor in 1 ± this.
        crop: magnify a random part of the target; its side is shorter by up to this fraction.
        shift: move by up to this fraction of the target's side, along each axis.
        shear_deg: slant by up to this angle, along each axis.
        elastic: bend as class balancing does, with such a grid.
        grid_distortion: stretch five strips of the window, along each axis, by factors in 1 ± this.
        optical_distortion: barrel or cushion: r → r · (1 + k · (r / R)²), |k| up to this, R half the window's side.
        skew: tilt out of the plane: p → p / (1 + t · p / R), each part of t up to this, below 0.5.
    """

    p: float = 0.5
    flips: bool = False
    turns: bool = False
    rotate_deg: float = 0.0
    scale: float = 0.0
    crop: float = 0.0
    shift: float = 0.0
    shear_deg: float = 0.0
    elastic: ElasticGrid | None = None
    grid_distortion: float = 0.0
    optical_distortion: float = 0.0
    skew: float = 0.0

    def draw(self, random: np.random.Generator, window_um: float, target_um: float) -> Warp:
        """One map; sides of the widest field and of the target in µm."""
        left, down = (self.flips and random.random() < self.p for _ in range(2))
        quarters = int(random.integers(1, 4)) if self.turns and random.random() < self.p else 0
        steps = self._affine(random, target_um)
        if self.elastic is not None and random.random() < self.p:
            steps.append(self.elastic.draw(random))
        if self.grid_distortion and random.random() < self.p:
            steps.append(_stretch(random, self.grid_distortion, window_um))
        if self.optical_distortion and random.random() < self.p:
            steps.append(_radial(random.uniform(-1, 1) * self.optical_distortion, window_um / 2))
        if self.skew and random.random() < self.p:
            steps.append(_tilt(random.uniform(-1, 1, 2) * self.skew, window_um / 2))
        # Mirroring top to bottom is mirroring left to right after half a turn.
        return Warp(tuple(steps), (quarters + 2 * down) % 4, left != down)

    def _affine(self, random: np.random.Generator, target_um: float) -> list[Step]:
        """Rotation, scale, crop, shear and shift as one step; none where nothing was drawn."""
        matrix, shift, drawn = np.eye(2), np.zeros(2), False
        if self.rotate_deg and random.random() < self.p:
            angle = math.radians(random.uniform(-1, 1) * self.rotate_deg)
            matrix, drawn = _rotation(angle) @ matrix, True
        if self.shear_deg and random.random() < self.p:
            slant = np.tan(np.radians(random.uniform(-1, 1, 2) * self.shear_deg))
            matrix, drawn = np.array([[1.0, slant[0]], [slant[1], 1.0]]) @ matrix, True
        if self.scale and random.random() < self.p:
            matrix, drawn = matrix / (1 + random.uniform(-1, 1) * self.scale), True
        if self.crop and random.random() < self.p:
            kept = 1 - random.uniform(0, 1) * self.crop
            shift += random.uniform(-1, 1, 2) * (1 - kept) / 2 * target_um
            matrix, drawn = matrix * kept, True
        if self.shift and random.random() < self.p:
            shift += random.uniform(-1, 1, 2) * self.shift * target_um
            drawn = True
        return [affine(matrix, (float(shift[0]), float(shift[1])))] if drawn else []


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _stretch(random: np.random.Generator, limit: float, window_um: float) -> Step:
    """Strips of equal width become strips of random width; what is beyond the window stays where it is."""
    edges = np.linspace(-0.5, 0.5, _GRID_STEPS + 1) * window_um
    far = 10 * window_um
    places = np.concatenate([[-far], edges, [far]])
    moved = []
    for _ in range(2):
        widths = 1 + random.uniform(-1, 1, _GRID_STEPS) * limit
        inner = edges[0] + np.concatenate([[0.0], np.cumsum(widths) / widths.sum()]) * window_um
        moved.append(np.concatenate([[-far], inner, [far]]))

    def step(x: NDArray[np.float32], y: NDArray[np.float32]) -> Points:
        pair = (np.interp(points, places, to).astype(np.float32) for points, to in zip((x, y), moved, strict=True))
        left, down = pair
        return left, down

    return step


def _radial(k: float, radius_um: float) -> Step:
    def step(x: NDArray[np.float32], y: NDArray[np.float32]) -> Points:
        factor = 1 + np.float32(k / radius_um**2) * (x * x + y * y)
        return x * factor, y * factor

    return step


def _tilt(tilt: NDArray[np.float64], radius_um: float) -> Step:
    across, down = np.float32(tilt[0] / radius_um), np.float32(tilt[1] / radius_um)

    def step(x: NDArray[np.float32], y: NDArray[np.float32]) -> Points:
        depth = (1 + across * x + down * y).astype(np.float32)
        return x / depth, y / depth

    return step
