"""Files of data sets: where they lie, and how one is opened so that a broken one is named and cannot fill the memory.

A header is believed only as far as the file's own size bears it out.  What it announces is compared with the bytes
that are there, or with the most that they can unpack to, before anything of that size is allocated.
"""

import os
import stat
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np

Part = tuple[np.ndarray, np.ndarray]  # images or other samples, and their labels
LIMIT = 2**30  # bytes of one file in memory; the largest file of these data sets holds 47 million


class DatasetError(Exception):
    """A data set's file is missing, broken or could not be downloaded.  The message names it and says what is wrong.

    Not a ValueError, since the file is at fault and no argument.

    >>> try:
    ...     tn.data.image_folder("nowhere")
    ... except tn.data.DatasetError as error:
    ...     print(error)
    nowhere is no folder; image_folder reads a folder that has one for each class
    """


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder with all data sets: `root`, else the environment variable TINYNET_DATA, else the cache.

    The cache is the user's own, as platformdirs knows it: ~/.cache/tinynet ($XDG_CACHE_HOME/tinynet), on macOS
    ~/Library/Caches/tinynet, on Windows %LOCALAPPDATA%\\tinynet.
    """
    if root is None:
        root = os.environ.get("TINYNET_DATA") or _cache()
    if not isinstance(root, (str, os.PathLike)):
        raise TypeError(f"root must be a folder's path or None, got {root!r}")
    return Path(root).expanduser()


def _cache():
    from platformdirs import user_cache_path  # here, so that importing tinynet doesn't load it

    folder = user_cache_path("tinynet", appauthor=False, opinion=False)
    mac = sys.platform == "darwin"
    usual = Path("~/Library/Caches" if mac else "~/.cache", "tinynet").expanduser()
    # A relative XDG_CACHE_HOME is void (XDG Base Directory Specification): it would mean another folder for every
    # program.  Some versions of platformdirs take it, and some ask for it on macOS, where version 0.1 did not.
    return usual if not folder.is_absolute() or (mac and usual.exists()) else folder


def is_missing(path):
    """Whether there is nothing at `path`; a DatasetError if that cannot be found out."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    return False


@contextmanager
def opened(path):
    """The file at `path`, to read bytes from, and its size.  What cannot be read is a DatasetError."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for a writer
            raise broken(path, "a file", "a folder" if stat.S_ISDIR(status.st_mode) else "something else")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise broken(path, "data", "an empty file")
            if size > LIMIT:
                raise broken(path, f"at most {LIMIT:,} bytes", f"{size:,}")
            yield file, size
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error


def broken(path, expected, found):
    """The DatasetError of a file that does not hold what it should."""
    return DatasetError(f"{path}: expected {expected}, found {found}.  If you delete the file, it will be downloaded.")


def described(start):
    """What a file with these first bytes seems to be."""
    if start.lstrip().lower().startswith((b"<!doc", b"<html", b"<head", b"<?xml")):
        return "a web page"
    if start.startswith(b"\x1f\x8b"):
        return "gzip data"
    return f"the bytes {start[:8].hex(' ')}" if start else "nothing"


def check_labels(path, labels, classes=10):
    """Refuse labels that are not from 0 to `classes` - 1."""
    if labels.max() >= classes:
        position = int((labels >= classes).argmax())
        raise broken(path, f"labels from 0 to {classes - 1}", f"{labels[position]} at position {position}")
