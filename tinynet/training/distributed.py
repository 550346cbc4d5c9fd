"""Data-parallel training over MPI: every rank has the whole model, and takes its share of every batch.

    mpiexec -n 4 python train.py        where train.py calls fit(..., communicator=MPI.COMM_WORLD)

A rank is one of the processes that mpiexec starts.  Of a batch of N samples, rank r of R holds the share S_r:

    L = 1/N sum_n l[n]          dL/dw = sum_n dl[n]/dw / N = sum_r ( sum_{n in S_r} dl[n]/dw / N )
                                                                   rank r's gradient

so the gradient of the batch is the sum of the ranks' gradients: one Allreduce over model.flat_grads, after which every
rank takes the same step.  What else a rank must know of the others' samples:

    the loss        means over what counts in the batch, with ignore_index or weights of classes or samples, too: rank
                    r's mean, over a count c_r, and its gradient weigh c_r / sum_r c_r
    BatchNorm       merges its moments and its sums over the ranks, forward and backward: mu and v are the whole
                    batch's, and so are M, db and dw where dx is made of them.  As parameters' gradients, db and dw stay
                    those of the share, as other layers' do
    Dropout         gives each share its part of the batch's mask
    the order       of the samples is drawn by every rank from the same seed, and so is what augment draws: augment is
                    called on the whole batch by every rank, which then keeps its share.  Where that takes long, change
                    samples as they are read instead, in a data set of your own

Therefore R ranks train as one process does, but for rounding: sums are added in another order.  The same number of
ranks on the same machines gives the same bits where the library adds in the same order each time, as MPICH does.
Only means over samples can be put together so.  A metric that is none, such as F1, is of a rank's share while
training (the mean over the shares), and exact in the validation, which the ranks predict together and rank 0 judges;
a loss that compares the batch's samples with one another sees those of its share.

When one fails.  What fit refuses, and a loss that is not finite, is raised on every rank.  An error that only one
has (a label out of range in its share) prints its traceback there and ends all of them by MPI's Abort, for the others
wait for it.  mpiexec does the same where a rank is killed; resume=True then goes on from the checkpoint, with any
number of ranks.  An error outside fit ends all ranks if the program is run as `mpiexec -n 4 python -m mpi4py train.py`.

A loop of one's own needs three more lines than with one process:

    tn.distributed.broadcast(model, communicator)
    with tn.distributed.synchronized(model, communicator):
        for x, y in tn.batches(x_train, y_train, 64, seed=0, shard=(communicator.rank, communicator.size)):
            ...  the loss gets denominator=64, the batch's count
            model.backward(gradient)
            tn.distributed.sum_gradients(model, communicator)
            optimizer.step()

Sources: one sum over all gradients a step, Goyal et al. 2017, section 3; what an Allreduce costs, Thakur, Rabenseifner
and Gropp 2005; merged statistics, Chan, Golub and LeVeque 1983.
"""

import contextlib
import os
import sys
import traceback
from functools import partial

import numba
import numpy as np

from tinynet.config import get_num_threads, set_num_threads
from tinynet.data.batches import part
from tinynet.data.sequences import count, each, is_pair, rows
from tinynet.kernels.batchnorm import merge_moments
from tinynet.layers.inputs import Inputs
from tinynet.layers.options import set_again, settings
from tinynet.training.one_process import OneProcess

NEEDED = ("Get_rank", "Get_size", "Allreduce", "Allgather", "Bcast", "allgather", "bcast", "gather", "Abort")

__all__ = ["broadcast", "share_threads", "sum_gradients", "synchronized"]


def broadcast(model, communicator):
    """Give every rank the parameters, the buffers and Dropout's state that rank 0 has.  All ranks must call this.

    >>> from mpi4py import MPI  # doctest: +SKIP
    >>> tn.distributed.broadcast(model, MPI.COMM_WORLD)  # doctest: +SKIP
    """
    _check_communicator(communicator, "broadcast")
    for array in (model.flat_values, *model.buffers().values()):
        communicator.Bcast(array)
    layers = [layer for layer in model.walk() if layer.state is not None]
    for layer, state in zip(layers, communicator.bcast([layer.state for layer in layers]), strict=True):
        layer.state = state


def sum_gradients(model, communicator):
    """Make model.flat_grads the sum over the ranks, in one Allreduce.  All ranks must call this.

    >>> from mpi4py import MPI  # doctest: +SKIP
    >>> model.backward(dlogits)  # doctest: +SKIP
    >>> tn.distributed.sum_gradients(model, MPI.COMM_WORLD)  # doctest: +SKIP
    >>> optimizer.step()  # doctest: +SKIP
    """
    _check_communicator(communicator, "sum_gradients")
    from mpi4py import MPI  # here, so that importing tinynet starts no MPI

    # After the backward pass, not during it: one Iallreduce a layer, begun while earlier layers were at work, hardly
    # paid on two ranks with MPICH and 64 samples each.  With 23.3 MB of gradients a step took 21.9 ms instead of 23.4,
    # but with 2.4 MB 31.8 instead of 31.9, with 0.41 MB 0.217 instead of 0.204, with 0.25 MB 1.82 instead of 1.73.  In
    # shared memory, the cores that compute are those that add; a thread of MPICH's that adds doubled every time.
    communicator.Allreduce(MPI.IN_PLACE, model.flat_grads)


