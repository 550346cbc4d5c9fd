"""Exercises after example 08, a convolutional network: five gaps.  Fill them, and run this file.

    python examples/exercises/convnet.py

They need a pencil more than a keyboard: what size, what it sees, which loss it begins and ends with, and whom to
believe.  The answers, with their derivations, are in convnet_answers.py.
"""

import numpy as np
from tasks import call, gap, run, same

import tinynet as tn


def after_convolution(H, W, C, K, I, s, padding):
    """1.  Images of H x W pixels and C channels, with `padding` rows or columns of zeros on each of the four sides,
    meet K filters of I x I pixels, which move s pixels at a time, and a bias for each filter.  Return four whole
    numbers: rows, columns and channels of the output, and how many parameters the layer has.
    """
    gap()


def pixels_seen(layers):
    """2.  How many pixels wide is the piece of the image that one number of the last layer sees?  layers is a list of
    (I, s), first to last: windows of I x I, of filters or of pooling, s apart.  (Begin at the end: one number sees I
    numbers of the layer before.  How many numbers do n windows cover that are I wide, each s beside the last one?)
    """
    gap()


def lowest_loss(C):
    """3.  A network for C classes ends in a softmax by mistake, and the softmax cross-entropy takes its probabilities
    for logits.  The first loss looks right, about log C.  But how low can the loss of a sample get at best?
    """
    gap()


def learn_by_heart(images, t):
    """4.  The test of any new network: can it learn twenty digits by heart?  images (20, 8, 8, 1) have the numbers 0 to
    255, t (20,) are the digits.  This one can't.  There are two mistakes, and the one hides the other: mend both, so
    that the losses begin at about log 10 and end near 0.
    """
    layers = [tn.Conv2D(8, 3, activation="relu"), tn.MaxPool2D(2), tn.Flatten(), tn.Dense(10)]
    model = tn.Sequential(layers, input_shape=(8, 8, 1), seed=0)
    optimizer = tn.Adam(model, lr=0.01)
    losses = []
    for _ in range(150):
        p = tn.softmax(model.forward(images, training=True))
        loss, dz = tn.softmax_cross_entropy(p, t)
        model.backward(dz)
        optimizer.step()
        losses.append(loss)
    return losses


def to_report(validation, test):
    """5.  Of M networks, validation (M,) and test (M,) are the shares of digits that each reads rightly.  Return which
    one to take, a whole number, and the share that may honestly be said of it.  This here flatters it: mend it.
    """
    best = test.argmax()
    return best, test[best]


def tasks(written):
    """What is asserted of the functions of these names."""

    def sizes():
        for H, W, C, K, I, s, padding in ((28, 28, 1, 16, 5, 1, 0), (8, 7, 16, 32, 3, 2, 1), (9, 12, 3, 4, 4, 3, 2)):
            model = tn.Sequential([tn.Conv2D(K, I, stride=s, padding=padding)], input_shape=(H, W, C))
            weights, biases = (parameter.value.size for parameter in model.parameters())
            what = f"for H, W, C, K, I, s, padding = {H}, {W}, {C}, {K}, {I}, {s}, {padding}, the number of"
            found = call(written["after_convolution"], H, W, C, K, I, s, padding, results=4)
            why = "how often can the window move by s, before its last pixel leaves the image and its padding?"
            for name, number, right in zip(("rows", "columns", "channels"), found, model.output_shape, strict=False):
                same(f"{what} {name}", number, right, why=why if name != "channels" else "one for each filter")
            mistakes = [
                (weights, "each filter has a bias, too"),
                (weights // C + biases, "a filter has weights for each channel"),
                (weights + 1, "each filter has a bias of its own"),
            ]
            same(f"{what} parameters", found[3], weights + biases, mistakes)

    def seen():
        for layers in ([(3, 1)], [(3, 1), (3, 1)], [(5, 1), (2, 2), (5, 1), (2, 2)], [(7, 2), (3, 2), (3, 1), (1, 1)]):
            pixels = {0}
            for I, s in reversed(layers):
                pixels = {s * number + i for number in pixels for i in range(I)}
            mistakes = [
                (1 + sum(I - 1 for I, _ in layers), "behind a stride of s, a step is s of the steps before"),
                (np.prod([I for I, _ in layers]), "the windows of neighbours overlap"),
            ]
            why = "draw it: one number, the I numbers that it sees, what those see, and so on to the image"
            same(f"for {layers} it", call(written["pixels_seen"], layers), len(pixels), mistakes, why)

    def lowest():
        why = "it is lowest for the logits 1, 0, 0, ..., which are C"
        for C in (2, 10, 1000):
            mistakes = [
                (0, "p of the true class is 1 at best: what does a softmax make of the logits 1, 0, 0, ...?"),
                (np.log(np.e + C - 1), "from log of the sum of all exp(z[k]), the true logit is to be taken: 1"),
                (np.log(C), "all alike is what it begins with"),
            ]
            same(f"for C = {C} it", call(written["lowest_loss"], C), np.log(np.e + C - 1) - 1, mistakes, why)

    def heart():
        (x, t), _ = tn.data.digits()
        losses = call(written["learn_by_heart"], 255 * x[:20], t[:20])
        stuck = "it can't learn twenty digits by heart.  How low can it get?  3 asks that, too"
        assert losses[-1] < 0.1, f"the last loss is {losses[-1]:.3f}: {stuck}"
        large = "logits that know nothing are small: how large are the numbers that go in?"
        assert losses[0] < 4, f"the first loss is {losses[0]:.1f}, and should be about log 10 = 2.3: {large}"

    def honest():
        rng = np.random.default_rng(0)
        validation, test = rng.binomial(500, 0.1, (2, 50)) / 500  # fifty networks that only guess, on 500 digits each
        which, share = call(written["to_report"], validation, test, results=2)
        best = validation.argmax()
        guess = "all fifty networks of this test only guess, and would get 0.1 of other digits"
        mistakes = [(test.argmax(), f"the test digits have chosen it; {guess}")]
        same("the network to take", which, best, mistakes)
        mistakes = [
            (validation[best], f"these digits have chosen it, and flatter it; {guess}"),
            (test.max(), "that is another network's"),
        ]
        same("the share to report", share, test[best], mistakes)

    return {
        "1, sizes": sizes,
        "2, pixels seen": seen,
        "3, lowest loss": lowest,
        "4, by heart": heart,
        "5, to report": honest,
    }


if __name__ == "__main__":
    run(tasks(globals()))
