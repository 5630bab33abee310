"""Model folders to callables: what goes in and comes out, and what is said where files do not fit."""

from __future__ import annotations

import dataclasses
import json
import threading

import numpy as np
import onnx
import pytest
from fake_networks import classifier_spec, refinement_spec, slide_file
from onnx import TensorProto, helper, numpy_helper

from tfseg.files import write_json
from tfseg.infer.cascade import segment_slide
from tfseg.infer.networks import load_cascade
from tfseg.infer.predictors import keras_predictor, load_predictor, onnx_file, onnx_predictor
from tfseg.types import H2G_CLASSES, CascadeSpec, ClassSpec, InputSpec, ModelError, ModelSpec

WEIGHTS = np.random.default_rng(0).normal(0, 0.02, (4, 2)).astype(np.float32)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def write_classifier(folder, spec: ModelSpec | None = None, side=32, name="image", classes=2):
    """Mean colour times weights, softmax."""
    nodes = [
        helper.make_node("ReduceMean", [name], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", side, side, 3])]
    result = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes])
    weights = numpy_helper.from_array(np.resize(WEIGHTS[:3], (3, classes)), "weights")
    return write(folder, spec or classifier_spec(), nodes, shapes, result, weights)


def write_refinement(folder, names=("image", "heatmap"), output="segmentation", side=64):
    """Each pixel's colour / 255 and heat times weights, softmax."""
    nodes = [
        helper.make_node("Mul", [names[0], "scale"], ["scaled"]),
        helper.make_node("Concat", ["scaled", names[1]], ["both"], axis=3),
        helper.make_node("MatMul", ["both", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [output], axis=-1),
    ]
    # Declared in the wrong order on purpose: only names count.
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", side, side, channels])
        for name, channels in ((names[1], 1), (names[0], 3))
    ]
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", side, side, 2])
    constants = numpy_helper.from_array(100 * WEIGHTS, "weights"), numpy_helper.from_array(np.float32(1 / 255), "scale")
    return write(folder, refinement_spec(), nodes, shapes, result, *constants)


def write(folder, spec, nodes, shapes, result, *constants):
    graph = helper.make_graph(nodes, "test", shapes, [result], list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(folder / "model.onnx"))
    write_json(folder / "config.json", spec.to_dict())
    return folder


def test_classifier_on_uint8_and_float32(tmp_path):
    predict, spec = load_predictor(write_classifier(tmp_path), threads=2)
    batch = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    found = predict(batch)
    assert (found.shape, found.dtype) == ((5, 2), np.float32)
    np.testing.assert_allclose(found, softmax(batch.mean((1, 2)) @ WEIGHTS[:3]), atol=1e-5)
    np.testing.assert_array_equal(found, predict(batch.astype(np.float32)))
    assert spec == classifier_spec()
    assert predict.parallel == 2


def test_many_threads_may_call_it(tmp_path):
    predict = onnx_predictor(write_classifier(tmp_path), threads=2)
    batches = [np.full((3, 32, 32, 3), value, np.uint8) for value in range(40)]
    expected = [predict(batch) for batch in batches]
    found = [None] * len(batches)

    def work(start):
        for i in range(start, len(batches), 4):
            found[i] = predict(batches[i])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("names", "output"),
    [
        (("image", "heatmap"), "segmentation"),
        (("input_0_image", "input_1_heatmap"), "output_0_segmentation"),
    ],
)
def test_inputs_are_found_by_name_or_in_alphabetical_order(tmp_path, names, output):
    predict = onnx_predictor(write_refinement(tmp_path, names, output), threads=1)
    rng = np.random.default_rng(2)
    image, heat = rng.integers(0, 256, (1, 64, 64, 3)).astype(np.uint8), rng.random((1, 64, 64, 1), np.float32)
    expected = softmax(np.concatenate([image / np.float32(255), heat], -1) @ (100 * WEIGHTS))
    np.testing.assert_allclose(predict(image, heat), expected, atol=1e-5)
    assert predict.parallel == 1


def test_a_folder_runs_from_end_to_end(tmp_path):
    """Cascade folder, ONNX Runtime, files."""
    write_classifier(tmp_path / "model/classifier")
    write_refinement(tmp_path / "model/refinement")
    write_json(tmp_path / "model/config.json", CascadeSpec("both").to_dict())
    slide = slide_file(tmp_path / "s.tif")
    summary = segment_slide(slide, tmp_path / "model", tmp_path / "out")
    assert summary["model"]["name"] == "both"
    assert (tmp_path / "out/s/mask.tiff").is_file()
    identity = load_cascade(tmp_path / "model").identity
    (tmp_path / "model/refinement/model.onnx").unlink()
    write_refinement(tmp_path / "model/refinement", ("i", "j"))
    with pytest.raises(ModelError, match=r"not those of config\.json"):  # heatmap 3 channels, image 1: j before i
        write_refinement(tmp_path / "model/refinement", ("j", "i"))
        load_cascade(tmp_path / "model")
    write_refinement(tmp_path / "model/refinement", ("i", "j"))
    assert load_cascade(tmp_path / "model").identity != identity


