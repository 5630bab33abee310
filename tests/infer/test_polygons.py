"""Mask → polygons → the same mask."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tfseg.infer.polygons import count_corners, mask_polygons
from tfseg.slides.rasterise import PixelGrid, draw, edges


def redrawn(mask, scale, **options):
    labels = np.zeros(mask.shape, np.uint8)
    grid = PixelGrid(0, 0, *scale, mask.shape[1], mask.shape[0])
    for index, polygon in mask_polygons(mask, scale, **options):
        assert polygon.is_valid, shapely.is_valid_reason(polygon)
        draw(labels, edges(polygon), index, grid)
    return labels


masks = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3)).flatmap(
    lambda s: arrays(np.uint8, s[:2], elements=st.integers(0, s[2]))
)


@settings(max_examples=300, deadline=None)
@given(masks, st.sampled_from([(1.0, 1.0), (4.0, 4.0), (3.7, 2.123)]))
def test_round_trip(mask, scale):
    assert np.array_equal(redrawn(mask, scale), mask)
    for index in range(1, 4):
        number = cv2.connectedComponents((mask == index).astype(np.uint8), connectivity=4)[0] - 1
        assert sum(1 for _ in mask_polygons(mask, scale, classes=[index])) == number


def test_round_trip_of_blobs():
    rng = np.random.default_rng(0)
    field = cv2.GaussianBlur(rng.normal(size=(400, 500)).astype(np.float32), (0, 0), 6)
    mask = np.digitize(field, [0.0, 0.04]).astype(np.uint8)
    assert np.array_equal(redrawn(mask, (7.9, 8.1)), mask)


def one(rows):
    mask = np.array([[c == "#" for c in row] for row in rows], np.uint8)
    return [polygon for _, polygon in mask_polygons(mask)]


def test_corners_only_where_the_outline_turns():
    (polygon,) = one(["###", "###"])
    assert polygon.equals_exact(shapely.Polygon([(0, 0), (3, 0), (3, 2), (0, 2)]), 0)
    assert len(polygon.exterior.coords) == 5


def test_hole_with_an_island():
    ring, island = one(["#####", "#...#", "#.#.#", "#...#", "#####"])
    assert ring.area == 16 and len(ring.interiors) == 1 and shapely.Polygon(ring.interiors[0]).area == 9
    assert island.bounds == (2, 2, 3, 3)


def test_pixels_that_meet_at_a_corner():
    assert [p.area for p in one(["#.", ".#"])] == [1, 1]
    assert [p.area for p in one([".#", "#."])] == [1, 1]
    (loop,) = one(["###", "#.#", "##."])  # closed but for a corner: the hole touches the outer ring there
    assert loop.is_valid and loop.area == 7 and len(loop.interiors) == 1
    (loop,) = one(["###", "#.#", ".##"])
    assert loop.is_valid and loop.area == 7


def test_classes_and_least_area():
    mask = np.zeros((6, 6), np.uint8)
    mask[0, 0], mask[2:4, 2:4], mask[5], mask[0, 5] = 1, 1, 255, 2
    assert [(c, p.area) for c, p in mask_polygons(mask, (2, 2))] == [(1, 4), (1, 16), (2, 4)]
    assert [c for c, _ in mask_polygons(mask, classes=[0])] == [0]
    large = list(mask_polygons(mask, (2, 2), min_area_um2=4.0, slide_mpp=0.5))
    assert [(c, p.area) for c, p in large] == [(1, 16)]
    assert list(mask_polygons(np.zeros((3, 3), np.uint8))) == []


def test_arguments_that_cannot_be():
    with pytest.raises(ValueError, match=r"\(h, w\).*\(2, 2, 3\)"):
        next(mask_polygons(np.zeros((2, 2, 3), np.uint8)))
    with pytest.raises(ValueError, match="slide_mpp"):
        next(mask_polygons(np.zeros((2, 2), np.uint8), min_area_um2=1.0))


@pytest.mark.parametrize("rows", [1, 2, 700])
def test_corners_are_counted_where_outlines_turn(rows):
    mask = np.zeros((rows + 600, 40), np.uint8)
    assert count_corners(mask) == 0
    mask[:, 20:] = 1
    assert count_corners(mask) == 0
    mask[rows : rows + 256, 5:9] = 2  # a box: 4; the second begins at the left edge, where 2 of its lie
    mask[rows + 300 : rows + 310, :3] = 2
    assert count_corners(mask) == 6
    assert count_corners(np.indices((30, 20)).sum(0).astype(np.uint8) % 2) == 29 * 19
    assert count_corners(mask[:1]) == 0
