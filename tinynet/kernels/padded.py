"""An image with zeros around it."""

from tinynet.kernels import memory
from tinynet.kernels.compile import kernel


@kernel()
def with_zeros_around(image, first, left, padded):
    """Fill padded (U, V, C) with the image (H, W, C) and zeros: its row 0 is the image's row `first`, perhaps < 0.

    The image's column 0 is its column `left`: if that is < 0, the first columns are left out.
    """
    H, W, C = image.shape
    U, V, _ = padded.shape
    zero = image.dtype.type(0)
    for u in range(U):
        at, h = u * V * C, first + u
        begin, end = V * C, V * C
        if 0 <= h < H:
            begin = min(V, max(0, left)) * C
            end = max(begin, min(V, left + W) * C)
        # Loops over pieces, as in the layers: Numba takes 3 s to compile one assignment of a slice to a slice.  And an
        # index that is a sum might be negative: such a loop goes number by number, 14 us instead of 2 for (32, 32, 32).
        before, to = memory.piece(padded, at, begin), memory.piece(padded, at + begin, end - begin)
        given = memory.piece(image, (h * W + min(W, max(0, -left))) * C, end - begin)
        behind = memory.piece(padded, at + end, V * C - end)
        for i in range(begin):
            before[i] = zero
        for i in range(end - begin):
            to[i] = given[i]
        for i in range(V * C - end):
            behind[i] = zero


@kernel()
def channels_with_zeros_around(image, first, left, c0, padded):
    """The same of some of the channels, from c0 on: padded is (U, V, S)."""
    H, W, C = image.shape
    U, V, S = padded.shape
    if S == C:
        with_zeros_around(image, first, left, padded)
        return
    zero = image.dtype.type(0)
    for u in range(U):
        h = first + u
        for v in range(V):
            to = memory.piece(padded, (u * V + v) * S, S)
            if 0 <= h < H and left <= v < left + W:
                given = memory.piece(image, (h * W + v - left) * C + c0, S)
                for c in range(S):
                    to[c] = given[c]
            else:
                for c in range(S):
                    to[c] = zero
