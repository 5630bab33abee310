"""Networks: ``MODELS`` (name → builder), ``build``, ``describe``, ``save``, ``load``, ``count``, ``table``;
``take_members`` puts trained U-Nets into an ensemble or a GB U-Net.

Every network takes a dict of named inputs and returns a dict of named outputs, float32.
"""

from tfseg.models.members import take_members
from tfseg.models.registry import MODELS, build, count, describe, load, save, table

__all__ = ["MODELS", "build", "count", "describe", "load", "save", "table", "take_members"]
