"""The losses of tinynet.interop for CUDA tensors, in Numba's simulator.  test_cuda_simulator.py runs this,

    NUMBA_ENABLE_CUDASIM=1 python -m pytest tests/cuda/torch_simulated.py

PyTorch has no simulator: the tensors here only say that they are on a GPU.  What PyTorch would be asked for there, its
current stream and a tensor over the memory of a device array, is replaced, and the rest is what a GPU runs.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray
from test_interop_loss import configuration, used
from torch import nn

from tinynet.cuda import arrays as cuda_arrays
from tinynet.cuda import device as cuda_device
from tinynet.interop import TorchCrossEntropyLoss, torch_cross_entropy, torch_cuda, torch_linear
from tinynet.interop.torch_linear import torch_linear_cross_entropy

sys.setswitchinterval(5e-4)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


class OnGPU(torch.Tensor):
    is_cuda = property(lambda self: True)
    device = property(lambda self: torch.device("cuda", 0))


def on_gpu(x):
    return x.detach().clone(memory_format=torch.preserve_format).as_subclass(OnGPU)


def array_of(x):
    """The tensor's memory, as the simulator has arrays."""
    x = x.detach().as_subclass(torch.Tensor)
    return FakeCUDAArray(x.view(torch.uint16).numpy().view("V2") if x.dtype == torch.bfloat16 else x.numpy())


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """PyTorch's part; the list of the scratch arrays that were made of its memory."""
    made, tensor = [], torch.Tensor.new_empty

    def new_empty(self, *arguments, **options):
        made.append(arguments)
        return tensor(self, *arguments, **options)

    monkeypatch.setattr(OnGPU, "new_empty", new_empty, raising=False)
    monkeypatch.setattr(torch_cuda, "device_array", array_of)
    monkeypatch.setattr(
        torch_cuda, "tensor_of", lambda array, like: torch.from_numpy(np.asarray(array._ary)).as_subclass(OnGPU)
    )
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    return made


def close(found, expected, tolerance):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=0.01)


def test_the_simulator_is_on():
    assert cuda_device.SIMULATOR


def gpu_loss(**further):
    def loss(z, target, weight=None, **options):
        weight = None if weight is None else on_gpu(weight)
        value = torch_cross_entropy(z.as_subclass(OnGPU), on_gpu(target), weight, **options, **further)
        return value.as_subclass(torch.Tensor)  # whose backward() leaves the class of others alone

    return loss


@pytest.mark.parametrize("seed", range(0, 60, 10))
def test_the_loss_and_its_gradient_are_pytorchs(seed, made):
    for s in range(seed, seed + 10):
        shapes = [(5,), (1, 4), (7, 3), (3, 40), (4, 5, 3), (2, 3, 2, 4), (2, 33, 5)]
        z, target, options, factor = configuration(s, shapes=shapes)
        expected = used(F.cross_entropy, z, target, options, factor)
        for found, tensor in zip(used(gpu_loss(), z, target, options, factor), expected, strict=True):
            close(found, tensor, 1e-9)
    assert len(made) > 50


def test_all_work_is_queued_on_pytorchs_stream(monkeypatch):
    streams = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    monkeypatch.setattr(cuda_arrays, "chosen_stream", lambda stream, given, name: streams.append(stream) or 0)
    leaf = torch.randn(3, 5, requires_grad=True)
    gpu_loss()(leaf, torch.tensor([1, 2, 3])).backward()
    assert streams == [7, 7]  # forward and backward


@pytest.mark.parametrize("in_place", [False, True])
def test_the_gradient_is_where_it_was_made_and_only_a_factor_changes_it(in_place, monkeypatch):
    leaf, target = torch.randn(7, 3, requires_grad=True), torch.tensor([0, 1, 2, 0, -100, 1, 2])
    for factor in (1.0, 3.0):
        (expected,) = torch.autograd.grad(factor * F.cross_entropy(leaf, target), leaf)
        z, given = leaf * 1, []
        z.register_hook(given.append)
        value = gpu_loss(in_place=in_place)(z, target)
        (found,) = torch.autograd.grad(factor * value, leaf)
        close(found, expected, 1e-6)
        assert (given[0].data_ptr() == z.data_ptr()) == in_place


def test_a_kept_graph_rows_apart_and_second_derivatives():
    leaf, target = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 0])
    (expected,) = torch.autograd.grad(3 * F.cross_entropy(leaf, target), leaf)
    value = 3 * gpu_loss()(leaf, target)
    first, second = (torch.autograd.grad(value, leaf, retain_graph=True)[0] for _ in range(2))
    close(first, expected, 1e-12)
    assert torch.equal(first, second)
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="torch_cross_entropy has no second derivative"):
        gradient.sum().backward()


