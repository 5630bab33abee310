"""Structures of synthetic tissue that are not living tumour: fat, lobules, ducts, vessels, necrosis. Lengths in µm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import Voronoi

from tfseg.slides.synthetic_nuclei import DEBRIS, EPITHELIUM, SPINDLE
from tfseg.slides.synthetic_plan import FIELD_UM, Layout, look_up, scattered, star

GLASS, STROMA, ADIPOSE, BENIGN, LUMEN, NEST, NECROSIS = range(7)
"""What a shape is."""

# Eosin, haematoxylin (1/102 optical density) and weight of the fibre pattern (0..255) of each fill.
FILL = {
    "stroma": (36, 4, 235),
    "loose": (24, 7, 130),
    "fat rim": (30, 3, 50),
    "fat": (1, 0, 0),
    "basement": (48, 8, 110),
    "epithelium": (33, 13, 20),
    "secretion": (13, 1, 20),
    "empty": (1, 0, 0),
    "cleft": (5, 1, 30),
    "nest 1": (34, 12, 20),
    "nest 2": (34, 13, 20),
    "nest 3": (33, 15, 20),
    "blood": (74, 0, 30),
    "necrotic": (47, 6, 45),
    "necrotic pale": (34, 3, 35),
    "necrotic dark": (57, 9, 30),
}


@dataclass(frozen=True)
class Shape:
    """A filled outline: (N, 2) points, what it is, and its (eosin, haematoxylin, fibre) fill."""

    outline: NDArray[np.float32]
    code: int
    fill: tuple[int, int, int]


@dataclass(frozen=True)
class Mark:
    """Nuclei of one ``kind`` at (N, 2) points; those not on ``code`` are left out. ``angles`` for spindles only."""

    points: NDArray[np.float64]
    kind: int
    code: int
    angles: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Epithelium:
    """How a ring of cells looks: fill, what it is, kind of nuclei, distance between them, their disorder."""

    fill: str
    code: int
    kind: int
    cell: float
    disorder: float


_BENIGN = Epithelium("epithelium", BENIGN, EPITHELIUM, 8.2, 0.07)


def ring(polygon: shapely.Polygon) -> NDArray[np.float32]:
    return shapely.get_coordinates(polygon.exterior)[:-1].astype(np.float32)


def fat(plan: Layout, rng: np.random.Generator) -> list[Shape]:
    """Adipocytes: shrunken, rounded Voronoi cells, white in thin pink rims."""
    points = scattered(66.0, (0, 0, *plan.size_um), rng, 0.17)
    if not plan.fat.any() or len(points) < 5:
        return []
    voronoi = Voronoi(points)
    rims, cells = [], []
    inside = shapely.contains_xy(plan.tissue.buffer(-15), points)
    for number in np.nonzero(look_up(plan.fat, points, FIELD_UM) & inside)[0]:
        region = voronoi.regions[voronoi.point_region[number]]
        if not region or -1 in region:
            continue
        corners = voronoi.vertices[region]
        middle = corners.mean(axis=0)
        reach = np.linalg.norm(corners - middle, axis=1, keepdims=True)
        if reach.max() > 120:
            continue
        rims.append(Shape(enlarged(corners, 2.0), STROMA, FILL["fat rim"]))
        inner = middle + (corners - middle) * (1 - rng.uniform(0.6, 1.6) / np.maximum(reach, 5.0))
        cells.append(Shape(_rounded(inner), ADIPOSE, FILL["fat"]))
    return rims + cells


def enlarged(outline: NDArray[np.float64], by: float) -> NDArray[np.float32]:
    """Outline moved away from its middle."""
    middle = outline.mean(axis=0)
    reach = np.linalg.norm(outline - middle, axis=1, keepdims=True)
    return (middle + (outline - middle) * (1 + by / np.maximum(reach, 1e-3))).astype(np.float32)


def _rounded(outline: NDArray[np.float64]) -> NDArray[np.float32]:
    """Corners cut twice (Chaikin)."""
    for _ in range(2):
        following = np.roll(outline, -1, axis=0)
        outline = np.stack([0.78 * outline + 0.22 * following, 0.22 * outline + 0.78 * following], 1).reshape(-1, 2)
    return outline.astype(np.float32)


def places(plan: Layout, spacing: float, chance: float, depth_um: float, rng: np.random.Generator) -> NDArray:
    """Points in stroma at least ``-depth_um`` away from the tumour."""
    points = scattered(spacing, (0, 0, *plan.size_um), rng, 0.25)
    keep = rng.random(len(points)) < chance
    keep &= (look_up(plan.depth, points, FIELD_UM) < depth_um) & ~look_up(plan.fat, points, FIELD_UM)
    points = points[keep]
    return points[shapely.contains_xy(plan.tissue.buffer(-60), points)]


def _room(plan: Layout, point: NDArray[np.float64]) -> float:
    """Distance to the edge of the specimen, less a rim of stroma."""
    return float(plan.tissue.boundary.distance(shapely.Point(point))) - 12.0


def gland(
    outline: NDArray[np.float64],
    hollow: float,
    look: Epithelium,
    lumen: str,
    shapes: list[Shape],
    marks: list[Mark],
    rng: np.random.Generator,
) -> None:
    """One ring of epithelium inside ``outline`` round a lumen of ``hollow`` times its size."""
    center = outline.mean(axis=0)
    inner = center + (outline - center) * hollow * (1 + rng.normal(size=(len(outline), 1)) * 0.02)
    shapes.append(Shape(outline.astype(np.float32), look.code, FILL[look.fill]))
    shapes.append(Shape(inner.astype(np.float32), LUMEN, FILL[lumen]))
    reach = float(np.linalg.norm(outline - center, axis=1).mean())
    layers = max(1, round(reach * (1 - hollow) / (1.35 * look.cell)))
    for layer in range(layers):
        where = hollow + (1 - hollow) * (layer + 0.6) / layers
        ring = center + (outline - center) * min(where, 0.9)
        marks.append(Mark(_along(ring, look.cell, look.disorder, rng), look.kind, look.code))


def _along(ring: NDArray[np.float64], spacing: float, disorder: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Points at about equal steps along a closed line, displaced by ``disorder`` · spacing."""
    closed = np.concatenate([ring, ring[:1]])
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    number = max(3, round(length[-1] / spacing))
    at = (np.arange(number) + rng.random()) * length[-1] / number % length[-1]
    points = np.stack([np.interp(at, length, closed[:, axis]) for axis in (0, 1)], axis=1)
    return points + rng.normal(size=points.shape) * disorder * spacing


