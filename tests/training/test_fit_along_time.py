"""fit, batches and metrics over sequences of unequal length: what lies behind the lengths counts nowhere."""

from functools import partial

import numpy as np
import pytest

import tinynet as tn

N, T, C, V = 23, 6, 4, 5


def data(seed=0, dtype=np.float32, words=False):
    """Sequences, lengths (0 among them) and labels by position, with nonsense behind the lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, T + 1, N)
    lengths[:3] = 0, T, 1
    x = rng.integers(0, 9, (N, T)) if words else rng.standard_normal((N, T, C)).astype(dtype)
    y = rng.integers(0, V, (N, T))
    behind = np.arange(T) >= lengths[:, None]
    x[behind], y[behind] = -7 if words else np.nan, 1000
    return x, lengths, y


def tagger(dtype="float64", extra=list):
    """A model with an output for each position; extra() are layers inside."""
    return tn.Sequential([tn.Dense(8, activation="tanh"), *extra(), tn.Dense(V)], (T, C), seed=1, dtype=dtype)


def trained(model, x, y, loss="softmax_cross_entropy", **options):
    options = {"epochs": 2, "batch_size": 4, "progress": False, "metrics": "accuracy", **options}
    return tn.fit(model, x, y, loss=loss, optimizer=tn.Adam(model, lr=0.01), **options)


def within(x, lengths):
    return x[np.arange(T) < lengths[:, None]]


# --- the loss and the metrics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "linear_cross_entropy", "mean_squared_error"])
def test_fit_with_lengths_is_fit_on_the_positions_within_them(loss):
    """Of a model that takes each position for itself, in one batch."""
    x, lengths, y = data(dtype=np.float64)
    targets = y if "cross" in loss else np.eye(V)[np.minimum(y, V - 1)]
    padded, flat = tagger(), tn.Sequential([tn.Dense(8, activation="tanh"), tn.Dense(V)], C, seed=1, dtype="float64")
    options = {"batch_size": 1000, "epochs": 3, "metrics": ["accuracy", "top_k_accuracy"]}
    if loss == "mean_squared_error":
        options["metrics"] = None
    found = trained(padded, (x, lengths), targets, loss, validation=((x, lengths), targets), **options)
    rows, its = within(x, lengths), within(targets, lengths)
    expected = trained(flat, rows, its, loss, validation=(rows, its), **options)
    np.testing.assert_allclose(padded.flat_values, flat.flat_values, rtol=1e-9, atol=1e-12)
    for name in found.keys() - {"seconds"}:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9)


def test_an_epochs_loss_and_accuracy_are_means_over_all_positions_that_count():
    x, lengths, y = data()
    y[:, 0] = -100  # these do not count either
    model = tagger()
    weights = model.flat_values.copy()
    history = tn.fit(
        model, (x, lengths), y, loss="softmax_cross_entropy", metrics="accuracy", optimizer=tn.SGD(model, lr=0.0),
        epochs=1, batch_size=4, progress=False, validation=((x, lengths), y),
    )  # fmt: skip
    assert np.array_equal(model.flat_values, weights)
    logits, labels = within(model.predict((x, lengths)), lengths), within(y, lengths)
    assert history["loss"] == pytest.approx([tn.softmax_cross_entropy(logits, labels)[0]], rel=1e-9)
    assert history["val_loss"] == pytest.approx(history["loss"], rel=1e-9)
    right = (logits.argmax(-1) == labels)[labels != -100].mean()
    assert history["accuracy"] == pytest.approx([right])
    assert history["val_accuracy"] == pytest.approx([right])


def test_metrics_by_name_ignore_what_the_loss_ignores():
    x, lengths, y = data()
    y[:, 1] = 9
    for loss in (tn.softmax_cross_entropy, tn.linear_cross_entropy):
        model = tagger()
        loss = partial(loss, ignore_index=9)
        history = tn.fit(
            model, (x, lengths), y, loss=loss, metrics="accuracy",
            optimizer=tn.SGD(model, lr=0.0), epochs=1, batch_size=5, progress=False, validation=((x, lengths), y),
        )  # fmt: skip
        logits, labels = within(model.predict((x, lengths)), lengths), within(y, lengths)
        right = (logits.argmax(-1) == labels)[labels != 9].mean()
        assert history["accuracy"] == pytest.approx([right])
        assert history["val_accuracy"] == pytest.approx([right])


def test_accuracies_leave_out_labels_to_ignore():
    scores = np.array([[[3.0, 1], [1, 2]], [[0, 1], [2, 1]]])
    assert tn.accuracy(scores, [[0, -100], [0, -100]]) == 0.5
    assert tn.accuracy(scores, [[0, 7], [0, 7]], ignore_index=7) == 0.5
    assert tn.accuracy(scores, [[0, -100], [0, -100]], ignore_index=None) == 0.25
    assert tn.accuracy(scores, np.full((2, 2), -100)) == 0.0
    assert tn.metrics.top_k_accuracy(scores, [[0, -100], [0, -100]], k=1) == 0.5
    assert tn.metrics.top_k_accuracy(scores, np.full((2, 2), -100), k=1) == 0.0
    with pytest.raises(ValueError, match="labels must be from 0 to 1, got -100"):
        tn.metrics.top_k_accuracy(scores, [[0, -100], [0, -100]], k=1, ignore_index=None)


def test_a_batch_without_any_position_changes_nothing():
    x, lengths, y = data()
    for loss in ("softmax_cross_entropy", "linear_cross_entropy"):
        model = tagger()
        before = model.flat_values.copy()
        history = tn.fit(
            model, (x, 0 * lengths), y, loss=loss, optimizer=tn.SGD(model, lr=1.0), epochs=1, progress=False,
            metrics="accuracy", validation=((x, 0 * lengths), y),
        )  # fmt: skip
        assert history["loss"] == history["val_loss"] == history["accuracy"] == [0.0]
        assert np.array_equal(model.flat_values, before)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "linear_cross_entropy"])
def test_padding_of_x_and_y_changes_no_bit_of_a_training(loss):
    x, lengths, y = data()
    behind = np.arange(T) >= lengths[:, None]
    results = []
    for filled, labels in ((0, -100), (np.nan, 10**6), (np.inf, -1)):
        x[behind], y[behind] = filled, labels
        model = tagger(dtype="float32", extra=lambda: [tn.BatchNorm(), tn.Dropout(0.2), tn.GroupNorm(2)])
        history = trained(model, (x, lengths), y, loss, validation=((x, lengths), y))
        results.append((model.flat_values.copy(), history["loss"], history["val_accuracy"], *model.buffers().values()))
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert np.array_equal(a, b)


def test_a_model_that_ends_time_takes_a_target_a_sequence():
    x, lengths, _ = data(words=True)
    labels = (np.arange(N) % 2).astype(int)
    for ending in (tn.LSTM(5, return_sequences=False), tn.GlobalMaxPool1D()):
        model = tn.Sequential([tn.Embedding(9, 6), ending, tn.Dense(2)], T, seed=0)
        history = trained(model, (x, lengths), labels, epochs=30, validation=((x, lengths), labels))
        assert history["loss"][-1] < history["loss"][0]
        logits = model.predict((x, lengths))
        assert history["val_accuracy"][-1] == pytest.approx(tn.accuracy(logits, labels))


# --- batches --------------------------------------------------------------------------------------------------


def test_batches_of_pairs_are_pairs_and_their_shards_parts_of_them():
    x, lengths, y = data()
    numbers = np.arange(N)
    whole = [batch for batch, _ in tn.batches(numbers, numbers, 4, seed=3)]
    for n, ((part, its), labels) in zip(whole, tn.batches((x, lengths), y, 4, seed=3), strict=True):
        np.testing.assert_array_equal(part, x[n])
        np.testing.assert_array_equal(its, lengths[n])
        np.testing.assert_array_equal(labels, y[n])
    for options in ({}, {"similar_length": True}):
        shards = [tn.batches((x, lengths), y, 4, seed=3, shard=(rank, 2), **options) for rank in (0, 1)]
        for ((whole_x, whole_l), whole_y), ((a, l), _), ((b, m), t) in zip(
            tn.batches((x, lengths), y, 4, seed=3, **options), *shards, strict=True
        ):
            np.testing.assert_array_equal(np.concatenate([a, b]), whole_x)
            np.testing.assert_array_equal(np.concatenate([l, m]), whole_l)
            np.testing.assert_array_equal(t, whole_y[len(a) :])


@pytest.mark.parametrize(("samples", "size"), [(1000, 8), (1003, 8), (5, 8), (8, 8), (70, 1)])
def test_batches_of_similar_length_have_every_sample_once_and_little_padding(samples, size):
    rng = np.random.default_rng(0)
    lengths, numbers = rng.integers(0, 51, samples), np.arange(samples)
    x = np.zeros((samples, 50), int)
    found = list(tn.batches((x, lengths), numbers, size, seed=(1, 2), similar_length=True))
    assert [len(y) for _, y in found] == [size] * (samples // size) + [samples % size] * (samples % size > 0)
    assert np.array_equal(np.sort(np.concatenate([y for _, y in found])), numbers)
    for (_, its), y in found:
        assert np.array_equal(its, lengths[y])
    again = tn.batches((x, lengths), numbers, size, seed=(1, 2), similar_length=True)
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(found, again, strict=True))
    other = tn.batches((x, lengths), numbers, size, seed=(1, 3), similar_length=True)
    assert samples < 10 or not all(np.array_equal(a, b) for (_, a), (_, b) in zip(found, other, strict=True))
    if samples > 500:
        padding = sum((its.max() - its).sum() for (_, its), y in found if len(y) == size)
        random = sum((its.max() - its).sum() for (_, its), y in tn.batches((x, lengths), numbers, size))
        assert padding < 0.15 * random
        firsts = [its.mean() for (_, its), _ in found]
        assert abs(np.corrcoef(firsts, np.arange(len(firsts)))[0, 1]) < 0.3
    ordered = [its for (_, its), _ in tn.batches((x, lengths), numbers, size, shuffle=False, similar_length=True)]
    assert np.array_equal(np.concatenate(ordered), np.sort(lengths))


def test_pad_puts_what_it_is_given_in_one_array():
    rng = np.random.default_rng(0)
    sequences = [rng.standard_normal((n, 3)).astype(np.float32) for n in (4, 0, 7, 1)]
    x, lengths = tn.data.pad(sequences)
    assert x.shape == (4, 7, 3)
    assert x.dtype == np.float32
    assert lengths.tolist() == [4, 0, 7, 1]
    assert lengths.dtype == np.int64
    for row, sequence, length in zip(x, sequences, lengths, strict=True):
        assert np.array_equal(row[:length], sequence)
        assert not row[length:].any()
    x, lengths = tn.data.pad([[5, 3, 8], (4,), []], length=2, value=-1)
    assert x.tolist() == [[5, 3], [4, -1], [-1, -1]]
    assert x.dtype.kind == "i"
    assert lengths.tolist() == [2, 1, 0]
    assert tn.data.pad([[1, 2]], length=4)[0].tolist() == [[1, 2, 0, 0]]
    assert tn.data.pad([[], []])[0].shape == (2, 1)
    assert tn.data.pad([[1, 2], [0.5]])[0].dtype == np.float64


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ("abc", {}, TypeError, "pad: sequences must be a list of arrays, got str"),
        ([], {}, ValueError, "pad: there are no sequences"),
        ([[1, 2], ["a"]], {}, TypeError, "pad: sequence 1 must hold numbers"),
        ([[1, 2], 3], {}, ValueError, r"pad: sequence 1 has shape \(\), expected \(T\)"),
        ([np.ones((2, 3)), np.ones((2, 4))], {}, ValueError, r"pad: sequence 1 has shape \(2, 4\), expected \(T, 3\)"),
        ([[1, 2]], {"length": 0}, ValueError, "pad: length must be at least 1, got 0"),
        ([[1, 2]], {"value": 0.5}, TypeError, "pad: value must be a whole number"),
    ],
)
def test_what_cannot_be_padded_is_refused(given, options, error, message):
    with pytest.raises(error, match=message):
        tn.data.pad(given, **options)


# --- what is refused -----------------------------------------------------------------------------------------


def refusals():
    x, lengths, y = data()
    labels = np.zeros(N, int)
    one = r"the model gives each position an output, \(23, 6, 5\), so .* \(23, 6\) .*, got \(23,\); for one target"
    flat = tn.Sequential([tn.Flatten(), tn.Dense(V)], (T, C))
    return [
        (lambda: trained(tagger(), (x, lengths), labels), ValueError, one),
        (lambda: trained(tagger(), (x, lengths), y, validation=((x, lengths), labels)), ValueError, one),
        (lambda: trained(tagger(), (x, lengths[:5]), y), ValueError, "expected 23 lengths, one for each sequence"),
        (lambda: trained(tagger(), (x, lengths + 3), y), ValueError, "the length of sequence 1 is 9, but x"),
        (lambda: trained(tagger(), (x, lengths), y, validation=((x, lengths + 3), y)), ValueError, "sequence 1 is 9"),
        (lambda: trained(flat, (x, lengths), labels), ValueError, r"Flatten \(layer 0\): it may look along time"),
        (lambda: trained(tagger(), x, y, similar_length=True), ValueError, "similar_length=True needs lengths"),
        (lambda: trained(tagger(), (x, lengths), y, similar_length=2), TypeError, "similar_length must be True or"),
        (
            lambda: trained(tagger(), (x, lengths), y, augment=lambda x, rng: x[0]),
            TypeError,
            r"augment must return the pair \(x, lengths\)",
        ),
    ]


@pytest.mark.parametrize("which", range(9))
def test_what_does_not_fit_is_refused_before_anything_is_trained(which):
    call, error, message = refusals()[which]
    with pytest.raises(error, match=message):
        call()


# --- around it ----------------------------------------------------------------------------------------------


def test_augment_is_given_the_pair_and_returns_one():
    x, lengths, y = data()

    def shorter(pair, rng):
        x, lengths = pair
        assert x.shape[1:] == (T, C)
        return x, np.minimum(lengths, rng.integers(1, T + 1, len(lengths)))

    def twice(pair, y, rng):
        x, lengths = pair
        return (np.concatenate([x, x]), np.concatenate([lengths, lengths])), np.concatenate([y, y])

    for augment in (shorter, twice):
        results = []
        for _ in range(2):
            model = tagger()
            trained(model, (x, lengths), y, augment=augment)
            results.append(model.flat_values.copy())
        assert np.array_equal(*results)
        assert np.isfinite(results[0]).all()


class Stop(Exception):
    """What ends a run in the middle of an epoch."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def __call__(self, training):
        pass

    def step(self, training):
        if training.step == self.after:
            raise self


