"""Training: fit, and what it calls."""

from tinynet.training import distributed, optim
from tinynet.training.callbacks import Checkpoint, CSVLog, EarlyStopping, ReduceOnPlateau
from tinynet.training.evaluation import evaluate
from tinynet.training.history import History, Training
from tinynet.training.loop import fit
from tinynet.training.moving_average import MovingAverage
from tinynet.training.not_finite import NonFiniteError

__all__ = [
    "CSVLog",
    "Checkpoint",
    "EarlyStopping",
    "History",
    "MovingAverage",
    "NonFiniteError",
    "ReduceOnPlateau",
    "Training",
    "distributed",
    "evaluate",
    "fit",
    "optim",
]
