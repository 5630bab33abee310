"""``tfseg train`` of a dense network; when something is wrong; Ctrl-C. Training itself is tested in tests/train."""

from __future__ import annotations

import signal

import pytest
import tiny_encoder
from command_line import PATCHES, TUMOUR_BOX, files
from dense_cohort import write_cohort
from fake_networks import slide_file
from small_cohort import write_annotation
from toy_nuclei import write_folder

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


CARCINOMA = [("carcinoma", (128, 128, 192, 192)), ("stroma", (192, 128, 256, 192))]
DENSE = (
    (
        "--architecture plain_unet --widths 2 4 --batch-size 2 --threads 1 --optimizer.kind adam --loss.dice 0.5 "
        "--train.epochs 1 --train.steps-per-epoch 1 --train.validation-steps 1"
    )
    .replace("--", "--segmentation.")
    .split()
)


def test_dense_network_from_index_to_model(tfseg, fails, tmp_path):
    cohort = write_cohort(tmp_path, [("train", CARCINOMA), ("val", CARCINOMA)])
    classes = tmp_path / "classes.json"
    classes.write_text(
        '{"classes": [{"name": "carcinoma", "color": [9, 0, 0]}, {"name": "stroma", "color": [0, 9, 0]}]}'
    )
    window = ("--kind", "dense", "--dense.target-px", "32", "--dense.stride-px", "32", "--workers", "1")
    assert tfseg("index", cohort, "--out", tmp_path / "index", *window, "--classes", classes).code == 0
    command = ("train", cohort, "--index", tmp_path / "index", "--out", tmp_path / "run")
    fails((*command, "--stages", "classifier"), "windows of a dense network", "--segmentation.…")
    fails((*command, "--segmentation.size-px", "48"), "divisible by")
    fails((*command, *DENSE, "--segmentation.ratio", "fat", "1"), "no row of 'fat'")
    assert not (tmp_path / "run").exists()
    found = tfseg(*command, *DENSE, "--no-augment")
    assert found.code == 0, found.err
    assert f"tfseg segment SLIDE --model {tmp_path / 'run/model'}" in found.out
    assert {"config.json", "model.keras", "model.onnx", "training/confusion.csv"} <= set(files(tmp_path / "run/model"))


def test_dense_options_on_patches(fails, cohort):
    fails((*cohort(train=TUMOUR_BOX), "--segmentation.batch-size", "2"), "--segmentation.… is for dense networks")


NUCLEI = (
    f"--architecture encoder_unet --arguments encoder {tiny_encoder.NAME} --train.epochs 1 --train.steps-per-epoch 1"
).replace("--", "--instances.")
MASK_RCNN = (
    f"--encoder {tiny_encoder.NAME} --rois 6 --train.epochs 1 --train.steps-per-epoch 1 --network pyramid_width 4 "
    "rpn_width 4 head_width 4 before_nms 20 proposals 8 detections 4"
).replace("--", "--mask-rcnn.")


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "network", [NUCLEI, pytest.param(f"--instances.architecture mask_rcnn {MASK_RCNN}", marks=pytest.mark.smoke)]
)
def test_nuclei_from_the_index_to_a_model(network, tfseg, tmp_path):
    images = write_folder(tmp_path / "images", ("Kidney", "Kidney", "Liver", "Liver", "Breast"))
    assert tfseg("index", "--nuclei", images, "--out", tmp_path / "index").code == 0
    common = "--weights None --split.test-organs Breast --tile-px 64 --threshold.min-recall 0"
    options = (*common.replace("--", "--instances.").split(), *network.split())
    done = tfseg("train", "--nuclei", tmp_path / "index", "--out", tmp_path / "run", *options)
    assert done.code == 0, done.err
    model = tmp_path / "run" / "model"
    assert f"tfseg segment --nuclei IMAGE --model {model}" in done.out
    found = tfseg(
        "segment", "--nuclei", images / "images" / "Breast_4.png", "--model", model, "--out", tmp_path / "out"
    )
    assert found.code == 0, found.err
    assert (tmp_path / "out" / "Breast_4" / "nuclei.geojson").is_file()


RCNN = ("--nuclei", "n", "--out", "x", "--instances.architecture", "mask_rcnn")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "x"), ("give a cohort's manifest (CSV) and --index, or --nuclei",)),
        (("a.csv", "--nuclei", "n", "--out", "x"), ("give either a cohort's manifest and --index, or --nuclei",)),
        (("a.csv", "--index", "i", "--instances.batch-size", "2", "--out", "x"), ("--instances", "networks of nuclei")),
        (("--nuclei", "n", "--segmentation.batch-size", "2", "--out", "x"), ("take --instances", "no stages")),
        (("--nuclei", "n", "--stages", "classifier", "--out", "x"), ("take --instances", "no stages")),
        (("--nuclei", "n", "--mask-rcnn.rois", "9", "--out", "x"), ("--instances.architecture mask_rcnn. Received",)),
        (
            ("a.csv", "--index", "i", "--mask-rcnn.rois", "9", "--out", "x"),
            ("--mask-rcnn.… are for networks of nuclei",),
        ),
        ((*RCNN, "--instances.train.epochs", "2"), ("does not take --instances.train;", "--mask-rcnn.…")),
        ((*RCNN, "--instances.batch-size", "2"), ("does not take --instances.batch-size;",)),
        ((*RCNN, "--instances.precision", "mixed_float16"), ("does not take --instances.precision;",)),
        ((*RCNN, "--instances.threshold.overlap", "0"), ("does not take --instances.threshold.overlap;",)),
    ],
)
def test_slides_or_nuclei(fails, arguments, words):
    fails(("train", *arguments), *words)
