"""A neural network with nothing but arrays and formulas, and the same numbers from the classes.

    python examples/02_by_hand.py [--page step.html] [--sliders sliders.html]

A network is a function with adjustable numbers, its parameters: weights w and biases b.  This one maps an image of a
handwritten digit, 8 x 8 pixels written as a row of 64 numbers, to ten scores, one for each digit; the largest is its
answer.  In between are 32 "hidden" numbers.  For a batch of N images at once, one in each row (b1 and b2 are added to
every row; log is the natural logarithm, here and in all examples):

    a = x w1 + b1              x (N, 64)   w1 (64, 32)   b1 (32,)    weighted sums of the pixels
    h = max(a, 0)              h (N, 32)                             negative sums become 0: without that bend, the
                                                                     whole would be one weighted sum of the pixels
    z = h w2 + b2              z (N, 10)   w2 (32, 10)   b2 (10,)    the scores, called logits
    p = exp(z) / sum exp(z)    p (N, 10)   softmax: the scores become probabilities, positive and 1 in total (the sum
                                           is over the ten scores of the same image)
    L = -mean log p[n, t[n]]   t (N,)      the loss, a mean over images: 0 if every true digit t[n] has
                                           probability 1, large where the network is sure and wrong
                                           (examples 03 and 06 show why it is this one)

Training looks for parameters that make L small: it takes the derivative of L by every parameter, together called the
gradient, and moves each parameter a little against its derivative; then the next batch.  (This is stochastic gradient
descent, SGD: stochastic, since batches are drawn at random.)  Once through all images is an epoch.

The chain rule gives all the derivatives, from the end to the beginning, which is called backpropagation.  For one
image, -log p[t] = log(sum_k exp(z[k])) - z[t].  By z[c], the first term has the derivative exp(z[c]) / sum_k exp(z[k])
= p[c], the second has -1 for c = t and else 0; the mean divides by N.  From there on, ask of each number which ones it
touched, and times what.  Write dz for dL/dz, an array like z, and so on:

    dz = (p - onehot(t)) / N       onehot(t) (N, 10) is 1 at the true digit and 0 elsewhere
    dw2 = h.T dz                   w2[i,o] touched z[n,o] of every image n, times h[n,i];  h.T is h transposed
    db2 = column sums of dz        b2[o] touched z[n,o] of every image, times 1
    dh = dz w2.T                   h[n,i] touched all ten z[n,o], times w2[i,o]
    da = dh where a > 0, else 0    the slope of max(a, 0) is 1 or 0 (at the corner, a = 0, it has none: take 0)
    dw1 = x.T da                   as dw2 and db2: x is to a what h is to z
    db1 = column sums of da

In full, the second line is the chain rule, a sum over all the ways in which w2[i,o] reaches L:

    dL/dw2[i,o] = sum over n and k of dL/dz[n,k] times the derivative of z[n,k] by w2[i,o],
                                                                       z[n,k] = sum_j h[n,j] w2[j,k] + b2[k]

That derivative is h[n,i] for k = o, and 0 for the other k.  What is left, sum_n h[n,i] dz[n,o], is the number at [i,o]
of the product h.T dz.

Is it right?  A derivative is what a small change of a number does to L, divided by that change.  So move one weight by
a tiny eps up and down: (L(w + eps) - L(w - eps)) / (2 eps) must be nearly what the formulas say.  (Up alone would do,
with a larger error: L's curvature cancels only between the two.)  The program does that first, for some weights.  It is
called a gradient check; tn.gradcheck does it for any layer.

Two things are chosen, not derived.  The weights start random: if all were alike, the hidden numbers would be 32 copies
of one, with the same derivatives at every step, and would stay alike for ever.  And they start small, so that no score
is sure of anything yet.  (The biases may start at 0.)  How far a step goes, the learning rate, is found by trying: here
0.03 gets there too, in many more steps, and with 3 the loss jumps about and the network learns nothing.

That is all of backpropagation.  The classes do the same, compiled: Dense is a weighted sum, and relu is max(a, 0).  So
every number must agree at every step, apart from rounding.  The picture shows the loss from both; below it, how far
apart any loss, derivative or parameter was at each step; and what some of the hidden numbers have learnt to look for.

Its lower half is the chain itself, for one digit that the trained network hesitates about: from left to right what is
computed of it, and below, from right to left, the derivative of its loss by each of these numbers.  The chain goes on
to the pixels, x[n,i] touched all a[n,o], times w1[i,o]:  dx = da w1.T.  Training has no use for it, but it says where
more ink would make the answer better (blue, the loss falls) or worse (orange).

To see every number of a step, what it was made of and what it touches, times what, run this with --page step.html and
open that file in a browser: it is a step of a network of the same kind that is small enough to walk through.  With
--sliders sliders.html there is a page where you move its weights, and see the loss, its slope, and descent.  For a
network of your own, tn.explain(model, x, t, loss) prints the step as a table, and its save_html(path) writes the page.
"""

