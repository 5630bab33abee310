"""The pipelines in pyFAST, with both engines, against tfseg's own numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from tfseg.export.fast import write_fpl
from tfseg.export.onnx import export_onnx, he_picture
from tfseg.export.run_fast import FLOAT32, best_level, run_headless
from tfseg.infer.networks import load_cascade, refine
from tfseg.infer.slide import heatmap
from tfseg.models import build, describe, save
from tfseg.slides.base import open_slide
from tfseg.slides.tiff_writer import write_pyramid
from tfseg.slides.tissue import tissue_mask
from tfseg.types import ExportError

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("needs_fast")]

SECONDS = 120
ENGINES = ("OpenVINO", "ONNXRuntime")

_VIEW = """
import json, sys
import fast, numpy as np
job = json.loads(sys.argv[1])
slide = fast.WholeSlideImageImporter.create(job["slide"]).runAndGetOutputData()
pipeline = fast.Pipeline(job["fpl"], {"level": job["level"]})
pipeline.parse({"WSI": slide}, {}, False)
mask = fast.Image.fromDataObject(pipeline.getProcessObject("refinement").runAndGetOutputData())
heat = fast.Tensor.fromDataObject(pipeline.getProcessObject("finish").getOutputPort(0).getNextFrame())
np.savez(job["output"], segmentation=np.asarray(mask)[..., 0], heatmap=np.asarray(heat))
"""

_NETWORKS = """
import json, sys
import fast, numpy as np
for job in json.loads(sys.argv[1]):
    given = np.load(job["inputs"])
    network = fast.NeuralNetwork.create(job["model"], inferenceEngine=job["engine"])
    for port, name in enumerate(sorted(given.files)):
        network.connect(port, fast.Image.createFromArray(given[name]))
    np.save(job["output"], np.asarray(network.runAndGetOutputData()))
"""


def run_script(script: str, job: object) -> None:
    environment = {**os.environ, **FLOAT32}
    command = [sys.executable, "-c", script, json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]


@pytest.fixture(scope="module")
def expected(exported: Path, slides: dict[str, Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Slide → foreground heatmap (rows, columns) and segmentation (h, w) as tfseg computes them."""
    networks = load_cascade(exported)
    assert networks.classifier is not None and networks.refinement is not None
    found = {}
    for name, path in slides.items():
        with open_slide(path) as slide:
            heat = heatmap(slide, networks.classifier.predict, networks.classifier.spec, tissue_mask(slide))
            size = networks.refinement.spec.inputs[0].size_px
            refined = refine(networks.refinement, slide.fit(size), heat)
        found[name] = (heat.foreground, refined[..., 1] >= networks.spec.threshold)
    return found


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.sum(a & b) / (a.sum() + b.sum()))


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        ("OpenVINO", "whole"),
        ("ONNXRuntime", "rest"),
        pytest.param("OpenVINO", "rest", marks=pytest.mark.slow),
        pytest.param("ONNXRuntime", "whole", marks=pytest.mark.slow),
    ],
)
def test_headless_agrees_with_tfseg(engine, name, exported, slides, expected, tmp_path):
    heat, mask = expected[name]
    assert 0.1 < mask.mean() < 0.9 and heat.std() > 0.2, "the test slide must have both classes"
    fpl = write_fpl(exported, "headless", engine, exported / f"{engine}_heatmap.fpl", result="heatmap")
    run = run_headless(fpl, slides[name], tmp_path / "heatmap.hdf5", timeout=SECONDS)
    with h5py.File(run.output) as file:
        found = file["tensor"][..., 1]
    assert found.shape == heat.shape
    assert np.mean(np.abs(found - heat)) <= 0.02
    fpl = write_fpl(exported, "headless", engine, exported / f"{engine}.fpl")
    run = run_headless(fpl, slides[name], tmp_path / "segmentation.tiff", timeout=SECONDS)
    segmentation = tifffile.imread(run.output)
    assert segmentation.shape == mask.shape and segmentation.dtype == np.uint8
    assert dice(segmentation == 1, mask) >= 0.97
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heatmap.hdf5", "segmentation.tiff"]


@pytest.mark.parametrize("engine", ENGINES)
def test_viewer_agrees_with_tfseg(engine, exported, slides, expected, tmp_path):
    heat, mask = expected["whole"]
    fpl = write_fpl(exported, "viewer", engine, exported / f"{engine}_viewer.fpl")
    output = tmp_path / "out.npz"
    run_script(_VIEW, {"slide": str(slides["whole"]), "fpl": str(fpl), "level": "1", "output": str(output)})
    found = np.load(output)
    assert np.mean(np.abs(found["heatmap"][..., 1] - heat)) <= 0.02
    assert dice(found["segmentation"] == 1, mask) >= 0.97


