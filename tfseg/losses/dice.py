"""Soft Dice, plain or weighted by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfseg.losses.crossentropy import one_hot_labels
from tfseg.losses.weights import loss_class_weights
from tfseg.types import IGNORE


def soft_dice(
    truth: Any, probabilities: Any, squared: bool = True, smooth: float = 1.0, over_batch: bool = False
) -> Any:
    """Dice_c = (2 Σ p·t + s) / (Σ p² + Σ t² + s), p the probability and t the truth (0 or 1) of class c.

    The sums run over annotated pixels: of each image, or of the whole batch with ``over_batch``. s = ``smooth`` (in
    pixels) makes it 1 where class c is neither there nor predicted.

    Args:
        truth: one-hot (B, …, C), zeros where not annotated.
        probabilities: (B, …, C).
        squared: whether the denominator sums squares; else p and t themselves.

    Returns:
        (B, C), or (C,) with ``over_batch``; float32 under every precision policy.
    """
    predicted = ops.cast(probabilities, "float32") * ops.sum(truth, axis=-1, keepdims=True)
    pixels = tuple(range(0 if over_batch else 1, len(probabilities.shape) - 1))
    overlap = ops.sum(predicted * truth, axis=pixels)
    total = ops.sum(ops.square(predicted) + truth if squared else predicted + truth, axis=pixels)
    return (2 * overlap + smooth) / (total + smooth)


@keras.saving.register_keras_serializable("tfseg")
class SoftDice(keras.losses.Loss):
    """1 − soft Dice, averaged over the foreground classes 1 … C − 1; H2G-Net's refinement loss.

    Dice of :func:`soft_dice`: sums are over each image on its own (the authors' U-Net code; its mean over the batch is
    the loss), or over the whole batch with ``over_batch`` (their attention U-Nets).

    Labels are class indices (B, H, W) or one-hot (B, H, W, C), zeros where not annotated; predictions (B, H, W, C),
    C ≥ 2, sum to 1 over C. Computed in float32 under every precision policy.

    Args:
        ignore: label of pixels that nobody annotated.
        squared: whether the denominator sums squares; else p and t themselves.
        smooth: s, in pixels.
        over_batch: whether the sums run over the whole batch.
    """

    def __init__(
        self,
        ignore: int = IGNORE,
        squared: bool = True,
        smooth: float = 1.0,
        over_batch: bool = False,
        name: str = "soft_dice",
        **kwargs: Any,
    ):
        super().__init__(name=name, dtype=kwargs.pop("dtype", "float32"), **kwargs)
        self.ignore = ignore
        self.squared = squared
        self.smooth = smooth
        self.over_batch = over_batch

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns (B,); with ``over_batch``, the same value for each."""
        truth = one_hot_labels(y_true, y_pred, self.ignore)
        dice = soft_dice(truth, y_pred, self.squared, self.smooth, self.over_batch)
        return ops.broadcast_to(self.over_classes(dice, truth), ops.shape(y_pred)[:1])

    def over_classes(self, dice: Any, truth: Any) -> Any:
        """The loss from Dice by class: (B, C) → (B,), (C,) → scalar; ``truth`` is one-hot (B, …, C)."""
        return 1 - ops.mean(dice[..., 1:], axis=-1)

    def get_config(self) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in ("ignore", "squared", "smooth", "over_batch")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("tfseg")
class WeightedSoftDice(SoftDice):
    """Σ_c w_c · (1 − Dice_c) over the number of classes with w_c > 0; multi-stain multi-level network, "Loss Function".

    Class 0 is a class like the others. Weights compose as in :class:`tfseg.losses.WeightedCrossentropy`; with
    ``dynamic``, whose weights have mean 1, a class that is not in the batch counts neither above nor below. Without it
    such a class counts in both, with what of it is predicted where others are annotated. 0 where nothing is annotated.

    Args:
        class_weights: C static weights; None is 1 each; 0 leaves a class out.
        dynamic: multiply by :func:`tfseg.losses.weights.dynamic_class_weights`.
        ignore, squared, smooth: as in :class:`SoftDice`.
        over_batch: sums over the whole batch, as its weights are; False takes each image on its own.

    Differs from the paper in: its equation 4 is lost from the text; Dice is that of :func:`soft_dice`.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        dynamic: bool = False,
        ignore: int = IGNORE,
        squared: bool = True,
        smooth: float = 1.0,
        over_batch: bool = True,
        name: str = "weighted_soft_dice",
        **kwargs: Any,
    ):
        super().__init__(ignore, squared, smooth, over_batch, name=name, **kwargs)
        self.class_weights = None if class_weights is None else [float(w) for w in class_weights]
        self.dynamic = dynamic

    def over_classes(self, dice: Any, truth: Any) -> Any:
        weights = loss_class_weights(truth, self.class_weights, self.dynamic)
        classes = ops.maximum(ops.sum(ops.cast(weights > 0, "float32")), 1.0)
        return ops.sum(weights * (1 - dice), axis=-1) / classes

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "class_weights": self.class_weights, "dynamic": self.dynamic}
