"""Padding: the zeros around an image, and how many positions a window then has in it.

P = (H + zeros above and below - I) // s + 1        a window of I rows moves down s rows at a time; Q likewise

"valid"       no zeros
"same"        as many as make P = ceil(H / s): max((P - 1) s + I - H, 0), the odd one below and to the right
two numbers   so many above and below, so many left and right
"""


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
