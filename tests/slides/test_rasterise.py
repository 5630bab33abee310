"""Exact scanline filling against a slow reference: shapely's point in polygon on every pixel centre."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tfseg.slides.rasterise import PixelGrid, draw, edges, fill, within
from tfseg.types import Window


@st.composite
def polygons(draw):
    """Stars, often with holes, sometimes two at once; coordinates with two decimals as in files."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts = []
    for _ in range(draw(st.integers(1, 2))):
        centre, corners = rng.uniform(0, 100, 2), int(rng.integers(3, 20))
        angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
        ring = centre + rng.uniform(5, 60, (corners, 1)) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        parts.append(shapely.Polygon(np.round(ring, 2)).buffer(0))
        if rng.random() < 0.6:
            hole = shapely.Point(centre + rng.uniform(-10, 10, 2)).buffer(rng.uniform(1, 15), quad_segs=3)
            parts[-1] = parts[-1].difference(hole)
    return shapely.union_all(parts)


grids = st.builds(
    PixelGrid,
    left=st.floats(-60, 90),
    top=st.floats(-60, 90),
    step_x=st.sampled_from([0.5, 1.0, 1.9992, 4.0, 7.3]),
    step_y=st.sampled_from([0.5, 1.0, 3.1, 4.0]),
    width_px=st.integers(1, 60),
    height_px=st.integers(1, 60),
)


@settings(max_examples=150, deadline=None)
@given(polygons(), grids)
def test_fill_is_point_in_polygon(polygon, grid):
    x, y = grid.centres()
    expected = shapely.contains_xy(polygon, *np.meshgrid(x, y))
    assert np.array_equal(fill(edges(polygon), x, y), expected)
    drawn = np.zeros(grid.shape, np.uint8)
    draw(drawn, edges(polygon), 7, grid)
    assert np.array_equal(drawn == 7, expected)


@settings(max_examples=60, deadline=None)
@given(polygons(), grids, st.integers(1, 25))
def test_tiles_make_the_whole(polygon, grid, side):
    whole = np.zeros(grid.shape, np.uint8)
    draw(whole, edges(polygon), 1, grid)
    row = column = 0
    for tile in grid.tiles(side):
        part = np.zeros(tile.shape, np.uint8)
        draw(part, edges(polygon), 1, tile)
        assert np.array_equal(part, whole[row : row + tile.height_px, column : column + tile.width_px])
        column += tile.width_px
        if column == grid.width_px:
            row, column = row + tile.height_px, 0
    assert row == grid.height_px


def test_neighbours_share_an_edge_without_gap_or_overlap():
    # Corners on pixel centres: every tie that can happen.
    left = shapely.Polygon([(0.5, 0.5), (4.5, 0.5), (6.5, 8.5), (0.5, 8.5)])
    right = shapely.Polygon([(4.5, 0.5), (9.5, 0.5), (9.5, 8.5), (6.5, 8.5)])
    grid = PixelGrid(0, 0, 1, 1, 10, 10)
    count = sum(fill(edges(p), *grid.centres()).astype(int) for p in (left, right))
    expected = np.zeros((10, 10), int)
    expected[0:8, 0:9] = 1
    assert np.array_equal(count, expected)


def test_even_odd_rule_for_an_outline_that_crosses_itself():
    bow_tie = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    inside = fill(edges(bow_tie), np.array([1.0, 5.2, 9.0]), np.array([5.0]))
    assert inside.tolist() == [[True, True, True]]
    assert not fill(edges(bow_tie), np.array([5.0]), np.array([1.0, 9.0])).any()


def test_nothing_to_draw():
    grid = PixelGrid(0, 0, 1, 1, 4, 3)
    labels = np.full(grid.shape, 9, np.uint8)
    draw(labels, edges(shapely.Polygon()), 1, grid)
    draw(labels, edges(shapely.box(50, 50, 60, 60)), 1, grid)
    assert (labels == 9).all()


def test_grid_of_a_window_and_its_edges():
    grid = PixelGrid.of(Window(x=100, y=50, width_px=20, height_px=10, mpp=1.0), slide_mpp=0.5)
    assert (grid.left, grid.top, grid.step_x, grid.step_y) == (80, 40, 2, 2)
    assert grid.bounds == (80, 40, 120, 60)
    columns, rows = within((101, 50), grid)
    assert columns.sum() == 10 and rows.sum() == 5  # centres at 81, 83 … 99; 101 is outside
