"""The check of an option `padding`, of layers that put zeros around an image."""

import numpy as np

from tinynet.checks import pair, positive_int


def checked_padding(padding, what):
    """padding as "valid", "same", a pair of whole numbers or two pairs; `what` says whose it is, for the message."""
    if isinstance(padding, str) and padding in ("valid", "same"):
        return padding
    expected = (
        f'{what} must be "valid", "same", a whole number, a pair of them for height and width, or one of pairs, '
        "((above, below), (left, right))"
    )
    if isinstance(padding, str):
        raise ValueError(f"{expected}, got {padding!r}{_hint(padding, ('valid', 'same'))}")
    sides = padding if isinstance(padding, (tuple, list)) else ()
    if len(sides) == 2 and all(isinstance(side, (tuple, list)) and len(side) == 2 for side in sides):
        both = tuple(tuple(positive_int(zeros, what, least=0) for zeros in side) for side in sides)
        return tuple(side[0] for side in both) if all(before == behind for before, behind in both) else both
    if len(sides) == 4 or any(isinstance(side, (tuple, list)) for side in sides):
        raise ValueError(f"{expected}, got {padding!r}")
    if not isinstance(padding, (int, np.integer, tuple, list)) or isinstance(padding, bool):
        raise TypeError(f"{expected}, got {padding!r}")
    return pair(padding, what, least=0)


def checked_padding_of_time(padding, what):
    """The same of sequences: "valid", "same", "causal", a whole number or a pair (before, behind)."""
    if isinstance(padding, str):
        words = ("valid", "same", "causal")
        if padding not in words:
            raise ValueError(
                f'{what} must be "valid", "same", "causal", a whole number or a pair (before, behind), got {padding!r}'
                f"{_hint(padding, words)}"
            )
        return padding
    if isinstance(padding, (tuple, list)) and len(padding) == 2:
        return tuple(positive_int(zeros, what, least=0) for zeros in padding)
    return positive_int(
        padding, f'{what}, where it is not "valid", "same", "causal" or a pair (before, behind),', least=0
    )


def _hint(padding, words):
    """What may be meant by a word that is none of these."""
    given = padding.lower()
    if given in words:
        return f'; did you mean "{given}"?'
    if given == "full":
        return "; that is one less than the kernel's size on every side: padding=2 for 3"
    if given in ("reflect", "replicate", "circular", "symmetric", "edge", "wrap", "causal", "constant"):
        return "; it puts zeros on both sides; for others, np.pad x before"
    return ""
