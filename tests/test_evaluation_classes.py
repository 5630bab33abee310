"""A cohort of partly annotated slides with four classes, of which the first is never a target."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import tifffile
from sklearn.metrics import average_precision_score, jaccard_score, precision_score, recall_score, roc_auc_score

from tfseg.cli import main
from tfseg.data.cohort import Cohort
from tfseg.data.index import IndexConfig, PatchIndex
from tfseg.evaluation import evaluate_cohort
from tfseg.evaluation_classes import segmented_classes
from tfseg.files import write_json
from tfseg.slides.class_table import ClassTable
from tfseg.slides.known_tables import TABLES
from tfseg.slides.tiff_writer import write_pyramid
from tfseg.types import AnnotationError, ClassSpec, CohortError

SIZE, CLASSES = 96, tuple(ClassSpec(n, (40 * i, 90, 0)) for i, n in enumerate(["unused", "tumour", "stroma", "fat"]))
NAMES = [spec.name for spec in CLASSES]
TABLE = ClassTable(CLASSES, {}, {0: 255, 1: 1, 2: 2, 3: 3})
"""In the label pictures 0 is "not annotated"."""
STAINS = ["ER", "HER2", "ER", "HER2"]


def truth_of(k: int) -> np.ndarray:
    """Label picture of slide k; fat (3) on the first two slides alone, a strip and a corner not annotated."""
    labels = np.full((SIZE, SIZE), 2, np.uint8)
    labels[:, :30] = 1
    labels[50:70, 50:] = 3 if k < 2 else 2
    labels[:, 30:35] = 0
    labels[85:, 75:] = 0
    return labels


def probabilities_of(k: int) -> np.ndarray:
    """(H, W, 4) uint8, often right; the unused class is never the likeliest where somebody annotated."""
    random = np.random.default_rng(k)
    scores = random.random((SIZE, SIZE, 4)) + 0.6 * np.eye(4)[truth_of(k)]
    scores[..., 0] *= 0.3
    return np.rint(255 * scores / scores.sum(-1, keepdims=True)).astype(np.uint8)


def mask_of(k: int) -> np.ndarray:
    """The likeliest class; on slide 2 some pixels got none, and some of the unused one."""
    mask = probabilities_of(k).argmax(-1).astype(np.uint8)
    if k == 2:
        mask[:10, :30], mask[20:22, :30] = 255, 0
    return mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Cohort and segmentation; nothing in it is changed by a test."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for k, stain in enumerate(STAINS):
        write_pyramid(folder / f"s{k}.tif", np.full((SIZE, SIZE, 3), 200, np.uint8), mpp=0.5, compression="deflate")
        tifffile.imwrite(folder / f"s{k}_label.tif", truth_of(k))
        rows.append({"slide": f"s{k}.tif", "annotation": f"s{k}_label.tif", "split": "test", "stain": stain})
        place = folder / "net" / f"s{k}"
        write_pyramid(place / "mask.tiff", mask_of(k), mpp=0.5, kind="label")
        for index, name in enumerate(NAMES):
            plane = np.ascontiguousarray(probabilities_of(k)[..., index])
            write_pyramid(place / f"probability_{name}.tiff", plane, mpp=0.5, kind="heatmap")
        write_json(place / "summary.json", {"mask": {"classes": {str(i): name for i, name in enumerate(NAMES)}}})
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def scores(folder):
    out = folder / "scores"
    evaluate_cohort(Cohort.read(folder / "cohort.csv"), {"net": folder / "net"}, out, ["stain"], TABLE)
    return out


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures are made but not written: that takes most of the time."""
    monkeypatch.setattr("tfseg.metrics.plots.save_figure", lambda figure, path: None)


def pixels(slides=range(4)):
    """Truth, prediction (255 for none) and probabilities of all annotated pixels."""
    known = [truth_of(k) > 0 for k in slides]
    pairs = list(zip(slides, known, strict=True))
    parts = [[f(k)[where] for k, where in pairs] for f in (truth_of, mask_of, probabilities_of)]
    return [np.concatenate(part) for part in parts]


def test_what_is_written(scores):
    assert {p.name for p in scores.iterdir()} == {
        "scores.csv", "classes.csv", "summary.csv", "summary.md", "boxes.png", "boxes_stain.png", "net",
    }  # fmt: skip
    assert {p.name for p in (scores / "net").iterdir()} == {
        "confusion.csv", "confusion.png", "boxes.png", "boxes_stain.png", "curves.csv", "curves.png",
    }  # fmt: skip
    text = (scores / "summary.md").read_text(encoding="utf-8")
    assert "| net | unused | – | – | – | – | – | – | – | – | 0 |" in text
    assert "## By stain, means over classes, by slide" in text


