"""Wrong labels in the training data: which loss learns them by heart, and which leaves them aside?

    python examples/11_noisy_labels.py

People who label images make mistakes.  Here a known share of the 1,437 training digits gets a wrong label, drawn evenly
from the other nine; the 360 test digits keep their true ones.  A network with 512 hidden numbers has room enough to
learn every label by heart, the wrong ones too.  Four losses, for p = softmax(z), the probabilities (10,) of a digit
with the label t, and what each pulls the label's logit with:

    cross-entropy         -log p[t]                                     dL/dz[t] = -(1 - p[t])
    label smoothing       cross-entropy against 0.9 onehot(t) + 0.01    dL/dz[t] = -(0.91 - p[t])
    focal loss            -(1 - p[t])^2 log p[t]                        gives way where p[t] is large
    mean absolute error   1/10 sum_c |p[c] - onehot(t)[c]|              dL/dz[t] = -0.2 p[t] (1 - p[t])
                          = 0.2 (1 - p[t])

A label that the network finds hard to believe, p[t] near 0, is either a difficult digit or a mistake.  Cross-entropy
pulls hardest there, and the focal loss (Lin et al. 2017) does hardly anything else: both are bound to learn the
mistakes in the end.  The mean absolute error lets go of what it can't believe.

Why that is enough (Ghosh, Kumar and Sastry 2017).  Over all C labels that a digit could get, this loss has the same
sum: sum_t 2/C (1 - p[t]) = 2 (C - 1) / C, whatever p is.  With a share r of wrong labels, a digit whose true label is t
has the expected loss

    (1 - r) L[t] + r / (C - 1) (sum_k L[k] - L[t])  =  (1 - r C / (C - 1)) L[t] + constant

So as long as r < (C - 1) / C, here 0.9, what is best for the noisy labels is best for the true ones.  No such sum is
constant for the other three.  The price: at first, p[t] is 1/10 or less for most digits, the pull is small, and
training starts slowly.  With hundreds of classes it may not start at all (Zhang and Sabuncu 2018).

Label smoothing and the focal loss are recommended for many ills, and sometimes for this one.  Here they end where
cross-entropy does.  What helps that, too, is to stop early: the true labels, which agree with each other, are learnt
first (middle panel).
"""

from functools import partial

import gallery
import numpy as np

import tinynet as tn


def absolute_error(p, t):
    return tn.mean_absolute_error(p, np.eye(10, dtype=p.dtype)[t])


LOSSES = {
    "cross-entropy": (tn.softmax_cross_entropy, tn.plots.BLUE),
    "label smoothing": (partial(tn.softmax_cross_entropy, label_smoothing=0.1), tn.plots.GREEN),
    "focal loss": (tn.softmax_focal, tn.plots.ORANGE),
    "mean absolute error": (absolute_error, tn.plots.PURPLE),
}


def mislabelled(t, share, rng):
    """The labels, of which this share is wrong."""
    t, chosen = t.copy(), rng.permutation(len(t))[: round(share * len(t))]
    t[chosen] = (t[chosen] + rng.integers(1, 10, len(chosen))) % 10
    return t


def train(name, x, noisy, test, epochs, seed):
    """The network, and its test accuracy after every epoch."""
    layers = [tn.Flatten(), tn.Dense(512, activation="relu"), tn.Dense(10)]
    if name == "mean absolute error":
        layers.append(tn.Softmax())  # this loss takes probabilities, the others take logits
    model = tn.Sequential(layers, input_shape=(8, 8, 1), seed=seed)
    history = tn.fit(
        model,
        x,
        noisy,
        loss=LOSSES[name][0],
        optimizer=tn.Adam(model, lr=3e-3),
        epochs=epochs,
        validation=test,
        metrics="accuracy",
        seed=seed,
        progress=False,
    )
    return model, history["val_accuracy"]


