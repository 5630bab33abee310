"""Folders that vanish: another slide's run, just ended, removes the empty folder of states."""

from __future__ import annotations

from pathlib import Path

import pytest


def vanishing_folders(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """The next ``times`` folders are removed as soon as they are made; returns [how many are still to vanish]."""
    mkdir, left = Path.mkdir, [times]

    def vanishes(self, *args, **kwargs):
        mkdir(self, *args, **kwargs)
        if left[0]:
            left[0] -= 1
            self.rmdir()

    monkeypatch.setattr(Path, "mkdir", vanishes)
    return left
