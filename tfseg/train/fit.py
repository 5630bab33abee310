"""The training loop: plain, exact to resume, and the same for every network."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfseg.train import checkpoint
from tfseg.train.batch_norm import BatchNormEstimator
from tfseg.train.checkpoint import Progress
from tfseg.train.interrupt import TrainingInterruptedError, stop_request
from tfseg.train.log import PREFIX, RunLog, Screen, write_csv
from tfseg.train.run_config import record_start, versions
from tfseg.train.step import Objective, Stepper, model_inputs
from tfseg.types import TfsegError

TrainData = Callable[[int], tf.data.Dataset]


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        epochs: most epochs.
        steps_per_epoch: training batches an epoch; 0 is one pass over the data, where the stage knows its length (the
            refinement stage; :func:`fit` itself wants a number).
        validation_steps: validation batches an epoch; None is the whole validation data set.
        learning_rate: of Adam, where the objective brings no optimizer.
        accumulation_steps: batches whose gradients are averaged for one update. A cycle may span epochs.
        monitor: column of the log that decides which epoch is best.
        mode: "min" or "max".
        patience: stop after this many epochs without a better score; None never stops early.
        save_every_steps: save the state this often within an epoch, too; 0 saves after each epoch only.
        reestimate_batches: before each validation, set batch-normalisation statistics to those of the first so many
            training batches (see :mod:`tfseg.train.batch_norm`), so that what is validated is what is saved; 0 keeps
            the moving averages, as the papers do. Wanted where an epoch has fewer than some hundred steps.
        seed: recorded; call :func:`reproducible` with it before the network is built.
    """

    epochs: int = 100
    steps_per_epoch: int = 500
    validation_steps: int | None = 200
    learning_rate: float = 1e-4
    accumulation_steps: int = 1
    monitor: str = "val_loss"
    mode: str = "min"
    patience: int | None = None
    save_every_steps: int = 0
    reestimate_batches: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("steps_per_epoch", 0), ("accumulation_steps", 1)):
            if getattr(self, name) < least:
                raise TfsegError(f"training: {name} must be at least {least}. Received: {getattr(self, name)}.")
        if self.mode not in ("min", "max"):
            raise TfsegError(f"training: mode must be 'min' or 'max'. Received: {self.mode!r}.")

    def better(self, score: float, best: float | None) -> bool:
        """Whether ``score`` beats ``best``."""
        return best is None or (score < best if self.mode == "min" else score > best)


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a run; the network holds the weights of the best epoch.

    Attributes:
        best_epoch: from 1.
        best_score: the monitored score there.
        run_folder: holds run.json, history.csv, curves.png, tensorboard/, best.npz and last.npz.
        history: the rows of history.csv.
    """

    best_epoch: int
    best_score: float
    run_folder: Path
    history: list[dict[str, float]] = field(default_factory=list)

    def provenance(self, seed: int) -> dict[str, Any]:
        """What a model's spec says of its training: scores of the best epoch, seed, versions."""
        scores = self.history[self.best_epoch - 1]
        return {"best_epoch": self.best_epoch, "scores": scores, "seed": seed, "versions": versions()}


