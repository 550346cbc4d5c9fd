"""A network that draws: the transposed convolution is a convolution's backward pass, and denoises digits.

    python examples/29_autoencoder.py          reads MNIST (example 08 says from where)

The networks so far make small things of images: a few logits.  To make an image of a few numbers, a layer is needed
that enlarges.  There is one already, inside of each convolution: its backward pass.  It takes dy, as large as the small
output, and returns dx, as large as the input.

    convolution             y[p] = sum over i of x[p s + i] w[i]        gathers a window of x for each y
    its backward pass       dx[p s + i] += dy[p] w[i], for all p, i     scatters each dy over that window

(One axis and one channel; stride s; Conv2D's file derives it.)  Where windows overlap, what is scattered adds up.
ConvTranspose2D is that scatter as a layer: forward, it does what Conv2D does backward, and backward what Conv2D does
forward.  The program shows it with numbers, and prints them, for a kernel of 3 x 3 and stride 2:

  - ConvTranspose2D of dy gives the very dx that Conv2D's backward returns for dy, from the same w.
  - Its own backward, of an image x in place of a gradient, is the convolution of x.
  - As matrices: a convolution is y = A x, with x and y written as columns; backward is dx = A.T dy.  So for all x and
    dy, the sums of (A x) dy and of x (A.T dy) are one number.
  - "Transposed" is not "inverse": A.T A x has the shape of x, and other numbers.
  - Not all pixels get equally much.  With 3 x 3 weights and stride 2, pixels lie in 1, 2 or 4 windows by turns, and
    with weights that are all 1, an even input becomes a chequered image (Odena et al. 2016).  4 x 4 weights, a multiple
    of the stride, lie over all pixels but those of the border alike; hence they are taken below.

Now to draw.  An autoencoder (Rumelhart et al. 1986) is trained to return its own input through a narrow place, here 32
numbers; a denoising one (Vincent et al. 2008) is given the image with noise, and must return it without:

    x + 0.5 e      (N, 28, 28, 1)   a digit, 0 to 1, and to each pixel normal noise of deviation 0.5
    Conv2D, twice  (N, 7, 7, 32)    stride 2, ReLU
    Dense          (N, 32)          the code
    Dense          (N, 7, 7, 32)    ReLU, Reshape
    ConvTranspose2D, twice          stride 2: (N, 14, 14, 16) with ReLU, then the logits z (N, 28, 28, 1)

The target t of a pixel is its brightness without noise, a number in [0, 1], and the loss the sigmoid cross-entropy,

    -t log p - (1 - t) log(1 - p)       p = sigmoid(z)       dz = p - t

of which nothing asks t to be 0 or 1.  If t is uncertain, given what the network sees, the expected loss is lowest where
the expected dz is 0: where p is the mean of t.  That is also what the mean squared error asks for, by which the result
is judged here.

Is it good?  The noise itself has an error of 0.250.  A blur, the mean of 3 x 3 pixels, brings it down to 0.038.  The
fairest rival is the best linear map of all: for each clean pixel a weighted sum of all 784 noisy ones (and 1), with the
weights of least squares on the same 20,000 digits: 0.021.  The network comes to 0.014, although it must say in 32
numbers all that it draws.  Its digits have clean edges; and where the noise leaves open which strokes there were, it
draws the mean of what might have been, as the loss asks, such as the grey in the 3.
"""

import gallery
import numpy as np

import tinynet as tn

CODE, NOISE = 32, 0.5


def layer_on(layer, shape, w):
    """The layer, built for inputs of this shape in float64, with the weights w."""
    model = tn.Sequential([layer], input_shape=shape, dtype="float64")
    model.parameters()[0].value = w
    return model


def show_with_numbers():
    """What a transposed convolution is, in numbers; each claim is checked."""
    rng = np.random.default_rng(0)
    x, dy, w = (rng.integers(-3, 4, shape).astype(float) for shape in ((1, 5, 5, 1), (1, 2, 2, 1), (3, 3, 1, 1)))
    convolution = layer_on(tn.Conv2D(1, 3, stride=2, bias=False), (5, 5, 1), w)
    y = convolution.forward(x, training=True)
    dx = convolution.backward(dy, input_grad=True)
    transposed = layer_on(tn.ConvTranspose2D(1, 3, stride=2, bias=False), (2, 2, 1), w)
    drawn = transposed.forward(dy, training=True)
    for name, numbers in {
        "w": w[..., 0, 0],
        "dy": dy[0, ..., 0],
        "Conv2D, backward: dx": dx[0, ..., 0],
        "ConvTranspose2D, forward, of dy": drawn[0, ..., 0],
    }.items():
        print(name, *("".join(f"{number:5.0f}" for number in row) for row in numbers), sep="\n")
    assert np.array_equal(drawn, dx)
    print("sum of (A x) dy:", f"{(y * dy).sum():.0f};  of x (A.T dy): {(x * dx).sum():.0f}")
    assert (y * dy).sum() == (x * dx).sum()
    assert np.array_equal(transposed.backward(x, input_grad=True), y)
    assert not np.allclose(transposed.forward(y), x)


