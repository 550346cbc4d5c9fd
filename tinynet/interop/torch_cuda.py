"""CUDA tensors on their way to the kernels of tinynet/cuda, and back.

Tensors and Numba's arrays say where they lie, so nothing is copied.  All work is queued on the stream that PyTorch uses
at the moment, behind what made the tensors and before what reads the results.  The kernels' scratch arrays are tensors
too, in the memory that PyTorch keeps and hands out again: where the driver allocates memory, it may wait for the GPU.
"""

from contextlib import contextmanager

import numpy as np
import torch

from tinynet.cuda import arrays
from tinynet.cuda.device import ADDERS, cuda
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy

SCALERS = 1024  # blocks: enough for any GPU's bandwidth, and few enough to be gone at once where there is nothing to do


def device_array(tensor):
    """What stands for a tensor where a device array is taken."""
    return tensor.detach()


def tensor_of(array, like):
    """A device array as a tensor over the same memory."""
    return torch.as_tensor(array, device=like.device)


@contextmanager
def on_gpu_of(tensor):
    """Numba works on the tensor's GPU and makes its arrays of PyTorch's memory; gives PyTorch's current stream."""

    def make(shape, dtype):
        fresh = tensor.new_empty(shape, dtype=getattr(torch, np.dtype(dtype).name))
        return arrays.taken(device_array(fresh), "torch", "scratch").array

    token = arrays.maker.set(make)
    try:
        with cuda.gpus[tensor.device.index]:
            yield torch.cuda.current_stream(tensor.device).cuda_stream
    finally:
        arrays.maker.reset(token)


def fused(z, t, weight, in_place, check, grad, options):
    """softmax_cross_entropy of tensors with the classes last: the loss and its gradient, as tensors."""
    gradient = None if not grad else z if in_place else torch.empty_like(z, memory_format=torch.contiguous_format)
    weight, out = (None if x is None else device_array(x) for x in (weight, gradient))
    with on_gpu_of(z) as stream:
        value, _ = softmax_cross_entropy(
            device_array(z), device_array(t), weight=weight, grad=grad, out=out, stream=stream, check=check, **options
        )
        return tensor_of(value, z), gradient


def scale(tensor, factor):
    """Multiply a tensor without gaps by a number () that is on its GPU: nobody waits to learn whether it is 1."""
    flat = tensor.as_strided((tensor.numel(),), (1,))
    with on_gpu_of(flat) as stream:
        x, by = (arrays.taken(device_array(y), "torch", "tensor") for y in (flat, factor.reshape(1)))
        blocks, threads = min(SCALERS, -(-x.size // ADDERS)), arrays.whole_warps(x.size, ADDERS)
        stream = arrays.chosen_stream(stream, {}, "torch")
        arrays.launch(arrays.scale_kernel(x.dtype), blocks, threads, stream, x.array, by.array, shared=0)
