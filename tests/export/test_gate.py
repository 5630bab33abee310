"""The tissue test inside the classifier against tfseg's own."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfseg.export.gate import TissueGate, with_gate
from tfseg.geometry import Grid
from tfseg.slides.base import open_slide
from tfseg.slides.tissue import tissue_mask
from tfseg.types import ExportError, InputSpec, ModelSpec

PATCH_PX = 128


def classifier() -> tuple[keras.Model, ModelSpec]:
    """Says 0.3, 0.7 of every patch."""
    image = keras.layers.Input((PATCH_PX, PATCH_PX, 3), name="image")
    mean = keras.layers.GlobalAveragePooling2D()(image)
    logits = keras.layers.Dense(2, kernel_initializer="zeros", name="logits")(mean)
    model = keras.Model({"image": image}, {"probabilities": keras.layers.Softmax()(logits)})
    model.get_layer("logits").set_weights([np.zeros((3, 2)), np.log([0.3, 0.7])])
    inputs = (InputSpec("image", (PATCH_PX, PATCH_PX), 3, 1.0),)
    return model, ModelSpec("toy", "toy", {}, "classification", inputs, ("probabilities",), stride_px=PATCH_PX)


def test_takes_the_patches_that_tfseg_takes():
    """Blots smaller and larger than the closings; the last patches reach past the slide's edge."""
    random = np.random.default_rng(0)
    image = np.full((900, 1500, 3), 243, np.uint8)
    y, x = np.mgrid[:900, :1500]
    for _ in range(60):
        inside = np.hypot(y - random.uniform(0, 900), x - random.uniform(0, 1500)) < random.uniform(8, 90)
        image[inside] = random.choice([(225, 180, 205), (150, 90, 160), (236, 222, 230)])
    slide = open_slide([image], mpp=0.5)
    grid = Grid(slide.size, 0.5, PATCH_PX, PATCH_PX, 1.0)
    fractions = tissue_mask(slide).fractions(grid)
    model, spec = classifier()
    gated = with_gate(model, spec, TissueGate())
    patches = np.stack([slide.read(grid.window(*cell)) for cell in grid.cells()]).astype(np.float32)
    found = gated.predict({"image": patches}, verbose=0)["probabilities"].reshape(*grid.shape, 2)
    clear = np.abs(fractions - 0.25) > 0.05  # near the limit the closing, which ends at the patch, may decide otherwise
    taken = fractions > 0.25
    assert 5 < taken.sum() < taken.size - 5
    np.testing.assert_allclose(found[taken & clear], [[0.3, 0.7]] * int((taken & clear).sum()), atol=1e-6)
    np.testing.assert_array_equal(found[~taken & clear], [[1, 0]] * int((~taken & clear).sum()))


@pytest.mark.parametrize(("color", "kept"), [((200, 184, 184), False), ((200, 183, 183), True), ((0, 0, 0), False)])
def test_saturation_is_compared_as_whole_number_and_black_has_none(color, kept):
    """255 · 16 / 200 = 20.4 rounds to 20, which is not above 20; 255 · 17 / 200 = 21.7 is."""
    model, spec = classifier()
    patch = np.empty((1, PATCH_PX, PATCH_PX, 3), np.float32)
    patch[:] = color
    probability = with_gate(model, spec, TissueGate())({"image": patch})["probabilities"]
    assert (float(probability[0, 1]) > 0) == kept


def test_plane_finer_than_the_patch_is_refused():
    model, spec = classifier()
    with pytest.raises(ExportError, match="coarser"):
        with_gate(model, spec, TissueGate(mpp=0.2))
