from __future__ import annotations

import keras
import numpy as np
import pytest

from tfseg.models import build
from tfseg.models.patch_classifier import patch_classifier
from tfseg.types import ModelError


def test_image_is_scaled_to_minus_one_to_one():
    scaled = build("mobilenetv2_classifier", size_px=32, alpha=0.1).get_layer("image_scaled")
    np.testing.assert_allclose(scaled(np.array([0.0, 127.5, 255.0])), [-1, 0, 1], atol=1e-6)


@pytest.mark.parametrize("name", ["mobilenetv2_classifier", "inceptionv3_classifier"])
def test_batch_norm_momentum_is_set_and_survives_saving(name):
    model = build(name, size_px=96, batch_norm_momentum=0.9)
    model = keras.Model.from_config(model.get_config())
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    trunk = [layer for layer in norms if layer.name != "hidden_bn"]
    assert len(trunk) > 50 and {layer.momentum for layer in trunk} == {0.9}


def test_head_is_in_the_papers_order():
    names = [layer.name for layer in build("mobilenetv2_classifier", size_px=32, alpha=0.1).layers]
    head = ["pool", "hidden", "hidden_drop", "hidden_relu", "hidden_bn", "logits", "probabilities"]
    assert names[-len(head) :] == head


def test_weights_come_from_a_file(tmp_path):
    source = keras.applications.MobileNetV2(include_top=False, weights=None, alpha=0.1, input_shape=(64, 64, 3))
    path = tmp_path / "notop.weights.h5"
    source.save_weights(path)
    model = build("mobilenetv2_classifier", size_px=32, alpha=0.1, weights=path)
    for expected, got in zip(source.get_weights(), model.get_weights(), strict=False):
        np.testing.assert_array_equal(got, expected)


def test_wrong_weights_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"missing.weights.h5: no such file"):
        patch_classifier(size_px=32, weights=tmp_path / "missing.weights.h5")
    source = keras.applications.MobileNetV2(include_top=False, weights=None, alpha=0.1, input_shape=(32, 32, 3))
    path = tmp_path / "thin.weights.h5"
    source.save_weights(path)
    with pytest.raises(ModelError, match=r"thin.weights.h5: weights do not fit"):
        patch_classifier(size_px=32, weights=path)
    keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)]).save_weights(path)
    with pytest.raises(ModelError, match=r"thin.weights.h5: weights do not fit"):
        patch_classifier(size_px=32, weights=path)
    path.write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"thin.weights.h5: weights do not fit"):
        patch_classifier(size_px=32, weights=path)


def test_unknown_settings_are_named():
    with pytest.raises(ModelError, match=r"unknown 'vgg5'\. Known: inceptionv3, mobilenetv2"):
        patch_classifier("vgg5")
    with pytest.raises(ModelError, match="alpha is a setting of mobilenetv2"):
        patch_classifier("inceptionv3", alpha=0.5)


@pytest.mark.realdata
def test_imagenet_weights_give_the_features_of_keras_applications(shared_data):
    path = shared_data / "weights" / "mobilenet_v2_imagenet_notop.weights.h5"
    model = build("mobilenetv2_classifier", size_px=64, weights=path)
    reference = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(64, 64, 3), pooling="avg")
    reference.load_weights(path)
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")
    features = keras.Model(model.input, model.get_layer("pool").output)
    np.testing.assert_allclose(features({"image": image}), reference(image / 127.5 - 1), atol=1e-4)


def test_frozen_batch_norm_keeps_the_trunk_as_loaded_and_the_head_trainable():
    model = patch_classifier(size_px=32, alpha=0.35, freeze_batch_norm=True)
    image = {"image": np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")}
    trunk = keras.Model(model.input, model.get_layer("pool").output)
    np.testing.assert_allclose(trunk(image, training=True), trunk(image, training=False), atol=1e-6)
    assert model.get_layer("hidden_bn").trainable and len(model.trainable_variables) < len(model.variables) / 2
