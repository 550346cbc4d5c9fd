"""LSTM and GRU to and from PyTorch's: values, both directions, in a Sequential and beside a network of one's own."""

import numpy as np
import pytest
import torch
from torch import nn

import tinynet as tn

KINDS = pytest.mark.parametrize("kind", ["LSTM", "GRU"])
BOTH = pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "both"])


def random_model(kind, bidirectional, return_sequences=True, seed=0):
    layers = [getattr(tn, kind)(5, bidirectional, return_sequences), tn.Dense(3)]
    model, rng = tn.Sequential(layers, (7, 4), dtype="float64"), np.random.default_rng(seed)
    model.flat_values = rng.normal(size=model.flat_values.shape)
    return model


@KINDS
@BOTH
@pytest.mark.parametrize("return_sequences", [False, True])
def test_a_model_becomes_a_sequential_and_comes_back(kind, bidirectional, return_sequences):
    model, x = random_model(kind, bidirectional, return_sequences), np.random.default_rng(1).normal(size=(3, 7, 4))
    module = tn.interop.to_torch_module(model)
    y = model.predict(x)
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach().numpy(), y, rtol=1e-9, atol=1e-12)
    other = random_model(kind, bidirectional, return_sequences, seed=2)
    tn.interop.from_torch(other, module)
    np.testing.assert_array_equal(other.flat_values, model.flat_values)
    other = random_model(kind, bidirectional, return_sequences, seed=3)
    tn.interop.from_torch(other, tn.interop.to_torch(model))
    np.testing.assert_array_equal(other.flat_values, model.flat_values)


class Network(nn.Module):
    """The same model as its owner writes it, with two biases of PyTorch's that both count."""

    def __init__(self, kind, bidirectional, **options):
        super().__init__()
        self.recurrent = getattr(nn, kind)(4, 5, batch_first=True, bidirectional=bidirectional, **options)
        self.head = nn.Linear(5 + 5 * bidirectional, 3)
        self.double()

    def forward(self, x):
        return self.head(self.recurrent(x)[0])


@KINDS
@BOTH
def test_a_networks_weights_come_in_and_go_out(kind, bidirectional):
    network, x = Network(kind, bidirectional), np.random.default_rng(1).normal(size=(3, 7, 4))
    y = network(torch.from_numpy(x)).detach().numpy()
    for given in (network, network.state_dict()):
        model = random_model(kind, bidirectional)
        tn.interop.from_torch(model, given)
        np.testing.assert_allclose(model.predict(x), y, rtol=1e-9, atol=1e-12)
    other = Network(kind, bidirectional)
    state = tn.interop.to_torch(model, like=other)
    other.load_state_dict(state)
    np.testing.assert_allclose(other(torch.from_numpy(x)).detach().numpy(), y, rtol=1e-9, atol=1e-12)
    hidden = state["recurrent.bias_hh_l0"].numpy()
    assert not hidden[: 10 if kind == "GRU" else None].any()  # b goes out as (b, 0), but for GRU's b_n
    assert hidden[10:].any() == (kind == "GRU")


@KINDS
def test_what_computes_something_else_is_refused_and_changes_nothing(kind):
    model = random_model(kind, False)
    before = model.flat_values.copy()
    for network, message in (
        (Network(kind, True), rf"{kind} \(layer 0\) has .* but PyTorch's side has"),
        (Network(kind, False, bias=False), rf"{kind} \(layer 0\) has .* but PyTorch's side has"),
        (Network("GRU" if kind == "LSTM" else "LSTM", False), rf"{kind} \(layer 0\) has"),
    ):
        with pytest.raises(ValueError, match=message):
            tn.interop.from_torch(model, network)
    np.testing.assert_array_equal(model.flat_values, before)
