"""MultiHeadAttention against its plain loops, central differences and PyTorch; and its promises."""

import itertools

import numba
import numpy as np
import pytest
import torch
from test_layers import assert_close, both_dtypes, use_plain_loops

import tinynet as tn
from tinynet.kernels.caches import cache_size
from tinynet.kernels.matmul import THREADS_FROM
from tinynet.layers.attention import seen_keys

pytestmark = pytest.mark.usefixtures("one_thread")

# (N, T, heads, d): one head, widths that no vector divides, one position, lengths around vectors and blocks of queries
SIZES = [
    (3, 1, 1, 1), (2, 1, 3, 4), (2, 2, 2, 1), (3, 5, 1, 3), (2, 7, 2, 5), (2, 16, 1, 16), (1, 17, 3, 7), (3, 31, 2, 8),
    (2, 33, 4, 9), (2, 64, 4, 32), (2, 65, 3, 20), (1, 127, 1, 33), (2, 130, 2, 4), (1, 200, 1, 64), (1, 300, 2, 6),
]  # fmt: skip
CONFIGURATIONS = [
    (*size, causal, lengths) for size, causal, lengths in itertools.product(SIZES, (False, True), ("all", "some"))
]


def d_that_spans_the_cache(T, heads):
    """With so many numbers a head, rows of q, k and v of T positions take more memory than the L2 cache has."""
    return cache_size(2) // (T * 3 * heads * 4) + 1


FAR = [(2, 130, 2, d_that_spans_the_cache(130, 2), causal, kind) for causal, kind in ((False, "all"), (True, "some"))]


def built(N, T, heads, d, causal=False, dtype=np.float64, **options):
    """The layer with random numbers in all its parameters, an input and a gradient of its output."""
    rng = np.random.default_rng([N, T, heads, d])
    layer = tn.MultiHeadAttention(heads, causal, **options)
    layer.build((T, heads * d), dtype, rng)
    for parameter in layer.parameters:
        parameter.value[...] = rng.normal(0, 1 / np.sqrt(heads * d), parameter.value.shape)
        parameter.grad[...] = np.nan
    x, g = rng.normal(size=(2, N, T, heads * d)).astype(dtype)
    return layer, x, g


def lengths_for(N, T, kind):
    return None if kind == "all" else np.array([T, 0, *np.random.default_rng(T).integers(0, T + 1, N)])[:N]


def poisoned(array, lengths):
    """With NaN in the padding."""
    array = array.copy()
    for row, length in zip(array, [] if lengths is None else lengths, strict=lengths is not None):
        row[length:] = np.nan
    return array


def results(layer, x, g, lengths=None, **more):
    y = layer.forward(x, training=True, lengths=lengths, **more)
    dx = layer.backward(g)
    return [y, dx, *(parameter.grad.copy() for parameter in layer.parameters)]


def in_pytorch(layer, x, g, lengths):
    """What nn.MultiheadAttention gives, with zeros where we promise zeros: PyTorch's rows without a key are NaN."""
    C, T, dtype = x.shape[2], x.shape[1], torch.from_numpy(x).dtype
    module = torch.nn.MultiheadAttention(C, layer.heads, bias=layer.bias, batch_first=True, dtype=dtype)
    own = [torch.from_numpy(parameter.value.T.copy()) for parameter in layer.parameters]
    theirs = [module.in_proj_weight, module.in_proj_bias, module.out_proj.weight, module.out_proj.bias]
    theirs = [array for array in theirs if array is not None]
    with torch.no_grad():
        for parameter, value in zip(theirs, own, strict=True):
            parameter.copy_(value)
    counts = torch.full((len(x),), T) if lengths is None else torch.from_numpy(lengths)
    padding = torch.arange(T) >= counts[:, None]
    some = (counts > 0).nonzero()[:, 0]
    given = torch.from_numpy(x).requires_grad_()
    closed = torch.ones(T, T, dtype=torch.bool).triu(1) if layer.causal else None
    y = torch.zeros_like(given)
    found = module(given[some], given[some], given[some], key_padding_mask=padding[some], attn_mask=closed)[0]
    y = y.index_add(0, some, found).masked_fill(padding[..., None], 0)
    y.backward(torch.from_numpy(g))
    zeros = [torch.zeros_like(each) if each.grad is None else each.grad for each in (given, *theirs)]
    return [y.detach().numpy(), zeros[0].numpy(), *(each.numpy().T for each in zeros[1:])]


