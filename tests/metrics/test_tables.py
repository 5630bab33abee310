"""Tables over slides and Tukey's range test."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import tukey_hsd

from tfseg.metrics.tables import confusion_table, markdown, plain_markdown, summarise, tukey, tukey_lines
from tfseg.types import CohortError

TABLE = pd.DataFrame(
    {
        "slide": list("abcdef"),
        "grade": ["1", "1", "2", "2", "3", "3"],
        "recall": [0.5, 0.7, 0.9, 0.9, 1.0, np.nan],
        "dice": [0.4, 0.6, 0.8, 0.9, np.nan, np.nan],
    }
)


def test_mean_and_sd_by_hand():
    (row,) = summarise(TABLE, ["recall", "dice"]).to_dict("records")
    assert row["slides"] == 6 and row["recall n"] == 5 and row["dice n"] == 4
    assert row["recall mean"] == pytest.approx(0.8)
    assert row["dice sd"] == pytest.approx(np.std([0.4, 0.6, 0.8, 0.9], ddof=1))


def test_by_column_and_as_markdown():
    summary = summarise(TABLE, ["recall", "dice"], by="grade")
    assert summary["grade"].tolist() == ["1", "2", "3"]
    assert markdown(summary, digits=2).splitlines() == [
        "| grade | slides | recall | dice |",
        "| --- | --- | ---: | ---: |",
        "| 1 | 2 | 0.60 ± 0.14 | 0.50 ± 0.14 |",
        "| 2 | 2 | 0.90 ± 0.00 | 0.85 ± 0.07 |",
        "| 3 | 2 | 1.00 (n = 1) | – (n = 0) |",
    ]
    two = summarise(TABLE.assign(stain="H|E"), ["dice"], by=["stain", "grade"])
    assert two[["stain", "grade"]].to_numpy().tolist() == [["H|E", g] for g in "123"]
    assert "H\\|E" in markdown(two)


def test_other_units_than_slides():
    summary = summarise(TABLE, ["dice"], by="grade", unit="images")
    assert summary.columns.tolist()[:2] == ["grade", "images"]
    assert markdown(summary, 2, unit="images").splitlines()[-1] == "| 3 | 2 | – (n = 0) |"


def test_table_as_it_is():
    table = pd.DataFrame({"name": ["a|b", "c"], "n": [3, 12], "dice": [0.12345, np.nan], "good": [True, False]})
    assert plain_markdown(table, digits=2).splitlines() == [
        "| name | n | dice | good |",
        "| --- | ---: | ---: | --- |",
        "| a\\|b | 3 | 0.12 | True |",
        "| c | 12 | – | False |",
    ]


def test_group_without_a_value_is_not_lost():
    table = TABLE.assign(grade=[None, None, "2", "2", "3", "3"])
    assert summarise(table, ["dice"], by="grade")["slides"].sum() == 6


def test_missing_column():
    with pytest.raises(CohortError, match=r"no column 'stain'.*slide, grade, recall, dice"):
        summarise(TABLE, ["dice"], by="stain")


def designs(**values):
    return pd.DataFrame([{"design": name, "dice": v} for name, scores in values.items() for v in scores])


def test_tukey_against_scipy():
    rng = np.random.default_rng(0)
    groups = {"a": rng.normal(0.6, 0.05, 12), "b": rng.normal(0.62, 0.05, 9), "c": rng.normal(0.9, 0.05, 12)}
    table = designs(**groups)
    table.loc[len(table)] = {"design": "a", "dice": np.nan}
    result = tukey(table)
    reference = tukey_hsd(*groups.values())
    interval = reference.confidence_interval(0.95)
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert result[["first", "second"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert result["p"].tolist() == pytest.approx([reference.pvalue[p] for p in pairs], abs=1e-3)
    assert result["difference"].tolist() == pytest.approx([-reference.statistic[p] for p in pairs])
    assert result["lower"].tolist() == pytest.approx([-interval.high[p] for p in pairs], abs=1e-3)
    assert result["differs"].tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (designs(a=[0.1, 0.2]), r"at least 2 values of 'design'; the table has 1 \(a\)"),
        (designs(a=[0.1, 0.2], b=[0.3]), r"at least 2 slides.*fewer for: b"),
        (designs(a=[0.1, 0.2], b=[0.3, np.nan], c=[np.nan, np.nan]), "fewer for: b, c"),
        (designs(a=[0.1]).rename(columns={"dice": "iou"}), "no column 'dice'"),
    ],
)
def test_tukey_without_enough(table, says):
    with pytest.raises(CohortError, match=says):
        tukey(table)


def test_confusion_normalised_by_row():
    table = confusion_table([[3, 1, 0], [0, 0, 0]], ["a", "b"], ["a", "b", "none"])
    assert table.columns.tolist() == ["truth", "a", "b", "none", "pixels"]
    assert table.iloc[0].tolist() == ["a", 0.75, 0.25, 0.0, 4]
    assert table.iloc[1, 1:4].isna().all() and table["pixels"][1] == 0


def test_tukey_lines():
    rng = np.random.default_rng(0)
    close = rng.normal(0.6, 0.01, 9)
    lines = tukey_lines(tukey(designs(a=close, b=close, c=close + 0.3))).splitlines()
    assert lines[2] == "| a | b | +0.000 | 1.000 |"
    assert lines[3] == "| a | c | +0.300 | < 0.001 |"
