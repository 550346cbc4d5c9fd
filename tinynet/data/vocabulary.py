"""Vocabularies: texts become rows of whole numbers, which an Embedding layer takes, and numbers become texts again.

There are three, which differ in what a number stands for: a word (Vocabulary), a character (Characters), or a piece of
a word that occurs often (BPE, in bpe.py).  The fewer kinds of pieces there are, the longer a text is in numbers:

    Vocabulary   of reviews: some 100,000 words, most of them rare; what is not among them is unknown
    Characters   some 65; nothing is unknown, but five times as many numbers, and a network must learn what words are
    BPE          as many as one likes; nothing is unknown, and frequent words are one number each
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from tinynet.checks import positive_int
from tinynet.data.writing import write_whole

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
    special     words that stand for no word of a text, such as "<mask>" or "<end>": they come right after the first two

    `.words` is the list of them; word 0 is padding and word 1 stands for every unknown word; `len()` counts both, and
    is the size that an Embedding needs.  `.special` has the number of each special word, padding and unknown included.

    >>> vocabulary = tn.data.Vocabulary(["a good film", "a bad film", "a film"])
    >>> vocabulary.words
    ['<padding>', '<unknown>', 'a', 'film', 'bad', 'good']
    >>> vocabulary.encode(["A good start", "bad"], length=4)
    array([[2, 5, 1, 0],
           [4, 0, 0, 0]])
    >>> vocabulary.decode([[2, 5, 1, 0], [4, 0, 0, 0]])
    ['a good <unknown>', 'bad']
    """

    between: ClassVar[str] = " "  # what decode puts between two words
    words: list[str]
    special: dict[str, int]

    def __init__(
        self,
        sentences: Iterable[str | Sequence[str]],
        min_count: int = 1,
        max_size: int | None = None,
        special: Sequence[str] = (),
    ) -> None:
        name = type(self).__name__
        min_count = positive_int(min_count, f"{name}: min_count")
        first = [PADDING, UNKNOWN, *checked_special(special, name)]
        if max_size is not None:
            max_size = positive_int(max_size, f"{name}: max_size", least=len(first))
        counts = Counter(word for words in self._split_all(sentences, name) for word in words)
        for word in first:
            del counts[word]
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        words = [word for word, count in ranked if count >= min_count]
        self._number([*first, *words][:max_size], len(first))

    def _number(self, words, special):
        self.words = words
        self.index = {word: number for number, word in enumerate(words)}
        self.special = {word: number for number, word in enumerate(words[:special])}

    def __len__(self) -> int:
        return len(self.words)

    def __repr__(self):
        return f"{type(self).__name__}({len(self)} words)"

    @staticmethod
    def split(text: str) -> list[str]:
        """The words of a text: those that tokenize finds."""
        return tokenize(text)

    def _split_all(self, sentences, caller):
        for sentence in checked_texts(sentences, caller, (str, list, tuple), "a string or a list of words"):
            yield self.split(sentence) if isinstance(sentence, str) else sentence

    def _numbers(self, sentences, caller):
        """Of each sentence, the list of its words' numbers."""
        number = self.index.get
        return [[number(word, 1) for word in words] for words in self._split_all(sentences, caller)]

    def sequences(self, sentences: Iterable[str | Sequence[str]]) -> list[np.ndarray]:
        """The numbers of each sentence's words, as a list of int64 arrays (T_i,): each as long as its sentence.

        tn.data.pad makes of them the pair (x, lengths) that a model takes.
        """
        return [np.array(numbers, np.int64) for numbers in self._numbers(sentences, "sequences")]

    def encode(self, sentences: Iterable[str | Sequence[str]], length: int | None = None) -> np.ndarray:
        """The numbers of the sentences' words, int64 (N, length): cut off, or filled up with 0, behind.

        `length` is the longest sentence's by default, and at least 1.  Raises TypeError for a single string.
        """
        if length is not None:
            length = positive_int(length, "encode: length")
        rows = self._numbers(sentences, "encode")
        if length is None:
            length = max([1, *map(len, rows)])
        encoded = np.zeros((len(rows), length), np.int64)
        for numbers, row in zip(rows, encoded, strict=True):
            numbers = numbers[:length]
            row[: len(numbers)] = numbers
        return encoded

    def decode(self, numbers: Any, special: bool = True) -> Any:
        """The text of a row of numbers (T,), or a list of the texts of several: an array (N, T) or a list of rows.

        Padding is left out, and with special=False what stands for no word of a text, such as "<end>".  Raises
        ValueError for a number that is no word's.
        """
        left_out = {0} if special else {number for word, number in self.special.items() if word != UNKNOWN}
        if isinstance(numbers, np.ndarray) and numbers.ndim == 1:
            return self._decode_row(numbers, left_out)
        rows = list(numbers)
        if rows and np.ndim(rows[0]) == 0:
            return self._decode_row(rows, left_out)
        return [self._decode_row(row, left_out) for row in rows]

    def _decode_row(self, row, left_out):
        row = np.asarray(row)
        if row.ndim != 1 or (row.dtype.kind not in "iu" and row.size):
            raise TypeError(f"decode: expected rows of whole numbers, got an array {row.shape} of {row.dtype}")
        wrong = (row < 0) | (row >= len(self))
        if wrong.any():
            k = int(wrong.argmax())
            raise ValueError(f"decode: numbers must be from 0 to {len(self) - 1}, got {row[k]} at position {k}")
        return self._text([int(number) for number in row if number not in left_out])

    def _text(self, numbers):
        return self.between.join(self.words[number] for number in numbers)

    # --- keeping ------------------------------------------------------------------------------------------------

    def _content(self):
        """What a file holds of it, besides its kind and its special words."""
        return {"words": self.words[len(self.special) :]}

    def _restore(self, special, content):
        words = content["words"]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("the words are not a list of strings")
        if len({*special, *words}) < len(special) + len(words):
            raise ValueError("a word stands there twice")
        self._number([*special, *words], len(special))

    def save(self, path: Any) -> None:
        """Write it to a file, as JSON; `load` of its class reads it again."""
        content = {"kind": type(self).__name__, "special": list(self.special), **self._content()}
        write_whole(path, json.dumps(content, ensure_ascii=False).encode(), who=f"{type(self).__name__}.save")

    @classmethod
    def load(cls, path: Any) -> "Vocabulary":
        """What `save` has written.  Raises ValueError for a file that holds anything else."""
        with open(path, "rb") as file:
            data = file.read()
        try:
            content = json.loads(data)
            if not isinstance(content, dict) or content.get("kind") != cls.__name__:
                kind = content.get("kind") if isinstance(content, dict) else None
                raise ValueError(f"it is of the kind {kind!r}")
            special = content["special"]
            if special[:2] != [PADDING, UNKNOWN]:
                raise ValueError(f"its first words are not {PADDING} and {UNKNOWN}")
            checked_special(special[2:], cls.__name__)
            loaded = cls.__new__(cls)
            loaded._restore(special, content)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise ValueError(f"{cls.__name__}.load: {path} holds no {cls.__name__}: {error}") from None
        return loaded


