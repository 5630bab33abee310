"""How the patches of an index are found and labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tfseg.slides.class_table import ClassTable
from tfseg.types import CohortError, Window

MAJORITY: Literal["majority"] = "majority"
"""Class rule: the class with the most annotated pixels."""


@dataclass(frozen=True)
class IndexConfig:
    """How patches are found and labelled. Defaults are H2G-Net's, section 2.2.

    Attributes:
        patch_px: side of a patch.
        stride_px: step between patches.
        mpp: µm/px of the patches; 1.0 is 10x.
        min_tissue: patches with more than this fraction of tissue are kept. What lies outside the slide is no tissue;
            a patch whose centre is outside is never kept.
        min_foreground: a patch with more than this fraction of foreground (any class but 0) belongs to the foreground
            class that covers most of it; without any foreground and wholly annotated it is of class 0; else it is
            dropped.
        label_mpp: µm/px at which annotations are rasterised to measure these fractions; None takes 4 · mpp. "Without
            any foreground" is thus meant at this resolution.
        tissue: arguments of ``tfseg.slides.tissue.tissue_mask``.

    Raises:
        CohortError: a value makes no sense.
    """

    kind: ClassVar[str] = "patches"

    patch_px: int = 256
    stride_px: int = 256
    mpp: float = 1.0
    min_tissue: float = 0.25
    min_foreground: float = 0.25
    label_mpp: float | None = None
    tissue: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_positive(self, "patch_px", "stride_px", "mpp", "label_mpp")
        _check_fraction(self, "min_tissue", "min_foreground")

    def window(self, x: float, y: float) -> Window:
        """The patch whose centre is (x, y), in level-0 pixels."""
        return Window(x, y, self.patch_px, self.patch_px, self.mpp)


@dataclass(frozen=True)
class DenseIndexConfig:
    """How the windows of a segmentation network are found. Defaults are the DMMN paper's, section 2.2.

    A window is known by its target: the pixels whose labels the network learns. The wider fields around it, of
    whatever pixel size, share its centre and are read when training.

    Attributes:
        target_px: side of the target.
        stride_px: step between targets.
        mpp: µm/px of the target; 0.5 is 20x.
        min_annotated: windows with more than this fraction of annotated target pixels are kept. What lies outside the
            slide is not annotated.
        min_tissue: windows with more than this fraction of tissue in the target are kept; None keeps glass as well,
            which the paper needs for its class background.
        class_rule: class of a window, for samplers: "majority" of its annotated pixels, or names of classes, first
            the one that wins wherever it occurs; a window with none of them goes by majority.
        tissue: arguments of ``tfseg.slides.tissue.tissue_mask``.

    Raises:
        CohortError: a value makes no sense.
    """

    kind: ClassVar[str] = "dense"

    target_px: int = 256
    stride_px: int = 256
    mpp: float = 0.5
    min_annotated: float = 0.01
    min_tissue: float | None = None
    class_rule: Literal["majority"] | tuple[str, ...] = MAJORITY
    tissue: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.class_rule, str):
            object.__setattr__(self, "class_rule", tuple(self.class_rule))
        _check_positive(self, "target_px", "stride_px", "mpp")
        _check_fraction(self, "min_annotated", "min_tissue")
        if self.class_rule != MAJORITY and (isinstance(self.class_rule, str) or not self.class_rule):
            raise CohortError(
                f"index: class_rule is {MAJORITY!r} or names of classes in order. Received: {self.class_rule!r}."
            )

    @property
    def patch_px(self) -> int:
        """Side of the target: what the grid is made of."""
        return self.target_px

    def window(self, x: float, y: float) -> Window:
        """The target whose centre is (x, y), in level-0 pixels."""
        return Window(x, y, self.target_px, self.target_px, self.mpp)

    def order(self, classes: ClassTable) -> tuple[int, ...]:
        """Class indices that win over others, first the strongest; none by majority.

        Raises:
            CohortError: a name is no class.
        """
        return () if self.class_rule == MAJORITY else class_order(self.class_rule, classes)


def class_order(names: Sequence[str], classes: ClassTable) -> tuple[int, ...]:
    """Class indices of names, in their order.

    Raises:
        CohortError: a name is no class, or stands twice.
    """
    known = [spec.name for spec in classes.classes]
    wrong = [name for name in names if name not in known]
    if wrong or len(set(names)) < len(names):
        what = f"no class {', '.join(map(repr, wrong))}" if wrong else "a class stands twice"
        raise CohortError(f"class order {' > '.join(names)}: {what}. Classes: {classes.known()}.")
    return tuple(known.index(name) for name in names)


def _check_positive(config: IndexConfig | DenseIndexConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise CohortError(f"index: {name} must be above 0. Received: {value}.")


def _check_fraction(config: IndexConfig | DenseIndexConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            raise CohortError(f"index: {name} is a fraction, 0 ≤ value < 1. Received: {value}.")
