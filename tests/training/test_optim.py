"""Optimizers against PyTorch's, schedules against PyTorch's, and what they refuse."""

import math
from functools import partial

import numba
import numpy as np
import pytest
import torch

import tinynet as tn
from tinynet.kernels.denormals import CAN
from tinynet.layers.base import Layer, Parameter
from tinynet.training import optim

pytestmark = pytest.mark.usefixtures("one_thread")


class Weights:
    """What an optimizer needs of a model: parameters that are views of one vector.  Every other one is a bias."""

    def __init__(self, *sizes, dtype=np.float64, seed=0):
        self.flat_values = np.random.default_rng(seed).standard_normal(sum(sizes)).astype(dtype)
        self.flat_grads = np.zeros_like(self.flat_values)
        self._parameters, start = [], 0
        for k, size in enumerate(sizes):
            value, grad = (flat[start : start + size] for flat in (self.flat_values, self.flat_grads))
            parameter = Parameter(f"{k}", value, decay=k % 2 == 0, grad=grad)
            self._parameters.append(parameter)
            start += size

    def parameters(self):
        return self._parameters


def gradient(values, step):
    """Of a bowl that shakes: large enough at times for clipping to matter, and of any size otherwise."""
    noise = np.random.default_rng(step).standard_normal(values.shape)
    return (0.5 * (values - 1) + noise * 10.0 ** (step % 5 - 3)).astype(values.dtype)


