"""What ``tfseg segment`` writes of a dense network is what ``tfseg evaluate`` reads."""

from __future__ import annotations

import numpy as np
import pandas as pd
import tifffile
from command_line import files
from dense_networks import noise, write_dense
from fake_networks import slide_file


def test_segment_and_evaluate(tfseg, tmp_path, monkeypatch):
    """The network calls each pixel its strongest colour, which is half of the truth; a third is not annotated."""
    monkeypatch.setattr("tfseg.metrics.plots.save_figure", lambda figure, path: None)
    image = noise(64, 96)
    truth = image.argmax(-1).astype(np.uint8)
    truth[:, 48:] = (truth[:, 48:] + 1) % 3
    truth[:, :32] = 255
    tifffile.imwrite(tmp_path / "s_label.tif", truth)
    slide_file(tmp_path / "s.tif", image, mpp=1.0)
    (tmp_path / "cohort.csv").write_text("slide,annotation,split,scanner\ns.tif,s_label.tif,test,A\n")
    model = write_dense(tmp_path / "model")
    command = ("segment", tmp_path / "s.tif", "--model", model, "--out", tmp_path / "seg", "--probability")
    assert tfseg(*command, "--no-progress").code == 0
    found = tfseg("evaluate", tmp_path / "cohort.csv", "--segmentations", tmp_path / "seg", "--out", tmp_path / "out")
    assert found.code == 0, found.err
    assert "By scanner" in found.out
    assert files(tmp_path / "out") == [
        "classes.csv", "scores.csv", "seg/confusion.csv", "seg/curves.csv", "summary.csv", "summary.md",
    ]  # fmt: skip
    confusion = pd.read_csv(tmp_path / "out/seg/confusion.csv").set_index("truth")
    mask = tifffile.imread(tmp_path / "seg/s/mask.tiff")
    for i, name in enumerate(confusion.index):
        assert confusion.loc[name, "pixels"] == (truth == i).sum()
        np.testing.assert_allclose(
            confusion.loc[name].to_numpy()[:3], [np.mean(mask[truth == i] == j) for j in range(3)]
        )
    assert pd.read_csv(tmp_path / "out/classes.csv")["auc"].notna().all()
