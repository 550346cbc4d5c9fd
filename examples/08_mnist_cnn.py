"""LeNet's grandchild reads the handwritten digits of MNIST: three epochs, and 99 of 100 are right.

    python examples/08_mnist_cnn.py [--seed 0]

MNIST is 70,000 digits, 28 by 28 grey pixels each, written by clerks and pupils; 10,000 of them are for the test alone.
(The data lie where the environment variable TINYNET_DATA says; what is missing is downloaded, 11 MB.)

The network is a convolutional one, as LeNet was (LeCun et al. 1998), with what has been found to train better since:
the activation max(x, 0), called ReLU, in place of a sigmoid, pooling by the maximum, a cross-entropy (example 04).

    x       (N, 28, 28, 1)      N images
    Conv2D  (N, 24, 24, 16)     16 filters of 5 x 5 weights.  Each is laid over all 24 x 24 places of the image where
                                it fits; at each, the sum of weights times pixels, and a bias, says how well it
                                matches there.  ReLU: what is below 0 becomes 0
    MaxPool (N, 12, 12, 16)     of each 2 x 2 places, only the best match: where exactly it was matters less from here.
                                Backward, that one gets all of dy, since y did not depend on the others
    Conv2D  (N, 8, 8, 32)       32 filters again, 5 x 5 x 16 weights each: patterns of the first filters' patterns; ReLU
    MaxPool (N, 4, 4, 32)
    Flatten (N, 512)            the same numbers in one row
    Dense   (N, 10)             a weighted sum for each digit: the logits z, larger where the network leans to it

A filter has the same weights wherever it lies.  That saves parameters (400 weights and 16 biases in the first layer,
where a dense one from 784 pixels to 24 x 24 x 16 numbers would have 7 million weights), and what is learnt about a
stroke in one corner holds in all.

An epoch is one pass over the training digits, here in random batches of 64, each followed by one step of Adam.  That is
gradient descent with a step size of its own for each weight: it follows a running mean of the weight's derivatives,
divided by their usual size, the root of a running mean of their squares.  The learning rate, the scale of all the
steps, rises and falls once in the whole training (one_cycle): small while the first gradients are wild, large for the
way, small again to settle.

"Validation" in the picture means 5,000 of the training digits that are held out: looked at after each epoch, and never
trained on.  (The test digits are for the last word only.  Whoever looks at them after each epoch, and keeps what did
best, has chosen by them, and they flatter.)  In the first epoch the validation digits do better than the training
digits only because those are counted while the network still learns.

What is left are the errors, and those one should look at.  The picture's right side shows the test digits with the
highest loss: above each, how probable the network held the right answer to be, and below, what it said.
"""

import gallery

import tinynet as tn


def main():
    options = gallery.options(__doc__, seed=0)  # of the initial weights and of the order of the digits
    (x_train, y_train), (x_test, y_test) = tn.data.mnist()
    if options.quick:
        x_train, y_train = x_train[:6000], y_train[:6000]
    model = tn.Sequential(
        [
            tn.Conv2D(16, 5, activation="relu"),
            tn.MaxPool2D(2),
            tn.Conv2D(32, 5, activation="relu"),
            tn.MaxPool2D(2),
            tn.Flatten(),
            tn.Dense(10),
        ],
        input_shape=(28, 28, 1),
        seed=options.seed,
    )
    print(model.summary())

    epochs, batch_size = 1 if options.quick else 3, 64
    history = tn.fit(
        model,
        x_train,
        y_train,
        loss=tn.softmax_cross_entropy,
        optimizer=tn.Adam(model),
        # How many steps there will be: a twelfth is held out, and -(-a // b) is a / b, rounded up.
        schedule=tn.one_cycle(4e-3, steps=epochs * -(-(len(x_train) * 11 // 12) // batch_size)),
        epochs=epochs,
        batch_size=batch_size,
        validation=1 / 12,
        metrics="accuracy",
        seed=options.seed,
    )

    logits = model.predict(x_test)
    accuracy, least = tn.accuracy(logits, y_test), 0.9 if options.quick else 0.988
    wrong = (logits.argmax(axis=1) != y_test).sum()
    print(f"test accuracy {accuracy:.4f}: {wrong} of {len(y_test):,} digits are wrong")
    assert accuracy >= least, f"expected at least {least} of the test digits right, got {accuracy:.4f}"

    figure = tn.plots.figure(12, 5.2)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.6], wspace=0.05)
    left.suptitle(f"{len(x_train):,} digits, {epochs} epoch{'s' * (epochs > 1)}")
    tn.plots.training_curves(history, on=left)
    right.suptitle(f"The worst of {wrong} errors on {len(y_test):,} test digits")
    tn.plots.worst(logits, x_test, y_test, on=right, count=18, columns=6)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
