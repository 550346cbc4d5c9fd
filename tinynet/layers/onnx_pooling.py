"""Pooling as nodes of ONNX, of images and of sequences: what the layers of three files share (interop/onnx.py)."""

import numpy as np

from tinynet.layers.padding import reach


def whole_pool(graph, x, kind):
    """The mean or maximum over all axes between samples and channels."""
    axes = [axis for axis in range(1, x.axes) if axis != x.channels()]
    return graph.value(graph.add(kind, x.named(x.layout), axes, keepdims=0), 2)


def max_pool(graph, x, counts, extents, size, stride, padding, dilation):
    """Windows beyond the padding, which ceil_mode makes, get more of it."""
    axes = zip(counts, extents, size, stride, padding, dilation, strict=True)
    more = [max(0, (P - 1) * s + reach(n, d) - H - 2 * p) for P, H, n, s, p, d in axes]
    name = x.first()
    if any(more):
        name = graph.add("Pad", name, [0] * (x.axes + 2) + more, np.array(-np.inf))
    options = {"kernel_shape": size, "strides": stride, "pads": [*padding, *padding], "dilations": dilation}
    return graph.value(graph.add("MaxPool", name, **options), x.axes, "first")


def plain_avg_pool(graph, x, size, stride, padding, counts_padding):
    """Windows that all lie within the padding."""
    options = {"kernel_shape": size, "strides": stride, "pads": padding * 2, "count_include_pad": int(counts_padding)}
    return graph.value(graph.add("AveragePool", x.first(), **options), x.axes, "first")


def avg_pool(graph, x, windows, extents):
    """Along each axis y = m x, of which m's rows are the windows."""
    y = x.first()
    for axis, (places, H) in enumerate(zip(windows, extents, strict=True)):
        inside = (places[:, :1] <= np.arange(H)) & (np.arange(H) < places[:, 1:2])
        m = inside / places[:, 2:]
        y = graph.add("MatMul", y, m.T) if axis == len(extents) - 1 else graph.add("MatMul", m, y)
    return graph.value(y, x.axes, "first")
