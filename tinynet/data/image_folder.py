"""Images in files, most of them in folders, one folder a class:

    flowers/daisy/001.jpg  flowers/daisy/002.jpg  ...  flowers/rose/001.jpg  ...

The classes are the folders in the order of their names, and the images in it those in the order of theirs.  An image is
read when it is asked for, so there may be more of them than the memory holds.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tinynet.checks import pair
from tinynet.data.files import DatasetError

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
PARTS = {"train", "training", "test", "testing", "val", "valid", "validation"}


class Images:
    """Images in files as a data set (N, H, W, C) of float32 in [0, 1]: an array that is read as it is indexed.

    x[3], x[10:20] and x[[3, 5, 8]] are arrays, and x[:] reads them all.

    names   the classes' words: label k is names[k]; empty where there are no classes
    files   the path of each image
    """

    dtype, ndim = np.dtype(np.float32), 4

    def __init__(self, files: Sequence[Path], names: Sequence[str], size: tuple[int, int] | None, grey: bool) -> None:
        self.files, self.names, self.grey, self._fits = list(files), list(names), grey, size is not None
        first = _opened(self.files[0])
        self.size = size or (first.height, first.width)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return (len(self.files), *self.size, 1 if self.grey else 3)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        if isinstance(index, (int, np.integer)):
            return self._read(self.files[index])
        some = np.arange(len(self))[index]
        x = np.empty((len(some), *self.shape[1:]), np.float32)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without Python's lock
            for k, image in enumerate(pool.map(lambda n: self._read(self.files[n]), some)):
                x[k] = image
        return x

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)

    def __repr__(self):
        return f"Images({self.shape}{f', {len(self.names)} classes' if self.names else ''})"

    def broken(self) -> list[Path]:
        """The files that can't be read, as a DatasetError says of the first one met: this reads them all."""

        def is_broken(file):
            try:
                return self._read(file) is None
            except DatasetError:
                return True

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(is_broken, self.files))
        return [file for file, wrong in zip(self.files, found, strict=True) if wrong]

    def _read(self, file):
        image = _opened(file, "; x.broken() lists all such files")
        if not self._fits and (image.height, image.width) != self.size:
            (H, W), found = self.size, f"{image.height} by {image.width}"
            raise DatasetError(f"{file} is {found}, and the first image {H} by {W}: give image_folder a size")
        return _pixels(image, self.size, self.grey)


def image_folder(
    path: str | os.PathLike[str], size: int | tuple[int, int] | None = None, grey: bool = False
) -> tuple[Images, np.ndarray]:
    """The images below a folder that has a folder for each class: (x, y).

    size   a number of pixels, or a pair (height, width), that every image is brought to: it is made smaller or larger
           until it covers that, and what is left over at two opposite sides is cut off.  None: the size of the first,
           which all must have
    grey   whether they are read in shades of grey, C = 1, and not in colours, C = 3

    x is a data set (N, H, W, C) of float32 in [0, 1], which reads images when they are asked for, x.names are the
    classes' words; y (N,) are the labels, int64.  fit, batches and Normalize().fit take x as it is; x[:] is an array of
    all images.  Photographs are turned as their camera notes it, and what is transparent stands on white.  Needs
    Pillow, which matplotlib brings along.

    Raises DatasetError, naming the folder or the file, where there are no images, or one can't be read: x.broken() is
    the list of all such files.

    >>> import pathlib
    >>> import tempfile
    >>> from matplotlib.image import imsave
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         pathlib.Path(folder, name).mkdir()
    ...         imsave(pathlib.Path(folder, name, "1.png"), np.zeros((6, 9, 3)))
    ...     x, y = tn.data.image_folder(folder)
    ...     x.names, x[:].shape, y.tolist()
    (['cat', 'dog'], (2, 6, 9, 3), [0, 1])
    """
    root = Path(path)
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder; image_folder reads a folder that has one for each class")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise DatasetError(
            f"{root} has no folders; image_folder takes each for a class; for images without classes, "
            f"tn.data.images({str(root)!r})"
        )
    if {folder.name.lower() for folder in folders} <= PARTS:
        raise DatasetError(
            f"{root} has the folders {', '.join(folder.name for folder in folders)}, which are parts and no classes: "
            f"read each by itself, image_folder({str(folders[0])!r})"
        )
    files, labels = [], []
    for label, folder in enumerate(folders):
        found = _images_below(folder)
        files += found
        labels += [label] * len(found)
    size = None if size is None else pair(size, "image_folder: size")
    return Images(files, [folder.name for folder in folders], size, bool(grey)), np.array(labels, np.int64)


def images(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    size: int | tuple[int, int] | None = None,
    grey: bool = False,
) -> Images:
    """Images without classes, to predict, say: those below a folder, in the order of their names, or of these files.

    files   the path of a folder or of an image, or a list of paths of images

    The result is the x of image_folder, size and grey are as there, and so are errors.

    >>> import pathlib
    >>> import tempfile
    >>> from matplotlib.image import imsave
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     imsave(pathlib.Path(folder, "new.png"), np.ones((6, 9, 3)))
    ...     tn.data.images(pathlib.Path(folder, "new.png"), size=4, grey=True)[:].shape
    (1, 4, 4, 1)
    """
    single = isinstance(files, (str, os.PathLike))
    try:
        paths = [Path(files)] if single else [Path(file) for file in files]  # type: ignore[arg-type,union-attr]
    except TypeError:
        raise TypeError(f"images: files must be a path or a list of paths, got {files!r}") from None
    if single and paths[0].is_dir():
        paths = _images_below(paths[0])
    if not paths:
        raise DatasetError("images: there are no files")
    return Images(paths, [], None if size is None else pair(size, "images: size"), bool(grey))


def _images_below(folder):
    """The files that are images by their names, in order."""
    found = sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS and not file.name.startswith(".")
    )
    if not found:
        raise DatasetError(f"{folder} has no images ({', '.join(sorted(ENDINGS))})")
    return found


def _opened(file, hint=""):
    """The image of Pillow's, its pixels read, upright."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            if image.mode == "F":
                raise ValueError("its pixels are real numbers, and nobody says which of them is white")
            return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{file} cannot be read as an image: {error}{hint}") from None


def _pixels(image, size, grey):
    """Its pixels (H, W, C) in [0, 1], on white."""
    from PIL import Image, ImageOps

    if image.mode.startswith("I"):  # 16 bits of grey: convert would cut off what is above 255
        image, highest = Image.fromarray(np.asarray(image, np.float32)), 65535
    else:
        if image.mode[-1] in "Aa" or "transparency" in image.info:  # what colours are left there nobody saw
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image, highest = image.convert("L" if grey else "RGB"), 255
    if (image.height, image.width) != size:
        image = ImageOps.fit(image, size[::-1])
    pixels = np.asarray(image, np.float32).reshape(*size, -1) / np.float32(highest)
    pixels = np.clip(pixels, 0, 1)  # of 16 bits, what is between pixels may lie beyond both
    return pixels if grey else np.broadcast_to(pixels, (*size, 3))