@pytest.mark.parametrize("similar_length", [False, True])
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(tmp_path, monkeypatch, similar_length):
    monkeypatch.setattr("tinynet.training.resume.SAVE_SECONDS", -1)  # the file is written after each step
    x, lengths, y = data()
    options = {"epochs": 3, "similar_length": similar_length, "validation": ((x, lengths), y)}
    build, path = partial(tagger, extra=lambda: [tn.Dropout(0.3)]), tmp_path / "run"

    def run(model, **more):
        return trained(model, (x, lengths), y, **{**options, **more})

    expected = run(model := build())
    with pytest.raises(Stop):
        run(build(), checkpoint=path, callbacks=[Stop(after=9)])  # an epoch has six steps
    found = run(again := build(), checkpoint=path, resume=True)
    assert np.array_equal(again.flat_values, model.flat_values)
    assert all(found[name] == expected[name] for name in expected if name != "seconds")
    with pytest.raises(ValueError, match="is of another run: similar_length was"):
        run(build(), checkpoint=path, resume=True, similar_length=not similar_length)
    lengths = lengths // 2
    with pytest.raises(ValueError, match="is of another run: the checksum of the lengths was"):
        run(build(), checkpoint=path, resume=True)


def test_where_a_nan_began_is_looked_for_within_the_lengths():
    x, lengths, y = data()
    x[1, 2, 0] = np.nan  # of sequence 1, which is whole
    with pytest.raises(tn.NonFiniteError, match=r"the input is not finite, in row \d of the batch \(sample 1 of x\)"):
        trained(tagger(), (x, lengths), y)
    x, lengths, y = data()
    model = tagger()
    model.layers[0].parameters[0].value[0, 0] = np.nan
    with pytest.raises(tn.NonFiniteError, match=r"Dense \(layer 0\), whose parameter 0.weight"):
        trained(model, (x, lengths), y)
    targets = np.where(np.arange(T)[:, None] < lengths[:, None, None], 0.0, np.nan) + np.zeros(V)
    targets[1, 3] = np.nan
    with pytest.raises(tn.NonFiniteError, match=r"it began in the loss: look at the targets, in row .*sample 1 of x"):
        trained(tagger(), (x, lengths), targets, "mean_squared_error", metrics=None)


