"""No kernel uses an array of its own that was freed, or numbers that it never wrote.

Numba frees an array behind the last use of its name, and memory.piece counts no reference: a piece that is used later
reads what another thread may write meanwhile.  And what counts references may be optimised wrongly.  So kernels run
with an allocator that fills memory when it is handed out, and again when it is freed; no result may tell.
"""

import zlib

import numpy as np
import pytest
from llvmlite import binding
from numba.core import ir
from numba.core.compiler import run_frontend
from test_bounds import AVX2, kernels, layers_and_inputs, losses_and_inputs, run

import tinynet as tn
from tinynet.kernels import memory
from tinynet.kernels.compile import kernel
from tinynet.kernels.matmul import View

pytestmark = pytest.mark.slow

# --- pieces ---------------------------------------------------------------------------------------------------

PASSED_ON = {"build_tuple", "exhaust_iter", "static_getitem", "cast", "phi"}  # what makes the same pieces of pieces


def loose_pieces(function):
    """The variables of a kernel's Python function that are used while they hold a piece of an array that was freed.

    Numba's own form of the function says where it gives up each array: at `del`, or where the name gets another value.
    """
    code = run_frontend(function, emit_dels=True)
    loose, reach, todo = set(), {}, [(min(code.blocks), set())]
    while todo:
        label, held = todo.pop()  # pairs of a piece and the variables that keep its array; None and one given up
        if label in reach and held <= reach[label]:
            continue
        held = reach[label] = held | reach.get(label, set())
        for statement in code.blocks[label].body:
            if not isinstance(statement, ir.Del):
                loose |= {v.name for v in statement.list_vars() if (v.name, frozenset()) in held}
            if isinstance(statement, (ir.Del, ir.Assign)):
                name = statement.value if isinstance(statement, ir.Del) else statement.target.name
                arrays = set() if isinstance(statement, ir.Del) else arrays_behind(code, statement.value, held)
                held = {(piece, keep - {name}) for piece, keep in held if piece != name}
                held |= {(name, keep) for keep in arrays}
                if isinstance(statement, ir.Del) and not name.startswith("$"):
                    held.add((None, frozenset([name])))
        todo += [(target, held) for target in code.blocks[label].terminator.get_targets()]
    return loose


def arrays_behind(code, value, held):
    """The arrays that this expression may be a piece of, each as the variables that keep it; arguments outlive all."""
    if isinstance(value, ir.Expr) and value.op == "call":
        function = code.get_definition(value.func)
        if isinstance(function, ir.Global) and function.value is View:  # a tuple
            return {keep for piece, keep in held if piece in [argument.name for argument in value.args]}
        if not (isinstance(function, ir.Expr) and function.op == "getattr" and function.attr == "piece"):
            return set()
        given_up = frozenset().union(*(names for piece, names in held if piece is None))
        keeping = [keepers(code, name) for name in choices(code, value.args[0].name)]
        return {keep - given_up for keep in keeping if keep.isdisjoint(code.arg_names)}
    names = [value.name] if isinstance(value, ir.Var) else []
    if isinstance(value, ir.Expr) and value.op in PASSED_ON:
        names = [v.name for v in value.list_vars()]
    return {keep for piece, keep in held if piece in names}


def choices(code, name):
    """The variables that one made up by Numba for `a if condition else b` may stand for."""
    values = code._definitions[name]
    if not (name.startswith("$") and len(values) > 1 and all(isinstance(value, ir.Var) for value in values)):
        return {name}
    found = set().union(*(choices(code, value.name) for value in values))
    return {name if other.startswith("$") else other for other in found}


def keepers(code, name):
    """The variables that keep an array: itself, and what it is the same as, or a row or a slice of."""
    own, values = frozenset([name]), code._definitions[name]
    if len(values) == 1 and isinstance(values[0], ir.Var):
        behind = keepers(code, values[0].name)
    elif len(values) == 1 and isinstance(values[0], ir.Expr) and values[0].op in ("getitem", "static_getitem"):
        behind = keepers(code, values[0].value.name)
    else:
        return own
    return own | {other for other in behind if not other.startswith("$")}  # those that Numba made up are gone by then


def used_late(x):
    a = np.empty(3)
    piece = memory.piece(a, 0, 3)
    x[0] = piece[0]


def used_in_time(x):
    for i in range(3):
        a = np.empty(3)
        piece = memory.piece(a, 0, 3)
        piece[0] = i
        x[i] = a[0]


def chosen_and_used_late(x, flag):
    a, b = np.empty(3), np.empty(3)
    piece = memory.piece(a, 0, 3) if flag else memory.piece(b, 0, 3)
    b[0] = 1
    x[0] = piece[0]


def used_after_another_took_the_name(x):
    a = np.empty(3)
    piece = memory.piece(a, 0, 3)
    a = np.empty(3)
    x[0] = piece[0] + a[0]


