"""ONNX against Keras, names, precision, and what happens when they differ."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from tfseg.export import parity
from tfseg.export.onnx import export_onnx, he_picture
from tfseg.files import write_json
from tfseg.models import build, describe, save
from tfseg.types import ExportError, ModelError, ModelSpec, read_config

AGUNET = {"size_px": 32, "widths": [4, 4, 8]}


@pytest.fixture(scope="module")
def agunet(tmp_path_factory):
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("agunet")
    model = build("agunet", **AGUNET)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            random = np.random.default_rng(0)
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    save(model, describe(model, "agunet", AGUNET), folder)
    return folder


def names(values) -> list[str]:
    return [value.name for value in values]


def shape(value) -> list:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_default_profile_keeps_names_and_heads(agunet):
    path = export_onnx(agunet)
    assert path == agunet / "model.onnx"
    graph = onnx.load(path).graph
    assert names(graph.input) == ["image", "heatmap"]
    assert names(graph.output) == ["segmentation", "segmentation_1"]
    assert shape(graph.input[0]) == ["batch", 32, 32, 3] and shape(graph.output[0]) == ["batch", 32, 32, 2]
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}


def test_fast_profile_names_ports_by_their_order(agunet, tmp_path):
    path = export_onnx(agunet, "fast", tmp_path / "elsewhere" / "net.onnx")
    model = onnx.load(path)
    assert names(model.graph.input) == ["input_0_image", "input_1_heatmap"]
    assert names(model.graph.output) == ["output_0_segmentation"]
    assert [opset.version for opset in model.opset_import if not opset.domain] == [13]
    content = read_config(path.parent / "model_fast.json")
    spec = ModelSpec.from_dict(content)
    assert [i.name for i in spec.inputs] == names(model.graph.input) and list(spec.outputs) == names(model.graph.output)
    assert spec.classes == ModelSpec.load(agunet).classes


def test_fast_profile_with_heads(agunet, tmp_path):
    path = export_onnx(agunet, "fast", tmp_path / "net.onnx", heads=True)
    assert names(onnx.load(path).graph.output) == ["output_0_segmentation", "output_1_segmentation_1"]


@pytest.mark.parametrize("profile", ["default", "fast"])
def test_probabilities_are_those_of_keras_for_any_batch(agunet, profile, tmp_path):
    path = export_onnx(agunet, profile, tmp_path / "net.onnx", [he_picture(50, 20, seed=5)])
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (3, 32, 32, 3)).astype(np.float32)
    heatmap = random.random((3, 32, 32, 1), np.float32)
    session = onnxruntime.InferenceSession(str(path))
    found = session.run(None, dict(zip(names(session.get_inputs()), (image, heatmap), strict=True)))[0]
    model = keras.saving.load_model(agunet / "model.keras", compile=False)
    expected = model({"image": image, "heatmap": heatmap}, training=False)["segmentation"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


def test_spec_goes_along_to_another_folder(agunet, tmp_path):
    export_onnx(agunet, out=tmp_path / "model.onnx")
    assert ModelSpec.load(tmp_path) == ModelSpec.load(agunet)


def test_mixed_precision_is_exported_in_float32(tmp_path):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build("agunet", **AGUNET)
    finally:
        keras.config.set_dtype_policy(policy)
    spec = describe(model, "agunet", AGUNET)
    save(model, spec, tmp_path)
    model.save(tmp_path / "model.keras")
    assert "bfloat16" in {layer.compute_dtype for layer in model.layers}
    kinds = {tensor.data_type for tensor in onnx.load(export_onnx(tmp_path)).graph.initializer}
    assert onnx.TensorProto.FLOAT in kinds and not kinds & {onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16}


def test_difference_from_keras_is_an_error_that_leaves_nothing(agunet, tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "PARITY", -1.0)
    with pytest.raises(ExportError, match=r"net\.onnx: ONNX Runtime differs from Keras by .* in 'segmentation'"):
        export_onnx(agunet, out=tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_network_that_gives_nan_is_refused(tmp_path):
    model = build("agunet", **AGUNET)
    model.get_layer("enc1_1_conv").set_weights(
        [np.full_like(w, np.nan) for w in model.get_layer("enc1_1_conv").get_weights()]
    )
    save(model, describe(model, "agunet", AGUNET), tmp_path)
    with pytest.raises(ExportError, match="NaN"):
        export_onnx(tmp_path)
    assert not (tmp_path / "model.onnx").exists()


def test_unknown_profile_and_missing_network_are_named(tmp_path):
    with pytest.raises(ExportError, match="Known: default, fast"):
        export_onnx(tmp_path, "quick")
    with pytest.raises(ModelError, match=r"config\.json"):
        export_onnx(tmp_path)


def test_instances_are_not_for_fast(agunet, tmp_path):
    spec = ModelSpec.load(agunet).to_dict()
    write_json(tmp_path / "config.json", {**spec, "task": "instances"})
    with pytest.raises(ExportError, match="--profile default"):
        export_onnx(tmp_path, "fast")


@pytest.mark.slow
def test_full_size_classifiers_and_refinement_nets_are_exported(tmp_path):
    """The paper's settings: keras.applications' own layers, a thousand pixels a side."""
    for name in ("mobilenetv2_classifier", "inceptionv3_classifier", "unet", "dagunet"):
        model = build(name)
        save(model, describe(model, name, {}, mpp=1.0 if "classifier" in name else None), tmp_path / name)
        for profile in ("default", "fast"):
            assert export_onnx(tmp_path / name, profile).stat().st_size > 1e6
