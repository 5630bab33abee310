"""What every network in ``MODELS`` keeps; a new entry is tested by being entered here with tiny arguments."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
import tiny_encoder
from skimage.data import immunohistochemistry

import tfseg
from tfseg.export.onnx import OPSETS, convert
from tfseg.export.parity import PARITY
from tfseg.files import write_json
from tfseg.losses import mask_rcnn_losses
from tfseg.models import MODELS, build, describe, load, save
from tfseg.models.mask_rcnn import training_network
from tfseg.types import ClassSpec, ModelError, ModelSpec

TINY = {
    "mobilenetv2_classifier": {"size_px": 32, "alpha": 0.1},
    "inceptionv3_classifier": {"size_px": 75},
    "unet_lr": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "unet": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "agunet": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "dagunet": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "doubleunet": {"size_px": (16, 24), "widths": (8, 16), "aspp_filters": 4},
    "segnet": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "plain_unet": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "dmmn_s2": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "dmmn_ms": {"size_px": (32, 64), "widths": (4, 6, 8)},
    "dmmn_m2s": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "dmmn_m3": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "hooknet": {"size_px": (52, 60), "widths": (4, 6, 8)},
    "encoder_unet": {"size_px": (32, 64), "encoder": tiny_encoder.NAME, "widths": (8, 6, 4, 4, 4)},
    "multi_level": {"size_px": (32, 64), "encoder": tiny_encoder.NAME, "widths": (8, 6, 4, 4, 4)},
    "deeplabv3": {"size_px": (32, 64), "encoder": tiny_encoder.NAME, "aspp_filters": 4},
    "cd_unet": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "half_unet": {"size_px": (16, 24), "widths": (4, 6, 8)},
    "unet_ensemble": {"size_px": (32, 64), "encoders": 2 * (tiny_encoder.NAME,), "widths": (8, 6, 4, 4, 4)},
    "gb_unet": {"size_px": (32, 64), "encoders": 2 * (tiny_encoder.NAME,), "widths": (8, 6, 4, 4, 4)},
    "mask_rcnn": {
        "size_px": (32, 64),
        "encoder": tiny_encoder.NAME,
        "settings": {
            "pyramid_width": 4,
            "rpn_width": 6,
            "head_width": 8,
            "before_nms": 40,
            "proposals": 9,
            "detections": 5,
        },
    },
}
WRONG_SIZE = {
    "mobilenetv2_classifier": (33, "32 or 64"),
    "inceptionv3_classifier": (74, "75"),
    "dmmn_ms": (18, "32"),
    "dmmn_m2s": (18, "16 or 24"),
    "dmmn_m3": (18, "16 or 24"),
    "hooknet": (55, "52 or 60"),
    **dict.fromkeys(("encoder_unet", "multi_level", "deeplabv3", "unet_ensemble", "gb_unet", "mask_rcnn"), (18, "32")),
}
THREE_FIELDS = {"image_20x": 0.5, "image_10x": 1.0, "image_5x": 2.0}
TWO_FIELDS = {"image_20x": 0.5, "image_5x": 2.0}
FIELDS = {
    **dict.fromkeys(("dmmn_s2", "dmmn_ms", "dmmn_m2s", "dmmn_m3"), THREE_FIELDS),
    **dict.fromkeys(("hooknet", "multi_level"), TWO_FIELDS),
}
"""µm/px of the inputs of networks that see several fields, in order."""
WHOLE_SLIDE = {"unet", "agunet", "dagunet", "doubleunet"}
"""Networks with a heatmap as second input."""
OUTPUTS = {
    **dict.fromkeys(("agunet", "dagunet", "doubleunet"), ("segmentation", "segmentation_1")),
    "multi_level": ("segmentation", "segmentation_high", "segmentation_context"),
    "mask_rcnn": ("instances", "instances_boxes", "instances_masks"),
}
OUTPUT_PX = {
    ("hooknet", "segmentation"): (6, 14),
    ("agunet", "segmentation_1"): (8, 12),
    ("dagunet", "segmentation_1"): (8, 12),
}
"""Where it is not the size of the input."""
INSTANCES = {"mask_rcnn": {"instances": (5, 3), "instances_boxes": (5, 4), "instances_masks": (5, 28, 28)}}
"""Outputs of networks that find instances, without the batch; the first holds probabilities of classes."""
CLASSES = tuple(ClassSpec(name, (0, 0, 0)) for name in ("background", "tumour", "other"))

SLOW = {"inceptionv3_classifier"}
"""Networks that cannot be built small."""
each_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MODELS]
)


def arguments(name: str) -> dict:
    return {"num_classes": len(CLASSES), **TINY[name]}


def spec_of(name: str, model: keras.Model, called: str | None = None) -> ModelSpec:
    mpp = None if name in FIELDS or name in WHOLE_SLIDE else 1.0
    return describe(model, name, arguments(name), mpp, CLASSES, called)


def batch(model: keras.Model) -> dict[str, np.ndarray]:
    """Two crops of a real picture of tissue; another place for each input."""
    random = np.random.default_rng(0)
    picture = immunohistochemistry()
    inputs = {}
    for number, (name, (_, height, width, _)) in enumerate((key, value.shape) for key, value in model.input.items()):
        places = [(40 * number + 100 * n, 60 + 150 * n) for n in range(2)]
        inputs[name] = np.stack([picture[y : y + height, x : x + width] for y, x in places]).astype("float32")
        if name == "heatmap":
            inputs[name] = random.random((2, height, width, 1), "float32")
    return inputs


def task_of(name: str) -> str:
    return "classification" if "classifier" in name else "instances" if name in INSTANCES else "segmentation"


def distributions(name: str, outputs: dict) -> dict:
    """The outputs that are probabilities of classes."""
    return {key: p for key, p in outputs.items() if name not in INSTANCES or key == "instances"}


def training_loss(name: str, model: keras.Model, inputs: dict[str, np.ndarray]) -> tf.Tensor:
    """A loss that every weight should move."""
    if name in INSTANCES:
        labels = np.zeros((2, *inputs["image"].shape[1:3]), "int32")
        labels[:, 3:12, 5:20] = 1
        truth = {"boxes": np.array([[[3, 5, 12, 20]]] * 2, "float32"), "classes": np.full((2, 1), 2), "labels": labels}
        outputs = training_network(model, max_instances=1, rois=6)({**inputs, **truth}, training=True)
        return sum(term(inputs, {}, outputs) for term in mask_rcnn_losses().values())
    outputs = model(inputs, training=True)
    return sum(tf.reduce_mean(tf.math.log(p[..., 0] + 1e-3)) for p in outputs.values())


@pytest.fixture(scope="module")
def network():
    """Name → the tiny network, built once, every weight moved: zeros at the start (γ, biases) hide nothing."""
    built: dict[str, keras.Model] = {}

    def get(name: str) -> keras.Model:
        if name not in built:
            keras.utils.set_random_seed(0)
            model, random = build(name, **arguments(name)), np.random.default_rng(1)
            model.set_weights([w + random.uniform(-0.04, 0.04, w.shape).astype(w.dtype) for w in model.get_weights()])
            built[name] = model
        return built[name]

    return get


def test_tiny_settings_cover_the_registry():
    assert set(TINY) == set(MODELS)


@each_model
def test_spec_says_what_goes_in_and_what_comes_out(name, network):
    model = network(name)
    spec, outputs = spec_of(name, model), model(batch(model), training=False)
    size = np.broadcast_to(TINY[name]["size_px"], 2).tolist()
    expected = FIELDS.get(name, {"image": None, "heatmap": None} if name in WHOLE_SLIDE else {"image": 1.0})
    assert [(i.name, i.mpp, list(i.size_px)) for i in spec.inputs] == [(k, mpp, size) for k, mpp in expected.items()]
    assert {key: value.shape[1:] for key, value in model.input.items()} == {
        i.name: (*i.size_px, i.channels) for i in spec.inputs
    }
    classifies = "classifier" in name
    assert spec.outputs == (("probabilities",) if classifies else OUTPUTS.get(name, ("segmentation",)))
    assert set(outputs) == set(spec.outputs)
    for output in spec.outputs:
        shape = () if classifies else OUTPUT_PX.get((name, output), size)
        assert outputs[output].shape == (2, *INSTANCES.get(name, {}).get(output, (*shape, len(CLASSES))))
    for found in distributions(name, outputs).values():
        np.testing.assert_allclose(np.sum(found, axis=-1), 1, atol=1e-5)
    assert spec.dense == (task_of(name) == "segmentation" and name not in WHOLE_SLIDE)
    if spec.dense:
        assert spec.output_px == outputs["segmentation"].shape[1:3]
        assert (spec.output_mpp, spec.stride_px) == (spec.inputs[0].mpp, spec.output_px[0])


@each_model
def test_every_trainable_weight_learns(name, network):
    model = network(name)
    inputs = batch(model)
    with tf.GradientTape() as tape:
        loss = training_loss(name, model, inputs)
    assert np.isfinite(loss)
    variables = [v.value for v in model.trainable_variables]
    for variable, gradient in zip(model.trainable_variables, tape.gradient(loss, variables), strict=True):
        assert gradient is not None, f"{variable.path} is not connected to the loss"
        assert np.isfinite(gradient).all(), variable.path


@each_model
def test_saved_and_loaded_gives_the_same(name, network, tmp_path):
    model = network(name)
    save(model, spec_of(name, model, "mine"), tmp_path / name)
    loaded, spec = load(tmp_path / name)
    assert spec.name == "mine" and spec == spec_of(name, model, "mine")
    assert spec.task == task_of(name)
    inputs = batch(model)
    for key, expected in model(inputs, training=False).items():
        np.testing.assert_array_equal(loaded(inputs, training=False)[key], expected)
    # save() built it once more: names, under which weights are kept, do not depend on what was built before
    assert {layer.name for layer in loaded.layers} == {layer.name for layer in model.layers}


@each_model
def test_onnx_gives_the_probabilities_of_keras(name, network):
    model = network(name)
    spec, inputs = spec_of(name, model), batch(model)
    file = convert(model, spec, spec.outputs, spec, OPSETS["default"]).SerializeToString()
    session = onnxruntime.InferenceSession(file)
    assert [i.name for i in session.get_inputs()] == [i.name for i in spec.inputs]
    found = dict(zip((o.name for o in session.get_outputs()), session.run(None, inputs), strict=True))
    for key, expected in model(inputs, training=False).items():
        np.testing.assert_allclose(found[key], expected, atol=PARITY)


@each_model
def test_wrong_size_names_the_nearest(name):
    size, nearest = WRONG_SIZE.get(name, (18, "16 or 20"))
    with pytest.raises(ModelError, match=rf"Received: {size}\. Nearest: {nearest}\."):
        build(name, **{**TINY[name], "size_px": size})


@each_model
def test_trains_a_step_in_mixed_precision(name):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build(name, **arguments(name))
        assert {p.dtype for p in model.output.values()} == {"float32"}
        for output, found in distributions(name, model(batch(model), training=False)).items():
            np.testing.assert_allclose(np.sum(found, axis=-1), 1, atol=1e-5, err_msg=output)
        if name in INSTANCES:
            assert np.isfinite(training_loss(name, model, batch(model)))
            return
        targets = {key: np.zeros((2, *p.shape[1:]), "float32") for key, p in model.output.items()}
        for target in targets.values():
            target[..., 1] = 1
        model.compile("sgd", loss={key: "categorical_crossentropy" for key in targets}, run_eagerly=True)
        assert np.all(np.isfinite(model.train_on_batch(batch(model), targets)))
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.slow
@pytest.mark.jax
def test_jax_gives_the_probabilities_of_tensorflow(network, tmp_path):
    """All in one process of its own: Keras takes its backend from the environment, once."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed; it comes with the extra `dev`")
    for name in MODELS:
        model = network(name)
        write_json(tmp_path / name / "spec.json", spec_of(name, model).to_dict())
        for part, variables in (("trained", model.trainable_variables), ("other", model.non_trainable_variables)):
            np.savez(tmp_path / name / part, *(np.asarray(variable) for variable in variables))
        np.savez(tmp_path / name / "inputs", **batch(model))
    paths = os.pathsep.join([str(Path(tfseg.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    quick = "--xla_backend_optimization_level=0"
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": quick,
        "PYTHONPATH": paths,
    }
    script = Path(__file__).with_name("jax_forward.py")
    result = subprocess.run([sys.executable, script, tmp_path], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for name in MODELS:
        found = np.load(tmp_path / name / "outputs.npz")
        for key, expected in network(name)(batch(network(name)), training=False).items():
            np.testing.assert_allclose(found[key], expected, atol=1e-4, err_msg=f"{name}, {key}")
