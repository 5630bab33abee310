"""Learning rates over a run, by hand."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

from tfseg.train.schedules import StepwiseCyclic, linear_scaled


def test_stairs_and_falling_tops_by_hand():
    schedule = StepwiseCyclic(1e-3, cycle_steps=6, stairs=3, stair_decay=0.5, top_decay=0.8)
    rates = [float(schedule(step)) for step in range(18)]
    cycle = np.array([1, 1, 0.5, 0.5, 0.25, 0.25])
    assert rates == pytest.approx(1e-3 * np.concatenate([cycle, 0.8 * cycle, 0.64 * cycle]), rel=1e-6)
    np.testing.assert_allclose(schedule(np.arange(18)), rates, rtol=1e-6)


def test_stairs_that_do_not_part_the_cycle_evenly():
    schedule = StepwiseCyclic(1.0, cycle_steps=5, stairs=2, stair_decay=0.5)
    assert [float(schedule(step)) for step in range(6)] == pytest.approx([1, 1, 1, 0.5, 0.5, 0.7])


def test_jumps_shrink_and_all_go_up():
    schedule = StepwiseCyclic()
    starts = np.arange(1, 6) * schedule.cycle_steps
    jumps = [float(schedule(step)) - float(schedule(step - 1)) for step in starts]
    assert all(jump > 0 for jump in jumps)
    assert [b / a for a, b in itertools.pairwise(jumps)] == pytest.approx([0.7] * 4, rel=1e-4)
    assert float(schedule(0)) == pytest.approx(1e-3)


def test_reloads():
    schedule = StepwiseCyclic(0.2, 30, 5, 0.6, 0.9)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert again.get_config() == schedule.get_config()
    assert float(again(37)) == float(schedule(37))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 0.0}, "rate must be above 0"),
        ({"stairs": 3, "cycle_steps": 2}, "between 1 and cycle_steps"),
        ({"stairs": 0}, "between 1 and cycle_steps"),
        ({"stair_decay": 1.5}, r"in \(0, 1\]"),
        ({"stairs": 3, "stair_decay": 0.9, "top_decay": 0.8}, r"above the lowest stair \(0.81\)"),
    ],
)
def test_what_cannot_work_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        StepwiseCyclic(**arguments)


def test_linear_scaling():
    assert linear_scaled(0.001, 15) == pytest.approx(0.015)
    with pytest.raises(ValueError, match=r"at least 1. Received: 0"):
        linear_scaled(0.001, 0)
