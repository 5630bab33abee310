"""One slide through a dense network: tissue where it is wanted, windows, labels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfseg.infer.band_store import BandStore
from tfseg.infer.dense import DenseResult, segment_dense
from tfseg.infer.job import Job, SegmentOptions
from tfseg.infer.networks import DenseModel
from tfseg.infer.overlay import thumbnail
from tfseg.infer.segmentation import DenseSegmentation, class_files
from tfseg.infer.slide import ProgressCallback
from tfseg.infer.summary import content_hash, describe_dense, describe_windows
from tfseg.slides.base import Slide
from tfseg.slides.tissue import TissueMask, otsu_tissue_mask, tissue_mask


class DenseJob(Job):
    """Segments one slide by a dense network."""

    state_suffix = ".dense"
    keeps_probabilities = False
    """Whether they are kept although they are not written."""

    def __init__(
        self, source: str | Path | Slide, model: DenseModel, out: Path, options: SegmentOptions, name: str | None
    ) -> None:
        self._model = model
        self._result: DenseResult | None = None
        if options.outputs.probability:
            class_files(model.classes)  # names that collide are an error now, not after hours
        options = replace(options, dense=options.dense.filled(border="zero"))
        super().__init__(source, model.identity, out, options, name, model.settings(options.dense))

    def _analysed(self, progress: ProgressCallback) -> DenseSegmentation:
        progress("tissue", 0, 0)
        tissue = self._timed("tissue", self._tissue)
        # The picture is read while the network runs.
        with ThreadPoolExecutor(1, "tfseg-look") as pool:
            picture = pool.submit(thumbnail, self._slide)
            self._result = self._timed("segment", self._segmented, tissue, progress)
            return DenseSegmentation(self._slide, self._model.classes, tissue, picture.result(), self._result)

    def _segmented(self, tissue: TissueMask | None, progress: ProgressCallback) -> DenseResult:
        options, network = self._options, self._model.network
        return segment_dense(
            self._seen(),
            network.predict,
            network.spec,
            options.dense,
            tissue=self._sought(tissue),
            probabilities=self.keeps_probabilities or options.outputs.probability,
            open_store=self._opened_store,
            streaming=options.streaming,
            progress=progress,
        )

    def _sought(self, tissue: TissueMask | None) -> TissueMask | None:
        """Where windows are looked at; None everywhere."""
        return None if self._options.dense.tissue == "none" else tissue

    def _opened_store(self, key: bytes, width: int, planes: int) -> BandStore:
        """The state of this slide and network."""
        identity = content_hash([key.hex(), self._identity, self._model.network.identity])
        return BandStore(self._state, bytes.fromhex(identity), width, planes)

    def _seen(self) -> Slide:
        """The slide as the network sees it."""
        return self._slide

    def _described(self) -> dict[str, Any]:
        assert self._result is not None
        return {"model": describe_dense(self._model), "grid": describe_windows(self._result)}

    def _release(self) -> None:
        if self._result is not None:
            self._result.store.close()

    def _tissue(self) -> TissueMask | None:
        """None where neither the windows nor the mask ask for it."""
        dense = self._options.dense
        if dense.tissue == "none" and not self._options.outputs.tissue_only:
            return None
        if dense.tissue == "otsu":
            remedy = "Otsu's threshold parts at least two colours; --tissue none segments all of it"
            return self._with_tissue(otsu_tissue_mask(self._slide), remedy)
        remedy = f"for faint stains lower --saturation (now {dense.saturation}), or segment all of it: --tissue none"
        remedy += " without --tissue-only" if self._options.outputs.tissue_only else ""
        return self._with_tissue(tissue_mask(self._slide, saturation=dense.saturation), remedy)
