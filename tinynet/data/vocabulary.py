"""Vocabulary: sentences become rows of whole numbers, which an Embedding layer takes."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from tinynet.checks import positive_int

PADDING, UNKNOWN = "<padding>", "<unknown>"  # words 0 and 1
TOKEN = re.compile(r"[\w'-]+|[^\w\s]")


def tokenize(sentence: str) -> list[str]:
    """The words and punctuation marks of a sentence, in lower case.

    >>> tn.data.tokenize("A film that's well-made, and fun!")
    ['a', 'film', "that's", 'well-made', ',', 'and', 'fun', '!']
    """
    if not isinstance(sentence, str):
        raise TypeError(f"tokenize: a sentence must be a string, got {type(sentence).__name__}")
    return TOKEN.findall(sentence.lower())


class Vocabulary:
    """The words of `sentences`, the most frequent first, those that are equally frequent by alphabet.

    sentences   an iterable of strings, which are tokenized, or of lists of words, which are taken as they are
    min_count   how often a word must occur
    max_size    how many words there are at most, or None

    `.words` is the list of them; word 0 is padding and word 1 stands for every unknown word; `len()` counts both, and
    is the size that an Embedding needs.

    >>> vocabulary = tn.data.Vocabulary(["a good film", "a bad film", "a film"])
    >>> vocabulary.words
    ['<padding>', '<unknown>', 'a', 'film', 'bad', 'good']
    >>> vocabulary.encode(["A good start", "bad"], length=4)
    array([[2, 5, 1, 0],
           [4, 0, 0, 0]])
    """

    def __init__(
        self, sentences: Iterable[str | Sequence[str]], min_count: int = 1, max_size: int | None = None
    ) -> None:
        min_count = positive_int(min_count, "Vocabulary: min_count")
        if max_size is not None:
            max_size = positive_int(max_size, "Vocabulary: max_size", least=2)
        counts = Counter(word for words in _tokens(sentences, "Vocabulary") for word in words)
        del counts[PADDING], counts[UNKNOWN]
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        words = [word for word, count in ranked if count >= min_count]
        self.words = [PADDING, UNKNOWN, *words][:max_size]
        self.index = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def __repr__(self):
        return f"Vocabulary({len(self)} words)"

    def encode(self, sentences: Iterable[str | Sequence[str]], length: int | None = None) -> np.ndarray:
        """The numbers of the sentences' words, int64 (N, length): cut off, or filled up with 0, behind.

        `length` is the longest sentence's by default, and at least 1.  Raises TypeError for a single string.
        """
        if length is not None:
            length = positive_int(length, "encode: length")
        rows = [[self.index.get(word, 1) for word in words] for words in _tokens(sentences, "encode")]
        if length is None:
            length = max([1, *map(len, rows)])
        encoded = np.zeros((len(rows), length), np.int64)
        for numbers, row in zip(rows, encoded, strict=True):
            numbers = numbers[:length]
            row[: len(numbers)] = numbers
        return encoded


def _tokens(sentences, caller):
    if isinstance(sentences, (str, bytes)):
        raise TypeError(f"{caller}: expected a list of sentences, got a single one; write [{sentences[:20]!r}]")
    for sentence in sentences:
        if not isinstance(sentence, (str, list, tuple)):
            raise TypeError(f"{caller}: a sentence must be a string or a list of words, got {sentence!r}")
        yield tokenize(sentence) if isinstance(sentence, str) else sentence
