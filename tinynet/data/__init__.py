"""Data: batches of it, and data sets to train on."""

from tinynet.data.augmentation import cutout, mixup, random_crop, random_flip, random_shift
from tinynet.data.balance import balanced_class_weights
from tinynet.data.batches import batches
from tinynet.data.digits import digits

__all__ = [
    "balanced_class_weights",
    "batches",
    "cutout",
    "digits",
    "mixup",
    "random_crop",
    "random_flip",
    "random_shift",
]
