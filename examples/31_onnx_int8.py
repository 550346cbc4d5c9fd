"""Out of the house: the same network as an ONNX file, and with a byte for each number in place of four.

    python examples/31_onnx_int8.py [--seed 0]

What is trained here may have to run elsewhere: in a phone, a browser, a C++ program.  ONNX is a file format for that: a
list of operators, Conv and MatMul and Relu, each with its weights.  `tn.interop.to_onnx` writes one, and onnxruntime,
which needs neither tinynet nor Python, computes the same of it:

    tn.interop.to_onnx(model, "model.onnx")
    y = onnxruntime.InferenceSession("model.onnx").run(None, {"x": x})[0]

Does a network need all 32 bits of a float32?  Quantisation takes 8.  Each number x of a tensor is replaced by a whole
number q, so that

    x ~ s (q - z)         q = round(x / s) + z, within -128 .. 127

s, the scale, is how far apart two neighbouring numbers are; z, the zero point, is the q that means 0, and is there
because what comes out of a ReLU has no negative half that bits should be spent on.  For weights z is 0 and s follows
from the largest of each filter: s = max |w| / 127.  So none is wrong by more than s / 2, which is one part in 254 of
the largest one.  The left picture shows it, for one filter of the first layer.

Weights lie there to be looked at; how large a layer's outputs become, only inputs tell.  So the quantiser is shown some
training images, for which it notes the smallest and the largest number behind each layer: calibration.  Numbers beyond
those are cut off later; in the middle picture, the largest logits are.

Why it pays.  Write x = s (q - z) and w = t r for the products of a layer:

    sum_i x_i w_i = s t (sum_i q_i r_i - z sum_i r_i)

The sums are of whole numbers, of which a processor multiplies four times as many at once, and three quarters of the
memory traffic are gone.  Not every processor has the instruction that adds such products in 32 bits, though.  Others
add two of them in 16 bits, where 255 * 127 * 2 = 64770 is cut off at 32767, silently, and with it some of the accuracy.
So weights get one bit less here, -64 .. 64 with s = max |w| / 64: 255 * 64 * 2 = 32640 fits everywhere.

What is lost is rounding: errors of either sign, which in a sum of hundreds mostly cancel.  That a network trained with
noise of its own (dropout, small batches) hardly notices is what this example measures.
"""

import os
import tempfile
import time

import gallery
import numpy as np

import tinynet as tn

try:
    import onnxruntime
    from onnxruntime import quantization
except ImportError:
    raise SystemExit("This example needs onnx and onnxruntime: pip install onnx onnxruntime") from None


class Calibration(quantization.CalibrationDataReader):
    """The images that the quantiser is shown, some at a time."""

    def __init__(self, x):
        self.batches = iter(np.array_split(x, 8))

    def get_next(self):
        batch = next(self.batches, None)
        return None if batch is None else {"x": batch}


