"""Scores. Importing this loads NumPy and SciPy alone."""

from tfseg.metrics.instances import instance_scores

__all__ = ["instance_scores"]
