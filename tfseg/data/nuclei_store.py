"""Images of nuclei made ready for training: colours normalised, ids and border weights, on disk and mapped from there.

Decoding a picture of a million pixels for each of its tiles, and its border weights, would take longer than to train on
them; to hold all images would let memory grow with the data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfseg.data.border_weights import border_term
from tfseg.data.colour_normalisation import Normaliser
from tfseg.data.nuclei import NucleiItem
from tfseg.data.restain import Restain
from tfseg.files import atomic_path, write_json
from tfseg.types import CohortError

MAX_OPEN = 64
"""Images whose three files stay mapped."""
_LARGEST_PX = 32_767
_FORMAT = 1


class Prepared(NamedTuple):
    """One image, as arrays mapped from disk.

    Attributes:
        image: uint8 RGB (H, W, 3).
        labels: int32 (H, W), 0 background.
        border: float32 (H, W), :func:`tfseg.data.border_weights.border_term` of the labels.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int32]
    border: NDArray[np.float32]


@dataclass(frozen=True)
class BorderOptions:
    """The border's weight, w0 · exp(−(d1 + d2)² / (2 · sigma_px²)); GB U-Net, equation 2."""

    w0: float = 10.0
    sigma_px: float = 5.0


class NucleiStore:
    """Prepared images of ``items`` in ``folder``; may be read from many threads.

    Args:
        items: the images.
        folder: gets four files an image, some 11 bytes a pixel; those that are there and fit are taken as they are.
        normaliser: applied to every image; None leaves colours as they are.
        border: of the weights.
        restain: shows the images in other stains, each in one, drawn from its name.
    """

    def __init__(
        self,
        items: Sequence[NucleiItem],
        folder: str | Path,
        normaliser: Normaliser | None = None,
        border: BorderOptions | None = None,
        restain: Restain | None = None,
    ) -> None:
        self.items, self.folder = tuple(items), Path(folder)
        self._normaliser, self._border, self._restain = normaliser, border or BorderOptions(), restain
        self._open: OrderedDict[int, Prepared] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self, workers: int = 2, done: Callable[[str], None] = lambda name: None) -> None:
        """Makes what is missing; ``done`` is called with each image's name.

        Raises:
            SlideError, AnnotationError: an image or its labels cannot be used.
            CohortError: an image is too large.
            OutputError: the folder cannot be written.
        """
        with ThreadPoolExecutor(max(1, workers), "tfseg-prepare") as pool:
            for item, _ in zip(self.items, pool.map(self._prepare, self.items), strict=True):
                done(item.name)

    def __getitem__(self, index: int) -> Prepared:
        """The image at a position in ``items``, which must be prepared."""
        with self._lock:
            if index not in self._open:
                name = self.items[index].name
                files = (self._file(name, field) for field in Prepared._fields)
                self._open[index] = Prepared(*(np.load(file, mmap_mode="r") for file in files))
            self._open.move_to_end(index)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
            return self._open[index]

    def keys(self) -> dict[str, str]:
        """Name → what changes with the image's files and the settings."""
        return {item.name: self._key(item) for item in self.items}

    def _file(self, name: str, field: str) -> Path:
        return self.folder / f"{name}.{field}.npy"

    def _prepare(self, item: NucleiItem) -> None:
        key, note = self._key(item), self.folder / f"{item.name}.json"
        if note.is_file() and json.loads(note.read_text(encoding="utf-8")) == {"key": key}:
            return
        image, labels = item.load()
        if max(labels.shape) > _LARGEST_PX:
            raise CohortError(
                f"{item.image}: {labels.shape[1]} × {labels.shape[0]} px. Training takes images of at most "
                f"{_LARGEST_PX} px a side; cut it into parts."
            )
        if self._normaliser is not None:
            image = self._normaliser.apply(image)
        if self._restain is not None:
            image = self._restain(image, labels, zlib.crc32(item.name.encode()))
        border = border_term(labels, w0=self._border.w0, sigma_px=self._border.sigma_px)
        made = Prepared(image, labels, border.astype(np.float32))
        for field, array in made._asdict().items():
            with atomic_path(self._file(item.name, field)) as temporary, temporary.open("wb") as file:
                np.save(file, array)
        write_json(note, {"key": key})

    def _key(self, item: NucleiItem) -> str:
        normaliser = None if self._normaliser is None else dataclasses.asdict(self._normaliser)
        restain = None if self._restain is None else self._restain.key
        settings = [_FORMAT, normaliser, self._border.w0, self._border.sigma_px, item.allow_empty, restain]
        paths = [path for path in (item.image, *item.labels.files()) if path.exists()]
        files = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
        return hashlib.sha256(json.dumps([settings, files], sort_keys=True).encode()).hexdigest()