def session(path):
    """A function that runs the file, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    loaded = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: loaded.run(None, {"x": x})[0]


def seconds(functions, x, rounds):
    """The best time of each function on x; they take turns, so that what disturbs one disturbs the others, too."""
    best = dict.fromkeys(functions, np.inf)
    for _ in range(rounds):
        for name, function in functions.items():
            time.sleep(0.1)  # until the threads of the one before are asleep
            function(x)
            start = time.perf_counter()
            function(x)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def main():
    options = gallery.options(__doc__, seed=0)
    (x_train, y_train), (x_test, y_test) = tn.data.mnist()
    if options.quick:
        x_train, y_train, x_test, y_test = x_train[:6000], y_train[:6000], x_test[:2000], y_test[:2000]
    layers = []
    for filters in (32, 64, 64):
        layers += [tn.Conv2D(filters, 3, padding="same", bias=False), tn.BatchNorm(), tn.ReLU(), tn.MaxPool2D(2)]
    model = tn.Sequential([*layers, tn.Flatten(), tn.Dropout(0.2), tn.Dense(10)], (28, 28, 1), seed=options.seed)
    fit = {"loss": "softmax_cross_entropy", "optimizer": tn.Adam(model, 2e-3), "epochs": 1 if options.quick else 2}
    tn.fit(model, x_train, y_train, batch_size=64, seed=options.seed, **fit)

    tn.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: os.path.join(folder, name) for name in ("float32", "prepared", "int8")}
        tn.interop.to_onnx(model, files["float32"])
        quantization.quant_pre_process(files["float32"], files["prepared"])  # BatchNorm into the convolution before it
        quantization.quantize_static(
            files["prepared"],
            files["int8"],
            Calibration(x_train[:512]),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,  # each filter has a scale of its own
            reduce_range=True,  # weights of -64 .. 64, whose products' sums fit into 16 bits
        )
        run = {"tinynet": model.predict, **{f"onnxruntime, {n}": session(files[n]) for n in ("float32", "int8")}}
        kilobytes = [os.path.getsize(files[name]) / 1024 for name in ("float32", "int8")]
    size = dict(zip(run, [kilobytes[0], *kilobytes], strict=True))

    logits = {
        name: np.concatenate([function(part) for part in np.array_split(x_test, 20)]) for name, function in run.items()
    }
    accuracy = {name: tn.accuracy(z, y_test) for name, z in logits.items()}
    batch = seconds(run, x_test[:256], 3 if options.quick else 20)
    single = seconds(run, x_test[:1], 5 if options.quick else 50)
    for name in run:
        print(
            f"{name:21}  {size[name]:6.0f} KB   accuracy {accuracy[name]:.4f}   one image {1e6 * single[name]:6.0f} us"
            f"   256 images {1e3 * batch[name]:6.2f} ms"
        )
    exact, float32, int8 = logits.values()
    apart = [np.abs(z - exact).max() / np.abs(exact).max() for z in (float32, int8)]
    same = (int8.argmax(axis=1) == exact.argmax(axis=1)).mean()
    print(
        f"largest difference of a logit, as a share of the largest logit: float32 {apart[0]:.1e}, int8 {apart[1]:.1e}"
    )
    print(f"int8 gives the same answer for {same:.2%} of the test digits")
    assert apart[0] < 1e-4, "the file computes something else"
    assert accuracy["onnxruntime, int8"] > accuracy["tinynet"] - 0.005
    assert kilobytes[1] < 0.4 * kilobytes[0]

    figure = tn.plots.figure(12, 4.4)
    left, middle, right = figure.subplots(1, 3)
    w = model.parameters()[0].value[..., 0].ravel()[:9]
    s = np.abs(model.parameters()[0].value[..., 0]).max() / 7  # 3 bits and a sign, for steps that can be seen
    left.plot(w, "o", color=tn.plots.BLUE, label="the weights")
    left.plot(s * np.round(w / s), "_", ms=22, color=tn.plots.ORANGE, label="rounded to 4 bits (15 steps)")
    left.legend(frameon=False)
    gallery.plain(left, "One filter of 3 x 3 weights", xlabel="weight", ylabel="value (s: one step)")
    left.set_ylim(-8 * s, 11 * s)
    left.set_yticks(s * np.arange(-7, 8), [f"{q} s" if q % 2 else "" for q in range(-7, 8)])
    middle.plot(exact.ravel()[:3000], int8.ravel()[:3000], ".", ms=3, color=tn.plots.BLUE)
    gallery.plain(middle, "Logits of test digits", xlabel="in float32", ylabel="in int8")
    names = [name.replace(", ", ",\n") for name in run]
    times = [1e3 * value for value in batch.values()]
    bars = right.bar(names, times, color=[tn.plots.ORANGE, tn.plots.GREY, tn.plots.BLUE], width=0.6)
    texts = [f"{time:.1f} ms\n{accuracy[name]:.2%}\n{size[name]:.0f} KB" for name, time in zip(run, times, strict=True)]
    right.bar_label(bars, texts, fontsize=9, padding=2)
    gallery.plain(right, "256 digits on one thread", ylabel="milliseconds", ylim=(0, 1.35 * max(times)))
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
