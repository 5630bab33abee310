"""The ``tfseg`` command: index, train, segment, evaluate, export, models, demo.

Each command imports what it needs when it runs, so that ``--help`` answers at once. (No ``from __future__ import
annotations`` here: tyro reads the evaluated annotations of the functions that ``_command`` modules build.)
"""

import difflib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

import tfseg
from tfseg.types import TfsegError

Paths = tyro.conf.Positional[tuple[Path, ...]]
OnePath = tyro.conf.Positional[Path]


def index(
    cohort: OnePath,
    /,
    out: Path,
    patch_px: int = 256,
    stride_px: int = 256,
    mpp: float = 1.0,
    min_tissue: float = 0.25,
    min_foreground: float = 0.25,
    workers: int = 2,
    skip_broken: bool = False,
) -> int:
    """Finds tissue on every slide of a cohort, tiles it and labels the patches.

    Writes patches.parquet, summary.csv, index.json and a picture per slide. Run again after a stop: finished slides
    are not done twice.

    Args:
        cohort: manifest CSV with the columns slide, annotation, split and any others (grade, stain, scanner …).
        out: folder of the index.
        patch_px: side of a patch, pixels at `mpp`.
        stride_px: step between patches, pixels at `mpp`.
        mpp: pixel size of the patches, µm/px; 1.0 is 10x.
        min_tissue: patches need more than this fraction of tissue.
        min_foreground: tumour patches need more than this fraction of tumour; those between 0 and it are dropped.
        workers: slides at a time.
        skip_broken: leave unreadable slides out, naming them, instead of stopping.
    """
    from tfseg.data.cohort import Cohort
    from tfseg.data.index import IndexConfig, build_index

    config = IndexConfig(
        patch_px=patch_px, stride_px=stride_px, mpp=mpp, min_tissue=min_tissue, min_foreground=min_foreground
    )
    build_index(Cohort.read(cohort), config, out, workers=workers, skip_broken=skip_broken)
    print((out / "summary.csv").read_text(encoding="utf-8"))
    print(f"index: {out}")
    return 0


def models(*, json_: Annotated[bool, tyro.conf.arg(name="json")] = False) -> int:
    """Lists every registered model with its parameters, counted by building it at its paper's settings.

    Args:
        json_: print JSON instead of a table.
    """
    from tfseg.models import table

    rows = table()
    if json_:
        print(json.dumps(rows, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    shown = Table("model", "total", "trainable", "paper", "structure")
    for row in rows:
        shown.add_row(row["name"], f"{row['total']:,}", f"{row['trainable']:,}", row["paper"], row["structure"])
    Console().print(shown)
    return 0


def demo(out: Path = Path("runs/demo"), workers: int = 2, seed: int = 0) -> int:
    """Makes a small synthetic cohort and takes H2G-Net the whole way: index, train, segment, evaluate, export.

    Args:
        out: folder of everything the demo writes.
        workers: processes that write and index slides.
        seed: one seed for cohort, sampling and weights.
    """
    from tfseg.demo import run_demo

    run_demo(out, workers=workers, seed=seed)
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "index": index,
    "models": models,
    "demo": demo,
}


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"tfseg {tfseg.__version__}: from annotated slides to a measured, deployed model", ""]
    lines += ["usage: tfseg COMMAND [options]     (tfseg COMMAND --help for its options)", ""]
    lines += [f"  {name:<{width}}  {(f.__doc__ or '').splitlines()[0]}" for name, f in COMMANDS.items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 well, 1 an error that the message explains, 2 wrong usage, 130 Ctrl-C."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    logging.captureWarnings(True)
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(tfseg.__version__)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        print(
            f"tfseg: no command {name!r}{f', did you mean {near[0]!r}?' if near else ''}\n\n{_usage()}", file=sys.stderr
        )
        return 2
    try:
        return tyro.cli(COMMANDS[name], args=rest, prog=f"tfseg {name}") or 0
    except TfsegError as error:
        print(f"tfseg {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ntfseg {name}: stopped. What is finished is kept; run the same command to go on.", file=sys.stderr)
        return 130
