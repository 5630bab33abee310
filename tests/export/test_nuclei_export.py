"""A network of nuclei keeps its way to instances when it is exported, and finds the same nuclei as in Keras."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tifffile
import tiny_encoder

from tfseg.export.fast_dense import export_dense
from tfseg.export.one_input import with_one_input
from tfseg.export.onnx import fast_names
from tfseg.export.run_fast import run_headless
from tfseg.infer.nuclei import label_image, nuclei_options, predict_image, stride_of
from tfseg.infer.nuclei_model import default_model
from tfseg.infer.predictors import keras_predictor, load_predictor
from tfseg.models import build, describe, save
from tfseg.slides.base import open_slide
from tfseg.slides.tiff_writer import write_pyramid
from tfseg.types import NUCLEI_BORDER_CLASSES, ModelSpec, read_config

TILE_PX = 64
INSTANCES = {"threshold": 0.34, "split": "border", "inside": 0.34, "min_area_px": 5, "min_marker_px": 2}


@pytest.fixture(scope="module")
def trained():
    """(network of random weights, its spec)."""
    keras.utils.set_random_seed(1)
    arguments = {"size_px": TILE_PX, "num_classes": 3, "encoder": tiny_encoder.NAME, "widths": [4] * 5}
    model = build("encoder_unet", **arguments)
    spec = describe(model, "encoder_unet", arguments, mpp=0.25, classes=NUCLEI_BORDER_CLASSES)
    return model, dataclasses.replace(spec, stride_px=stride_of(spec), instances=INSTANCES)


def test_specs_of_both_profiles_keep_instances(trained, tmp_path):
    model, spec = trained
    save(model, spec, tmp_path)
    for kept in (ModelSpec.load(tmp_path), fast_names(with_one_input(model, spec)[1])):
        assert nuclei_options(kept) == nuclei_options(spec)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nuclei")
    save(*trained, folder)
    return folder, export_dense(folder)


@pytest.mark.slow
def test_all_files_are_written_and_say_how_instances_are_made(exported):
    folder, written = exported
    assert [path.name for path in written] == ["model.onnx", "model_fast.onnx", "fastpathology.fpl", "headless.fpl"]
    for name in ("config.json", "model_fast.json"):
        assert ModelSpec.from_dict(read_config(folder / name)).instances == INSTANCES, name


@pytest.mark.slow
def test_fast_gets_half_overlapping_tiles_at_40x(exported):
    for path in exported[1][2:]:
        text = path.read_text()
        for line in (f"patch-size {TILE_PX} {TILE_PX}", "patch-magnification 40", "patch-overlap 0.25"):
            assert f"Attribute {line}\n" in text
        assert 'classes "background;nucleus;border"' in text


@pytest.mark.slow
def test_onnx_runtime_and_keras_find_the_same(exported):
    folder = exported[0]
    image = np.random.default_rng(0).integers(0, 256, (90, 110, 3), np.uint8)
    predict, spec = load_predictor(folder, threads=1)
    assert spec.instances == INSTANCES
    found = predict_image(predict, spec, image)
    np.testing.assert_allclose(found, predict_image(keras_predictor(folder), spec, image), atol=1e-4)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    assert label_image(predict, spec, image).shape == (90, 110)


@pytest.mark.smoke
@pytest.mark.usefixtures("needs_fast")
def test_the_network_that_comes_with_tfseg_runs_in_fast(slides, tmp_path):
    with open_slide(slides["whole"]) as slide:
        image = slide.whole(slide.mpp)[400:912, 700:1340]
    write_pyramid(tmp_path / "s.tif", image, mpp=0.25, objective_power=40)
    folder = default_model()
    result = run_headless(folder / "headless.fpl", tmp_path / "s.tif", tmp_path / "s.tiff", timeout=120)
    found = tifffile.imread(result.output)
    expected = predict_image(*load_predictor(folder, threads=1), image).argmax(axis=-1)
    assert np.bincount(expected.ravel(), minlength=3)[1:].min() > 0.01 * expected.size, "it must have something to say"
    inner = np.s_[64:-64, 64:-64]  # beyond the slide's edges FAST fills with black, tfseg mirrors
    assert found.shape == expected.shape and np.mean(found[inner] == expected[inner]) > 0.97
