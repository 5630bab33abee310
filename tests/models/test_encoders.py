from __future__ import annotations

import keras
import numpy as np
import pytest
import tiny_encoder
from keras import applications, layers

from tfseg.models.encoders import ENCODERS, pyramid
from tfseg.types import ModelError

PARAMETERS = {
    "efficientnetb0": 4_049_564,
    "efficientnetb1": 6_575_232,
    "efficientnetb2": 7_768_562,
    "efficientnetb3": 10_783_528,
    "efficientnetb4": 17_673_816,
    "efficientnetb5": 28_513_520,
    "efficientnetb6": 40_960_136,
    "efficientnetb7": 64_097_680,
    "mobilenetv2": 2_257_984,
    "vgg16": 14_714_688,
    "vgg19": 20_024_384,
    "resnet50": 23_587_712,
    "resnet101": 42_658_176,
    "resnet152": 58_370_944,
    "densenet121": 7_037_504,
    "densenet201": 18_321_984,
    "inceptionv3": 21_802_784,
}
"""Of ``keras.applications`` without top; EfficientNets less the 7 numbers of their own normalisation."""

QUICK = ("efficientnetb0", "mobilenetv2", "vgg16")

MEAN, SD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def network(encoder: str, size=(64, 96), **arguments) -> keras.Model:
    image = layers.Input((*size, 3))
    return keras.Model(image, pyramid(image, encoder, **arguments))


def picture(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (1, *shape, 3)).astype("float32")


@pytest.mark.parametrize(
    "encoder", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in PARAMETERS]
)
def test_maps_are_two_to_the_depth_smaller(encoder):
    model = network(encoder)
    assert set(model.output) - {0} == {1, 2, 3, 4, 5}
    for depth, features in model.output.items():
        assert features.shape[1:3] == (64 >> depth, 96 >> depth)
    assert model.count_params() == PARAMETERS[encoder]
    inside = list(model._flatten_layers())
    assert {layer.momentum for layer in inside if isinstance(layer, layers.BatchNormalization)} <= {0.99}
    assert sum(isinstance(layer, layers.Rescaling) for layer in inside) == 1
    # its weights would become inputs of an ONNX file
    assert not any(isinstance(layer, layers.Normalization) for layer in inside)


def test_parameters_cover_the_registry():
    assert set(PARAMETERS) == set(ENCODERS) - {tiny_encoder.NAME}


def torch_scaled(image):
    """EfficientNet's own layers divide by 255 once more."""
    return ((image / 255 - MEAN) / SD * 255).astype("float32")


@pytest.mark.parametrize(
    ("encoder", "original", "preprocess"),
    [
        ("vgg16", applications.VGG16, applications.vgg16.preprocess_input),
        ("efficientnetb0", applications.EfficientNetB0, torch_scaled),
        pytest.param("resnet50", applications.ResNet50, applications.resnet.preprocess_input, marks=pytest.mark.slow),
        pytest.param(
            "densenet121", applications.DenseNet121, applications.densenet.preprocess_input, marks=pytest.mark.slow
        ),
    ],
)
def test_maps_are_those_of_keras_with_its_weights_and_normalisation(encoder, original, preprocess, tmp_path):
    expected = original(include_top=False, weights=None, input_shape=(64, 64, 3))
    expected.save_weights(tmp_path / "trunk.weights.h5")
    image = picture(64, 64)
    model = network(encoder, (64, 64), weights=tmp_path / "trunk.weights.h5")
    np.testing.assert_allclose(model(image)[5], expected(preprocess(image.copy())), rtol=1e-3, atol=1e-4)


