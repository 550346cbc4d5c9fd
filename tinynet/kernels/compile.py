"""How kernels are compiled, and how their loops are shared out to threads.

kernel        compiles a function, keeps its machine code on disk; sized_kernel: with threads where they pay;
              with_and_without_threads: both kernels, to choose from
helper        compiles a function of numbers that becomes part of the loop that calls it
chunk_count   how many pieces a sum is cut into: by its shape, never by the number of threads
band_count    into how many bands of rows images are cut
"""

import os
import threading
from functools import wraps
from importlib import import_module
from inspect import signature
from types import FunctionType

import numba
from numba import types
from numba.core.cpu_options import ParallelOptions
from numba.core.sigutils import normalize_signature
from numba.extending import intrinsic, overload
from numba.np.numpy_support import as_dtype

from tinynet.kernels.compile_cache import keep
from tinynet.kernels.compile_once import Kernel

# What the compiler may do to float arithmetic in a loop marked fast: reorder sums, use a*b+c in one step.
# Never "nnan" or "ninf", which let it assume that NaN and infinity don't occur and delete every test for them.
FAST = frozenset({"reassoc", "nsz", "arcp", "contract", "afn"})

# prange loops alone.  Numba would otherwise also run on all threads, as a loop of its own, each np.empty or a[i] = 0.
# It takes a dict too, but empties it at the first compilation: for other types of arguments it then does all of these.
NOT_PARALLEL = ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion")
PRANGE = ParallelOptions({**dict.fromkeys(NOT_PARALLEL, False), "prange": True})

# NUMBA_BOUNDSCHECK=1 makes an index outside of its array an IndexError, for tests.  Numba leaves prange loops out of
# that, and what is emitted as LLVM's instructions: so then kernels run on one thread, and `within` precedes those.
CHECKED = bool(numba.config.BOUNDSCHECK) and not numba.config.DISABLE_JIT


def kernel(*, parallel=False, fast=False, matmul=False):
    """A decorator: compile a function of arrays at its first call, and keep the machine code on disk.

    fast      lets the compiler reorder sums (flags FAST), without which a sum over a row doesn't vectorise.
    parallel  runs prange loops on all threads.
    matmul    for what Python calls and uses matmul, itself or in a kernel it calls, with its first argument's dtype.

    Every flag is stated, because Numba lets a function that is first compiled from within another one inherit
    what is left unsaid.
    """
    parallel = parallel and not CHECKED
    options = {
        "parallel": PRANGE if parallel else False,
        "fastmath": set(FAST) if fast else False,
        "error_model": "numpy",  # x / 0 is inf, as in NumPy; a test at every division makes it 3 times slower
        "nogil": True,
        "boundscheck": None,
    }

    def decorate(function):
        if numba.config.DISABLE_JIT:
            return function
        if parallel:  # a name of its own, for profilers and in the cache
            name = function.__name__ + "_parallel"
            function = FunctionType(
                function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
            )
            function.__qualname__ = name
        compiled = run = keep(Kernel(function, targetoptions=options))
        if parallel:
            compiled.compile = linked(compiled.compile)
        if matmul:
            compiled.compile = behind_matmul(compiled.compile)
        if not parallel:
            return compiled

        def first(*arguments):
            nonlocal run
            run = on_threads(compiled)
            return run(*arguments)

        def start_again():
            nonlocal run
            run = first

        start_again()
        _after_fork.append(start_again)
        return wraps(function)(lambda *arguments: run(*arguments))

    return decorate


_compile_matmul = None
_matmul_compiled = set()  # the dtypes for which matmul is compiled


def compiles_matmul(function):
    """Mark the function of matmul.py that is called with a dtype before a kernel(matmul=True) is compiled for it."""
    global _compile_matmul
    _compile_matmul = function
    return function


def behind_matmul(compile):
    """What compiles or loads a kernel, but after matmul for the dtype of its first argument."""

    @wraps(compile)
    def compile_behind(signature):
        dtype = as_dtype(normalize_signature(signature)[0][0].dtype)
        if dtype not in _matmul_compiled:
            _compile_matmul(dtype)
            _matmul_compiled.add(dtype)
        return compile(signature)

    return compile_behind


# --- threads ------------------------------------------------------------------------------------------------

_turn = threading.Lock()
_after_fork = []  # functions that let a parallel kernel ask on_threads again
_cut_off = False  # whether this process was forked from one whose threads it can't do without


def own_threads():
    """The module threads.  It is imported when it is first needed, since it is made of kernels' parts itself, and by
    name, so that no kernel is compiled anew where it changes: their machine code does not depend on it."""
    return import_module("tinynet.kernels.threads")


def linked(compile):
    """What compiles or loads a parallel kernel, but so that its loops run on tinynet's own threads, where they can."""

    @wraps(compile)
    def compile_and_link(*arguments):
        if not own_threads().usable():
            return compile(*arguments)
        with own_threads().linking():
            return compile(*arguments)

    return compile_and_link


