"""LSTM and GRU: against PyTorch, central differences and the plain loops; lengths, states, directions, threads."""

import numba
import numpy as np
import pytest
import torch
from test_layers import assert_close, use_plain_loops

import tinynet as tn
from tinynet.kernels.denormals import CAN

pytestmark = pytest.mark.usefixtures("one_thread")

BOTH = pytest.mark.parametrize("kind", [tn.LSTM, tn.GRU], ids=["LSTM", "GRU"])
DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "both"])

# (N, T, I, H, bidirectional, return_sequences, with lengths, with a state)
SHAPES = [
    (1, 1, 1, 1, False, True, False, False),
    (1, 1, 3, 2, True, False, False, False),
    (3, 1, 5, 4, True, True, True, False),
    (1, 6, 2, 3, False, True, False, True),
    (2, 3, 4, 5, False, False, False, False),
    (4, 5, 1, 7, True, True, False, False),
    (5, 7, 3, 1, True, True, True, False),
    (3, 4, 6, 8, False, True, True, True),
    (2, 9, 7, 16, False, True, False, False),
    (7, 5, 9, 15, True, False, True, False),
    (6, 8, 2, 17, False, True, True, False),
    (13, 4, 11, 12, False, False, True, True),
    (9, 3, 8, 31, True, True, False, False),
    (8, 6, 16, 32, False, True, False, True),
    (11, 10, 5, 33, True, True, True, False),
    (33, 2, 3, 6, False, True, True, False),
    (65, 3, 2, 4, True, True, True, False),
    (70, 4, 4, 9, False, False, False, False),
    (3, 40, 2, 10, False, True, True, False),
    (2, 25, 3, 5, True, False, True, False),
    (16, 12, 20, 40, False, True, False, False),
    (10, 9, 33, 20, True, True, True, False),
    (4, 6, 70, 65, False, True, True, True),
    (20, 5, 17, 64, False, True, True, False),
    (12, 7, 40, 50, True, False, False, False),
    (3, 30, 12, 24, True, True, True, False),
    (1, 17, 100, 48, False, True, False, False),
    (5, 5, 5, 5, False, True, True, False),
    (34, 8, 10, 16, True, True, False, False),
    (2, 2, 2, 2, True, False, True, False),
]


def made(kind, shape, dtype, seed=0):
    """A layer with random parameters; x, with NaN behind the lengths; these or None; a state or None; dy."""
    N, T, I, H, bidirectional, return_sequences, with_lengths, with_state = shape
    rng = np.random.default_rng(seed)
    layer = kind(H, bidirectional=bidirectional, return_sequences=return_sequences)
    output_shape = layer.build((T, I), dtype, rng)
    for parameter in layer.parameters:
        parameter.value = rng.normal(0, H**-0.5, parameter.value.shape)
        parameter.grad = np.full(parameter.value.shape, np.nan)
    x, lengths, state = rng.standard_normal((N, T, I)).astype(dtype), None, None
    if with_lengths:
        lengths = rng.integers(0, T + 1, N)
        lengths[0] = 0
        for row, length in zip(x, lengths, strict=True):
            row[length:] = np.nan
    if with_state:
        state = {layer: tuple(rng.standard_normal((N, H)).astype(dtype) for _ in layer.states)}
    return layer, x, lengths, state, rng.standard_normal((N, *output_shape)).astype(dtype)


def in_pytorch(layer, x, lengths, state, dy):
    """y, dx, the states after and the parameters' gradients: each sequence by itself, without its padding."""
    kind = getattr(torch.nn, layer.torch_names[0])
    D = 1 + layer.bidirectional
    module = kind(x.shape[2], layer.units, batch_first=True, bidirectional=layer.bidirectional).to(torch.float64)
    arrays = dict(module.named_parameters())
    with torch.no_grad():
        for name, array, _ in layer.torch_arrays():
            arrays[name].copy_(torch.from_numpy(array))
    T = x.shape[1]
    ys, dx = np.zeros(dy.shape), np.zeros(x.shape)
    after = [
        np.zeros((len(x), layer.units)) if state is None else a.astype("f8") for a in (state or {}).get(layer, [0])
    ]
    for n in range(len(x)):
        length = T if lengths is None else lengths[n]
        if length == 0:
            if state is not None and not layer.return_sequences:
                ys[n] = after[0][n]
            continue
        some = torch.from_numpy(x[n : n + 1, :length].astype("f8")).requires_grad_()
        before = None
        if state is not None:
            before = tuple(torch.from_numpy(array[n : n + 1].astype("f8"))[None] for array in state[layer])
        y, last = module(some, before if before is None or len(before) == 2 else before[0])
        last = last if isinstance(last, tuple) else (last,)
        if layer.return_sequences:
            ys[n, :length] = y[0].detach()
            y.backward(torch.from_numpy(dy[n : n + 1, :length].astype("f8")))
        else:
            h = last[0].transpose(0, 1).reshape(1, D * layer.units)
            ys[n] = h[0].detach()
            h.backward(torch.from_numpy(dy[n : n + 1].astype("f8")))
        dx[n, :length] = some.grad[0]
        if state is not None:
            for array, part in zip(after, last, strict=True):
                array[n] = part[0, 0].detach()
    zero = {name: np.zeros(tuple(p.shape)) for name, p in arrays.items()}
    gradients = {name: zero[name] if p.grad is None else p.grad.numpy() for name, p in arrays.items()}
    return ys, dx, after, gradients


