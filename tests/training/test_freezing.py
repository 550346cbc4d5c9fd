"""Freezing: trainable and lr_factor, of layers and of parameters, in backward, optimizers, files and copies."""

import copy

import numpy as np
import pytest

import tinynet as tn

OPTIMIZERS = {
    "SGD": lambda m, **options: tn.SGD(m, 0.1, momentum=0.9, weight_decay=0.01, **options),
    "Adam": lambda m, **options: tn.Adam(m, 0.1, weight_decay=0.01, **options),
    "AdamW": lambda m, **options: tn.AdamW(m, 0.1, **options),
    "RMSprop": lambda m, **options: tn.RMSprop(m, 0.1, momentum=0.5, weight_decay=0.01, centered=True, **options),
    "Adagrad": lambda m, **options: tn.Adagrad(m, 0.1, weight_decay=0.01, **options),
    "AMSGrad": lambda m, **options: tn.Adam(m, 0.1, amsgrad=True, maximize=True, **options),
}


def model_of(dtype="float64"):
    layers = [
        tn.Dense(6, activation="relu"),
        tn.Residual([tn.Dense(6, activation="tanh"), tn.LayerNorm()]),
        tn.Dense(3),
    ]
    return tn.Sequential(layers, 5, seed=1, dtype=dtype)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 5)), rng.integers(0, 3, 8)


def train(model, optimizer, x, y, steps=3):
    for _ in range(steps):
        loss, dlogits = tn.softmax_cross_entropy(model.forward(x, training=True), y)
        model.backward(dlogits)
        optimizer.step()
    return loss


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_what_is_frozen_stays_and_the_rest_trains_as_if_it_were_constant(make, batch):
    model, whole = model_of(), model_of()
    model.layers[0].trainable = False
    model.layers[1].parameters[2].trainable = False  # LayerNorm's scale
    before = {p.name: p.value.copy() for p in model.parameters()}
    train(model, make(model), *batch)
    for p in model.parameters():
        assert np.array_equal(p.value, before[p.name]) == (p.name in ("0.weight", "0.bias", "1.1.weight")), p.name
    # One step of the whole model, of which the frozen parts are put back, is the first step.
    other = model_of()
    other.layers[0].trainable = other.layers[1].parameters[2].trainable = False
    train(whole, make(whole), *batch, steps=1)
    train(other, make(other), *batch, steps=1)
    for mine, theirs in zip(other.parameters(), whole.parameters(), strict=True):
        if mine.trainable:
            np.testing.assert_array_equal(mine.value, theirs.value)
        else:
            assert not mine.grad.any()


def test_backward_does_not_run_through_a_frozen_beginning(batch, monkeypatch):
    model = model_of()
    model.layers[0].trainable = False
    called = []
    monkeypatch.setattr(model.layers[0], "backward", lambda *given: called.append(given))
    train(model, tn.SGD(model, 0.1), *batch, steps=1)
    assert called == []
    model.layers[0].trainable = True
    train(model, tn.SGD(model, 0.1), *batch, steps=1)
    assert len(called) == 1


def test_the_gradient_of_the_input_passes_through_frozen_layers(batch):
    x, y = batch
    gradients = []
    for frozen in (False, True):
        model = model_of()
        for layer in model.layers:
            layer.trainable = not frozen
        _, dlogits = tn.softmax_cross_entropy(model.forward(x, training=True), y)
        gradients.append(model.backward(dlogits, input_grad=True))
        assert model.flat_grads.any() == (not frozen)
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_lr_factor_multiplies_the_learning_rate_of_its_layer(make, batch):
    model, slow, fast = model_of(), model_of(), model_of()
    model.layers[1].lr_factor = 0.25
    optimizers = [make(each) for each in (model, slow, fast)]
    optimizers[1].lr = 0.025
    for each, optimizer in zip((model, slow, fast), optimizers, strict=True):
        train(each, optimizer, *batch, steps=1)
    for mine, slower, faster in zip(model.parameters(), slow.parameters(), fast.parameters(), strict=True):
        expected = slower if mine.name.startswith("1.") else faster
        np.testing.assert_allclose(mine.value, expected.value, rtol=1e-12)


