"""Dense networks on two toy slides with a dark square: training, resuming, losses by output, errors before any work."""

from __future__ import annotations

import dataclasses
import json
import re

import keras
import numpy as np
import pandas as pd
import pytest
import toy

from tfseg import models
from tfseg.data.index import DenseIndexConfig, PatchIndex, build_index
from tfseg.files import write_json
from tfseg.train import segmentation
from tfseg.train.fit import TrainConfig
from tfseg.train.interrupt import TrainingInterruptedError
from tfseg.train.run_config import differences, plain
from tfseg.train.segmentation import LossSettings, OptimizerSettings, SegmentationSettings, train_segmentation
from tfseg.train.stage import fingerprint
from tfseg.types import CohortError, ModelError, TfsegError

SETTINGS = SegmentationSettings(
    architecture="dmmn_m2s",
    mpps=(1.0, 2.0),
    widths=(4, 8),
    batch_size=4,
    optimizer=OptimizerSettings(kind="adam"),
    train=TrainConfig(
        epochs=2, steps_per_epoch=3, validation_steps=2, learning_rate=5e-3, monitor="val_mean_iou", mode="max"
    ),
    threads=2,
)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> PatchIndex:
    folder = tmp_path_factory.mktemp("cohort")
    config = DenseIndexConfig(target_px=32, stride_px=32, mpp=1.0)
    return build_index(toy.cohort(folder), config, folder / "index", workers=1, progress=False)


@pytest.fixture(scope="module")
def trained(index, tmp_path_factory):
    out = tmp_path_factory.mktemp("dense")
    return out, train_segmentation(index, out, SETTINGS)


def changed(**changes) -> SegmentationSettings:
    return dataclasses.replace(SETTINGS, **changes)


def test_the_model_folder_holds_the_best_weights_and_a_full_spec(trained, index):
    out, result = trained
    model, spec = models.load(out)
    assert spec == result.spec and spec.dense
    assert [one.name for one in spec.inputs] == ["image_10x", "image_5x"]
    assert (spec.output_px, spec.output_mpp, spec.stride_px) == ((32, 32), 1.0, 32)
    assert spec.classes == index.classes
    assert spec.provenance["scores"]["val_mean_iou"] == pytest.approx(result.train.best_score)
    with np.load(out / "training" / "best.npz") as best:
        for i, weight in enumerate(model.get_weights()):
            np.testing.assert_array_equal(weight, best[f"model/{i:04d}"])


def test_the_run_folder_tells_everything(trained, index):
    run = trained[0] / "training"
    for name in ("history.csv", "curves.png", "confusion.png", "best.npz"):
        assert (run / name).stat().st_size > 0, name
    config = json.loads((run / "run.json").read_text())["config"]
    assert config["settings"]["augment"]["colour"]["hue_deg"] == 10
    train = index.table[index.table["split"] == "train"]
    assert config["index"]["pixels"]["tumour"] == train["pixels tumour"].sum()
    assert config["index"]["windows"] == len(train) and config["index"]["fingerprint"] == fingerprint(index.table)
    matrix = trained[1].confusion
    assert matrix.sum() == 2 * 4 * 32 * 32  # every pixel of these slides is labelled
    shown = pd.read_csv(run / "confusion.csv")
    assert shown["pixels"].tolist() == matrix.sum(axis=1).tolist()
    assert shown["tumour"].tolist() == pytest.approx((matrix[:, 1] / matrix.sum(axis=1)).tolist())


def test_called_again_it_returns_the_same(trained, index):
    out, result = trained
    before = (out / "model.keras").stat().st_mtime_ns
    again = train_segmentation(index, out, changed(threads=1))
    assert again.train == result.train
    np.testing.assert_array_equal(again.confusion, result.confusion)
    assert (out / "model.keras").stat().st_mtime_ns == before
    with pytest.raises(TfsegError, match=r"settings.loss.dice: 0\.0 → 1\.0"):
        train_segmentation(index, out, changed(loss=LossSettings(dice=1.0)))


@pytest.mark.parametrize("split", ["train", "val"])
def test_it_does_not_go_on_with_other_windows(trained, index, split):
    """Of any split, and where the sums that weight the classes stay: two windows change places."""
    rows = index.table.index[index.table["split"] == split]
    moved = index.table.copy()
    moved.loc[rows[:2], ["x", "y"]] = moved.loc[rows[1::-1], ["x", "y"]].to_numpy()
    with pytest.raises(TfsegError, match=r"index\.fingerprint"):
        train_segmentation(dataclasses.replace(index, table=moved), trained[0], SETTINGS)


def test_it_does_not_go_on_with_another_annotation_of_the_validation_slide(trained, index, tmp_path):
    cohort = toy.cohort(tmp_path)
    drawn = tmp_path / "val.geojson"
    drawn.write_text(drawn.read_text().replace("[64, 128]", "[80, 128]"))
    other = build_index(cohort, index.config, tmp_path / "index", workers=1, progress=False)
    with pytest.raises(TfsegError, match=r"index\.fingerprint"):
        train_segmentation(other, trained[0], SETTINGS)


