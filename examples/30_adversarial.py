"""What makes a network change its mind, and what it looked at: the gradient of the image, instead of the weights.

    python examples/30_adversarial.py

Training asks how the loss L changes with the weights w, and walks down.  The same backward pass also gives dL/dx, how L
changes with each pixel of the image x.  Walk up along that, with the weights as they are, and the network gets worse at
this image.

Adversarial images.  Let every pixel change by eps at most.  To first order, L changes by sum_i dx[i] dL/dx[i], which is
largest where every pixel uses all that it may, in the direction that its own gradient points:

    x' = x + eps sign(dL/dx)            the fast gradient sign method, FGSM (Goodfellow et al. 2015)

Each of the 64 pixels of a digit adds eps |dL/dx[i]|.  Noise of the same size is right about the sign half the time, so
its parts cancel: the network that is not troubled by noise is fooled by a change that is no larger.

The cure of the same paper: train on such images.  Every batch is attacked as the network is now, and the network learns
the right labels for what fools it.

Integrated gradients.  Which pixels made the network say 3?  The gradient of the score of 3 says what a small change of
a pixel would do, which is nothing where the score is flat, however much the pixel did to get there.  So go the whole
way from a blank image b to x in a straight line, and add up what each pixel does on it (Sundararajan et al. 2017):

    A[i] = (x[i] - b[i]) times the mean of dscore/dx[i] at b + s (x - b), s from 0 to 1

By the chain rule, the A[i] of all pixels add up to score(x) - score(b): every bit of the score is some pixel's.  Pixels
that are as in b get none.  The mean is taken over 50 steps, at the middle of each.
"""

import gallery
import numpy as np

import tinynet as tn

EPS = 0.2  # pixels are from 0 to 1


def fgsm(model, x, t, eps):
    """Images that differ from x by at most eps in each pixel, and that the model takes for something else if it can."""
    return np.clip(x + eps * np.sign(tn.gradients(model, x, t, "cross_entropy").dx), 0, 1)


def noisy(x, eps, rng):
    """Images that differ as much, by chance."""
    return np.clip(x + eps * rng.choice([-1, 1], x.shape), 0, 1).astype(x.dtype)


def integrated_gradients(model, x, t, steps=50):
    """What each pixel of each image adds to the score of class t, against a blank image."""
    mean = sum(tn.gradients(model, x * ((k + 0.5) / steps), t).dx for k in range(steps)) / steps
    return x * mean


def trained(x, t, epochs, attacked=False):
    model = tn.Sequential(
        [
            tn.Conv2D(16, 3, padding="same", activation="relu"),
            tn.Conv2D(16, 3, padding="same", activation="relu"),
            tn.MaxPool2D(2),
            tn.Flatten(),
            tn.Dense(64, activation="relu"),
            tn.Dense(10),
        ],
        input_shape=(8, 8, 1),
        seed=0,
    )

    def attack(x, t, rng):
        return fgsm(model, x, t, EPS), t

    tn.fit(
        model, x, t, loss="cross_entropy", optimizer=tn.Adam(model, lr=2e-3), epochs=epochs, progress=False,
        augment=attack if attacked else None,
    )  # fmt: skip
    return model


def right_without(model, x, t, order, count):
    """The share of images still right once the `count` pixels that come first in `order` are blank."""
    blank = x.reshape(len(x), -1).copy()
    np.put_along_axis(blank, order[:, :count], 0, axis=1)
    return tn.accuracy(model.predict(blank.reshape(x.shape)), t)


