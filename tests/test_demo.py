"""The promises of ``make demo``, kept by running it."""

from __future__ import annotations

import json

import pytest


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
    assert page.count("data:image/png;base64,") == 4 * scores.slide_name.nunique()
    assert "Dice on 3 held-out slides" in capsys.readouterr().out
    for name in ("fastpathology.fpl", "headless.fpl", "classifier/model_fast.onnx", "refinement/model.onnx"):
        assert (out / "train" / "model" / name).is_file()
