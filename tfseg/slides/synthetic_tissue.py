"""What a synthetic slide is made of: ducts, fat cells, tumour nests and every single nucleus. Lengths in µm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import Voronoi

from tfseg.slides.synthetic_nuclei import EPITHELIUM, LYMPHOCYTE, SPINDLE, TUMOUR, Library, spindle_index
from tfseg.slides.synthetic_plan import FIELD_UM, Layout, layout, look_up, scattered, star

GLASS, STROMA, ADIPOSE, BENIGN, LUMEN, NEST = range(6)
"""What a shape is; the value in :meth:`Tissue.raster`."""

RASTER_UM = 2.0

# Eosin, haematoxylin (1/102 optical density) and weight of the fibre pattern (0..255) of each fill.
_FILL = {
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
}


@dataclass(frozen=True)
class Growth:
    """How a tumour of one grade grows (Nottingham: tubule formation, then pleomorphism).

    Attributes:
        tubules: share of the nests that are tubules with a lumen.
        radius: smallest and largest nest radius.
        spacing: between nests.
        cell: between nuclei of a nest.
        disorder: displacement of the nuclei over ``cell``.
        single: tumour cells on their own per mm² of tumour stroma.
    """

    tubules: float
    radius: tuple[float, float]
    spacing: float
    cell: float
    disorder: float
    single: float


GROWTH = {
    1: Growth(0.85, (19, 34), 70.0, 10.0, 0.12, 40.0),
    2: Growth(0.35, (22, 48), 74.0, 11.8, 0.17, 180.0),
    3: Growth(0.04, (40, 95), 96.0, 13.2, 0.22, 450.0),
}

NUCLEUS = np.dtype([("x", "f4"), ("y", "f4"), ("kind", "u1"), ("template", "u2")])
"""One row of the nuclei table: centre, kind, index in the library's list of that kind."""


@dataclass(frozen=True)
class Shape:
    """A filled outline: (N, 2) points, what it is, and its (eosin, haematoxylin, fibre) fill."""

    outline: NDArray[np.float32]
    code: int
    fill: tuple[int, int, int]


@dataclass(frozen=True)
class Epithelium:
    """How a ring of cells looks: fill, what it is, kind of nuclei, distance between them, their disorder."""

    fill: str
    code: int
    kind: int
    cell: float
    disorder: float


_BENIGN = Epithelium("epithelium", BENIGN, EPITHELIUM, 8.2, 0.07)


@dataclass(frozen=True)
class Mark:
    """Nuclei of one ``kind`` at (N, 2) points; those not on ``code`` are left out. ``angles`` for spindles only."""

    points: NDArray[np.float64]
    kind: int
    code: int
    angles: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Tissue:
    """A slide before it is stained.

    Attributes:
        layout: large scale.
        grade: 1..3.
        shapes: in drawing order.
        nuclei: table of :data:`NUCLEUS`, sorted by y.
    """

    layout: Layout
    grade: int
    shapes: list[Shape]
    nuclei: NDArray[np.void]


def grow(size_um: tuple[float, float], grade: int, nuclei: Library, rng: np.random.Generator) -> Tissue:
    """Draws a slide: its layout, its structures and its nuclei."""
    plan = layout(size_um, rng)
    shapes = [Shape(_ring(part), STROMA, _FILL["stroma"]) for part in plan.tissue.geoms]
    marks: list[Mark] = []
    shapes += _fat(plan, rng)
    for build in (_vessels, _lobules, _ducts):
        build(plan, shapes, marks, rng)
    _nests(plan, grade, shapes, marks, rng)
    codes = raster(shapes, size_um)
    marks += _loose_cells(plan, grade, codes, rng)
    return Tissue(plan, grade, shapes, _table(marks, codes, nuclei, rng))