def of_a_row(x):
    a = np.empty((2, 3))
    row = a[1]
    piece = memory.piece(row, 0, 3)
    x[0] = piece[0] + a[0, 0]


def of_a_row_used_late(x):
    a = np.empty((2, 3))
    row = a[1]
    piece = memory.piece(row, 0, 3)
    x[0] = piece[0]


def in_a_view_used_late(x):
    a = np.empty(3)
    view = View(memory.piece(a, 0, 3), 0, 1)
    x[0] = view.array[0]


def test_a_piece_that_outlives_its_array_is_found():
    assert loose_pieces(used_late) == {"piece"}
    assert "view" in loose_pieces(in_a_view_used_late)
    assert not loose_pieces(used_in_time)
    assert loose_pieces(chosen_and_used_late)
    assert loose_pieces(used_after_another_took_the_name) == {"piece"}
    assert not loose_pieces(of_a_row)
    assert loose_pieces(of_a_row_used_late) == {"piece"}


def test_no_piece_outlives_its_array():
    found = {key: loose_pieces(dispatchers[0].py_func) for key, dispatchers in kernels().items()}
    assert len(found) > 340
    assert not any(found.values()), {key: names for key, names in found.items() if names}


# --- scratch arrays ---------------------------------------------------------------------------------------------


@kernel()
def scratches(n, like):
    return memory.scratch((n, 3, 5), like), memory.scratch((2 * n if n > 1 else 0,), like)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_scratch_array_owns_its_memory_begins_on_a_cache_line_and_has_no_neighbour_in_it(dtype):
    for n in (0, 1, 7):
        for a, shape in zip(scratches(n, np.zeros(1, dtype)), ((n, 3, 5), (2 * n if n > 1 else 0,)), strict=True):
            assert (a.shape, a.dtype, a.flags.c_contiguous) == (shape, np.dtype(dtype), True)
            assert a.ctypes.data % 64 == 0
            assert a.base.refcount == 1
            assert a.ctypes.data >= a.base.data + 128
            assert a.ctypes.data + a.nbytes + 128 <= a.base.data + memoryview(a.base).nbytes


# --- memory that was freed, or not yet written ------------------------------------------------------------------


def checksum(results):
    return zlib.crc32(b"".join(np.ascontiguousarray(result).tobytes() for result in results if result is not None))


def checksums():
    """Of all results of each layer, on one thread and on several, and of each loss."""
    for threads in (False, True):
        for name, layer, x, g in layers_and_inputs(np.float32, threads):
            y, predicted = layer.forward(x, training=True).copy(), layer.forward(x)
            dx = layer.backward(g, input_grad=not layer.takes_integers)
            yield name, checksum([y, predicted, dx, *(parameter.grad for parameter in layer.parameters)])
    for name, loss, prediction, targets, options in losses_and_inputs(np.float32):
        yield name, checksum(loss(prediction, *targets, **options))
    rng = np.random.default_rng(0)
    x, w, labels = rng.standard_normal((130, 20)), rng.standard_normal((20, 300)), rng.integers(0, 300, 130)
    yield "linear_cross_entropy", checksum(tn.linear_cross_entropy(x, w, None, labels))


def show_checksums():
    for name, number in checksums():
        print(name, number)


def test_no_result_depends_on_memory_that_was_freed_or_not_yet_written():
    # So PyMem_RawMalloc, which Numba's arrays come from, fills memory when it is handed out and when it is freed.
    done = run("show_checksums()", module="test_lifetimes", PYTHONMALLOC="debug")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [f"{name} {number}" for name, number in checksums()]


def dense_input_gradients():
    """dx of dense layers of few and of many outputs: what has its axes swapped lies in arrays of the kernel."""
    rng = np.random.default_rng(0)
    for N, I, O in ((6, 4, 5), (6, 33, 1), (6, 50, 300), (40, 700, 1000), (40, 50, 5000)):
        layer = tn.Dense(O)
        layer.build((I,), np.float32, rng)
        layer.forward(rng.standard_normal((N, I)).astype("f4"), training=True)
        g = rng.standard_normal((N, O)).astype("f4")
        np.testing.assert_allclose(layer.backward(g), g @ layer.parameters[0].value.T, rtol=1e-4, atol=1e-4)


def test_the_weights_that_a_dense_layer_transposes_are_not_freed_before_they_are_used(tmp_path):
    # They were, where the kernels were compiled for AVX2 and not for AVX-512: so both are tried where they can be.
    machine = AVX2 if binding.get_host_cpu_features().get("avx2") else {}
    environment = machine | {"PYTHONMALLOC": "debug", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = run("dense_input_gradients()", module="test_lifetimes", **environment)
    assert done.returncode == 0, done.stderr[-3000:]
