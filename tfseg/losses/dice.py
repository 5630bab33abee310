"""Soft Dice."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfseg.losses.crossentropy import one_hot_labels
from tfseg.types import IGNORE


@keras.saving.register_keras_serializable("tfseg")
class SoftDice(keras.losses.Loss):
    """1 − soft Dice, averaged over the foreground classes 1 … C − 1; H2G-Net's refinement loss.

    Dice_c = (2 Σ p·t + s) / (Σ p² + Σ t² + s) with p the probability and t the truth (0 or 1) of class c, sums over the
    annotated pixels, and s = ``smooth``, which makes it 1 where class c is neither there nor predicted. Sums are over
    each image on its own (the authors' U-Net code; its mean over the batch is the loss), or over the whole batch with
    ``over_batch`` (their attention U-Nets).

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
        known = ops.sum(truth, axis=-1, keepdims=True)
        truth = truth[..., 1:]
        predicted = ops.cast(y_pred, "float32")[..., 1:] * known
        pixels = tuple(range(0 if self.over_batch else 1, len(y_pred.shape) - 1))
        overlap = ops.sum(predicted * truth, axis=pixels)
        total = ops.sum(ops.square(predicted) + truth if self.squared else predicted + truth, axis=pixels)
        dice = (2 * overlap + self.smooth) / (total + self.smooth)
        loss = 1 - ops.mean(dice, axis=-1)
        return ops.broadcast_to(loss, ops.shape(y_pred)[:1])

    def get_config(self) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in ("ignore", "squared", "smooth", "over_batch")}
        return {**super().get_config(), **own}
