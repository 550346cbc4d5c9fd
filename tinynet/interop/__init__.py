"""Other packages' models and arrays, in and out."""

from tinynet.interop.onnx import to_onnx
from tinynet.interop.torch import from_torch, to_torch, to_torch_module, torch_cross_entropy

__all__ = ["from_torch", "to_onnx", "to_torch", "to_torch_module", "torch_cross_entropy"]
