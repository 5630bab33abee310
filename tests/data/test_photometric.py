"""Colours by hand, and against albumentations where it does the same."""

from __future__ import annotations

import albumentations
import cv2
import numpy as np
import pytest
from skimage import data

from tfseg.data import photometric as p

BROWN, BLUE, PINK, GREY, GLASS = (150, 100, 60), (90, 100, 170), (220, 120, 170), (120, 120, 120), (244, 243, 240)


@pytest.fixture(scope="module")
def stained() -> np.ndarray:
    return np.ascontiguousarray(data.immunohistochemistry()[150:278, 180:308])


def one(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((4, 4, 3), colour, np.uint8)


def hsv(colour: np.ndarray) -> list[int]:
    return cv2.cvtColor(colour[:1, :1], cv2.COLOR_RGB2HSV)[0, 0].astype(int).tolist()


@pytest.mark.parametrize(
    ("colour", "moves"), [(BROWN, "brown"), (BLUE, "blue"), (PINK, None), (GREY, None), (GLASS, None)]
)
def test_targeted_hsv_finds_stains_by_hue(colour, moves):
    for name, shifts in (("brown", ((40, -30), (0, 0))), ("blue", ((0, 0), (40, -30)))):
        moved = p.targeted_hsv(one(colour), *shifts)
        if name != moves:
            np.testing.assert_array_equal(moved, one(colour))
        else:
            hue, saturation, value = hsv(one(colour))
            found = hsv(moved)
            assert abs(found[0] - hue) <= 1
            assert abs(found[1] - (saturation + 40)) <= 3 and found[2] == value - 30


def test_targeted_hsv_leaves_all_else_to_the_bit(stained):
    picture = cv2.cvtColor(stained, cv2.COLOR_RGB2HSV)
    brown, blue = (p.stained_pixels(picture, stain) > 0 for stain in (p.BROWN, p.BLUE))
    assert 0.3 < brown.mean() < 0.95 and 0.005 < blue.mean() < 0.3 and not (brown & blue).any()
    for shifts, moving in ((((81, 81), (0, 0)), brown), (((0, 0), (-40, -60)), blue), (((9, 9), (9, 9)), brown | blue)):
        moved = p.targeted_hsv(stained, *shifts)
        changed = (moved != stained).any(axis=2)
        assert not (changed & ~moving).any() and changed[moving].mean() > 0.95
    np.testing.assert_array_equal(p.targeted_hsv(stained), stained)


def test_targeted_hsv_stays_in_range():
    dark = p.targeted_hsv(one((60, 40, 24)), brown=(81, -80))
    assert dark.max() == 0
    assert hsv(p.targeted_hsv(one((250, 170, 100)), brown=(81, 81)))[1:] == [pytest.approx(234, abs=3), 255]


@pytest.mark.parametrize(
    ("arguments", "value", "expected"),
    [
        ({"brightness": 1.2}, 100, 120),
        ({"brightness": 1.2}, 250, 255),
        ({"contrast": 0.5}, 100, 114),  # 127.5 − 27.5 / 2 = 113.75
        ({"gamma": 2.0}, 128, 64),  # 255 · (128 / 255)² = 64.25
        ({"brightness": 0.5, "contrast": 2.0}, 150, 86),  # (127.5 + 45) / 2 = 86.25
        ({}, 77, 77),
    ],
)
def test_tone(arguments, value, expected):
    assert (p.tone(one((value,) * 3), **arguments) == expected).all()


def test_hue_and_gains():
    assert p.shift_hue(one((200, 0, 0)), 120)[0, 0].tolist() == [pytest.approx(0, abs=5), 200, pytest.approx(0, abs=5)]
    paler = p.shift_hue(one((200, 100, 100)), 0, 0.5)[0, 0]
    assert paler[0] == 200 and paler[1:].tolist() == [pytest.approx(150, abs=1)] * 2
    assert p.gains(one((100, 100, 200)), np.array([1.1, 0.5, 1.5]))[0, 0].tolist() == [110, 50, 255]


def test_clahe_is_albumentations(stained):
    expected = albumentations.CLAHE((2.5, 2.5), (8, 8), p=1.0)(image=stained)["image"]
    np.testing.assert_array_equal(p.equalise(stained, 2.5), expected)


def test_principal_colours():
    """Colours on a line: one axis along it, with their standard deviation; the others have none."""
    along = np.array([1.0, 2.0, -2.0]) / 3
    amounts = np.random.default_rng(0).uniform(-40, 40, (64, 64))
    axes = p.principal_colours(np.rint(128 + amounts[..., None] * along).astype(np.uint8))
    lengths = np.linalg.norm(axes, axis=0)
    assert lengths[2] == pytest.approx(amounts[::4, ::4].std(), rel=0.05) and lengths[:2].max() < 1
    np.testing.assert_allclose(np.abs(axes[:, 2] / lengths[2] @ along), 1, atol=1e-3)
    assert p.add_colour(one((100, 250, 3)), np.array([10.0, 10.0, -10.0]))[0, 0].tolist() == [110, 255, 0]


def test_emboss():
    """Kernel [[−2, −1, 0], [−1, 1, 1], [0, 1, 2]] sums to 1: a flat picture stays; a step to the right gains."""
    assert (p.emboss(one(GREY), 0.7) == 120).all()
    step = np.zeros((5, 6, 3), np.uint8)
    step[:, 3:] = 20
    row = p.emboss(step, 1.0)[2, :, 0]
    assert row.tolist() == [0, 0, 60, 80, 20, 20]  # 1+2 of the right column; all but −2−1 of the left; flat


def test_motion_blur_is_a_mean_along_a_line():
    impulse = np.zeros((9, 9, 3), np.uint8)
    impulse[4, 4] = 250
    across = p.motion_blur(impulse, 5, 0)[..., 0]
    assert across[4].tolist() == [0, 0, 50, 50, 50, 50, 50, 0, 0] and across.sum() == 250
    assert p.motion_blur(impulse, 5, 90)[..., 0].T.tolist() == across.tolist()


def test_gaussian_blur_and_glass(stained):
    np.testing.assert_array_equal(p.gaussian_blur(stained, 1.5), cv2.GaussianBlur(stained, (0, 0), 1.5))
    glass = p.glass_blur(stained, 2.0, np.random.default_rng(0))
    assert (glass != stained).any() and abs(glass.mean() - stained.mean()) < 1
    np.testing.assert_array_equal(glass, p.glass_blur(stained, 2.0, np.random.default_rng(0)))


def test_noise():
    flat = np.full((200, 200, 3), (120, 60, 30), np.uint8)
    noisy = p.intensity_noise(flat, 20, np.random.default_rng(0)).astype(float)
    value = noisy.max(axis=2)
    assert 100 <= value.min() < 102 and 138 < value.max() <= 140 and value.std() == pytest.approx(20 / 3**0.5, rel=0.03)
    assert np.abs(noisy[..., 1] / noisy[..., 0] - 0.5).max() < 0.01, "hue and saturation stay"
    gauss = p.gaussian_noise(flat, 8, np.random.default_rng(0)).astype(float) - flat
    assert gauss[..., 0].std() == pytest.approx(8, rel=0.03) and abs(gauss.mean()) < 0.2
    assert abs(np.corrcoef(gauss[..., 0].ravel(), gauss[..., 1].ravel())[0, 1]) < 0.02


def test_occlusion():
    boxes = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, -9.0, 99.0, 1.0], [-9.0, -9.0, -1.0, -1.0]])
    picture = one(GREY).repeat(2, axis=0).repeat(2, axis=1)
    covered = p.occlude(picture, boxes, np.array([[1, 1, 1], [2, 2, 2], [3, 3, 3]], np.uint8))
    expected = picture[..., 0].copy()
    expected[2:4, 1:3], expected[:1, 5:] = 1, 2
    assert covered[..., 0].tolist() == expected.tolist() and (picture == 120).all()
