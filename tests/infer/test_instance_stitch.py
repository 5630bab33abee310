"""Reassembly: a label picture cut into overlapping tiles comes back, with nuclei that touch on every seam."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.color import rgb2hed
from skimage.measure import label as connected

from tfseg.infer.instance_stitch import Instance, Tile, TileGrid, label_tiles, stitch
from tfseg.infer.instances import InstanceOptions, label_instances, number
from tfseg.types import ModelError


def mosaic(height: int, width: int, largest: int, seed: int, fill: float = 0.8) -> np.ndarray:
    """Touching 8-connected instances of at most ``largest`` px each way: cells of random points, some left out."""
    rng = np.random.default_rng(seed)
    count = max(1, int(2 * height * width / largest**2))
    points = rng.uniform((0, 0), (height, width), (count, 2))
    pixels = np.stack(np.mgrid[:height, :width], axis=-1) + 0.5
    away, nearest = cKDTree(points).query(pixels, p=np.inf)
    labels = np.where(away < largest / 2, nearest + 1, 0)
    labels[np.isin(labels, np.flatnonzero(rng.random(count + 1) > fill))] = 0
    return connected(labels)


def cut(grid: TileGrid, labels: np.ndarray, seed: int = 0, image: np.ndarray | None = None) -> list[Tile]:
    """Tiles with numbers of their own: shuffled, with gaps, of any integer type."""
    rng = np.random.default_rng(seed)
    tiles = []
    for row, column in grid.tiles():
        top, left, bottom, right = grid.box(row, column)
        part = labels[top:bottom, left:right]
        names = np.concatenate([[0], 1 + rng.permutation(3 * labels.max() + 1)])[: labels.max() + 1]
        dtype = (np.uint16, np.int64, np.uint32)[int(rng.integers(3))]
        tiles.append(Tile(names[part].astype(dtype), None if image is None else image[top:bottom, left:right]))
    return tiles


def assembled(grid: TileGrid, tiles: list[Tile]) -> tuple[np.ndarray, list[Instance]]:
    """(label picture from the rows, instances); both must tell the same."""
    rows: list[np.ndarray] = []
    instances = list(stitch(grid, tiles, lambda part: rows.append(part.copy())))
    picture = np.concatenate(rows)
    assert picture.dtype == np.uint32 and picture.shape == (grid.height_px, grid.width_px)
    drawn = np.zeros_like(picture)
    for instance in instances:
        height, width = instance.mask.shape
        place = drawn[instance.top : instance.top + height, instance.left : instance.left + width]
        assert not place[instance.mask].any(), "two instances share a pixel"
        place[instance.mask] = instance.id
        assert all(instance.mask.any(axis=axis)[[0, -1]].all() for axis in (0, 1)), "box too large"
    np.testing.assert_array_equal(drawn, picture)
    assert [instance.id for instance in instances] == list(range(1, len(instances) + 1))
    return picture, instances


grids = st.builds(
    lambda height, width, overlap, extra: TileGrid(height, width, overlap + extra, overlap),
    st.integers(1, 60), st.integers(1, 60), st.integers(4, 14), st.integers(1, 20),
)  # fmt: skip


@given(grids, st.integers(0, 10_000), st.booleans(), st.data())
def test_nuclei_smaller_than_the_overlap_come_back_once_and_whole(grid, seed, agree, data):
    grid = dataclasses.replace(grid, agree=agree)
    largest = data.draw(st.integers(3, grid.overlap_px - 1), label="largest")
    labels = mosaic(grid.height_px, grid.width_px, largest, seed)
    picture, instances = assembled(grid, cut(grid, labels, seed))
    np.testing.assert_array_equal(number(picture), number(labels))
    assert all(instance.whole for instance in instances)


@given(grids, st.integers(0, 10_000))
def test_larger_ones_lose_no_pixel_and_mix_with_none(grid, seed):
    labels = mosaic(grid.height_px, grid.width_px, 30, seed)
    picture, instances = assembled(grid, cut(grid, labels, seed))
    np.testing.assert_array_equal(picture > 0, labels > 0)
    pairs = np.unique(np.stack([picture, labels])[:, labels > 0], axis=1)
    assert len(np.unique(pairs[0])) == pairs.shape[1], "a piece holds pixels of two instances"
    parts = dict(zip(*np.unique(pairs[1], return_counts=True), strict=True))
    whole = {instance.id: instance.whole for instance in instances}
    for piece, label in pairs.T:
        if whole[int(piece)]:
            assert parts[label] == 1
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        if box is not None and max(s.stop - s.start for s in box) < grid.overlap_px:
            assert parts[label] == 1
        if box is not None and any(s.stop - s.start > grid.tile_px for s in box):
            assert parts[label] > 1


@given(grids, st.integers(0, 10_000))
def test_larger_ones_in_tiles_that_may_disagree_are_found_and_mix_with_none(grid, seed):
    labels = mosaic(grid.height_px, grid.width_px, 30, seed)
    picture, instances = assembled(dataclasses.replace(grid, agree=False), cut(grid, labels, seed))
    assert not (picture[labels == 0]).any()
    pairs = np.unique(np.stack([picture, labels])[:, picture > 0], axis=1)
    assert len(np.unique(pairs[0])) == pairs.shape[1], "a piece holds pixels of two instances"
    assert set(pairs[1]) == set(np.unique(labels)) - {0}, "none is lost as a whole"
    parts = dict(zip(*np.unique(pairs[1], return_counts=True), strict=True))
    whole = {instance.id: instance.whole for instance in instances}
    assert all(parts[label] == 1 for piece, label in pairs.T if whole[int(piece)])


def test_what_a_tile_finds_at_its_edge_and_the_one_that_sees_all_of_it_does_not():
    found = np.zeros((20, 50), int)
    found[5:13, 15:29] = 1  # the second of the tiles 0..32 and 18..50 sees eleven columns of it, and more
    nothing = np.zeros_like(found)
    for agree, boxes in [(True, [(18, 29)]), (False, [])]:
        grid = TileGrid(20, 50, tile_px=32, overlap_px=14, agree=agree)
        _, instances = assembled(grid, tiles_of(grid, nothing, found))
        assert [(one.left, one.left + one.mask.shape[1]) for one in instances] == boxes


def test_of_what_is_larger_than_the_overlap_each_tile_gives_all_that_is_left():
    labels = np.zeros((20, 60), int)
    labels[5:15, 12:45] = 1  # tiles are 0..28, 20..48, 40..60: seen 16, 25 and 5 columns; 25 − 8 are left in the second
    grid = TileGrid(20, 60, tile_px=28, overlap_px=8, agree=False)
    _, instances = assembled(grid, cut(grid, labels))
    found = [(one.left, one.left + one.mask.shape[1], one.whole) for one in instances]
    assert found == [(12, 28, False), (28, 45, False)]


def test_what_is_larger_than_the_overlap_is_cut_at_the_cores():
    labels = np.zeros((20, 60), int)
    labels[5:15, 12:45] = 1  # tiles begin at 0, 20, 40; cores are 0..20, 20..40, 40..60
    labels[2:4, 18:22] = 2
    grid = TileGrid(20, 60, tile_px=28, overlap_px=8)
    _, instances = assembled(grid, cut(grid, labels))
    found = [(one.left, one.left + one.mask.shape[1], one.whole) for one in instances]
    assert found == [(18, 22, True), (12, 20, False), (20, 40, False), (40, 45, False)]


def test_an_instance_as_long_as_the_overlap_is_where_the_promise_ends():
    grid = TileGrid(10, 60, tile_px=28, overlap_px=8)
    for length, whole in [(7, True), (8, False)]:
        labels = np.zeros((10, 60), int)
        labels[4:6, 20 : 20 + length] = (
            1  # begins with a tile, which takes it for cut; ends with the tile before, or not
        )
        _, instances = assembled(grid, cut(grid, labels))
        assert [one.whole for one in instances] == [whole]


def test_the_pictures_edge_cuts_nothing():
    labels = np.ones((9, 30), int)
    _, instances = assembled(TileGrid(9, 30, 64, 16), cut(TileGrid(9, 30, 64, 16), labels))
    assert len(instances) == 1 and instances[0].whole


def tiles_of(grid: TileGrid, *pictures: np.ndarray) -> list[Tile]:
    """Tile i cut from picture i: tiles that do not agree about what they share."""
    boxes = [grid.box(*cell) for cell in grid.tiles()]
    return [Tile(one[t:b, l:r]) for one, (t, l, b, r) in zip(pictures, boxes, strict=True)]  # noqa: E741


def test_tiles_that_disagree_give_every_nucleus_once():
    grid = TileGrid(20, 50, tile_px=32, overlap_px=14)  # tiles 0..32 and 18..50
    first, second = np.zeros((20, 50), int), np.zeros((20, 50), int)
    first[5:13, 21:29] = 1
    second[5:13, 22:30] = 1  # the same one, a pixel aside
    first[15:18, 20:30] = 2
    second[15:18, 20:25], second[15:18, 25:30] = 2, 3  # one here, two there
    second[0:4, 26:34] = 4  # cut in the first tile, where it seems to reach less far
    first[0:4, 27:34] = 4
    picture, instances = assembled(grid, tiles_of(grid, first, second))
    assert len(instances) == 3 and all(one.whole for one in instances)
    np.testing.assert_array_equal(picture[4:] > 0, first[4:] > 0)
    np.testing.assert_array_equal(picture[:4] > 0, second[:4] > 0)


def test_an_overlapping_neighbour_loses_the_taken_pixels_and_stays_one_piece():
    grid = TileGrid(20, 50, tile_px=32, overlap_px=14)
    first, second = np.zeros((20, 50), int), np.zeros((20, 50), int)
    first[8:10, 20:30] = 1
    second[5:11, 22:30] = 1  # 12 of 48 px are taken: above them 24 are left, below 8
    picture, instances = assembled(grid, tiles_of(grid, first, second))
    assert [int(one.mask.sum()) for one in instances] == [20, 24]
    assert (picture[5:8, 22:30] == 2).all() and not picture[10].any()


@pytest.mark.parametrize(("top", "found"), [(11, [36, 18]), (10, [36])], ids=["a third taken", "two thirds taken"])
def test_half_of_its_pixels_say_whether_it_is_the_same(top, found):
    grid = TileGrid(20, 50, tile_px=32, overlap_px=14)
    first, second = np.zeros((20, 50), int), np.zeros((20, 50), int)
    first[8:12, 21:30] = 1
    second[top : top + 3, 21:30] = 1
    _, instances = assembled(grid, tiles_of(grid, first, second))
    assert [int(one.mask.sum()) for one in instances] == found


def test_memory_is_one_row_of_tiles():
    grid = TileGrid(100_000, 40, tile_px=50, overlap_px=10)
    blank = np.zeros((50, 40), np.uint8)
    seen = []

    def tiles():
        for row, column in grid.tiles():
            top, left, bottom, right = grid.box(row, column)
            yield Tile(blank[: bottom - top, : right - left])

    assert not list(stitch(grid, tiles(), lambda rows: seen.append((len(rows), rows.base.shape[0]))))
    assert sum(rows for rows, _ in seen) == 100_000
    assert {held for _, held in seen} == {50}


def test_images_go_with_their_instance():
    labels = mosaic(60, 70, 8, seed=1)
    image = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    grid = TileGrid(60, 70, 32, 10)
    for one in stitch(grid, cut(grid, labels, image=image)):
        height, width = one.mask.shape
        np.testing.assert_array_equal(one.image, image[one.top : one.top + height, one.left : one.left + width])


def pairs_of_discs(height: int = 150, width: int = 190) -> np.ndarray:
    """Soft nuclei of 14 px, two by two touching, at places that have nothing to do with tiles."""
    y, x = np.mgrid[:height, :width]
    centres = [
        (cy, cx + side) for cy in range(9, height, 19) for cx in range(8, width, 34) for side in (cy % 5, 13 + cy % 5)
    ]
    away = np.min([np.hypot(y - cy, x - cx) for cy, cx in centres], axis=0)
    return np.clip(1.2 - away / 10, 0, 1).astype(np.float32)


def test_labelled_in_tiles_it_is_what_it_is_at_once():
    values = pairs_of_discs()
    options = InstanceOptions(min_area_px=5)
    expected = label_instances(values, options)
    grid = TileGrid(*values.shape, tile_px=70, overlap_px=24)
    asked = []

    def read(top: int, left: int, height: int, width: int) -> np.ndarray:
        asked.append((height, width))
        return values[top : top + height, left : left + width]

    tiles = label_tiles(grid, read, lambda part: label_instances(part, options), context_px=20)
    picture, instances = assembled(grid, list(tiles))
    np.testing.assert_array_equal(number(picture), expected)
    assert len(instances) > 80 and max(map(max, asked)) <= 70 + 2 * 20


@pytest.mark.realdata
def test_real_nuclei_in_tiles_are_those_of_the_whole_picture(shared_data):
    path = shared_data / "nuclei" / "monuseg24" / "images" / "Kidney_TCGA-B0-5710-01Z-00-DX1.png"
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)[:500, :500]
    stain = ndimage.gaussian_filter(rgb2hed(image)[..., 0], 2)
    values = 1 / (1 + np.exp(-4 * (stain - np.percentile(stain, 73)) / stain.std()))
    grid = TileGrid(500, 500, tile_px=200, overlap_px=96)

    def read(top: int, left: int, height: int, width: int) -> np.ndarray:
        return values[top : top + height, left : left + width]

    picture, instances = assembled(grid, list(label_tiles(grid, read, label_instances, context_px=32)))
    assert len(instances) > 100 and all(one.whole for one in instances)
    np.testing.assert_array_equal(number(picture), label_instances(values))


def test_tiles_must_fit_the_grid():
    grid = TileGrid(20, 50, tile_px=32, overlap_px=14)
    good = cut(grid, np.zeros((20, 50), int))
    with pytest.raises(ModelError, match=r"1 × 2 tiles, got none for row 0, column 1"):
        list(stitch(grid, good[:1]))
    with pytest.raises(ModelError, match="more tiles"):
        list(stitch(grid, [*good, good[0]]))
    with pytest.raises(ModelError, match=r"row 0, column 0: expected integer labels \(20, 32\).*float64"):
        list(stitch(grid, [Tile(np.zeros((20, 32))), good[1]]))
    with pytest.raises(ModelError, match=r"expected integer labels \(20, 32\).*\(20, 31\)"):
        list(stitch(grid, [Tile(np.zeros((20, 31), int)), good[1]]))


@pytest.mark.parametrize("bad", [(20, 50, 32, 32), (20, 50, 32, -1), (0, 50, 32, 8)])
def test_grids_that_cover_nothing_are_refused(bad):
    with pytest.raises(ModelError, match=r"overlap from 0 to 31|at least 1 × 1"):
        TileGrid(*bad)


@given(grids)
def test_cores_fill_the_picture_and_lie_in_their_tiles(grid):
    count = np.zeros((grid.height_px, grid.width_px), int)
    for cell in grid.tiles():
        (top, left, bottom, right), core = grid.box(*cell), grid.core(*cell)
        assert top == core[0] and left == core[1] and core[2] <= bottom and core[3] <= right
        count[core[0] : core[2], core[1] : core[3]] += 1
    assert (count == 1).all()


def test_scores_stay_with_their_nuclei():
    """Each tile has numbers and scores of its own; a nucleus that two tiles see has the score of its owner."""
    labels = np.zeros((20, 50), int)
    labels[2:6, 3:8], labels[10:14, 24:28], labels[3:7, 40:46] = 1, 2, 3
    grid = TileGrid(20, 50, tile_px=30, overlap_px=10)
    tiles = iter([{7: 0.75, 9: 0.5}, {8: 0.125, 4: 0.25}])
    names = iter([[0, 7, 9, 5], [0, 3, 4, 8]])

    def label(part):
        return np.array(next(names))[part], next(tiles)

    read = labels.__getitem__
    found = stitch(
        grid, label_tiles(grid, lambda t, le, h, w: read(np.s_[t : t + h, le : le + w]), label, context_px=0)
    )
    assert [(one.left, one.score) for one in found] == [(3, 0.75), (24, 0.5), (40, 0.125)]
