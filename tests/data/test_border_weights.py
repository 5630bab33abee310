"""Weight maps of nuclei: by hand, and against a slow implementation that looks at every nucleus in the whole image."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from scipy import ndimage
from scipy.spatial.distance import cdist

from tfseg.data.border_weights import border_term, border_weights, class_balance


def slow_term(labels: np.ndarray, w0: float, sigma_px: float) -> np.ndarray:
    """A distance transform of the whole image for every nucleus, sorted."""
    ids = [i for i in np.unique(labels) if i > 0]
    if len(ids) < 2:
        return np.zeros(labels.shape)
    distances = np.sort([ndimage.distance_transform_edt(labels != i) for i in ids], axis=0)
    return w0 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma_px**2))


def random_labels(seed: int, shape: tuple[int, int] = (90, 120), nuclei: int = 25) -> np.ndarray:
    """Ellipses thrown at random: touching, overlapping, cut by the edge; ids with gaps."""
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for i in range(nuclei):
        cy, cx = random.uniform(0, shape[0]), random.uniform(0, shape[1])
        a, b = random.uniform(1, 9, 2)
        labels[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 <= 1] = 3 * i + 1
    return labels


def test_two_single_pixels_by_hand():
    labels = np.zeros((1, 9), np.uint8)
    labels[0, 2], labels[0, 6] = 1, 2
    sums = np.array([2 + 6, 1 + 5, 0 + 4, 1 + 3, 2 + 2, 3 + 1, 4 + 0, 5 + 1, 6 + 2])
    assert_allclose(border_term(labels)[0], 10 * np.exp(-(sums**2) / 50), atol=1e-7)
    expected = 10 * np.exp(-(sums**2) / 50) + np.where(labels[0] > 0, 9 / 4, 9 / 14)
    assert_allclose(border_weights(labels)[0], expected, atol=1e-6)


def test_touching_nuclei_weigh_most_on_both_sides():
    labels = np.array([[1, 1, 2, 2]], np.uint16)
    assert_allclose(border_term(labels)[0], 10 * np.exp(-np.array([4, 1, 1, 4]) / 50), atol=1e-7)


def test_diagonal_neighbour_has_distance_root_two():
    labels = np.array([[1, 0], [0, 2]])
    assert_allclose(border_term(labels), 10 * np.exp(-np.array([[2, 4], [4, 2]]) / 50), atol=1e-7)


def test_the_two_nearest_are_different_nuclei_and_a_third_does_not_count():
    labels = np.array([[1, 0, 1, 0, 0, 2, 3]])  # beside two pieces of 1, the nearest other is 2
    assert border_term(labels)[0, 1] == pytest.approx(10 * math.exp(-((1 + 4) ** 2) / 50))
    assert border_term(labels)[0, 5] == pytest.approx(10 * math.exp(-1 / 50))


@pytest.mark.parametrize("ids", [(), (7,)], ids=["none", "one"])
def test_fewer_than_two_nuclei_have_no_border(ids):
    labels = np.zeros((40, 40), np.int32)
    for i in ids:
        labels[10:20, 5:9] = i
    assert not border_term(labels).any()
    balance = class_balance([labels])
    assert set(np.unique(border_weights(labels))) == {np.float32(w) for w in balance}


def test_w0_and_sigma_and_class_weights_are_used():
    labels = np.array([[1, 0, 2]])
    found = border_weights(labels, (0.5, 3.0), w0=4.0, sigma_px=2.0)
    assert_allclose(found, [[3 + 4 * math.exp(-0.5), 0.5 + 4 * math.exp(-0.5), 3 + 4 * math.exp(-0.5)]], atol=1e-6)
    assert not border_term(labels, w0=0.0).any()


@pytest.mark.parametrize("sigma_px", [1.5, 5.0, 12.0])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_slow_implementation(seed, sigma_px):
    labels = random_labels(seed)
    assert_allclose(border_term(labels, sigma_px=sigma_px), slow_term(labels, 10.0, sigma_px), rtol=0, atol=1.01e-7)
    expected = slow_term(labels, 10.0, sigma_px) + np.where(labels > 0, *reversed(class_balance([labels])))
    assert_allclose(border_weights(labels, sigma_px=sigma_px), expected, rtol=0, atol=1e-6)


def test_distances_are_those_between_pixel_centres():
    """Independent of any distance transform: all pairs of pixels."""
    labels = random_labels(9, (40, 50), 6)
    pixels = np.argwhere(np.ones_like(labels, bool))
    nearest = np.sort([cdist(pixels, np.argwhere(labels == i)).min(1) for i in np.unique(labels)[1:]], axis=0)
    expected = 10 * np.exp(-((nearest[0] + nearest[1]) ** 2) / 50)
    assert_allclose(border_term(labels).ravel(), expected, rtol=0, atol=1.01e-7)


def test_ids_and_dtype_do_not_matter():
    labels = random_labels(5)
    term = border_term(labels)
    table = np.random.default_rng(0).permutation(np.arange(1, labels.max() + 1))
    shuffled = np.where(labels > 0, table[np.maximum(labels, 1) - 1], 0)
    far_apart = labels.astype(np.int64) * 2**40
    for same in (shuffled, labels.astype(np.uint16), labels.astype(np.uint64), far_apart, np.asfortranarray(labels)):
        assert_allclose(border_term(same), term, rtol=1e-12)
    full = np.where(labels > 0, labels, 10**9)  # no background at all, and large ids
    assert_allclose(border_term(full), slow_term(full, 10.0, 5.0), rtol=0, atol=1.01e-7)


def test_class_balance_gives_both_classes_half_over_all_images():
    images = [np.array([[0, 0, 0, 1]]), np.array([[2, 0, 0, 0]])]
    background, nucleus = class_balance(images)
    assert (background, nucleus) == pytest.approx((8 / 12, 8 / 4))
    assert background * 6 == pytest.approx(nucleus * 2)
    assert class_balance([np.zeros((3, 3))]) == class_balance([np.ones((3, 3))]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"\(H, W\).*uint8 of shape \(4, 4, 3\)"),
        (np.zeros((4, 4)), "integers.*float64"),
        (np.zeros((4, 4), bool), "integers.*bool"),
        (np.full((4, 4), -3), "negative. Received: -3"),
    ],
    ids=["channels", "float", "bool", "negative"],
)
def test_wrong_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        border_weights(labels)


def test_wrong_settings_are_refused():
    for wrong in ({"w0": -1.0}, {"sigma_px": 0.0}, {"sigma_px": math.nan}):
        with pytest.raises(ValueError, match="w0 >= 0 and sigma_px > 0"):
            border_term(np.zeros((2, 2), int), **wrong)


@pytest.mark.realdata
def test_equals_the_slow_implementation_on_real_nuclei(shared_data: Path):
    path = shared_data / "nuclei" / "monuseg24" / "labels" / "Kidney_TCGA-HE-7128-01Z-00-DX1.png"
    labels = np.asarray(Image.open(path)).astype(np.int32)[:256, :256]
    assert len(np.unique(labels)) > 20
    assert_allclose(border_term(labels), slow_term(labels, 10.0, 5.0), rtol=0, atol=1.01e-7)
