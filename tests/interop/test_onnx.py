"""ONNX: what onnxruntime computes of a file is what the model predicts."""

import numpy as np
import onnx
import onnxruntime
import pytest
from test_layers import CASES, built

import tinynet as tn
from tinynet.interop import to_onnx

pytestmark = pytest.mark.usefixtures("one_thread")


def exported(model, path, **options):
    """The file's graph, checked, and a function that runs it."""
    to_onnx(model, path, **options)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return proto.graph, lambda *given: session.run(None, dict(zip(("x", "lengths"), given, strict=False)))[0]


def assert_same(run, model, x, tolerance=1e-5):
    expected = model.predict(x)
    found = run(x if x.dtype.kind == "i" else x.astype(np.float32))
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_onnxruntime_computes_what_the_layer_does(case, path):
    layer, x, _ = built(case, np.float32)
    model = tn.Sequential([case.layer()], case.shape[1:])
    for parameter, other in zip(model.parameters(), layer.parameters, strict=True):
        parameter.value = other.value
    for name, array in model.buffers().items():
        array[...] = np.random.default_rng(len(name)).uniform(0.5, 1.5, array.shape)
    graph, run = exported(model, path)
    assert_same(run, model, x)
    assert_same(run, model, np.concatenate([x, x[::-1], x]))  # another batch
    any_length = layer.of_time is not None and x.ndim > 2 and layer.any_length
    assert (graph.input[0].type.tensor_type.shape.dim[1].dim_param == "T") == any_length
    if any_length and x.shape[1] > 2:
        assert_same(run, model, x[:, :-1])


# --- networks -----------------------------------------------------------------------------------------------


def filled(layers, shape, dtype="float32"):
    model, rng = tn.Sequential(layers, shape, seed=3, dtype=dtype), np.random.default_rng(3)
    for parameter in model.parameters():
        parameter.value += rng.normal(0, 0.1, parameter.value.shape)
    for name, array in model.buffers().items():
        array[...] = rng.uniform(0.5, 1.5, array.shape) if "var" in name else rng.normal(0, 0.1, array.shape)
    return model


