"""ONNX's own node cases, inputs with the outputs that they must give, by the layers and losses that do the same.

Each function below takes a node's attributes and its inputs, and returns what the layer or loss gives, or None where
the node asks for what there is not here (three dimensions, peepholes, padding that differs by side, ...).  It is
asserted how many cases are left.
"""

import importlib
import warnings

import numpy as np
import pytest

import tinynet as tn

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.usefixtures("one_thread")


def cases(module, kind):
    """ONNX's cases for a kind of node: (name, attributes, inputs, outputs), None for those that it has not."""
    with warnings.catch_warnings(action="ignore"):
        from onnx.backend.test.case import node

        importlib.import_module(f"{node.__name__}.{module}")
    for case in node._NodeTestCases:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type == kind:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[0].attribute}
            attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
            for inputs, outputs in case.data_sets:
                arrays = [
                    [next(given) if name else None for name in names]
                    for names, given in ((nodes[0].input, iter(inputs)), (nodes[0].output, iter(outputs)))
                ]
                yield case.name, attributes, *arrays


def last(x):
    return np.moveaxis(x, 1, -1)


def first(x):
    return np.moveaxis(x, -1, 1)


def run(layer, x, *weights, training=False):
    layer.build(x.shape[1:], x.dtype, np.random.default_rng(0))
    for parameter, array in zip(layer.parameters, weights, strict=True):
        parameter.value = array
    return layer.forward(x, training=training)


def sides(pads, axes):
    """ONNX's (before, ..., behind, ...) as a pair for each axis."""
    return tuple(zip(pads[:axes], pads[axes:], strict=True))


def windows(a, axes):
    """stride, padding and dilation of a node's windows, or None where their padding is no number."""
    pads = sides(a.get("pads", [0] * 2 * axes), axes)
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    return tuple(a.get("strides", [1] * axes)), pads, tuple(a.get("dilations", [1] * axes))


def conv(a, x, w, b=None):
    if x.ndim != 4:
        return None
    if a.get("auto_pad") == "SAME_LOWER" and x.shape[2] % a["strides"][0]:  # as many zeros on both sides as "same"
        stride, pads, dilation = tuple(a["strides"]), "same", 1
    elif (found := windows(a, 2)) is None:
        return None
    else:
        stride, pads, dilation = found
    layer = tn.Conv2D(
        len(w), w.shape[2:], stride, pads, bias=b is not None, dilation=dilation, groups=a.get("group", 1)
    )
    return first(run(layer, last(x), w.transpose(2, 3, 1, 0), *(() if b is None else (b,))))


def conv_transpose(a, x, w, b=None):
    found = windows(a, 2)
    if x.ndim != 4 or found is None or a.get("group", 1) > 1 or max(found[2]) > 1:
        return None
    stride, pads, _ = found
    more = tuple(a.get("output_padding", (0, 0)))
    if "output_shape" in a and "output_padding" not in a:
        more = tuple(
            size - (s * (n - 1) + k)
            for size, s, n, k in zip(a["output_shape"], stride, x.shape[2:], w.shape[2:], strict=True)
        )
    layer = tn.ConvTranspose2D(w.shape[1], w.shape[2:], stride, tuple(p[0] for p in pads), more, bias=b is not None)
    return first(run(layer, last(x), w.transpose(2, 3, 1, 0), *(() if b is None else (b,))))


