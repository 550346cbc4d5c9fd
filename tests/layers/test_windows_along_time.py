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


@every_layer
def test_it_cannot_go_on_from_a_state(make):
    model, x = model_and_batch(make)
    with pytest.raises(
        ValueError, match=r"1D \(layer 1\): it looks at neighbours in time, and can't go on from a state"
    ):
        model.forward(x, state={})
