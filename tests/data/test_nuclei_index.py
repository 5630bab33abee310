"""The check of images of nuclei: what it measures, names, writes and does not do twice."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nuclei_files import LABELS, image, pair, write
from numpy.testing import assert_array_equal
from PIL import Image

import tfseg.data.nuclei_index as nuclei_index
from tfseg.data.nuclei import NucleiOptions
from tfseg.data.nuclei_index import index_nuclei, indexed_items, measure
from tfseg.data.nuclei_overview import draw_nuclei
from tfseg.types import CohortError


def check(source: Path, out: Path, **kwargs) -> nuclei_index.NucleiIndex:
    return index_nuclei(source, out, progress=False, workers=1, **kwargs)


def test_measures_by_hand():
    labels = np.array(
        [
            [1, 1, 0, 0, 2],
            [0, 0, 3, 0, 0],
            [4, 0, 0, 0, 2],
            [4, 0, 5, 0, 0],
            [0, 4, 0, 0, 6],
        ],
        np.int32,
    )
    found = measure(labels)
    assert_array_equal(found.areas_px, [2, 2, 1, 3, 1, 1])
    assert_array_equal(found.touching, [1, 3, 4, 5])  # 1 and 3, 4 and 5 by a corner
    assert_array_equal(found.in_pieces, [2])  # 4 is connected by a corner


@pytest.mark.parametrize(("one", "other"), [((0, 0), (0, 1)), ((0, 0), (1, 0)), ((0, 0), (1, 1)), ((0, 1), (1, 0))])
def test_nuclei_touch_in_every_direction(one, other):
    labels = np.zeros((2, 2), np.int32)
    labels[one], labels[other] = 1, 2
    assert_array_equal(measure(labels).touching, [1, 2])


def test_measures_without_nuclei_and_without_background():
    empty = measure(np.zeros((3, 4), np.int32))
    assert len(empty.areas_px) == len(empty.touching) == len(empty.in_pieces) == 0
    full = measure(np.array([[1, 2, 1]], np.int32))
    assert_array_equal(full.areas_px, [2, 1])
    assert_array_equal(full.in_pieces, [1])


def manifest(folder: Path) -> Path:
    """Three images: two of colon, one of them with a nucleus in two pieces; one without known organ."""
    split = LABELS.copy()
    split[9, 14:19] = 0
    for name, labels in (("c1", LABELS), ("c2", split), ("x", np.where(LABELS == 3, 9, 0))):
        pair(folder, name, labels.astype(np.uint8))
    path = folder / "nuclei.csv"
    rows = ["images/c1.png,labels/c1.png,colon,train,s1", "images/c2.png,labels/c2.png,colon,test,s2"]
    path.write_text("\n".join(["image,label,organ,split,site", *rows, "images/x.png,labels/x.png,,train,"]) + "\n")
    return path


def test_table_summary_and_pictures(tmp_path):
    out = tmp_path / "out"
    found = check(manifest(tmp_path), out)
    table = pd.read_parquet(out / "nuclei.parquet")
    pd.testing.assert_frame_equal(table, found.table)
    assert list(table.columns) == [*nuclei_index._COLUMNS, "site"]
    first, second, third = table.to_dict("records")
    assert first == {
        **{"name": "c1", "image": str(tmp_path / "images/c1.png"), "label": str(tmp_path / "labels/c1.png")},
        **{"organ": "colon", "split": "train", "height_px": 12, "width_px": 20, "nuclei": 3, "median_area_px": 16.0},
        **{"touching": 2, "in_pieces": 0, "warnings": "", "site": "s1"},
    }
    assert second["in_pieces"] == 1 and second["warnings"] == "nuclei in several pieces: 1 (one begins at x 14, y 8)"
    assert third["organ"] == "unknown" and third["site"] == "unknown" and "renumbered" in third["warnings"]
    summary = pd.read_csv(out / "summary.csv").set_index(["organ", "split"])
    assert list(summary.index) == [("colon", "test"), ("colon", "train"), ("unknown", "train"), ("all", "all")]
    assert summary.loc[("all", "all")].tolist() == [3, 0, 7, 16.0, 4, 1, 2]
    assert summary.loc[("colon", "test"), "median_area_px"] == 16.0  # of 20, 16 and 10
    for name in ("c1", "c2", "x"):
        assert Image.open(out / "overview" / f"{name}.png").size[0] == 20
    content = json.loads((out / "nuclei.json").read_text())
    assert content["images"] == 3 and content["broken"] == {} and content["source"] == str(tmp_path / "nuclei.csv")


def test_pictures_outline_nuclei_by_what_was_found():
    labels = LABELS.copy()
    labels[8:11, 15] = 0  # nucleus 3 in two pieces
    found = measure(labels)
    pixels = image()
    drawn = draw_nuclei("a", pixels, labels, found.touching, found.in_pieces)
    assert drawn.shape[1:] == (20, 3) and drawn.shape[0] > 12
    assert drawn[1, 1].tolist() == drawn[2, 5].tolist() == drawn[2, 6].tolist() == [255, 220, 0]
    assert drawn[9, 14].tolist() == drawn[8, 17].tolist() == [230, 0, 0]
    assert_array_equal(drawn[3, 3], pixels[3, 3])  # inside a nucleus
    background = labels == 0
    assert_array_equal(drawn[:12][background], pixels[background])
    alone = draw_nuclei("a", pixels, labels, found.touching[:0], found.in_pieces[:0])
    assert alone[9, 14].tolist() == [0, 170, 0]
    large = draw_nuclei(
        "a", np.zeros((30, 4001, 3), np.uint8), np.zeros((30, 4001), np.int32), labels[0, :0], labels[0, :0]
    )
    assert large.shape[1] == 1334


def test_broken_images_are_all_named_and_can_be_left_out(tmp_path):
    source, out = manifest(tmp_path), tmp_path / "out"
    write(tmp_path / "labels" / "c1.png", LABELS[:, :-1].astype(np.uint8))
    (tmp_path / "images" / "x.png").write_bytes(b"nothing")
    with pytest.raises(CohortError) as refused:
        check(source, out)
    message = str(refused.value)
    assert "2 of 3 images cannot be used" in message and "--skip-broken" in message
    assert "c1: " in message and "19×12 px" in message and "x.png: not readable" in message
    assert not (out / "nuclei.json").exists()
    found = check(source, out, skip_broken=True)
    assert list(found.broken) == ["c1", "x"] and found.table["name"].tolist() == ["c2"]
    assert found.summary.set_index(["organ", "split"]).loc[("colon", "train")].tolist()[:3] == [0, 1, 0]
    assert [item.name for item in indexed_items(out)] == ["c2"]


def test_not_even_skip_broken_makes_an_index_of_nothing(tmp_path):
    pair(tmp_path, "a", np.zeros((4, 4), np.uint8))
    with pytest.raises(CohortError, match="1 of 1 images cannot be used"):
        check(tmp_path, tmp_path / "out", skip_broken=True)
    found = check(tmp_path, tmp_path / "out", options=NucleiOptions(allow_empty=True))
    assert found.table["nuclei"].tolist() == [0] and np.isnan(found.table["median_area_px"][0])


def test_finished_images_are_not_done_twice_and_changed_ones_are(tmp_path, monkeypatch):
    source, out = manifest(tmp_path), tmp_path / "out"
    first = check(source, out)
    loaded: list[str] = []
    real = nuclei_index.NucleiItem.load_noted
    monkeypatch.setattr(nuclei_index.NucleiItem, "load_noted", lambda item: (loaded.append(item.name), real(item))[1])
    pd.testing.assert_frame_equal(check(source, out).table, first.table)
    assert loaded == []
    write(tmp_path / "labels" / "c1.png", (LABELS == 1).astype(np.uint8))
    (out / "overview" / "c2.png").unlink()
    (out / "parts" / "x.json").write_text("half a fi")
    again = check(source, out)
    assert sorted(loaded) == ["c1", "c2", "x"]
    assert again.table["nuclei"].tolist() == [1, 3, 1]
    loaded.clear()
    os.utime(tmp_path / "images" / "c2.png", (1, 1))  # as another file of the same size
    check(source, out)
    assert loaded == ["c2"]


def test_what_was_finished_before_a_stop_is_kept(tmp_path, monkeypatch):
    source, out = manifest(tmp_path), tmp_path / "out"
    real = nuclei_index.draw_nuclei

    def stops(name, *arguments):
        if name == "x":
            raise KeyboardInterrupt
        return real(name, *arguments)

    monkeypatch.setattr(nuclei_index, "draw_nuclei", stops)
    with pytest.raises(KeyboardInterrupt):
        check(source, out)
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["c1.json", "c1.png", "c2.json", "c2.png"]
    monkeypatch.setattr(nuclei_index, "draw_nuclei", real)
    assert len(check(source, out).table) == 3


def test_items_of_an_index_know_that_their_source_changed(tmp_path):
    source, out = manifest(tmp_path), tmp_path / "out"
    with pytest.raises(CohortError, match=r"no index of nuclei \(nuclei.json is missing\)"):
        indexed_items(out)
    check(source, out)
    assert [item.split for item in indexed_items(out)] == ["train", "test", "train"]
    source.write_text("\n".join(source.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(CohortError, match="no longer holds the images"):
        indexed_items(out)
    (out / "nuclei.json").write_text("{}")
    with pytest.raises(CohortError, match="cannot be read"):
        indexed_items(out)


def test_a_column_of_the_index_in_a_manifest_is_refused(tmp_path):
    pair(tmp_path, "a")
    path = tmp_path / "nuclei.csv"
    path.write_text("image,label,nuclei\nimages/a.png,labels/a.png,3\n")
    with pytest.raises(CohortError, match="column 'nuclei': the index has columns so named"):
        check(path, tmp_path / "out")


@pytest.mark.realdata
def test_real_images(shared_data: Path, tmp_path):
    found = index_nuclei(shared_data / "nuclei" / "monuseg24", tmp_path / "monuseg", progress=False)
    by_organ = found.summary.set_index("organ")["images"].to_dict()
    assert by_organ == {"Bladder": 2, "Colon": 2, "Kidney": 6, "Liver": 6, "Prostate": 6, "Stomach": 2, "all": 24}
    assert found.summary["nuclei"].iloc[-1] == 14745
    assert (found.table["warnings"] != "").sum() == 12
    assert len(indexed_items(tmp_path / "monuseg")) == 24


def test_an_image_whose_nuclei_are_of_another_size_is_noted(tmp_path):
    areas = {"a": 100, "b": 90, "c": 110, "d": 301, "e": 33, "f": 299, "g": 34}
    for name, area in areas.items():
        labels = np.zeros((20, 20), np.uint16)
        labels.ravel()[:area] = 1
        pair(tmp_path / "all", name, labels)
        if name in "abde":
            pair(tmp_path / "few", name, labels)
    found = check(tmp_path / "all", tmp_path / "out")
    warnings = dict(zip(found.table["name"], found.table["warnings"], strict=True))
    assert warnings.pop("d") == "median nucleus 301 px, of the images 100 px: another magnification?"
    assert warnings.pop("e").startswith("median nucleus 33 px")
    assert set(warnings.values()) == {""}
    assert found.summary["with_warnings"].iloc[-1] == 2
    assert check(tmp_path / "all", tmp_path / "out").table.equals(found.table), "not said twice"
    assert (check(tmp_path / "few", tmp_path / "few_out").table["warnings"] == "").all(), "four tell nothing"