@pytest.mark.parametrize("engine", ENGINES)
def test_every_kind_of_network_is_computed_right(engine, perturbed, tmp_path):
    """Ports in the right order, transposed convolutions, attention, squeeze-and-excitation, resizing, unpooling."""
    import onnxruntime

    jobs, wanted = [], {}
    for path in perturbed:
        session = onnxruntime.InferenceSession(str(path))
        given = {}
        for one in session.get_inputs():
            height, width, channels = one.shape[1:]
            picture = he_picture(height, width, seed=3)
            given[one.name] = picture if channels == 3 else np.float32(picture[..., 1:2] / 255.0)
        inputs, output = tmp_path / f"{path.stem}_in.npz", tmp_path / f"{path.stem}_out.npy"
        np.savez(inputs, **given)
        wanted[output] = session.run(None, {n: a[None].astype(np.float32) for n, a in given.items()})[0][0]
        jobs.append({"model": str(path), "engine": engine, "inputs": str(inputs), "output": str(output)})
    run_script(_NETWORKS, jobs)
    for output, values in wanted.items():
        assert np.std(values) > 1e-3, f"{output.name}: says the same everywhere"
        found = np.load(output).reshape(values.shape)
        np.testing.assert_allclose(found, values, atol=1e-4, err_msg=output.name)


@pytest.fixture(scope="module")
def perturbed(tmp_path_factory) -> list[Path]:
    """One small network of each architecture, exported for FAST, with batch norms that do something."""
    import keras

    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("networks")
    small = {
        "mobilenetv2_classifier": {"size_px": 64, "alpha": 0.35},
        "unet": {"size_px": 32, "widths": [4, 8, 8]},
        "agunet": {"size_px": 32, "widths": [4, 8, 8]},
        "dagunet": {"size_px": 32, "widths": [8, 8, 16]},
        "doubleunet": {"size_px": 32, "widths": [8, 8]},
        "segnet": {"size_px": 32, "widths": [4, 8, 8], "num_classes": 2},
    }
    paths = []
    for name, arguments in small.items():
        model = build(name, **arguments)
        perturb(model)
        save(model, describe(model, name, arguments, mpp=1.0 if "classifier" in name else None), folder / name)
        paths.append(export_onnx(folder / name, "fast", folder / f"{name}.onnx"))
    return paths


def perturb(model) -> None:
    """Random scale, shift, mean and variance in every batch norm."""
    import keras

    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            noise = [random.uniform(0.5, 1.5, gamma.shape), random.normal(0, 0.2, beta.shape)]
            noise += [random.normal(0, 0.1, mean.shape), random.uniform(0.5, 1.5, variance.shape)]
            layer.set_weights(noise)


def test_failure_of_fast_is_an_error_that_leaves_no_file(exported, tmp_path):
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"no slide")
    with pytest.raises(ExportError, match=r"broken\.svs"):
        run_headless(exported / "headless.fpl", broken, tmp_path / "out.tiff", timeout=SECONDS)
    with pytest.raises(ExportError, match="within"):
        run_headless(exported / "headless.fpl", broken, tmp_path / "out.tiff", timeout=0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.svs"]


def test_slide_that_fast_would_misread_is_refused(exported, tmp_path):
    """Width 1301 gives a level of 651, whose downsample FAST rounds down to 1."""
    path = tmp_path / "odd.tif"
    write_pyramid(path, he_picture(700, 1301), mpp=0.5, objective_power=20)
    with pytest.raises(ExportError, match="askew"):
        run_headless(exported / "headless.fpl", path, tmp_path / "out.tiff", timeout=SECONDS)


def test_missing_files_are_named(exported, tmp_path):
    with pytest.raises(ExportError, match=r"none\.fpl: no such pipeline"):
        run_headless(tmp_path / "none.fpl", tmp_path / "x.svs", tmp_path / "out.tiff")
    with pytest.raises(ExportError, match=r"x\.svs: no such slide"):
        run_headless(exported / "headless.fpl", tmp_path / "x.svs", tmp_path / "out.tiff")


def test_best_level_is_the_smallest_that_is_large_enough():
    sizes = [(8000, 6000), (2000, 1500), (500, 375)]
    assert best_level(sizes, (1024, 1024)) == 1
    assert best_level(sizes, (500, 375)) == 2
    assert best_level(sizes, (1000, 1600)) == 0
    assert best_level([(300, 300)], (1024, 1024)) == 0
