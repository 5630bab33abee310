"""``tfseg segment``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from tfseg.infer.cascade import SegmentOptions, segment_slides
from tfseg.types import TfsegError


def segment(
    slides: Positional[tuple[Path, ...]],
    /,
    model: Path,
    out: Path,
    options: OmitArgPrefixes[SegmentOptions] = SegmentOptions(progress=True),  # noqa: B008
) -> int:
    """Segments whole slides: mask (and heatmap) as pyramidal TIFF, polygons for QuPath, overlay, areas, summary.

    The model is a cascade, a patch classifier, a network on whole slides, or a dense network, which labels every
    pixel window by window.

    Run again after a stop: finished slides are skipped and a started one goes on. A slide that cannot be done is
    named, the rest are done, and the exit code is 1.

    Args:
        slides: slides or pictures.
        model: folder that `tfseg train` wrote.
        out: gets a folder a slide.
        options: how. --stride-px, --border, --tissue, --saturation, --min-tissue, --background, --threshold,
            --thresholds and --below are for dense networks alone; with another model they are an error.
    """
    if not slides:
        raise TfsegError("no slide given. Usage: tfseg segment SLIDE… --model FOLDER --out DIR")
    report = segment_slides(slides, model, out, options)
    for name, summary in report.summaries.items():
        areas = _areas(summary["areas_mm2"])
        seconds = f"{summary['seconds']['total']:.1f} s"
        how = "finished before, left as it is (--force does it again)" if name in report.skipped else seconds
        print(f"{out / name}: {areas}; {how}")
    for name, reason in report.failures.items():
        print(f"tfseg segment: {name}: {reason}", file=sys.stderr)
    return 1 if report.failures else 0


def _areas(found: dict[str, Any]) -> str:
    """The areas of a summary in a line: of slide and tissue, then, perhaps nested (dense networks), of the classes."""
    whole = {what: area for what, area in found.items() if not isinstance(area, dict)}
    nested = found["classes"].items() if len(whole) < len(found) else ()
    return ", ".join(f"{what} {area:.2f} mm²" for what, area in [*whole.items(), *nested])
