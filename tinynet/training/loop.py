"""Training: the five-line loop, with what one wishes for around it.

    for x, y in batches(x_train, y_train, batch_size):
        prediction = model.forward(x, training=True)
        value, gradient = loss(prediction, y)
        model.backward(gradient)
        optimizer.step()

fit is that loop over many epochs, with a progress bar, validation, metrics, a schedule of the learning rate, a
history and checkpoints, and it stops where the loss is no longer a number.  Write the loop yourself when you need
anything else.

What fit calls lies beside it: arguments.py checks what it was given, run.py is all that happens around the loop,
last_layer.py joins the last layer to its loss where that is asked for (else `body` is the model), resume.py keeps a run
in a file and brings it back, and not_finite.py finds where a NaN began.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from tinynet.checks import number_within, positive_int
from tinynet.checks.other_names import naming_options
from tinynet.data.batches import checked_weights
from tinynet.data.sequences import as_inputs, count, split
from tinynet.losses.by_name import loss_function
from tinynet.training import arguments
from tinynet.training.callbacks import Checkpoint, CSVLog, EarlyStopping, ReduceOnPlateau
from tinynet.training.class_weights import with_class_weight
from tinynet.training.distributed import Ranks
from tinynet.training.held_out import hold_out, is_share
from tinynet.training.history import History, Training
from tinynet.training.last_layer import with_last_layer
from tinynet.training.metrics import check_whole, checked_metrics
from tinynet.training.moving_average import MovingAverage
from tinynet.training.not_finite import NonFiniteError
from tinynet.training.one_process import OneProcess
from tinynet.training.resume import settings
from tinynet.training.run import Run
from tinynet.training.samples import Data, Stream
from tinynet.training.schedules import Schedule

__all__ = [
    "CSVLog",
    "Checkpoint",
    "EarlyStopping",
    "History",
    "MovingAverage",
    "NonFiniteError",
    "ReduceOnPlateau",
    "Training",
    "fit",
]

BATCH_SIZE = 64
OF_RANK_0 = ("the model's seed", "the list of callbacks with a state")  # other ranks' may be others


@naming_options
def fit(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    loss: Callable[..., Any] | str,
    optimizer: Any,
    epochs: int,
    batch_size: int = BATCH_SIZE,
    similar_length: bool = False,
    drop_last: bool = False,
    validation: Any = None,
    metrics: Any = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    augment: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    schedule: Schedule | None = None,
    callbacks: Callable[[Training], Any] | Sequence[Callable[[Training], Any]] = (),
    checkpoint: str | bytes | os.PathLike | None = None,
    resume: bool = False,
    seed: int = 0,
    progress: bool = True,
    prefetch: bool = True,
    communicator: Any = None,
) -> History:
    """Train the model on samples x with targets y; returns a History.

    An epoch takes all samples once, in random batches, and for each batch: forward, loss, backward, a step of the
    optimizer.  The History has a number for each epoch, history["loss"] and what else was asked for.

    x, y        arrays (N, ...), or data sets as tn.batches takes them; y of a model with one output is (N,) or (N, 1).
                Sequences of unequal length are a pair x = (sequences, lengths), here and in `validation` (tn.data.pad
                makes one); if the model's output keeps time, y is (N, T, ...), and what lies behind the lengths counts
                nowhere: the loss and the metrics are given the other positions alone, as rows.  Several inputs are a
                tuple (images, table).  Without y, x makes the batches: a PyTorch DataLoader, a list, or a function that
                returns an iterator, of (x, y) or (x, y, sample_weight) each, channels last.  A resumed run then goes on
                with whatever comes next, and only its finished epochs are the same
    similar_length  whether batches are of sequences of similar length, of which less is padding
    loss        a function (prediction, target) -> (value, gradient), such as softmax_cross_entropy, or the name of one.
                linear_cross_entropy computes the model's last layer, a Dense or TiedDense, too, and never stores its
                logits: for large vocabularies.  Metrics other than accuracies and losses are given the logits, though
    optimizer   made for this very model: Adam(model, lr=1e-3)
    drop_last   whether the samples that are left over after the last whole batch of an epoch are left out
    validation  a pair (x, y), or (x, y, sample_weight), judged after every epoch; or a share of the samples, 0.2 say,
                drawn by the seed, of each class the same share if y is labels: those are not trained on.  Of samples
                that come in time, such as prices, rather give the last ones yourself.  Or batches, as x may be
    metrics     names ("accuracy", "top_5", "precision", "recall", "f1", "auc", "average_precision", "r2", "rmse"),
                losses for their value ("mae"), functions (prediction, target) -> number of yours, or a list or dict of
                those.  This package's know from the loss and the last layer what the outputs are.  Accuracies, losses
                and functions of yours are means over the batches of an epoch; the others, and yours with an attribute
                of_epoch = True, are of all its predictions at once.  An attribute better = "max" or "min" of yours
                tells callbacks which way is better
    sample_weight  (N,), one number of at least 0 for each sample: the loss is the weighted mean, and twice the weight
                is the same as twice the sample.  All positions of a sequence have its weight.  Whatever metric has an
                argument `sample_weight` is weighted, too, as this package's are; a loss needs it
    class_weight  what a class counts for in the loss, here and in the validation: "balanced" by how rare it is in y
                (tn.balanced_class_weights), {class: number}, others being 1, or an array (C,).  It is the loss's option
                `weight`, or of a yes or no `weight` and `pos_weight`; metrics are not weighted by it
    augment     a function (x, rng) -> x or (x, y, rng) -> (x, y), called on every training batch, which it may
                overwrite.  Where its parameter `rng` stands tells which; without one of that name, how many it needs.
                Of a list of such functions, each gets what the one before made.  What is sample n after it has the
                weight that sample n had before
    schedule    a function step -> learning rate, with steps counted from 0 over the whole training
    callbacks   functions that are given a Training after every epoch, such as EarlyStopping; one that has a method
                step(training) is called by it after every step, too, in which it may read.  One that watches a metric
                of your own needs mode="min" or "max": which way is better, only this package's metrics tell
    checkpoint  a file for the whole state of the run, written at the start, after every epoch, about every minute
                within one, and on Ctrl-C
    resume      go on from that file, if it is there; a run that is finished returns its history at once, and more
                `epochs` than it had continue it
    seed        of the order of the samples, and of augment's rng: the same seed gives the same result, to the bit
    progress    a line an epoch, and on a terminal a bar until it is there; False for silence.  Where it can't be
                written, the training goes on without
    prefetch    whether a thread reads the next two batches while the model is trained on one, of data that are no
                arrays in memory; False if they must be read in the thread that calls fit
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

    >>> (x, y), (x_test, y_test) = tn.data.digits()
    >>> model = tn.Sequential([tn.Flatten(), tn.Dense(10)], input_shape=(8, 8, 1), seed=0)
    >>> history = tn.fit(
    ...     model, x, y, loss="cross_entropy", optimizer=tn.Adam(model, 0.01), epochs=3, metrics="accuracy",
    ...     progress=False,
    ... )
    >>> tn.accuracy(model.predict(x_test), y_test) > 0.9
    True
    """
    ranks = OneProcess() if communicator is None else Ranks(communicator)
    with ranks.agreeing():
        epochs, seed = positive_int(epochs, "fit: epochs"), positive_int(seed, "fit: seed", 0)
        arguments.check_model(model, optimizer)
        loss = loss_function(loss, "fit", with_layer=True, model=model)
        metrics = checked_metrics(metrics, loss, model)
        callbacks = [callbacks] if callable(callbacks) else list(callbacks)
        arguments.check_functions(augment, schedule, callbacks)
        share, numbers = validation if is_share(validation) else None, None
        if y is None:
            arguments.check_stream(
                x, epochs, "fit", batch_size=None if batch_size == BATCH_SIZE else batch_size,
                sample_weight=sample_weight, similar_length=similar_length, drop_last=drop_last,
                communicator=communicator, **{"a share as validation": share},
            )  # fmt: skip
        else:
            x = as_inputs(x, model, "fit: x")
            arguments.check_batches(x, y, batch_size, similar_length, drop_last)
            arguments.check_samples(x, y, model, augment)
        if sample_weight is not None:
            sample_weight = checked_weights(sample_weight, count(x), "fit")
        if share is not None:
            (x, y, sample_weight, numbers), validation = hold_out(x, y, sample_weight, share, seed)
        validation = arguments.checked_validation(validation, model)
        if sample_weight is not None or len(validation or ()) > 2:
            arguments.check_takes_weights(loss, "fit")
        loss = with_class_weight(loss, class_weight, y, model)
        arguments.check_monitors(callbacks, metrics, validation)
        arguments.check_last_words(callbacks)
        arguments.check_ending(model, loss)
        checkpoint = arguments.checkpoint_path(checkpoint, resume, optimizer)
        arguments.check_files(checkpoint, callbacks)
        if y is None:
            data = Stream(model, x, augment, seed)
        else:
            data = Data(
                x, y, sample_weight, numbers, batch_size, similar_length, drop_last, augment, seed, ranks, prefetch
            )
            arguments.check_last_batch(model, data.samples, batch_size, augment)
        if split(x)[1] is None and augment is None:
            check_whole(metrics, model, y, sample_weight, where="the targets")
        if len(validation or ()) > 1 and split(validation[0])[1] is None:
            check_whole(metrics, model, *validation[1:], where="validation's targets")
        body, judge, metrics = with_last_layer(model, loss, metrics)
        same = None
        if checkpoint is not None or not ranks.alone:
            same = settings(
                model, data, loss, optimizer, validation, metrics, augment, schedule, callbacks,
                {"validation's share": share, "class_weight": class_weight},
            )  # fmt: skip
    if same is not None:
        ranks.compare({name: value for name, value in same.items() if name not in OF_RANK_0} | {"epochs": epochs})
    ranks.prepare(model)

    training = Training(model, optimizer)
    run = Run(
        training, body, data, judge, metrics, validation, callbacks, checkpoint, same, epochs, seed, progress, ranks
    )
    with ranks.agreeing():
        run.begin(resume)
    with ranks, run.bar, run.interrupt:
        for epoch in run.epochs():
            for x_batch, y_batch in run.batches(epoch):
                if schedule is not None:
                    optimizer.lr = number_within(schedule(training.step), f"fit: schedule({training.step})")
                prediction = body.forward(x_batch, training=True)
                value, gradient = run.loss(prediction, y_batch)
                body.backward(gradient)
                ranks.sum_gradients()  # over the processes that train together, where there are several
                optimizer.step()
        run.end()
    return training.history
