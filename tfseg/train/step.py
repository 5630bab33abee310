"""One training step and one validation step, as TensorFlow graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

Tensors = dict[str, tf.Tensor]
LossTerm = Callable[[Tensors, Tensors, Tensors], tf.Tensor]
"""(inputs, targets, outputs), each keyed by Keras names, → scalar."""
Metrics = dict[str, Sequence[keras.metrics.Metric]]


def output_loss(output: str, loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], weight: float = 1.0) -> LossTerm:
    """The loss term ``weight · loss(targets[output], outputs[output])``; ``loss`` is for example a Keras loss."""

    def term(inputs: Tensors, targets: Tensors, outputs: Tensors) -> tf.Tensor:
        return weight * loss(targets[output], outputs[output])

    return term


def model_inputs(model: keras.Model, inputs: Tensors) -> Any:
    """Those of ``inputs`` that the network takes, in the structure it was built with; a batch may hold more."""
    return keras.tree.map_structure(lambda tensor: inputs[tensor.name], model.input)


@dataclass
class Objective:
    """What is minimised and what is measured.

    Attributes:
        losses: named terms; the loss is their sum (and the network's own regularisation losses).
        metrics: makes fresh Keras metrics, {output name: [metric, …]}; called once for training and once for
            validation. A metric's name is its column in the log.
        optimizer: Keras optimizer; None is Adam with ``TrainConfig.learning_rate``.
    """

    losses: dict[str, LossTerm]
    metrics: Callable[[], Metrics] = field(default=dict)
    optimizer: keras.optimizers.Optimizer | None = None


class Meter:
    """Running means of the loss terms, and the metrics, of one pass."""

    def __init__(self, objective: Objective):
        names = ["loss", *(objective.losses if len(objective.losses) > 1 else ())]
        self.means = {name: keras.metrics.Mean(name=name) for name in names}
        self.metrics = objective.metrics()

    @property
    def members(self) -> list[keras.metrics.Metric]:
        return [*self.means.values(), *(m for metrics in self.metrics.values() for m in metrics)]

    @property
    def variables(self) -> list[keras.Variable]:
        return [v for member in self.members for v in member.variables]

    def update(self, terms: Tensors, targets: Tensors, outputs: Tensors) -> None:
        """Adds a batch; a smaller last batch weighs less."""
        size = tf.cast(tf.shape(next(iter(outputs.values())))[0], tf.float32)
        for name, mean in self.means.items():
            mean.update_state(terms[name], sample_weight=size)
        for output, metrics in self.metrics.items():
            for metric in metrics:
                metric.update_state(targets[output], outputs[output])

    def result(self) -> dict[str, float]:
        return {member.name: float(member.result()) for member in self.members}

    def reset(self) -> None:
        for member in self.members:
            member.reset_state()


class Stepper:
    """Trains and validates a network batch by batch.

    Gradients of ``accumulation`` batches are averaged before the optimizer sees them, so that its step counter (Adam's
    bias correction, learning-rate schedules) counts updates; Keras' own ``gradient_accumulation_steps`` counts batches
    there, which halves the first updates of Adam. With float16 the loss is scaled dynamically, and a cycle with an
    overflow anywhere is skipped as a whole.
    """

    def __init__(self, model: keras.Model, objective: Objective, optimizer: keras.Optimizer, accumulation: int):
        self.model, self.objective, self.accumulation = model, objective, accumulation
        if model.dtype_policy.name == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        self.optimizer = optimizer
        optimizer.build(model.trainable_variables)
        self.sums = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in model.trainable_variables]
        if accumulation == 1:
            self.sums = []
        self.training, self.validation = Meter(objective), Meter(objective)

    def variables(self) -> dict[str, list[keras.Variable | tf.Variable]]:
        """All that changes while training, by group."""
        return {
            "model": self.model.variables,
            "optimizer": self.optimizer.variables,
            "accumulator": self.sums,
            "metric": self.training.variables,
        }

    def forward(self, inputs: Tensors, training: bool) -> Tensors:
        """Outputs by name, float32 whatever the compute precision."""
        outputs = self.model(model_inputs(self.model, inputs), training=training)
        if not isinstance(outputs, dict):
            outputs = dict(zip(self.model.output_names, keras.tree.flatten(outputs), strict=True))
        return {name: tf.cast(output, tf.float32) for name, output in outputs.items()}

    def _terms(self, inputs: Tensors, targets: Tensors, outputs: Tensors) -> Tensors:
        terms = {name: term(inputs, targets, outputs) for name, term in self.objective.losses.items()}
        own = [tf.cast(loss, tf.float32) for loss in self.model.losses]
        return {**terms, "loss": tf.add_n([*terms.values(), *own])}

    @tf.function(autograph=False, reduce_retracing=True)
    def _train(self, inputs: Tensors, targets: Tensors) -> tf.Tensor:
        with tf.GradientTape() as tape:
            outputs = self.forward(inputs, training=True)
            terms = self._terms(inputs, targets, outputs)
            scaled = self.optimizer.scale_loss(terms["loss"])
        weights = self.model.trainable_variables
        gradients = tape.gradient(scaled, [w.value for w in weights], unconnected_gradients="zero")
        if self.accumulation == 1:
            self.optimizer.apply(gradients, weights)
        for total, gradient in zip(self.sums, gradients, strict=bool(self.sums)):
            total.assign_add(gradient)
        self.training.update(terms, targets, outputs)
        return terms["loss"]

    @tf.function(autograph=False)
    def _apply_sums(self) -> None:
        self.optimizer.apply([total / self.accumulation for total in self.sums], self.model.trainable_variables)
        for total in self.sums:
            total.assign(tf.zeros_like(total))

    def train(self, inputs: Tensors, targets: Tensors, step: int) -> float:
        """Trains on the ``step``-th batch of the run (from 1) and returns its loss."""
        loss = self._train(inputs, targets)
        if self.sums and step % self.accumulation == 0:
            self._apply_sums()
        return float(loss)

    @tf.function(autograph=False, reduce_retracing=True)
    def validate(self, inputs: Tensors, targets: Tensors) -> None:
        """Adds a batch to ``self.validation``."""
        outputs = self.forward(inputs, training=False)
        self.validation.update(self._terms(inputs, targets, outputs), targets, outputs)
