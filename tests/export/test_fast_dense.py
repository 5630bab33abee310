"""Dense networks for FAST: one graph that makes its own fields, pipelines, and both in pyFAST against tfseg."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tifffile
from keras import layers

from tfseg.export.fast_dense import export_dense, fast_stride, write_dense_fpl
from tfseg.export.one_input import with_one_input
from tfseg.export.run_fast import FLOAT32, run_headless
from tfseg.files import write_json
from tfseg.geometry import field_name
from tfseg.infer.dense import segment_dense
from tfseg.infer.networks import DenseModel, load_model
from tfseg.infer.windows import read_fields
from tfseg.models import build, describe, save
from tfseg.slides.base import open_slide
from tfseg.slides.tiff_writer import write_pyramid
from tfseg.types import ClassSpec, ExportError, InputSpec, ModelSpec

SECONDS = 120
SIZE_PX, MPPS = 64, (0.5, 1.0, 2.0)
CLASSES = tuple(ClassSpec(name, (60 * n, 255 - 60 * n, 40)) for n, name in enumerate(("none", "a", "b;b", "c")))


def spec_of(mpps=MPPS, field_px=32, output_px=(16, 16), stride_px=16) -> ModelSpec:
    inputs = tuple(InputSpec(field_name(mpp), (field_px, field_px), 3, mpp) for mpp in mpps)
    return ModelSpec(
        "fields",
        "fake",
        {},
        "segmentation",
        inputs,
        ("segmentation",),
        CLASSES[:3],
        stride_px,
        0.5,
        {},
        output_px,
        mpps[0],
    )


def seen(spec: ModelSpec) -> keras.Model:
    """Says what it sees: red of the first field, green of the second, blue of the third, on the output's pixels."""
    inputs = {one.name: keras.Input((*one.size_px, 3), name=one.name) for one in spec.inputs}
    parts = []
    for index, one in enumerate(spec.inputs):
        factor = round(one.mpp / spec.output_mpp)
        x = layers.Cropping2D((one.size_px[0] - spec.output_px[0] // factor) // 2)(inputs[one.name])
        x = layers.UpSampling2D(factor)(x) if factor > 1 else x
        parts.append(x[..., index : index + 1])
    return keras.Model(inputs, {"segmentation": layers.Concatenate()(parts)})


def test_the_graphs_own_fields_are_those_of_the_slide():
    """Up to the rounding to whole grey levels when a slide is read."""
    random = np.random.default_rng(0)
    slide = open_slide([random.integers(0, 256, (200, 220, 3), np.uint8)], mpp=0.5)
    spec = spec_of()
    model = seen(spec)
    single, named = with_one_input(model, spec)
    centres = [(100.0, 90.0), (8.0, 16.0)]
    fields = read_fields(slide, spec.inputs, centres, "zero")
    large = read_fields(slide, named.inputs, centres, "zero")
    assert (named.inputs[0].size_px, named.inputs[0].mpp) == ((128, 128), 0.5)
    expected = model(dict(zip(model.input, fields, strict=True)))["segmentation"].numpy()
    found = single({"image": large[0]})["segmentation"].numpy()
    assert found.shape == (2, 128, 128, 3)
    np.testing.assert_allclose(found[:, 56:72, 56:72], expected, atol=0.5)
    assert named.provenance["padding_px"] == [56, 56]
    assert (np.delete(found, slice(56, 72), axis=1) == 0).all() and (np.delete(found, slice(56, 72), axis=2) == 0).all()


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (spec_of((0.5, 0.8)), "1.6 times"),
        (spec_of((1.0, 0.5)), "0.5 times"),
        (dataclasses.replace(spec_of((0.5, 1.0)), output_mpp=1.0), "output has 1 µm/px and image_20x 0.5"),
        (spec_of((0.5, 1.5), field_px=33, output_px=(16, 16)), "cannot be cut out"),
    ],
)
def test_fields_that_cannot_be_cut_are_refused(spec, reason):
    inputs = {one.name: keras.Input((*one.size_px, 3), name=one.name) for one in spec.inputs}
    model = keras.Model(inputs, {"segmentation": next(iter(inputs.values()))[:, :16, :16]})
    with pytest.raises(ExportError, match=reason):
        with_one_input(model, spec)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Looks exported."""
    write_exported(tmp_path, exported_spec())
    return tmp_path


def exported_spec(side: int = 1024, output_px: int = 256, stride_px: int = 256) -> ModelSpec:
    field = (InputSpec("input_0_image", (side, side), 3, 0.5),)
    border = (side - output_px) // 2
    return dataclasses.replace(
        spec_of(),
        name="DMMN",
        inputs=field,
        outputs=("output_0_segmentation",),
        output_px=(output_px, output_px),
        stride_px=stride_px,
        provenance={"padding_px": [border, border]},
    )


def write_exported(folder: Path, spec: ModelSpec) -> None:
    write_json(folder / "model_fast.json", spec.to_dict())
    (folder / "model_fast.onnx").write_bytes(b"network")


def test_every_block_gives_attributes_before_inputs_and_names_known_objects(folder):
    for flavour in ("viewer", "headless"):
        text = write_dense_fpl(folder, flavour, tissue=True).read_text()
        known = {"WSI"} if flavour == "viewer" else set()
        for part in text.split("\n\n")[1:]:
            lines = part.strip().split("\n")
            kinds = [line.split()[0] for line in lines[1:]]
            assert kinds == sorted(kinds), f"attributes must stand before inputs: {lines}"
            assert {line.split()[2] for line in lines[1:] if line.startswith("Input")} <= known
            known.add(lines[0].split()[1])
    assert text.count("Exporter") == 1 and "PipelineOutputData" not in text and "Renderer" not in text


def test_patches_are_the_large_field_at_the_targets_magnification(folder):
    text = write_dense_fpl(folder).read_text()
    for line in (
        "patch-size 1024 1024",
        "patch-magnification 20",
        "patch-overlap 0.375",
        "padding-value 0",
        'label-colors "1" "60;195;40" "2" "120;135;40"',
        'classes "none;a;b,b"',
        "threshold 0.0",
        'model "$CURRENT_PATH$/model_fast.onnx"',
    ):
        assert f"Attribute {line}\n" in text, line
    assert "tissue" not in text
    assert "PipelineOutputData segmentation stitcher 0" in text
    text = write_dense_fpl(folder, border="white", tissue=True, patch_level=1).read_text()
    assert "padding-value 255" in text and "patch-level 1" in text and "magnification" not in text
    assert "Input 1 tissue 0" in text and "mask-threshold 0.02" in text


@pytest.mark.parametrize(
    ("output", "stride", "expected"), [(256, 256, 256), (70, 70, 64), (256, 100, 96), (284, 300, 272)]
)
def test_stride_is_a_multiple_of_16_within_the_output(output, stride, expected):
    assert fast_stride(exported_spec(1136, output, stride)) == expected


@pytest.mark.parametrize("spec", [exported_spec(1024, 8, 8), exported_spec(1023, 255, 255)])
def test_patches_that_fast_cannot_stitch_are_refused(spec):
    with pytest.raises(ExportError, match="even sides"):
        fast_stride(spec)


def test_network_that_is_not_exported(tmp_path, folder):
    with pytest.raises(ExportError, match="Export the network first"):
        write_dense_fpl(tmp_path / "none")
    write_exported(folder, dataclasses.replace(exported_spec(), provenance={}))
    with pytest.raises(ExportError, match="not a dense network with a single field"):
        write_dense_fpl(folder)
    with pytest.raises(ExportError, match="border: unknown 'reflect'"):
        write_dense_fpl(folder, border="reflect")


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A tiny DMMN-M3 with random weights, made decided by a steep last layer, with everything that is exported."""
    keras.utils.set_random_seed(3)
    arguments = {"size_px": SIZE_PX, "num_classes": 4, "mpps": MPPS, "widths": [4, 8, 8]}
    model = build("dmmn_m3", **arguments)
    last = model.get_layer("segmentation_logits")
    kernel = last.get_weights()[0]
    picture = drawing(512, 512, 5)
    hidden = keras.Model(model.input, last.input)
    slide = open_slide([picture], mpp=0.5)
    spec = describe(model, "dmmn_m3", arguments, classes=CLASSES)
    fields = read_fields(slide, spec.inputs, [(x, y) for x in (128.0, 256.0) for y in (128.0, 384.0)], "zero")
    features = hidden.predict(dict(zip([one.name for one in spec.inputs], fields, strict=True)), verbose=0)
    flat = features.reshape(-1, features.shape[-1])
    kernel = kernel / (flat @ kernel.reshape(-1, 4)).std(0) * 20
    last.set_weights([kernel, -(flat @ kernel.reshape(-1, 4)).mean(0)])
    folder = tmp_path_factory.mktemp("dmmn") / "model"
    save(model, spec, folder)
    export_dense(folder)
    return folder


