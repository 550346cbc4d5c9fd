"""Praise or blame, read in both directions: a bidirectional LSTM on whole reviews and on a treebank of sentences.

    python examples/24_sentiment_bilstm.py

It takes some minutes on two cores; the texts are downloaded (85 MB) where they don't lie in TINYNET_DATA's folder.

Example 13 looked for short runs of words with convolutions.  An LSTM (example 21) reads a sentence from its beginning
to its end, and what it keeps of "not" it still has when "good" comes.  A second one reads from the end to the
beginning, so that at every word there is something of all that stands before and of all that stands behind it:

    x          (N, T)       the numbers of the words; sentences of unequal length, padded at the end
    Embedding  (N, T, 64)   a vector for each word, random at first, and learnt
    Dropout                 in training, 4 of 10 numbers are set to 0
    LSTM       (N, T, 128)  64 numbers from each direction, at every word
    max        (N, 128)     of each number, the largest of all words
    Dropout, Dense (N, K)   the logits of K classes

Padding is no part of a sentence: the data are pairs (x, lengths), and each layer that looks along time honours the
lengths, so that the second LSTM begins at a sentence's last word, and no maximum is one of padding.  Batches are of
sentences of similar length: less padding, less work.

The Stanford Sentiment Treebank (Socher et al. 2013): sentences from film reviews and the phrases in them, each judged
by people.  Trained on all phrases of the training sentences, judged on the 2,210 test sentences (1,821 that are not
neutral, where there are two classes).  The same words, vectors and steps go to the convolutions of example 13:

    what others report              5 classes   2 classes
    convolutions, random vectors         45.0        82.7   Kim 2014 (CNN-rand)
    BiLSTM, GloVe vectors                49.1        87.5   Tai et al. 2015; vectors from 840 billion words
    BERT-base                            53.2        91.2   Munikar et al. 2019; a transformer that read 3.3 billion

From random vectors the LSTM reads a point or so better than the convolutions; a share of 2,000 sentences is only known
to within a point, so that one run does not prove it.  What the table's lower rows gain, they bring from other texts.

The Large Movie Review Dataset (Maas et al. 2011): 25,000 whole reviews to train on and 25,000 to test, 233 words on
average, of which the first 400 are read.  The same network, trained from nothing, is right about 88 of 100 here.

Why?  The maxima make it easy to ask.  Every one of the 128 numbers comes from one word, and z is a weighted sum of
them: so each word's part in z is known, and the parts and the bias add up to z.  The picture shows it for sentences
that the LSTM reads rightly and the convolutions do not.
"""

import time

import gallery
import numpy as np

import tinynet as tn

DIM, UNITS = 64, 64


def bilstm(words, classes):
    read = [tn.LSTM(UNITS, bidirectional=True), tn.GlobalMaxPool1D()]
    return [tn.Embedding(words, DIM, padding=0), tn.Dropout(0.4), *read, tn.Dropout(0.4), tn.Dense(classes)]


def convolutions(words, classes, length):
    windows = [[tn.Conv2D(48, (width, 1), activation="relu"), tn.GlobalMaxPool2D()] for width in (3, 4, 5)]
    read = [tn.Reshape((length, 1, DIM)), tn.Parallel(windows)]
    return [tn.Embedding(words, DIM, padding=0), *read, tn.Dropout(0.4), tn.Dense(classes)]