def reproducible(seed: int, deterministic_ops: bool = False) -> None:
    """Seeds Python, NumPy, TensorFlow and Keras. Call it before the network is built.

    On a CPU the same seed then gives the same weights, bit for bit, with the same versions, number of threads and kind
    of processor. For that TensorFlow's graph rewriting is switched off for the process: its memory pass turns sums of
    gradients into sums in the order in which the threads happen to finish. On a GPU it also needs
    ``deterministic_ops``, which slows some layers down, holds for the whole process, and makes TensorFlow run stateful
    Python functions in tf.data one at a time.
    """
    keras.utils.set_random_seed(seed)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    if deterministic_ops:
        tf.config.experimental.enable_op_determinism()


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Builds networks with ``policy`` ("float32", "mixed_float16", "mixed_bfloat16") inside the block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class _Run:
    """State and files of one run; :func:`fit` drives it."""

    def __init__(self, stepper: Stepper, config: TrainConfig, folder: Path, screen: Screen):
        self.stepper, self.config, self.folder, self.screen = stepper, config, folder, screen
        self.progress = Progress()
        self.batches: Iterator[Any] | None = None
        self.estimator = BatchNormEstimator(stepper.model)
        self.last, self.best = folder / "last.npz", folder / "best.npz"
        self._weights = {"model": stepper.model.weights}

    def save(self) -> None:
        checkpoint.save(self.last, self.stepper.variables(), self.progress)

    def stop_if(self, asked: threading.Event, save: bool = True) -> None:
        if asked.is_set():
            if save:
                self.save()
            raise TrainingInterruptedError(
                f"stopped in epoch {self.progress.epoch + 1} after step {self.progress.step}; the state is in "
                f"{self.last}. Run the same command again to go on from there."
            )

    def train_epoch(self, data: TrainData, asked: threading.Event) -> None:
        """Trains to the end of the present epoch, from wherever in it the run stands."""
        config, progress = self.config, self.progress
        end = (progress.epoch + 1) * config.steps_per_epoch
        if self.batches is None:
            self.batches = iter(data(progress.step))
        while progress.step < end:
            try:
                inputs, targets = next(self.batches)
            except StopIteration:
                raise TfsegError(
                    f"the training data ended before step {progress.step + 1}. It must go on for ever: repeat it."
                ) from None
            except tf.errors.OpError as error:
                raise _unreadable(f"training batch {progress.step + 1}", error) from error
            loss = self.stepper.train(inputs, targets, progress.step + 1)
            if not math.isfinite(loss):
                self._fail_not_finite(loss)
            progress.step += 1
            self.screen.step(progress.epoch + 1, progress.step, loss)
            self.stop_if(asked)
            if config.save_every_steps and progress.step % config.save_every_steps == 0:
                self.save()

    def _fail_not_finite(self, loss: float) -> None:
        step, kept = self.progress.step + 1, "nothing was saved yet"
        if self.last.is_file():
            kept = f"the last good state is in {self.last}"
            kept += f", the best weights are in {self.best}" if self.best.is_file() else ""
        raise TfsegError(
            f"the loss is {loss} at step {step} (epoch {self.progress.epoch + 1}); {kept}. Try a smaller learning "
            f"rate (now {_learning_rate(self.stepper.optimizer):g}), float32 in place of mixed precision, and look at "
            "the labels and values of that batch."
        )

    def validate(self, train: TrainData, data: tf.data.Dataset | None, asked: threading.Event) -> dict[str, float]:
        """Measures on the validation data, always the same batches."""
        if self.config.reestimate_batches:
            batches = train(0).take(self.config.reestimate_batches)
            self.estimator(model_inputs(self.stepper.model, inputs) for inputs, _ in batches)
        if data is None:
            return {}
        steps = self.config.validation_steps
        self.stepper.validation.reset()
        data = data if steps is None else data.take(steps)
        total, batches = int(data.cardinality()), iter(data)
        for count in itertools.count(1):
            try:
                inputs, targets = next(batches)
            except StopIteration:
                break
            except tf.errors.OpError as error:
                raise _unreadable(f"validation batch {count}", error) from error
            self.stepper.validate(inputs, targets)
            self.screen.validating(self.progress.epoch + 1, count, total)
            self.stop_if(asked)
        return {PREFIX + name: value for name, value in self.stepper.validation.result().items()}

    def close_epoch(self, validation: dict[str, float], log: RunLog) -> None:
        """Enters the epoch into the history, keeps its weights if they are the best, logs and saves the state."""
        config, progress, meter = self.config, self.progress, self.stepper.training
        progress.epoch += 1
        rate = _learning_rate(self.stepper.optimizer)
        row = {"epoch": progress.epoch, "step": progress.step, "learning_rate": rate, **meter.result(), **validation}
        score = row.get(config.monitor)
        if score is None or math.isnan(score):
            raise TfsegError(
                f"training: the monitored score {config.monitor!r} is {'missing' if score is None else 'NaN'} after "
                f"epoch {progress.epoch}. The log has: {', '.join(f'{k}={v:g}' for k, v in row.items())}."
            )
        meter.reset()
        progress.history.append(row)
        if config.better(score, progress.best_score):
            progress.best_epoch, progress.best_score = progress.epoch, score
            checkpoint.save(self.best, self._weights)
        waited = progress.epoch - progress.best_epoch
        stop = config.patience is not None and waited >= config.patience
        progress.finished = stop or progress.epoch >= config.epochs
        # The state comes last: killed before it, the epoch's end is done again and writes the same once more.
        log.write(progress.history, progress.best_epoch)
        self.save()
        self.screen.epoch(row, progress.best_epoch)

    def result(self) -> TrainResult:
        """Puts the best weights into the network."""
        checkpoint.load(self.best, self._weights)
        progress = self.progress
        return TrainResult(progress.best_epoch, float(progress.best_score or 0.0), self.folder, progress.history)


