"""Slides that OpenSlide reads. The only module that imports OpenSlide."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
from numpy.typing import NDArray

from tfseg.slides.base import Slide, make_levels
from tfseg.slides.mpp import find_mpp, find_objective_power
from tfseg.types import SlideError

MAX_HANDLES = 8
"""Open files per thread; the one that was not used for longest is closed."""
CACHE_BYTES = 2**25
"""Decoded tiles kept per thread, shared by its open files."""

Key = tuple[str, int, int]


class HandlePool(threading.local):
    """The open handles of one thread, least recently used first.

    A handle is never used by two threads (they would wait for each other) nor in a forked process (its file position
    and locks are the parent's).
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._handles: OrderedDict[Key, Any] = OrderedDict()
        self._cache = openslide.OpenSlideCache(CACHE_BYTES)

    def get(self, key: Key) -> Any:
        """An ``openslide.OpenSlide`` of the file."""
        if self._process != os.getpid():
            # Closing the parent's handles here could wait for a lock that nobody holds any more: keep them unused.
            _inherited.append((self._handles, self._cache))
            self._begin()
        handle = self._handles.get(key)
        if handle is None:
            while len(self._handles) >= MAX_HANDLES:
                self._handles.popitem(last=False)[1].close()
            handle = openslide.OpenSlide(key[0])
            handle.set_cache(self._cache)
            self._handles[key] = handle
        else:
            self._handles.move_to_end(key)
        return handle

    def drop(self, key: Key) -> None:
        """Closes this thread's handle of the file, if there is one."""
        if self._process == os.getpid() and key in self._handles:
            self._handles.pop(key).close()

    def __len__(self) -> int:
        return len(self._handles)


_inherited: list[Any] = []
handles = HandlePool()


class OpenSlideSlide(Slide):
    """A file that OpenSlide reads; holds no handle itself, so that it can be pickled and shared between threads."""

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        """Raises SlideError or MppError."""
        path = Path(os.path.abspath(path))
        stat = path.stat()
        self._key: Key = (str(path), stat.st_mtime_ns, stat.st_size)
        try:
            handle = handles.get(self._key)
            properties = dict(handle.properties)
            sizes = handle.level_dimensions
            self._file_downsamples = tuple(handle.level_downsamples)
        except openslide.OpenSlideError as error:
            raise self._unreadable(path, error) from error
        super().__init__(
            path,
            path.stem,
            make_levels(sizes),
            find_mpp(properties, str(path), mpp),
            find_objective_power(properties),
            _bounds(properties, sizes[0]),
        )

    @staticmethod
    def _unreadable(path: Path | None, error: Exception) -> SlideError:
        return SlideError(f"{path}: OpenSlide cannot read it ({error}). It may be damaged or cut short: copy it again.")

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        downsample = self._file_downsamples[level]
        location = (round(x * downsample), round(y * downsample))
        try:
            region = handles.get(self._key).read_region(location, level, (width, height))
        except openslide.OpenSlideError as error:
            handles.drop(self._key)  # OpenSlide refuses every further read from a handle that once failed.
            raise self._unreadable(self.path, error) from error
        return _over_white(np.asarray(region))

    def _level_shift(self, level: int, x: int, y: int) -> tuple[float, float]:
        # OpenSlide takes whole level-0 positions and divides them by its own downsample.
        downsample = self._file_downsamples[level]
        return round(x * downsample) / downsample - x, round(y * downsample) / downsample - y

    def close(self) -> None:
        """Closes this thread's handle; other threads' close when they are evicted or the thread ends."""
        handles.drop(self._key)


def open_file(path: Path, mpp: float | None) -> OpenSlideSlide | None:
    """The slide, or None where OpenSlide does not know the format. Raises SlideError or MppError."""
    try:
        known = openslide.OpenSlide.detect_format(str(path))
    except openslide.OpenSlideError:
        known = None
    return None if known is None else OpenSlideSlide(path, mpp)


def _over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Straight RGBA on white: what was not scanned is transparent black, and would look like tissue. (h, w, 3)."""
    rgb = np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), dtype=np.uint8)
    if np.bitwise_and.reduce(rgba.view("<u4"), axis=None) < 0xFF000000:  # some alpha, the highest byte, is below 255
        weight = rgba[..., 3:].astype(np.uint16)
        rgb = ((rgb * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)
    return rgb


def _bounds(properties: dict[str, str], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """(x, y, width, height) of the scanned part, within level 0; None where the file gives none or nonsense."""
    try:
        x, y, width, height = (int(properties[f"openslide.bounds-{side}"]) for side in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    x, y, right, bottom = max(0, x), max(0, y), min(size[0], x + width), min(size[1], y + height)
    return (x, y, right - x, bottom - y) if right > x and bottom > y else None
