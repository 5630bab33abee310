from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tifffile

from tfseg.data.cohort import Cohort
from tfseg.evaluation import evaluate_cohort
from tfseg.slides.tiff_writer import write_pyramid
from tfseg.types import CohortError

SIZE = 256


@pytest.fixture
def cohort(tmp_path):
    """Three slides whose left half is tumour."""
    rows = []
    for i, grade in enumerate("112"):
        image = np.full((SIZE, SIZE, 3), 200, np.uint8)
        label = np.zeros((SIZE, SIZE), np.uint8)
        label[:, : SIZE // 2] = 1
        write_pyramid(tmp_path / f"s{i}.tif", image, mpp=0.5)
        tifffile.imwrite(tmp_path / f"s{i}_label.tif", label)
        rows.append({"slide": f"s{i}.tif", "annotation": f"s{i}_label.tif", "split": "test", "grade": grade})
    pd.DataFrame(rows).to_csv(tmp_path / "cohort.csv", index=False)
    return Cohort.read(tmp_path / "cohort.csv")


def segmentation(folder, shifts):
    """Masks whose tumour begins ``shift`` pixels late."""
    for i, shift in enumerate(shifts):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[:, shift : SIZE // 2] = 1
        write_pyramid(folder / f"s{i}" / "mask.tiff", mask, mpp=0.5, kind="label")
    return folder


def test_scores_tables_and_pictures(cohort, tmp_path):
    designs = {
        "good": segmentation(tmp_path / "good", [0, 2, 1]),
        "poor": segmentation(tmp_path / "poor", [64, 60, 70]),
    }
    out = tmp_path / "scores"
    table = evaluate_cohort(cohort, designs, out)
    first = table[(table.design == "poor") & (table.slide_name == "s0")].iloc[0]
    assert first.recall == pytest.approx(0.5) and first.precision == pytest.approx(1.0)
    assert first.dice == pytest.approx(2 / 3)
    assert {p.name for p in out.iterdir()} == {
        "scores.csv", "summary.csv", "summary.md", "tukey.csv", "boxes.png", "boxes_grade.png",
    }  # fmt: skip
    assert len(pd.read_csv(out / "scores.csv")) == 6
    text = (out / "summary.md").read_text(encoding="utf-8")
    assert "## By grade" in text and "0.996 ± 0.004" in text
    assert bool(pd.read_csv(out / "tukey.csv").differs[0])


def test_missing_segmentation_names_slide_and_command(cohort, tmp_path):
    folder = segmentation(tmp_path / "one", [0, 0])
    with pytest.raises(CohortError, match=r"no segmentation of slide 's2'. Run `tfseg segment"):
        evaluate_cohort(cohort, {"one": folder}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_column_lists_those_there_are(cohort, tmp_path):
    with pytest.raises(CohortError, match="no column 'stage'"):
        evaluate_cohort(cohort, {"one": segmentation(tmp_path / "one", [0, 0, 0])}, tmp_path / "out", by=["stage"])
