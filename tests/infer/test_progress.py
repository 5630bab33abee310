"""The progress line: quiet unless asked for, and it survives stages without patches."""

from __future__ import annotations

from fake_networks import cascade, slide_file

from tfseg.infer.cascade import SegmentOptions, segment_slide
from tfseg.infer.progress import progress_bar


def test_shows_stage_and_patches(tmp_path, capsys):
    segment_slide(slide_file(tmp_path / "[odd] name.tif"), cascade(), tmp_path / "out", SegmentOptions(progress=True))
    error = capsys.readouterr().err
    assert "[odd] name: writing" in error


def test_quiet_by_default(tmp_path, capsys):
    segment_slide(slide_file(tmp_path / "s.tif"), cascade(), tmp_path / "out")
    assert capsys.readouterr() == ("", "")


def test_stages_without_patches_keep_the_count(capsys):
    with progress_bar("s", True) as progress:
        progress("classify", 7, 7)
        progress("refine", 0, 0)
    error = capsys.readouterr().err
    assert "7/7" in error
    assert "s: refine" in error
