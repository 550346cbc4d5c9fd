"""What fit asks of the processes that train together, where there is one: nothing to agree on, nobody to wait for.

distributed.Ranks has the same methods for several.  To read fit, read them here.
"""

import contextlib


class OneProcess(contextlib.nullcontext):
    """The one process that trains.

    first    whether it is the one that prints, writes files and calls the callbacks
    alone    whether there is no other
    shard    which part of each batch is its share, as data.batches takes it: (rank, number of ranks)
    """

    first = alone = True
    shard = (0, 1)

    def agreeing(self):
        """A context: what raises in it in one process raises in all."""
        return contextlib.nullcontext()

    def compare(self, run):
        """Refuse to begin unless all processes were given the same run."""

    def prepare(self, model):
        """What will be trained."""

    def join(self):
        """From here on all processes run the same passes through the model, each on its share."""

    def leave(self):
        """From here on a pass through the model is a process's own matter."""

    def place(self, n):
        """A batch of n rows comes: which of its rows are this process's share."""

    def share(self, x, y, weights):
        """This process's share of a batch."""
        return x, y, weights

    def judging(self, judge, counts, flags, scale):
        """A function (prediction, y, weights) -> (gradient, means, counts), for whole batches given by their shares.

        judge(prediction, y, weights) gives the gradient, and the means: the loss and the metrics.  `weights` are those
        of the rows, or None.  `counts` are functions (y, rows, weights) -> what each of the means is a mean over; None
        for a sum.  flags() is what flags(flags) is to tell after the call; scale(factor) is called with what the
        gradient is multiplied by.
        """

        def judge_all(prediction, y, weights=None):
            n = len(prediction)
            if n == 0:  # sequences without any position
                scale(0.0)
                return prediction, [0.0] * len(counts), [0] * len(counts)
            gradient, means = judge(prediction, y, weights)
            return gradient, means, [n if how_many is None else how_many(y, n, weights) for how_many in counts]

        return judge_all

    def flags(self, flags):
        """flags(), each True where it is in any process."""
        return flags()

    def sum_gradients(self):
        """Make the model's gradient the sum over all shares."""

    def known(self, error):
        """The error, which every process raises."""
        return error

    def from_first(self, value):
        """The first process's value, in all."""
        return value

    def any(self, flag):
        """Whether it is True in any process."""
        return flag

    def spread(self, training, epoch=None):
        """Bring all processes to where the first one is; returns the epoch that is under way there."""
        return epoch

    def spread_callbacks(self, callbacks):
        """Give the callbacks of all processes, which only the first one calls, their state there."""

    def whole(self, data):
        """The batch of which each process holds its share."""
        return data

    def predict(self, model, x):
        """model.predict(x) in the first process; None in the others, which compute their share of it."""
        return model.predict(x)
