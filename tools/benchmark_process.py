"""Processes of their own for benchmarks, and the memory that one held."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def apart(function: Callable[..., None], *arguments: Any) -> None:
    """Runs in a process of its own, so that TensorFlow's threads and memory are not around when it counts."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"benchmark: {function.__name__} failed, see above")


def peak_mib() -> float:
    """Most memory held. On Linux not by ``getrusage``, which counts what the parent held before this program began."""
    status = Path("/proc/self/status")
    if status.is_file():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
