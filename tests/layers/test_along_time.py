"""Sequences of unequal length: what a model does with (x, lengths) and with a state, whatever its layers are."""

import copy
import pickle

import numpy as np
import pytest

import tinynet as tn


class Twice(tn.Layer):
    """y = 2x + 1: each position for itself, and not 0 for 0."""

    of_time = "apart"

    def forward(self, x, training=False):
        return 2 * self.checked(x) + 1

    def backward(self, dy, input_grad=True):
        return 2 * dy


class RunningSum(tn.Layer):
    """y[t] = x[0] + ... + x[t] within the length, 0 behind it; goes on from a state."""

    of_time = "lengths"

    def forward(self, x, training=False, lengths=None, state=None):
        x = self.checked(x)
        self.lengths = self.checked_lengths(lengths, x)
        start = 0 if state is None else state.get(self, 0)
        y = start + np.cumsum(x, axis=1)
        if state is not None:
            state[self] = y[:, -1:].copy()
        return y

    def backward(self, dy, input_grad=True):
        return np.cumsum(dy[:, ::-1], axis=1)[:, ::-1].copy()


class AtEnd(tn.Layer):
    """y = x at the last position within the length, 0 for a length of 0."""

    of_time = "lengths"

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.output_shape = self.input_shape[1:]
        return self.output_shape

    def output_lengths(self, lengths):
        return None

    def forward(self, x, training=False, lengths=None, state=None):
        x = self.checked(x)
        self.seen = x.shape, np.full(len(x), x.shape[1]) if lengths is None else lengths
        y = x[np.arange(len(x)), np.maximum(self.seen[1], 1) - 1]
        y[self.seen[1] == 0] = 0
        return y

    def backward(self, dy, input_grad=True):
        shape, lengths = self.seen
        dx = np.zeros(shape, self.dtype)
        some = np.flatnonzero(lengths)
        dx[some, lengths[some] - 1] = dy[some]
        return dx


LENGTHS = [3, 0, 5, 1]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def batch(rng):
    x = rng.normal(size=(4, 7, 2))
    for row, length in zip(x, LENGTHS, strict=True):
        row[length:] = np.nan
    return x


def model_of(*layers):
    return tn.Sequential(list(layers), (7, 2), dtype="float64")


def test_what_lies_behind_a_length_reaches_no_output_and_no_gradient(batch, rng):
    model = model_of(Twice(), RunningSum(), tn.Residual([Twice()]))
    y = model.forward((batch, LENGTHS), training=True)
    dy = rng.normal(size=y.shape)
    hidden = dy.copy()
    for row, length in zip(hidden, LENGTHS, strict=True):
        row[length:] = np.nan
    dx = model.backward(hidden, input_grad=True)
    assert y.shape == dx.shape == batch.shape
    for n, length in enumerate(LENGTHS):
        assert not y[n, length:].any()
        assert not dx[n, length:].any()
        if length:
            alone = model.forward(batch[n : n + 1, :length], training=True)
            np.testing.assert_array_equal(y[n, :length], alone[0])
            np.testing.assert_array_equal(
                dx[n, :length], model.backward(dy[n : n + 1, :length].copy(), input_grad=True)[0]
            )


def test_a_layer_that_ends_time_gets_the_lengths_and_those_behind_it_do_not(batch):
    model = model_of(RunningSum(), AtEnd(), tn.Reshape((2, 1)), tn.Flatten())
    y = model.forward((batch, LENGTHS), training=True)
    sums = np.array([row[:length].sum(axis=0) for row, length in zip(batch, LENGTHS, strict=True)])
    np.testing.assert_allclose(y, sums, rtol=1e-13)
    dx = model.backward(np.ones((4, 2)), input_grad=True)
    np.testing.assert_array_equal(dx[..., 0], np.arange(7) < np.array(LENGTHS)[:, None])


def test_predict_takes_pairs_in_pieces(batch):
    model = model_of(Twice(), RunningSum())
    np.testing.assert_array_equal(model.predict((batch, LENGTHS), batch_size=3), model.forward((batch, LENGTHS)))
    assert model.predict((batch[:0], [])).shape == (0, 7, 2)