def pull(name, probability):
    """-dL/dz[t] of one sample whose label has this probability, the other nine being alike."""
    z = np.zeros((1, 10))
    z[0, 0] = np.log(9 * probability / (1 - probability))
    if name != "mean absolute error":
        return -LOSSES[name][0](z, [0])[1][0, 0]
    model = tn.Sequential([tn.Softmax()], input_shape=10, dtype="float64")
    return -model.backward(absolute_error(model.forward(z, training=True), [0])[1], input_grad=True)[0, 0]


def main():
    options = gallery.options(__doc__)
    (x, t), test = tn.data.digits()
    epochs, seeds, shares = (40, 1, (0, 0.4)) if options.quick else (60, 3, (0, 0.2, 0.4, 0.6))

    p = np.random.default_rng(0).dirichlet(np.ones(10))
    total = sum(absolute_error(p[None], [label])[0] for label in range(10))
    assert abs(total - 2 * 9 / 10) < 1e-12, "whatever p is, the ten labels' absolute errors have one sum"

    curves = {}  # of test accuracy: (seeds, epochs)
    print(f"test accuracy after {epochs} epochs, mean of {seeds} (and in the best epoch; and wrong labels learnt)")
    print(f"{'':22}" + "".join(f"{f'{share:.0%} wrong':>26}" for share in shares))
    for name in LOSSES:
        line = f"{name:22}"
        for share in shares:
            found, learnt = [], []
            for seed in range(seeds):
                noisy = mislabelled(t, share, np.random.default_rng(seed))
                model, accuracy = train(name, x, noisy, test, epochs, seed)
                found.append(accuracy)
                learnt.append((model.predict(x).argmax(axis=1) == noisy)[noisy != t].mean() if share else np.nan)
            curves[name, share] = found = np.array(found)
            by_heart = f"{np.mean(learnt):.0%}" if share else "-"
            line += f"{f'{found[:, -1].mean():.3f} ({found.mean(axis=0).max():.3f}; {by_heart})':>26}"
        print(line)

    plain, smooth, focal, absolute = ({s: curves[name, s][:, -1].mean() for s in shares} for name in LOSSES)
    assert absolute[0] > plain[0] - 0.02, "without wrong labels it costs next to nothing"
    for share in shares[1:]:
        others = max(plain[share], smooth[share], focal[share])
        assert absolute[share] > others + 0.04, "the mean absolute error helps"
        assert smooth[share] < plain[share] + 0.06, "label smoothing is no cure"
        assert focal[share] < plain[share] + 0.03, "nor is the focal loss"
    early = curves["cross-entropy", 0.4].mean(axis=0)
    assert early.max() > early[-1] + 0.1, "cross-entropy was better before it learnt the wrong labels"
    of_chance = 0.02 if options.quick else 0  # seven test digits, where a single network is drawn
    assert absolute[0.4] > early.max() - of_chance, "and never as good"

    figure = tn.plots.figure(13, 4.4)
    left, middle, right = figure.subplots(1, 3)
    pulls = np.linspace(0.005, 0.995, 100)
    for name, (_, colour) in LOSSES.items():
        ends = np.array([curves[name, share][:, -1] for share in shares])
        left.plot(shares, ends.mean(axis=1), color=colour, lw=2, label=name)
        left.plot(shares, ends, ".", color=colour, ms=7)
        middle.plot(range(1, epochs + 1), curves[name, 0.4].mean(axis=0), color=colour, lw=2)
        strength = np.array([pull(name, probability) for probability in pulls])
        right.plot(pulls, strength / strength.max(), color=colour, lw=2)
    left.legend(frameon=False, loc="lower left")
    left.xaxis.set_major_formatter("{x:.0%}")
    left.set_xticks(shares)
    title = f"Test accuracy after {epochs} epochs"
    gallery.plain(left, title, xlabel="wrong training labels", ylabel="test accuracy", ylim=(0.3, 1))
    gallery.plain(middle, "On the way there, with 40 % wrong", xlabel="epoch", ylabel="test accuracy", ylim=(0.3, 1))
    gallery.plain(right, "How hard a sample pulls at its label's logit", ylabel="-dL/dz[t], the most being 1")
    right.set(xlabel="p[t], how far the network believes the label")
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
