"""A convolution by hand: a small image, a small filter, and every derivative as a number.

    python examples/33_convolution_by_hand.py

To be read after 07 and before 08.  A convolution is a weighted sum like any other, with two differences: each output
looks at a small window of the image only, and all windows have the same weights, the filter.

              1  2  0                                               -1  4
    x (3, 3)  0  1  3        w (2, 2)   1 -1          y (2, 2)       3  0
              2  1  1                   2  0

Forward.  The filter is laid over each of the four places where it fits, p rows down and q columns to the right; at
each, the sum of weights times pixels:

    y[p,q] = sum_i sum_j w[i,j] x[p+i,q+j]

    y[0,0] = 1 * 1 - 1 * 2 + 2 * 0 + 0 * 1 = -1          y[0,1] = 1 * 2 - 1 * 0 + 2 * 1 + 0 * 3 = 4
    y[1,0] = 1 * 0 - 1 * 1 + 2 * 2 + 0 * 1 =  3          y[1,1] = 1 * 1 - 1 * 3 + 2 * 1 + 0 * 1 = 0

Backward.  Say that the layers behind have found how the loss L depends on each output: dy (2, 2), dL/dy.

               1  2
    dy (2, 2)
              -1  3

Which outputs did w[i,j] touch, and times what?  All four of them, y[p,q] times x[p+i,q+j].  So it gets four terms:

    dw[i,j] = sum_p sum_q dy[p,q] x[p+i,q+j]

    dw[0,0] = 1 * 1 + 2 * 2 - 1 * 0 + 3 * 1 = 8          dw[0,1] = 1 * 2 + 2 * 0 - 1 * 1 + 3 * 3 = 10
    dw[1,0] = 1 * 0 + 2 * 1 - 1 * 2 + 3 * 1 = 3          dw[1,1] = 1 * 1 + 2 * 3 - 1 * 1 + 3 * 1 = 9

Look at the formula again: it is the forward pass, with dy in the place of the filter.

Which outputs did x[h,g], the pixel in row h and column g, touch?  The middle one is in all four windows, a corner in
one.  That can be seen from either side.  From y: the output y[p,q] was made of a window, each pixel times its weight,
so dy[p,q] times the filter goes back to that window (a scatter).  The four pieces overlap, and what falls on one pixel
adds up:

     1 -1  .       .  2 -2       .  .  .       .  .  .        1  1 -2
     2  0  .   +   .  4  0   +  -1  1  .   +   .  3 -3   =    1  8 -3     dx (3, 3)
     .  .  .       .  .  .      -2  0  .       .  6  0       -2  6  0

From x: the pixel x[h,g] has the weight w[i,j] in the window that begins i rows above and j columns to the left of it,
if there is one.  So it collects (a gather)

    dx[h,g] = sum_i sum_j w[i,j] dy[h-i,g-j]             where dy has such an element

    dx[1,1] = 1 * 3 - 1 * -1 + 2 * 2 + 0 * 1 = 8

Here the indices of dy go down as those of w go up.  Turn the filter around, upside down and left to right, and both go
up: dx is a convolution too, of dy with a border of zeros and the flipped filter.

     0  0  0  0
     0  1  2  0         0  2
     0 -1  3  0        -1  1      at the top left: 0 * 0 + 2 * 0 - 1 * 0 + 1 * 1 = 1 = dx[0,0]
     0  0  0  0

So a convolution's backward pass is two convolutions.  (In mathematics, a convolution flips its filter, and what does
not, as y here, is a cross-correlation.  In this field both are called by the first name.)  A pixel may be C numbers
side by side, its channels, such as red, green and blue, and there may be K filters.  Then x[h,g] is a row of C numbers,
y[p,q] one of K, w[i,j] a matrix (C, K), and the products above are products of these: that is tinynet/layers/conv2d.py.

The program computes all of this, by loops; compares it with tn.Conv2D, and with what a small change of each pixel and
each weight does to L; and draws the pieces.
"""

import gallery
import numpy as np

import tinynet as tn

X = np.array([[1.0, 2, 0], [0, 1, 3], [2, 1, 1]])
W = np.array([[1.0, -1], [2, 0]])
DY = np.array([[1.0, 2], [-1, 3]])


def convolution(x, w):
    """y[p,q] = sum_ij w[i,j] x[p+i,q+j], wherever w fits."""
    (H, G), (I, J) = x.shape, w.shape
    y = np.zeros((H - I + 1, G - J + 1))
    for p, q in np.ndindex(y.shape):
        for i, j in np.ndindex(w.shape):
            y[p, q] += w[i, j] * x[p + i, q + j]
    return y


