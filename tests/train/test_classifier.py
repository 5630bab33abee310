"""Stage one on two toy slides: pale stroma against dark tumour, 64 px patches."""

from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest
import tiny_encoder
import toy

from tfseg import models
from tfseg.data.augment import PatchAugment
from tfseg.models.clustering import ENCODERS
from tfseg.models.patch_classifier import BACKBONES
from tfseg.train.classifier import ClassifierSettings, train_classifier
from tfseg.train.clustering import ClusterSettings
from tfseg.train.fit import TrainConfig
from tfseg.train.stage import fingerprint
from tfseg.types import CohortError, TfsegError

SETTINGS = ClassifierSettings(
    arguments={"alpha": 0.35},
    weights=None,
    batch_size=8,
    train=TrainConfig(epochs=2, steps_per_epoch=4, validation_steps=2, learning_rate=1e-3, reestimate_batches=2),
    threads=2,
)
CLUSTERS = ClusterSettings(clusters=3, batches=4, batch_size=8, encoder="mobilenetv2", weights=None)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return toy.patch_index(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def small_trunk():
    """MobileNetV2 is traced for half a minute; the slow test trains it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "mobilenetv2", tiny_encoder.trunk)
        patch.setitem(ENCODERS, "mobilenetv2", tiny_encoder.trunk)
        yield


@pytest.fixture(scope="module")
def trained(index, tmp_path_factory, small_trunk):
    out = tmp_path_factory.mktemp("classifier")
    return out, train_classifier(index, out, dataclasses.replace(SETTINGS, clustering=CLUSTERS))


def test_the_model_folder_holds_the_best_weights_and_a_full_spec(trained, index):
    out, result = trained
    model, spec = models.load(out)
    assert spec.architecture == "mobilenetv2_classifier"
    assert spec.inputs[0].mpp == 1.0 and spec.inputs[0].size_px == (64, 64)
    assert spec.stride_px == 64
    assert spec.classes == index.classes
    assert spec.provenance["scores"]["val_loss"] == pytest.approx(result.train.best_score)
    with np.load(out / "training" / "best.npz") as best:
        for i, weight in enumerate(model.get_weights()):
            np.testing.assert_array_equal(weight, best[f"model/{i:04d}"])


def test_the_run_folder_tells_everything(trained, index):
    run = trained[0] / "training"
    for name in ("history.csv", "curves.png", "confusion.png", "clusters.png", "clustering.keras", "best.npz"):
        assert (run / name).stat().st_size > 0, name
    config = json.loads((run / "run.json").read_text())["config"]
    assert config["settings"]["clustering"]["clusters"] == 3
    assert config["settings"]["augment"]["hsv_shift"] == 20
    assert config["index"]["patches"] == fingerprint(index.table)
    row = trained[1].train.history[-1]
    assert {"val_accuracy", "val_recall_tumour", "val_recall_non-tumour"} <= row.keys()


def test_confusion_counts_the_validation_draws(trained):
    assert trained[1].confusion.shape == (2, 2)
    assert trained[1].confusion.sum() == 2 * 8


def test_the_saved_clustering_makes_one_of_k(trained):
    clustering = keras.saving.load_model(trained[0] / "training" / "clustering.keras", compile=False)
    onehot = np.asarray(clustering(np.random.default_rng(0).uniform(0, 255, (5, 64, 64, 3)).astype(np.float32)))
    assert onehot.shape == (5, 3)
    np.testing.assert_array_equal(onehot.sum(1), 1)
    table = json.loads((trained[0] / "training" / "clustering.json").read_text())
    assert np.sum(table["patches"]) == 4 * 8


def test_called_again_it_returns_the_same(trained, index):
    out, result = trained
    before = (out / "model.keras").stat().st_mtime_ns
    again = train_classifier(index, out, dataclasses.replace(SETTINGS, clustering=CLUSTERS))
    assert again.train == result.train
    np.testing.assert_array_equal(again.confusion, result.confusion)
    assert (out / "model.keras").stat().st_mtime_ns == before


@pytest.mark.slow
def test_plain_training_learns_the_toy(index, tmp_path):
    changes = {"epochs": 3, "steps_per_epoch": 12, "validation_steps": None, "learning_rate": 3e-3}
    config = dataclasses.replace(SETTINGS.train, reestimate_batches=8, **changes)
    result = train_classifier(index, tmp_path, dataclasses.replace(SETTINGS, train=config, augment=None))
    assert result.confusion.sum() == 6 * 8
    assert result.confusion.trace() / result.confusion.sum() > 0.85


def test_a_split_without_patches_or_class_is_named(index, tmp_path):
    with pytest.raises(CohortError, match="no patches in split 'test'"):
        train_classifier(index, tmp_path, dataclasses.replace(SETTINGS, validation_split="test"))
    only = dataclasses.replace(index, table=index.table[index.table["class_index"] == 0])
    with pytest.raises(CohortError, match="class 'tumour' has no patch in split 'train'"):
        train_classifier(only, tmp_path, SETTINGS)


def test_a_slide_that_vanishes_in_training_is_named(tmp_path):
    index = toy.patch_index(tmp_path / "cohort")
    (tmp_path / "cohort" / "train.png").unlink()
    with pytest.raises(TfsegError, match=r"^cannot read training batch 1: [^{]*train\.png[^{]*$"):  # without {{node …}}
        train_classifier(index, tmp_path / "out", SETTINGS)


def test_defaults_are_the_papers():
    settings = ClassifierSettings()
    assert (settings.batch_size, settings.sampling) == (64, ("grade", "slide_name", "class"))
    assert settings.augment == PatchAugment(p=0.5, hsv_shift=20, brightness=0.2)
    clusters = ClusterSettings()
    assert (clusters.clusters, clusters.batches, clusters.batch_size, clusters.variance) == (10, 100, 32, 0.95)
    assert (clusters.encoder, clusters.weights) == ("vgg16", "imagenet")
