"""Right, but hesitant: what the loss still asks of a prediction that is already correct.

    python examples/07_softmax_uncertainty.py

A classifier of ten digits gives ten logits z, and softmax makes probabilities of them:

    p[c] = exp(z[c]) / sum_k exp(z[k])             z (10,)   p (10,), positive, 1 in total
    L    = -log p[t] = log sum_k exp(z[k]) - z[t]          t the true digit

Whether the answer is right depends only on which logit is the largest.  The loss wants more: with p[t] = 0.9 it is
0.105, and with p[t] = 0.6 it is 0.511, five times as much, though both answers are right.

The gradient.  The derivative of log sum_k exp(z[k]) with respect to z[c] is exp(z[c]) / sum_k exp(z[k]) = p[c], and
that of z[t] is 1 for c = t and 0 for the others.  So

    dL/dz[c] = p[c] - onehot(t)[c]                 onehot(t) (10,), 1 at t and 0 elsewhere

Each wrong digit's logit is pushed down by just the probability that it took, and the true digit's is pushed up by what
it lacks, 1 - p[t].  The ten pushes sum to zero, since the probabilities sum to 1: sum_c p[c] - 1 = 0.  It must be so:
a number added to all logits multiplies all exp(z[c]) alike, which changes no probability, so the loss doesn't move when
all logits move together.  A hesitant prediction is still pushed, away from its rivals; a sure one is left
alone; a wrong and sure one gets the largest push there is, nearly 1 down and nearly 1 up.

Here are all three kinds, from a network that was trained on 1,437 digits and has not seen these.  "Sure" of a right
answer means p[t] >= 0.9.
"""

import gallery
import numpy as np

import tinynet as tn


def main():
    options = gallery.options(__doc__)
    (x_train, y_train), (x, t) = tn.data.digits()
    model = tn.Sequential([tn.Flatten(), tn.Dense(32, activation="relu"), tn.Dense(10)], input_shape=(8, 8, 1), seed=0)
    optimizer = tn.Adam(model, lr=3e-3)  # gradient descent with a step size for each parameter (Kingma and Ba 2015)
    epochs = 5 if options.quick else 25
    tn.fit(model, x_train, y_train, loss="softmax_cross_entropy", optimizer=optimizer, epochs=epochs, progress=False)

    z = model.predict(x).astype(np.float64)
    losses, gradients = tn.softmax_cross_entropy(z, t, reduction="none")  # of each digit, not their mean
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    true = p[np.arange(len(t)), t]
    assert np.abs(losses + np.log(true)).max() < 1e-9, "the loss is -log p[t]"
    assert np.abs(gradients - (p - np.eye(10)[t])).max() < 1e-12, "the gradient is p - onehot(t)"
    assert np.abs(gradients.sum(axis=1)).max() < 1e-12, "the pushes cancel"

    right = p.argmax(axis=1) == t
    kinds = {"right and sure": right & (true >= 0.9), "right but hesitant": right & (true < 0.9), "wrong": ~right}
    print(f"{'':20}{'digits':>8}{'mean p[t]':>11}{'mean loss':>11}{'share of the loss':>19}")
    for name, which in kinds.items():
        share = losses[which].sum() / losses.sum()
        print(f"{name:20}{which.sum():8}{true[which].mean():11.3f}{losses[which].mean():11.3f}{share:19.1%}")
    assert right.mean() > 0.85
    ratio = losses[kinds["right but hesitant"]].mean() / losses[kinds["right and sure"]].mean()
    assert ratio > 4, "being right is not enough: hesitation costs"

    sure = np.where(right, np.abs(true - 0.99), 1).argmin()  # not the surest one: its pushes would be too small to see
    most_hesitant = np.where(right, true, 1).argmin()
    most_wrong = np.where(right, 0, p.max(axis=1)).argmax()
    figure = tn.plots.figure(11.5, 6)
    rows = figure.subplots(3, 3, width_ratios=[0.7, 2, 2])
    for row, n, name in zip(rows, (sure, most_hesitant, most_wrong), ("sure", "hesitant", "sure"), strict=True):
        name = f"{'right' if right[n] else 'wrong'}, {name}"
        rival = np.delete(gradients[n], t[n]).max()
        print(f"{name}: true digit {t[n]}, read as {p[n].argmax()}, p[t] {true[n]:.4f}, loss {losses[n]:.4f}", end=", ")
        print(f"gradient {gradients[n, t[n]]:+.4f} for the true logit and {rival:+.4f} for its strongest rival")
        image, probabilities, pushes = row
        image.imshow(x[n, :, :, 0], cmap="Greys", vmin=0, vmax=1)
        image.set(xticks=[], yticks=[], ylabel=name)
        colours = np.where(np.arange(10) == t[n], tn.plots.ORANGE, tn.plots.BLUE)  # pushed up, pushed down
        probabilities.bar(range(10), p[n], color=colours)
        pushes.bar(range(10), -gradients[n], color=colours)
        pushes.axhline(0, color=tn.plots.GREY, lw=0.8)
        gallery.plain(image, f"true {t[n]}, read as {p[n].argmax()}")
        title = f"p:  loss = -log {true[n]:.4f} = {losses[n]:.4f}"
        gallery.plain(probabilities, title, ylabel="probability", ylim=(0, 1.02), xticks=range(10))
        title = "push on each logit:  -dL/dz = onehot(t) - p"
        gallery.plain(pushes, title, ylabel="push", ylim=(-1.05, 1.05), xticks=range(10))
        image.grid(False)
    for panel in rows[-1, 1:]:
        panel.set_xlabel("digit (orange: the true one)")
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
