"""``tfseg evaluate --nuclei``: found nuclei against labelled ones, by hand."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from nuclei_files import write
from nuclei_network import MPP, disc_labels, disc_picture, write_network

from tfseg.evaluation_nuclei import segmented_nuclei
from tfseg.infer.cascade import SegmentOptions, segment_nuclei
from tfseg.types import CohortError

LOST = 4
"""Label that the second image's picture does not show."""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("nuclei") / "model")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two images, of a colon and of a kidney; of the kidney's five nuclei one cannot be seen."""
    folder = tmp_path_factory.mktemp("images")
    for name, hidden in (("Colon_a", None), ("Kidney_b", LOST)):
        labels = disc_labels()
        write(folder / "labels" / f"{name}.png", labels.astype(np.uint8))
        write(folder / "images" / f"{name}.png", disc_picture(np.where(labels == hidden, 0, labels)))
    return folder


@pytest.fixture(scope="module")
def found(network, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("found") / "tiny"
    segment_nuclei(sorted((images / "images").iterdir()), network, out, SegmentOptions(mpp=MPP))
    return out


def test_scores_by_hand(tfseg, images, found, tmp_path):
    done = tfseg("evaluate", "--nuclei", images, "--segmentations", found, "--out", tmp_path)
    assert done.code == 0, done.err
    assert "By organ" in done.out and f"scores: {tmp_path}" in done.out
    scores = pd.read_csv(tmp_path / "scores.csv")
    areas = np.bincount(disc_labels().ravel())[1:]
    seen = 1 - areas[LOST - 1] / areas.sum()
    assert scores["design"].tolist() == ["tiny", "tiny"] and scores["organ"].tolist() == ["Colon", "Kidney"]
    assert scores["aji"].tolist() == pytest.approx([1, seen])
    assert scores["recall 0.50"].tolist() == pytest.approx([1, 0.8])
    assert scores["map_precision"].tolist() == [1, 1]
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert summary["aji mean"].tolist() == pytest.approx([(1 + seen) / 2, 1, seen])
    assert (tmp_path / "curves.png").is_file()
    overlay = cv2.imread(str(tmp_path / "overlays" / "tiny" / "Kidney_b.png"), cv2.IMREAD_COLOR_RGB)
    y, x = np.argwhere(disc_labels() == LOST).mean(axis=0).astype(int)
    assert overlay[y, x].argmax() == 0, "what is missed is red"
    pooled = pd.read_csv(tmp_path / "pooled.csv")
    assert pooled["recall 0.50"].tolist() == pytest.approx([0.9, 1, 0.8])


def test_manifest_split_and_columns(tfseg, fails, images, found, tmp_path):
    rows = [
        f"{images}/images/{n}.png,{images}/labels/{n}.png,{s},x" for n, s in (("Colon_a", "test"), ("Kidney_b", "t"))
    ]
    (tmp_path / "m.csv").write_text("image,label,split,laboratory\n" + "\n".join(rows) + "\n")
    command = ("evaluate", "--nuclei", tmp_path / "m.csv", "--segmentations", found, "--out", tmp_path / "out")
    assert tfseg(*command, "--split", "test", "--by", "laboratory").code == 0
    assert pd.read_csv(tmp_path / "out/scores.csv")["image"].tolist() == ["Colon_a"]
    fails((*command, "--split", "nowhere"), "no image of split 'nowhere'", "t, test")
    fails((*command, "--by", "scanner"), "scanner")


def test_what_is_missing_is_named_before_anything_is_scored(fails, images, found, network, tmp_path):
    segment_nuclei([images / "images/Colon_a.png"], network, tmp_path / "part", SegmentOptions(mpp=MPP))
    command = ("evaluate", "--nuclei", images, "--out", tmp_path / "out", "--segmentations")
    fails((*command, tmp_path / "part"), "part: no nuclei of 1 of 2 images: Kidney_b", "tfseg segment --nuclei")
    fails((*command, found, tmp_path / "x" / "tiny"), "two folders have the same name")
    assert not (tmp_path / "out").exists()


def test_nuclei_of_another_picture_are_refused(images, found):
    with pytest.raises(CohortError, match="the nuclei of another picture"):
        segmented_nuclei(found / "Colon_a", images / "images/Kidney_b.png")
    with pytest.raises(CohortError, match="no nuclei of Colon_a"):
        segmented_nuclei(found / "nothing", images / "images/Colon_a.png")


@pytest.mark.parametrize("factor", [2, 1])
def test_labels_of_coarser_pixels_come_back_on_the_images_own(network, tmp_path, factor):
    labels = disc_labels().repeat(factor, axis=0).repeat(factor, axis=1)
    image = write(tmp_path / "p.png", disc_picture(labels))
    segment_nuclei([image], network, tmp_path / "out", SegmentOptions(mpp=MPP / factor))
    assert json.loads((tmp_path / "out/p/summary.json").read_text())["nuclei_mpp"] == MPP
    np.testing.assert_array_equal(segmented_nuclei(tmp_path / "out/p", image), labels)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("either a cohort's manifest", "--nuclei")),
        (("m.csv", "--nuclei", "x"), ("either a cohort's manifest", "--nuclei")),
        (("--nuclei", "x", "--within-tissue"), ("--within-tissue are for slides",)),
        (("m.csv", "--allow-empty"), ("--allow-empty: add --nuclei",)),
        (("--nuclei", "nowhere"), ("nowhere", "no such folder")),
    ],
)
def test_wrong_use_is_explained(fails, found, tmp_path, arguments, words):
    fails(("evaluate", *arguments, "--segmentations", found, "--out", tmp_path / "out"), *words)
