"""Learning from oneself: a student, a teacher that is its running mean, and three ways to learn nothing.

    python examples/15_self_distillation.py [--seed 0]          reads MNIST (example 08 says from where)

Example 14 learnt from images without labels by telling each image from all others.  Here a network is asked only to
say the same of two views of one image.  A network that says the same of everything does that perfectly, and has learnt
nothing, which is called collapse.  DINO (Caron et al. 2021) prevents it by two forces that hold each other in balance,
centring and sharpening.  This program trains with both, without the one, without the other, and without either.

The network sorts images into 64 kinds, which it makes up itself.  The body, as in example 14, is what one would keep:

    x (2N, 14, 14, 1)  -- body -->  h (2N, 256)  -- head -->  logits (2N, 64)      rows i and i + N: views of image i

There are two of it, the student with logits s and the teacher with logits T.  Of each view they give probabilities of
the kinds, and the student learns to say of one view what the teacher says of the other:

    S[n] = softmax(s[n] / tau_s)            tau_s = 0.5, the student's temperature: the lower, the more decided is S
    P[n] = softmax((T[n] - c) / tau_t)      tau_t = 0.2, the teacher's, and c (64,) the centre
    L    = mean over n of -sum_k P[partner of n, k] log S[n,k]

The paper's temperatures, 0.1 and 0.04, are for logits that are cosines, from -1 to 1; these here reach farther.  L is
tn.self_distillation: a softmax cross-entropy whose soft labels are made by a network.  No gradient goes to the teacher.
After every step, each of its weights moves towards the student's; so they are means over the student's last hundred
steps or so, and waver less than the student.

    the teacher    teacher <- 0.99 teacher + 0.01 student
    centring       c <- 0.9 c + 0.1 mean of T over the batch.  What the kind k gets from all images alike is taken
                   away, so that no kind can win everywhere.  Without it, c stays 0
    sharpening     tau_t < tau_s: the student shall be more decided than it is, so that P can't become uniform.
                   Without it, tau_t = tau_s

How does one see a collapse?  By two entropies (example 06) of the teacher's P for 2,000 test images, in nats:

    entropy of the mean P    log 64 = 4.16 if all kinds are used alike, 0 if one kind takes all images
    mean entropy of P        log 64 if the teacher has no idea of any image, 0 if it is sure of each
    I, their difference      the mutual information: how much the kind tells about the image.  0 where P is the same
                             for all images, whatever it is: this is collapse

The middle panel has an entropy on each axis, and on its diagonal I = 0.  Without centring the teacher ends in the lower
left corner, one kind for everything, or near it: with seed 0 one other kind is left, for the 1s, and I is what "a 1 or
not" tells.  Without sharpening it ends in the upper right corner, every kind equally likely.  Without either, nothing
moves P but the wish to agree, and all images agree on some P in between.

Are the features h any good?  Ask their nearest neighbours (k-NN): an image gets the most frequent label of the 5 among
200 labelled images whose h is most like its own, by cosine.  Labels are used here, and nowhere in the training.  With
both forces the accuracy rises by more than ten percentage points.  Where a force is missing it hardly moves.  It does
not fall to chance: where P is the same for all there is nothing to learn, and the body stays about as good as its
random filters were.

The third panel: of the teacher trained with both, the eight kinds most used, and the test images most sure to be one.
"""

import gallery
import numpy as np

import tinynet as tn

KINDS, BODY = 64, 6  # the number of logits, and of layers below the head
FORCES = {  # (centring, sharpening)
    ("both", tn.plots.BLUE): (True, True),
    ("no centring", tn.plots.ORANGE): (False, True),
    ("no sharpening", tn.plots.GREEN): (True, False),
    ("neither", tn.plots.GREY): (False, False),
}


def network(seed):
    body = [
        tn.Conv2D(32, 3, padding="same", activation="relu"),
        tn.MaxPool2D(2),
        tn.Conv2D(64, 3, padding="same", activation="relu"),
        tn.MaxPool2D(2),
        tn.Flatten(),
        tn.Dense(256, activation="relu"),
    ]
    head = [tn.Dense(128, activation="relu"), tn.LayerNorm(), tn.Dense(KINDS)]
    return tn.Sequential(body + head, input_shape=(14, 14, 1), seed=seed)


