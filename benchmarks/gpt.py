"""A step of training a GPT, forward, loss, backward and AdamW: tinynet beside PyTorch, and llm.c's program for CPUs.

    python benchmarks/gpt.py [--only NAME ...] [--llm-c FOLDER] [--headlines] [--rounds 9] [--vectors both]
                             [--threads both] [--quick] [--json PATH]

    nanoGPT        its configuration for CPUs: 4 layers, 4 heads, 128 wide, 12 texts of 64 letters out of 65, no biases
    GPT-2 124M     4 texts of 64 words out of 50257.  tinynet: the last layer and the loss in one

All sides start from the same weights and see the same batch; the losses of the first steps are compared to 1e-4.
PyTorch's attention is scaled_dot_product_attention, and it runs in three ways: as it is, with the fused optimizer, and
with that and compiled.  JAX runs beside them where it is installed.  --llm-c is a folder with the sources of llm.c,
whose train_gpt2.c is compiled and fed these weights and tokens.  The memory is all that training takes.
"""

import argparse
import os
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import side_by_side as side
from attention import jax_block, jax_norm
from side_by_side import agree, compiled, jax, measure, torch

import tinynet as tn
from tinynet.training.last_layer import with_last_layer

if torch:
    import torch.nn.functional as F
    from torch import nn

WORKLOADS = {
    "nanoGPT": ({"vocabulary": 65, "length": 64, "layers": 4, "heads": 4, "dim": 128, "bias": False}, 12, 64),
    "GPT-2 124M": ({}, 4, 64),
}
TINY = {"vocabulary": 30, "length": 8, "layers": 1, "heads": 2, "dim": 8}, 2, 5
RATES = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.1}


def batch_of(model, N, T):
    """A text, whose end its beginning follows, its words as a batch, and those that follow them."""
    text = np.random.default_rng(0).integers(0, model.output_shape[-1], N * T)
    return text, text.reshape(N, T), np.roll(text, -1).reshape(N, T)


def tinynet_step(model, x, y, in_one):
    optimizer = tn.AdamW(model, **RATES)
    loss = tn.linear_cross_entropy if in_one else tn.softmax_cross_entropy
    body, loss, _ = with_last_layer(model, loss, {})

    def step():
        value, gradient = loss(body.forward(x, training=True), y)
        body.backward(gradient)
        optimizer.step()
        return value

    return step


# --- PyTorch ------------------------------------------------------------------------------------------------

if torch:

    class Block(nn.Module):
        def __init__(self, dim, heads, bias):
            super().__init__()
            self.heads = heads
            self.before_attention, self.qkv = nn.LayerNorm(dim, bias=bias), nn.Linear(dim, 3 * dim, bias)
            self.out, self.before_mlp = nn.Linear(dim, dim, bias), nn.LayerNorm(dim, bias=bias)
            self.wide, self.narrow = nn.Linear(dim, 4 * dim, bias), nn.Linear(4 * dim, dim, bias)

        def forward(self, x):
            N, T, dim = x.shape
            q, k, v = self.qkv(self.before_attention(x)).split(dim, 2)
            q, k, v = (part.view(N, T, self.heads, -1).transpose(1, 2) for part in (q, k, v))
            found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(found.transpose(1, 2).reshape(N, T, dim))
            return x + self.narrow(F.gelu(self.wide(self.before_mlp(x)), approximate="tanh"))

    class GPT(nn.Module):
        """Its parameters come in the order of tinynet's."""

        def __init__(self, vocabulary=50257, length=1024, layers=12, heads=12, dim=768, bias=True):
            super().__init__()
            self.words, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(length, dim)
            self.blocks = nn.ModuleList(Block(dim, heads, bias) for _ in range(layers))
            self.last = nn.LayerNorm(dim, bias=bias)

        def forward(self, x, y):
            h = self.words(x) + self.positions(torch.arange(x.shape[1]))
            for block in self.blocks:
                h = block(h)
            return F.cross_entropy(F.linear(self.last(h), self.words.weight).flatten(0, 1), y.flatten())


