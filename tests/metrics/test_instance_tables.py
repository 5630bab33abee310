"""Reports of instance scores: by image, by a column, pooled."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tfseg.metrics.instance_tables import image_table, pooled, write_report
from tfseg.types import CohortError


def row(*lengths):
    """One row of pixels from (label, length) pairs."""
    return np.concatenate([np.full(length, label) for label, length in lengths])[None]


NONE = row((0, 12))


def images():
    """AJI 1, 0.6 and 0 and one image with nothing in it; two organs."""
    yield {"image": "a", "organ": "liver"}, row((1, 4), (2, 4), (0, 4)), row((1, 4), (2, 4), (0, 4))
    yield {"image": "b", "organ": "liver"}, row((1, 10), (0, 2)), row((1, 6), (0, 6))
    yield {"image": "c", "organ": "lung"}, row((1, 10), (0, 2)), NONE
    yield {"image": "d|e", "organ": "lung"}, NONE, NONE


@pytest.fixture(scope="module")
def table():
    return image_table(images())


def test_one_row_an_image(table):
    assert table["image"].tolist() == ["a", "b", "c", "d|e"]
    assert table["aji"].tolist() == pytest.approx([1, 0.6, 0, np.nan], nan_ok=True)
    assert table["map_precision"].tolist() == pytest.approx([1, 0.3, np.nan, np.nan], nan_ok=True)


def test_pooled_by_hand(table):
    (everything,) = pooled(table).to_dict("records")
    assert (everything["images"], everything["true"], everything["predicted"]) == (4, 4, 3)
    assert (everything["tp 0.60"], everything["fp 0.60"], everything["fn 0.60"]) == (3, 0, 1)
    assert (everything["tp 0.65"], everything["fp 0.65"], everything["fn 0.65"]) == (2, 1, 2)
    assert everything["precision 0.60"] == 1 and everything["recall 0.60"] == 0.75
    assert everything["map_precision"] == pytest.approx((3 + 7 * 2 / 3) / 10)
    organs = pooled(table, ["organ"])
    assert organs["organ"].tolist() == ["liver", "lung"] and organs["tp 0.50"].tolist() == [3, 0]
    assert organs["recall 0.50"].tolist() == [1, 0] and np.isnan(organs["precision 0.50"][1])


def test_report(table, tmp_path):
    write_report(table, tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "scores.csv"), table, check_dtype=False)
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert summary["part"].tolist() == ["All images", "By organ", "By organ"]
    assert summary["aji mean"].tolist() == pytest.approx([1.6 / 3, 0.8, 0])
    assert summary["aji sd"].tolist()[:2] == pytest.approx([np.std([1, 0.6, 0], ddof=1), np.std([1, 0.6], ddof=1)])
    assert summary["aji n"].tolist() == [3, 2, 1] and summary["images"].tolist() == [4, 2, 2]
    assert pd.read_csv(tmp_path / "pooled.csv")["tp 0.60"].tolist() == [3, 3, 0]
    lines = (tmp_path / "summary.md").read_text(encoding="utf-8").splitlines()
    assert "| organ | images | aji | aji_plus | pq | map_precision | map_dsb | f1 0.50 | f1 0.70 |" in lines
    assert any(line.startswith("| 4 | 0.533 ± 0.503 (n = 3) | ") for line in lines)
    assert any(line.startswith("| liver | 2 | 0.800 ± 0.283 | ") for line in lines)
    assert any(line.startswith("| liver | 2 | 3 | 3 | 0.767 | ") for line in lines)
    assert any(line.startswith("| lung | 2 | 0.000 (n = 1) | ") for line in lines)
    assert "| d\\|e | lung | 0 | 0 | – | – | – | – | – | – | – |" in lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pooled.csv", "scores.csv", "summary.csv", "summary.md"]


def test_systems_are_never_put_together(table, tmp_path):
    both = pd.concat([table.assign(system="first"), table.assign(system="second", aji=0.0)])
    write_report(both, tmp_path, by=["organ"], within=["system"])
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert summary["system"].tolist() == ["first", "second", "first", "first", "second", "second"]
    assert summary["aji mean"].tolist() == pytest.approx([1.6 / 3, 0, 0.8, 0, 0, 0])
    assert pd.read_csv(tmp_path / "pooled.csv")["images"].tolist() == [4, 4, 2, 2, 2, 2]


def test_without_groups(table, tmp_path):
    write_report(table.drop(columns="organ"), tmp_path, by=[])
    assert len(pd.read_csv(tmp_path / "summary.csv")) == 1


def test_errors_say_which_image(table, tmp_path):
    with pytest.raises(CohortError, match=r"^x\.png, lung: prediction must hold integers"):
        image_table([({"image": "x.png", "organ": "lung"}, NONE, NONE / 2)])
    with pytest.raises(CohortError, match="no image to score"):
        image_table([])
    with pytest.raises(CohortError, match="no column 'stain'"):
        write_report(table, tmp_path / "out", by=["stain"])
    with pytest.raises(CohortError, match="no column 'organ'"):
        pooled(table.drop(columns="organ"), ["organ"])
    assert not (tmp_path / "out").exists()
