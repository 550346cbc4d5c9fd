"""Padding: the rows and columns around an image, and how many positions a window then has in it.

P = (H + rows of padding above and below - D) // s + 1        D = (I - 1) d + 1

A window of I rows that lie d apart, the dilation, reaches over D of them, and moves down s rows at a time; Q likewise.

"valid"                  no padding
"same"                   as much as makes P = ceil(H / s): max((P - 1) s + D - H, 0), the odd one below or on the right
two numbers              so many rows above and below, so many columns left and right
two pairs                (rows above, below), (columns left, right)
"""


def output_size(label, image, window, stride, padding, dilation=(1, 1)):
    """(P, Q) for an image (H, W, C) and a window (I, J), and the padding around, ((top, bottom), (left, right)).

    padding is as checked_padding returns it.  ValueError, naming the layer, where the window does not fit.
    """
    padding = (padding, padding) if isinstance(padding, str) else padding
    axes = zip(("high", "wide"), image[:2], window, stride, padding, dilation, strict=True)
    (P, rows), (Q, columns) = (along_axis(label, "an image", *axis, channels_first_hint(image)) for axis in axes)
    return (P, Q), (rows, columns)


def reach(size, dilation):
    """D: over how many rows a window of so many reaches."""
    return (size - 1) * dilation + 1


def channels_first_hint(image):
    """What may be wrong with the shape of an image (H, W, C) into which a window does not fit."""
    looks_so = image[0] in (1, 3) and image[1] == image[2]
    return f"; images are (H, W, C): are the channels first in {tuple(image)}?" if looks_so else ""


def along_axis(label, what, extent, size, window, stride, padding, dilation, hint=""):
    """Along one axis of an image or a sequence: how many positions there are, and the padding before and behind."""
    D = reach(window, dilation)
    if padding == "same":
        count = -(-size // stride)
        zeros = max((count - 1) * stride + D - size, 0)
        return count, (zeros // 2, zeros - zeros // 2)
    before, behind = (0, 0) if padding == "valid" else padding if isinstance(padding, tuple) else (padding, padding)
    if size + before + behind < D:
        sides = f"{before} zeros on each side" if before == behind else f"{before} and {behind} zeros on its sides"
        raise ValueError(
            f"{label}: a window {D} {extent} does not fit into {what} {size} {extent} with {sides}; make the window "
            f"smaller or the padding larger{hint}"
        )
    return (size + before + behind - D) // stride + 1, (before, behind)