def drawing(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth fields of colour: every class has somewhere to be."""
    random = np.random.default_rng(seed)
    knots = random.integers(30, 250, (height // 48 + 2, width // 48 + 2, 3)).astype(np.float32)
    image = cv2.resize(knots, (width, height), interpolation=cv2.INTER_CUBIC) + random.normal(0, 4, (height, width, 1))
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "s.tif"
    write_pyramid(path, drawing(600, 808, 1), mpp=0.5, objective_power=20, compression="deflate")
    return path


@pytest.fixture(scope="module")
def expected(network, slide) -> np.ndarray:
    """The labels of ``tfseg segment``, (600, 808)."""
    model = load_model(network, threads=1)
    assert isinstance(model, DenseModel)
    with open_slide(slide) as opened:
        labels = segment_dense(opened, model.network.predict, model.network.spec).labels
    shares = np.bincount(labels.ravel(), minlength=4) / labels.size
    assert (shares > 0.02).sum() >= 3, f"the network must have something to say: {shares}"
    return labels


def test_keras_and_onnx_runtime_label_alike(network):
    slide, planes = open_slide([drawing(128, 160, 2)], mpp=0.5), []
    for engine in ("keras", "onnxruntime"):
        model = load_model(network, engine, threads=1)
        assert isinstance(model, DenseModel)
        result = segment_dense(slide, model.network.predict, model.network.spec, probabilities=True)
        planes.append(np.stack([result.store.plane(k).rows(0, 128) for k in range(1, 5)]).astype(int))
    assert np.abs(planes[0] - planes[1]).max() <= 1
    assert planes[0].std() > 20


def labelled(size: int, stride: int = SIZE_PX, overlap: int = 96) -> int:
    """Pixels of an axis that FAST labels: it leaves out cells with fewer pixels left than the overlap."""
    cells = [cell for cell in range(-(-size // stride)) if size - cell * stride >= overlap]
    return min(size, len(cells) * stride)


@pytest.mark.smoke
@pytest.mark.usefixtures("needs_fast")
@pytest.mark.parametrize("engine", ["OpenVINO", "ONNXRuntime"])
def test_headless_agrees_with_tfseg(engine, network, slide, expected, tmp_path):
    fpl = write_dense_fpl(network, "headless", engine, network / f"{engine}.fpl")
    found = tifffile.imread(run_headless(fpl, slide, tmp_path / "s.tiff", timeout=SECONDS).output)
    assert found.shape == expected.shape and found.dtype == np.uint8
    rows, columns = (labelled(side) for side in expected.shape)
    assert np.mean(found[:rows, :columns] == expected[:rows, :columns]) >= 0.995
    assert (found[rows:] == 0).all() and (found[:, columns:] == 0).all()


_VIEW = """
import json, sys
import fast, numpy as np
job = json.loads(sys.argv[1])
slide = fast.WholeSlideImageImporter.create(job["slide"]).runAndGetOutputData()
found = fast.Pipeline(job["fpl"], {}).run({"WSI": slide}, {}, False)
np.save(job["output"], np.asarray(fast.Image.fromDataObject(found["segmentation"]))[..., 0])
"""


@pytest.mark.smoke
@pytest.mark.usefixtures("needs_fast")
def test_viewer_agrees_with_tfseg(network, slide, expected, tmp_path):
    job = {"slide": str(slide), "fpl": str(network / "fastpathology.fpl"), "output": str(tmp_path / "out.npy")}
    environment = {**os.environ, **FLOAT32}
    command = [sys.executable, "-c", _VIEW, json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    found = np.load(tmp_path / "out.npy")
    rows, columns = (labelled(side) for side in expected.shape)
    assert np.mean(found[:rows, :columns] == expected[:rows, :columns]) >= 0.995


def test_export_again_leaves_the_files(network):
    before = {path.name: path.stat().st_mtime_ns for path in network.glob("*.onnx")}
    export_dense(network)
    assert {path.name: path.stat().st_mtime_ns for path in network.glob("*.onnx")} == before
    assert re.search(r"patch-size 256 256\n", (network / "headless.fpl").read_text())
