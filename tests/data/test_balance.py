"""Elastic copies: how many, of which class, how they are deformed, and what the table before and after says."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest
from dense_cohort import BOXES, CONFIG, PIXELS, write_cohort

from tfseg.data.balance import (
    TISSUE_ORDER,
    TISSUE_RATES,
    balance_table,
    expand,
    read_rates,
    version_seed,
    write_balance,
)
from tfseg.data.class_counts import class_counts
from tfseg.data.cohort import Cohort
from tfseg.data.elastic import Displacement, ElasticGrid, bicubic_weights
from tfseg.data.index import PatchIndex, build_index
from tfseg.slides.known_tables import TISSUE_TYPES
from tfseg.types import CohortError


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> PatchIndex:
    folder = tmp_path_factory.mktemp("balance")
    cohort = Cohort.read(write_cohort(folder, [("train", BOXES), ("val", BOXES[:2])]))
    return build_index(cohort, CONFIG, folder / "index", classes=TISSUE_TYPES, workers=1, progress=False)


def test_copies_by_rate_and_order(index):
    """The paper's rates: 1 + 2 of each carcinoma window (one of them mostly adipose), 1 + 10 of benign, 1 + 3 of two
    necrotic ones."""
    table = expand(index, TISSUE_RATES, TISSUE_ORDER).split("train").table
    assert len(table) == 2 * 3 + 11 + 2 * 4
    assert table["class"].value_counts().to_dict() == {"benign epithelial": 11, "necrotic": 8, "carcinoma": 6}
    for (_, _), copies in table.groupby(["x", "y"]):
        assert copies["elastic_copy"].tolist() == list(range(len(copies)))
    mixed = table[table["pixels adipose"] > 0]
    assert mixed["class_index"].tolist() == [1, 1, 1] and mixed["pixels carcinoma"].tolist() == [100] * 3


def test_without_order_the_majority_decides(index):
    table = expand(index, TISSUE_RATES).split("train").table
    assert (table["pixels adipose"] > 0).sum() == 1  # adipose has no copies
    assert len(table) == 3 + 11 + 1 + 8


def test_no_copies_leave_the_windows_as_they_are(index):
    table = expand(index, {}).table
    assert (table["elastic_copy"] == 0).all()
    pd.testing.assert_frame_equal(table.drop(columns="elastic_copy"), index.table)


def test_counts_after_balancing_count_the_copies(index):
    after = class_counts(expand(index, TISSUE_RATES, TISSUE_ORDER).split("train").table, index.classes)["pixels"]
    assert after["benign epithelial"] == 11 * 64 and after["necrotic"] == 4 * PIXELS["necrotic"]
    assert after["carcinoma"] == 3 * PIXELS["carcinoma"] and after["adipose"] == 3 * PIXELS["adipose"]


def test_table_before_and_after(index, tmp_path):
    table = write_balance(index, expand(index, TISSUE_RATES, TISSUE_ORDER), tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "class_balance.csv"), table)
    rows = table.set_index(["split", "class"])
    assert rows.loc[("train", "all")].tolist() == [1, 5, 25, sum(PIXELS.values()), 704 + 32768 + 12588 + 11988]
    assert rows.loc[("val", "all")].tolist()[:3] == [1, 2, 3 + 11]
    assert rows.loc[("train", "carcinoma")].tolist() == [1, 2, 6, 4196, 12588]
    assert rows.loc[("train", "adipose")].tolist() == [0, 0, 0, 3996, 11988]  # its only window is carcinoma's
    assert rows["windows before"].groupby("split").agg(lambda c: c.iloc[:-1].sum() == c.iloc[-1]).all()
    assert cv2.imread(str(tmp_path / "class_balance.png")).shape[0] > 300
    unbalanced = balance_table(index, expand(index, {}, TISSUE_ORDER))
    assert unbalanced["windows after"].tolist() == table["windows before"].tolist()


@pytest.mark.parametrize(
    ("rates", "order", "message"),
    [
        ({"carcinoma": -1}, (), "whole numbers"),
        ({"carcinoma": 1.5}, (), "whole numbers"),
        ({"tumor": 1}, (), "no class 'tumor'"),
        ({}, ("carcinoma", "carcinoma"), "twice"),
    ],
)
def test_senseless_rates(index, rates, order, message):
    with pytest.raises(CohortError, match=message):
        expand(index, rates, order)


def test_rates_from_words():
    assert read_rates(("benign epithelial=3", "carcinoma=0"), TISSUE_TYPES) == (
        {"benign epithelial": 3, "carcinoma": 0},
        ("benign epithelial", "carcinoma"),
    )
    with pytest.raises(CohortError, match=r"'carcinoma=1': class 'carcinoma' stands twice"):
        read_rates(("carcinoma=2", "carcinoma=1"), TISSUE_TYPES)
    assert read_rates(("dmmn",), TISSUE_TYPES) == (TISSUE_RATES, TISSUE_ORDER)


def test_copies_are_the_same_in_every_run():
    assert version_seed("slide", 160.0, 224.0, 1) == version_seed("slide", 160, np.float64(224), np.int64(1))
    assert version_seed("slide", 160.0, 224.0, 1) == 7320804806600347608
    others = {version_seed("slide", 160.0, y, k) for y in (224.0, 224.5) for k in range(3)}
    assert len(others) == 6


def test_bicubic_weights_by_hand():
    """Half-way between inner points: −1/16, 9/16, 9/16, −1/16; at a point: the point; points repeated at the ends."""
    weights = bicubic_weights(5, 8)
    assert weights.shape == (9, 5)
    np.testing.assert_allclose(weights[3], [-1 / 16, 9 / 16, 9 / 16, -1 / 16, 0], atol=1e-7)
    np.testing.assert_allclose(weights[4], [0, 0, 1, 0, 0], atol=1e-7)
    np.testing.assert_allclose(weights[1], [9 / 16 - 1 / 16, 9 / 16, -1 / 16, 0, 0], atol=1e-7)
    np.testing.assert_allclose(weights[8], [0, 0, 0, 0, 1], atol=1e-7)
    np.testing.assert_allclose(bicubic_weights(17, 256).sum(axis=1), 1, atol=1e-6)


def test_displacement_meets_the_grid_points_and_is_bicubic_between():
    grid = np.random.default_rng(1).normal(0, 2, (17, 17, 2)).astype(np.float32)
    move = Displacement(grid, 512.0, 256)
    places = np.linspace(-256, 256, 17, dtype=np.float32)
    x, y = np.meshgrid(places, places)
    moved_x, moved_y = move(x, y)
    np.testing.assert_allclose(np.stack([moved_x - x, moved_y - y], axis=-1), grid, atol=1e-3)
    middles = places[1:-2] + np.float32(16)  # half-way between grid points along x
    inner = np.array([-1, 9, 9, -1]) / 16
    expected = [inner @ grid[5, k : k + 4, 0] for k in range(len(middles))]
    found = move(middles[None], np.full((1, len(middles)), places[5], np.float32))[0][0] - middles
    np.testing.assert_allclose(found, expected, atol=1e-3)
    beyond = move(np.float32([[400.0]]), np.float32([[0.0]]))
    assert beyond[0][0, 0] - 400 == pytest.approx(grid[8, 16, 0], abs=1e-3)


def test_displacements_have_the_papers_sigma():
    """σ = 4 px at 0.5 µm/px is 2 µm, at 17 × 17 points 64 px apart."""
    grid = ElasticGrid()
    assert (grid.points, grid.sigma_px, grid.window_px, grid.mpp) == (17, 4.0, 1024, 0.5)
    x, y = np.meshgrid(*[np.linspace(-256, 256, 17, dtype=np.float32)] * 2)
    drawn = [np.stack(grid.draw(np.random.default_rng(seed))(x, y)) - (x, y) for seed in range(20)]
    assert np.std(drawn) == pytest.approx(2.0, rel=0.03) and abs(np.mean(drawn)) < 0.05
