"""Labelled nuclei in other stains: by hand, where they were, the same again, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from nuclei_files import write
from numpy.testing import assert_allclose, assert_array_equal
from toy_nuclei import picture
from two_stains import EOSIN, HAEMATOXYLIN

from tfseg.data.restain import Counterstains, Restain, compose, counterstains, haematoxylin
from tfseg.types import CohortError, ModelError, SlideError


def stored(folder: Path, plane: np.ndarray, name: str = "plane") -> Counterstains:
    np.save(folder / f"{name}.npy", plane)
    return Counterstains((folder / f"{name}.npy",), name)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """Nowhere a second stain."""
    return stored(tmp_path_factory.mktemp("empty"), np.zeros((300, 300), np.uint8), "empty")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Everywhere as much as a picture's 99th percentile."""
    return stored(tmp_path_factory.mktemp("full"), np.full((300, 300), 100, np.uint8), "full")


def amounts(side: int = 96) -> np.ndarray:
    """Of haematoxylin in three discs, of eosin rising from left to right; glass at the left."""
    y, x = np.mgrid[:side, :side]
    eosin = np.where(x < 16, 0.0, 0.2 + 1.3 * (x - 16) / side)
    inside = np.any([np.hypot(y - row, x - column) < 9 for row, column in ((25, 40), (60, 70), (75, 35))], axis=0)
    return np.stack([np.where(inside, 1.2, 0.0), np.where(inside, 0.1, eosin)], axis=-1)


def two_stained(side: int = 96) -> np.ndarray:
    return np.rint(255 * np.exp(-amounts(side) @ np.stack([HAEMATOXYLIN, EOSIN]))).astype(np.uint8)


def test_light_that_passes_two_stains_by_hand():
    first, second = np.array([[0.0, 1.0]], np.float32), np.array([[0.5, 2.0]], np.float32)
    found = compose(
        first, np.array([0.6, 0.8, 0.0]), second, np.array([0.0, 0.6, 0.8]), np.array([255.0, 240.0, 400.0])
    )
    expected = [
        [
            [255, 240 * math.exp(-0.3), 255],  # 400 · exp(−0.4) = 268 is more than there is
            [255 * math.exp(-0.6), 240 * math.exp(-0.8 - 1.2), 400 * math.exp(-1.6)],
        ]
    ]
    assert_array_equal(found, np.rint(expected))
    assert found.dtype == np.uint8


