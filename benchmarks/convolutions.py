"""Convolutions of real networks, forward and backward: tinynet beside PyTorch's oneDNN in both of its layouts.

    python benchmarks/convolutions.py [--only NAME ...] [--batches 1 8 32 64] [--headlines] [--rounds 5]
                                      [--vectors both] [--threads both] [--quick] [--json PATH]

    forward      what Conv2D.forward does, and torch.nn.functional.conv2d
    backward     dw and dx, for the first layer of a network dw alone; PyTorch's convolution_backward, with no tape

The shapes are those of ResNet-18 for CIFAR-10 (32x32) and for 224x224, some of the 1x1 convolutions of ResNet-50, and
windows that reach along one axis only, which are convolutions of sequences.  PyTorch's side is the faster of images
(N, C, H, W) and of channels last.  Values are compared to 1e-4 of the largest before they are timed.  The share is of
what multiply-adds in registers reach in the same run, of the plain sum: Winograd's method, with fewer, can pass 100%.
"""

import argparse
import math

import numpy as np
import side_by_side as side
from side_by_side import agree, torch

import tinynet as tn

# name: input (H, W, C), filters, window, stride, padding
RESNET_CIFAR = {
    "3 to 64 at 32x32": ((32, 32, 3), 64, 3, 1, 1),
    "64 at 32x32": ((32, 32, 64), 64, 3, 1, 1),
    "64 to 128 at 32x32, stride 2": ((32, 32, 64), 128, 3, 2, 1),
    "128 at 16x16": ((16, 16, 128), 128, 3, 1, 1),
    "128 to 256 at 16x16, stride 2": ((16, 16, 128), 256, 3, 2, 1),
    "256 at 8x8": ((8, 8, 256), 256, 3, 1, 1),
    "256 to 512 at 8x8, stride 2": ((8, 8, 256), 512, 3, 2, 1),
    "512 at 4x4": ((4, 4, 512), 512, 3, 1, 1),
    "64 to 128 at 32x32, 1x1, stride 2": ((32, 32, 64), 128, 1, 2, 0),
    "256 to 512 at 8x8, 1x1, stride 2": ((8, 8, 256), 512, 1, 2, 0),
}
RESNET_224 = {
    "3 to 64 at 224x224, 7x7, stride 2": ((224, 224, 3), 64, 7, 2, 3),
    "64 at 56x56": ((56, 56, 64), 64, 3, 1, 1),
    "64 to 128 at 56x56, stride 2": ((56, 56, 64), 128, 3, 2, 1),
    "128 at 28x28": ((28, 28, 128), 128, 3, 1, 1),
    "256 at 14x14": ((14, 14, 256), 256, 3, 1, 1),
    "256 to 512 at 14x14, stride 2": ((14, 14, 256), 512, 3, 2, 1),
    "512 at 7x7": ((7, 7, 512), 512, 3, 1, 1),
    "64 to 128 at 56x56, 1x1, stride 2": ((56, 56, 64), 128, 1, 2, 0),
}
OTHERS = {
    "64 at 112x112": ((112, 112, 64), 64, 3, 1, 1),
    "64 to 256 at 56x56, 1x1": ((56, 56, 64), 256, 1, 1, 0),
    "256 to 64 at 56x56, 1x1": ((56, 56, 256), 64, 1, 1, 0),
    "1024 to 256 at 14x14, 1x1": ((14, 14, 1024), 256, 1, 1, 0),
    "512 to 2048 at 7x7, 1x1": ((7, 7, 512), 2048, 1, 1, 0),
    "64 at 128x1, 5x1": ((128, 1, 64), 64, (5, 1), 1, "same"),
    "64 at 1x128, 1x5": ((1, 128, 64), 64, (1, 5), 1, "same"),
    "128 to 256 at 1000x1, 5x1": ((1000, 1, 128), 256, (5, 1), 1, "same"),
    "128 to 256 at 1x1000, 1x5": ((1, 1000, 128), 256, (1, 5), 1, "same"),
}
SHAPES = {**RESNET_CIFAR, **RESNET_224, **OTHERS}
BATCHES, HEADLINE_BATCHES = (1, 8, 32, 64), (1, 32)
GROUP = "convolutions"
MOST_WORK = 20e9  # operations of a forward pass: larger ones say nothing more, and take seconds


