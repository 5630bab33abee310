"""Logs of a run: CSV, TensorBoard, picture, run.json."""

from __future__ import annotations

import csv
import json

import cv2
import pytest
import tensorflow as tf
import toy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfseg.train.log import write_curves
from tfseg.train.run_config import differences, plain, record_start
from tfseg.types import TfsegError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    _, result = toy.train(folder)
    return folder, result


def test_csv_has_a_row_an_epoch_to_the_last_digit(run):
    folder, result = run
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["5", "10", "15"]
    assert [float(row["val_loss"]) for row in rows] == [row["val_loss"] for row in result.history]


def test_tensorboard_has_training_and_validation_curves(run):
    folder, result = run
    for part, prefix in (("train", ""), ("validation", "val_")):
        events = EventAccumulator(str(folder / "tensorboard" / part), size_guidance={"tensors": 0}).Reload()
        tensors = events.Tensors("accuracy")
        assert [t.step for t in tensors] == [1, 2, 3]
        values = [float(tf.make_ndarray(t.tensor_proto)) for t in tensors]
        assert values == pytest.approx([row[f"{prefix}accuracy"] for row in result.history])


def test_run_json_says_settings_versions_seed_and_command(run):
    content = json.loads((run[0] / "run.json").read_text())
    assert content["config"]["train"]["seed"] == 0
    assert content["config"]["optimizer"]["class"] == "Adam"
    assert content["config"]["optimizer"]["learning_rate"] == pytest.approx(0.01)
    (start,) = content["starts"]
    assert {"python", "tensorflow", "keras", "numpy", "tfseg"} <= start["versions"].keys()
    assert start["command"]


def test_curves_are_drawn(run, tmp_path):
    assert cv2.imread(str(run[0] / "curves.png")).std() > 0
    write_curves(tmp_path / "one.png", [{"epoch": 1, "step": 2, "learning_rate": 0.1, "loss": 3.0}])
    assert (tmp_path / "one.png").stat().st_size > 0


def test_without_a_terminal_there_is_a_line_an_epoch(tmp_path, capsys):
    toy.train(tmp_path, epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2/2  loss ")
    assert "val_loss" in lines[1] and "steps/s" in lines[1] and "ETA" in lines[1]


def test_differences_name_leaves():
    old = plain({"a": 1, "b": {"c": (1, 2), "d": 1.5}})
    assert differences(old, plain({"a": 1, "b": {"c": [1, 2], "d": 1.5}})) == []
    assert differences(old, {"a": 2, "b": {"c": [1], "d": 1.5, "e": 0}}) == [
        "a: 1 → 2",
        "b.c: [1, 2] → [1]",
        "b.e: None → 0",
    ]


def test_a_foreign_run_json_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(TfsegError, match=r"run\.json: not the record of a run"):
        record_start(tmp_path, {})
