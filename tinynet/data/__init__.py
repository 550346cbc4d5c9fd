"""Data: batches of it, and data sets to train on."""

from tinynet.data.augmentation import cutout, mixup, random_crop, random_flip, random_shift
from tinynet.data.balance import balanced_class_weights
from tinynet.data.batches import batches
from tinynet.data.cifar10 import cifar10
from tinynet.data.digits import digits
from tinynet.data.files import DatasetError
from tinynet.data.mnist import fashion_mnist, mnist
from tinynet.data.movie_reviews import movie_reviews
from tinynet.data.vocabulary import Vocabulary, tokenize

__all__ = [
    "DatasetError",
    "Vocabulary",
    "balanced_class_weights",
    "batches",
    "cifar10",
    "cutout",
    "digits",
    "fashion_mnist",
    "mixup",
    "mnist",
    "movie_reviews",
    "random_crop",
    "random_flip",
    "random_shift",
    "tokenize",
]
