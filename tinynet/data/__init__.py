"""Data: batches of it, and data sets to train on."""

from tinynet.data.augmentation import cutout, mixup, random_crop, random_flip, random_shift
from tinynet.data.balance import balanced_class_weights
from tinynet.data.batches import batches
from tinynet.data.bpe import BPE
from tinynet.data.cifar10 import cifar10
from tinynet.data.digits import digits
from tinynet.data.files import DatasetError
from tinynet.data.image_folder import image_folder, images
from tinynet.data.imdb import imdb
from tinynet.data.medmnist import chest_mnist, pneumonia_mnist
from tinynet.data.mnist import fashion_mnist, mnist
from tinynet.data.movie_reviews import movie_reviews
from tinynet.data.sequences import pad
from tinynet.data.shakespeare import names, shakespeare
from tinynet.data.sst import sst
from tinynet.data.table import Table
from tinynet.data.vocabulary import Characters, Vocabulary, tokenize

__all__ = [
    "BPE",
    "Characters",
    "DatasetError",
    "Table",
    "Vocabulary",
    "balanced_class_weights",
    "batches",
    "chest_mnist",
    "cifar10",
    "cutout",
    "digits",
    "fashion_mnist",
    "image_folder",
    "images",
    "imdb",
    "mixup",
    "mnist",
    "movie_reviews",
    "names",
    "pad",
    "pneumonia_mnist",
    "random_crop",
    "random_flip",
    "random_shift",
    "shakespeare",
    "sst",
    "tokenize",
]
