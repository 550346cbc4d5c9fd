"""MultiHeadAttention and TransformerBlock to and from torch.nn.MultiheadAttention and TransformerEncoderLayer."""

import numpy as np
import pytest
import torch
from torch import nn

import tinynet as tn
from tinynet.interop import from_torch, to_torch, to_torch_module

pytestmark = pytest.mark.usefixtures("one_thread", "one_seed")


def model_of(*layers, seed=0):
    model = tn.Sequential(layers, (5, 8), seed, "float64")
    model.flat_values = np.random.default_rng(seed).normal(0, 0.5, model.flat_values.shape)
    return model


def x_of_three():
    return np.random.default_rng(0).normal(size=(3, 5, 8))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(("activation", "theirs"), [("relu", "relu"), ("gelu", "gelu"), ("gelu_tanh", nn.GELU("tanh"))])
@pytest.mark.parametrize("bias", [True, False])
def test_pytorchs_encoder_is_taken_over_and_given_back(norm_first, activation, theirs, bias):
    options = {"norm_first": norm_first, "bias": bias}
    layer = nn.TransformerEncoderLayer(8, 2, 24, 0.0, theirs, batch_first=True, dtype=torch.float64, **options)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    options = {"activation": activation, "mlp_ratio": 3, **options}
    model = model_of(*(tn.TransformerBlock(2, **options) for _ in range(2)))
    for given in (encoder, encoder.state_dict()):
        model.flat_values = np.zeros_like(model.flat_values)
        from_torch(model, given)
        expected = encoder(torch.from_numpy(x_of_three())).detach().numpy()
        np.testing.assert_allclose(model.predict(x_of_three()), expected, rtol=1e-10, atol=1e-12)
    back = to_torch(model, like=encoder)
    assert back.keys() == encoder.state_dict().keys()
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in back.items())


@pytest.mark.parametrize("bias", [True, False])
def test_pytorchs_attention_is_taken_over_within_a_network_and_given_back(bias):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.attention = nn.Linear(8, 6), nn.MultiheadAttention(6, 3, bias=bias, batch_first=True)
            self.last = nn.Linear(6, 2)

        def forward(self, x):
            x = self.first(x)
            return self.last(self.attention(x, x, x)[0])

    network = Network().double()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    model = model_of(tn.Dense(6), tn.MultiHeadAttention(3, bias=bias), tn.Dense(2))
    from_torch(model, network)
    expected = network(torch.from_numpy(x_of_three())).detach().numpy()
    np.testing.assert_allclose(model.predict(x_of_three()), expected, rtol=1e-10, atol=1e-12)
    network.load_state_dict(to_torch(model, like=network.state_dict()))


@pytest.mark.parametrize("causal", [False, True])
def test_a_model_becomes_a_module_and_comes_back(causal):
    layers = [
        [tn.TransformerBlock(2, causal, norm_first=seed == 0), tn.MultiHeadAttention(4, causal), tn.LayerNorm()]
        for seed in range(2)
    ]
    model = model_of(*layers[0])
    module = to_torch_module(model).eval()
    expected = module(torch.from_numpy(x_of_three())).detach().numpy()
    np.testing.assert_allclose(model.predict(x_of_three()), expected, rtol=1e-10, atol=1e-12)
    other = model_of(tn.TransformerBlock(2, causal), *layers[1][1:], seed=1)
    from_torch(other, module)
    assert np.array_equal(other.flat_values, model.flat_values)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ({}, {"norm_first": False}, "norm_first True, but TransformerEncoderLayer .* norm_first False"),
        ({"heads": 4}, {}, "heads 4, but TransformerEncoderLayer .* heads 2"),
        ({"activation": "gelu"}, {}, "activation gelu, but TransformerEncoderLayer .* activation <function relu"),
        ({"activation": "gelu"}, {"activation": nn.GELU("tanh")}, "activation gelu, but .* activation GELU"),
        ({"eps": 1e-6}, {}, "eps 1e-06, but TransformerEncoderLayer .* eps 1e-05"),
        ({}, {"dropout": 0.1}, "dropout 0.0, but TransformerEncoderLayer .* dropout 0.1"),
        ({"mlp_ratio": 2}, {}, r"has .*linear1.weight \(16, 8\).* but PyTorch's side has .*linear1.weight \(32, 8\)"),
        ({"bias": False}, {}, r"in PyTorch's layout, but PyTorch's side has .*self_attn.in_proj_bias"),
    ],
)
def test_options_that_differ_are_refused_by_name(ours, theirs, message):
    block = {"heads": 2, "activation": "relu", **ours}
    module = {"dropout": 0.0, "norm_first": True, **theirs}
    model = model_of(tn.TransformerBlock(**block))
    before = model.flat_values.copy()
    with pytest.raises(ValueError, match=message):
        from_torch(model, nn.TransformerEncoderLayer(8, 2, 32, batch_first=True, **module))
    assert np.array_equal(model.flat_values, before)


def test_heads_of_attention_must_be_pytorchs():
    with pytest.raises(ValueError, match=r"heads 4, but MultiheadAttention .* heads 2"):
        from_torch(model_of(tn.MultiHeadAttention(4)), nn.MultiheadAttention(8, 2))
