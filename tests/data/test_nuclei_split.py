"""Which image is in which part: organs held out whole, columns that hold, draws that are the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfseg.data.nuclei import NucleiItem
from tfseg.data.nuclei_labels import LabelPicture
from tfseg.data.nuclei_split import NucleiSplit, split_items
from tfseg.types import CohortError


def items(*places: tuple[str, str]) -> list[NucleiItem]:
    return [
        NucleiItem(f"{organ}_{k}", Path(f"{k}.png"), LabelPicture(Path(f"{k}.npy")), organ, split)
        for k, (organ, split) in enumerate(places)
    ]


def names(parts):
    return {part: [item.name for item in found] for part, found in parts.items()}


UNSPLIT = items(*[("Kidney", "unknown")] * 6, *[("Liver", "unknown")] * 5, ("Colon", "unknown"), ("Brain", "unknown"))


def test_whole_organs_are_held_out_and_every_organ_validates():
    parts = split_items(UNSPLIT, NucleiSplit(("Colon",), 0.2))
    assert names(parts)["test"] == ["Colon_11"]
    organs = {part: [item.organ for item in found] for part, found in parts.items()}
    assert sorted(organs["val"]) == ["Kidney", "Liver"], "an organ with one image trains"
    assert len(parts["train"]) == 10
    assert parts["train"] == [item for item in UNSPLIT if item in parts["train"]], "in their order"


def test_the_draw_follows_the_seed_alone():
    first = split_items(UNSPLIT, NucleiSplit(validation=0.4))
    assert names(split_items(UNSPLIT[::-1], NucleiSplit(validation=0.4)))["val"] == names(first)["val"][::-1]
    others = [names(split_items(UNSPLIT, NucleiSplit(validation=0.4, seed=s)))["val"] for s in range(1, 5)]
    assert any(other != names(first)["val"] for other in others)
    assert len(first["val"]) == 4, "round(0.4 · 6) + round(0.4 · 5)"


def test_a_column_split_holds_but_for_the_organs_held_out():
    given = items(("Kidney", "train"), ("Kidney", "val"), ("Liver", "test"), ("Colon", "train"), ("Liver", "unknown"))
    parts = names(split_items(given, NucleiSplit(("Colon",))))
    assert parts == {"train": ["Kidney_0"], "val": ["Kidney_1"], "test": ["Liver_2", "Colon_3"]}


def test_a_column_that_only_says_test_leaves_the_rest_to_be_drawn():
    given = items(("Kidney", "test"), *[("Kidney", "unknown")] * 5)
    parts = split_items(given, NucleiSplit())
    assert names(parts)["test"] == ["Kidney_0"] and len(parts["val"]) == 1 and len(parts["train"]) == 4


@pytest.mark.parametrize(
    ("given", "rule", "words"),
    [
        (UNSPLIT, NucleiSplit(("Colon", "Breast")), r"Breast: no image is of them. There are: Brain, Colon"),
        (items(("Kidney", "unknown")), NucleiSplit(), "no image to validate on: of 1 images 1 train, 0 val, 0 test"),
        (items(("Kidney", "train")), NucleiSplit(("Kidney",)), "no image to train on"),
    ],
)
def test_what_cannot_be_split_says_why(given, rule, words):
    with pytest.raises(CohortError, match=words):
        split_items(given, rule)
