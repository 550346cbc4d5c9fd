"""save and load: the same bits, whole files whatever happens, and nothing changed by a file that does not fit."""

import base64
import hashlib
import math
import os
import pickle
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

import tinynet as tn
from tinynet import checkpoint
from tinynet.data import writing

KILLS = int(os.environ.get("TINYNET_KILLS", "3"))


class Running(tn.Layer):
    """y = x - mean, with a running mean and a count in buffers."""

    def build(self, input_shape, dtype, rng):
        output_shape = super().build(input_shape, dtype, rng)
        self.buffers = {"mean": np.zeros(output_shape, self.dtype), "count": np.zeros((), np.int64)}
        return output_shape

    def forward(self, x, training=False):
        if training:
            self.buffers["mean"][...] = 0.9 * self.buffers["mean"] + 0.1 * x.mean(axis=0)
            self.buffers["count"][...] += 1
        return x - self.buffers["mean"]

    def backward(self, dy, input_grad=True):
        return dy


def model(seed=0, dtype="float32", units=5):
    layers = [tn.Dense(units, activation="tanh"), Running(), tn.Dropout(0.1), tn.Dense(3)]
    return tn.Sequential(layers, (4,), seed=seed, dtype=dtype)


def state(m):
    return {p.name: p.value.tobytes() for p in m.parameters()} | {k: v.tobytes() for k, v in m.buffers().items()}


def used(seed=0, dtype="float32"):
    m = model(seed, dtype)
    m.forward(np.random.default_rng(seed).standard_normal((7, 4)), training=True)
    return m


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


# --- what is written is what is read ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_comes_back_to_the_bit(path, dtype):
    m, other = used(1, dtype), model(2, dtype)
    m.parameters()[0].value[0, :4] = [np.nan, np.inf, -0.0, np.finfo(dtype).smallest_subnormal]
    views = other.flat_values
    tn.save(m, path)
    tn.load(other, path)
    assert state(other) == state(m)
    assert np.shares_memory(other.flat_values, views)
    assert np.shares_memory(other.parameters()[0].value, views)
    assert other.buffers()["1.count"] == 1


def test_the_file_is_plain_safetensors_under_the_models_names(path):
    m = used()
    tn.save(m, path)
    arrays = load_file(path)
    assert set(arrays) == {"0.weight", "0.bias", "1.mean", "1.count", "3.weight", "3.bias"}
    assert (struct.unpack("<Q", path.read_bytes()[:8])[0] + 8) % 8 == 0  # so that arrays can be used where they lie
    np.testing.assert_array_equal(arrays["0.weight"], m.parameters()[0].value)
    assert arrays["1.count"].shape == ()


def test_the_same_model_gives_the_same_file(path, tmp_path):
    tn.save(used(), path)
    tn.save(used(), tmp_path / "other")
    assert path.read_bytes() == (tmp_path / "other").read_bytes()


def test_layers_inside_layers_are_saved_too(path):
    def nested(seed):
        inner = tn.Residual([tn.Dense(4), tn.Concat([tn.Dense(2)]), tn.Dense(4)])
        return tn.Sequential([inner, tn.Dense(2)], (4,), seed=seed)

    tn.save(nested(1), path)
    other = nested(2)
    tn.load(other, path)
    assert state(other) == state(nested(1))


def test_a_float32_file_fits_a_float64_model_and_not_the_other_way(path):
    m, wide = used(1), model(2, "float64")
    tn.save(m, path)
    tn.load(wide, path)
    np.testing.assert_array_equal(wide.flat_values, m.flat_values.astype(np.float64))
    tn.save(wide, path)
    with pytest.raises(ValueError, match=r"0\.weight is float64, which does not fit the model's float32 exactly"):
        tn.load(m, path)


