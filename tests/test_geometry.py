from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfseg.geometry import Grid, check_divisible, magnification_of, mpp_of
from tfseg.types import ModelError


@pytest.mark.parametrize(("magnification", "mpp"), [(40, 0.25), (20, 0.5), (10, 1.0), (5, 2.0), (1.25, 8.0)])
def test_magnification_and_mpp(magnification, mpp):
    assert mpp_of(magnification) == mpp
    assert magnification_of(mpp) == magnification


def test_grid_of_a_slide_that_is_no_multiple_of_the_patch():
    grid = Grid((1000, 600), 0.5, patch_px=256, stride_px=256, mpp=1.0)
    assert grid.shape == (2, 2)
    assert grid.window(1, 0).bounds(0.5) == (0, 512, 512, 1024)


@given(
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    mpp=st.sampled_from([0.25, 0.499, 0.5, 1.0]),
    patch=st.integers(2, 64).map(lambda n: 8 * n),
)
def test_grid_covers_the_slide_without_gaps(size, mpp, patch):
    grid = Grid(size, mpp, patch, patch, 1.0)
    rows, columns = grid.shape
    left, top, _, _ = grid.window(0, 0).bounds(mpp)
    _, _, right, bottom = grid.window(rows - 1, columns - 1).bounds(mpp)
    assert (left, top) == pytest.approx((0, 0), abs=1e-6)
    assert right >= size[0] - 1e-3 and bottom >= size[1] - 1e-3
    assert right - grid.stride_level0 < size[0] and bottom - grid.stride_level0 < size[1]
    if columns > 1:
        assert grid.window(0, 0).bounds(mpp)[2] == pytest.approx(grid.window(0, 1).bounds(mpp)[0])
    assert len(list(grid.cells())) == rows * columns


def test_wrong_size_names_the_nearest_that_fit():
    check_divisible(256, 32, "encoder depth 5")
    with pytest.raises(
        ModelError, match=r"divisible by 32 \(encoder depth 5\)\. Received: 250\. Nearest: 224 or 256\."
    ):
        check_divisible(250, 32, "encoder depth 5")
    with pytest.raises(ModelError, match=r"Nearest: 32\."):
        check_divisible(20, 32, "encoder depth 5")


def test_overlapping_patches_are_centred_on_their_cells():
    grid = Grid((1000, 600), 0.5, patch_px=128, stride_px=64, mpp=0.5)
    assert grid.window(0, 1).bounds(0.5) == (32, -32, 160, 96)