def gradients_of(layer):
    """{PyTorch's name: gradient}; b_ih and b_hh have that of b, but of GRU's candidate."""
    found, kinds = {}, len(layer.parameters) // (1 + layer.bidirectional)
    for d, suffix in enumerate(("_l0", "_l0_reverse")[: 1 + layer.bidirectional]):
        w, u, b, *b_n = (p.grad for p in layer.parameters[d * kinds : (d + 1) * kinds])
        hidden = np.concatenate([b[: 2 * layer.units], *b_n]) if b_n else b
        arrays = {"weight_ih": w.T, "weight_hh": u.T, "bias_ih": b, "bias_hh": hidden}
        found |= {name + suffix: array for name, array in arrays.items()}
    return found


@BOTH
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_values_states_and_gradients_are_pytorchs_for_each_sequence_alone(kind, shape, dtype):
    layer, x, lengths, state, dy = made(kind, shape, dtype)
    before = None if state is None else {layer: tuple(a.copy() for a in state[layer])}
    tolerance = 1e-5 if dtype == np.float32 else 1e-11
    y, dx, after, gradients = in_pytorch(layer, x, lengths, before, dy)
    found = layer.forward(x, training=True, lengths=lengths, state=state)
    assert found.dtype == dtype
    assert_close(found, y, tolerance)
    assert_close(layer.backward(dy), dx, tolerance)
    for name, gradient in gradients_of(layer).items():
        assert_close(gradient, gradients[name], tolerance)
    if state is not None:
        for array, expected, given in zip(state[layer], after, before[layer], strict=True):
            assert_close(array, expected, tolerance)
            assert array is not given
    np.testing.assert_array_equal(layer.forward(x, lengths=lengths, state=before), found)


@BOTH
@pytest.mark.parametrize("shape", SHAPES[::2], ids=str)
def test_kernels_and_plain_loops_agree(kind, shape, monkeypatch):
    results = []
    for plain in (False, True):
        layer, x, lengths, state, dy = made(kind, shape, np.float64)
        if plain:
            use_plain_loops(monkeypatch)
        y = layer.forward(x, training=True, lengths=lengths, state=state)
        dx = layer.backward(dy)
        results.append([y, dx, *(p.grad for p in layer.parameters), *(state[layer] if state else ())])
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, 1e-12)


@BOTH
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_what_central_differences_say(kind, shape):
    layer, x, lengths, state, dy = made(kind, shape, np.float64)
    if lengths is not None:
        x = np.nan_to_num(x)

    def loss():
        given = None if state is None else dict(state)
        return np.sum(layer.forward(x, training=True, lengths=lengths, state=given) * dy * counts)

    counts = np.ones_like(dy)
    loss()
    dx = layer.backward(dy)
    rng, h = np.random.default_rng(0), 1e-5
    for array, gradient in [(x, dx), *((p.value, p.grad.copy()) for p in layer.parameters)]:
        flat = array.reshape(-1)
        for entry in rng.choice(flat.size, min(flat.size, 12), replace=False):
            middle = flat[entry]
            flat[entry] = middle + h
            above = loss()
            flat[entry] = middle - h
            slope = (above - loss()) / (2 * h)
            flat[entry] = middle
            assert abs(gradient.reshape(-1)[entry] - slope) <= 1e-7 * max(np.abs(gradient).max(), 1e-3)


