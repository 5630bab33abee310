"""Commands from their words to their files: help, usage, rerunning, one broken slide among good ones."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from command_line import PATCHES, TUMOUR_BOX, files, start
from fake_networks import picture, slide_file
from small_cohort import write_annotation

from tfseg.cli import COMMANDS
from tfseg.models import MODELS, registry


def test_without_a_command(tfseg):
    shown = tfseg("--help")
    assert shown.code == 0
    assert all(f"  {name} " in shown.out for name in COMMANDS)
    assert tfseg().code == 2


def test_version(tfseg):
    from tfseg import __version__

    assert tfseg("--version").out.strip() == __version__


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(tfseg, command):
    shown = tfseg(command, "--help")
    assert shown.code == 0
    assert f"usage: tfseg {command}" in shown.out


@pytest.mark.parametrize(("typed", "meant"), [("segmnt", "segment"), ("evalute", "evaluate"), ("trian", "train")])
def test_a_misspelt_command(tfseg, typed, meant):
    found = tfseg(typed, "slide.svs")
    assert found.code == 2
    assert f"no command {typed!r}, did you mean {meant!r}?" in found.err
    assert found.out == ""


def test_an_unknown_command_lists_those_there_are(tfseg):
    found = tfseg("frobnicate")
    assert found.code == 2
    assert "did you mean" not in found.err
    assert all(name in found.err for name in COMMANDS)


def test_wrong_usage(tfseg, tmp_path):
    assert "--out" in tfseg("index").err
    found = tfseg("segment", tmp_path / "a.svs", "--model", tmp_path)
    assert found.code == 2
    assert "--out" in found.err
    found = tfseg("index", tmp_path / "a.csv", "--out", tmp_path, "--patch-px", "large")
    assert found.code == 2
    assert "large" in found.err


def test_models_as_json(tfseg, monkeypatch):
    """All counts are asserted in tests/models, which builds every network; here, that they come out."""
    counted = {name: (number, number - 1) for number, name in enumerate(MODELS, 100)}
    real = registry.count
    monkeypatch.setattr(registry, "count", lambda name: real(name) if name == "dmmn_m3" else counted[name])
    rows = json.loads(tfseg("models", "--json").out)
    counts = {row["name"]: (row["total"], row["trainable"]) for row in rows}
    assert counts == {**counted, "dmmn_m3": (27_071_303, 27_071_303)}


def test_index_segment_evaluate(tfseg, annotated, manifest, model, tmp_path):
    cohort = manifest("ok.tif,ok.geojson,train,1")
    indexed = tfseg("index", cohort, "--out", tmp_path / "index", *PATCHES)
    assert indexed.code == 0
    assert "tumour" in indexed.out and str(tmp_path / "index") in indexed.out
    segmented = tfseg("segment", annotated, "--model", model, "--out", tmp_path / "seg")
    assert segmented.code == 0
    assert "mm²" in segmented.out and str(tmp_path / "seg" / "ok") in segmented.out
    scores = ("evaluate", cohort, "--segmentations", tmp_path / "seg", "--split", "train", "--out", tmp_path / "scores")
    assert tfseg(*scores).code == 0
    assert "boxes_grade.png" in files(tmp_path / "scores"), "grouped by grade unless told otherwise"


def test_evaluating_a_cohort_without_grades(tfseg, annotated, manifest, model, tmp_path):
    cohort = manifest("ok.tif,ok.geojson,test", header="slide,annotation,split")
    tfseg("segment", annotated, "--model", model, "--out", tmp_path / "seg")
    found = tfseg("evaluate", cohort, "--segmentations", tmp_path / "seg", "--out", tmp_path / "scores")
    assert found.code == 0, found.err
    assert files(tmp_path / "scores") == ["boxes.png", "scores.csv", "summary.csv", "summary.md"]


def test_one_broken_slide_among_good_ones(tfseg, model, tmp_path):
    first, second = slide_file(tmp_path / "first.tif"), slide_file(tmp_path / "second.tif")
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"not a slide")
    command = ("segment", first, broken, second, "--model", model, "--out", tmp_path / "out")
    found = tfseg(*command)
    assert found.code == 1
    assert "tfseg segment: broken: " in found.err and str(broken) in found.err
    assert [line.split(":")[0] for line in found.out.splitlines()] == [
        str(tmp_path / "out" / name) for name in ("first", "second")
    ]
    assert {name.split("/")[0] for name in files(tmp_path / "out")} == {"first", "second"}

    slide_file(broken)
    written = (tmp_path / "out/first/summary.json").read_bytes()
    found = tfseg(*command)
    assert found.code == 0, found.err
    assert {line.split("/")[-1].split(":")[0]: "finished before" in line for line in found.out.splitlines()} == {
        "first": True,
        "broken": False,
        "second": True,
    }
    assert (tmp_path / "out/first/summary.json").read_bytes() == written
    assert "finished before" not in tfseg(*command, "--force").out


def test_index_leaves_broken_slides_out_when_told(tfseg, annotated, manifest, tmp_path):
    (tmp_path / "broken.svs").write_bytes(b"not a slide")
    cohort = manifest("ok.tif,ok.geojson,train,1", "broken.svs,,train,2")
    command = ("index", cohort, "--out", tmp_path / "out", *PATCHES)
    found = tfseg(*command)
    assert found.code == 1
    assert "1 of 2 slides" in found.err and "--skip-broken" in found.err
    assert files(tmp_path / "out") == ["overview/ok.png", "parts/ok.parquet"], "the good one is done, the index is not"

    part = (tmp_path / "out/parts/ok.parquet").stat().st_mtime_ns
    found = tfseg(*command, "--skip-broken")
    assert found.code == 0
    assert "left out broken: " in found.err and "broken.svs" in found.err
    assert max(map(len, found.out.splitlines())) < 160, "a table that fits a terminal"
    assert (tmp_path / "out/parts/ok.parquet").stat().st_mtime_ns == part, "not done again"
    assert set(pd.read_parquet(tmp_path / "out/patches.parquet")["slide_name"]) == {"ok"}


def test_faint_tissue_is_found_when_told(tfseg, manifest, tmp_path):
    image = picture()
    image[(image != 250).any(-1)] = (245, 230, 240)
    slide_file(tmp_path / "faint.tif", image)
    command = ("index", manifest("faint.tif,,test,1"), "--out", tmp_path / "out", *PATCHES)
    assert "--saturation" in tfseg(*command).err
    assert tfseg(*command, "--saturation", "10").code == 0


def test_what_tfseg_warns_of_reaches_the_user(annotated, manifest, tmp_path):
    """From worker processes too; warnings of Python libraries do not."""
    write_annotation(tmp_path / "b.geojson", [TUMOUR_BOX])
    for name in ("ok", "b"):
        content = json.loads((tmp_path / f"{name}.geojson").read_text())
        point = {"type": "Point", "coordinates": [300, 300]}
        content["features"].append({**content["features"][0], "geometry": point})
        (tmp_path / f"{name}.geojson").write_text(json.dumps(content))
    slide_file(tmp_path / "b.tif")
    cohort = manifest("ok.tif,ok.geojson,train,1", "b.tif,b.geojson,train,1")
    process = start("index", cohort, "--out", tmp_path / "out", *PATCHES[:-1], "2")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    for name in ("ok", "b"):
        assert f"{name}.geojson: 1 objects without area (points, lines) left out." in errors
    assert "Warning" not in errors
