"""`tfseg index` for segmentation networks: its files, classes of one's own, options of the wrong kind."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from command_line import PATCHES, files
from dense_cohort import BOXES, WINDOWS, write_cohort

from tfseg.data.index import PatchIndex

WINDOW = ("--kind", "dense", "--dense.target-px", "64", "--dense.stride-px", "64", "--workers", "1")


@pytest.fixture
def cohort(tmp_path):
    return write_cohort(tmp_path, [("train", BOXES)])


def test_windows_classes_and_balance(tfseg, cohort, tmp_path):
    out = tmp_path / "index"
    shown = tfseg("index", cohort, "--out", out, *WINDOW, "--elastic", "dmmn")
    assert shown.code == 0, shown.err
    assert "pixels carcinoma" in shown.out and "windows after" in shown.out and "class_balance.png" in shown.out
    assert {"class_counts.json", "class_balance.csv", "class_balance.png", "index.json"} <= set(files(out))
    assert len(PatchIndex.load(out).table) == len(WINDOWS)
    # One window each of carcinoma (2 copies), benign (10), carcinoma on adipose (2) and two necrotic ones (3 each).
    balance = pd.read_csv(out / "class_balance.csv").set_index("class")
    assert balance.loc["all", ["windows before", "windows after"]].tolist() == [5, 3 + 11 + 3 + 2 * 4]


def test_classes_and_copies_of_ones_own(tfseg, cohort, tmp_path):
    table = {
        "classes": [
            {"name": "tumour", "color": [200, 0, 0], "aliases": ["carcinoma"]},
            {"name": "rest", "color": [0, 0, 200], "aliases": ["benign epithelial", "adipose", "necrotic"]},
        ],
        "ignore": ["stroma"],
    }
    (tmp_path / "classes.json").write_text(json.dumps(table))
    rule = ("--dense.class-rule", "tumour", "rest", "--classes", tmp_path / "classes.json", "--elastic", "tumour=4")
    shown = tfseg("index", cohort, "--out", tmp_path / "index", *WINDOW, *rule)
    assert shown.code == 0, shown.err
    index = PatchIndex.load(tmp_path / "index")
    assert index.table["class"].value_counts().to_dict() == {"rest": 3, "tumour": 2}
    balance = pd.read_csv(tmp_path / "index" / "class_balance.csv").set_index("class")
    assert balance.loc["tumour", ["windows before", "windows after"]].tolist() == [2, 10]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--kind", "dense", "--mpp", "0.5"), ("--dense.mpp",)),
        (("--kind", "dense", "--mpp", "1.0"), ("no --mpp", "--dense.mpp")),
        (("--kind=dense", "--min_tissue=0.25"), ("no --min-tissue",)),
        (("--kind", "dense", "--patch-px", "256", "--stride-px", "256"), ("no --patch-px, --stride-px",)),
        (("--dense.mpp", "0.5"), ("--kind dense",)),
        (("--dense.mpp", "0.25"), ("--kind dense",)),
        ((*WINDOW, "--classes", "dmnn"), ("'dmnn'", "tissue_types", "JSON")),
        ((*WINDOW, "--elastic", "carcinoma:2"), ("'carcinoma:2'", "CLASS=COPIES")),
        ((*WINDOW, "--elastic", "tumor=2"), ("no class 'tumor'", "'carcinoma'")),
        ((*PATCHES, "--classes", "h2g", "--elastic", "tumour=2"), ("--kind dense",)),
    ],
)
def test_wrong_options(fails, cohort, tmp_path, options, words):
    fails(("index", cohort, "--out", tmp_path / "out", *options), *words)
