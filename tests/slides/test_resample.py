"""Area averaging against explicit overlaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from position_slide import reference

from tfseg.slides.resample import Axis, box_average, integral, integral_at, resample

IMAGE = np.random.default_rng(0).integers(0, 256, (37, 41, 3), np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-30, 60),
    st.floats(-30, 60),
    st.floats(0.05, 9),
    st.floats(0.05, 9),
    st.integers(1, 20),
    st.integers(0, 255),
)
def test_box_average_is_the_mean_over_the_rectangle(left, top, step_x, step_y, count, fill):
    x, y = Axis(left, step_x, count, 0, 41), Axis(top, step_y, 7, 0, 37)
    expected = reference(IMAGE, (left, top), (step_x, step_y), (count, 7), fill)
    np.testing.assert_allclose(box_average(IMAGE, x, y, fill), expected, atol=0.502)


@settings(max_examples=60, deadline=None)
@given(st.integers(-20, 45), st.integers(-20, 45), st.integers(1, 9), st.integers(1, 9), st.integers(1, 12))
def test_whole_pixels_take_the_fast_path_and_agree(left, top, step_x, step_y, count):
    x, y = Axis(left, step_x, count, 0, 41), Axis(top, step_y, 6, 0, 37)
    assert x.is_whole() and y.is_whole()
    fast, general = resample(IMAGE, x, y).astype(int), box_average(IMAGE, x, y).astype(int)
    assert np.abs(fast - general).max() <= 1
    np.testing.assert_allclose(fast, reference(IMAGE, (left, top), (step_x, step_y), (count, 6)), atol=0.502)


def test_many_blocks_give_what_one_gives(monkeypatch):
    x, y = Axis(-3.3, 1.37, 35, 0, 41), Axis(-5.9, 1.61, 40, 0, 37)
    at_once = box_average(IMAGE, x, y)
    monkeypatch.setattr("tfseg.slides.resample.BLOCK_PX", 100)
    np.testing.assert_array_equal(box_average(IMAGE, x, y), at_once)


def test_picture_may_end_inside_a_pixel():
    x, y = Axis(0, 1.0, 3, 0, 2.25), Axis(0, 1.0, 1, 0, 1)
    out = resample(np.full((1, 3, 3), 100, np.uint8), x, y, fill=200)
    assert out[0, :, 0].tolist() == [100, 100, 175]


@pytest.mark.parametrize(
    ("axis", "whole"),
    [
        (Axis(1e-7, 2 + 1e-8, 256, -1e-9, 100.0), True),
        (Axis(0.0, 2.001, 256, 0, 100), False),
        (Axis(0.5, 2, 256, 0, 100), False),
        (Axis(0, 0.5, 256, 0, 100), False),
        (Axis(0, 2, 256, 0, 99.5), False),
    ],
)
def test_only_rounding_errors_are_snapped(axis, whole):
    assert axis.snapped().is_whole() is whole


def test_integral_of_constant_is_area():
    table = integral(np.ones((4, 5), np.uint8))
    assert integral_at(integral_at(table, np.array([2.5]), 0), np.array([3.25]), 1) == pytest.approx(2.5 * 3.25)
