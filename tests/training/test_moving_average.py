"""MovingAverage and ReduceOnPlateau, and what a callback's step is called for."""

import numpy as np
import pytest
import torch

import tinynet as tn

Y = np.arange(40) % 3
X = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32) + 2 * np.eye(3, 4, dtype=np.float32)[Y]


def fitted(callbacks, epochs=3, lr=0.05, **options):
    model = tn.Sequential([tn.Dense(5), tn.BatchNorm(), tn.Dense(3)], 4)
    options = {"loss": "softmax_cross_entropy", "batch_size": 16, "progress": False, **options}
    return model, tn.fit(model, X, Y, optimizer=tn.Adam(model, lr), epochs=epochs, callbacks=callbacks, **options)


class Recorder:
    """Keeps what the model had after each step, and when it was called."""

    def __init__(self):
        self.values, self.means, self.steps, self.epochs = [], [], [], []

    def step(self, training):
        self.values.append(training.model.flat_values.copy())
        self.means.append(training.model.buffers()["1.running_mean"].copy())
        self.steps.append(training.step)

    def __call__(self, training):
        self.epochs.append((training.epoch, training.step))


def test_a_callback_s_step_is_called_after_each_step():
    seen = Recorder()
    fitted([seen], epochs=2)
    assert seen.steps == [1, 2, 3, 4, 5, 6]
    assert seen.epochs == [(1, 3), (2, 6)]


def test_in_each_step_there_is_the_loss_of_its_batch():
    found, asked = [], []

    class Noting:
        def start(self, training):
            assert np.isnan(training.loss)

        def step(self, training):
            found.append(training.loss)

        def __call__(self, training):
            assert training.loss == found[-1]

    def loss(z, t):
        asked.append(tn.softmax_cross_entropy(z, t))
        return asked[-1]

    _, history = fitted([Noting()], epochs=2, loss=loss)
    assert found == [value for value, _ in asked]
    rows = np.array([16, 16, 8])  # an epoch's loss is the mean over its samples
    np.testing.assert_allclose(history["loss"], np.reshape(found, (2, 3)) @ rows / 40)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_mean_is_the_formula_of_weights_and_buffers(decay):
    seen, average = Recorder(), tn.MovingAverage(decay)
    model, _ = fitted([seen, average])
    for arrays, found in ((seen.values, model.flat_values), (seen.means, model.buffers()["1.running_mean"])):
        mean = arrays[0].astype(np.float64)
        for k, array in enumerate(arrays):
            d = min(decay, (1 + k) / (10 + k))
            mean = d * mean + (1 - d) * array
        np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-7)


def test_the_mean_is_swapped_in_for_a_while():
    seen, average = Recorder(), tn.MovingAverage(0.9)
    model, _ = fitted([seen, average])
    mean = model.flat_values.copy()
    with average.swapped(model):
        np.testing.assert_array_equal(model.flat_values, seen.values[-1])
    np.testing.assert_array_equal(model.flat_values, mean)


def test_a_resumed_run_has_the_same_mean(tmp_path):
    whole, _ = fitted([tn.MovingAverage(0.9)], epochs=4)
    fitted([tn.MovingAverage(0.9)], epochs=2, checkpoint=tmp_path / "run")
    resumed, _ = fitted([tn.MovingAverage(0.9)], epochs=4, checkpoint=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(resumed.flat_values, whole.flat_values)


@pytest.mark.parametrize("values", [[1, 0.9, 0.9, 0.95, 0.91, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6], [1.0] * 9])
def test_a_rate_is_reduced_when_pytorch_s_is(values):
    left, rates = iter(values), []
    callback = tn.ReduceOnPlateau("val_score", factor=0.5, patience=2, least=0.01, mode="min")
    fitted(
        [callback, lambda training: rates.append(training.optimizer.lr)],
        epochs=len(values),
        metrics={"score": lambda prediction, target: next(left) if len(target) == 12 else 0.0},
        validation=(X[:12], Y[:12]),
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.05)
    # PyTorch reduces once more than `patience` epochs were bad: its 1 is 2 here.
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, threshold=0, min_lr=0.01)
    expected = []
    for value in values:
        theirs.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, expected)


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match="MovingAverage: decay must be a finite number of at least 0 and below 1"):
        tn.MovingAverage(1.0)
    with pytest.raises(ValueError, match="ReduceOnPlateau: factor must be a finite number of at least 0 and below 1"):
        tn.ReduceOnPlateau(factor=1.5)
    with pytest.raises(ValueError, match=r"decay was 0\.9 and is 0\.5 here"):
        tn.MovingAverage(0.5).load_state_dict(tn.MovingAverage(0.9).state_dict())
    for schedule in (tn.exponential(0.1, 0.9), tn.polynomial(0.1, 5), tn.sequence(tn.constant(0.1))):
        with pytest.raises(ValueError, match="step"):
            schedule(-1)
    with pytest.raises(ValueError, match="the last part must be a schedule alone"):
        tn.sequence((tn.constant(0.1), 5))
    with pytest.raises(TypeError, match="part 0 must be a pair"):
        tn.sequence(tn.constant(0.1), tn.constant(0.2))


def test_a_callback_may_have_a_step_that_is_no_function():
    class Counting:
        step = 0

        def __call__(self, training):
            self.step += 1

    counting = Counting()
    fitted([counting], epochs=2)
    assert counting.step == 2


def test_a_rate_that_the_schedule_sets_is_not_reduced():
    with pytest.raises(ValueError, match="ReduceOnPlateau would do nothing, since schedule sets the learning rate"):
        fitted([tn.ReduceOnPlateau("loss")], schedule=tn.constant(0.1))


def test_of_two_callbacks_that_set_the_weights_at_the_end_none_undoes_the_other():
    for pair in ([tn.EarlyStopping("loss"), tn.MovingAverage()], [tn.MovingAverage(), tn.MovingAverage(0.9)]):
        with pytest.raises(ValueError, match="would each set the model's weights at the end, and only one can"):
            fitted(pair)
    fitted([tn.EarlyStopping("loss", restore_best=False), tn.MovingAverage()])
