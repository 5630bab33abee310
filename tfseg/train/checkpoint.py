"""The whole state of a training run in one file, written at once or not at all."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfseg.files import atomic_path
from tfseg.types import ModelError

Variables = Mapping[str, Sequence["keras.Variable | tf.Variable"]]


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: epochs finished, validation included.
        step: batches trained on since the start of the run.
        best_epoch: epoch (from 1) of the best monitored score; 0 before the first.
        best_score: that score.
        finished: nothing is left to train: all epochs done, or stopped early.
        history: one row an epoch, as in ``history.csv``.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_score: float | None = None
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


def save(path: Path, variables: Variables, progress: Progress | None = None) -> None:
    """Writes the values of ``variables`` (by group, in order) and ``progress`` to the .npz file ``path``.

    The variables of a Keras model include the states of its seed generators (dropout), those of an optimizer its
    moments, iteration counter and loss scale; nothing else is needed to go on exactly.
    """
    arrays: dict[str, Any] = {
        f"{group}/{i:04d}": np.asarray(v) for group, members in variables.items() for i, v in enumerate(members)
    }
    arrays["progress"] = np.asarray(json.dumps(asdict(progress or Progress())))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load(path: Path, variables: Variables) -> Progress:
    """Assigns the values in ``path`` to ``variables`` and returns the progress.

    Raises:
        ModelError: the file is missing or unreadable, or was written for other variables (another network).
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            content = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{path}: cannot read this checkpoint ({error}). Train into a new folder, or delete the run folder."
        ) from error
    progress = Progress(**json.loads(str(content.pop("progress"))))
    for group, members in variables.items():
        names = [f"{group}/{i:04d}" for i in range(len(members))]
        there = sorted(name for name in content if name.startswith(f"{group}/"))
        shapes = [tuple(v.shape) for v in members]
        if there != names or [content[name].shape for name in names] != shapes:
            raise ModelError(
                f"{path}: holds {len(there)} {group} variables that do not fit the {len(names)} of this network. "
                "It was written for another one: train into a new folder."
            )
        for name, variable in zip(names, members, strict=True):
            variable.assign(content[name])
    return progress
