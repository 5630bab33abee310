"""Slides and annotations that threads share: those used last stay open, each is parsed once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tfseg.slides.annotations import Annotation
from tfseg.slides.base import Slide

MAX_OPEN = 128
"""Slides whose annotations stay open; a label raster is an open file, and a process commonly may have 1024."""

Source = tuple[Slide, Annotation]


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    source: Source | None = None
    users: int = 0


class SourceCache:
    """Sources by name; beyond ``max_open`` those used least recently are closed, but none that a thread is reading.

    Args:
        load: opens the source of a row. Only threads that want the same source wait for it.
        max_open: sources that stay open.
    """

    def __init__(self, load: Callable[[int], Source], max_open: int = MAX_OPEN) -> None:
        self._load, self._max_open = load, max_open
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def use(self, name: str, row: int) -> Iterator[Source]:
        """The source of this name, which ``row`` is of; it stays open until the block ends."""
        with self._lock:
            entry = self._entries.setdefault(name, _Entry())
            entry.users += 1
            self._entries.move_to_end(name)
            self._evict()
        try:
            with entry.lock:
                if entry.source is None:
                    entry.source = self._load(row)
            yield entry.source
        finally:
            with self._lock:
                entry.users -= 1
                self._evict()

    def _evict(self) -> None:
        for name in [name for name, entry in self._entries.items() if entry.users == 0]:
            if len(self._entries) <= self._max_open:
                return
            source = self._entries.pop(name).source
            if source is not None:
                source[1].close()