def raster(shapes: list[Shape], size_um: tuple[float, float]) -> NDArray[np.uint8]:
    """What lies where, (ceil(height / 2 µm), ceil(width / 2 µm)) uint8."""
    codes = np.zeros([math.ceil(side / RASTER_UM) for side in reversed(size_um)], np.uint8)
    for shape in shapes:
        cv2.fillPoly(codes, [np.rint((shape.outline / RASTER_UM - 0.5) * 16).astype(np.int32)], shape.code, 8, 4)
    return codes


def _ring(polygon: shapely.Polygon) -> NDArray[np.float32]:
    return shapely.get_coordinates(polygon.exterior)[:-1].astype(np.float32)


def _fat(plan: Layout, rng: np.random.Generator) -> list[Shape]:
    """Adipocytes: shrunken, rounded Voronoi cells, white in thin pink rims."""
    points = scattered(66.0, (0, 0, *plan.size_um), rng, 0.17)
    if not plan.fat.any() or len(points) < 5:
        return []
    voronoi = Voronoi(points)
    rims, cells = [], []
    for number in np.nonzero(look_up(plan.fat, points, FIELD_UM))[0]:
        region = voronoi.regions[voronoi.point_region[number]]
        if not region or -1 in region:
            continue
        corners = voronoi.vertices[region]
        middle = corners.mean(axis=0)
        reach = np.linalg.norm(corners - middle, axis=1, keepdims=True)
        if reach.max() > 120:
            continue
        rims.append(Shape(_enlarged(corners, 2.0), STROMA, _FILL["fat rim"]))
        inner = middle + (corners - middle) * (1 - rng.uniform(0.6, 1.6) / np.maximum(reach, 5.0))
        cells.append(Shape(_rounded(inner), ADIPOSE, _FILL["fat"]))
    return rims + cells


def _enlarged(outline: NDArray[np.float64], by: float) -> NDArray[np.float32]:
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


def _places(plan: Layout, spacing: float, chance: float, depth_um: float, rng: np.random.Generator) -> NDArray:
    """Points in stroma at least ``-depth_um`` away from the tumour."""
    points = scattered(spacing, (0, 0, *plan.size_um), rng, 0.25)
    keep = rng.random(len(points)) < chance
    keep &= (look_up(plan.depth, points, FIELD_UM) < depth_um) & ~look_up(plan.fat, points, FIELD_UM)
    points = points[keep]
    return points[shapely.contains_xy(plan.tissue.buffer(-60), points)]


def _gland(
    outline: NDArray[np.float64],
    hollow: float,
    look: Epithelium,
    lumen: str,
    shapes: list[Shape],
    marks: list[Mark],
    rng,
) -> None:
    """One ring of epithelium inside ``outline`` round a lumen of ``hollow`` times its size."""
    center = outline.mean(axis=0)
    inner = center + (outline - center) * hollow * (1 + rng.normal(size=(len(outline), 1)) * 0.02)
    shapes.append(Shape(outline.astype(np.float32), look.code, _FILL[look.fill]))
    shapes.append(Shape(inner.astype(np.float32), LUMEN, _FILL[lumen]))
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


def _lobules(plan: Layout, shapes: list[Shape], marks: list[Mark], rng: np.random.Generator) -> None:
    """Terminal duct lobular units: clusters of small regular acini in loose stroma."""
    for center in _places(plan, 520.0, 0.6, -170.0, rng):
        radius = rng.uniform(70, 170)
        shapes.append(Shape(star(tuple(center), radius, rng, 0.08).astype(np.float32), STROMA, _FILL["loose"]))
        size = rng.uniform(15, 23)
        for point in scattered(2.55 * size, (*(center - radius), *(center + radius)), rng, 0.09):
            if np.hypot(*(point - center)) < radius - size:
                _acinus(point, size * rng.uniform(0.8, 1.15), shapes, marks, rng)