@pytest.mark.realdata
def test_imagenet_weights_see_edges(shared_data):
    """The weights beside the checkout: a real first layer, not a random one."""
    path = shared_data / "weights" / "mobilenet_v2_imagenet_notop.weights.h5"
    model = network("mobilenetv2", (64, 64), weights=path, freeze_batch_norm=True)
    original = applications.MobileNetV2(include_top=False, weights=None, input_shape=(64, 64, 3))
    original.load_weights(path)
    image = picture(64, 64)
    np.testing.assert_allclose(model(image)[5], original(image / 127.5 - 1), rtol=1e-4, atol=1e-4)
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    assert norms and not any(norm.trainable for norm in norms)


@pytest.mark.parametrize(
    "encoder", [tiny_encoder.NAME, *(pytest.param(e, marks=pytest.mark.slow) for e in ("mobilenetv2", "resnet50"))]
)
def test_atrous_maps_hold_those_of_the_whole_stride(encoder):
    """Where the last halving took every other pixel, the dilated map has just these, and those between."""
    arguments = {"alpha": 0.35} if encoder == "mobilenetv2" else {}
    whole = network(encoder, (128, 64), **arguments)
    atrous = network(encoder, (128, 64), output_stride=16, **arguments)
    atrous.set_weights(whole.get_weights())
    image = picture(128, 64)
    expected, found = whole(image), atrous(image)
    assert found[5].shape[1:3] == found[4].shape[1:3] == (8, 4)
    start = 0 if encoder == "resnet50" else 1  # the others' strided kernels are centred on odd pixels
    np.testing.assert_allclose(found[5][:, start::2, start::2], expected[5], rtol=1e-4, atol=1e-5)
    for depth in range(1, 5):
        np.testing.assert_array_equal(found[depth], expected[depth])


@pytest.mark.slow
@pytest.mark.parametrize("encoder", list(PARAMETERS))
def test_every_encoder_can_be_atrous(encoder):
    maps = network(encoder, (64, 96), output_stride=16).output
    assert maps[5].shape[1:3] == maps[4].shape[1:3] == (4, 6)


@pytest.mark.slow
def test_padded_inception_has_the_kernels_of_the_original(tmp_path):
    """At depth 1, away from the border, the maps are the same, one pixel on."""
    original = applications.InceptionV3(include_top=False, weights=None, input_shape=(96, 96, 3))
    original.save_weights(tmp_path / "trunk.weights.h5")
    third = [layer for layer in original.layers if isinstance(layer, layers.Activation)][2]
    image = picture(96, 96)
    expected = keras.Model(original.input, third.output)(image / 127.5 - 1)
    found = network("inceptionv3", (96, 96), weights=tmp_path / "trunk.weights.h5")(image)[1]
    assert expected.shape[1:3] == (45, 45) and found.shape[1:3] == (48, 48)
    np.testing.assert_allclose(found[:, 2:45, 2:45], expected[:, 1:44, 1:44], rtol=1e-3, atol=1e-5)


def test_two_encoders_share_nothing():
    image = layers.Input((32, 32, 3))
    maps = [pyramid(image, tiny_encoder.NAME, name)[5] for name in ("enc_target", "enc_context")]
    model = keras.Model(image, maps)
    paths = [w.path for w in model.weights]
    assert len(set(paths)) == len(paths) == 2 * len(model.get_layer("enc_target").weights)
    assert {path.split("/")[0] for path in paths} == {"enc_target", "enc_context"}
    first, second = model(picture(32, 32))
    assert np.abs(np.subtract(first, second)).max() > 0.01


def test_wrong_settings_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"encoder: unknown 'resnet18'\. Known: densenet121"):
        network("resnet18")
    with pytest.raises(ModelError, match=r"alpha is a setting of mobilenetv2\. Received: 0\.5 with vgg16"):
        network("vgg16", alpha=0.5)
    with pytest.raises(ModelError, match=r"weights\.h5: no such file"):
        network("mobilenetv2", alpha=0.35, weights=tmp_path / "none.weights.h5")
    other = applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.5)
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ModelError, match="weights do not fit"):
        network("mobilenetv2", alpha=0.35, weights=tmp_path / "other.weights.h5")
