"""A loss of your own: stars have an order, and no loss so far knows it and gives probabilities too.

    python examples/35_your_own_loss.py [--page loss.html]

People gave sentences from film reviews 0 to 4 stars (the treebank of example 24).  Softmax takes these for five
classes: to it, 4 stars where 0 are right are as wrong as 1.  The squared error knows the order, but gives no
probability, and takes the way from 0 stars to 1 to be as long as that from 2 to 3.  The loss derived here (McCullagh
1980) has both.  The network gives a sentence one score s, how good it sounds, and four numbers that are learnt with it,
the cuts c, say from which score on more than k stars are likelier than not:

    z[n,k] = s[n] - c[k]              z (N, K)   the logit of "more than k stars", K = 4; c rises, so rows of z fall
    P(more than k) = sigmoid(z[n,k])             more than -1 stars are sure, more than 4 impossible: 1 and 0
    p[n] = P(more than t[n] - 1) - P(more than t[n]) = sigmoid(z[n,t-1]) - sigmoid(z[n,t])          t (N,)   true stars
    L = -mean log p[n]

Backward.  Which p did z[n,k] touch, and times what?  Only p[n], and only if k is t - 1 or t; call these two logits a
and b.  The sigmoid's derivative is sigmoid (1 - sigmoid) (example 03):

    z[n,t-1]  touched p[n], times    sigmoid(a) (1 - sigmoid(a))
    z[n,t]    touched p[n], times  -(sigmoid(b) (1 - sigmoid(b)))
    p[n]      touched L, times     -1 / (N p[n])

That is ordinal_plain.  It is right, and no good to train with: at a = 40 and b = 39 both sigmoids round to 1, and log p
is -infinity, where it should be -39.5.  No tiny number added inside the logarithm mends that, only another form of the
same thing.  The difference of two sigmoids is a product, in which nothing cancels (multiply out, and both sides are
(exp(a) - exp(b)) / ((1 + exp(a)) (1 + exp(b)))):

    sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))
    -log p = log(1 + exp(-a)) + log(1 + exp(b)) - log(1 - exp(b - a))
    da = (-sigmoid(-a) - r) / N        db = (sigmoid(b) + r) / N        r = 1 / (exp(a - b) - 1)

r grows without limit as a and b draw near: it keeps the cuts apart.

A loss is a function (prediction, target) -> (value, gradient), which takes the mean over the samples: fit, explain and
gradcheck ask for no more.  What @tn.declares adds is what it expects, so that fit refuses a network that ends in
probabilities, and the two formulas, which explain shows.

Is it right?  The stable form must give what the plain one gives, wherever that is finite, and what gradcheck finds.
As in example 18, gradcheck also gets mistakes that people make, and says of each what may be the cause:

    no mean               the 1/N forgotten: steps are N times too large, and grow with the batch
    one neighbour         only z[n,t-1] has a gradient: "which did it touch?" was answered too soon
    the outer derivative  1 / p[n] forgotten: the gradient of -mean p, not of -mean log p

Is it of use?  The same network, a mean of word vectors, is trained with softmax cross-entropy, with the squared error
of the stars and with this loss, each on 200 to 8,544 sentences, five times, from other random starts and, below 8,544,
on other sentences, and stops where 1,101 others are predicted best.  With few sentences the order is knowledge, which
softmax must find in the data and this loss is told: its -log p is lower, and its expected stars, sum_t t p(t), are
nearer to the true ones, by a little.  With all the sentences softmax has found the order, and gains by what this loss
does not allow, such as words that speak for "neutral" alone.  The squared error, which trains the expected stars and
nothing else, comes no nearer to the true ones than this loss.

The picture shows what the cuts make of a score; where the test sentences lie on this ruler, and where the cuts; and
both measures, with a dot for each training.
"""

import gallery
import numpy as np

import tinynet as tn

LENGTH, CUTS = 56, 4
COLOURS = {"softmax cross-entropy": tn.plots.GREY, "squared error": tn.plots.ORANGE, "ordinal": tn.plots.BLUE}


