"""Threads that share the machine with others.

    usable()      whether this pool runs the kernels of this process: on Linux, unless another layer was asked for
    start()       start the pool's threads; again in a forked child, which has none
    linking()     while a kernel is compiled or loaded: its prange loops will run here
    describe()    how many threads are in use now, for show_config

Numba hands each prange loop to a "threading layer", by default OpenMP.  That cuts the loop into one share for each
thread and then waits until every thread has done its own, spinning for up to 18 ms.  Beside another process that is
busy, a thread is often without a processor when its share comes, all others wait for it, and what they spin away they
take from it and from the other process: a step took 3 to 7 times as long.  Here:

    Shares come from a counter.  There are several for each thread, and whoever has a processor takes the next one.
    The thread that called the kernel needs nobody: it waits only for shares that others have begun.

    Waiting is short.  A thread spins for half a millisecond, more than lies between two kernels of a training step,
    and then sleeps until there is work, so that the system can give its processor to a thread that has some.  It wakes
    on another processor than its waker's: Linux may put it behind that one, for up to 4 ms, while others are idle.

    Threads that have to wait for processors become fewer.  Each but the caller compares the time for which it was
    awake with the processor time that it got.  Where a quarter is missing twice in a row, others have its processor.
    Then the pool uses one thread less, and tries again after 0.1 s, then 0.2 and so on up to 1.3 s, for as long as that
    fails.  (TCP finds its share of a line in this way.)  Two processes that train at once so divide the processors
    among them.  Threads that are left out still help where a loop turns out to be long.

A loop's results don't depend on who takes which share, nor on how many shares there are: to the bit.

The counter is one word, `ticket`: a loop's number, and the first share that is left and the end of those.  Who can move
one by 1 has that share: half of the threads the first, the others the end, so that in a kernel's next call each mostly
finds its part of the arrays in its own cache.  So a thread that comes late, with the number of a loop that is over,
gets nothing, and what it read of the next loop's data meanwhile it forgets.  While someone has a share, its loop goes
on, and so its data is valid.

Where several threads of Python call kernels at once, one has the pool, and the others run their loops alone.

Nothing in the environment is changed.  OMP_WAIT_POLICY is respected: "passive" never spins, "active" always does and
never gives way.  NUMBA_THREADING_LAYER=omp (tbb, workqueue) brings back Numba's own layers, with their own settings
(GOMP_SPINCOUNT is one of GNU's OpenMP alone).  They run the kernels on other systems than Linux too.
"""

import atexit
import ctypes
import os
import platform
import sys
import threading
from contextlib import contextmanager

import numba
import numpy as np
from llvmlite import binding
from numba import types
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock

from tinynet.kernels.atomics import SPIN_HINT, add, call, exchange, load, replace, spin_hint, store, the_pool
from tinynet.kernels.compile import helper
from tinynet.kernels.compile_cache import keep
from tinynet.kernels.compile_once import WholePipeline

# --- what all threads see -----------------------------------------------------------------------------------
# The pool is a block of memory, addressed in bytes.  What different threads write lies on different cache lines, two
# lines apart, since processors fetch lines in pairs.

LINE = 128
TICKET, FINISHED, CALLER_ASLEEP, IN_USE, POLICY, SETTINGS, LOOP, THREADS = (LINE * k for k in range(8))
LIMIT, NOTICED, PAUSE, RETRY = (POLICY + 8 * k for k in range(4))
WORKERS, KEY, SPIN, TOO_MUCH, ENDING = (SETTINGS + 8 * k for k in range(5))
FUNCTION, ARGUMENTS, COUNT, SHAPE, STEPS, DATA, FIRST, LENGTH, SHARES, AT_WORK = (LOOP + 8 * k for k in range(10))

# And of each thread, the caller's first:
THREAD = 8 * LINE
ASLEEP, ITSELF, SENT_AWAY, WOKEN = (8 * k for k in range(4))
SEMAPHORE, CLOCK, SINCE, RAN, LACKED = LINE, LINE + 64, LINE + 80, LINE + 88, LINE + 96
PROCESSORS, RANGE, COPY = 2 * LINE, 3 * LINE, 3 * LINE + 16
MOST_ARGUMENTS = (THREAD - COPY) // 8