@pytest.mark.parametrize("inside", [False, True], ids=["in a row", "inside a Residual"])
def test_pieces_of_a_sequence_with_a_state_are_one_run(rng, inside):
    layers = [Twice(), tn.Residual([RunningSum()])] if inside else [Twice(), RunningSum()]
    model, x, state = model_of(*layers), rng.normal(size=(3, 7, 2)), {}
    pieces = [model.forward(x[:, some], state=state) for some in (slice(0, 4), slice(4, 5), slice(5, 7))]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), model.forward(x), rtol=1e-13)


def test_a_pair_of_two_samples_is_no_pair_of_x_and_lengths():
    model = tn.Sequential([tn.ReLU()], 2)
    np.testing.assert_array_equal(model.forward(([1, 2], [3, -4])), [[1, 2], [3, 0]])


def test_a_layer_that_minds_no_lengths_is_named():
    with pytest.raises(ValueError, match=r"Flatten \(layer 1\): it may look along time"):
        model_of(Twice(), tn.Flatten()).forward((np.zeros((1, 7, 2)), [3]))
    with pytest.raises(ValueError, match=r"Residual \(layer 0\): it may look along time"):
        model_of(tn.Residual([tn.Reshape((7, 2))])).forward(np.zeros((1, 7, 2)), state={})


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([1, 2], ValueError, r"expected 4 lengths, one for each sequence of x \(4, 7, 2\), got \(2,\)"),
        ([1, 2, 8, 0], ValueError, r"the length of sequence 2 is 8, but x \(4, 7, 2\) has 7 positions"),
        ([1, -1, 2, 0], ValueError, "the length of sequence 1 is -1"),
        ([1.0, 2.0, 3.0, 0.0], TypeError, "lengths must be whole numbers, got an array of dtype float64"),
    ],
)
def test_wrong_lengths_are_refused(batch, lengths, error, message):
    model = model_of(Twice())
    for call in (model.forward, model.predict):
        with pytest.raises(error, match=message):
            call((batch, lengths))


def test_wrong_shapes_of_pairs_are_refused(batch):
    model = model_of(Twice())
    with pytest.raises(ValueError, match=r"Twice \(layer 0\): expected input \(N, 7, 2\), got \(4, 8, 2\)"):
        model.forward((np.zeros((4, 8, 2)), LENGTHS))
    model.forward((batch, LENGTHS), training=True)
    with pytest.raises(ValueError, match=r"expected the gradient of its output, \(4, 7, 2\), got \(4, 5, 2\)"):
        model.backward(np.zeros((4, 5, 2)))


def test_a_copy_carries_no_lengths(batch):
    model = model_of(Twice())
    model.forward((batch, LENGTHS), training=True)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not other._padding


def test_branches_that_do_not_fit_shorter_sequences_are_refused(rng):
    layers = [tn.Residual([tn.Conv1D(2, 3, stride=2, padding="same")], shortcut=[tn.MaxPool1D(2)])]
    model = tn.Sequential(layers, (8, 2), dtype="float64")
    assert model.predict(rng.normal(size=(1, 8, 2))).shape == (1, 4, 2)
    with pytest.raises(ValueError, match=r"Residual \(layer 0\): of sequences \(1, 3, 2\), its branches make"):
        model.predict(rng.normal(size=(1, 3, 2)))


def test_a_state_is_as_it_was_after_an_error(rng):
    model = tn.Sequential([tn.LSTM(2), tn.PositionEmbedding(5)], (5, 2), dtype="float64")
    x, state = rng.normal(size=(1, 4, 2)), {}
    model.forward(x, state=state)
    before = dict(state)
    with pytest.raises(ValueError, match="goes on to 8 positions"):
        model.forward(x, state=state)
    assert all(state[layer] is before[layer] for layer in before)
    with pytest.raises(TypeError, match=r"state must be a dict, \{\} at the start of a sequence, got \[\]"):
        model.forward(x, state=[])


def test_a_layer_along_time_must_take_lengths():
    class Short(tn.Layer):
        of_time = "lengths"

        def forward(self, x, training=False):
            return x

        def backward(self, dy, input_grad=True):
            return dy

    with pytest.raises(TypeError, match=r"Short \(layer 0\): with of_time = \"lengths\", its forward must take x"):
        tn.Sequential([Short()], (7, 2))
