"""Steps of iterative training: who learns from what, what is finished, what a kill leaves, and the table."""

from __future__ import annotations

import dataclasses
import json
import shutil
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from dense_cohort import write_boxes
from dense_networks import CLASSES, Identity, dense_spec
from fake_networks import slide_file

from tfseg.data.cohort import Cohort
from tfseg.data.index import DenseIndexConfig
from tfseg.files import write_json
from tfseg.infer.networks import DenseModel, Network
from tfseg.slides.class_table import ClassTable
from tfseg.train import self_training
from tfseg.train.segmentation import LossSettings, SegmentationSettings
from tfseg.train.self_training import Schedule, Step, self_train
from tfseg.types import IGNORE, TfsegError

SIDE = 96
TABLE = ClassTable.plain(CLASSES)
CONFIG = DenseIndexConfig(target_px=16, stride_px=16, mpp=1.0)
BOXES = [("red one", (0, 0, 16, 16)), ("green", (16, 16, 32, 32)), ("blue", (40, 40, 60, 60))]
BASE = SegmentationSettings("encoder_unet", arguments={"encoder": "efficientnetb0"})
ROUNDS = SegmentationSettings("multi_level", loss=LossSettings(class_weights=(1.0, 2.0, 3.0)))


def picture(seed: int) -> np.ndarray:
    """Quarters of four colours: red and green of 0.86, blue of 0.7, and one of 0.55; a box of it is drawn otherwise."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    half = SIDE // 2
    image[:half, :half], image[:half, half:] = (220, 0, seed), (0, 220, seed)
    image[half:, :half], image[half:, half:] = (0, seed, 179), (140, 0, seed)
    return image


@pytest.fixture
def cohort(tmp_path) -> Cohort:
    lines = ["slide,annotation,split"]
    for number, split in enumerate(("train", "train", "val", "test")):
        slide_file(tmp_path / f"s{number}.tif", picture(number))
        drawn = write_boxes(tmp_path / f"s{number}.geojson", BOXES).name if number != 1 else ""
        lines.append(f"s{number}.tif,{drawn},{split}")
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    return Cohort.read(tmp_path / "cohort.csv")


class Fake:
    """In the place of training: notes what each step was given. Its networks say what they see."""

    def __init__(self, monkeypatch) -> None:
        self.steps: list[tuple[str, SegmentationSettings, dict[str, Path], pd.DataFrame]] = []
        self.predictors: list[Identity] = []
        self.killed = False
        monkeypatch.setattr(self_training, "train_segmentation", self.train)
        monkeypatch.setattr(self_training, "load_model", self.load)

    def train(self, index, out, settings):
        drawn = {name: Path(slide["annotation"]) for name, slide in index.slides.items() if slide["annotation"]}
        self.steps.append((out.parent.name, settings, drawn, index.table))
        write_json(out / "config.json", {})
        return types.SimpleNamespace(confusion=np.diag([8, 4, 0]) + np.array([[0, 2, 0], [4, 0, 0], [0, 0, 0]]))

    def load(self, folder, engine):
        spec = dense_spec()
        predict = Identity(spec)
        if self.killed:
            predict = Dying(spec)
        self.predictors.append(predict)
        return DenseModel(Network(predict, spec, str(folder)))


class Dying(Identity):
    def __call__(self, *fields):
        if self.windows > 40:
            raise KeyboardInterrupt
        return super().__call__(*fields)


def steps(*thresholds: float) -> tuple[Step, ...]:
    count = len(thresholds)
    return Schedule(
        thresholds, (0.01,) * count, (2,) * count, (True,) * count, tuple(f"multi_level_{n}" for n in range(count))
    ).steps(BASE, ROUNDS)


def run(cohort, out, *thresholds):
    return self_train(cohort, CONFIG, TABLE, out, steps(*thresholds), tissue="none", workers=1)


def test_every_step_learns_from_the_labels_of_the_last(cohort, tmp_path, monkeypatch):
    fake, out = Fake(monkeypatch), tmp_path / "run"
    result = run(cohort, out, 0.8, 0.6, 0.5)
    assert [name for name, *_ in fake.steps] == ["0_base", "1_round_1", "2_round_2"]
    drawn = [paths for _, _, paths, _ in fake.steps]
    assert {n: p.name for n, p in drawn[0].items()} == {"s0": "s0.geojson", "s2": "s2.geojson"}
    for number in (1, 2):
        labels = out.resolve() / f"{number - 1}_{'base' if number == 1 else 'round_1'}" / "labels"
        assert drawn[number]["s0"] == labels / "s0.tiff" and drawn[number]["s1"] == labels / "s1.tiff"
        assert drawn[number]["s2"].name == "s2.geojson", "validation keeps what was drawn"
    windows = [table[table.split == "train"].groupby("slide_name").size().to_dict() for *_, table in fake.steps]
    assert windows[0] == {"s0": 1 + 1 + 4}
    assert windows[1] == {"s0": 18 + 2, "s1": 18}, "two quarters are sure, and the windows of the blue box"
    assert windows[2] == {"s0": 27 + 1, "s1": 27}
    assert "test" not in set(fake.steps[0][3].split)
    assert result.folder == (out / "2_round_2" / "model").resolve()
    assert result.cohort.table.annotation.str.contains("1_round_1").tolist() == [True, True, False]


def test_manual_labels_stay_through_all_steps(cohort, tmp_path, monkeypatch):
    Fake(monkeypatch)
    run(cohort, tmp_path / "run", 0.8, 0.6, 0.5)
    manual = np.full((SIDE, SIDE), IGNORE, np.uint8)
    for label, (_, (left, top, right, bottom)) in enumerate(BOXES):
        manual[top:bottom, left:right] = label
    sure = {0.8: [0, 1, IGNORE, IGNORE], 0.6: [0, 1, 2, IGNORE], 0.5: [0, 1, 2, 0]}
    for folder, threshold in zip(("0_base", "1_round_1", "2_round_2"), sure, strict=True):
        predicted = np.repeat(np.repeat(np.array(sure[threshold], np.uint8).reshape(2, 2), 48, 0), 48, 1)
        for name, drawn in (("s0", manual), ("s1", np.full_like(manual, IGNORE))):
            found = tifffile.imread(tmp_path / "run" / folder / "labels" / f"{name}.tiff")
            np.testing.assert_array_equal(found, np.where(drawn != IGNORE, drawn, predicted))


def test_the_same_network_goes_on_with_its_weights(cohort, tmp_path, monkeypatch):
    fake = Fake(monkeypatch)
    run(cohort, tmp_path / "run", 0.9, 0.8, 0.7)
    starts = [settings.start_from for _, settings, *_ in fake.steps]
    assert starts == [None, None, str((tmp_path / "run" / "1_round_1" / "model").resolve())]


def test_finished_steps_are_taken_as_they_are(cohort, tmp_path, monkeypatch):
    fake, out = Fake(monkeypatch), tmp_path / "run"
    first = run(cohort, out, 0.8, 0.6)
    again = run(cohort, out, 0.8, 0.6)
    assert len(fake.steps) == 2 and len(fake.predictors) == 2
    pd.testing.assert_frame_equal(first.table, again.table)
    other = [dataclasses.replace(s, settings=dataclasses.replace(s.settings, threads=3)) for s in steps(0.8, 0.6)]
    self_train(cohort, CONFIG, TABLE, out, other, tissue="none", workers=1)
    assert len(fake.steps) == 2, "how many threads read makes no difference"
    run(cohort, out, 0.8, 0.6, 0.5)
    assert [name for name, *_ in fake.steps[2:]] == ["2_round_2"]


def test_a_changed_step_is_noticed_before_anything_is_overwritten(cohort, tmp_path, monkeypatch):
    fake, out = Fake(monkeypatch), tmp_path / "run"
    run(cohort, out, 0.8, 0.6)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(TfsegError, match=r"1_round_1: this step was finished with other.* delete 1_round_1 to"):
        run(cohort, out, 0.8, 0.5)
    with pytest.raises(TfsegError, match=r"0_base: this step was .* delete 0_base, 1_round_1 to"):
        run(cohort, out, 0.7, 0.6)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before and len(fake.steps) == 2
    shutil.rmtree(out / "1_round_1")
    run(cohort, out, 0.8, 0.5)
    assert [name for name, *_ in fake.steps[2:]] == ["1_round_1"]


@pytest.mark.parametrize("lost", ["labels/s1.tiff", "model/config.json"])
def test_a_step_that_lost_a_file_is_done_again(cohort, tmp_path, monkeypatch, lost):
    fake, out = Fake(monkeypatch), tmp_path / "run"
    run(cohort, out, 0.8)
    (out / "0_base" / lost).unlink()
    run(cohort, out, 0.8)
    assert len(fake.steps) == 2 and (out / "0_base" / lost).is_file()


def test_killed_while_labelling_it_goes_on_there(cohort, tmp_path, monkeypatch):
    fake, out = Fake(monkeypatch), tmp_path / "run"
    run(cohort, tmp_path / "whole", 0.8)
    fake.killed = True
    with pytest.raises(KeyboardInterrupt):  # in the second slide
        run(cohort, out, 0.8)
    assert (out / "0_base" / "labels" / "s0.tiff").is_file() and not (out / "0_base" / "step.json").exists()
    fake.killed = False
    run(cohort, out, 0.8)
    assert fake.predictors[-1].windows < 36, "the first slide is done, and a row of the second"
    for name in ("s0.tiff", "s1.tiff"):
        whole = tmp_path / "whole" / "0_base" / "labels" / name
        assert (out / "0_base" / "labels" / name).read_bytes() == whole.read_bytes()


def test_table_and_curve(cohort, tmp_path, monkeypatch):
    Fake(monkeypatch)
    run(cohort, tmp_path / "run", 0.8, 0.5)
    table = pd.read_csv(tmp_path / "run" / "steps.csv")
    assert table["step"].tolist() == ["manual", "base", "round_1"]
    manual = 16 * 16 + 16 * 16 + 20 * 20
    pixels = 2 * SIDE * SIDE
    np.testing.assert_allclose(table["labelled"], [manual / pixels, 0.5 + 12 * 20 / pixels, 1.0])
    assert table["windows"].tolist()[1:] == [6, 38]
    np.testing.assert_allclose(table["iou mean"][1:], (8 / 14 + 4 / 10) / 2)
    assert table["iou blue"].isna().all(), "nobody annotated it in validation"
    assert table["network"].tolist()[1:] == ["encoder_unet", "multi_level"]
    text = (tmp_path / "run" / "steps.md").read_text()
    assert "| base | encoder_unet | efficientnetb0 | 0.8 |" in text and "<NA>" not in text
    assert (tmp_path / "run" / "steps.png").stat().st_size > 5000


def test_the_paper_has_six_steps():
    found = Schedule().steps(BASE, ROUNDS)
    assert [step.name for step in found] == ["base", *(f"round_{n}" for n in range(1, 6))]
    assert [step.threshold for step in found] == [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    train = [step.settings.train for step in found]
    assert [one.learning_rate for one in train] == [0.01, 0.005, 0.001, 0.0007, 0.0005, 0.0001]
    assert [one.epochs for one in train] == [20, 5, 5, 5, 5, 10]
    assert [step.settings.loss.dynamic for step in found] == [False, True, True, True, True, False]
    assert found[1].settings.loss.class_weights == () and found[5].settings.loss.class_weights == (1.0, 2.0, 3.0)
    assert [step.settings.augment for step in found] == [f"multi_level_{n}" for n in range(6)]
    assert [step.settings.architecture for step in found] == ["encoder_unet", *["multi_level"] * 5]


def test_a_schedule_has_as_many_of_each():
    with pytest.raises(TfsegError, match="learning_rates 6, epochs 2"):
        dataclasses.replace(Schedule(), epochs=(1, 2))
    with pytest.raises(TfsegError, match=r"in 0\.\.1"):
        Schedule((1.5,), (0.1,), (1,), (False,), ("none",))


def test_step_file_tells_the_counts(cohort, tmp_path, monkeypatch):
    Fake(monkeypatch)
    run(cohort, tmp_path / "run", 0.8)
    counts = json.loads((tmp_path / "run" / "0_base" / "step.json").read_text())["counts"]
    assert counts["pixels"] == 2 * SIDE * SIDE and counts["manual"] == 912