def trained(layers, x, y, length, epochs, batch_size):
    model, steps = tn.Sequential(layers, input_shape=length, seed=0), epochs * -(-len(y) // batch_size)
    tn.fit(
        model,
        x,
        y,
        loss="softmax_cross_entropy",
        optimizer=tn.AdamW(model, weight_decay=0.01),
        schedule=tn.cosine(2e-3, steps, warmup=min(50, steps // 2)),
        epochs=epochs,
        batch_size=batch_size,
        similar_length=isinstance(x, tuple),
        progress=False,
    )
    return model


def accuracy(model, x, y):
    return float((model.predict(x).argmax(axis=1) == y).mean())


def parts_of_words(model, numbers):
    """Of each word of a sentence, its part in z, the second logit less the first."""
    embedding, _, lstm, *_, dense = model.layers
    y = lstm.forward(embedding.forward(numbers[None]))[0]  # (T, 128)
    w = dense.parameters[0].value
    parts = np.zeros(len(numbers))
    np.add.at(parts, y.argmax(axis=0), y.max(axis=0) * (w[:, 1] - w[:, 0]))
    return parts


def show(panel, sentences, parts):
    """The sentences, each word on the colour of its part."""
    size, row = 9.5, 0
    for sentence, given in zip(sentences, parts, strict=True):
        column = 0
        for word, part in zip(tn.data.tokenize(sentence), given, strict=True):
            if column + len(word) > 82:
                row, column = row + 1, 0
            shade = {"facecolor": tn.plots.GREEN if part > 0 else tn.plots.RED, "edgecolor": "none", "pad": 1}
            at = (column * 0.602 * size, -14 - row * 16)
            panel.annotate(
                word.replace("$", r"\$"),
                (0, 1),
                at,
                xycoords="axes fraction",
                textcoords="offset points",
                family="monospace",
                fontsize=size,
                bbox={**shade, "alpha": min(1, abs(part) / 1.5)},
            )
            column += len(word) + 1
        row += 1.6


def treebank(classes, quick):
    """(accuracy of the convolutions, of the BiLSTM), and what the picture shows of the latter."""
    length, epochs = 56, 1 if quick else 2
    (texts, y), _, (texts_test, y_test) = tn.data.sst(phrases=True, classes=classes)
    if quick:
        texts, y = texts[:3000], y[:3000]
    vocabulary = tn.data.Vocabulary(texts)
    x, x_test = (tn.data.pad(vocabulary.sequences(part), length) for part in (texts, texts_test))
    found, models = [], []
    for name, layers, lengths in (
        ("convolutions", convolutions(len(vocabulary), classes, length), False),
        ("BiLSTM", bilstm(len(vocabulary), classes), True),
    ):
        began = time.perf_counter()
        model = trained(layers, x if lengths else x[0], y, length, epochs, 128)
        models.append((model, x_test if lengths else x_test[0]))
        found.append(accuracy(*models[-1], y_test))
        minutes = (time.perf_counter() - began) / 60
        told = f"{len(y):,} phrases, {classes} classes: {name} right about {found[-1]:.1%} of the sentences"
        print(f"{told} ({minutes:.1f} minutes)", flush=True)
    said = [model.predict(inputs) for model, inputs in models]
    better = (said[1].argmax(axis=1) == y_test) & (said[0].argmax(axis=1) != y_test)
    (numbers, lengths), sure = x_test, np.where(better, np.abs(said[1][:, 1] - said[1][:, 0]), -1)
    chosen = [k for k in np.argsort(-sure, kind="stable") if lengths[k] == len(tn.data.tokenize(texts_test[k]))][:6]
    parts = [parts_of_words(models[1][0], numbers[k, : lengths[k]]) for k in chosen]
    bias = models[1][0].parameters()[-1].value
    for k, part in zip(chosen, parts, strict=True):
        z, whole = said[1][k, 1] - said[1][k, 0], part.sum() + bias[1] - bias[0]
        assert abs(z - whole) < 1e-4, f"the words' parts and the bias are {whole}, not {z}"
    return found, ([texts_test[k] for k in chosen], parts)


def reviews(quick):
    """The accuracy on IMDB's test reviews."""
    words, length, epochs = (2000, 60, 1) if quick else (20_000, 400, 2)
    (texts, y), (texts_test, y_test) = tn.data.imdb()
    if quick:
        texts, y, texts_test, y_test = texts[:600], y[:600], texts_test[:600], y_test[:600]
    began = time.perf_counter()
    vocabulary = tn.data.Vocabulary(texts, max_size=words)
    x, x_test = (tn.data.pad(vocabulary.sequences(part), length) for part in (texts, texts_test))
    model = trained(bilstm(len(vocabulary), 2), x, y, length, epochs, 64)
    order = np.argsort(x_test[1], kind="stable")  # the short ones together: less padding
    right = accuracy(model, (x_test[0][order], x_test[1][order]), y_test[order])
    minutes = (time.perf_counter() - began) / 60
    print(f"IMDB, {len(y):,} reviews: the BiLSTM is right about {right:.1%} of {len(y_test):,} ({minutes:.1f} minutes)")
    return right


def main():
    options = gallery.options(__doc__)
    five, _ = treebank(5, options.quick)
    two, (sentences, parts) = treebank(2, options.quick)
    imdb = reviews(options.quick)
    if not options.quick:
        assert min(five) > 0.40
        assert min(two) > 0.80
        assert min(five[1] - five[0], two[1] - two[0]) > -0.01
        assert imdb >= 0.87

    figure = tn.plots.figure(11.5, 4.2)
    left, panel = figure.subplots(1, 2, width_ratios=[1, 2.1])
    places = np.arange(2)
    for k, (name, colour) in enumerate((("convolutions", tn.plots.ORANGE), ("BiLSTM", tn.plots.BLUE))):
        bars = left.bar(places + 0.38 * k, [five[k], two[k]], 0.36, color=colour, label=name)
        left.bar_label(bars, fmt=lambda share: f"{share:.1%}", fontsize=9)
    left.bar_label(left.bar(2 + 0.38, imdb, 0.36, color=tn.plots.BLUE), fmt=lambda share: f"{share:.1%}", fontsize=9)
    left.set_xticks([0.19, 1.19, 2.38], ["treebank,\n5 classes", "treebank,\n2 classes", "IMDB,\n2 classes"])
    left.legend(frameon=False, loc="upper left")
    gallery.plain(left, "Right about test sentences and reviews", ylabel="share", ylim=(0, 1.1))
    panel.set_axis_off()
    panel.set_title("Each word's part in z: praise (green) or blame (red)", fontsize=11)
    show(panel, sentences, parts)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
