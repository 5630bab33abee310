"""``tfseg demo``."""

from __future__ import annotations

from pathlib import Path

from tfseg.demo import run_demo


def demo(out: Path = Path("runs/demo"), workers: int = 2, seed: int = 0) -> None:
    """Makes a small synthetic cohort and takes H2G-Net the whole way: index, train, segment, evaluate, export.

    Args:
        out: folder of everything the demo writes.
        workers: processes that write and index slides.
        seed: one seed for cohort, sampling and weights.
    """
    run_demo(out, workers=workers, seed=seed)
