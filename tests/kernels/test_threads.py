"""tinynet's own threads: each index once, the same bits whoever does the work, forks, and what the user has set."""

import threading

import numba
import numpy as np
import pytest
from test_processes import forks, run, trained_weights

import tinynet as tn
from tinynet.kernels import threads
from tinynet.kernels.compile import kernel

pytestmark = pytest.mark.skipif(
    not threads.usable() or numba.config.DISABLE_JIT or numba.config.BOUNDSCHECK,
    reason="here Numba runs the kernels, or no threads do",
)


@kernel(parallel=True)
def count(times):
    for i in numba.prange(len(times)):
        times[i] += 1


def check_counts():
    for length in (0, 1, 2, 3, 7, 8, 9, 31, 1000, 4097):
        times = np.zeros(length, np.int64)
        for _ in range(50):
            count(times)
        assert (times == 50).all(), length


@pytest.fixture
def limit():
    """A function that lets so many threads be in use."""
    check_counts()  # they have started

    def set_limit(most, retry=2**62):
        threads.set_word(threads.LIMIT, most)
        threads.set_word(threads.RETRY, retry)

    yield set_limit
    set_limit(numba.config.NUMBA_NUM_THREADS)


def test_each_index_of_a_loop_is_visited_once(limit):
    for most in (1, numba.config.NUMBA_NUM_THREADS):
        limit(most)
        check_counts()


@pytest.mark.slow
def test_each_index_is_visited_once_by_more_threads_than_processors_whatever_the_wait_policy():
    for policy in ("passive", "active", ""):
        run("import test_threads; test_threads.check_counts()", NUMBA_NUM_THREADS="4", OMP_WAIT_POLICY=policy)


def test_training_gives_the_same_bits_on_all_threads_and_where_they_have_given_way(limit):
    expected = trained_weights(0)
    limit(1)
    assert trained_weights(0) == expected


def test_threads_of_python_that_call_kernels_at_once_are_all_right():
    failed = []

    def work():
        try:
            check_counts()
        except BaseException as error:
            failed.append(error)

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failed


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread")
def test_one_thread_less_is_used_for_a_while_that_grows_with_each_failure_in_a_row(limit):
    most, ms = numba.config.NUMBA_NUM_THREADS, threads.MS
    pool, times = threads._memory.ctypes.data, np.zeros(1000, np.int64)
    limit(most)
    count(times)
    now = 10**15
    for pause in (100, 200, 400, 800, 1300, 1300):
        limit(most)
        threads.set_word(threads.AT_WORK, most)
        threads.give_way(pool, now)
        assert threads.word(threads.LIMIT) == most - 1
        assert threads.word(threads.RETRY) == now + pause * ms
        assert f"{most - 1} of {most} in use" in tn.show_config("dict")["threading layer"]
        now += (pause + 10) * ms
    threads.give_way(pool, now + 6000 * ms)  # not in a row
    assert threads.word(threads.PAUSE) == 100 * ms
    limit(1, retry=0)
    count(times)
    assert threads.word(threads.LIMIT) == 2


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread")
def test_a_thread_gives_way_where_it_had_no_processor_for_a_quarter_of_its_time(limit):
    most, ms = numba.config.NUMBA_NUM_THREADS, threads.MS
    pool = threads._memory.ctypes.data
    thread = pool + threads.THREADS  # of the caller, which this test is

    def look(awake, without, me=0, ago=10**15, before=1):
        limit(most)
        threads.set_word(threads.THREADS + threads.LACKED, before)
        threads.set_word(threads.AT_WORK, most)
        time = threads.now(thread)
        threads.set_word(threads.NOTICED, time - ago)
        threads.set_word(threads.THREADS + threads.SINCE, time - awake)
        threads.set_word(threads.THREADS + threads.RAN, threads.processor_time(thread) - (awake - without))
        threads.look(pool, thread, me, time)
        begins_anew = threads.word(threads.THREADS + threads.SINCE) == time
        return begins_anew, most - threads.word(threads.LIMIT)

    look(0, 0)  # compiled
    assert look(30 * ms, 15 * ms) == (True, 1)
    assert look(30 * ms, 15 * ms, before=0) == (True, 0)  # not twice in a row
    assert threads.word(threads.THREADS + threads.LACKED) == 1
    assert look(30 * ms, 4 * ms) == (True, 0)  # one turn of something else
    assert threads.word(threads.THREADS + threads.LACKED) == 0
    assert look(500 * ms, 15 * ms) == (True, 0)
    assert look(10 * ms, 10 * ms) == (False, 0)  # too short a time to tell
    assert look(30 * ms, 15 * ms, ago=20 * ms) == (True, 0)  # another gave way since
    assert look(30 * ms, 15 * ms, me=most) == (True, 0)  # it only helps


@pytest.mark.slow
def test_threads_that_were_sent_to_other_processors_may_run_on_all_again():
    code = """
import os, time
import test_threads
for _ in range(20):
    test_threads.check_counts()
    time.sleep(0.01)  # they fall asleep
everywhere, until = os.sched_getaffinity(0), time.monotonic() + 30
while any(os.sched_getaffinity(int(thread)) != everywhere for thread in os.listdir("/proc/self/task")):
    assert time.monotonic() < until
    time.sleep(0.01)
"""
    run(code)


@forks
@pytest.mark.slow
def test_a_forked_child_starts_threads_of_its_own_and_its_parent_goes_on():
    code = """
import os
import test_threads
expected = test_threads.trained_weights(0)
for _ in range(3):
    child = os.fork()
    if child == 0:
        test_threads.check_counts()
        same = test_threads.trained_weights(0) == expected and "2 in use" in test_threads.threads.describe()
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert test_threads.trained_weights(0) == expected
"""
    run(code)


@pytest.mark.slow
def test_the_environment_and_a_users_own_parallel_functions_are_left_alone():
    code = """
import os
before = dict(os.environ)
import numba
from llvmlite import binding
import test_threads
test_threads.check_counts()
assert dict(os.environ) == before
assert numba.threading_layer() in ("omp", "workqueue", "tbb")
for name, own in test_threads.threads._symbols.items():
    assert binding.address_of_symbol(name) != own
"""
    run(code)


@pytest.mark.slow
def test_what_the_user_has_set_is_respected():
    code = """
import test_threads
from test_threads import threads
test_threads.check_counts()
print(threads.word(threads.SPIN), threads.word(threads.TOO_MUCH))
"""
    assert run(code, OMP_WAIT_POLICY="passive") == ["0", str(threads.LOST)]
    assert run(code, OMP_WAIT_POLICY="ACTIVE") == [str(2**62)] * 2
    assert run(code, OMP_WAIT_POLICY="") == [str(threads.SPINS), str(threads.LOST)]
    code = "import test_threads; test_threads.check_counts(); print(test_threads.threads._process)"
    assert run(code, NUMBA_THREADING_LAYER="workqueue") == ["None"]
    assert run(code, NUMBA_NUM_THREADS="1") != ["None"]
