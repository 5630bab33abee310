"""What goes wrong, and what the user then sees: the thing is named, what helps is said, nothing half-written stays."""

from __future__ import annotations

import errno
import json
import os
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from command_line import PATCHES, TUMOUR_BOX, files, start
from fake_networks import classifier_spec, picture, slide_file
from PIL import Image
from small_cohort import write_annotation

from tfseg.files import write_json
from tfseg.infer import outputs
from tfseg.types import CascadeSpec

SLIDES = {
    "missing": ("missing.svs", "no such file", "Check the path"),
    "garbage": ("garbage.svs", "not a slide", "convert it"),
    "empty": ("empty.svs", "0 bytes", "again"),
    "folder": ("folder.svs", "a folder, expected a slide file"),
    "cut": ("cut.tif", "cut short: copy it again"),
    "no_mpp": ("no_mpp.png", "does not say its pixel size", "tfseg segment --mpp", "column `mpp`", "0.25"),
    "white": ("white.tif", "no tissue", "saturation"),
    "small": ("small.tif", "30 × 30 px", "smaller than a patch of 32 × 32", "mpp"),
}


def broken_slide(folder, name):
    """Makes the slide of that name in ``SLIDES``."""
    path = folder / SLIDES[name][0]
    if name == "garbage":
        path.write_bytes(b"\x93garbage" * 500)
    elif name == "empty":
        path.touch()
    elif name == "folder":
        path.mkdir()
    elif name == "cut":
        path.write_bytes(slide_file(folder / "whole.tif").read_bytes()[:3000])
    elif name == "no_mpp":
        Image.fromarray(picture()).save(path)
    elif name == "white":
        slide_file(path, np.full((300, 300, 3), 255, np.uint8))
    elif name == "small":
        slide_file(path, picture(30, 30))
    return path


@pytest.mark.parametrize("name", SLIDES)
def test_slide_that_cannot_be_segmented(fails, model, tmp_path, name):
    path = broken_slide(tmp_path, name)
    fails(("segment", path, "--model", model, "--out", tmp_path / "out"), f"segment: {name}: ", path, *SLIDES[name])
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("name", [name for name in SLIDES if name != "missing"])
def test_slide_that_cannot_be_indexed(fails, annotated, manifest, tmp_path, name):
    path = broken_slide(tmp_path, name)
    cohort = manifest("ok.tif,ok.geojson,train,1", f"{path.name},,train,2")
    line = fails(("index", cohort, "--out", tmp_path / "out", *PATCHES), cohort, "1 of 2 slides", path, *SLIDES[name])
    assert "ok.tif" not in line
    assert files(tmp_path / "out") == ["overview/ok.png", "parts/ok.parquet"]


SQUARE = [[10, 10], [90, 10], [90, 90], [10, 90], [10, 10]]
ANNOTATIONS = {
    "unknown class": ("Tumur", SQUARE, ("unknown class 'Tumur'", "feature 1", "'tumour'", "--map 'Tumur=CLASS'")),
    "no class": ("", SQUARE, ("''", "no class set", "feature 1")),
    "crossing": (
        "Tumor",
        [[10, 10], [90, 90], [90, 10], [10, 90], [10, 10]],
        ("feature 1", "'Tumor'", "crosses or touches itself near (50, 50)", "Mend or delete"),
    ),
    "no area": ("Tumor", [[10, 10], [20, 20], [30, 30], [10, 10]], ("feature 1", "no area", "Mend or delete")),
    "no points": ("Tumor", [], ("feature 1", "empty", "Mend or delete")),
    "outside": (
        "Tumor",
        [[9000, 10], [9090, 10], [9090, 90], [9000, 10]],
        ("feature 1", "outside the slide", "x 9000 to 9090", "560×420 px", "another slide"),
    ),
    "no number": ("Tumor", [["x", 10], [90, 10], [90, 90], ["x", 10]], ("feature 1", "'x'", "export again")),
}


