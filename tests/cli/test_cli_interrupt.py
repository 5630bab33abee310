"""Ctrl-C as a terminal sends it: the whole process group is told, and the user is told how to go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import tifffile
from command_line import PATCHES, TUMOUR_BOX, files, start
from fake_networks import slide_file
from small_cohort import write_annotation

from tfseg.data import index_slide
from tfseg.infer.outputs import MASK, SUMMARY

SLIDES = 40
RESUME = "stopped. What is finished is kept; run the same command to go on."


@pytest.fixture
def slides(tmp_path) -> list[Path]:
    first = slide_file(tmp_path / "s0.tif")
    return [first, *(Path(shutil.copy(first, tmp_path / f"s{k}.tif")) for k in range(1, SLIDES))]


def interrupt(process: subprocess.Popen[str], ready: Callable[[], bool]) -> str:
    """Ctrl-C as soon as ``ready``; returns stderr."""
    deadline = time.monotonic() + 60
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert RESUME in errors
    assert "Traceback" not in errors
    return errors


def children(process: subprocess.Popen[str]) -> list[str]:
    try:
        return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        return []


@pytest.mark.parametrize("when", ["workers start", "a slide is done"])
def test_while_indexing(tfseg, manifest, slides, tmp_path, when):
    out = tmp_path / "out"
    write_annotation(tmp_path / "a.geojson", [TUMOUR_BOX])
    cohort = manifest(*(f"{path.name},a.geojson,train,1" for path in slides))
    process = start("index", cohort, "--out", out, *PATCHES[:-1], "2")
    if when == "workers start":
        if not Path("/proc/self/task").is_dir():
            pytest.skip("needs /proc to see the workers start")
        interrupt(process, lambda: len(children(process)) >= 2)  # one of them is multiprocessing's own
    else:
        interrupt(process, lambda: any(out.glob("parts/s*.parquet")))
    left = files(out)
    assert not [path for path in left if ".partial" in path or "/" not in path], "parts and pictures only"
    assert (when == "a slide is done") == any(path.startswith("parts/") for path in left)
    finished = {path: path.stat().st_mtime_ns for path in out.glob("parts/*.parquet")}
    assert len(finished) < SLIDES
    assert tfseg("index", cohort, "--out", out, *PATCHES).code == 0
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    assert pd.read_parquet(out / "patches.parquet")["slide_name"].nunique() == SLIDES


def test_while_indexing_in_one_process(tfseg, manifest, slides, tmp_path, monkeypatch):
    draw = index_slide.draw_overview

    def stop_at_the_third(slide, *arguments):
        if slide.name == "s2":
            signal.raise_signal(signal.SIGINT)
        return draw(slide, *arguments)

    monkeypatch.setattr(index_slide, "draw_overview", stop_at_the_third)
    found = tfseg("index", manifest(*(f"{path.name},,train,1" for path in slides)), "--out", tmp_path / "out", *PATCHES)
    assert found.code == 130
    assert RESUME in found.err
    assert files(tmp_path / "out") == ["overview/s0.png", "overview/s1.png", "parts/s0.parquet", "parts/s1.parquet"]


def test_while_segmenting(tfseg, model, slides, tmp_path):
    out = tmp_path / "out"
    command = ("segment", *slides, "--model", model, "--out", out)
    process = start(*command)
    interrupt(process, lambda: any(out.glob(f"s*/{SUMMARY}")))
    assert not [path for path in files(out) if ".partial" in path]
    finished = {path.parent.name for path in out.glob(f"s*/{SUMMARY}")}
    assert 0 < len(finished) < SLIDES
    for folder in out.glob("s*"):  # whatever stands under a final name is whole
        if (folder / MASK).exists():
            assert tifffile.imread(folder / MASK, level=0).any()
    for name in finished:
        assert set(json.loads((out / name / SUMMARY).read_text())["outputs"]) < {p.name for p in (out / name).iterdir()}

    again = tfseg(*command)
    assert again.code == 0
    skipped = {line.split(":")[0] for line in again.out.splitlines() if "finished before" in line}
    assert skipped == {str(out / name) for name in finished}
    assert len(list(out.glob(f"s*/{SUMMARY}"))) == SLIDES
    assert not (out / ".state").exists()