def test_one_step_by_hand():
    lstm, gru = tn.LSTM(1), tn.GRU(1)
    for layer in (lstm, gru):
        layer.build((1, 1), "float64", np.random.default_rng(0))
        for parameter in layer.parameters:
            parameter.value = np.zeros(parameter.value.shape)
    lstm.parameters[0].value = [[0, 0, 1, 0]]  # gates at 1/2, g = tanh(x)
    c = np.tanh(2.0) / 2
    np.testing.assert_allclose(lstm.forward([[[2.0]]], state=(state := {})), [[[np.tanh(c) / 2]]], rtol=1e-15)
    np.testing.assert_allclose(state[lstm][1], [[c]], rtol=1e-15)
    gru.parameters[0].value = [[0, 0, 1]]  # h = (1 - 1/2) tanh(x)
    np.testing.assert_allclose(gru.forward([[[2.0]]]), [[[np.tanh(2.0) / 2]]], rtol=1e-15)
    gru.parameters[3].value = [3]  # and with b_n, half of which the reset gate lets through
    np.testing.assert_allclose(gru.forward([[[2.0]]]), [[[np.tanh(3.5) / 2]]], rtol=1e-15)


# --- lengths, states, directions -------------------------------------------------------------------------------


@BOTH
@DIRECTIONS
def test_a_sequence_gets_the_bits_that_it_gets_alone(kind, bidirectional):
    layer, x, lengths, _, dy = made(kind, (21, 9, 12, 20, bidirectional, True, True, False), np.float32)
    y, dx = layer.forward(x, training=True, lengths=lengths), layer.backward(dy)
    for n, length in enumerate(lengths):
        assert not y[n, length:].any()
        assert not dx[n, length:].any()
        if length:
            alone = layer.forward(x[n : n + 1, :length], training=True)
            np.testing.assert_array_equal(y[n, :length], alone[0])
            np.testing.assert_array_equal(dx[n, :length], layer.backward(dy[n : n + 1, :length])[0])


@BOTH
@DIRECTIONS
@pytest.mark.parametrize("return_sequences", [False, True])
def test_nothing_in_the_padding_changes_any_bit(kind, bidirectional, return_sequences):
    shape = (8, 6, 5, 9, bidirectional, return_sequences, True, False)
    results = []
    for padding in (np.nan, 0, 1e30):
        layer, x, lengths, _, dy = made(kind, shape, np.float32)
        for row, gradient, length in zip(x, dy, lengths, strict=True):
            row[length:] = padding
            if return_sequences:
                gradient[length:] = padding
        y, dx = layer.forward(x, training=True, lengths=lengths), layer.backward(dy)
        results.append([y, dx, *(p.grad.copy() for p in layer.parameters)])
    for others in results[1:]:
        for a, b in zip(results[0], others, strict=True):
            assert np.isfinite(a).all()
            np.testing.assert_array_equal(a, b)


@BOTH
def test_both_directions_are_two_runs_one_of_them_reversed_within_its_lengths(kind):
    layer, x, lengths, _, _ = made(kind, (6, 7, 3, 5, True, True, True, False), np.float64)
    runs = []
    for d in (0, 1):
        one = kind(5)
        one.build((7, 3), "float64", np.random.default_rng(0))
        count = len(one.parameters)
        for parameter, other in zip(one.parameters, layer.parameters[d * count :], strict=False):
            parameter.value = other.value
        runs.append(one)
    turned = x.copy()
    for row, length in zip(turned, lengths, strict=True):
        row[:length] = row[:length][::-1]
    forwards, backwards = runs[0].forward(x, lengths=lengths), runs[1].forward(turned, lengths=lengths)
    y = layer.forward(x, lengths=lengths)
    for n, length in enumerate(lengths):
        np.testing.assert_array_equal(y[n, :length, :5], forwards[n, :length])
        np.testing.assert_array_equal(y[n, :length, 5:], backwards[n, :length][::-1])
    only_last = kind(5, bidirectional=True, return_sequences=False)
    only_last.build((7, 3), "float64", np.random.default_rng(0))
    for parameter, other in zip(only_last.parameters, layer.parameters, strict=True):
        parameter.value = other.value
    last = only_last.forward(x, lengths=lengths)
    for n, length in enumerate(lengths):
        expected = np.concatenate([y[n, length - 1, :5], y[n, 0, 5:]]) if length else 0
        np.testing.assert_array_equal(last[n], np.broadcast_to(expected, 10))


