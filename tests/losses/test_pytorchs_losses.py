"""PyTorch's own sample inputs for its losses, over every option that tinynet has: values and gradients.

Predictions and targets are made into what a loss here takes: scores into logarithms of probabilities, numbers into
distributions, weights positive.  A sample with an option that there is none of here is left out, and it is asserted how
many are left.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tinynet as tn

pytest.importorskip("expecttest", reason="PyTorch's sample inputs import it")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss by both"),
    pytest.mark.filterwarnings("ignore:linear_cross_entropy. ..options.. ignored"),
]


def samples(name):
    """PyTorch's samples for a function of torch.nn.functional: (input, args, options), in float64."""
    from torch.testing._internal.common_methods_invocations import op_db

    for op in op_db:
        if op.name == f"nn.functional.{name}":
            for sample in op.sample_inputs("cpu", torch.float64, requires_grad=False):
                options = {k: v.abs() if "weight" in k and v is not None else v for k, v in sample.kwargs.items()}
                yield sample.input, sample.args, options


def last(x):
    """Classes are the second axis in PyTorch, and the last one here."""
    return x.movedim(1, -1) if x.ndim > 2 else x


def array(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else x


def of_rows(loss, function, x, targets, options):
    """Value and gradient of both, where the classes have an axis; PyTorch's first."""
    if targets.is_floating_point():
        targets = targets.softmax(1)
    z = x.clone().requires_grad_()
    expected = function(z, targets, **options)
    expected.sum().backward()
    soft = targets.is_floating_point()
    found = loss(array(last(x)), array(last(targets) if soft else targets), **{k: array(v) for k, v in options.items()})
    return (array(expected), array(last(z.grad))), found


def of_elements(loss, function, x, targets, options, own=None):
    z = x.clone().requires_grad_()
    expected = function(z, targets, **options)
    expected.sum().backward()
    own = options if own is None else own
    return (array(expected), array(z.grad)), loss(array(x), array(targets), **{k: array(v) for k, v in own.items()})


def cross_entropy(x, targets, options):
    return of_rows(tn.softmax_cross_entropy, F.cross_entropy, x, targets, options)


def nll_loss(x, targets, options):
    return of_rows(tn.nll, F.nll_loss, x.log_softmax(-1 if x.ndim == 1 else 1), targets, options)


def multi_margin_loss(x, targets, options):
    """PyTorch's mean of weighted rows divides by the rows, and it takes a number for a row of one."""
    rows = np.atleast_2d(array(x))
    own = {k: array(v) for k, v in options.items()}
    if own.get("weight") is not None and own.get("reduction", "mean") == "mean":
        own["denominator"] = len(rows)
    z = x.clone().requires_grad_()
    expected = F.multi_margin_loss(z, targets, **options)
    expected.sum().backward()
    value, gradient = tn.multiclass_hinge(rows, np.atleast_1d(array(targets)), **own)
    return (array(expected), np.atleast_2d(array(z.grad))), (value, gradient)


def kl_div(x, targets, options):
    """PyTorch's "mean" is over all elements, and "none" has one for each of them."""
    reduction, log_target = options["reduction"], options["log_target"]
    q = targets.softmax(-1)
    z = x.clone().requires_grad_()
    given = q.log() if log_target else q
    expected = F.kl_div(z.log_softmax(-1), given, reduction=reduction, log_target=log_target)
    expected.sum().backward()
    own = {
        "none": {"reduction": "none", "per_class": True},
        "mean": {"denominator": x.numel()},
        "batchmean": {"denominator": len(x)},
        "sum": {"reduction": "sum"},
    }[reduction]
    return (array(expected), array(z.grad)), tn.kl_divergence(array(x), array(q), **own)


def probabilities(x, targets, options):
    return of_elements(tn.binary_cross_entropy, F.binary_cross_entropy, x, targets, options)


def logits(x, targets, options):
    """A weight that PyTorch repeats along other axes than the last is repeated here."""
    own = dict(options)
    if own.get("weight") is not None and own["weight"].shape not in (x.shape, x.shape[-1:]):
        own["weight"] = own["weight"].broadcast_to(x.shape)
    return of_elements(tn.sigmoid_cross_entropy, F.binary_cross_entropy_with_logits, x, targets, options, own)


def huber_loss(x, targets, options):
    return of_elements(tn.huber, F.huber_loss, x, targets, options)


def smooth_l1_loss(x, targets, options):
    """Huber's loss divided by beta, or the absolute error for 0."""
    own = dict(options)
    beta = own.pop("beta", 1.0)
    loss = tn.huber if beta else tn.mean_absolute_error
    both = of_elements(loss, F.smooth_l1_loss, x, targets, options, {**own, **({"delta": beta} if beta else {})})
    return both[0], [part / (beta or 1) for part in both[1]]


def l1_loss(x, targets, options):
    return of_elements(tn.mean_absolute_error, F.l1_loss, x, targets, options)


def mse_loss(x, targets, options):
    return of_elements(tn.mean_squared_error, F.mse_loss, x, targets, options)


def poisson_nll_loss(x, targets, options):
    """PyTorch adds eps inside of the logarithm of a rate, where nothing is added here; a rate is positive."""
    own = {name: value for name, value in options.items() if name != "eps"}
    x = x if own.get("log_input", True) else x.abs() + 0.1
    return of_elements(tn.poisson_nll, F.poisson_nll_loss, x, targets.abs(), {**own, "eps": 0.0}, own)


def linear_cross_entropy(x, w, targets, options):
    """Of one row of classes: a layer that gives several of them, (2, 3, 8), there is not here."""
    targets = targets.softmax(-1) if targets.is_floating_point() else targets
    own, b = dict(options), options.get("linear_bias")
    own.pop("linear_bias", None), own.pop("options", None)
    tensors = [tensor.clone().requires_grad_() for tensor in (x, w, *(() if b is None else (b,)))]
    if b is not None:
        options = {**options, "linear_bias": tensors[2]}
    expected = F.linear_cross_entropy(*tensors[:2], targets, **options)
    expected.sum().backward()
    given = (array(x), array(w).T, array(b), array(targets))
    value, dx, dw, db = tn.linear_cross_entropy(*given, **{k: array(v) for k, v in own.items()})
    gradients = [dx, dw.T, *(() if b is None else (db,))]
    expected_gradients = [array(tensor.grad) for tensor in tensors]
    flat, expected_flat = (np.concatenate([np.ravel(part) for part in of]) for of in (gradients, expected_gradients))
    return (array(expected), expected_flat), (value, flat)


CASES = {  # PyTorch's name, and how many samples there are to compare
    "cross_entropy": (cross_entropy, 21),
    "nll_loss": (nll_loss, 60),
    "multi_margin_loss": (multi_margin_loss, 9),
    "kl_div": (kl_div, 16),
    "binary_cross_entropy": (probabilities, 11),
    "binary_cross_entropy_with_logits": (logits, 26),
    "huber_loss": (huber_loss, 9),
    "smooth_l1_loss": (smooth_l1_loss, 8),
    "l1_loss": (l1_loss, 6),
    "mse_loss": (mse_loss, 6),
    "poisson_nll_loss": (poisson_nll_loss, 72),
    "linear_cross_entropy": (linear_cross_entropy, 100),
}


@pytest.mark.parametrize("name", CASES)
def test_a_loss_of_pytorchs_samples(name):
    both, least = CASES[name]
    tried = 0
    for x, args, options in samples(name):
        if name == "multi_margin_loss" and x.ndim == 0:
            continue
        if name == "linear_cross_entropy" and (args[0].ndim != 2 or len(args) > 2 or "chunking_method" in options):
            continue
        (value, gradient), (found, dx) = both(x, *args, options)
        np.testing.assert_allclose(np.ravel(found), np.ravel(value), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(dx, gradient, rtol=1e-10, atol=1e-12)
        tried += 1
    assert tried >= least
