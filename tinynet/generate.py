"""Generating: a language model writes on, a token at a time.

    logits of what comes next -> a token, drawn by their softmax -> the next position -> its logits -> ...

The model has read all that is before: what its layers must know of that, they leave in a `state` (an LSTM its h and c,
attention its keys and values).  So each step is given the new token alone: what is before it is not computed again,
though attention reads its keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import as_array, number, positive_int, without_objects
from tinynet.layers.in_a_row import ending_in_a_row
from tinynet.model import Sequential


def generate(
    model: Sequential,
    tokens: ArrayLike,
    length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    stop: int | None = None,
) -> np.ndarray:
    """The tokens with `length` more behind them, each drawn from what the model expects next: (T + length,), int64.

    model        begins with an Embedding and ends in logits (N, T, V) over its vocabulary, as tn.zoo.gpt2 does; each
                 position may see what is before it, and nothing later: causal attention or Conv1D, an LSTM or GRU
    tokens       what is there already, (T,); or (N, T), of several texts, each of which is continued: (N, T + length)
    temperature  divides the logits: below 1 what is likely becomes likelier, at 0 the likeliest token is always taken
    top_k        draws from so many tokens, the likeliest ones; None: from all
    seed         the same one draws the same tokens
    stop         the token that ends a text, such as that of "<end>": once each text has it, nothing more is drawn, and
                 the result is shorter.  Behind it, where another text goes on, stands this token again

    Raises ValueError for a model that can't go on from where it is or has too few positions for the whole text, and
    for logits that are not finite.

    >>> model = tn.zoo.gpt2(vocabulary=20, length=8, layers=1, heads=2, dim=4)
    >>> tn.generate(model, [7, 3], 4, temperature=0).shape
    (6,)
    """
    given = without_objects(as_array(tokens, "generate: tokens"))
    if given.dtype.kind not in "iu":
        raise TypeError(f"generate: tokens must be whole numbers, got an array of dtype {given.dtype}")
    if given.ndim not in (1, 2) or given.shape[-1] == 0:
        raise ValueError(f"generate: tokens must be (T,) or (N, T), T at least 1, got shape {given.shape}")
    length = positive_int(length, "generate: length", 0)
    temperature = number(temperature, "generate: temperature")
    if not 0 <= temperature < np.inf:
        raise ValueError(f"generate: temperature must be a finite number of at least 0, got {temperature}")
    _check_model(model, given.shape[-1] + length)
    V, rng = model.output_shape[-1], np.random.default_rng(positive_int(seed, "generate: seed", 0))
    if stop is not None and positive_int(stop, "generate: stop", 0) >= V:
        raise ValueError(f"generate: stop must be a token of the model, from 0 to {V - 1}, got {stop}")
    k = V if top_k is None else min(V, positive_int(top_k, "generate: top_k"))

    text = np.atleast_2d(given).astype(np.int64)
    state: dict[Any, Any] = {}
    unread, longest, ended = text, model.input_shape[0], np.zeros(len(text), bool)
    for _ in range(length):
        for t in range(0, unread.shape[1], longest):
            logits = model.forward(unread[:, t : t + longest], state=state)[:, -1].astype(np.float64)
        if not np.isfinite(logits).all():
            raise ValueError("generate: the model's logits are not finite")
        drawn = _drawn(logits, temperature, k, rng)
        if stop is not None:
            drawn[ended] = stop
            ended |= drawn == stop
        unread = drawn[:, None]
        text = np.concatenate([text, unread], axis=1)
        if ended.all():
            break
    return text.reshape(*given.shape[:-1], text.shape[1])


def _drawn(logits, temperature, k, rng):
    """A token for each row of logits (N, V), among its k highest."""
    if temperature == 0:
        return logits.argmax(axis=1)
    z = (logits - logits.max(axis=1, keepdims=True)) / temperature
    p = np.where(z < np.partition(z, -k, axis=1)[:, [-k]], 0, np.exp(z))
    below = p.cumsum(axis=1)  # token v has the part from below[v-1] to below[v] of the whole
    u = rng.random((len(z), 1)) * below[:, -1:]
    return (below <= u).sum(axis=1)


def _check_model(model, positions):
    """A ValueError for a model that can't write a text of so many positions."""
    if not isinstance(model, Sequential):
        raise TypeError(f"generate: model must be a tinynet.Sequential, got {type(model).__name__}")
    first = model.layers[0]
    V = getattr(first, "vocabulary", None)
    if V is None or len(model.input_shape) != 1:
        raise ValueError(f"generate: the model must begin with an Embedding of tokens (N, T), not with {first.label}")
    ending, where = ending_in_a_row(model.layers) or (None, None)
    if model.output_shape != (*model.input_shape, V) or ending != "logits":
        shape = ", ".join(map(str, ("N", *model.output_shape)))
        raise ValueError(
            f"generate: the model must end in logits (N, T, {V}), for each word of its Embedding, but it ends in"
            f" {ending or 'numbers'} ({shape}){f' of {where}' if where else ''}"
        )
    for layer in model.walk():
        if layer.longest is not None and positions - 1 > layer.longest:  # the last token is not read any more
            raise ValueError(
                f"generate: the text would have {positions} tokens, and {layer.label} has vectors for {layer.longest}"
                " positions; generate fewer, or give the last ones of the tokens alone"
            )
