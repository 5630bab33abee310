"""The figures of the documentation that come from code alone can be drawn as it says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "draw_docs.py"


@pytest.mark.smoke
def test_every_figure_is_drawn(tmp_path):
    tool = runpy.run_path(str(TOOL))
    for name, (_, file, _) in tool["FIGURES"].items():
        tool["main"](name, folder=tmp_path)
        assert (tmp_path / file).stat().st_size > 10_000, name
