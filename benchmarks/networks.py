"""A training step and inference of the networks that people know, those of tn.zoo: tinynet beside PyTorch.

    python benchmarks/networks.py [--only NAME ...] [--headlines] [--rounds 9] [--vectors both] [--threads both]
                                  [--quick] [--json PATH]

Times are measured and values compared as training.py does it; PyTorch's networks have torchvision's modules.  Then a
process of its own for each side measures the peak of its memory in two training steps, beyond what importing took (on
Linux, which keeps that figure): weights, gradients, what layers keep, and machine code.  PyTorch's is its eager mode.
PyTorch compiles ResNet-18 alone, and not with --headlines: the deeper ones take it many minutes.
"""

import argparse
import sys

import numpy as np
import side_by_side as side
from side_by_side import torch
from training import rows_of, step_of, torch_steps

import tinynet as tn

CIFAR, IMAGENET = (32, 32, 3), (224, 224, 3)
NETWORKS = {  # name: how it is built, and the batch
    "ResNet-18, CIFAR-10, batch 32": (lambda: tn.zoo.resnet(18, 10, CIFAR, small_images=True), 32),
    "ResNet-50, 224x224, batch 4": (lambda: tn.zoo.resnet(50, 10, IMAGENET), 4),
    "DenseNet-121, 224x224, batch 4": (lambda: tn.zoo.densenet(classes=10, input_shape=IMAGENET), 4),
    "MobileNetV2, 224x224, batch 8": (lambda: tn.zoo.mobilenet_v2(10, IMAGENET, dropout=0), 8),
    "AlexNet, 224x224, batch 16": (lambda: tn.zoo.alexnet(10, IMAGENET, dropout=0), 16),
}
LR = 1e-6  # at 3e-4, three steps of ResNet-50 on noise take PyTorch's own float32 3.5 % from its float64
QUICK = {"DenseNet, small": (lambda: tn.zoo.densenet((2, 2), 8, 10, CIFAR, small_images=True), 2)}
PREDICTED = {"ResNet-18, CIFAR-10, batch 32": (1, 8)}  # how many samples predict is given at once; elsewhere 1
HEADLINES, COMPILED = ("ResNet-18", "DenseNet-121"), "ResNet-18"


def print_memory(name, which, quick):
    build, batch = (QUICK if quick else NETWORKS)[name]
    before = side.resident("VmRSS") if sys.platform == "linux" else 0
    model, rng = build(), np.random.default_rng(0)
    batches = [(rng.random((batch, *model.input_shape), np.float32), rng.integers(0, 10, batch))]
    step = step_of(model, batches) if which == "tinynet" else torch_steps(model, batches, ["eager"])[which][0]
    del model  # of which PyTorch's has copied the weights
    built = side.resident("VmRSS") - before if sys.platform == "linux" else 0
    side.print_peak(lambda: [step() for _ in range(2)], outputs=-built)


def run(name, build, batch, options, most):
    """Rows: a training step, with its memory, and inference."""
    sizes = () if options.headlines or options.quick else PREDICTED.get(name, (1,))
    modes = ["eager", "channels_last"] + ["compile"] * (name.startswith(COMPILED) and not options.headlines)
    step, *predictions = rows_of(name, build(), batch, sizes, options, most, modes, LR)
    step["headline"] = name.startswith(HEADLINES)
    if not options.headlines:
        sides = "tinynet", *(["PyTorch eager"] if torch else [])
        step["memory"] = side.peaks(name, sides)
    return [step, *predictions]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="networks whose name contains one of these")
    options = side.options(parser)
    if options.memory:
        print_memory(*options.memory, options.quick)
        return
    print(side.machine(), side.setting(), sep=", ")
    most, rows = side.ceilings(), []
    for name, (build, batch) in (QUICK if options.quick else NETWORKS).items():
        left_out = options.headlines and not name.startswith(HEADLINES)
        if not left_out and any(part.lower() in name.lower() for part in options.only):
            rows += run(name, build, batch, options, most)
    side.save(options.json, rows, ceilings=most)


if __name__ == "__main__":
    main()
