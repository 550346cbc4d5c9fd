"""The same loss on a GPU: the arrays decide where it is computed.

    python examples/20_cuda.py

Arrays come from PyTorch or CuPy if one of them is here and sees a GPU, else from Numba.  Without a GPU, the kernels run
in Numba's simulator, where each GPU thread is a thread of Python: slow, but the same code.
"""

import importlib
import os
import sys

import numpy as np


def gpu_library():
    """("PyTorch", array to device), ("CuPy", ...) or ("Numba", ...): the first that sees a GPU; else None."""
    for name, module, sees, to_device in (
        ("PyTorch", "torch", lambda m: m.cuda.is_available(), lambda m: lambda x: m.as_tensor(x, device="cuda")),
        ("CuPy", "cupy", lambda m: m.cuda.is_available(), lambda m: m.asarray),
        ("Numba", "numba.cuda", lambda m: m.is_available(), lambda m: m.to_device),
    ):
        try:
            library = importlib.import_module(module)
            if sees(library):
                return name, to_device(library)
        except ImportError:
            continue
    return None


def main():
    try:
        importlib.import_module("numba_cuda")
    except ImportError:
        print('This example needs numba-cuda: pip install "tinynet-numba[cuda]"')
        return
    found = None if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" else gpu_library()
    if found is None and os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
        print("no GPU here: the kernels run in Numba's simulator", flush=True)
        os.execv(sys.executable, [sys.executable, *sys.argv])  # chosen once, before numba.cuda is imported

    import tinynet as tn

    if found is None:
        from numba import cuda

        found = "Numba's simulator", cuda.to_device
    name, to_device = found

    random = np.random.default_rng(0)
    logits = random.normal(size=(32, 10)).astype(np.float32)
    targets = random.integers(0, 10, 32)
    value, gradient = tn.softmax_cross_entropy(logits, targets)
    print(f"on the CPU:  loss {value:.6f}, gradient's norm {np.linalg.norm(gradient):.6f}")

    device_value, device_gradient = tn.softmax_cross_entropy(to_device(logits), to_device(targets))
    back = device_gradient.copy_to_host()
    print(f"with {name}:  loss {float(device_value.copy_to_host()):.6f}, gradient's norm {np.linalg.norm(back):.6f}")
    difference = np.abs(back - gradient).max()
    assert difference < 1e-7, f"the gradients differ by {difference}"

    # In place: the gradient overwrites the logits, so that no further memory is needed.
    z = to_device(logits)
    tn.softmax_cross_entropy(z, to_device(targets), out=z)

    try:
        tn.softmax_cross_entropy(to_device(logits), targets)
    except TypeError as error:
        print(f"host and device do not mix:  {error}")


if __name__ == "__main__":
    main()
