from __future__ import annotations

import keras
import numpy as np
import pytest

from tfseg.models.cd_unet import WIDTHS, cd_unet, half_unet
from tfseg.types import ModelError


def by_hand(widths, num_classes: int) -> tuple[int, int]:
    """(all, trainable) parameters from the structure: convolutions with bias, and 4 or 2 a batch-norm channel."""
    convolutions = [(3, before, width) for before, width in zip((3, *widths), widths, strict=False)]
    convolutions += [(3, width, width) for width in widths]
    for below, width in zip(widths[1:], widths, strict=False):
        convolutions += [(2, below, width), (3, 2 * width, width), (3, width, width)]
    channels = sum(out for _, _, out in convolutions)
    weights = sum(kernel**2 * into * out + out for kernel, into, out in convolutions)
    weights += widths[0] * num_classes + num_classes
    return weights + 4 * channels, weights + 2 * channels


def test_parameters_at_the_papers_settings():
    def count(model):
        return model.count_params(), sum(int(np.prod(w.shape)) for w in model.trainable_weights)

    total, trainable = by_hand(WIDTHS, 4)
    assert count(half_unet()) == (total, trainable) == (7_773_892, 7_767_044)
    segment = 3 * 6 + 6 + 6 * 3 + 3
    assert count(cd_unet()) == (total + segment + 4 * 9, trainable + segment + 2 * 9) == (7_773_973, 7_767_107)


@pytest.mark.parametrize("builder", [cd_unet, half_unet])
def test_first_convolution_sees_bgr_in_0_to_1(builder):
    model = builder(16, 2, (4, 8))
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    seen = keras.Model(model.input, first.input)
    image = np.zeros((1, 16, 16, 3), "float32")
    image[...] = (255, 51, 0)
    np.testing.assert_allclose(seen({"image": image})[0, 3, 5], (0, 0.2, 1), atol=1e-6)


def test_segment_is_a_function_of_each_pixel_alone():
    model = cd_unet(16, 2, (4, 8))
    segment = keras.Model(model.input, model.get_layer("colour_2_relu").output)
    assert [model.get_layer(f"colour_{n}_conv").kernel.shape for n in (1, 2)] == [(1, 1, 3, 6), (1, 1, 6, 3)]
    image = np.random.default_rng(0).uniform(0, 255, (1, 16, 16, 3)).astype("float32")
    expected = np.asarray(segment({"image": image}))
    assert expected.shape == (1, 16, 16, 3)
    np.testing.assert_allclose(segment({"image": image[:, ::-1]}), expected[:, ::-1], atol=1e-6)


def test_bgr_survives_saving(tmp_path):
    model = cd_unet(16, 2, (4, 8))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    image = {"image": np.random.default_rng(0).uniform(0, 255, (1, 16, 16, 3)).astype("float32")}
    np.testing.assert_array_equal(loaded(image)["segmentation"], model(image)["segmentation"])


def test_one_width_is_too_few():
    with pytest.raises(ModelError, match=r"cd_unet: widths must have at least two levels\. Received: \(4,\)"):
        cd_unet(16, 2, (4,))