def test_a_single_network_is_a_cascade(tmp_path):
    cascade = load_cascade(write_classifier(tmp_path))
    assert cascade.classifier is not None
    assert cascade.refinement is None


def test_folder_without_spec(tmp_path):
    write_classifier(tmp_path)
    (tmp_path / "config.json").unlink()
    for load in (onnx_predictor, keras_predictor, load_predictor):
        with pytest.raises(ModelError, match=r"config\.json: no such file"):
            load(tmp_path)


def test_folder_without_network_says_how_to_make_it(tmp_path):
    write_json(tmp_path / "config.json", classifier_spec().to_dict())
    with pytest.raises(ModelError, match=rf"tfseg export {tmp_path}"):
        onnx_predictor(tmp_path)
    with pytest.raises(ModelError, match=r"model\.keras: no such file"):
        keras_predictor(tmp_path)
    with pytest.raises(ModelError, match="unknown 'tensorrt'"):
        load_predictor(tmp_path, "tensorrt")


def test_damaged_networks(tmp_path):
    write_json(tmp_path / "config.json", classifier_spec().to_dict())
    for name, load in (("model.onnx", onnx_predictor), ("model.keras", keras_predictor)):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(ModelError, match=rf"{name}: not a"):
            load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": (InputSpec("image", (64, 64), 3, 1.0),)},
        {"inputs": (*classifier_spec().inputs, InputSpec("heatmap", (32, 32), 1, None, "heatmap"))},
        {"classes": (*H2G_CLASSES, ClassSpec("third", (0, 0, 0)))},
        {"task": "segmentation"},
    ],
)
def test_spec_of_another_network(tmp_path, change):
    write_classifier(tmp_path, dataclasses.replace(classifier_spec(), **change))
    with pytest.raises(ModelError, match=r"model\.onnx: .*config\.json.*tfseg export"):
        onnx_predictor(tmp_path)


def test_a_batch_that_does_not_fit(tmp_path):
    predict = onnx_predictor(write_classifier(tmp_path))
    with pytest.raises(ModelError, match=r"failed on image \(1, 16, 32, 3\)"):
        predict(np.zeros((1, 16, 32, 3), np.uint8))


def test_config_that_is_no_spec(tmp_path):
    write_classifier(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(ModelError, match=r"config\.json: not a tfseg model spec"):
        onnx_predictor(tmp_path)


def test_keras_network(tmp_path):
    import keras

    image, heat = keras.Input((64, 64, 3), name="image"), keras.Input((64, 64, 1), name="heatmap")
    both = keras.layers.Concatenate()([keras.layers.Rescaling(1 / 255)(image), heat])
    result = keras.layers.Conv2D(2, 1, activation="softmax")(both)
    model = keras.Model({"image": image, "heatmap": heat}, {"segmentation": result})
    model.save(tmp_path / "model.keras")
    write_json(tmp_path / "config.json", refinement_spec().to_dict())
    predict, _ = load_predictor(tmp_path, "keras")
    rng = np.random.default_rng(3)
    pixels, values = rng.integers(0, 256, (2, 64, 64, 3)).astype(np.uint8), rng.random((2, 64, 64, 1), np.float32)
    found = predict(pixels, values)
    expected = np.asarray(model({"image": pixels.astype(np.float32), "heatmap": values})["segmentation"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    write_json(tmp_path / "config.json", refinement_spec(32).to_dict())
    with pytest.raises(ModelError, match=r"not those of config\.json"):
        keras_predictor(tmp_path)


def test_a_folder_with_the_network_for_fast_alone_is_enough(tmp_path):
    """It names inputs and outputs by their order; one file less matters where models are shipped."""
    both, alone = (
        write_classifier(tmp_path / name, name=image) for name, image in (("a", "image"), ("b", "input_0_image"))
    )
    (alone / "model.onnx").rename(alone / "model_fast.onnx")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(onnx_predictor(alone)(images), onnx_predictor(both)(images))
    assert onnx_file(both) == both / "model.onnx" and onnx_file(tmp_path) == tmp_path / "model.onnx"
