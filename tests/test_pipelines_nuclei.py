"""Every system of GB U-Net's comparison runs from a folder of images to one table, shrunk to a smoke run."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import tifffile
import tiny_encoder
from test_pipelines import load
from toy_nuclei import write_folder

from tfseg.data.nuclei_split import NucleiSplit
from tfseg.models.encoders import ENCODERS
from tfseg.models.mask_rcnn import MaskRCNNSettings
from tfseg.types import CohortError


@pytest.fixture(scope="module")
def gb_unet():
    return load("gb_unet")


@pytest.fixture
def small_encoder(monkeypatch):
    """Building, tracing and exporting eight networks of MobileNetV2's depth takes minutes and tests no more."""
    tiny = ENCODERS[tiny_encoder.NAME]
    network = dataclasses.replace(tiny, network=lambda alpha, **arguments: tiny.network(**arguments), alpha=True)
    monkeypatch.setitem(ENCODERS, "mobilenetv2", network)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("nuclei"), ("Kidney", "Kidney", "Liver", "Liver", "Breast", "Breast"))


@pytest.mark.smoke
@pytest.mark.usefixtures("uncompiled")
def test_every_kind_of_system_from_images_to_a_table(gb_unet, images, small_encoder, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gb_unet, "MEMBERS", gb_unet.MEMBERS[:2])  # a third one is trained for ten seconds more
    out, split = tmp_path / "run", NucleiSplit(test_organs=("Breast",))
    small = (gb_unet.SMALL_UNET, gb_unet.SMALL_RCNN)
    systems = ("Otsu", "Fiji", "GB-U-Net", "U-Net-ensemble", "Mask-R-CNN", *small)
    gb_unet.main(images, out=out, quick=True, small_weights=None, split=split, systems=systems)
    scores = pd.read_csv(out / "scores" / "scores.csv")
    assert list(scores.system.unique()) == list(systems)
    assert (scores.groupby("system").image.unique().map(list) == [["Breast_4", "Breast_5"]] * len(systems)).all()
    assert scores[scores.system == "Otsu"].aji.min() > 0.8, "the toy's nuclei are dark"
    assert (out / "scores" / "curves.png").stat().st_size > 10_000
    assert "## By organ" in (out / "scores" / "summary.md").read_text(encoding="utf-8")
    assert tifffile.imread(out / "predictions" / "Otsu" / "Breast_4.tiff").dtype == "uint32"
    assert (out / "designs" / "GB-U-Net" / "model.onnx").is_file()

    stamps = {file: file.stat().st_mtime_ns for file in out.glob("*/*/model.onnx")}
    assert len(stamps) == 5, "the networks asked for; members are only trained"
    assert not list(out.glob("designs/*/training/prepared")), "images are prepared once, for all"
    capsys.readouterr()
    gb_unet.main(images, out=out, quick=True, small_weights=None, split=split, systems=("Otsu", "GB-U-Net"))
    assert list(pd.read_csv(out / "scores" / "scores.csv").system.unique()) == ["Otsu", "GB-U-Net"]
    assert "epoch 1/1" not in capsys.readouterr().out, "finished networks are taken as they are"
    assert stamps == {file: file.stat().st_mtime_ns for file in stamps}


@pytest.mark.slow
def test_all_systems_as_the_smoke_run_builds_them(gb_unet, images, tmp_path):
    systems = (*gb_unet.SYSTEMS, gb_unet.SMALL_UNET, gb_unet.SMALL_RCNN)
    split = NucleiSplit(test_organs=("Breast",))
    gb_unet.main(images, out=tmp_path, quick=True, small_weights=None, split=split, systems=systems)
    assert list(pd.read_csv(tmp_path / "scores" / "scores.csv").system.unique()) == list(systems)


def test_what_is_set_also_holds_for_the_small_network(gb_unet, tmp_path):
    def settings(training):
        run = gb_unet.Run(tmp_path, (), training, gb_unet.MaskRCNNTraining(), "file", joint=False, quick=False)
        return run.settings(gb_unet.SMALL_UNET)

    assert settings(gb_unet.PAPER).train == gb_unet.SMALL.train
    train = dataclasses.replace(gb_unet.PAPER.train, epochs=3, seed=7)
    rule = dataclasses.replace(gb_unet.PAPER.threshold, iou=0.7)
    found = settings(
        dataclasses.replace(gb_unet.PAPER, mpp=0.5, arguments={"alpha": 0.35}, threshold=rule, train=train)
    )
    assert found == dataclasses.replace(
        gb_unet.SMALL,
        mpp=0.5,
        weights="file",
        arguments={**gb_unet.SMALL.arguments, "alpha": 0.35},
        threshold=dataclasses.replace(gb_unet.SMALL.threshold, iou=0.7),
        train=dataclasses.replace(gb_unet.SMALL.train, epochs=3, seed=7),
    )


def test_what_is_set_also_holds_for_the_narrow_mask_r_cnn(gb_unet, tmp_path):
    usual = gb_unet.MaskRCNNTraining()
    train = dataclasses.replace(usual.train, epochs=3)
    given = dataclasses.replace(usual, rois=9, network={"proposals": 7}, train=train)
    run = gb_unet.Run(tmp_path, (), gb_unet.PAPER, given, "file", joint=False, quick=False)
    assert run.settings(gb_unet.SMALL_RCNN) == dataclasses.replace(gb_unet.SMALL, weights="file")
    train = dataclasses.replace(gb_unet.NARROW_RCNN.train, epochs=3)
    network = {**gb_unet.NARROW_RCNN.network, "proposals": 7}
    assert run.rcnn_settings(gb_unet.SMALL_RCNN) == dataclasses.replace(
        gb_unet.NARROW_RCNN, rois=9, network=network, train=train
    )
    MaskRCNNSettings.of(network)  # an error, were a name unknown
    assert run.rcnn_settings(gb_unet.MASK_RCNN) == given


def test_the_papers_systems_are_fourteen(gb_unet):
    assert len(gb_unet.SYSTEMS) == 3 + 8 + 3


def test_nothing_to_test_on_is_said(gb_unet, images, tmp_path):
    with pytest.raises(CohortError, match=r"no test image\. Hold whole organs out"):
        gb_unet.main(images, out=tmp_path, quick=True, systems=("Otsu",))