NEXT, MOST_SHARES = 2**16, 2**16 - 1  # a ticket is 32 bits for the loop, 16 for the first share left, 16 for the end
SHARES_EACH = 4  # for each thread; more cost time in loops of 5 microseconds

MS = 1_000_000  # in nanoseconds
SPINS = MS // 2  # how long threads spin before they sleep
AWAKE = 24 * MS  # after how much time awake a thread looks how much of it it had a processor
LOST = AWAKE // 4  # what of this time, spent waiting, is too much: one turn of another process takes 1 to 4 ms
LATE = MS // 5  # what a thread may take to wake on an idle processor
FEW = 8  # threads that are sent away as they wake; among more processors Linux finds idle ones
HELP = 8 * MS  # when all threads are woken for a loop, though fewer are in use; after 2, two trainings took 6 % longer
FIRST_PAUSE, LAST_PAUSE = 100 * MS, 1300 * MS

# --- what the system does --------------------------------------------------------------------------------------

clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.int64))
sem_wait = types.ExternalFunction("sem_wait", types.int32(types.int64))
sem_post = types.ExternalFunction("sem_post", types.int32(types.int64))
sched_getcpu = types.ExternalFunction("sched_getcpu", types.int32())
pthread_self = types.ExternalFunction("pthread_self", types.int64())
pthread_getaffinity = types.ExternalFunction("pthread_getaffinity_np", types.int32(*[types.int64] * 3))
pthread_setaffinity = types.ExternalFunction("pthread_setaffinity_np", types.int32(*[types.int64] * 3))
pthread_setspecific = types.ExternalFunction("pthread_setspecific", types.int32(types.int32, types.int64))
pthread_getspecific = types.ExternalFunction("pthread_getspecific", types.int64(types.int32))

# --- waiting ------------------------------------------------------------------------------------------------


@helper
def clock(thread, which):
    clock_gettime(numba.int32(which), thread + CLOCK)
    return load(thread + CLOCK) * 1_000_000_000 + load(thread + CLOCK + 8)


@helper
def now(thread):
    return clock(thread, 1)  # CLOCK_MONOTONIC, 30 ns


@helper
def processor_time(thread):
    return clock(thread, 3)  # CLOCK_THREAD_CPUTIME_ID, 500 ns


@helper
def sleep(thread):
    while sem_wait(thread + SEMAPHORE) != 0:  # a signal came
        pass


@helper
def send_away(thread):
    """Let a sleeping thread wake on another processor than this one."""
    here, itself, allowed = sched_getcpu(), load(thread + ITSELF), thread + PROCESSORS  # one bit for each processor
    if 0 <= here < 8 * LINE and pthread_getaffinity(itself, LINE, allowed) == 0:
        place = allowed + here // 64 * 8
        before = load(place)
        store(place, before & ~(1 << here % 64))
        store(thread + SENT_AWAY, pthread_setaffinity(itself, LINE, allowed) == 0)  # it fails where there is no other
        store(place, before)


@helper
def come_back(thread):
    if exchange(thread + SENT_AWAY, 0):
        pthread_setaffinity(load(thread + ITSELF), LINE, thread + PROCESSORS)


@helper
def wake(pool, threads):
    for k in range(1, threads):
        thread = pool + THREADS + THREAD * k
        if load(thread + ASLEEP) and exchange(thread + ASLEEP, 0):
            if threads <= FEW:
                send_away(thread)
            store(thread + WOKEN, now(pool + THREADS))
            sem_post(thread + SEMAPHORE)


@helper
def give_way(pool, time):
    """Use one thread less for a while: another process wants its processor."""
    pause = load(pool + PAUSE)
    pause = FIRST_PAUSE if time - load(pool + NOTICED) > 4 * pause else min(2 * pause, LAST_PAUSE)
    store(pool + PAUSE, pause)
    store(pool + RETRY, time + pause)
    store(pool + NOTICED, time)
    store(pool + LIMIT, max(min(load(pool + LIMIT), load(pool + AT_WORK)) - 1, 1))


