"""How many annotations are open at a time, and who waits for whom."""

from __future__ import annotations

import threading

import pytest

from tfseg.data.source_cache import SourceCache


class Fake:
    def __init__(self, opened: set[int], row: int) -> None:
        self.opened, self.row = opened, row
        opened.add(row)

    def close(self) -> None:
        self.opened.remove(self.row)


def test_those_used_last_stay_open():
    opened: set[int] = set()
    loads: list[int] = []
    cache = SourceCache(lambda row: (loads.append(row), Fake(opened, row)), 3)
    for row in (0, 1, 2, 0, 3, 4):
        with cache.use(str(row), row) as (_, annotation):
            assert annotation.row == row and len(opened) <= 3
    assert opened == {0, 3, 4} and loads == [0, 1, 2, 3, 4]


def test_what_is_being_read_is_not_closed_and_failures_are_tried_again():
    opened: set[int] = set()
    cache = SourceCache(lambda row: (None, Fake(opened, row)), 1)
    with cache.use("0", 0), cache.use("1", 1):
        assert opened == {0, 1}
    assert opened == {0}  # of "1" nobody was reading any more when there were too many
    failing = SourceCache(lambda row: 1 / row, 1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), failing.use("0", 0):
            pass


def test_another_slide_is_opened_while_one_is_parsed():
    started, go = threading.Event(), threading.Event()

    def load(row: int):
        if row == 0:
            started.set()
            assert go.wait(30)
        return None, Fake(set(), row)

    cache = SourceCache(load, 2)

    def slow() -> None:
        with cache.use("0", 0):
            pass

    thread = threading.Thread(target=slow)
    thread.start()
    assert started.wait(30)
    with cache.use("1", 1) as (_, annotation):
        assert annotation.row == 1 and not go.is_set()
    go.set()
    thread.join()
