"""``tfseg index --nuclei``: what it prints and writes, and which options it refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from nuclei_files import LABELS, image, pair, write


def test_index_of_nuclei(tmp_path, tfseg):
    pair(tmp_path, "Colon_a")
    pair(tmp_path, "Kidney_b", LABELS.astype(np.uint16) * 5)
    out = tmp_path / "out"
    found = tfseg("index", "--nuclei", tmp_path, "--out", out)
    assert found.code == 0, found.err
    assert "Colon" in found.out and "Kidney" in found.out and f"index: {out}" in found.out
    assert "1 of 2 images have warnings" in found.err and "Kidney_b: ids are not contiguous" in found.err
    assert pd.read_parquet(out / "nuclei.parquet")["organ"].tolist() == ["Colon", "Kidney"]
    assert sorted(path.name for path in (out / "overview").iterdir()) == ["Colon_a.png", "Kidney_b.png"]


def test_broken_images_are_named_or_left_out(tmp_path, tfseg, fails):
    pair(tmp_path, "a")
    write(tmp_path / "images" / "b.png", image())
    command = ("index", "--nuclei", tmp_path, "--out", tmp_path / "out")
    fails(command, "1 of 2 images", "b: ", "labels/b.png: no such label", "--skip-broken")
    found = tfseg(*command, "--skip-broken")
    assert found.code == 0 and "left out b: " in found.err


def test_options_of_nuclei_are_used(tmp_path, tfseg):
    pair(tmp_path, "1-colon", np.zeros((4, 4), np.uint8))
    options = ("--organ-pattern", ".-(.*)", "--allow-empty", "--workers", 1)
    found = tfseg("index", "--nuclei", tmp_path, "--out", tmp_path / "out", *options)
    assert found.code == 0, found.err
    assert pd.read_parquet(tmp_path / "out" / "nuclei.parquet")["organ"].tolist() == ["colon"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--nuclei", "x", "--kind", "dense"), ("--nuclei has no --kind",)),
        (("--nuclei=x", "--patch-px", "64"), ("--nuclei has no --patch-px",)),
        (("cohort.csv", "--allow-empty"), ("--allow-empty", "add --nuclei")),
        (("cohort.csv", "--organ_pattern", "x"), ("--organ-pattern", "add --nuclei")),
        (("cohort.csv", "--nuclei", "x"), ("either", "cohort", "--nuclei")),
        ((), ("either", "cohort", "--nuclei")),
        (("--nuclei", "nowhere"), ("nowhere", "no such folder, manifest or COCO file")),
    ],
    ids=["kind", "patches", "cohort", "underscore", "both", "neither", "nowhere"],
)
def test_wrong_use_is_explained(tmp_path, fails, arguments, words):
    fails(("index", *arguments, "--out", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()
