"""Immunohistochemistry of synthetic tissue: which cells an antibody marks, and the brown (DAB) it leaves there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tfseg.slides.synthetic_nuclei import EPITHELIUM, FULL_OD, LYMPHOCYTE, TUMOUR, Template
from tfseg.slides.synthetic_plan import FIELD_UM, look_up
from tfseg.slides.synthetic_tissue import Tissue

DAB = (0.36, 0.55, 0.75)
"""Optical density of diaminobenzidine in red, green, blue: a little duller than Ruifrok and Johnston's (2001)."""

MASKING = 0.9
"""Haematoxylin that brown keeps out of a nucleus, over the brown's own density."""

_LEVELS = (0.45, 0.75, 1.0)
"""Brown of cells that a pathologist would score 1+, 2+, 3+, over the strongest."""

_CELL_UM = 7.5
"""Greatest distance of a cell's membrane from the middle of its nucleus."""

_MEMBRANE_OD, _MEMBRANE_UM = 0.95, 0.9
_CYTOPLASM = 0.2
"""Brown inside a cell with a brown membrane, over that of the membrane."""

_DIRECTIONS, _NEIGHBOURS = 16, 8


@dataclass(frozen=True)
class Marker:
    """What an antibody marks.

    Attributes:
        place: "nucleus" or "membrane".
        share: kind of nucleus → (least, most) share of its cells that are positive; each slide draws its own.
        strength: (least, most) density of the brown over that of haematoxylin; each slide draws its own.
    """

    place: str
    share: dict[int, tuple[float, float]]
    strength: tuple[float, float]


MARKERS = {
    "ER": Marker("nucleus", {TUMOUR: (0.35, 0.95), EPITHELIUM: (0.15, 0.5)}, (1.2, 1.8)),
    "Ki67": Marker("nucleus", {TUMOUR: (0.1, 0.5), EPITHELIUM: (0.01, 0.04), LYMPHOCYTE: (0.02, 0.1)}, (1.2, 1.8)),
    "HER2": Marker("membrane", {TUMOUR: (0.4, 0.98), EPITHELIUM: (0.0, 0.1)}, (0.9, 1.4)),
}

Place = tuple[int, Template, tuple[slice, slice]]
"""Row of the nuclei table, what to stamp, and the pixels of a field to stamp."""


class Brown:
    """The DAB of one slide.

    Attributes:
        colors: (256, 3) uint8: light, of 255, that passes a plane's value, in red, green, blue.
    """

    def __init__(self, marker: Marker, tissue: Tissue, mpp: float, gamma: float, rng: np.random.Generator) -> None:
        self.marker, self.table, self.mpp = marker, tissue.nuclei, mpp
        self.level = _levels(marker, tissue, rng)
        vector = np.array(DAB) + rng.normal(size=3) * 0.02
        density = np.arange(256) / 255 * FULL_OD * rng.uniform(*marker.strength)
        light = 10 ** (-gamma * density[:, None] * vector / np.linalg.norm(vector))
        self.colors: NDArray[np.uint8] = np.rint(255 * light).astype(np.uint8)

    def plane(self, top: int, left: int, shape: tuple[int, int], places: Iterable[Place]) -> NDArray[np.uint8]:
        """Brown (height, width) uint8 of a field whose corner is pixel (top, left) and whose nuclei lie at ``places``.

        A plane's unit is that of haematoxylin, 1/102 of optical density, before the slide's strength.
        """
        plane = np.zeros(shape, np.uint8)
        if self.marker.place == "membrane":
            self._membranes(plane, top, left)
            return plane
        for number, template, pixels in places:
            level = self.level[number]
            if level:
                under = plane[pixels]
                np.maximum(under, cv2.convertScaleAbs(template.haematoxylin, alpha=_LEVELS[level - 1]), out=under)
        return plane

    def _membranes(self, plane: NDArray[np.uint8], top: int, left: int) -> None:
        """Outlines of the positive cells, strong ones over weak ones."""
        low, high = top * self.mpp, (top + plane.shape[0]) * self.mpp
        reach = 2 * _CELL_UM
        # Neighbours of a cell in sight may lie out of sight; the outline must not depend on where a tile ends.
        first, last = np.searchsorted(self.table["y"], (low - 2 * reach, high + 2 * reach))
        table, level = self.table[first:last], self.level[first:last]
        cells = np.isin(table["kind"], list(self.marker.share))
        table, level = table[cells], level[cells]
        drawn = (level > 0) & (table["y"] > low - reach) & (table["y"] < high + reach)
        if not drawn.any():
            return
        outlines = cell_outlines(np.stack([table["x"], table["y"]], axis=1).astype(np.float64), drawn)
        points = np.rint((outlines / self.mpp - (left + 0.5, top + 0.5)) * 16).astype(np.int32)
        thickness = max(1, round(_MEMBRANE_UM / self.mpp))
        for number, factor in enumerate(_LEVELS, start=1):
            cells = points[level[drawn] == number]
            value = factor * _MEMBRANE_OD / FULL_OD * 255
            for cell in cells:
                cv2.fillConvexPoly(plane, cell, round(_CYTOPLASM * value), cv2.LINE_AA, 4)
            cv2.polylines(plane, list(cells), True, round(value), thickness, cv2.LINE_AA, 4)