def test_haematoxylin_is_what_takes_red_above_the_background():
    red = np.full((10, 10), 200, np.uint8)
    red[2:5, 2:5], red[7, 7] = 50, 230
    image = np.stack([red, np.random.default_rng(0).integers(0, 256, (10, 10), np.uint8), red // 2], axis=-1)
    nuclei = np.zeros((10, 10), bool)
    nuclei[2:5, 2:5] = True
    expected = np.zeros((10, 10))
    expected[nuclei] = 1.0  # the darkest
    assert_allclose(haematoxylin(image, nuclei), expected, atol=1e-6)


def test_noise_without_nuclei_is_not_blown_up():
    image = np.random.default_rng(1).integers(195, 206, (64, 64, 3), np.uint8)
    assert haematoxylin(image, np.zeros((64, 64), bool)).max() < 0.1


def test_second_stain_of_a_picture_made_of_two(tmp_path):
    write(tmp_path / "pictures" / "a.png", two_stained())
    plane = np.load(*counterstains(tmp_path / "pictures", tmp_path / "made").files)
    assert plane.dtype == np.uint8 and plane.shape == (96, 96)
    truth = amounts()[..., 1]
    inner = truth > 0.3
    assert np.corrcoef(plane[inner], truth[inner])[0, 1] > 0.99
    assert plane[:, :14].max() <= 2, "glass holds none"
    tissue = plane[amounts().sum(-1) > 0.5]
    assert 85 <= np.percentile(tissue, 99) <= 115


def test_planes_are_made_once_and_anew_for_other_pictures(tmp_path):
    file = write(tmp_path / "pictures" / "a.png", two_stained())
    first = counterstains(tmp_path / "pictures", tmp_path / "made")
    before = first.files[0].stat().st_mtime_ns
    assert counterstains(tmp_path / "pictures", tmp_path / "made") == first
    assert first.files[0].stat().st_mtime_ns == before
    write(file, two_stained()[::-1])
    other = counterstains(tmp_path / "pictures", tmp_path / "made")
    assert other.digest != first.digest and first.files[0].is_file(), "another run may read it"
    file.rename(file.with_name("b.png"))
    assert counterstains(tmp_path / "pictures", tmp_path / "made") == other, "what counts is the content"


def test_pictures_that_do_not_do_are_named(tmp_path):
    with pytest.raises(CohortError, match=r"nowhere: no picture to take a counterstain from"):
        counterstains(tmp_path / "nowhere", tmp_path / "made")
    write(tmp_path / "pictures" / "glass.png", np.full((40, 40, 3), 250, np.uint8))
    with pytest.raises(SlideError, match=r"glass\.png: .*no stains.*Take it out"):
        counterstains(tmp_path / "pictures", tmp_path / "made")
    (tmp_path / "folders" / "x.png").mkdir(parents=True)
    with pytest.raises(CohortError, match="folders: no picture"):
        counterstains(tmp_path / "folders", tmp_path / "made")


def test_the_same_seed_gives_the_same_picture_and_another_another(full):
    image, labels = picture(3)
    restain = Restain(full, p=1.0)
    first = restain(image, labels, 5)
    assert_array_equal(first, restain(image, labels, 5))
    assert np.abs(first.astype(int) - restain(image, labels, 6)).max() > 20
    assert first.shape == image.shape and first.dtype == np.uint8


def test_as_often_as_asked(full):
    image, labels = picture(3)
    assert_array_equal(Restain(full, p=0.0)(image, labels, 1), image)
    kept = sum(np.array_equal(Restain(full, p=0.6)(image, labels, seed), image) for seed in range(200))
    assert 55 <= kept <= 105  # 80 expected, sd 7


@pytest.mark.parametrize("seed", range(12))
def test_nuclei_stay_where_they_are_and_dark_in_red(seed, empty):
    image, labels = picture(seed)
    found = Restain(empty, p=1.0)(image, labels, seed).astype(int)
    inside, outside = found[labels > 0], found[labels == 0]
    assert inside[:, 0].max() < np.percentile(outside[:, 0], 10)
    assert np.median(outside) > 200, "no second stain: the rest is nearly glass"
    assert_array_equal(found[..., 0] < (np.median(inside[:, 0]) + np.median(outside[:, 0])) / 2, labels > 0)


def test_brown_absorbs_blue_and_eosin_green(full):
    image, labels = picture(2)
    for brown, weakest in ((1.0, 2), (0.0, 1)):
        restain = Restain(full, p=1.0, brown=brown)
        medians = [np.median(restain(image, labels, seed)[labels == 0], axis=0) for seed in range(30)]
        strong = [found for found in medians if np.ptp(found) > 60]
        assert len(strong) >= 5
        assert all(np.argmin(found) == weakest for found in strong)


def test_pictures_of_any_shape(full):
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    labels = np.zeros((40, 70), np.int32)
    labels[5:20, 5:20] = 2**31 - 1
    for seed in range(4):
        assert Restain(full, p=1.0)(image, labels, -seed).shape == (40, 70, 3)
    assert Restain(full, p=1.0)(image, np.ones((40, 70), np.int32), 0).shape == (40, 70, 3)


def test_a_plane_smaller_than_the_picture_goes_on_mirrored(tmp_path):
    """Stripes of 4 px are 4 / scale px wide everywhere, not stretched."""
    stripes = np.tile(np.repeat(np.uint8([0, 100]), 4), (30, 5))
    part = Restain(stored(tmp_path, stripes))._part((100, 200), np.random.default_rng(3))
    assert part.shape == (100, 200)
    scale = np.random.default_rng(3).uniform(0.7, 1.6)
    changes = np.count_nonzero(np.diff((part[50] > 0.5).astype(int)))
    assert changes == pytest.approx(200 * scale / 4, rel=0.1)


def test_bright_nuclei_have_no_haematoxylin(full):
    _, labels = picture(1)
    image = np.where(labels[..., None] > 0, np.uint8(190), np.uint8(12)).repeat(3, axis=2)
    assert_array_equal(Restain(full, p=1.0)(image, labels, 0), image)


@pytest.mark.parametrize("wrong", [{"p": 1.5}, {"brown": -0.1}])
def test_probabilities_out_of_range_are_refused(wrong, full):
    with pytest.raises(ModelError, match=f"restain: {next(iter(wrong))} is a probability"):
        Restain(full, **wrong)


def test_the_key_changes_with_everything(full, empty):
    one = Restain(full)
    others = [dataclasses.replace(one, p=0.1), dataclasses.replace(one, brown=0.1), Restain(empty)]
    assert len({one.key, *(other.key for other in others)}) == 4
