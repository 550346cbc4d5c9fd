"""What other libraries call what is here: whoever types such a name learns what to type instead.

The nearest of the names would not do: of "elu" that is "relu".
"""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def advice(name, known, elsewhere):
    """A sentence on what to write instead of `name`, which is none of those `known`, with a space before it, or "".

    `elsewhere` maps names, in lower case and without _ and -, to one of those known or to a sentence.
    """
    given, names = run_together(name), {run_together(each): each for each in known}
    if given in elsewhere and elsewhere[given] not in known:
        return f" {elsewhere[given]}"
    near = [elsewhere[given]] if given in elsewhere else [names[n] for n in difflib.get_close_matches(given, names, 1)]
    return f" Did you mean {near[0]!r}?" if near else ""


def bound(who, function, /, *args, **options):
    """The arguments by name, as inspect binds them; a TypeError that says which there are, where these do not fit."""
    signature = inspect.signature(function)
    try:
        return signature.bind(*args, **options)
    except TypeError as error:
        found = list(signature.parameters.values())
        found = found[1:] if found and found[0].name == "self" else found
        accepted = ", ".join(str(p.replace(annotation=p.empty)) for p in found)
        unknown = [name for name in options if name not in signature.parameters]
        names = [p.name for p in found]
        elsewhere = {name: meant for name, meant in OPTIONS.items() if meant in names or " " in meant}
        what = f"got an unexpected keyword argument {unknown[0]!r}" if unknown else str(error)
        hint = advice(unknown[0], names, elsewhere) if unknown else ""
        raise TypeError(f"{who}: {what}; it takes ({accepted}).{hint}") from None


def naming_options(function: Function) -> Function:
    """A decorator: arguments that do not fit are refused as `bound` refuses them."""

    @functools.wraps(function)
    def run(*args, **options):
        bound(function.__name__, function, *args, **options)
        return function(*args, **options)

    return run  # type: ignore[return-value]


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
METRICS = _table(
    ("perplexity ppl", "The perplexity of a language model is np.exp of its cross-entropy, here the loss."),
    ("matthewscorrcoef mcc cohenkappa kappa", "Or give one of scikit-learn's: lambda z, y: its(y, z.argmax(-1))."),
)
# Names of arguments, each for those functions that have what it means.
OPTIONS = _table(
    ("usebias", "bias"),
    ("hiddensize numunits outfeatures outputsize", "units"),
    ("outchannels", "filters"),
    ("strides", "stride"),
    ("dilationrate", "dilation"),
    ("poolsize kernelsize scalefactor", "size"),
    ("p prob dropoutrate", "rate"),
    ("numheads nhead nheads", "heads"),
    ("numgroups", "groups"),
    ("epsilon", "eps"),
    ("numembeddings inputdim vocabsize", "vocabulary"),
    ("embeddingdim outputdim", "dim"),
    ("paddingidx", "padding"),
    ("kernelinitializer initializer", "init"),
    ("batchfirst", "Sequences are (N, T, C) here, always."),
    (
        "infeatures inchannels inputsize numfeatures normalizedshape embeddim dmodel",
        "No layer is told what goes into it: that follows from input_shape.",
    ),
    ("learningrate", "lr"),
    ("clipnorm maxnorm globalclipnorm", "clip_norm"),
    ("validationdata validationsplit valdata evalset", "validation"),
    ("verbose", "progress"),
    ("numepochs maxepochs", "epochs"),
    ("criterion lossfn lossfunction", "loss"),
)
