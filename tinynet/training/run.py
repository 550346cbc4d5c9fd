"""What happens around fit's loop: epochs begin and end, batches come, results are measured, shown and kept in a file.

    for epoch in run.epochs():
        for x, y in run.batches(epoch):
            ...

Both are generators: what stands after a `yield` happens once the loop is through with what it was given there.

`ranks` stands for the processes that train together: one_process.py says what its methods do where there is one, hardly
anything, and distributed.py where there are several.
"""

import math
import time

import numpy as np

from tinynet.data.sequences import split
from tinynet.layers.along_time import in_place
from tinynet.losses.by_name import as_column, checked_result
from tinynet.training.counting import as_option, counting, positions, row_weights
from tinynet.training.evaluation import judged, predicted
from tinynet.training.not_finite import not_finite
from tinynet.training.progress import Interrupt, Progress
from tinynet.training.resume import Epoch, Keeper, with_state


class Run:
    """A run of fit, whose arguments these are, checked; `settings` is what must be the same for it to be resumed.

    body   the model, or what of it is run where the loss takes the last layer with it (last_layer.py)
    """

    def __init__(
        self, training, body, data, loss, metrics, validation, callbacks, checkpoint, settings, epochs, seed, progress,
        ranks,
    ):  # fmt: skip
        self.training, self.body, self.data, self.ranks = training, body, data, ranks
        self.given_loss, self.metrics, self.validation, self.callbacks = loss, metrics, validation, callbacks
        self.last_epoch, self.seed = epochs, seed
        self.called = callbacks if ranks.first else []
        steps = [getattr(callback, "step", None) for callback in self.called]
        self.after_steps = [step for step in steps if callable(step)]
        self.bar = Progress(progress and ranks.first, epochs, data.samples)
        self.keeper = Keeper(checkpoint if ranks.first else None, settings, training, epochs, self.called)
        self.interrupt = Interrupt(ranks.first)
        self.of_batches = {name: metric for name, metric in metrics.items() if not metric.of_epoch}
        means = [metric.given for metric in self.of_batches.values()]
        counts = [counting(each) for each in (getattr(loss, "apart", loss), *means)]
        self.judge = ranks.judging(self._judge, counts, self._flags, getattr(loss, "scale", _nothing))
        self.epoch, self.asked = None, False  # the epoch under way; whether Ctrl-C was pressed

    def begin(self, resume):
        """Before the first step: go on from the checkpoint, or write it."""
        training = self.training
        resumed = resume and self.keeper.found()
        if resumed:
            self.epoch = self.keeper.restore()
            self.bar.say(f"resumed from {self.keeper.path}: {training.epoch} epochs, {training.step} steps done")
        for callback in self.called:
            getattr(callback, "start", _nothing)(training)
        if not resumed:
            self.keeper.save()  # so that resuming finds no older run, and a path that can't be written is found now

    def epochs(self):
        """The epochs that are left, until a callback or Ctrl-C ends the training."""
        training, ranks = self.training, self.ranks
        self.epoch = ranks.spread(training, self.epoch)
        while training.epoch < self.last_epoch and not training.stop and not self.asked:
            self.epoch = self.epoch or Epoch(training.epoch + 1, self.seed, ["loss", *self.of_batches])
            yield self.epoch
            ranks.leave()
            if not self._finite():
                raise self._broken("a parameter is not finite", training.step)
            self.asked = ranks.any(self.interrupt.asked)
            if not self.asked:
                self._finish_epoch()

    def batches(self, epoch):
        """The batches (x, y) that the epoch still has.  Each is a step; the file is written where it is due."""
        self.began = time.perf_counter() - epoch.seconds
        self.bar.start(epoch.number, epoch.samples)
        self.ranks.join()
        for x, y, n in self.data.left(epoch):
            yield x, y
            self.training.step += 1
            for step in self.after_steps:
                step(self.training)
            epoch.add(n, *self.measured)
            self.bar.advance(n, epoch.means)
            asked, due = self.ranks.flags(self._flags)
            if asked or due:
                epoch.seconds = time.perf_counter() - self.began
                if asked or not self._finite():
                    break
                self.keeper.save(epoch)

    def loss(self, prediction, y):
        """The loss of the batch and its gradient.  Measures the metrics, too; NonFiniteError where it is no number.

        Of sequences with lengths, what lies behind them does not count: the loss is given the other positions alone.
        """
        ends = self.body.output_lengths(split(self.data.given.x)[1])
        counted, targets = positions(prediction, y, ends)
        targets = as_column(targets, counted, self.given_loss)
        weights = row_weights(self.data.given.weights, prediction, ends)
        gradient, means, counts = self.judge(counted, targets, weights)
        if not math.isfinite(means[0]):
            raise self._broken(f"the loss is {means[0]}", self.training.step + 1)
        self.measured, self.training.loss = (means, counts), float(means[0])
        if len(self.of_batches) < len(self.metrics):
            self.epoch.keep(*map(self.ranks.whole, (counted, targets, weights)))
        return means[0], gradient if ends is None else in_place(gradient, ends, prediction.shape)

    def end(self):
        """After the last step."""
        training = self.training
        training.history.interrupted = self.asked
        if self.asked:
            self.keeper.save(self.epoch)
            self.bar.say(f"interrupted after {training.epoch} epochs, {training.step} steps")
        for callback in self.called:
            getattr(callback, "finish", _nothing)(training)
        self.ranks.spread(training)
        self.ranks.spread_callbacks(with_state(self.callbacks))

    def _finish_epoch(self):
        """Into the history with it; then it is the callbacks' turn, and the checkpoint's."""
        training, ranks, epoch = self.training, self.ranks, self.epoch
        results = self._of_epoch(epoch)
        if self.validation is not None:
            found = self._evaluated(*self.validation)
            results |= {f"val_{name}": result for name, result in found.items()}
        seconds = time.perf_counter() - self.began
        results, seconds = ranks.from_first((results, seconds))
        for name, result in (results | {"lr": training.optimizer.lr, "seconds": seconds}).items():
            training.history.setdefault(name, []).append(result)
        self.bar.finish(results, epoch.samples / seconds)
        training.epoch, self.epoch = epoch.number, None
        for callback in self.called:
            callback(training)
        ranks.spread(training)
        self.keeper.save()
        self.asked = ranks.any(self.interrupt.asked)

    def _of_epoch(self, epoch):
        """The loss and the metrics of an epoch: means over its batches, or of all its predictions at once."""
        means, where = epoch.means(), f"epoch {epoch.number}"
        whole = epoch.whole() if len(self.of_batches) < len(self.metrics) else ()
        metrics = self.metrics.items()
        found = {n: means[n] if n in means else metric.of_all(*whole, where) for n, metric in metrics}
        return {"loss": means["loss"], **found}

    def _judge(self, prediction, y, weights):
        """The gradient, and the loss and the metrics."""
        value, gradient = checked_result(self.given_loss(prediction, y, **as_option(weights)), prediction, "fit")
        finite = math.isfinite(value)
        metrics = self.of_batches.values()
        return gradient, [value, *(metric(prediction, y, weights) if finite else 0.0 for metric in metrics)]

    def _flags(self):
        return self.interrupt.asked, self.keeper.due()

    def _finite(self):
        return np.isfinite(self.training.model.flat_values).all()

    def _broken(self, what, step):
        self.ranks.leave()
        batch = self.data.last(self.epoch)
        loss = getattr(self.given_loss, "apart", self.given_loss)
        return self.ranks.known(not_finite(what, self.training.model, loss, *batch, self.epoch.number, step))

    def _evaluated(self, *validation):
        try:
            rows = predicted(self.body, validation, self.ranks.predict)
            if not self.ranks.first:
                return {}
            loss = getattr(self.given_loss, "without_gradient", self.given_loss)
            return judged(rows, loss, self.metrics, "the validation set")
        except Exception as error:
            error.add_note("fit: this is about the validation set")
            raise


def _nothing(training):
    pass
