"""Settings of the training of a dense network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tfseg.data.dense_augment import CD_UNET_AUGMENT, DMMN_AUGMENT, LEVELS, DenseAugment, multi_level_augment
from tfseg.train.fit import TrainConfig

AUGMENTS: dict[str, DenseAugment | None] = {
    "none": None,
    "dmmn": DMMN_AUGMENT,
    "cd_unet": CD_UNET_AUGMENT,
    **{f"multi_level_{level}": multi_level_augment(level) for level in range(LEVELS)},
}
"""Augmentations by name: those of the three papers, of the multi-level network's one a step of iterative training."""


@dataclass(frozen=True)
class LossSettings:
    """What is minimised: Σ over outputs, output weight · (crossentropy · weighted cross-entropy + dice · soft Dice).

    Attributes:
        crossentropy, dice: weights of the two terms; 0 leaves one out.
        class_rule: weights of classes from the training windows' annotated pixels: "inverse" (1 − N_c / ΣN),
            "median_frequency" or "uniform".
        class_weights: one a class in the place of the rule's; none takes the rule's.
        dynamic: multiply by weights from the pixels of each batch; with class_rule "uniform" they stand alone.
        over_all: cross-entropy is averaged over all pixels of the batch (DMMN, equation 1), not the annotated ones.
        output_weights: by output name; those that are not named weigh 1.
    """

    crossentropy: float = 1.0
    dice: float = 0.0
    class_rule: Literal["inverse", "median_frequency", "uniform"] = "inverse"
    class_weights: tuple[float, ...] = ()
    dynamic: bool = False
    over_all: bool = True
    output_weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerSettings:
    """How it is minimised; the learning rate is ``TrainConfig.learning_rate``.

    Attributes:
        kind: "sgd", with coupled L2 as in PyTorch, or "adam".
        momentum, weight_decay: of SGD; Adam takes neither.
        schedule: "constant", or "cyclic": :class:`tfseg.train.schedules.StepwiseCyclic`.
        cycle_steps, stairs, stair_decay, top_decay: of the cycles; steps are updates of the optimizer.
        replicas: devices in step, each with a batch, that the run stands for: the learning rate is multiplied by it
            (CD-UNET), and gradients of so many batches are averaged for an update.
    """

    kind: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.99
    weight_decay: float = 1e-4
    schedule: Literal["constant", "cyclic"] = "constant"
    cycle_steps: int = 2000
    stairs: int = 4
    stair_decay: float = 0.5
    top_decay: float = 0.7
    replicas: int = 1


def one_pass_epochs(epochs: int = 20, learning_rate: float = 5e-5) -> TrainConfig:
    """Each epoch once over the windows, validation on all of them, the best mean IoU is kept; DMMN, section 2.5."""
    return TrainConfig(
        epochs=epochs,
        steps_per_epoch=0,
        validation_steps=None,
        learning_rate=learning_rate,
        monitor="val_mean_iou",
        mode="max",
    )


@dataclass(frozen=True)
class SegmentationSettings:
    """Settings of a dense network; the defaults are those of DMMN-M3, section 2.5, where the paper gives one.

    Attributes:
        architecture: key of ``tfseg.models.MODELS``, of a network that labels pixels.
        size_px: side of every field; None takes the side of the index's windows.
        mpp: µm/px of the first field; None takes that of the index.
        mpps: µm/px of the fields, finest first; none takes the ratios of the architecture's paper from ``mpp`` on.
        widths: channels from the finest level on; none takes the architecture's.
        arguments: further ones of its builder, for example {"encoder": "efficientnetb0"}.
        weights: of the encoder, where it has one: "imagenet", a path, or None for random ones.
        start_from: model folder of the same network to take the first weights from.
        batch_size: windows a batch, also in validation. (The paper does not say.)
        loss: what is minimised.
        optimizer: how.
        augment: key of ``AUGMENTS``.
        elastic: deformed copies of training and validation windows by class, as CLASS=COPIES, first the class that wins
            where several occur; ("dmmn",) takes that paper's, none makes no copies.
        sampling: columns of the index between which draws are uniform, step by step; none takes every window once an
            epoch.
        ratio: draws by class in each batch, as {"tumour": 2, "normal": 1, "others": 1}; ``sampling`` then goes on
            within the class.
        train: epochs, steps, learning rate and so on; its seed is that of everything. ``steps_per_epoch`` 0 is one
            pass over the windows; ``validation_steps`` None validates on every window once instead of on draws.
        precision: "float32", "mixed_float16" or "mixed_bfloat16".
        threads: that read windows.
        train_split, validation_split: values of the index's column split.
    """

    architecture: str = "dmmn_m3"
    size_px: int | None = None
    mpp: float | None = None
    mpps: tuple[float, ...] = ()
    widths: tuple[int, ...] = ()
    arguments: dict[str, int | float | bool | str] = field(default_factory=dict)
    weights: str | None = None
    start_from: str | None = None
    batch_size: int = 8
    loss: LossSettings = field(default_factory=LossSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    augment: Literal[tuple(AUGMENTS)] = "dmmn"  # type: ignore[valid-type]
    elastic: tuple[str, ...] = ()
    sampling: tuple[str, ...] = ()
    ratio: dict[str, int] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=one_pass_epochs)
    precision: str = "float32"
    threads: int = 8
    train_split: str = "train"
    validation_split: str = "val"