def torch_step(model, options, x, y, mode):
    network, x, y = GPT(**options), torch.from_numpy(x), torch.from_numpy(y)
    with torch.no_grad():
        for number, (theirs, ours) in enumerate(zip(network.parameters(), model.parameters(), strict=True)):
            is_linear = number >= 2 and theirs.ndim == 2  # the first two are embeddings
            theirs.copy_(torch.from_numpy(ours.value.T if is_linear else ours.value))
    optimizer = torch.optim.AdamW(network.parameters(), fused=mode != "eager", **RATES)
    forward = compiled(network, x, y) if mode == "compile" else network
    if forward is None:
        return None

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = forward(x, y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


# --- llm.c --------------------------------------------------------------------------------------------------


def llm_c(sources, model, text, steps=3):
    """(losses, seconds) of the first steps of llm.c's train_gpt2, with these weights and this text again and again.

    The files are as it reads them: 256 whole numbers, of which the first ones say what it is, then the arrays.
    """
    avx2 = side.setting().startswith("AVX2")
    vectors = ["-mavx2", "-mfma"] if avx2 else ["-march=native"]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        program = ["-Ofast", *vectors, "-fopenmp", f"-I{sources}", str(Path(sources) / "train_gpt2.c"), "-lm"]
        subprocess.run(["gcc", *program, "-o", str(folder / "train")], check=True, stderr=subprocess.DEVNULL)
        data = folder / "dev" / "data" / "tinyshakespeare"
        data.mkdir(parents=True)
        for part in ("train", "val"):
            words = np.resize(text, 12 * len(text)).astype(np.uint16)
            header = np.zeros(256, np.int32)
            header[:3] = 20240520, 1, len(words)
            (data / f"tiny_shakespeare_{part}.bin").write_bytes(header.tobytes() + words.tobytes())
        (folder / "gpt2_124M.bin").write_bytes(_weights_of_llm_c(model))
        environment = {**os.environ, "OMP_NUM_THREADS": str(tn.get_num_threads())}
        command = ["stdbuf", "-oL", "./train"]  # lines come as they are printed
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
        losses, seconds = [], []
        for line in process.stdout:
            found = re.match(r"step \d+: train loss ([\d.]+) \(took ([\d.]+) ms\)", line)
            if found:
                losses.append(float(found[1]))
                seconds.append(float(found[2]) / 1e3)
            if len(losses) == steps:
                break
        process.kill()
        process.wait()
    return losses, seconds


def _weights_of_llm_c(model):
    blocks = [layer for layer in model.layers if hasattr(layer, "mlp_ratio")]
    (length,), V = model.input_shape, model.output_shape[-1]
    dim, rows = blocks[0].input_shape[-1], -(-V // 128) * 128
    header = np.zeros(256, np.int32)
    header[:8] = 20240326, 3, length, V, len(blocks), blocks[0].heads, dim, rows
    words, positions = (parameter.value for parameter in model.parameters()[:2])
    arrays = [words, np.zeros((rows - V, dim)), positions]
    for of_blocks in zip(*(block.parameters for block in blocks), strict=True):
        arrays += [parameter.value.T for parameter in of_blocks]
    arrays += [parameter.value for parameter in model.parameters()[-2:]]
    return header.tobytes() + b"".join(np.ascontiguousarray(array, np.float32).tobytes() for array in arrays)


# --- JAX ----------------------------------------------------------------------------------------------------


def jax_step(model, heads, x, y):
    """The weights are as tinynet's layers have them; there may be no biases."""
    jnp, (x, y) = jax.numpy, map(jax.numpy.array, (x, y))
    bias, rates = any(p.name.endswith("bias") for p in model.parameters()), (RATES["lr"], *RATES["betas"])
    weights = [jnp.array(parameter.value) for parameter in model.parameters()]

    def loss_of(weights):
        words, positions, *more = weights if bias else with_zeros(weights)
        h = words[x] + positions[: x.shape[1]]
        for first in range(0, len(more) - 2, 12):
            h = jax_block(more[first : first + 12], h, heads, True)
        logits = jax_norm(h, *more[-2:]) @ words.T
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], axis=-1).mean()

    def with_zeros(weights):
        """With a bias of 0 behind each weight that has one elsewhere."""
        return weights[:2] + [a for w in weights[2:] for a in (w, jnp.zeros(w.shape[-1], w.dtype))]

    @jax.jit
    def next_weights(weights, means, squares, t):
        loss, gradients = jax.value_and_grad(loss_of)(weights)
        lr, beta, gamma = rates
        means = [beta * m + (1 - beta) * g for m, g in zip(means, gradients, strict=True)]
        squares = [gamma * v + (1 - gamma) * g * g for v, g in zip(squares, gradients, strict=True)]
        moves = [m / (1 - beta**t) / (jnp.sqrt(v / (1 - gamma**t)) + 1e-8) for m, v in zip(means, squares, strict=True)]
        kept = 1 - lr * RATES["weight_decay"]
        return loss, [kept * w - lr * move for w, move in zip(weights, moves, strict=True)], means, squares

    zeros, t = [jnp.zeros_like(w) for w in weights], 0
    state = weights, zeros, zeros

    def step():
        nonlocal state, t
        t += 1
        loss, *state = next_weights(*state, t)
        return float(loss)

    return step


