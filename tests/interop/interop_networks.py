"""What the tests of interop share: networks of PyTorch's, their state dicts in other orders, and the comparisons."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import tinynet as tn
from tinynet.interop import from_torch


def channels_first(x):
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy() if x.ndim == 4 else x.copy())


def assert_predicts_the_same(model, network):
    x = np.random.default_rng(0).standard_normal((5, *model.input_shape))
    with torch.no_grad():
        expected = network.eval()(channels_first(x)).numpy()
    assert np.abs(model.predict(x) - expected).max() <= 1e-9 * np.abs(expected).max()


def assert_refused(model, given, message, error=ValueError, **options):
    """Nothing has changed then."""
    values, buffers = model.flat_values.copy(), {key: buffer.copy() for key, buffer in model.buffers().items()}
    with pytest.raises(error, match=f"^from_torch: .*{message}"):
        from_torch(model, given, **options)
    assert np.array_equal(model.flat_values, values)
    assert all(np.array_equal(model.buffers()[key], buffer) for key, buffer in buffers.items())


def by_name(network):
    """Its state dict sorted as text, as safetensors' load_file returns it."""
    return dict(sorted(network.state_dict().items()))


def shuffled(network, seed=0):
    items = list(network.state_dict().items())
    random.Random(seed).shuffle(items)
    return dict(items)


def dense(count, width=4, **options):
    """`count` layers that no shape tells apart."""
    layers = [tn.Dense(width, activation="tanh", **options) for _ in range(count)]
    return tn.Sequential(layers, width, dtype="float64")


class Named(nn.Module):
    """Linear modules of one shape, which are defined in the order of `names`, and called in that of `called`."""

    def __init__(self, names, called=None, width=4, bias=True):
        super().__init__()
        self.called = called or names
        for name in names:
            self.add_module(name, nn.Linear(width, width, bias=bias).double())

    def forward(self, x):
        for name in self.called:
            x = torch.tanh(self.get_submodule(name)(x))
        return x