def _ducts(plan: Layout, shapes: list[Shape], marks: list[Mark], rng: np.random.Generator) -> None:
    """Larger benign ducts, here and there with several layers of nuclei (usual hyperplasia)."""
    for center in _places(plan, 430.0, 0.35, -120.0, rng):
        radius, stretch = rng.uniform(32, 80), rng.uniform(1.0, 2.2)
        _acinus(center, radius, shapes, marks, rng, stretch, max(0.25, 1 - rng.uniform(15, 30) / radius))


def _acinus(
    center, radius: float, shapes: list[Shape], marks: list[Mark], rng, stretch: float = 1.0, hollow: float = 0.38
) -> None:
    """Luminal epithelium on a basement membrane with flat myoepithelial nuclei."""
    outline = star(tuple(center), radius, rng, 0.04, stretch, points=max(24, int(radius / 1.5)))
    membrane = _enlarged(outline, 2.5)
    shapes.append(Shape(membrane, STROMA, _FILL["basement"]))
    lumen = "secretion" if rng.random() < 0.3 else "empty"
    _gland(outline, hollow * rng.uniform(0.85, 1.15), _BENIGN, lumen, shapes, marks, rng)
    marks.append(_lining(membrane.astype(np.float64), 24.0, rng))


def _lining(ring: NDArray[np.float64], spacing: float, rng: np.random.Generator) -> Mark:
    """Flat nuclei along a closed line."""
    points = _along(ring, spacing, 0.05, rng)
    away = points - ring.mean(axis=0)
    return Mark(points, SPINDLE, STROMA, np.arctan2(away[:, 1], away[:, 0]) + math.pi / 2)


def _vessels(plan: Layout, shapes: list[Shape], marks: list[Mark], rng: np.random.Generator) -> None:
    """Small vessels with red cells, in and outside the tumour."""
    for center in _places(plan, 330.0, 0.45, math.inf, rng):
        radius = rng.uniform(8, 22)
        outline = star(tuple(center), radius, rng, 0.08, rng.uniform(1, 2.5))
        shapes.append(Shape(_enlarged(outline, 3.5), STROMA, _FILL["basement"]))
        shapes.append(Shape(outline.astype(np.float32), LUMEN, _FILL["empty"]))
        for cell in center + rng.normal(size=(int(radius * 1.2), 2)) * radius * 0.35:
            red = star(tuple(cell), 2.9, rng, 0.03, points=10)
            shapes.append(Shape(red.astype(np.float32), LUMEN, _FILL["blood"]))
        marks.append(_lining(_enlarged(outline, 1.5).astype(np.float64), 18.0, rng))


def _nests(plan: Layout, grade: int, shapes: list[Shape], marks: list[Mark], rng: np.random.Generator) -> None:
    """Tubules, nests and sheets: dense inside the outline, thinning towards it, a few just beyond it."""
    growth = GROWTH[grade]
    left, top, right, bottom = plan.tumour.buffer(120).bounds
    points = scattered(growth.spacing, (left, top, right, bottom), rng, 0.2)
    depth = look_up(plan.depth, points, FIELD_UM)
    patchy = look_up(plan.cells, points, FIELD_UM)
    chance = np.where(depth > 0, np.clip(0.62 + depth / 260 + 0.10 * patchy, 0, 0.97), 0.10 * np.exp(depth / 40))
    keep = (rng.random(len(points)) < chance) & ~look_up(plan.fat, points, FIELD_UM) & (depth > -90)
    points, depth = points[keep], depth[keep]
    inside = shapely.contains_xy(plan.tissue.buffer(-growth.radius[0]), points)
    angles = plan.fibre_angle(points)
    solid: list[Shape] = []
    for point, far, angle in zip(points[inside], depth[inside], angles[inside], strict=True):
        low, high = growth.radius
        radius = (low + (high - low) * rng.random() ** 1.4) * (1.0 if far > 40 else 0.6)
        stretch = rng.uniform(1.0, 2.4)
        outline = star(tuple(point), radius, rng, 0.16, min(stretch, 2.0), angle + rng.normal() * 0.4, points=36)
        if rng.random() < growth.tubules:
            look = Epithelium(f"nest {grade}", NEST, TUMOUR, growth.cell, growth.disorder)
            lumen = "secretion" if rng.random() < 0.3 else "empty"
            _gland(outline, rng.uniform(0.32, 0.55), look, lumen, shapes, marks, rng)
            continue
        if rng.random() < 0.35:  # retraction from the stroma, an artefact of fixation
            shapes.append(Shape(_enlarged(outline, 2.2), STROMA, _FILL["cleft"]))
        solid.append(Shape(outline.astype(np.float32), NEST, _FILL[f"nest {grade}"]))
    shapes += solid
    if solid:
        bounds = plan.tumour.buffer(250).bounds
        marks.append(Mark(scattered(growth.cell, bounds, rng, growth.disorder), TUMOUR, NEST))