def test_it_does_not_go_on_with_an_annotation_that_was_redrawn_with_equal_counts(index, tmp_path, monkeypatch):
    """The left half of a window, then its right half; an index of before, without hashes, says nothing of it."""
    cohort, drawn = toy.cohort(tmp_path), tmp_path / "val.geojson"
    content, indexes = json.loads(drawn.read_text()), []
    for left in (64, 80):
        ring = [[left, 128], [left + 16, 128], [left + 16, 160], [left, 160], [left, 128]]
        content["features"][0]["geometry"]["coordinates"] = [ring]
        drawn.write_text(json.dumps(content))
        indexes.append(build_index(cohort, index.config, tmp_path / f"index{left}", workers=1, progress=False))
    pd.testing.assert_frame_equal(indexes[0].table, indexes[1].table)
    without = {n: {k: v for k, v in i.items() if k != "annotation_sha256"} for n, i in indexes[0].slides.items()}
    indexes.append(dataclasses.replace(indexes[0], slides=without))
    found = []

    def fit(*arguments):
        found.append(plain(arguments[-1])["index"])
        raise KeyboardInterrupt

    monkeypatch.setattr(segmentation, "fit", fit)
    for one in indexes:
        with pytest.raises(KeyboardInterrupt):
            train_segmentation(one, tmp_path / "run", SETTINGS)
    (line,) = differences(found[0], found[1])
    assert line.startswith("annotations.val: ")
    assert "annotations" in found[0] and "annotations" not in found[2]


def test_stopped_in_an_epoch_it_ends_with_the_same_weights(trained, index, tmp_path, monkeypatch):
    from tfseg.train import fit

    stop = fit._Run.stop_if

    def interrupt(run, asked, save=True):
        if run.progress.step == 4 and save:
            asked.set()
        stop(run, asked, save)

    monkeypatch.setattr(fit._Run, "stop_if", interrupt)
    with pytest.raises(TrainingInterruptedError, match="in epoch 2 after step 4"):
        train_segmentation(index, tmp_path, SETTINGS)
    monkeypatch.undo()
    keras.utils.set_random_seed(99)
    again = train_segmentation(index, tmp_path, SETTINGS)
    assert again.train.history == trained[1].train.history
    np.testing.assert_array_equal(again.confusion, trained[1].confusion)


def test_it_learns_the_dark_square_and_starts_from_what_it_learnt(index, tmp_path):
    train = dataclasses.replace(SETTINGS.train, epochs=1, steps_per_epoch=15, learning_rate=1e-2, reestimate_batches=4)
    train = dataclasses.replace(train, validation_steps=None)
    settings = changed(architecture="half_unet", mpps=(), augment="none", train=train)
    result = train_segmentation(index, tmp_path, settings)
    assert result.train.best_score > 0.9
    assert result.confusion.sum() == 12 * 16 * 32 * 32, "every validation window once"
    still = dataclasses.replace(train, steps_per_epoch=1, learning_rate=0.0)
    follow = dataclasses.replace(settings, start_from=str(tmp_path), train=still)
    assert train_segmentation(index, tmp_path / "next", follow).train.best_score > 0.9
    with pytest.raises(ModelError, match="cannot start from it, its arguments"):
        train_segmentation(index, tmp_path / "other", dataclasses.replace(follow, widths=(4, 4)))


def test_weights_of_other_classes_or_pixels_are_not_taken(index, tmp_path):
    settings = changed(architecture="half_unet", mpps=())
    model, spec = segmentation._network(index, settings)
    names = [one.name for one in spec.classes]
    swapped = dataclasses.replace(spec, classes=spec.classes[::-1])
    coarse = dataclasses.replace(spec, inputs=(dataclasses.replace(spec.inputs[0], mpp=2.0),))
    models.save(model, swapped, tmp_path)
    for earlier, words in (
        (swapped, f"its classes are {names[::-1]}, not {names}"),
        (coarse, "its µm/px are [2.0], not [1.0]"),
    ):
        write_json(tmp_path / "config.json", earlier.to_dict())
        with pytest.raises(ModelError, match=re.escape(words)):
            segmentation._take_weights(model, spec, str(tmp_path))


