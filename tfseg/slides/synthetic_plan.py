"""Where things lie on a synthetic slide: specimen, tumour foci, fat. All lengths in µm from the slide's corner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from tfseg.types import TfsegError

FIELD_UM = 8.0
"""Pixel size of the smooth fields."""

TUMOUR_FRACTION = (0.18, 0.48)
"""Share of the specimen that is tumour, drawn uniformly."""


@dataclass(frozen=True)
class Layout:
    """The large scale of a slide.

    Attributes:
        size_um: (width, height).
        tissue: specimen.
        tumour: what a pathologist would outline: the foci with their stroma, without enclosed fat or scars.
        depth: (h, w) float32 field, distance to the tumour's outline in µm, positive inside.
        fat: (h, w) bool field, adipose tissue.
        cells: (h, w) float32 field, smooth, mean 0, sd 1: where stroma is more or less cellular.
        sway: (2, h, w) float32 field, µm: how far the fibre pattern is displaced along and across.
        turn: direction of the fibres without sway, radians.
    """

    size_um: tuple[float, float]
    tissue: shapely.MultiPolygon
    tumour: shapely.MultiPolygon
    depth: NDArray[np.float32]
    fat: NDArray[np.bool_]
    cells: NDArray[np.float32]
    sway: NDArray[np.float32]
    turn: float

    def fibre_angle(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Direction (radians) of the fibres at points (N, 2)."""
        step_y, step_x = np.gradient(self.sway[1], FIELD_UM)
        across_x = -math.sin(self.turn) + look_up(step_x, points, FIELD_UM)
        across_y = math.cos(self.turn) + look_up(step_y, points, FIELD_UM)
        return np.arctan2(-across_x, across_y)


def layout(size_um: tuple[float, float], rng: np.random.Generator) -> Layout:
    """Draws the large scale of a slide."""
    shape = (math.ceil(size_um[1] / FIELD_UM), math.ceil(size_um[0] / FIELD_UM))
    tissue = _specimen(size_um, rng)
    tumour = _foci(tissue, rng)
    inside = _raster(tumour, shape)
    depth = np.where(
        inside,
        cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5),
        -cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5),
    )
    depth = (depth * FIELD_UM).astype(np.float32)
    share = rng.uniform(0.18, 0.5)
    lie = smooth_noise(shape, 420.0, rng) + 0.35 * smooth_noise(shape, 130.0, rng)
    outside = _raster(tissue, shape) & (depth < -25)
    fat = outside & (lie > np.quantile(lie[outside], 1 - share)) if outside.any() else outside
    # An enclosed pocket that is not tumour is fat, as in breast.
    pockets = _raster(_pockets(tumour), shape)
    wavy = 70 * smooth_noise(shape, 300.0, rng) + 4.0 * smooth_noise(shape, 38.0, rng)
    sway = np.stack([55 * smooth_noise(shape, 260.0, rng), wavy])
    return Layout(
        size_um,
        tissue,
        tumour,
        depth,
        fat | (pockets & (depth < -8)),
        smooth_noise(shape, 150.0, rng),
        sway.astype(np.float32),
        float(rng.uniform(0, math.pi)),
    )


