"""Why a classifier trains on cross-entropy and not on squared errors: the same network from the same bad start.

    python examples/05_cross_entropy_or_mse.py

A classifier is a network whose answer is a class, one of several kinds: a digit, or a yes or no.  The question here: is
this digit 5 or more?  The network has 32 hidden numbers (example 02) and ends in one logit z, whose sigmoid p is the
probability of "yes" (example 03).  Its last bias starts at 8, and what the random weights add is between -1.4 and 0.4.
So at first it says yes to everything, with p above 0.998: wrong on half of the images, and sure of it.  Sigmoids at one
of their flat ends are called saturated.

It is trained with the same start and batches on two losses (example 04 draws both), and on the second once more with
steps 10 times as large.  For a batch of N images, z, p and t (N, 1), where t is 1 for 5 or more and else 0:

    cross-entropy   L = mean of -t log p - (1 - t) log(1 - p)         dL/dz = (p - t) / N
    squared error   L = mean of (p - t)^2                             dL/dz = 2 (p - t) p (1 - p) / N

The gradient with respect to every parameter is dL/dz times other things, which are the same for both.  On an image
that is not 5 or more, where t = 0 and, say, z = 7.4 and so p = 0.9994, the cross-entropy's dL/dz is 0.9994 / N, the
squared error's 2 x 0.9994 x 0.9994 x 0.0006 / N = 0.0012 / N.  The network is as wrong as can be, and learns hardly
anything from it: the gradient has vanished.  It does get away from there in the end, with larger steps sooner, and then
comes to answer as well as the other.  The wait is the price, and the cross-entropy does not pay it.

The left panel shows how long the whole gradient is, the root of the sum of its squares, called its norm; the middle one
how many test images are answered rightly, of which guessing gets half.  An epoch is once through all training images.

The right panel shows the plateau in the loss of all training images.  To have only one direction to look in, it takes a
logistic regression (example 03), trained until it is good (not the best: that takes more steps, and larger weights),
and multiplies its weights and bias by s: 1 is good, 0 knows nothing, -1 says the opposite.  Its cross-entropy is
convex: the farther from the lowest point, the steeper, so every point of the line knows the way down.  The squared
error after a sigmoid is not convex: it levels off where nearly everything is wrong, on a plateau where hardly any slope
shows the way down.
"""

import gallery
import numpy as np

import tinynet as tn


def squared_error_of_logits(z, t):
    """The squared error after a sigmoid, and its gradient with respect to the logits."""
    p = 1 / (1 + np.exp(-z))
    loss, dp = tn.mean_squared_error(p, t)
    return loss, dp * p * (1 - p)


def train(loss, lr, x, t, x_test, t_test, epochs):
    """The norm of the gradient at every step, and the share of right answers on the test images after every epoch."""
    model = tn.Sequential([tn.Dense(32, activation="relu"), tn.Dense(1)], input_shape=64, seed=0, dtype="float64")
    model.layers[1].parameters[1].value[...] = 8.0  # the bad start
    optimizer = tn.SGD(model, lr)
    sizes, right = [], [((model.predict(x_test) > 0) == t_test).mean()]
    for epoch in range(epochs):
        for x_batch, t_batch in tn.batches(x, t, batch_size=32, seed=epoch):
            _, dz = loss(model.forward(x_batch, training=True), t_batch)
            model.backward(dz)
            sizes.append(np.linalg.norm(model.flat_grads))
            optimizer.step()
        right.append(((model.predict(x_test) > 0) == t_test).mean())
    return np.array(sizes), np.array(right)


