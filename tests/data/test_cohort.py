"""Manifests, right and wrong: every message names file, line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfseg.data.cohort import Cohort
from tfseg.types import CohortError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.tiff", "b.tiff", "c.svs", "a.geojson"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.tiff").write_bytes(b"x")
    return tmp_path


def manifest(folder: Path, text: str) -> Path:
    path = folder / "cohort.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_paths_names_and_other_columns(folder, monkeypatch):
    path = manifest(
        folder,
        "slide,annotation,split,grade,scanner,mpp\n"
        "a.tiff,a.geojson,train,3,S1,0.25\n"
        "\n"
        " b.tiff , ,val,NA,,\n"
        f"{folder}/c.svs,,train,1,S2,\n",
    )
    monkeypatch.chdir(folder / "other")
    cohort = Cohort.read("../cohort.csv")
    first, second, third = cohort.rows()
    assert first.slide == path.parent / "a.tiff" and first.annotation == folder / "a.geojson" and first.mpp == 0.25
    assert first.values == {"grade": "3", "scanner": "S1"} and first.slide_name == "a"
    assert second.annotation is None and second.mpp is None and second.values == {"grade": "NA", "scanner": "unknown"}
    assert third.slide == folder / "c.svs"
    assert [row.slide_name for row in cohort.split("train").rows()] == ["a", "c"]
    assert cohort.splits == ["train", "val"]


def test_byte_order_mark_of_spreadsheets_is_ignored(folder):
    path = folder / "cohort.csv"
    path.write_text("slide,annotation,split\na.tiff,,train\n", encoding="utf-8-sig")
    assert Cohort.read(path).table["slide_name"].tolist() == ["a"]


def test_same_stem_in_two_folders_gives_two_names(folder):
    path = manifest(folder, "slide,annotation,split\na.tiff,,train\nother/a.tiff,,train\nb.tiff,,val\n")
    assert Cohort.read(path).table["slide_name"].tolist() == [f"{folder.name}_a", "other_a", "b"]


def test_same_stem_in_one_folder_gives_two_names(folder):
    (folder / "a.png").write_bytes(b"x")
    path = manifest(folder, "slide,annotation,split\na.tiff,,train\na.png,,train\n")
    assert Cohort.read(path).table["slide_name"].tolist() == [f"{folder.name}_a", f"{folder.name}_a_2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,split\na.tiff,train\n", r"cohort\.csv: missing column 'annotation'\. Found: slide, split"),
        ("file;split\na.tiff;train\n", r"missing column 'slide', 'annotation', 'split'\. Found: file;split"),
        ("", "the manifest is empty"),
        ("slide,annotation,split\n", "no slides"),
        (
            "slide,annotation,split\na.tiff,,train\n\nnone.tiff,,val\n",
            r"line 4, column 'slide': file not found: .*none",
        ),
        ("slide,annotation,split\na.tiff,no.xml,train\n", r"line 2, column 'annotation': file not found: .*no\.xml"),
        ("slide,annotation,split\na.tiff,,train\n./a.tiff,,val\n", r"line 3, column 'slide': .*already on line 2"),
        ("slide,annotation,split\na.tiff,,\n", r"line 2, column 'split': empty"),
        ("slide,annotation,split\n,,train\n", r"line 2, column 'slide': empty"),
        ("slide,annotation,split,mpp\na.tiff,,train,tiny\n", r"line 2, column 'mpp': 'tiny' is no positive number"),
        ("slide,annotation,split,mpp\na.tiff,,train,-1\n", r"column 'mpp': '-1'"),
        ("slide,annotation,split\na.tiff,,train\nb.tiff,,train,x,y,z\n", "not a CSV file"),
        ("slide,annotation,split,slide_name\na.tiff,,train,q\n", "Rename yours"),
    ],
)
def test_wrong_manifests(folder, text, message):
    with pytest.raises(CohortError, match=message):
        Cohort.read(manifest(folder, text))


def test_no_text_at_all(folder):
    path = folder / "cohort.csv"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\x00\x01")
    with pytest.raises(CohortError, match="not a CSV file"):
        Cohort.read(path)


def test_missing_manifest(folder):
    with pytest.raises(CohortError, match=r"absent\.csv: no such manifest"):
        Cohort.read(folder / "absent.csv")


def test_empty_split_lists_those_present(folder):
    cohort = Cohort.read(manifest(folder, "slide,annotation,split\na.tiff,,train\nb.tiff,,val\n"))
    with pytest.raises(CohortError, match=r"no slide in split 'test'\. .*train, val"):
        cohort.split("test")
