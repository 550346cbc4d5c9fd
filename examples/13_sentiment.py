"""Praise or blame: convolutions over the words of film reviews, beside a plain count of words.

    python examples/13_sentiment.py

10,662 sentences from film reviews, half praise and half blame (Pang and Lee 2005).  The data lie where the environment
variable TINYNET_DATA says; what is missing is downloaded, 0.5 MB.  Two models give each sentence one logit z, which is
above 0 for praise, and both are trained on the sigmoid cross-entropy (example 03):

The bag of words.  x[v] is 1 if word v occurs in the sentence, wherever that is, and else 0.  Then

    z = x w + b         x (N, V) of the V words that occur at least twice   w (V, 1): one weight for each word

It is a logistic regression, and its weights say it all: a word pushes towards praise or towards blame, always by as
much.  To it "not funny, but good" and "not good, but funny" are the same sentence.

The network (Kim 2014, called CNN-rand there) sees the order:

    x          (N, 40)         the numbers of the first 40 words, filled up with 0, the padding
    Embedding  (N, 40, 32)     a vector of 32 numbers for each word, looked up, random at first, and learnt
    Conv2D     (N, 38, 1, 32)  32 filters of 3 words x 32 numbers: how well do these 3 words match?  At all 38 places
               (N, 37, 1, 32)  and 32 of 4 words, beside them, and
               (N, 36, 1, 32)  32 of 5 words: branches over the same x, called Parallel
    max        (N, 96)         the best match of each filter, wherever it was: global max pooling
    Dropout    (N, 96)         in training, a random half of them is set to 0, so that none can be relied upon alone
    Dense      (N, 1)          z, a weighted sum of the 96 best matches

How good are they?  There is no fixed test set, so the sentences are cut into 10 parts, the folds.  Folds 1, 4 and 7
served to choose how long to train and with which step size, and are not judged.  Each of the other seven is judged by
models that were trained on the remaining nine.

What comes out is not what one might hope.  The network is right about 76 % of the sentences, as Kim's was (76.1 %, with
vectors of 300 numbers and 100 filters of each width), and the bag of words about more.  Most sequences of 3 words occur
only once in 10,000 sentences, and what occurs once teaches little; single words say most of it.  (Kim's better networks
start with vectors that were trained on 100 billion words of news; they reach 81.5 %.)

Is that more than chance?  Only the sentences on which the two disagree tell them apart.  If neither were better, each
would be right about half of these n, give or take sqrt(n) / 2, and the difference of the two counts would be 0, give or
take sqrt(n).  (That is McNemar's test.)

What does the network look at?  Take out one word (put the unknown word in its place) and see how z changes: what it
loses is what the word gave.  The right panel does that with those sentences of fold 0 on which the network is right,
the bag of words wrong, and the two furthest apart.  That shows what the network can do, not how often.
"""

import gallery
import numpy as np

import tinynet as tn

LENGTH = 40


def network(words):
    windows = [[tn.Conv2D(32, (width, 1), activation="relu"), tn.GlobalMaxPool2D()] for width in (3, 4, 5)]
    return [
        tn.Embedding(words, 32, padding=0),
        tn.Reshape((LENGTH, 1, 32)),  # Conv2D wants a height and a width: 40 words high, 1 wide
        tn.Parallel(windows),
        tn.Dropout(0.5),
        tn.Dense(1),
    ]


