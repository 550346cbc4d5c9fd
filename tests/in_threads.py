"""Several threads at once."""

import threading

import numpy as np


def assert_threads_predict(model, x, expected, batch_size=1):
    """model.predict(x), in eight threads at once and in batches of many sizes, always gives what is expected."""
    found = {}

    def work(k):
        found[k] = [model.predict(x, batch_size=batch_size + k) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(np.array_equal(result, expected) for results in found.values() for result in results)
