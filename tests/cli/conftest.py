"""The command line in this process, on slides and networks so small that a command takes a moment."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import TUMOUR_BOX, Outcome, Tfseg
from fake_networks import slide_file
from small_cohort import write_annotation
from test_predictors import write_classifier, write_refinement

from tfseg.cli import main
from tfseg.files import write_json
from tfseg.types import CascadeSpec

HEADER = "slide,annotation,split,grade"


@pytest.fixture
def tfseg(capsys) -> Tfseg:
    """Function: arguments → exit code and what was printed. Nothing may print a traceback."""

    def run(*arguments) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # of the argument parser, for --help and wrong usage
            code = int(stop.code or 0)
        finally:
            logging.captureWarnings(False)
        found = Outcome(code, *capsys.readouterr())
        assert "Traceback" not in found.out + found.err
        return found

    return run


@pytest.fixture
def fails(tfseg) -> Callable[..., str]:
    """Function: arguments, words → stderr, one line; the exit code is 1 and stderr holds all of the words."""

    def run(arguments, *words) -> str:
        found = tfseg(*arguments)
        line = " ".join(found.err.split())
        assert found.code == 1, found
        assert [str(word) for word in words if str(word) not in line] == [], found.err
        return line

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A cascade of two tiny ONNX networks: patches of 32 px at 1 µm/px."""
    folder = tmp_path_factory.mktemp("cascade") / "model"
    write_classifier(folder / "classifier")
    write_refinement(folder / "refinement")
    write_json(folder / "config.json", CascadeSpec("tiny").to_dict())
    return folder


@pytest.fixture
def annotated(tmp_path) -> Path:
    """A slide whose annotation ``ok.geojson`` lies beside it."""
    write_annotation(tmp_path / "ok.geojson", [TUMOUR_BOX])
    return slide_file(tmp_path / "ok.tif")


@pytest.fixture
def manifest(tmp_path) -> Callable[..., Path]:
    """Function: rows → cohort.csv."""

    def write(*rows: str, header: str = HEADER) -> Path:
        path = tmp_path / "cohort.csv"
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return path

    return write
