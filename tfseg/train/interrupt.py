"""Ctrl-C and SIGTERM while training."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from tfseg.types import TfsegError


class TrainingInterruptedError(TfsegError):
    """Ctrl-C or SIGTERM: the state is on disk and the same call goes on."""


@contextlib.contextmanager
def stop_request() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C or SIGTERM into a flag, so that a run stops between two steps; a second one kills."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)

    try:
        for number in before:
            signal.signal(number, ask)
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