def test_saving_again_replaces_the_file_and_follows_a_link(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tn.save(used(1), "real")
    os.symlink("real", "link")
    tn.save(used(2), "link")
    assert os.path.islink("link")
    other = model()
    tn.load(other, "real")
    assert state(other) == state(used(2))
    assert sorted(os.listdir()) == ["link", "real"]


def test_the_file_has_the_permissions_of_any_new_file_and_any_name(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    for name in ("m" * 250, "ä" * 120, "a b[*].bin", ".hidden"):
        tn.save(used(), tmp_path / name)
        tn.load(model(), tmp_path / name)
        assert os.stat(tmp_path / name).st_mode == os.stat(tmp_path / "plain").st_mode
    assert len(os.listdir(tmp_path)) == 5


# --- whole files, whatever happens --------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(path, monkeypatch, function, error):
    tn.save(used(1), path)
    before = path.read_bytes()

    def failing(*arguments):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(os, function, failing)
        with pytest.raises(type(error)):
            tn.save(used(2), path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_the_bytes_are_on_the_disk_before_the_name_is_and_then_the_folder(path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (calls.append((name, a)), real(*a)))
    sizes = []
    real_fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (sizes.append(os.fstat(fd).st_size), real_fsync(fd)))
    tn.save(used(), path)
    assert [name for name, _ in calls] == ["fsync", "replace", "fsync"]
    assert sizes[0] == path.stat().st_size
    source, target = calls[1][1]
    assert os.path.dirname(source) == os.path.dirname(target) == str(path.parent)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere to write m in"):
        tn.save(used(), tmp_path / "nowhere" / "m")


def test_leftovers_of_killed_saves_are_removed_and_nothing_else(path):
    leftover = path.parent / f".{path.name}.12345678{writing.TEMPORARY}"
    others = path.parent / f".other.12345678{writing.TEMPORARY}", path.parent / f".{path.name}.swp"
    for file in (leftover, *others):
        file.write_bytes(b"half")
    with writing._temporary(str(path.parent), f".{path.name}.") as at_work:  # another process is saving here now
        tn.save(used(), path)
        assert os.path.exists(at_work.name)
    assert not leftover.exists()
    assert all(file.exists() for file in others)


@pytest.mark.slow
def test_a_save_killed_at_any_moment_leaves_one_whole_file(path):
    code = """
import sys
import tinynet as tn
models = [tn.Sequential([tn.Dense(400)], (500,), seed=seed) for seed in (1, 2)]
while True:
    for model in models:
        tn.save(model, sys.argv[1])
        print("saved", flush=True)
"""
    either = [tn.Sequential([tn.Dense(400)], (500,), seed=seed) for seed in (1, 2)]
    rng = np.random.default_rng()
    for _ in range(KILLS):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
        process.stdout.close()
        found = tn.Sequential([tn.Dense(400)], (500,))
        tn.load(found, path)
        assert found.flat_values.tobytes() in [m.flat_values.tobytes() for m in either]
        assert len(os.listdir(path.parent)) <= 2  # the file, and what the killed save left
    tn.save(either[0], path)
    assert os.listdir(path.parent) == [path.name]


# --- what is refused ----------------------------------------------------------------------------------------


def header(text, data=b""):
    return struct.pack("<Q", len(text)) + text + data


def cut(m, path):
    tn.save(m, path)
    return path.read_bytes()[:-5]


def longer(m, path):
    tn.save(m, path)
    return path.read_bytes() + b"\0"


NOT_WHOLE = "no safetensors file, or not a whole one"
OURS = "was not written by tinynet"
HUGE = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
OVERFLOWING = b'{"a":{"dtype":"F32","shape":[1099511627776,1099511627776,0],"data_offsets":[0,0]}}'
WEIGHT = {"0.weight": np.zeros((5, 4), np.float32)}
FOREIGN = {
    "empty": (b"", NOT_WHOLE),
    "short": (b"abc", NOT_WHOLE),
    "html": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", NOT_WHOLE),
    "random": (np.random.default_rng(0).bytes(5000), NOT_WHOLE),
    "zip": (b"PK\x03\x04" + bytes(100), NOT_WHOLE),
    "truncated": (cut, NOT_WHOLE),
    "with bytes behind": (longer, NOT_WHOLE),
    "a header of 2^62 bytes": (struct.pack("<Q", 2**62) + b"{}", NOT_WHOLE),
    "a header of 99 MB in 10 bytes": (struct.pack("<Q", 99_000_000) + b"{}", NOT_WHOLE),
    "an array of 4 TB": (header(HUGE), NOT_WHOLE),
    "a shape that overflows": (header(OVERFLOWING), NOT_WHOLE),
    "a deep header": (header(b'{"a":' * 100_000), NOT_WHOLE),
    "pytorch's": (to_bytes(WEIGHT, {"format": "pt"}), f"{OURS} .*'pt'.*from_torch"),
    "without metadata": (to_bytes(WEIGHT), OURS),
    "metadata that is no JSON": (to_bytes({}, {"tinynet": "{"}), "is damaged: its header can't be read"),
    "metadata that is a number": (to_bytes({}, {"tinynet": "3"}), "is damaged"),
    "metadata that is deep": (to_bytes({}, {"tinynet": "[" * 100_000}), "is damaged"),
    "metadata without layers": (to_bytes({}, {"tinynet": '{"version": 1}'}), "is damaged"),
    "a newer version": (
        to_bytes({}, {"tinynet": '{"version": 2, "tinynet": "9"}'}),
        "version 2 .*, written by tinynet 9",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_file_that_is_damaged_or_from_elsewhere_is_refused(path, case):
    content, message = FOREIGN[case]
    m = used(1)
    content = content(m, path) if callable(content) else content
    path.write_bytes(content)
    before, memory = state(m), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (lambda: tn.load(m, path), lambda: checkpoint.load_run(m, path, {})):
        with pytest.raises(ValueError, match=message) as caught:
            read()
        assert str(path) in str(caught.value)
    assert state(m) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100_000  # kilobytes


def small_file(path):
    """The bytes of a file as short as they come, and a model that could read it."""
    m = tn.Sequential([tn.Dense(2, bias=False)], 2)
    tn.save(m, path)
    return path.read_bytes(), tn.Sequential([tn.Dense(2, bias=False)], 2, seed=1)


def refused(path, content, m):
    before = m.flat_values.tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=path.name) as caught:
        tn.load(m, path)
    assert m.flat_values.tobytes() == before
    return str(caught.value)


@pytest.mark.slow
def test_a_file_with_one_wrong_byte_anywhere_is_refused(path):
    content, m = small_file(path)
    rng = np.random.default_rng(0)
    for place, byte in enumerate(content):
        for other in {byte ^ (1 << rng.integers(8)), rng.integers(256), ord('"')} - {byte}:
            refused(path, content[:place] + bytes([other]) + content[place + 1 :], m)
    path.write_bytes(content)
    tn.load(m, path)


def test_a_file_that_ends_early_or_in_zeros_is_refused(path):
    content, m = small_file(path)
    numbers = 2 * 2 * 4
    assert any(content[-numbers:])
    for length in range(len(content)):
        refused(path, content[:length], m)
        if any(content[length:]):
            said = refused(path, content[:length] + bytes(len(content) - length), m)
            assert length < len(content) - numbers or "is damaged: its bytes have the checksum sha256:" in said


def test_the_checksum_is_what_the_header_says_it_is(path):
    tn.save(used(), path)
    content = path.read_bytes()
    with safe_open(path, framework="np") as file:
        checksum = file.metadata()["checksum"]
    word, number = checksum.split(":")
    assert (word, content.count(number.encode())) == ("sha256", 1)
    assert hashlib.sha256(content.replace(number.encode(), b"0" * 64)).hexdigest() == number


@pytest.mark.parametrize(
    "metadata",
    [
        {"checksum": ""},
        {"checksum": "sha256:"},
        {"checksum": "sha256:" + "A" * 64},
        {"checksum": "sha256:" + "0" * 64},
        {"checksum": "sha256:" + "0" * 65},
        {"checksum": "md5:" + "0" * 32},
        {"checksun": "sha256:" + "0" * 64},
    ],
)
def test_a_checksum_that_is_none_is_damage(path, metadata):
    m = used()
    tn.save(m, path)
    with safe_open(path, framework="np") as file:
        about = file.metadata()["tinynet"]
    said = refused(path, to_bytes(load_file(path), {"tinynet": about, **metadata}), m)
    assert "is damaged: its " in said
    assert "checksum" in said


def test_text_in_the_header_that_looks_like_a_checksum_is_no_trouble(path):
    text = '"checksum":"sha256:' + "0" * 64 + '"'
    checkpoint.save_run(used(1), path, {text: text}, {"optimizer": {}, text: [text, np.zeros(2)]})
    run, found, _ = checkpoint.load_run(model(), path, {text: text})
    assert run == {text: text}
    assert found[text][0] == text


# What version 0.1 wrote, without a checksum: tn.save of a Dense(2) of two inputs, seed=1.
OF_VERSION_0_1 = """
MAEAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJ0aW55bmV0Ijoie1widmVyc2lvblwiOiAxLCBcInRpbnluZXRcIjogXCIwLjEuMFwiLCBcImR0eXBlXCI6
IFwiZmxvYXQzMlwiLCBcImlucHV0X3NoYXBlXCI6IFsyXSwgXCJsYXllcnNcIjoge1wibGF5ZXIgMFwiOiBcIkRlbnNlKHVuaXRzPTIsIGJpYXM9VHJ1
ZSkgLT4gKDIsKVwifX0ifSwiMC5iaWFzIjp7ImR0eXBlIjoiRjMyIiwic2hhcGUiOlsyXSwiZGF0YV9vZmZzZXRzIjpbMCw4XX0sIjAud2VpZ2h0Ijp7
ImR0eXBlIjoiRjMyIiwic2hhcGUiOlsyLDJdLCJkYXRhX29mZnNldHMiOls4LDI0XX19AAAAAAAAAAAfN+08ajyNP/kiX7/Lqow/
"""


def test_a_file_of_version_0_1_which_has_no_checksum_is_read(path):
    path.write_bytes(base64.b64decode(OF_VERSION_0_1))
    m = tn.Sequential([tn.Dense(2)], 2, seed=0)
    tn.load(m, path)
    np.testing.assert_array_equal(m.flat_values, tn.Sequential([tn.Dense(2)], 2, seed=1).flat_values)


def test_a_file_that_is_replaced_while_it_is_read_is_read_anew(path, monkeypatch):
    tn.save(used(1), path)
    opened = []

    def replaced(name, **options):  # after its bytes were opened
        if not opened:
            tn.save(used(2), path)
        opened.append(name)
        return safe_open(name, **options)

    m = model()
    monkeypatch.setattr(safetensors, "safe_open", replaced)
    tn.load(m, path)
    assert state(m) == state(used(2))
    assert len(opened) == 2


def test_nothing_is_ever_unpickled(path):
    class Trap:
        def __reduce__(self):
            return open, (str(path.parent / "executed"), "w")

    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=NOT_WHOLE):
        tn.load(model(), path)
    np.save(path.with_suffix(".npy"), np.array([Trap()], object), allow_pickle=True)
    with pytest.raises(ValueError, match=NOT_WHOLE):
        tn.load(model(), path.with_suffix(".npy"))
    assert not (path.parent / "executed").exists()


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        tn.load(model(), tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is a folder or a device, not a file"):
        tn.load(model(), tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a folder or a device"):
        tn.load(model(), tmp_path / "pipe")
    with pytest.raises(TypeError, match="path"):
        tn.load(model(), None)


def test_what_is_no_model_is_refused(path):
    for function in (tn.save, tn.load):
        with pytest.raises(TypeError, match=rf"{function.__name__}: model must be a tinynet\.Sequential, got Dense"):
            function(tn.Dense(3), path)
    assert not path.exists()


MISFITS = {
    "another width": (
        lambda: [tn.Dense(6), tn.Dense(3)],
        [r"0\.weight is \(4, 5\), and \(4, 6\) in the model", r"1\.weight is"],
    ),
    "a layer too many": (
        lambda: [tn.Dense(5), tn.Dense(3), tn.Dense(3)],
        [r"it has no 2\.weight \(3, 3\)", r"it has no 2\.bias"],
    ),
    "a layer too few": (lambda: [tn.Dense(5)], [r"the model has no 1\.weight \(5, 3\)"]),
    "no bias": (lambda: [tn.Dense(5, bias=False), tn.Dense(3)], [r"the model has no 0\.bias \(5,\)"]),
    "layers elsewhere": (
        lambda: [tn.ReLU(), tn.Dense(5), tn.Dense(3)],
        [r"it has no 2\.weight", r"the model has no 0\.weight"],
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_file_of_another_model_is_refused_by_what_differs(path, case):
    layers, messages = MISFITS[case]
    tn.save(tn.Sequential([tn.Dense(5), tn.Dense(3)], (4,)), path)
    m = tn.Sequential(layers(), (4,), seed=1)
    before = state(m)
    for message in ["model.safetensors does not fit the model: ", *messages, r"It is of the layers Dense\(units=5"]:
        with pytest.raises(ValueError, match=message):
            tn.load(m, path)
    assert state(m) == before


# --- the state of a run -------------------------------------------------------------------------------------


def test_the_state_of_a_run_comes_back(path):
    arrays = {
        "f": np.array([np.nan, 1.5]),
        "i": np.arange(3, dtype=np.uint8),
        "b": np.array(True),
        "none": np.zeros((0, 2)),
    }
    numbers = [math.pi, -0.0, 5e-324, 2**127, float("inf"), -math.inf, True, None, "text ∞", ""]
    kept = {
        "arrays": arrays,
        "numbers": numbers,
        "nested": {"array": {"dict": [1, (2.5, {"a/b": np.ones(2), "a": {"b": np.zeros(2)}})]}, "": {}},
        "numpy": [np.float64(0.1), np.int64(3), np.bool_(True)],
        "nan": math.nan,
        "optimizer": {"lr": 0.1},
    }  # fmt: skip
    m = used(1)
    checkpoint.save_run(m, path, {"seed": 3}, kept)
    other = model(2)
    before = state(other)
    run, found, fill = checkpoint.load_run(other, path, {"seed": 3})
    assert state(other) == before
    fill()
    assert state(other) == state(m)
    assert run == {"seed": 3}
    for name, array in arrays.items():
        assert found["arrays"][name].dtype == array.dtype
        assert found["arrays"][name].shape == array.shape
        np.testing.assert_array_equal(found["arrays"][name], array)
    assert [repr(number) for number in found["numbers"]] == [repr(number) for number in numbers]
    inner = found["nested"]["array"]["dict"]
    assert inner[:1] + inner[1][:1] == [1, 2.5]
    assert inner[1][1]["a/b"].tolist() == [1, 1]
    assert inner[1][1]["a"]["b"].tolist() == [0, 0]
    assert found["numpy"] == [0.1, 3, True]
    assert math.isnan(found["nan"])
    tn.load(model(), path)  # and as a model


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"bytes", 1j, np.array(["a"]), np.array([None]), np.zeros(1, complex)]
)
def test_a_state_that_no_file_can_hold_is_named_and_nothing_is_written(path, value):
    with pytest.raises(TypeError, match=r"a checkpoint can't hold callbacks/0/what, which is"):
        checkpoint.save_run(used(), path, {}, {"callbacks": [{"what": value}]})
    assert not path.exists()


def test_a_run_is_told_from_a_model_and_from_another_run(path):
    m = used()
    tn.save(m, path)
    with pytest.raises(ValueError, match=r"holds a model but no run to resume: tn\.load reads it"):
        checkpoint.load_run(m, path, {})
    checkpoint.save_run(m, path, {"seed": 0, "loss": "a", "optimizer's lr": 0.1}, {"optimizer": {"lr": 0.05}})
    with pytest.raises(ValueError, match=r"is of another run: seed was 0 and is 1 here; loss was a and is b here$"):
        checkpoint.load_run(m, path, {"seed": 1, "loss": "b", "optimizer's lr": 0.1})
    for lr in (0.1, 0.05):
        checkpoint.load_run(m, path, {"seed": 0, "loss": "a", "optimizer's lr": lr})
    with pytest.raises(
        ValueError, match=r"optimizer's lr was 0\.1 and is 0\.2 here; layer 0 was absent and is Dense here"
    ):
        checkpoint.load_run(m, path, {"seed": 0, "loss": "a", "optimizer's lr": 0.2, "layer 0": "Dense"})
