"""Draws the figures of the documentation that come from code: ``python tools/draw_docs.py schedules``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def schedules(folder: Path) -> Path:
    """The stepwise cyclic learning rate with its defaults, over five cycles, its falling tops joined."""
    from tfseg.train.schedules import StepwiseCyclic

    schedule, cycles = StepwiseCyclic(), 5
    steps = np.arange(cycles * schedule.cycle_steps)
    tops = np.arange(cycles) * schedule.cycle_steps
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps, np.asarray(schedule(steps)), label="learning rate")
    axes.plot(tops, np.asarray(schedule(tops)), "o--", color="0.5", markersize=4, label="tops of the cycles")
    axes.set(xlabel="updates", ylabel="learning rate", ylim=(0, None), xlim=(0, steps[-1]))
    axes.set_title(", ".join(f"{name}={value:g}" for name, value in schedule.get_config().items()), fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend()
    path = folder / "stepwise_cyclic.png"
    figure.savefig(path, dpi=110)
    return path


FIGURES = {"schedules": schedules}


def main(figure: tyro.conf.Positional[Literal["schedules"]], /, folder: Path = IMAGES) -> None:
    """Draws one figure.

    Args:
        figure: which.
        folder: where it goes.
    """
    print(FIGURES[figure](folder))


if __name__ == "__main__":
    tyro.cli(main)
