"""From prepared images to batches: classes and weights by hand, all three planes through one map, any step again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from nuclei_files import LABELS, pair
from numpy.testing import assert_allclose, assert_array_equal

from tfseg.data.border_weights import border_term
from tfseg.data.dense_augment import GB_UNET_AUGMENT, NUCLEI_ANY_STAIN_AUGMENT, NUCLEI_AUGMENT
from tfseg.data.nuclei import read_nuclei
from tfseg.data.nuclei_store import NucleiStore, Prepared
from tfseg.data.nuclei_stream import PixelTargets, near_other, nuclei_dataset, read_tile
from tfseg.data.nuclei_tiles import cut_tile, tile_table
from tfseg.data.sampling import EpochSampler
from tfseg.data.warp import Warp, affine
from tfseg.types import CohortError


@pytest.fixture
def store(tmp_path):
    big = np.zeros((70, 90), np.int32)
    big[10:30, 10:30], big[10:30, 30:44], big[50:60, 60:80] = 1, 2, 3
    for name, labels in (("Kidney_a", big), ("Liver_b", np.tile(LABELS, (4, 3)))):
        pair(tmp_path / "images", name, labels.astype(np.uint16))
    made = NucleiStore(read_nuclei(tmp_path / "images"), tmp_path / "prepared")
    made.prepare()
    return made


def test_what_is_prepared_is_what_was_loaded(store):
    image, labels = store.items[0].load()
    prepared = store[0]
    assert_array_equal(prepared.image, image)
    assert_array_equal(prepared.labels, labels)
    assert_allclose(prepared.border, border_term(labels), atol=1e-6)
    assert prepared.image.dtype == np.uint8 and prepared.labels.dtype == np.int32


def test_prepared_images_are_made_again_only_where_something_changed(store):
    file = store.folder / "Kidney_a.image.npy"
    before = file.stat().st_mtime_ns
    NucleiStore(store.items, store.folder).prepare()
    assert file.stat().st_mtime_ns == before
    label = store.items[0].labels.path
    label.touch()
    NucleiStore(store.items, store.folder).prepare()
    assert file.stat().st_mtime_ns != before


def test_an_image_too_large_for_the_maps_is_named(store, monkeypatch, tmp_path):
    monkeypatch.setattr("tfseg.data.nuclei_store._LARGEST_PX", 80)
    with pytest.raises(CohortError, match=r"Kidney_a\.png: 90 × 70 px.*at most 80 px"):
        NucleiStore(store.items, tmp_path / "other").prepare()


def test_classes_and_weights_by_hand():
    labels = np.zeros((5, 9), np.int32)
    labels[0:5, 1:6], labels[0:5, 6:9] = 1, 2
    border = np.full(labels.shape, 0.5, np.float32)
    found = PixelTargets(3, (0.25, 2.0), border_px=1)(labels, border)
    row = [0, 2, 1, 1, 1, 2, 2, 1, 1]  # what touches the picture's edge has no border there
    assert_array_equal(found["segmentation"], np.tile(row, (5, 1)))
    assert_array_equal(found["weights"], np.tile([0.75] + [2.5] * 8, (5, 1)))
    assert_array_equal(PixelTargets(2)(labels, border)["segmentation"], labels > 0)


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_near_another_label_as_the_definition_says(reach):
    labels = np.random.default_rng(reach).integers(0, 3, (12, 14)).astype(np.int32) * 70_000
    slow = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(labels.shape):
        around = labels[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        slow[y, x] = (around != labels[y, x]).any()
    assert_array_equal(near_other(labels, reach), slow)


def test_a_tile_without_a_map_is_cut(store):
    for found, whole in zip(read_tile(store[0], 5, 7, 32), store[0], strict=True):
        assert_array_equal(found, cut_tile(whole, 5, 7, 32))


def test_a_map_of_whole_pixels_moves_all_planes_alike(store):
    step = affine(np.eye(2), (3.0, -2.0))
    for found, whole in zip(read_tile(store[0], 20, 20, 32, Warp((step,), 1, True)), store[0], strict=True):
        moved = cut_tile(whole, 18, 23, 32)
        assert_array_equal(found, np.rot90(moved)[:, ::-1])


def test_beyond_the_edge_every_plane_is_mirrored(store):
    step = affine(np.eye(2), (-12.0, -9.0))
    for found, whole in zip(read_tile(store[0], 0, 0, 32, Warp((step,))), store[0], strict=True):
        padded = np.pad(np.asarray(whole), ((9, 0), (12, 0)) + ((0, 0),) * (whole.ndim - 2), mode="symmetric")
        assert_array_equal(found, padded[:32, :32])


@pytest.mark.parametrize("augment", [GB_UNET_AUGMENT, NUCLEI_AUGMENT, NUCLEI_ANY_STAIN_AUGMENT])
def test_image_labels_and_weights_stay_together_under_every_map(augment):
    """An image that is painted by its labels and weights is still painted by them after the map."""
    y, x = np.mgrid[:256, :256]
    labels = ((x // 64) + 4 * (y // 64) + 1).astype(np.int32)
    smooth = (10 * (1 + np.sin(x / 40) * np.cos(y / 50))).astype(np.float32)
    image = np.stack([labels * 15, smooth * 10, smooth * 10], axis=-1).astype(np.uint8)
    moved = 0
    for seed in range(6):
        change = augment.draw(seed, 256, 256)
        found, ids, weights = read_tile(Prepared(image, labels, smooth), 0, 0, 256, change.warp)
        inner = np.zeros(ids.shape, bool)  # where cubic interpolation, magnified, meets no other label, seen or not
        inner[5:-5, 5:-5] = ~near_other(ids, 5)[5:-5, 5:-5]
        assert np.abs(found[..., 0][inner] - 15.0 * ids[inner]).max() <= 1
        assert np.abs(found[..., 1] - 10 * weights).max() <= 3
        moved += int(not np.array_equal(ids, labels))
    assert moved >= 5


def test_skew_keeps_the_centre_and_straight_lines():
    geometry = dataclasses.replace(GB_UNET_AUGMENT.geometry, p=1.0, elastic=None, grid_distortion=0.0)
    geometry = dataclasses.replace(geometry, rotate_deg=0.0, shear_deg=0.0, flips=False, turns=False)
    warp = geometry.draw(np.random.default_rng(0), 256, 256)
    assert len(warp.steps) == 1
    t = np.linspace(-100, 100, 9, dtype=np.float32)
    x, y = warp(t, 0.5 * t + 20)
    steps = np.diff(np.stack([x, y]), axis=1)
    assert_allclose(np.cross(steps[:, :-1].T, steps[:, 1:].T), 0, atol=1e-2)
    assert_allclose(warp(np.float32([0]), np.float32([0])), 0)
    assert not np.allclose(x, t)


def test_batches_from_any_step_are_those_of_the_whole_stream(store):
    table = tile_table(store.items, 32)
    targets = PixelTargets(3)
    options = {"tile_px": 32, "augment": NUCLEI_AUGMENT, "threads": 3}
    whole = list(nuclei_dataset(store, table, EpochSampler(len(table), 1), 3, targets, **options).take(4))
    late = list(nuclei_dataset(store, table, EpochSampler(len(table), 1), 3, targets, start_step=2, **options).take(2))
    for (image, target), (again, same) in zip(whole[2:], late, strict=True):
        assert image["image"].shape == (3, 32, 32, 3) and image["image"].dtype == "float32"
        assert_array_equal(image["image"], again["image"])
        assert target.keys() == {"segmentation", "weights"}
        for name in target:
            assert_array_equal(target[name], same[name])


def test_without_a_sampler_every_tile_comes_once_unchanged(store):
    table = tile_table(store.items, 32)
    batches = list(nuclei_dataset(store, table, None, 4, PixelTargets(2), tile_px=32, augment=NUCLEI_AUGMENT))
    images = np.concatenate([inputs["image"] for inputs, _ in batches])
    assert len(images) == len(table) and batches[-1][0]["image"].shape[0] == (len(table) - 1) % 4 + 1
    for row, image in zip(table.itertuples(), images, strict=True):
        assert_array_equal(image, cut_tile(store[row.item].image, row.top, row.left, 32))
