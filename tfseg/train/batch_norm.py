"""Moving statistics of batch normalisation, measured anew instead of remembered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfseg.types import TfsegError


class BatchNormEstimator:
    """Replaces the moving statistics of a network's batch-normalisation layers by those of given batches.

    With momentum 0.99 a moving average needs hundreds of steps to forget its start (mean 0, variance 1) and always
    lags behind the weights, so a short training does well in training mode and collapses in inference. Here each layer
    gets the statistics of n batches under the present weights: the mean of the batch means, and, by the law of total
    variance, the mean of the batch variances plus the variance of the batch means (Wu and Johnson 2021, "Rethinking
    'Batch' in BatchNorm", section 3). Layers that do not train keep theirs. Training itself never reads moving
    statistics, so measuring in the middle of a run does not disturb it; the states of seed generators are put back.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        # No public way lists the layers of nested networks, too.
        self.layers = [
            layer
            for layer in model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        ]

    @tf.function(autograph=False, reduce_retracing=True)
    def _measure(self, inputs: Any) -> list[tuple[tf.Tensor, tf.Tensor]]:
        # With momentum 0 the moving statistics after a pass are those of the batch. Momentum is a plain number that is
        # read while the graph is traced, so this graph alone has it at 0.
        kept = [layer.momentum for layer in self.layers]
        try:
            for layer in self.layers:
                layer.momentum = 0.0
            self.model(inputs, training=True)
        finally:
            for layer, momentum in zip(self.layers, kept, strict=True):
                layer.momentum = momentum
        return [(layer.moving_mean.value + 0.0, layer.moving_variance.value + 0.0) for layer in self.layers]

    def __call__(self, batches: Iterable[Any]) -> int:
        """Measures on ``batches`` of model inputs and returns how many there were.

        Raises:
            TfsegError: there are none.
        """
        if not self.layers:
            return 0
        held = {id(w) for w in self.model.weights}
        seeds = [v for v in self.model.variables if id(v) not in held]
        before = [np.array(v) for v in seeds]
        measured = [[(m.numpy(), v.numpy()) for m, v in self._measure(inputs)] for inputs in batches]
        for variable, value in zip(seeds, before, strict=True):
            variable.assign(value)
        if not measured:
            raise TfsegError("no batch to measure batch-normalisation statistics on. Give at least one.")
        for i, layer in enumerate(self.layers):
            means = np.stack([batch[i][0] for batch in measured]).astype(np.float64)
            variances = np.stack([batch[i][1] for batch in measured]).astype(np.float64)
            layer.moving_mean.assign(means.mean(0))
            layer.moving_variance.assign(variances.mean(0) + means.var(0))
        return len(measured)


def reestimate_batch_norm(model: keras.Model, batches: Iterable[Any]) -> int:
    """Sets the moving statistics of ``model`` to those of ``batches`` (see :class:`BatchNormEstimator`)."""
    return BatchNormEstimator(model)(batches)