def line(x, t):
    """Both losses of logistic regressions with the weights s (w, b), w and b being good ones, for s from -3 to 3."""
    model = tn.Sequential([tn.Dense(1, init="zeros")], input_shape=64, dtype="float64")
    optimizer = tn.SGD(model, lr=0.5)
    for _ in range(500):
        model.backward(tn.sigmoid_cross_entropy(model.forward(x, training=True), t)[1])
        optimizer.step()
    s, z = np.linspace(-3, 3, 121), model.predict(x)
    entropy = np.array([tn.sigmoid_cross_entropy(k * z, t, grad=False)[0] for k in s])
    return s, entropy, np.array([squared_error_of_logits(k * z, t)[0] for k in s])


def main():
    options = gallery.options(__doc__)
    (x, y), (x_test, y_test) = tn.data.digits()
    x, x_test = x.reshape(-1, 64).astype(np.float64), x_test.reshape(-1, 64).astype(np.float64)
    t, t_test = (y[:, None] >= 5).astype(np.float64), y_test[:, None] >= 5

    epochs = 6 if options.quick else 40
    runs = {}
    for name, loss, lr in (
        ("cross-entropy", tn.sigmoid_cross_entropy, 0.1),
        ("squared error", squared_error_of_logits, 0.1),
        ("squared error, steps 10 times as large", squared_error_of_logits, 1.0),
    ):
        sizes, right = runs[name] = train(loss, lr, x, t, x_test, t_test, epochs)
        print(f"{name}: norm of the gradient {sizes[0]:.5f} at the first step")
        shares = [f"{right[epoch]:.1%} ({epoch})" for epoch in (0, 1, 2, 5, 10, 20, 40) if epoch <= epochs]
        print("  test images answered rightly (after so many epochs): " + "  ".join(shares))
    entropy, squared, faster = runs.values()
    ratio = entropy[0][0] / squared[0][0]
    print(f"at the start, the gradient of cross-entropy is {ratio:.0f} times as large")
    assert ratio > 100, "the squared error's gradient has vanished, the cross-entropy's has not"
    assert entropy[1][5] > 0.8, "cross-entropy learns from its first steps"
    assert squared[1][5] < 0.55, "the squared error still says yes to everything"

    s, bowl, plateau = line(x, t)
    assert np.all(np.diff(bowl, 2) > 0), "cross-entropy is convex: its second derivative is above 0 all the way"
    assert np.diff(plateau, 2).min() < 0, "the squared error of a sigmoid is not"
    slopes = [np.abs(np.gradient(curve, s)) for curve in (bowl, plateau)]
    for name, slope in zip(("cross-entropy", "squared error"), slopes, strict=True):
        print(f"{name}: at s = -3 its slope is {slope[0] / slope.max():.1%} of its steepest on the line")

    figure = tn.plots.figure(13, 4.6)
    left, middle, right = figure.subplots(1, 3)
    styles = ((tn.plots.BLUE, "-"), (tn.plots.ORANGE, "-"), (tn.plots.ORANGE, ":"))
    for (name, (sizes, correct)), (colour, style) in zip(runs.items(), styles, strict=True):
        left.semilogy(np.arange(epochs) + 0.5, sizes.reshape(epochs, -1).mean(axis=1), style, color=colour, lw=2)
        middle.plot(correct, style, color=colour, lw=2, label=name)
    figure.legend(*middle.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    right.plot(s, bowl / bowl[60], color=tn.plots.BLUE, lw=2)
    right.plot(s, plateau / plateau[60], color=tn.plots.ORANGE, lw=2)
    right.text(-1.3, 5.1, "cross-entropy:\nconvex", color=tn.plots.BLUE)
    right.text(-2.9, 2.4, "squared error:\nlevels off", color=tn.plots.ORANGE)
    gallery.plain(left, "Norm of the gradient, mean of each epoch", xlabel="epoch", ylabel="norm of the gradient")
    gallery.plain(middle, "Share of test images answered rightly", xlabel="epoch", ylabel="share", ylim=(0.4, 1))
    gallery.plain(right, "The losses along a line through weight space", ylabel="loss / loss at s = 0", ylim=(0, 6))
    right.set(xlabel="s:  opposite of good (-1), nothing (0), good (1)")
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
