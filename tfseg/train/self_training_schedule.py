"""What changes from step to step of iterative training; table 8 of the multi-stain multi-level network."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tfseg.train.segmentation_settings import LossSettings, SegmentationSettings
from tfseg.types import TfsegError


@dataclass(frozen=True)
class Step:
    """One step of iterative training.

    Attributes:
        name: of its folder.
        settings: how its network is trained.
        threshold: of its own predictions: pixels where the highest probability is lower stay without a label. The
            next step learns from them.
    """

    name: str
    settings: SegmentationSettings
    threshold: float


@dataclass(frozen=True)
class Schedule:
    """What changes from step to step, first the base model; defaults are those of table 8.

    Attributes:
        thresholds: of each step's predictions.
        learning_rates: of each step's first cycle.
        epochs: of each step.
        dynamic: whether the weights of classes are those of each batch; otherwise those of the network's settings.
        augments: keys of ``tfseg.train.segmentation.AUGMENTS``.
    """

    thresholds: tuple[float, ...] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
    learning_rates: tuple[float, ...] = (0.01, 0.005, 0.001, 0.0007, 0.0005, 0.0001)
    epochs: tuple[int, ...] = (20, 5, 5, 5, 5, 10)
    dynamic: tuple[bool, ...] = (False, True, True, True, True, False)
    augments: tuple[str, ...] = tuple(f"multi_level_{level}" for level in range(6))

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in vars(self).items()}
        if len(set(lengths.values())) != 1 or not self.thresholds:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise TfsegError(f"iterative training: expected as many of each as there are steps. Received: {found}.")
        if not all(0 <= one <= 1 for one in self.thresholds):
            raise TfsegError(f"iterative training: thresholds are in 0..1. Received: {self.thresholds}.")

    def steps(self, base: SegmentationSettings, rounds: SegmentationSettings) -> tuple[Step, ...]:
        """The base model, and rounds of another network (or the same)."""
        found = []
        for number, (threshold, rate, epochs, dynamic, augment) in enumerate(
            zip(self.thresholds, self.learning_rates, self.epochs, self.dynamic, self.augments, strict=True)
        ):
            one = rounds if number else base
            settings = dataclasses.replace(
                one,
                augment=augment,
                loss=_dynamic(one.loss) if dynamic else one.loss,
                train=dataclasses.replace(one.train, epochs=epochs, learning_rate=rate),
            )
            found.append(Step(f"round_{number}" if number else "base", settings, threshold))
        return tuple(found)


def _dynamic(loss: LossSettings) -> LossSettings:
    return dataclasses.replace(loss, class_rule="uniform", class_weights=(), dynamic=True)
