"""The fused cross-entropies on a GPU, beside PyTorch (eager and compiled) and Liger-Kernel, loss and gradient together.

    python benchmarks/gpu.py [--rounds 9] [--quick]

With a GPU, the values and gradients are first compared with PyTorch's in float64.  Then each side is timed with the
device's own events, over inputs that rotate through more memory than any cache has, in turn with the others, since
clocks drift; the medians are printed.  GB/s counts the bytes that must move, logits in, targets in and gradient out,
and the share is of what a copy from device to device reaches in the same run.  tinynet's functions are called with
check=False, as nobody else looks at the targets, but for the side that says so.  The last layer and its loss in one, in
bfloat16, is also about memory: what is allocated beyond inputs and gradients.

With and without a GPU, a table shows what the shapes would take an H100 SXM on paper (on_paper.py), which is predicted
and not measured, beside what was measured here; without a GPU these columns are empty.
"""

import argparse
import statistics
import sys
from functools import partial

import numpy as np

import tinynet as tn

try:
    import on_paper

    from tinynet.cuda import device as cuda_device
    from tinynet.cuda.device import cuda
except ImportError as error:
    cuda, why = None, str(error)

SHAPES = {
    "softmax": [(8192, 32000), (1_000_000, 256), (4_000_000, 10), (65536, 1000), (4096, 50257)],
    "sigmoid": [(1_000_000, 256), (4_000_000, 10)],
}
QUICK = {"softmax": [(400_000, 10)], "sigmoid": [(40_000, 100)]}
LINEAR = [(8192, 4096, 32000), (8192, 4096, 128256)]
ROTATION = 1 << 30  # bytes: ten times the largest cache there is
COLUMNS = {  # of the table: what was measured
    "copy": "copy",
    "tinynet": "tinynet",
    "tinynet in PyTorch": "in PyTorch",
    "PyTorch eager": "eager",
    "PyTorch compiled": "compiled",
    "Liger-Kernel": "Liger",
}


def milliseconds(call, inputs):
    """Time on the device of one call of call(*input), each of the inputs once."""
    start, stop = cuda.event(), cuda.event()
    start.record()
    for arguments in inputs:
        call(*arguments)
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / len(inputs)


def medians(sides, given, rounds):
    """{side: milliseconds}; given[side] are its inputs."""
    for name, side in sides.items():  # compile, and warm up
        milliseconds(side, given[name])
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(milliseconds(side, given[name]))
    return {name: statistics.median(taken) for name, taken in times.items()}


def liger(name):
    try:
        from liger_kernel import transformers

        return {"Liger-Kernel": getattr(transformers, name)()}
    except ImportError:
        print("Liger-Kernel is not installed")
        return {}


def in_pytorch(torch, loss):
    """{name: function of (logits, targets, array for the gradient) that computes loss and gradient by backward()}"""
    F = torch.nn.functional
    plain = {"softmax": F.cross_entropy, "sigmoid": F.binary_cross_entropy_with_logits}[loss]
    sides = {"PyTorch eager": plain, "PyTorch compiled": torch.compile(plain)}
    if loss == "softmax":
        ours = partial(tn.interop.torch_cross_entropy, check=False)
        sides = {"tinynet in PyTorch": ours, "... in place": partial(ours, in_place=True), **sides}
        sides |= liger("LigerCrossEntropyLoss")  # which always works in place

    def with_gradient(function, z, t, out):
        leaf = z.detach().requires_grad_()
        function(leaf.view_as(leaf), t).backward()  # a leaf itself may not be overwritten
        return leaf.grad

    return {name: partial(with_gradient, function) for name, function in sides.items()}


def check(torch, loss):
    """Stop unless value and gradient are PyTorch's, in float64 and in float32."""
    plain = torch.nn.functional.cross_entropy if loss == "softmax" else None
    plain = plain or torch.nn.functional.binary_cross_entropy_with_logits
    ours = {"tinynet": getattr(tn, f"{loss}_cross_entropy")}
    if loss == "softmax":
        ours["tinynet in PyTorch"] = lambda z, t: through_autograd(torch, z, t)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        for N, C in ((1000, 10), (257, 250), (64, 33), (33, 5003), (16, 8192)):
            z = 4 * torch.randn(N, C, dtype=dtype, device="cuda")
            t = torch.randint(C, (N,), device="cuda") if loss == "softmax" else torch.rand_like(z)
            exact = z.double().requires_grad_()
            expected = plain(exact, t if loss == "softmax" else t.double())
            expected.backward()
            for name, function in ours.items():
                value, gradient = (torch.as_tensor(x, device="cuda").double() for x in function(z, t))
                wrong = (
                    abs(value / expected - 1).item(),
                    ((gradient - exact.grad).abs().max() / exact.grad.abs().max()).item(),
                )
                if not max(wrong) < tolerance:
                    sys.exit(f"{name}, {loss} {(N, C)} {dtype}: value and gradient differ from PyTorch's by {wrong}")


