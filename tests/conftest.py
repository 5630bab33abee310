"""Shared fixtures."""

from __future__ import annotations

import gc
import itertools
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("SM_FRAMEWORK", "tf.keras")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

settings.register_profile("tfseg", deadline=None)  # a slow machine is no failure
settings.load_profile("tfseg")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real test images; skips the test where the checkout has none beside it."""
    if not SHARED.is_dir():
        pytest.skip(f"real data not found at {SHARED}")
    return SHARED


def _seed(number: int) -> None:
    """Weights, shuffles and whatever else takes no seed of its own; Keras' initializers ask Python's ``random``."""
    random.seed(number)
    np.random.seed(number)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(number)


@pytest.fixture(scope="module", autouse=True)
def _seed_module() -> None:
    """What a module's fixtures build is the same in every run, whichever modules ran before."""
    _seed(0)


@pytest.fixture(autouse=True)
def _seed_test() -> None:
    """A test draws the same in every run; other numbers than its module's fixtures, so that what equals theirs has
    seeded itself."""
    _seed(1)


_modules = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def _free_networks() -> Iterator[None]:
    """Lets go of networks and graphs: kept to the end, those of the whole suite take over 16 GiB.

    After every tenth module, for it takes a second.
    """
    yield
    if "keras" in sys.modules and next(_modules) % 10 == 0:
        sys.modules["keras"].utils.clear_session(free_memory=False)
        gc.collect()


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """Training runs operation by operation: a smoke run takes two steps of each network, and compiling takes longer.

    Compiled steps are tested in ``tests/train``. CD-UNET's and the multi-level network's smoke runs are compiled; slow
    tests compile the others' at full depth.
    """
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
