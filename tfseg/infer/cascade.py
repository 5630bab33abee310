"""Slides through a cascade, a dense network or one of nuclei, one by one: files, resuming, and what went wrong."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfseg.infer.cascade_job import CascadeJob
from tfseg.infer.dense_job import DenseJob
from tfseg.infer.job import Job, SegmentOptions, make_folder
from tfseg.infer.networks import Cascade, DenseModel, load_model
from tfseg.infer.nuclei_job import MaskRCNNJob, NucleiJob
from tfseg.infer.nuclei_model import (
    FindingOptions,
    MaskRCNNModel,
    NucleiModel,
    View,
    check_options,
    load_nuclei_model,
)
from tfseg.slides.base import Slide
from tfseg.types import ModelError, OutputError, TfsegError

Model = Cascade | DenseModel

_log = logging.getLogger(__name__)


@dataclass
class SegmentReport:
    """What became of the slides of one call, by name.

    Attributes:
        summaries: of the finished ones, as in summary.json.
        skipped: names of those that were finished before.
        failures: name → reason.
    """

    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def raise_failures(self) -> None:
        """Raises TfsegError that names every slide that failed, and why."""
        if self.failures:
            lines = "\n".join(f"  {name}: {reason}" for name, reason in self.failures.items())
            raise TfsegError(f"{len(self.failures)} slides could not be segmented:\n{lines}")


def segment_slide(
    source: str | Path | Slide,
    model: str | Path | Model,
    out: str | Path,
    options: SegmentOptions | None = None,
    *,
    name: str | None = None,
) -> dict[str, Any]:
    """Segments one slide into ``out/<name>/``; see :mod:`tfseg.infer.outputs` for the files.

    Interrupted and called again, it goes on; finished with the same slide, networks and settings, it does nothing.

    Args:
        source: the slide.
        model: folder of a cascade or of a dense network, or as loaded.
        out: folder of all slides' results.
        options: how.
        name: of the slide's folder; None takes the file's name without suffix.

    Returns:
        What summary.json says.

    Raises:
        SlideError: missing, unreadable, without mpp, without tissue, or smaller than a patch.
        ModelError: the networks do not fit.
        OutputError: ``out`` cannot be written, or holds another slide's results under this name.
    """
    options = options or SegmentOptions()
    job = _job(source, _loaded(model, options), Path(out), options, name)
    job.analyse()
    return job.write()


def segment_slides(
    sources: Sequence[str | Path | Slide],
    model: str | Path | Model,
    out: str | Path,
    options: SegmentOptions | None = None,
    *,
    names: Sequence[str] | None = None,
) -> SegmentReport:
    """Segments slides one after the other, the files of one being written while the next is read.

    A slide that fails is recorded and the others are done. Arguments as of :func:`segment_slide`.

    Raises:
        ModelError: the model cannot be loaded.
        OutputError: ``out`` cannot be made, or two slides have the same name.
    """
    options = options or SegmentOptions()
    names = _names(sources) if names is None else names
    loaded, out = _loaded(model, options), Path(out)
    make_folder(out)
    report = SegmentReport()
    with ThreadPoolExecutor(1, "tfseg-finish") as writer:
        writing: tuple[str, Future[dict[str, Any]]] | None = None
        for source, name in zip(sources, names, strict=True):
            try:
                job = _job(source, loaded, out, options, name)
                if job.finished is None:
                    job.analyse()
                else:
                    report.skipped.append(name)
            except Exception as error:
                if isinstance(error, ctypes.ArgumentError) and "KeyboardInterrupt" in str(error):
                    # Ctrl-C while OpenSlide's binding converts an argument
                    raise KeyboardInterrupt from error
                report.failures[name] = _reason(name, error)
                continue
            _collect(writing, report)
            writing = (name, writer.submit(job.write))
        _collect(writing, report)
    return report


def segment_nuclei(
    sources: Sequence[str | Path | Slide],
    model: str | Path | NucleiModel | None,
    out: str | Path,
    options: SegmentOptions | None = None,
    how: FindingOptions | None = None,
    view: View | None = None,
) -> SegmentReport:
    """Finds the nuclei of slides and pictures, as :func:`segment_slides` segments slides.

    Args:
        sources: slides; or plain TIFF, PNG or JPEG, which are taken at the network's µm/px where they say none and
            ``options.mpp`` is None (with a warning; "mpp_source" is "assumed").
        model: folder of a network of nuclei, or as loaded; None takes the one that comes with tfseg.
        out: gets a folder each; see :mod:`tfseg.infer.nuclei_job`.
        options: how; a stride of None is half a tile, a border of None "reflect", a threshold of 0 the network's own.
            Options for masks of classes are an error.
        how: stains and tiles; None takes the defaults. Of a loaded model, its own.
        view: as of :func:`tfseg.infer.nuclei_model.load_nuclei_model`.

    Raises:
        ModelError: the model cannot be loaded, is none of nuclei, or options are not for nuclei.
        OutputError: ``out`` cannot be made, or two sources have the same name.
    """
    options = options or SegmentOptions()
    check_options(options.dense, options.outputs)
    if not isinstance(model, NucleiModel):
        model = load_nuclei_model(model, how, options.engine, options.threads, view)
    model.check(options.dense)
    return segment_slides(sources, model, out, options)


def _collect(writing: tuple[str, Future[dict[str, Any]]] | None, report: SegmentReport) -> None:
    if writing is not None:
        name, future = writing
        try:
            report.summaries[name] = future.result()
        except Exception as error:
            report.failures[name] = _reason(name, error)


def _reason(name: str, error: Exception) -> str:
    if isinstance(error, TfsegError):
        return str(error)
    _log.error("slide %s", name, exc_info=error)
    return f"unexpected {type(error).__name__}: {error}. The log has the details."


def _loaded(model: str | Path | Model, options: SegmentOptions) -> Model:
    loaded = load_model(model, options.engine, options.threads) if isinstance(model, (str, Path)) else model
    options.dense.check()
    options.outputs.check()
    changed = options.dense.changed()
    if changed and not isinstance(loaded, DenseModel):
        named = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise ModelError(
            f"{loaded.spec.name}: {named}: for dense networks alone, and this is a cascade or a network of one, which "
            "has its threshold and tissue settings in its config.json. Leave out what is named."
        )
    return loaded


def _job(source: str | Path | Slide, model: Model, out: Path, options: SegmentOptions, name: str | None) -> Job:
    if isinstance(model, MaskRCNNModel):
        return MaskRCNNJob(source, model, out, options, name)
    if isinstance(model, NucleiModel):
        return NucleiJob(source, model, out, options, name)
    if isinstance(model, DenseModel):
        return DenseJob(source, model, out, options, name)
    return CascadeJob(source, model, out, options, name)


def _names(sources: Sequence[str | Path | Slide]) -> list[str]:
    names = [source.name if isinstance(source, Slide) else Path(source).stem for source in sources]
    for name in names:
        if names.count(name) > 1:
            same = [str(s) for s, n in zip(sources, names, strict=True) if n == name]
            raise OutputError(
                f"{' and '.join(same)} would both be written to the folder {name!r}. Segment them into different "
                "folders (--out)."
            )
    return names