import gallery
import numpy as np

import tinynet as tn


def forward(x, w1, b1, w2, b2):
    a = x @ w1 + b1
    h = np.maximum(a, 0)
    return a, h, h @ w2 + b2


def loss_and_gradients(x, t, w1, b1, w2, b2):
    N = len(x)
    a, h, z = forward(x, w1, b1, w2, b2)
    z = z - z.max(axis=1, keepdims=True)  # divides all exp(z) of a row alike: p stays, and no exp can overflow
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    loss = -log_p[np.arange(N), t].mean()
    dz = np.exp(log_p)
    dz[np.arange(N), t] -= 1
    dz /= N
    dh = dz @ w2.T
    da = np.where(a > 0, dh, 0)
    return loss, (x.T @ da, da.sum(axis=0), h.T @ dz, dz.sum(axis=0)), (da, dh, dz)


def check_by_small_changes(x, t, parameters, eps=1e-5):
    """What the formulas say of three numbers of each parameter, beside what a small change of them does to the loss."""
    _, gradients, _ = loss_and_gradients(x, t, *parameters)
    for name, value, gradient in zip(("w1", "b1", "w2", "b2"), parameters, gradients, strict=True):
        for index in np.argsort(-np.abs(gradient), axis=None)[:3]:  # where it is largest
            kept, losses = value.flat[index], []
            for changed in (kept + eps, kept - eps):
                value.flat[index] = changed
                losses.append(loss_and_gradients(x, t, *parameters)[0])
            value.flat[index] = kept
            slope = (losses[0] - losses[1]) / (2 * eps)
            where = ", ".join(str(axis) for axis in np.unravel_index(index, value.shape))
            print(f"dL/d{name}[{where}]  by the formulas {gradient.flat[index]:.10f}  by a small change {slope:.10f}")
            assert abs(slope - gradient.flat[index]) < 1e-7


def draw_chain(on, x, t, parameters, model):
    """What becomes of one digit x (1, 64), from left to right; below, the derivative of the loss by each number."""
    a, h, z = forward(x, *parameters)
    loss, _, (da, dh, dz) = loss_and_gradients(x, t, *parameters)
    dx = da @ parameters[0].T
    np.testing.assert_allclose(dx, tn.gradients(model, x, t, tn.softmax_cross_entropy).dx, rtol=1e-6, atol=1e-9)
    p = np.exp(z - z.max())
    p /= p.sum()
    columns = (
        (x, "x, the pixels", dx, "dx = da w1.T", (8, 8)),
        (a, "a = x w1 + b1", da, "da = dh where a > 0", (8, 4)),
        (h, "h = max(a, 0)", dh, "dh = dz w2.T", (8, 4)),
        (z, "z = h w2 + b2", dz, f"dz = p - onehot({t[0]})", (10, 1)),
        (p, "p = softmax(z)", None, "", (10, 1)),
    )
    panels = on.subplots(2, 5, width_ratios=[1.2, 1, 1, 1, 1])
    for (value, title, gradient, below, shape), both in zip(columns, panels.T, strict=True):
        for panel, array, words in zip(both, (value, gradient), (title, below), strict=True):
            panel.set_axis_off()
            if array is None:
                panel.text(0.5, 0.5, f"L = -log p[{t[0]}] = {loss:.2f}", transform=panel.transAxes, ha="center")
                continue
            most = np.abs(array).max()
            inked = words.startswith(("x", "p"))  # never negative
            colours = {"cmap": "Greys"} if inked else {"cmap": tn.plots.signed_colours(), "vmin": -most, "vmax": most}
            panel.imshow(array.reshape(shape), **colours)
            panel.set_title(words, fontsize=10)
            for digit in range(10 * (shape[1] == 1)):
                panel.text(-0.8, digit, digit, ha="right", va="center", fontsize=7)


def write_pages(options, x, t):
    """A step of small networks as pages: three images of 0, 1 and 2, of each the mean ink of its four quarters."""
    some = [np.argmax(t == digit) for digit in range(3)]
    x = x[some].reshape(3, 2, 4, 2, 4).mean(axis=(2, 4)).reshape(3, 4)
    for path, activation in ((options.page, "relu"), (options.sliders, "sigmoid")):
        if path:
            layers = [tn.Dense(3, activation=activation), tn.Dense(3)]
            model = tn.Sequential(layers, input_shape=4, seed=0, dtype="float64")
            step = tn.explain(model, x, t[some], tn.softmax_cross_entropy)
            (step.save_html if activation == "relu" else step.save_sliders_html)(path)
            print(f"saved {path}")


