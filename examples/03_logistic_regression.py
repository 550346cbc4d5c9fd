"""Logistic regression, from the likelihood to the loss to its gradient; and why there is one best answer.

    python examples/03_logistic_regression.py

The question: is this digit a 3 (call that t = 0) or an 8 (t = 1)?  An 8 has ink on its left side where a 3 is open, so
take two measurements of each image, its features: how much ink there is left of the middle in the upper half, and in
the lower half.  (Each is shifted to the mean 0 and scaled to the mean square 1, so that one step size suits both.)

The model.  A weighted sum of the features, squeezed into (0, 1) by the sigmoid, is the probability of an 8:

    z = x w + b               x (N, I) features, one image a row   w (I, 1) weights   b bias, one number
    p = 1 / (1 + exp(-z))     z (N, 1) logits   p (N, 1) probabilities

The likelihood.  The model says "8" with probability p and "3" with probability 1 - p.  In one formula, what is true
gets p^t (1 - p)^(1 - t), for one exponent is 1 and the other 0 (Bernoulli's distribution).  For all N images, taken as
independent, these multiply; how probable the model held all that was seen is called the likelihood of its w and b, and
the best w and b are those with the largest.  A product of so many numbers below 1 soon is too small for a computer, so
take the logarithm, which turns the product into a sum and has its maximum at the same place; change the sign, to
minimise, and divide by N, so that the size of the data set doesn't matter:

    L = -1/N sum_n (t log p + (1 - t) log(1 - p))        the binary cross-entropy   t (N, 1)

The gradient.  The slope of the sigmoid is exp(-z) / (1 + exp(-z))^2 = p (1 - p), for 1 - p = exp(-z) / (1 + exp(-z)).
Write dz for dL/dz; then, by the chain rule,

    dz = 1/N (-t / p + (1 - t) / (1 - p)) p (1 - p)
       = 1/N (-t (1 - p) + (1 - t) p) = (p - t) / N      what was said, minus what is true
    dw = x.T dz       db = sum dz                        x.T is x transposed: w[i] touched z[n] of every image n, times
                                                         x[n,i], and b touched it times 1 (example 02)

Gradient descent follows -dw and -db downhill in small steps.  Newton's method also uses the second derivatives.  (Here
the bias is one more entry of w, the weight of a feature that is always 1, and w, p and t have one index.)
Differentiate dw[i] = sum_n x[n,i] (p[n] - t[n]) / N once more, by w[j], which touches p[n] times p[n] (1 - p[n])
x[n,j]:

    H[i,j] = sum_n x[n,i] p[n] (1 - p[n]) x[n,j] / N        H (I + 1, I + 1)

Near the present w, the loss is nearly the quadratic that has the same value, first and second derivatives there:

    L(w + u)  ~  L(w) + sum_i dw[i] u[i] + 1/2 sum_i sum_j u[i] H[i,j] u[j]        u (I + 1,), a step from w

Its derivative by u[i] is dw[i] + sum_j H[i,j] u[j], for u[i] stands in the double sum twice, as the left and as the
right factor, and H[i,j] = H[j,i].  All of these are 0, and the quadratic is at its lowest point, where H u = -dw;
Newton's method solves this for u, jumps to w + u, and begins again from there.

How many valleys are there?  Along a line in the direction u, the second derivative of the loss is
sum_i sum_j u[i] H[i,j] u[j] = sum_n p[n] (1 - p[n]) (x u)[n]^2 / N.  That is above 0, unless x u is 0 for every image:
the loss is convex, a single bowl without side valleys, and whoever goes downhill ends at its lowest point.  So the two
methods must agree, and do.

But a lowest point has to exist.  Weights of all 64 pixels can tell every 3 from every 8 here: there is a w with z > 0
for every 8 and z < 0 for every 3.  Twice that w makes every z twice as large and every answer surer, so the likelihood
is higher still; and so on, ever nearer to 1, which no w reaches.  Descent would let w grow without end.  So there the
loss gets an extra term, decay/2 times the sum of the squared weights, which prefers small weights and gives the bowl a
lowest point again.
"""

import gallery
import numpy as np

import tinynet as tn


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def descend(x, t, lr, steps, decay=0.0):
    """Gradient descent on all of x at once: the loss before each step, and [w, b] at the start and after each step."""
    model = tn.Sequential([tn.Dense(1, init="zeros")], input_shape=x.shape[1], dtype="float64")
    optimizer = tn.SGD(model, lr, weight_decay=decay)  # adds decay w to dw, and leaves the bias alone
    losses, path = [], [model.flat_values.copy()]
    for _ in range(steps):
        loss, dz = tn.sigmoid_cross_entropy(model.forward(x, training=True), t)
        model.backward(dz)
        optimizer.step()
        losses.append(loss)
        path.append(model.flat_values.copy())
    return losses, np.array(path)


def newton(x, t, steps=12, decay=0.0):
    """The same by Newton's method, all in NumPy."""
    x = np.column_stack([x, np.ones(len(x))])  # the bias is the weight of a 1
    shrink = np.diag([decay] * (x.shape[1] - 1) + [0.0])
    path = [np.zeros(x.shape[1])]
    for _ in range(steps):
        p = sigmoid(x @ path[-1])
        gradient = x.T @ (p - t[:, 0]) / len(x) + shrink @ path[-1]
        H = (x.T * (p * (1 - p))) @ x / len(x) + shrink
        path.append(path[-1] - np.linalg.solve(H, gradient))
    return np.array(path)


def standardised(x, like):
    return (x - like.mean(axis=0)) / np.maximum(like.std(axis=0), 1e-3)  # some pixels never vary


