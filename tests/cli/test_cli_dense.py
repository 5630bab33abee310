"""``tfseg segment`` with a dense network: options, what is printed, exit codes, and a run that was killed."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import tifffile
from command_line import files, start
from dense_networks import dense_spec, noise, write_dense
from fake_networks import slide_file

from tfseg.files import write_json
from tfseg.types import ClassSpec, ModelSpec


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A dense network of 16 px outputs at 1 µm/px whose classes are the strongest colours."""
    return write_dense(tmp_path_factory.mktemp("dense") / "model")


def test_areas_of_slide_tissue_and_every_class_are_printed(tfseg, tmp_path):
    """400 × 600 pixels of 100 µm²: 150 rows green, 50 black (the first class), 200 blue."""
    classes = (ClassSpec("glass", (0, 0, 0)), ClassSpec("tissue", (0, 9, 0)), ClassSpec("necrosis", (0, 0, 9)))
    folder = write_dense(tmp_path / "model", dense_spec(128, (128, 128), mpps=(10.0,), classes=classes))
    image = np.zeros((400, 600, 3), np.uint8)
    image[:150], image[200:] = (0, 200, 0), (0, 0, 200)
    slide = slide_file(tmp_path / "s.tif", image, mpp=10.0)
    found = tfseg("segment", slide, "--model", folder, "--out", tmp_path / "out", "--no-progress")
    assert found.code == 0
    assert "slide 24.00 mm², glass 3.00 mm², tissue 9.00 mm², necrosis 12.00 mm²" in found.out


def test_options_and_files(tfseg, dense, tmp_path):
    image = noise(40, 60)
    image[:20] = (0, 200, 0)
    slide = slide_file(tmp_path / "s.tif", image, mpp=1.0)
    command = ("segment", slide, "--model", dense, "--out", tmp_path / "out", "--no-progress")
    options = ("--stride-px", "8", "--border", "reflect", "--probability", "--thresholds", "red one", "2", "blue", "2")
    found = tfseg(*command, *options)
    assert found.code == 0
    assert files(tmp_path / "out/s") == [
        "mask.tiff",
        "overlay.png",
        "polygons.geojson",
        "probability_blue.tiff",
        "probability_green.tiff",
        "probability_red_one.tiff",
        "summary.json",
    ]
    assert (tifffile.imread(tmp_path / "out/s/mask.tiff") == 1).all()
    assert "finished before" in tfseg(*command, *options).out
    assert "finished before" not in tfseg(*command).out


def test_slides_that_fail_are_named_and_the_exit_code_is_1(tfseg, dense, tmp_path):
    white = slide_file(tmp_path / "white.tif", np.full((64, 64, 3), 255, np.uint8))
    good = slide_file(tmp_path / "good.tif", noise(64, 64))
    found = tfseg("segment", white, good, "--model", dense, "--out", tmp_path / "out", "--tissue", "otsu")
    assert found.code == 1
    assert "segment: white: " in found.err and "no tissue" in found.err
    assert "good" in found.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--stride-px", "20"), ("leaves gaps", "16 × 16")),
        (("--thresholds", "gren", "0.5"), ("unknown class 'gren'", "green")),
        (("--background", "glass"), ("unknown class 'glass'",)),
    ],
)
def test_options_that_do_not_fit_the_network(fails, dense, tmp_path, options, words):
    slide = slide_file(tmp_path / "s.tif", noise(64, 64))
    fails(("segment", slide, "--model", dense, "--out", tmp_path / "out", *options), *words)
    assert files(tmp_path / "out") == []


def test_config_of_another_network(fails, dense, tmp_path):
    folder = write_dense(tmp_path / "model")
    spec = ModelSpec.load(folder).to_dict()
    write_json(folder / "config.json", {**spec, "output_px": None})
    slide = slide_file(tmp_path / "s.tif", noise(64, 64))
    fails(("segment", slide, "--model", folder, "--out", tmp_path / "out"), "not a dense network", "output_px")


def test_killed_and_started_again(tfseg, dense, tmp_path):
    """SIGKILL leaves state that the next run goes on from, to the same bytes."""
    slide = slide_file(tmp_path / "s.tif", noise(200, 300))
    options = ("--model", dense, "--stride-px", "8", "--no-progress", "--threads", "1")
    process = start("segment", slide, *options, "--out", tmp_path / "out")
    state, deadline = tmp_path / "out/.state/s.dense", time.monotonic() + 60
    while (
        process.poll() is None and time.monotonic() < deadline and not (state.exists() and state.stat().st_size > 999)
    ):
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=60)
    assert files(tmp_path / "out") == [".state/s.dense"]
    for folder in ("out", "whole"):
        assert tfseg("segment", slide, *options, "--out", tmp_path / folder).code == 0
    resumed = [
        json.loads((tmp_path / f / "s/summary.json").read_text())["grid"]["resumed_windows"] for f in ("out", "whole")
    ]
    assert resumed[0] > resumed[1] == 0
    for name in ("mask.tiff", "polygons.geojson", "overlay.png"):
        assert (tmp_path / "out/s" / name).read_bytes() == (tmp_path / "whole/s" / name).read_bytes(), name
    assert not (tmp_path / "out/.state").exists()