def test_an_epoch_is_once_over_the_windows_and_their_copies(index, monkeypatch, tmp_path):
    """Rows are windows and copies; replicas average gradients and multiply the rate."""
    seen = {}

    def fit(model, data, validation, config, folder, objective, details):
        seen.update(config=config, objective=objective, details=details, validation=validation)
        raise KeyboardInterrupt

    monkeypatch.setattr(segmentation, "fit", fit)
    train = dataclasses.replace(SETTINGS.train, steps_per_epoch=0, validation_steps=None)
    optimizer = OptimizerSettings(replicas=3, schedule="cyclic", cycle_steps=10)
    with pytest.raises(KeyboardInterrupt):
        train_segmentation(index, tmp_path, changed(elastic=("tumour=2",), train=train, optimizer=optimizer))
    part = index.table[index.table["split"] == "train"]
    rows = len(part) + 2 * int((part["pixels tumour"] > 0).sum())
    assert seen["config"].steps_per_epoch == -(-rows // 4)
    assert seen["details"]["index"]["windows"] and seen["config"].accumulation_steps == 3
    assert float(seen["objective"].optimizer.learning_rate) == pytest.approx(3 * 5e-3)


def test_terms_of_several_outputs(index):
    arguments = {"encoder": "mobilenetv2", "alpha": 0.35}
    loss = LossSettings(
        dice=0.5, class_weights=(1.0, 2.0), over_all=False, output_weights={"segmentation_context": 0.0}
    )
    settings = changed(architecture="multi_level", mpps=(1.0, 2.0), widths=(4,) * 5, arguments=arguments, loss=loss)
    _, spec = segmentation._network(index, settings)
    terms = segmentation._losses(spec, loss, {"pixels": {}, "pixels_where_present": {}})
    assert list(terms) == ["crossentropy", "dice_loss", "crossentropy_high", "dice_loss_high"]
    labels = np.array([[[0, 1, 255]]], np.uint8)
    probabilities = np.array([[[[0.5, 0.5], [0.75, 0.25], [0.9, 0.1]]]], np.float32)
    found = float(
        terms["crossentropy_high"]({}, {o: labels for o in spec.outputs}, {"segmentation_high": probabilities})
    )
    assert found == pytest.approx((np.log(2) + 2 * np.log(4)) / 2, rel=1e-5)
    with pytest.raises(ModelError, match=r"\['head'\]: outputs are segmentation, segmentation_high"):
        segmentation._losses(spec, LossSettings(output_weights={"head": 1.0}), {})
    with pytest.raises(ModelError, match="one for each of 2 classes"):
        segmentation._losses(spec, LossSettings(class_weights=(1.0, 1.0, 1.0)), {})
    with pytest.raises(ModelError, match="no term"):
        segmentation._losses(spec, dataclasses.replace(loss, crossentropy=0.0, dice=0.0), {})


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"validation_split": "test"}, CohortError, "no patches in split 'test'"),
        ({"architecture": "dmmn"}, ModelError, "unknown 'dmmn'"),
        (
            {"architecture": "mobilenetv2_classifier", "arguments": {"alpha": 0.1}, "mpps": (), "widths": ()},
            ModelError,
            "no dense network",
        ),
        ({"architecture": "plain_unet"}, ModelError, "has one field"),
        ({"size_px": 64}, ModelError, "64×64 px of 1 µm, the index's windows are 32 px of 1 µm.*--dense.target-px 64"),
        ({"mpps": (0.5, 1.0), "size_px": 32}, ModelError, "32×32 px of 0.5 µm"),
        ({"size_px": 31}, ModelError, "divisible"),
        ({"arguments": {"depth": 3}}, ModelError, "depth"),
        ({"arguments": {"num_classes": 3}}, ModelError, "3 classes, the class table 2"),
        ({"elastic": ("tumor=2",)}, CohortError, "no class 'tumor'"),
        ({"sampling": ("lab",)}, CohortError, "'lab': no such column"),
        ({"ratio": {"tumour": 1, "fat": 1}}, CohortError, "no row of 'fat'"),
        ({"ratio": {"tumour": 2, "non-tumour": 1}}, CohortError, "batches of 4 .* a multiple of 3: 3, 6, 9"),
    ],
)
def test_errors_before_any_work(index, tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        train_segmentation(index, tmp_path / "out", changed(**changes))
    assert not (tmp_path / "out").exists()


def test_a_class_that_nobody_annotated_and_an_index_of_patches(index, tmp_path):
    empty = index.table.assign(**{"pixels tumour": 0})
    with pytest.raises(CohortError, match="class 'tumour' has no annotated pixel in split 'train'"):
        train_segmentation(dataclasses.replace(index, table=empty), tmp_path, SETTINGS)
    with pytest.raises(CohortError, match="--kind dense"):
        train_segmentation(toy.patch_index(tmp_path / "cohort"), tmp_path, SETTINGS)


def test_fields_follow_the_index(index):
    """Without mpps the ratios are the paper's, from the index's µm/px on; a coarser network covers the same field."""
    _, spec = segmentation._network(index, changed(architecture="dmmn_s2", mpps=(), widths=(2, 4, 4)))
    assert [one.mpp for one in spec.inputs] == [1.0, 2.0, 4.0]
    _, spec = segmentation._network(index, changed(architecture="plain_unet", mpps=(), mpp=2.0))
    assert (spec.output_px, spec.output_mpp) == ((16, 16), 2.0)


def test_defaults_are_the_papers():
    settings = SegmentationSettings()
    assert (settings.architecture, settings.augment) == ("dmmn_m3", "dmmn")
    assert (settings.train.epochs, settings.train.learning_rate, settings.train.monitor) == (20, 5e-5, "val_mean_iou")
    assert (settings.optimizer.kind, settings.optimizer.momentum, settings.optimizer.weight_decay) == (
        "sgd",
        0.99,
        1e-4,
    )
    assert (settings.loss.class_rule, settings.loss.dynamic, settings.loss.dice) == ("inverse", False, 0.0)
