"""What a user sees while slides are segmented."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tfseg.infer.slide import ProgressCallback


def silent(stage: str, done: int, total: int) -> None:
    """Shows nothing."""


@contextlib.contextmanager
def progress_bar(name: str, enabled: bool) -> Iterator[ProgressCallback]:
    """A line on stderr with stage, patches done and in all, patches per second; nothing unless ``enabled``."""
    if not enabled:
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None, speed="")

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, description=f"{name}: {stage}")
            if total:  # other stages have no patches to count: the last numbers stay
                rate = bar.tasks[0].speed
                bar.update(task, completed=done, total=total, speed=f"{rate:.0f} patches/s" if rate else "")

        yield show
