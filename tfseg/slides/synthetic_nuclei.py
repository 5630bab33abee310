"""Nuclei of synthetic tissue: small pictures that the renderer stamps, as pathologists describe them by grade."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

TUMOUR, EPITHELIUM, LYMPHOCYTE, SPINDLE, DEBRIS = range(5)
"""Kinds of nuclei; index of the list of templates."""

ORIENTATIONS = 24
"""Spindle templates come in this many directions over half a turn, ``VARIANTS`` of each."""

VARIANTS = 6

FULL_OD = 2.5
"""Optical density of the value 255 in the uint8 planes of haematoxylin and eosin."""


@dataclass(frozen=True)
class Look:
    """How nuclei of one kind look.

    Attributes:
        diameter_um: mean diameter of the circle of equal area.
        variation: standard deviation of the diameter over its mean (anisokaryosis).
        elongation: mean ratio of the long to the short axis.
        irregularity: amplitude of the bumps of the contour, over the radius.
        darkness: mean optical density of haematoxylin.
        vesicular: how much paler the inside is than the rim, 0..1.
        nucleolus: chance of a visible nucleolus.
    """

    diameter_um: float
    variation: float
    elongation: float
    irregularity: float
    darkness: float
    vesicular: float
    nucleolus: float


BY_GRADE = {
    1: Look(7.4, 0.09, 1.20, 0.03, 0.70, 0.30, 0.05),
    2: Look(9.2, 0.17, 1.30, 0.06, 0.74, 0.50, 0.35),
    3: Look(11.6, 0.27, 1.35, 0.10, 0.80, 0.68, 0.75),
}
"""Tumour nuclei by Nottingham grade: larger, more varied, more vesicular with the grade."""

BENIGN = Look(6.9, 0.08, 1.35, 0.02, 0.72, 0.25, 0.03)
SMALL_ROUND = Look(5.9, 0.08, 1.05, 0.03, 1.05, 0.10, 0.0)
FIBROBLAST = Look(6.0, 0.18, 3.6, 0.04, 0.80, 0.15, 0.0)
FRAGMENT = Look(2.8, 0.35, 1.3, 0.08, 1.00, 0.0, 0.0)
GHOST = Look(8.5, 0.25, 1.3, 0.08, 0.24, 0.2, 0.0)


@dataclass(frozen=True)
class Template:
    """One nucleus, ready to stamp.

    Attributes:
        haematoxylin: (S, S) uint8; the plane becomes the maximum of itself and this.
        eosin: (S, S) uint8, 255 outside; the plane becomes the minimum of itself and this.
        area_um2: area of the nucleus.
    """

    haematoxylin: NDArray[np.uint8]
    eosin: NDArray[np.uint8]
    area_um2: float


Templates = tuple[list[Template], ...]


def templates(grade: int, mpp: float, rng: np.random.Generator) -> Templates:
    """Templates for every kind, drawn at ``mpp`` µm/px."""
    kinds = [(BY_GRADE[grade], 144), (BENIGN, 48), (SMALL_ROUND, 48)]
    drawn = [[_template(look, mpp, rng, rng.uniform(0, math.pi)) for _ in range(n)] for look, n in kinds]
    turns = np.arange(ORIENTATIONS * VARIANTS) // VARIANTS * math.pi / ORIENTATIONS
    return (*drawn, [_template(FIBROBLAST, mpp, rng, float(turn)) for turn in turns])


def debris(mpp: float, rng: np.random.Generator) -> list[Template]:
    """Templates of dead nuclei, the kind DEBRIS: dark fragments and pale ghosts."""
    return [_template(look, mpp, rng, rng.uniform(0, math.pi)) for look in [FRAGMENT] * 40 + [GHOST] * 20]


def spindle_index(angle: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A random spindle template whose long axis points along ``angle`` (radians)."""
    turn = np.rint(angle / math.pi * ORIENTATIONS).astype(np.int64) % ORIENTATIONS
    return turn * VARIANTS + rng.integers(0, VARIANTS, len(turn))


def _template(look: Look, mpp: float, rng: np.random.Generator, angle: float) -> Template:
    """One nucleus, drawn four times as large and averaged down."""
    over = 4
    diameter = look.diameter_um * math.exp(look.variation * rng.normal() - look.variation**2 / 2)
    diameter = min(max(diameter, 0.55 * look.diameter_um), 1.9 * look.diameter_um)
    stretch = math.sqrt(max(1.0, look.elongation * math.exp(0.12 * rng.normal())))
    theta = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    bumps = sum(rng.normal() / k * np.cos(k * theta + rng.uniform(0, 2 * math.pi)) for k in range(2, 6))
    radius = diameter / 2 * (1 + look.irregularity * 1.6 * bumps)
    x, y = radius * stretch * np.cos(theta), radius / stretch * np.sin(theta)
    points = np.stack([x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)], 1)
    side = 2 * math.ceil(np.abs(points).max() / mpp + 1.5)
    canvas = np.zeros((side * over, side * over), np.uint8)
    fixed = np.rint((points / mpp + side / 2) * over * 16).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], 255, cv2.LINE_AA, 4)
    inside = canvas.astype(np.float32) / 255
    density = _chromatin(inside, look, over / mpp, rng)
    shape = (side, side)
    density = cv2.resize(density, shape, interpolation=cv2.INTER_AREA)
    cover = cv2.resize(inside, shape, interpolation=cv2.INTER_AREA)
    eosin = 255 - cover * (255 - 0.22 / FULL_OD * 255)
    return Template(
        np.clip(np.rint(density / FULL_OD * 255), 0, 255).astype(np.uint8),
        np.rint(eosin).astype(np.uint8),
        float(cover.sum()) * mpp * mpp,
    )


def _chromatin(inside: NDArray[Any], look: Look, px_per_um: float, rng: np.random.Generator) -> NDArray[Any]:
    """Optical density of haematoxylin: rim, clumps and nucleolus over a paler inside."""
    dark = look.darkness * math.exp(0.14 * rng.normal())
    depth = cv2.distanceTransform((inside > 0.5).astype(np.uint8), cv2.DIST_L2, 3) / px_per_um
    paler = look.vesicular * min(1.0, max(0.0, 0.8 + 0.5 * rng.normal()))
    density = dark * (1 - 0.75 * paler * np.clip((depth - 0.4) / 0.9, 0, 1))
    clumps = cv2.GaussianBlur(rng.normal(size=inside.shape).astype(np.float32), (0, 0), 0.45 * px_per_um)
    density = density * (1 + 0.22 * clumps / max(float(clumps.std()), 1e-6))
    if rng.random() < look.nucleolus:
        rows, columns = np.nonzero(depth > 0.45 * depth.max())
        at = rng.integers(len(rows))
        spot = np.zeros(inside.shape, np.uint8)
        size = round(rng.uniform(0.8, 1.3) * px_per_um)
        cv2.circle(spot, (int(columns[at]), int(rows[at])), size, 255, -1)
        density = np.maximum(density, spot / 255.0 * dark * 1.35)
    return (np.clip(density, 0.2 * dark, FULL_OD) * inside).astype(np.float32)