# --- right ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configuration", CONFIGURATIONS + FAR, ids=str)
@both_dtypes
def test_values_and_gradients_are_pytorchs_with_nan_in_the_padding(configuration, dtype):
    *size, causal, kind = configuration
    layer, x, g = built(*size, causal, dtype, bias=size[1] % 2 == 1)
    lengths = lengths_for(*size[:2], kind)
    found = results(layer, poisoned(x, lengths), poisoned(g, lengths), lengths)
    for ours, theirs in zip(found, in_pytorch(layer, x, g, lengths), strict=True):
        assert ours.dtype == dtype
        assert_close(ours, theirs, 1e-5 if dtype == np.float32 else 1e-12)
    if lengths is not None:
        padding = np.arange(size[1]) >= lengths[:, None]
        assert not found[0][padding].any()
        assert not found[1][padding].any()


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_gradients_are_what_central_differences_say(configuration, dropout):
    *size, causal, kind = configuration
    layer, x, g = built(*size, causal, dropout=dropout)
    lengths, state = lengths_for(*size[:2], kind), layer.state

    def value():
        layer.state = state  # the same weights are dropped
        return np.sum(g * layer.forward(x, training=True, lengths=lengths))

    value()
    layer.state = state
    _, dx, *grads = results(layer, x, g, lengths)
    rng, h = np.random.default_rng(0), 1e-5
    for array, gradient in zip((x, *(p.value for p in layer.parameters)), (dx, *grads), strict=True):
        flat = array.reshape(-1)
        entries = rng.permutation(flat.size)[:5]
        slopes = []
        for entry in entries:
            middle = flat[entry]
            flat[entry] = middle + h
            above = value()
            flat[entry] = middle - h
            slopes.append((above - value()) / (2 * h))
            flat[entry] = middle
        assert np.abs(gradient.reshape(-1)[entries] - slopes).max() <= 1e-7 * np.abs(gradient).max(initial=1e-3)


