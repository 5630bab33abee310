"""``tfseg train`` when something is wrong or Ctrl-C comes. What training itself does is tested in tests/train."""

from __future__ import annotations

import signal

import pytest
from command_line import PATCHES, TUMOUR_BOX, files
from fake_networks import slide_file
from small_cohort import write_annotation

BRIEF = ("--classifier.weights", "None", "--classifier.batch-size", "2", "--classifier.threads", "1")


@pytest.fixture
def cohort(tfseg, manifest, tmp_path):
    """Function: tumour boxes by split → arguments of `tfseg train`, with the index made."""

    def make(**boxes):
        for split, box in boxes.items():
            slide_file(tmp_path / f"{split}.tif")
            write_annotation(tmp_path / f"{split}.geojson", [box])
        path = manifest(*(f"{split}.tif,{split}.geojson,{split},1" for split in boxes))
        assert tfseg("index", path, "--out", tmp_path / "index", *PATCHES).code == 0
        return ("train", path, "--index", tmp_path / "index", "--out", tmp_path / "run", *BRIEF)

    return make


def test_empty_split(fails, cohort, tmp_path):
    fails(cohort(train=TUMOUR_BOX), "no slide in split 'val'", "train", "column 'split'")
    assert not (tmp_path / "run").exists()


def test_class_without_a_patch(fails, cohort, tmp_path):
    command = cohort(train=TUMOUR_BOX, val=(0, 0, 8, 8))
    fails(command, "class 'tumour' has no patch in split 'val'", "Annotate more")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_begun(fails, cohort, tmp_path):
    command = cohort(train=TUMOUR_BOX, val=TUMOUR_BOX)
    nowhere = (*command[:3], tmp_path / "nowhere", *command[4:])
    fails(nowhere, tmp_path / "nowhere", "no patch index", "tfseg index")
    fails((*command, "--stages", "refinement"), "unet needs them", "--refinement.architecture unet_lr")
    fails((*command, "--classifier.architecture", "resnet"), "'resnet'", "mobilenetv2_classifier")
    fails((*command, "--classifier.weights", tmp_path / "none.h5"), tmp_path / "none.h5")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").write_text("the user's own")
    fails(command, tmp_path / "run", "choose a folder you may write to")
    assert (tmp_path / "run").read_text() == "the user's own"


def test_ctrl_c(tfseg, cohort, tmp_path, monkeypatch):
    from tfseg.train.step import Stepper

    def train(*arguments):
        signal.raise_signal(signal.SIGINT)
        return 0.7

    monkeypatch.setattr(Stepper, "train", train)
    found = tfseg(*cohort(train=TUMOUR_BOX, val=TUMOUR_BOX))
    assert found.code == 130
    state = tmp_path / "run/classifier/training/last.npz"
    assert f"after step 1; the state is in {state}. Run the same command again" in found.err
    left = files(tmp_path / "run")
    assert "classifier/training/last.npz" in left
    assert not [path for path in left if ".partial" in path or path.endswith((".keras", ".onnx", "config.json"))]
