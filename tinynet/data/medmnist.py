"""PneumoniaMNIST and ChestMNIST: X-rays of the chest, 28 x 28 grey pixels each, from the collection MedMNIST v2.

J. Yang, R. Shi, D. Wei, Z. Liu, L. Zhao, B. Ke, H. Pfister, B. Ni (2023), MedMNIST v2: a large-scale lightweight
benchmark for 2D and 3D biomedical image classification (CC BY 4.0).  The images are those of

D. Kermany, M. Goldbaum et al. (2018), Identifying medical diagnoses and treatable diseases by image-based deep
learning.
X. Wang, Y. Peng et al. (2017), ChestX-ray8: hospital-scale chest X-ray database.

A set is one file of NumPy's, a zip archive that holds six arrays of unsigned bytes, each with a header that says its
shape: train_images (N, 28, 28), train_labels (N, L), and the same of val and of test.
"""

import math
import os
import zipfile
import zlib

import numpy as np

from tinynet.data.files import LIMIT, Part, broken, check_labels, data_root, described, is_missing, opened

SIDE = 28
MOST = 1032  # bytes that one byte of a zip archive can unpack to
PARTS = ("train", "val", "test")
MIRRORS = ("https://zenodo.org/records/10519652/files/", "https://zenodo.org/records/6496656/files/")
# Name of the file, its size, its checksum.  Of ChestMNIST only an MD5 is published, by the authors' package `medmnist`
# (version 3.0.2), and no size; the SHA-256 of PneumoniaMNIST is what TensorFlow Datasets compares with.
PNEUMONIA = ("pneumoniamnist.npz", 4170669, "e1792d3f03751cb101e99f19a63b3c1941436c988665f47853417b05be250cd8")
CHEST = ("chestmnist.npz", None, "md5:02c8a6516a18b556561a56cbdd36c4a8")


def pneumonia_mnist(root: str | os.PathLike[str] | None = None) -> tuple[Part, Part, Part]:
    """PneumoniaMNIST, X-rays of children's chests, as (x, y) three times: to train on, to choose by, and to test.

    They are 4,708, 524 and 624 images, float32 in [0, 1], (N, 28, 28, 1); labels are int64, (N,): 0 is healthy, 1
    pneumonia, as are three of four of those to train on.

    The file pneumoniamnist.npz lies in `root`/pneumoniamnist.  `root` is the environment variable TINYNET_DATA by
    default, else tinynet in the user's cache folder.  A file that is there is read as it is; if it is missing, it is
    downloaded (4 MB) and its checksum verified.  Raises DatasetError, naming the file, if it is broken or cannot be
    had.

    >>> (x, y), (x_validation, y_validation), (x_test, y_test) = tn.data.pneumonia_mnist()  # doctest: +SKIP
    >>> x.shape, y_test.shape  # doctest: +SKIP
    ((4708, 28, 28, 1), (624,))
    """
    train, validation, test = _read_set(data_root(root) / "pneumoniamnist", PNEUMONIA, 1)
    return _with_one_label(train), _with_one_label(validation), _with_one_label(test)


def chest_mnist(root: str | os.PathLike[str] | None = None) -> tuple[Part, Part, Part]:
    """ChestMNIST, X-rays of the chest with 14 labels, as (x, y) three times: to train on, to choose by, and to test.

    They are 78,468, 11,219 and 22,433 images, float32 in [0, 1], (N, 28, 28, 1); labels are int64, (N, 14), 1 where a
    radiologist's report was read, by a program, to mention atelectasis, cardiomegaly, effusion, infiltration, mass,
    nodule, pneumonia, pneumothorax, consolidation, edema, emphysema, fibrosis, pleural thickening, hernia.  More than
    half of the images have none.

    The file chestmnist.npz (some 80 MB) lies in `root`/chestmnist; all else is as for pneumonia_mnist.

    >>> (x, y), (x_validation, y_validation), (x_test, y_test) = tn.data.chest_mnist()  # doctest: +SKIP
    >>> x.shape, y_test.shape  # doctest: +SKIP
    ((78468, 28, 28, 1), (22433, 14))
    """
    return _read_set(data_root(root) / "chestmnist", CHEST, 14)


def _with_one_label(part):
    x, y = part
    return x, y[:, 0]


def _read_set(folder, file, labels):
    name, size, checksum = file
    path = folder / name
    if is_missing(path):
        from tinynet.data.download import download  # with all of pooch and requests, which few calls need

        download(path, MIRRORS, size, checksum)
    with opened(path) as (stream, size):
        start = stream.read(8)
        try:
            with zipfile.ZipFile(stream) as archive:
                return tuple(_read_part(path, archive, size, part, labels) for part in PARTS)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
            found = described(start) if not start.startswith(b"PK") else f"an error in it: {error}"
            raise broken(path, "a file of NumPy's, with several arrays", found) from error


def _read_part(path, archive, size, part, L):
    x = _read_array(path, archive, size, f"{part}_images", (SIDE, SIDE))
    y = _read_array(path, archive, size, f"{part}_labels", (L,))
    if len(x) != len(y):
        raise broken(path, f"{len(x):,} {part}_labels, as many as {part}_images", f"{len(y):,}")
    check_labels(path, y.ravel(), 2)
    return x[..., np.newaxis] / np.float32(255), y.astype(np.int64)


def _read_array(path, archive, size, name, sides):
    """The array (N, *sides) of unsigned bytes that the archive, a file of `size` bytes, has under this name."""
    if f"{name}.npy" not in archive.namelist():
        raise broken(path, f"an array {name} in it", f"{', '.join(archive.namelist()[:6]) or 'nothing'}")
    with archive.open(f"{name}.npy") as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{name} has an unknown version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype != np.uint8 or len(shape) == 0 or shape[0] < 1 or shape[1:] != sides:
            expected = f"{name} of shape (N > 0, {', '.join(map(str, sides))}) and unsigned bytes"
            raise broken(path, expected, f"{shape} of {dtype}")
        wanted, most = math.prod(shape), min(LIMIT, size * MOST)
        if wanted > most:
            raise broken(path, f"the {wanted:,} bytes that the header of {name} announces", f"at most {most:,}")
        data = stream.read(wanted + 1)  # one more, to compare the archive's own checksum at the end
    if len(data) != wanted:
        found = f"{len(data):,}" if len(data) < wanted else "more"
        raise broken(path, f"the {wanted:,} bytes that the header of {name} announces", found)
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C"))
