"""2 x 2 maximum pooling, the window that nearly everybody uses: vectors that read on into the next pixel.

What it buys, in whole training steps of 64 images with pooling.py instead (2-core Xeon, Emerald Rapids): a LeNet-like
network takes 1.4 times as long, the CNN of PyTorch's CIFAR-10 tutorial 1.3, a VGG-like one 1.0; with AVX2 alone 1.5,
1.3 and 1.2.

It takes the place of pooling.py after the first convolutions of a network, where images are large and channels few.
That runs over the channels of one pixel: six of them fill no vector, and a window costs as much as its numbers one by
one.

    y[n,p,q,c] = max of x[n, s p + i, r q + j, c] over i, j in {0, 1}        strides (s, r)
    argmax[n,p,q,c] = 2 i + j    where that number is: the first of equal ones; the last NaN, if there is one

Here a line of R numbers starts at the first channel and simply reads on into the next pixel; R is a quarter of a
vector, a half, or all of it, and a vector has the lines of 4, 2 or 1 windows side by side.  What is written beyond C,
the next window then overwrites with the right numbers.  At the end of what a thread owns, where a line would leave it,
it goes number by number.

The backward pass, for windows side by side (stride 2), fills the rows of dx in their order, for the same reason:

    dx[n, 2 p + i, 2 q + j, c] = dy[n,p,q,c] where argmax[n,p,q,c] = 2 i + j, else 0
"""

from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import band_count, helper, kernel, sized_kernel
from tinynet.kernels.vectors import lines, select, width

THREADS_FROM = 32768  # numbers in the images from which two threads beat one


@helper
def beats(value, best):
    return (value > best) | (value != value)  # a NaN always does


# --- the windows of one vector ------------------------------------------------------------------------------


def side_by_side(windows):
    """max_of_windows and scatter for so many windows, each with a line of its own in the vectors."""
    load, _, store, _ = lines(windows)

    @helper
    def max_of_windows(x, at, right, down, step, y, argmax, to, C):
        """y and argmax from `to` on, of windows that begin at x.flat[at], x.flat[at + step], ..."""
        best, second = load(x, at, step, x), load(x, at + right, step, x)
        third, fourth = load(x, at + down, step, x), load(x, at + down + right, step, x)
        more = beats(second, best)
        best, k = select(more, second, best), select(more, 1, 0)
        more = beats(third, best)
        best, k = select(more, third, best), select(more, 2, k)
        more = beats(fourth, best)
        best, k = select(more, fourth, best), select(more, 3, k)
        store((best,), y, to, C)
        store((k,), argmax, to, C)

    @helper
    def scatter_pixels(dy, argmax, at, C, k, dx, to):
        """dx of the pixels k and k + 1 of each window, from `to` on: they lie side by side."""
        gradient, largest = load(dy, at, C, dy), load(argmax, at, C, dy)
        store((select(largest == k, gradient, 0), select(largest == k + 1, gradient, 0)), dx, to, C)

    @helper
    def scatter_pixel(dy, argmax, at, C, k, dx, to):
        """dx of the pixel k: one window's channels are several vectors, all of which come before the next pixel's."""
        gradient, largest = load(dy, at, C, dy), load(argmax, at, C, dy)
        store((select(largest == k, gradient, 0),), dx, to, C)

    return max_of_windows, scatter_pixel if windows == 1 else scatter_pixels


max_of_four, scatter_four = side_by_side(4)
max_of_two, scatter_two = side_by_side(2)
max_of_one, scatter_one = side_by_side(1)


# --- all windows --------------------------------------------------------------------------------------------


