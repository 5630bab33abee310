"""Every published design runs from a manifest to a table of scores, shrunk to a smoke run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tfseg.slides.base import open_slide
from tfseg.slides.synthetic import make_cohort

SCRIPT = Path(__file__).parents[1] / "pipelines" / "h2g_net.py"


@pytest.fixture(scope="module")
def h2g_net():
    spec = importlib.util.spec_from_file_location("h2g_net", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return make_cohort(folder, {"train": 1, "val": 1, "test": 1}, size_px=1280, mpp=1.0, workers=1)


def test_nine_designs_from_manifest_to_table(h2g_net, cohort, tmp_path, capsys):
    out = tmp_path / "run"
    h2g_net.main(cohort, out=out, quick=True, workers=1)
    scores = pd.read_csv(out / "scores" / "scores.csv")
    assert list(scores.design.unique()) == list(h2g_net.DESIGNS)
    assert scores.groupby("design").size().eq(3).all()
    summary = (out / "scores" / "summary.md").read_text(encoding="utf-8")
    assert "## By grade" in summary and "Tukey" in summary
    assert {p.name for p in (out / "classifiers").iterdir() if p.name != "heatmaps"} == {
        "inceptionv3_classifier", "mobilenetv2_classifier", "mobilenetv2_classifier_clustered",
    }  # fmt: skip
    assert (out / "designs" / "Mob-PW-UNet" / "model" / "refinement" / "model.onnx").is_file()
    otsu = scores[scores.design == "Otsu"]
    assert (otsu.recall > 0.9).all(), "all tissue is taken, so nearly all tumour is"

    capsys.readouterr()
    h2g_net.main(cohort, out=out, quick=True, workers=1, designs=("Otsu", "Mob-PW-UNet"))
    assert list(pd.read_csv(out / "scores" / "scores.csv").design.unique()) == ["Otsu", "Mob-PW-UNet"]
    said = capsys.readouterr().out
    assert "epoch 1/1" not in said, "finished stages are taken as they are"
    assert said.count("  kept") == 6, "so are the heatmaps of three training and three validation slides"


def test_slides_without_pixel_size_take_it_from_the_manifest(h2g_net, cohort, tmp_path):
    table = pd.read_csv(cohort)
    for column in ("slide", "annotation"):
        table[column] = [str(cohort.parent / path) for path in table[column]]
    for row in table[table.split == "test"].itertuples():
        with open_slide(row.slide) as slide:
            Image.fromarray(slide.whole(slide.mpp)).save(tmp_path / f"{row.Index}.png")
        table.loc[row.Index, "slide"] = str(tmp_path / f"{row.Index}.png")
    table.assign(mpp=1.0).to_csv(tmp_path / "cohort.csv", index=False)
    h2g_net.main(tmp_path / "cohort.csv", out=tmp_path / "run", quick=True, workers=1, designs=("Otsu",))
    assert len(pd.read_csv(tmp_path / "run" / "scores" / "scores.csv")) == 3


def test_a_design_is_what_the_paper_says(h2g_net):
    designs = h2g_net.DESIGNS
    assert len(designs) == 9
    assert designs["Mob-KM-PW"].clustering and not designs["Mob-PW-UNet"].clustering
    assert {d.refinement for d in designs.values()} == {None, "unet_lr", "unet", "agunet", "dagunet", "doubleunet"}
