"""Rows that were appended come back, from any thread; a file that was cut anywhere holds whole bands."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from vanishing import vanishing_folders

from tfseg.infer.band_store import BandStore
from tfseg.types import OutputError

KEY, OTHER = b"k" * 32, b"o" * 32
HEIGHTS = (5, 1, 8, 3)


def pictures(planes: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (planes, sum(HEIGHTS), 40), np.uint8)


def filled(path=None, planes: int = 2) -> BandStore:
    store, image = BandStore(path, KEY, 40, planes), pictures(planes)
    for height in HEIGHTS:
        store.append(list(image[:, store.rows : store.rows + height]))
    return store


def test_any_rows_of_any_plane_come_back():
    store, image = filled(), pictures()
    assert store.rows == 17
    for plane in (0, 1):
        reader = store.plane(plane)
        for first in range(17):
            for count in range(1, 18 - first):
                np.testing.assert_array_equal(reader.rows(first, count), image[plane, first : first + count])


@pytest.mark.parametrize("cut", [0, 1, 31, 32, 33, 60, 200, 400, 500, 640, 10**6])
def test_a_file_that_was_cut_holds_its_first_bands_and_goes_on(tmp_path, cut):
    path, image = tmp_path / "s.dense", pictures()
    filled(path).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    store = BandStore(path, KEY, 40, 2)
    assert store.rows in (0, 5, 6, 14, 17)
    assert (store.rows == 17) == (cut >= len(whole))
    assert store.rows > 0 or cut < 500
    for height in HEIGHTS[(0, 5, 6, 14, 17).index(store.rows) :]:
        store.append(list(image[:, store.rows : store.rows + height]))
    store.close()
    assert path.read_bytes() == whole
    np.testing.assert_array_equal(BandStore(path, KEY, 40, 2).plane(1).rows(0, 17), image[1])


def test_bytes_that_were_never_written_are_noticed(tmp_path):
    """As after a power cut: the length is right, the content is not."""
    path = tmp_path / "s.dense"
    filled(path).close()
    content = bytearray(path.read_bytes())
    content[-20:] = bytes(20)
    path.write_bytes(content)
    assert BandStore(path, KEY, 40, 2).rows == 14


def test_a_file_of_something_else_is_emptied(tmp_path):
    path = tmp_path / "s.dense"
    filled(path).close()
    assert BandStore(path, OTHER, 40, 2).rows == 0
    assert BandStore(path, KEY, 40, 2).rows == 0
    path.write_bytes(b"no store at all")
    assert BandStore(path, KEY, 40, 2).rows == 0


def test_many_threads_may_read():
    store, image, wrong = filled(), pictures(), []

    def work(plane):
        for first in range(17):
            found = store.plane(plane).rows(first, 17 - first)
            if not np.array_equal(found, image[plane, first:]):
                wrong.append((plane, first))

    threads = [threading.Thread(target=work, args=(k % 2,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_full_disk_is_named_and_what_was_there_stays(tmp_path, monkeypatch):
    path = tmp_path / "s.dense"
    filled(path).close()
    store = BandStore(path, KEY, 40, 2)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_file", type("Full", (), {"seek": lambda *a: None, "write": full})())
    with pytest.raises(OutputError, match=r"s\.dense.*No space left.*goes on"):
        store.append(list(pictures()[:, :3]))
    assert BandStore(path, KEY, 40, 2).rows == 17


def test_a_folder_that_vanishes_before_the_file_is_made_is_made_again(tmp_path, monkeypatch):
    path, left = tmp_path / "state/s.dense", vanishing_folders(monkeypatch, 2)
    assert filled(path).rows == sum(HEIGHTS)
    assert path.is_file() and left == [0]
