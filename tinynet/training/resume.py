"""How a run of fit goes on where it was stopped: what its checkpoint holds, and what makes it the same run.

checkpoint.py writes and reads the file.  In it, beside the model's arrays, are

    the settings     what the run was given, as names and short values: a resumed run must be given the same
    the state        epochs and steps done, the history, the epoch under way, what was set of layers and parameters
                     (what is frozen, say), and what the optimizer, Dropout and the callbacks remember

The order of the samples needs no saving: an epoch's is drawn from the seed and its number alone, and the epoch under
way knows how many batches of it are done.
"""

import os
import time
import zlib

import numpy as np

from tinynet.checkpoint import described, load_run, save_run
from tinynet.data.sequences import count
from tinynet.data.writing import target
from tinynet.layers import options
from tinynet.losses.by_name import without_options

SAVE_SECONDS = 60  # a checkpoint older than this is written anew in the middle of an epoch


class Epoch:
    """An epoch under way: with the model and the optimizer, all that a run needs to go on in the middle of it.

    number             of the epoch, from 1
    batches, samples   how many of each are done
    totals, weights    name -> the sum over all that counts, and how much that is, for the loss and each metric
    kept               the predictions, targets and weights of the batches, for metrics of the whole epoch
    seconds            how long they took, until the last save
    rng                augment's
    """

    def __init__(self, number, seed, names):
        self.number = number
        self.batches = self.samples = 0
        self.totals, self.weights = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        self.kept, self.seconds = ([], [], []), 0.0
        self.rng = np.random.default_rng((seed, number, 1))

    def add(self, n, means, weights):
        """Count a batch of n samples, with the mean of each name over it, and over how much that is a mean."""
        self.batches += 1
        self.samples += n
        for name, mean, weight in zip(self.totals, means, weights, strict=True):
            self.totals[name] += weight * float(mean)
            self.weights[name] += weight

    def keep(self, *batch):
        """Keep a batch's predictions, targets and weights, which may be None."""
        for kept, part in zip(self.kept, batch, strict=True):
            if part is not None:
                kept.append(np.asarray(part))

    def whole(self):
        """What was kept, each in one array; None where there is nothing."""
        return [np.concatenate(parts) if parts else None for parts in self.kept]

    def means(self):
        """The mean of each name so far; 0 where nothing counted."""
        return {name: total / (self.weights[name] or 1.0) for name, total in self.totals.items()}

    def state_dict(self):
        return {**vars(self), "kept": self.whole(), "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state):
        self.rng.bit_generator.state = state["rng"]
        for name in ("number", "batches", "samples", "totals", "seconds"):
            setattr(self, name, state[name])
        self.kept = tuple([] if whole is None else [whole] for whole in state.get("kept", (None,) * 3))
        self.weights = state.get("weights", dict.fromkeys(self.totals, float(self.samples)))  # 0.1 had none


class Keeper:
    """Writes a run to its file, and brings it back.  Without a path it does nothing."""

    def __init__(self, path, settings, training, epochs, callbacks):
        self.path, self.settings, self.training, self.epochs = path, settings, training, epochs
        self.callbacks = with_state(callbacks)
        self.random_layers = [layer for layer in training.model.walk() if layer.state is not None]
        self.saved = time.perf_counter()

    def found(self):
        return self.path is not None and os.path.exists(self.path)

    def due(self):
        return self.path is not None and time.perf_counter() - self.saved > SAVE_SECONDS

    def save(self, epoch=None):
        """`epoch` is the one under way, if there is one."""
        if self.path is None:
            return
        training = self.training
        state = {
            "epochs": self.epochs,
            "epoch": training.epoch,
            "step": training.step,
            "stop": training.stop,
            "history": training.history,
            "under way": None if epoch is None else epoch.state_dict(),
            "optimizer": training.optimizer.state_dict(),
            "layers": [layer.state for layer in self.random_layers],
            "settings of layers": options.settings(training.model.layers),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
        }
        save_run(training.model, self.path, self.settings, state)
        self.saved = time.perf_counter()

    def restore(self):
        """The epoch under way, or None.  Where the file does not fit, a ValueError, and nothing has changed."""
        training = self.training
        settings, state, fill = load_run(training.model, self.path, self.settings)
        stop = state["stop"] and self.epochs <= state["epochs"]
        if state["epoch"] < self.epochs and not stop:
            target(self.path, "fit")  # what can't be written is found now, and not after an epoch
        epoch = None
        if state["under way"] is not None:
            epoch = Epoch(0, 0, ())
            epoch.load_state_dict(state["under way"])
        loaded = []
        try:
            owners = [*self.callbacks, training.optimizer]
            for owner, its in zip(owners, [*state["callbacks"], state["optimizer"]], strict=True):
                loaded.append((owner, owner.state_dict()))
                owner.load_state_dict(its)
        except Exception:
            for owner, before in loaded:
                owner.load_state_dict(before)
            raise
        fill()
        for layer, its in zip(self.random_layers, state["layers"], strict=True):
            layer.state = its
        if "settings of layers" in state:  # there are none of version 0.1
            options.set_again(training.model.layers, state["settings of layers"])
        training.history.update(state["history"])
        training.epoch, training.step = state["epoch"], state["step"]
        training.stop = stop
        self.settings = settings  # with the learning rate that it began with
        return epoch


def with_state(callbacks):
    return [c for c in callbacks if hasattr(c, "state_dict") and hasattr(c, "load_state_dict")]


def settings(model, data, loss, optimizer, validation, metrics, augment, schedule, callbacks, others):
    """What must be the same for a run to be resumed: names -> strings, numbers or None.

    Of what was added to fit later, and of `others`, those that are None are left out, as in files of earlier versions.
    """
    of_optimizer = {
        f"optimizer's {name}": value
        for name, value in getattr(optimizer, "state_dict", dict)().items()
        if not isinstance(value, np.ndarray) and name != "steps" and not (name == "lr" and schedule is not None)
    }
    loss, _ = without_options(loss)
    return {
        **data.settings(),
        **{name: str(value) for name, value in others.items() if value is not None},
        "validation's number of samples": count(validation[0]) if validation and len(validation) > 1 else None,
        **({"the checksum of validation's weights": checksum(validation[2])} if len(validation or ()) > 2 else {}),
        "the loss": getattr(loss, "__name__", type(loss).__name__),
        "the list of metrics": ", ".join(map(str, metrics)) or "empty",
        "augment": augment is not None,
        "schedule": schedule is not None,
        "the list of callbacks with a state": ", ".join(type(c).__name__ for c in with_state(callbacks)) or "empty",
        "the model's seed": getattr(model, "seed", None),
        "the model's dtype": str(model.dtype),
        "the model's input_shape": str(model.input_shape),
        **described(model),
        **of_optimizer,
    }


def checksum(array):
    """Of an array's numbers."""
    return zlib.crc32(np.ascontiguousarray(array))