def _loose_cells(plan: Layout, grade: int, codes: NDArray[np.uint8], rng: np.random.Generator) -> list[Mark]:
    """Fibroblasts, scattered and aggregated lymphocytes, tumour cells on their own: all in stroma."""
    whole = (0.0, 0.0, *plan.size_um)
    spindles = scattered(27.0, whole, rng, 0.35)
    rate = 0.5 + 0.2 * look_up(plan.cells, spindles, FIELD_UM) + 0.25 * (look_up(plan.depth, spindles, FIELD_UM) > -40)
    spindles = spindles[rng.random(len(spindles)) < rate]
    angles = plan.fibre_angle(spindles) + rng.normal(size=len(spindles)) * 0.25
    marks = [Mark(spindles, SPINDLE, STROMA, angles)]
    round_cells = scattered(36.0, whole, rng, 0.4)
    near = look_up(plan.depth, round_cells, FIELD_UM)
    rate = 0.04 + 0.30 * (near > -120) * np.clip(look_up(plan.cells, round_cells, FIELD_UM), 0, 1.5)
    marks.append(Mark(round_cells[rng.random(len(round_cells)) < rate], LYMPHOCYTE, STROMA))
    for center in _places(plan, 620.0, 0.5, 60.0, rng):
        radius = rng.uniform(60, 190)
        cloud = scattered(7.4, (*(center - radius), *(center + radius)), rng, 0.2)
        angle = np.arctan2(*(cloud - center).T)
        edge = radius * (
            0.75 + 0.18 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.1 * np.sin(5 * angle + rng.uniform(0, 6))
        )
        dense = np.clip((edge - np.hypot(*(cloud - center).T)) / 25 + 0.5, 0, 0.96)
        marks.append(Mark(cloud[rng.random(len(cloud)) < dense], LYMPHOCYTE, STROMA))
    lone = scattered(20.0, plan.tumour.bounds, rng, 0.4)
    rate = GROWTH[grade].single * 20.0**2 * 0.866e-6 * (look_up(plan.depth, lone, FIELD_UM) > -20)
    marks.append(Mark(lone[rng.random(len(lone)) < rate], TUMOUR, STROMA))
    return marks


def _table(marks: list[Mark], codes: NDArray[np.uint8], nuclei: Library, rng: np.random.Generator) -> NDArray[np.void]:
    """All nuclei that lie in what they belong to, with a template each, sorted by y."""
    tables = []
    for mark in marks:
        keep = look_up(codes, mark.points, RASTER_UM) == mark.code
        table = np.zeros(int(keep.sum()), NUCLEUS)
        table["x"], table["y"], table["kind"] = mark.points[keep, 0], mark.points[keep, 1], mark.kind
        if mark.angles is not None:
            table["template"] = spindle_index(mark.angles[keep], rng)
        else:
            table["template"] = rng.integers(0, len(nuclei[mark.kind]), len(table))
        tables.append(table)
    joined = np.concatenate(tables) if tables else np.zeros(0, NUCLEUS)
    return joined[np.argsort(joined["y"], kind="stable")]
