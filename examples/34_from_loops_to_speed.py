"""One convolution, five ways to compute it: from plain loops to Winograd's, ten thousand times as fast.

    python examples/34_from_loops_to_speed.py

Example 33 has a convolution's formula.  With C channels, K filters, and a border of zeros around the image, so that the
output is as large as the image is:

    y[n,p,q,k] = sum_i sum_j sum_c x[n,p+i-1,q+j-1,c] w[i,j,c,k]        x (N, H, W, C)   w (3, 3, C, K)

Here are 32 channels, 32 filters and images of 28 x 28: 7 million multiplications an image.  A processor's core does
some billions of multiply-adds a second one by one, and 16 to 64 times as many where each works on a vector of numbers.
How much of that is reached depends on how the sum is written.

    loops      the formula as it stands, seven loops of Python.  Each multiplication waits some hundred nanoseconds for
               the interpreter, so an image takes a second or more.  Only a corner of one is computed, and the time of
               the whole worked out from it
    windows    two loops over the positions; at each, NumPy multiplies the windows of all images, as rows of 9 C
               numbers, by all filters: the inner loops are machine code, and Python only starts them
    im2col     all windows of all positions as the rows of one matrix (N H W, 9 C), and a single product with the
               filters (9 C, K).  Large products are fast; but the matrix has each pixel nine times, and writing and
               reading it takes as long as the product, or longer
    tile       the same product without the matrix.  With channels last, a row of a window is 3 C numbers in a row, so
               the product reads them where they are.  A block of the output, the tile, stays in registers while its
               sums grow: for each number that is loaded there are many multiply-adds (tinynet/kernels/tile.py)
    Winograd   fewer multiplications.  A product of polynomials can be had from its values at enough points, and a
               convolution is one: 4 x 4 outputs of a 3 x 3 window take 36 multiplications in place of 144
               (tinynet/kernels/winograd.py)

All five agree but for rounding, as the program asserts.  tn.Conv2D takes what is fastest for the shape.  Times differ
from machine to machine; the picture has those of the one that drew it, a 2-core Intel Xeon (Emerald Rapids).
"""

import time

import gallery
import numpy as np

import tinynet as tn
from tinynet.kernels.conv2d import conv2d_forward
from tinynet.kernels.winograd import winograd_forward


def loops(x, w, positions):
    """y at the first positions of the first image, one multiplication after the other."""
    H, W, C = x.shape[1:]
    y = np.zeros((len(positions), w.shape[3]), np.float32)
    for m, (p, q) in enumerate(positions):
        for k in range(w.shape[3]):
            total = 0.0
            for i in range(3):
                for j in range(3):
                    h, g = p + i - 1, q + j - 1
                    if 0 <= h < H and 0 <= g < W:
                        for c in range(C):
                            total += x[0, h, g, c] * w[i, j, c, k]
            y[m, k] = total
    return y


def windows(x, w):
    N, H, W, C = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    matrix = w.reshape(9 * C, -1)
    y = np.empty((N, H, W, w.shape[3]), x.dtype)
    for p in range(H):
        for q in range(W):
            y[:, p, q] = padded[:, p : p + 3, q : q + 3].reshape(N, -1) @ matrix
    return y


def im2col(x, w):
    N, H, W, C = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))  # (N, H, W, C, 3, 3), no copy yet
    matrix = views.transpose(0, 1, 2, 4, 5, 3).reshape(N * H * W, 9 * C)  # here each pixel is written nine times
    return (matrix @ w.reshape(9 * C, -1)).reshape(N, H, W, -1)


def kernel(forward, *more):
    """One of the package's kernels as a function of x and w; a floor of -infinity is none."""

    def run(x, w):
        y, b = np.empty((*x.shape[:3], w.shape[3]), x.dtype), np.zeros(w.shape[3], x.dtype)
        forward(x, w, b, *more, (1, 1), np.float32(-np.inf), y)
        return y

    return run


def seconds(function, rounds):
    """The shortest of some rounds, after one that compiles and warms up."""
    function()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    options = gallery.options(__doc__)
    N, rounds = (2, 2) if options.quick else (16, 7)
    H, C, K = 28, 32, 32
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, H, H, C)).astype(np.float32)
    w = (rng.standard_normal((3, 3, C, K)) / np.sqrt(9 * C)).astype(np.float32)

    corner = [(p, q) for p in range(2) for q in range(2)]
    ways = {
        "windows": windows,
        "im2col": im2col,
        "tile": kernel(conv2d_forward, (1, 1)),
        "Winograd": kernel(winograd_forward),
    }
    layer = tn.Conv2D(K, 3, padding="same", bias=False)
    model = tn.Sequential([layer], input_shape=(H, H, C), seed=0)
    model.parameters()[0].value = w
    expected = model.forward(x)

    start = time.perf_counter()
    found = loops(x, w, corner)
    times = {"loops": (time.perf_counter() - start) * H * H / len(corner)}
    assert np.abs(found.reshape(2, 2, K) - expected[0, :2, :2]).max() < 1e-5
    for name, way in ways.items():
        assert np.abs(way(x, w) - expected).max() < 2e-5, f"{name} must compute the same"
        times[name] = seconds(lambda way=way: way(x, w), rounds) / N
    work = 9 * H * H * C * K
    for name, taken in times.items():
        rate = 2 * work / taken / 1e9  # a multiplication and an addition
        print(f"{name:<8}  {taken * 1e3:10.3f} ms an image  {rate:10.3f} GFLOP/s  {times['loops'] / taken:8.0f} times")
    assert times["loops"] > 20 * times["windows"], "the interpreter is what loops wait for"
    assert times["windows"] > min(times["tile"], times["Winograd"])

    figure = tn.plots.figure(9, 4)
    panel = figure.subplots()
    colours = [tn.plots.GREY] * 3 + [tn.plots.BLUE] * 2
    bars = panel.barh(list(times), [taken * 1e3 for taken in times.values()], color=colours)
    labels = [f"{taken * 1e3:,.{0 if taken > 1 else 3}f} ms" for taken in times.values()]
    panel.bar_label(bars, labels, padding=4)
    panel.set_xscale("log")
    panel.invert_yaxis()
    most = max(times.values()) * 1e3
    gallery.plain(panel, f"The same convolution, {C} channels, {K} filters", xlabel="milliseconds an image")
    panel.set_xlim(min(times.values()) * 500, most * 8)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
