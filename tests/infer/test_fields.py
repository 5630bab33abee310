"""Fields and the pictures computed from them; the overlay's scale bar and grid."""

from __future__ import annotations

import numpy as np
import pytest

from tfseg.infer.fields import Field, MaskTiles, ProbabilityTiles, mask_grid
from tfseg.infer.outputs import render
from tfseg.infer.overlay import draw_overlay, scale_bar, thumbnail, thumbnail_grid
from tfseg.slides.base import open_slide
from tfseg.types import H2G_CLASSES, ClassSpec


def random_field(smooth, classes=2, shape=(7, 9), step=(30.0, 20.0)):
    values = np.random.default_rng(0).random((*shape, classes)).astype(np.float32)
    return Field(values / values.sum(-1, keepdims=True), step, smooth)


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("classes", [2, 4])
def test_tiles_are_parts_of_the_whole(smooth, classes):
    field, grid = random_field(smooth, classes), mask_grid((270, 140), 1.0, 4.0)
    assert (grid.width_px, grid.height_px, grid.step_x) == (68, 35, 4)
    for tiles in (MaskTiles(field, grid, 0.4), ProbabilityTiles(field, grid)):
        whole = render(tiles)
        assert whole.shape == tiles.shape == (35, 68)
        np.testing.assert_array_equal(tiles.tile(3, 11, 20, 30), whole[3:23, 11:41])


@pytest.mark.parametrize("smooth", [True, False])
def test_mask_is_the_most_probable_foreground_class_above_the_threshold(smooth):
    field, grid = random_field(smooth, 4), mask_grid((270, 140), 1.0, 4.0)
    probabilities = field.at(*grid.centres())
    expected = np.zeros(grid.shape, np.uint8)
    for index in (1, 2, 3):
        best = probabilities[..., index] == probabilities[..., 1:].max(-1)
        expected[best & (probabilities[..., index] >= 0.4)] = index
    np.testing.assert_array_equal(render(MaskTiles(field, grid, 0.4)), expected)


def test_threshold_itself_is_foreground():
    field = Field(np.array([[[0.5, 0.5], [0.50001, 0.49999]]], np.float32), (1.0, 1.0), False)
    assert render(MaskTiles(field, mask_grid((2, 1), 1.0, 1.0), 0.5)).tolist() == [[1, 0]]


def test_bare_cells_keep_their_values():
    field = random_field(False)
    x, y = np.arange(9 * 30) + 0.5, np.arange(7 * 20) + 0.5
    expected = np.kron(field.values[..., 1], np.ones((20, 30), np.float32))
    np.testing.assert_array_equal(field.at(x, y)[..., 1], expected)


def test_smooth_cells_agree_with_their_centres():
    field = random_field(True)
    x, y = np.arange(9) * 30 + 15.0, np.arange(7) * 20 + 10.0
    np.testing.assert_allclose(field.at(x, y), field.values, atol=1e-6)
    np.testing.assert_allclose(field.at(x[:-1] + 15, y), (field.values[:, 1:] + field.values[:, :-1]) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("mpp", "wanted", "step"), [(0.25, 4.0, 16), (0.499, 4.0, 8), (0.3, 4.0, 16), (4.0, 4.0, 1), (9.0, 4.0, 1)]
)
def test_mask_pixels_are_powers_of_two(mpp, wanted, step):
    grid = mask_grid((1001, 999), mpp, wanted)
    assert grid.step_x == grid.step_y == step
    assert (grid.width_px, grid.height_px) == (-(-1001 // step), -(-999 // step))


@pytest.mark.parametrize("size", [(300, 200), (1976, 30), (1977, 30), (5000, 9001)])
def test_thumbnail_lies_on_its_grid(size):
    width, height = size
    slide = open_slide([np.zeros((height, width, 3), np.uint8)], mpp=0.37)
    grid = thumbnail_grid(slide.size)
    assert thumbnail(slide).shape == (*grid.shape, 3)
    assert max(grid.shape) <= 1976
    assert grid.step_x == 1 or max(grid.shape) > 1976 // 2


@pytest.mark.parametrize(("um", "text"), [(0.25, "50 µm"), (1.0, "200 µm"), (8.0, "2 mm"), (30.0, "5 mm")])
def test_scale_bar(um, text):
    length, found = scale_bar(um, 1500)
    assert found == text
    value, unit = text.split()
    assert length == round(float(value) * (1000 if unit == "mm" else 1) / um)


def test_overlay_shows_heat_and_outline():
    image = np.full((400, 800, 3), 255, np.uint8)
    labels = np.zeros((400, 800), np.uint8)
    labels[100:300, 100:300] = 1
    heat = np.zeros((400, 800), np.float32)
    heat[:, 400:] = 1
    out = draw_overlay(image, labels, H2G_CLASSES, 2.0, "slide", heat)
    assert (out[200, 200] == 255).all()  # inside the outline, no heat
    assert (out[350, 350] == 255).all()
    assert tuple(out[200, 100]) == H2G_CLASSES[1].color
    assert not (out[200, 600] == 255).all()
    assert (image == 255).all()
    narrow = draw_overlay(image[:, :50], labels[:, :50], H2G_CLASSES, 2.0, "slide")
    assert narrow.shape[1] >= 700


def test_many_classes_go_on_in_further_lines():
    """As many lines as it takes; every class's colour is in the legend."""
    image, labels = np.full((50, 900, 3), 230, np.uint8), np.zeros((50, 900), np.uint8)
    classes = [ClassSpec(f"a class called {k}", (10 * k, 250 - 10 * k, 77)) for k in range(12)]
    out = draw_overlay(image, labels, classes, 2.0, "slide")
    assert out.shape[1] == 900
    assert out.shape[0] > 50 + 72 and (out.shape[0] - 50 - 72) % 28 == 0
    for one in classes[1:]:
        assert (out[50:] == one.color).all(-1).sum() > 50
    assert draw_overlay(image, labels, classes[:3], 2.0, "slide").shape == (122, 900, 3)
