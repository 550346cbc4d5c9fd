"""Other packages' models and arrays, in and out.  `tinynet.interop.sklearn` is loaded when it is asked for."""

from importlib import import_module
from typing import Any

from tinynet.interop.onnx import to_onnx
from tinynet.interop.torch import from_torch, to_torch, to_torch_module, torch_cross_entropy

__all__ = ["from_torch", "to_onnx", "to_torch", "to_torch_module", "torch_cross_entropy"]


def __getattr__(name: str) -> Any:
    if name == "sklearn":
        return import_module("tinynet.interop.sklearn")
    raise AttributeError(f"module 'tinynet.interop' has no attribute {name!r}")
