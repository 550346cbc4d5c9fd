"""The fused cross-entropies on a GPU, beside PyTorch (eager and compiled) and Liger-Kernel, loss and gradient together.

    python benchmarks/gpu.py [--rounds 9]

First the values and gradients are compared with PyTorch's in float64.  Then each side is timed with the device's own
events, over inputs that rotate through more memory than any cache has, in turn with the others, since clocks drift; the
medians are printed.  GB/s counts the bytes that must move, logits in, targets in and gradient out, and the share is of
what a copy from device to device reaches in the same run.  Without a GPU this says so and ends.
"""

import argparse
import statistics
import sys

import numpy as np

import tinynet as tn

try:
    from tinynet.cuda import device as cuda_device
    from tinynet.cuda.device import cuda
except ImportError as error:
    cuda, why = None, str(error)

SOFTMAX = [(8192, 32000), (1_000_000, 256), (4_000_000, 10), (65536, 1000), (4096, 50257)]
SIGMOID = [(1_000_000, 256), (4_000_000, 10)]
ROTATION = 1 << 30  # bytes: ten times the largest cache there is


def milliseconds(call, inputs):
    """Time on the device of one call of call(*input), each of the inputs once."""
    start, stop = cuda.event(), cuda.event()
    start.record()
    for arguments in inputs:
        call(*arguments)
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / len(inputs)


def peers(torch, loss):
    """{name: function of (logits, targets) that computes loss and gradient}"""
    F = torch.nn.functional
    plain = {"softmax": F.cross_entropy, "sigmoid": F.binary_cross_entropy_with_logits}[loss]
    compiled = torch.compile(plain)
    sides = {"PyTorch eager": plain, "PyTorch compiled": compiled}
    if loss == "softmax":
        try:
            from liger_kernel.transformers import LigerCrossEntropyLoss

            sides["Liger-Kernel"] = LigerCrossEntropyLoss()
        except ImportError:
            print("Liger-Kernel is not installed")

    def with_gradient(function):
        def run(z, t, out):
            z = z.detach().requires_grad_()
            function(z, t).backward()
            return z.grad

        return run

    return {name: with_gradient(function) for name, function in sides.items()}


def check(torch, loss, ours):
    """Stop unless value and gradient are PyTorch's, in float64 and in float32."""
    plain = torch.nn.functional.cross_entropy if loss == "softmax" else None
    plain = plain or torch.nn.functional.binary_cross_entropy_with_logits
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        for N, C in ((1000, 10), (257, 250), (64, 33), (33, 5003), (16, 8192)):
            z = 4 * torch.randn(N, C, dtype=dtype, device="cuda")
            t = torch.randint(C, (N,), device="cuda") if loss == "softmax" else torch.rand_like(z)
            exact = z.double().requires_grad_()
            expected = plain(exact, t if loss == "softmax" else t.double())
            expected.backward()
            value, gradient = ours(z, t)
            value, gradient = (torch.as_tensor(x, device="cuda").double() for x in (value, gradient))
            wrong = (
                abs(value / expected - 1).item(),
                ((gradient - exact.grad).abs().max() / exact.grad.abs().max()).item(),
            )
            if not max(wrong) < tolerance:
                sys.exit(f"{loss} {(N, C)} {dtype}: value and gradient differ from PyTorch's by {wrong}")


def arrays(torch, loss, N, C):
    """Sets of (logits, targets, array for the gradient), enough of them to leave no cache warm."""
    sets = max(2, -(-ROTATION // (8 * N * C)))
    random = np.random.default_rng(0)
    for _ in range(sets):
        if torch:
            z = torch.randn(N, C, device="cuda")
            t = torch.randint(C, (N,), device="cuda") if loss == "softmax" else torch.rand(N, C, device="cuda")
            yield z, t, torch.empty_like(z)
        else:
            t = random.integers(C, size=N) if loss == "softmax" else random.random((N, C), np.float32)
            z = cuda.to_device(random.standard_normal((N, C), np.float32))
            yield z, cuda.to_device(t), cuda.device_array((N, C), np.float32)


def measure(torch, loss, N, C, rounds):
    function = tn.softmax_cross_entropy if loss == "softmax" else tn.sigmoid_cross_entropy
    inputs = list(arrays(torch, loss, N, C))
    views = [tuple(cuda.as_cuda_array(x) for x in arguments) for arguments in inputs]

    sides = {
        "copy": lambda z, t, out: out.copy_to_device(z),
        "tinynet": lambda z, t, out: function(z, t, out=out, check=False),
        "tinynet, checked": lambda z, t, out: function(z, t, out=out),
        **(peers(torch, loss) if torch else {}),
    }
    given = {name: views if "tinynet" in name or name == "copy" else inputs for name in sides}
    for name, side in sides.items():  # compile, and warm up
        milliseconds(side, given[name])
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(milliseconds(side, given[name]))
    times = {name: statistics.median(taken) for name, taken in times.items()}

    targets = 8 * N if loss == "softmax" else 4 * N * C
    copied = 8 * N * C / times["copy"] / 1e6
    print(f"\n{loss} ({N}, {C}) float32; a copy moves {copied:.0f} GB/s")
    for name in list(sides)[1:]:
        rate = (8 * N * C + targets) / times[name] / 1e6
        ratio = times[name] / times["tinynet"]
        print(f"    {name:<18} {times[name]:8.3f} ms {rate:6.0f} GB/s {rate / copied:5.0%} of a copy {ratio:6.2f} x")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if cuda is None or cuda_device.SIMULATOR or not cuda.is_available():
        print(f"no GPU to measure: {why if cuda is None else 'CUDA sees none'}")
        return
    try:
        import torch

        torch = torch if torch.cuda.is_available() else None
    except ImportError:
        torch = None
    print(cuda.get_current_device().name, "" if torch else "(PyTorch is not here to compare with)")
    for loss, sizes in (("softmax", SOFTMAX), ("sigmoid", SIGMOID)):
        if torch:
            check(torch, loss, getattr(tn, f"{loss}_cross_entropy"))
        for N, C in sizes:
            measure(torch, loss, N, C, options.rounds)


if __name__ == "__main__":
    main()
