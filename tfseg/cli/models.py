"""``tfseg models``."""

from __future__ import annotations

import json
from typing import Annotated

from rich.console import Console
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
    rows = table(variants)
    if json_:
        print(json.dumps(rows, indent=2))
        return
    shown = Table("model", "total", "trainable", "structure", "paper")
    for row in rows:
        shown.add_row(row["name"], f"{row['total']:,}", f"{row['trainable']:,}", row["structure"], row["paper"])
    Console().print(shown)
