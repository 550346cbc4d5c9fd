"""The same loss on a GPU: the arrays decide where it is computed.

    python examples/20_cuda.py

A GPU has thousands of threads and a memory of its own.  Its threads work on what lies there, "device" arrays; NumPy's
lie in the computer's own memory, on the "host".  tn.softmax_cross_entropy takes either kind, works where its arrays
lie, and leaves the value and the gradient there.  The formulas are those of example 02, for N images and ten classes:

    L = -mean log p[n, t[n]]       p = softmax(z)       dz = (p - onehot(t)) / N       z, p, dz (N, 10)   t (N,)

What differs is who does the work.  A thread of the CPU takes many rows, one after the other.  On a GPU a row of up to
32 classes has a thread to itself; a longer one is shared by 32 threads (a warp), which read it in turn and then add up
what they have found, and beyond 1,024 classes by several warps (a block).  So the sums are rounded in another order,
and the gradients agree apart from rounding.  Nothing is copied between host and device without being asked: a call that
mixes both kinds is refused.

The picture shows dz, a column for each image: blue at its true digit, whose logit is pushed up; pale orange elsewhere.

Arrays come from PyTorch or CuPy if one of them is here and sees a GPU, else from Numba.  Without a GPU, the kernels run
in Numba's simulator, where each GPU thread is a thread of Python: slow, but the same code.
"""

import importlib
import os
import sys

import gallery
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
    options = gallery.options(__doc__)
    try:
        importlib.import_module("numba_cuda")
    except ImportError:
        sys.exit('This example needs numba-cuda: pip install "tinynet-numba[cuda]"')
    found = None if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" else gpu_library()
    if found is None and os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
        print("no GPU here: the kernels run in Numba's simulator", flush=True)
        os.execv(sys.executable, [sys.executable, *sys.argv])  # chosen once, before numba.cuda is imported

    from numba import cuda

    import tinynet as tn

    name, to_device = found or ("Numba's simulator", cuda.to_device)

    (x_train, y_train), (x_test, y_test) = tn.data.digits()
    model = tn.Sequential([tn.Flatten(), tn.Dense(10)], input_shape=(8, 8, 1))
    tn.fit(model, x_train, y_train, loss=tn.softmax_cross_entropy, optimizer=tn.Adam(model), epochs=3, progress=False)
    logits, targets = model.predict(x_test[:32]), y_test[:32]
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
    overwritten = (z if "Numba" in name else cuda.as_cuda_array(z)).copy_to_host()
    assert np.abs(overwritten - gradient).max() < 1e-7, "in place it is the same"

    try:
        tn.softmax_cross_entropy(to_device(logits), targets)
    except TypeError as error:
        print(f"host and device do not mix:  {error}")
    else:
        raise AssertionError("a call with logits on the device and targets on the host must be refused")

    figure = tn.plots.figure(9, 3.6)
    pictures = (("on the CPU", gradient), (f"with {name}", back), ("their difference", back - gradient))
    for panel, (title, values) in zip(figure.subplots(1, 3), pictures, strict=True):
        most = max(np.abs(values).max(), 1e-12)
        image = panel.imshow(values.T, cmap=tn.plots.signed_colours(), vmin=-most, vmax=most, aspect="auto")
        panel.set(xlabel="image", ylabel="digit", yticks=range(10))
        panel.set_title(title, fontsize=11)
        bar = figure.colorbar(image, ax=panel, location="bottom")
        bar.set_ticks([-most, 0, most], labels=[f"{-most:.1g}", "0", f"{most:.1g}"])
    figure.suptitle("The gradient with respect to the logits of 32 digits", fontsize=12)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
