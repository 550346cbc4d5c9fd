"""PyTorch's own sample inputs for its operations, over every option that tinynet has: values and gradients.

Samples that tinynet has no layers for (without a batch, with a size that is None) are left out, and it is asserted how
many there are left.  A mean's divisor, which tinynet's layers don't have, is left out of both sides.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tinynet as tn

pytest.importorskip("expecttest", reason="PyTorch's sample inputs import it")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]


def samples(name):
    """PyTorch's samples for an operation of torch.nn.functional: (input, args, options), in float64."""
    from torch.testing._internal.common_methods_invocations import op_db

    op = next(op for op in op_db if op.name == f"nn.functional.{name}")
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=False):
        yield sample.input, sample.args, sample.kwargs


def last(a):
    return np.ascontiguousarray(np.moveaxis(a.numpy(), 1, -1))


def agrees(layer, function, x, arrays, in_torch):
    """Whether the layer, with such weights, gives on x (channels first) what PyTorch's function does; its gradients."""
    layer.build(tuple(last(x).shape[1:]), "float64", np.random.default_rng(0))
    for parameter, array in zip(layer.parameters, arrays, strict=True):
        parameter.value = array.permute(in_torch).numpy() if array.ndim > 1 else array.numpy()
    tensors = [tensor.clone().requires_grad_() for tensor in (x, *arrays)]
    expected = function(*tensors)
    y = layer.forward(last(x), training=True)
    g = torch.randn(expected.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    expected.backward(g)
    dx = layer.backward(last(g))
    found = [(y, last(expected.detach())), (dx, last(tensors[0].grad))]
    for parameter, tensor in zip(layer.parameters, tensors[1:], strict=True):
        found.append((parameter.grad, (tensor.grad.permute(in_torch) if tensor.ndim > 1 else tensor.grad).numpy()))
    for ours, theirs in found:
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def whole(option):
    """PyTorch takes lists, and tuples of one number, where a layer takes a number or a pair."""
    if isinstance(option, (tuple, list)):
        return None if len(option) == 0 else option[0] if len(option) == 1 else tuple(option)
    return option


POOLING = {  # the arguments in PyTorch's order, the layer, the axes of a batch, and how many samples it takes
    "max_pool2d": (("kernel_size", "stride", "padding", "dilation", "ceil_mode"), tn.MaxPool2D, 4, 100),
    "max_pool1d": (("kernel_size", "stride", "padding", "dilation", "ceil_mode"), tn.MaxPool1D, 3, 100),
    "avg_pool2d": (("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"), tn.AvgPool2D, 4, 7),
    "avg_pool1d": (("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"), tn.AvgPool1D, 3, 8),
    "adaptive_avg_pool2d": (("output_size",), tn.AdaptiveAvgPool2D, 4, 2),
}


@pytest.mark.parametrize("name", POOLING)
def test_pooling_of_pytorchs_samples(name):
    names, layer, axes, least = POOLING[name]
    tried = 0
    for x, args, options in samples(name):
        given = {**dict(zip(names, args, strict=False)), **options}
        given.pop("return_indices", None)
        foreign = set(given) - set(names) or x.ndim != axes or not len(x)
        if foreign or None in np.ravel(np.array(given.get("output_size", 0), object)):
            continue
        given = {option: whole(value) for option, value in given.items()}
        own = {{"kernel_size": "size"}.get(option, option): value for option, value in given.items()}
        agrees(layer(**own), lambda x, given=given: getattr(F, name)(x, **given), x, (), ())
        tried += 1
    assert tried >= least


CONVOLUTIONS = {  # the layer, how its weights lie in PyTorch's axes, and how many samples it takes
    "conv1d": (tn.Conv1D, 3, (2, 1, 0), 4),
    "conv2d": (tn.Conv2D, 4, (2, 3, 1, 0), 15),
    "conv_transpose2d": (tn.ConvTranspose2D, 4, (2, 3, 1, 0), 3),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_pytorchs_samples(name):
    layer, axes, in_torch, least = CONVOLUTIONS[name]
    tried = 0
    for x, (w, b, *others), options in samples(name):
        is_dilated = np.max(options.get("dilation", 1)) > 1 or options.get("groups", 1) > 1
        if others or x.ndim != axes or not len(x) or (name == "conv_transpose2d" and is_dilated):
            continue
        given = {option: whole(value) for option, value in options.items()}
        own = {key: value for key, value in given.items() if not (name == "conv_transpose2d" and key in OF_BOTH)}
        filters = w.shape[1 if name == "conv_transpose2d" else 0]
        made = layer(filters, tuple(w.shape[2:]) if axes == 4 else w.shape[2], bias=b is not None, **own)
        arrays = (w,) if b is None else (w, b)
        agrees(made, lambda x, w, b=None, given=given: getattr(F, name)(x, w, b, **given), x, arrays, in_torch)
        tried += 1
    assert tried >= least


OF_BOTH = "groups", "dilation"


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("elu", tn.ELU),
        ("selu", tn.SELU),
        ("silu", tn.SiLU),
        ("softplus", tn.Softplus),
        ("gelu", tn.GELU),
        ("relu6", tn.ReLU6),
    ],
)
def test_activations_of_pytorchs_samples(name, layer):
    for x, _, options in samples(name):
        if x.ndim and x.numel():
            approximate = {} if options.get("approximate", "none") == "none" else {"approximate": "tanh"}
            agrees(layer(**approximate), lambda x, named=approximate: getattr(F, name)(x, **named), x[:, None], (), ())


def test_rms_norm_of_pytorchs_samples():
    tried = 0
    for x, args, options in samples("rms_norm"):
        shape, *weight = args
        eps = options.get("eps", 1e-5)
        if len(shape) > 1 or not x.numel() or x.ndim < 2 or eps <= 0:
            continue
        layer = tn.RMSNorm(eps, affine=bool(weight))
        layer.build(x.shape[1:], "float64", np.random.default_rng(0))
        for parameter, array in zip(layer.parameters, weight, strict=True):
            parameter.value = array.numpy()
        np.testing.assert_allclose(layer.forward(x.numpy()), F.rms_norm(x, shape, *weight, eps=eps).numpy(), rtol=1e-10)
        tried += 1
    assert tried >= 2
