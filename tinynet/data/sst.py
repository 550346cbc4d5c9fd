"""The Stanford Sentiment Treebank: sentences from film reviews, and how each phrase in them was judged.

R. Socher, A. Perelygin, J. Wu, J. Chuang, C. Manning, A. Ng, C. Potts (2013), Recursive deep models for semantic
compositionality over a sentiment treebank.

Every sentence is cut into two phrases, each of these again, down to the words, and people judged every phrase: 0 very
negative, 1 negative, 2 neutral, 3 positive, 4 very positive.  A line of a file is one such tree, a bracket for each
phrase, its label first:

    (4 (2 The) (4 (3 (3 gorgeous) (2 continuation)) (2 .)))
"""

import os
import re

import numpy as np

from tinynet.data.files import broken, data_root, is_missing
from tinynet.data.texts import read_lines

Sentences = tuple[list[str], np.ndarray]

NAMES = ["train.txt", "dev.txt", "test.txt"]
ARCHIVE = "trainDevTestTrees_PTB.zip"
ARCHIVE_SIZE = 789539
ARCHIVE_SHA256 = "5c613a4f673fc74097d523a2c83f38e0cc462984d847b82c7aaf36b01cbbbfcc"
MIRRORS = (
    "https://nlp.stanford.edu/sentiment/",
    "https://cache.julialang.org/https://nlp.stanford.edu/sentiment/",
)
PIECES = re.compile(r"\(|\)|[^()\s]+")
WRITTEN = {"-LRB-": "(", "-RRB-": ")"}  # how a treebank writes brackets that belong to the text


def sst(
    root: str | os.PathLike[str] | None = None, phrases: bool = False, classes: int = 5
) -> tuple[Sentences, Sentences, Sentences]:
    """Sentences from film reviews as (texts, labels) three times: to train on, to choose by, and to test.

    phrases   False: 8,544 sentences to train on.  True: every phrase in them, single words included, each once for
              every label that it has; those to choose by (1,101) and to test (2,210) are sentences all the same
    classes   5: labels are 0 very negative, 1 negative, 2 neutral, 3 positive, 4 very positive.  2: 0 is negative and 1
              positive, of either strength, and what is neutral is left out: 6,920, 872 and 1,821 sentences (the task
              that is called SST-2)

    A text is a string, its words and marks split by spaces as in a treebank ("do n't"); labels are int64.

    The files train.txt, dev.txt and test.txt lie in `root`/sst.  `root` is the environment variable TINYNET_DATA by
    default, else tinynet in the user's cache folder.  A file that is there is read as it is; if one is missing, their
    archive is downloaded (0.8 MB) and its checksum verified.  Raises DatasetError, naming the file, if it is broken or
    cannot be had.

    >>> (texts, y), (texts_dev, y_dev), (texts_test, y_test) = tn.data.sst(classes=2)  # doctest: +SKIP
    >>> len(texts), len(texts_test)  # doctest: +SKIP
    (6920, 1821)
    """
    if not isinstance(phrases, (bool, np.bool_)):
        raise TypeError(f"sst: phrases must be True or False, got {phrases!r}")
    if isinstance(classes, bool) or classes not in (5, 2):
        raise ValueError(f"sst: classes must be 5 or 2, got {classes!r}")
    folder = data_root(root) / "sst"
    paths = [folder / name for name in NAMES]
    missing = [path for path in paths if is_missing(path)]
    if missing:
        from tinynet.data.download import download_members  # with all of pooch and requests, which few calls need

        download_members(missing, ARCHIVE, MIRRORS, ARCHIVE_SIZE, ARCHIVE_SHA256)
    train, dev, test = (read_trees(path) for path in paths)
    judged = [tree[0] for tree in train]
    if phrases:
        judged = list(dict.fromkeys(phrase for tree in train for phrase in tree))  # in order, each once
    dev, test = [tree[0] for tree in dev], [tree[0] for tree in test]
    return _labelled(judged, classes), _labelled(dev, classes), _labelled(test, classes)


def read_trees(path):
    """The trees of a file, each as a list of its phrases (text, label), the whole sentence first."""
    lines = read_lines(path)
    trees = [_phrases(line) for line in lines]
    for tree, line in zip(trees, lines, strict=True):
        if tree is None:
            raise broken(path, "a tree on each line, (label phrase phrase) or (label word), labels 0 to 4", line[:60])
    return trees


def _phrases(line):
    """The phrases of a tree as (text, label), in the order of their opening brackets; None if it is not one tree."""
    words, opened, found = [], [], []
    pieces = iter(PIECES.findall(line))
    for piece in pieces:
        if piece == "(":
            if found and not opened:
                return None  # a second tree
            label = next(pieces, "")
            if label not in ("0", "1", "2", "3", "4"):
                return None
            opened.append((len(found), len(words)))
            found.append(int(label))
        elif not opened:
            return None
        elif piece == ")":
            phrase, start = opened.pop()
            if start == len(words):
                return None  # a phrase without words
            found[phrase] = (" ".join(words[start:]), found[phrase])
        else:
            words.append(WRITTEN.get(piece, piece.replace("\\", "")))
    return found if found and not opened else None


def _labelled(judged, classes):
    if classes == 2:
        judged = [(text, int(label > 2)) for text, label in judged if label != 2]
    return [text for text, _ in judged], np.array([label for _, label in judged], np.int64)
