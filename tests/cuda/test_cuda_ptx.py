"""Every CUDA kernel, compiled for real without a GPU: what does the machine code do?

Numba compiles to PTX, and nvJitLink's ptxas, where it is installed, goes on to machine code and reports registers.
"""

import os
import re
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("numba_cuda")

FLOATS = ("float32", "float64", "float16", "V2")  # V2 is bfloat16
TARGETS = ((8, 0), (9, 0))  # compute capabilities: A100, H100

# Each specialisation that a loss can launch: the factory's name and its arguments after the dtype.
SOFTMAX_ROWS = [
    ("rows_by_groups", group, wide, smooth, soft)
    for group, wide, smooth, soft in product((8, 32, "block"), (False, True), (False, True), (False, True))
]
FEW = {False: dict.fromkeys(FLOATS, 10), True: {**dict.fromkeys(FLOATS, 32), "float64": 16}}  # classes; soft: the most
SIGMOID = [("loss_and_gradient", *flags) for flags in product((False, True), repeat=2)]
OTHERS = [("count_labels",), ("strange_probabilities",), ("count_targets",), ("sum_chunks",)]
OTHERS += [("copy_kernel",), ("scale_kernel",)]
PLAIN = [("rows_by_groups", group, True, False, False) for group in (8, 32, "block")]  # labels, no smoothing
KERNELS = [(dtype, *kernel) for dtype in FLOATS for kernel in SOFTMAX_ROWS + SIGMOID + OTHERS]
KERNELS += [(d, "few_classes", *flags, FEW[flags[-1]][d]) for d in FLOATS for flags in product((False, True), repeat=3)]


def compile_to_ptx(kernel):
    """{capability: (PTX, ptxas's report or None)} of one of KERNELS."""
    import numba.cuda.dispatcher
    from numba import cuda, types

    from tinynet.cuda import arrays as cuda_arrays
    from tinynet.cuda import device as cuda_device
    from tinynet.cuda import sigmoid_cross_entropy as sigmoid_cross_entropy_cuda
    from tinynet.cuda import softmax_cross_entropy as softmax_cross_entropy_cuda
    from tinynet.cuda import softmax_rows as softmax_rows_cuda

    # Compiling a function that a kernel calls asks the driver which GPU there is.
    numba.cuda.dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=TARGETS[0])
    dtype, factory, *flags = kernel
    dtype = np.dtype(dtype)
    modules = (softmax_rows_cuda, softmax_cross_entropy_cuda, sigmoid_cross_entropy_cuda, cuda_device, cuda_arrays)
    function = next(getattr(module, factory) for module in modules if hasattr(module, factory))(dtype, *flags)

    number = cuda_device.computed_in(dtype)[1]
    stored = {"float32": types.float32, "float64": types.float64, "float16": types.float16, "V2": types.uint16}
    data, numbers, integers = stored[kernel[0]][::1], number[::1], types.int64[::1]
    integer = types.int64
    soft = flags[3:4] if factory == "rows_by_groups" else flags[2:3] if factory == "few_classes" else ()
    targets = data if any(soft) else integers
    rows = (data, targets, numbers, integer, integer, number, number, numbers, integers, numbers, data)
    arguments = {
        "rows_by_groups": rows,
        "few_classes": rows,
        "loss_and_gradient": (
            *(data, data, numbers, numbers, number, number, number),
            *(numbers, integers, numbers, data, numbers, integers),
        ),
        "count_labels": (integers, integer, numbers, integer, numbers, integers),
        "strange_probabilities": (data, integer, integers),
        "count_targets": (data, number, numbers, integers),
        "sum_chunks": (numbers, integers, number, numbers, numbers, integers),
        "scale_kernel": (data, numbers),
        "copy_kernel": (types.Array(types.float32, 3, "A"), data),
    }[factory]
    results = {}
    for capability in TARGETS:
        ptx, _ = cuda.compile(
            function.py_func,
            types.void(*arguments),
            cc=capability,
            device=False,
            abi="numba",
            output="ptx",
            launch_bounds=function.targetoptions["launch_bounds"],
        )
        results[capability] = ptx, ptxas_report(ptx, capability)
    return results