def test_explain_and_gradcheck_take_pairs():
    x, lengths, y = data()
    model = tagger(extra=lambda: [tn.GroupNorm(2), tn.LSTM(6)])
    assert tn.gradcheck.check(model, (np.nan_to_num(x[:5]), lengths[:5])).passed
    found = tn.gradcheck.check(model, (np.nan_to_num(x[:5]), lengths[:5]), y[:5], loss="softmax_cross_entropy")
    assert found.passed
    assert "of lengths [0, 6, 1" in str(found)
    for layer in (tn.GRU(3), tn.GroupNorm(2), tn.BatchNorm(), tn.GlobalAvgPool1D(), tn.GlobalMaxPool1D(), tn.Dense(3)):
        assert tn.gradcheck.check(layer, ((4, 5, 2), [3, 0, 5, 1])).passed
    with pytest.raises(ValueError, match="Flatten: it may look along time"):
        tn.gradcheck.check(tn.Flatten(), ((4, 5, 2), [3, 0, 5, 1]))
    found = tn.explain(model, (x, lengths), y, "softmax_cross_entropy", repeats=1)
    assert found.max_error < 1e-7
    assert found.loss == pytest.approx(
        tn.softmax_cross_entropy(within(model.forward((x, lengths)), lengths), within(y, lengths))[0]
    )
    assert found.rows[0].norm == pytest.approx(np.linalg.norm(within(x, lengths).astype(float)))


def test_predict_takes_sequences_shorter_than_the_model_was_built_for_in_pieces():
    x, _, _ = data()
    x, model = np.nan_to_num(x[:, :4]), tagger()
    np.testing.assert_array_equal(model.predict(x, batch_size=5), model.forward(x))