def distil(x, centring, sharpening, steps, seed, N=128):
    """Train on the images x alone; yields the teacher, c and tau_t, at the start and after every 50 steps."""
    student, teacher, rng = network(seed), network(seed), np.random.default_rng(seed)
    optimizer, schedule = tn.Adam(student), tn.optim.cosine(3e-3, steps, warmup=steps // 10)
    c, tau_s = np.zeros(KINDS, np.float32), 0.5
    tau_t = 0.2 if sharpening else tau_s
    yield teacher, c, tau_t
    for step in range(1, steps + 1):
        rows = rng.integers(len(x), size=N)
        views = gallery.warped(x[np.concatenate([rows, rows])], rng)
        T, s = teacher.forward(views), student.forward(views, training=True)
        _, gradient = tn.self_distillation(s, np.roll(T, N, axis=0), tau_s, tau_t, c)
        student.backward(gradient)
        optimizer.lr = schedule(optimizer.steps)
        optimizer.step()
        teacher.flat_values += 0.01 * (student.flat_values - teacher.flat_values)
        if centring:
            c = 0.9 * c + 0.1 * T.mean(axis=0)
        if step % 50 == 0:
            yield teacher, c, tau_t


def softmax(z):
    p = np.exp(z.astype(np.float64) - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def neighbours_say(model, known, labels, x, k=5):
    """For each of x, the most frequent label of the k `known` images nearest to it."""
    for layer in model.layers[:BODY]:
        known, x = layer.forward(known), layer.forward(x)
    cosine = x @ (known / np.linalg.norm(known, axis=1, keepdims=True)).T  # times |x|, which changes no row's order
    nearest = labels[np.argsort(-cosine, axis=1)[:, :k]]
    return (nearest[:, :, None] == np.arange(10)).sum(axis=1).argmax(axis=1)


def draw_kinds(part, P, x):
    part.suptitle("With both: eight kinds that it made up, and typical images", size=11)
    for row, kind in zip(part.subplots(8, 10), np.argsort(-P.mean(axis=0)), strict=False):
        for panel, image in zip(row, x[np.argsort(-P[:, kind])], strict=False):
            panel.imshow(image[..., 0], cmap="Greys", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_color(tn.plots.PALE)


def main():
    options = gallery.options(__doc__, seed=0)  # of the initial weights, the batches and the views
    (x, y), (x_test, y_test) = tn.data.mnist()
    x, x_test = (a.reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4)) for a in (x, x_test[:2000]))
    y_test, steps, most = y_test[:2000], 100 if options.quick else 600, np.log(KINDS)
    labelled = np.concatenate([np.flatnonzero(y == digit)[:20] for digit in range(10)])

    figure = tn.plots.figure(15, 4.8)
    left, middle, right = figure.subfigures(1, 3, width_ratios=[1, 1, 1.05])
    curves, plane = left.subplots(), middle.subplots()
    ends = []
    print(f"after {steps} steps   entropy of the mean P   mean entropy      I   k-NN accuracy (at the start)")
    for (name, colour), forces in FORCES.items():
        looks = []
        for teacher, c, tau_t in distil(x, *forces, steps, options.seed):
            P = softmax((teacher.predict(x_test) - c) / tau_t)
            agree = neighbours_say(teacher, x[labelled], y[labelled], x_test) == y_test
            looks.append((agree.mean(), tn.information.entropy(P.mean(axis=0)), tn.information.entropy(P).mean()))
        accuracy, used, unsure = np.transpose(looks)
        ends.append((used[-1], unsure[-1], used[-1] - unsure[-1], accuracy[-1] - accuracy[0]))
        end = "{:22.2f}{:15.2f}{:7.2f}".format(*ends[-1])
        print(f"{name:15}{end}{accuracy[-1]:16.1%} ({accuracy[0]:.1%})", flush=True)
        curves.plot(50 * np.arange(len(looks)), accuracy, color=colour, lw=2, label=name)
        plane.plot(unsure, used, ".-", color=colour)
        plane.plot(unsure[0], used[0], "o", ms=7, mec=colour, mfc="white", zorder=3)
        plane.plot(unsure[-1], used[-1], "o", ms=9, color=colour, label=name)
        if all(forces):
            draw_kinds(right, P, x_test)

    used, unsure, information, gain = np.transpose(ends)  # (4,) each, in the order of FORCES
    assert information[1:].max() < information[0] / 2, "where a force is missing, kinds tell little about images"
    if not options.quick:
        assert gain[0] > 0.1, "with both, the features have become much better"
        assert gain[1:].max() < gain[0] / 2, "and without hardly"
        assert used[1] < 0.5, "without centring, nearly all images are of one kind"
        assert unsure[1] < 0.1, "of which the teacher is sure"
        assert unsure[2] > 0.98 * most, "without sharpening, P is uniform"
        assert information[3] < 0.1 < unsure[3] < 0.98 * most, "without either it is neither, and the same for all"

    curves.legend(frameon=False, loc="upper left")
    gallery.plain(curves, "Nearest neighbours, with 200 labels", xlabel="steps", ylabel="test accuracy")
    plane.plot([0, most], [0, most], color="black", lw=0.8)
    plane.text(1.45, 1.32, "collapse: P the same for all", rotation=45, rotation_mode="anchor", ha="center", va="top")
    plane.legend(frameon=False, loc="upper left", fontsize=9)
    gallery.plain(plane, "The teacher, from the start (white) to the end", aspect="equal", ylim=(None, 6))
    plane.set(xlabel="mean entropy of P", ylabel="entropy of the mean P")
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