def ordinal_plain(z, t):
    """The formula as it stands, sample by sample."""
    (N, K), L, dz = z.shape, 0.0, np.zeros(z.shape)
    for n in range(N):
        above = tn.sigmoid(z[n, t[n] - 1]) if t[n] > 0 else 1.0
        below = tn.sigmoid(z[n, t[n]]) if t[n] < K else 0.0
        p = above - below
        L -= np.log(p) / N
        if t[n] > 0:
            dz[n, t[n] - 1] = above * (1 - above) * -1 / (N * p)
        if t[n] < K:
            dz[n, t[n]] = -below * (1 - below) * -1 / (N * p)
    return L, dz


@tn.declares(
    "logits",
    "L = -mean log(sigmoid(a) - sigmoid(b)), a = z[n,t-1], b = z[n,t]",
    "da = (-sigmoid(-a) - r) / N, db = (sigmoid(b) + r) / N, r = 1 / (exp(a - b) - 1)",
)
def ordinal(z, t):
    """The loss of logits z (N, K), which fall along each row, for labels t (N,) from 0 to K; and dL/dz."""
    z, t = np.asarray(z), np.asarray(t)
    N, K = z.shape
    if t.shape != (N,) or t.dtype.kind not in "iu" or (N and not 0 <= t.min() <= t.max() <= K):
        raise ValueError(f"ordinal: t must be {N} whole numbers from 0 to {K}, got {t.dtype} {t.shape}: {t}")
    if (z[:, 1:] >= z[:, :-1]).any():
        raise ValueError("ordinal: the logits must fall along each row; smaller steps keep the cuts in order")
    sure, n = np.full((N, 1), np.inf), np.arange(N)
    limits = np.concatenate([sure, z, -sure], axis=1, dtype=np.float64)  # more than -1 stars, more than K stars
    a, b = limits[n, t], limits[n, t + 1]
    apart = -np.expm1(b - a)  # 1 - exp(b - a), of which expm1 keeps all digits where a and b are near
    r = np.exp(b - a) / apart
    L = np.logaddexp(0, -a) + np.logaddexp(0, b) - np.log(apart)  # logaddexp(0, v) is log(1 + exp(v))
    d = np.zeros((N, K + 2))
    d[n, t] = (-tn.sigmoid(-a) - r) / N
    d[n, t + 1] = (tn.sigmoid(b) + r) / N
    return float(L.mean()), d[:, 1:-1].astype(z.dtype)


def probabilities(z):
    """p (N, K + 1) of z (N, K): what lies between two neighbours of P(more than k)."""
    more = np.pad(tn.sigmoid(z), ((0, 0), (1, 0)), constant_values=1)
    return more - np.pad(more[:, 1:], ((0, 0), (0, 1)))


def check():
    rng = np.random.default_rng(0)
    z, t = -np.sort(-rng.normal(size=(6, CUTS))), np.array([0, 1, 2, 3, 4, 2])
    for mine, plain in zip(ordinal(z, t), ordinal_plain(z, t), strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-12, atol=1e-15)
    value, _ = ordinal(np.array([[40.0, 39.0]]), [1])
    with np.errstate(divide="ignore"):
        plain = -np.log(tn.sigmoid(40.0) - tn.sigmoid(39.0))
    print(f"at a = 40, b = 39 the stable form gives {value:.4f}, the plain one {plain}")
    assert abs(value - (39 - np.log1p(-np.exp(-1)))) < 1e-12
    right = tn.gradcheck.check(ordinal, z, t)
    print(right)
    assert right.passed

    def one_neighbour(dz):
        dz[np.arange(len(t))[t < CUTS], t[t < CUTS]] = 0
        return dz

    p = probabilities(z)[np.arange(len(t)), t]
    for mistake, spoil, said in (
        ("no mean", lambda dz: dz * len(t), "is the 1/N of a mean missing?"),
        ("one neighbour", one_neighbour, "are they left out of a loop?"),
        ("the outer derivative", lambda dz: dz * p[:, None], "the ratio varies from entry to entry"),
    ):

        def mistaken(z, t, spoil=spoil):
            L, dz = ordinal(z, t)
            return L, spoil(dz)

        wrong = tn.gradcheck.check(mistaken, z, t)
        print(f"\n{mistake}: {wrong}")
        assert not wrong.passed, f"{mistake} must be noticed"
        assert said in wrong.causes["prediction"]


