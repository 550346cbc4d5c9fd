"""Tiny Shakespeare and a list of names: what small networks learn to write, a character at a time."""

import os

from tinynet.data.files import data_root, is_missing
from tinynet.data.texts import read_lines, read_text

# Name: mirrors, size, SHA-256.
SHAKESPEARE = (
    ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",),
    1115394,
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)
NAMES = (
    ("https://raw.githubusercontent.com/karpathy/makemore/master/",),
    228145,
    "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
)


def shakespeare(root: str | os.PathLike[str] | None = None) -> tuple[str, str]:
    """Passages from Shakespeare's plays, 65 kinds of characters, as two strings: to train on, and to validate.

    The first 90 % of the 1,115,394 characters are to train on, 1,003,854, and the rest to validate, as usual.
    (A. Karpathy 2015, The unreasonable effectiveness of recurrent neural networks, put them together.)

    The file input.txt lies in `root`/shakespeare.  `root` is the environment variable TINYNET_DATA by default, else
    tinynet in the user's cache folder.  A file that is there is read as it is; one that is missing is downloaded (1
    MB) and its checksum verified.  Raises DatasetError, naming the file, if it is broken or cannot be had.

    >>> text, text_validation = tn.data.shakespeare()  # doctest: +SKIP
    >>> text[:14]  # doctest: +SKIP
    'First Citizen:'
    """
    text = read_text(_present(data_root(root) / "shakespeare" / "input.txt", *SHAKESPEARE))
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:]


def names(root: str | os.PathLike[str] | None = None) -> list[str]:
    """32,033 first names in lower-case letters, a to z; some stand there twice, as a girl's name and as a boy's.

    They were given most often in the United States in 2018: the girls', the most frequent first, then the boys' (A.
    Karpathy 2022, makemore, from the Social Security Administration).  The file names.txt, a name on each line, lies in
    `root`/names; root, download and errors are those of shakespeare().

    >>> tn.data.names()[:3]  # doctest: +SKIP
    ['emma', 'olivia', 'ava']
    """
    return read_lines(_present(data_root(root) / "names" / "names.txt", *NAMES))


def _present(path, mirrors, size, sha256):
    """The path of a file that is there, downloaded if it was not."""
    if is_missing(path):
        from tinynet.data.download import download  # with all of pooch and requests, which few calls need

        download(path, mirrors, size, sha256)
    return path
