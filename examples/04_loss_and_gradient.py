"""Which mistakes does a loss punish, and how hard does it pull?  Loss and gradient against the predicted probability.

    python examples/04_loss_and_gradient.py

A network answers a yes-or-no question with one number, the logit z, and p = 1 / (1 + exp(-z)) is the probability that
it gives to "yes".  Suppose that yes is true.  A loss says how bad that p is.  Its derivative with respect to z, the
gradient, says how hard training pushes z: gradient descent moves z against it, so what is negative here pushes z up, to
where it belongs.  Four losses:

    cross-entropy    L = -log p                 dL/dz = p - 1
    squared error    L = (1 - p)^2              dL/dz = -2 (1 - p) p (1 - p)
    focal            L = -(1 - p)^2 log p       dL/dz = (1 - p)^2 (2 p log p + p - 1)
    hinge            L = max(0, 1 - z)          dL/dz = -1 where z < 1, else 0

By the chain rule each of the first three is dL/dp times dp/dz, and dp/dz = p (1 - p), the slope of the sigmoid (example
03), which is nearly 0 where the network is sure of anything, be it right or wrong.  The cross-entropy's dL/dp = -1 / p
grows just fast enough to make up for that: -1/p times p (1 - p) is p - 1.  Nothing of it is lost: confident and wrong
is where it pulls hardest.  The squared error's dL/dp = -2 (1 - p) is never beyond -2, and the slope wins: the product
-2 (1 - p)^2 p is strongest at p = 1/3, and confident and wrong is where it gives up.

The focal loss (Lin et al. 2017) is the cross-entropy times (1 - p)^gamma, here with gamma = 2.  By the product rule,
dL/dp = 2 (1 - p) log p - (1 - p)^2 / p; times p (1 - p), that is the gradient above.  It lets go sooner of what is
nearly right, so that many easy questions can't outvote a few hard ones, and below p = 0.3 it even pulls a little harder
than the cross-entropy.  The hinge loss (Cortes and Vapnik 1995) knows no probabilities, only the score z; it pulls with
full force until z is 1, where p is 0.73, and then not at all.
"""

import gallery
import numpy as np

import tinynet as tn


def main():
    options = gallery.options(__doc__)
    # From 1 to 99 of 100, evenly in p, and further out than that at both ends; z follows from p.
    end = np.geomspace(1e-6, 0.01, 41)
    p = np.concatenate([end, np.linspace(0.01, 0.99, 491)[1:-1], 1 - end[::-1]])
    z, yes = np.log(p / (1 - p)), np.ones_like(p)
    slope = p * (1 - p)

    # tinynet's own losses give the value and the gradient, with "none" one number for each p, not their mean.  The
    # squared error is of p, not of z: its gradient passes through the sigmoid, as in a network that ends in one.
    squared, squared_gradient = tn.mean_squared_error(p, yes, reduction="none")
    curves = {
        "cross-entropy": tn.sigmoid_cross_entropy(z, yes, reduction="none"),
        "squared error": (squared, squared_gradient * slope),
        # Its alpha would weigh yes and no differently.
        "focal, gamma 2": tn.sigmoid_focal(z, yes, gamma=2.0, alpha=None, reduction="none"),
        "hinge": tn.hinge(z, yes, reduction="none"),
    }
    formulas = {
        "cross-entropy": p - 1,
        "squared error": -2 * (1 - p) * slope,
        "focal, gamma 2": (1 - p) ** 2 * (2 * p * np.log(p) + p - 1),
        "hinge": np.where(z < 1, -1.0, 0.0),
    }
    for what, k in (("loss", 0), ("gradient", 1)):
        print(f"{what:>16} " + "".join(f"{name:>16}" for name in curves))
        for probability in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99):
            at = np.abs(p - probability).argmin()
            print(f"{f'p = {p[at]:.3f}':>16} " + "".join(f"{curve[k][at] + 0.0:16.6f}" for curve in curves.values()))
    for name, (_, gradient) in curves.items():
        assert np.abs(gradient - formulas[name]).max() < 1e-12, (
            f"{name}: the formula above is not what tinynet computes"
        )
    of_p = tn.binary_cross_entropy(p, yes, reduction="none")[1]  # dL/dp = -1 / p
    assert np.abs(of_p * slope - curves["cross-entropy"][1]).max() < 1e-12, "the chain rule holds"
    hardest = {name: p[np.abs(gradient).argmax()] for name, (_, gradient) in curves.items()}
    assert hardest["cross-entropy"] == p[0], "confident and wrong is where cross-entropy pulls hardest"
    assert abs(hardest["squared error"] - 1 / 3) < 0.002, "the squared error pulls hardest at p = 1/3"
    crossing = p[(curves["focal, gamma 2"][1] < curves["cross-entropy"][1]) & (p < 0.9)].max()
    print(f"the focal loss pulls harder than cross-entropy up to p = {crossing:.3f}")
    assert 0.29 < crossing < 0.3
    given_up = curves["cross-entropy"][1][0] / curves["squared error"][1][0]
    print(f"at p = {p[0]:.0e} cross-entropy pulls {given_up:,.0f} times as hard as the squared error")

    figure = tn.plots.figure(11, 4.4)
    left, right = figure.subplots(1, 2)
    colours = tn.plots.BLUE, tn.plots.ORANGE, tn.plots.GREEN, tn.plots.PURPLE
    for (name, (loss, gradient)), colour in zip(curves.items(), colours, strict=True):
        width = 2.6 if name == "cross-entropy" else 1.6
        left.plot(p, loss, color=colour, lw=width, label=name)
        right.plot(p, gradient, color=colour, lw=width, label=name)
    gallery.plain(left, "Loss: how bad is it?", ylabel="loss", ylim=(0, 5))
    gallery.plain(right, "Gradient: which way is z pushed, and how hard?", ylabel="dL/dz  (below 0: z is pushed up)")
    right.set(ylim=(-1.3, 0.1))
    ends = "sure, and wrong" + 22 * " " + "unsure" + 22 * " " + "sure, and right"
    for panel in (left, right):
        panel.set(xlim=(0, 1), xlabel=f"p, the probability given to what is true\n{ends}")
    left.legend(frameon=False)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