torch_schedules = torch.optim.lr_scheduler
CASES = {
    "plain": (optim.SGD, {"lr": 0.05}),
    "momentum": (optim.SGD, {"lr": 0.02, "momentum": 0.9}),
    "nesterov": (optim.SGD, {"lr": 0.02, "momentum": 0.8, "nesterov": True}),
    "decay": (optim.SGD, {"lr": 0.05, "weight_decay": 0.1}),
    "momentum and decay": (optim.SGD, {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.05}),
    "dampened": (optim.SGD, {"lr": 0.02, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.05, "maximize": True}),
    "adagrad": (optim.Adagrad, {"lr": 0.05}),
    "adagrad with decay": (optim.Adagrad, {"lr": 0.05, "eps": 1e-4, "weight_decay": 0.1, "maximize": True}),
    "rmsprop": (optim.RMSprop, {"lr": 0.01}),
    "rmsprop centered": (optim.RMSprop, {"lr": 0.01, "alpha": 0.9, "centered": True, "weight_decay": 0.1}),
    "rmsprop centered with momentum": (
        optim.RMSprop,
        {"lr": 0.003, "eps": 1e-6, "momentum": 0.7, "centered": True, "maximize": True},
    ),
    "rmsprop with momentum": (
        optim.RMSprop,
        {"lr": 0.003, "alpha": 0.9, "eps": 1e-6, "momentum": 0.7, "weight_decay": 0.1},
    ),
    "adam": (optim.Adam, {"lr": 0.01}),
    "adam with decay": (optim.Adam, {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    "amsgrad": (optim.Adam, {"lr": 0.01, "betas": (0.8, 0.7), "weight_decay": 0.1, "amsgrad": True}),
    "adamw": (optim.AdamW, {"lr": 0.01}),
    "amsgrad, decoupled": (
        optim.AdamW,
        {"lr": 0.02, "betas": (0.5, 0.6), "weight_decay": 0.3, "amsgrad": True, "maximize": True},
    ),
    "adamw with more decay": (optim.AdamW, {"lr": 0.02, "betas": (0.5, 0.9), "weight_decay": 0.3}),
}


@pytest.mark.parametrize("clip_norm", [None, 3.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_two_hundred_steps_are_those_of_pytorch(case, dtype, clip_norm):
    ours, settings = CASES[case]
    theirs = getattr(torch.optim, ours.__name__)
    model = Weights(37, 5, 211, 1, dtype=dtype)
    optimizer = ours(model, **settings, clip_norm=clip_norm)
    tensors = [torch.nn.Parameter(torch.tensor(p.value.copy())) for p in model.parameters()]
    decayed = [t for t, p in zip(tensors, model.parameters(), strict=True) if p.decay]
    others = [t for t, p in zip(tensors, model.parameters(), strict=True) if not p.decay]
    peer = theirs([{"params": decayed}, {"params": others, "weight_decay": 0.0}], **settings)
    for step in range(200):
        # Both get the gradient of tinynet's weights: a shared path, so that rounding isn't blown up by it.
        model.flat_grads[...] = gradient(model.flat_values, step)
        for tensor, parameter in zip(tensors, model.parameters(), strict=True):
            tensor.grad = torch.tensor(parameter.grad.copy())
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors, clip_norm)
        optimizer.step()
        peer.step()
    expected = np.concatenate([t.detach().numpy() for t in tensors])
    tolerance = 1e-5 if dtype == np.float32 or clip_norm is not None else 1e-12  # PyTorch adds 1e-6 to the norm
    np.testing.assert_allclose(model.flat_values, expected, rtol=tolerance, atol=tolerance)
    assert np.abs(model.flat_values - Weights(37, 5, 211, 1).flat_values).max() > 0.1, "the weights hardly moved"


# A network that learns the digits, in tinynet and in PyTorch.  In float64 each goes its own way, with gradients of its
# own; in float32, where rounding would drive them apart, PyTorch's optimizer is given tinynet's gradients.
@pytest.mark.parametrize("extra", ["nothing", "clipping and a schedule"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_a_network_is_trained_as_by_pytorch(case, dtype, extra):
    ours, settings = CASES[case]
    extra = extra != "nothing"
    (x, y), _ = tn.data.digits()
    x = x - 0.5  # else the weights of pixels that are always 0 get no gradient but that of the decay, soon all rounding
    model = tn.Sequential([tn.Flatten(), tn.Dense(12, activation="tanh"), tn.Dense(10)], (8, 8, 1), dtype=dtype)
    tensors = [torch.nn.Parameter(torch.tensor(p.value.copy())) for p in model.parameters()]
    w1, b1, w2, b2 = tensors
    start = model.flat_values.copy()
    optimizer = ours(model, **settings, clip_norm=1.0 if extra else None)
    peer = getattr(torch.optim, ours.__name__)(
        [{"params": [w1, w2]}, {"params": [b1, b2], "weight_decay": 0.0}], **settings
    )
    lr, steps, clipped = settings["lr"], 200, 0
    schedule, scheduler = optim.constant(lr), None
    if extra:
        schedule = optim.one_cycle(lr, steps + 1)
        scheduler = torch_schedules.OneCycleLR(peer, lr, total_steps=steps + 1, cycle_momentum=False)
    generator = np.random.default_rng(0)
    for step in range(steps):
        rows = generator.integers(len(x), size=32)
        _, dlogits = tn.softmax_cross_entropy(model.forward(x[rows], training=True), y[rows])
        model.backward(dlogits)
        if dtype == "float64":
            logits = torch.tanh(torch.tensor(x[rows].reshape(32, 64)).to(w1.dtype) @ w1 + b1) @ w2 + b2
            peer.zero_grad()
            torch.nn.functional.cross_entropy(logits, torch.tensor(y[rows])).backward()
        else:
            for tensor, parameter in zip(tensors, model.parameters(), strict=True):
                tensor.grad = torch.tensor(parameter.grad.copy())
        optimizer.lr = schedule(step)
        if extra:
            clipped += float(torch.nn.utils.clip_grad_norm_(tensors, 1.0)) > 1.0
        optimizer.step()
        peer.step()
        if extra:
            scheduler.step()
    expected = np.concatenate([t.detach().numpy().ravel() for t in tensors])
    # PyTorch adds 1e-6 to the norm that it clips by.
    tolerance = 1e-5 if dtype == "float32" or extra else 1e-10
    np.testing.assert_allclose(model.flat_values, expected, rtol=tolerance, atol=tolerance)
    assert np.abs(model.flat_values - start).max() > 0.1, "the weights hardly moved"
    assert not extra or 0 < clipped < steps


class Scale(Layer):
    """y = x scale + shift, as the end of a normalisation layer: no weight decay belongs on either."""

    def build(self, input_shape, dtype, rng):
        shape = super().build(input_shape, dtype, rng)
        ones = np.ones(shape[-1], self.dtype)
        self.parameters = [Parameter("scale", ones, decay=False), Parameter("shift", 0 * ones, decay=False)]
        return shape

    def forward(self, x, training=False):
        self.x = x if training else None
        return x * self.parameters[0].value + self.parameters[1].value

    def backward(self, dy, input_grad=True):
        self.parameters[0].grad[...], self.parameters[1].grad[...] = (dy * self.x).sum(axis=0), dy.sum(axis=0)
        return dy * self.parameters[0].value


@pytest.mark.parametrize("make", [optim.SGD, optim.Adagrad, optim.RMSprop, optim.Adam, optim.AdamW])
def test_weight_decay_leaves_out_biases_and_what_normalises(make):
    model = tn.Sequential([tn.Dense(4), Scale(), tn.Dense(2)], 3, dtype="float64")
    model.flat_values += 1.0
    before = {p.name: p.value.copy() for p in model.parameters()}
    make(model, lr=0.1, weight_decay=0.5).step()  # all gradients are 0, so what moves was moved by the decay
    moved = {p.name: np.abs(p.value).sum() < np.abs(before[p.name]).sum() for p in model.parameters()}
    assert [name for name, yes in moved.items() if yes] == ["0.weight", "2.weight"]
    for parameter in model.parameters():
        if not moved[parameter.name]:
            np.testing.assert_array_equal(parameter.value, before[parameter.name])


def test_adam_computed_by_hand():
    # One weight of 1, gradient 2: m = 0.2, s = 0.004, both divided by what they lack give 2 and 4, so the step is lr.
    model = Weights(1)
    model.flat_values[0], model.flat_grads[0] = 1.0, 2.0
    optim.Adam(model, lr=0.5, eps=0.0).step()
    assert model.flat_values[0] == pytest.approx(0.5, abs=1e-15)


def test_gradients_are_clipped_by_their_norm_over_all_parameters():
    model = Weights(1, 1)
    model.flat_values[:], model.flat_grads[:] = 0.0, (3.0, 4.0)
    optim.SGD(model, lr=1.0, clip_norm=1.0).step()
    np.testing.assert_allclose(model.flat_values, [-0.6, -0.8], rtol=1e-15)
    np.testing.assert_array_equal(model.flat_grads, [3.0, 4.0])


MAKES = [
    optim.SGD,
    optim.Adagrad,
    optim.RMSprop,
    partial(optim.RMSprop, centered=True),
    optim.Adam,
    partial(optim.AdamW, amsgrad=True),
]


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("size", [optim.HEAVY - 1, 5 * optim.HEAVY + 13])
def test_a_step_has_the_same_bits_for_any_number_of_threads(make, size):
    results = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        model = Weights(size, 3, dtype=np.float32)
        optimizer = make(model, lr=0.01, weight_decay=0.1, clip_norm=0.5)
        for step in range(3):
            model.flat_grads[...] = gradient(model.flat_values, step)
            optimizer.step()
        results.append(model.flat_values)
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("make", MAKES)
def test_a_weight_is_updated_alike_in_a_small_and_in_a_large_model(make):
    large, small = Weights(3 * optim.HEAVY, dtype=np.float32), Weights(100, dtype=np.float32)
    small.flat_values[...] = large.flat_values[-100:]
    optimizers = [make(model, lr=0.01, weight_decay=0.1) for model in (large, small)]
    for step in range(3):
        large.flat_grads[...] = gradient(large.flat_values, step)
        small.flat_grads[...] = large.flat_grads[-100:]
        for optimizer in optimizers:
            optimizer.step()
    np.testing.assert_array_equal(large.flat_values[-100:], small.flat_values)


@pytest.mark.parametrize(
    "case",
    [
        "momentum",
        "dampened",
        "adagrad",
        "rmsprop with momentum",
        "rmsprop centered",
        "adam with decay",
        "adamw",
        "amsgrad",
    ],
)
def test_a_run_goes_on_from_its_state_as_if_never_interrupted(case):
    make, settings = CASES[case]
    whole, first = Weights(50, 3), Weights(50, 3)
    straight = make(whole, **settings)
    interrupted = make(first, **settings)
    for step in range(10):
        if step == 5:
            state = interrupted.state_dict()
            second = Weights(50, 3, seed=9)
            second.flat_values[...] = first.flat_values
            other = dict(settings, lr=0.5)
            interrupted.step()  # which changes nothing that was handed out
            interrupted, first = make(second, **other), second
            interrupted.load_state_dict(state)
        for model, optimizer in ((whole, straight), (first, interrupted)):
            model.flat_grads[...] = gradient(model.flat_values, step)
            optimizer.step()
    np.testing.assert_array_equal(first.flat_values, whole.flat_values)
    assert interrupted.lr == settings["lr"]


BROKEN_STATES = [
    (lambda s: [], TypeError, "takes what state_dict"),
    (lambda s: {**s, "optimizer": "SGD"}, ValueError, "'SGD'"),
    (lambda s: {k: v for k, v in s.items() if k != "mean"}, ValueError, "mean"),
    (lambda s: {**s, "velocity": s["mean"]}, ValueError, "velocity"),
    (lambda s: {**s, "square": s["square"][1:]}, ValueError, r"square is float64 of shape \(7,\)"),
    (lambda s: {**s, "mean": s["mean"].astype(np.float32)}, ValueError, "mean is float32"),
    (lambda s: {**s, "lr": -1.0}, ValueError, "lr must be"),
    (lambda s: {**s, "steps": -1}, ValueError, "steps"),
    (lambda s: {**s, "beta2": "high"}, TypeError, "beta2"),
    (lambda s: {**s, "amsgrad": True, "highest": s["mean"]}, ValueError, "the state is that of amsgrad=True; make"),
    (lambda s: {**s, "maximize": "yes"}, TypeError, "maximize must be True or False"),
]


@pytest.mark.parametrize(("change", "error", "message"), BROKEN_STATES)
def test_a_broken_state_is_refused_before_anything_changes(change, error, message):
    model = Weights(8)
    optimizer = optim.Adam(model)
    model.flat_grads[:] = 1.0
    optimizer.step()
    before = optimizer.state_dict()
    broken = change({**before, "mean": before["mean"] + 1, "lr": 0.7})
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(broken)
    after = optimizer.state_dict()
    assert set(after) == set(before)
    for key in before:
        np.testing.assert_array_equal(after[key], before[key])


REFUSED = [
    (lambda m: optim.SGD(m, lr=-0.1), ValueError, "lr must be a finite number of at least 0, got -0.1"),
    (lambda m: optim.SGD(m, lr=math.nan), ValueError, "lr"),
    (lambda m: optim.SGD(m, lr=math.inf), ValueError, "lr"),
    (lambda m: optim.SGD(m, lr="fast"), TypeError, "lr must be a number, got 'fast'"),
    (lambda m: optim.SGD(m, lr=True), TypeError, "lr"),
    (lambda m: optim.SGD(m, lr=0.1, momentum=1.0), ValueError, "momentum must be .* below 1, got 1"),
    (lambda m: optim.SGD(m, lr=0.1, nesterov=True), ValueError, "nesterov=True needs a momentum"),
    (lambda m: optim.SGD(m, lr=0.1, momentum=0.9, nesterov=1), TypeError, "nesterov must be True or False"),
    (lambda m: optim.SGD(m, lr=0.1, weight_decay=-1), ValueError, "weight_decay"),
    (lambda m: optim.SGD(m, momentum=0.9, dampening=1), ValueError, "dampening must be .* below 1, got 1"),
    (lambda m: optim.SGD(m, momentum=0.9, dampening=0.1, nesterov=True), ValueError, "needs a dampening of 0, got 0.1"),
    (lambda m: setattr(optim.SGD(m, momentum=0.9, nesterov=True), "dampening", 0.1), ValueError, "a dampening of 0"),
    (lambda m: optim.SGD(m, maximize=1), TypeError, "maximize must be True or False, got 1"),
    (lambda m: optim.Adagrad(m, eps=-1), ValueError, "Adagrad: eps"),
    (lambda m: optim.Adam(m, amsgrad="yes"), TypeError, "amsgrad must be True or False"),
    (lambda m: optim.RMSprop(m, centered=None), TypeError, "centered must be True or False"),
    (lambda m: setattr(optim.AdamW(m), "amsgrad", True), TypeError, "amsgrad can't be set any more; make a new AdamW"),
    (lambda m: setattr(optim.RMSprop(m), "centered", False), TypeError, "centered can't be set any more"),
    (lambda m: optim.SGD(m, lr=0.1, clip_norm=0), ValueError, "clip_norm must be above 0"),
    (lambda m: optim.SGD(m, lr=0.1, clip_norm=-1), ValueError, "clip_norm"),
    (lambda m: optim.Adam(m, betas=0.9), ValueError, "betas must be a pair"),
    (lambda m: optim.Adam(m, betas=(0.9, 1.0)), ValueError, "beta2"),
    (lambda m: optim.Adam(m, eps=-1e-8), ValueError, "eps"),
    (lambda m: optim.RMSprop(m, alpha=1.5), ValueError, "alpha"),
    (lambda m: optim.AdamW([1, 2]), TypeError, "AdamW takes a model .* got list"),
    (lambda m: optim.Adam(Weights()), ValueError, "no parameters"),
    (lambda m: setattr(optim.Adam(m), "lr", -1), ValueError, "Adam: lr"),
    (lambda m: optim.cosine(0.1, 10, warmup=10), ValueError, "warmup must be below steps"),
    (lambda m: optim.cosine(0.1, 0), ValueError, "steps must be at least 1"),
    (lambda m: optim.step_decay(0.1, 2.5), TypeError, "every must be a whole number"),
    (lambda m: optim.one_cycle(0.1, 100, rise=1.5), ValueError, "rise must be .* below 1"),
    (lambda m: optim.constant("a"), TypeError, "constant: lr"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED)
def test_a_bad_setting_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(Weights(8))


def test_an_optimizer_prints_its_settings():
    assert repr(optim.SGD(Weights(1), lr=0.1)) == (
        "SGD(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0, clip_norm=None)"
    )


def rates_of_pytorch(make, lr, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


SCHEDULES = {
    "step_decay": (optim.step_decay(0.3, 7, 0.5), lambda o: torch_schedules.StepLR(o, 7, 0.5), 0.3, 50),
    "cosine": (optim.cosine(0.3, 50, final=0.01), lambda o: torch_schedules.CosineAnnealingLR(o, 50, 0.01), 0.3, 50),
    "step_decay often": (optim.step_decay(0.3, 1, 0.9), lambda o: torch_schedules.StepLR(o, 1, 0.9), 0.3, 50),
    "cosine to 0": (optim.cosine(2.0, 7), lambda o: torch_schedules.CosineAnnealingLR(o, 7), 2.0, 8),
    "cosine with warm-up": (
        optim.cosine(0.3, 50, warmup=10, final=0.01),
        lambda o: torch_schedules.SequentialLR(
            o,
            [torch_schedules.LinearLR(o, 0.1, total_iters=9), torch_schedules.CosineAnnealingLR(o, 40, 0.01)],
            milestones=[10],
        ),
        0.3,
        50,
    ),
    "exponential": (optim.exponential(0.3, 0.97), lambda o: torch_schedules.ExponentialLR(o, 0.97), 0.3, 50),
    "polynomial": (optim.polynomial(0.3, 40, 2.0), lambda o: torch_schedules.PolynomialLR(o, 40, 2.0), 0.3, 50),
    "polynomial down to a rest": (
        optim.polynomial(0.3, 40, final=0.03),
        lambda o: torch_schedules.LinearLR(o, 1.0, 0.1, total_iters=40),
        0.3,
        50,
    ),
    "sequence": (
        optim.sequence((optim.constant(0.03), 5), (optim.exponential(0.3, 0.9), 10), optim.step_decay(0.3, 4, 0.5)),
        lambda o: torch_schedules.SequentialLR(
            o,
            [
                torch_schedules.ConstantLR(o, 0.1, total_iters=5),
                torch_schedules.ExponentialLR(o, 0.9),
                torch_schedules.StepLR(o, 4, 0.5),
            ],
            [5, 15],
        ),
        0.3,
        40,
    ),
    "constant": (optim.constant(0.3), lambda o: torch_schedules.ConstantLR(o, 1.0), 0.3, 50),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_that_of_pytorch(name):
    schedule, theirs, lr, steps = SCHEDULES[name]
    expected = rates_of_pytorch(theirs, lr, steps)
    np.testing.assert_allclose([schedule(step) for step in range(steps)], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("steps", "rise", "start", "end"),
    [(100, 0.3, 1 / 25, 1e-4), (37, 0.25, 1 / 25, 1e-4), (10, 0.5, 1 / 25, 1e-4), (60, 0.1, 1 / 4, 1e-2)],
)
def test_one_cycle_is_that_of_pytorch(steps, rise, start, end):
    settings = {"total_steps": steps, "pct_start": rise, "div_factor": 1 / start, "final_div_factor": 1 / end}
    expected = rates_of_pytorch(lambda o: torch_schedules.OneCycleLR(o, 0.3, **settings), 0.3, steps - 1)
    schedule = optim.one_cycle(0.3, steps, rise, start, end)
    np.testing.assert_allclose([schedule(step) for step in range(steps - 1)], expected, rtol=1e-9)
    assert schedule(steps - 1) == schedule(10 * steps) == pytest.approx(0.3 * start * end)


def test_cosine_warms_up_in_a_straight_line_and_stays_at_the_end():
    schedule = optim.cosine(1.0, steps=20, warmup=4, final=0.1)
    assert [schedule(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert schedule(12) == pytest.approx(0.55)  # halfway down
    assert schedule(20) == schedule(1000) == pytest.approx(0.1)


@pytest.mark.parametrize("size", [1e200, 1e307, 1e-200, 1e-307])
def test_a_gradient_whose_squares_leave_the_range_of_float64_is_clipped_by_its_norm(size):
    model = Weights(1, 1)
    model.flat_values[:], model.flat_grads[:] = 0.0, (3 * size, 4 * size)
    optim.SGD(model, lr=1.0, clip_norm=2.5 * min(size, 1e200)).step()
    np.testing.assert_allclose(model.flat_values, np.multiply(-2.5 * min(size, 1e200), (0.6, 0.8)), rtol=1e-14)
    model.flat_values[:] = 0.0
    optim.SGD(model, lr=1.0, clip_norm=1e308).step()  # far above: nothing is clipped
    np.testing.assert_array_equal(model.flat_values, -model.flat_grads)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_shows_through_clipping(broken):
    model = Weights(1, 1)
    model.flat_grads[:] = 1.0, broken
    optim.SGD(model, lr=1.0, clip_norm=1.0).step()
    assert np.isnan(model.flat_values[1])


@pytest.mark.parametrize("make", MAKES[1:])
@pytest.mark.parametrize(("dtype", "eps"), [(np.float64, 0.0), (np.float32, 0.0), (np.float32, 1e-60)])
def test_a_gradient_of_zero_moves_nothing_whatever_eps_is(make, dtype, eps):
    model = Weights(2, 2, dtype=dtype)
    model.flat_grads[:] = 0, 1, 0, 2
    start = model.flat_values.copy()
    optimizer = make(model, lr=0.01, eps=eps, weight_decay=0.0)
    for _ in range(2):
        optimizer.step()
    assert np.isfinite(model.flat_values).all()
    np.testing.assert_array_equal(model.flat_values[::2], start[::2])
    assert (model.flat_values[1::2] < start[1::2]).all()


@pytest.mark.skipif(not CAN, reason="numbers are flushed on x86 alone, and not where bounds are checked")
@pytest.mark.parametrize("make", [partial(optim.SGD, momentum=0.9), optim.Adam])
@pytest.mark.parametrize("size", [3, 5 * optim.HEAVY])
def test_a_mean_of_gradients_that_become_zero_ends_at_zero(make, size):
    # Rounded, 0.9 times the smallest number is that number: as a denormal the mean would stay there, and slow.
    model = Weights(size, dtype=np.float32)
    optimizer = make(model, lr=0.01)
    model.flat_grads[:] = 1e-36
    for _ in range(70):
        optimizer.step()
        model.flat_grads[:] = 0
    mean = optimizer.velocity if isinstance(optimizer, optim.SGD) else optimizer.mean
    np.testing.assert_array_equal(mean, 0)
    assert np.float32(1e-36) * np.float32(1e-3) > 0  # this thread computes with them as before


# --- what was added to optimizers that were there before ------------------------------------------------------


def test_pytorchs_samples_of_its_optimizers():
    pytest.importorskip("expecttest", reason="PyTorch's sample inputs import it")
    from torch.testing._internal.common_optimizers import optim_db

    elsewhere = {"lr_decay", "initial_accumulator_value"}  # a schedule; optimizer.square[...] = 0.1
    tried = {}
    for theirs in optim_db:
        ours = getattr(optim, theirs.optim_cls.__name__, None)
        for sample in theirs.optim_inputs_func(device="cpu") if ours else ():
            options = {name: float(v) if torch.is_tensor(v) else v for name, v in sample.kwargs.items()}
            if elsewhere & set(options):
                continue
            model = Weights(37, dtype=np.float64)
            optimizer = ours(model, **options)  # without lr: each has PyTorch's own
            tensor = torch.nn.Parameter(torch.tensor(model.flat_values.copy()))
            peer = theirs.optim_cls([tensor], **options)
            for step in range(50):
                model.flat_grads[...] = gradient(model.flat_values, step)
                tensor.grad = torch.tensor(model.flat_grads.copy())
                optimizer.step()
                peer.step()
            np.testing.assert_allclose(model.flat_values, tensor.detach().numpy(), rtol=1e-11, atol=1e-12)
            tried[ours] = tried.get(ours, 0) + 1
    least = {optim.SGD: 9, optim.Adagrad: 5, optim.RMSprop: 8, optim.Adam: 5, optim.AdamW: 5}
    assert tried.keys() == least.keys()
    assert all(tried[ours] >= least[ours] for ours in least)


def test_a_state_of_version_0_1_is_one_without_later_settings():
    for make, settings in ((optim.SGD, {"momentum": 0.9}), (optim.RMSprop, {}), (optim.Adam, {})):
        model = Weights(8)
        optimizer = make(model, lr=0.1, **settings)
        state = optimizer.state_dict()
        assert not {"maximize", "dampening", "centered", "amsgrad", "highest"} & set(state)
        optimizer.maximize = True
        assert optimizer.state_dict()["maximize"] is True
        assert "maximize=True" in repr(optimizer)
        optimizer.load_state_dict(state)
        assert optimizer.maximize is False


def test_what_only_an_option_needs_takes_no_memory_without_it():
    for make, flag, name in ((optim.Adam, "amsgrad", "highest"), (optim.RMSprop, "centered", "mean")):
        assert getattr(make(Weights(8)), name).size == 0
        optimizer = make(Weights(8), **{flag: True})
        assert getattr(optimizer, name).shape == (8,)
        with pytest.raises(ValueError, match=f"the state is that of {flag}=False; make the optimizer with it, too"):
            optimizer.load_state_dict(make(Weights(8)).state_dict())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_variance_is_never_below_0(dtype):
    model = Weights(100, dtype=dtype)
    model.flat_grads[...] = np.random.default_rng(0).uniform(-1e3, 1e3, 100)
    optimizer = optim.RMSprop(model, lr=0.0, alpha=0.5, centered=True)
    for _ in range(300):  # always the same gradients, of which the variance goes to 0
        optimizer.step()
        assert (optimizer.square >= 0).all()
    assert (optimizer.square <= (1e3 * np.finfo(dtype).eps) ** 2).all()
    np.testing.assert_allclose(optimizer.mean, model.flat_grads, rtol=1e-6)


def test_adagrad_and_amsgrad_computed_by_hand():
    model = Weights(1)
    model.flat_values[0] = 0.0
    optimizer = optim.Adagrad(model, lr=1.0, eps=0.0)
    for g in (3.0, 4.0):
        model.flat_grads[0] = g
        optimizer.step()
    assert model.flat_values[0] == pytest.approx(-1 - 4 / 5, abs=1e-15)
    # Of squares 4, then 0, half is kept: 2, then 1.  What they lack are 1/2 and 3/4, so the highest becomes 2 / (3/4).
    model.flat_values[0] = 0.0
    optimizer = optim.Adam(model, lr=1.0, betas=(0.0, 0.5), eps=0.0, amsgrad=True)
    for g in (2.0, 1e-3):
        model.flat_grads[0] = g
        optimizer.step()
    assert optimizer.highest[0] == 2.0
    assert model.flat_values[0] == pytest.approx(-1 - 1e-3 / math.sqrt(2 / 0.75), abs=1e-15)


STEPS = {
    "constant": optim.constant(0.1),
    "step_decay": optim.step_decay(0.1, 10),
    "cosine": optim.cosine(0.1, 10),
    "cosine with warm-up": optim.cosine(0.1, 10, warmup=3),
    "one_cycle": optim.one_cycle(0.1, 10),
    "exponential": optim.exponential(0.1, 0.9),
    "polynomial": optim.polynomial(0.1, 10),
    "sequence": optim.sequence((optim.constant(0.1), 2), optim.cosine(0.1, 10)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_schedule_takes_whole_steps_from_0_on(name):
    schedule = STEPS[name]
    for step, error in ((-1, ValueError), (0.5, TypeError), (1.0, TypeError), (math.nan, TypeError), (True, TypeError)):
        with pytest.raises(error, match=f"{name.split()[0]}: step must be"):
            schedule(step)
    assert 0 <= schedule(0) == schedule(np.int64(0)) <= 0.1
    assert 0 <= schedule(10**9) <= 0.1


def test_one_cycle_without_a_way_up_begins_at_its_peak():
    for steps, rise in ((2, 0.3), (10, 0.0), (10, 0.1)):
        schedule = optim.one_cycle(0.1, steps, rise)
        assert schedule(0) == 0.1
        assert schedule(steps - 1) == pytest.approx(0.1 / 25 * 1e-4)
