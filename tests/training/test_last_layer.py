"""fit(loss="linear_cross_entropy"): the last layer and the loss in one give what the two give apart."""

from functools import partial

import numpy as np
import pytest

import tinynet as tn

pytestmark = pytest.mark.usefixtures("one_thread")

rng = np.random.default_rng(0)
POINTS, CLASSES = rng.standard_normal((50, 6)).astype(np.float32), rng.integers(0, 300, 50)
TEXT, NEXT = rng.integers(0, 40, (30, 7)), rng.integers(0, 40, (30, 7))


def dense(bias=True, dtype="float32"):
    layers = [tn.Dense(8, "tanh"), tn.Dense(300, bias=bias)]
    return tn.Sequential(layers, input_shape=6, seed=1, dtype=dtype)


def tied(bias=True, dtype="float32"):
    words = tn.Embedding(40, 8)
    return tn.Sequential([words, tn.LayerNorm(), tn.TiedDense(words, bias)], input_shape=7, seed=1, dtype=dtype)


def trained(model, x, y, loss, **options):
    given = {"metrics": ["accuracy"], "validation": (x[:9], y[:9]), "epochs": 3, "batch_size": 16, "progress": False}
    optimizer = tn.Adam(model, lr=1e-2, clip_norm=1.0)
    return tn.fit(model, x, y, loss=loss, optimizer=optimizer, **(given | options))


def assert_alike(build, x, y, options=None, tolerance=1e-9, **of_fit):
    """Trained either way, model and history are the same to rounding."""
    options = options or {}
    apart, in_one = build(dtype="float64"), build(dtype="float64")
    loss = partial(tn.softmax_cross_entropy, **options)
    together = partial(tn.linear_cross_entropy, **options) if options else "linear_cross_entropy"
    expected = trained(apart, x, y, loss, **of_fit)
    found = trained(in_one, x, y, together, **of_fit)
    np.testing.assert_allclose(in_one.flat_values, apart.flat_values, rtol=tolerance, atol=tolerance)
    assert found.keys() == expected.keys()
    for name in found.keys() - {"seconds"}:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9)


@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_layer_and_its_loss_in_one_train_as_the_two_apart(bias):
    assert_alike(partial(dense, bias), POINTS.astype(float), CLASSES)


@pytest.mark.parametrize("bias", [True, False])
def test_a_tied_layer_and_its_loss_in_one_train_as_the_two_apart(bias):
    assert_alike(partial(tied, bias), TEXT, NEXT)


