"""Iterative training of the multi-level network runs from a manifest to a table of scores, shrunk to a smoke run."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_encoder

from tfseg.comparison import run_script
from tfseg.data.index import DenseIndexConfig
from tfseg.slides.known_tables import TUMOUR_NORMAL_OTHERS
from tfseg.slides.synthetic import Recipe, synthetic_slide
from tfseg.train.interrupt import TrainingInterruptedError
from tfseg.types import CohortError

SCRIPT = Path(__file__).parents[1] / "pipelines" / "multi_level.py"


@pytest.fixture(scope="module")
def multi_level():
    spec = importlib.util.spec_from_file_location("multi_level", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A slide of each split, 1 mm wide."""
    folder = tmp_path_factory.mktemp("cohort")
    lines = ["slide,annotation,split,stain,scanner"]
    for seed, (split, stain, scanner) in enumerate((("train", "A", "P"), ("val", "B", "Q"), ("test", "ER", "P"))):
        recipe = Recipe(512, 2.0, 2, stain, scanner, seed, "multiclass")
        synthetic_slide(folder / f"{split}.tif", recipe, annotation=folder / f"{split}.geojson")
        lines.append(f"{split}.tif,{split}.geojson,{split},{stain},{scanner}")
    path = folder / "cohort.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def tiny(multi_level, monkeypatch):
    """The smoke run with an encoder that costs nothing: MobileNetV2's graphs take most of its time."""
    shrink = multi_level.shrink

    def shrunk(*settings):
        index, schedule, *networks = shrink(*settings)
        return index, schedule, *(dataclasses.replace(n, arguments={"encoder": tiny_encoder.NAME}) for n in networks)

    monkeypatch.setattr(multi_level, "shrink", shrunk)


@pytest.mark.smoke
def test_from_manifest_to_steps_and_table(multi_level, cohort, tiny, tmp_path, capsys):
    out = tmp_path / "run"
    multi_level.main(cohort, out=out, quick=True, workers=1, designs=("Base", "Multi-level"))
    steps = pd.read_csv(out / "steps" / "steps.csv")
    assert steps["step"].tolist() == ["manual", "base", "round_1"]
    assert (steps["labelled"][1:] >= steps["labelled"][0]).all(), "manual labels stay"
    assert steps["iou mean"][1:].between(0, 1).all() and (out / "steps" / "steps.png").is_file()
    classes = pd.read_csv(out / "scores" / "classes.csv")
    assert set(classes["design"]) == {"Base", "Multi-level"}
    assert set(classes["class"]) == {"background and normal", "tumour", "others", "mean"}
    summary = (out / "scores" / "summary.md").read_text(encoding="utf-8")
    assert "## By stain" in summary and "## By scanner" in summary
    assert (out / "scores" / "Multi-level" / "curves.png").is_file()

    capsys.readouterr()
    multi_level.main(cohort, out=out, quick=True, workers=1, designs=("Multi-level", "HookNet"))
    said = capsys.readouterr().out
    assert said.count("epoch 1/1") == 1, "finished steps are taken as they are, HookNet is trained"
    assert list(pd.read_csv(out / "scores" / "scores.csv")["design"].unique()) == ["Multi-level", "HookNet"]


def test_a_column_that_is_not_there_is_told_before_any_work(multi_level, cohort, tmp_path):
    with pytest.raises(CohortError, match="no column 'stage'"):
        multi_level.main(cohort, out=tmp_path / "run", quick=True, workers=1, by=("stage",))
    assert not (tmp_path / "run").exists()


def test_defaults_are_the_papers(multi_level):
    base, *rounds = multi_level.Schedule().steps(
        multi_level.settings("encoder_unet", "efficientnetb0"), multi_level.settings("multi_level", "efficientnetb4")
    )
    assert len(rounds) == 5
    for step in (base, *rounds):
        assert step.settings.batch_size == 16
        assert step.settings.ratio == {"tumour": 2, "background and normal": 1, "others": 1}
        assert set(step.settings.ratio) == {spec.name for spec in TUMOUR_NORMAL_OTHERS.classes}
        assert (step.settings.loss.crossentropy, step.settings.loss.dice) == (1, 1)
        assert (step.settings.optimizer.kind, step.settings.optimizer.schedule) == ("adam", "cyclic")
    assert base.settings.arguments == {"encoder": "efficientnetb0"}
    np.testing.assert_equal([step.settings.arguments for step in rounds], [{"encoder": "efficientnetb4"}] * 5)


def test_compared_networks_see_the_same_but_in_windows_of_their_own(multi_level):
    rounds = multi_level.settings("multi_level", "efficientnetb4")
    index, levels = DenseIndexConfig(target_px=512, stride_px=512), (*["none"] * 5, "multi_level_3")
    schedule = multi_level.Schedule(augments=levels)
    given = rounds, schedule, index, 284, (16, 32, 64, 128, 160), "resnet50"
    settings, windows = multi_level.compared("U-Net", *given)
    assert settings.architecture == "encoder_unet" and settings.arguments == {"encoder": "efficientnetb4"}
    assert windows == index and settings.train == rounds.train and settings.augment == "multi_level_3"
    settings, windows = multi_level.compared(
        "HookNet", rounds, schedule, index, 284, (16, 32, 64, 128, 160), "resnet50"
    )
    assert (settings.architecture, settings.size_px) == ("hooknet", 284)
    assert (windows.target_px, windows.stride_px) == (70, 70)
    settings, windows = multi_level.compared(
        "DeepLabV3", rounds, schedule, index, 284, (16, 32, 64, 128, 160), "resnet50"
    )
    assert settings.architecture == "deeplabv3" and settings.arguments == {"encoder": "resnet50"} and windows == index


def test_a_stopped_training_ends_with_130(monkeypatch, capsys):
    def main() -> None:
        raise TrainingInterruptedError("stopped in epoch 1")

    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    with pytest.raises(SystemExit) as stopped:
        run_script(main, None)
    assert stopped.value.code == 130 and "multi_level: stopped in epoch 1" in capsys.readouterr().err