def star(
    center: tuple[float, float],
    radius: float,
    rng: np.random.Generator,
    roughness: float = 0.1,
    stretch: float = 1.0,
    angle: float | None = None,
    points: int = 28,
    decay: float = 0.9,
) -> NDArray[np.float64]:
    """A closed wavy contour (points, 2): r(θ) = radius · (1 + Σ a_k cos(kθ + φ_k)), a_k ~ roughness / k^decay."""
    theta = np.linspace(0, 2 * math.pi, points, endpoint=False)
    order = np.arange(2, 2 + max(3, points // 10))
    size = rng.normal(size=len(order)) / order**decay
    waves = np.cos(np.outer(theta, order) + rng.uniform(0, 2 * math.pi, len(order))) @ size
    reach = radius * np.clip(1 + roughness * 2 * waves, 0.35, 2.2)
    angle = rng.uniform(0, math.pi) if angle is None else angle
    x, y = reach * np.cos(theta) * math.sqrt(stretch), reach * np.sin(theta) / math.sqrt(stretch)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([center[0] + x * cos - y * sin, center[1] + x * sin + y * cos], axis=1)


def smooth_noise(shape: tuple[int, int], length_um: float, rng: np.random.Generator) -> NDArray[Any]:
    """Field (h, w) float32 of mean 0 and sd about 1 that varies over ``length_um``."""
    step = length_um / FIELD_UM
    knots = rng.normal(size=(math.ceil(shape[0] / step) + 4, math.ceil(shape[1] / step) + 4)).astype(np.float32)
    scale = np.array([[1 / step, 0, 1.5], [0, 1 / step, 1.5]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(knots, scale, (shape[1], shape[0]), flags=flags, borderMode=cv2.BORDER_REFLECT_101) * 1.4


def look_up(field: NDArray[Any], points: NDArray[np.float64], pixel_um: float) -> NDArray[Any]:
    """Values of a field at points (N, 2); outside, those of the nearest edge."""
    column = np.clip(points[:, 0] / pixel_um, 0, field.shape[1] - 1).astype(np.int64)
    row = np.clip(points[:, 1] / pixel_um, 0, field.shape[0] - 1).astype(np.int64)
    return field[row, column]


def scattered(
    spacing: float, bounds: tuple[float, float, float, float], rng: np.random.Generator, jitter: float = 0.3
) -> NDArray[np.float64]:
    """Points (N, 2) of a hexagonal lattice of ``spacing``, each displaced by ``jitter`` · spacing (sd)."""
    left, top, right, bottom = bounds
    rows = np.arange(top, bottom + spacing, spacing * math.sqrt(3) / 2)
    columns = np.arange(left, right + spacing, spacing)
    x = columns[None, :] + (np.arange(len(rows)) % 2)[:, None] * spacing / 2
    y = np.broadcast_to(rows[:, None], x.shape)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    return points + rng.normal(size=points.shape) * spacing * jitter


def _specimen(size_um: tuple[float, float], rng: np.random.Generator) -> shapely.MultiPolygon:
    """One lobed piece, sometimes with a small second one, with a margin of glass round it."""
    width, height = size_um
    base = min(width, height)
    center = (width * rng.uniform(0.46, 0.54), height * rng.uniform(0.46, 0.54))
    lobes = [star(center, base * 0.37, rng, 0.12, rng.uniform(1.0, 1.3), points=240, decay=1.4)]
    for _ in range(rng.integers(1, 4)):
        way, reach = rng.uniform(0, 2 * math.pi), base * rng.uniform(0.18, 0.3)
        middle = (center[0] + reach * math.cos(way), center[1] + reach * math.sin(way))
        lobes.append(star(middle, base * rng.uniform(0.12, 0.2), rng, 0.15, points=160, decay=1.4))
    whole = shapely.union_all([shapely.Polygon(lobe).buffer(0) for lobe in lobes])
    whole = whole.buffer(base * 0.01).buffer(-base * 0.01)
    return _on_glass(_parts(whole, base**2 * 0.003), size_um)


def _on_glass(shape: shapely.MultiPolygon, size_um: tuple[float, float]) -> shapely.MultiPolygon:
    """The specimen moved, and where need be shrunk, so that a margin of 3 % stays free all round."""
    left, top, right, bottom = shape.bounds
    room = np.array(size_um) - 0.06 * min(size_um)
    scale = min(1.0, *(room / (right - left, bottom - top)))
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    half = np.array([right - left, bottom - top]) / 2 * scale
    margin = 0.03 * min(size_um)
    there = np.clip(middle, half + margin, np.array(size_um) - half - margin)
    return shapely.transform(shape, lambda points: (points - middle) * scale + there)


def _foci(tissue: shapely.MultiPolygon, rng: np.random.Generator) -> shapely.MultiPolygon:
    """One to three foci of a drawn share of the specimen; the largest may enclose a pocket that is not tumour."""
    number = int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))
    weights = np.sort(rng.dirichlet(np.full(number, 3.0)))[::-1]
    unit = math.sqrt(tissue.area / math.pi)
    seeds = [_inside_point(tissue, unit, rng) for _ in range(number)]
    shapes = [star((0.0, 0.0), 1.0, rng, 0.16, rng.uniform(1, 1.6), points=200, decay=1.2) for _ in range(number)]
    wanted = rng.uniform(*TUMOUR_FRACTION) * tissue.area
    low, high = 0.05 * unit, 2.5 * unit
    for _ in range(18):  # bisection: the area grows with the scale
        scale = (low + high) / 2
        parts = [
            shapely.Polygon(seed + scale * math.sqrt(weight) * shape).buffer(0)
            for seed, shape, weight in zip(seeds, shapes, weights, strict=True)
        ]
        area = shapely.union_all(parts).intersection(tissue).area
        low, high = (low, scale) if area > wanted else (scale, high)
    smoothing = 0.04 * unit
    tumour = shapely.union_all(parts).intersection(tissue.buffer(-0.01 * unit))
    tumour = tumour.buffer(-smoothing).buffer(2 * smoothing).buffer(-smoothing).intersection(tissue)
    if rng.random() < 0.5:
        radius = 0.2 * math.sqrt(wanted * weights[0] / math.pi)
        middle = seeds[0] + rng.normal(size=2) * radius
        tumour = tumour.difference(shapely.Polygon(star(tuple(middle), radius, rng, 0.12, points=80)).buffer(0))
    found = _parts(tumour.buffer(0), 0.01 * tissue.area)
    if found.is_empty:
        raise TfsegError("synthetic slide: the specimen is too small for a tumour. Use a larger size.")
    return found


def _inside_point(tissue: shapely.MultiPolygon, unit: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A point well inside the specimen."""
    core = tissue.buffer(-0.3 * unit)
    core = tissue.buffer(-0.1 * unit) if core.is_empty else core
    core = tissue if core.is_empty else core
    left, top, right, bottom = core.bounds
    for _ in range(200):
        point = rng.uniform((left, top), (right, bottom))
        if core.contains(shapely.Point(point)):
            return point
    return shapely.get_coordinates(core.representative_point())[0]


def _parts(shape: shapely.Geometry, least_area: float) -> shapely.MultiPolygon:
    """The polygons of a geometry that are large enough."""
    parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon" and part.area >= least_area]
    return shapely.MultiPolygon(parts)


def _pockets(tumour: shapely.MultiPolygon) -> shapely.MultiPolygon:
    return shapely.MultiPolygon([shapely.Polygon(hole) for part in tumour.geoms for hole in part.interiors])


def _raster(shape: shapely.MultiPolygon, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Field (h, w) of a polygon; edges are right to half a field pixel."""
    canvas = np.zeros(size, np.uint8)
    for part in shape.geoms:
        rings = [part.exterior, *part.interiors]
        cv2.fillPoly(canvas, [np.rint(shapely.get_coordinates(r) / FIELD_UM - 0.5).astype(np.int32) for r in rings], 1)
    return canvas.astype(bool)
