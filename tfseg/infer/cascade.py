"""Whole slides through a cascade: tissue, heatmap, refinement, threshold, files (H2G-Net, sections 2.5 and 2.6).

The designs of the paper are cascades with or without stages: both networks; a classifier alone (its heatmap is
thresholded cell by cell); a network that sees the whole slide alone (UNet-LR); neither (Otsu's threshold on
saturation).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfseg.files import write_json
from tfseg.infer.fields import Field
from tfseg.infer.networks import Cascade, load_cascade, refine
from tfseg.infer.outputs import OUTPUTS, SUMMARY, OutputOptions, Segmentation, write_outputs
from tfseg.infer.overlay import thumbnail
from tfseg.infer.predictors import Engine
from tfseg.infer.progress import progress_bar
from tfseg.infer.slide import Checkpoint, Heatmap, ProgressCallback, heatmap
from tfseg.infer.summary import (
    content_hash,
    describe_cascade,
    describe_grid,
    describe_slide,
    earlier_summary,
    now,
    slide_identity,
    versions,
)
from tfseg.infer.tiles import Streaming
from tfseg.slides.base import Slide, open_slide
from tfseg.slides.tissue import TissueMask, otsu_tissue, tissue_mask
from tfseg.types import OutputError, SlideError, TfsegError

STATE_FOLDER = ".state"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentOptions:
    """How slides are segmented.

    Attributes:
        mpp: µm per level-0 pixel, in place of what the slides say.
        engine: "onnxruntime" or "keras".
        threads: processor threads of ONNX Runtime; None takes all.
        streaming: batches and reading threads.
        outputs: what is written.
        force: do again what is finished, and overwrite another slide's results of the same name.
        progress: show a progress bar on stderr.
    """

    mpp: float | None = None
    engine: Engine = "onnxruntime"
    threads: int | None = None
    streaming: Streaming = field(default_factory=Streaming)
    outputs: OutputOptions = field(default_factory=OutputOptions)
    force: bool = False
    progress: bool = False


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
    cascade: str | Path | Cascade,
    out: str | Path,
    options: SegmentOptions | None = None,
    *,
    name: str | None = None,
) -> dict[str, Any]:
    """Segments one slide into ``out/<name>/``; see :mod:`tfseg.infer.outputs` for the files.

    Interrupted and called again, it goes on; finished with the same slide, networks and settings, it does nothing.

    Args:
        source: the slide.
        cascade: its folder, or as loaded.
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
    job = _Job(source, _loaded(cascade, options), Path(out), options, name)
    job.analyse()
    return job.write()


def segment_slides(
    sources: Sequence[str | Path | Slide],
    cascade: str | Path | Cascade,
    out: str | Path,
    options: SegmentOptions | None = None,
    *,
    names: Sequence[str] | None = None,
) -> SegmentReport:
    """Segments slides one after the other, the files of one being written while the next is read.

    A slide that fails is recorded and the others are done. Arguments as of :func:`segment_slide`.

    Raises:
        ModelError: the cascade cannot be loaded.
        OutputError: ``out`` cannot be made, or two slides have the same name.
    """
    options = options or SegmentOptions()
    names = _names(sources) if names is None else names
    loaded, out = _loaded(cascade, options), Path(out)
    _make_folder(out)
    report = SegmentReport()
    with ThreadPoolExecutor(1, "tfseg-finish") as writer:
        writing: tuple[str, Future[dict[str, Any]]] | None = None
        for source, name in zip(sources, names, strict=True):
            try:
                job = _Job(source, loaded, out, options, name)
                if job.finished is None:
                    job.analyse()
                else:
                    report.skipped.append(name)
            except Exception as error:
                report.failures[name] = _reason(name, error)
                continue
            _collect(writing, report)
            writing = (name, writer.submit(job.write))
        _collect(writing, report)
    return report


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


def _loaded(cascade: str | Path | Cascade, options: SegmentOptions) -> Cascade:
    return cascade if isinstance(cascade, Cascade) else load_cascade(cascade, options.engine, options.threads)


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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {folder}: {error.strerror or error}. Choose a folder you may write to."
        ) from error