def ruler(layers, input_shape, shares, seed=0, dtype="float32"):
    """A network that ends in one score and the cuts, which begin where they give the classes their shares.

    A Dense whose weights stay 1 and whose bias is -c is z[n,k] = s[n] - c[k].
    """
    model = tn.Sequential([*layers, tn.Dense(1, bias=False), tn.Dense(CUTS)], input_shape, seed=seed, dtype=dtype)
    ones, bias = model.layers[-1].parameters
    more = 1 - np.cumsum(shares)[:-1]
    ones.value, ones.trainable = np.ones((1, CUTS)), False
    bias.value = np.log(more / (1 - more))
    return model


def squared_error(y, t):
    """Of the stars as numbers: y (N, 1), t (N,)."""
    return tn.mean_squared_error(y, t[:, None].astype(y.dtype))


def trained(name, words, train, validation, seed, epochs):
    """The network after its best epoch.  It starts from the shares of the stars, whichever loss it has."""
    body = [tn.Embedding(words, 32, padding=0), tn.Dropout(0.5), tn.GlobalAvgPool1D()]
    shares = (np.bincount(train[1], minlength=CUTS + 1) + 1) / (len(train[1]) + CUTS + 1)
    if name == "ordinal":
        model, loss = ruler(body, LENGTH, shares, seed), ordinal
    elif name == "squared error":
        model, loss = tn.Sequential([*body, tn.Dense(1)], LENGTH, seed=seed), squared_error
        model.layers[-1].parameters[1].value = [shares @ np.arange(CUTS + 1)]
    else:
        model, loss = tn.Sequential([*body, tn.Dense(CUTS + 1)], LENGTH, seed=seed), tn.softmax_cross_entropy
        model.layers[-1].parameters[1].value = np.log(shares)
    tn.fit(
        model,
        *train,
        loss=loss,
        optimizer=tn.AdamW(model, 3e-3, weight_decay=0.01),
        epochs=epochs,
        batch_size=32,
        validation=validation,
        callbacks=[tn.EarlyStopping(patience=3)],
        seed=seed,
        progress=False,
    )
    return model


def errors(name, model, x, t):
    """(-mean log p of the true stars, or NaN, and by how many stars the expectation is off: root mean square)."""
    y = model.predict(x).astype(np.float64)
    if name == "squared error":
        return np.nan, np.sqrt(np.mean((y[:, 0] - t) ** 2))
    p = probabilities(y) if name == "ordinal" else tn.softmax(y)
    return -np.log(p[np.arange(len(t)), t]).mean(), np.sqrt(np.mean((p @ np.arange(CUTS + 1) - t) ** 2))


def show_ruler(panel, model, x, t):
    """Where on the ruler the test sentences lie, a row for each of the stars that they have, and the cuts."""
    s = tn.Sequential(model.layers[:-1], LENGTH).predict(x)[:, 0]
    cuts = -model.layers[-1].parameters[1].value  # more than k stars are as likely as not where s = c[k]
    boxes = [s[t == k] for k in range(CUTS + 1)]
    style = {"color": tn.plots.GREY}
    panel.boxplot(
        boxes, positions=range(CUTS + 1), orientation="horizontal", widths=0.55, whis=(5, 95), showfliers=False,
        patch_artist=True, boxprops={"facecolor": tn.plots.PALE, **style}, whiskerprops=style, capprops=style,
        medianprops={"color": tn.plots.BLUE, "lw": 2},
    )  # fmt: skip
    panel.set_yticks(range(CUTS + 1), ["0: very\nnegative", "1", "2: neutral", "3", "4: very\npositive"])
    for k, cut in enumerate(cuts):
        panel.axvline(cut, color=tn.plots.RED, ls="--", lw=1.2)
        panel.text(cut + 0.05, CUTS + 0.62, f"> {k}", color=tn.plots.RED, va="center", fontsize=9)
    labels = {"xlabel": "score s (box: the middle half)", "ylabel": "true stars"}
    gallery.plain(panel, "Test sentences on the learnt ruler", ylim=(-0.5, CUTS + 0.9), **labels)
    return cuts


