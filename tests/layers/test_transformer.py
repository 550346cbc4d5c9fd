"""TransformerBlock, PositionEmbedding, ClassToken and Select within models: against PyTorch, and their promises."""

import numpy as np
import pytest
import torch
from test_layers import assert_close

import tinynet as tn

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS = pytest.mark.parametrize("norm_first", [True, False], ids=["norms first", "norms behind"])
BOTH_WAYS = pytest.mark.parametrize("causal", [False, True], ids=["encoder", "decoder"])


def poisoned(array, lengths, with_what=np.nan):
    array = array.copy()
    for row, length in zip(array, lengths, strict=True):
        row[length:] = with_what
    return array


def with_numbers(model, seed=0):
    model.flat_values = np.random.default_rng(seed).normal(0, 0.4, model.flat_values.shape)
    return model


# --- fifty steps beside PyTorch's ---------------------------------------------------------------------------------


class Encoder(torch.nn.Module):
    """What `trained` trains, in PyTorch: words and positions, two blocks, a Linear."""

    def __init__(self, norm_first, causal, activation, bias):
        super().__init__()
        self.words, self.positions = torch.nn.Embedding(20, 12), torch.nn.Embedding(9, 12)
        self.blocks = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(
                12, 3, 24, 0.0, activation, batch_first=True, norm_first=norm_first, bias=bias
            )
            for _ in range(2)
        )
        self.head, self.causal = torch.nn.Linear(12, 20), causal

    def forward(self, x, padding):
        x = self.words(x) + self.positions.weight[: x.shape[1]]
        closed = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) if self.causal else None
        for block in self.blocks:
            x = block(x, src_mask=closed, src_key_padding_mask=padding)
        return self.head(x)


@BLOCKS
@BOTH_WAYS
@pytest.mark.parametrize(("kind", "bias"), [("relu", True), ("gelu", False)])
@pytest.mark.parametrize("some", [False, True], ids=["whole", "with lengths"])
def test_fifty_steps_of_training_agree_with_pytorchs(norm_first, causal, kind, bias, some):
    options = {"causal": causal, "norm_first": norm_first, "activation": kind, "bias": bias, "mlp_ratio": 2}
    blocks = [tn.TransformerBlock(3, **options) for _ in range(2)]
    model = tn.Sequential([tn.Embedding(20, 12), tn.PositionEmbedding(9), *blocks, tn.Dense(20)], 9)
    torch.manual_seed(0)
    network = Encoder(norm_first, causal, kind, bias)
    with torch.no_grad():
        network.words.weight[...], network.positions.weight[...] = map(tensor, model.parameters()[:2])
    inner = tn.Sequential([*(tn.TransformerBlock(3, **options) for _ in range(2)), tn.Dense(20)], (9, 12))
    inner.flat_values = np.concatenate([parameter.value.ravel() for parameter in model.parameters()[2:]])
    row = torch.nn.Sequential(*network.blocks, network.head)
    row.load_state_dict(tn.interop.to_torch(inner))
    ours, theirs = tn.SGD(model, lr=0.02, momentum=0.9), torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    rng, losses = np.random.default_rng(0), []
    for _ in range(50):
        x = rng.integers(0, 20, (4, 9))
        lengths = rng.integers(1, 10, 4) if some else np.full(4, 9)
        targets = (x + np.roll(x, 1, axis=1)) % 20
        targets[np.arange(9) >= lengths[:, None]] = -100
        logits = model.forward((x, lengths) if some else x, training=True)
        loss, dlogits = tn.softmax_cross_entropy(logits, targets)
        model.backward(dlogits)
        ours.step()
        padding = torch.arange(9) >= torch.from_numpy(lengths)[:, None]
        found = network(torch.from_numpy(x), padding if some else None)
        expected = torch.nn.functional.cross_entropy(found.flatten(0, 1), torch.from_numpy(targets).flatten())
        theirs.zero_grad()
        expected.backward()
        theirs.step()
        losses.append((loss, expected.item()))
    losses = np.array(losses)
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-4)
    assert losses[-1, 0] < losses[0, 0]


def tensor(parameter):
    return torch.from_numpy(parameter.value.copy())


# --- promises -----------------------------------------------------------------------------------------------------


@BLOCKS
@BOTH_WAYS
def test_a_padded_batch_gives_each_sequence_what_it_gets_alone(norm_first, causal):
    block = tn.TransformerBlock(2, causal, norm_first=norm_first)
    model = with_numbers(tn.Sequential([tn.PositionEmbedding(8), block, tn.Dense(3)], (8, 6), dtype="float64"))
    rng, lengths = np.random.default_rng(0), np.array([5, 8, 0, 1])
    x, g = rng.normal(size=(4, 8, 6)), rng.normal(size=(4, 8, 3))
    for row, length in zip(g, lengths, strict=True):
        row[length:] = 0
    y = model.forward((poisoned(x, lengths), lengths), training=True)
    dx = model.backward(poisoned(g, lengths), input_grad=True)
    total = 0
    for n, length in enumerate(lengths):
        if length:
            alone = model.forward(x[n : n + 1, :length], training=True)
            np.testing.assert_allclose(y[n, :length], alone[0], rtol=1e-12)
            assert_close(dx[n, :length], model.backward(g[n : n + 1, :length], input_grad=True)[0], 1e-12)
            total = total + model.flat_grads
    model.forward((poisoned(x, lengths), lengths), training=True)
    model.backward(poisoned(g, lengths))
    assert_close(model.flat_grads.copy(), total, 1e-12)


