"""One slide on its way from file to results, by whichever networks: what is skipped, resumed, kept and written."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tfseg.files import write_json
from tfseg.infer.dense import DenseOptions
from tfseg.infer.instance_outputs import NUCLEI_OUTPUTS
from tfseg.infer.outputs import OUTPUTS, SUMMARY, OutputOptions, write_outputs
from tfseg.infer.predictors import Engine
from tfseg.infer.progress import progress_bar
from tfseg.infer.segmentation import Segmentation
from tfseg.infer.slide import ProgressCallback
from tfseg.infer.summary import content_hash, describe_slide, earlier_summary, now, slide_identity, versions
from tfseg.infer.tiles import Streaming
from tfseg.slides.base import Slide, open_slide
from tfseg.slides.tissue import TissueMask
from tfseg.types import OutputError, SlideError

STATE_FOLDER = ".state"

Found = TypeVar("Found")


@dataclass(frozen=True)
class SegmentOptions:
    """How slides are segmented.

    Attributes:
        mpp: µm per level-0 pixel, in place of what the slides say.
        engine: "onnxruntime" or "keras".
        threads: processor threads of ONNX Runtime; None takes all.
        streaming: batches and reading threads.
        dense: how dense networks cover a slide; with cascades it must be left as it is.
        outputs: what is written.
        force: do again what is finished, and overwrite another slide's results of the same name.
        progress: show a progress bar on stderr.
    """

    mpp: float | None = None
    engine: Engine = "onnxruntime"
    threads: int | None = None
    streaming: Streaming = field(default_factory=Streaming)
    dense: DenseOptions = field(default_factory=DenseOptions)
    outputs: OutputOptions = field(default_factory=OutputOptions)
    force: bool = False
    progress: bool = False


class Job(ABC):
    """One slide: opened when made, then :meth:`analyse`, then :meth:`write`.

    Attributes:
        finished: the summary of an earlier run that did just this; None where there is none.
    """

    state_suffix: str
    """Of the file below ``STATE_FOLDER`` that lets a killed run go on."""

    def __init__(
        self,
        source: str | Path | Slide,
        model_identity: str,
        out: Path,
        options: SegmentOptions,
        name: str | None,
        settings: dict[str, Any],
    ) -> None:
        """``settings``: what decides about the result besides slide file, model and ``options.outputs``."""
        self._options = options
        self._slide = self._opened(source)
        self._name = name or self._slide.name
        self._folder = out / self._name
        self._state = out / STATE_FOLDER / f"{self._name}{self.state_suffix}"
        self._identity = slide_identity(self._slide)
        self._settings = {"engine": options.engine, **settings, **asdict(options.outputs)}
        self._key = content_hash([1, self._identity, self._slide.mpp, model_identity, self._settings])
        self.finished = None if options.force else earlier_summary(self._folder / SUMMARY, self._key, self._identity)
        self._segmentation: Segmentation | None = None
        self._seconds: dict[str, float] = {}
        self._begun = time.perf_counter()

    def analyse(self) -> None:
        """Reads and computes; nothing is written but state."""
        if self.finished is not None:
            return
        with progress_bar(self._name, self._options.progress) as progress:
            self._segmentation = self._analysed(progress)
            progress("writing", 0, 0)

    def write(self) -> dict[str, Any]:
        """Writes the results, the summary last, and removes the state. Returns the summary."""
        if self.finished is not None:
            return self.finished
        assert self._segmentation is not None
        make_folder(self._folder)
        self._clear()
        written = self._timed("outputs", self._written, self._segmentation)
        self._seconds["total"] = time.perf_counter() - self._begun
        summary = self._summary(written)
        write_json(self._folder / SUMMARY, summary)
        self._release()
        self._state.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others' state is in it, or it was never made
            self._state.parent.rmdir()
        self._segmentation = None
        return summary

    def _opened(self, source: str | Path | Slide) -> Slide:
        return open_slide(source, self._options.mpp)

    @abstractmethod
    def _analysed(self, progress: ProgressCallback) -> Segmentation:
        """The slide segmented."""

    @abstractmethod
    def _described(self) -> dict[str, Any]:
        """What the summary says of "model" and "grid"."""

    def _written(self, segmentation: Segmentation) -> dict[str, Any]:
        """Writes everything but the summary; returns what the summary says of it, its "outputs" among it."""
        return write_outputs(self._folder, segmentation, self._options.outputs)

    def _release(self) -> None:
        """Lets go of the state's file."""
        return None

    def _clear(self) -> None:
        """Takes away what an earlier run left, and first of all its summary: from here on the slide is not finished."""
        try:
            (self._folder / SUMMARY).unlink(missing_ok=True)
            left = [path for pattern in (*OUTPUTS, *NUCLEI_OUTPUTS) for path in self._folder.glob(pattern)]
            left += self._folder.glob(".partial-*")
            left += self._state.parent.glob(f".partial-*-{self._state.name}")
            for path in left:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot replace results in {self._folder}: {error.strerror or error}.") from error

    def _timed(self, stage: str, function: Callable[..., Found], *arguments: Any) -> Found:
        begun = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            self._seconds[stage] = time.perf_counter() - begun

    def _with_tissue(self, tissue: TissueMask, remedy: str) -> TissueMask:
        """The mask itself, unless it is empty. Raises SlideError, with what to do for faint stains."""
        if not tissue.mask.any():
            raise SlideError(
                f"{self._slide.path or self._slide.name}: no tissue: nothing is coloured at {tissue.mpp:g} µm/px. "
                f"Check the slide; {remedy}."
            )
        return tissue

    def _summary(self, written: dict[str, Any]) -> dict[str, Any]:
        return {
            "format": "tfseg-segmentation",
            "version": 1,
            "key": self._key,
            "finished": now(),
            "slide": describe_slide(self._slide, self._name, self._identity),
            **self._described(),
            "settings": self._settings,
            **written,
            "seconds": {stage: round(seconds, 3) for stage, seconds in self._seconds.items()},
            "versions": versions(),
        }


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {folder}: {error.strerror or error}. Choose a folder you may write to."
        ) from error
