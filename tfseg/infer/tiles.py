"""Windows streamed from a slide through a predictor: reading and computing overlap, memory is bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tfseg.infer.predictors import Predictor
from tfseg.slides.base import Slide
from tfseg.types import ModelError, Window

Images = tuple[NDArray[np.float32], ...]
"""A batch: one float32 (B, H, W, C) array an input of the network, in the order of its spec."""

BATCH = 4
"""Windows a call of a network where nobody says."""

Where = TypeVar("Where")
"""What tells the reader where a window lies."""


@dataclass(frozen=True)
class Streaming:
    """How windows flow. Results do not depend on it, beyond rounding inside the network.

    Memory: at most ``2 · readers + 2 · parallel + 1`` batches of float32 windows, ``parallel`` being the predictor's.

    Attributes:
        batch_size: windows a call of the predictor. None takes 4 (``BATCH``), which fill a core and stay in its cache,
            and 1 of Mask R-CNN, of which more take memory and save no time on processors.
        readers: threads that read windows.

    Raises:
        ModelError: no window a call.
    """

    batch_size: int | None = None
    readers: int = 2

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ModelError(f"batch_size: expected 1 or more windows. Received: {self.batch_size}.")


def predict_windows(
    slide: Slide, windows: Sequence[Window], predict: Predictor, num_classes: int, streaming: Streaming
) -> Generator[NDArray[np.float32], None, None]:
    """Class probabilities of windows by a patch classifier, batch after batch in their order.

    Args:
        slide: what to read; windows that reach past its edges are filled with white.
        windows: all of one size.
        predict: patch classifier; called from ``predict.parallel`` threads, or one.
        num_classes: C.
        streaming: how.

    Yields:
        float32 (B, C), B as ``streaming`` says; the last may be shorter.

    Raises:
        SlideError: a window cannot be read.
        ModelError: the predictor returns something else than (B, C) finite numbers.
    """
    size = streaming.batch_size or BATCH
    batches = (windows[start : start + size] for start in range(0, len(windows), size))
    return predict_batches(batches, lambda batch: (_read(slide, batch),), predict, (num_classes,), streaming.readers)


def predict_batches(
    batches: Iterable[Sequence[Where]],
    read: Callable[[Sequence[Where]], Images],
    predict: Predictor,
    shape: tuple[int, ...],
    readers: int,
) -> Generator[NDArray[np.float32], None, None]:
    """Probabilities of batches of windows, in their order, by any network.

    Args:
        batches: taken from when there is room; each says where its windows lie.
        read: from a batch to the network's inputs; called from ``readers`` threads.
        predict: the network; called from ``predict.parallel`` threads, or one.
        shape: of one window's probabilities, (C,) or (h, w, C).
        readers: threads that read.

    Yields:
        float32 (B, *shape).

    Raises:
        SlideError: a window cannot be read.
        ModelError: the predictor returns something else than finite numbers of that shape.
    """
    parallel = max(1, int(getattr(predict, "parallel", 1)))
    reading = ThreadPoolExecutor(max(1, readers), "tfseg-read")
    predicting = ThreadPoolExecutor(parallel, "tfseg-predict")
    pending: deque[Future[NDArray[np.float32]]] = deque()
    try:
        for batch in batches:
            if len(pending) > readers + parallel:
                yield pending.popleft().result()
            images = reading.submit(read, batch)
            # A prediction waits for its images in its thread; both queues are served in order, so none waits forever.
            pending.append(predicting.submit(_predict, predict, images, (len(batch), *shape)))
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


def _predict(predict: Predictor, images: Future[Images], shape: tuple[int, ...]) -> NDArray[np.float32]:
    found = np.asarray(predict(*images.result()), np.float32)
    if found.shape != shape or not np.isfinite(found).all():
        what = "values that are no numbers (NaN)" if found.shape == shape else f"shape {found.shape}"
        raise ModelError(
            f"the network returned {what} for {shape[0]} windows; expected {shape} probabilities. Is config.json the "
            "one of this network? Did its training diverge?"
        )
    return found
