"""The Large Movie Review Dataset: 50,000 reviews from the Internet Movie Database, half of them in praise.

A. Maas, R. Daly, P. Pham, D. Huang, A. Ng, C. Potts (2011), Learning word vectors for sentiment analysis.

The archive of its authors holds a file for every review, aclImdb/train/pos/0_9.txt, named by its number and the stars
that it gave.  Of those, four files are made, one for each folder, with a review on each line in the order of their
numbers: what takes a minute to unpack is read in a second from then on.
"""

import gzip
import os
import re
import tarfile
import zlib

import numpy as np

from tinynet.data.files import LIMIT, broken, data_root, is_missing, opened
from tinynet.data.texts import read_lines, taking_turns
from tinynet.data.writing import write_whole

Reviews = tuple[list[str], np.ndarray]

NAMES = ["train-neg.txt.gz", "train-pos.txt.gz", "test-neg.txt.gz", "test-pos.txt.gz"]
MEMBER = re.compile(r"(?:^|/)(train|test)/(neg|pos)/(\d+)_\d+\.txt$")
ARCHIVE = "aclImdb_v1.tar.gz"
ARCHIVE_SIZE = 84125825
ARCHIVE_SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
MIRRORS = (
    "https://ai.stanford.edu/~amaas/data/sentiment/",
    "http://d2l-data.s3-accelerate.amazonaws.com/",
)


def imdb(root: str | os.PathLike[str] | None = None) -> tuple[Reviews, Reviews]:
    """Reviews of films as (texts, labels), (texts, labels): 25,000 to train on and 25,000 to test.

    A text is a string of 32 to 13,704 characters, in which the page's line breaks, <br />, are newlines; labels are
    int64, (25000,): 1 is praise (7 stars or more of 10), 0 is blame (4 or fewer).  Blame and praise take turns, so
    that any stretch of a list holds as much of either.

    The files train-neg.txt.gz, train-pos.txt.gz, test-neg.txt.gz and test-pos.txt.gz lie in `root`/imdb, gzipped or
    not (train-neg.txt), with one review a line in UTF-8.  `root` is the environment variable TINYNET_DATA by default,
    else tinynet in the user's cache folder.  Files that are there are read as they are; if one is missing, they are
    made from the archive aclImdb_v1.tar.gz, which is looked for in the same folder, or else downloaded (84 MB), its
    checksum verified.  Raises DatasetError, naming the file, if it is broken or cannot be had.

    >>> (texts, y), (texts_test, y_test) = tn.data.imdb()  # doctest: +SKIP
    >>> len(texts), y_test.shape  # doctest: +SKIP
    (25000, (25000,))
    """
    folder = data_root(root) / "imdb"
    paths = [_packed_or_not(folder / name) for name in NAMES]
    missing = [path for path in paths if is_missing(path)]
    if missing:
        archive = folder / ARCHIVE
        fetched = is_missing(archive)
        if fetched:
            from tinynet.data.download import download  # with all of pooch and requests, which few calls need

            download(archive, MIRRORS, ARCHIVE_SIZE, ARCHIVE_SHA256)
        pack_reviews(archive, missing)
        if fetched:
            archive.unlink(missing_ok=True)  # what lay there before stays
    parts = [[text.replace("<br />", "\n") for text in read_lines(path, packed=True)] for path in paths]
    return taking_turns(parts[:2]), taking_turns(parts[2:])


def _packed_or_not(path):
    """The path of a gzipped file, or, where only that is there, of one of the same name that is not gzipped."""
    plain = path.with_suffix("")
    return plain if is_missing(path) and not is_missing(plain) else path


def pack_reviews(archive, paths):
    """Write those of the four files that are called as `paths`, from the single reviews in the archive."""
    reviews = {path.name: {} for path in paths}  # of each file, number: review
    with opened(archive) as (file, _):
        try:
            with tarfile.open(fileobj=file, mode="r:gz") as tar:
                _collect(archive, tar, reviews)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise broken(archive, "a gzipped tar archive", f"an error in it: {error}") from error
    for name, numbered in reviews.items():
        if not numbered:
            raise broken(archive, f"reviews for {name}", "none")
    for path in paths:
        numbered = reviews[path.name]
        lines = b"".join(numbered[number] + b"\n" for number in sorted(numbered))
        write_whole(path, gzip.compress(lines, mtime=0), who="imdb")


def _collect(archive, tar, reviews):
    size = 0
    for member in tar:
        found = MEMBER.search(member.name)
        name = found and f"{found[1]}-{found[2]}.txt.gz"
        if name in reviews and member.isreg():
            size += member.size
            if size > LIMIT:
                raise broken(archive, f"at most {LIMIT:,} bytes of reviews", "more")
            text = tar.extractfile(member).read()
            reviews[name][int(found[3])] = b" ".join(text.split())  # on one line, whatever its ends of lines are
