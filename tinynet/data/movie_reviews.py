"""Movie reviews: 10,662 sentences about films, half of them in praise.

B. Pang and L. Lee (2005), Seeing stars: exploiting class relationships for sentiment categorization with respect to
rating scales: the sentence polarity data set, one sentence a line in Latin-1, lower case, tokens split by spaces.
"""

import os

import numpy as np

from tinynet.data.files import data_root, is_missing
from tinynet.data.texts import read_lines, taking_turns

NAMES = ["rt-polarity.neg", "rt-polarity.pos"]  # label 0, label 1
ARCHIVE = "rt-polaritydata.tar.gz"
ARCHIVE_SIZE = 487770
ARCHIVE_SHA256 = "a05befe52aafda71d458d188a1c54506a998b1308613ba76bbda2e5029409ce9"
MIRRORS = (
    "https://www.cs.cornell.edu/people/pabo/movie-review-data/",
    "https://storage.googleapis.com/seldon-datasets/sentence_polarity_v1/",
)


def movie_reviews(root: str | os.PathLike[str] | None = None) -> tuple[list[str], np.ndarray]:
    """10,662 sentences from reviews of films, as a list of strings, and their labels, int64 (10662,): 1 is praise.

    Blame and praise take turns, so that any stretch of the list holds as much of either.  There is no fixed split into
    training and test; the literature takes ten folds.  Vocabulary makes numbers of the sentences.

    The files rt-polarity.neg and rt-polarity.pos lie in `root`/sentiment.  `root` is the environment variable
    TINYNET_DATA by default, else tinynet in the user's cache folder.  A file that is there is read as it is; if one is
    missing, their archive is downloaded (0.5 MB) and its checksum verified.  Raises DatasetError, naming the file, if
    it is broken or cannot be had.

    >>> texts, y = tn.data.movie_reviews()  # doctest: +SKIP
    >>> len(texts), y.shape  # doctest: +SKIP
    (10662, (10662,))
    """
    folder = data_root(root) / "sentiment"
    paths = [folder / name for name in NAMES]
    missing = [path for path in paths if is_missing(path)]
    if missing:
        from tinynet.data.download import download_members  # with all of pooch and requests, which few calls need

        download_members(missing, ARCHIVE, MIRRORS, ARCHIVE_SIZE, ARCHIVE_SHA256)
    return taking_turns([read_lines(path, "latin-1") for path in paths])
