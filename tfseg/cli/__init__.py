"""The ``tfseg`` command: one module here for each command, with a function of the same name.

The module is imported when its command is called, so that ``tfseg --help`` answers at once and no command waits for
what only others need.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
import os
import sys
from collections.abc import Iterator

import tyro

import tfseg
from tfseg.train.interrupt import TrainingInterruptedError
from tfseg.types import TfsegError

COMMANDS = {
    "index": "find tissue, tile it, label patches",
    "train": "train classifier and refinement network, or a dense network",
    "segment": "segment whole slides",
    "evaluate": "compare segmentations with annotations",
    "export": "write ONNX and FAST text pipelines",
    "models": "list the registered models and their parameters",
    "demo": "all of it on synthetic slides, in minutes",
}


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hides what TensorFlow's C++ side prints while it is imported; a failing import still raises."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"tfseg {tfseg.__version__}: from annotated slides to a measured, deployed model", ""]
    lines += ["usage: tfseg COMMAND [options]     (tfseg COMMAND --help for its options)", ""]
    lines += [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 well, 1 an error that the message explains, 2 wrong usage, 130 Ctrl-C."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.captureWarnings(True)  # Python's warnings speak to programmers; what users need, tfseg logs itself
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
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
        hint = f", did you mean {near[0]!r}?" if near else ""
        print(f"tfseg: no command {name!r}{hint}\n\n{_usage()}", file=sys.stderr)
        return 2
    try:
        with _quiet_stderr():
            module = importlib.import_module(f"tfseg.cli.{name}")
        if name == "index":
            module.check_unused(rest)
        command = getattr(module, name)
        return tyro.cli(command, args=rest, prog=f"tfseg {name}", config=(tyro.conf.AvoidSubcommands,)) or 0
    except TrainingInterruptedError as stopped:
        print(f"\ntfseg {name}: {stopped}", file=sys.stderr)
        return 130
    except (TfsegError, OSError) as error:
        print(f"tfseg {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ntfseg {name}: stopped. What is finished is kept; run the same command to go on.", file=sys.stderr)
        return 130