class _Job:
    """One slide on its way: opened when made, then :meth:`analyse`, then :meth:`write`.

    Attributes:
        finished: the summary of an earlier run that did just this; None where there is none.
    """

    def __init__(
        self, source: str | Path | Slide, cascade: Cascade, out: Path, options: SegmentOptions, name: str | None
    ) -> None:
        self._slide = open_slide(source, options.mpp)
        self._cascade, self._options = cascade, options
        self._name = name or self._slide.name
        self._folder = out / self._name
        self._checkpoint = out / STATE_FOLDER / f"{self._name}.npz"
        self._identity = slide_identity(self._slide)
        self._settings = {
            "engine": options.engine,
            "threshold": cascade.spec.threshold,
            "tissue": cascade.spec.tissue,
            "min_tissue": cascade.spec.min_tissue,
            **asdict(options.outputs),
        }
        self._key = content_hash([1, self._identity, self._slide.mpp, cascade.identity, self._settings])
        self.finished = None if options.force else earlier_summary(self._folder / SUMMARY, self._key, self._identity)
        self._segmentation: Segmentation | None = None
        self._seconds: dict[str, float] = {}
        self._begun = time.perf_counter()

    def analyse(self) -> None:
        """Reads and computes; nothing is written but state."""
        if self.finished is not None:
            return
        with progress_bar(self._name, self._options.progress) as progress:
            progress("tissue", 0, 0)
            tissue = self._timed("tissue", self._tissue)
            # What else is read from the slide is read while the classifier runs.
            with ThreadPoolExecutor(1, "tfseg-look") as pool:
                picture = pool.submit(thumbnail, self._slide)
                whole = pool.submit(self._whole_image)
                found = self._timed("heatmap", self._heatmap, tissue, progress)
                progress("refine", 0, 0)
                field = self._timed("refinement", self._field, found, whole)
                self._segmentation = Segmentation(
                    self._slide,
                    field,
                    self._cascade.classes,
                    self._cascade.spec.threshold,
                    tissue,
                    picture.result(),
                    found,
                )
            progress("writing", 0, 0)

    def write(self) -> dict[str, Any]:
        """Writes the results, the summary last, and removes the state. Returns the summary."""
        if self.finished is not None:
            return self.finished
        assert self._segmentation is not None
        _make_folder(self._folder)
        self._clear()
        written = self._timed("outputs", write_outputs, self._folder, self._segmentation, self._options.outputs)
        self._seconds["total"] = time.perf_counter() - self._begun
        summary = self._summary(self._segmentation.heatmap, written)
        write_json(self._folder / SUMMARY, summary)
        self._checkpoint.unlink(missing_ok=True)
        if self._checkpoint.parent.is_dir() and not any(self._checkpoint.parent.iterdir()):
            self._checkpoint.parent.rmdir()
        self._segmentation = None
        return summary

    def _clear(self) -> None:
        """Takes away what an earlier run left, and first of all its summary: from here on the slide is not finished."""
        try:
            for name in (SUMMARY, *OUTPUTS):
                (self._folder / name).unlink(missing_ok=True)
            for left in (
                *self._folder.glob(".partial-*"),
                *self._checkpoint.parent.glob(f".partial-*-{self._name}.npz"),
            ):
                left.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot replace results in {self._folder}: {error.strerror or error}.") from error

    def _timed(self, stage: str, function: Any, *arguments: Any) -> Any:
        begun = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            self._seconds[stage] = time.perf_counter() - begun

    def _tissue(self) -> TissueMask:
        tissue = tissue_mask(self._slide, **self._cascade.spec.tissue)
        if not tissue.mask.any():
            raise SlideError(
                f"{self._slide.path or self._slide.name}: no tissue: nothing is coloured at {tissue.mpp:g} µm/px. "
                "Check the slide; for faint stains lower `saturation` (tissue) in the model's config.json."
            )
        return tissue

    def _heatmap(self, tissue: TissueMask, progress: ProgressCallback) -> Heatmap | None:
        network = self._cascade.classifier
        if network is None:
            return None
        return heatmap(
            self._slide,
            network.predict,
            network.spec,
            tissue,
            min_tissue=self._cascade.spec.min_tissue,
            streaming=self._options.streaming,
            checkpoint=Checkpoint(self._checkpoint, content_hash([self._identity, network.identity])),
            progress=progress,
        )

    def _whole_image(self) -> NDArray[np.uint8] | None:
        """The slide at the size that the refinement network takes, uint8 (h, w, 3)."""
        network = self._cascade.refinement
        if network is None:
            return None
        return self._slide.fit(next(i.size_px for i in network.spec.inputs if i.kind == "image"))

    def _field(self, found: Heatmap | None, whole: Future[NDArray[np.uint8] | None]) -> Field:
        """Class probabilities over the slide."""
        network, image = self._cascade.refinement, whole.result()
        if network is not None and image is not None:
            probabilities = refine(network, image, found)
            width, height = self._slide.size
            step = width / probabilities.shape[1], height / probabilities.shape[0]
            return Field(probabilities, step, smooth=True)
        if found is not None:
            return found.field(smooth=False)
        tissue = otsu_tissue(self._slide)
        width, height = self._slide.size
        values = np.stack([~tissue, tissue], axis=-1).astype(np.float32)
        return Field(values, (width / tissue.shape[1], height / tissue.shape[0]), smooth=False)

    def _summary(self, found: Heatmap | None, written: dict[str, Any]) -> dict[str, Any]:
        return {
            "format": "tfseg-segmentation",
            "version": 1,
            "key": self._key,
            "finished": now(),
            "slide": describe_slide(self._slide, self._name, self._identity),
            "model": describe_cascade(self._cascade),
            "settings": self._settings,
            "grid": describe_grid(found),
            **written,
            "seconds": {stage: round(seconds, 3) for stage, seconds in self._seconds.items()},
            "versions": versions(),
        }
