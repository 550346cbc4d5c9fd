"""A stand-in for a GPU's driver: tinynet's losses compile their kernels for real, and launch them on a PTX machine.

It stands where tinynet.cuda asks numba.cuda for arrays, streams and launches.  All the rest, from the checks of the
arguments to the choice of kernel and grid, is the code that runs on a GPU.
"""

from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import numba.cuda.dispatcher
import numpy as np
import ptx_decoder
from numba import cuda, types
from ptx_machine import Counts, Machine
from ptx_memory import DeviceArray

CAPABILITY = (9, 0)  # an H100's
CODE = {}  # (function, types of its arguments) -> PTX: compiled once for all tests


def type_of(x):
    """The Numba type of a kernel's argument, as numba-cuda finds it."""
    if not isinstance(x, DeviceArray):
        return numba.typeof(x)
    array = x.view_of(x.memory.data)
    layout = "C" if array.flags.c_contiguous else "F" if array.flags.f_contiguous else "A"
    return types.Array(numba.from_dtype(x.dtype), x.ndim, "A" if 0 in x.strides and x.size else layout)


def compile_to_ptx(kernel, signature, capability=CAPABILITY):
    """The PTX of a kernel for arguments of these Numba types."""
    # Compiling a function that a kernel calls asks the driver which GPU there is.
    device = SimpleNamespace(compute_capability=capability)
    with mock.patch.object(numba.cuda.dispatcher, "get_current_device", return_value=device):
        ptx, _ = cuda.compile(
            kernel.py_func,
            types.void(*signature),
            cc=capability,
            device=False,
            abi="numba",
            output="ptx",
            launch_bounds=kernel.targetoptions["launch_bounds"],
        )
    return ptx


class Driver:
    """What tinynet.cuda calls of numba.cuda.  `launched` counts by kernel and types what ran, `counts` what it did."""

    def __init__(self, seed=0):
        self.machine = Machine(seed)
        self.launched, self.counts = Counter(), Counts()
        self.edit = lambda ptx: ptx  # how a test breaks the kernels

    def to_device(self, values, stream=0):
        return self.machine.to_device(values)

    def device_array(self, shape, dtype, stream=0):
        return self.machine.empty((shape,) if isinstance(shape, int) else shape, dtype)

    def from_cuda_array_interface(self, interface, owner, sync):
        assert sync is False
        address, _ = interface["data"]
        dtype, strides = np.dtype(interface["typestr"]), interface["strides"]
        return DeviceArray(self.machine.memory, interface["shape"], dtype, address, strides)

    def external_stream(self, handle):
        raise AssertionError("no array here names a stream")

    def launch(self, kernel, configuration, arguments):
        grid, block, stream, shared = configuration
        assert stream == 0
        signature = tuple(type_of(x) for x in arguments)
        key = kernel, signature
        if key not in CODE:
            CODE[key] = compile_to_ptx(*key)
        ptx = self.edit(CODE[key])
        (name,) = ptx_decoder.modules(ptx)[0]
        self.launched[key] += 1
        arguments = [x if isinstance(x, (int, np.generic, DeviceArray)) else type_of(x)(x) for x in arguments]
        self.counts += self.machine.run(ptx, name, grid, block, arguments, shared)

    @contextmanager
    def in_place(self):
        """Within, what asks numba.cuda for arrays and launches kernels does so on this driver's machine."""

        def configured(kernel, configuration):
            return lambda *arguments: self.launch(kernel, configuration, arguments)

        names = ("to_device", "device_array", "from_cuda_array_interface", "external_stream")
        calls = mock.patch.multiple(cuda, **{name: getattr(self, name) for name in names})
        with calls, mock.patch.object(numba.cuda.dispatcher.CUDADispatcher, "__getitem__", configured):
            yield self
