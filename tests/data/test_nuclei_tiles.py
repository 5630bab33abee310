"""Tiles of images of nuclei: which there are, by hand and as rules, and how they are cut."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nuclei_files import image, pair, write
from numpy.testing import assert_array_equal

from tfseg.data.nuclei import read_nuclei
from tfseg.data.nuclei_tiles import cut_tile, tile_starts, tile_table


@pytest.mark.parametrize(
    ("side", "tile", "overlap", "starts"),
    [
        (1000, 256, 0.1, [0, 230, 460, 690, 744]),
        (1000, 256, 0.5, [0, 128, 256, 384, 512, 640, 744]),
        (486, 256, 0.1, [0, 230]),
        (487, 256, 0.1, [0, 230, 231]),
        (256, 256, 0.1, [0]),
        (257, 256, 0.1, [0, 1]),
        (100, 256, 0.1, [0]),
        (10, 5, 0.0, [0, 5]),
        (4, 2, 0.99, [0, 1, 2]),
    ],
)
def test_starts_by_hand(side, tile, overlap, starts):
    assert tile_starts(side, tile, overlap) == starts


@given(st.integers(1, 3000), st.integers(1, 600), st.floats(0, 0.95))
def test_every_pixel_is_in_a_tile_and_neighbours_overlap(side, tile, overlap):
    starts = tile_starts(side, tile, overlap)
    assert starts[0] == 0 and starts == sorted(set(starts))
    assert starts[-1] == max(0, side - tile)
    least = tile - max(1, round(tile * (1 - overlap)))
    assert all(one + tile - other >= least for one, other in itertools.pairwise(starts))


def test_wrong_sizes_are_refused():
    for arguments in ((0, 256, 0.1), (10, 0, 0.1), (10, 5, 1.0), (10, 5, -0.1)):
        with pytest.raises(ValueError, match="0 <= overlap < 1"):
            tile_starts(*arguments)


def test_table_of_two_images(tmp_path):
    for name, shape in (("Colon_a", (300, 256)), ("b", (100, 500))):
        write(tmp_path / "images" / f"{name}.png", image(shape=shape))
        write(tmp_path / "labels" / f"{name}.png", np.ones(shape, np.uint8))
    table = tile_table(read_nuclei(tmp_path))
    expected = [("Colon_a", "Colon", 0, 0, 0), ("Colon_a", "Colon", 0, 44, 0)]
    expected += [("b", "unknown", 1, 0, 0), ("b", "unknown", 1, 0, 230), ("b", "unknown", 1, 0, 244)]
    columns = ["name", "organ", "item", "top", "left"]
    assert list(table[columns].itertuples(index=False, name=None)) == expected
    assert list(tile_table([]).columns) == ["name", "organ", "split", "item", "top", "left"]


def test_tiles_put_back_give_the_image(tmp_path):
    pair(tmp_path, "a", np.arange(1, 24 * 31 + 1, dtype=np.uint16).reshape(24, 31))
    (item,) = read_nuclei(tmp_path)
    pixels, labels = item.load()
    whole_pixels, whole_labels = np.zeros_like(pixels), np.zeros_like(labels)
    for top, left in tile_table([item], 10, 0.1)[["top", "left"]].itertuples(index=False):
        whole_pixels[top : top + 10, left : left + 10] = cut_tile(pixels, top, left, 10)
        whole_labels[top : top + 10, left : left + 10] = cut_tile(labels, top, left, 10)
    assert_array_equal(whole_pixels, pixels)
    assert_array_equal(whole_labels, labels)


def test_an_image_smaller_than_a_tile_goes_on_mirrored():
    labels = np.array([[1, 2, 0], [3, 0, 0]])
    assert_array_equal(cut_tile(labels, 0, 0, 4), [[1, 2, 0, 0], [3, 0, 0, 0], [3, 0, 0, 0], [1, 2, 0, 0]])
    pixels = np.dstack([labels] * 3)
    assert_array_equal(cut_tile(pixels, 0, 0, 4)[..., 1], cut_tile(labels, 0, 0, 4))
    tiny = cut_tile(np.array([[1, 2]]), 0, 0, 5)
    assert_array_equal(tiny, [[1, 2, 2, 1, 1]] * 5)
    with pytest.raises(ValueError, match="inside the image of 2 × 3 px"):
        cut_tile(labels, 2, 0, 4)


@pytest.mark.realdata
def test_real_tiles_cover_all_nuclei(shared_data: Path):
    items = read_nuclei(shared_data / "nuclei" / "monuseg24")
    table = tile_table(items)
    assert len(table) == 24 * 25
    _, labels = items[3].load()
    rows = table[table["item"] == 3]
    cut = [cut_tile(labels, top, left) for top, left in zip(rows["top"], rows["left"], strict=True)]
    assert all(tile.shape == (256, 256) for tile in cut)
    assert_array_equal(np.unique(np.stack(cut)), np.unique(labels))