OPTIONS = {
    "ignore_index": {"ignore_index": 3},
    "label_smoothing": {"label_smoothing": 0.1},
    "weight": {"weight": np.linspace(0.5, 2, 40)},
    "reduction": {"reduction": "sum"},
    "all": {"ignore_index": 3, "label_smoothing": 0.2, "weight": np.linspace(0, 2, 40)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_options_of_the_loss_work_as_they_do_apart(options):
    assert_alike(tied, TEXT, NEXT, options)


def test_probabilities_are_targets_too():
    q = np.random.default_rng(1).random((50, 300))
    assert_alike(dense, POINTS.astype(float), q / q.sum(1, keepdims=True))


def share_of_twos(logits, labels):
    """A metric that is no mean over positions."""
    return np.mean(logits.argmax(-1) == 2) ** 2 + logits.std()


def test_every_metric_is_what_it_is_apart(monkeypatch):
    metrics = {
        "accuracy": "accuracy",
        "top": partial(tn.metrics.top_k_accuracy, k=7),
        "loss of some": partial(tn.softmax_cross_entropy, ignore_index=5),
        "total": partial(tn.softmax_cross_entropy, reduction="sum"),
        "mine": share_of_twos,
    }
    assert_alike(tied, TEXT, NEXT, metrics=metrics)
    monkeypatch.setattr("tinynet.training.last_layer.LOGITS", 100)  # of 280 in a sample
    assert_alike(tied, TEXT, NEXT, metrics=metrics)
    monkeypatch.setattr("tinynet.training.last_layer.LOGITS", 1000)
    assert_alike(dense, POINTS.astype(float), CLASSES, metrics="accuracy")


def test_a_model_of_one_layer_trains_so_too():
    def one(dtype):
        return tn.Sequential([tn.Dense(300)], input_shape=6, seed=1, dtype=dtype)

    assert_alike(one, POINTS.astype(float), CLASSES)


@pytest.mark.parametrize("build", [tied, dense])
@pytest.mark.parametrize("last", [True, False])
def test_what_is_frozen_stays_as_it_was(build, last):
    def frozen(dtype):
        model = build(dtype=dtype)
        model.layers[-1 if last else 0].trainable = False
        return model

    x, y = (TEXT, NEXT) if build is tied else (POINTS.astype(float), CLASSES)
    assert_alike(frozen, x, y)
    model, before = frozen("float64"), frozen("float64").flat_values
    trained(model, x, y, "linear_cross_entropy")
    for parameter, old in zip(model.parameters(), frozen("float64").parameters(), strict=True):
        assert np.array_equal(parameter.value, old.value) != parameter.trainable
        assert parameter.trainable or not parameter.grad.any()
    assert not np.array_equal(model.flat_values, before)


def test_the_logits_are_never_made(monkeypatch):
    model = tied()
    monkeypatch.setattr(type(model.layers[-1]), "forward", None)
    trained(model, TEXT, NEXT, "linear_cross_entropy", metrics=None)


def test_a_run_goes_on_where_it_was_stopped(tmp_path):
    whole, resumed = tied(), tied()
    trained(whole, TEXT, NEXT, "linear_cross_entropy", epochs=4)
    path = tmp_path / "run"
    trained(resumed, TEXT, NEXT, "linear_cross_entropy", epochs=2, checkpoint=path)
    again = tied()
    trained(again, TEXT, NEXT, "linear_cross_entropy", epochs=4, checkpoint=path, resume=True)
    assert np.array_equal(again.flat_values, whole.flat_values)
    with pytest.raises(ValueError, match="the loss was linear_cross_entropy and is softmax_cross_entropy here"):
        trained(tied(), TEXT, NEXT, "softmax_cross_entropy", epochs=4, checkpoint=path, resume=True)


def test_where_a_loss_stops_being_finite_is_found():
    model = tied()
    model.parameters()[1].value[2] = np.inf
    with pytest.raises(tn.NonFiniteError, match=r"it began at LayerNorm \(layer 1\), whose parameter") as error:
        trained(model, TEXT, NEXT, "linear_cross_entropy")
    assert error.value.layer == "LayerNorm (layer 1)"
    x = POINTS.copy()
    x[7] = np.nan
    with pytest.raises(tn.NonFiniteError, match="the input is not finite") as error:
        trained(dense(), x, CLASSES, "linear_cross_entropy", batch_size=50)
    assert error.value.samples == (7,)
    model = dense()
    model.parameters()[2].value = np.sign(model.parameters()[2].value) * 3e38
    with pytest.raises(tn.NonFiniteError, match=r"it began at Dense \(layer 1\): its parameters are finite"):
        trained(model, POINTS, CLASSES, "linear_cross_entropy")


def test_explain_and_gradcheck_show_the_loss_of_the_logits():
    model = tied()
    both = [tn.explain(model, TEXT, NEXT, loss) for loss in ("linear_cross_entropy", "softmax_cross_entropy")]
    assert both[0].loss == both[1].loss
    assert [row.formula for row in both[0].rows] == [row.formula for row in both[1].rows]
    assert tn.gradcheck.check(model, TEXT, NEXT, loss="linear_cross_entropy").passed


def test_a_model_that_does_not_end_in_sums_is_refused():
    for last, message in (
        (tn.Dense(300, "relu"), r"Dense without activation or a TiedDense; the model ends in Dense \(layer 1\)$"),
        (tn.Softmax(), r"the model ends in Softmax \(layer 1\)$"),
        (tn.LayerNorm(), r"LayerNorm \(layer 1\), or give softmax_cross_entropy"),
    ):
        with pytest.raises(ValueError, match=message):
            trained(tn.Sequential([tn.Dense(300), last], 6), POINTS, CLASSES, "linear_cross_entropy")


def test_wrong_targets_and_options_are_refused_as_they_are_apart():
    with pytest.raises(ValueError, match=r"linear_cross_entropy: .*300"):
        trained(dense(), POINTS, CLASSES + 300, "linear_cross_entropy")
    with pytest.raises(TypeError, match="unexpected keyword argument 'smoothing'"):
        trained(dense(), POINTS, CLASSES, partial(tn.linear_cross_entropy, smoothing=1))
