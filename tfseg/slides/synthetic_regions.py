"""What is which tissue on a synthetic slide, and what an annotator with little time draws of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tfseg.slides.class_table import DMMN_CLASSES
from tfseg.slides.geojson import PolygonFeature
from tfseg.slides.rasterise import PixelGrid, draw, edges
from tfseg.slides.synthetic_plan import scattered
from tfseg.slides.synthetic_structures import ADIPOSE, BENIGN, LUMEN, NECROSIS, NEST, STROMA, Shape
from tfseg.slides.synthetic_tissue import Tissue

CLOSING_UM = 8.0
"""Structures nearer than twice this are one region: a lobule, a field of nests."""

GAP_UM = (1.5, 4.0)
"""Least and greatest distance that an annotator keeps from the edge of a region."""

_LEAST_UM2 = 250.0
_STROKE_UM = 4.0
_CELL_UM = 480.0
_BY_CODE = {"necrotic": NECROSIS, "carcinoma": NEST, "benign epithelial": BENIGN, "adipose": ADIPOSE}
_COLORS = {spec.name: spec.color for spec in DMMN_CLASSES}

Regions = dict[str, shapely.MultiPolygon]
"""Name of a class of :data:`DMMN_CLASSES` → where it is. The regions do not overlap and fill the slide."""


def regions_of(tissue: Tissue) -> Regions:
    """The complete truth, µm.

    A gland or nest counts with its lumen; glands or nests at most 16 µm apart, with what lies between, are one region.
    Where regions would overlap, necrotic comes before carcinoma, benign epithelial, adipose and stroma. What is left,
    the glass, is background.
    """
    shapes = tissue.shapes
    seen = _seen(shapes)
    taken: shapely.Geometry = shapely.MultiPolygon()
    regions: Regions = {}
    for name, code in _BY_CODE.items():
        found = shapely.union_all([outline for outline, shape in zip(seen, shapes, strict=True) if shape.code == code])
        found = found.buffer(CLOSING_UM, quad_segs=4).buffer(-CLOSING_UM, quad_segs=4)
        regions[name] = _without_specks(found.difference(taken))
        taken = shapely.union(taken, regions[name])
    regions["stroma"] = _polygons(tissue.layout.tissue.difference(taken))
    slide = shapely.box(0, 0, *tissue.layout.size_um)
    regions["background"] = _polygons(slide.difference(shapely.union(taken, regions["stroma"])))
    return {spec.name: regions[spec.name] for spec in DMMN_CLASSES[1:]}


def _seen(shapes: Sequence[Shape]) -> NDArray[Any]:
    """Outlines less what later stroma was drawn over them."""
    outlines = shapely.make_valid(np.array([shapely.Polygon(shape.outline) for shape in shapes], dtype=object))
    codes = np.array([shape.code for shape in shapes])
    over = np.nonzero(codes == STROMA)[0]
    covers, covered = shapely.STRtree(outlines).query(outlines[over], predicate="intersects")
    keep = (over[covers] > covered) & (codes[covered] != STROMA) & (codes[covered] != LUMEN)
    above: dict[int, list[int]] = {}
    for cover, number in zip(over[covers[keep]].tolist(), covered[keep].tolist(), strict=True):
        above.setdefault(number, []).append(cover)
    for number, numbers in above.items():
        outlines[number] = outlines[number].difference(shapely.union_all(outlines[numbers]))
    return outlines


def partial_annotation(
    regions: Regions, unannotated: float, rng: np.random.Generator
) -> list[tuple[str, shapely.Polygon]]:
    """What is drawn of the regions: whole components with thin gaps between, and a share of them left out (DMMN, 2.1).

    Components of more than about half a millimetre, such as stroma and glass, are left out by territories of that size.

    Args:
        regions: as of :func:`regions_of`, µm.
        unannotated: share left out besides the gaps, 0 to less than 1; of few components rounded in favour of drawing.
        rng: random numbers.

    Returns:
        Class name and polygon (µm), each at least 1 µm inside its region.
    """
    slide = tuple(shapely.total_bounds(list(regions.values())).tolist())
    drawn = []
    for name, region in regions.items():
        components = _parts(region)
        large = shapely.area(components) > _CELL_UM**2
        rest = shapely.MultiPolygon(list(components[large])).difference(_territories(slide, unannotated, rng))
        parts = np.concatenate([_left(components[~large], unannotated, rng), _parts(rest)])
        gaps = rng.uniform(*GAP_UM, len(parts))
        # Opened by the width of a stroke, so that nothing thinner is drawn, and with few corners, as by hand.
        inner = shapely.buffer(shapely.buffer(parts, -gaps - _STROKE_UM, quad_segs=4), _STROKE_UM, quad_segs=4)
        for part in _parts(shapely.GeometryCollection(list(shapely.simplify(inner, 0.5)))):
            if part.area >= _LEAST_UM2:
                drawn.append((name, part))
    return drawn


def _territories(
    bounds: tuple[float, float, float, float], share: float, rng: np.random.Generator
) -> shapely.MultiPolygon | shapely.Polygon:
    """A share of a tiling of irregular cells, in one geometry."""
    points = scattered(_CELL_UM, bounds, rng, 0.25)
    cells = shapely.get_parts(shapely.voronoi_polygons(shapely.MultiPoint(points), extend_to=shapely.box(*bounds)))
    return shapely.union_all(cells[rng.permutation(len(cells))[: int(share * len(cells))]])


def _left(parts: NDArray[Any], share: float, rng: np.random.Generator) -> NDArray[Any]:
    """``parts`` without a share of them."""
    return parts[np.sort(rng.permutation(len(parts))[int(share * len(parts)) :])]


def features(drawn: Sequence[tuple[str, shapely.Polygon]], mpp: float) -> list[PolygonFeature]:
    """Objects for QuPath, level-0 pixels, in the colours of the DMMN paper."""
    return [PolygonFeature(in_pixels(part, mpp), name.capitalize(), _COLORS[name]) for name, part in drawn]


def in_pixels(shape: Any, mpp: float) -> Any:
    """From µm to level-0 pixels, to 1/100 px as GeoJSON keeps it, so that every output has the same outline."""
    return shapely.transform(shape, lambda points: np.round(points / mpp, 2))


class Labels:
    """Regions as a tile source of labels.

    Args:
        regions: shapes in level-0 pixels and their labels; the later lies on top.
        size: (width, height) of level 0.
        step: level-0 pixels per label pixel.
        rest: label outside all shapes.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, regions: Sequence[tuple[shapely.MultiPolygon, int]], size: tuple[int, int], step: int, rest: int
    ) -> None:
        width, height = size
        self.shape: tuple[int, ...] = (math.ceil(height / step), math.ceil(width / step))
        self.grid = PixelGrid(0.0, 0.0, step, step, self.shape[1], self.shape[0])
        self.rest = rest
        self.parts = [(edges(part), label) for region, label in regions for part in region.geoms]

    def tile(self, row0: int, col0: int, height: int, width: int) -> NDArray[np.uint8]:
        labels = np.full((height, width), self.rest, np.uint8)
        grid = self.grid.part(row0, col0, height, width)
        for part, label in self.parts:
            draw(labels, part, label, grid)
        return labels


def _parts(shape: shapely.Geometry) -> NDArray[Any]:
    """The polygons of a geometry."""
    flat = shapely.get_parts(shapely.get_parts(shape))
    return flat[shapely.get_type_id(flat) == 3]


def _polygons(shape: shapely.Geometry) -> shapely.MultiPolygon:
    return shapely.MultiPolygon(list(_parts(shape)))


def _without_specks(shape: shapely.Geometry) -> shapely.MultiPolygon:
    """Without islands and holes too small to draw."""
    whole = [part for part in _parts(shape) if part.area >= _LEAST_UM2]
    holes = [[ring for ring in part.interiors if shapely.Polygon(ring).area >= _LEAST_UM2] for part in whole]
    return shapely.MultiPolygon(
        [shapely.Polygon(part.exterior, rings) for part, rings in zip(whole, holes, strict=True)]
    )
