"""Train a small convolutional network on 1,437 handwritten digits, and test it on 360 others.

    python examples/01_train_digits.py [--seed 0]

This is what training looks like; the explanations begin with example 02.  Saves a picture: how the training went, and
what the network makes of test digits, its mistakes first.  ("Validation" means a tenth of the training digits that is
held out: never trained on, and looked at after every epoch, to see how the training goes.  Whoever chooses anything by
them, say how long to train, needs other digits for an honest last word: the test digits, read once, at the end.  The
validation digits do better than the training digits, since these are moved, and read while a part of the network is
dropped out at random.)
"""

import gallery
import numpy as np

import tinynet as tn


def shifted(x, rng):
    """Every image moved by up to one pixel each way: no digit looks the same twice, so none is learnt by heart."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = rng.integers(0, 3, (len(x), 2))
    return np.stack([image[i : i + 8, j : j + 8] for image, (i, j) in zip(padded, corners, strict=True)])


def main():
    options = gallery.options(__doc__, seed=0)  # of the initial weights and of the order of the digits

    (x_train, y_train), (x_test, y_test) = tn.data.digits()
    model = tn.Sequential(
        [
            tn.Conv2D(16, 3, padding="same", activation="relu"),
            tn.Conv2D(32, 3, padding="same", activation="relu"),
            tn.MaxPool2D(2),
            tn.Flatten(),
            tn.Dropout(0.3),
            tn.Dense(10),
        ],
        input_shape=(8, 8, 1),
        seed=options.seed,
    )
    print(model.summary())

    epochs, batch_size = 3 if options.quick else 20, 32
    steps = epochs * -(-int(0.9 * len(x_train)) // batch_size)
    history = tn.fit(
        model,
        x_train,
        y_train,
        loss=tn.softmax_cross_entropy,
        optimizer=tn.Adam(model),
        schedule=tn.optim.cosine(4e-3, steps, warmup=steps // 20),
        epochs=epochs,
        batch_size=batch_size,
        validation=0.1,
        metrics="accuracy",
        augment=shifted,
        seed=options.seed,
    )

    logits = model.predict(x_test)
    wrong = logits.argmax(axis=1) != y_test
    shown = np.argsort(~wrong, kind="stable")[:40]
    picture = tn.plots.figure(12, 5.4)
    left, right = picture.subfigures(1, 2, width_ratios=[1, 1.25], wspace=0.06)
    left.suptitle(f"{epochs} epochs of training")
    tn.plots.training_curves(history, on=left)
    right.suptitle(f"Test digits as the network reads them: {wrong.sum()} of {len(wrong)} wrong, shown first")
    tn.plots.image_grid(logits[shown], x_test[shown], y_test[shown], on=right)
    gallery.finish(picture, options)

    accuracy, least = tn.metrics.accuracy(logits, y_test), 0.9 if options.quick else 0.98
    assert accuracy >= least, f"expected at least {least} of the test digits right, got {accuracy:.4f}"
    print(f"test accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