def cell_outlines(centres: NDArray[np.float64], wanted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Membranes (M, 16, 2) of the ``wanted`` of the cells at ``centres`` (N, 2), µm.

    A cell reaches half-way to its neighbours and at most ``_CELL_UM``: in direction θ by min(7.5 µm, d_j / (2 cos φ_j))
    over the neighbours j at distance d_j, φ_j off that direction, as in a Voronoi cell.
    """
    nearest = min(_NEIGHBOURS + 1, len(centres))
    distance, index = cKDTree(centres).query(centres[wanted], k=nearest, distance_upper_bound=2 * _CELL_UM)
    distance, index = distance.reshape(-1, nearest)[:, 1:], index.reshape(-1, nearest)[:, 1:]
    there = np.concatenate([centres, [[0.0, 0.0]]])[index] - centres[wanted][:, None]  # no neighbour: the last row
    theta = np.arange(_DIRECTIONS) / _DIRECTIONS * 2 * math.pi
    ways = np.stack([np.cos(theta), np.sin(theta)])
    ahead = there @ ways  # (M, neighbours, directions): d_j cos φ_j
    bound = np.isfinite(distance)[:, :, None] & (ahead > 1e-6)
    limit = np.where(bound, distance[:, :, None] ** 2 / (2 * np.maximum(ahead, 1e-6)), _CELL_UM)
    reach = np.minimum(limit.min(axis=1, initial=_CELL_UM), _CELL_UM)
    return centres[wanted][:, None] + reach[:, :, None] * ways.T


def _levels(marker: Marker, tissue: Tissue, rng: np.random.Generator) -> NDArray[np.uint8]:
    """0 (negative) to 3 for each nucleus: neighbours are alike, and strong slides have more strong cells."""
    table = tissue.nuclei
    share = np.zeros(max(marker.share) + 1)
    for kind, (least, most) in marker.share.items():
        share[kind] = rng.uniform(least, most)
    kinds = np.minimum(table["kind"], len(share) - 1)
    mean = np.where(np.isin(table["kind"], list(marker.share)), share[kinds], 0.0)
    points = np.stack([table["x"], table["y"]], axis=1).astype(np.float64)
    patchy = look_up(tissue.layout.cells, points, FIELD_UM)
    chance = np.clip(mean * (1 + 0.35 * patchy), 0, 1)
    positive = rng.random(len(table)) < chance
    return np.where(positive, 1 + rng.binomial(2, rng.uniform(0.3, 0.95), len(table)), 0).astype(np.uint8)
