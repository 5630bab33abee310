"""SGD as in PyTorch: by hand, and in a run."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import toy
from test_fit import Killed, assert_same_run, killed_at

from tfseg.train.fit import fit, precision, reproducible
from tfseg.train.optimizers import CoupledSGD, sgd
from tfseg.train.schedules import StepwiseCyclic
from tfseg.train.step import Stepper


def steps(optimizer, gradients, start=1.0):
    """Values of a lone variable after each gradient."""
    variable = keras.Variable([start], dtype="float32")
    optimizer.build([variable])
    values = []
    for gradient in gradients:
        optimizer.apply([np.array([gradient], "float32")], [variable])
        values.append(float(variable[0]))
    return values


@pytest.mark.parametrize(
    ("rate", "momentum", "decay", "expected"),
    [
        # v = 0.5, 0.4 + 0.9 · 0.5, … ; w = 1 − 0.1 v
        (0.1, 0.0, 0.0, [0.95, 0.97, 0.87]),
        (0.1, 0.9, 0.0, [0.95, 0.925, 0.8025]),
        # v = 0.5 + 0.2 · 1 = 0.7, w = 0.93; v = 0.63 − 0.2 + 0.186 = 0.616, w = 0.8684;
        # v = 0.5544 + 1 + 0.17368 = 1.72808, w = 0.695592
        (0.1, 0.9, 0.2, [0.93, 0.8684, 0.695592]),
        (0.5, 0.0, 0.2, [0.65, 0.685, 0.1165]),
    ],
)
def test_three_steps_by_hand(rate, momentum, decay, expected):
    assert steps(sgd(rate, momentum, decay), [0.5, -0.2, 1.0]) == pytest.approx(expected, rel=1e-6)


def test_a_falling_rate_acts_on_the_whole_velocity():
    """As PyTorch, unlike Keras and Caffe: v = 1, 1.9, 2.71 whatever the rate."""
    falling = StepwiseCyclic(0.1, cycle_steps=4, stairs=4, stair_decay=0.5)
    expected = np.cumsum([-0.1 * 1, -0.05 * 1.9, -0.025 * 2.71]) + 1
    assert steps(sgd(falling, 0.9), [1.0] * 3) == pytest.approx(expected, rel=1e-6)
    constant = steps(keras.optimizers.SGD(0.1, momentum=0.9), [1.0] * 3)
    assert steps(sgd(0.1, 0.9), [1.0] * 3) == pytest.approx(constant, rel=1e-6)


def test_all_gradients_together_are_clipped_and_then_the_decay_added():
    """Their norm is 5, so both are halved: v = 1.5 + 0.2 · 1 and 2 + 0.2 · 1."""
    optimizer = sgd(0.1, 0.9, 0.2, clip_norm=2.5)
    variables = [keras.Variable([1.0], dtype="float32") for _ in range(2)]
    optimizer.build(variables)
    optimizer.apply([np.array([one], "float32") for one in (3, 4)], variables)
    assert [float(one[0]) for one in variables] == pytest.approx([1 - 0.1 * 1.7, 1 - 0.1 * 2.2], rel=1e-6)
    optimizer.apply([np.array([one], "float32") for one in (0.3, 0.4)], variables)
    second = [0.83 - 0.1 * (0.9 * 1.7 + 0.3 + 0.2 * 0.83), 0.78 - 0.1 * (0.9 * 2.2 + 0.4 + 0.2 * 0.78)]
    assert [float(one[0]) for one in variables] == pytest.approx(second, rel=1e-6)


@pytest.mark.parametrize("norm", [0.0, -1.0])
def test_a_norm_to_clip_to_that_cannot_be(norm):
    with pytest.raises(ValueError, match="clip_norm must be above 0"):
        sgd(0.1, clip_norm=norm)


def test_every_weight_decays_biases_too():
    model = toy.network()
    optimizer = sgd(0.5, 0.0, 0.2)
    before = [v.numpy() for v in model.trainable_variables]
    optimizer.apply([np.zeros(v.shape, "float32") for v in before], model.trainable_variables)
    for old, new in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_allclose(new.numpy(), 0.9 * old, rtol=1e-6)


@pytest.mark.parametrize(("momentum", "decay"), [(1.0, 0.0), (-0.1, 0.0), (0.9, -1e-4)])
def test_what_is_out_of_range(momentum, decay):
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\) and l2 at least 0"):
        sgd(0.1, momentum, decay)


def test_reloads_with_its_schedule():
    optimizer = sgd(StepwiseCyclic(0.2, 8), 0.9, 1e-4)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again, CoupledSGD)
    assert again.get_config() == optimizer.get_config()
    assert float(again.learning_rate) == pytest.approx(0.2)


def test_a_run_follows_the_schedule_and_resumes_exactly(tmp_path):
    def train(folder, data=toy.stream):
        reproducible(0)
        optimizer = sgd(StepwiseCyclic(0.05, cycle_steps=6, stairs=3), 0.9, 1e-4)
        return fit(toy.network(), data, toy.validation(), toy.config(epochs=2), folder, toy.objective(optimizer))

    result = train(tmp_path / "whole")
    # Two epochs of 5 updates: the rates of updates 5 and 10, both on the third stair of their cycle.
    rates = [0.05 * 0.25, 0.05 * 0.7 * 0.25]
    assert [row["learning_rate"] for row in result.history] == pytest.approx(rates)
    with pytest.raises(Killed):
        train(tmp_path / "killed", killed_at(7))
    train(tmp_path / "killed")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_schedule_counts_updates_not_batches(policy):
    reproducible(0)
    with precision(policy):
        model = toy.network()
    stepper = Stepper(model, toy.objective(), sgd(StepwiseCyclic(0.05, 2, stairs=2)), accumulation=3)
    for step in range(1, 4):
        assert float(stepper.optimizer.learning_rate) == pytest.approx(0.05)
        stepper.train(*next(iter(toy.stream(step))), step)
    assert float(stepper.optimizer.learning_rate) == pytest.approx(0.025)