def main():
    options = gallery.options(__doc__)
    (x_train, t_train), (x, t) = tn.data.digits()
    epochs, rng = 8 if options.quick else 30, np.random.default_rng(0)
    plain, hardened = trained(x_train, t_train, epochs), trained(x_train, t_train, epochs, attacked=True)

    sizes = np.array([0, 0.05, 0.1, 0.15, 0.2, 0.3])
    curves = {
        "noise": [tn.accuracy(plain.predict(noisy(x, eps, rng)), t) for eps in sizes],
        "attacked": [tn.accuracy(plain.predict(fgsm(plain, x, t, eps)), t) for eps in sizes],
        "attacked, trained on attacks": [tn.accuracy(hardened.predict(fgsm(hardened, x, t, eps)), t) for eps in sizes],
    }
    print(f"the share of {len(t)} digits that is right, if pixels change by at most")
    print(f"{'':30}" + "".join(f"{eps:8.2f}" for eps in sizes))
    for name, curve in curves.items():
        print(f"{name:30}" + "".join(f"{share:8.3f}" for share in curve))

    right = plain.predict(x).argmax(axis=1) == t
    parts = integrated_gradients(plain, x, t)
    score, blank = (plain.predict(images)[np.arange(len(x)), t] for images in (x, np.zeros_like(x)))
    missing = np.abs(parts.sum(axis=(1, 2, 3)) - (score - blank)) / np.abs(score - blank)
    print(f"the parts of all pixels add up to the score, but for {100 * np.median(missing):.2f} %")
    orders = {
        "the largest parts": np.argsort(-parts.reshape(len(x), -1), axis=1),
        "any inked": np.argsort(-1.0 * (x > 0).reshape(len(x), -1) - rng.random((len(x), 64)), axis=1),
    }
    counts = range(0, 13, 2)
    left = {
        name: [right_without(plain, x[right], t[right], order[right], n) for n in counts]
        for name, order in orders.items()
    }
    for name, curve in left.items():
        print(f"still right without 8 pixels, {name}: {curve[4]:.3f}")

    at = list(sizes).index(EPS)
    assert curves["noise"][at] > curves["attacked"][at] + 0.3
    assert curves["attacked, trained on attacks"][at] > curves["attacked"][at] + 0.3
    assert np.median(missing) < 0.01
    assert left["the largest parts"][4] < left["any inked"][4] - 0.1
    draw(options, plain, x, t, right, parts, sizes, curves, counts, left)


def draw(options, model, x, t, right, parts, sizes, curves, counts, left):
    changed = fgsm(model, x, t, EPS)
    answers = model.predict(changed).argmax(axis=1)
    shown = [int(np.flatnonzero(right & (answers != t) & (t == digit))[0]) for digit in (0, 3, 4, 8)]
    figure = tn.plots.figure(11, 6.2)
    above, below = figure.subfigures(1, 2, width_ratios=[1.15, 1])
    panels = above.subplots(4, 4)
    titles = ["image", "change\norange: more ink", "changed", "what made it its class\norange: for it"]
    for row, n in zip(panels, shown, strict=True):
        limit = np.abs(parts[n]).max()
        pictures = [
            (x[n], {"cmap": "Greys", "vmin": 0, "vmax": 1}),
            (changed[n] - x[n], {"cmap": tn.plots.signed_colours(), "vmin": -EPS, "vmax": EPS}),
            (changed[n], {"cmap": "Greys", "vmin": 0, "vmax": 1}),
            (parts[n], {"cmap": tn.plots.signed_colours(), "vmin": -limit, "vmax": limit}),
        ]
        for panel, (picture, look) in zip(row, pictures, strict=True):
            panel.imshow(picture[..., 0], **look)
            panel.set(xticks=[], yticks=[])
        row[0].set_xlabel(f"read as {t[n]}", fontsize=9)
        row[2].set_xlabel(f"read as {answers[n]}", fontsize=9)
    for panel, title in zip(panels[0], titles, strict=True):
        panel.set_title(title, fontsize=10)
    first, second = below.subplots(2, 1)
    for (name, curve), colour in zip(curves.items(), (tn.plots.GREY, tn.plots.RED, tn.plots.BLUE), strict=True):
        first.plot(sizes, curve, "o-", ms=4, color=colour, label=name)
    gallery.plain(
        first, "Each pixel changed by at most eps", xlabel="eps", ylabel="share that is right", ylim=(0, 1.03)
    )
    first.legend(frameon=False, fontsize=9)
    for (name, curve), colour in zip(left.items(), (tn.plots.RED, tn.plots.GREY), strict=True):
        second.plot(counts, curve, "o-", ms=4, color=colour, label=name)
    gallery.plain(second, "Pixels made blank", xlabel="how many", ylabel="share that is still right", ylim=(0, 1.03))
    second.legend(frameon=False, fontsize=9)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