def tinynet_side(layer, x, dy, input_grad):
    def backward():
        dx = layer.backward(dy, input_grad)
        return [layer.parameters[0].grad, *([dx] if input_grad else [])]

    layer.forward(x, training=True)
    return {"forward": lambda: [layer.forward(x)], "backward": backward}


def torch_side(layer, x, dy, input_grad, layout):
    x, dy = (torch.from_numpy(a).permute(0, 3, 1, 2).contiguous(memory_format=layout) for a in (x, dy))
    w = torch.from_numpy(layer.parameters[0].value.transpose(3, 2, 0, 1).copy()).contiguous(memory_format=layout)
    padding = [before for before, _ in layer.zeros_around]
    options = None, layer.stride, padding, (1, 1), False, (0, 0), 1, (input_grad, True, False)

    def backward():
        dx, dw, _ = torch.ops.aten.convolution_backward(dy, x, w, *options)
        return [dw.permute(2, 3, 1, 0), *([dx.permute(0, 2, 3, 1)] if input_grad else [])]

    def forward():
        return [torch.nn.functional.conv2d(x, w, None, layer.stride, padding).permute(0, 2, 3, 1)]

    return {"forward": forward, "backward": backward}


def run(name, batch, options, most):
    """Rows for one shape: forward and backward."""
    rng = np.random.default_rng(0)
    shape, filters, window, stride, padding = SHAPES[name]
    layer = tn.Conv2D(filters, window, stride, padding, bias=False)
    layer.build(shape, "float32", rng)
    x = rng.standard_normal((batch, *shape), np.float32)
    dy = rng.standard_normal((batch, *layer.output_shape), np.float32)
    what, input_grad = f"{name}, batch {batch}", shape[2] > 3
    sides = {"tinynet": tinynet_side(layer, x, dy, input_grad)}
    if torch:
        layouts = {"PyTorch NCHW": torch.contiguous_format, "PyTorch NHWC": torch.channels_last}
        for peer, layout in layouts.items():
            sides[peer] = torch_side(layer, x, dy, input_grad, layout)
    for part, ours in sides["tinynet"].items():
        found = ours()
        for peer in list(sides)[1:]:
            for mine, theirs in zip(found, sides[peer][part](), strict=True):
                agree(mine, theirs, 1e-4, f"{what}, {part}, against {peer}")
    times = side.measure_several(sides, options.rounds, options.at_least)
    work = layer.flops * batch
    work = {"forward": work, "backward": work * (1 + input_grad)}
    more = {"group": GROUP, "shape": name, "batch": batch, "of_networks": is_headline(name, batch)}
    return side.parts_of(what, times, work, most, "PyTorch", **more)


def is_headline(name, batch):
    return batch in HEADLINE_BATCHES and name not in OTHERS


def wanted(options):
    """[(name, batch)] of what the command line asks for."""
    if options.quick and options.only == [""]:
        return [("3 to 64 at 32x32", 1), ("512 at 4x4", 1), ("64 at 128x1, 5x1", 1)]
    found = [(name, batch) for name in SHAPES for batch in options.batches]
    if options.headlines:
        found = [(name, batch) for name, batch in found if is_headline(name, batch)]
    return [each for each in found if any(part in each[0] for part in options.only) and work_of(*each) <= MOST_WORK]


def work_of(name, batch):
    (H, W, C), filters, window, stride, _ = SHAPES[name]
    return 2 * batch * H * W * C * filters * (math.prod(window) if isinstance(window, tuple) else window**2) / stride**2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="shapes whose name contains one of these")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, help="(default: 1 8 32 64)")
    parser.set_defaults(rounds=5)
    options = side.options(parser)
    print(side.machine(), side.setting(), sep=", ")
    most, rows = side.ceilings(), []
    for name, batch in wanted(options):
        rows += run(name, batch, options, most)
    side.summarised(rows, GROUP)
    side.save(options.json, rows, ceilings=most)


if __name__ == "__main__":
    main()
