"""A picture through a network that says what it sees comes back as it is, and discs come back as nuclei."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from dense_networks import Identity, dense_spec, noise

from tfseg.infer.nuclei import label_image, nuclei_options, predict_image, stride_of
from tfseg.types import NUCLEI_BORDER_CLASSES, NUCLEI_CLASSES, ModelError, SlideError

TILE = 16


def spec(classes=NUCLEI_BORDER_CLASSES, tile=TILE, **instances):
    found = dense_spec(tile, (tile, tile), (0.25,), classes=classes)
    return dataclasses.replace(found, name="tiny", instances=instances or None)


@pytest.mark.parametrize("size", [(77, 101), (16, 16), (15, 40), (5, 9), (1, 1), (33, 17)])
@pytest.mark.parametrize("overlap", [0.5, 0.0, 0.3, 0.75])
def test_the_picture_comes_back(size, overlap):
    image = noise(*size)
    found = predict_image(Identity(spec()), spec(), image, overlap, batch_size=3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, image / np.float32(255), rtol=0, atol=3e-7)


def test_what_lies_beyond_the_picture_is_its_mirror_image():
    seen = []

    def network(batch):
        seen.append(batch)
        return batch / 255

    image = noise(8, 8)
    predict_image(network, spec(), image, 0.5)
    # Tiles of 16 px every 8 begin 4 px before their cell: the picture lies at 4..12 of the one tile.
    (tiles,) = seen
    assert tiles.shape == (1, 16, 16, 3)
    np.testing.assert_array_equal(tiles[0], np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="symmetric"))


def test_tiles_fade_into_each_other():
    """A network that says another thing in each tile: between two centres it changes by small steps only."""
    told = iter(np.linspace(0, 1, 1000))

    def network(batch):
        values = np.float32(next(told))
        return np.stack([np.full(batch.shape[1:3], v, np.float32) for v in (1 - values, values, 0)], -1)[None]

    found = predict_image(network, spec(), noise(8, 64), 0.5, batch_size=1)[0, :, 1]
    steps = np.diff(found)
    assert (steps >= -1e-7).all()
    assert steps.max() < 1.5 * np.pi / 2 / 8 / 999  # of sin² over 8 px the steepest, for one more thousandth a tile


def test_discs_become_nuclei():
    rows, columns = np.mgrid[:60, :90]
    image = np.zeros((60, 90, 3), np.uint8)
    image[..., 0] = 255
    for y, x in ((20, 20), (30, 60)):
        image[(rows - y) ** 2 + (columns - x) ** 2 <= 64] = (0, 255, 0)
    for split in ("distance", "none", "border"):
        one = spec(split=split, threshold=0.5)
        labels = label_image(Identity(one), one, image)
        assert labels.dtype == np.int32
        assert labels[20, 20] == 1
        assert labels[30, 60] == 2
        np.testing.assert_array_equal(labels > 0, image[..., 1] > 0)


def test_of_two_classes_the_second_is_the_nucleus():
    image = np.full((20, 30, 3), 255, np.uint8)
    image[5:15, 10:20, 0] = 0
    two = spec(NUCLEI_CLASSES, threshold=0.5, split="none")
    labels = label_image(lambda batch: np.stack([batch[..., 0], 255 - batch[..., 0]], -1) / 255, two, image)
    np.testing.assert_array_equal(labels, image[..., 0] == 0)


def test_half_a_tile_is_the_step():
    assert stride_of(spec(tile=256)) == 128
    assert stride_of(spec(tile=256), 0) == 256
    assert stride_of(spec(tile=15), 0.99) == 1


@pytest.mark.parametrize("overlap", [-0.1, 1, float("nan")])
def test_an_overlap_that_cannot_be_is_told(overlap):
    with pytest.raises(ModelError, match="overlap: expected a part of a tile"):
        predict_image(Identity(spec()), spec(), noise(8, 8), overlap)


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)])
def test_a_picture_of_another_kind_is_told(image):
    with pytest.raises(SlideError, match="expected uint8 RGB"):
        predict_image(Identity(spec()), spec(), image)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (spec(), "does not say how its output becomes nuclei"),
        (spec(threshold=0.5, splits="none"), "splits.*Known: threshold"),
        (spec(threshold=5), "threshold: expected a probability"),
        (spec(NUCLEI_CLASSES, split="border"), "needs a network with a class border"),
        (spec(NUCLEI_CLASSES[::-1], split="none"), "not a network of nuclei.*nucleus, background"),
    ],
)
def test_a_network_that_gives_no_nuclei_is_told(model, text):
    with pytest.raises(ModelError, match=text):
        nuclei_options(model)