def test_scores_of_classes_over_all_pixels_are_scikit_learns(scores):
    t, p, q = pixels()
    table = pd.read_csv(scores / "classes.csv").set_index("class")
    assert table.index.tolist() == [*NAMES, "mean"]
    for column, function in (("iou", jaccard_score), ("recall", recall_score), ("precision", precision_score)):
        expected = function(t, p, labels=[1, 2, 3], average=None)
        assert table[column][["tumour", "stroma", "fat"]].tolist() == pytest.approx(expected.tolist())
        assert table[column]["mean"] == pytest.approx(expected.mean()) and math.isnan(table[column]["unused"])
    assert table["pixels"].tolist() == [0, *((t == c).sum() for c in (1, 2, 3)), len(t)]
    for index, name in enumerate(NAMES[1:], 1):
        assert table["auc"][name] == pytest.approx(roc_auc_score(t == index, q[:, index]))
        assert table["average_precision"][name] == pytest.approx(average_precision_score(t == index, q[:, index]))
        called = [(t == index, q[:, index] >= k) for k in range(256)]
        assert table["best_iou"][name] == pytest.approx(max((a & b).sum() / (a | b).sum() for a, b in called))
    assert math.isnan(table["auc"]["unused"])


def test_confusion_is_normalised_by_row_over_annotated_pixels(scores):
    t, p, _ = pixels()
    table = pd.read_csv(scores / "net" / "confusion.csv").set_index("truth")
    assert table.columns.tolist() == [*NAMES, "no class", "pixels"]
    assert table.loc["unused", NAMES].isna().all() and table.loc["unused", "pixels"] == 0
    for i, name in enumerate(NAMES[1:], 1):
        row = [np.mean(p[t == i] == j) for j in (0, 1, 2, 3, 255)]
        assert table.loc[name].tolist() == pytest.approx([*row, (t == i).sum()])
    assert table.loc["tumour", "no class"] > 0 and table.loc["tumour", "unused"] > 0


def test_scores_of_slides_and_what_a_slide_does_not_have(scores):
    table = pd.read_csv(scores / "scores.csv")
    assert table["slide_name"].tolist() == [f"s{k}" for k in range(4)] and table["stain"].tolist() == STAINS
    assert table["iou fat"].isna().tolist() == [False, False, True, True] and table["iou unused"].isna().all()
    t, p, _ = pixels([2])
    assert table["iou mean"][2] == pytest.approx(jaccard_score(t, p, labels=[1, 2], average="macro"))
    assert table["pixels tumour as no class"].tolist() == [0, 0, 300, 0]
    summary = pd.read_csv(scores / "summary.csv").set_index(["part", "stain"])
    er = table.loc[table["stain"] == "ER", "iou mean"]
    assert summary.loc[("By stain", "ER"), "iou mean mean"] == pytest.approx(er.mean())


def test_without_probabilities_there_are_no_curves_and_two_designs_are_tested(folder, tmp_path, undrawn):
    few = tmp_path / "few"
    for k in range(4):
        write_pyramid(few / f"s{k}" / "mask.tiff", mask_of(k), mpp=0.5, kind="label")
    cohort = Cohort.read(folder / "cohort.csv")
    evaluate_cohort(cohort, {"net": folder / "net", "few": few}, tmp_path / "out", (), TABLE, baselines=())
    out = tmp_path / "out"
    assert [path.parent.name for path in out.glob("*/curves.csv")] == ["net"]
    pooled = pd.read_csv(out / "classes.csv")
    assert pooled.groupby("design")["auc"].count().to_dict() == {"few": 0, "net": 4}
    assert pd.read_csv(out / "tukey.csv")["difference"].tolist() == pytest.approx([0], abs=1e-12)
    assert "Tukey's range test on mean IoU" in (out / "summary.md").read_text(encoding="utf-8")


def test_other_classes_than_the_segmentations_are_refused(folder, tmp_path):
    other = ClassTable.plain([*CLASSES[:3], ClassSpec("necrosis", (0, 0, 0))])
    with pytest.raises(CohortError, match=r"classes unused, tumour, stroma, fat; .*read as .*necrosis.*--index"):
        evaluate_cohort(Cohort.read(folder / "cohort.csv"), {"net": folder / "net"}, tmp_path / "out", (), other)
    assert not (tmp_path / "out").exists()


