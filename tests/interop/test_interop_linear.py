"""The last layer and its loss in one, for PyTorch's tensors: against PyTorch's own, on the CPU's way and on a GPU's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tinynet.interop import torch_linear
from tinynet.interop.torch_linear import torch_linear_cross_entropy

pytestmark = pytest.mark.usefixtures("one_thread", "one_seed")


@pytest.fixture(params=["the CPU's way", "a GPU's way, three rows at a time"])
def way(request, monkeypatch):
    """What a GPU runs is PyTorch's products and a loss for each piece, which the CPU can do as well."""
    if request.param != "the CPU's way":

        def by_rows(x, w, b, target, weight, options, grad):
            wanted = grad, grad, grad and b is not None
            return torch_linear.by_rows(x, w, b, target, weight, True, options, wanted)

        monkeypatch.setattr(torch_linear, "ROWS", 3)
        monkeypatch.setattr(torch_linear, "on_cpu", by_rows)
    return request.param


def case(seed, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    shape, D, C = [(5,), (3,), (2, 4), ()][seed % 4], 6, int(rng.choice([1, 4, 40]))
    tensor = lambda *shape: torch.from_numpy(np.asarray(rng.standard_normal(shape))).to(dtype)  # noqa: E731
    arrays = [tensor(*shape, D).requires_grad_(), tensor(C, D).requires_grad_(), tensor(C).requires_grad_()]
    options = {"reduction": str(rng.choice(["mean", "sum"]))}
    if rng.random() < 0.5:
        options["weight"] = torch.from_numpy(rng.uniform(0.1, 3, C)).to(dtype)
    if rng.random() < 0.5:
        options["label_smoothing"] = 0.2
    target = torch.from_numpy(np.asarray(rng.integers(0, C, shape)))
    if rng.random() < 0.3:
        target = torch.from_numpy(np.asarray(rng.dirichlet(np.ones(C), shape))).to(dtype)
    elif rng.random() < 0.5 and C > 1 and shape:
        options["ignore_index"] = -1
        target.view(-1)[0] = -1
    return arrays if rng.random() < 0.7 else [*arrays[:2], None], target, options


def pytorchs(x, w, target, linear_bias, **options):
    """Of rows (N, D), since PyTorch's own takes the classes for the second axis."""
    target = target.reshape(-1, len(w)) if target.is_floating_point() else target.reshape(-1)
    return F.cross_entropy(F.linear(x.reshape(-1, x.shape[-1]), w, linear_bias), target, **options)


def gradients(loss, arrays, target, options, factor):
    arrays = [None if a is None else a.detach().clone().requires_grad_() for a in arrays]
    value = loss(arrays[0], arrays[1], target, linear_bias=arrays[2], **options)
    (factor * value).backward()
    return [value.detach(), *(a.grad for a in arrays if a is not None)]


@pytest.mark.parametrize("seed", range(24))
def test_the_loss_and_its_gradients_are_pytorchs(seed, way):
    arrays, target, options = case(seed)
    factor = [1.0, -2.5][seed % 2]
    found, expected = (gradients(f, arrays, target, options, factor) for f in (torch_linear_cross_entropy, pytorchs))
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 1e-10 * other.abs().max().clamp(min=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_dtypes_are_near_the_exact_one(dtype, way):
    arrays, target, options = case(4)
    narrow = [None if a is None else a.detach().to(dtype) for a in arrays]
    expected = gradients(pytorchs, [None if a is None else a.double() for a in narrow], target, options, 1.0)
    found = gradients(torch_linear_cross_entropy, narrow, target, options, 1.0)
    assert found[0].dtype == torch.float32
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32 if one is found[0] else dtype
        assert (one - other).abs().max() <= 8 * torch.finfo(dtype).eps * other.abs().max()


def test_autograds_own_check_finds_the_gradients_right(way):
    arrays, target, options = case(2)
    loss = lambda x, w, b=None: torch_linear_cross_entropy(x, w, target, linear_bias=b, **options)  # noqa: E731
    assert torch.autograd.gradcheck(loss, tuple(a for a in arrays if a is not None))


def test_a_kept_graph_and_a_leaf_that_needs_none_get_what_they_should(way):
    (x, w, _), target, _ = case(4)
    w = w.detach()
    value = torch_linear_cross_entropy(x, w, target)
    first, second = (torch.autograd.grad(value, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="torch_linear_cross_entropy has no second derivative"):
        gradient.sum().backward()


def test_without_a_gradient_each_rows_loss_is_there(way):
    (x, w, b), target, _ = case(6)
    with torch.no_grad():
        found = torch_linear_cross_entropy(x, w, target, linear_bias=b, reduction="none")
        expected = pytorchs(x, w, target, b, reduction="none").reshape(x.shape[:-1])
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match='with reduction "none" the rows'):
        torch_linear_cross_entropy(x, w, target, linear_bias=b, reduction="none")


def test_ignored_rows_change_nothing_whatever_they_hold(way):
    x, w = torch.randn(5, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, -100, 2, -100, 3])
    x[1], x[3] = np.nan, np.inf
    rows = torch.tensor([0, 2, 4])
    (found,) = torch.autograd.grad(torch_linear_cross_entropy(x, w, target), w)
    (expected,) = torch.autograd.grad(torch_linear_cross_entropy(x[rows], w, target[rows]), w)
    torch.testing.assert_close(found, expected)
    value = torch_linear_cross_entropy(x, w, torch.full((5,), -100))
    (gradient,) = torch.autograd.grad(value, w)
    assert value == 0
    assert not gradient.any()


def test_a_network_with_it_learns_what_it_does_with_pytorchs(way):
    x, labels, weights = torch.randn(20, 6, generator=torch.manual_seed(0)), torch.arange(20) % 3, []
    for loss in (torch_linear_cross_entropy, pytorchs):
        torch.manual_seed(1)
        body, head = nn.Sequential(nn.Linear(6, 8), nn.Tanh()).double(), nn.Linear(8, 3).double()
        optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.5)
        for _ in range(5):
            optimizer.zero_grad()
            loss(body(x.double()), head.weight, labels, linear_bias=head.bias).backward()
            optimizer.step()
        weights.append(torch.cat([p.detach().ravel() for p in (*body.parameters(), *head.parameters())]))
    torch.testing.assert_close(*weights, rtol=1e-10, atol=1e-10)


LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": [[1.0]]}, TypeError, r"input must be a torch.Tensor, got list"),
        ({"input": torch.zeros(0, 3), "target": LABELS[:0]}, ValueError, r"not be empty, got \(0, 3\)"),
        ({"input": torch.zeros(2, 3).long()}, TypeError, r"input must be float32, .*, got torch.int64"),
        ({"linear_weight": torch.zeros(4, 2)}, ValueError, r"\(C, D\) = \(C, 3\) for input \(2, 3\), got \(4, 2\)"),
        (
            {"linear_weight": torch.zeros(4, 3).double()},
            TypeError,
            r"must have input's dtype torch.float32",
        ),
        ({"linear_bias": torch.zeros(3)}, ValueError, r"linear_bias must have shape \(4,\), got \(3,\)"),
        ({"target": torch.zeros(2, 1).long()}, ValueError, r"class indices for input \(2, 3\) and 4 classes"),
        ({"target": torch.zeros(2, 3)}, ValueError, r"probabilities for .* must have shape \(2, 4\), got \(2, 3\)"),
        ({"target": torch.tensor([True, False])}, TypeError, r"integer labels or float probabilities, got torch.bool"),
        ({"target": torch.tensor([0, 4])}, ValueError, r"target at position \(1,\) is 4, but the 4 classes"),
        ({"target": torch.tensor([-1, 0])}, ValueError, r"pass ignore_index=-1"),
        ({"target": torch.ones(2, 4)}, ValueError, r"must sum to 1, but those at position \(0,\) sum to 4"),
        ({"target": torch.eye(2, 4) * 2}, ValueError, r"must be in \[0, 1\], got 2.0 at position \(0, 0\)"),
        ({"target": torch.eye(2, 4), "ignore_index": 1}, ValueError, r"ignore_index belongs to integer targets"),
        ({"target": torch.eye(2, 4).requires_grad_()}, ValueError, r"pass target.detach\(\)"),
        ({"weight": torch.ones(3)}, ValueError, r"weight must have shape \(4,\)"),
        ({"weight": -torch.ones(4)}, ValueError, r"weight must be finite and at least 0"),
        ({"label_smoothing": 1.5}, ValueError, r"label_smoothing must be in \[0, 1\]"),
        ({"ignore_index": 0.5}, TypeError, r"ignore_index must be a whole number"),
        ({"reduction": "avg"}, ValueError, r'reduction must be "mean", "sum" or "none"'),
    ],
)
def test_what_it_cannot_use_is_refused(change, error, message, way):
    arguments = {"input": torch.zeros(2, 3, requires_grad=True), "linear_weight": torch.zeros(4, 3), "target": LABELS}
    with pytest.raises(error, match=f"^torch_linear_cross_entropy: .*{message}"):
        torch_linear_cross_entropy(**{**arguments, **change})
