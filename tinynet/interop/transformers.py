"""GPT-2's and BERT's weights, by the names that the `transformers` package has for them, and ViT's, by torchvision's.

The parameters of tn.zoo's models come in the order in which they are used.  So a table lists, in that order, what each
is made of there: (how, name, ...), where "{}" is the number of a block.  What ends in ".bias" may be missing, where the
model has none, and what is in no table, such as a pooler, is left out.

    as it is     GPT-2's matrices are (in, out), as ours
    turned       BERT's are (out, in), as in every Linear of PyTorch, and so are those of nanoGPT, which has GPT-2's
                 names.  Its q, k and v are three matrices, which stand side by side in ours
    summed       BERT adds a vector for the segment to each word's: in the first one, always the same
    convolved    ViT's first kernel is that of a Conv2D, (K, C, I, J) there
    vector(s)    that of its class, and those of the positions, have axes of one number before them
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


def as_it_is(array):
    return array


def turned(*arrays):
    return np.concatenate([array.T for array in arrays], axis=-1)


def summed(positions, segments):
    return positions + segments[:1]


def convolved(kernel):
    return kernel.transpose(2, 3, 1, 0)


def vector(array):
    return array[0, 0]


def vectors(array):
    return array[0]


class Table(NamedTuple):
    """An architecture: its arrays before the blocks, in each block, and behind them.

    optional   whether what is behind the blocks may be missing in the model
    tied       the name of what must be the words' vectors once more, if it is there
    options    {a TransformerBlock's option: its name in a config}
    """

    name: str
    before: list
    block: list
    after: list
    optional: bool
    tied: str
    options: dict


def _both(how: Callable, *names):
    """The weights and biases of a module."""
    return [(how, *(f"{name}.{kind}" for name in names)) for kind in ("weight", "bias")]


def _gpt2(name, how):
    block = [
        *_both(as_it_is, "h.{}.ln_1"),
        *_both(how, "h.{}.attn.c_attn"),
        *_both(how, "h.{}.attn.c_proj"),
        *_both(as_it_is, "h.{}.ln_2"),
        *_both(how, "h.{}.mlp.c_fc"),
        *_both(how, "h.{}.mlp.c_proj"),
    ]
    options = {"heads": "n_head", "eps": "layer_norm_epsilon", "activation_name": "activation_function"}
    before = [(as_it_is, "wte.weight"), (as_it_is, "wpe.weight")]
    return Table(name, before, block, _both(as_it_is, "ln_f"), False, "lm_head.weight", options)


GPT2, NANO_GPT = _gpt2("GPT-2", as_it_is), _gpt2("nanoGPT", turned)

_LAYER = "encoder.layer.{}."
BERT = Table(
    "BERT",
    [
        (as_it_is, "embeddings.word_embeddings.weight"),
        (summed, "embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight"),
        *_both(as_it_is, "embeddings.LayerNorm"),
    ],
    [
        *_both(turned, *(f"{_LAYER}attention.self.{part}" for part in ("query", "key", "value"))),
        *_both(turned, f"{_LAYER}attention.output.dense"),
        *_both(as_it_is, f"{_LAYER}attention.output.LayerNorm"),
        *_both(turned, f"{_LAYER}intermediate.dense"),
        *_both(turned, f"{_LAYER}output.dense"),
        *_both(as_it_is, f"{_LAYER}output.LayerNorm"),
    ],
    [
        *_both(turned, "cls.predictions.transform.dense"),
        *_both(as_it_is, "cls.predictions.transform.LayerNorm"),
        (as_it_is, "cls.predictions.bias"),
    ],
    True,
    "cls.predictions.decoder.weight",
    {"heads": "num_attention_heads", "eps": "layer_norm_eps", "activation_name": "hidden_act"},
)
_LAYER = "encoder.layers.encoder_layer_{}."
VIT = Table(
    "ViT",
    [
        (convolved, "conv_proj.weight"),
        (as_it_is, "conv_proj.bias"),
        (vector, "class_token"),
        (vectors, "encoder.pos_embedding"),
    ],
    [
        *_both(as_it_is, f"{_LAYER}ln_1"),
        (turned, f"{_LAYER}self_attention.in_proj_weight"),
        (turned, f"{_LAYER}self_attention.in_proj_bias"),
        *_both(turned, f"{_LAYER}self_attention.out_proj"),
        *_both(as_it_is, f"{_LAYER}ln_2"),
        *_both(turned, f"{_LAYER}mlp.0"),
        *_both(turned, f"{_LAYER}mlp.3"),
    ],
    [*_both(as_it_is, "encoder.ln"), *_both(turned, "heads.head")],
    False,
    "",
    {},
)
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}  # by other names than ours
PREFIXES = "transformer.", "bert.", "_orig_mod.", "module."  # of a model inside another one


def recognised(state):
    """(table, {name there without prefixes: name in the state dict}), or (None, {}): another architecture."""
    names = {}
    for key in state:
        name = key
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        names[name] = key
    for table in (BERT, VIT):
        if table.block[0][1].format(0) in names:
            return table, names
    if GPT2.block[2][1].format(0) in names:
        shape = state[names[GPT2.block[2][1].format(0)]].shape
        return (NANO_GPT if shape[0] > shape[1] else GPT2), names
    return None, {}


def values(model, given, state, table, names, numbers, who):
    """[(parameter, its new value)] for a state dict that was `recognised`; numbers(name) is an array of it.

    given   what the state is of: a config, if it has one, must be of the model's options
    """
    _check_options(model, given, state, table, names, who)
    blocks = 0
    while table.block[0][1].format(blocks) in names:
        blocks += 1
    entries = [*table.before, *((how, *(n.format(b) for n in of)) for b in range(blocks) for how, *of in table.block)]
    entries = [entry for entry in entries if _is_there(entry, names)]
    parameters = model.parameters()
    if not table.optional or len(parameters) > len(entries):
        entries += [entry for entry in table.after if _is_there(entry, names)]
    if len(entries) != len(parameters):
        raise ValueError(
            f"{who}: the state dict is of a {table.name} of {blocks} blocks, which has {len(entries)} arrays here, and"
            f" the model has {len(parameters)}; build it with tn.zoo"
        )
    found = []
    for parameter, (how, *of) in zip(parameters, entries, strict=True):
        missing = [name for name in of if name not in names]
        if missing:
            raise ValueError(f"{who}: the state dict is of a {table.name}, but has no {missing[0]}")
        value = how(*(numbers(names[name]) for name in of))
        if value.shape != parameter.value.shape:
            raise ValueError(
                f"{who}: {parameter.name} has shape {parameter.value.shape}, but {' and '.join(of)} of the"
                f" {table.name} would give it {value.shape}"
            )
        found.append((parameter.value, value))
    if table.tied in names and not np.array_equal(numbers(names[table.tied]), found[0][1]):
        raise ValueError(f"{who}: {table.tied} differs from {entries[0][1]}, and both are one parameter here")
    return found


def _is_there(entry, names):
    return entry[1] in names or not entry[1].endswith(".bias")


def _check_options(model, given, state, table, names, who):
    """A state dict does not tell how many heads there are; a config does, and a module which GELU it has."""
    config, kinds = getattr(given, "config", None), "token_type_embeddings"
    segments = [state[key].shape[0] for name, key in names.items() if name.endswith(f"{kinds}.weight")]
    if table is BERT and (getattr(config, "model_type", "bert") != "bert" or segments == [1]):
        raise ValueError(f"{who}: this is no BERT but a model like RoBERTa, whose positions are counted from 2")
    for name, module in getattr(given, "named_modules", dict)() if table is NANO_GPT else ():
        if name.endswith("mlp.gelu") and hasattr(module, "approximate"):
            theirs = {"none": "gelu", "tanh": "gelu_tanh"}[module.approximate]
            for block in model.layers:
                if getattr(block, "activation_name", theirs) != theirs:
                    raise ValueError(f"{who}: {block.label} has {block.activation_name!r}, but {name} is {theirs!r}")
    for name, module in getattr(given, "named_modules", dict)() if table is VIT else ():
        for block in model.layers if hasattr(module, "num_heads") else ():
            if getattr(block, "heads", module.num_heads) != module.num_heads:
                raise ValueError(f"{who}: {block.label} has heads={block.heads}, but {name} {module.num_heads}")
    for block in model.layers if config is not None else ():
        if hasattr(block, "mlp_ratio"):
            for option, name in table.options.items():
                theirs = getattr(config, name, None)
                theirs, ours = ACTIVATIONS.get(theirs, theirs), getattr(block, option)
                if theirs is not None and theirs != ours:
                    raise ValueError(f"{who}: {block.label} has {option}={ours!r}, but the {table.name} {theirs!r}")
