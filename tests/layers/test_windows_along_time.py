"""Conv1D, MaxPool1D and AvgPool1D on sequences of unequal length: each gives what it gives alone, however it is cut."""

import numpy as np
import pytest

import tinynet as tn

pytestmark = pytest.mark.usefixtures("one_thread")

T, LENGTHS = 11, np.array([3, 0, 11, 1, 7, 6])
LAYERS = {
    "Conv1D": lambda: tn.Conv1D(4, 3),
    "Conv1D with a stride": lambda: tn.Conv1D(4, 3, 2, 1, "gelu"),
    "Conv1D of as many": lambda: tn.Conv1D(4, 4, 2, "same", "relu"),
    "Conv1D with dilation": lambda: tn.Conv1D(4, 3, padding=(2, 0), dilation=2),
    "MaxPool1D": lambda: tn.MaxPool1D(2),
    "MaxPool1D with everything": lambda: tn.MaxPool1D(3, 2, 1, 2, True),
    "AvgPool1D": lambda: tn.AvgPool1D(2),
    "AvgPool1D with a rest": lambda: tn.AvgPool1D(3, 2, 1, True),
    "AvgPool1D without padding in its mean": lambda: tn.AvgPool1D(3, 2, 1, True, False),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def model_and_batch(make):
    rng = np.random.default_rng(0)
    model = tn.Sequential([tn.Dense(5), make(), tn.Dense(3)], (T, 4), dtype="float64")
    model.flat_values += rng.normal(0, 0.3, model.flat_values.shape)
    return model, rng.standard_normal((len(LENGTHS), T, 4))


def with_nan_behind(x):
    x = x.copy()
    for row, length in zip(x, LENGTHS, strict=True):
        row[length:] = np.nan
    return x


@every_layer
def test_each_sequence_gives_what_it_gives_alone(make):
    model, x = model_and_batch(make)
    y = model.forward((with_nan_behind(x), LENGTHS), training=True)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx, grads = model.backward(dy, input_grad=True), model.flat_grads.copy()
    ends, total = model.layers[1].output_lengths(LENGTHS), np.zeros_like(grads)
    for n, (length, end) in enumerate(zip(LENGTHS, ends, strict=True)):
        assert not y[n, end:].any()
        assert not dx[n, length:].any()
        if end:
            alone = model.forward(x[n : n + 1, :length], training=True)
            assert alone.shape[1] == end
            its_dx = model.backward(dy[n : n + 1, :end], input_grad=True)
            total += model.flat_grads
            np.testing.assert_allclose(y[n, :end], alone[0], rtol=0, atol=1e-12)
            np.testing.assert_allclose(dx[n, :length], its_dx[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(grads, total, rtol=0, atol=1e-11)


@every_layer
def test_a_layer_by_itself_lets_nothing_out_of_the_padding(make):
    _, x = model_and_batch(make)
    layer = make()
    layer.build((T, 4), "float64", np.random.default_rng(0))
    y = layer.forward(with_nan_behind(x), True, LENGTHS)
    dy = np.where(np.arange(y.shape[1])[:, None] < layer.output_lengths(LENGTHS)[:, None, None], 1, np.nan)
    dx = layer.backward(np.broadcast_to(dy, y.shape))
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()


@every_layer
def test_sequences_too_short_for_a_window_give_nothing(make):
    model, x = model_and_batch(make)
    assert not model.forward((x[:2], [0, 0])).any()
    if model.layers[1].output_lengths(np.array([1])) == 0:
        assert not model.forward((x[:2], [1, 1]), training=True).any()
        assert not model.backward(np.ones((2, *model.output_shape)), input_grad=True).any()
        with pytest.raises(ValueError, match="window needs sequences of at least"):
            model.forward(x[:2, :1])


@pytest.mark.parametrize("options", [{}, {"dilation": 2}, {"groups": 4, "activation": "relu"}, {"activation": "gelu"}])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_a_causal_convolution_gives_of_pieces_what_it_gives_of_the_whole(size, options):
    layers = [tn.Conv1D(4, size, padding="causal", **options), tn.Conv1D(3, 2, padding=(1, 0)), tn.GRU(3)]
    model = tn.Sequential(layers, (T, 4), seed=0, dtype="float64")
    x = np.random.default_rng(0).normal(size=(5, T, 4))
    whole, state, pieces = model.forward(x), {}, []
    for start, end in ((0, 1), (1, 2), (2, 5), (5, T)):
        pieces.append(model.forward(x[:, start:end], state=state))
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=1e-12)
    # of unequal lengths, each sequence goes on from its own end
    lengths, state = np.array([4, 1, 2, 4, 3]), {}
    model.forward((x[:, :4], lengths), state=state)
    found = model.forward(x[:, 4:6], state=state)
    for n, length in enumerate(lengths):
        alone = model.forward(np.concatenate([x[[n], :length], x[[n], 4:6]], axis=1))
        np.testing.assert_allclose(found[[n]], alone[:, length:], rtol=1e-12)


def test_backward_of_a_piece_takes_what_was_before_for_constant():
    layer = tn.Conv1D(3, 3, padding="causal", dilation=2)
    layer.build((T, 4), "float64", np.random.default_rng(0))
    rng = np.random.default_rng(1)
    first, x, dy = rng.normal(size=(2, 5, 4)), rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 3))
    state = {}
    layer.forward(first, state=state)

    def loss():
        return (layer.forward(x, state=dict(state)) * dy).sum()

    layer.forward(x, True, state=dict(state))
    dx = layer.backward(dy)
    for array, gradient in ((x, dx), *((p.value, p.grad) for p in layer.parameters)):
        for index in np.ndindex(array.shape):
            before, step = array[index], 1e-6
            array[index] = before + step
            above = loss()
            array[index] = before - step
            below = loss()
            array[index] = before
            assert abs((above - below) / (2 * step) - gradient[index]) < 1e-7


def test_a_state_of_other_sequences_is_refused():
    model, state = tn.Sequential([tn.Conv1D(2, 3, padding="causal")], (T, 4)), {}
    model.forward(np.zeros((3, 2, 4)), state=state)
    with pytest.raises(ValueError, match=r"Conv1D \(layer 0\): the state is that of 3 sequences, got x with 2"):
        model.forward(np.zeros((2, 1, 4)), state=state)


@every_layer
def test_it_cannot_go_on_from_a_state(make):
    model, x = model_and_batch(make)
    with pytest.raises(
        ValueError, match=r"1D \(layer 1\): it looks at neighbours in time, and can't go on from a state"
    ):
        model.forward(x, state={})