def times_covered(size, kernel):
    """In how many windows each pixel lies: a transposed convolution of ones by ones, stride 2."""
    w = np.ones((kernel, kernel, 1, 1))
    layer = tn.ConvTranspose2D(1, kernel, stride=2, padding=(kernel - 1) // 2, output_padding=kernel % 2, bias=False)
    return layer_on(layer, (size, size, 1), w).forward(np.ones((1, size, size, 1)))[0, ..., 0]


def autoencoder():
    encoder = [
        tn.Conv2D(16, 4, stride=2, padding=1, activation="relu"),
        tn.Conv2D(32, 4, stride=2, padding=1, activation="relu"),
        tn.Flatten(),
        tn.Dense(CODE),
    ]
    decoder = [
        tn.Dense(7 * 7 * 32, activation="relu"),
        tn.Reshape((7, 7, 32)),
        tn.ConvTranspose2D(16, 4, stride=2, padding=1, activation="relu"),
        tn.ConvTranspose2D(1, 4, stride=2, padding=1),
    ]
    return tn.Sequential(encoder + decoder, input_shape=(28, 28, 1), seed=0)


def noisy(x, y, rng):
    """What fit calls on each batch: other noise every time; the targets are the images as they are."""
    return x + NOISE * rng.standard_normal(x.shape, dtype=np.float32), y


def blurred(x):
    """The mean of each pixel and its eight neighbours; beyond the border is paper, 0."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(padded[:, i : i + 28, j : j + 28] for i in range(3) for j in range(3)) / 9


def best_linear(x, rng):
    """The map of least squares from noisy images to clean ones, as a function."""

    def columns(images):
        return np.concatenate([images.reshape(len(images), -1), np.ones((len(images), 1))], axis=1, dtype=np.float64)

    seen = columns(noisy(x, x, rng)[0])
    w = np.linalg.solve(seen.T @ seen, seen.T @ x.reshape(len(x), -1))  # (785, 784)
    return lambda images: (columns(images) @ w).reshape(images.shape)


def main():
    options = gallery.options(__doc__, epochs=8)
    count, epochs = (2000, 1) if options.quick else (20_000, options.epochs)
    show_with_numbers()
    (x, _), (x_test, y_test) = tn.data.mnist()
    x, x_test, y_test = x[:count], x_test[:2000], y_test[:2000]
    seen, _ = noisy(x_test, x_test, np.random.default_rng(1))

    model = autoencoder()
    tn.fit(
        model,
        x,
        x,
        loss="sigmoid_cross_entropy",
        optimizer=tn.Adam(model),
        schedule=tn.cosine(2e-3, epochs * -(-count // 64)),
        epochs=epochs,
        augment=noisy,
        progress=False,
    )
    results = {
        "with noise": seen,
        "blurred": blurred(seen),
        "best linear map": best_linear(x, np.random.default_rng(0))(seen),
        f"through {CODE} numbers": tn.sigmoid(model.predict(seen)),
    }
    errors = {name: float(((image - x_test) ** 2).mean()) for name, image in results.items()}
    print("mean squared error:", ", ".join(f"{name} {error:.4f}" for name, error in errors.items()))
    noise, blur, linear, network = errors.values()
    assert abs(noise - NOISE**2) < 0.002, "the noise has the variance that it should have"
    if not options.quick:
        assert linear < blur < noise
        assert network < 0.8 * linear, "what a digit is, is not linear in its pixels"

    figure = tn.plots.figure(9, 3.6)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 2.2])
    left.suptitle("In how many windows a pixel lies", fontsize=11)
    for panel, kernel in zip(left.subplots(2, 1), (3, 4), strict=True):
        panel.imshow(times_covered(5, kernel), cmap="Blues", vmin=0, vmax=4)
        for (row, column), times in np.ndenumerate(times_covered(5, kernel)):
            panel.text(column, row, f"{times:.0f}", ha="center", va="center", size=7, color="k" if times < 4 else "w")
        panel.set(xticks=[], yticks=[])
        panel.set_title(f"{kernel} x {kernel}, stride 2", fontsize=10)
    shown = [int(np.flatnonzero(y_test == digit)[0]) for digit in (0, 2, 3, 5, 7, 8)]
    rows = {"as it was": x_test} | results
    grid = right.subplots(len(rows), len(shown))
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for panel, image in zip(line, images[shown, ..., 0], strict=True):
            panel.imshow(image, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_color(tn.plots.PALE)
        error = f"\n{errors[name]:.4f}" if name in errors else ""
        line[0].set_ylabel(name + error, rotation=0, ha="right", va="center", fontsize=9)
    right.suptitle("Digits, and the mean squared error of 2,000", fontsize=11)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
