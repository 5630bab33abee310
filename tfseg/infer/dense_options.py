"""How a dense network covers a slide, and what becomes of its probabilities."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tfseg.infer.windows import Border
from tfseg.types import IGNORE, ClassSpec, ModelError


@dataclass(frozen=True)
class DenseOptions:
    """How a dense network covers a slide, and how its probabilities become classes.

    Attributes:
        stride_px: output pixels between windows; fewer than the network's output make neighbours overlap, and they are
            blended. None takes the network's own, without overlap as a rule; of nuclei half a tile.
        border: what lies beyond the slide's edges: "zero" (black, as in DMMN), "white" or "reflect". None takes zero,
            of nuclei reflect.
        tissue: skip windows without tissue: "saturation" finds it as the cascades do, "otsu" by Otsu's threshold;
            "none" skips nothing.
        saturation: 0..255, pixels of more are tissue (not with "otsu"); lower it for faint stains.
        min_tissue: windows with no more than this fraction of tissue in what they output are skipped.
        background: name of the class that skipped pixels get; None takes the class called "background", or class 0
            where there is none.
        threshold: a class is taken where it is the most probable of those that reach their threshold; this one holds
            for all classes that ``thresholds`` does not name. 0 is the plain argmax. Of nuclei: pixels of at least this
            foreground probability, with Mask R-CNN detections of at least this score; 0 takes the network's own.
        thresholds: class name → threshold. Above 1, a class is never taken.
        below: what pixels get where no class reaches its threshold: "background", or "ignore" (255, not annotated).
    """

    stride_px: int | None = None
    border: Border | None = None
    tissue: Literal["none", "saturation", "otsu"] = "none"
    saturation: int = 20
    min_tissue: float = 0.0
    background: str | None = None
    threshold: float = 0.0
    thresholds: dict[str, float] = field(default_factory=dict)
    below: Literal["background", "ignore"] = "background"

    def filled(self, border: Border, stride_px: int | None = None) -> DenseOptions:
        """The same with these values where it has None."""
        stride_px = stride_px if self.stride_px is None else self.stride_px
        return replace(self, border=self.border or border, stride_px=stride_px)

    def changed(self) -> list[str]:
        """Names of the options that are not the defaults."""
        usual = asdict(DenseOptions())
        return [name for name, value in asdict(self).items() if value != usual[name]]

    def check(self) -> None:
        """Raises ModelError for values that no slide can be covered with."""
        if self.stride_px is not None and self.stride_px < 1:
            raise ModelError(f"--stride-px {self.stride_px}: expected 1 to the side of the network's output.")
        if not 0 <= self.min_tissue < 1:
            raise ModelError(f"--min-tissue {self.min_tissue:g}: expected a fraction, 0 to less than 1.")
        if not 0 <= self.saturation <= 255:
            raise ModelError(f"--saturation {self.saturation}: expected 0 to 255.")


@dataclass(frozen=True)
class Rule:
    """How probabilities become a class: ``limits`` (C,) float32, ``background`` and ``below`` are class indices."""

    limits: NDArray[np.float32]
    background: int
    below: int

    @classmethod
    def of(cls, classes: tuple[ClassSpec, ...], options: DenseOptions) -> Rule:
        names = [spec.name for spec in classes]
        given = [*options.thresholds, *([options.background] if options.background is not None else [])]
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ModelError(f"unknown class {unknown[0]!r}. The network's classes are: {', '.join(names)}.")
        limits = np.array([options.thresholds.get(name, options.threshold) for name in names], np.float32)
        name = options.background or "background"
        background = names.index(name) if name in names else 0
        return cls(limits, background, background if options.below == "background" else IGNORE)

    def labels(self, probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(…, C) to class indices (…)."""
        if not (self.limits > 0).any():
            return probabilities.argmax(axis=-1).astype(np.uint8)
        reached = np.where(probabilities >= self.limits, probabilities, -1)
        labels = reached.argmax(axis=-1).astype(np.uint8)
        labels[reached.max(axis=-1) < 0] = self.below
        return labels
