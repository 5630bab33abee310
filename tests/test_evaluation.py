from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import tifffile

from tfseg.data.cohort import Cohort
from tfseg.evaluation import evaluate_cohort
from tfseg.evaluation_classes import segmented_classes
from tfseg.files import write_json
from tfseg.slides.class_table import ClassTable
from tfseg.slides.tiff_writer import write_pyramid
from tfseg.types import IGNORE, CohortError

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


def summaries(folder, names):
    for i in range(3):
        write_json(folder / f"s{i}" / "summary.json", {"mask": {"classes": dict(enumerate(names))}})
    return folder


def test_pixels_without_a_class_are_missed(cohort, tmp_path):
    folder = segmentation(tmp_path / "one", [0, 0, 0])
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, : SIZE // 2] = 1
    mask[: SIZE // 4] = 255
    write_pyramid(folder / "s0" / "mask.tiff", mask, mpp=0.5, kind="label")
    table = evaluate_cohort(cohort, {"one": folder}, tmp_path / "out").set_index("slide_name")
    assert table.loc["s0", ["recall", "precision", "accuracy"]].tolist() == [0.75, 1.0, 0.75]
    assert table.loc["s0", "pixels tumour as no class"] == SIZE * SIZE / 8
    assert table.loc["s0", "truth_mm2"] == table.loc["s1", "truth_mm2"]


def test_nothing_annotated_on_any_slide(cohort, tmp_path):
    tifffile.imwrite(tmp_path / "blank.tif", np.full((SIZE, SIZE), IGNORE, np.uint8))
    blank = Cohort(cohort.path, cohort.table.assign(annotation=str(tmp_path / "blank.tif")))
    designs = {"one": segmentation(tmp_path / "one", [0, 0, 0])}
    with pytest.raises(CohortError, match=r"3 slides \(s0, s1, s2\) hold no pixel of the classes non-tumour, tumour"):
        evaluate_cohort(blank, designs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_classes_of_other_names_in_any_design(cohort, tmp_path):
    designs = {name: segmentation(tmp_path / name, [0, 0, 0]) for name in ("one", "two")}
    summaries(designs["one"], ["non-tumour", "tumour"])
    summaries(designs["two"], ["tumour", "non-tumour"])
    with pytest.raises(CohortError, match=r"two.s0: segmented into the classes tumour, non-tumour"):
        evaluate_cohort(cohort, designs, tmp_path / "out")
    evaluate_cohort(cohort, {"one": designs["one"]}, tmp_path / "out")
    assert "nobody annotated" not in (tmp_path / "out" / "summary.md").read_text()
    designs = {"own": summaries(designs["two"], ["glass", "gland"])}
    plain = segmented_classes([designs["own"]])
    for rest, said in ((IGNORE, "does not count (rest: ignore)"), (0, "counts as glass (rest)")):
        evaluate_cohort(cohort, designs, tmp_path / "own", classes=dataclasses.replace(plain, rest=rest))
        assert f"What nobody annotated {said}" in (tmp_path / "own" / "summary.md").read_text()


def test_nothing_is_trained_for_an_evaluation_that_cannot_be(cohort, tmp_path):
    from tfseg.comparison import compare

    trained: list[str] = []
    designs = {"one": lambda: trained.append("one")}
    with pytest.raises(CohortError, match="no column 'stage'"):
        compare(cohort, designs, tmp_path, ("stage",), ClassTable.h2g())
    blank = Cohort(cohort.path, cohort.table.assign(annotation=""))
    with pytest.raises(CohortError, match="no slide has an annotation"):
        compare(blank, designs, tmp_path, (), ClassTable.h2g())
    assert trained == []


def test_missing_segmentation_names_slide_and_command(cohort, tmp_path):
    folder = segmentation(tmp_path / "one", [0, 0])
    with pytest.raises(CohortError, match=r"no segmentation of slide 's2'. Run `tfseg segment"):
        evaluate_cohort(cohort, {"one": folder}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_column_lists_those_there_are(cohort, tmp_path):
    with pytest.raises(CohortError, match="no column 'stage'"):
        evaluate_cohort(cohort, {"one": segmentation(tmp_path / "one", [0, 0, 0])}, tmp_path / "out", by=["stage"])
