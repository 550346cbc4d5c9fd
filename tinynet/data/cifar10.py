"""CIFAR-10: 60,000 colour photographs of 32 x 32 pixels in ten classes, in its binary version.

A. Krizhevsky (2009), Learning multiple layers of features from tiny images.

A file is a row of records and nothing else.  A record has 3,073 bytes: the label, then 1,024 of red, row by row, as
many of green, as many of blue.  The planes (3, 32, 32) become pixels (32, 32, 3) on the way to float32.
"""

import os

import numpy as np

from tinynet.data.files import Part, broken, check_labels, data_root, described, is_missing, opened

SIDE, CHANNELS = 32, 3
RECORD = 1 + CHANNELS * SIDE * SIDE

NAMES = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
ARCHIVE = "cifar-10-binary.tar.gz"
ARCHIVE_SIZE = 170052171
ARCHIVE_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
MIRRORS = (
    "https://cave.cs.toronto.edu/kriz/",
    "https://www.cs.toronto.edu/~kriz/",
    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
)


def cifar10(root: str | os.PathLike[str] | None = None) -> tuple[Part, Part]:
    """CIFAR-10, small photographs, as (x_train, y_train), (x_test, y_test): 50,000 and 10,000 of them.

    Images are float32 in [0, 1], (N, 32, 32, 3), red, green, blue; labels are int64, (N,), 0 to 9: airplane,
    automobile, bird, cat, deer, dog, frog, horse, ship, truck.

    The files data_batch_1.bin to data_batch_5.bin and test_batch.bin lie in `root`/cifar-10-batches-bin, each with any
    whole number of records.  `root` is the environment variable TINYNET_DATA by default, else tinynet in the user's
    cache folder.  Files that are there are read as they are; if one is missing, the archive of all is downloaded (170
    MB) and its checksum verified.  Raises DatasetError, naming the file, if it is broken or cannot be had.

    >>> (x_train, y_train), (x_test, y_test) = tn.data.cifar10()  # doctest: +SKIP
    >>> x_train.shape, y_test.shape  # doctest: +SKIP
    ((50000, 32, 32, 3), (10000,))
    """
    folder = data_root(root) / "cifar-10-batches-bin"
    paths = [folder / name for name in NAMES]
    missing = [path for path in paths if is_missing(path)]
    if missing:
        from tinynet.data.download import download_members  # with all of pooch and requests, which few calls need

        download_members(missing, ARCHIVE, MIRRORS, ARCHIVE_SIZE, ARCHIVE_SHA256)
    return _join([read_records(path) for path in paths[:5]]), _join([read_records(paths[5])])


def read_records(path):
    """The records of a file, (N, 3073) unsigned bytes."""
    with opened(path) as (file, size):
        if size % RECORD:
            start = described(file.read(8))
            raise broken(path, f"records of {RECORD:,} bytes", f"{size:,} bytes, beginning with {start}")
        records = np.fromfile(file, np.uint8).reshape(-1, RECORD)
    check_labels(path, records[:, 0])
    return records


def _join(parts):
    records = sum(map(len, parts))
    x, y = np.empty((records, SIDE, SIDE, CHANNELS), np.float32), np.empty(records, np.int64)
    start = 0
    for part in parts:
        end = start + len(part)
        planes = part[:, 1:].reshape(-1, CHANNELS, SIDE, SIDE)
        np.divide(planes.transpose(0, 2, 3, 1), np.float32(255), out=x[start:end])
        y[start:end] = part[:, 0]
        start = end
    return x, y