@contextlib.contextmanager
def synchronized(model, communicator):
    """Within this context, BatchNorm takes the moments of all ranks' shares: each must run the same passes.

    An empty share is one too.

    >>> from mpi4py import MPI  # doctest: +SKIP
    >>> with tn.distributed.synchronized(model, MPI.COMM_WORLD):  # doctest: +SKIP
    ...     logits = model.forward(x, training=True)
    ...     model.backward(tn.softmax_cross_entropy(logits, y)[1])
    """
    _check_communicator(communicator, "synchronized")
    layers = [layer for layer in model.walk() if layer.of_batch]
    hooks = {"whole_moments": partial(_moments_of_all, communicator), "whole_sums": partial(_sums_of_all, communicator)}
    try:
        for layer in layers:
            vars(layer).update(hooks)
        yield model
    finally:
        for layer in layers:
            for name in hooks:
                vars(layer).pop(name, None)


def _moments_of_all(communicator, M, mu, S):
    """Layer.whole_moments: those of the ranks' shares merge as chunks of rows do, in the order of the ranks."""
    C, mine = mu.size, np.concatenate([[M], mu, S])
    found = np.empty((communicator.Get_size(), mine.size))
    communicator.Allgather(mine, found)
    counts, means, squares = (part.copy() for part in np.split(found, [1, C + 1], axis=1))
    mu, S = np.empty(C), np.empty(C)
    return merge_moments(counts.ravel(), means, squares, mu, S), mu, S


def _sums_of_all(communicator, *sums):
    """Layer.whole_sums."""
    share = np.array(sums)
    whole = np.empty_like(share)
    communicator.Allreduce(share, whole)
    return whole