def test_an_lr_factor_of_1_leaves_every_bit(batch):
    models = model_of("float32"), model_of("float32")
    models[1].layers[0].lr_factor = 1
    for model in models:
        train(model, tn.AdamW(model, 0.01), *batch, steps=5)
    np.testing.assert_array_equal(models[0].flat_values, models[1].flat_values)


def test_clipping_does_not_count_what_is_frozen(batch):
    model = model_of()
    model.layers[0].trainable = False
    optimizer = tn.SGD(model, 1.0, clip_norm=0.5)
    model.flat_grads[:] = 1
    before = model.flat_values.copy()
    optimizer.step()
    change = before - model.flat_values
    size = sum(p.value.size for p in model.parameters())
    trained = size - sum(p.value.size for p in model.layers[0].parameters)
    np.testing.assert_allclose(np.linalg.norm(change), 0.5)
    np.testing.assert_allclose(change[-trained:], 0.5 / np.sqrt(trained))


def test_flags_may_be_set_before_the_model_is_built_and_survive_copies():
    body = tn.Residual([tn.Dense(5)])
    body.trainable, body.lr_factor = False, 0.5
    model = tn.Sequential([body, tn.Dense(2)], 5)
    for each in (model, copy.deepcopy(model)):
        assert [p.trainable for p in each.parameters()] == [False, False, True, True]
        assert [p.lr_factor for p in each.parameters()] == [0.5, 0.5, 1, 1]
        assert not each.layers[0].layers[0].trainable


def test_unfreezing_goes_on_training(batch):
    model = model_of()
    model.layers[0].trainable = False
    optimizer = tn.Adam(model, 0.01)
    train(model, optimizer, *batch)
    before = model.parameters()[0].value.copy()
    model.layers[0].trainable = True
    train(model, optimizer, *batch)
    assert not np.array_equal(model.parameters()[0].value, before)


def test_a_model_that_is_wholly_frozen_takes_steps_that_change_nothing(batch):
    model = model_of()
    for layer in model.layers:
        layer.trainable = False
    before = model.flat_values.copy()
    train(model, tn.AdamW(model, 0.1, clip_norm=1.0), *batch)
    np.testing.assert_array_equal(model.flat_values, before)


def test_a_resumed_run_has_frozen_what_it_had(batch, tmp_path):
    def unfreeze(training):
        if training.epoch == 2:
            training.model.layers[0].trainable = True
            training.model.layers[1].lr_factor = 0.5

    def run(model, epochs, resume):
        model.layers[0].trainable = False
        options = {"loss": "softmax_cross_entropy", "optimizer": tn.Adam(model, 0.01), "batch_size": 4}
        tn.fit(
            model, *batch, **options, epochs=epochs, callbacks=[unfreeze], progress=False,
            checkpoint=tmp_path / str(resume), resume=resume,
        )  # fmt: skip
        return model

    straight = run(model_of(), 5, False)
    run(model_of(), 3, True)
    resumed = run(model_of(), 5, True)
    assert resumed.layers[0].trainable
    np.testing.assert_array_equal(resumed.flat_values, straight.flat_values)


def test_a_resumed_run_has_set_of_layers_and_parameters_what_it_had(batch, tmp_path):
    def set_some(training):
        if training.epoch == 2:
            training.model.layers[1].rate = 0.75
            training.model.parameters()[1].decay = True

    def run(epochs, resume):
        model = tn.Sequential([tn.Dense(8, "relu"), tn.Dropout(0.25), tn.Dense(3)], batch[0].shape[1:])
        options = {"loss": "softmax_cross_entropy", "optimizer": tn.Adam(model, 0.01, weight_decay=0.1)}
        tn.fit(
            model, *batch, **options, batch_size=4, epochs=epochs, callbacks=[set_some], progress=False,
            checkpoint=tmp_path / str(resume), resume=resume,
        )  # fmt: skip
        return model

    straight = run(5, False)
    run(3, True)
    resumed = run(5, True)
    assert resumed.layers[1].rate == 0.75
    np.testing.assert_array_equal(resumed.flat_values, straight.flat_values)


