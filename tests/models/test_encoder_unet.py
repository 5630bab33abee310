from __future__ import annotations

import keras
import numpy as np
import onnxruntime
import pytest
import tiny_encoder
from skimage.data import immunohistochemistry

from tfseg.export.onnx import export_onnx
from tfseg.models import describe, save
from tfseg.models.encoder_unet import encoder_unet, unet_decoder
from tfseg.types import ModelError


def test_decoder_uses_every_skip_there_is():
    sizes = {depth: (64 >> depth, 32 >> depth) for depth in range(6)}
    maps = {depth: keras.Input((*sizes[depth], depth + 1), name=str(depth)) for depth in range(6)}
    with_0 = unet_decoder(maps, (10, 8, 6, 4, 2), "dec")
    without_0 = unet_decoder({d: maps[d] for d in range(1, 6)}, (10, 8, 6, 4, 2), "dec")
    for decoded in (with_0, without_0):
        assert {d: tuple(x.shape[1:]) for d, x in decoded.items()} == {
            d: (*sizes[d], width) for d, width in enumerate((2, 4, 6, 8, 10))
        }
    models = [keras.Model(list(maps.values()), decoded[0]) for decoded in (with_0, without_0)]
    inputs = [model.get_layer("dec_d4_1_conv").kernel.shape[2] for model in models]
    assert inputs == [5 + 6, 5 + 6]  # skip of depth 4, map of depth 5
    assert models[0].get_layer("dec_d0_1_conv").kernel.shape[2] == 4 + 1
    assert models[1].get_layer("dec_d0_1_conv").kernel.shape[2] == 4


def test_widths_are_those_of_five_depths():
    with pytest.raises(ModelError, match=r"widths must be 5, of depth 4 … 0\. Received: \(8, 4\)"):
        encoder_unet(32, encoder=tiny_encoder.NAME, widths=(8, 4))


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norm_stays_frozen_when_loaded(frozen, tmp_path):
    model = encoder_unet(32, 2, tiny_encoder.NAME, freeze_batch_norm=frozen, widths=(4, 4, 4, 4, 4))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.trainable_weights) == len(model.trainable_weights)
    norm = loaded.get_layer("enc").get_layer("bn1")
    before = norm.get_weights()
    image = {"image": np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype("float32")}
    loaded(image, training=True)
    same = [np.array_equal(now, then) for now, then in zip(norm.get_weights(), before, strict=True)]
    assert same == [True, True, frozen, frozen]


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["default", "fast"])
def test_onnx_on_a_real_encoder_agrees_with_keras(profile, tmp_path):
    """The export compares the two on the picture, and asks the rules of FAST of the fast profile."""
    arguments = {"size_px": 64, "num_classes": 2, "encoder": "efficientnetb0"}
    model = encoder_unet(**arguments)
    random = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    save(model, describe(model, "encoder_unet", arguments, mpp=0.5), tmp_path)
    path = export_onnx(tmp_path, profile, pictures=[immunohistochemistry()])
    session = onnxruntime.InferenceSession(str(path))
    assert len(session.get_inputs()) == 1
    image = immunohistochemistry()[None, 100:164, 200:264].astype("float32")
    found = session.run(None, {session.get_inputs()[0].name: image})[0]
    expected = np.asarray(model({"image": image})["segmentation"])
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-4)
