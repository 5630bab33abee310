"""Labels by the paper's thresholds, resuming, broken slides, the files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from small_cohort import BOXES, CONFIG, MPP, write_annotation

from tfseg.data import index_labels, index_slide
from tfseg.data.cohort import Cohort, CohortRow
from tfseg.data.index import DenseIndexConfig, IndexConfig, PatchIndex, build_index
from tfseg.data.overview import DROPPED
from tfseg.slides.class_table import ClassTable
from tfseg.types import CohortError, SlideError

PATCH = int(CONFIG.patch_px * CONFIG.mpp / MPP)  # 64 level-0 pixels


def build(path: Path, out: Path, config: IndexConfig = CONFIG, **options) -> PatchIndex:
    return build_index(Cohort.read(path), config, out, **{"workers": 1, "progress": False, **options})


@pytest.mark.parametrize(
    ("foreground", "ignored", "expected"),
    [(0, 0, 0), (1, 0, DROPPED), (25, 0, DROPPED), (26, 0, 1), (100, 0, 1), (0, 1, DROPPED), (26, 40, 1)],
)
def test_patch_label(foreground, ignored, expected):
    labels = np.zeros(100, np.uint8)
    labels[:foreground] = 1
    labels[100 - ignored :] = 255
    label, fraction = index_labels.patch_label(labels.reshape(10, 10), 100, 0.25)
    assert label == expected and fraction == pytest.approx(foreground / 100)


def test_patch_label_beyond_the_edge_and_with_more_classes():
    labels = np.full((10, 10), 255, np.uint8)
    labels[:, :6] = 0
    assert index_labels.patch_label(labels, 60, 0.25) == (0, 0.0)
    labels[:, :2], labels[:, 2:5] = 1, 3
    assert index_labels.patch_label(labels, 60, 0.25) == (3, 0.5)


def test_patches_and_labels_of_a_known_slide(small_index):
    table = small_index.table[small_index.table["slide_name"] == "s0"]
    # Tissue 64 … 575 holds 8 × 8 cells of 64 px wholly; the tumour box 128 … 319 is 3 × 3 cells exactly.
    assert len(table) == 64 and (table["tissue"] > 0.95).all()
    tumour = table[table["class"] == "tumour"]
    assert sorted(zip(tumour["x"], tumour["y"], strict=True)) == [
        (x, y) for x in (160.0, 224.0, 288.0) for y in (160.0, 224.0, 288.0)
    ]
    assert (tumour["foreground"] == 1).all() and (tumour["class_index"] == 1).all()
    assert (table.loc[table["class"] == "non-tumour", "foreground"] == 0).all()
    assert set(small_index.table["slide_mpp"]) == {MPP}
    assert small_index.slides["s0"]["mpp_source"] == "given (manifest column mpp)"
    assert list(table.columns[-2:]) == ["split", "grade"] or {"split", "grade"} <= set(table.columns)


def test_partly_tumour_patches_are_dropped_and_counted(tmp_path, make_small_cohort):
    # The box covers 1/8 of the column of patches at x = 128 … 191 and half of that at x = 320 … 383.
    path = make_small_cohort(tmp_path, [("train", "1", [(184, 128, 352, 192)])])
    index = build(path, tmp_path / "out")
    row = index.summary.iloc[0]
    assert (row["tumour"], row["dropped"], row["non-tumour"]) == (3, 1, 60)
    assert row["no_tissue"] == 100 - 64


def test_patch_past_the_edge_counts_what_is_outside_as_no_tissue(tmp_path):
    image = np.full((200, 200, 3), (200, 100, 160), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    write_annotation(tmp_path / "a.geojson", [(0, 0, 64, 64)])
    (tmp_path / "c.csv").write_text("slide,annotation,split,mpp\na.png,a.geojson,train,0.5\n")
    config = dataclasses.replace(CONFIG, tissue={"mpp": 1.0, "closing": ()})
    # 200 px are 3 whole cells and one of 8 px, whose centre (224) is outside.
    assert len(build(tmp_path / "c.csv", tmp_path / "a", config).table) == 9
    overlapping = dataclasses.replace(config, stride_px=16)
    table = build(tmp_path / "c.csv", tmp_path / "b", overlapping).table
    assert table["x"].max() < 200 and table["tissue"].min() < 1


def test_unannotated_slides_are_kept_apart(tmp_path, make_small_cohort):
    path = make_small_cohort(tmp_path, [("train", "1", BOXES), ("train", "1", None)])
    index = build(path, tmp_path / "out")
    rest = index.table[index.table["slide_name"] == "s1"]
    assert (
        set(rest["class"]) == {"unannotated"} and set(rest["class_index"]) == {255} and rest["foreground"].isna().all()
    )
    assert set(index.annotated().table["slide_name"]) == {"s0"}
    assert index.summary.set_index("slide_name").loc["s1", "unannotated"] == 64


def test_manifest_columns_named_as_the_indexs_are_refused(tmp_path, make_small_cohort):
    path = make_small_cohort(tmp_path, [("train", "1", BOXES)])
    path.write_text(path.read_text().replace("grade", "foreground"))
    with pytest.raises(CohortError, match=r"cohort\.csv: column 'foreground': the index has.*Rename yours"):
        build(path, tmp_path / "out")


def test_save_and_load_round_trip(small_index, tmp_path):
    small_index.save(tmp_path / "copy")
    again = PatchIndex.load(tmp_path / "copy")
    pd.testing.assert_frame_equal(again.table, small_index.table)
    assert again.config == small_index.config and again.classes == small_index.classes
    assert again.slides == small_index.slides and again.versions["tfseg"]
    assert again.summary["tumour"].tolist() == small_index.summary["tumour"].tolist()
    assert set(again.split("val").table["slide_name"]) == {"s2"}
    with pytest.raises(CohortError, match=r"split 'test'.*train, val"):
        again.split("test")


def test_load_names_what_is_missing_or_damaged(small_index, tmp_path):
    with pytest.raises(CohortError, match=r"index\.json is missing"):
        PatchIndex.load(tmp_path / "nowhere")
    small_index.save(tmp_path)
    content = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**content, "patches": 5}))
    with pytest.raises(CohortError, match="says 5"):
        PatchIndex.load(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(CohortError, match="cannot be read"):
        PatchIndex.load(tmp_path)


def test_finished_slides_are_not_done_again(tmp_path, make_small_cohort, monkeypatch):
    path = make_small_cohort(tmp_path, [("train", "1", BOXES), ("train", "2", BOXES)])
    first = build(path, tmp_path / "out")
    done: list[str] = []
    original = index_slide.draw_overview
    monkeypatch.setattr(index_slide, "draw_overview", lambda slide, *a: done.append(slide.name) or original(slide, *a))
    pd.testing.assert_frame_equal(build(path, tmp_path / "out").table, first.table)
    assert done == []
    # A changed grade needs no new reading, a changed annotation does, for its slide alone.
    path.write_text(path.read_text().replace("train,2", "train,3"))
    assert set(build(path, tmp_path / "out").table["grade"]) == {"1", "3"} and done == []
    write_annotation(tmp_path / "s1.geojson", [(128, 128, 192, 192)])
    changed = build(path, tmp_path / "out")
    assert done == ["s1"] and changed.summary["tumour"].tolist() == [9, 1]
    (tmp_path / "out" / "parts" / "s0.parquet").write_bytes(b"half a file")
    build(path, tmp_path / "out", dataclasses.replace(CONFIG))
    assert done == ["s1", "s0"]
    build(path, tmp_path / "out", dataclasses.replace(CONFIG, min_tissue=0.5))
    assert sorted(done[2:]) == ["s0", "s1"]


def test_parts_of_patches_keep_the_key_of_the_first_release(tmp_path):
    row = CohortRow("s", tmp_path / "s.png", None, "train", {})
    key = index_slide.part_key(row, IndexConfig(), ClassTable.h2g())
    content = [1, asdict(IndexConfig()), asdict(ClassTable.h2g()), [[str(row.slide), None, None]], None]
    assert key == hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    assert key != index_slide.part_key(row, DenseIndexConfig(), ClassTable.h2g())


def test_parallel_gives_the_same_index(tmp_path, make_small_cohort):
    path = make_small_cohort(tmp_path, [("train", "1", BOXES), ("train", "2", BOXES), ("val", "3", BOXES)])
    pd.testing.assert_frame_equal(
        build(path, tmp_path / "two", workers=2).table, build(path, tmp_path / "one", workers=1).table
    )


def test_broken_slides_are_named_or_left_out(tmp_path, make_small_cohort):
    path = make_small_cohort(tmp_path, [("train", "1", BOXES), ("train", "2", BOXES), ("val", "3", BOXES)])
    (tmp_path / "s1.png").write_bytes(b"this is no picture")
    write_annotation(tmp_path / "s2.geojson", BOXES, "Marsupial")
    with pytest.raises(SlideError, match=r"(?s)2 of 3 slides.*s1: .*s1\.png.*s2: .*Marsupial.*--skip-broken"):
        build(path, tmp_path / "out")
    assert not (tmp_path / "out" / "index.json").exists() and not list((tmp_path / "out").rglob(".partial*"))
    index = build(path, tmp_path / "out", skip_broken=True)
    assert set(index.broken) == {"s1", "s2"} and set(index.table["slide_name"]) == {"s0"}
    assert "s1.png" in index.summary.set_index("slide_name").loc["s1", "error"]
    assert PatchIndex.load(tmp_path / "out").broken == index.broken


def test_no_slide_left_is_an_error_even_when_skipping(tmp_path, make_small_cohort):
    path = make_small_cohort(tmp_path, [("train", "1", BOXES)])
    (tmp_path / "s0.png").write_bytes(b"this is no picture")
    with pytest.raises(SlideError, match="1 of 1 slides"):
        build(path, tmp_path / "out", skip_broken=True)


def test_slide_without_tissue(tmp_path, make_small_cohort):
    path = make_small_cohort(tmp_path, [("train", "1", BOXES)])
    cv2.imwrite(str(tmp_path / "s0.png"), np.full((640, 640, 3), 250, np.uint8))
    with pytest.raises(SlideError, match=r"s0: .*s0\.png: no tissue: none of 10 × 10 patches"):
        build(path, tmp_path / "out")


def test_slide_smaller_than_a_patch(tmp_path, make_small_cohort):
    path = make_small_cohort(tmp_path, [("train", "1", BOXES)])
    with pytest.raises(SlideError, match=r"s0\.png: 320 × 320 px at 1 µm/px, smaller than a patch of 512 × 512"):
        build(path, tmp_path / "out", dataclasses.replace(CONFIG, patch_px=512))


def test_class_without_patch_in_train(tmp_path, make_small_cohort):
    path = make_small_cohort(tmp_path, [("train", "1", [(0, 0, 8, 8)]), ("val", "1", BOXES)])
    with pytest.raises(CohortError, match=r"no patch of class 'tumour' in split 'train'"):
        build(path, tmp_path / "out")


def test_unwritable_target_is_not_the_slides_fault(tmp_path, make_small_cohort):
    path = make_small_cohort(tmp_path, [("train", "1", BOXES)])
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(Exception, match="out") as caught:
        build(path, tmp_path / "out", skip_broken=True)
    assert type(caught.value).__name__ == "OutputError"


@pytest.mark.parametrize("bad", [{"patch_px": 0}, {"mpp": -1.0}, {"min_tissue": 1.0}, {"min_foreground": 25}])
def test_senseless_settings(bad):
    with pytest.raises(CohortError, match=next(iter(bad))):
        IndexConfig(**bad)


def test_overview_shows_patches_in_their_colours(small_index, tmp_path, make_small_cohort):
    path = make_small_cohort(tmp_path, [("train", "1", BOXES)])
    build(path, tmp_path / "out")
    image = cv2.imread(str(tmp_path / "out" / "overview" / "s0.png"))[..., ::-1]
    assert image.shape[1] == 640 and image.shape[0] > 640
    assert image[224, 193].tolist() == [200, 0, 0]  # left side of the patch at x = 192 … 255 in the tumour
    assert image[480, 449].tolist() == [160, 160, 160]
    assert (image[30:90, 300] == (0, 130, 0)).all(axis=1).any()  # upper edge of the tissue


def test_interrupt_leaves_finished_parts_only(tmp_path, make_small_cohort):
    path = make_small_cohort(tmp_path, [("train", "1", BOXES)] * 40)
    code = textwrap.dedent(
        f"""
        from small_cohort import CONFIG
        from tfseg.data.cohort import Cohort
        from tfseg.data.index import build_index
        if __name__ == "__main__":
            build_index(Cohort.read({str(path)!r}), CONFIG, {str(tmp_path / "out")!r}, workers=2, progress=False)
        """
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    paths = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
    process = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE
    )
    parts = tmp_path / "out" / "parts"
    deadline = time.monotonic() + 60
    while not list(parts.glob("s*.parquet")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0, errors.decode()
    files = [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()]
    finished = [name for name in files if name.endswith(".parquet")]
    assert 0 < len(finished) < 40 and "index.json" not in files and not any(".partial" in name for name in files)
    assert all(len(pd.read_parquet(parts / name)) == 64 for name in finished)
    assert len(build(path, tmp_path / "out").slides) == 40
