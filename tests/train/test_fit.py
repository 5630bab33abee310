"""The loop: exact resume, early stopping, errors that say what to do."""

from __future__ import annotations

import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from tfseg.train.fit import TrainConfig, TrainingInterrupted, fit, precision, reproducible
from tfseg.train.step import Objective, Stepper, output_loss
from tfseg.types import TfsegError


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the loop may catch it and save."""


def killed_at(step: int):
    """The toy's stream that dies when batch ``step`` is asked for."""

    def data(start: int):
        class Batches:
            def __iter__(self):
                for k, batch in enumerate(toy.stream(start), start):
                    if k == step:
                        raise Killed
                    yield batch

            def take(self, count):
                return toy.stream(start).take(count)

        return Batches()

    return data


def assert_same_run(a, b):
    first, second = toy.state(a), toy.state(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    assert (a / "history.csv").read_bytes() == (b / "history.csv").read_bytes()
    with np.load(a / "best.npz") as x, np.load(b / "best.npz") as y:
        for name in x.files:
            np.testing.assert_array_equal(x[name], y[name], err_msg=name)


@pytest.mark.parametrize("step", [1, 7, 10])
def test_killed_between_two_steps_and_resumed_equals_never_killed(tmp_path, step):
    changes = {"accumulation_steps": 3, "save_every_steps": 2, "reestimate_batches": 2}
    toy.train(tmp_path / "whole", **changes)
    with pytest.raises(Killed):
        toy.train(tmp_path / "killed", data=killed_at(step), **changes)
    toy.train(tmp_path / "killed", **changes)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
