"""BPE, byte-pair encoding: pieces of words, learnt from a text, of which every other text can be put together.

R. Sennrich, B. Haddow, A. Birch (2016), Neural machine translation of rare words with subword units.  That the smallest
pieces are bytes, so that nothing is unknown, is of A. Radford et al. (2019), Language models are unsupervised multitask
learners (GPT-2).

Learning.  Begin with the bytes as pieces: 256 of them, which can write anything.  Cut the text into words and those
into bytes.  Then, again and again, find the two neighbouring pieces that occur most often, and make them one new piece:

    l o w   l o w e r   n e w e s t   w i d e s t       twice: l o, o w, w e, e s, s t; the first by alphabet is e s
    l o w   l o w e r   n e w es t    w i d es t        then es t
    l o w   l o w e r   n e w est     w i d est         then l o, and lo w:   low   low e r   n e w est   w i d est

Frequent words become one piece, rare ones a few, and endings such as "est" are pieces of their own.  No piece reaches
from one word into the next; a word's space before it is part of it, so that the pieces, one after the other, are the
text again.

Encoding.  Cut a text into words and bytes, and make the same merges in the order in which they were learnt.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise

from tinynet.checks import positive_int
from tinynet.data.vocabulary import PADDING, UNKNOWN, Vocabulary, checked_special, checked_texts

# A word with the space before it, or marks, or other space: every character is in one of the three.  Beyond 40
# characters it is no word but data, and is cut.
WORD = re.compile(r" ?[\w']{1,40}| ?[^\w\s']{1,40}|\s{1,40}")
BYTES = [bytes([value]) for value in range(256)]


def merged(pieces, pair):
    """The pieces, with those two made one wherever they are neighbours."""
    left, right = pair
    result, k = [], 0
    while k < len(pieces):
        if pieces[k] == left and k + 1 < len(pieces) and pieces[k + 1] == right:
            result.append(left + right)
            k += 2
        else:
            result.append(pieces[k])
            k += 1
    return result


def learn_merges_plain(words, pieces):
    """The pairs to merge, in order, until there are so many pieces or no pair occurs twice.

    words    bytes: how often each occurs
    pieces   how many there may be, the 256 bytes included
    """
    cut = {word: [bytes([value]) for value in word] for word in words}
    merges, known = [], set(BYTES)
    while len(known) < pieces:
        counts = Counter()
        for word, count in words.items():
            for pair in pairwise(cut[word]):
                counts[pair] += count
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        merges.append(best)
        known.add(best[0] + best[1])
        cut = {word: merged(cut[word], best) for word in words}
    return merges


def learn_merges(words, pieces):
    """The same merges, and what the words are cut into at the end, without counting all pairs again for each.

    A merge changes the counts of those pairs only that stand in the words where it happens; so for every pair the
    words are kept in which it stood.  The most frequent pair is the first of a heap; where a count has changed since, a
    newer entry with the new count is in the heap, too, and the old one is passed over.
    """
    cut = [[BYTES[value] for value in word] for word in words]
    often = list(words.values())
    counts, places = Counter(), defaultdict(set)
    for k, (row, count) in enumerate(zip(cut, often, strict=True)):
        for pair in pairwise(row):
            counts[pair] += count
            places[pair].add(k)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    merges, known = [], set(BYTES)
    while len(known) < pieces and heap:
        count, best = heapq.heappop(heap)
        if counts[best] != -count:
            continue
        if -count < 2:
            break
        merges.append(best)
        known.add(best[0] + best[1])
        changes = Counter()
        for k in places.pop(best):
            before, after = cut[k], merged(cut[k], best)
            for pair in pairwise(before):
                changes[pair] -= often[k]
            for pair in pairwise(after):
                changes[pair] += often[k]
                places[pair].add(k)
            cut[k] = after
        for pair, change in changes.items():
            if change:
                counts[pair] += change
                heapq.heappush(heap, (-counts[pair], pair))
    return merges, dict(zip(words, cut, strict=True))


class BPE(Vocabulary):
    """Pieces of words, learnt from `texts`.

    texts      an iterable of strings
    size       how many pieces there are at most, all included; fewer where no pair occurs twice any more
    lower      whether upper case is taken for lower case
    special    as for Vocabulary

    Numbers 0 and 1 are padding and unknown, as in every vocabulary, though nothing is unknown here; then come the
    special words, the 256 bytes, and what was merged, in order.  `.words` has the text of each.  Without lower=True,
    decode gives just the text that was encoded.  `encode`, `sequences`, `decode`, `save` and `load` are Vocabulary's.

    >>> bpe = tn.data.BPE(["low low low lower lower newest newest widest"], size=263)
    >>> bpe.words[258:]
    ['lo', 'low', ' low', 'es', 'est']
    >>> bpe.decode(bpe.encode(["A slow west wind"]))
    ['A slow west wind']
    """

    def __init__(
        self, texts: Iterable[str], size: int = 8000, lower: bool = False, special: Sequence[str] = ()
    ) -> None:
        special = [PADDING, UNKNOWN, *checked_special(special, "BPE")]
        size = positive_int(size, "BPE: size", least=len(special) + 256)
        if not isinstance(lower, bool):
            raise TypeError(f"BPE: lower must be True or False, got {lower!r}")
        self.lower = lower
        counts = Counter(word for words in self._split_all(texts, "BPE") for word in words)
        merges, cut = learn_merges({_bytes(word): count for word, count in counts.items()}, size - len(special))
        self._build(special, merges)
        for word in counts:
            self._words[word] = [self._piece[piece] for piece in cut[_bytes(word)]]

    def _build(self, special, merges):
        self._merges = merges
        self._rank = {pair: rank for rank, pair in enumerate(merges)}
        pieces = list(dict.fromkeys([*BYTES, *(left + right for left, right in merges)]))
        self._bytes = [b""] * len(special) + pieces
        self._piece = {piece: number for number, piece in enumerate(pieces, len(special))}
        self._number([*special, *(piece.decode(errors="replace") for piece in pieces)], len(special))
        self._words = _Words(self._rank, self._piece)

    def __repr__(self):
        return f"BPE({len(self)} pieces)"

    def split(self, text):
        """The words of a text, each with the space before it."""
        return WORD.findall(text.lower() if self.lower else text)

    def _split_all(self, texts, caller):
        return map(self.split, checked_texts(texts, caller, str, "a string"))

    def _numbers(self, texts, caller):
        numbers = self._words.__getitem__
        return [list(chain.from_iterable(map(numbers, words))) for words in self._split_all(texts, caller)]

    def _text(self, numbers):
        first = len(self.special)
        words = (self._bytes[n] if n >= first else self.words[n].encode() for n in numbers)
        return b"".join(words).decode(errors="replace")

    def _content(self):
        numbers = [[self._piece[left], self._piece[right]] for left, right in self._merges]
        return {"lower": self.lower, "merges": numbers}

    def _restore(self, special, content):
        self.lower = content["lower"]
        if not isinstance(self.lower, bool):
            raise ValueError("lower is neither true nor false")
        pieces, merges = dict(enumerate(BYTES, len(special))), []
        known = set(BYTES)
        for left, right in content["merges"]:
            pair = pieces[left], pieces[right]
            merges.append(pair)
            piece = pair[0] + pair[1]
            if piece not in known:
                known.add(piece)
                pieces[len(special) + len(known) - 1] = piece
        self._build(special, merges)


class _Words(dict):
    """The numbers of every word that has come up; of a new one, they are found when it is asked for."""

    def __init__(self, rank, piece):
        self.rank, self.piece = rank, piece

    def __missing__(self, word):
        pieces = [BYTES[value] for value in _bytes(word)]
        while known := [pair for pair in pairwise(pieces) if pair in self.rank]:
            pieces = merged(pieces, min(known, key=self.rank.__getitem__))  # what was learnt first
        numbers = self[word] = [self.piece[piece] for piece in pieces]
        return numbers


def _bytes(word):
    return word.encode(errors="surrogatepass")  # no text of Unicode has half a surrogate pair, but a str may
