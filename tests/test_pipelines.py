"""Every published design runs from a manifest to a table of scores, shrunk to a smoke run."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest
import tiny_encoder
from PIL import Image

from tfseg.models.patch_classifier import BACKBONES
from tfseg.slides.base import open_slide
from tfseg.slides.synthetic_cohort import make_cohort
from tfseg.train.segmentation_settings import SegmentationSettings
from tfseg.types import CohortError, ModelSpec, TfsegError


def load(name: str):
    """The pipeline's script as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "pipelines" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def h2g_net():
    return load("h2g_net")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return make_cohort(folder, {"train": 1, "val": 1, "test": 1}, size_px=1280, mpp=1.0, workers=1)


@pytest.mark.smoke
@pytest.mark.usefixtures("uncompiled")
def test_nine_designs_from_manifest_to_table(h2g_net, cohort, tmp_path, capsys, monkeypatch):
    for name in BACKBONES:  # deep networks take most of the time, and are in the slow test below
        monkeypatch.setitem(BACKBONES, name, tiny_encoder.trunk)
    out = tmp_path / "run"
    h2g_net.main(cohort, out=out, quick=True, workers=1)
    scores = pd.read_csv(out / "scores" / "scores.csv")
    assert list(scores.design.unique()) == list(h2g_net.DESIGNS)
    assert scores.groupby("design").size().eq(3).all()
    summary = (out / "scores" / "summary.md").read_text(encoding="utf-8")
    assert "## By grade" in summary and "Tukey" in summary
    assert {p.name for p in (out / "classifiers").iterdir() if p.name != "heatmaps"} == {
        "inceptionv3_classifier", "mobilenetv2_classifier", "mobilenetv2_classifier_clustered",
    }  # fmt: skip
    assert (out / "designs" / "Mob-PW-UNet" / "model" / "refinement" / "model.onnx").is_file()
    otsu = scores[scores.design == "Otsu"]
    assert (otsu.recall > 0.9).all(), "all tissue is taken, so nearly all tumour is"

    capsys.readouterr()
    h2g_net.main(cohort, out=out, quick=True, workers=1, designs=("Otsu", "Mob-PW-UNet"))
    assert list(pd.read_csv(out / "scores" / "scores.csv").design.unique()) == ["Otsu", "Mob-PW-UNet"]
    said = capsys.readouterr().out
    assert "epoch 1/1" not in said, "finished stages are taken as they are"
    assert said.count("  kept") == 6, "so are the heatmaps of three training and three validation slides"


@pytest.mark.slow
def test_nine_designs_as_the_smoke_run_builds_them(h2g_net, cohort, tmp_path):
    h2g_net.main(cohort, out=tmp_path, quick=True, workers=1)
    assert len(pd.read_csv(tmp_path / "scores" / "scores.csv")) == 9 * 3
    model = ModelSpec.load(tmp_path / "classifiers" / "inceptionv3_classifier")
    assert model.architecture == "inceptionv3_classifier"


@pytest.mark.smoke
def test_slides_without_pixel_size_take_it_from_the_manifest(h2g_net, cohort, tmp_path):
    table = pd.read_csv(cohort)
    for column in ("slide", "annotation"):
        table[column] = [str(cohort.parent / path) for path in table[column]]
    for row in table[table.split == "test"].itertuples():
        with open_slide(row.slide) as slide:
            Image.fromarray(slide.whole(slide.mpp)).save(tmp_path / f"{row.Index}.png")
        table.loc[row.Index, "slide"] = str(tmp_path / f"{row.Index}.png")
    table.assign(mpp=1.0).to_csv(tmp_path / "cohort.csv", index=False)
    h2g_net.main(tmp_path / "cohort.csv", out=tmp_path / "run", quick=True, workers=1, designs=("Otsu",))
    assert len(pd.read_csv(tmp_path / "run" / "scores" / "scores.csv")) == 3


@pytest.mark.smoke
def test_a_column_that_is_not_there_is_told_before_any_work(h2g_net, cohort, tmp_path):
    with pytest.raises(CohortError, match="no column 'stage'"):
        h2g_net.main(cohort, out=tmp_path / "run", quick=True, workers=1, by=("stage",))
    assert not (tmp_path / "run").exists()


