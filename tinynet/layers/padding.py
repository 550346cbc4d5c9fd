"""Where a window fits into an image, and the zeros around it: what both ways of convolving share."""

from tinynet import simd


def places(label, image, window, stride, padding):
    """How many places a window has in an image, (P, Q), and how many zeros come above and to the left of it, (t, l).

    padding is "valid" (none), "same" (as many as make ceil(size / stride) places, the odd one below and to the right),
    or how many there are on every side, as a pair (above and below, left and right).  ValueError, naming the layer,
    where the window does not fit.
    """
    padding = (padding, padding) if isinstance(padding, str) else padding
    axes = zip(("high", "wide"), image[:2], window, stride, padding, strict=True)
    (P, top), (Q, left) = (_along_axis(label, *axis) for axis in axes)
    return (P, Q), (top, left)


def _along_axis(label, extent, size, window, stride, padding):
    if padding == "same":
        count = -(-size // stride)
        return count, max((count - 1) * stride + window - size, 0) // 2
    zeros = 0 if padding == "valid" else padding
    if window > size + 2 * zeros:
        raise ValueError(
            f"{label}: a window {window} {extent} does not fit into an image {size} {extent} with {zeros} zeros on "
            "each side; make the window smaller or the padding larger"
        )
    return (size + 2 * zeros - window) // stride + 1, zeros


@simd.kernel()
def with_zeros_around(image, first, left, padded):
    """Fill padded (U, V, C) with the image (H, W, C) and zeros: its row 0 is the image's row `first`, perhaps < 0."""
    H, W, C = image.shape
    U, V, _ = padded.shape
    zero = image.dtype.type(0)
    for u in range(U):
        at, h = u * V * C, first + u
        begin, end = (min(V, left) * C, min(V, left + W) * C) if 0 <= h < H else (V * C, V * C)
        # Loops over pieces, as in the layers: Numba takes 3 s to compile one assignment of a slice to a slice.  And an
        # index that is a sum might be negative: such a loop goes number by number, 14 us instead of 2 for (32, 32, 32).
        before, to = simd.piece(padded, at, begin), simd.piece(padded, at + begin, end - begin)
        given, behind = simd.piece(image, h * W * C, end - begin), simd.piece(padded, at + end, V * C - end)
        for i in range(begin):
            before[i] = zero
        for i in range(end - begin):
            to[i] = given[i]
        for i in range(V * C - end):
            behind[i] = zero
