"""``tfseg segment``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from tfseg.data.slide_colours import read_colours
from tfseg.infer.cascade import SegmentOptions, segment_nuclei, segment_slides
from tfseg.infer.nuclei_model import FindingOptions
from tfseg.slides.mpp import ASSUMED
from tfseg.types import TfsegError

NUCLEI_OUT = Path("nuclei")


def segment(
    slides: Positional[tuple[Path, ...]],
    /,
    model: Path | None = None,
    out: Path | None = None,
    nuclei: Annotated[bool, FlagCreatePairsOff] = False,
    options: OmitArgPrefixes[SegmentOptions] = SegmentOptions(progress=True),  # noqa: B008
    how: OmitArgPrefixes[FindingOptions] = FindingOptions(),  # noqa: B008
) -> int:
    """Segments whole slides: mask (and heatmap) as pyramidal TIFF, polygons for QuPath, overlay, areas, summary.

    With --nuclei it finds nuclei on slides and pictures: detections for QuPath with measurements, a pyramidal TIFF of
    their numbers, overlay, summary. A plain picture that does not say its pixel size is taken at the network's, and
    you are told so; a slide that does not is an error until you give --mpp.

    The model is a cascade, a patch classifier, a network on whole slides, or a dense network, which labels every
    pixel window by window.

    Run again after a stop: finished slides are skipped and a started one goes on. A slide that cannot be done is
    named, the rest are done, and the exit code is 1.

    Args:
        slides: slides or pictures.
        model: folder that `tfseg train` wrote; with --nuclei, none takes the network that comes with tfseg.
        out: gets a folder a slide; with --nuclei, none takes ./nuclei.
        nuclei: find nuclei in place of regions.
        options: how. --stride-px, --border, --tissue, --saturation, --min-tissue, --background, --threshold,
            --thresholds and --below are for dense networks alone; with another model they are an error. So are, with
            --nuclei, --background, --thresholds, --below and all of a mask, and with Mask R-CNN also --stride-px,
            --border and --overlap-px.
        how: of nuclei; without --nuclei an error.
    """
    if not slides:
        raise TfsegError("no slide given. Usage: tfseg segment SLIDE… --model FOLDER --out DIR")
    if options.engine == "keras":
        importlib.import_module("tfseg.models")  # registers the layers of Mask R-CNN with Keras
    if nuclei:
        out = out or NUCLEI_OUT
        report = segment_nuclei(slides, model, out, options, how, None if model is None else read_colours(model))
    else:
        _check_nuclei_options(how)
        if model is None or out is None:
            return _tell_missing(model, out)
        report = segment_slides(slides, model, out, options)
    for name, summary in report.summaries.items():
        found = _nuclei(summary) if nuclei else _areas(summary["areas_mm2"])
        seconds = f"{summary['seconds']['total']:.1f} s"
        when = "finished before, left as it is (--force does it again)" if name in report.skipped else seconds
        print(f"{out / name}: {found}; {when}")
    for name, reason in report.failures.items():
        print(f"tfseg segment: {name}: {reason}", file=sys.stderr)
    return 1 if report.failures else 0


def _check_nuclei_options(how: FindingOptions) -> None:
    """Raises TfsegError for options of nuclei, which a segmentation of regions would pass over without a word."""
    changed = ", ".join(f"--{name.replace('_', '-')}" for name in how.changed())
    if changed:
        raise TfsegError(f"{changed}: of nuclei alone; add --nuclei, or leave it out.")


def _tell_missing(model: Path | None, out: Path | None) -> int:
    """Says what a segmentation of regions needs; returns the exit code of wrong usage."""
    missing = " and ".join(name for name, given in (("--model", model), ("--out", out)) if given is None)
    text = f"tfseg segment: {missing} missing: only --nuclei has a network and a folder of its own. See --help."
    print(text, file=sys.stderr)
    return 2


def _nuclei(summary: dict[str, Any]) -> str:
    """Number, density and size of a summary's nuclei in a line."""
    parts = [f"{summary['nuclei']} nuclei"]
    if summary["nuclei_per_mm2"] is not None:
        parts.append(f"{summary['nuclei_per_mm2']:.0f} per mm²")
    if summary["median_area_um2"] is not None:
        assumed = ", pixel size assumed" if summary["slide"]["mpp_source"] == ASSUMED else ""
        parts.append(f"median {summary['median_area_um2']:.1f} µm²{assumed}")
    return ", ".join(parts)


def _areas(found: dict[str, Any]) -> str:
    """The areas of a summary in a line: of slide and tissue, then, perhaps nested (dense networks), of the classes."""
    whole = {what: area for what, area in found.items() if not isinstance(area, dict)}
    nested = found["classes"].items() if len(whole) < len(found) else ()
    return ", ".join(f"{what} {area:.2f} mm²" for what, area in [*whole.items(), *nested])
