"""What networks of nuclei train and validate on: images by part, prepared on disk, their tiles."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import tensorflow as tf
from rich.console import Console
from rich.progress import track

from tfseg.data.colour_normalisation import Normaliser, load_normaliser, save_normaliser
from tfseg.data.colour_normalisation import fit as fit_colours
from tfseg.data.nuclei import NucleiItem
from tfseg.data.nuclei_pictures import read_rgb
from tfseg.data.nuclei_split import split_items
from tfseg.data.nuclei_store import NucleiStore
from tfseg.data.nuclei_stream import Targets, nuclei_dataset
from tfseg.data.nuclei_tiles import tile_table
from tfseg.data.restain import Restain, counterstains
from tfseg.data.sampling import EpochSampler
from tfseg.train.fit import TrainConfig
from tfseg.train.nuclei_settings import AUGMENTS, NormalisationSettings, NucleiSettings, RestainSettings
from tfseg.types import COLOURS

LEARNT = ("train", "val")
"""Parts that training sees."""


@dataclass(frozen=True)
class NucleiData:
    """The images of a run.

    Attributes:
        parts: images by "train", "val" and "test".
        stores: prepared images of "train" and "val".
        tables: their tiles.
        settings: of the run.
        restain: of the training tiles; those of "val" are stored as they are shown.
    """

    parts: dict[str, list[NucleiItem]]
    stores: dict[str, NucleiStore]
    tables: dict[str, pd.DataFrame]
    settings: NucleiSettings
    restain: Restain | None = None

    @classmethod
    def prepare(
        cls, items: Sequence[NucleiItem], out: Path, settings: NucleiSettings, prepared: Path | None = None
    ) -> NucleiData:
        """Divides the images and prepares them in ``prepared``, which runs may share, or ``out``/training/prepared.

        Raises:
            CohortError: nothing to train, to validate on or to restain with.
            SlideError, AnnotationError: an image or its labels, or a picture to restain with, cannot be used.
        """
        parts = split_items(items, settings.split)
        colours = colours_of(out, parts["train"], settings.normalisation)
        folder = prepared or out / "training" / "prepared"
        restain = _restain(settings.restain, folder / "counterstains")
        stores = {
            "train": NucleiStore(parts["train"], folder, colours, settings.border),
            "val": NucleiStore(parts["val"], _restained_folder(folder, restain), colours, settings.border, restain),
        }
        for part in LEARNT:
            stores[part].prepare()
            Console(stderr=True).print(f"{part}: {len(parts[part])} images ready", highlight=False)
        tables = {part: tile_table(parts[part], settings.tile_px, settings.tile_overlap) for part in LEARNT}
        return cls(parts, stores, tables, settings, restain)

    @property
    def config(self) -> TrainConfig:
        """That of the settings; no steps an epoch are one pass over the tiles."""
        train = self.settings.train
        steps = train.steps_per_epoch or math.ceil(len(self.tables["train"]) / self.settings.batch_size)
        return dataclasses.replace(train, steps_per_epoch=steps)

    def training(self, targets: Targets, start_step: int = 0) -> tf.data.Dataset:
        """Augmented batches without end, from a step on."""
        sampler = EpochSampler(len(self.tables["train"]), self.settings.train.seed)
        augment = AUGMENTS[self.settings.augment]
        changes = {"augment": augment, "restain": self.restain}
        return self._batches("train", targets, sampler, **changes, start_step=start_step)

    def validation(self, targets: Targets) -> tf.data.Dataset:
        """Every tile once, or the first ``validation_steps`` batches."""
        batches, steps = self._batches("val", targets, None), self.settings.train.validation_steps
        return batches if steps is None else batches.take(steps)

    def _batches(self, part: str, targets: Targets, sampler: EpochSampler | None, **options: Any) -> tf.data.Dataset:
        own = self.settings
        return nuclei_dataset(
            self.stores[part], self.tables[part], sampler, own.batch_size, targets,
            tile_px=own.tile_px, threads=own.threads, **options,
        )  # fmt: skip

    def described(self) -> dict[str, Any]:
        """For the run's record: settings but for those of the loop, and a hash of every image and its labels."""
        settings = {**dataclasses.asdict(self.settings), "train": None, "threads": None}
        if self.restain is None:
            settings["restain"] = None  # runs from before there was this setting go on
        return {
            "settings": settings,
            "images": {part: {item.name: _fingerprint(item) for item in self.parts[part]} for part in LEARNT},
            "counterstains": None if self.restain is None else self.restain.source.digest,
        }


def colours_of(folder: Path, training: Sequence[NucleiItem], chosen: NormalisationSettings) -> Normaliser | None:
    """The colours that every image gets, kept in ``folder``/colours.json; None where they stay as they are.

    Args:
        folder: of the model, which wants pictures of the same colours.
        training: images; the first is the target where the settings name none.
        chosen: how.

    Raises:
        SlideError: the target cannot be read, or has no stains to take up.
    """
    if chosen.method == "none":
        return None
    file, target = folder / COLOURS, chosen.target or training[0].image
    if not file.is_file():
        save_normaliser(file, fit_colours(read_rgb(Path(target)), chosen.method))
    return load_normaliser(file)


def _restain(chosen: RestainSettings, folder: Path) -> Restain | None:
    if chosen.pictures is None:
        return None
    each = functools.partial(track, description="counterstains", console=Console(stderr=True))
    return Restain(counterstains(chosen.pictures, folder, each), chosen.p, chosen.brown)


def _restained_folder(folder: Path, restain: Restain | None) -> Path:
    """Of restained images: one of their own, since other runs may keep the same images as they are in ``folder``."""
    return folder if restain is None else folder / "restained_{}_{:g}_{:g}".format(*restain.key)


def _fingerprint(item: NucleiItem) -> str:
    digest = hashlib.sha256()
    for path in (item.image, *item.labels.files()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