def pooled(a, x, of_images, of_sequences, **options):
    axes = x.ndim - 2
    found = windows(a, axes)
    if axes > 2 or found is None or x.dtype != np.float32:
        return None
    stride, pads, dilation = found
    size = tuple(a["kernel_shape"])
    if any(before != behind or before > n // 2 for (before, behind), n in zip(pads, size, strict=True)):
        return None
    pads = tuple(before for before, _ in pads)
    if max(dilation) > 1:
        if of_images is tn.AvgPool2D:
            return None
        options["dilation"] = dilation
    options["ceil_mode"] = bool(a.get("ceil_mode", 0))
    if axes == 1:
        return first(run(of_sequences(size[0], stride[0], pads[0], **options), last(x)))
    return first(run(of_images(size, stride, pads, **options), last(x)))


def max_pool(a, x):
    return pooled(a, x, tn.MaxPool2D, tn.MaxPool1D)


def average_pool(a, x):
    return pooled(a, x, tn.AvgPool2D, tn.AvgPool1D, count_include_pad=bool(a.get("count_include_pad", 0)))


def batch_norm(a, x, scale, bias, mean, variance):
    """In training, ONNX and PyTorch keep another variance: the batch's own, or that of what it was drawn from."""
    if a.get("training_mode", 0):
        return None
    layer = tn.BatchNorm(eps=a.get("epsilon", 1e-5))
    layer.build(last(x).shape[1:], x.dtype, np.random.default_rng(0))
    layer.parameters[0].value, layer.parameters[1].value = scale, bias
    layer.buffers["running_mean"], layer.buffers["running_var"] = mean, variance
    return first(layer.forward(last(x)))


def group_norm(a, x, scale, bias):
    return first(run(tn.GroupNorm(a["num_groups"], a.get("epsilon", 1e-5)), last(x), scale, bias))


def over_last_axes(layer, a, x, *weights):
    """Normalisation over the last axes, as one: but not over the batch's."""
    axis = a.get("axis", -1) % x.ndim
    rows = x.reshape(*x.shape[:axis], -1)
    if axis == 0:
        rows = rows[None]
    return run(layer, rows, *(array.reshape(-1) for array in weights)).reshape(x.shape)


def layer_norm(a, x, scale, bias):
    return over_last_axes(tn.LayerNorm(a.get("epsilon", 1e-5)), a, x, scale, bias)


def rms_norm(a, x, scale):
    return over_last_axes(tn.RMSNorm(a.get("epsilon", 1e-5)), a, x, scale)


def softmax(a, x):
    axis = a.get("axis", -1)
    return np.moveaxis(run(tn.Softmax(), np.moveaxis(x, axis, -1)), -1, axis)


def activation(layer):
    def forward(a, x):
        return None if layer(a) is None else run(layer(a), x[None])[0]

    return forward


def global_pool(layer):
    return lambda a, x: run(layer(), last(x))[:, :, None, None]


def gemm(a, x, w, b=None):
    """A Dense layer's bias is one number for each output."""
    x, w = (m.T if a.get(t) else m for m, t in ((x, "transA"), (w, "transB")))
    b = np.zeros(w.shape[1], x.dtype) if b is None else b
    if b.ndim == 2 and len(b) > 1:
        return None
    b = np.broadcast_to(b.reshape(-1), w.shape[1])
    return run(tn.Dense(w.shape[1]), x, a.get("alpha", 1.0) * w, a.get("beta", 1.0) * b)


def resize(a, x, roi=None, scales=None, sizes=None):
    """Whole factors, by each pixel's own; ONNX's axes may be chosen."""
    mode = a.get("coordinate_transformation_mode", "half_pixel")
    if a["mode"] != "nearest" or mode != "half_pixel" or scales is None or "axes" in a:
        return None
    if (scales % 1).any() or (scales < 1).any():
        return None
    return first(run(tn.Upsample2D(tuple(int(s) for s in scales[2:])), last(x)))


def recurrent(layer, order, a, x, w, r, b=None, lengths=None, *states):
    """The last h, as ONNX's cases without a name for all of them ask for; time comes first, but for layout=1.

    The gates lie in ONNX's order; `order` says where ours lie there.
    """
    D, H = w.shape[0], a["hidden_size"]
    if states or lengths is not None or set(a) - {"hidden_size", "direction", "layout"}:
        return None
    x = x if a.get("layout") else x.swapaxes(0, 1)
    back = a.get("direction") == "reverse"
    x = x[:, ::-1] if back else x
    b = np.zeros((D, 2 * w.shape[1]), x.dtype) if b is None else b

    def ours(array):
        return np.concatenate([array[k * H : (k + 1) * H] for k in order])

    arrays = []
    for d in range(D):
        bias, recurrent_bias = ours(b[d, : w.shape[1]]), ours(b[d, w.shape[1] :])
        arrays += [ours(w[d]).T, ours(r[d]).T]
        if layer is tn.LSTM:
            arrays.append(bias + recurrent_bias)
        else:  # the candidate's product with h has a bias of its own
            bias[: 2 * H] += recurrent_bias[: 2 * H]
            arrays += [bias, recurrent_bias[2 * H :]]
    h = run(layer(H, bidirectional=D == 2, return_sequences=False), np.ascontiguousarray(x), *arrays)
    h = h.reshape(len(x), D, H)
    return h if a.get("layout") else h.swapaxes(0, 1)


def lstm(a, *inputs):
    return recurrent(tn.LSTM, (0, 2, 3, 1), a, *inputs)  # ONNX has i, o, f, g


def gru(a, x, *inputs):
    """In ONNX, r multiplies h before its product with u, unless linear_before_reset is set.  At first, h is 0."""
    if x.shape[1 if a.get("layout") else 0] > 1:
        return None
    return recurrent(tn.GRU, (1, 0, 2), a, x, *inputs)  # ONNX has z, r, n


def of_labels(loss):
    def run(a, x, labels, weight=None):
        options = {"reduction": a.get("reduction", "mean"), "ignore_index": a.get("ignore_index", -100)}
        return np.asarray(loss(last(x), labels, weight=weight, **options)[0])

    return run


def nll(a, x, labels, weight=None):
    """ONNX's cases take any numbers for logarithms; the loss here wants such of probabilities, so a class is added.

    It has what the others lack, and no label.
    """
    shift = 1 + np.log(np.exp(x).sum(axis=1, keepdims=True))
    x = np.concatenate([x - shift, np.full_like(x[:, :1], np.log1p(-np.exp(-1)))], axis=1)
    ignored = labels == a.get("ignore_index", -100)
    safe = np.where(ignored, 0, labels)
    weight = np.ones(x.shape[1] - 1, x.dtype) if weight is None else weight
    options = {"weight": np.append(weight, 0), "reduction": "none", "ignore_index": -1}
    losses, _ = tn.nll(last(x), np.where(ignored, -1, labels), **options)
    losses = losses - np.where(ignored, 0, weight[safe] * shift[:, 0])
    reduction = a.get("reduction", "mean")
    if reduction == "mean":
        return np.asarray(losses.sum() / np.where(ignored, 0, weight[safe]).sum())
    return np.asarray(losses.sum()) if reduction == "sum" else losses


NODES = {  # ONNX's name: its module, what does the same, and how many cases there are to compare
    "Conv": ("conv", conv, 6),
    "ConvTranspose": ("convtranspose", conv_transpose, 5),
    "MaxPool": ("maxpool", max_pool, 10),
    "AveragePool": ("averagepool", average_pool, 8),
    "BatchNormalization": ("batch_normalization", batch_norm, 2),
    "LayerNormalization": ("layernormalization", layer_norm, 19),
    "GroupNormalization": ("groupnormalization", group_norm, 2),
    "RMSNormalization": ("rmsnormalization", rms_norm, 19),
    "Elu": ("elu", activation(lambda a: tn.ELU(a.get("alpha", 1.0))), 3),
    "Selu": ("selu", activation(lambda a: tn.SELU() if "alpha" not in a else None), 1),
    "Gelu": ("gelu", activation(lambda a: tn.GELU(None if a.get("approximate", "none") == "none" else "tanh")), 4),
    "Relu": ("relu", activation(lambda a: tn.ReLU()), 1),
    "LeakyRelu": ("leakyrelu", activation(lambda a: tn.LeakyReLU(a.get("alpha", 0.01))), 3),
    "Sigmoid": ("sigmoid", activation(lambda a: tn.Sigmoid()), 2),
    "Tanh": ("tanh", activation(lambda a: tn.Tanh()), 2),
    "Softplus": ("softplus", activation(lambda a: tn.Softplus()), 2),
    "Swish": ("swish", activation(lambda a: tn.Swish()), 1),
    "Softmax": ("softmax", softmax, 7),
    "GlobalAveragePool": ("globalaveragepool", global_pool(tn.GlobalAvgPool2D), 2),
    "GlobalMaxPool": ("globalmaxpool", global_pool(tn.GlobalMaxPool2D), 2),
    "Gemm": ("gemm", gemm, 10),
    "Resize": ("resize", resize, 1),
    "LSTM": ("lstm", lstm, 5),
    "GRU": ("gru", gru, 3),
    "SoftmaxCrossEntropyLoss": ("softmax_cross_entropy_loss", of_labels(tn.softmax_cross_entropy), 34),
    "NegativeLogLikelihoodLoss": ("negativeloglikelihoodloss", nll, 18),
}


@pytest.mark.parametrize("kind", NODES)
def test_a_node_of_onnx_gives_what_onnx_says(kind):
    module, same, least = NODES[kind]
    tried = 0
    for name, attributes, inputs, outputs in cases(module, kind):
        found = same(attributes, *inputs)
        if found is None:
            continue
        expected = outputs[1 if kind in ("LSTM", "GRU") else 0]
        assert found.shape == expected.shape, name
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-6, err_msg=name)  # some have four digits
        tried += 1
    assert tried >= least