def lobules(
    plan: Layout, shapes: list[Shape], marks: list[Mark], rng: np.random.Generator, crowding: float = 1.0
) -> None:
    """Terminal duct lobular units: clusters of small regular acini in loose stroma."""
    for center in places(plan, 520.0 / crowding, 0.6, -170.0 / crowding, rng):
        if rng.random() < 0.3:
            _adenosis(plan, center, shapes, marks, rng)
            continue
        radius = min(rng.uniform(70, 170), _room(plan, center))
        shapes.append(Shape(star(tuple(center), radius, rng, 0.08).astype(np.float32), STROMA, FILL["loose"]))
        size = rng.uniform(15, 23)
        for point in scattered(2.55 * size, (*(center - radius), *(center + radius)), rng, 0.09):
            if np.hypot(*(point - center)) < radius - size:
                _acinus(point, size * rng.uniform(0.8, 1.15), shapes, marks, rng)


def _adenosis(
    plan: Layout, center: NDArray[np.float64], shapes: list[Shape], marks: list[Mark], rng: np.random.Generator
) -> None:
    """Crowded, distorted benign glands in fibrous stroma: from afar like a tumour of grade 1."""
    radius = rng.uniform(110, 200)
    points = scattered(56.0, (*(center - radius), *(center + radius)), rng, 0.2)
    points = points[np.hypot(*(points - center).T) < radius]
    points = points[shapely.contains_xy(plan.tissue.buffer(-40), points)]
    for point in points:
        outline = star(tuple(point), rng.uniform(14, 24), rng, 0.12, rng.uniform(1.0, 2.0), points=28)
        gland(outline, rng.uniform(0.25, 0.45), _BENIGN, "empty", shapes, marks, rng)
        marks.append(_lining(enlarged(outline, 2.0).astype(np.float64), 26.0, rng))


def ducts(
    plan: Layout, shapes: list[Shape], marks: list[Mark], rng: np.random.Generator, crowding: float = 1.0
) -> None:
    """Larger benign ducts, here and there with several layers of nuclei (usual hyperplasia)."""
    for center in places(plan, 430.0 / crowding, 0.35, -120.0 / crowding, rng):
        stretch = rng.uniform(1.0, 2.2)
        radius = min(rng.uniform(32, 80), _room(plan, center) / math.sqrt(stretch))
        _acinus(center, radius, shapes, marks, rng, stretch, max(0.25, 1 - rng.uniform(15, 30) / radius))


