"""Other packages' models and arrays, in and out.

`tinynet.interop.sklearn` and the losses made of PyTorch's classes are loaded when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinynet.interop.onnx import to_onnx
from tinynet.interop.torch import from_torch, to_torch, to_torch_module
from tinynet.interop.torch_side import torch_side

if TYPE_CHECKING:
    from tinynet.interop.torch_linear import torch_linear_cross_entropy
    from tinynet.interop.torch_losses import TorchCrossEntropyLoss, torch_cross_entropy
else:  # what __getattr__ finds, for programs that list what there is
    TorchCrossEntropyLoss: type
    torch_cross_entropy: Any
    torch_linear_cross_entropy: Any

__all__ = [
    "TorchCrossEntropyLoss",
    "from_torch",
    "to_onnx",
    "to_torch",
    "to_torch_module",
    "torch_cross_entropy",
    "torch_linear_cross_entropy",
]

LOSSES = {
    "TorchCrossEntropyLoss": "torch_losses",
    "torch_cross_entropy": "torch_losses",
    "torch_linear_cross_entropy": "torch_linear",
}


def __getattr__(name: str) -> Any:
    if name == "sklearn":
        return import_module("tinynet.interop.sklearn")
    if name in LOSSES:
        return getattr(torch_side(name, f"interop.{LOSSES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