def threes_and_eights(images, labels):
    chosen = (labels == 3) | (labels == 8)
    return images[chosen, :, :, 0].astype(np.float64), (labels[chosen] == 8).astype(np.float64)[:, None]


def main():
    options = gallery.options(__doc__)
    train, test = tn.data.digits()
    (images, t), (test_images, t_test) = threes_and_eights(*train), threes_and_eights(*test)
    features = np.stack([images[:, 2:4, :3].mean(axis=(1, 2)), images[:, 4:6, :3].mean(axis=(1, 2))], axis=1)
    x = standardised(features, features)

    losses, path = descend(x, t, lr=4.0, steps=300)
    jumps = newton(x, t)
    best = jumps[-1]
    z = (x @ best[:2] + best[2])[:, None]
    p, loss = sigmoid(z), tn.sigmoid_cross_entropy(z, t)[0]
    likelihood = np.prod(p**t * (1 - p) ** (1 - t))
    print(f"two features, {len(x)} images:  w = {best[0]:.6f}, {best[1]:.6f}  b = {best[2]:.6f}")
    print(f"  likelihood {likelihood:.3e}, -log of it / N {-np.log(likelihood) / len(x):.9f}, loss {loss:.9f}")
    gap = np.abs(path[-1] - best).max()
    print(f"  {((p > 0.5) == t).mean():.1%} of these images right;  w and b of descent and Newton differ by {gap:.1e}")
    assert abs(-np.log(likelihood) / len(x) - loss) < 1e-12
    assert gap < 1e-6
    assert np.all(np.diff(losses) <= 1e-15), "in a bowl, every small step leads down"

    pixels, decay = images.reshape(-1, 64), 0.03
    x_all, x_test = standardised(pixels, pixels), standardised(test_images.reshape(-1, 64), pixels)
    path_all = descend(x_all, t, lr=0.4, steps=2000 if options.quick else 4000, decay=decay)[1]
    jumps_all = newton(x_all, t, decay=decay)
    accuracy = ((x_test @ path_all[-1][:64] + path_all[-1][64] > 0) == t_test[:, 0]).mean()
    gap = np.abs(path_all[-1] - jumps_all[-1]).max()
    print(f"64 pixels, decay {decay}:  {accuracy:.1%} of {len(x_test)} new images right;  w and b differ by {gap:.1e}")
    assert gap < 1e-6
    assert accuracy > 0.9

    w0, w1 = np.meshgrid(np.linspace(-1, 4, 81), np.linspace(-1, 5.5, 81))
    # All of the bowl, at Newton's b: z is (N, 81 * 81), and reduction="none" gives each number's loss, not their mean.
    z = x @ np.stack([w0.ravel(), w1.ravel()]) + best[2]
    bowl = tn.sigmoid_cross_entropy(z, np.broadcast_to(t, z.shape), reduction="none")[0].mean(axis=0).reshape(81, 81)
    for height in (bowl, bowl.T):
        assert np.all(height[:-2] + height[2:] > 2 * height[1:-1]), "no point lies above the line between two others"

    figure = tn.plots.figure(13, 4.2)
    left, middle, right = figure.subplots(1, 3)
    for digit, colour, marker in ((0, tn.plots.ORANGE, "o"), (1, tn.plots.BLUE, "s")):
        left.plot(*x[t[:, 0] == digit].T, marker, color=colour, ms=4, alpha=0.6, label=f"{(3, 8)[digit]}s")
    f0, f1 = np.meshgrid(np.linspace(-1.5, 3.5, 100), np.linspace(-1.5, 3.5, 100))
    lines = left.contour(f0, f1, sigmoid(f0 * best[0] + f1 * best[1] + best[2]), [0.1, 0.5, 0.9], colors="k")
    left.clabel(lines, fmt="p = %.1f")
    left.legend(frameon=False)
    gallery.plain(left, title="Two features, and the probability of an 8")
    left.set(xlabel="ink on the left, upper half", ylabel="ink on the left, lower half")

    middle.contour(w0, w1, bowl, bowl.min() + np.geomspace(0.003, 1.5, 14), colors=[tn.plots.GREY], linewidths=0.7)
    middle.plot(path[:, 0], path[:, 1], ".-", color=tn.plots.BLUE, label="gradient descent")
    middle.plot(jumps[:, 0], jumps[:, 1], "o--", color=tn.plots.ORANGE, ms=5, label="Newton's method")
    middle.plot(*best[:2], "k*", ms=12, label="lowest point")
    middle.legend(frameon=True, loc="lower right")
    gallery.plain(middle, title="The loss is a bowl, and both end at its lowest point")
    middle.set(xlabel="first weight (contours: the loss at the best b)", ylabel="second weight")

    for points, end, colour, name in (
        (path, best, tn.plots.BLUE, "descent, 2 features"),
        (path_all, jumps_all[-1], tn.plots.GREEN, "descent, 64 pixels"),
        (jumps, best, tn.plots.ORANGE, "Newton, 2 features"),
        (jumps_all, jumps_all[-1], tn.plots.RED, "Newton, 64 pixels"),
    ):
        right.loglog(np.arange(1, len(points)), np.abs(points[1:] - end).max(axis=1), color=colour, label=name)
    right.legend(frameon=False, ncols=2, loc="upper center", fontsize=9)
    gallery.plain(right, "How far from the end of Newton's method", ylabel="largest difference in w, b")
    right.set(xlabel="step", ylim=(1e-15, 1e3), yticks=[1, 1e-3, 1e-6, 1e-9, 1e-12, 1e-15])
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