def main():
    options = gallery.options(__doc__, page="", sliders="")
    epochs, lr = 5 if options.quick else 30, 0.3  # an epoch shows every image once; lr, how far a step goes
    (x, t), (x_test, t_test) = tn.data.digits()
    x, x_test = x.reshape(-1, 64).astype(np.float64), x_test.reshape(-1, 64).astype(np.float64)

    model = tn.Sequential([tn.Dense(32, activation="relu"), tn.Dense(10)], input_shape=64, seed=0, dtype="float64")
    optimizer = tn.SGD(model, lr)
    parameters = [p.value.copy() for p in model.parameters()]  # the same start: small random weights
    check_by_small_changes(x[:32], t[:32], parameters)
    by_hand, by_classes, differences = [], [], []
    for epoch in range(epochs):
        for x_batch, t_batch in tn.batches(x, t, batch_size=32, seed=epoch):
            loss, gradients, _ = loss_and_gradients(x_batch, t_batch, *parameters)
            for value, gradient in zip(parameters, gradients, strict=True):
                value -= lr * gradient

            loss_of_classes, dz = tn.softmax_cross_entropy(model.forward(x_batch, training=True), t_batch)
            model.backward(dz)
            optimizer.step()

            pairs = [(loss, loss_of_classes)]
            pairs += [(mine, p.grad) for mine, p in zip(gradients, model.parameters(), strict=True)]
            pairs += [(mine, p.value) for mine, p in zip(parameters, model.parameters(), strict=True)]
            differences.append(max(np.abs(mine - theirs).max() for mine, theirs in pairs))
            assert differences[-1] < 1e-6, f"step {len(differences)}: the numbers differ by {differences[-1]}"
            by_hand.append(loss)
            by_classes.append(loss_of_classes)
        steps = len(by_hand) // (epoch + 1)
        means = f"by hand {np.mean(by_hand[-steps:]):.15f}  by the classes {np.mean(by_classes[-steps:]):.15f}"
        print(f"epoch {epoch + 1:2}  mean loss {means}")
    accuracy = (forward(x_test, *parameters)[2].argmax(axis=1) == t_test).mean()
    print(f"{len(differences)} steps; no loss, gradient or parameter ever differed by more than {max(differences):.1e}")
    print(f"{accuracy:.1%} of {len(t_test)} digits that it never saw are read rightly")
    assert accuracy > (0.85 if options.quick else 0.94)

    write_pages(options, x, t)

    figure = tn.plots.figure(10.5, 8.4)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1])
    curves, images = upper.subfigures(1, 2, width_ratios=[1.2, 1])
    top, bottom = curves.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    epoch_ends = np.arange(1, epochs + 1)
    for losses, name, style, colour in (
        (by_hand, "by hand", "o", tn.plots.ORANGE),
        (by_classes, "by the classes", "-", tn.plots.BLUE),
    ):
        top.semilogy(epoch_ends, np.reshape(losses, (epochs, -1)).mean(axis=1), style, color=colour, label=name)
    top.legend(frameon=False)
    bottom.semilogy(np.arange(1, len(differences) + 1) * epochs / len(differences), differences, color=tn.plots.GREY)
    gallery.plain(top, title="The same numbers, apart from rounding", ylabel="mean loss of the epoch")
    gallery.plain(bottom, xlabel="epoch", ylabel="largest\ndifference", ylim=(1e-17, 1e-5))
    images.suptitle("Weights w1 of 16 hidden numbers\norange: ink adds to a    blue: ink subtracts", size=11)
    strongest = np.argsort(-np.linalg.norm(parameters[0], axis=0))[:16]
    panels = images.subplots(4, 4)
    for panel, weights in zip(panels.ravel(), parameters[0].T[strongest], strict=True):
        image = panel.imshow(weights.reshape(8, 8), cmap=tn.plots.signed_colours(), vmin=-1.2, vmax=1.2)
        panel.set_axis_off()
    images.colorbar(image, ax=panels, label="weight", extend="both")
    p = tn.softmax(model.predict(x_test))[np.arange(len(t_test)), t_test]
    k = np.abs(p - 0.3).argmin()
    lower.suptitle(
        f"The chain for one {t_test[k]}: its numbers, forward, and below them dL by each, backward\n"
        "blue: negative    orange: positive    (each array with a scale of its own)",
        size=11,
    )
    draw_chain(lower, x_test[k : k + 1], t_test[k : k + 1], parameters, model)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