def test_a_design_is_what_the_paper_says(h2g_net):
    designs = h2g_net.DESIGNS
    assert len(designs) == 9
    assert designs["Mob-KM-PW"].clustering and not designs["Mob-PW-UNet"].clustering
    assert {d.refinement for d in designs.values()} == {None, "unet_lr", "unet", "agunet", "dagunet", "doubleunet"}


@pytest.fixture(scope="module")
def tissue_types(tmp_path_factory):
    """Two slides to train, which together have all six classes, one to validate and test; H&E and IHC."""
    folder = tmp_path_factory.mktemp("tissue_types")
    options = {"annotation": "multiclass", "unannotated": 0.0, "stains": ("A", "ER")}
    path = make_cohort(folder, {"train": 1}, size_px=1024, mpp=1.0, workers=1, **options)
    pd.read_csv(path).assign(split=["train", "val", "train"]).to_csv(path, index=False)
    return path


def check_dmmn(out, designs):
    classes = pd.read_csv(out / "scores" / "classes.csv")
    assert list(classes.design.unique()) == list(designs)
    assert {"iou", "recall", "precision"} <= set(classes.columns)
    for name in designs:
        assert (out / "designs" / name / "model.onnx").is_file()
        assert (out / "scores" / name / "confusion.png").is_file()


@pytest.mark.smoke
@pytest.mark.usefixtures("uncompiled")
def test_one_field_three_fields_and_no_padding_from_manifest_to_table(tissue_types, tmp_path, capsys):
    dmmn = load("dmmn")
    out, designs = tmp_path / "run", ("U-Net", "DMMN-M3", "HookNet")
    dmmn.main(tissue_types, out=out, quick=True, workers=1, test_split="val", designs=designs)
    check_dmmn(out, designs)
    balance = pd.read_csv(out / "index" / "class_balance.csv").set_index(["split", "class"])
    assert balance.loc[("train", "all"), "windows after"] > balance.loc[("train", "all"), "windows before"]
    m3, hooknet = (ModelSpec.load(out / "designs" / name) for name in ("DMMN-M3", "HookNet"))
    assert [one.name for one in m3.inputs] == ["image_5x", "image_2.5x", "image_1.25x"]
    assert hooknet.output_px == (110, 110) and hooknet.inputs[0].size_px == (156, 156)
    capsys.readouterr()
    dmmn.main(tissue_types, out=out, quick=True, workers=1, test_split="val", designs=("DMMN-M3",))
    assert "epoch 1/1" not in capsys.readouterr().out, "finished networks are taken as they are"


def test_narrower_designs_keep_the_ratios_of_their_channels():
    dmmn = load("dmmn")
    settings = SegmentationSettings(architecture="plain_unet")
    assert dmmn.narrow(settings, 8) == (8, 16, 32, 64, 128)
    assert dmmn.narrow(dataclasses.replace(settings, architecture="dmmn_m3"), 8) == (4, 8, 16, 32, 64)
    with pytest.raises(TfsegError, match="--narrower 7 does not divide the channels of plain_unet"):
        dmmn.narrow(settings, 7)


@pytest.mark.slow
def test_six_systems_and_two_more_from_manifest_to_table(tissue_types, tmp_path):
    dmmn = load("dmmn")
    assert list(dmmn.DESIGNS)[:6] == ["SegNet", "U-Net", "DMMN-S2", "DMMN-MS", "DMMN-M2S", "DMMN-M3"]
    dmmn.main(tissue_types, out=tmp_path, quick=True, workers=1, test_split="val", designs=tuple(dmmn.DESIGNS))
    check_dmmn(tmp_path, dmmn.DESIGNS)


@pytest.mark.smoke
def test_with_and_without_the_colour_segment(tissue_types, tmp_path):
    cd_unet = load("cd_unet")
    out = tmp_path / "run"
    cd_unet.main(tissue_types, out=out, quick=True, workers=1, test_split="val")
    classes = pd.read_csv(out / "scores" / "classes.csv")
    assert list(classes.design.unique()) == ["UNET", "CD-UNET"]
    assert list(classes["class"].unique()) == ["background", "tumour", "tissue", "necrosis", "mean"]
    assert "## By stain" in (out / "scores" / "summary.md").read_text(encoding="utf-8")
    run = json.loads((out / "designs" / "CD-UNET" / "training" / "run.json").read_text())["config"]
    assert run["settings"]["loss"]["class_rule"] == "median_frequency"
    assert run["optimizer"]["class"] == "CoupledSGD" and run["optimizer"]["momentum"] == 0.9
