"""MultiHeadAttention and TransformerBlock, forward and backward: tinynet beside PyTorch.

    python benchmarks/attention.py [--only NAME ...] [--headlines] [--rounds 9] [--vectors both] [--threads both]
                                   [--quick] [--json PATH]

The sizes are those of nanoGPT on a CPU, a small vision transformer, a small BERT, GPT-2 and a long sequence.  A step is
forward and backward, with the gradients of all weights and of x.  PyTorch runs in three ways, and its fastest is what
the ratio is against: its own modules (nn.MultiheadAttention, nn.TransformerEncoderLayer), the same written as nanoGPT
does, with scaled_dot_product_attention, and that compiled.  JAX runs beside them where it is installed.  All have the
same weights; outputs and gradients are compared to 1e-4 of the largest number before they are timed.  The memory of a
block's steps is all that a process takes for three of them, weights and gradients included.
"""

from functools import partial

import numpy as np
from side_by_side import compiled, jax, torch
from works import Work, compare_works

import tinynet as tn

# (N, T, C, heads, causal)
SIZES = {
    "nanoGPT 12 x 64, 128 wide": (12, 64, 128, 4, True),
    "ViT 32 x 65, 192 wide": (32, 65, 192, 3, False),
    "BERT 32 x 128, 256 wide": (32, 128, 256, 4, False),
    "GPT-2 4 x 64, 768 wide": (4, 64, 768, 12, True),
    "long 1 x 1024, 256 wide": (1, 1024, 256, 4, True),
}
TINY = 2, 3, 4, 2, True


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


def jax_attention(weights, x, heads, causal):
    """In JAX; the weights as tinynet has them: those of q, k and v, and of the output."""
    qkv, qkv_bias, out, out_bias = weights
    q, k, v = ((x @ qkv + qkv_bias).reshape(*x.shape[:2], 3, heads, -1)[:, :, i] for i in range(3))
    o = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
    return o.reshape(x.shape) @ out + out_bias


def jax_norm(x, weight, bias):
    return jax.nn.standardize(x, epsilon=1e-5) * weight + bias


def jax_block(weights, x, heads, causal):
    norm1, attention, norm2, (wide, wide_bias, narrow, narrow_bias) = (
        weights[some] for some in (slice(2), slice(2, 6), slice(6, 8), slice(8, 12))
    )
    x = x + jax_attention(attention, jax_norm(x, *norm1), heads, causal)
    return x + jax.nn.gelu(jax_norm(x, *norm2) @ wide + wide_bias, approximate=True) @ narrow + narrow_bias


def makers(block, size):
    """{side: a function that makes its step}; a step returns y and dx."""
    N, T, C, heads, causal = size
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, N, T, C), np.float32)

    def model():
        options = {"activation": "gelu_tanh"} if block else {}
        return tn.Sequential(
            [(tn.TransformerBlock if block else tn.MultiHeadAttention)(heads, causal, **options)], (T, C)
        )

    def ours():
        mine = model()
        return lambda: (mine.forward(x, training=True), mine.backward(dy, input_grad=True))

    def in_torch(mode):
        module = tn.interop.to_torch_module(model())
        tx, tdy = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)
        function = module if mode == "module" else written_out(module[0], heads, causal)
        if mode == "compile" and (function := compiled(function, tx)) is None:
            return None

        def step():
            module.zero_grad(set_to_none=True)
            tx.grad = None
            y = function(tx)
            y.backward(tdy)
            return y.detach(), tx.grad

        return step

    def in_jax():
        weights, jx, jdy = (
            [parameter.value for parameter in model().parameters()],
            jax.numpy.array(x),
            jax.numpy.array(dy),
        )

        @jax.jit
        def both(weights, x, dy):
            y, back = jax.vjp(lambda *given: (jax_block if block else jax_attention)(*given, heads, causal), weights, x)
            return y, back(dy)

        def step():
            y, (_, dx) = jax.block_until_ready(both(weights, jx, jdy))
            return y, dx

        return step

    found = {"tinynet": ours}
    if torch:
        found |= {f"PyTorch {mode}": partial(in_torch, mode) for mode in ("module", "eager", "compile")}
    return {**found, "JAX": in_jax} if jax else found


def works(quick):
    for name, size in {"2 x 3, 4 wide": TINY}.items() if quick else SIZES.items():
        for block in (False, True):
            what = f"{'block' if block else 'attention'} {name}, step"
            yield Work(what, partial(makers, block), size, flops(size, block), tiny=TINY if block else None)


if __name__ == "__main__":
    compare_works(__doc__, works)