@helper
def windows_of_a_vector(x, C):
    """How many windows share a vector, and how long their lines are: for more channels than lanes, several vectors."""
    LANES = width(x)
    if C <= LANES // 4:
        return 4, LANES // 4
    return (2, LANES // 2) if C <= LANES // 2 else (1, (C + LANES - 1) // LANES * LANES)


@helper
def groups_within(groups, first, step, room):
    """How many of so many groups that begin at first, first + step, ... begin no later than at `room`."""
    if first + (groups - 1) * step <= room:  # always but in the last rows; a division takes as long as a window
        return groups
    return max(0, (room - first) // step + 1)


@kernel()
def max_of_rows(x, n, p0, p1, stride, y, argmax):
    """Rows p0 to p1 of y and argmax of image n."""
    _, H, W, C = x.shape
    _, P, Q, _ = y.shape
    (s, r), end, size = stride, (n * P + p1) * Q * C, x.size
    x, y, argmax = memory.piece(x, 0, size), memory.piece(y, 0, y.size), memory.piece(argmax, 0, y.size)
    windows, line = windows_of_a_vector(x, C)
    for p in range(p0, p1):
        at, to = (n * H + p * s) * W * C, (n * P + p) * Q * C
        # What a group writes must stay in these rows, and what it reads in x.  The last may go on beyond Q: the next
        # row is written afterwards.
        groups = groups_within((Q + windows - 1) // windows, to, windows * C, end - (windows - 1) * C - line)
        groups = groups_within(groups, at, windows * r * C, size - ((windows - 1) * r + W + 1) * C - line)
        if windows == 4:
            for k in range(groups):
                max_of_four(x, at + k * 4 * r * C, C, W * C, r * C, y, argmax, to + k * 4 * C, C)
        elif windows == 2:
            for k in range(groups):
                max_of_two(x, at + k * 2 * r * C, C, W * C, r * C, y, argmax, to + k * 2 * C, C)
        else:
            for k in range(groups):
                max_of_one(x, at + k * r * C, C, W * C, r * C, y, argmax, to + k * C, C)
                for c in range(width(x), C, width(x)):  # few channels are one vector, and need no loop
                    max_of_one(x, at + k * r * C + c, C, W * C, r * C, y, argmax, to + k * C + c, C)
        at, to = at + groups * windows * r * C, to + groups * windows * C
        for _ in range(groups * windows, Q):
            for c in range(C):
                y[to + c], argmax[to + c] = x[at + c], 0
                for k in range(1, 4):
                    value = x[at + (k // 2 * W + k % 2) * C + c]
                    if beats(value, y[to + c]):
                        y[to + c], argmax[to + c] = value, k
            at, to = at + r * C, to + C


@sized_kernel(THREADS_FROM, of=0)
def max_pool_2x2_forward(x, stride, y, argmax):
    N, P = y.shape[0], y.shape[1]
    bands = band_count(N, P, 0)
    for task in prange(N * bands):
        n, band = task // bands, task % bands
        max_of_rows(x, n, band * P // bands, (band + 1) * P // bands, stride, y, argmax)


@kernel()
def scatter_rows(dy, argmax, n, p0, p1, dx):
    """The rows of dx of image n that rows p0 to p1 of dy came from, and with the last of them all that follow."""
    _, P, Q, C = dy.shape
    _, H, W, _ = dx.shape
    zero, rows, size = dy.dtype.type(0), H if p1 == P else 2 * p1, dy.size
    end = (n * H + rows) * W * C
    dy, argmax, dx = memory.piece(dy, 0, size), memory.piece(argmax, 0, size), memory.piece(dx, 0, dx.size)
    windows, line = windows_of_a_vector(dy, C)
    for p in range(p0, p1):
        for i in range(2):
            row = (n * H + 2 * p + i) * W * C
            at, to = (n * P + p) * Q * C, row
            groups = groups_within((Q + windows - 1) // windows, at, windows * C, size - (windows - 1) * C - line)
            groups = groups_within(groups, to, 2 * windows * C, end - (2 * windows - 1) * C - line)
            for _ in range(groups):
                if windows == 4:
                    scatter_four(dy, argmax, at, C, 2 * i, dx, to)
                elif windows == 2:
                    scatter_two(dy, argmax, at, C, 2 * i, dx, to)
                else:
                    for j in range(2):
                        for c in range(0, C, width(dy)):
                            scatter_one(dy, argmax, at + c, C, 2 * i + j, dx, to + j * C + c)
                at, to = at + windows * C, to + 2 * windows * C
            for _ in range(groups * windows, Q):
                for j in range(2):
                    for c in range(C):
                        dx[to + j * C + c] = dy[at + c] if argmax[at + c] == 2 * i + j else zero
                at, to = at + C, to + 2 * C
            for m in range(row + 2 * Q * C, row + W * C):
                dx[m] = zero
    for m in range((n * H + 2 * p1) * W * C, end):
        dx[m] = zero


@sized_kernel(THREADS_FROM)
def max_pool_2x2_backward(dy, argmax, dx):
    N, P = dy.shape[0], dy.shape[1]
    bands = band_count(N, P, 0)
    for task in prange(N * bands):
        n, band = task // bands, task % bands
        scatter_rows(dy, argmax, n, band * P // bands, (band + 1) * P // bands, dx)