@BLOCKS
def test_a_block_by_itself_minds_lengths_too(norm_first):
    block = tn.TransformerBlock(2, norm_first=norm_first, dropout=0.3)
    block.build((7, 4), np.float64, np.random.default_rng(0))
    rng, lengths = np.random.default_rng(0), np.array([7, 3, 0])
    x, g = rng.normal(size=(2, 3, 7, 4))
    found = []
    for filling in (0, np.nan):
        for layer in block.walk():
            if layer.state is not None:
                layer.state = 5, 0
        y = block.forward(poisoned(x, lengths, filling), training=True, lengths=lengths)
        dx = block.backward(poisoned(g, lengths, filling))
        found.append([y, dx, *(parameter.grad.copy() for parameter in block.parameters)])
    for a, b in zip(*found, strict=True):
        assert np.array_equal(a, b)
    assert not found[0][0][1, 3:].any()
    assert not found[0][1][1, 3:].any()


@BLOCKS
def test_later_tokens_change_no_bit_of_earlier_logits(norm_first):
    blocks = [tn.TransformerBlock(2, causal=True, norm_first=norm_first) for _ in range(2)]
    layers = [tn.Embedding(11, 8), tn.PositionEmbedding(40), *blocks, tn.LayerNorm(), tn.Dense(11)]
    model, x = with_numbers(tn.Sequential(layers, 40)), np.random.default_rng(0).integers(0, 11, (3, 40))
    whole = model.forward(x)
    for t in (1, 2, 7, 16, 39):
        other = np.where(np.arange(40) < t, x, (x + 1) % 11)
        np.testing.assert_array_equal(model.forward(other)[:, :t], whole[:, :t])
        np.testing.assert_array_equal(model.forward(x[:, :t]), whole[:, :t])


@BLOCKS
def test_a_text_read_token_by_token_gives_the_logits_of_the_whole(norm_first):
    blocks = [tn.TransformerBlock(2, causal=True, norm_first=norm_first) for _ in range(2)]
    layers = [tn.Embedding(11, 8), tn.PositionEmbedding(10), *blocks, tn.LayerNorm(), tn.Dense(11)]
    model = with_numbers(tn.Sequential(layers, 10))
    x, state = np.random.default_rng(0).integers(0, 11, (3, 10)), {}
    pieces = [model.forward(x[:, t : t + 1], state=state) for t in range(10)]
    whole = model.forward(x)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"PositionEmbedding \(layer 1\): sequence 0 goes on to 11 positions"):
        model.forward(x[:, :1], state=state)


def test_a_block_can_be_copied_and_saved(tmp_path):
    def made(seed):
        return tn.Sequential([tn.TransformerBlock(2, dropout=0.1), tn.Select(0), tn.Dense(2)], (5, 4), seed)

    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    model, other = made(0), made(1)
    tn.save(model, tmp_path / "model")
    tn.load(other, tmp_path / "model")
    assert np.array_equal(other.predict(x), model.predict(x))
    names = [parameter.name for parameter in model.parameters()]
    assert names[:4] == ["0.0.0.weight", "0.0.0.bias", "0.0.1.qkv_weight", "0.0.1.qkv_bias"]
    assert tn.gradcheck.check(model, x.astype(float))
    assert "MultiHeadAttention" in str(model.summary())
    assert str(tn.explain(model, x, [0, 1, 1], "softmax_cross_entropy"))


def test_dropout_of_a_block_is_where_it_says():
    block = tn.TransformerBlock(2, dropout=0.5)
    model = tn.Sequential([block], (5, 4))
    kinds = [[type(layer).__name__ for layer in residual.layers] for residual in block.layers]
    assert kinds == [["LayerNorm", "MultiHeadAttention", "Dropout"], ["LayerNorm", "Dense", "Dense", "Dropout"]]
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    assert not np.array_equal(model.forward(x, training=True), model.forward(x))


# --- positions, tokens, and the one that is selected --------------------------------------------------------------


