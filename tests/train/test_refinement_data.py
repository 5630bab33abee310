"""Samples of the refinement stage: whole slides, heatmaps and labels on one squashed field, cached."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import toy

from tfseg import models
from tfseg.data.cohort import Cohort
from tfseg.slides.base import open_slide
from tfseg.train import refinement_data
from tfseg.train.refinement_data import SampleSettings, make_samples
from tfseg.types import CohortError, ModelSpec, TfsegError

SETTINGS = SampleSettings(size_px=64, workers=1)


@pytest.fixture
def cohort(tmp_path):
    return toy.cohort(tmp_path / "cohort")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A model folder; what it says is replaced by :func:`dark_is_tumour`."""
    folder = tmp_path_factory.mktemp("classifier")
    arguments = {"size_px": 64, "alpha": 0.35}
    model = models.build("mobilenetv2_classifier", **arguments)
    models.save(model, models.describe(model, "mobilenetv2_classifier", arguments, 1.0), folder)
    return folder


def dark_is_tumour(image):
    tumour = (np.asarray(image)[..., 1].mean((1, 2)) < 120).astype(np.float32)
    return np.stack([1 - tumour, tumour], -1)


@pytest.fixture
def counted(monkeypatch):
    """Replaces the network by a rule and counts how often it was loaded and run."""
    calls = []

    def load(folder, engine):
        def predict(image):
            calls.append(len(image))
            return dark_is_tumour(image)

        return predict, ModelSpec.load(folder)

    monkeypatch.setattr(refinement_data, "load_predictor", load)
    return calls


def test_image_heatmap_and_label_lie_on_the_same_field(cohort, classifier, counted, tmp_path):
    """512 × 384 px slides squashed to 64²: x by 8, y by 6; the tumours' edges lie on patch borders."""
    files = make_samples(cohort, tmp_path / "samples", SETTINGS, classifier)
    assert [file.name for file in files] == ["train.npz", "val.npz"]
    for file, (x, y) in zip(files, ((192, 64), (64, 128)), strict=True):
        with np.load(file) as content:
            image, field, label = content["image"], content["heatmap"], content["label"]
        assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
        assert (field.shape, field.dtype) == ((64, 64), np.float16)
        assert (label.shape, label.dtype) == ((64, 64), np.uint8)
        truth = np.zeros((64, 64), np.uint8)
        centres_x, centres_y = (np.arange(64) + 0.5) * 8, (np.arange(64) + 0.5) * 6
        inside = ((centres_y > y) & (centres_y < y + 192))[:, None] & ((centres_x > x) & (centres_x < x + 256))
        truth[inside] = 1
        np.testing.assert_array_equal(label, truth)
        assert 2 * (field[truth == 1] > 0.5).sum() / ((field > 0.5).sum() + truth.sum()) > 0.9
        slide = open_slide(cohort.table["slide"][0 if x == 192 else 1], 1.0)
        np.testing.assert_array_equal(image, slide.fit((64, 64)))


def test_samples_are_kept_and_made_again_when_something_changed(cohort, classifier, counted, tmp_path):
    folder = tmp_path / "samples"

    def made():
        counted.clear()
        before = {file: file.stat().st_mtime_ns for file in folder.glob("*.npz")}
        files = make_samples(cohort, folder, settings, classifier)
        return sorted(file.stem for file in files if before.get(file) != file.stat().st_mtime_ns)

    settings = SETTINGS
    assert made() == ["train", "val"]
    assert made() == [] and counted == []
    settings = dataclasses.replace(SETTINGS, workers=2)
    assert made() == []
    settings = dataclasses.replace(SETTINGS, size_px=32)
    assert made() == ["train", "val"]
    os.utime(cohort.rows()[1].annotation, (1, 1))
    assert made() == ["val"]
    (folder / "train.npz").write_bytes(b"half a file")
    assert made() == ["train"]
    spec = classifier / "config.json"
    text = spec.read_text()
    spec.write_text(text + "\n")
    assert made() == ["train", "val"]
    spec.write_text(text)


def test_without_a_classifier_the_heatmap_is_empty(cohort, tmp_path):
    for file in make_samples(cohort, tmp_path / "samples", SETTINGS, None):
        with np.load(file) as content:
            assert not content["heatmap"].any()
            assert content["label"].any()


def test_slides_without_annotation_are_named(cohort, tmp_path):
    table = cohort.table.assign(annotation=["", cohort.table["annotation"][1]])
    with pytest.raises(CohortError, match="no annotation for train"):
        make_samples(Cohort(cohort.path, table), tmp_path, SETTINGS, None)


def test_broken_slides_are_named_or_skipped(cohort, tmp_path, capsys):
    cohort.rows()[0].slide.write_bytes(b"no picture")
    with pytest.raises(TfsegError, match=r"(?s)1 of 2 slides cannot be used.*train: .*train\.png"):
        make_samples(cohort, tmp_path / "samples", SETTINGS, None)
    files = make_samples(cohort, tmp_path / "samples", dataclasses.replace(SETTINGS, skip_broken=True), None)
    assert [file.name for file in files] == ["val.npz"]
    assert "left out" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "samples").iterdir()] == ["val.npz"]
