"""``run.json``: everything a run was started with, and with what."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfseg
from tfseg.files import write_json
from tfseg.types import TfsegError


def versions() -> dict[str, str]:
    """Versions of what decides a run's numbers."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "tfseg": tfseg.__version__,
    }


def plain(value: Any) -> Any:
    """``value`` as JSON would give it back: tuples as lists, paths and unknown objects as text."""
    return json.loads(json.dumps(value, default=lambda o: o.tolist() if isinstance(o, np.generic) else str(o)))


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Lines ``key: old → new`` for every leaf that differs between two JSON values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for name in sorted(old.keys() | new.keys())
            for line in differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if old == new else [f"{key}: {old!r} → {new!r}"]


def record_start(run_folder: Path, config: dict[str, Any]) -> bool:
    """Writes or extends ``run_folder/run.json``; returns whether the run was started before.

    The file holds the resolved ``config`` and one entry per start: time, command line, versions.

    Raises:
        TfsegError: the folder holds a run of another config; names every key that differs.
    """
    path = run_folder / "run.json"
    config = plain(config)
    starts = []
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            starts, differing = before["starts"], differences(before["config"], config)
        except (ValueError, KeyError, TypeError) as error:
            raise TfsegError(f"{path}: not the record of a run ({error!r}). Choose a new folder.") from error
        if differing:
            raise TfsegError(
                f"{run_folder}: holds a run with other settings (there → now):\n  " + "\n  ".join(differing) + "\n"
                "Start again with the old settings to go on with it, or choose a new folder."
            )
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    starts.append({"time": now, "command": sys.argv, "versions": versions()})
    write_json(path, {"config": config, "starts": starts})
    return len(starts) > 1