# --- all ----------------------------------------------------------------------------------------------------


def step_of(name, model, built, x, y, in_one):
    """The step of one side, or None where it can't run here."""
    if name == "tinynet":
        return tinynet_step(model, x, y, in_one)
    if name == "JAX":
        return jax_step(model, built.get("heads", 12), x, y)
    return torch_step(model, built, x, y, name.removeprefix("PyTorch "))


def print_memory(name, which, quick):
    """Of the weights and some steps of one side: what training takes."""

    def three_steps(built, N, T):
        model = tn.zoo.gpt2(**built)
        _, x, y = batch_of(model, N, T)
        step = step_of(which, model, built, x, y, in_one="124M" in name)
        del model  # of which a peer has copied the weights
        for _ in range(3):
            step()

    three_steps(*TINY)  # loads code and starts threads: no cost of training
    side.print_peak(lambda: three_steps(*(TINY if quick else WORKLOADS[name])))


def run(name, options, most):
    built, N, T = TINY if options.quick else WORKLOADS[name]
    model = tn.zoo.gpt2(**built)
    text, x, y = batch_of(model, N, T)
    names = ["tinynet", *(["PyTorch eager", "PyTorch fused", "PyTorch compile"] if torch else [])]
    if options.quick:
        names = names[:2]
    sides = {peer: step_of(peer, model, built, x, y, "124M" in name) for peer in names + ["JAX"] * bool(jax)}
    sides = {peer: step for peer, step in sides.items() if step is not None}
    of_llm_c = None
    if options.llm_c and "124M" in name:
        of_llm_c = llm_c(options.llm_c, model, text)
    losses = {peer: [step() for _ in range(3)] for peer, step in sides.items()}
    for peer, theirs in losses.items():
        agree(losses["tinynet"], theirs, 1e-4, f"{name}, losses of 3 steps against {peer}")
    times = measure(sides, options.rounds, options.at_least)
    if of_llm_c:
        agree(losses["tinynet"][:1], of_llm_c[0][:1], 1e-4, f"{name}, loss of the first step against llm.c")
        times["llm.c"] = of_llm_c[1][1:] * len(times["tinynet"])  # its first step takes its memory
        times["llm.c"] = times["llm.c"][: len(times["tinynet"])]
    # A multiply-add for each weight of a product and each position, and two more backward; a multiply-add is two.
    products = sum(p.value.size for p in model.parameters() if p.value.ndim == 2) - model.parameters()[1].value.size
    work = 6 * products * N * T
    share = work / np.median(times["tinynet"]) / 1e9 / most["GFLOP/s"]
    row = side.report(f"{name}, training step", times, work=work, share=share, headline=True)
    if not options.headlines:
        row["memory"] = side.peaks(name, [peer for peer in ("tinynet", "PyTorch eager") if peer in sides])
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="workloads whose name contains one of these")
    parser.add_argument("--llm-c", help="the folder of llm.c's sources, to run its train_gpt2.c beside")
    options = side.options(parser)
    if options.memory:
        return print_memory(*options.memory, options.quick)
    print(side.machine(), side.setting(), sep=", ")
    most, rows = side.ceilings(), []
    for name in WORKLOADS:
        if any(part.lower() in name.lower() for part in options.only):
            rows.append(run(name, options, most))
    side.save(options.json, rows, ceilings=most)


if __name__ == "__main__":
    main()