def draw(path, ring, class_name):
    write_annotation(path, [TUMOUR_BOX], class_name)
    content = json.loads(path.read_text())
    content["features"][0]["geometry"]["coordinates"] = [ring]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_annotation_that_cannot_be_used(fails, annotated, manifest, tmp_path, case):
    class_name, ring, words = ANNOTATIONS[case]
    draw(tmp_path / "ok.geojson", ring, class_name)
    cohort = manifest("ok.tif,ok.geojson,train,1")
    fails(("index", cohort, "--out", tmp_path / "out", *PATCHES), tmp_path / "ok.geojson", *words)
    assert files(tmp_path / "out") == []


def test_the_way_out_of_an_unknown_class_works(tfseg, fails, annotated, manifest, model, tmp_path):
    """What the message says to do, with the commands that read annotations."""
    write_annotation(tmp_path / "ok.geojson", [TUMOUR_BOX], "Tumur")
    cohort = manifest("ok.tif,ok.geojson,train,1")
    tfseg("segment", annotated, "--model", model, "--out", tmp_path / "seg")
    for command in (
        ("index", cohort, "--out", tmp_path / "index", *PATCHES),
        ("evaluate", cohort, "--segmentations", tmp_path / "seg", "--split", "train", "--out", tmp_path / "scores"),
    ):
        fails(command, tmp_path / "ok.geojson", "--map 'Tumur=CLASS'")
        assert tfseg(*command, "--map", "Tumur=tumour").code == 0
    fails(("index", cohort, "--out", tmp_path / "x", "--map", "Tumur:tumour"), "'Tumur:tumour'", "expected NAME=CLASS")


