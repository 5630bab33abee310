"""Stage two on toy slides whose heatmap is a shifted, blocky truth; and the cascade folder."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfseg import models
from tfseg.data.augment import SlideAugment
from tfseg.train.fit import TrainConfig
from tfseg.train.refinement import (
    RefinementSettings,
    heads_loss,
    labels_at,
    paper_config,
    train_refinement,
    write_cascade,
)
from tfseg.types import CascadeSpec, CohortError, ModelError, ModelSpec

TRAIN = TrainConfig(
    epochs=2,
    steps_per_epoch=0,
    validation_steps=None,
    learning_rate=1e-2,
    accumulation_steps=2,
    monitor="val_dice",
    mode="max",
    reestimate_batches=2,
)
SETTINGS = RefinementSettings(
    arguments={"widths": (4, 8, 8)}, size_px=64, batch_size=2, augment=SlideAugment(), train=TRAIN
)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder, rng, paths = tmp_path_factory.mktemp("samples"), np.random.default_rng(0), []
    for k in range(3):
        label = np.zeros((64, 64), np.uint8)
        top, left = rng.integers(4, 28, 2)
        label[top : top + 28, left : left + 28] = 1
        image = np.where(label[..., None] == 1, (120, 70, 150), (220, 170, 205)) + rng.normal(0, 10, (64, 64, 3))
        heatmap = np.repeat(np.repeat(label[::8, ::8], 8, 0), 8, 1).astype(np.float16)
        paths.append(folder / f"{k}.npz")
        np.savez(paths[-1], image=image.clip(0, 255).astype(np.uint8), heatmap=heatmap, label=label)
    return paths


def test_one_epoch_is_one_pass_and_the_folder_reloads(samples, tmp_path):
    result = train_refinement(samples, samples[:1], tmp_path, SETTINGS)
    assert [row["step"] for row in result.train.history] == [2, 4]
    assert "val_dice" in result.train.history[0]
    model, spec = models.load(tmp_path)
    assert [i.name for i in spec.inputs] == ["image", "heatmap"]
    assert spec.inputs[0].mpp is None and spec.inputs[0].size_px == (64, 64)
    assert spec.provenance["best_epoch"] == result.train.best_epoch
    inputs = {"image": np.zeros((1, 64, 64, 3), np.float32), "heatmap": np.zeros((1, 64, 64, 1), np.float32)}
    assert model(inputs)["segmentation"].shape == (1, 64, 64, 2)
    again = train_refinement(samples, samples[:1], tmp_path, SETTINGS)
    assert again.train == result.train


def test_the_low_resolution_net_needs_no_heatmap(samples, tmp_path):
    settings = dataclasses.replace(SETTINGS, architecture="unet_lr", augment=None)
    train = dataclasses.replace(TRAIN, epochs=1, accumulation_steps=1)
    result = train_refinement(samples[:2], samples[2:], tmp_path, dataclasses.replace(settings, train=train))
    assert [i.name for i in result.spec.inputs] == ["image"]


def test_heads_are_compared_at_their_own_pixel_centres():
    labels = tf.constant(np.arange(64, dtype=np.uint8).reshape(1, 8, 8))
    np.testing.assert_array_equal(labels_at(labels, tf.zeros((1, 8, 8, 2))), labels)
    half = labels_at(labels, tf.zeros((1, 4, 4, 2)))
    assert half.shape == (1, 4, 4)
    assert half[0, 0].numpy().tolist() == [9, 11, 13, 15]
    np.testing.assert_array_equal(labels_at(labels, tf.zeros((1, 1, 1, 2))), [[[36]]])


def test_the_loss_is_the_mean_over_heads():
    labels = np.zeros((1, 4, 4), np.uint8)
    labels[:, :, 2:] = 1
    right = tf.one_hot(labels, 2)
    wrong = 1 - right
    outputs = {"segmentation": right, "segmentation_1": wrong}
    term = heads_loss(["segmentation", "segmentation_1"])
    # Dice of the wrong head: (2·0 + 1) / (8 + 8 + 1).
    assert float(term({}, {"segmentation": tf.constant(labels)}, outputs)) == pytest.approx((0 + 1 - 1 / 17) / 2)


def test_no_slides_is_an_error(samples, tmp_path):
    with pytest.raises(CohortError, match="no validation slide"):
        train_refinement(samples, [], tmp_path, SETTINGS)


def test_the_cascade_folder_holds_copies_of_both(tmp_path):
    networks = {
        "classifier": ("mobilenetv2_classifier", {"size_px": 32, "alpha": 0.35}, 1.0),
        "refinement": ("unet", {"size_px": (64, 64), "widths": (4, 8)}, None),
    }
    for name, (architecture, arguments, mpp) in networks.items():
        model = models.build(architecture, **arguments)
        models.save(model, models.describe(model, architecture, arguments, mpp), tmp_path / name)
        (tmp_path / name / "training").mkdir()
    out = tmp_path / "cascade"
    (out / "classifier").mkdir(parents=True)
    (out / "classifier" / "model.onnx").write_text("of an older network")
    spec = write_cascade(out, tmp_path / "classifier", tmp_path / "refinement", tissue={"saturation": 15})
    assert CascadeSpec.load(out) == spec
    assert (spec.classifier, spec.refinement, spec.tissue) == ("classifier", "refinement", {"saturation": 15})
    for name in networks:
        assert ModelSpec.load(out / name) == ModelSpec.load(tmp_path / name)
        assert sorted(path.name for path in (out / name).iterdir()) == ["config.json", "model.keras"]
    alone = write_cascade(tmp_path / "alone", None, tmp_path / "refinement", name="unet_lr")
    assert (alone.name, alone.classifier) == ("unet_lr", None)


def test_a_cascade_of_nothing_or_of_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="needs a classifier"):
        write_cascade(tmp_path, None, None)
    with pytest.raises(ModelError, match="no such file"):
        write_cascade(tmp_path / "out", tmp_path / "nothing", None)
    assert not (tmp_path / "out").exists()


def test_defaults_are_the_papers():
    config, settings = paper_config(), RefinementSettings()
    assert (config.learning_rate, config.accumulation_steps, config.epochs, config.patience) == (1e-3, 6, 1000, 100)
    assert (settings.size_px, settings.batch_size) == (1024, 4)
    assert settings.augment == SlideAugment(p=0.5, zoom=0.2, stain_scale=0.1, stain_shift=0.1)