@helper
def begin(thread, time):
    """Count from now on for how long this thread is awake, and what of it it has a processor."""
    store(thread + SINCE, time)
    store(thread + RAN, processor_time(thread))
    store(thread + LACKED, 0)


@helper
def look(pool, thread, me, time):
    """Give way where this thread waited for a processor for much of the time that it was awake, twice in a row.

    But not for what was before another thread gave way, nor where this one only helps those in use.  Once may be
    chance: it put at least 12 of 288 measurements of convolutions on one thread, on an idle machine, and twice none.
    """
    since = load(thread + SINCE)
    awake = time - since
    if awake > AWAKE:
        ran = processor_time(thread)
        lost = awake - (ran - load(thread + RAN))
        store(thread + SINCE, time)
        store(thread + RAN, ran)
        lacks = lost > max(load(pool + TOO_MUCH), awake // 4)
        if lacks and load(thread + LACKED) and since >= load(pool + NOTICED) and me < load(pool + LIMIT):
            give_way(pool, time)
        store(thread + LACKED, lacks)


@helper
def limit_now(pool, time):
    """How many threads may be in use, one more where it is time to try again."""
    if time > load(pool + RETRY):
        store(pool + RETRY, time + load(pool + PAUSE))
        store(pool + LIMIT, load(pool + LIMIT) + 1)
    return load(pool + LIMIT)


# --- shares -------------------------------------------------------------------------------------------------


@helper
def any_left(ticket):
    return (ticket >> 16) & MOST_SHARES < ticket & MOST_SHARES


@helper
def take_shares(pool, thread, me, ticket, help_at, threads):
    """Take shares of this loop for as long as there are any, and return how many they were."""
    number, taken = ticket >> 32, 0
    while any_left(ticket) and ticket >> 32 == number:
        before = replace(pool + TICKET, ticket, ticket - 1 if me % 2 else ticket + NEXT)
        if before != ticket:
            ticket = before
            continue
        if not taken:  # the arguments, but with a range of indices of this thread's own
            arguments = load(pool + ARGUMENTS)
            for k in range(1, load(pool + COUNT)):
                store(thread + COPY + 8 * k, load(arguments + 8 * k))
            store(thread + COPY, thread + RANGE)
        first, length, shares = load(pool + FIRST), load(pool + LENGTH), load(pool + SHARES)
        k = (ticket & MOST_SHARES) - 1 if me % 2 else (ticket >> 16) & MOST_SHARES
        store(thread + RANGE, first + length * k // shares)
        store(thread + RANGE + 8, first + length * (k + 1) // shares - 1)
        call(load(pool + FUNCTION), thread + COPY, load(pool + SHAPE), load(pool + STEPS), load(pool + DATA))
        taken += 1
        if help_at and now(thread) > help_at:
            store(pool + AT_WORK, threads)
            wake(pool, threads)
            help_at = 0
        ticket = load(pool + TICKET)
    return taken


def worker(me):
    """What thread number `me` of the pool does, from 1 on, until the process comes to its end."""
    pool = the_pool()
    thread = pool + THREADS + THREAD * me
    pthread_setspecific(numba.int32(load(pool + KEY)), me)
    store(thread + ITSELF, pthread_self())
    not_mine = 0  # the number of a loop that fewer threads are to run
    begun = now(thread)
    begin(thread, begun)
    while not load(pool + ENDING):
        ticket = load(pool + TICKET)
        if any_left(ticket) and ticket >> 32 != not_mine:
            if me >= load(pool + AT_WORK):
                not_mine = ticket >> 32
                continue
            taken = take_shares(pool, thread, me, ticket, 0, 0)
            if taken:
                shares = load(pool + SHARES)
                if add(pool + FINISHED, taken) + taken == shares and exchange(pool + CALLER_ASLEEP, 0):
                    sem_post(pool + THREADS + SEMAPHORE)
            begun = now(thread)
            look(pool, thread, me, begun)
            continue
        for _ in range(8):
            spin_hint()
            if load(pool + TICKET) != ticket:
                break
        time = now(thread)
        look(pool, thread, me, time)
        if time - begun < load(pool + SPIN) and me < load(pool + LIMIT):
            continue
        # Who wakes this thread clears ASLEEP and posts once.  If it can clear it itself, nobody will post.
        exchange(thread + ASLEEP, 1)
        if (load(pool + TICKET) == ticket and not load(pool + ENDING)) or not exchange(thread + ASLEEP, 0):
            sleep(thread)
            come_back(thread)
            begun = now(thread)
            woken = load(thread + WOKEN) if begun - load(thread + WOKEN) > LATE else begun
            if woken - time > FIRST_PAUSE:  # what was before says nothing of now
                begin(thread, woken)
            else:
                store(thread + SINCE, load(thread + SINCE) + woken - time)
        not_mine = 0
        begun = now(thread)
    exchange(thread + ASLEEP, 0)  # nobody is to wake it
    return 0


def parallel_for(function, arguments, shape, steps, data, dimensions, count, threads):
    """What Numba's machine code calls for each prange loop, with one range of indices as the first of the arguments."""
    pool = the_pool()
    caller = pool + THREADS
    indices = load(arguments)
    first = load(indices)
    length = load(indices + 8) - first + 1
    threads = min(threads, load(pool + WORKERS) + 1)
    shares = min(length, SHARES_EACH * threads, MOST_SHARES)
    one_index = load(shape + 8) == 2
    if shares < 2 or threads < 2 or count > MOST_ARGUMENTS or not one_index or replace(pool + IN_USE, 0, 1):
        call(function, arguments, shape, steps, data)
        return
    threads = min(threads, shares)
    at_work, help_at = min(threads, load(pool + LIMIT)), 0
    if at_work < threads:
        time = now(caller)
        at_work = min(threads, limit_now(pool, time))
        if at_work < threads:
            help_at = time + HELP
    store(pool + FUNCTION, function)
    store(pool + ARGUMENTS, arguments)
    store(pool + COUNT, count)
    store(pool + SHAPE, shape)
    store(pool + STEPS, steps)
    store(pool + DATA, data)
    store(pool + FIRST, first)
    store(pool + LENGTH, length)
    store(pool + SHARES, shares)
    store(pool + AT_WORK, at_work)
    store(pool + FINISHED, 0)
    ticket = ((load(pool + TICKET) >> 32) + 1) << 32 | shares
    exchange(pool + TICKET, ticket)
    wake(pool, at_work)
    taken = take_shares(pool, caller, 0, ticket, help_at, threads)
    if add(pool + FINISHED, taken) + taken != shares:
        begun = now(caller)
        while load(pool + FINISHED) != shares:
            spin_hint()
            if now(caller) - begun > load(pool + SPIN):
                exchange(pool + CALLER_ASLEEP, 1)
                if load(pool + FINISHED) != shares or not exchange(pool + CALLER_ASLEEP, 0):
                    sleep(caller)
    store(pool + IN_USE, 0)


def one_range(threads, dimensions, starts, stops):
    """Into how many ranges Numba is to cut a loop's indices: they are cut here."""
    return 1


def thread_id():
    return pthread_getspecific(numba.int32(load(the_pool() + KEY)))


# --- the pool of this process -------------------------------------------------------------------------------

_memory = None  # the pool itself, in whole cache lines
_key = ctypes.c_uint()  # under which a thread finds its number; the caller finds 0
_compiled = {}  # the functions above as C functions, by their names; kept alive, for kernels hold their addresses
_symbols = {}  # names that Numba's machine code refers to: their addresses here
_process = None  # where the threads were started: a forked child has none
_started = []  # the system's numbers of these threads
_starting = threading.Lock()


def usable():
    """Whether this pool runs the kernels of this process: on Linux, unless another layer was asked for."""
    return (
        sys.platform == "linux"
        and platform.machine() in SPIN_HINT
        and sys.maxsize > 2**32
        and str(numba.config.THREADING_LAYER).lower() == "default"
    )


def start():
    """Start the threads, unless this process has them already."""
    global _process
    if _process == os.getpid():
        return
    _compile()
    with _starting:
        if _process != os.getpid():
            _start_threads(_memory.ctypes.data, numba.config.NUMBA_NUM_THREADS, ctypes.CDLL(None))
            _process = os.getpid()


def _start_threads(pool, most, libc):
    _memory[:] = 0
    policy = os.environ.get("OMP_WAIT_POLICY", "").lower()
    set_word(KEY, _key.value)
    set_word(SPIN, {"passive": 0, "active": 2**62}.get(policy, SPINS))
    set_word(TOO_MUCH, 2**62 if policy == "active" else LOST)
    set_word(LIMIT, most)
    for k in range(most):
        libc.sem_init(ctypes.c_void_p(pool + THREADS + THREAD * k + SEMAPHORE), 0, 0)
    run = ctypes.c_void_p(_compiled["worker"].address)
    _started.clear()
    for k in range(1, most):
        thread = ctypes.c_ulong()
        if libc.pthread_create(ctypes.byref(thread), None, run, ctypes.c_void_p(k)):
            break  # the system allows no more
        _started.append(thread)
        set_word(WORKERS, k)


@atexit.register
def _end():
    """Before the interpreter takes the memory and the machine code away, on which the threads still spin."""
    if _process == os.getpid():
        set_word(WORKERS, 0)
        set_word(ENDING, 1)
        libc, first = ctypes.CDLL(None), _memory.ctypes.data + THREADS + SEMAPHORE
        for k, thread in enumerate(_started, 1):
            libc.sem_post(ctypes.c_void_p(first + THREAD * k))
            libc.pthread_join(thread, None)


def _compile():
    """Compile or load the functions above, once."""
    global _memory
    with global_compiler_lock:
        if _memory is None:
            size = THREADS + THREAD * numba.config.NUMBA_NUM_THREADS
            memory = np.zeros(size + LINE, np.uint8)
            memory = memory[-memory.ctypes.data % LINE :][:size]
            binding.add_symbol("tinynet_pool", memory.ctypes.data)
            ctypes.CDLL(None).pthread_key_create(ctypes.byref(_key), None)
            _symbols["numba_parallel_for"] = _address(parallel_for, [types.int64] * 8, types.void)
            _symbols["get_sched_size"] = _address(one_range, [types.int64] * 4, types.int64)
            _symbols["get_thread_id"] = _address(thread_id, [], types.int64)
            _address(worker, [types.int64], types.int64)
            _memory = memory


def forked():
    """In a forked child: nobody holds the lock, and start() will find that there are no threads."""
    global _starting
    _starting = threading.Lock()


def _address(function, arguments, result):
    options = {"error_model": "numpy", "boundscheck": None}
    kind = tuple(arguments), result
    compiled = keep(CFunc(function, kind, locals={}, options=options, pipeline_class=WholePipeline))
    compiled.compile()
    _compiled[function.__name__] = compiled
    return compiled.address


def set_word(place, value):
    ctypes.c_int64.from_address(_memory.ctypes.data + place).value = value


def word(place):
    return ctypes.c_int64.from_address(_memory.ctypes.data + place).value


@contextmanager
def linking():
    """While machine code is loaded: it finds this pool under the names of Numba's threading layer.

    Only for tinynet's kernels: a user's own parallel functions keep Numba's layer.
    """
    start()
    with global_compiler_lock:
        numba.get_num_threads()  # loads Numba's layer, of which no thread starts before it has work
        numbas = {name: binding.address_of_symbol(name) for name in _symbols}
        try:
            for name, address in _symbols.items():
                binding.add_symbol(name, address)
            yield
        finally:
            for name, address in numbas.items():
                binding.add_symbol(name, address)


def describe():
    """A line for show_config."""
    if _process != os.getpid():
        return "tinynet's own, none has started"
    return f"tinynet's own, {min(word(LIMIT), word(WORKERS) + 1)} of {word(WORKERS) + 1} in use"
