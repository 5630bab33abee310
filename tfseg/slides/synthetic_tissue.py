"""Synthetic tissue with a tumour in it, down to every single nucleus. Lengths in µm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from tfseg.slides.synthetic_nuclei import LYMPHOCYTE, SPINDLE, TUMOUR, Templates, spindle_index
from tfseg.slides.synthetic_plan import FIELD_UM, Layout, layout, look_up, scattered, star
from tfseg.slides.synthetic_structures import (
    FILL,
    NEST,
    STROMA,
    Epithelium,
    Mark,
    Shape,
    ducts,
    enlarged,
    fat,
    gland,
    lobules,
    necrosis,
    places,
    ring,
    vessels,
)

RASTER_UM = 2.0
"""Pixel size of :func:`raster`."""

CROWDING = 1.7
"""How much nearer to each other and to the tumour benign glands lie on slides of every class."""


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
    1: Growth(0.85, (19, 34), 78.0, 10.8, 0.12, 40.0),
    2: Growth(0.35, (22, 48), 76.0, 11.7, 0.17, 180.0),
    3: Growth(0.04, (40, 95), 94.0, 12.2, 0.22, 450.0),
}

NUCLEUS = np.dtype([("x", "f4"), ("y", "f4"), ("kind", "u1"), ("template", "u2")])
"""One row of the nuclei table: centre, kind, index in the list of templates of that kind."""


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


def grow(
    size_um: tuple[float, float], grade: int, nuclei: Templates, rng: np.random.Generator, every_class: bool = False
) -> Tissue:
    """Draws a slide: its layout, its structures and its nuclei.

    With ``every_class`` benign glands are crowded and tumour of grade 2 and 3 is dead in its depth, so that each of six
    classes has its share of a cohort.
    """
    plan = layout(size_um, rng)
    shapes = [Shape(ring(part), STROMA, FILL["stroma"]) for part in plan.tissue.geoms]
    marks: list[Mark] = []
    shapes += fat(plan, rng)
    crowding = CROWDING if every_class else 1.0
    vessels(plan, shapes, marks, rng)
    lobules(plan, shapes, marks, rng, crowding)
    ducts(plan, shapes, marks, rng, crowding)
    _nests(plan, grade, shapes, marks, rng)
    if every_class:
        necrosis(plan, grade, shapes, marks, rng)
    codes = raster(shapes, size_um)
    marks += _loose_cells(plan, grade, codes, rng)
    return Tissue(plan, grade, shapes, _table(marks, codes, nuclei, rng))


def raster(shapes: list[Shape], size_um: tuple[float, float]) -> NDArray[np.uint8]:
    """What lies where, (ceil(height / 2 µm), ceil(width / 2 µm)) uint8."""
    codes = np.zeros([math.ceil(side / RASTER_UM) for side in reversed(size_um)], np.uint8)
    for shape in shapes:
        cv2.fillPoly(codes, [np.rint((shape.outline / RASTER_UM - 0.5) * 16).astype(np.int32)], shape.code, 8, 4)
    return codes


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
            gland(outline, rng.uniform(0.32, 0.55), look, lumen, shapes, marks, rng)
            continue
        if rng.random() < 0.35:  # retraction from the stroma, an artefact of fixation
            shapes.append(Shape(enlarged(outline, 2.2), STROMA, FILL["cleft"]))
        solid.append(Shape(outline.astype(np.float32), NEST, FILL[f"nest {grade}"]))
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
    marks += [_aggregate(center, rng) for center in places(plan, 540.0, 0.55, 60.0, rng)]
    lone = scattered(20.0, plan.tumour.bounds, rng, 0.4)
    rate = GROWTH[grade].single * 20.0**2 * 0.866e-6 * (look_up(plan.depth, lone, FIELD_UM) > -20)
    marks.append(Mark(lone[rng.random(len(lone)) < rate], TUMOUR, STROMA))
    return marks


def _aggregate(center: NDArray[np.float64], rng: np.random.Generator) -> Mark:
    """A crowd of lymphocytes with a frayed edge."""
    radius = rng.uniform(60, 190)
    cloud = scattered(7.4, (*(center - radius), *(center + radius)), rng, 0.2)
    x, y = (cloud - center).T
    angle, phase = np.arctan2(y, x), rng.uniform(0, 2 * math.pi, 3)
    waves = sum(0.07 * np.sin(k * angle + phase[i]) for i, k in enumerate((2, 3, 5)))
    dense = np.clip((radius * (0.75 + waves) - np.hypot(x, y)) / 25 + 0.5, 0, 0.96)
    return Mark(cloud[rng.random(len(cloud)) < dense], LYMPHOCYTE, STROMA)


def _table(
    marks: list[Mark], codes: NDArray[np.uint8], nuclei: Templates, rng: np.random.Generator
) -> NDArray[np.void]:
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
