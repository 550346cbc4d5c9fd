"""What needs PyTorch is imported when it is first asked for, and not before."""

from importlib import import_module


def torch_side(name, module="interop.torch_modules"):
    """One of the modules that need PyTorch, for the function `name`, which the error names where it is missing."""
    try:
        return import_module(f"tinynet.{module}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"{name} needs PyTorch, which is not installed here: pip install torch") from None
