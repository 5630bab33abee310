"""The promises of ``make demo``, kept by running it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from nuclei_network import nuclei_spec, write_network


@pytest.mark.slow
def test_demo_from_nothing_to_a_report(tmp_path, capsys):
    from tfseg.demo import REFINED, UNREFINED, run_demo

    out = tmp_path / "demo"
    scores = run_demo(out)
    dice = scores.groupby("design")["dice"].mean()
    assert dice[REFINED] >= 0.85
    assert dice[REFINED] > dice[UNREFINED]
    assert json.loads((out / "scores.json").read_text())["dice"] == pytest.approx(dict(dice))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4 * scores.slide_name.nunique() + 2
    assert json.loads((out / "nuclei/immunohistochemistry/summary.json").read_text())["nuclei"] > 200
    assert "Dice on 3 held-out slides" in capsys.readouterr().out
    for name in ("fastpathology.fpl", "headless.fpl", "classifier/model_fast.onnx", "refinement/model.onnx"):
        assert (out / "train" / "model" / name).is_file()


def test_nuclei_of_a_real_picture_for_the_report(tmp_path):
    from tfseg.demo import PICTURE, find_nuclei

    network = write_network(tmp_path / "network", nuclei_spec(tile_px=256, mpp=1.0, threshold=0.3))
    found = find_nuclei(tmp_path / "nuclei", network)
    summary = json.loads((tmp_path / "nuclei" / PICTURE / "summary.json").read_text())
    assert summary["slide"]["mpp_source"] == "assumed" and summary["nuclei"] > 0
    assert found.line.startswith(f"{summary['nuclei']} nuclei, median ")
    assert "DAB: Mean" in (tmp_path / "nuclei" / PICTURE / "nuclei.geojson").read_text(encoding="utf-8")
    assert list(found.pictures) == ["picture", "nuclei"]
    assert all(picture.shape == (1024, 1024, 3) for picture in found.pictures.values())
    assert np.any(found.pictures["nuclei"] != found.pictures["picture"])
    again = find_nuclei(tmp_path / "nuclei", network)
    assert again.line == found.line
