"""A network of nuclei keeps its way to instances when it is exported, and finds the same nuclei as in Keras."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tiny_encoder

from tfseg.export.fast_dense import export_dense
from tfseg.infer.nuclei import label_image, predict_image, stride_of
from tfseg.infer.predictors import keras_predictor, load_predictor
from tfseg.models import build, describe, save
from tfseg.types import NUCLEI_BORDER_CLASSES, ModelSpec, read_config

TILE_PX = 64
INSTANCES = {"threshold": 0.34, "split": "border", "inside": 0.34, "min_area_px": 5, "min_marker_px": 2}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Random weights, everything exported."""
    folder = tmp_path_factory.mktemp("nuclei")
    keras.utils.set_random_seed(1)
    arguments = {"size_px": TILE_PX, "num_classes": 3, "encoder": tiny_encoder.NAME, "widths": [4] * 5}
    model = build("encoder_unet", **arguments)
    spec = describe(model, "encoder_unet", arguments, mpp=0.25, classes=NUCLEI_BORDER_CLASSES)
    spec = dataclasses.replace(spec, stride_px=stride_of(spec), instances=INSTANCES)
    save(model, spec, folder)
    return folder, export_dense(folder)


def test_both_profiles_keep_instances(network):
    folder, written = network
    assert [path.name for path in written] == ["model.onnx", "model_fast.onnx", "fastpathology.fpl", "headless.fpl"]
    for name in ("config.json", "model_fast.json"):
        assert ModelSpec.from_dict(read_config(folder / name)).instances == INSTANCES, name


def test_fast_gets_half_overlapping_tiles_at_40x(network):
    for path in network[1][2:]:
        text = path.read_text()
        for line in (f"patch-size {TILE_PX} {TILE_PX}", "patch-magnification 40", "patch-overlap 0.25"):
            assert f"Attribute {line}\n" in text
        assert 'classes "background;nucleus;border"' in text


def test_onnx_runtime_and_keras_find_the_same(network):
    folder = network[0]
    image = np.random.default_rng(0).integers(0, 256, (90, 110, 3), np.uint8)
    predict, spec = load_predictor(folder, threads=1)
    assert spec.instances == INSTANCES
    found = predict_image(predict, spec, image)
    np.testing.assert_allclose(found, predict_image(keras_predictor(folder), spec, image), atol=1e-4)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    assert label_image(predict, spec, image).shape == (90, 110)
