"""What a run leaves for people: ``history.csv``, TensorBoard events, ``curves.png``, and lines on the screen."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tfseg.files import atomic_path

Row = dict[str, float]
PREFIX = "val_"
DRAW_EVERY_S = 10.0
"""Seconds between two drawings of the curves: one takes half a second, which short epochs should not wait for."""
_COUNTERS = ("epoch", "step", "learning_rate")


def write_csv(path: Path, history: list[Row]) -> None:
    """Writes one row an epoch, floats to the last digit. Rewritten whole, so a resumed run repeats no row."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def write_curves(path: Path, history: list[Row], best_epoch: int = 0) -> None:
    """Draws every measured quantity over the epochs: training and validation in one panel, the best epoch marked."""
    names = [n for n in history[-1] if n not in _COUNTERS]
    panels = list(dict.fromkeys(n.removeprefix(PREFIX) for n in names))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [row["epoch"] for row in history]
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=False):
        for name, label in ((panel, "training"), (PREFIX + panel, "validation")):
            if name in names:
                axes.plot(epochs, [row[name] for row in history], ".-" if len(epochs) < 40 else "-", label=label)
        if best_epoch:
            axes.axvline(best_epoch, color="0.6", linestyle=":", label=f"best: epoch {best_epoch}")
        axes.set(title=panel, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


class RunLog:
    """Writes the logs of a run folder after every epoch; the curves when they are 10 s old, and at the end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._writers = {
            part: tf.summary.create_file_writer(str(folder / "tensorboard" / part)) for part in ("train", "validation")
        }
        self._drawn = time.monotonic()
        self._to_draw: tuple[list[Row], int] | None = None

    def write(self, history: list[Row], best_epoch: int) -> None:
        """Writes CSV and curves of the whole history and the TensorBoard scalars of its last row."""
        write_csv(self.folder / "history.csv", history)
        self._to_draw = history, best_epoch
        if time.monotonic() - self._drawn > DRAW_EVERY_S:
            self._draw()
        row = history[-1]
        for name, value in row.items():
            if name not in ("epoch", "step"):
                part = "validation" if name.startswith(PREFIX) else "train"
                with self._writers[part].as_default():
                    tf.summary.scalar(name.removeprefix(PREFIX), value, step=int(row["epoch"]))
        for writer in self._writers.values():
            writer.flush()

    def _draw(self) -> None:
        if self._to_draw is not None:
            write_curves(self.folder / "curves.png", *self._to_draw)
            self._drawn, self._to_draw = time.monotonic(), None

    def close(self) -> None:
        self._draw()
        for writer in self._writers.values():
            writer.close()


class Screen:
    """Shows progress: a live bar on a terminal, one line an epoch anywhere (also in a log file)."""

    def __init__(self, epochs: int, steps_per_epoch: int):
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.console = Console(highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self.bar.add_task("", total=None, note="")
        self._started, self._step = time.monotonic(), 0
        self._first_step: int | None = None

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Shows training batch ``step`` (of the run, from 1) of ``epoch`` (from 1)."""
        if self._first_step is None:
            # The first batch includes tracing the graph; it says nothing about speed.
            self._started, self._first_step = time.monotonic(), step
        self._step = step
        self.bar.update(
            self._task,
            description=f"epoch {epoch}/{self.epochs}",
            total=self.steps_per_epoch,
            completed=step - (epoch - 1) * self.steps_per_epoch,
            note=f"loss {loss:.4f}  {self.speed()}  {self.remaining()}",
        )

    def validating(self, epoch: int, batch: int, batches: int) -> None:
        """Shows validation batch ``batch`` (from 1) of ``batches`` (below 0 where nobody knows)."""
        text = f"validation {epoch}/{self.epochs}"
        self.bar.update(self._task, description=text, total=max(batches, batch), completed=batch, note="")

    def _seconds_a_step(self) -> float | None:
        done = self._step - (self._first_step or self._step)
        return (time.monotonic() - self._started) / done if done else None

    def speed(self) -> str:
        """Training batches per second so far, validation and saving included."""
        seconds = self._seconds_a_step()
        return "" if seconds is None else f"{1 / seconds:.3g} steps/s"

    def remaining(self) -> str:
        """Time to the last epoch, h:mm:ss."""
        seconds = self._seconds_a_step()
        if seconds is None:
            return ""
        left = round(seconds * (self.epochs * self.steps_per_epoch - self._step))
        return f"ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"

    def epoch(self, row: Row, best_epoch: int) -> None:
        """Prints the line of a finished epoch."""
        scores = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in _COUNTERS)
        best = "best so far" if best_epoch == row["epoch"] else f"best: epoch {best_epoch}"
        self.say(f"epoch {int(row['epoch'])}/{self.epochs}  {scores}  ({best})  {self.speed()}  {self.remaining()}")

    def say(self, text: str) -> None:
        self.console.print(text.rstrip(), markup=False)
