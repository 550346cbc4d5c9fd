"""Training: the five-line loop, with what one wishes for around it.

    for x, y in batches(x_train, y_train, batch_size):
        prediction = model.forward(x, training=True)
        value, gradient = loss(prediction, y)
        model.backward(gradient)
        optimizer.step()

fit is that loop over many epochs, with a progress bar, validation, metrics, a schedule of the learning rate, a
history and checkpoints, and it stops where the loss is no longer a number.  Write the loop yourself when you need
anything else.

What fit calls lies beside it: arguments.py checks what it was given, resume.py keeps a run in a file and brings it
back, not_finite.py finds where a NaN began.  `ranks` stands for the processes that train together: one_process.py says
what its methods do where there is one, hardly anything, and distributed.py where there are several.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from tinynet.checks import positive_int
from tinynet.data.batches import batches
from tinynet.losses.by_name import checked_result, loss_function
from tinynet.training import arguments
from tinynet.training.callbacks import Checkpoint, CSVLog, EarlyStopping
from tinynet.training.distributed import Ranks
from tinynet.training.history import History, Training
from tinynet.training.not_finite import NonFiniteError, not_finite
from tinynet.training.one_process import OneProcess
from tinynet.training.progress import Interrupt, Progress
from tinynet.training.resume import Epoch, Keeper, settings, with_state
from tinynet.training.schedules import Schedule

__all__ = ["CSVLog", "Checkpoint", "EarlyStopping", "History", "NonFiniteError", "Training", "fit"]

OF_RANK_0 = ("the model's seed", "the list of callbacks with a state")  # other ranks' may be others


def fit(
    model: Any,
    x: Any,
    y: Any,
    *,
    loss: Callable[..., Any] | str,
    optimizer: Any,
    epochs: int,
    batch_size: int = 64,
    validation: tuple[Any, Any] | None = None,
    metrics: Any = None,
    augment: Callable[..., Any] | None = None,
    schedule: Schedule | None = None,
    callbacks: Callable[[Training], Any] | Sequence[Callable[[Training], Any]] = (),
    checkpoint: str | bytes | os.PathLike | None = None,
    resume: bool = False,
    seed: int = 0,
    progress: bool = True,
    communicator: Any = None,
) -> History:
    """Train the model on samples x with targets y; returns a History.

    loss        a function (prediction, target) -> (value, gradient), such as softmax_cross_entropy, or the name of one
    optimizer   made for this very model: Adam(model, lr=1e-3)
    validation  a pair (x, y), judged after every epoch
    metrics     a function (prediction, target) -> number, or the name "accuracy" or "top_k_accuracy", or a loss of this
                package for its value, or a list or dict of those
    augment     a function (x, rng) -> x or (x, y, rng) -> (x, y), called on every training batch, which it may
                overwrite.  Where its parameter `rng` stands tells which; without one of that name, how many it needs
    schedule    a function step -> learning rate, with steps counted from 0 over the whole training
    callbacks   functions that are given a Training after every epoch, such as EarlyStopping.  One that watches a metric
                of your own needs mode="min" or "max": which way is better, only this package's metrics tell
    checkpoint  a file for the whole state of the run, written at the start, after every epoch, about every minute
                within one, and on Ctrl-C
    resume      go on from that file, if it is there; a run that is finished returns its history at once, and more
                `epochs` than it had continue it
    seed        of the order of the samples, and of augment's rng: the same seed gives the same result, to the bit
    progress    a line an epoch, and on a terminal a bar until it is there; False for silence.  Where it can't be
                written, the training goes on without
    communicator  one of mpi4py, such as MPI.COMM_WORLD, whose ranks all call fit with the same arguments: each takes
                its share of every batch, and the result is that of one process, but for rounding (tinynet.distributed
                tells how).  Rank 0 alone prints, writes files and calls the callbacks, and what these do to the model,
                the optimizer and `stop` reaches every rank; all return the same History

    A run that was stopped, even killed, and resumed with the same arguments gives the same bits as one that never was,
    but for the seconds in its history.  A function of yours that remembers things from call to call is not part of the
    file, unless it is a callback with state_dict and load_state_dict.

    Ctrl-C ends the training after the current step, and says so at once on standard error; fit then returns the history
    so far, whose `interrupted` is True.  A second Ctrl-C raises KeyboardInterrupt at once.

    Raises NonFiniteError at the first loss that is not finite, naming the layer where that began and the rows; a
    gradient that is not finite shows in the next loss, or at the latest in the parameters, after the epoch and before
    every checkpoint.  Raises ValueError or TypeError, before anything is trained, for arguments that do not fit
    together, such as a model that ends in probabilities with a loss that expects logits, and for a checkpoint of
    another run, saying what differs.
    """
    ranks = OneProcess() if communicator is None else Ranks(communicator)
    with ranks.agreeing():
        loss, metrics = loss_function(loss, "fit"), arguments.metric_functions(metrics)
        epochs, seed = positive_int(epochs, "fit: epochs"), positive_int(seed, "fit: seed", 0)
        callbacks = [callbacks] if callable(callbacks) else list(callbacks)
        arguments.check_model(model, optimizer)
        arguments.check_functions(augment, schedule, callbacks)
        arguments.check_validation(validation, model)
        arguments.check_monitors(callbacks, metrics, validation)
        arguments.check_ending(model, loss)
        checkpoint = arguments.checkpoint_path(checkpoint, resume, optimizer)
        data = _Data(x, y, batch_size, augment, seed, ranks)
        arguments.check_samples(x, model, augment)
        arguments.check_last_batch(model, len(x), batch_size, augment)
        run = None
        if checkpoint is not None or not ranks.alone:
            run = settings(
                model, x, y, loss, optimizer, batch_size, validation, metrics, augment, schedule, callbacks, seed
            )
    if run is not None:
        ranks.compare({name: value for name, value in run.items() if name not in OF_RANK_0} | {"epochs": epochs})
    ranks.prepare(model, loss)

    called = callbacks if ranks.first else []
    training, epoch = Training(model, optimizer), None
    history = training.history
    bar = Progress(progress and ranks.first, epochs, len(x))
    keeper = Keeper(checkpoint if ranks.first else None, run, training, epochs, called)
    with ranks.agreeing():
        resumed = resume and keeper.found()
        if resumed:
            epoch = keeper.restore()
            bar.say(f"resumed from {checkpoint}: {training.epoch} epochs, {training.step} steps done")
        for callback in called:
            getattr(callback, "start", _nothing)(training)
        if not resumed:
            keeper.save()  # so that resuming finds no older run here, and a path that can't be written is found now

    with ranks, bar, Interrupt(ranks.first) as interrupt:

        def judge(prediction, target):
            value, gradient = checked_result(loss(prediction, target), prediction, "fit")
            finite = math.isfinite(value)
            return value, gradient, [metric(prediction, target) if finite else 0.0 for metric in metrics.values()]

        def flags():
            return interrupt.asked, keeper.due()

        def broken(what, step):
            ranks.leave()
            return ranks.known(not_finite(what, model, loss, *data.last(epoch), epoch.number, step))

        judge = ranks.judging(judge, len(metrics), flags)
        epoch, asked = ranks.spread(training, epoch), False
        while training.epoch < epochs and not training.stop and not asked:
            epoch = epoch or Epoch(training.epoch + 1, seed, ["loss", *metrics])
            began = time.perf_counter() - epoch.seconds
            bar.start(epoch.number, epoch.samples)
            ranks.join()
            for x_batch, y_batch, n in data.left(epoch):
                if schedule is not None:
                    optimizer.lr = schedule(training.step)
                prediction = model.forward(x_batch, training=True)
                value, gradient, numbers = judge(prediction, y_batch)  # the loss, its gradient, the metrics
                if not math.isfinite(value):
                    raise broken(f"the loss is {value}", training.step + 1)
                model.backward(gradient)
                ranks.sum_gradients()  # over the processes, where there are several
                optimizer.step()

                training.step += 1
                epoch.add(n, (value, *numbers))
                bar.advance(n, epoch.totals, epoch.samples)
                asked, due = ranks.flags(flags)
                if asked or due:
                    epoch.seconds = time.perf_counter() - began
                    if asked or not np.isfinite(model.flat_values).all():
                        break
                    keeper.save(epoch)

            ranks.leave()
            if not np.isfinite(model.flat_values).all():
                raise broken("a parameter is not finite", training.step)
            asked = ranks.any(interrupt.asked)
            if asked:
                break
            results = epoch.means()
            if validation is not None:
                results |= _evaluated(model, *validation, loss, metrics, ranks)
            seconds = time.perf_counter() - began
            results, seconds = ranks.from_first((results, seconds))
            for name, result in (results | {"lr": optimizer.lr, "seconds": seconds}).items():
                history.setdefault(name, []).append(result)
            bar.finish(results, epoch.samples / seconds)
            training.epoch, epoch = epoch.number, None
            for callback in called:
                callback(training)
            ranks.spread(training)
            keeper.save()
            asked = ranks.any(interrupt.asked)

        history.interrupted = asked
        if asked:
            keeper.save(epoch)
            bar.say(f"interrupted after {training.epoch} epochs, {training.step} steps")
        for callback in called:
            getattr(callback, "finish", _nothing)(training)
        ranks.spread(training)
        ranks.spread_callbacks(with_state(callbacks))
    return history


def _nothing(training):
    pass


class _Data:
    """The training set, in the order that each epoch has."""

    def __init__(self, x, y, batch_size, augment, seed, ranks):
        batches(x, y, batch_size, shuffle=False)  # complains about x, y and batch_size now
        self.x, self.y, self.batch_size, self.seed, self.ranks = x, y, batch_size, seed, ranks
        self.augment = None if augment is None else arguments.augmentation(augment)

    def left(self, epoch):
        """Each batch that the epoch still has, and its number of rows: (x, y, n)."""
        shard = self.ranks.shard if self.augment is None else None
        order = batches(self.x, self.y, self.batch_size, seed=(self.seed, epoch.number), shard=shard)
        for index, (x, y) in enumerate(islice(order, epoch.batches, None), epoch.batches):
            n = min(self.batch_size, len(self.x) - epoch.samples)
            if self.augment is not None:
                x, y = self.augment(x, y, epoch.rng)
                n = len(x)
                x, y = self.ranks.share(x, y)
            self.ranks.place(n)
            self.given = index, x, y
            yield x, y, n

    def last(self, epoch):
        """The batch given last, with all ranks' shares, and the numbers of the samples that it was made of."""
        index, x, y = self.given
        numbers = np.arange(len(self.x))
        order = batches(numbers, numbers, self.batch_size, seed=(self.seed, epoch.number))
        return self.ranks.whole(x), self.ranks.whole(y), next(islice(order, index, None))[0]


def _evaluated(model, x, y, loss, metrics, ranks):
    prediction = ranks.predict(model, x)
    if not ranks.first:
        return {}
    try:
        results = {"val_loss": float(loss(prediction, y)[0])}
        return results | {f"val_{name}": float(metric(prediction, y)) for name, metric in metrics.items()}
    except Exception as error:
        error.add_note("fit: this is about the validation set")
        raise
