"""How honest is a network about its confidence?  And how one number, the temperature, makes it so.

    python examples/12_calibration.py

A classifier gives ten logits z, and softmax makes probabilities of them, p = softmax(z).  The largest one is its
confidence.  It is calibrated if confidence is what it says: of all predictions made with a confidence of 0.9, 90 % are
right.  A doctor, or whoever must decide when to look again, needs that as much as accuracy.

The expected calibration error, ECE, measures it.  Sort the predictions into 15 bins by confidence; in each, compare the
mean confidence with the accuracy, the share that is right:

    ECE = sum_b n[b] / N |accuracy[b] - confidence[b]|            n[b] of the N predictions are in bin b

The reliability diagram draws the same, a bar for each bin: on the diagonal, accuracy and confidence agree.  Below it
is the share of the predictions in each bin: where that is small, a bar rests on a handful of images.

Networks that are trained for long are too confident (Guo et al. 2017).  Once all training labels are learnt, the
cross-entropy still falls if the logits only grow, so they do; on images that it has not seen, the network is then as
sure of its mistakes as it was of what it knows.

Temperature scaling divides all logits by one number T > 0 before the softmax:

    q = softmax(z / T)             T > 1 brings the probabilities nearer to each other, T < 1 moves them apart

The order of the ten stays, so every answer stays the same, and so does the accuracy.  T is the number with the lowest
cross-entropy on images that the network was not trained on: on its training images it would want a T below 1, to be
surer still.  And what T was fitted to can't judge it either, so the 10,000 test images of MNIST go to two halves by
turns: T comes from one half, and everything that is reported and drawn from the other.

The network is a plain one, with two hidden layers of 256 numbers, and it gets only the first 3,000 of the 60,000
training images.  That is few enough to be learnt by heart in 40 epochs, as larger networks do with larger data sets.
(The data lie where the environment variable TINYNET_DATA says; what is missing is downloaded, 11 MB.)
"""

import gallery
import numpy as np

import tinynet as tn


def softmax(z):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def main():
    options = gallery.options(__doc__)
    (x_train, t_train), (x_test, t_test) = tn.data.mnist()
    count, epochs = (1000, 15) if options.quick else (3000, 40)
    x_train, t_train = x_train[:count], t_train[:count]
    x_fit, t_fit, x, t = x_test[::2], t_test[::2], x_test[1::2], t_test[1::2]
    model = tn.Sequential(
        [tn.Flatten(), tn.Dense(256, activation="relu"), tn.Dense(256, activation="relu"), tn.Dense(10)],
        input_shape=(28, 28, 1),
        seed=0,
    )
    spreads, confidences, accuracies = [], [], []

    def watch(training):
        z = model.predict(x).astype(np.float64)
        spreads.append(z.std(axis=1).mean())
        confidences.append(softmax(z).max(axis=1).mean())
        accuracies.append(tn.accuracy(z, t))

    tn.fit(
        model,
        x_train,
        t_train,
        loss=tn.softmax_cross_entropy,
        optimizer=tn.Adam(model, lr=1e-3),
        epochs=epochs,
        callbacks=watch,
        progress=False,
    )

    z_train, z_fit, z = (model.predict(images).astype(np.float64) for images in (x_train, x_fit, x))
    T = tn.metrics.temperature_scaling(z_fit, t_fit)
    print(f"T = {T:.3f}, from {len(t_fit)} images; judged on {len(t)} others:")
    print(f"{'':20}{'accuracy':>10}{'confidence':>12}{'ECE':>9}{'cross-entropy':>15}{'surest mistake':>16}")
    results = []
    for name, scores in (("as trained", z), ("divided by T", z / T)):
        p = softmax(scores)
        accuracy, error = tn.accuracy(scores, t), tn.metrics.expected_calibration_error(p, t)
        loss, _ = tn.softmax_cross_entropy(scores, t, grad=False)
        surest = p.max(axis=1)[p.argmax(axis=1) != t].max()
        results.append((accuracy, error, loss))
        print(f"{name:20}{accuracy:10.4f}{p.max(axis=1).mean():12.4f}{error:9.4f}{loss:15.4f}{surest:16.6f}")
    before, after = results
    assert np.array_equal(softmax(z).argmax(axis=1), softmax(z / T).argmax(axis=1)), "no answer changes"
    assert T > 1, "the network was too confident"
    assert after[1] < before[1] * (0.75 if options.quick else 0.5), "the calibration error falls"
    assert after[2] < before[2], "and so does the cross-entropy, on images that T was not fitted to"
    surer, _ = tn.softmax_cross_entropy(2 * z_train, t_train, grad=False)
    assert surer < tn.softmax_cross_entropy(z_train, t_train, grad=False)[0], "what it learnt by heart asks for T < 1"

    figure = tn.plots.figure(14, 5)
    left, middle, right = figure.subfigures(1, 3, wspace=0.03)
    left.suptitle("As trained")
    tn.plots.reliability_diagram(softmax(z), t, on=left)
    middle.suptitle(f"Logits divided by T = {T:.2f}")
    tn.plots.reliability_diagram(softmax(z / T), t, on=middle)
    top, bottom = right.subplots(2, 1, sharex=True)
    top.plot(range(1, epochs + 1), confidences, color=tn.plots.RED, lw=2, label="mean confidence")
    top.plot(range(1, epochs + 1), accuracies, color=tn.plots.BLUE, lw=2, label="accuracy")
    top.legend(frameon=False, loc="lower right")
    bottom.plot(range(1, epochs + 1), spreads, color=tn.plots.GREY, lw=2)
    gallery.plain(top, "It goes on growing surer, but hardly better", ylabel="share of test images")
    gallery.plain(bottom, "because its logits go on growing", xlabel="epoch", ylim=(0, None))
    bottom.set_ylabel("standard deviation\nof an image's ten logits")
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
