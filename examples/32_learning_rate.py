"""How a learning rate is found: let it grow while training, and look where the loss falls and where it breaks out.

    python examples/32_learning_rate.py          reads MNIST (example 08 says from where)

The learning rate decides more than most other choices, and there is no formula for it: too small, and nothing is learnt
in the time that there is; too large, and each step leaps over the valley, higher up the other side.  The largest that
still works depends on the network, the data, the batch size and the optimizer.  To try ten of them takes ten trainings.
The range test (Smith 2017) takes part of one:

    lr of step k = low (high / low)^(k / K)          from 0.00001 to 10 in K = 300 steps, each some 5 % above the last

and after each step the loss of its batch is noted.  That is what a callback with a method `step` is for: fit calls it
after every step, and it finds there training.optimizer.lr and training.loss.  The loss of a batch depends on the batch,
so what is drawn is its running mean, and that tells three things: below some lr nothing happens; then the loss falls;
and at last it climbs.  The usual choice is a tenth of the lr where the mean is lowest: there the loss falls fast, and
the cliff is far.

Is it a good one?  Below the curve is what it stands for: for each of several learning rates a training of its own, of
300 steps too, with a constant lr, judged by the loss of test images.  The network is 784 - 64 - 10 with ReLU; the
upper pair is SGD with momentum 0.9, the lower one Adam.  For SGD the test says 0.035, and of those tried 0.1 is best;
for Adam it says 0.0046, and 0.01 is best.  Both are within a factor of three of the best, on the safe side.
"""

import gallery
import numpy as np

import tinynet as tn

LOW, HIGH, BATCH = 1e-5, 10.0, 64
OPTIMIZERS = {
    "SGD, momentum 0.9": lambda model, lr: tn.SGD(model, lr, momentum=0.9),
    "Adam": lambda model, lr: tn.Adam(model, lr),
}


class Noting:
    """A callback: which learning rates there were, and the loss of each batch."""

    def __init__(self):
        self.rates, self.losses = [], []

    def step(self, training):
        self.rates.append(training.optimizer.lr)
        self.losses.append(training.loss)

    def __call__(self, training):  # after an epoch, there is nothing to do
        pass


def train(make, lr, x, y, schedule=None, callbacks=()):
    """One epoch; returns the model, or None where its loss stopped being a number."""
    layers = [tn.Flatten(), tn.Dense(64, activation="relu"), tn.Dense(10)]
    model = tn.Sequential(layers, input_shape=(28, 28, 1), seed=0)
    try:
        tn.fit(
            model,
            x,
            y,
            loss="softmax_cross_entropy",
            optimizer=make(model, lr),
            epochs=1,
            batch_size=BATCH,
            schedule=schedule,
            callbacks=callbacks,
            progress=False,
        )
    except tn.NonFiniteError:
        return None
    return model


def running_mean(losses, keep=0.95):
    """Of the losses so far, the mean in which each one counts `keep` times as much as the next."""
    sums, weights, means = 0.0, 0.0, []
    for loss in losses:
        sums, weights = keep * sums + loss, keep * weights + 1
        means.append(sums / weights)
    return np.array(means)


def range_test(make, x, y):
    """The learning rates, the running mean of the loss at each, and a tenth of the rate where that is lowest."""
    noting, steps = Noting(), -(-len(x) // BATCH)
    train(make, LOW, x, y, lambda step: LOW * (HIGH / LOW) ** (step / steps), [noting])
    rates, means = np.array(noting.rates), running_mean(noting.losses)
    return rates, means, rates[means.argmin()] / 10


def main():
    options = gallery.options(__doc__)
    (x, y), (x_test, y_test) = tn.data.mnist()
    count = BATCH * (60 if options.quick else 300)
    x, y = x[:count], y[:count]

    figure = tn.plots.figure(11, 6.4)
    panels = figure.subplots(2, 2, sharex=True)
    tried = 10.0 ** np.arange(-5, 1.1, 1 if options.quick else 0.5)
    chosen = {}
    for (upper, lower), (name, make) in zip(panels.T, OPTIMIZERS.items(), strict=True):
        rates, means, lr = range_test(make, x, y)
        chosen[name] = lr
        models = {rate: train(make, rate, x, y) for rate in [lr, *tried]}
        losses = {
            rate: np.inf if model is None else tn.softmax_cross_entropy(model.predict(x_test), y_test, grad=False)[0]
            for rate, model in models.items()
        }
        best = min(tried, key=losses.get)
        print(
            f"{name}: lowest at {10 * lr:.2g}, so lr = {lr:.2g}, with a loss of {losses[lr]:.3f} in the end", end="; "
        )
        print(f"of those tried, {best:.2g} is best with {losses[best]:.3f}")
        print("   " + "  ".join(f"{rate:.0e}: {losses[rate]:.3f}" for rate in tried))

        if not options.quick:
            assert losses[lr] < 2 * losses[best], "the choice is nearly as good as the best"
            assert best / 10 < lr <= best, "and on the careful side"
            assert losses[tried[-1]] > 4 * losses[lr], "where the curve has climbed, trainings fail"
            assert losses[tried[0]] > 4 * losses[lr], "and where it has not begun to fall, there is not the time"

        upper.semilogx(rates, means, color=tn.plots.BLUE, lw=2)
        lower.semilogx(tried, [min(losses[rate], 1e3) for rate in tried], "o-", color=tn.plots.GREEN, ms=4)
        lower.plot(lr, losses[lr], "o", color=tn.plots.RED, ms=8, label="chosen")
        for panel in (upper, lower):
            panel.axvline(lr, color=tn.plots.RED, ls="--", lw=1)
        gallery.plain(upper, name, ylabel="loss while lr grows\n(running mean)", ylim=(0, 3.5))
        gallery.plain(
            lower, "", xlabel="learning rate", ylabel="test loss after a training\nwith one lr", ylim=(0, 3.5)
        )
        lower.legend(frameon=False)
    assert chosen["Adam"] < chosen["SGD, momentum 0.9"] / 2, "each optimizer has a learning rate of its own"
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
