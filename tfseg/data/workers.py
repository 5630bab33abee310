"""Slides in parallel processes, with a progress bar, stopping cleanly."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tfseg.data.cohort import CohortRow
from tfseg.data.index_slide import AnyIndexConfig, SlidePatches, index_slide, load_part, part_key, part_paths
from tfseg.slides.class_table import ClassTable
from tfseg.types import OutputError, SlideError, TfsegError

Task = tuple[CohortRow, AnyIndexConfig, ClassTable, Path, str]


def index_slides(
    rows: Sequence[CohortRow],
    config: AnyIndexConfig,
    classes: ClassTable,
    out: Path,
    *,
    workers: int,
    progress: bool,
) -> tuple[dict[str, SlidePatches], dict[str, str]]:
    """Makes the parts that are missing and reads all.

    Returns:
        parts and error messages, both by slide name; every slide is in exactly one of them.
    """
    tasks = [(row, config, classes, out, part_key(row, config, classes)) for row in rows]
    todo = [task for task in tasks if load_part(task[0], out, task[4]) is None]
    broken: dict[str, str] = {}
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        shown = bar.add_task("indexing slides", total=len(tasks), completed=len(tasks) - len(todo))
        for name, error in _results(todo, workers):
            if error is not None:
                broken[name] = error
            bar.update(shown, advance=1, description=f"indexed {name}" if error is None else f"broken: {name}")
    done = {}
    for task in tasks:
        name = task[0].slide_name
        if name not in broken:
            part = load_part(task[0], out, task[4])
            if part is None:
                raise OutputError(f"{part_paths(task[0], out)[0]} vanished while indexing. Is another run using {out}?")
            done[name] = part
    return done, broken


def _results(tasks: Sequence[Task], workers: int) -> Iterator[tuple[str, str | None]]:
    """(slide name, error or None) as they are finished."""
    if workers <= 1 or len(tasks) <= 1:
        yield from map(_attempt, tasks)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that runs threads (TensorFlow) can hang
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_start_worker)
    left = {task[0].slide_name for task in tasks}
    try:
        with _ctrl_c_held_back():
            futures = {pool.submit(_attempt, task): task[0].slide_name for task in tasks}
        for future in as_completed(futures):
            yield future.result()
            left.remove(futures[future])
    except BrokenProcessPool as error:
        raise SlideError(
            "a worker process died while indexing, most likely for lack of memory. Not finished: "
            f"{', '.join(sorted(left)[:10])}. Run the same command again with --workers 1: finished slides are kept."
        ) from error
    except BaseException:
        # Ctrl-C or a full disk: do not wait for slides in work.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if left:
            _remove_partial(tasks[0][3])


def _remove_partial(out: Path) -> None:
    """What stopped processes were writing, still under temporary names."""
    for folder in ("parts", "overview"):
        for path in (out / folder).glob(".partial-*"):
            path.unlink(missing_ok=True)


def _attempt(task: Task) -> tuple[str, str | None]:
    """Indexes one slide; what is wrong with the slide is returned, what is wrong with ``out`` is raised."""
    row = task[0]
    try:
        index_slide(*task)
    except OutputError:
        raise
    except TfsegError as error:
        return row.slide_name, str(error)
    except Exception as error:  # a damaged file can raise anything from any library; the slide is what to name
        return row.slide_name, f"{row.slide}: {type(error).__name__}: {error}"
    return row.slide_name, None


@contextlib.contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Delays Ctrl-C to the end of the block in this process, and for ever in those that are started inside.

    It reaches the whole process group, and the parent alone decides. What the children inherit is the mask; the parent
    needs a handler as well, for the signal may come to a thread of a library that does not have the mask.
    """
    held: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, frame: held.append(number)) if in_main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:  # None on Windows
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main:
            signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
        if held:
            signal.raise_signal(signal.SIGINT)


def _start_worker() -> None:
    """Ctrl-C is the parent's affair on Windows, too; slides are in parallel already, so OpenCV need not be."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import cv2

    cv2.setNumThreads(1)