def block(filters, stride=1):
    def conv(k, s):
        return [tn.Conv2D(filters, k, stride=s, padding=k // 2, bias=False), tn.BatchNorm()]

    f = [*conv(3, stride)[:1], tn.BatchNorm(activation="relu"), *conv(3, 1)]
    return tn.Residual(f, shortcut=conv(1, stride) if stride > 1 else None)


def resnet():
    first = [tn.Conv2D(4, 3, padding="same", activation="relu"), tn.MaxPool2D(2), block(4), tn.ReLU(), block(6, 2)]
    return [*first, tn.Concat([tn.Conv2D(3, 3, padding=1)]), tn.GELU(), tn.GlobalAvgPool2D(), tn.Dense(5), tn.Softmax()]


def lenet():
    convolutions = [tn.Conv2D(6, 3, activation="relu"), tn.BatchNorm(), tn.MaxPool2D(2), tn.Dropout(0.2)]
    return [*convolutions, tn.Flatten(), tn.Dense(9, activation="swish"), tn.BatchNorm(activation="tanh"), tn.Dense(4)]


def lstms():
    first = [tn.LSTM(6, bidirectional=True), tn.Dropout(0.1), tn.Dense(5, activation="tanh"), tn.LayerNorm()]
    return [*first, tn.GRU(4), tn.Select(-1), tn.Dense(2)]


def gpt():
    words = tn.Embedding(13, 8)
    blocks = [tn.TransformerBlock(2, causal=True, activation="gelu_tanh") for _ in range(2)]
    return [words, tn.PositionEmbedding(9), *blocks, tn.LayerNorm(), tn.TiedDense(words)]


def transformer_of_images():
    patches = [tn.Conv2D(8, 2, stride=2), tn.Reshape((-1, 8)), tn.ClassToken(), tn.PositionEmbedding(40)]
    return [*patches, tn.TransformerBlock(4, norm_first=False), tn.Select(0), tn.Dense(3)]


def words_beside_each_other():
    windows = [[tn.Conv1D(4, k, activation="relu"), tn.GlobalMaxPool1D()] for k in (2, 3)]
    return [tn.Embedding(13, 6, padding=0), tn.Parallel([*windows, [tn.GlobalAvgPool1D()]]), tn.Dense(2, "sigmoid")]


NETWORKS = {  # and how many Transposes each may have
    resnet: ((8, 10, 3), 1),
    lenet: ((10, 10, 2), 2),
    lstms: ((7, 3), 3),
    gpt: ((6,), 1 + 2 * 4),
    transformer_of_images: ((8, 8, 1), 2 + 4),
    words_beside_each_other: ((7,), 1),
}


@pytest.mark.parametrize("layers", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_onnxruntime_computes_what_the_network_does(layers, dtype, path):
    shape, transposes = NETWORKS[layers]
    model, rng = filled(layers(), shape, dtype), np.random.default_rng(0)
    whole = model.layers[0].takes_integers
    x = rng.integers(0, 13, (5, *shape)) if whole else rng.standard_normal((5, *shape))
    graph, run = exported(model, path)
    for batch in (1, 3, 5):
        assert_same(run, model, x[:batch])
    assert sum(node.op_type == "Transpose" for node in graph.node) == transposes
    takes, gives = (
        [d.dim_param or d.dim_value for d in end[0].type.tensor_type.shape.dim] for end in (graph.input, graph.output)
    )
    if layers in (lstms, gpt, words_beside_each_other):
        assert takes == ["N", "T", *shape[1:]]
        assert gives == (["N", "T", 13] if layers is gpt else ["N", 2])
        for T in (4, shape[0] - 1):
            assert_same(run, model, x[:, :T])
    else:
        assert takes == ["N", *shape]
        assert gives == ["N", *model.output_shape]


ENDS = np.array([7, 1, 4, 0, 6])


def lengths_everywhere():
    first = [tn.Embedding(13, 6), tn.PositionEmbedding(9), tn.Conv1D(6, 3, 2, "same"), tn.ClassToken()]
    return [*first, tn.TransformerBlock(2, norm_first=False), tn.BatchNorm(), tn.GRU(4, bidirectional=True)]


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [tn.LSTM(4, bidirectional=True, return_sequences=False)],
        lambda: [tn.GRU(3), tn.LSTM(4, bidirectional=True), tn.Dense(2)],
        lambda: [tn.TransformerBlock(1), tn.LayerNorm(), tn.GlobalAvgPool1D()],
        lambda: [tn.TransformerBlock(3, causal=True), tn.GlobalMaxPool1D()],
        lambda: [tn.Conv1D(4, 3, dilation=2), tn.ReLU(), tn.MaxPool1D(2, 1, 1), tn.Dense(3)],
        lambda: [tn.Conv1D(4, 3, 2, padding=(2, 0)), tn.AvgPool1D(2, 1), tn.GlobalMaxPool1D()],
        lambda: [tn.Concat([tn.Conv1D(2, 3, padding="same")]), tn.Residual([tn.GRU(5)]), tn.GlobalAvgPool1D()],
        lambda: [tn.Parallel([[tn.GlobalAvgPool1D()], [tn.LSTM(2, return_sequences=False)]]), tn.Dense(2)],
        lambda: [tn.ClassToken(), tn.MultiHeadAttention(3), tn.Select(0)],
        lambda: [tn.Dropout(0.1), tn.Dense(4)],
    ],
)
def test_what_lies_behind_the_lengths_changes_nothing_there_either(layers, path):
    model, x = filled(layers(), (7, 3)), np.random.default_rng(0).standard_normal((5, 7, 3)).astype(np.float32)
    _, run = exported(model, path, lengths=True)
    expected = model.predict((x, ENDS))
    for padding in (0.0, 99.0, np.nan):
        x[np.arange(7) >= ENDS[:, None]] = padding
        np.testing.assert_allclose(run(x, ENDS), expected, atol=1e-5 * np.abs(expected).max())


def test_words_may_have_lengths_and_be_selected_by_them(path):
    model, x = filled(lengths_everywhere(), (9,)), np.random.default_rng(0).integers(0, 13, (5, 9))
    graph, run = exported(model, path, lengths=True)
    expected = model.predict((x, ENDS))
    x[np.arange(9) >= ENDS[:, None]] = -5  # which is no word
    np.testing.assert_allclose(run(x, ENDS), expected, atol=1e-5)
    assert [end.name for end in graph.input] == ["x", "lengths"]
    model, ends = filled([tn.Embedding(13, 6), tn.GRU(4), tn.Select(-1)], (9,)), np.maximum(ENDS, 1)
    _, run = exported(model, path, lengths=True)
    np.testing.assert_allclose(run(abs(x)[:, :7], ends), model.predict((abs(x), ends)), atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([tn.Flatten(), tn.Dense(2)], r"Flatten \(layer 0\): it may look along time, and minds neither lengths"),
        (
            [tn.AvgPool1D(2, 1, 1, count_include_pad=False)],
            r"to_onnx: AvgPool1D \(layer 0\) has windows that are",
        ),
        ([tn.MaxPool1D(2, ceil_mode=True)], r"to_onnx: MaxPool1D \(layer 0\) has windows that are others"),
        ([tn.GroupNorm(1)], r"to_onnx: GroupNorm \(layer 0\) has a mean over whole sequences"),
    ],
)
def test_lengths_that_a_layer_does_not_mind_there_are_refused(layers, message, path):
    with pytest.raises(ValueError, match=message):
        to_onnx(tn.Sequential(layers, (7, 3)), path, lengths=True)


def test_tied_vectors_are_in_the_file_once(path):
    model = filled(gpt(), (6,))
    graph, _ = exported(model, path)
    sizes = [np.prod(array.dims, dtype=int) for array in graph.initializer]
    assert sizes.count(13 * 8) == 1


def test_the_row_of_padding_is_0_there_too(path):
    model = filled([tn.Embedding(5, 3, padding=2)], (4,))
    assert model.flat_values.reshape(5, 3)[2].any()
    _, run = exported(model, path)
    x = np.array([[0, 2, 4, 2]])
    np.testing.assert_array_equal(run(x), model.predict(x))
    assert not run(x)[0, 1].any()


