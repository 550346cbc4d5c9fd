"""MultiHeadAttention and TransformerBlock, forward and backward: tinynet beside PyTorch.

    python benchmarks/attention.py [--only NAME ...] [--headlines] [--rounds 9] [--vectors both] [--threads both]
                                   [--quick] [--json PATH]

The sizes are those of nanoGPT on a CPU, a small vision transformer, a small BERT, GPT-2 and a long sequence.  A step is
forward and backward, with the gradients of all weights and of x.  PyTorch runs in three ways, and its fastest is what
the ratio is against: its own modules (nn.MultiheadAttention, nn.TransformerEncoderLayer), the same written as nanoGPT
does, with scaled_dot_product_attention, and that compiled.  All have the same weights; outputs and gradients are
compared to 1e-4 of the largest number before they are timed.
"""

import argparse

import numpy as np
import side_by_side as side
from side_by_side import agree, compiled, measure, torch

import tinynet as tn

# (N, T, C, heads, causal)
SIZES = {
    "nanoGPT 12 x 64, 128 wide": (12, 64, 128, 4, True),
    "ViT 32 x 65, 192 wide": (32, 65, 192, 3, False),
    "BERT 32 x 128, 256 wide": (32, 128, 256, 4, False),
    "GPT-2 4 x 64, 768 wide": (4, 64, 768, 12, True),
    "long 1 x 1024, 256 wide": (1, 1024, 256, 4, True),
}


def flops(size, block):
    """Of a step's products, a multiply-add as two: forward, and backward two like each."""
    N, T, C, _, causal = size
    pairs = T * (T + 1) / 2 if causal else T * T
    return 3 * 2 * N * (T * C * C * (12 if block else 4) + 2 * pairs * C)


def written_out(module, heads, causal):
    """PyTorch's module, MultiheadAttention or TransformerEncoderLayer, as a function of x."""
    F = torch.nn.functional

    def attention(module, x):
        q, k, v = F.linear(x, module.in_proj_weight, module.in_proj_bias).unflatten(2, (3, heads, -1)).unbind(2)
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return module.out_proj(o.transpose(1, 2).flatten(2))

    def block(x):
        x = x + attention(module.self_attn, module.norm1(x))
        return x + module.linear2(F.gelu(module.linear1(module.norm2(x)), approximate="tanh"))

    return block if hasattr(module, "self_attn") else lambda x: attention(module, x)


def sides_of(layer, size):
    """{side: function} of a step of the layer, whose results were compared."""
    N, T, C, heads, causal = size
    model = tn.Sequential([layer], (T, C))
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, N, T, C), np.float32)

    def step():
        return model.forward(x, training=True), model.backward(dy, input_grad=True)

    sides = {"tinynet": step}
    if not torch:
        return sides
    module = tn.interop.to_torch_module(model)
    tx, tdy = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)

    def their_step(function):
        def run():
            module.zero_grad(set_to_none=True)
            tx.grad = None
            y = function(tx)
            y.backward(tdy)
            return y.detach(), tx.grad

        return run

    by_hand = written_out(module[0], heads, causal)
    for name, function in (
        ("PyTorch's module", module),
        ("PyTorch eager", by_hand),
        ("PyTorch compiled", compiled(by_hand, tx)),
    ):
        if function is not None:
            sides[name] = their_step(function)
            for what, found, expected in zip(("y", "dx"), step(), sides[name](), strict=True):
                agree(found, expected, 1e-4, f"{name}: {what}")
    return sides


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose name contains one of these")
    options = side.options(parser)
    print(side.machine(), side.setting(), sep=", ")
    most, rows = side.ceilings(), []
    for name, size in ({"2 x 3, 4 wide": (2, 3, 4, 2, True)} if options.quick else SIZES).items():
        _, _, _, heads, causal = size
        for what, layer in (
            ("attention", tn.MultiHeadAttention(heads, causal)),
            ("block", tn.TransformerBlock(heads, causal, activation="gelu_tanh")),
        ):
            if any(part.lower() in f"{what} {name}".lower() for part in options.only):
                times = measure(sides_of(layer, size), options.rounds, options.at_least)
                work = flops(size, what == "block")
                share = work / np.median(times["tinynet"]) / 1e9 / most["GFLOP/s"]
                rows.append(side.report(f"{what} {name}, step", times, headline=True, work=work, share=share))
    side.save(options.json, rows, ceilings=most)


if __name__ == "__main__":
    main()