def test_in_place_what_still_needs_the_logits_gets_an_error():
    leaf = torch.randn(4, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gpu_loss(in_place=True)(leaf.tanh(), torch.tensor([0, 1, 2, 0])).backward()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits(dtype, in_place, soft):
    leaf = torch.randn(5, 8, generator=torch.manual_seed(0)).to(dtype).requires_grad_()
    target = torch.softmax(torch.randn(5, 8), 1) if soft else torch.tensor([0, 7, 2, 3, 1])
    weight = torch.linspace(0.5, 2, 8).to(dtype)
    exact = leaf.detach().double().requires_grad_()
    expected = F.cross_entropy(exact, target.double() if soft else target, weight.double())
    value = gpu_loss(in_place=in_place)(leaf * 1, target, weight)
    assert value.dtype == torch.float32
    close(value.double(), expected.detach(), 1e-2 if soft and dtype == torch.bfloat16 else 1e-6)
    (1000 * value).backward()
    (1000 * expected).backward()
    assert leaf.grad.dtype == dtype
    close(leaf.grad.double(), exact.grad, 1e-2)


def test_bfloat16_logits_are_not_copied(monkeypatch):
    seen, fused = [], torch_cuda.softmax_cross_entropy

    def recorded(logits, *arguments, **options):
        seen.append(logits.ctypes.data)
        return fused(logits, *arguments, **options)

    monkeypatch.setattr(torch_cuda, "softmax_cross_entropy", recorded)
    z = on_gpu(torch.randn(3, 8).bfloat16())
    torch_cross_entropy(z, on_gpu(torch.tensor([1, 2, 3])))
    assert seen == [z.data_ptr()]


def test_wrong_targets_and_tensors_elsewhere_are_refused():
    z, target = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 4, 1])
    with pytest.raises(ValueError, match=r"^torch_cross_entropy: the target at position \(1,\) is 4"):
        gpu_loss()(z, target)
    value = gpu_loss(check=False, reduction="none")(z, target)
    assert value.isnan().tolist() == [False, True, False]
    with pytest.raises(ValueError, match=r"target must be on cuda:0 like input, got a tensor on cpu"):
        torch_cross_entropy(on_gpu(z), target)
    with pytest.raises(ValueError, match=r"weight must be on cuda:0 like input, got a tensor on cpu"):
        torch_cross_entropy(on_gpu(z), on_gpu(target), torch.ones(4))


def test_the_module():
    z, target = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, -1, 1])
    weight, options = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), {"ignore_index": -1, "label_smoothing": 0.1}
    loss = TorchCrossEntropyLoss(on_gpu(weight), **options, in_place=True)
    leaf, expected = z.clone().requires_grad_(), nn.CrossEntropyLoss(weight, **options)(z, target)
    value = loss((leaf * 1).as_subclass(OnGPU), on_gpu(target)).as_subclass(torch.Tensor)
    close(value.detach(), expected, 1e-12)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_linear_layer_and_its_loss_by_rows(autocast, soft, monkeypatch):
    monkeypatch.setattr(torch_linear, "ROWS", 3)
    if autocast:
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: True)
        monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
    random = torch.manual_seed(0)
    leaves = [torch.randn(*shape, generator=random).requires_grad_() for shape in ((2, 4, 6), (5, 6), (5,))]
    target = torch.randint(5, (2, 4), generator=random)
    options = {"label_smoothing": 0.1}
    if soft:
        target = torch.softmax(torch.randn(2, 4, 5, generator=random), -1)
    else:
        target[0, 1], options["ignore_index"], options["weight"] = -1, -1, torch.linspace(1, 2, 5)
    x, w, b = leaves
    exact = F.linear(x, w, b).reshape(8, 5)
    expected = F.cross_entropy(exact, target.reshape(8, 5) if soft else target.reshape(8), **options)
    slopes = torch.autograd.grad(3 * expected, leaves)
    options = {name: on_gpu(o) if isinstance(o, torch.Tensor) else o for name, o in options.items()}
    x, w, b = (leaf.as_subclass(OnGPU) for leaf in leaves)
    value = torch_linear_cross_entropy(x, w, on_gpu(target), linear_bias=b, **options).as_subclass(torch.Tensor)
    found = torch.autograd.grad(3 * value, leaves)
    for one, other in zip((value.detach(), *found), (expected.detach(), *slopes), strict=True):
        assert one.dtype == torch.float32
        close(one, other, 2e-2 if autocast else 1e-5)