def share_threads(communicator):
    """Divide this machine's cores among the ranks that run on it; returns how many threads this one then uses.

    By default each rank's kernels use every core that it may run on, and ranks on one machine get into each other's
    way.  Where the environment variable NUMBA_NUM_THREADS is set, its number of threads stays.  All ranks must call
    this.

    >>> from mpi4py import MPI  # doctest: +SKIP
    >>> tn.distributed.share_threads(MPI.COMM_WORLD)  # doctest: +SKIP
    4
    """
    _check_communicator(communicator, "share_threads")
    from mpi4py import MPI

    local = communicator.Split_type(MPI.COMM_TYPE_SHARED)
    try:
        mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
        cores = len(set().union(*local.allgather(mine)))  # the launcher may have given each rank cores of its own
        ranks = local.Get_size()
    finally:
        local.Free()
    if "NUMBA_NUM_THREADS" not in os.environ:
        set_num_threads(max(1, min(cores // ranks, len(mine), numba.config.NUMBA_NUM_THREADS)))
    return get_num_threads()


# --- what fit asks of them ----------------------------------------------------------------------------------


class Ranks(OneProcess):
    """The ranks of a run of fit, with the methods of OneProcess for several processes."""

    alone = False

    def __init__(self, communicator):
        super().__init__()
        _check_communicator(communicator, "fit")
        self.communicator = communicator
        self.shard = communicator.Get_rank(), communicator.Get_size()
        self.first = self.shard[0] == 0
        self._all_know, self._joined = False, contextlib.ExitStack()

    # Failing together.

    @contextlib.contextmanager
    def agreeing(self):
        """What raises in here on one rank raises on each of them."""
        error = None
        try:
            yield
        except BaseException as raised:
            error = raised
        failed = error is not None and f"{type(error).__name__}: {error}"
        failures = self.communicator.allgather(failed)
        if failed:
            raise error
        for rank, other in enumerate(failures):
            if other:
                raise RuntimeError(f"fit: rank {rank} of {self.shard[1]} failed: {other}")

    def compare(self, run):
        """A ValueError on every rank unless all have the same run, a dict of names -> strings, numbers and None."""
        runs = self.communicator.allgather(run)
        for rank, other in enumerate(runs):
            names = [name for name in {**runs[0], **other} if runs[0].get(name) != other.get(name)]
            if names:
                texts = [f"{n} is {other.get(n, 'absent')} and not {runs[0].get(n, 'absent')}" for n in names[:4]]
                more = f"; and {len(names) - 4} more" if len(names) > 4 else ""
                text = "; ".join(texts) + more
                raise ValueError(f"fit: rank {rank} was given another run than rank 0: there {text}")

    def known(self, error):
        """The error, which all ranks raise: none has to send it."""
        self._all_know = True
        return error

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.leave()
        if error is None or self._all_know or self.shard[1] == 1:
            return
        # The other ranks wait for this one, and would forever.
        print(f"\nrank {self.shard[0]} of {self.shard[1]} failed, which ends them all:", file=sys.stderr)
        traceback.print_exception(kind, error, trace)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.communicator.Abort(1)

    # A step, of which each rank does its share.

    def prepare(self, model):
        self._model = model
        self._dropouts = [layer for layer in model.walk() if layer.first_row is not None]

    def join(self):
        """Passes through the model are of shares from now on, and every rank must run the same."""
        self._joined.enter_context(synchronized(self._model, self.communicator))

    def leave(self):
        """Passes are this rank's own matter again: callbacks and metrics may run the model on one rank."""
        self._joined.close()
        for layer in self._dropouts:
            layer.first_row = 0

    def place(self, n):
        """Dropout gives this rank's share of a batch of n rows its part of the mask."""
        for layer in self._dropouts:
            layer.first_row = part(n, *self.shard).start

    def share(self, x, y, weights):
        share = part(count(x), *self.shard)
        return rows(x, share), y[share], None if weights is None else weights[share]

    def judging(self, judge, counts, flags, scale):
        """judge for the whole batch: its loss and metrics, and this rank's part of the loss's gradient.

        A share may be empty.  What flags() gives on any rank is known after each call, by the same Allreduce.
        """
        is_sum = counts[0] is None

        def judge_together(prediction, y, weights=None):
            n, gradient, means = len(prediction), prediction, [0.0] * len(counts)
            if n == 0:
                scale(0.0)
            else:
                gradient, means = judge(prediction, y, weights)
            counted = [n if how_many is None else how_many(y, n, weights) if n else 0 for how_many in counts]
            sums = [mean * count for mean, count in zip(means, counted, strict=True)]
            if is_sum:
                sums[0] = means[0]
            mine = np.array([*flags(), *sums, *counted], float)
            whole = np.empty_like(mine)
            self.communicator.Allreduce(mine, whole)
            asked, due, *whole = whole.tolist()
            sums, totals = whole[: len(counts)], whole[len(counts) :]
            means = [total / (count or 1.0) for total, count in zip(sums, totals, strict=True)]
            if is_sum:
                means[0] = sums[0]
            elif totals[0]:
                gradient = gradient * gradient.dtype.type(counted[0] / totals[0])
                scale(counted[0] / totals[0])
            self._flags = asked > 0, due > 0
            return gradient, means, totals

        return judge_together

    def flags(self, flags):
        """What flags() gave on any rank when the batch was judged."""
        return self._flags

    def sum_gradients(self):
        sum_gradients(self._model, self.communicator)

    # What rank 0 knows, and the others have to.

    def from_first(self, value):
        return self.communicator.bcast(value)

    def any(self, flag):
        return any(self.communicator.allgather(flag))

    def spread(self, training, epoch=None):
        """Bring every rank to where rank 0 is; returns the epoch that is under way there."""
        broadcast(training.model, self.communicator)
        optimizer = training.optimizer
        has_state = hasattr(optimizer, "state_dict") and hasattr(optimizer, "load_state_dict")
        state = optimizer.state_dict() if has_state else getattr(optimizer, "lr", None)
        of_layers = settings(training.model.layers)
        found = training.epoch, training.step, training.stop, training.history, state, epoch, of_layers
        training.epoch, training.step, training.stop, history, state, epoch, of_layers = self.from_first(
            found if self.first else None
        )
        if not self.first:
            set_again(training.model.layers, of_layers)
            training.history.update(history)
            if has_state:
                optimizer.load_state_dict(state)
            elif state is not None:
                optimizer.lr = state
        return epoch

    def spread_callbacks(self, callbacks):
        """Give the callbacks of all ranks, which only rank 0 called, the state that they have there."""
        names = [type(callback).__name__ for callback in callbacks]
        states = self.from_first((names, [callback.state_dict() for callback in callbacks]) if self.first else None)
        if not self.first and names == states[0]:  # a program may give them to rank 0 alone
            for callback, state in zip(callbacks, states[1], strict=True):
                callback.load_state_dict(state)

    def whole(self, data):
        """The batch of which each rank holds its share."""
        if data is None:
            return data
        if type(data) is Inputs:
            return each(self.whole, data)
        if is_pair(data):
            return tuple(map(self.whole, data))
        shares = self.communicator.allgather(data)
        return np.concatenate(shares) if hasattr(data, "dtype") else [item for share in shares for item in share]

    def predict(self, model, x):
        """model.predict(x) on rank 0, to which each rank adds its share; None on the others."""
        x = each(lambda part: part if hasattr(part, "shape") or is_pair(part) else np.asarray(part), x)
        shares = self.communicator.gather(model.predict(rows(x, part(count(x), *self.shard))))
        return np.concatenate(shares) if self.first else None


def _check_communicator(communicator, what):
    missing = [name for name in NEEDED if not callable(getattr(communicator, name, None))]
    if missing:
        raise TypeError(
            f"{what}: communicator must be one of mpi4py's, such as MPI.COMM_WORLD, got {communicator!r}, "
            f"which has no {missing[0]}"
        )