def main():
    options = gallery.options(__doc__, page="")
    check()
    (texts, t), (texts_dev, t_dev), (texts_test, t_test) = tn.data.sst()
    vocabulary = tn.data.Vocabulary(texts, max_size=4000)
    (x, lengths), x_dev, x_test = (
        tn.data.pad(vocabulary.sequences(part), LENGTH) for part in (texts, texts_dev, texts_test)
    )
    sizes, seeds, epochs = ((200, 600), 1, 3) if options.quick else ((200, 600, 2000, len(t)), 5, 60)
    found = {name: np.zeros((len(sizes), seeds, 2)) for name in COLOURS}
    for i, size in enumerate(sizes):
        for seed in range(seeds):
            some = np.random.default_rng(seed).permutation(len(t))[:size]
            for name in COLOURS:
                model = trained(
                    name, len(vocabulary), ((x[some], lengths[some]), t[some]), (x_dev, t_dev), seed, epochs
                )
                found[name][i, seed] = errors(name, model, x_test, t_test)
        for name, its in found.items():
            surprise, off = its[i].mean(axis=0)
            print(f"{size:5,} sentences, {name:21}  -log p {surprise:.3f}   off by {off:.3f} stars", flush=True)
    if not options.quick:
        gain = found["softmax cross-entropy"] - found["ordinal"]
        assert (gain[:3].mean(axis=1) > 0).all(), "with few sentences, what is known beforehand helps"
        assert (found["squared error"] - found["ordinal"])[:, :, 1].mean() > 0
    few = (x[some[:64]], lengths[some[:64]]), t[some[:64]]
    print(tn.explain(model, *few, ordinal, samples=0))
    if options.page:
        small = ruler([], 3, np.full(CUTS + 1, 1 / (CUTS + 1)), dtype="float64")
        points = np.array([[1.0, 0, -1], [0.5, 2, 0], [-1, 1, 1]])
        tn.explain(small, points, [0, 2, 4], ordinal).save_html(options.page)
        print(f"saved {options.page}: every number of one step, to walk through")

    figure = tn.plots.figure(14, 4.6)
    left, middle, right, last = figure.subplots(1, 4, width_ratios=[1.1, 1.2, 1, 1])
    cuts = show_ruler(middle, model, x_test, t_test)
    s = np.linspace(cuts.min() - 3, cuts.max() + 3, 200)
    p = probabilities(s[:, None] - cuts)
    for k, colour in enumerate(tn.plots.signed_colours()([0.0, 0.25, 0.5, 0.75, 1.0])):
        colour = tn.plots.GREY if k == 2 else colour
        left.plot(s, p[:, k], color=colour)
        at = p[:, k].argmax()
        beside = (0, -13 if k == 2 else 3)
        left.annotate(str(k), (s[at], p[at, k]), beside, textcoords="offset points", ha="center", color=colour)
    labels = {"xlabel": "score s", "ylabel": "probability p of so many stars"}
    gallery.plain(left, "What the cuts make of a score", ylim=(0, 1.05), **labels)
    for name, its in found.items():
        for panel, which in ((right, 0), (last, 1)):
            if not np.isnan(its[..., which]).any():
                panel.plot(np.repeat(sizes, seeds), its[..., which].ravel(), ".", color=COLOURS[name], ms=4, alpha=0.6)
                panel.semilogx(sizes, its[..., which].mean(axis=1), color=COLOURS[name], label=name)
    for panel, title in ((right, "-log p of test sentences"), (last, "Stars off, root mean square")):
        gallery.plain(panel, title, xlabel="training sentences")
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.minorticks_off()
    last.legend(frameon=False, loc="upper right", fontsize=9)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
