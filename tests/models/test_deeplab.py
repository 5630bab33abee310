from __future__ import annotations

import keras
import numpy as np
import tiny_encoder

from tfseg.models.deeplab import deeplabv3

TINY = {"size_px": (64, 96), "num_classes": 2, "encoder": tiny_encoder.NAME, "aspp_filters": 4}


def test_pyramid_sees_the_map_of_stride_16():
    model = deeplabv3(**TINY)
    assert model.get_layer("aspp_cat").output.shape[1:] == (4, 6, 5 * 4)
    rates = [model.get_layer(f"aspp_{name}_conv").dilation_rate for name in ("1x1", "rate6", "rate12", "rate18")]
    assert rates == [(1, 1), (6, 6), (12, 12), (18, 18)]
    assert model.output["segmentation"].shape[1:] == (64, 96, 2)


def test_upsampling_keeps_pixels_where_they_are():
    """A ramp that is, at the centre of every pixel of the map, its place in the image."""
    model = deeplabv3(**TINY)
    up = keras.Model(model.get_layer("segmentation_logits").output, model.get_layer("segmentation_up").output)
    centres = (np.arange(4) + 0.5) * 16
    ramp = np.broadcast_to(centres[:, None, None], (4, 6, 2)).astype("float32")
    found = np.asarray(up(ramp[None]))[0, 8:-8, 0, 0]
    np.testing.assert_allclose(found, np.arange(8, 56) + 0.5, atol=1e-4)