def through_autograd(torch, z, t):
    """The loss, and the gradient of three times it, divided by three: backward() has something to multiply."""
    leaf = z.detach().requires_grad_()
    value = tn.interop.torch_cross_entropy(leaf, t)
    (3 * value).backward()
    return value.detach(), leaf.grad / 3


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
    inputs = list(arrays(torch, loss, N, C))  # some sides overwrite the logits: other numbers take as long
    views = [tuple(cuda.as_cuda_array(x) for x in arguments) for arguments in inputs]
    sides = {
        "copy": lambda z, t, out: out.copy_to_device(z),
        "tinynet": lambda z, t, out: function(z, t, out=out, check=False),
        "tinynet, checked": lambda z, t, out: function(z, t, out=out),
    }
    given = dict.fromkeys(sides, views)
    sides |= in_pytorch(torch, loss) if torch else {}
    times = medians(sides, {name: given.get(name, inputs) for name in sides}, rounds)

    targets = 8 * N if loss == "softmax" else 4 * N * C
    copied = 8 * N * C / times["copy"] / 1e6
    print(f"\n{loss} ({N}, {C}) float32; a copy moves {copied:.0f} GB/s")
    for name in list(sides)[1:]:
        rate = (8 * N * C + targets) / times[name] / 1e6
        ratio = times[name] / times["tinynet"]
        print(f"    {name:<18} {times[name]:8.3f} ms {rate:6.0f} GB/s {rate / copied:5.0%} of a copy {ratio:6.2f} x")
    return times


def measure_linear(torch, N, D, C, rounds):
    """The last layer and its loss, forward and backward, in bfloat16."""
    F = torch.nn.functional
    random = partial(torch.randn, device="cuda", dtype=torch.bfloat16)
    x, w, t = random(N, D).requires_grad_(), (random(C, D) / D**0.5).requires_grad_(), torch.randint(C, (N,)).cuda()
    plain = lambda x, w, t: F.cross_entropy(F.linear(x, w), t)  # noqa: E731
    sides = {
        "tinynet": lambda x, w, t: tn.interop.torch_linear_cross_entropy(x, w, t, check=False),
        "PyTorch eager": plain,
        "PyTorch compiled": torch.compile(plain),
        "PyTorch's in one": partial(F.linear_cross_entropy, options=torch.nn.LinearCrossEntropyOptions()),
    }
    for name, fused in liger("LigerFusedLinearCrossEntropyLoss").items():
        sides[name] = lambda x, w, t, fused=fused: fused(w, x, t)

    def step(function, x, w, t):
        x.grad = w.grad = None
        function(x, w, t).backward()

    sides = {name: partial(step, function) for name, function in sides.items()}
    times = medians(sides, {name: [(x, w, t)] for name in sides}, rounds)
    print(f"\nlinear ({N}, {D}) x {C} bfloat16")
    for name, side in sides.items():
        x.grad = w.grad = None
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        side(x, w, t)
        beyond = torch.cuda.max_memory_allocated() - before - 2 * (x.numel() + w.numel())
        ratio = times[name] / times["tinynet"]
        print(f"    {name:<18} {times[name]:8.3f} ms {beyond / 1e6:8.0f} MB {ratio:6.2f} x")


def table(shapes, measured, gpu):
    """What each shape takes on paper, beside what it took here: measured[loss, shape] has milliseconds by side."""
    print("\nmilliseconds, float32      predicted for an H100 SXM, not measured   measured on", gpu)
    print(f"{'':<26} {'memory':>8} {'instructions':>13} {'binds':>13}  ", *(f"{one:>10}" for one in COLUMNS.values()))
    for loss, sizes in shapes.items():
        for N, C in sizes:
            paper = on_paper.predicted(loss, N, C)
            binds = "memory" if paper.memory >= paper.instructions else paper.unit
            times = measured.get((loss, N, C), {})
            cells = (f"{times[side]:10.3f}" if side in times else f"{'-':>10}" for side in COLUMNS)
            shape = f"{loss} ({N}, {C})"
            print(f"{shape:<26} {paper.memory:8.3f} {paper.instructions:13.3f} {binds:>13}  ", *cells, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="two small shapes, to see that it runs")
    options = parser.parse_args()
    if cuda is None or cuda_device.SIMULATOR:
        print("no GPU to measure, and no prediction:", why if cuda is None else "this is Numba's simulator")
        return
    shapes, measured, gpu = QUICK if options.quick else SHAPES, {}, "no GPU, as CUDA sees none"
    if cuda.is_available():
        try:
            import torch

            torch = torch if torch.cuda.is_available() else None
        except ImportError:
            torch = None
        gpu = cuda.get_current_device().name
        gpu = gpu.decode() if isinstance(gpu, bytes) else gpu
        print(gpu, "" if torch else "(PyTorch is not here to compare with)")
        for loss, sizes in shapes.items():
            if torch:
                check(torch, loss)
            for N, C in sizes:
                measured[loss, N, C] = measure(torch, loss, N, C, options.rounds)
        for N, D, C in LINEAR if torch and not options.quick else ():
            measure_linear(torch, N, D, C, options.rounds)
    table(shapes, measured, gpu)


if __name__ == "__main__":
    main()
