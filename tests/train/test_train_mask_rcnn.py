"""Mask R-CNN from images to a model folder, as small as it gets; how its threshold is chosen."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tiny_encoder
from numpy.testing import assert_array_equal
from toy_nuclei import write_folder

from tfseg import models
from tfseg.data.nuclei import read_nuclei
from tfseg.infer.instances import CANDIDATES
from tfseg.infer.mask_rcnn import PasteOptions, predict_instances
from tfseg.train.fit import TrainConfig
from tfseg.train.mask_rcnn import MaskRCNNTraining, _labeller, train_mask_rcnn
from tfseg.train.nuclei_settings import NucleiSettings, ThresholdSettings
from tfseg.types import NUCLEI_CLASSES, InputSpec, ModelError, ModelSpec, TfsegError

SETTINGS = NucleiSettings(weights=None, tile_px=64, threshold=ThresholdSettings(min_recall=0.0), threads=1)
OWN = MaskRCNNTraining(
    encoder=tiny_encoder.NAME,
    network={"pyramid_width": 4, "rpn_width": 4, "head_width": 4, "before_nms": 20, "proposals": 8, "detections": 4},
    rois=6,
    train=TrainConfig(epochs=1, steps_per_epoch=2, validation_steps=1, learning_rate=1e-3),
)


@pytest.mark.smoke
def test_from_images_to_a_model_folder(tmp_path):
    items = read_nuclei(write_folder(tmp_path / "images", ("Kidney", "Kidney")))
    out = tmp_path / "run"
    spec = train_mask_rcnn(items, out, SETTINGS, OWN)
    model, kept = models.load(out)
    assert kept == spec and spec.task == "instances"
    assert json.loads((out / "training" / "threshold.json").read_text(encoding="utf-8"))["threshold"] == spec.threshold
    assert spec.threshold in CANDIDATES and model.input["image"].shape == (None, 64, 64, 3)
    history = (out / "training" / "history.csv").read_text(encoding="utf-8")
    assert {"anchor_class", "anchor_box", "roi_class", "roi_box", "mask"} <= set(history.splitlines()[0].split(","))
    stamp = (out / "model.keras").stat().st_mtime_ns
    assert train_mask_rcnn(items, out, SETTINGS, OWN) == spec
    assert (out / "model.keras").stat().st_mtime_ns == stamp, "a finished run is left alone"
    with pytest.raises(TfsegError, match=r"mask_rcnn\.rois: 6 → 7"):
        train_mask_rcnn(items, out, SETTINGS, dataclasses.replace(OWN, rois=7))


class StopError(Exception):
    """Before the first step."""


def test_gradient_descent_is_as_set_from_the_seeds_weights(tmp_path, monkeypatch):
    """Clipped as matterport's, and with a rate that falls where the settings say so."""
    taken, weights = [], []

    def fit(model, training, validation, config, out, objective, described):
        taken.append(objective.optimizer)
        weights.append(model.get_weights())
        raise StopError

    monkeypatch.setattr("tfseg.train.mask_rcnn.fit", fit)
    items = read_nuclei(write_folder(tmp_path / "images", ("Kidney", "Kidney")))
    for name, changes in {"constant": {}, "cosine": {"clip_norm": None, "momentum": 0.5, "weight_decay": 0.0}}.items():
        settings = dataclasses.replace(SETTINGS, schedule=name)
        with pytest.raises(StopError):
            train_mask_rcnn(items, tmp_path / name, settings, dataclasses.replace(OWN, **changes))
    for first, second in zip(*weights, strict=True):
        assert_array_equal(first, second)
    usual, other = taken
    assert (usual.momentum, usual.l2, usual.global_clipnorm) == (0.9, 1e-4, 5.0)
    assert (other.momentum, other.l2, other.global_clipnorm) == (0.5, 0.0, None)
    assert float(usual.learning_rate) == pytest.approx(1e-3)
    other.iterations.assign(1)  # of two
    assert float(other.learning_rate) == pytest.approx(5e-4)


def test_a_norm_to_clip_to_that_cannot_be():
    with pytest.raises(ModelError, match=r"clip_norm: expected a norm above 0, or None\. Received: 0"):
        MaskRCNNTraining(clip_norm=0)


class Fake:
    """Finds four overlapping squares of falling score in every field."""

    def predict_on_batch(self, inputs):
        starts = np.array([[8, 8], [14, 14], [30, 30], [33, 8]], np.float32)
        score = np.array([0.9, 0.62, 0.41, 0.2], np.float32)
        return {
            "instances": np.stack([1 - score, score], axis=-1)[None],
            "instances_boxes": np.concatenate([starts, starts + 12], axis=-1)[None],
            "instances_masks": np.ones((1, 4, 28, 28), np.float32),
        }


@pytest.mark.parametrize("level", [0.1, 0.3, 0.5, 0.7, 0.95])
def test_labels_at_a_level_are_those_of_that_threshold(level):
    spec = ModelSpec(
        "fake", "mask_rcnn", {}, "instances", (InputSpec("image", (64, 64), 3, 0.25),),
        ("instances", "instances_boxes", "instances_masks"), NUCLEI_CLASSES,
    )  # fmt: skip
    image = np.zeros((64, 64, 3), np.uint8)
    found = _labeller(Fake(), spec)(image)(level)
    wanted = predict_instances(
        lambda images: Fake().predict_on_batch({"image": images}), image, spec, PasteOptions(threshold=level)
    ).labels
    assert_array_equal(found, wanted)
    assert len(np.unique(found)) == 1 + sum(score >= level for score in (0.9, 0.62, 0.41, 0.2))
