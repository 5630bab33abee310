"""``tfseg models``."""

from __future__ import annotations

import json
from typing import Annotated

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tyro.conf import arg

from tfseg.models import table


def models(*, variants: bool = False, json_: Annotated[bool, arg(name="json")] = False) -> None:
    """Lists every registered model with its parameters, counted by building it at its paper's settings.

    Args:
        variants: list also what other papers build of the same architectures (GB U-Net's eight encoders, its two stages
            trained together).
        json_: print JSON instead of a table.
    """
    with Progress(console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("building")

        def begun(name: str, done: int, total: int) -> None:
            bar.update(shown, description=name, completed=done, total=total)

        rows = table(variants, begun)
    if json_:
        print(json.dumps(rows, indent=2))
        return
    lines = Table("model", "total", "trainable", "structure", "paper")
    for row in rows:
        lines.add_row(row["name"], f"{row['total']:,}", f"{row['trainable']:,}", row["structure"], row["paper"])
    Console().print(lines)