@BOTH
@pytest.mark.parametrize("return_sequences", [False, True])
def test_pieces_with_a_state_are_one_run(kind, return_sequences):
    layer, x, _, _, _ = made(kind, (5, 11, 4, 18, False, return_sequences, False, False), np.float32)
    state, pieces = {}, []
    for begin, end in ((0, 4), (4, 5), (5, 11)):
        before = dict(state)
        kept = [array.copy() for array in before.get(layer, ())]
        pieces.append(layer.forward(x[:, begin:end], state=state))
        for array, copy in zip(before.get(layer, ()), kept, strict=True):
            np.testing.assert_array_equal(array, copy)
    whole = layer.forward(x)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1) if return_sequences else pieces[-1], whole)


@BOTH
def test_a_model_takes_pieces_and_pairs(kind):
    layers = [tn.Embedding(9, 6), kind(8), tn.Residual([kind(8)]), kind(7, return_sequences=False), tn.Dense(3)]
    model, words = tn.Sequential(layers, 10), np.random.default_rng(0).integers(0, 9, (4, 10))
    whole, state = model.forward(words), {}
    for begin in range(0, 10, 3):
        y = model.forward(words[:, begin : begin + 3], state=state)
    np.testing.assert_array_equal(y, whole)
    lengths = [3, 10, 1, 7]
    y = model.forward((words, lengths), training=True)
    model.backward(np.ones_like(y))
    total = model.flat_grads.astype("f8")
    for n, length in enumerate(lengths):
        alone = model.forward(words[n : n + 1, :length], training=True)
        np.testing.assert_allclose(alone[0], y[n], atol=1e-6)
        model.backward(np.ones_like(alone))
        total -= model.flat_grads
    assert np.abs(total).max() < 1e-5


@BOTH
@DIRECTIONS
def test_a_frozen_layer_passes_gradients_on_and_has_none(kind, bidirectional):
    model = tn.Sequential([tn.Dense(4), kind(5, bidirectional), tn.Dense(2)], (6, 3))
    x = np.random.default_rng(0).standard_normal((3, 6, 3)).astype("f")
    gradients = []
    for trainable in (True, False):
        model.layers[1].trainable = trainable
        model.backward(np.cos(model.forward(x, training=True)))
        gradients.append([p.grad.copy() for p in model.layers[0].parameters])
    for open_one, frozen in zip(*gradients, strict=True):
        np.testing.assert_array_equal(open_one, frozen)
    assert not any(p.grad.any() for p in model.layers[1].parameters)


@BOTH
def test_what_a_state_cannot_be_is_refused(kind):
    layer, x, _, _, _ = made(kind, (4, 3, 2, 5, True, True, False, False), np.float32)
    with pytest.raises(ValueError, match=rf"{kind.__name__}: a bidirectional layer can't go on from a state"):
        layer.forward(x, state={})
    layer, x, _, state, _ = made(kind, (4, 3, 2, 5, False, True, False, True), np.float32)
    with pytest.raises(ValueError, match=rf"{kind.__name__}: the state is that of 4 sequences, got x with 2"):
        layer.forward(x[:2], state=state)
    with pytest.raises(ValueError, match=rf"{kind.__name__}: expected 4 lengths"):
        layer.forward(x, lengths=[1, 2])


@BOTH
def test_empty_batches_and_sequences_without_a_step(kind):
    for shape in ((4, 3, 2, 5, True, True, False, False), (4, 3, 2, 5, False, False, False, False)):
        layer, x, _, _, dy = made(kind, shape, np.float32)
        for some, lengths in ((x[:0], None), (x[:0], []), (x, [0, 0, 0, 0])):
            y = layer.forward(some, training=True, lengths=lengths)
            assert y.shape == (len(some), *layer.output_shape)
            assert not y.any()
            assert not layer.backward(dy[: len(some)]).any()
            assert not any(p.grad.any() for p in layer.parameters)


@pytest.mark.parametrize(
    ("construct", "error", "message"),
    [
        (lambda: tn.LSTM(0), ValueError, "LSTM: units must be at least 1, got 0"),
        (lambda: tn.GRU(2.5), TypeError, "GRU: units must be a whole number"),
        (lambda: tn.GRU(3, bidirectional="yes"), TypeError, "GRU: bidirectional must be True or False, got 'yes'"),
        (lambda: tn.LSTM(3, return_sequences=1), TypeError, "LSTM: return_sequences must be True or False, got 1"),
        (lambda: tn.Sequential([tn.LSTM(3)], 5), ValueError, r"LSTM \(layer 0\): expected sequences.*got \(5,\)"),
    ],
)
def test_options_that_make_no_sense_are_refused(construct, error, message):
    with pytest.raises(error, match=message):
        construct()


