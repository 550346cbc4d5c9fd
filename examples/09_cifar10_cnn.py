"""Small photographs: batch normalisation, augmentation and weight decay take a convolutional network a long way.

    python examples/09_cifar10_cnn.py [--seed 0]

CIFAR-10 is 60,000 colour photographs of 32 by 32 pixels, of ten kinds of vehicles and animals (Krizhevsky 2009); who
guesses is right about 1 of them in 10.  The data lie where the environment variable TINYNET_DATA says; what is missing
is downloaded, 170 MB.  Files with fewer photographs do as well: of 10,000 this network learns enough to be right about
more than 70 of 100 others, in ten epochs, which take less than a minute on two cores.  All 50,000 get four epochs,
which take twice as long.

The network is three blocks of layers, and then a Dense layer for the ten logits (example 08 explains the others):

    x     (N, 32, 32, 3)        red, green and blue, less their mean over all photographs, divided by their deviation
    block (N, 16, 16, 32)       Conv2D (5 x 5 in the first block, then 3 x 3), BatchNorm, ReLU, MaxPool2D
    block (N, 8, 8, 64)         half as high and wide, but of twice as many patterns
    block (N, 4, 4, 128)

Batch normalisation (Ioffe and Szegedy 2015) gives every channel mean 0 and deviation 1 over the batch, and then a
deviation and a mean of its own, w and b, which are learnt:

    y = w (x - mean) / sqrt(var + eps) + b         mean and var over all samples and places of a channel; w, b (C,)

So a layer's inputs keep their scale while the layers before it change, and larger steps can be taken.  For predictions,
where a sample must not depend on its neighbours, mean and var are running means from the training.

Augmentation: the network never sees the same photograph twice.  Each time it is mirrored or not, and moved by up to two
pixels.  What the network would otherwise learn by heart it has to understand.

Weight decay (AdamW) makes every weight a little smaller at each step, by lr times 0.5 of itself.  After a normalisation
the scale of a filter is without effect: divide it by 2, and y is the same.  What the decay does is to make the filter
forget: its random start fades, and what the gradients keep asking for stays.  The picture shows the 32 filters of
the first layer, which look at 5 x 5 pixels: edges of several directions, light beside dark, and spots of one colour.
With a decay of 0.01 the same training ends about as high, but its filters still look like noise.
"""

import gallery
import numpy as np

import tinynet as tn

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def block(filters, width=3):
    """Half the height, half the width, `filters` channels."""
    return [
        tn.Conv2D(filters, width, padding="same", bias=False),  # the normalisation adds a bias of its own
        tn.BatchNorm(),
        tn.ReLU(),
        tn.MaxPool2D(2),
    ]


def augment(x, rng):
    """Mirrored or not, and moved by up to two pixels: a frog is a frog."""
    return tn.data.random_crop(tn.data.random_flip(x, rng), rng, padding=2)


def main():
    options = gallery.options(__doc__, seed=0)  # of the initial weights, of the order and of the augmentation
    (x_train, y_train), (x_test, y_test) = tn.data.cifar10()
    if options.quick:
        x_train, y_train, x_test, y_test = x_train[:1000], y_train[:1000], x_test[:500], y_test[:500]
    mean, deviation = x_train.mean(axis=(0, 1, 2)), x_train.std(axis=(0, 1, 2))  # of red, green, blue
    model = tn.Sequential(
        [*block(32, width=5), *block(64), *block(128), tn.Flatten(), tn.Dense(10)],
        input_shape=(32, 32, 3),
        seed=options.seed,
    )
    print(model.summary())

    epochs, batch_size = 2 if options.quick else 10 if len(x_train) <= 10_000 else 4, 64
    history = tn.fit(
        model,
        (x_train - mean) / deviation,
        y_train,
        loss=tn.softmax_cross_entropy,
        optimizer=tn.AdamW(model, weight_decay=0.5),
        schedule=tn.one_cycle(5e-3, steps=epochs * -(-len(x_train) // batch_size)),
        epochs=epochs,
        batch_size=batch_size,
        validation=((x_test - mean) / deviation, y_test),
        metrics="accuracy",
        augment=augment,
        seed=options.seed,
    )

    logits = model.predict((x_test - mean) / deviation)
    accuracy, least = tn.accuracy(logits, y_test), 0.2 if options.quick else 0.62
    print(f"test accuracy {accuracy:.4f} on {len(y_test):,} photographs, after {len(x_train):,} others")
    assert accuracy >= least, f"expected at least {least} of the test photographs right, got {accuracy:.4f}"
    assert np.all(np.diff(history["loss"]) < 0), "the loss falls from epoch to epoch"

    figure = tn.plots.figure(13, 6.4)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 2], wspace=0.04)
    upper, lower = left.subfigures(2, 1, height_ratios=[1.5, 1])
    tn.plots.training_curves(history, on=upper)
    tn.plots.filters(model, on=lower)
    right.suptitle(f"{accuracy:.1%} of {len(y_test):,} test photographs are right; the worst of the others")
    tn.plots.worst(logits, x_test, y_test, on=right, count=15, columns=5, names=NAMES)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
