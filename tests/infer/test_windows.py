"""Where windows lie, that they cover every pixel, and what is seen beyond the slide's edges."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from dense_networks import dense_spec, noise

from tfseg.infer.windows import DenseGrid, check_dense, dense_grid, read_field, read_fields
from tfseg.slides.base import open_slide
from tfseg.types import InputSpec, ModelError, SlideError, Window


def test_windows_without_overlap_begin_at_the_corner():
    grid = DenseGrid((1000, 600), 0.25, (128, 128), 128, 0.5)  # 500 × 300 pixels
    assert (grid.pixels.width_px, grid.pixels.height_px, grid.pixels.step_x) == (500, 300, 2.0)
    assert grid.shape == (3, 4)
    assert grid.corner(2, 3) == (256, 384)
    assert grid.bounds(0, 1) == (256, 0, 512, 256)
    assert grid.centre(0, 1) == (384, 128)


def test_overlapping_windows_lie_around_their_cells():
    grid = DenseGrid((500, 300), 0.5, (128, 96), 64, 0.5)
    assert grid.shape == (5, 8)
    assert grid.corner(0, 0) == (-32, -16)
    assert grid.corner(1, 1) == (32, 48)


@pytest.mark.parametrize(
    ("output", "stride", "size"),
    [
        ((16, 16), 16, (50, 40)),
        ((16, 24), 12, (61, 35)),
        ((9, 9), 4, (30, 31)),
        ((16, 16), 3, (20, 50)),
        ((8, 8), 8, (1, 1)),
    ],
)
def test_every_pixel_is_covered_and_given_out_when_no_window_comes_to_it(output, stride, size):
    grid = DenseGrid(size, 1.0, output, stride, 1.0)
    covered, done = np.zeros((size[1], size[0]), int), 0
    for row in range(grid.shape[0]):
        for column in range(grid.shape[1]):
            y, x = grid.corner(row, column)
            assert y + output[0] > done, "no window reaches rows that were given out"
            covered[max(0, y) : y + output[0], max(0, x) : x + output[1]] += 1
        done = grid.rows_done_after(row)
        assert (covered[:done] > 0).all()
        again = grid.first_row_at(done)
        reach = [r for r in range(grid.shape[0]) if grid.corner(r, 0)[0] + output[0] > done]
        assert done == size[1] or again == reach[0]
    assert done == size[1]


def test_pixel_size_that_misses_a_whole_number_by_rounding():
    assert DenseGrid((1000, 600), 0.25 * (1 - 1e-9), (8, 8), 8, 0.5).pixels.step_x == 2.0
    assert DenseGrid((1000, 600), 0.2505, (8, 8), 8, 0.5).pixels.step_x == pytest.approx(0.5 / 0.2505)


PADS = {
    "zero": {"mode": "constant"},
    "white": {"mode": "constant", "constant_values": 255},
    "reflect": {"mode": "symmetric"},
}


@pytest.mark.parametrize("border", PADS)
@pytest.mark.parametrize("corner", [(-20, -7), (30, 25), (5, 5), (-40, 60), (-200, 10)])
def test_borders_are_those_of_numpy(border, corner):
    image = noise(50, 60)
    slide = open_slide([image], mpp=1.0)
    x, y = corner
    found = read_field(slide, Window(x + 16, y + 12, 32, 24, 1.0), border)
    padded = np.pad(image, [(300, 300), (300, 300), (0, 0)], **PADS[border])
    np.testing.assert_array_equal(found, padded[y + 300 : y + 324, x + 300 : x + 332])


def test_reflection_of_a_coarser_field_mirrors_its_own_pixels():
    """Slide of 40 px, pixels of 4: the field begins 3 pixels before the slide."""
    image = noise(40, 40, block=4)
    slide = open_slide([image], mpp=0.5)
    found = read_field(slide, Window(-12 + 16, 20, 8, 8, 2.0), "reflect")
    coarse = image[::4, ::4]
    np.testing.assert_array_equal(found, np.pad(coarse, [(0, 0), (3, 0), (0, 0)], mode="symmetric")[1:9, :8])


def test_reflection_leaves_out_the_pixel_that_the_edge_cuts():
    image = np.zeros((8, 7, 3), np.uint8)
    image[:, :, 0] = np.arange(7) * 10
    found = read_field(open_slide([image], mpp=1.0), Window(6, 4, 4, 4, 2.0), "reflect")  # pixels 1, 2, (3), 4
    assert found[0, :, 0].tolist() == [25, 45, 45, 25]


def test_slide_smaller_than_a_pixel_has_nothing_to_reflect():
    slide = open_slide([np.zeros((3, 3, 3), np.uint8)], mpp=0.5)
    with pytest.raises(SlideError, match=r"nothing to reflect.*zero or white"):
        read_field(slide, Window(1, 1, 8, 8, 2.0), "reflect")
    assert (read_field(slide, Window(1, 1, 8, 8, 2.0), "zero") == 0).all()


def test_fields_are_concentric_and_in_the_specs_order():
    """An impulse of 4 × 4 level-0 pixels lands on the same place of the slide in every field."""
    image = np.zeros((128, 128, 3), np.uint8)
    image[60:64, 68:72] = 240
    spec = dense_spec(field_px=32, mpps=(1.0, 2.0, 4.0))
    fields = read_fields(open_slide([image], mpp=1.0), spec.inputs, [(64.0, 64.0), (72.0, 56.0)], "zero")
    assert [field.shape for field in fields] == [(2, 32, 32, 3)] * 3
    for which, (x, y) in enumerate([(64, 64), (72, 56)]):
        for field, mpp in zip(fields, (1, 2, 4), strict=True):
            rows, columns = np.nonzero(field[which, ..., 0] == 240)
            assert (rows.min() - 16) * mpp == 60 - y and (columns.min() - 16) * mpp == 68 - x
            assert len(rows) == (4 // mpp) ** 2


@pytest.mark.parametrize(
    "change",
    [
        {"output_px": None},
        {"output_mpp": None},
        {"task": "classification"},
        {"inputs": (InputSpec("image", (32, 32)),)},
        {"inputs": (InputSpec("image", (32, 32), 3, 1.0), InputSpec("heatmap", (32, 32), 1, 1.0, "heatmap"))},
    ],
)
def test_spec_of_another_kind_of_network(change):
    with pytest.raises(ModelError, match="not a dense network"):
        check_dense(dataclasses.replace(dense_spec(), **change))


@pytest.mark.parametrize("stride", [17, -1])
def test_a_stride_that_leaves_gaps(stride):
    with pytest.raises(ModelError, match="leaves gaps between outputs of 16 × 16"):
        dense_grid(open_slide([noise(40, 40)], mpp=1.0), dense_spec(), stride)


def test_a_slide_whose_pixels_are_far_too_large_is_taken_for_a_mistake():
    spec = dense_spec()
    with pytest.raises(SlideError, match=r"pixels of 50 µm are .* times as large as the network's.*--mpp"):
        dense_grid(open_slide([noise(40, 40)], mpp=50.0), spec)
    dense_grid(open_slide([noise(40, 40)], mpp=16 * spec.output_mpp), spec)
