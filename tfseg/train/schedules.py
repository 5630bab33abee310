"""Learning rates over the updates of a run."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfseg")
class StepwiseCyclic(keras.optimizers.schedules.LearningRateSchedule):
    """Stairs that fall within a cycle, and a jump back up, lower each time, at the start of the next.

    In cycle k (from 0) on stair j (from 0):

        rate · top_decay^k · stair_decay^j

    A cycle lasts ``cycle_steps`` updates of the optimizer, parted evenly into ``stairs``; cycles go on for ever. The
    multi-stain multi-level network's "stepwise cyclic learning rate starting from 0.001 with a decreased jump at each
    cycle" (section "Model"): its jumps, too, shrink by ``top_decay`` from cycle to cycle.

    Args:
        rate: top of the first cycle.
        cycle_steps: updates a cycle.
        stairs: plateaus a cycle.
        stair_decay: each stair is this part of the one before it.
        top_decay: the top of each cycle is this part of the last one's; above the lowest stair, so that the rate jumps
            up and not down.

    Raises:
        ValueError: a value is out of range.

    Differs from the paper in: it shows its curve in a picture that the text lost; length, number of stairs and both
    decays are free there.
    """

    def __init__(
        self,
        rate: float = 1e-3,
        cycle_steps: int = 2000,
        stairs: int = 4,
        stair_decay: float = 0.5,
        top_decay: float = 0.7,
    ):
        super().__init__()
        if rate <= 0 or not 1 <= stairs <= cycle_steps:
            raise ValueError(
                "rate must be above 0, and stairs between 1 and cycle_steps. "
                f"Received: rate={rate}, stairs={stairs}, cycle_steps={cycle_steps}."
            )
        lowest = stair_decay ** (stairs - 1)
        if not 0 < stair_decay <= 1 or not 0 < top_decay <= 1 or (stairs > 1 and top_decay <= lowest):
            raise ValueError(
                f"stair_decay and top_decay must be in (0, 1], and top_decay above the lowest stair ({lowest:g}), "
                f"or a new cycle begins below the last. Received: {stair_decay} and {top_decay}."
            )
        self.rate, self.cycle_steps, self.stairs = rate, cycle_steps, stairs
        self.stair_decay, self.top_decay = stair_decay, top_decay

    def __call__(self, step: Any) -> Any:
        """The rate of update ``step`` (from 0), a float32 scalar, or an array for an array of steps."""
        step = ops.cast(step, "int32")
        cycle = ops.cast(step // self.cycle_steps, "float32")
        stair = ops.cast(step % self.cycle_steps * self.stairs // self.cycle_steps, "float32")
        return self.rate * ops.power(self.top_decay, cycle) * ops.power(self.stair_decay, stair)

    def get_config(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("rate", "cycle_steps", "stairs", "stair_decay", "top_decay")}


def linear_scaled(rate: float, replicas: int) -> float:
    """The learning rate for ``replicas`` devices that each take a whole batch: ``rate · replicas`` (CD-UNET).

    Args:
        rate: for one device.
        replicas: devices in step; of a ``tf.distribute`` strategy, ``num_replicas_in_sync``.

    Raises:
        ValueError: fewer than one replica.
    """
    if replicas < 1:
        raise ValueError(f"replicas must be at least 1. Received: {replicas}.")
    return rate * replicas