def ptxas_report(ptx, capability):
    try:
        from cuda.bindings import nvjitlink
    except ImportError:
        return None
    options = [f"-arch=sm_{capability[0]}{capability[1]}", "-Xptxas=-v"]
    try:
        linker = nvjitlink.create(len(options), options)
    except RuntimeError:  # The binding is there, the library isn't.
        return None
    try:
        code = ptx.encode() + b"\0"
        nvjitlink.add_data(linker, nvjitlink.InputType.PTX, code, len(code), "kernel")
        nvjitlink.complete(linker)
        log = bytearray(nvjitlink.get_info_log_size(linker))
        nvjitlink.get_info_log(linker, log)
    finally:
        nvjitlink.destroy(linker)
    return log.decode()


@pytest.fixture(scope="module")
def compiled():
    """{kernel: future of what compile_to_ptx returns}, on all CPUs."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield {kernel: pool.submit(compile_to_ptx, kernel) for kernel in KERNELS}


def code_in_loops(ptx):
    """The text of those basic blocks that can be reached from themselves."""
    blocks, targets = [[]], []
    for line in ptx[ptx.index("{") :].splitlines():
        if line.startswith("$L"):
            blocks.append([])
        blocks[-1].append(line)
        if "bra" in line or "ret;" in line:
            blocks.append([])
    start = {block[0].rstrip(":"): n for n, block in enumerate(blocks) if block and block[0].startswith("$L")}
    for n, block in enumerate(blocks):
        last = block[-1].strip() if block else ""
        jump = re.search(r"\bbra(?:\.uni)?\s+(\$L\w+);", last)
        falls_through = n + 1 < len(blocks) and not last.endswith("ret;") and (not jump or last.startswith("@"))
        targets.append(([start[jump[1]]] if jump else []) + ([n + 1] if falls_through else []))
    looping = []
    for n, block in enumerate(blocks):
        reached, todo = set(), [n]
        while todo:
            new = [m for m in targets[todo.pop()] if m not in reached]
            reached.update(new)
            todo.extend(new)
        if n in reached:
            looping += block
    return "\n".join(looping)


@pytest.mark.parametrize("capability", TARGETS, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_the_machine_code(compiled, kernel, capability):
    ptx, report = compiled[kernel].result()[capability]
    dtype, factory, *flags = kernel
    assert f".target sm_{capability[0]}{capability[1]}" in ptx
    assert ".local" not in ptx, "a thread's own array is in memory"
    assert "call" not in ptx, "a function was not made part of the kernel"
    if dtype != "float64":
        assert not re.findall(r"\.f64", ptx), "float64 arithmetic for narrower numbers"

    loops = code_in_loops(ptx)
    divisions = set(re.findall(r"\b(?:div|rem|rcp)\.\S+", loops))
    if factory == "loss_and_gradient":  # one an element, as the formula has it: quick in float32
        divisions -= {"div.approx.f32"} if dtype != "float64" else {"div.rn.f64", "rcp.approx.ftz.f64"}
    assert not divisions

    wide = {"rows_by_groups": 1, "few_classes": 0, "loss_and_gradient": 0}.get(factory)
    if wide is not None and flags[wide]:
        pack = {"float32": "v4.f32", "float64": "v2.f64"}.get(dtype, "v4.[bu]32")
        assert re.search(rf"ld\.global\.{pack}", loops if factory == "rows_by_groups" else ptx)
        assert re.search(rf"st\.global\.{pack}", loops if factory == "rows_by_groups" else ptx)
        if kernel[1:] in PLAIN:
            assert not re.search(r"ld\.global\.[bfu]\d", loops), "logits that come one by one"

    if report is not None:
        memory = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        assert re.search(memory, report).groups() == ("0", "0", "0")


def test_nvjitlink_reports_where_it_is_installed(compiled):
    pytest.importorskip("cuda.bindings.nvjitlink")
    assert compiled[KERNELS[0]].result()[TARGETS[0]][1] is not None
