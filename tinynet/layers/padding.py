"""Padding: the zeros around an image, and how many positions a window then has in it.

P = (H + zeros above and below - I) // s + 1        a window of I rows moves down s rows at a time; Q likewise

"valid"       no zeros
"same"        as many as make P = ceil(H / s): max((P - 1) s + I - H, 0), the odd one below and to the right
two numbers   so many above and below, so many left and right
"""

import numpy as np

from tinynet.checks import pair


def checked_padding(padding, what):
    """padding as "valid", "same" or a pair of whole numbers; `what` says whose it is, for the message."""
    if isinstance(padding, str) and padding in ("valid", "same"):
        return padding
    expected = f'{what} must be "valid", "same", a whole number, or a pair of them for height and width'
    if isinstance(padding, str):
        hint = ""
        if padding.lower() in ("valid", "same"):
            hint = f'; did you mean "{padding.lower()}"?'
        elif padding.lower() == "full":
            hint = "; that is one less than the kernel's size on every side: padding=2 for 3"
        elif padding.lower() in ("reflect", "replicate", "circular", "symmetric", "edge", "wrap", "causal", "constant"):
            hint = "; it puts zeros on both sides; for others, np.pad the images before"
        raise ValueError(f"{expected}, got {padding!r}{hint}")
    sides = padding if isinstance(padding, (tuple, list)) else ()
    if len(sides) == 4 or any(isinstance(side, (tuple, list)) for side in sides):
        raise ValueError(
            f"{expected}, got {padding!r}; it is the same on both sides; for others, "
            "np.pad(x, ((0, 0), (above, below), (left, right), (0, 0))) before"
        )
    if not isinstance(padding, (int, np.integer, tuple, list)) or isinstance(padding, bool):
        raise TypeError(f"{expected}, got {padding!r}")
    return pair(padding, what, least=0)


def output_size(label, image, window, stride, padding):
    """(P, Q) for an image (H, W, C) and a window (I, J), and the zeros above and to the left of it, (top, left).

    padding is as checked_padding returns it.  ValueError, naming the layer, where the window does not fit.
    """
    padding = (padding, padding) if isinstance(padding, str) else padding
    axes = zip(("high", "wide"), image[:2], window, stride, padding, strict=True)
    (P, top), (Q, left) = (_along_axis(label, *axis, channels_first_hint(image)) for axis in axes)
    return (P, Q), (top, left)


def channels_first_hint(image):
    """What may be wrong with the shape of an image (H, W, C) into which a window does not fit."""
    looks_so = image[0] in (1, 3) and image[1] == image[2]
    return f"; images are (H, W, C): are the channels first in {tuple(image)}?" if looks_so else ""


def _along_axis(label, extent, size, window, stride, padding, hint):
    if padding == "same":
        count = -(-size // stride)
        return count, max((count - 1) * stride + window - size, 0) // 2
    zeros = 0 if padding == "valid" else padding
    if window > size + 2 * zeros:
        raise ValueError(
            f"{label}: a window {window} {extent} does not fit into an image {size} {extent} with {zeros} zeros on "
            f"each side; make the window smaller or the padding larger{hint}"
        )
    return (size + 2 * zeros - window) // stride + 1, zeros
