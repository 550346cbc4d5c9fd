"""Data: batches of it, and data sets to train on."""

from tinynet.data.batches import batches
from tinynet.data.digits import digits

__all__ = ["batches", "digits"]
