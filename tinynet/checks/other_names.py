"""What other libraries call what is here: whoever types such a name learns what to type instead.

The nearest of the names would not do: of "elu" that is "relu".
"""

import difflib


def advice(name, known, elsewhere):
    """A sentence on what to write instead of `name`, which is none of those `known`, with a space before it, or "".

    `elsewhere` maps names, in lower case and without _ and -, to one of those known or to a sentence.
    """
    given, names = run_together(name), {run_together(each): each for each in known}
    if given in elsewhere and elsewhere[given] not in known:
        return f" {elsewhere[given]}"
    near = [elsewhere[given]] if given in elsewhere else [names[n] for n in difflib.get_close_matches(given, names, 1)]
    return f" Did you mean {near[0]!r}?" if near else ""


def run_together(name):
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def _table(*rows):
    """A dict of all names in the texts, each with what stands beside its text."""
    return {name: meant for names, meant in rows for name in names.split()}


ACTIVATIONS = _table(
    (
        "softmax logsoftmax",
        "Softmax is the loss's part: leave it out, for softmax_cross_entropy takes logits; or, for probabilities, end "
        "the model in a layer Softmax().",
    ),
    ("linear identity none", "For none, leave activation out."),
    ("silu", "swish"),
    (
        "celu mish softsign hardswish hardsigmoid hardtanh prelu rrelu logsigmoid exponential exp glu crelu",
        "That one needs a layer of its own, which you can write: examples/18_your_own_layer.py shows how.",
    ),
)
INITIALIZERS = _table(
    ("xavier xavieruniform xaviernormal glorotuniform glorotnormal", "glorot"),
    ("kaiming kaiminguniform kaimingnormal heuniform henormal", "he"),
    (
        "normal uniform random randomnormal randomuniform truncatednormal orthogonal lecunnormal lecununiform ones",
        "Or give a function: lambda shape, fan_in, fan_out, rng: rng.normal(0, 0.02, shape).",
    ),
)
# Names of losses that mean one of two: which one, the model's last layer tells.  Of other names that other libraries
# have for one, each loss declares its own.
FOR_LOGITS_OR_PROBABILITIES = _table(
    ("bce bceloss binarycrossentropy", ("sigmoid_cross_entropy", "binary_cross_entropy")),
    (
        "crossentropy crossentropyloss ce celoss logloss categoricalcrossentropy sparsecategoricalcrossentropy",
        ("softmax_cross_entropy", "categorical_cross_entropy"),
    ),
)
LOSSES = _table(
    ("focal focalloss", "Did you mean 'softmax_focal', for classes, or 'sigmoid_focal', for a yes or no?"),
)