def _unreadable(what: str, error: tf.errors.OpError) -> TfsegError:
    """What a reader raised inside tf.data, without TensorFlow's own words about it."""
    reason = str(error.message).partition("\nTraceback")[0].strip()
    reason = re.sub(r"^.*?\b[A-Z]\w*Error: ", "", reason, flags=re.DOTALL)
    return TfsegError(f"cannot read {what}: {reason}")


def _learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def fit(
    model: keras.Model,
    train_data: TrainData,
    validation_data: tf.data.Dataset | None,
    config: TrainConfig,
    run_folder: str | Path,
    objective: Objective,
    details: dict[str, Any] | None = None,
) -> TrainResult:
    """Trains ``model``, or goes on with a run that was stopped.

    A run is defined by its folder and its settings. Called again with both, it goes on at the last saved state and
    ends with the same weights, optimizer state and log, bit for bit on a CPU, as if it had never been stopped; a
    finished run returns at once. Ctrl-C and SIGTERM save the state between two steps.

    Args:
        model: network with named inputs and outputs; not compiled. For mixed precision build it inside
            :func:`precision`.
        train_data: ``train_data(k)`` is the stream of training batches from the k-th on (from 0), without end, of
            ``(inputs, targets)``, dicts keyed by Keras input and output names.
        validation_data: batches alike; read from its start after every epoch, so that the scores of epochs compare.
            None for none (then monitor a training column, for example "loss").
        config: settings.
        run_folder: gets run.json, history.csv, curves.png, tensorboard/, best.npz and last.npz.
        objective: losses, metrics, optimizer.
        details: whatever else defines the run (data, model arguments); recorded in run.json and compared on resuming.

    Raises:
        TrainingInterruptedError: after Ctrl-C or SIGTERM, once the state is saved.
        TfsegError: the folder holds a run with other settings; the loss became NaN or infinite; the monitored score
            does not exist; the data ended.
    """
    folder = Path(run_folder)
    if config.steps_per_epoch < 1:
        raise TfsegError("training: set steps_per_epoch; the training data has no end.")
    endless = validation_data is not None and validation_data.cardinality() == tf.data.INFINITE_CARDINALITY
    if endless and config.validation_steps is None:
        raise TfsegError("training: the validation data has no end; set validation_steps.")
    optimizer = objective.optimizer or keras.optimizers.Adam(config.learning_rate)
    optimizer_settings = {k: v for k, v in optimizer.get_config().items() if k != "name"}
    described = {
        "train": asdict(config),
        "optimizer": {"class": type(optimizer).__name__, **optimizer_settings},
        "network": {"weights": model.count_params(), "precision": model.dtype_policy.name},
        **(details or {}),
    }
    resumed = record_start(folder, described)
    screen = Screen(config.epochs, config.steps_per_epoch)
    run = _Run(Stepper(model, objective, optimizer, config.accumulation_steps), config, folder, screen)
    if resumed and run.last.is_file():
        run.progress = checkpoint.load(run.last, run.stepper.variables())
        write_csv(folder / "history.csv", run.progress.history)
        screen.say(f"{folder}: goes on after epoch {run.progress.epoch}, step {run.progress.step}")
    if not run.progress.finished:
        _train(run, train_data, validation_data)
    return run.result()


def _train(run: _Run, train_data: TrainData, validation_data: tf.data.Dataset | None) -> None:
    with contextlib.closing(RunLog(run.folder)) as log, stop_request() as asked, run.screen.bar:
        while not run.progress.finished:
            run.train_epoch(train_data, asked)
            run.close_epoch(run.validate(train_data, validation_data, asked), log)
