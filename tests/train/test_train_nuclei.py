"""Networks of nuclei on toy pictures of dark discs: what is learnt, chosen, kept, resumed, and refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tiny_encoder
from nuclei_files import write
from toy_nuclei import picture, write_folder
from two_stains import two_stains

from tfseg import models
from tfseg.data.nuclei import read_nuclei
from tfseg.data.nuclei_stream import PixelTargets
from tfseg.infer.instances import InstanceOptions
from tfseg.infer.nuclei import label_image, predict_image
from tfseg.metrics.instances import instance_scores
from tfseg.train import nuclei
from tfseg.train.fit import TrainConfig
from tfseg.train.nuclei import as_predictor, assemble_nuclei, train_nuclei
from tfseg.train.nuclei_data import NucleiData
from tfseg.train.nuclei_settings import NormalisationSettings, NucleiSettings, RestainSettings, ThresholdSettings
from tfseg.types import ModelError, ModelSpec, TfsegError

SETTINGS = NucleiSettings(
    arguments={"encoder": tiny_encoder.NAME},
    widths=(8, 8, 8, 8, 8),
    weights=None,
    border_class=True,
    tile_px=64,
    batch_size=4,
    instances=InstanceOptions(split="border"),
    threshold=ThresholdSettings(maximise="aji", min_recall=0.0),
    train=TrainConfig(
        epochs=2, steps_per_epoch=4, validation_steps=None, learning_rate=1e-2, monitor="val_mean_iou", mode="max",
        reestimate_batches=4,
    ),
    threads=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("nuclei"), ("Kidney", "Kidney", "Kidney", "Liver", "Liver"))
    return read_nuclei(folder)


@pytest.fixture(scope="module")
def trained(items, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, train_nuclei(items, out, SETTINGS)


def changed(**changes) -> NucleiSettings:
    return dataclasses.replace(SETTINGS, **changes)


def test_the_model_folder_says_how_its_output_becomes_nuclei(trained):
    out, result = trained
    model, spec = models.load(out)
    assert spec == result.spec and spec.dense
    assert [one.name for one in spec.classes] == ["background", "nucleus", "border"]
    chosen = json.loads((out / "training" / "threshold.json").read_text(encoding="utf-8"))
    assert spec.instances == chosen["instances"] and spec.instances["split"] == "border"
    best = max((row for row in chosen["candidates"] if row["aji"] == row["aji"]), key=lambda row: row["aji"])
    assert chosen["score"] == best["aji"]
    assert {row["threshold"] for row in chosen["candidates"]} >= {spec.instances["threshold"], 0.5}
    levels = chosen["inside"]["candidates"]
    assert chosen["inside"]["score"] == max(row["aji"] for row in levels if row["aji"] == row["aji"])
    assert {row["inside"] for row in levels} >= {spec.instances["inside"], 0.5}
    assert chosen["inside"]["score"] >= chosen["score"], "0.5, the level of the first choice, is a candidate"
    labels = label_image(as_predictor(model, spec), spec, picture(9)[0])
    assert labels.shape == (96, 96)


def test_which_image_was_where_is_kept(trained, items):
    out, result = trained
    parts = json.loads((out / "training" / "parts.json").read_text(encoding="utf-8"))
    assert parts == {name: [item.name for item in part] for name, part in result.parts.items()}
    assert {name for part in parts.values() for name in part} == {item.name for item in items}


def test_a_finished_run_is_left_alone(trained, items):
    out, result = trained
    stamps = {file: file.stat().st_mtime_ns for file in (out / "model.keras", out / "config.json")}
    assert train_nuclei(items, out, SETTINGS).spec == result.spec
    assert stamps == {file: file.stat().st_mtime_ns for file in stamps}


def test_a_stopped_run_goes_on_to_the_same_weights(trained, items, tmp_path, monkeypatch):
    class StopError(Exception):
        pass

    def failing(*args, **kwargs):
        raise StopError

    monkeypatch.setattr(nuclei, "choose_level", failing)
    with pytest.raises(StopError):
        train_nuclei(items, tmp_path, SETTINGS)
    assert not (tmp_path / "config.json").exists()
    monkeypatch.undo()
    train_nuclei(items, tmp_path, SETTINGS)
    for mine, whole in zip(
        models.load(tmp_path)[0].get_weights(), models.load(trained[0])[0].get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mine, whole)


def test_another_image_in_the_same_run_is_refused(trained, items):
    out, _ = trained
    with pytest.raises(TfsegError, match=r"images\.train\..*→ None"):
        train_nuclei(items[1:], out, SETTINGS)


def test_the_loss_is_the_papers(trained, items):
    """Cross-entropy × (class balance + border) + 1 − soft Dice, of one batch, by hand."""
    objective = nuclei._objective(SETTINGS, SETTINGS.train, 3)
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, (2, 8, 8))
    found = random.dirichlet(np.ones(3), (2, 8, 8)).astype(np.float32)
    weights = random.uniform(0.5, 11, truth.shape).astype(np.float32)
    targets, outputs = {"segmentation": truth.astype(np.uint8), "weights": weights}, {"segmentation": found}
    terms = {name: float(term({}, targets, outputs)) for name, term in objective.losses.items()}
    onehot = np.eye(3)[truth]
    assert terms["crossentropy"] == pytest.approx(np.mean(-weights * np.log((onehot * found).sum(-1))), rel=1e-5)
    sums = [(values * 1.0).sum((1, 2)) for values in (onehot * found, onehot, found**2)]
    dice = (2 * sums[0] + 1) / (sums[1] + sums[2] + 1)
    assert terms["dice_loss"] == pytest.approx(np.mean(1 - dice[:, 1:].mean(1)), rel=1e-5)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_rate_falls_to_0_at_the_last_update(accumulation):
    train = dataclasses.replace(SETTINGS.train, epochs=4, steps_per_epoch=9, accumulation_steps=accumulation)
    rate = nuclei.learning_rate(changed(schedule="cosine"), train)
    updates = 4 * 9 // accumulation
    expected = [train.learning_rate * (1 + np.cos(np.pi * one / updates)) / 2 for one in range(updates + 1)]
    assert [float(rate(one)) for one in range(updates + 1)] == pytest.approx(expected, abs=1e-9)
    assert nuclei.learning_rate(changed(schedule="constant"), train) == train.learning_rate


@pytest.mark.usefixtures("uncompiled")
def test_a_network_that_finds_too_little_is_kept_all_the_same(items, tmp_path, caplog):
    train = dataclasses.replace(SETTINGS.train, epochs=1, steps_per_epoch=1)
    rule = ThresholdSettings(maximise="precision", min_recall=0.99)
    result = train_nuclei(items, tmp_path, changed(threshold=rule, train=train))
    assert "recall of at least 0.99" in caplog.text and "highest AJI" in caplog.text
    assert ModelSpec.load(tmp_path) == result.spec


def test_cosine_ends_at_no_rate():
    objective = nuclei._objective(changed(schedule="cosine"), SETTINGS.train, 3)
    rate = objective.optimizer._learning_rate
    assert [round(float(rate(step)), 6) for step in (0, 4, 8)] == [0.01, 0.005, 0.0]


@pytest.mark.smoke
def test_it_learns_discs(items, tmp_path):
    train = dataclasses.replace(SETTINGS.train, epochs=2, steps_per_epoch=20)
    result = train_nuclei(items, tmp_path, changed(train=train, augment="none"))
    model, spec = models.load(tmp_path)
    image, truth = picture(21)
    scores = instance_scores(truth, label_image(as_predictor(model, spec), spec, image))
    assert scores["aji"] > 0.7, scores["aji"]
    assert result.train.best_score > 0.7


def test_an_ensemble_takes_encoders_and_weights_of_its_members(trained, items, tmp_path):
    out = trained[0]
    settings = changed(architecture="unet_ensemble", arguments={}, widths=(), members=(str(out), str(out)))
    spec = assemble_nuclei(items, tmp_path, settings)
    assert spec.arguments["encoders"] == [tiny_encoder.NAME] * 2 and spec.instances["split"] == "border"
    (member, one), (ensemble, both) = models.load(out), models.load(tmp_path)
    image = picture(9)[0]
    found = [predict_image(as_predictor(model, spec), spec, image) for model, spec in ((member, one), (ensemble, both))]
    np.testing.assert_allclose(*found, atol=1e-6)


@pytest.mark.usefixtures("uncompiled")
def test_colours_are_normalised_before_anything_else(items, tmp_path):
    how = NormalisationSettings("reinhard", items[3].image)
    train_nuclei(items, tmp_path, changed(normalisation=how, train=dataclasses.replace(SETTINGS.train, epochs=1)))
    assert json.loads((tmp_path / "colours.json").read_text(encoding="utf-8"))["method"] == "reinhard"
    target = np.load(tmp_path / "training" / "prepared" / "Liver_3.image.npy").reshape(-1, 3).mean(0)
    other = np.load(tmp_path / "training" / "prepared" / "Kidney_0.image.npy").reshape(-1, 3).mean(0)
    assert np.abs(target - other).max() < 6


@pytest.mark.usefixtures("uncompiled")
def test_other_stains_are_learnt_anew_every_time_and_chosen_on_once(items, tmp_path):
    pictures = write(tmp_path / "pictures" / "a.png", two_stains(side=128)).parent
    how = RestainSettings(pictures, p=1.0)
    settings = changed(restain=how, train=dataclasses.replace(SETTINGS.train, epochs=1))
    result = train_nuclei(items, tmp_path / "run", settings)
    prepared = tmp_path / "run" / "training" / "prepared"
    (other,) = prepared.glob("restained_*")
    for part, folder in (("train", prepared), ("val", other)):
        for item in result.parts[part]:
            kept = np.load(folder / f"{item.name}.image.npy")
            assert np.array_equal(kept, item.load()[0]) is (folder == prepared), item.name
    data = NucleiData.prepare(items, tmp_path / "run", settings)
    tiles = [next(iter(data.training(PixelTargets(3), step)))[0]["image"].numpy() for step in (0, 0, 1)]
    np.testing.assert_array_equal(tiles[0], tiles[1])
    assert np.abs(tiles[0] - tiles[2]).mean() > 5
    write(pictures / "b.png", two_stains(seed=1, side=128))
    with pytest.raises(TfsegError, match="counterstains"):
        train_nuclei(items, tmp_path / "run", settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (changed(border_class=False), "border-class"),
        (changed(crossentropy=0.0, dice=0.0), "no term"),
        (changed(architecture="mobilenetv2_classifier", arguments={"alpha": 0.35}, widths=()), "take one image"),
        (changed(members=("nowhere",)), "a folder for each member"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_training(items, tmp_path, settings, words):
    with pytest.raises(ModelError, match=words):
        train_nuclei(items, tmp_path, settings)
    assert not (tmp_path / "training" / "history.csv").exists()


def test_prediction_overlaps_and_blends(trained):
    out, _ = trained
    model, spec = models.load(out)
    image = picture(5)[0]
    found = predict_image(as_predictor(model, spec), spec, image)
    assert found.shape == (96, 96, 3)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert ModelSpec.load(out).instances == spec.instances