def test_a_gradient_check_leaves_out_what_is_frozen():
    model = model_of()
    model.layers[0].trainable = False
    assert tn.gradcheck.check(model, (3, 5)).passed


@pytest.mark.parametrize("of", ["layer", "parameter"])
def test_flags_of_the_wrong_kind_are_refused(of):
    model = model_of()
    owner = model.layers[0] if of == "layer" else model.parameters()[0]
    with pytest.raises(TypeError, match="trainable must be True or False, got 1"):
        owner.trainable = 1
    with pytest.raises(ValueError, match=r"lr_factor must be a finite number of at least 0, got -0\.5"):
        owner.lr_factor = -0.5
    assert all(p.trainable and p.lr_factor == 1 for p in model.parameters())


def test_a_frozen_batch_norm_trains_as_it_predicts(batch):
    x, y = batch
    layers = [tn.Dense(4), tn.BatchNorm(), tn.Dense(3)]
    model = tn.Sequential(layers, 5, seed=3, dtype="float64")
    for _ in range(5):
        model.forward(x, training=True)  # moves the running statistics
    model.layers[1].trainable = False
    before = model.buffers().copy()
    np.testing.assert_array_equal(model.forward(x, training=True), model.predict(x))
    for name, array in model.buffers().items():
        np.testing.assert_array_equal(array, before[name])
    assert tn.gradcheck.check(model, x, y, loss=tn.softmax_cross_entropy).passed
    norm = tn.Sequential([tn.BatchNorm()], (3, 4), dtype="float64")
    norm.forward(np.random.default_rng(1).normal(2, 3, (6, 3, 4)), training=True)
    norm.layers[0].trainable = False
    padded = norm.forward((np.ones((2, 3, 4)), [1, 3]), training=True)
    dx = norm.backward(np.ones((2, 3, 4)), input_grad=True)
    assert not padded[0, 1:].any()
    assert not dx[0, 1:].any()
    np.testing.assert_allclose(dx[1], np.broadcast_to(1 / np.sqrt(norm.buffers()["0.running_var"] + 1e-5), (3, 4)))


@pytest.mark.parametrize("shape", [(5,), (3, 5)], ids=["vectors", "sequences"])
def test_a_frozen_dense_in_the_middle_passes_the_gradient_on(shape):
    rng = np.random.default_rng(2)
    x, results = rng.normal(size=(4, *shape)), []
    for frozen in (False, True):
        layers = [tn.Dense(5), tn.Dense(6, activation="relu"), tn.Dense(2, activation="tanh")]
        model = tn.Sequential(layers, shape, seed=1, dtype="float64")
        model.layers[1].trainable = not frozen
        y = model.forward(x, training=True)
        dx = model.backward(np.ones(y.shape), input_grad=True)
        results.append([dx, model.parameters()[0].grad.copy(), model.parameters()[4].grad.copy()])
    assert not model.parameters()[2].grad.any()
    for whole, partly in zip(*results, strict=True):
        np.testing.assert_allclose(partly, whole, rtol=1e-12, atol=1e-12)


def test_flags_set_before_the_build_do_not_undo_each_other():
    first, second = tn.Dense(3), tn.Dense(3)
    first.trainable = False
    block = tn.Residual([first, second])
    block.lr_factor = 0.1
    tn.Sequential([block], (2, 3))
    assert [p.trainable for p in block.parameters] == [False, False, True, True]
    assert [p.lr_factor for p in block.parameters] == [0.1] * 4
    whole = tn.TransformerBlock(1)  # whose layers are made when it is built
    whole.trainable = False
    model = tn.Sequential([tn.Dense(3), whole], (2, 3))
    assert not any(layer.trainable for layer in model.layers[1].walk())
    assert not any(p.trainable for p in whole.parameters)