class Characters(Vocabulary):
    """As Vocabulary, of the characters of `sentences`, each as it is: upper case stays, and so do spaces and newlines.

    >>> characters = tn.data.Characters(["emma", "ava"], special=["<end>"])
    >>> characters.words
    ['<padding>', '<unknown>', '<end>', 'a', 'm', 'e', 'v']
    >>> characters.encode(["eve"])
    array([[5, 6, 5]])
    >>> characters.decode([3, 6, 3])
    'ava'
    """

    between = ""

    def __repr__(self):
        return f"Characters({len(self)} characters)"

    @staticmethod
    def split(text: str) -> list[str]:
        """The characters of a text."""
        return list(text)


def checked_texts(texts, caller, kinds, accepted):
    """The texts one by one, each of which must be of these kinds."""
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"{caller}: expected a list of sentences, got a single one; write [{texts[:20]!r}]")
    for text in texts:
        if not isinstance(text, kinds):
            raise TypeError(f"{caller}: a sentence must be {accepted}, got {text!r}")
        yield text


def checked_special(special, name):
    """The words as a list, each a string, none empty or given twice."""
    if isinstance(special, str) or not all(isinstance(word, str) and word for word in special):
        raise TypeError(f'{name}: special must be a list of words, such as ["<mask>"], got {special!r}')
    special = list(special)
    if len({PADDING, UNKNOWN, *special}) < 2 + len(special):
        raise ValueError(f"{name}: special words must differ from each other and from {PADDING} and {UNKNOWN}")
    return special
