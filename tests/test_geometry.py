from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfseg.geometry import Grid, check_divisible, crop_border, field_name, join_depth, magnification_of, mpp_of
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


@pytest.mark.parametrize(("mpp", "name"), [(0.5, "image_20x"), (2.0, "image_5x"), (8.0, "image_1.25x")])
def test_fields_are_named_by_magnification(mpp, name):
    assert field_name(mpp) == name


@pytest.mark.parametrize(
    ("depth", "other_mpp", "other_depth"),
    [
        # DMMN-M3: decoder map of 20x, what of 10x and 5x is concatenated with it; there is no 5x map for the last
        *[(4, 1.0, 3), (4, 2.0, 2), (3, 1.0, 2), (3, 2.0, 1), (2, 1.0, 1), (2, 2.0, 0), (1, 1.0, 0), (1, 2.0, None)],
        # HookNet's fields of 0.5 and 8 µm/px; a finer field; the field itself
        *[(4, 8.0, 0), (4, 0.25, 5), (3, 0.5, 3)],
    ],
)
def test_maps_join_where_their_pixels_are_of_one_size(depth, other_mpp, other_depth):
    assert join_depth(depth, 0.5, other_mpp) == other_depth
    if other_depth is not None:
        assert 0.5 * 2**depth == other_mpp * 2**other_depth


def test_fields_whose_maps_never_fit():
    with pytest.raises(ModelError, match=r"power of two.*Received: 0\.5 and 1\.5\. Nearest: 1 or 2\."):
        join_depth(4, 0.5, 1.5)


@pytest.mark.parametrize(
    ("size", "mpp", "target", "target_mpp", "border"),
    [
        (32, 8.0, 16, 8.0, 8),  # DMMN-M3: 10x, depth 3, to the field of 20x, depth 4
        (64, 8.0, 16, 8.0, 24),  # DMMN-M3: 5x, depth 2
        (256, 1.0, 256, 0.5, 64),  # DMMN-MS: 10x, depth 0, to half its field
        (256, 2.0, 256, 0.5, 96),  # DMMN-MS: 5x, depth 0, to a quarter
        (16, 16.0, 16, 16.0, 0),
    ],
)
def test_crop_to_the_target_field(size, mpp, target, target_mpp, border):
    assert crop_border(size, mpp, target, target_mpp) == border


@pytest.mark.parametrize(("size", "target"), [(17, 16), (14, 16), (16, 15)])
def test_crop_that_would_shift_is_refused(size, target):
    with pytest.raises(ModelError, match=f"{size} px of 4 µm cannot be cropped to the {target} px of 4 µm"):
        crop_border(size, 4.0, target, 4.0)
