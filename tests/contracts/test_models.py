"""What every network in ``MODELS`` keeps; a new entry is tested by being entered here with tiny arguments."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseg.models import MODELS, build, describe, load, save
from tfseg.types import ModelError

TINY = {
    "mobilenetv2_classifier": {"size_px": 32, "alpha": 0.1},
    "inceptionv3_classifier": {"size_px": 75},
    "unet_lr": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "unet": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "agunet": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "dagunet": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "doubleunet": {"size_px": (16, 24), "widths": (8, 16), "aspp_filters": 4},
}
WRONG_SIZE = {"mobilenetv2_classifier": (33, "32 or 64"), "inceptionv3_classifier": (74, "75")}
HEADS = {"agunet": 2, "dagunet": 2, "doubleunet": 2}
FIXED_HEAD_SIZE = {"doubleunet"}

each_model = pytest.mark.parametrize("name", list(MODELS))


def batch(model: keras.Model, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    scale = {"image": 255.0, "heatmap": 1.0}
    return {
        key: (random.random((2, *tensor.shape[1:])) * scale[key]).astype("float32")
        for key, tensor in model.input.items()
    }


def shaken(model: keras.Model) -> keras.Model:
    """Moves every weight, so that zeros at the start (γ, biases) hide nothing."""
    random = np.random.default_rng(1)
    model.set_weights([w + random.uniform(0.01, 0.05, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def test_tiny_settings_cover_the_registry():
    assert set(TINY) == set(MODELS)


@each_model
def test_names_shapes_and_probabilities(name):
    model = build(name, num_classes=3, **TINY[name])
    inputs = batch(model)
    outputs = model(inputs, training=False)
    height, width = inputs["image"].shape[1:3]
    if "classifier" in name:
        assert set(inputs) == {"image"} and set(outputs) == {"probabilities"}
        assert outputs["probabilities"].shape == (2, 3)
    else:
        assert set(inputs) == ({"image"} if name == "unet_lr" else {"image", "heatmap"})
        names = ["segmentation", "segmentation_1", "segmentation_2"][: HEADS.get(name, 1)]
        assert list(outputs) == names
        for level, head in enumerate(names):
            factor = 1 if name in FIXED_HEAD_SIZE else 2**level
            assert outputs[head].shape == (2, height // factor, width // factor, 3)
    for probabilities in outputs.values():
        np.testing.assert_allclose(np.sum(probabilities, axis=-1), 1, atol=1e-5)


@each_model
def test_every_trainable_weight_learns(name):
    model = shaken(build(name, **TINY[name]))
    inputs = batch(model)
    with tf.GradientTape() as tape:
        outputs = model(inputs, training=True)
        loss = sum(tf.reduce_mean(tf.math.log(p[..., 0] + 1e-3)) for p in outputs.values())
    assert np.isfinite(loss)
    variables = [v.value for v in model.trainable_variables]
    for variable, gradient in zip(model.trainable_variables, tape.gradient(loss, variables), strict=True):
        assert gradient is not None, f"{variable.path} is not connected to the loss"
        assert np.isfinite(gradient).all(), variable.path


@each_model
def test_saved_and_loaded_gives_the_same(name, tmp_path):
    model = shaken(build(name, **TINY[name]))
    spec = describe(model, name, TINY[name], mpp=1.0, name="mine")
    save(model, spec, tmp_path / "model")
    loaded, read = load(tmp_path / "model")
    assert read.name == "mine" and read.architecture == name and read.inputs == spec.inputs
    assert read.task == ("classification" if "classifier" in name else "segmentation")
    assert read.inputs[0].name == "image"
    inputs = batch(model)
    for key, expected in model(inputs, training=False).items():
        np.testing.assert_array_equal(loaded(inputs, training=False)[key], expected)
    assert build(read).count_params() == model.count_params()


@each_model
def test_wrong_size_names_the_nearest(name):
    size, nearest = WRONG_SIZE.get(name, (18, "16 or 20"))
    with pytest.raises(ModelError, match=f"Received: {size}. Nearest: {nearest}"):
        build(name, **{**TINY[name], "size_px": size})


@each_model
def test_trains_a_step_in_mixed_precision_and_saves_float32(name, tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build(name, **TINY[name])
        inputs = batch(model)
        outputs = model(inputs, training=False)
        assert all(p.dtype == "float32" for p in outputs.values())
        targets = {key: np.eye(2, dtype="float32")[np.zeros(p.shape[:-1], int)] for key, p in outputs.items()}
        model.compile("sgd", loss={key: "categorical_crossentropy" for key in targets}, run_eagerly=True)
        assert np.all(np.isfinite(model.train_on_batch(inputs, targets)))
        save(model, describe(model, name, TINY[name]), tmp_path)
    finally:
        keras.config.set_dtype_policy("float32")
    loaded, _ = load(tmp_path)
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    assert not loaded.compiled
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])


@each_model
def test_layer_names_do_not_depend_on_what_was_built_before(name):
    first, second = (build(name, **TINY[name]) for _ in range(2))
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
