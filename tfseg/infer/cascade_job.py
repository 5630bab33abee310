"""One slide through a cascade: tissue, heatmap, refinement (H2G-Net, sections 2.5 and 2.6).

The designs of the paper are cascades with or without stages: both networks; a classifier alone (its heatmap is
thresholded cell by cell); a network that sees the whole slide alone (UNet-LR); neither (Otsu's threshold on
saturation).
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfseg.infer.fields import Field
from tfseg.infer.job import Job, SegmentOptions
from tfseg.infer.networks import Cascade, refine
from tfseg.infer.overlay import thumbnail
from tfseg.infer.segmentation import FieldSegmentation
from tfseg.infer.slide import Checkpoint, Heatmap, ProgressCallback, heatmap
from tfseg.infer.summary import content_hash, describe_cascade, describe_grid
from tfseg.slides.base import Slide
from tfseg.slides.tissue import TissueMask, otsu_tissue, tissue_mask


class CascadeJob(Job):
    """Segments one slide by a cascade."""

    state_suffix = ".npz"

    def __init__(
        self, source: str | Path | Slide, cascade: Cascade, out: Path, options: SegmentOptions, name: str | None
    ) -> None:
        self._cascade = cascade
        self._heatmap: Heatmap | None = None
        settings = {
            "threshold": cascade.spec.threshold,
            "tissue": cascade.spec.tissue,
            "min_tissue": cascade.spec.min_tissue,
        }
        super().__init__(source, cascade.identity, out, options, name, settings)

    def _analysed(self, progress: ProgressCallback) -> FieldSegmentation:
        progress("tissue", 0, 0)
        tissue = self._timed("tissue", self._tissue)
        # What else is read from the slide is read while the classifier runs.
        with ThreadPoolExecutor(1, "tfseg-look") as pool:
            picture = pool.submit(thumbnail, self._slide)
            whole = pool.submit(self._whole_image)
            self._heatmap = self._timed("heatmap", self._found_heatmap, tissue, progress)
            progress("refine", 0, 0)
            field = self._timed("refinement", self._field, whole)
            threshold = self._cascade.spec.threshold
            return FieldSegmentation(
                self._slide, self._cascade.classes, tissue, picture.result(), field, threshold, self._heatmap
            )

    def _described(self) -> dict[str, Any]:
        return {"model": describe_cascade(self._cascade), "grid": describe_grid(self._heatmap)}

    def _tissue(self) -> TissueMask:
        remedy = "for faint stains lower `saturation` (tissue) in the model's config.json"
        return self._with_tissue(tissue_mask(self._slide, **self._cascade.spec.tissue), remedy)

    def _found_heatmap(self, tissue: TissueMask, progress: ProgressCallback) -> Heatmap | None:
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
            checkpoint=Checkpoint(self._state, content_hash([self._identity, network.identity])),
            progress=progress,
        )

    def _whole_image(self) -> NDArray[np.uint8] | None:
        """The slide at the size that the refinement network takes, uint8 (h, w, 3)."""
        network = self._cascade.refinement
        if network is None:
            return None
        return self._slide.fit(next(i.size_px for i in network.spec.inputs if i.kind == "image"))

    def _field(self, whole: Future[NDArray[np.uint8] | None]) -> Field:
        """Class probabilities over the slide."""
        network, image = self._cascade.refinement, whole.result()
        if network is not None and image is not None:
            probabilities = refine(network, image, self._heatmap)
            width, height = self._slide.size
            step = width / probabilities.shape[1], height / probabilities.shape[0]
            return Field(probabilities, step, smooth=True)
        if self._heatmap is not None:
            return self._heatmap.field(smooth=False)
        tissue = otsu_tissue(self._slide)
        width, height = self._slide.size
        values = np.stack([~tissue, tissue], axis=-1).astype(np.float32)
        return Field(values, (width / tissue.shape[1], height / tissue.shape[0]), smooth=False)