def scattered(dy, w, shape):
    """For each output, what it gives back: dy[p,q] times the filter, at its window of an image of this shape."""
    pieces = []
    for p, q in np.ndindex(dy.shape):
        piece = np.zeros(shape)
        piece[p : p + w.shape[0], q : q + w.shape[1]] = dy[p, q] * w
        pieces.append(piece)
    return pieces


def gathered(dy, w, shape):
    """For each pixel, what it collects: dx[h,g] = sum_ij w[i,j] dy[h-i,g-j]."""
    dx = np.zeros(shape)
    for h, g in np.ndindex(shape):
        for i, j in np.ndindex(w.shape):
            if 0 <= h - i < dy.shape[0] and 0 <= g - j < dy.shape[1]:
                dx[h, g] += w[i, j] * dy[h - i, g - j]
    return dx


def by_small_changes(array, loss, eps=1e-5):
    """The derivatives of loss() by each number of an array, from moving that number up and down."""
    slopes = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + eps
        above = loss()
        array[index] = kept - eps
        slopes[index] = (above - loss()) / (2 * eps)
        array[index] = kept
    return slopes


def draw(panel, array, title):
    """An array as coloured squares with its numbers: blue is negative, orange positive."""
    panel.imshow(array, cmap=tn.plots.signed_colours(), vmin=-20, vmax=20)
    for (h, g), number in np.ndenumerate(array):
        panel.text(g, h, f"{number:g}".replace("-0", "0"), ha="center", va="center", fontsize=11)
    panel.set_title(title, fontsize=11)
    panel.set_xticks(np.arange(array.shape[1] - 1) + 0.5, labels=[])
    panel.set_yticks(np.arange(array.shape[0] - 1) + 0.5, labels=[])
    panel.grid(color=tn.plots.GREY, lw=0.8)
    panel.tick_params(length=0)


def main():
    options = gallery.options(__doc__)
    x, w, dy = X.copy(), W.copy(), DY.copy()
    y, dw = convolution(x, w), convolution(x, dy)
    pieces = scattered(dy, w, x.shape)
    dx = sum(pieces)
    print("y\n", y, "\ndw\n", dw, "\ndx\n", dx, sep="")
    assert np.array_equal(y, [[-1, 4], [3, 0]])
    assert np.array_equal(dw, [[8, 10], [3, 9]])
    assert np.array_equal(dx, [[1, 1, -2], [1, 8, -3], [-2, 6, 0]])
    assert np.array_equal(gathered(dy, w, x.shape), dx), "what pixels collect is what outputs give back"
    assert np.array_equal(convolution(np.pad(dy, 1), w[::-1, ::-1]), dx), "and a convolution with the flipped filter"

    layer = tn.Conv2D(1, 2, bias=False)
    model = tn.Sequential([layer], input_shape=(3, 3, 1), seed=0, dtype="float64")
    model.parameters()[0].value = w[:, :, None, None]  # (rows, columns, channels, filters)
    assert np.array_equal(model.forward(x[None, :, :, None], training=True)[0, :, :, 0], y)
    assert np.array_equal(model.backward(dy[None, :, :, None], input_grad=True)[0, :, :, 0], dx)
    assert np.array_equal(model.parameters()[0].grad[:, :, 0, 0], dw)

    # A loss whose derivatives by y are dy: the sum of y times dy.
    for name, array, gradient in (("x", x, dx), ("w", w, dw)):
        found = by_small_changes(array, lambda: (convolution(x, w) * dy).sum())
        print(f"d{name} is {np.abs(found - gradient).max():.0e} from what small changes say")
        assert np.abs(found - gradient).max() < 1e-8

    figure = tn.plots.figure(12, 5.2)
    top, bottom = figure.subfigures(2, 1)
    forward = top.subplots(1, 5, width_ratios=[3, 2, 2, 2, 2])
    for panel, array, title in zip(
        forward, (x, w, y, dy, dw), ("x", "w", "y: w laid over x", "dy", "dw: dy laid over x"), strict=True
    ):
        draw(panel, array, title)
    titles = [f"dy[{p},{q}] times w" for p, q in np.ndindex(dy.shape)]
    for panel, array, title in zip(bottom.subplots(1, 5), [*pieces, dx], [*titles, "their sum: dx"], strict=True):
        draw(panel, array, title)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