def on_threads(compiled):
    """What to call instead of a parallel kernel in this process: mostly the kernel itself, at no cost.

    Where tinynet's own threads can't run it, or NUMBA_THREADING_LAYER asks for others, Numba chooses a library.  Of its
    three, "workqueue" ends the process when two threads of Python use it at once: they take turns.  And GNU's OpenMP,
    of "omp", ends a child that was forked after the threads had started: that is a RuntimeError.
    """
    if _cut_off:
        raise RuntimeError(
            "this process was forked from one that had already run kernels on several threads, and GNU OpenMP, which"
            ' runs them, does not survive that. Start processes with multiprocessing.get_context("spawn"), or fork'
            " before the first kernel runs, or set the environment variable NUMBA_THREADING_LAYER=workqueue"
        )
    if own_threads().usable():
        own_threads().start()
        return compiled
    numba.get_num_threads()  # starts the threads, and from then on their layer is known
    if numba.threading_layer() != "workqueue":
        return compiled

    def in_turn(*arguments):
        with _turn:
            return compiled(*arguments)

    return in_turn


def _forked():
    """In the child: every parallel kernel asks on_threads again; no thread is left that could give up its turn."""
    global _turn, _cut_off
    _turn = threading.Lock()
    for start_again in _after_fork:
        start_again()
    if own_threads().usable():
        own_threads().forked()
        return
    try:
        layer = numba.threading_layer()
    except ValueError:  # no threads were started before the fork: the child starts its own
        return
    if layer == "omp":
        from numba.np.ufunc import omppool

        _cut_off = omppool.openmp_vendor == "GNU"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def with_and_without_threads(*, fast=False, matmul=False):
    """A decorator like kernel, which makes a pair of kernels of a function: for one thread, and for all."""
    return lambda function: tuple(kernel(parallel=each, fast=fast, matmul=matmul)(function) for each in (False, True))


def sized_kernel(threads_from, *, of=-1, fast=False, matmul=False):
    """A decorator like kernel, for a function that takes threads only where they pay.

    The function is compiled twice, each when it is first needed: for one thread, and with its prange loops on all
    threads where argument number `of` (the last, its output, unless said) has at least `threads_from` elements, or
    where of(*arguments) is at least that.  Waking the threads costs 2 microseconds or more.
    """

    def decorate(function):
        serial, threads = with_and_without_threads(fast=fast, matmul=matmul)(function)

        @wraps(function)
        def call(*arguments):
            count = of(*arguments) if callable(of) else arguments[of].size
            (serial if count < threads_from else threads)(*arguments)

        return call

    return decorate


def helper(function):
    """A decorator for a function of numbers that kernels call: it always becomes part of the loop that calls it.

    Left to choose, LLVM keeps a long one apart, and a loop with a call in it doesn't vectorise: GELU in float64
    took 27 ns an element instead of 2.8.
    """
    if numba.config.DISABLE_JIT:
        return function
    return Kernel(
        function, targetoptions={"forceinline": True, "fastmath": False, "error_model": "numpy", "boundscheck": None}
    )


def emitted(check=None):
    """A decorator for what emits LLVM's instructions: an intrinsic, with check(*arguments) before it if CHECKED.

    Numba knows nothing of the arrays that such an instruction reads and writes.  `check` takes the same arguments and
    raises IndexError where they are outside of their arrays.
    """

    def decorate(emit):
        if check is None or not CHECKED:
            return intrinsic(emit)

        @wraps(emit)
        def check_first(*arguments, **named):
            signature, codegen = emit(*arguments, **named)

            def both(context, builder, signature, args):
                context.compile_internal(builder, getattr(check, "py_func", check), types.none(*signature.args), args)
                return codegen(context, builder, signature, args)

            return signature, both

        return intrinsic(check_first)

    return decorate


plain_loops = {}  # what runs the plain loops in place of each kernel: tests put them there


def either(plain, compiled, takes=None):
    """The `compiled` kernel; or the `plain` loops, where NUMBA_DISABLE_JIT=1 asks for what a debugger can follow.

    A kernel takes what the plain loops take, and then the arrays that receive what those return; one that is empty was
    not asked for.  Where it takes more than they do, `takes` is a function from its arguments to theirs.
    """
    count = len(signature(takes or plain).parameters)

    @wraps(plain)
    def run(*arguments):
        given, arrays = arguments[:count], arguments[count:]
        results = plain(*takes(*given)) if takes else plain(*given)
        for array, result in zip(arrays, results if isinstance(results, tuple) else [results], strict=True):
            if array.size:
                array[...] = result

    plain_loops[compiled] = run
    return run if numba.config.DISABLE_JIT else compiled


def chunk_count(n, smallest, most=64):
    """Into how many chunks to cut n items: at least `smallest` items each, at most `most` chunks, never fewer than 1.

    Chunks are what threads take.  Their number depends on n alone, so a sum over chunks, each summed in order
    and then added in order, has the same bits for any number of threads.
    """
    return max(1, min(most, n // smallest))


@helper
def band_count(images, rows, size):
    """Into how many bands of rows to cut each image of `size` numbers, for threads to take.

    Several, where few images would leave threads idle, and where a large one would leave the cache.
    """
    return min(rows, max((8 + images - 1) // max(images, 1), size // 65536))


def implementation(of):
    """Mark what compiled code runs for the plain Python function `of`; its flags are stated, not inherited."""
    return overload(of, jit_options={"fastmath": False, "error_model": "numpy"}, inline="never")
