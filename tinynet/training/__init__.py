"""Training: fit, and what it calls."""

from tinynet.training import distributed, optim
from tinynet.training.callbacks import Checkpoint, CSVLog, EarlyStopping
from tinynet.training.history import History, Training
from tinynet.training.loop import fit
from tinynet.training.not_finite import NonFiniteError

__all__ = [
    "CSVLog",
    "Checkpoint",
    "EarlyStopping",
    "History",
    "NonFiniteError",
    "Training",
    "distributed",
    "fit",
    "optim",
]
