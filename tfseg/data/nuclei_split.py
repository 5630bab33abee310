"""Which images of nuclei train, validate and test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfseg.data.nuclei import NucleiItem
from tfseg.types import CohortError


@dataclass(frozen=True)
class NucleiSplit:
    """How images are divided. No image is in two parts, so none of its tiles is seen in training and in validation.

    Attributes:
        test_organs: whole organs that are held out; none takes the column split's "test".
        validation: fraction of the images left that choose epoch and threshold, where the collection has no column
            split; of every organ at least one where it has two.
        seed: of that choice.
    """

    test_organs: tuple[str, ...] = ()
    validation: float = 0.2
    seed: int = 0


def split_items(items: Sequence[NucleiItem], rule: NucleiSplit) -> dict[str, list[NucleiItem]]:
    """{"train": …, "val": …, "test": …}, each in the order of ``items``.

    The column split holds where any image has "train" in it; ``test_organs`` hold before it. Without the column the
    images of each organ are drawn in random order, and the first round(validation · n) of them validate, at least one
    where there are two.

    Raises:
        CohortError: an organ that no image is of, or nothing to train or to validate on.
    """
    organs = sorted({item.organ for item in items})
    unknown = sorted(set(rule.test_organs) - set(organs))
    if unknown:
        raise CohortError(f"test organs {', '.join(unknown)}: no image is of them. There are: {', '.join(organs)}.")
    left = [item for item in items if item.organ not in rule.test_organs]
    if any(item.split == "train" for item in left):
        part_of = {item.name: item.split for item in left}
    else:
        part_of = _drawn([item for item in left if item.split != "test"], rule)
        part_of |= {item.name: "test" for item in left if item.split == "test"}
    part_of |= {item.name: "test" for item in items if item.organ in rule.test_organs}
    parts = {name: [item for item in items if part_of[item.name] == name] for name in ("train", "val", "test")}
    for name in ("train", "val"):
        if not parts[name]:
            raise CohortError(
                f"no image to {'train' if name == 'train' else 'validate'} on: of {len(items)} images "
                f"{', '.join(f'{len(part)} {key}' for key, part in parts.items())}. Give more images, hold out fewer "
                "organs, or write train, val and test into a column split of a manifest."
            )
    return parts


def _drawn(items: Sequence[NucleiItem], rule: NucleiSplit) -> dict[str, str]:
    random = np.random.default_rng(rule.seed)
    parts: dict[str, str] = {}
    for organ in sorted({item.organ for item in items}):
        names = sorted(item.name for item in items if item.organ == organ)
        names = [names[k] for k in random.permutation(len(names))]
        count = max(math.floor(rule.validation * len(names) + 0.5), int(len(names) > 1))
        parts |= {name: "val" if place < count else "train" for place, name in enumerate(names)}
    return parts