def test_nothing_annotated_on_any_slide(folder, tmp_path, undrawn):
    """One such slide among others has no score; a cohort of them is an error."""
    for k in range(2):
        tifffile.imwrite(tmp_path / f"blank{k}.tif", np.zeros((SIZE, SIZE), np.uint8))
    cohort = Cohort.read(folder / "cohort.csv")
    blank = [str(tmp_path / f"blank{k}.tif") for k in range(2)]
    none = Cohort(cohort.path, cohort.table.head(2).assign(annotation=blank))
    with pytest.raises(CohortError, match=r"2 slides \(s0, s1\) hold no pixel of .*tumour.*blank0\.tif.*--map"):
        evaluate_cohort(none, {"net": folder / "net"}, tmp_path / "out", (), TABLE)
    assert not (tmp_path / "out").exists()
    one = Cohort(cohort.path, cohort.table.head(2).assign(annotation=[cohort.table["annotation"][0], blank[1]]))
    found = evaluate_cohort(one, {"net": folder / "net"}, tmp_path / "out", (), TABLE)
    assert found["iou mean"].isna().tolist() == [False, True]


def test_masks_whose_classes_no_summary_names_are_warned_of(folder, tmp_path, caplog, undrawn):
    cohort = Cohort.read(folder / "cohort.csv")
    evaluate_cohort(cohort, {"net": folder / "net"}, tmp_path / "out", (), TABLE)
    assert caplog.messages == []
    few = tmp_path / "few"
    for k in range(4):
        write_pyramid(few / f"s{k}" / "mask.tiff", mask_of(k), mpp=0.5, kind="label")
    write_json(few / "s1" / "summary.json", {"mask": {"classes": dict(enumerate(NAMES))}})
    evaluate_cohort(cohort, {"few": few}, tmp_path / "out", (), TABLE)
    (said,) = caplog.messages
    assert str(few / "s0" / "summary.json") in said and "3 of 4" in said
    assert "0 unused, 1 tumour, 2 stroma, 3 fat" in said and "tfseg segment" in said


def test_a_mask_with_values_that_are_no_class(folder, tmp_path):
    write_pyramid(tmp_path / "net" / "s0" / "mask.tiff", np.full((SIZE, SIZE), 7, np.uint8), mpp=0.5, kind="label")
    cohort = Cohort.read(folder / "cohort.csv")
    one = Cohort(cohort.path, cohort.table.head(1))
    with pytest.raises(AnnotationError, match=r"value 7 is no class. Expected 0..3"):
        evaluate_cohort(one, {"net": tmp_path / "net"}, tmp_path / "out", (), TABLE)


def test_classes_are_those_of_the_segmentations(folder, tmp_path):
    found = segmented_classes([tmp_path / "nothing", folder / "net"])
    assert [spec.name for spec in found.classes] == NAMES and found.rest == 255
    assert segmented_classes([tmp_path]) == ClassTable.h2g()
    for table in TABLES.values():
        named = {str(i): spec.name for i, spec in enumerate(table.classes)}
        write_json(tmp_path / "s" / "summary.json", {"mask": {"classes": named}})
        assert segmented_classes([tmp_path]) == table


def test_command_line_with_the_spellings_of_the_index(folder, scores, tmp_path, capsys, undrawn):
    index = PatchIndex(
        pd.DataFrame({"split": ["train"]}), IndexConfig(), CLASSES, {}, pd.DataFrame({"split": ["train"]}), labels=TABLE
    )
    index.save(tmp_path / "index")
    command = ["evaluate", str(folder / "cohort.csv"), "--segmentations", str(folder / "net"), "--out"]
    assert main([*command, str(tmp_path / "a"), "--index", str(tmp_path / "index")]) == 0
    assert "| net | tumour |" in capsys.readouterr().out
    assert (tmp_path / "a" / "scores.csv").read_bytes() == (scores / "scores.csv").read_bytes()
    summary = (tmp_path / "a" / "summary.md").read_text(encoding="utf-8")
    assert "## By stain" in summary, "grouped by stain, scanner and source unless told otherwise"


def test_command_line_with_the_names_of_the_segmentation(folder, scores, tmp_path, undrawn):
    """By their own names alone the value 0 of the pictures would be the class "unused"; the mapping says otherwise."""
    command = ["evaluate", str(folder / "cohort.csv"), "--segmentations", str(folder / "net"), "--out"]
    assert main([*command, str(tmp_path), "--by", "split", "--map", "0=ignore"]) == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "classes.csv"), pd.read_csv(scores / "classes.csv"))
