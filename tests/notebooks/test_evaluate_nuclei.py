"""The notebook runs from the installed package alone, and what it says is what it kept."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nbformat
import pytest
import shapely
from nbclient import NotebookClient

from tfseg.slides.geojson import read_geojson

FOLDER = Path(__file__).parents[2] / "tools" / "notebooks"
NOTEBOOK, OUTLINES = FOLDER / "evaluate_nuclei.ipynb", FOLDER / "immunohistochemistry_nuclei.geojson"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def kept():
    return nbformat.read(NOTEBOOK, 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The notebook's outputs of now, from a fresh kernel in a folder that holds it and its outlines alone."""
    folder = tmp_path_factory.mktemp("notebook")
    for file in (NOTEBOOK, OUTLINES):
        shutil.copy(file, folder)
    content = nbformat.read(folder / NOTEBOOK.name, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.delenv("MPLBACKEND", raising=False)
        client = NotebookClient(content, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}})
        return client.execute()


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """Words that the cell printed and of its tables' plain text; what is printed may come in pieces."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            found.append(output.text)
        elif "image/png" not in output.data:
            found.append(f" {output.data['text/plain']} ")
    return " ".join("".join(found).split())


def pictures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def test_figures_are_the_kept_ones(run, kept):
    compared = 0
    for now, before in zip(code(run), code(kept), strict=True):
        assert NUMBER.sub("#", texts(now)) == NUMBER.sub("#", texts(before)), before.source
        values = [float(value) for value in NUMBER.findall(texts(before))]
        assert [float(value) for value in NUMBER.findall(texts(now))] == pytest.approx(values, abs=0.002), before.source
        assert pictures(now) == pictures(before), before.source
        compared += len(values)
    assert compared > 150


def test_outputs_are_kept_whole_and_small(kept):
    assert [cell.execution_count for cell in code(kept)] == list(range(1, len(code(kept)) + 1))
    assert all(output.output_type != "error" for cell in code(kept) for output in cell.outputs)
    assert all(output.get("name") != "stderr" for cell in code(kept) for output in cell.outputs)
    assert sum(pictures(cell) for cell in code(kept)) >= 7
    assert NOTEBOOK.stat().st_size < 1_500_000


def test_reference_says_what_it_is(kept):
    for text in (kept.cells[0].source, (FOLDER / "README.md").read_text("utf-8"), OUTLINES.read_text("utf-8")):
        assert "not by a pathologist" in text.replace("\n", " ")


def test_outlines_are_whole_nuclei_of_the_corner():
    polygons = [feature.polygon for feature in read_geojson(OUTLINES)]
    assert len(polygons) == 67
    corner = shapely.box(160, 228, 352, 420)
    assert all(polygon.is_valid and corner.covers(polygon) and polygon.area >= 20 for polygon in polygons)
    tree = shapely.STRtree(polygons)
    first, second = tree.query(polygons, predicate="overlaps")
    shared = shapely.area(shapely.intersection(tree.geometries[first], tree.geometries[second]))
    assert shared.max(initial=0) < 1
