"""Optimizers that Keras does not have."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfseg")
class CoupledSGD(keras.optimizers.Optimizer):
    """Stochastic gradient descent with momentum and L2 decay coupled to it, as PyTorch's ``SGD(weight_decay=…)``.

    For every trainable variable w, biases too, with gradient g, momentum μ, decay λ and learning rate η:

        v ← μ · v + g + λ · w        (v is 0 at the start)
        w ← w − η · v

    Keras' own ``SGD(weight_decay=…)`` is another method: it shrinks w beside the momentum, and keeps η inside v, which
    is the same for a constant learning rate alone.

    Args:
        learning_rate: η, number or schedule.
        momentum: μ, in [0, 1).
        l2: λ. (Keras' ``weight_decay`` means its own, so this has another name.)
        kwargs: of ``keras.optimizers.Optimizer``, such as ``global_clipnorm``.

    Raises:
        ValueError: μ or λ out of range.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.01,
        momentum: float = 0.0,
        l2: float = 0.0,
        name: str = "coupled_sgd",
        **kwargs: Any,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if not 0 <= momentum < 1 or l2 < 0:
            raise ValueError(f"momentum must be in [0, 1) and l2 at least 0. Received: {momentum} and {l2}.")
        self.momentum, self.l2 = momentum, l2

    def build(self, variables: list[keras.Variable]) -> None:
        if not self.built:
            super().build(variables)
            self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        gradient = ops.cast(gradient, variable.dtype) + self.l2 * variable
        velocity = self.velocities[self._get_variable_index(variable)]
        self.assign(velocity, self.momentum * velocity + gradient)
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * velocity)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "l2": self.l2}


def sgd(
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> CoupledSGD:
    """SGD as the papers that train in PyTorch mean it; see :class:`CoupledSGD`.

    With ``clip_norm``, gradients whose joint Euclidean norm is larger are first scaled down to it.

    Deep multi-magnification networks (section 2.5): ``sgd(5e-5, 0.99, 1e-4)``. CD-UNET: ``sgd(linear_scaled(1e-3,
    replicas), 0.9)``.
    """
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm must be above 0, or None to clip nothing. Received: {clip_norm}.")
    return CoupledSGD(learning_rate, momentum, weight_decay, global_clipnorm=clip_norm)