# --- layers of one's own, and what is refused -----------------------------------------------------------------


class Square(tn.Layer):
    """y = x^2."""

    def forward(self, x, training=False):
        return x * x


class Exported(Square):
    """The same, with its nodes."""

    def onnx(self, graph, x):
        return x.map("Mul", x.named(x.layout))


def test_a_layer_of_ones_own_says_of_which_nodes_it_is(path):
    model = filled([tn.Conv2D(3, 3), Exported(), tn.MaxPool2D(2)], (6, 6, 1))
    graph, run = exported(model, path)
    assert_same(run, model, np.random.default_rng(0).standard_normal((2, 6, 6, 1)))
    assert sum(node.op_type == "Transpose" for node in graph.node) == 2


def test_a_layer_that_does_not_say_it_is_named_and_nothing_is_written(path):
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=r"to_onnx: Square \(layer 1\.0\) has no form in ONNX: its class needs"):
        to_onnx(tn.Sequential([tn.Dense(3), tn.Residual([Square()])], 2), path)
    assert path.read_bytes() == b"old"


def test_an_activation_of_ones_own_is_refused(path):
    class Wave(tn.layers.elementwise.ActivationLayer):
        activation = tn.layers.elementwise.Activation("wave", "Wave", "", "", None, None)

    with pytest.raises(ValueError, match="to_onnx: the activation 'wave' has no form in ONNX"):
        to_onnx(tn.Sequential([Wave()], 2), path)


def test_what_is_no_model_is_refused(path):
    with pytest.raises(TypeError, match="to_onnx: expected a tinynet Sequential, got Dense"):
        to_onnx(tn.Dense(3), path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        to_onnx(tn.Sequential([tn.Dense(3)], 2), path.parent / "nowhere" / "m.onnx")


def test_more_than_the_format_can_hold_is_refused(path, monkeypatch):
    monkeypatch.setattr(tn.interop.onnx, "LARGEST", 1000)
    with pytest.raises(ValueError, match=r"the model is of [\d,]+ bytes, and an ONNX file of at most 1,000"):
        to_onnx(tn.Sequential([tn.Dense(300)], 2), path)
    assert not path.exists()


def test_without_the_package_the_extra_is_named(path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"needs the package onnx: pip install 'tinynet-numba\[onnx\]'"):
        to_onnx(tn.Sequential([tn.Dense(3)], 2), path)


# --- several inputs -----------------------------------------------------------------------------------------


def several():
    image, words = (
        [tn.Conv2D(3, 3), tn.ReLU(), tn.MaxPool2D(2), tn.Flatten()],
        [tn.Embedding(13, 4), tn.GlobalMaxPool1D()],
    )
    branches = [image, words, [tn.GRU(3, return_sequences=False)], []]
    return tn.Sequential([tn.Parallel(branches), tn.Dense(3)], ((6, 6, 2), (7,), (9, 2), (3,)), seed=1)


def arrays_of_several(rng, N=4, T=(7, 9)):
    image, table = rng.normal(size=(N, 6, 6, 2)), rng.normal(size=(N, 3))
    return [image, rng.integers(0, 13, (N, T[0])), rng.normal(size=(N, T[1], 2)), table]


def test_several_inputs_are_several_there(path):
    model, rng = several(), np.random.default_rng(0)
    to_onnx(model, path)
    graph, session = onnx.load(path).graph, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    shapes = [[d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim] for end in graph.input]
    assert [end.name for end in graph.input] == ["x0", "x1", "x2", "x3"]
    assert shapes == [["N", 6, 6, 2], ["N", "T1"], ["N", "T2", 2], ["N", 3]]
    for N, T in ((4, (7, 9)), (1, (7, 9)), (3, (2, 5))):
        x = [a.astype(np.int64 if a.dtype.kind == "i" else np.float32) for a in arrays_of_several(rng, N, T)]
        (y,) = session.run(None, {f"x{k}": array for k, array in enumerate(x)})
        np.testing.assert_allclose(y, model.predict(x), rtol=1e-5, atol=1e-6)


def test_those_of_several_inputs_that_may_have_lengths_get_some(path):
    model, x = several(), arrays_of_several(np.random.default_rng(0))
    to_onnx(model, path, lengths=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [end.name for end in session.get_inputs()] == ["x0", "x1", "lengths1", "x2", "lengths2", "x3"]
    lengths = {"lengths1": np.array([7, 1, 3, 0]), "lengths2": np.array([0, 9, 2, 4])}
    given = {f"x{k}": a if a.dtype.kind == "i" else a.astype(np.float32) for k, a in enumerate(x)}
    (y,) = session.run(None, given | lengths)
    pairs = x[0], (x[1], lengths["lengths1"]), (x[2], lengths["lengths2"]), x[3]
    np.testing.assert_allclose(y, model.predict(pairs), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="to_onnx: none of the model's inputs can have lengths"):
        to_onnx(tn.Sequential([tn.Parallel([[tn.Dense(2)], []])], ((2,), (3,))), path, lengths=True)