# --- bits, denormals, training ------------------------------------------------------------------------------------


@BOTH
@DIRECTIONS
def test_any_number_of_threads_gives_the_same_bits(kind, bidirectional):
    results = []
    layer, x, lengths, _, dy = made(kind, (40, 30, 33, 60, bidirectional, True, True, False), np.float32)
    for threads in range(1, min(4, numba.config.NUMBA_NUM_THREADS) + 1):
        numba.set_num_threads(threads)
        y, dx = layer.forward(x, training=True, lengths=lengths), layer.backward(dy)
        results.append([y, dx, *(p.grad.copy() for p in layer.parameters)])
    for others in results[1:]:
        for a, b in zip(results[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


@BOTH
def test_sums_over_many_steps_keep_their_digits(kind):
    N, T = 40, 250  # 10,000 steps, more than are summed in float32
    layer, x, _, _, dy = made(kind, (N, T, 2, 3, False, True, False, False), np.float32)
    wide, *_ = made(kind, (N, T, 2, 3, False, True, False, False), np.float64)
    for parameter, other in zip(wide.parameters, layer.parameters, strict=True):
        parameter.value = other.value
    for one in (layer, wide):
        one.forward(x, training=True)
        one.backward(dy)
    for found, expected in zip(layer.parameters, wide.parameters, strict=True):
        assert_close(found.grad, expected.grad, 5e-6)


@pytest.mark.skipif(not CAN, reason="numbers are flushed on x86 alone, and not where bounds are checked")
@BOTH
def test_numbers_below_the_smallest_normal_one_are_zeros_on_the_way_back(kind):
    # The first step's gradient passes 200 gates that are nearly closed.
    layer, x, _, _, dy = made(kind, (2, 200, 3, 8, False, False, False, False), np.float32)
    for parameter in layer.parameters:
        parameter.value = parameter.value * 0.1
    layer.forward(x, training=True)
    dx = np.abs(layer.backward(dy))
    assert dx[:, -1].max() > 1e-3
    assert not ((dx > 0) & (dx < np.finfo(np.float32).tiny)).any()
    assert np.float32(1e-30) * np.float32(1e-10) > 0  # and of the caller's numbers, afterwards, they are none


@BOTH
@pytest.mark.parametrize(
    ("bidirectional", "with_lengths"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_fifty_training_steps_are_pytorchs(kind, bidirectional, with_lengths):
    rng, (N, T, I, H, C) = np.random.default_rng(0), (24, 9, 6, 14, 4)
    model = tn.Sequential([kind(H, bidirectional, return_sequences=False), tn.Dense(C)], (T, I), seed=1)
    module = getattr(torch.nn, kind.__name__)(I, H, batch_first=True, bidirectional=bidirectional)
    head = torch.nn.Linear(H * (1 + bidirectional), C)
    state = tn.interop.to_torch(model)
    module.load_state_dict({key[2:]: value for key, value in state.items() if key.startswith("0.")})
    head.load_state_dict({key[2:]: value for key, value in state.items() if key.startswith("1.")})
    ours = tn.Adam(model, lr=3e-3)
    theirs = torch.optim.Adam([*module.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(50):
        x, y = rng.standard_normal((N, T, I)).astype("f"), rng.integers(0, C, N)
        lengths = rng.integers(1, T + 1, N) if with_lengths else np.full(N, T)
        logits = model.forward((x, lengths) if with_lengths else x, training=True)
        loss, dlogits = tn.softmax_cross_entropy(logits, y)
        model.backward(dlogits)
        ours.step()
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            torch.from_numpy(x), torch.from_numpy(lengths), batch_first=True, enforce_sorted=False
        )
        _, last = module(packed)
        h = (last[0] if isinstance(last, tuple) else last).transpose(0, 1).flatten(1)
        expected = torch.nn.functional.cross_entropy(head(h), torch.from_numpy(y))
        theirs.zero_grad()
        expected.backward()
        for name, parameter in module.named_parameters():  # two biases that are added would move twice as far as one
            if name.startswith("bias_hh"):
                parameter.grad[: 2 * H if kind is tn.GRU else None] = 0
        theirs.step()
        assert abs(loss - expected.item()) < 1e-4
    found = tn.interop.to_torch(model)
    for name, parameter in module.named_parameters():
        assert np.abs(parameter.detach().numpy() - found[f"0.{name}"].numpy()).max() < 1e-4, name
