"""``tfseg segment --nuclei``: what it prints and writes, exit codes, options that do not go together, a killed run."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest
from command_line import files, start
from finding_network import write_finder
from nuclei_network import DISCS, disc_labels, disc_picture, write_network
from PIL import Image

import tfseg.infer.nuclei_model
from tfseg import models
from tfseg.data.colour_normalisation import fit, save_normaliser
from tfseg.infer.nuclei_model import load_nuclei_model
from tfseg.slides.geojson import read_geojson
from tfseg.types import COLOURS, NUCLEI_CLASSES, ModelError

FILES = ["nuclei.geojson", "nuclei.tiff", "overlay.png", "summary.json"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("nuclei") / "model")


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(disc_picture()).save(tmp_path / "ihc.png")
    return tmp_path / "ihc.png"


def test_a_picture_needs_no_more_options(tfseg, network, picture, tmp_path, monkeypatch):
    monkeypatch.setattr("tfseg.infer.nuclei_model.default_model", lambda: network)
    monkeypatch.chdir(tmp_path)
    found = tfseg("segment", "--nuclei", picture)
    assert found.code == 0, found.err
    assert f"nuclei/ihc: {len(DISCS)} nuclei, median " in found.out and "pixel size assumed" in found.out
    assert files(tmp_path / "nuclei/ihc") == FILES
    assert "finished before" in tfseg("segment", "--nuclei", picture).out


def test_options(tfseg, network, picture, tmp_path):
    command = ("segment", picture, "--nuclei", "--model", network, "--out", tmp_path / "out", "--mpp", 0.5)
    found = tfseg(*command, "--stains", "dab", "--stride-px", 64, "--threshold", 0.6, "--overlap-px", 40)
    assert found.code == 0, found.err
    assert f"{len(DISCS)} nuclei, 1026 per mm²" in found.out and "assumed" not in found.out
    told = json.loads((tmp_path / "out/ihc/summary.json").read_text())
    assert told["settings"]["nuclei"] == {"stains": "dab", "overlap_px": 40}
    assert told["grid"]["stride_px"] == 64 and told["settings"]["instances"]["threshold"] == 0.6
    assert "DAB: Mean" in read_geojson(tmp_path / "out/ihc/nuclei.geojson")[0].measurements


def test_broken_pictures_are_named_and_the_exit_code_is_1(tfseg, network, picture, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    found = tfseg(
        "segment", "--nuclei", tmp_path / "broken.png", picture, "--model", network, "--out", tmp_path / "out"
    )
    assert found.code == 1
    assert "tfseg segment: broken: " in found.err and "empty" in found.err
    assert files(tmp_path / "out") == [f"ihc/{name}" for name in FILES]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--nuclei", "--probability"), ("--nuclei has no --probability",)),
        (("--nuclei", "--thresholds", "nucleus", "0.5"), ("--nuclei has no --thresholds",)),
        (("--stains", "dab"), ("--stains", "add --nuclei")),
    ],
)
def test_wrong_use_is_explained(fails, network, picture, tmp_path, arguments, words):
    model = ("--model", network) if "--nuclei" in arguments or "--stains" in arguments else ()
    fails(("segment", picture, *arguments, *model), *words)


def test_regions_need_a_model_and_a_folder(tfseg, picture):
    for arguments, words in (((), "--model and --out missing"), (("--out", "x"), "--model missing")):
        found = tfseg("segment", picture, *arguments)
        assert found.code == 2 and words in found.err


def test_a_missing_default_network_is_explained(fails, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(tfseg.infer.nuclei_model, "DEFAULT_MODEL", "none_of_that_name")
    fails(("segment", "--nuclei", picture), "none_of_that_name, is missing", "--model")


def test_killed_and_started_again(tfseg, network, tmp_path):
    """SIGKILL leaves state that the next run goes on from, to the same bytes."""
    Image.fromarray(disc_picture().repeat(2, axis=0).repeat(2, axis=1)).save(tmp_path / "p.png")
    options = ("--nuclei", "--model", network, "--stride-px", "8", "--no-progress", "--threads", "1")
    process = start("segment", tmp_path / "p.png", *options, "--out", tmp_path / "out")
    state, deadline = tmp_path / "out/.state/p.dense", time.monotonic() + 60
    while (
        process.poll() is None and time.monotonic() < deadline and not (state.exists() and state.stat().st_size > 999)
    ):
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=60)
    assert files(tmp_path / "out") == [".state/p.dense"]
    for folder in ("out", "whole"):
        assert tfseg("segment", tmp_path / "p.png", *options, "--out", tmp_path / folder).code == 0
    resumed = [
        json.loads((tmp_path / f / "p/summary.json").read_text())["grid"]["resumed_windows"] for f in ("out", "whole")
    ]
    assert resumed[0] > resumed[1] == 0
    for name in FILES[:3]:
        assert (tmp_path / "out/p" / name).read_bytes() == (tmp_path / "whole/p" / name).read_bytes(), name
    assert not (tmp_path / "out/.state").exists()


def test_a_network_of_normalised_colours_gets_them(tfseg, network, tmp_path):
    """The network takes green for nucleus; the target's colours turn the picture's orange discs into green ones."""
    folder = shutil.copytree(network, tmp_path / "model")
    labels = disc_labels()
    target = disc_picture(labels)
    other = np.where((labels > 0)[..., None], np.uint8([230, 130, 40]), np.uint8([230, 50, 40]))
    save_normaliser(folder / COLOURS, fit(target, "reinhard", tissue_only=False))
    Image.fromarray(other).save(tmp_path / "orange.png")
    command = ("segment", "--nuclei", tmp_path / "orange.png", "--mpp", 0.5)
    plain = tfseg(*command, "--model", network, "--out", tmp_path / "plain")
    seen = tfseg(*command, "--model", folder, "--out", tmp_path / "seen")
    assert plain.code == seen.code == 0, seen.err
    assert "plain/orange: 0 nuclei" in plain.out and f"seen/orange: {len(DISCS)} nuclei" in seen.out
    summary = json.loads((tmp_path / "seen/orange/summary.json").read_text())
    assert summary["settings"]["colours"]["method"] == "reinhard"
    with pytest.raises(ModelError, match=r"normalised colours \(colours\.json\)"):
        load_nuclei_model(folder)


def test_mask_rcnn_finds_nuclei(tfseg, fails, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    write_finder(folder)
    Image.fromarray(np.full((40, 40, 3), 204, np.uint8)).save(tmp_path / "p.png")
    command = ("segment", "--nuclei", tmp_path / "p.png", "--mpp", 0.25, "--model", folder, "--out", tmp_path / "out")
    found = tfseg(*command)
    assert found.code == 0 and "out/p: 2 nuclei" in found.out, found.err
    fails((*command, "--stride-px", 8), "--stride-px: Mask R-CNN's fields")


@pytest.mark.smoke
def test_keras_runs_mask_rcnn(picture, tmp_path):
    """In a process of its own: only what the command imports has registered the network's layers."""
    narrow = {"pyramid_width": 4, "rpn_width": 4, "head_width": 4, "before_nms": 20, "proposals": 8, "detections": 4}
    arguments = {"size_px": 64, "encoder": "mobilenetv2", "alpha": 0.35, "settings": narrow}
    network = models.build("mask_rcnn", **arguments)
    models.save(network, models.describe(network, "mask_rcnn", arguments, 0.5, NUCLEI_CLASSES), tmp_path / "model")
    command = ("segment", "--nuclei", picture, "--model", tmp_path / "model", "--out", tmp_path / "out")
    _, error = (running := start(*command, "--engine", "keras")).communicate()
    assert running.returncode == 0, error
    assert json.loads((tmp_path / "out/ihc/summary.json").read_text())["settings"]["engine"] == "keras"
