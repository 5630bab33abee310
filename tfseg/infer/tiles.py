"""Patches streamed from a slide through a predictor: reading and computing overlap, memory is bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tfseg.infer.predictors import Predictor
from tfseg.slides.base import Slide
from tfseg.types import ModelError, Window


@dataclass(frozen=True)
class Streaming:
    """How patches flow. Results do not depend on it, beyond rounding inside the network.

    Memory: at most ``2 · readers + 2 · parallel + 1`` batches of float32 patches, ``parallel`` being the predictor's.

    Attributes:
        batch_size: patches a call of the predictor. A few are enough to fill a core, and stay in its cache.
        readers: threads that read patches.
    """

    batch_size: int = 4
    readers: int = 2


def predict_windows(
    slide: Slide, windows: Sequence[Window], predict: Predictor, num_classes: int, streaming: Streaming
) -> Generator[NDArray[np.float32], None, None]:
    """Class probabilities of windows, batch after batch in their order.

    Args:
        slide: what to read; windows that reach past its edges are filled with white.
        windows: all of one size.
        predict: patch classifier; called from ``predict.parallel`` threads, or one.
        num_classes: C.
        streaming: how.

    Yields:
        float32 (B, C), B = ``streaming.batch_size``; the last may be shorter.

    Raises:
        SlideError: a window cannot be read.
        ModelError: the predictor returns something else than (B, C) finite numbers.
    """
    parallel = max(1, int(getattr(predict, "parallel", 1)))
    most = streaming.readers + parallel
    reading = ThreadPoolExecutor(max(1, streaming.readers), "tfseg-read")
    predicting = ThreadPoolExecutor(parallel, "tfseg-predict")
    pending: deque[Future[NDArray[np.float32]]] = deque()
    try:
        for start in range(0, len(windows), streaming.batch_size):
            if len(pending) > most:
                yield pending.popleft().result()
            images = reading.submit(_read, slide, windows[start : start + streaming.batch_size])
            # A prediction waits for its images in its thread; both queues are served in order, so none waits forever.
            pending.append(predicting.submit(_predict, predict, images, num_classes))
        while pending:
            yield pending.popleft().result()
    finally:
        for pool in (predicting, reading):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (reading, predicting):
            pool.shutdown(wait=True)


def _read(slide: Slide, windows: Sequence[Window]) -> NDArray[np.float32]:
    """float32 RGB (B, H, W, 3), 0..255: converted here, while the patch is still in the cache."""
    batch = np.empty((len(windows), windows[0].height_px, windows[0].width_px, 3), np.float32)
    for image, window in zip(batch, windows, strict=True):
        image[...] = slide.read(window)
    return batch


def _predict(predict: Predictor, images: Future[NDArray[np.float32]], num_classes: int) -> NDArray[np.float32]:
    batch = images.result()
    found = np.asarray(predict(batch), np.float32)
    fits = found.shape == (len(batch), num_classes)
    if not fits or not np.isfinite(found).all():
        what = "values that are no numbers (NaN)" if fits else f"shape {found.shape}"
        raise ModelError(
            f"the classifier returned {what} for {len(batch)} patches; expected ({len(batch)}, {num_classes}) "
            "probabilities. Is config.json the one of this network? Did its training diverge?"
        )
    return found
