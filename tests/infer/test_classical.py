"""Otsu, watershed and the Fiji steps on drawn nuclei."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tfseg.infer.classical import CLASSICAL, fiji, otsu, watershed
from tfseg.infer.instances import InstanceOptions
from tfseg.metrics import instance_scores
from tfseg.types import ModelError

METHODS = [pytest.param(method, id=name) for name, method in CLASSICAL.items()]


def picture(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(image, labels): two nuclei that touch and one alone, violet on pink, with a little noise."""
    y, x = np.mgrid[:90, :120]
    centres = [(30, 30, 13), (30, 52, 13), (65, 90, 11)]
    away = np.stack([np.hypot(y - cy, x - cx) - r for cy, cx, r in centres])
    labels = np.where(away.min(axis=0) <= 0, away.argmin(axis=0) + 1, 0)
    image = np.where((labels > 0)[..., None], (90, 60, 140), (230, 170, 205)).astype(np.float64)
    image = ndimage.gaussian_filter(image, (0.8, 0.8, 0)) + np.random.default_rng(seed).normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8), labels


def test_otsu_leaves_touching_nuclei_together():
    image, labels = picture()
    found = otsu(image)
    assert found.dtype == np.int32 and found.max() == 2
    together = np.where(labels == 2, 1, labels)
    assert instance_scores(together, found)["aji"] > 0.9


@pytest.mark.parametrize(
    "method", [fiji, lambda image: fiji(image, channel="haematoxylin")], ids=["grey", "haematoxylin"]
)
def test_fiji_splits_them(method):
    image, labels = picture()
    found = method(image)
    assert found.max() == 3 and instance_scores(labels, found)["aji"] > 0.85


def test_watershed_splits_at_every_maximum():
    image, _labels = picture()
    found = watershed(image)
    np.testing.assert_array_equal(found > 0, otsu(image) > 0)
    assert found.max() >= 3 and found[30, 30] != found[30, 52]


def test_fiji_normalises_first():
    image, _labels = picture()
    seen = []

    def invert(given: np.ndarray) -> np.ndarray:
        seen.append(given)
        return 255 - given

    np.testing.assert_array_equal(fiji(255 - image, normalise=invert), fiji(image))
    np.testing.assert_array_equal(seen[0], 255 - image)


def test_dark_stroma_is_nucleus_in_grey_and_not_in_haematoxylin():
    image, _labels = picture()
    image[75:85, 5:60] = (150, 20, 60)  # dark eosin
    assert fiji(image)[80, 30] > 0
    assert fiji(image, channel="haematoxylin")[80, 30] == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_of_one_colour_has_no_nuclei(method, value):
    assert not method(np.full((40, 50, 3), value, np.uint8)).any()


@pytest.mark.parametrize("method", METHODS)
def test_specks_go_and_the_result_is_the_same_again(method):
    image, _ = picture()
    image[80:83, 5:8] = (90, 60, 140)
    assert method(image)[81, 6] == 0
    np.testing.assert_array_equal(method(image), method(image.copy()))
    if method is otsu:
        assert method(image, InstanceOptions(min_area_px=1))[81, 6] > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((5, 5, 4), np.uint8)])
def test_other_than_uint8_rgb_is_refused(method, bad):
    with pytest.raises(ValueError, match="uint8 RGB"):
        method(bad)


def test_unknown_channel_names_the_known():
    with pytest.raises(ModelError, match="grey, haematoxylin"):
        fiji(picture()[0], channel="red")
