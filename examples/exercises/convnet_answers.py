"""The answers to convnet.py.

1.  With its padding the image has H + 2 padding rows.  The first window takes I of them, each further one s more:

        P = (H + 2 padding - I) // s + 1              Q likewise from W              K channels

    and K filters of I I C weights and a bias each: K (I I C + 1) parameters.

2.  n numbers side by side have windows that begin s apart: the first begins at 0, the last at (n - 1) s and is I wide.
    So they see (n - 1) s + I numbers of the layer before.  From the end, where n is 1, to the beginning: the network of
    example 08 has 1, 2, 6, 12, 16.  One number of its last pooling sees 16 of 28 pixels.

3.  Its logits are probabilities, at best 1 for the true class and 0 for the others.  Then the sum of exp is e + C - 1:

        log(e + C - 1) - 1              0.31 for two classes, 1.46 for ten, 5.91 for a thousand

    (log C is what it begins with, all p being about 1 / C.)

4.  The cross-entropy makes the softmax itself, so the logits belong there; else the loss never goes below 1.46.  Once
    that is mended, the first loss says that something is amiss: above 300, since logits made of numbers up to 255 are
    large, and sure of something already.  Divide by 255.

5.  The validation digits choose, and the test digits, which have chosen nothing, say how good it is.
"""

import convnet
import numpy as np
from tasks import run

import tinynet as tn


def after_convolution(H, W, C, K, I, s, padding):
    return (H + 2 * padding - I) // s + 1, (W + 2 * padding - I) // s + 1, K, K * (I * I * C + 1)


def pixels_seen(layers):
    n = 1
    for I, s in reversed(layers):
        n = (n - 1) * s + I
    return n


def lowest_loss(C):
    return np.log(np.e + C - 1) - 1


def learn_by_heart(images, t):
    layers = [tn.Conv2D(8, 3, activation="relu"), tn.MaxPool2D(2), tn.Flatten(), tn.Dense(10)]
    model = tn.Sequential(layers, input_shape=(8, 8, 1), seed=0)
    optimizer = tn.Adam(model, lr=0.01)
    losses = []
    for _ in range(150):
        loss, dz = tn.softmax_cross_entropy(model.forward(images / 255, training=True), t)
        model.backward(dz)
        optimizer.step()
        losses.append(loss)
    return losses


def to_report(validation, test):
    best = validation.argmax()
    return best, test[best]


if __name__ == "__main__":
    run(convnet.tasks(globals()))
