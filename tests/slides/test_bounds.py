"""Slides of which OpenSlide says that only a part was scanned."""

from __future__ import annotations

import numpy as np
import openslide
import pytest
from position_slide import position_image, pyramid, reference, write_tiff

from tfseg.slides import open_slide
from tfseg.types import Window

IMAGE = position_image(640, 512)
BOUNDS = (101, 66, 402, 300)


def open_with_bounds(monkeypatch, path, bounds):
    class Bounded(openslide.OpenSlide):
        @property
        def properties(self):
            named = zip(("x", "y", "width", "height"), bounds, strict=False)
            return {**super().properties, **{f"openslide.bounds-{side}": str(value) for side, value in named}}

    monkeypatch.setattr(openslide, "OpenSlide", Bounded)
    return open_slide(write_tiff(path, pyramid(IMAGE, (1, 2, 4))))


def test_coordinates_begin_at_the_bounds(tmp_path, monkeypatch):
    slide = open_with_bounds(monkeypatch, tmp_path / "bounded.tif", BOUNDS)
    x, y, width, height = BOUNDS
    assert slide.size == (width, height) and slide.level_downsamples == (1, 2, 4)
    cropped = IMAGE[y : y + height, x : x + width]
    np.testing.assert_array_equal(slide.whole(0.25), cropped)
    for window in (Window(0, 0, 40, 40, 0.25), Window(200, 150, 41, 33, 0.37), Window(390, 290, 30, 30, 0.25)):
        left, top, _, _ = window.bounds(0.25)
        scale = window.mpp / 0.25
        expected = reference(cropped, (left, top), (scale, scale), (window.width_px, window.height_px))
        np.testing.assert_allclose(slide.read(window), expected, atol=0.51)


@pytest.mark.parametrize("mpp", [0.5, 1.0, 1.3, 2.0])
def test_lower_levels_are_offset_by_parts_of_their_pixels(tmp_path, monkeypatch, mpp):
    slide = open_with_bounds(monkeypatch, tmp_path / "bounded.tif", BOUNDS)
    x, y, width, height = BOUNDS
    cropped = IMAGE[y : y + height, x : x + width]
    scale = mpp / 0.25
    for window in (Window(0, 0, 24, 24, mpp), Window(201, 150, 40, 30, mpp), Window(402, 300, 24, 24, mpp)):
        left, top, _, _ = window.bounds(0.25)
        expected = reference(cropped, (left, top), (scale, scale), (window.width_px, window.height_px))
        error = np.abs(slide.read(window) - expected)[..., :2]
        assert error.max() <= 5 and error.mean() < 1


@pytest.mark.parametrize(
    ("bounds", "size"),
    [
        ((101, 66), (640, 512)),
        ((0, 0, 0, 0), (640, 512)),
        ((700, 0, 50, 50), (640, 512)),
        (("", "", "", ""), (640, 512)),
        ((600, 500, 100, 100), (40, 12)),
        ((-5, -5, 100, 100), (95, 95)),
    ],
)
def test_bounds_that_are_incomplete_or_reach_outside(tmp_path, monkeypatch, bounds, size):
    assert open_with_bounds(monkeypatch, tmp_path / "bounded.tif", bounds).size == size
