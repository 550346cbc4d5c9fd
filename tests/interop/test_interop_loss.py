"""PyTorch's cross-entropy by our kernels: against PyTorch itself."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tinynet.interop import TorchCrossEntropyLoss, torch_cross_entropy

pytestmark = pytest.mark.usefixtures("one_thread", "one_seed")


def assert_close(found, expected, tolerance):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0) <= tolerance * np.abs(expected).max(initial=1e-300)


SHAPES = [
    (5,),
    (1, 1),
    (1, 4),
    (7, 3),
    (40, 10),
    (3, 70),
    (2, 1100),
    (4, 5, 3),
    (2, 3, 2, 4),
    (2, 70, 5),
    (1, 3, 1, 2, 2),
]


def configuration(seed, dtype=torch.float64, shapes=SHAPES):
    """A random input, target, and options for both losses; and how the loss is used, a factor."""
    rng = np.random.default_rng(seed)
    shape = shapes[rng.integers(len(shapes))]
    C, of_indices = shape[-1 if len(shape) == 1 else 1], () if len(shape) == 1 else (shape[0], *shape[2:])
    z = torch.from_numpy(rng.standard_normal(shape) * rng.choice([0.1, 3, 30])).to(dtype)
    options = {"reduction": str(rng.choice(["mean", "sum", "none"]))}
    if rng.random() < 0.5:
        options["weight"] = torch.from_numpy(rng.uniform(0.1, 3, C)).to(dtype)
    if rng.random() < 0.5:
        options["label_smoothing"] = float(rng.uniform(0, 1))
    if rng.random() < 0.4:
        target = rng.dirichlet(np.ones(C), of_indices)
        target = torch.from_numpy(np.moveaxis(target, -1, 0 if len(shape) == 1 else 1).copy()).to(dtype)
    else:
        target = rng.integers(0, C, of_indices)
        if rng.random() < 0.5:
            options["ignore_index"] = int(rng.choice([-100, -1, 0]))
            target = np.where(rng.random(of_indices) < 0.3, options["ignore_index"], target)
            if (target == options["ignore_index"]).all():
                options["reduction"] = "sum"  # PyTorch's mean over nothing is NaN
        target = torch.from_numpy(np.asarray(target))
    if rng.random() < 0.3 and z.ndim > 1:  # another layout of the same numbers
        z, target = z.transpose(0, 1).contiguous().transpose(0, 1), target.clone().contiguous()
    return z, target, options, float(rng.choice([1.0, 1.0, -2.5]))


def used(loss, z, target, options, factor):
    """The loss, and the gradient of what is made of it, for a leaf and for a tensor that was computed."""
    z = z.clone(memory_format=torch.preserve_format).requires_grad_()
    value = loss(z, target, **options)
    above = factor * torch.linspace(1, 2, value.numel(), dtype=z.dtype).reshape(value.shape) if value.ndim else factor
    (value * above).sum().backward()
    return value.detach(), z.grad


@pytest.mark.parametrize("seed", range(0, 400, 20))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_the_loss_and_its_gradient_are_pytorchs(seed, dtype, tolerance):
    for s in range(seed, seed + 20):
        z, target, options, factor = configuration(s, dtype)
        expected = used(F.cross_entropy, z, target, options, factor)
        for found, tensor in zip(used(torch_cross_entropy, z, target, options, factor), expected, strict=True):
            assert found.dtype == dtype
            assert found.shape == tensor.shape
            assert (found - tensor).abs().max() <= tolerance * tensor.abs().max().clamp(min=0.01)


@pytest.mark.parametrize("seed", range(25))
def test_autograds_own_check_finds_the_gradient_right(seed):
    z, target, options, factor = configuration(seed, shapes=[(5,), (3, 4), (2, 3, 2)])
    leaf = (z / z.abs().max()).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: factor * torch_cross_entropy(2 * z, target, **options), leaf)


@pytest.mark.parametrize("integers", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_indices_of_any_integer_type_are_taken(integers):
    z, target = torch.randn(4, 3), torch.tensor([2, 0, 1, 1])
    assert torch_cross_entropy(z, target.to(integers)) == torch_cross_entropy(z, target)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_network_learns_the_same_with_it(reduction):
    x, labels = torch.randn(20, 6, generator=torch.manual_seed(0)), torch.arange(20) % 3
    weights = []
    for loss in (torch_cross_entropy, F.cross_entropy):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
        for _ in range(10):
            optimizer.zero_grad()
            loss(network(x.double()), labels, reduction=reduction).mean().backward()
            optimizer.step()
        weights.append(torch.cat([p.detach().ravel() for p in network.parameters()]).numpy())
    assert_close(*weights, 1e-10)


@pytest.mark.parametrize("factor", [1.0, 3.0])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_kept_graph_gives_the_same_gradient_again_whatever_was_done_to_the_first(reduction, factor):
    z, target = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 3, 0])
    (expected,) = torch.autograd.grad(factor * F.cross_entropy(z, target, reduction=reduction).sum(), z)
    value = factor * torch_cross_entropy(z, target, reduction=reduction).sum()
    for _ in range(2):
        (found,) = torch.autograd.grad(value, z, retain_graph=True)
        assert_close(found.numpy(), expected.numpy(), 1e-12)
        found.zero_()
    for times in (1, 2):  # z.grad adds them up
        value.backward(retain_graph=True)
        assert_close(z.grad.numpy(), times * expected.numpy(), 1e-12)
    value.backward()
    assert_close(z.grad.numpy(), 3 * expected.numpy(), 1e-12)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()


def test_two_losses_of_one_tensor_add_their_gradients():
    z, a, b = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1, 1, 1, 1, 1])
    gradients = []
    for loss in (torch_cross_entropy, F.cross_entropy):
        leaf = z.clone().requires_grad_()
        middle = leaf * 2
        (loss(middle, a) + 3 * loss(middle, b) + loss(middle, a)).backward()
        gradients.append(leaf.grad.numpy())
    assert_close(*gradients, 1e-12)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_many_gradients_at_once_are_right_too(reduction):
    z, target = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    found, expected = (
        torch.autograd.functional.jacobian(lambda z, f=f: f(z, target, reduction=reduction), z, vectorize=True)
        for f in (torch_cross_entropy, F.cross_entropy)
    )
    assert_close(found.numpy(), expected.numpy(), 1e-12)


def test_the_second_derivative_is_an_error_and_not_zero():
    z, target = torch.randn(5, 4, requires_grad=True), torch.tensor([0, 1, 2, 3, 0])
    (expected,) = torch.autograd.grad(F.cross_entropy(2 * z, target), z)
    (gradient,) = torch.autograd.grad(torch_cross_entropy(2 * z, target), z, create_graph=True)
    assert_close(gradient.detach().numpy(), expected.numpy(), 1e-5)  # the first is there
    for penalty in (gradient.square().sum(), gradient.sum() + z.sum()):
        with pytest.raises(RuntimeError, match="torch_cross_entropy has no second derivative"):
            penalty.backward(retain_graph=True)


@pytest.fixture
def calls(monkeypatch):
    """What the loss inside is called with: (logits, grad, gradient)."""
    from tinynet.interop import torch_losses

    inside, seen = torch_losses.softmax_cross_entropy, []

    def recorded(logits, *arguments, grad, **options):
        value, gradient = inside(logits, *arguments, grad=grad, **options)
        seen.append((logits, grad, gradient))
        return value, gradient

    monkeypatch.setattr(torch_losses, "softmax_cross_entropy", recorded)
    return seen


def test_nothing_is_copied_on_the_way_in_or_out(calls):
    leaf, target = torch.randn(6, 5, requires_grad=True), torch.tensor([0, 1, 2, 3, 4, 0])
    torch_cross_entropy(leaf, target).backward()
    [(logits, _, gradient)] = calls
    assert logits.ctypes.data == leaf.data_ptr()
    assert gradient.ctypes.data == leaf.grad.data_ptr()
    computed, given = leaf * 1, []
    computed.register_hook(lambda gradient: given.append(gradient.data_ptr()))
    (torch_cross_entropy(computed, target) * 3).backward()
    assert given == [calls[-1][2].ctypes.data]  # scaled where it is


def test_no_gradient_is_computed_where_none_is_wanted(calls):
    z, target = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    with torch.no_grad():
        value = torch_cross_entropy(z.requires_grad_(), target)
    assert not value.requires_grad
    with torch.inference_mode():
        torch_cross_entropy(z, target)
    assert not torch_cross_entropy(z.detach(), target).requires_grad
    assert [grad for _, grad, _ in calls] == [False] * 3
    assert torch_cross_entropy(z, target).requires_grad
    assert calls[-1][1]


def test_where_it_keeps_to_tinynets_promises():
    z = torch.tensor([[1.0, 2.0], [np.nan, 3.0]], requires_grad=True)
    value = torch_cross_entropy(z, torch.tensor([-100, -100]))
    value.backward()
    assert value.item() == 0
    assert not z.grad.any()
    z.grad = None
    torch_cross_entropy(z, torch.tensor([1, -1]), ignore_index=-1).backward()
    assert z.grad[0].isfinite().all()
    assert not z.grad[1].any()
    masked = torch.tensor([[0.0, -np.inf, 0.0]])
    assert torch_cross_entropy(masked, torch.tensor([0]), label_smoothing=0.3).item() == pytest.approx(np.log(2))
    assert torch_cross_entropy(masked, torch.tensor([[0.5, 0.0, 0.5]])).item() == pytest.approx(np.log(2))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_in_place_the_gradient_has_the_logits_memory(layout, reduction):
    shape, target = ((6, 5), torch.arange(6) % 5) if layout == torch.contiguous_format else ((2, 3, 4, 4), None)
    target = torch.randint(0, 3, (2, 4, 4)) if target is None else target
    leaf = torch.randn(shape, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    expected, value = F.cross_entropy(3 * leaf, target, reduction=reduction), None
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    z, given = 3 * leaf, []
    z.register_hook(lambda gradient: given.append(gradient.data_ptr()))
    value = torch_cross_entropy(z, target, reduction=reduction, in_place=True)
    assert_close(value.detach().numpy(), expected.detach().numpy(), 1e-12)
    (found,) = torch.autograd.grad(value.sum(), leaf)
    assert_close(found.numpy(), slope.numpy(), 1e-12)
    assert given == [z.data_ptr()]


def test_in_place_what_still_needs_the_logits_gets_an_error_and_no_wrong_gradient():
    leaf, target = torch.randn(6, 5, requires_grad=True), torch.arange(6) % 5
    z = leaf.tanh()  # whose backward needs what it returned
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch_cross_entropy(z, target, in_place=True).backward()
    z = 2 * leaf
    loss = torch_cross_entropy(z, target, in_place=True)
    z.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_in_place_is_refused_where_it_can_not_be_and_does_nothing_where_no_gradient_is_wanted():
    leaf, target = torch.randn(6, 5, requires_grad=True), torch.arange(6) % 5
    before = leaf.detach().clone()
    with pytest.raises(ValueError, match="in_place would overwrite a leaf"):
        torch_cross_entropy(leaf, target, in_place=True)
    with pytest.raises(ValueError, match=r"classes of a row side by side, got strides \(1, 6\) for shape"):
        torch_cross_entropy((2 * leaf.T.contiguous()).T, target, in_place=True)
    with pytest.raises(ValueError, match="side by side"):
        torch_cross_entropy(torch.randn(2, 3, 4, requires_grad=True) * 1, torch.zeros(2, 4).long(), in_place=True)
    with torch.no_grad():
        torch_cross_entropy(leaf, target, in_place=True)
    torch_cross_entropy(leaf.detach(), target, in_place=True)
    assert torch.equal(leaf, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("in_place", [False, True])
def test_sixteen_bits_are_computed_in_float32_as_under_autocast(dtype, in_place):
    z = torch.randn(6, 5, generator=torch.manual_seed(0)).to(dtype).requires_grad_()
    target, weight = torch.arange(6) % 5, torch.tensor([1, 2, 0.5, 1, 1]).to(dtype)
    scale = 2.0**14  # a GradScaler's, which is not too late
    exact = z.detach().double().requires_grad_()
    expected = F.cross_entropy(exact, target, weight.double())
    value = torch_cross_entropy(z * 1, target, weight, in_place=in_place)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    (scale * 1e-6 * value).backward()
    (scale * 1e-6 * expected).backward()
    assert z.grad.dtype == dtype
    tolerance = torch.finfo(dtype).eps
    assert_close(z.grad.double().numpy(), exact.grad.numpy(), tolerance)
    q = torch.full((6, 4), 0.25, dtype=dtype)
    assert torch_cross_entropy(z[:, :4], q) == torch_cross_entropy(z[:, :4].float(), q.float())


def test_under_autocast_a_network_and_its_loss_learn_in_bfloat16():
    x, labels = torch.randn(20, 6, generator=torch.manual_seed(0)), torch.arange(20) % 3
    gradients = []
    for loss in (TorchCrossEntropyLoss(in_place=True), nn.CrossEntropyLoss()):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(network(x), labels)
        assert value.dtype == torch.float32
        value.backward()
        gradients.append(network[0].weight.grad.numpy())
    assert_close(*gradients, 1e-2)


def test_the_module_stands_in_place_of_pytorchs():
    weight = torch.tensor([1.0, 2.0, 0.5])
    options = {"ignore_index": 1, "reduction": "sum", "label_smoothing": 0.1}
    ours, theirs = (kind(weight, **options) for kind in (TorchCrossEntropyLoss, nn.CrossEntropyLoss))
    z, target = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    assert_close(ours(z, target).numpy(), theirs(z, target).numpy(), 1e-6)
    assert isinstance(ours, nn.CrossEntropyLoss)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert pickle.loads(pickle.dumps(ours))(z, target) == ours(z, target)
    assert ours.double()(z.double(), target).dtype == torch.float64
    with pytest.raises(ValueError, match=r'TorchCrossEntropyLoss: reduction must be "mean", "sum" or "none"'):
        TorchCrossEntropyLoss(reduction="avg")
    with pytest.raises(ValueError, match="TorchCrossEntropyLoss: label_smoothing"):
        TorchCrossEntropyLoss(label_smoothing=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler warns of what it does itself
def test_torch_compile_leaves_it_as_it_is():
    z, target = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    gradients = []
    for loss in (torch.compile(lambda z, t: 3 * torch_cross_entropy(2 * z, t), backend="eager"), F.cross_entropy):
        leaf = z.clone().requires_grad_()
        (loss(leaf, target) if loss is not F.cross_entropy else 3 * loss(2 * leaf, target)).backward()
        gradients.append(leaf.grad.numpy())
    assert_close(*gradients, 1e-12)


INDICES = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.zeros((2, 3)), INDICES), {}, TypeError, r"input must be a torch.Tensor, got ndarray"),
        ((torch.zeros(2, 3), [0, 1]), {}, TypeError, r"target must be a torch.Tensor, got list"),
        ((torch.zeros(2, 3), INDICES), {"weight": [1, 2, 3]}, TypeError, r"weight must be a torch.Tensor, got list"),
        (
            (torch.zeros(2, 3, device="meta"), INDICES),
            {},
            ValueError,
            r"input must be on the CPU or a CUDA GPU, got a tensor on meta",
        ),
        (
            (torch.zeros(2, 3), torch.zeros(2, device="meta", dtype=torch.int64)),
            {},
            ValueError,
            r"target must be on the CPU or a CUDA GPU, got a tensor on meta",
        ),
        (
            (torch.zeros(2, 3).to(torch.float8_e4m3fn), INDICES),
            {},
            TypeError,
            r"input must be float32, float64, float16 or bfloat16, got torch.float8_e4m3fn",
        ),
        ((torch.zeros(2, 3).long(), INDICES), {}, TypeError, r"input must be float32, .*, got torch.int64"),
        ((torch.zeros(2, 3).cfloat(), INDICES), {}, TypeError, r"input must be float32, .*, got torch.complex64"),
        (
            (torch.zeros(2, 3), torch.ones(2, 3).to(torch.float8_e5m2)),
            {},
            TypeError,
            r"target must be float32, .*, got torch.float8_e5m2",
        ),
        (
            (torch.zeros(2, 3), INDICES),
            {"weight": torch.ones(3).to(torch.float8_e5m2)},
            TypeError,
            r"weight must be float32, .*, got torch.float8_e5m2",
        ),
        ((torch.tensor(1.0), INDICES), {}, ValueError, r"input must have shape \(N, C\), \(C,\) or .*, got one number"),
        (
            (torch.zeros(2, 3), torch.zeros(2, 3).long()),
            {},
            ValueError,
            r"shape \(2,\), got \(2, 3\); for one-hot rows",
        ),
        (
            (torch.zeros(2, 3, 4), torch.zeros(2, 3).long()),
            {},
            ValueError,
            r"\(2, 3, 4\) must have shape \(2, 4\), got",
        ),
        (
            (torch.zeros(2, 3), torch.zeros(2, 4)),
            {},
            ValueError,
            r"probabilities must have input's shape \(2, 3\), got",
        ),
        (
            (torch.zeros(2, 3), torch.zeros(2)),
            {},
            TypeError,
            r"class indices must be integers, got .*float32; try target.long",
        ),
        ((torch.zeros(2, 3), torch.tensor([True, False])), {}, TypeError, r"integer labels or float probabilities"),
        (
            (torch.zeros(2, 3), torch.tensor([0, 3])),
            {},
            ValueError,
            r"target at position \(1,\) is 3, but the 3 classes",
        ),
        ((torch.zeros(2, 3), torch.tensor([0, -1])), {}, ValueError, r"pass ignore_index=-1"),
        ((torch.zeros(2, 3, 4), torch.full((2, 4), 9)), {}, ValueError, r"target at position \(0, 0\) is 9"),
        (
            (torch.zeros(2, 3), torch.ones(2, 3)),
            {},
            ValueError,
            r"must sum to 1, but those at position \(0,\) sum to 3",
        ),
        (
            (torch.zeros(2, 3, 4), 2 * torch.eye(3, 4).expand(2, 3, 4)),
            {},
            ValueError,
            r"\(0, 0, 0\), of which the last number is the class",
        ),
        ((torch.zeros(2, 3), INDICES), {"weight": torch.ones(2)}, ValueError, r"weight must have shape \(3,\)"),
        ((torch.zeros(2, 3), INDICES), {"weight": -torch.ones(3)}, ValueError, r"weight must be finite and at least 0"),
        ((torch.zeros(2, 3), INDICES), {"label_smoothing": 1.5}, ValueError, r"label_smoothing must be in \[0, 1\]"),
        ((torch.zeros(2, 3), INDICES), {"reduction": "avg"}, ValueError, r'reduction must be "mean", "sum" or "none"'),
        ((torch.zeros(2, 3), INDICES), {"ignore_index": 0.5}, TypeError, r"ignore_index must be a whole number"),
        ((torch.zeros(0, 3), INDICES[:0]), {}, ValueError, r"must not be empty"),
        (
            (torch.zeros(2, 3), (torch.ones(2, 3) / 3).requires_grad_()),
            {},
            ValueError,
            r"the gradient for target is not computed: pass target.detach\(\)",
        ),
        ((torch.zeros(2, 3), INDICES), {"weight": torch.ones(3, requires_grad=True)}, ValueError, r"weight.detach\(\)"),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_what_the_loss_cannot_use_is_refused(arguments, options, error, message, grad):
    z, target = arguments
    if grad and isinstance(z, torch.Tensor) and (z.is_floating_point() or z.is_complex()):
        z = z.requires_grad_()
    with pytest.raises(error, match=f"^torch_cross_entropy: .*{message}"):
        torch_cross_entropy(z, target, **options)
