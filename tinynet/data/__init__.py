"""Data: batches of it, and data sets to train on."""

from .batches import batches
from .digits import digits

__all__ = ["batches", "digits"]
