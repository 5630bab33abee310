"""What the tests of the command line share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TUMOUR_BOX = (280, 70, 490, 350)
"""Where ``fake_networks.picture`` has tumour: left, top, right, bottom."""
PATCHES = ("--patch-px", "32", "--stride-px", "32", "--workers", "1")


@dataclass(frozen=True)
class Outcome:
    """Exit code, and what was printed."""

    code: int
    out: str
    err: str


Tfseg = Callable[..., Outcome]


def files(folder: Path) -> list[str]:
    """All files below a folder, those under temporary names too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def start(*arguments, before: str = "") -> subprocess.Popen[str]:
    """``tfseg`` as a process group of its own, as a terminal starts it; ``before`` is Python to run first."""
    code = f"{before}\nimport sys\nfrom tfseg.cli import main\nsys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