MANIFESTS = {
    "not there": (None, ("cohort.csv", "no such manifest", "slide, annotation, split")),
    "empty": ("", ("cohort.csv", "empty", "slide, annotation, split")),
    "no slides": ("slide,annotation,split\n", ("cohort.csv", "no slides")),
    "missing column": ("slide,split\nok.tif,train\n", ("cohort.csv", "missing column 'annotation'", "slide, split")),
    "no CSV": ('slide,annotation,split\n"ok.tif,,train\n', ("cohort.csv", "not a CSV file")),
    "slide twice": (
        "slide,annotation,split\nok.tif,,train\n\nok.tif,,test\n",
        ("cohort.csv", "line 4", "'slide'", "ok.tif is already on line 2", "one row"),
    ),
    "slide not found": (
        "slide,annotation,split\nok.tif,,train\nnone.tif,,train\n",
        ("cohort.csv", "line 3", "'slide'", "file not found", "none.tif", "relative to the manifest"),
    ),
    "annotation not found": (
        "slide,annotation,split\nok.tif,none.xml,train\n",
        ("cohort.csv", "line 2", "'annotation'", "file not found", "none.xml"),
    ),
    "no split": ("slide,annotation,split\nok.tif,,\n", ("cohort.csv", "line 2", "'split'", "train, val, test")),
    "senseless mpp": (
        "slide,annotation,split,mpp\nok.tif,,train,40x\n",
        ("cohort.csv", "line 2", "'mpp'", "'40x'", "0.25"),
    ),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifest_that_cannot_be_used(fails, annotated, tmp_path, case):
    text, words = MANIFESTS[case]
    path = tmp_path / "cohort.csv"
    if text is not None:
        path.write_text(text)
    for command in (
        ("index", path, "--out", tmp_path / "out", *PATCHES),
        ("evaluate", path, "--segmentations", tmp_path, "--out", tmp_path / "out"),
    ):
        fails(command, *words)
        assert not (tmp_path / "out").exists()


def test_manifest_that_may_not_be_read(fails, manifest, annotated, tmp_path, monkeypatch):
    cohort = manifest("ok.tif,,train,1")

    def refuse(path, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(pd, "read_csv", refuse)
    fails(("index", cohort, "--out", tmp_path / "out"), cohort, "Permission denied")


def test_class_without_a_patch(fails, annotated, manifest, tmp_path):
    write_annotation(tmp_path / "ok.geojson", [(0, 0, 8, 8)])
    cohort = manifest("ok.tif,ok.geojson,train,1")
    fails(
        ("index", cohort, "--out", tmp_path / "out", *PATCHES),
        cohort, "no patch of class 'tumour' in split 'train'", "annotate more",
    )  # fmt: skip
    assert "index.json" not in files(tmp_path / "out")


def test_evaluation_that_lacks_something(fails, annotated, manifest, model, tmp_path):
    cohort, out = manifest("ok.tif,ok.geojson,test,1"), tmp_path / "out"
    command = ("evaluate", cohort, "--segmentations", tmp_path / "seg", "--out", out)
    fails((*command, "--split", "nope"), cohort, "no slide in split 'nope'", "'split': test")
    fails(command, tmp_path / "seg/ok/mask.tiff", "no segmentation of slide 'ok'", "tfseg segment")
    fails((*command, "--by", "scanner"), cohort, "no column 'scanner'", "grade")
    (tmp_path / "a").mkdir()
    twins = (*command[:3], tmp_path / "seg", tmp_path / "a" / "seg", *command[4:])
    fails(twins, "same name", tmp_path / "a" / "seg", "Rename")
    fails(("evaluate", manifest("ok.tif,,test,1"), *command[2:]), cohort, "no slide has an annotation")
    assert not out.exists()


def test_mask_of_another_slide(tfseg, fails, annotated, manifest, model, tmp_path):
    tfseg("segment", annotated, "--model", model, "--out", tmp_path / "seg")
    slide_file(annotated, picture(840, 840))
    command = ("evaluate", manifest("ok.tif,ok.geojson,test,1"), "--segmentations", tmp_path / "seg")
    fails((*command, "--out", tmp_path / "out"), tmp_path / "seg/ok/mask.tiff", "840×840 px", "of another slide")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def my_model(model, tmp_path):
    """A copy of the cascade, to be spoilt."""
    return shutil.copytree(model, tmp_path / "model")


def test_model_that_cannot_be_used(fails, annotated, my_model, tmp_path):
    command = ("segment", annotated, "--model", my_model, "--out", tmp_path / "out")
    config, onnx = my_model / "classifier/config.json", my_model / "classifier/model.onnx"

    network = onnx.read_bytes()
    onnx.write_bytes(network[:100])
    fails(command, onnx, "not a network that ONNX Runtime can load")
    onnx.unlink()
    fails(command, onnx, "no such file", "tfseg export")
    onnx.write_bytes(network)

    spec = classifier_spec().to_dict()
    spec["inputs"][0]["size_px"] = [64, 64]
    write_json(config, spec)
    fails(command, onnx, "(32, 32, 3)", "config.json", "(64, 64, 3)", "tfseg export")
    write_json(config, {**classifier_spec().to_dict(), "classes": []})
    fails(command, onnx, "0 classes", "tfseg export")
    config.write_text("{")
    fails(command, config, "not JSON")
    config.unlink()
    fails(command, config, "no such file", "A model folder holds config.json")
    (my_model / "config.json").unlink()
    fails(command, my_model / "config.json", "no such file", "tfseg train")
    assert not (tmp_path / "out").exists()


def test_network_without_its_partner(fails, annotated, my_model, tmp_path):
    command = ("segment", annotated, "--out", tmp_path / "out", "--model")
    fails((*command, my_model / "refinement"), "takes a heatmap", "the cascade's folder")
    write_json(my_model / "config.json", CascadeSpec("x", classifier="refinement", refinement=None).to_dict())
    fails((*command, my_model), "not a patch classifier")
    assert not (tmp_path / "out").exists()


def test_slides_that_would_share_a_folder(fails, annotated, model, tmp_path):
    (tmp_path / "other").mkdir()
    twin = slide_file(tmp_path / "other/ok.tif", picture(300, 300))
    command = ("segment", annotated, twin, "--model", model, "--out", tmp_path / "out")
    fails(command, annotated, twin, "'ok'", "different folders")
    assert not (tmp_path / "out").exists()
    fails(("segment", "--model", model, "--out", tmp_path / "out"), "no slide given", "tfseg segment SLIDE")


def test_target_that_is_a_file(tfseg, fails, annotated, manifest, model, tmp_path):
    cohort, target = manifest("ok.tif,ok.geojson,test,1"), tmp_path / "taken"
    tfseg("segment", annotated, "--model", model, "--out", tmp_path / "seg")
    target.write_text("the user's own")
    for command in (
        ("index", cohort, *PATCHES),
        ("index", cohort, *PATCHES[:-1], "2"),
        ("segment", annotated, "--model", model),
        ("evaluate", cohort, "--segmentations", tmp_path / "seg"),
    ):
        fails((*command, "--out", target), target, "hoose a folder you may write to")
        assert target.read_text() == "the user's own"


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half(write):
    """The writer, stopping in the middle of its file for lack of space."""

    def fail(path_or_table, *args, **kwargs):
        write(path_or_table, *args, **kwargs)
        raise FULL

    return fail


@pytest.mark.parametrize(
    ("owner", "writer", "name"),
    [(pyarrow.parquet, "write_table", "ok.parquet"), (pd.DataFrame, "to_csv", "summary.csv")],
)
def test_disk_full_while_indexing(tfseg, fails, annotated, manifest, tmp_path, monkeypatch, owner, writer, name):
    command = ("index", manifest("ok.tif,ok.geojson,train,1"), "--out", tmp_path / "out", *PATCHES)
    with monkeypatch.context() as patch:
        patch.setattr(owner, writer, half(getattr(owner, writer)))
        fails(command, name, "No space left on device", "Free space", "run the same command again")
    left = files(tmp_path / "out")
    assert "index.json" not in left
    assert not [path for path in left if path.endswith(name) or ".partial" in path]
    assert tfseg(*command).code == 0


@pytest.mark.parametrize("name", ["mask.tiff", "heatmap.tiff"])
def test_disk_full_while_segmenting(tfseg, fails, annotated, model, tmp_path, monkeypatch, name):
    command = ("segment", annotated, "--model", model, "--out", tmp_path / "out")
    write = outputs.write_pyramid

    def fail(path, *args, **kwargs):
        if path.name != name:
            return write(path, *args, **kwargs)
        with outputs.atomic_path(path) as temporary:
            temporary.write_bytes(b"half a file")
            raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_pyramid", fail)
        fails(command, tmp_path / "out/ok" / name, "No space left on device", "Free space", "same command again")
    left = files(tmp_path / "out")
    assert not [path for path in left if path.endswith((name, "summary.json")) or ".partial" in path]
    assert tfseg(*command).code == 0


def test_disk_full_while_scoring(tfseg, fails, annotated, manifest, model, tmp_path, monkeypatch):
    tfseg("segment", annotated, "--model", model, "--out", tmp_path / "seg")
    cohort = manifest("ok.tif,ok.geojson,test,1")
    command = ("evaluate", cohort, "--segmentations", tmp_path / "seg", "--out", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", half(pd.DataFrame.to_csv))
        fails(command, tmp_path / "out/scores.csv", "No space left on device")
    assert files(tmp_path / "out") == []
    assert tfseg(*command).code == 0


@pytest.mark.parametrize("command", ["index", "segment"])
def test_files_that_may_not_grow(annotated, manifest, model, tmp_path, command):
    """The system itself refuses to write more than some bytes a file, whatever library writes."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))"
    arguments = {
        "index": (manifest("ok.tif,ok.geojson,train,1"), *PATCHES),
        "segment": (annotated, "--model", model),
    }[command]
    process = start(command, *arguments, "--out", tmp_path / "out", before=limit)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert f"cannot write {tmp_path / 'out'}" in errors and "File too large" in errors
    assert "Traceback" not in errors
    left = files(tmp_path / "out")
    assert not [path for path in left if path.endswith(("index.json", "summary.json")) or ".partial" in path]
    assert all((tmp_path / "out" / path).stat().st_size < 600 for path in left), left


def test_export_of_what_is_no_model(fails, my_model, tmp_path):
    fails(("export", tmp_path), tmp_path / "config.json", "no such file", "tfseg train")
    fails(("export", my_model, "--profile", "default"), my_model / "classifier/model.keras", "no such file")
    assert not [path for path in files(my_model) if ".partial" in path]
