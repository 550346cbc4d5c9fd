"""tinynet: neural networks to read and to use.

No autograd: every backward pass is derived by hand, in the file of its layer or loss, and compiled by Numba.

    import tinynet as tn

    model = tn.Sequential([tn.Dense(32, activation="relu"), tn.Dense(10)], input_shape=64, seed=0)
    optimizer = tn.Adam(model, lr=1e-3)
    for x, y in tn.batches(x_train, y_train, batch_size=64, seed=0):
        logits = model.forward(x, training=True)
        loss, dlogits = tn.softmax_cross_entropy(logits, y)
        model.backward(dlogits)
        optimizer.step()
"""

import sys

from tinynet import data, gradcheck, information, interop, metrics, plots, zoo
from tinynet.checkpoint import load, save
from tinynet.config import get_num_threads, set_num_threads, show_config
from tinynet.data.balance import balanced_class_weights
from tinynet.data.batches import batches
from tinynet.explain import explain
from tinynet.generate import generate
from tinynet.gradients import gradients
from tinynet.layers.activations import GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Softplus, Swish, Tanh
from tinynet.layers.attention import MultiHeadAttention
from tinynet.layers.base import Layer
from tinynet.layers.batchnorm import BatchNorm
from tinynet.layers.blocks import Concat, Residual
from tinynet.layers.class_token import ClassToken, Select
from tinynet.layers.conv1d import Conv1D
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.conv_transpose2d import ConvTranspose2D
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout, SpatialDropout
from tinynet.layers.elu import ELU, SELU
from tinynet.layers.embedding import Embedding
from tinynet.layers.groupnorm import GroupNorm
from tinynet.layers.gru import GRU
from tinynet.layers.layernorm import LayerNorm
from tinynet.layers.lstm import LSTM
from tinynet.layers.normalize import Normalize
from tinynet.layers.parallel import Parallel
from tinynet.layers.parameter import Parameter
from tinynet.layers.pooling import AdaptiveAvgPool2D, AvgPool2D, GlobalAvgPool2D, GlobalMaxPool2D, MaxPool2D
from tinynet.layers.pooling_1d import AvgPool1D, MaxPool1D
from tinynet.layers.pooling_over_time import GlobalAvgPool1D, GlobalMaxPool1D
from tinynet.layers.position_embedding import PositionEmbedding
from tinynet.layers.relu6 import ReLU6
from tinynet.layers.rmsnorm import RMSNorm
from tinynet.layers.shape import Flatten, Reshape
from tinynet.layers.softmax import Softmax
from tinynet.layers.tied_dense import TiedDense
from tinynet.layers.transformer import TransformerBlock
from tinynet.layers.upsample2d import Upsample2D
from tinynet.losses.binary_cross_entropy import binary_cross_entropy
from tinynet.losses.categorical_cross_entropy import categorical_cross_entropy
from tinynet.losses.declaration import declares
from tinynet.losses.hinge import hinge
from tinynet.losses.huber import huber
from tinynet.losses.kl_divergence import kl_divergence
from tinynet.losses.linear_cross_entropy import linear_cross_entropy
from tinynet.losses.mean_absolute_error import mean_absolute_error
from tinynet.losses.mean_squared_error import mean_squared_error
from tinynet.losses.multiclass_hinge import multiclass_hinge
from tinynet.losses.nll import nll
from tinynet.losses.nt_xent import nt_xent
from tinynet.losses.poisson_nll import poisson_nll
from tinynet.losses.self_distillation import self_distillation
from tinynet.losses.sigmoid_cross_entropy import sigmoid_cross_entropy
from tinynet.losses.sigmoid_focal import sigmoid_focal
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy
from tinynet.losses.softmax_focal import softmax_focal
from tinynet.metrics import accuracy
from tinynet.model import Sequential
from tinynet.probabilities import sigmoid, softmax
from tinynet.training import (
    Checkpoint,
    CSVLog,
    EarlyStopping,
    History,
    MovingAverage,
    NonFiniteError,
    ReduceOnPlateau,
    distributed,
    evaluate,
    fit,
    history,
    optim,
)
from tinynet.training.optim import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    RMSprop,
    constant,
    cosine,
    exponential,
    one_cycle,
    polynomial,
    sequence,
    step_decay,
)

__version__ = "0.1.0"

# `import tinynet.optim` finds it too, and so does the pickle of a History that 0.1 made.
for _module in (optim, distributed, history):
    sys.modules[f"tinynet.{_module.__name__.rpartition('.')[2]}"] = _module

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "SELU",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "AdaptiveAvgPool2D",
    "AvgPool1D",
    "AvgPool2D",
    "BatchNorm",
    "CSVLog",
    "Checkpoint",
    "ClassToken",
    "Concat",
    "Conv1D",
    "Conv2D",
    "ConvTranspose2D",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "Flatten",
    "GlobalAvgPool1D",
    "GlobalAvgPool2D",
    "GlobalMaxPool1D",
    "GlobalMaxPool2D",
    "GroupNorm",
    "History",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "MaxPool1D",
    "MaxPool2D",
    "MovingAverage",
    "MultiHeadAttention",
    "NonFiniteError",
    "Normalize",
    "Parallel",
    "Parameter",
    "PositionEmbedding",
    "RMSNorm",
    "RMSprop",
    "ReLU",
    "ReLU6",
    "ReduceOnPlateau",
    "Reshape",
    "Residual",
    "Select",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "SpatialDropout",
    "Swish",
    "Tanh",
    "TiedDense",
    "TransformerBlock",
    "Upsample2D",
    "accuracy",
    "balanced_class_weights",
    "batches",
    "binary_cross_entropy",
    "categorical_cross_entropy",
    "constant",
    "cosine",
    "data",
    "declares",
    "distributed",
    "evaluate",
    "explain",
    "exponential",
    "fit",
    "generate",
    "get_num_threads",
    "gradcheck",
    "gradients",
    "hinge",
    "huber",
    "information",
    "interop",
    "kl_divergence",
    "linear_cross_entropy",
    "load",
    "mean_absolute_error",
    "mean_squared_error",
    "metrics",
    "multiclass_hinge",
    "nll",
    "nt_xent",
    "one_cycle",
    "optim",
    "plots",
    "poisson_nll",
    "polynomial",
    "save",
    "self_distillation",
    "sequence",
    "set_num_threads",
    "show_config",
    "sigmoid",
    "sigmoid_cross_entropy",
    "sigmoid_focal",
    "softmax",
    "softmax_cross_entropy",
    "softmax_focal",
    "step_decay",
    "zoo",
]
