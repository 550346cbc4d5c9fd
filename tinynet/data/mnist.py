"""MNIST and Fashion-MNIST: 70,000 images of 28 x 28 grey pixels each, in the IDX format.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998), Gradient-based learning applied to document recognition.
H. Xiao, K. Rasul, R. Vollgraf (2017), Fashion-MNIST: a novel image dataset for benchmarking machine learning.

An IDX file is a header of big-endian int32 and then the values, in C order, all of it gzipped or not:

    0, 0, type (8: unsigned bytes), number of axes d     as four bytes, the magic number
    d sizes                                              images (N, 28, 28): d = 3; labels (N,): d = 1
    the bytes
"""

import gzip
import math
import os
import zlib

import numpy as np

from tinynet.data.files import LIMIT, Part, broken, check_labels, data_root, described, is_missing, opened

SIDE = 28
MOST = 1032  # bytes that one byte of gzip data can unpack to: a match of 258 bytes takes two bits

# Name: size, SHA-256.
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MNIST = {
    "train-images-idx3-ubyte.gz": (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    "train-labels-idx1-ubyte.gz": (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    "t10k-images-idx3-ubyte.gz": (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    "t10k-labels-idx1-ubyte.gz": (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
}
FASHION_MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
FASHION = {
    "train-images-idx3-ubyte.gz": (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    "train-labels-idx1-ubyte.gz": (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    "t10k-images-idx3-ubyte.gz": (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    "t10k-labels-idx1-ubyte.gz": (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
}


def mnist(root: str | os.PathLike[str] | None = None) -> tuple[Part, Part]:
    """MNIST, handwritten digits, as (x_train, y_train), (x_test, y_test): 60,000 and 10,000 of them.

    Images are float32 in [0, 1], (N, 28, 28, 1), 0 the paper and 1 the ink; labels are int64, (N,), 0 to 9.

    The four files lie in `root`/mnist, gzipped (train-images-idx3-ubyte.gz) or not (train-images-idx3-ubyte).  `root`
    is the environment variable TINYNET_DATA by default, else tinynet in the user's cache folder.  A file that is there
    is read as it is; one that is missing is downloaded and its checksum verified.  Raises DatasetError, naming the
    file, if it is broken or cannot be had.

    >>> (x_train, y_train), (x_test, y_test) = tn.data.mnist()  # doctest: +SKIP
    >>> x_train.shape, y_test.shape  # doctest: +SKIP
    ((60000, 28, 28, 1), (10000,))
    """
    return _read_set(data_root(root) / "mnist", MNIST_MIRRORS, MNIST)


def fashion_mnist(root: str | os.PathLike[str] | None = None) -> tuple[Part, Part]:
    """Fashion-MNIST, pictures of clothes, in `root`/fashion-mnist: shapes, files and errors are those of mnist().

    The classes are T-shirt or top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag and ankle boot.

    >>> (x_train, y_train), (x_test, y_test) = tn.data.fashion_mnist()  # doctest: +SKIP
    >>> x_train.shape, y_test.shape  # doctest: +SKIP
    ((60000, 28, 28, 1), (10000,))
    """
    return _read_set(data_root(root) / "fashion-mnist", FASHION_MIRRORS, FASHION)


def _read_set(folder, mirrors, files):
    paths = []
    for name, (size, sha256) in files.items():
        path, unpacked = folder / name, folder / name.removesuffix(".gz")
        if is_missing(path) and not is_missing(unpacked):
            path = unpacked
        elif is_missing(path):
            from tinynet.data.download import download  # with all of pooch and requests, which few calls need

            download(path, mirrors, size, sha256)
        paths.append(path)
    return _read_part(*paths[:2]), _read_part(*paths[2:])


def _read_part(images, labels):
    x, y = read_idx(images, (SIDE, SIDE)), read_idx(labels, ())
    if len(x) != len(y):
        raise broken(images, f"{len(y):,} images, as many as there are labels in {labels}", f"{len(x):,}")
    check_labels(labels, y)
    return x[..., np.newaxis] / np.float32(255), y.astype(np.int64)


def read_idx(path, sides):
    """The IDX file at `path`, whose samples are unsigned bytes of shape `sides`, as an array (N, *sides)."""
    with opened(path) as (file, size):
        packed = file.read(2) == b"\x1f\x8b"  # not the name: some browsers unpack what they download
        file.seek(0)
        try:
            return _read_values(path, gzip.GzipFile(fileobj=file) if packed else file, size, packed, sides)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise broken(path, "gzip data", f"an error in it: {error}") from error


def _read_values(path, stream, size, packed, sides):
    magic = bytes([0, 0, 8, 1 + len(sides)])
    header = stream.read(4 * (2 + len(sides)))
    if header[:4] != magic:
        raise broken(path, f"an IDX file, which begins with the bytes {magic.hex(' ')}", described(header))
    if len(header) < 4 * (2 + len(sides)):
        raise broken(path, f"a header of {4 * (2 + len(sides))} bytes", f"{len(header)}")
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4))
    if shape[0] == 0 or shape[1:] != sides:
        raise broken(path, f"values of shape {_written('N > 0', *sides)}", f"{_written(*shape)} in the header")
    wanted = math.prod(shape)
    most = min(LIMIT, size * MOST if packed else size - len(header))
    if wanted > most or (not packed and wanted < most):
        found = f"{most:,}"
        if packed:
            found = f"{size:,} bytes of gzip data, of which at most {most:,} are unpacked"
        raise broken(path, f"the {wanted:,} bytes that the header announces", found)
    values = np.empty(wanted, np.uint8)
    view, filled = memoryview(values), 0
    while filled < wanted and (count := stream.readinto(view[filled:])):
        filled += count
    if filled < wanted or stream.read(1):  # the latter also compares gzip's own checksum
        found = f"only {filled:,}" if filled < wanted else "more"
        raise broken(path, f"the {wanted:,} bytes that the header announces", found)
    return values.reshape(shape)


def _written(*shape):
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
