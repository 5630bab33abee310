"""Tissue masks and the part of a patch that is tissue."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfseg.geometry import Grid
from tfseg.slides import open_slide
from tfseg.slides.tissue import TissueMask, otsu_tissue, tissue_mask

PINK = (200, 100, 150)


def slide_with(*rectangles, size=(640, 480), color=PINK, mpp=1.0):
    """A white slide with coloured rectangles (left, top, right, bottom)."""
    image = np.full((size[1], size[0], 3), 255, np.uint8)
    for left, top, right, bottom in rectangles:
        image[top:bottom, left:right] = color
    return open_slide([image], mpp=mpp)


def test_colour_is_tissue():
    tissue = tissue_mask(slide_with((160, 80, 480, 400)))
    expected = np.zeros((60, 80), bool)
    expected[10:50, 20:60] = True
    np.testing.assert_array_equal(tissue.mask, expected)
    assert (tissue.mpp, tissue.slide_mpp, tissue.slide_size) == (8.0, 1.0, (640, 480))


@pytest.mark.parametrize(("color", "found"), [((255, 234, 234), True), ((255, 235, 235), False), ((90, 90, 90), False)])
def test_saturation_above_20_of_255(color, found):
    # Saturation is 255 · (max - min) / max: 21 and 20 here.
    assert tissue_mask(slide_with((0, 0, 640, 480), color=color)).mask.all() == found


def test_closing_fills_narrow_gaps_with_5_then_3_pixels():
    slide = slide_with((80, 80, 240, 400), (272, 80, 400, 400), (448, 80, 600, 400))  # gaps of 4 and 6 mask pixels
    row = tissue_mask(slide).mask[30]
    assert row[30:34].all() and not row[50:56].any()
    assert not tissue_mask(slide, closing=()).mask[30, 30:34].any()
    assert tissue_mask(slide, closing=(7,)).mask[30, 50:56].all()


def test_empty_slide_has_no_tissue():
    slide = slide_with()
    assert not tissue_mask(slide).mask.any()
    assert not otsu_tissue(slide, 64).any()


def test_otsu_splits_two_saturations():
    image = np.full((300, 400, 3), (250, 245, 250), np.uint8)
    image[100:200, 100:300] = PINK
    found = otsu_tissue(open_slide([image], mpp=1.0), size_px=128)
    assert found.shape == (128, 128) and found.dtype == bool
    assert found.mean() == pytest.approx(100 * 200 / 300 / 400, abs=0.02)
    saturation = cv2.cvtColor(open_slide([image], mpp=1.0).fit((128, 128)), cv2.COLOR_RGB2HSV)[..., 1]
    np.testing.assert_array_equal(found, cv2.threshold(saturation, 0, 1, cv2.THRESH_OTSU)[1].astype(bool))


def brute_fraction(tissue: TissueMask, left: float, top: float, right: float, bottom: float) -> float:
    """Sum over all pixels of the mask of their overlap with the rectangle, cut at the slide's edges."""
    scale = tissue.mpp / tissue.slide_mpp
    total = 0.0
    for row, column in np.argwhere(tissue.mask):
        width = min((column + 1) * scale, right, tissue.slide_size[0]) - max(column * scale, left)
        height = min((row + 1) * scale, bottom, tissue.slide_size[1]) - max(row * scale, top)
        total += max(0.0, width) * max(0.0, height)
    return total / ((right - left) * (bottom - top))


MASK = np.random.default_rng(3).random((13, 17)) < 0.4
TISSUE = TissueMask(MASK, mpp=8.0, slide_mpp=0.5, slide_size=(265, 201))


@settings(max_examples=40, deadline=None)
@given(st.floats(-80, 300), st.floats(-80, 250), st.floats(1, 200), st.floats(1, 200))
def test_fraction_cuts_mask_pixels_exactly(left, top, width, height):
    bounds = (left, top, left + width, top + height)
    assert TISSUE.fraction(bounds) == pytest.approx(brute_fraction(TISSUE, *bounds), abs=1e-5)


@pytest.mark.parametrize(
    ("patch_px", "stride_px", "mpp"), [(16, 16, 1.0), (20, 7, 1.0), (32, 16, 0.7), (500, 500, 1.0)]
)
def test_fractions_of_a_grid(patch_px, stride_px, mpp):
    grid = Grid((265, 201), 0.5, patch_px, stride_px, mpp)
    out = TISSUE.fractions(grid)
    assert out.shape == grid.shape and out.dtype == np.float32
    for row, column in grid.cells():
        bounds = grid.window(row, column).bounds(0.5)
        assert out[row, column] == pytest.approx(brute_fraction(TISSUE, *bounds), abs=1e-5)


def test_full_mask_is_one_inside_and_less_past_the_edge():
    tissue = TissueMask(np.ones((13, 17), bool), 8.0, 0.5, (265, 201))
    out = tissue.fractions(Grid((265, 201), 0.5, 50, 50, 1.0))
    np.testing.assert_allclose(out[:2, :2], 1)
    assert out[-1, -1] == pytest.approx(65 / 100 * 1 / 100)


@pytest.mark.realdata
def test_real_slide(shared_data):
    slide = open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs")
    tissue = tissue_mask(slide)
    assert tissue.mask.shape == (186, 139)
    assert 0.3 < tissue.mask.mean() < 0.6
    overview = slide.whole(8.0)
    assert overview[tissue.mask].mean() < overview[~tissue.mask].mean() - 30
