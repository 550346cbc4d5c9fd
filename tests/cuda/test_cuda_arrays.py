"""The way of device arrays into the losses, as far as it can be tried without a GPU and without the simulator."""

import subprocess
import sys

import numpy as np
import pytest

import tinynet as tn
from tinynet.checks import losses as checks

LOSSES = [tn.softmax_cross_entropy, tn.sigmoid_cross_entropy]
LOGITS = np.zeros((2, 3), np.float32)


class OnDevice:
    """What the losses may ask of an array on a GPU: its address, never its numbers."""

    def __init__(self, shape, typestr="<f4", strides=None, address=4096, read_only=False, stream=None):
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": typestr,
            "strides": strides,
            "data": (address, read_only),
            "stream": stream,
            "version": 3,
        }


def test_what_is_a_device_array():
    torch = pytest.importorskip("torch")
    assert checks.on_device(LOGITS, None, OnDevice((1,)))
    assert not checks.on_device(LOGITS, None, [1, 2], torch.zeros(2), np.float32(1), 0.5, np.ma.array([1]))


@pytest.mark.parametrize("loss", LOSSES)
def test_without_numba_cuda_the_error_names_the_extra(loss, monkeypatch):
    for module in ("device", "arrays", "softmax_rows", "softmax_cross_entropy", "sigmoid_cross_entropy"):
        monkeypatch.delitem(sys.modules, f"tinynet.cuda.{module}", raising=False)
        monkeypatch.delattr(f"tinynet.cuda.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "_numba_cuda_redirector", None)
    for logits, targets in ((OnDevice((2, 3)), OnDevice((2,), "<i8")), (LOGITS, OnDevice((2, 3)))):
        with pytest.raises(ImportError, match=r'pip install "tinynet-numba\[cuda\]"'):
            loss(logits, targets)


def test_importing_tinynet_and_its_cpu_losses_imports_nothing_of_cuda():
    program = (
        "import sys, numpy as np, tinynet as tn; tn.softmax_cross_entropy(np.zeros((2, 3)), [0, 1]);"
        "assert not [m for m in sys.modules if m.startswith(('numba_cuda.', 'numba.cuda', 'tinynet.cuda.'))]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_stream_for_host_arrays_is_refused(loss):
    with pytest.raises(TypeError, match="stream belongs to device arrays"):
        loss(LOGITS, np.zeros(2, int) if loss is LOSSES[0] else LOGITS, stream=1)


# --- with numba-cuda, and a stand-in for the driver -------------------------------------------------------------


class Driver:
    """The calls that would reach the driver, written down."""

    def __init__(self):
        self.log = []

    def from_cuda_array_interface(self, interface, owner, sync):
        assert sync is False
        np.dtype(interface["typestr"])
        array = OnDevice(interface["shape"], interface["typestr"])
        array.strides = interface["strides"]
        if array.strides is None:
            array.strides = np.empty(interface["shape"], interface["typestr"]).strides
        array.dtype = np.dtype(interface["typestr"])
        return array

    def external_stream(self, handle):
        return f"stream {handle}"

    def event(self, timing):
        return self

    def record(self, stream):
        self.log.append(f"record on {stream}")

    def wait(self, stream):
        self.log.append(f"{stream} waits")


@pytest.fixture
def device(monkeypatch):
    pytest.importorskip("numba_cuda")
    from tinynet.cuda import arrays as cuda_arrays

    monkeypatch.setattr(cuda_arrays, "cuda", Driver())
    return cuda_arrays


def test_what_the_interface_says_is_understood(device):
    x = device.taken(OnDevice((4, 3)), "loss", "logits")
    assert (x.shape, x.dtype, x.contiguous, x.start, x.stop) == ((4, 3), np.float32, True, 4096, 4096 + 48)
    assert not device.taken(OnDevice((4, 3), strides=(4, 16)), "loss", "logits").contiguous
    assert device.taken(OnDevice((1, 3), strides=(99, 4)), "loss", "logits").contiguous
    reverse = device.taken(OnDevice((4,), strides=(-4,), address=4108), "loss", "logits")
    assert (reverse.contiguous, reverse.start, reverse.stop) == (False, 4096, 4112)
    assert device.taken(OnDevice((4, 3), read_only=True), "loss", "out").read_only
    half = device.taken(OnDevice((4, 3), "<V2"), "loss", "logits")
    assert (half.dtype, half.array.dtype) == (device.BFLOAT16, np.uint16)


def test_the_stream_is_the_given_one_or_the_logits_or_the_default(device):
    def arrays(*streams):
        return {n: device.taken(OnDevice((2,), stream=stream), "loss", "x") for n, stream in enumerate(streams)}

    log = device.cuda.log
    assert device.chosen_stream(None, arrays(None, None), "loss") == 0
    assert device.chosen_stream(None, arrays(7, 7), "loss") == "stream 7"
    assert device.chosen_stream(5, arrays(None, None), "loss") == "stream 5"
    assert not log
    assert device.chosen_stream(None, arrays(7, 8), "loss") == "stream 7"
    assert log == ["record on stream 8", "stream 7 waits"]
    log.clear()

    class Stream:
        def __cuda_stream__(self):
            return 0, 9

    assert device.chosen_stream(Stream(), {**arrays(7), "weight": None}, "loss") == "stream 9"
    assert log == ["record on stream 7", "stream 9 waits"]
    with pytest.raises(TypeError, match="loss: stream must be a handle"):
        device.chosen_stream("fast", arrays(7), "loss")


def test_out_that_can_not_take_the_gradient_is_refused(device):
    def gradient(**options):
        arrays = {"logits": OnDevice((4, 3)), "targets": OnDevice((4,), "<i8", address=9999), **options}
        return device.gradient(True, options["out"], device.given("loss", **arrays), "loss", 0)

    with pytest.raises(ValueError, match="out is read-only"):
        gradient(out=OnDevice((4, 3), read_only=True))
    for in_place_or_apart in (4096, 5000):
        out = OnDevice((4, 3), address=in_place_or_apart)
        flat, result, _ = gradient(out=out)
        assert flat.__cuda_array_interface__["shape"] == (12,)
        assert result is out


def test_the_driver_calls_that_are_used_exist():
    pytest.importorskip("numba_cuda")
    from tinynet.cuda.device import cuda

    for name in ("from_cuda_array_interface", "external_stream", "event", "device_array", "to_device"):
        assert callable(getattr(cuda, name))
