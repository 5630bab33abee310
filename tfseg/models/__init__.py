"""Networks: ``MODELS`` (name → builder), ``build``, ``describe``, ``save``, ``load``, ``count``, ``table``.

Every network takes a dict of named inputs and returns a dict of named outputs, float32.
"""

from tfseg.models.registry import MODELS, build, count, describe, load, save, table

__all__ = ["MODELS", "build", "count", "describe", "load", "save", "table"]
