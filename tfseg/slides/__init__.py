"""Where pixels come from: slides, annotations, tissue. Importing this loads no image library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfseg.slides.base import Slide, open_slide

__all__ = ["Slide", "open_slide"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from tfseg.slides import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