def trained(layers, x, y, epochs, lr):
    model = tn.Sequential(layers, input_shape=x.shape[1])
    loss, schedule = tn.sigmoid_cross_entropy, tn.cosine(lr, steps=epochs * -(-len(x) // 50))
    tn.fit(
        model,
        x,
        y,
        loss=loss,
        optimizer=tn.Adam(model),
        schedule=schedule,
        epochs=epochs,
        batch_size=50,
        progress=False,
    )
    return model


def bags(numbers, words):
    """(N, V): which words a sentence has; neither padding nor the unknown word counts."""
    x = np.zeros((len(numbers), words), bool)
    np.put_along_axis(x, numbers, True, axis=1)
    x[:, :2] = False
    return x


def pushes(model, numbers):
    """By how much each word of each sentence (N, 40) raises its z."""
    without = np.repeat(numbers[:, None], LENGTH, axis=1)  # (N, 40, 40): sentence n, without its word t
    without[:, range(LENGTH), range(LENGTH)] = 1
    return model.predict(numbers) - model.predict(without.reshape(-1, LENGTH)).reshape(-1, LENGTH)


def show(panel, sentences, given, z):
    """The sentences, each word on the colour of what it gave to the network's z, and what both models say."""
    size, row = 9.5, 0
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "family": "monospace", "fontsize": size}
    for sentence, push, (z_bag, z_network) in zip(sentences, given, z, strict=True):
        said = f"network {z_network:+.1f}, which is right; bag of words {z_bag:+.1f}"
        panel.annotate(said, (0, 1), (0, -14 - row * 15), color=tn.plots.GREY, **place)
        row, column = row + 1, 0
        for word, strength in zip(tn.data.tokenize(sentence), push, strict=False):
            if column + len(word) > 78:
                row, column = row + 1, 0
            shade = {"facecolor": tn.plots.GREEN if strength > 0 else tn.plots.RED, "edgecolor": "none", "pad": 1}
            shade["alpha"] = min(1, abs(strength) / 2.5)
            panel.annotate(word, (0, 1), (column * 0.602 * size, -14 - row * 15), bbox=shade, **place)
            column += len(word) + 1
        row += 1.5


def main():
    options = gallery.options(__doc__)
    sentences, y = tn.data.movie_reviews()
    y = y[:, None]
    fold = np.arange(len(y)) // 2 % 10  # blame and praise take turns: as much of both in each
    if options.quick:
        fold[4000:] = -1  # neither trained on nor judged
    judged = (0,) if options.quick else (9, 8, 6, 5, 3, 2, 0)
    z = np.zeros((len(y), 2))  # of the bag and of the network, each sentence's by models that never saw it
    for k in judged:
        train, test = np.flatnonzero((fold >= 0) & (fold != k)), np.flatnonzero(fold == k)
        vocabulary = tn.data.Vocabulary([sentences[i] for i in train], min_count=2)
        words, numbers = len(vocabulary), vocabulary.encode(sentences, LENGTH)
        bag = trained([tn.Dense(1, init="zeros")], bags(numbers[train], words), y[train], epochs=12, lr=4e-3)
        cnn = trained(network(words), numbers[train], y[train], epochs=5, lr=2e-3)
        z[test] = np.hstack([bag.predict(bags(numbers[test], words)), cnn.predict(numbers[test])])
        shares = ((z[test] > 0) == y[test]).mean(axis=0)
        print(f"fold {k}: {words:,} words;  right: bag of words {shares[0]:.1%}, network {shares[1]:.1%}")
    seen = np.isin(fold, judged)
    right = (z > 0) == y
    accuracy = right[seen].mean(axis=0)
    print(f"of {seen.sum():,}: bag of words {accuracy[0]:.4f}, network {accuracy[1]:.4f}")
    only_bag, only_network = (right[seen] & ~right[seen, ::-1]).sum(axis=0)
    beyond = (only_bag - only_network) / np.sqrt(only_bag + only_network)
    print(f"  only the bag is right about {only_bag}, only the network about {only_network}: {beyond:+.1f} sqrt(n)")
    least = 0.6 if options.quick else 0.74
    assert accuracy.min() > least, f"expected each to be right about more than {least}, got {accuracy}"
    assert options.quick or only_bag > only_network, "10,000 sentences are too few to gain from the order of the words"

    weights = bag.parameters()[0].value[:, 0]
    order = np.argsort(weights, kind="stable")
    order = np.concatenate([order[:14], order[-14:]])
    names = [vocabulary.words[v] for v in order]
    print("blame:", *names[:14], "\npraise:", *names[:13:-1])

    figure = tn.plots.figure(12, 6)
    left, panel = figure.subplots(1, 2, width_ratios=[1, 1.9])
    left.barh(names, weights[order], color=np.repeat([tn.plots.RED, tn.plots.GREEN], 14))
    left.tick_params("y", labelsize=9)
    gallery.plain(left, f"Bag of words, {accuracy[0]:.1%} right: words that push", xlabel="weight", ylim=(-0.7, 27.7))
    panel.set_axis_off()
    panel.set_title(f"Network, {accuracy[1]:.1%} right: each word's push to praise (green) or blame (red)", fontsize=11)
    better = np.where(right[test, 1] & ~right[test, 0], np.abs(z[test, 1] - z[test, 0]), 0)
    chosen = test[np.argsort(-better, kind="stable")[:7]]
    show(panel, [sentences[i] for i in chosen], pushes(cnn, numbers[chosen]), z[chosen])
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
