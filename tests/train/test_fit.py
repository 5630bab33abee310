"""The loop: exact resume, early stopping, errors that say what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from tfseg import models
from tfseg.train.fit import TrainConfig, fit, precision, reproducible
from tfseg.train.interrupt import TrainingInterruptedError
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


def test_sigkill_in_a_process_and_resumed_equals_never_killed(tmp_path):
    """The real thing: the process dies at once, whatever it is doing."""
    script = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; import toy\n"
        "from tfseg.train import step\n"
        "real = step.Stepper.train\n"
        "def train(self, inputs, targets, number):\n"
        "    if number == 9: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(self, inputs, targets, number)\n"
        "step.Stepper.train = train\n"
        "toy.train(Path(sys.argv[1]), accumulation_steps=2, save_every_steps=3)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path / "killed", Path(toy.__file__).parent], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert not list((tmp_path / "killed").glob(".partial*"))
    changes = {"accumulation_steps": 2, "save_every_steps": 3}
    toy.train(tmp_path / "killed", **changes)
    toy.train(tmp_path / "whole", **changes)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("where", ["train", "validate"])
def test_ctrl_c_saves_the_state_and_says_how_to_go_on(tmp_path, monkeypatch, where):
    toy.train(tmp_path / "whole", reestimate_batches=2)
    real, calls = getattr(Stepper, where), []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *arguments)

    monkeypatch.setattr(Stepper, where, interrupted)
    with pytest.raises(TrainingInterruptedError, match=r"after step \d+.*last.npz.*same command again"):
        toy.train(tmp_path / "stopped", reestimate_batches=2)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    toy.train(tmp_path / "stopped", reestimate_batches=2)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_same_seed_same_weights(tmp_path):
    weights = [toy.train(tmp_path / name, seed=seed)[0].get_weights() for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    for a, b in zip(weights[0], weights[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != c).any() for a, c in zip(weights[0], weights[2], strict=True))


def test_reproducible_switches_graph_rewriting_off():
    reproducible(0)
    assert tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"]


@pytest.mark.slow
def test_gradients_of_a_large_network_do_not_depend_on_which_thread_is_first():
    """TensorFlow rewrites sums of large gradients into sums in the order of arrival unless it is told not to."""
    reproducible(0)
    model = models.build("mobilenetv2_classifier", weights=None, alpha=0.35, size_px=256)
    images = tf.constant(np.random.default_rng(0).random((32, 256, 256, 3), np.float32) * 255)
    start = [variable.numpy() for variable in model.variables]

    @tf.function(autograph=False)
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.math.log(model({"image": images}, training=True)["probabilities"][:, 0]))
        found = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        return tf.concat([tf.reshape(gradient, [-1]) for gradient in found], 0)

    results = []
    for _ in range(8):
        for variable, value in zip(model.variables, start, strict=True):
            variable.assign(value)
        results.append(gradients().numpy())
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_accumulated_gradients_equal_one_large_batch():
    """Also for Adam, whose first steps depend on the number of updates."""

    def stepper(accumulation):
        reproducible(3)
        image = keras.Input((4,), name="image")
        model = keras.Model(image, keras.layers.Dense(2, activation="softmax", name="probabilities")(image))
        return Stepper(model, toy.objective(), keras.optimizers.Adam(0.1), accumulation)

    many, one = stepper(3), stepper(1)
    images = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    labels = np.eye(2, dtype=np.float32)[np.arange(12) % 2]
    for step in range(1, 7):
        part = slice((step - 1) % 3 * 4, (step - 1) % 3 * 4 + 4)
        many.train({"image": images[part]}, {"probabilities": labels[part]}, step)
    for step in (1, 2):
        one.train({"image": images}, {"probabilities": labels}, step)
    for a, b in zip(many.model.get_weights(), one.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert int(many.optimizer.iterations) == 2


def test_mixed_precision_trains_scales_the_loss_and_resumes(tmp_path):
    def train(folder, data=toy.stream):
        reproducible(0)
        with precision("mixed_float16"):
            model = toy.network()
        return fit(model, data, toy.validation(), toy.config(accumulation_steps=2), folder, toy.objective())

    result = train(tmp_path / "whole")
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    with pytest.raises(Killed):
        train(tmp_path / "killed", killed_at(7))
    train(tmp_path / "killed")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert keras.config.dtype_policy().name == "float32"


def test_float16_overflow_skips_the_cycle_and_halves_the_scale():
    with precision("mixed_float16"):
        model = toy.network()
    stepper = Stepper(model, toy.objective(), keras.optimizers.Adam(0.1), 2)
    stepper.optimizer.dynamic_scale.assign(1e38)
    before = model.trainable_variables[0].numpy()
    for step in (1, 2):
        inputs, targets = next(iter(toy.stream(step)))
        assert np.isfinite(stepper.train(inputs, targets, step))
    np.testing.assert_array_equal(model.trainable_variables[0].numpy(), before)
    assert float(stepper.optimizer.dynamic_scale) == pytest.approx(0.5e38)
    assert all(np.all(total.numpy() == 0) for total in stepper.sums)


def test_other_settings_are_refused_by_name(tmp_path):
    toy.train(tmp_path)
    with pytest.raises(TfsegError, match=r"(?s)train.epochs: 3 → 4.*train.learning_rate: 0.01 → 0.1"):
        toy.train(tmp_path, epochs=4, learning_rate=0.1)


def test_a_finished_run_returns_at_once_with_the_best_weights(tmp_path):
    model, result = toy.train(tmp_path)
    again, same = toy.train(tmp_path, data=lambda start: pytest.fail("read data of a finished run"))
    assert same == result
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_early_stopping_keeps_the_best_epoch(tmp_path):
    """A learning rate that ruins the network: the first epoch stays the best."""
    reproducible(0)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([4], [0.01, 500.0])
    objective = toy.objective(keras.optimizers.SGD(schedule))
    config = toy.config(epochs=20, patience=2)
    result = fit(toy.network(), toy.stream, toy.validation(), config, tmp_path, objective)
    assert result.best_epoch == 1
    assert len(result.history) == 3
    assert result.best_score == result.history[0]["val_loss"]


def test_not_a_number_stops_with_step_and_advice_and_keeps_the_last_state(tmp_path):
    def poisoned(start):
        def poison(k, batch):
            inputs, targets = batch
            return {"image": tf.where(k == 7, np.nan, 1.0) * inputs["image"]}, targets

        return toy.stream(start).enumerate(start).map(poison)

    with pytest.raises(TfsegError, match=r"(?s)nan at step 8 \(epoch 2\).*last.npz.*smaller learning rate"):
        toy.train(tmp_path, data=poisoned)
    assert all(np.isfinite(v).all() for k, v in toy.state(tmp_path).items() if k != "progress")


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"monitor": "val_dice"}, toy.stream, "'val_dice' is missing.*val_loss="),
        ({}, lambda start: toy.stream(start).take(3), "ended before step 4"),
        ({"mode": "best"}, toy.stream, "'min' or 'max'"),
        ({"epochs": 0}, toy.stream, "epochs must be at least 1"),
    ],
)
def test_what_cannot_work_is_said(tmp_path, changes, data, message):
    with pytest.raises(TfsegError, match=message):
        toy.train(tmp_path, data=data, **changes)


def test_endless_validation_is_refused(tmp_path):
    with pytest.raises(TfsegError, match="no end; set validation_steps"):
        fit(toy.network(), toy.stream, toy.stream(0), toy.config(), tmp_path, toy.objective())


def test_trains_without_validation_data(tmp_path):
    result = fit(toy.network(), toy.stream, None, toy.config(monitor="loss"), tmp_path, toy.objective())
    assert not any(name.startswith("val_") for name in result.history[0])


def test_several_terms_are_summed_and_logged(tmp_path):
    squared = output_loss("probabilities", keras.losses.MeanSquaredError(), weight=2.0)
    terms = Objective({**toy.objective().losses, "squared": squared})
    row = fit(toy.network(), toy.stream, toy.validation(), toy.config(epochs=1), tmp_path, terms).history[0]
    for part in ("", "val_"):
        assert row[f"{part}loss"] == pytest.approx(row[f"{part}crossentropy"] + row[f"{part}squared"], rel=1e-5)


def test_defaults_are_the_papers():
    config = TrainConfig()
    assert (config.epochs, config.steps_per_epoch, config.validation_steps) == (100, 500, 200)
    assert config.learning_rate == 1e-4
