"""Rows of pixels that are too many to be held: appended band after band to one compressed file, read back anywhere.

The file is 32 bytes of key, then records: a header (rows, plane, bytes, CRC-32) and the rows of one plane, deflated. A
band is one record a plane. What a killed run left half-written at the end fails its check and is cut off, so that a
file that is opened again holds whole bands, the first ones, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfseg.types import OutputError

KEY_BYTES = 32
_HEADER = struct.Struct("<4I")
_LEVEL = 1
_TRIES = 5


class _Record(NamedTuple):
    """Where a band of one plane lies: its rows [first, first + rows), and its bytes in the file."""

    first: int
    rows: int
    offset: int
    length: int


class BandStore:
    """Pictures of one size and uint8, ``planes`` of them, that grow from the top. Any number of threads may read."""

    def __init__(self, path: Path | None, key: bytes, width: int, planes: int) -> None:
        """Opens what is there, if it has this key, or begins anew.

        Args:
            path: the file; None takes one that vanishes when it is closed.
            key: 32 bytes; a file of another key is of something else and is emptied.
            width: pixels a row.
            planes: pictures.

        Raises:
            OutputError: the file cannot be made.
        """
        assert len(key) == KEY_BYTES
        self.path, self.width, self.planes = path, width, planes
        self._records: list[list[_Record]] = [[] for _ in range(planes)]
        self._lock = threading.Lock()
        try:
            self._file = _open(path)
            self._end = self._load(key)
        except OSError as error:
            raise self._unwritable(error) from error

    @property
    def rows(self) -> int:
        """Rows that are there, from the top, in every plane."""
        last = self._records[-1]
        return last[-1].first + last[-1].rows if last else 0

    def append(self, bands: Sequence[NDArray[np.uint8]]) -> None:
        """Adds the next rows: one uint8 (rows, width) array a plane. Raises OutputError when the disk is full."""
        packed = [zlib.compress(np.ascontiguousarray(band).data, _LEVEL) for band in bands]
        first, rows = self.rows, len(bands[0])
        offset = self._end
        with self._lock:
            try:
                self._file.seek(offset)
                for plane, data in enumerate(packed):
                    self._file.write(_HEADER.pack(rows, plane, len(data), zlib.crc32(data)))
                    self._file.write(data)
                self._file.flush()
            except OSError as error:
                raise self._unwritable(error) from error
            for plane, data in enumerate(packed):
                self._records[plane].append(_Record(first, rows, offset + _HEADER.size, len(data)))
                offset += _HEADER.size + len(data)
            self._end = offset

    def plane(self, index: int) -> Plane:
        """One picture, to be read from one thread."""
        return Plane(self, index)

    def band(self, plane: int, number: int) -> NDArray[np.uint8]:
        """Band ``number`` of a plane, (rows, width)."""
        record = self._records[plane][number]
        with self._lock:
            self._file.seek(record.offset)
            data = self._file.read(record.length)
        return np.frombuffer(zlib.decompress(data), np.uint8).reshape(record.rows, self.width)

    def starts(self, plane: int) -> NDArray[np.intp]:
        """First row of every band."""
        return np.array([record.first for record in self._records[plane]], np.intp)

    @property
    def closed(self) -> bool:
        """Whether the file was let go of."""
        return self._file.closed

    def close(self) -> None:
        """Lets go of the file, which stays."""
        self._file.close()

    def _load(self, key: bytes) -> int:
        """Finds the whole bands of a file of this key, cuts off the rest; returns the bytes that are kept."""
        size = os.fstat(self._file.fileno()).st_size
        known = self._file.read(KEY_BYTES) == key
        while known and self._load_band(size):
            pass
        if not known:
            self._file.seek(0)
            self._file.write(key)
        last = self._records[-1]
        end = last[-1].offset + last[-1].length if last else KEY_BYTES
        self._file.truncate(end)
        self._file.flush()
        return end

    def _load_band(self, size: int) -> bool:
        """Takes up the next band of a file of ``size`` bytes; False where there is none that is whole."""
        first, found = self.rows, []
        for plane in range(self.planes):
            header = self._file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return False
            rows, which, length, check = _HEADER.unpack(header)
            offset = self._file.tell()
            if which != plane or offset + length > size or zlib.crc32(self._file.read(length)) != check:
                return False
            found.append(_Record(first, rows, offset, length))
        for records, record in zip(self._records, found, strict=True):
            records.append(record)
        return True

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot write {self.path or tempfile.gettempdir()}: {error.strerror or error}. Free space or choose a "
            "folder you may write to, then run the same command again: it goes on."
        )


class Plane:
    """One picture of a store; remembers the band that it read last."""

    def __init__(self, store: BandStore, index: int) -> None:
        self._store, self._index = store, index
        self._starts = store.starts(index)
        self._number, self._band = -1, np.empty((0, store.width), np.uint8)

    def rows(self, first: int, count: int) -> NDArray[np.uint8]:
        """Rows [first, first + count), uint8 (count, width)."""
        out = np.empty((count, self._store.width), np.uint8)
        done = 0
        while done < count:
            row = first + done
            number = int(np.searchsorted(self._starts, row, side="right")) - 1
            if number != self._number:
                self._number, self._band = number, self._store.band(self._index, number)
            offset = row - int(self._starts[number])
            part = self._band[offset : offset + count - done]
            out[done : done + len(part)] = part
            done += len(part)
        return out


def _open(path: Path | None) -> IO[bytes]:
    if path is None:
        return tempfile.TemporaryFile()
    for _ in range(_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Between the two the slide before may have removed the folder, which was empty.
        with contextlib.suppress(FileNotFoundError):
            return path.open("r+b" if path.exists() else "w+b")
    return path.open("w+b")