@pytest.mark.parametrize("size", [(3, 1, 1, 2), (3, 9, 2, 3), (2, 40, 2, 5)], ids=str)
@pytest.mark.parametrize(("causal", "dropout"), [(False, 0.0), (True, 0.3), (False, 0.6)])
@pytest.mark.parametrize("kind", ["all", "some"])
def test_the_kernels_compute_what_the_plain_loops_do(size, causal, dropout, kind, monkeypatch):
    layer, x, g = built(*size, causal, dropout=dropout)
    lengths, state = lengths_for(*size[:2], kind), layer.state

    def both_pieces():
        layer.state = state
        found = results(layer, x, g, lengths)
        if causal:
            before = {}
            layer.forward(x[:, ::2], lengths=None if lengths is None else lengths // 2, state=before)
            found += results(layer, x, g, lengths, state=before)
        return found

    found = both_pieces()
    assert {"attention_forward", "attention_backward"} <= set(use_plain_loops(monkeypatch))
    for ours, plain in zip(found, both_pieces(), strict=True):
        assert_close(ours, plain, 1e-12)


def test_two_words_attend_to_each_other_as_computed_by_hand():
    layer = tn.MultiHeadAttention(1, bias=False)
    layer.build((2, 1), np.float64, np.random.default_rng(0))
    layer.parameters[0].value[...], layer.parameters[1].value[...] = [[1, 1, 2]], 1  # q = k = x, v = 2x
    half = 1 / (1 + np.exp(-1.0))
    # x = (1, 2): S = [[1, 2], [2, 4]], so P = [[1 - half, half], [1 - s(2), s(2)]], and y = P (2, 4)
    two = 1 / (1 + np.exp(-2.0))
    y = layer.forward([[[1.0], [2.0]]])
    np.testing.assert_allclose(y[0, :, 0], [2 + 2 * half, 2 + 2 * two], rtol=1e-14)
    np.testing.assert_allclose(layer.weights([[[1.0], [2.0]]])[0, 0], [[1 - half, half], [1 - two, two]], rtol=1e-14)


@pytest.mark.parametrize("causal", [False, True])
def test_the_weights_are_those_that_the_output_was_made_with(causal):
    layer, x, _ = built(3, 9, 2, 4, causal, bias=False)
    lengths = np.array([9, 0, 4])
    P = layer.weights(poisoned(x, lengths), lengths)
    v = (x @ layer.parameters[0].value)[..., 16:].reshape(3, 9, 2, 4)
    v[np.arange(9) >= lengths[:, None]] = 0
    o = np.einsum("nhtj,njhd->nthd", P, v).reshape(x.shape)
    np.testing.assert_allclose(o @ layer.parameters[1].value, layer.forward(x, lengths=lengths), atol=1e-14)
    sees = seen_keys(9, 9, causal, np.zeros(3, int), lengths)
    assert (P[~np.broadcast_to(sees[:, None], P.shape)] == 0).all()
    np.testing.assert_allclose(P.sum(-1), np.broadcast_to(sees.any(-1)[:, None], (3, 2, 9)), rtol=1e-14)


# --- promises ---------------------------------------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("size", [(1, 9, 2, 4), (2, 64, 2, 8), (1, 150, 1, 16)], ids=str)
def test_later_tokens_change_no_bit_of_earlier_outputs(size, dtype):
    layer, x, _ = built(*size, True, dtype)
    y = layer.forward(x)
    for t in range(0, size[1], 1 + size[1] // 10):
        other = x.copy()
        other[:, t:] = 1e3 * np.random.default_rng(t).normal(size=other[:, t:].shape)
        assert np.array_equal(layer.forward(other)[:, :t], y[:, :t])
        other[:, t:] = np.nan
        assert np.array_equal(layer.forward(other)[:, :t], y[:, :t])
        assert np.isnan(layer.forward(other)[:, t:]).all()


@both_dtypes
@pytest.mark.parametrize(("T", "d"), [(40, 16), (254, 16), (257, 16), (300, 16), (40, d_that_spans_the_cache(600, 1))])
def test_appended_tokens_change_no_bit_of_earlier_outputs(T, d, dtype):
    layer, x, _ = built(1, 600, 1, d, True, dtype)
    y, state = layer.forward(x), {}
    assert np.array_equal(layer.forward(x[:, :T]), y[:, :T])
    assert np.array_equal(layer.forward(np.repeat(x, 2, axis=0), lengths=[T, 600])[0, :T], y[0, :T])
    pieces = [layer.forward(x[:, some], state=state) for some in (slice(0, T), slice(T, T + 7), slice(T + 7, 600))]
    assert np.array_equal(np.concatenate(pieces, axis=1), y)


@both_dtypes
@pytest.mark.parametrize("causal", [False, True])
def test_the_bits_are_the_same_for_any_number_of_threads_and_in_any_batch(causal, dtype):
    N, T, heads, d = 6, 70, 3, 16
    assert N * T * T * heads * d * 3 > THREADS_FROM
    layer, x, g = built(N, T, heads, d, causal, dtype, dropout=0.2)
    lengths, found = np.array([70, 3, 0, 64, 33, 70]), []
    for threads in range(1, 1 + min(4, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        layer.state = 7, 0
        found.append(results(layer, x, g, lengths))
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            assert np.array_equal(a, b)
    for n in range(N):
        layer.state, layer.first_row = (7, 0), n  # that its part of the batch's weights is dropped
        some = slice(n, n + 1), slice(0, max(1, lengths[n]))
        y, dx, *_ = results(layer, x[some].copy(), g[some].copy(), lengths[n : n + 1])
        assert np.array_equal(y, found[0][0][some])
        assert np.array_equal(dx, found[0][1][some])


@both_dtypes
@pytest.mark.parametrize("causal", [False, True])
def test_huge_logits_stay_finite_and_right(causal, dtype):
    layer, x, g = built(2, 20, 2, 4, causal, dtype, bias=False)
    layer.parameters[0].value[:, :16] *= 70  # q and k: logits of up to some 10^4
    wide, *_ = built(2, 20, 2, 4, causal, bias=False)
    for parameter, other in zip(wide.parameters, layer.parameters, strict=True):
        parameter.value[...] = other.value
    z = (x.astype(float) @ wide.parameters[0].value)[..., :16]
    assert np.abs(z).max() ** 2 > 5e3
    for ours, expected in zip(results(layer, x, g), results(wide, x.astype(float), g.astype(float)), strict=True):
        assert np.isfinite(ours).all()
        # float32 rounds such logits to 0.001, and sums of four such products to some of that
        assert_close(ours, expected, 5e-3 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("pieces", [(4, 1, 1, 3), (1,) * 9, (9,), (2, 7)], ids=str)
def test_a_sequence_in_pieces_with_a_state_is_one_run(pieces):
    layer, x, _ = built(3, 9, 2, 4, True)
    state, ends = {}, np.cumsum((0, *pieces))
    found = [layer.forward(x[:, start:end], state=state) for start, end in itertools.pairwise(ends)]
    np.testing.assert_allclose(np.concatenate(found, axis=1), layer.forward(x), rtol=1e-12, atol=1e-14)


def test_pieces_of_unequal_length_go_on_each_where_it_ended():
    layer, x, _ = built(3, 9, 2, 4, True)
    first, second, state = np.array([4, 0, 2]), np.array([3, 5, 0]), {}
    a = layer.forward(poisoned(x[:, :4], first), lengths=first, state=state)
    b = layer.forward(poisoned(x[:, 4:], second), lengths=second, state=state)
    for n in range(3):
        whole = np.concatenate([x[n, : first[n]], x[n, 4 : 4 + second[n]]])[None]
        y = layer.forward(whole)[0]
        np.testing.assert_allclose(np.concatenate([a[n, : first[n]], b[n, : second[n]]]), y, rtol=1e-12)
        assert not a[n, first[n] :].any()
        assert not b[n, second[n] :].any()


def test_a_state_is_a_constant_to_the_backward_pass():
    layer, x, g = built(2, 8, 2, 3, True)
    before = {}
    layer.forward(x[:, :5], state=before)

    def value(later):
        return np.sum(g[:, 5:] * layer.forward(later, state=dict(before)))

    layer.forward(x[:, 5:], training=True, state=dict(before))
    dx = layer.backward(g[:, 5:])
    later = x[:, 5:].copy()
    for index in np.ndindex(later.shape):
        middle = later[index]
        later[index] = middle + 1e-5
        above = value(later)
        later[index] = middle - 1e-5
        slope = (above - value(later)) / 2e-5
        later[index] = middle
        assert abs(dx[index] - slope) <= 1e-7 * np.abs(dx).max()


def test_what_a_state_held_is_left_as_it_was():
    layer, x, _ = built(2, 6, 1, 4, True)
    state = {}
    layer.forward(x[:, :3], state=state)
    kept, numbers = state[layer], state[layer][0].copy()
    layer.forward(x[:, 3:], state=state)
    assert np.array_equal(kept[0], numbers)
    assert state[layer][0] is not kept[0]


def test_a_batch_of_nothing_gives_nothing():
    layer, x, g = built(3, 5, 2, 2)
    y, dx, *grads = results(layer, x[:0], g[:0], np.zeros(0, int))
    assert y.shape == dx.shape == (0, 5, 4)
    assert not any(grad.any() for grad in grads)
    y, dx, *grads = results(layer, x, g, np.zeros(3, int))
    assert not any(array.any() for array in (y, dx, *grads[:3]))


# --- dropout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_weights_at_its_rate_and_keeps_their_mean(rate):
    N, T, heads, d = 4, 64, 2, 64
    layer = tn.MultiHeadAttention(heads, dropout=rate, bias=False)
    layer.build((T, heads * d), np.float64, np.random.default_rng(0))
    C = heads * d
    layer.parameters[0].value[...] = 0  # so that P = 1 / T everywhere
    layer.parameters[0].value[:, 2 * C :] = np.eye(C)
    layer.parameters[1].value[...] = np.eye(C)
    x = np.tile(np.concatenate([np.eye(T)] * heads, axis=1), (N, 1, 1))  # v[j] has a 1 in column j, in each head
    masks = []
    for _ in range(3):
        R = layer.forward(x, training=True).reshape(N, T, heads, T) * T
        np.testing.assert_allclose(R[R > 0], 1 / (1 - rate), rtol=1e-12)
        masks.append(R == 0)
        deviation = np.sqrt(rate * (1 - rate))
        for axes in ((0, 2, 3), (0, 1, 2), (0, 1, 3), (1, 2, 3)):  # of each query, key, head and sample
            share = masks[-1].mean(axis=axes)
            assert np.abs(share - rate).max() < 5 * deviation * np.sqrt(share.size / R.size)
    together = np.stack(masks).reshape(3, N * T * heads * T) - rate
    assert np.abs(np.corrcoef(together)[np.triu_indices(3, 1)]).max() < 0.02
    np.testing.assert_array_equal(layer.forward(x), layer.forward(x))
    np.testing.assert_allclose(layer.forward(x), 1 / T, rtol=1e-12)


def test_a_position_drops_the_same_weights_however_long_its_batch_is():
    layer, x, _ = built(2, 12, 2, 3, True, dropout=0.5)
    layer.state = 5, 0
    y = layer.forward(x, training=True)
    layer.state = 5, 0
    np.testing.assert_allclose(layer.forward(x[:, :7], training=True), y[:, :7], rtol=1e-13)


# --- what cannot be -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("construct", "error", "message"),
    [
        (lambda: tn.MultiHeadAttention(0), ValueError, "MultiHeadAttention: heads must be at least 1, got 0"),
        (lambda: tn.MultiHeadAttention(2.0), TypeError, "MultiHeadAttention: heads must be a whole number"),
        (lambda: tn.MultiHeadAttention(2, dropout=1), ValueError, "dropout must be at least 0 and below 1, got 1"),
        (lambda: tn.Sequential([tn.MultiHeadAttention(2)], (4, 5)), ValueError, "5 numbers a position can't be cut"),
        (lambda: tn.Sequential([tn.MultiHeadAttention(2)], 4), ValueError, r"expected sequences, input shape \(T, C\)"),
    ],
)
def test_what_it_is_not_made_for_is_refused(construct, error, message):
    with pytest.raises(error, match=message):
        construct()


def test_lengths_and_states_that_do_not_fit_are_refused():
    layer, x, g = built(3, 5, 2, 2, True)
    with pytest.raises(ValueError, match=r"MultiHeadAttention: the length of sequence 1 is 6, but x \(3, 5, 4\) has 5"):
        layer.forward(x, lengths=[5, 6, 1])
    with pytest.raises(ValueError, match="MultiHeadAttention: expected 3 lengths"):
        layer.forward(x, lengths=[5, 5])
    with pytest.raises(TypeError, match="lengths must be whole numbers"):
        layer.forward(x, lengths=[1.0, 2.0, 3.0])
    state = {}
    layer.forward(x, state=state)
    with pytest.raises(ValueError, match="MultiHeadAttention: the state is of 3 sequences, and x has 2"):
        layer.forward(x[:2], state=state)
    both_ways, *_ = built(3, 5, 2, 2)
    with pytest.raises(ValueError, match="MultiHeadAttention: only a causal one can go on from a state"):
        both_ways.forward(x, state={})
    layer.forward(x[:, :3], training=True)
    with pytest.raises(ValueError, match="expected the gradient of its output"):
        layer.backward(g)
