"""Writing files so that a final name never holds half a file."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfseg.types import OutputError


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; renames it to ``path`` when the block ends well.

    The temporary name keeps the suffixes of ``path``, because many writers choose their format by suffix. When the
    block raises (or is interrupted), the temporary file is removed and ``path`` is left as it was.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full; names the target.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None and Path(error.filename) not in (temporary, path, path.parent, *path.parents):
            raise
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. Nothing was left under that name. "
            "Free space or choose a folder you may write to, then run the same command again."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Writes ``content`` as indented JSON under ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_text(path: str | Path, text: str) -> None:
    """Writes ``text`` as UTF-8 under ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
