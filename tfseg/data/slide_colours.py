"""The colours that a network was trained on, for slides and pictures that it is to see."""

from __future__ import annotations

import dataclasses
import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfseg.data.colour_normalisation import Normaliser, fit, load_normaliser
from tfseg.slides.base import Slide
from tfseg.slides.recoloured import RecolouredSlide
from tfseg.types import COLOURS, SlideError

OVERVIEW_PX = 2048
"""Longest side of the overview from which a slide's own colours are taken."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlideColours:
    """Gives slides the colours of a target.

    Attributes:
        normaliser: fitted to the target.
    """

    normaliser: Normaliser

    def __call__(self, slide: Slide) -> Slide:
        """The slide with the target's colours; its own are taken from all of it, at most ``OVERVIEW_PX`` a side.

        A slide without two stains, where there is nothing to normalise, stays as it is, with a warning.
        """
        overview = slide.whole(slide.mpp * max(1.0, max(slide.size) / OVERVIEW_PX))
        try:
            own: Any = fit(overview, self.normaliser.method)  # type: ignore[arg-type]
        except SlideError as error:
            _log.warning("%s: colours stay as they are: %s", slide.path or slide.name, error)
            return slide
        return RecolouredSlide(slide, functools.partial(self.normaliser.apply, source=own))

    def describe(self) -> dict[str, Any]:
        """For the summary: the target's parameters."""
        return dataclasses.asdict(self.normaliser)


def read_colours(folder: str | Path) -> SlideColours | None:
    """Those of a model folder; None where the network was trained on colours as they came.

    Raises:
        ModelError: the file is damaged.
    """
    file = Path(folder) / COLOURS
    return SlideColours(load_normaliser(file)) if file.is_file() else None