def _acinus(
    center, radius: float, shapes: list[Shape], marks: list[Mark], rng, stretch: float = 1.0, hollow: float = 0.38
) -> None:
    """Luminal epithelium on a basement membrane with flat myoepithelial nuclei."""
    outline = star(tuple(center), radius, rng, 0.04, stretch, points=max(24, int(radius / 1.5)))
    membrane = enlarged(outline, 2.5)
    shapes.append(Shape(membrane, STROMA, FILL["basement"]))
    lumen = "secretion" if rng.random() < 0.3 else "empty"
    gland(outline, hollow * rng.uniform(0.85, 1.15), _BENIGN, lumen, shapes, marks, rng)
    marks.append(_lining(membrane.astype(np.float64), 24.0, rng))


def _lining(ring: NDArray[np.float64], spacing: float, rng: np.random.Generator) -> Mark:
    """Flat nuclei along a closed line."""
    points = _along(ring, spacing, 0.05, rng)
    away = points - ring.mean(axis=0)
    return Mark(points, SPINDLE, STROMA, np.arctan2(away[:, 1], away[:, 0]) + math.pi / 2)


def vessels(plan: Layout, shapes: list[Shape], marks: list[Mark], rng: np.random.Generator) -> None:
    """Small vessels with red cells, in and outside the tumour."""
    for center in places(plan, 330.0, 0.45, math.inf, rng):
        radius = rng.uniform(8, 22)
        outline = star(tuple(center), radius, rng, 0.08, rng.uniform(1, 2.5))
        shapes.append(Shape(enlarged(outline, 3.5), STROMA, FILL["basement"]))
        shapes.append(Shape(outline.astype(np.float32), LUMEN, FILL["empty"]))
        for cell in center + rng.normal(size=(int(radius * 1.2), 2)) * radius * 0.35:
            red = star(tuple(cell), 2.9, rng, 0.03, points=10)
            shapes.append(Shape(red.astype(np.float32), LUMEN, FILL["blood"]))
        marks.append(_lining(enlarged(outline, 1.5).astype(np.float64), 18.0, rng))


def necrosis(plan: Layout, grade: int, shapes: list[Shape], marks: list[Mark], rng: np.random.Generator) -> None:
    """Dead tumour: from grade 2 in the depth of the foci, in grade 3 in the middle of large nests as well.

    The deepest point of the tumour is dead in every such slide, so that no cohort is without necrosis.
    """
    if grade == 1:
        return
    row, column = np.unravel_index(int(plan.depth.argmax()), plan.depth.shape)
    centers = [np.array([column + 0.5, row + 0.5]) * FIELD_UM]
    if grade == 3:
        others = scattered(420.0, plan.tumour.bounds, rng, 0.3)
        others = others[(look_up(plan.depth, others, FIELD_UM) > 70) & (rng.random(len(others)) < 0.3)]
        centers += list(others)
    for center in centers:
        depth = float(look_up(plan.depth, center[None], FIELD_UM)[0])
        radius = min(depth * (0.35 if grade == 2 else 0.6), rng.uniform(90, 230))
        _dead(star(tuple(center), radius, rng, 0.16, rng.uniform(1.0, 1.7), points=90), shapes, marks, rng)
    nests = [shape.outline for shape in shapes if shape.code == NEST] if grade == 3 else []
    for nest in nests:
        middle = nest.mean(axis=0)
        radius = float(np.linalg.norm(nest - middle, axis=1).min())
        if radius > 42 and rng.random() < 0.3:
            _dead(star(tuple(middle), radius * rng.uniform(0.4, 0.65), rng, 0.12, points=40), shapes, marks, rng)


def _dead(outline: NDArray[np.float64], shapes: list[Shape], marks: list[Mark], rng: np.random.Generator) -> None:
    """Pink debris with darker and paler clots, fragments and ghosts of nuclei."""
    shapes.append(Shape(outline.astype(np.float32), NECROSIS, FILL["necrotic"]))
    middle = outline.mean(axis=0)
    core = shapely.Polygon(middle + (outline - middle) * 0.9).buffer(0)
    clots = scattered(26.0, core.bounds, rng, 0.3)
    for point in clots[shapely.contains_xy(core, clots)]:
        fill = FILL["necrotic pale" if rng.random() < 0.55 else "necrotic dark"]
        clot = star(tuple(point), rng.uniform(4, 13), rng, 0.2, rng.uniform(1.0, 2.0), points=20)
        shapes.append(Shape(clot.astype(np.float32), NECROSIS, fill))
    cells = scattered(7.5, (*outline.min(axis=0), *outline.max(axis=0)), rng, 0.35)
    marks.append(Mark(cells[rng.random(len(cells)) < 0.5], DEBRIS, NECROSIS))