def test_positions_after_a_state_have_gradients_of_their_own():
    layer = tn.PositionEmbedding(6)
    layer.build((6, 2), np.float64, np.random.default_rng(0))
    rng, state = np.random.default_rng(0), {}
    x, g = rng.normal(size=(2, 2, 6, 2))
    layer.forward(x[:, :3], lengths=[3, 1], state=state)
    y = layer.forward(x[:, 3:], training=True, lengths=[3, 2], state=state)
    w = layer.parameters[0].value
    np.testing.assert_array_equal(y[0], x[0, 3:] + w[3:])
    np.testing.assert_array_equal(y[1, :2], x[1, 3:5] + w[1:3])
    dx = layer.backward(poisoned(g[:, 3:], [3, 2]))
    expected = np.zeros((6, 2))
    expected[3:] += g[0, 3:]
    expected[1:3] += g[1, 3:5]
    np.testing.assert_array_equal(layer.parameters[0].grad, expected)
    np.testing.assert_array_equal(dx, poisoned(g[:, 3:], [3, 2], 0))


def test_a_class_token_comes_first_and_is_found_again():
    model = tn.Sequential([tn.ClassToken(), tn.Select(0)], (4, 3))
    x = np.random.default_rng(0).normal(size=(2, 4, 3))
    w = model.parameters()[0].value
    np.testing.assert_array_equal(model.forward((x, [4, 0]), training=True), [w, w])
    dx = model.backward([[1, 2, 3], [4, 5, 6]], input_grad=True)
    np.testing.assert_array_equal(model.parameters()[0].grad, [5, 7, 9])
    assert not dx.any()
    with_end = tn.Sequential([tn.ClassToken(), tn.Select(-1)], (4, 3), dtype="float64")
    y = with_end.forward((poisoned(x, [4, 2]), [4, 2]), training=True)
    np.testing.assert_array_equal(y, [x[0, 3], x[1, 1]])
    dx = with_end.backward(np.ones((2, 3)), input_grad=True)
    np.testing.assert_array_equal(dx.sum(axis=2), [[0, 0, 0, 3], [0, 3, 0, 0]])


def test_select_goes_by_each_sequences_own_end():
    layer = tn.Select(-2)
    layer.build((5, 1), np.float64, None)
    x = np.arange(15.0).reshape(3, 5, 1)
    np.testing.assert_array_equal(layer.forward(x, lengths=[5, 2, 3])[:, 0], [3, 5, 11])
    np.testing.assert_array_equal(layer.forward(x)[:, 0], [3, 8, 13])
    with pytest.raises(ValueError, match="Select: sequence 1 has 1 positions, so no position -2"):
        layer.forward(x, lengths=[5, 1, 3])


@pytest.mark.parametrize(
    ("construct", "error", "message"),
    [
        (lambda: tn.TransformerBlock(0), ValueError, "TransformerBlock: heads must be at least 1"),
        (lambda: tn.TransformerBlock(2, dropout=1.5), ValueError, "TransformerBlock: dropout must be at least 0"),
        (lambda: tn.TransformerBlock(2, mlp_ratio=0), ValueError, "mlp_ratio must be a finite number above 0, got 0"),
        (lambda: tn.TransformerBlock(2, activation="geglu"), ValueError, "TransformerBlock: unknown activation"),
        (lambda: tn.TransformerBlock(2, eps=0), ValueError, "TransformerBlock: eps must be a finite number above 0"),
        (lambda: tn.Sequential([tn.TransformerBlock(2)], (4, 5)), ValueError, r"\(layer 0.0.1\): 5 numbers a position"),
        (lambda: tn.Sequential([tn.TransformerBlock(2)], 4), ValueError, r"TransformerBlock \(layer 0\): expected seq"),
        (lambda: tn.PositionEmbedding(0), ValueError, "PositionEmbedding: length must be at least 1"),
        (lambda: tn.Sequential([tn.PositionEmbedding(3)], (4, 2)), ValueError, "vectors for 3 positions, .* have 4"),
        (lambda: tn.Sequential([tn.PositionEmbedding(3)], 3), ValueError, r"expected sequences, input shape \(T, C\)"),
        (lambda: tn.Sequential([tn.ClassToken()], 3), ValueError, r"ClassToken \(layer 0\): expected sequences"),
        (lambda: tn.Select(1.0), TypeError, "Select: position must be a whole number"),
        (lambda: tn.Sequential([tn.Select(4)], (4, 2)), ValueError, "no position 4 in sequences of 4"),
        (lambda: tn.Sequential([tn.Select(-5)], (4, 2)), ValueError, "no position -5 in sequences of 4"),
        (lambda: tn.GELU("erf"), ValueError, "GELU: approximate must be None or \"tanh\", got 'erf'"),
    ],
)
def test_what_they_are_not_made_for_is_refused(construct, error, message):
    with pytest.raises(error, match=message):
        construct()


def test_those_that_can_not_go_on_from_a_state_say_so():
    x = np.zeros((1, 4, 2))
    for layers, message in (
        ([tn.ClassToken()], r"ClassToken \(layer 0\): it can't go on from a state"),
        ([tn.Select(0)], r"Select \(layer 0\): it can't go on from a state"),
        ([tn.TransformerBlock(1)], r"MultiHeadAttention \(layer 0.0.1\): only a causal one"),
    ):
        with pytest.raises(ValueError, match=message):
            tn.Sequential(layers, (4, 2)).forward(x, state={})