def frozen_cases():
    """{name: (layer, shape of a sample)} of every layer with parameters whose backward pass has a way without them."""
    image, sequence = (9, 8, 6), (7, 6)
    windows = {
        "Winograd's": {"filters": 40, "kernel_size": 3, "padding": 1},
        "a stride": {"filters": 5, "kernel_size": 3, "stride": 2, "padding": 1},
        "a stride longer than the window": {"filters": 5, "kernel_size": 1, "stride": (3, 2)},
        "zeros on one side": {"filters": 20, "kernel_size": (2, 4), "padding": ((1, 0), (0, 3)), "stride": (1, 2)},
        "dilation": {"filters": 4, "kernel_size": 3, "dilation": 2, "stride": 2, "padding": 2},
        "groups": {"filters": 4, "kernel_size": 3, "groups": 2, "stride": 2, "padding": "same"},
        "depthwise": {"filters": 6, "kernel_size": 3, "groups": 6, "padding": 1},
        "depthwise, two filters a channel and a stride": {"filters": 12, "kernel_size": 3, "groups": 6, "stride": 2},
    }
    cases = {f"Conv2D, {name}": (tn.Conv2D(**options), image) for name, options in windows.items()}
    cases["Conv2D, Winograd's"] = tn.Conv2D(**windows["Winograd's"], activation="relu"), (9, 8, 40)
    return cases | {
        "Conv1D": (tn.Conv1D(5, 3, stride=2, padding=1, activation="relu"), sequence),
        "ConvTranspose2D": (tn.ConvTranspose2D(5, 3, stride=2, activation="tanh"), image),
        "Dense": (tn.Dense(5, "relu"), sequence),
        "BatchNorm": (tn.BatchNorm(), sequence),
        "LayerNorm": (tn.LayerNorm(), sequence),
        "RMSNorm": (tn.RMSNorm(), sequence),
        "GroupNorm": (tn.GroupNorm(2), sequence),
        "MultiHeadAttention": (tn.MultiHeadAttention(2), sequence),
        "LSTM": (tn.LSTM(4, bidirectional=True), sequence),
        "GRU": (tn.GRU(4), sequence),
        "PositionEmbedding": (tn.PositionEmbedding(7), sequence),
        "ClassToken": (tn.ClassToken(), sequence),
    }


@pytest.mark.parametrize("name", frozen_cases())
def test_a_frozen_layer_writes_no_gradient_and_passes_on_the_one_it_did_before(name):
    layer, shape = frozen_cases()[name]
    rng = np.random.default_rng(0)
    tn.Sequential([layer], shape, dtype="float64")
    for p in layer.parameters:
        p.value = rng.standard_normal(p.value.shape)
    x, found = rng.standard_normal((3, *shape)), []
    for frozen in (False, True):
        if frozen and name == "BatchNorm":  # a frozen one trains as it predicts: let both have the same statistics
            layer.momentum = 0.0
            layer.forward(x, training=True)
            layer.buffers["running_var"] = x.reshape(-1, 6).var(axis=0)
        layer.trainable = not frozen
        for p in layer.parameters:
            p.grad = np.full(p.value.shape, 7.0)
        y = layer.forward(x, training=True)
        dy = np.random.default_rng(1).standard_normal(y.shape)
        found.append((y, layer.backward(dy)))
        written = [not (p.grad == 7.0).any() for p in layer.parameters]
        assert all(written) if not frozen else not any(written)
    (y, dx), (y_frozen, dx_frozen) = found
    np.testing.assert_allclose(y_frozen, y, rtol=1e-9, atol=1e-12)
    if name != "BatchNorm":  # whose moments are constants then
        np.testing.assert_allclose(dx_frozen, dx, rtol=1e-9, atol=1e-11)
    else:
        assert tn.gradcheck.check(layer, x).passed
    assert layer.backward(dy, input_grad=False) is None
    assert all((p.grad == 7.0).all() for p in layer.parameters)


def test_a_frozen_half_of_a_norm_writes_no_gradient():
    layer = tn.LayerNorm()
    tn.Sequential([layer], 4)
    layer.parameters[0].trainable = False
    layer.parameters[0].grad = [7, 7, 7, 7]
    layer.forward(np.eye(4), training=True)
    layer.backward(np.eye(4))
    np.testing.assert_array_equal(layer.parameters[0].grad, 7)
    np.testing.assert_array_equal(layer.parameters[1].grad, 1)
