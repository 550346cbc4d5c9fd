"""PyTorch's weights in and out: the same outputs on both sides."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tinynet as tn
from tinynet.interop import from_torch, to_torch, to_torch_module
from tinynet.layers.activations import ACTIVATIONS
from tinynet.layers.base import Layer, Parameter

both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


pytestmark = pytest.mark.usefixtures("one_thread", "one_seed")


# --- models that both sides have -----------------------------------------------------------------------------


def convolution(**options):
    return [tn.Conv2D(5, 3, **options)], (7, 6, 3)


def after_flatten(*layers):
    return [tn.Conv2D(4, 3), tn.MaxPool2D(2), tn.Flatten(), *layers, tn.Dense(3)], (8, 8, 2)


MODELS = {
    "dense": ([tn.Dense(7, activation="tanh"), tn.Dense(3, bias=False)], 5),
    **{f"dense {name}": ([tn.Dense(4, activation=name)], 5) for name in ACTIVATIONS},
    **{f"conv {name}": convolution(activation=name) for name in ACTIVATIONS},
    "conv without bias": convolution(bias=False),
    "conv with zeros around": convolution(padding=(2, 1), stride=(1, 2)),
    "conv same": convolution(padding="same"),
    "conv same, stride 2": convolution(padding="same", stride=2),
    "conv same, an even window": ([tn.Conv2D(5, (2, 4), padding="same")], (7, 6, 3)),
    "conv same, the odd zero on one axis": ([tn.Conv2D(5, 3, padding="same", stride=2)], (7, 6, 3)),
    "conv same, a stride beyond the window": ([tn.Conv2D(5, 1, padding="same", stride=3)], (7, 6, 3)),
    "conv wide enough for Winograd's method": ([tn.Conv2D(33, 3, padding="same")], (8, 8, 32)),
    "pooling": ([tn.MaxPool2D(2, 1), tn.AvgPool2D((3, 2), (1, 2))], (7, 8, 3)),
    "global max": ([tn.Conv2D(4, 3), tn.GlobalMaxPool2D(), tn.Dense(3)], (6, 5, 2)),
    "global mean": ([tn.Conv2D(4, 3), tn.GlobalAvgPool2D(), tn.Dense(3)], (6, 5, 2)),
    "activations": ([tn.ReLU(), tn.LeakyReLU(0.3), tn.Sigmoid(), tn.Tanh(), tn.GELU()], (4, 3, 2)),
    "softmax of vectors": ([tn.Dense(6), tn.Softmax()], 5),
    "softmax of images": ([tn.Softmax()], (4, 5, 3)),
    "softmax of sequences": ([tn.Softmax()], (4, 5)),
    "flatten an image": ([tn.Flatten(), tn.Dense(3)], (4, 5, 3)),
    "flatten, twice dense": after_flatten(tn.Dense(8, activation="relu")),
    "flatten, dropout and activations": after_flatten(tn.Dropout(0.5), tn.GELU(), tn.Softmax()),
    "flatten, batch norm": after_flatten(tn.BatchNorm(), tn.ReLU()),
    "flatten, layer norm": after_flatten(tn.LayerNorm()),
    "flatten twice": after_flatten(tn.BatchNorm(), tn.Flatten(), tn.Reshape((36,)), tn.LayerNorm()),
    "flatten by reshape": ([tn.Conv2D(4, 3), tn.Reshape(-1), tn.BatchNorm(), tn.Dense(3)], (5, 6, 2)),
    "flatten last": ([tn.Conv2D(4, 3), tn.GELU(), tn.Flatten()], (5, 6, 2)),
    "flatten a single pixel": ([tn.Conv2D(4, 3), tn.Flatten(), tn.BatchNorm(), tn.Dense(3)], (3, 3, 2)),
    "flatten and back": (
        [tn.Flatten(), tn.BatchNorm(), tn.Reshape((3, 4, 2)), tn.Conv2D(3, 2), tn.Flatten(), tn.Dense(2)],
        (4, 3, 2),
    ),
    "a vector as an image": ([tn.Dense(24), tn.Reshape((3, 4, 2)), tn.Conv2D(3, 2)], 5),
    "an image as a sequence": (
        [tn.Conv2D(4, 3), tn.Reshape((-1, 4)), tn.LayerNorm(), tn.Flatten(), tn.Dense(2)],
        (5, 6, 2),
    ),
    "an image as another": ([tn.Reshape((2, 6, 5)), tn.Conv2D(3, 2), tn.Flatten(), tn.Dense(2)], (5, 6, 2)),
    "batch norm": ([tn.Conv2D(4, 3), tn.BatchNorm(momentum=0.7, eps=1e-2), tn.ReLU()], (5, 5, 2)),
    "batch norm, relu": ([tn.Conv2D(4, 3), tn.BatchNorm(activation="relu"), tn.Conv2D(3, 2)], (5, 5, 2)),
    "batch norm of sequences, gelu": ([tn.BatchNorm(activation="gelu"), tn.Flatten(), tn.Dense(2)], (4, 3)),
    "batch norm of vectors": ([tn.Dense(6), tn.BatchNorm(), tn.Dense(2)], 4),
    "batch norm of sequences": ([tn.BatchNorm(), tn.Flatten(), tn.Dense(2)], (4, 3)),
    "batch norm of volumes": ([tn.Reshape((2, 3, 2, 4)), tn.BatchNorm(), tn.Flatten(), tn.Dense(2)], (4, 3, 4)),
    "layer norm": ([tn.Conv2D(4, 3), tn.LayerNorm(eps=1e-3), tn.ReLU()], (5, 5, 2)),
    "layer norm of vectors": ([tn.Dense(6), tn.LayerNorm()], 4),
    "words": ([tn.Embedding(11, 4), tn.Flatten(), tn.Dense(3)], 6),
    "words with padding": ([tn.Embedding(11, 4, padding=2), tn.LayerNorm(), tn.Flatten(), tn.Dense(3)], 6),
    "a word": ([tn.Embedding(11, 4), tn.Dense(3)], ()),
    "words on a page": ([tn.Embedding(11, 4), tn.Conv2D(3, 2), tn.Flatten(), tn.Dense(3)], (4, 5)),
    "words through windows": (
        [
            tn.Embedding(11, 4),
            tn.Reshape((6, 1, 4)),
            tn.Parallel([[tn.Conv2D(3, (width, 1), activation="relu"), tn.GlobalMaxPool2D()] for width in (2, 3)]),
            tn.Dense(2),
        ],
        6,
    ),
    "residual": (
        [
            tn.Conv2D(4, 3, padding="same"),
            tn.Residual([tn.Conv2D(4, 3, padding="same", activation="relu"), tn.Conv2D(4, 3, padding="same")]),
            tn.BatchNorm(),
        ],
        (6, 5, 2),
    ),
    "residual with a shortcut": (
        [
            tn.Residual(
                [tn.Conv2D(4, 3, stride=2, padding="same"), tn.BatchNorm(), tn.Conv2D(4, 3, padding="same")],
                shortcut=[tn.Conv2D(4, 1, stride=2, bias=False), tn.BatchNorm()],
            ),
            tn.Flatten(),
            tn.Dense(3),
        ],
        (6, 6, 2),
    ),
    "concat": ([tn.Concat([tn.Conv2D(3, 3, padding="same")]), tn.Flatten(), tn.BatchNorm(), tn.Dense(3)], (4, 3, 2)),
    "concat of vectors": ([tn.Concat([tn.Dense(3), tn.ReLU()]), tn.Dense(3)], 4),
    "concat of sequences": ([tn.Concat([tn.LayerNorm()]), tn.Flatten(), tn.Dense(3)], (4, 3)),
    "flatten, concat": after_flatten(tn.Concat([tn.Dense(5)]), tn.BatchNorm()),
    "flatten in branches": (
        [
            tn.Parallel([[tn.Flatten()], [tn.Conv2D(3, 2), tn.Flatten()], [tn.GlobalAvgPool2D()]]),
            tn.LayerNorm(),
            tn.Dense(3),
        ],
        (4, 3, 2),
    ),
    "flatten, residual": after_flatten(tn.Residual([tn.BatchNorm(), tn.Dense(8), tn.Dense(36), tn.BatchNorm()])),
    "flatten, residual without dense": after_flatten(tn.Residual([tn.BatchNorm(), tn.ReLU()])),
    "flatten, residual, shortcut": after_flatten(tn.Residual([tn.Dense(9), tn.ReLU()], shortcut=[tn.Dense(9)])),
    "flatten, residual, dense in the shortcut alone": after_flatten(
        tn.Residual([tn.LayerNorm()], shortcut=[tn.BatchNorm(), tn.Dense(36, activation="relu")])
    ),
    "flatten, residual twice": after_flatten(
        tn.Residual([tn.Dense(36), tn.Residual([tn.Dense(36), tn.BatchNorm()])]), tn.Concat([tn.Dense(2)])
    ),
    "blocks in blocks": (
        [
            tn.Concat(
                [tn.Residual([tn.Conv2D(2, 3, padding="same"), tn.Concat([tn.BatchNorm()]), tn.Conv2D(2, 1)])]
            ),
            tn.Flatten(),
            tn.Dense(2),
        ],
        (5, 4, 2),
    ),
}  # fmt: skip
every_model = pytest.mark.parametrize("name", MODELS)


def built(name, seed=0, dtype="float64"):
    """The model, with parameters and running statistics that look like nothing else, and inputs for it."""
    layers, input_shape = copy.deepcopy(MODELS[name])
    model = tn.Sequential(layers, input_shape, seed=seed, dtype=dtype)
    rng = np.random.default_rng(seed)
    model.flat_values[...] += 0.3 * rng.standard_normal(model.flat_values.shape)
    for key, buffer in model.buffers().items():
        values = rng.uniform(0.5, 2, buffer.shape) if key.endswith("var") else rng.standard_normal(buffer.shape)
        buffer[...] = values.astype(dtype)  # what PyTorch can hold
    shape = (6, *model.input_shape)
    x = rng.integers(0, 11, shape) if model.layers[0].takes_integers else rng.standard_normal(shape).astype(dtype)
    return model, x


def channels_first(x):
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy() if x.ndim == 4 else x.copy())


def in_our_order(y, model):
    """PyTorch's output with the channels last."""
    y = y.detach().numpy()
    if model.layers and isinstance(model.layers[-1], tn.Flatten) and len(model.layers[-1].input_shape) == 3:
        H, W, C = model.layers[-1].input_shape
        return y.reshape(-1, C, H, W).transpose(0, 2, 3, 1).reshape(len(y), -1)
    return np.moveaxis(y, 1, -1) if y.ndim == 4 else y


def assert_close(found, expected, tolerance):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0) <= tolerance * np.abs(expected).max(initial=1e-300)


# --- weights: the same outputs on both sides ------------------------------------------------------------------


@every_model
@both_dtypes
def test_to_torch_gives_a_model_of_the_same_outputs(name, dtype):
    model, x = built(name, dtype=dtype)
    module = to_torch_module(model).eval()
    assert list(module.state_dict()) == list(to_torch(model))
    found = in_our_order(module(channels_first(x)), model)
    assert found.dtype == dtype
    assert_close(found, model.predict(x), 1e-10 if dtype == "float64" else 1e-5)


@every_model
def test_from_torch_takes_a_model_of_the_same_outputs(name):
    model, x = built(name)
    module = to_torch_module(built(name, seed=1)[0]).eval()
    from_torch(model, module.state_dict())
    values = model.flat_values.copy()
    assert_close(model.predict(x), in_our_order(module(channels_first(x)), model), 1e-10)
    model.flat_values[...] = 0
    from_torch(model, module)  # whose options are ours
    assert np.array_equal(model.flat_values, values)


@every_model
@both_dtypes
def test_there_and_back_every_number_is_the_same(name, dtype):
    model, _ = built(name, dtype=dtype)
    other, _ = built(name, seed=1, dtype=dtype)
    from_torch(other, to_torch(model))
    expected = model.flat_values.copy()
    assert np.array_equal(other.flat_values, expected) == (name != "words with padding")
    if name == "words with padding":
        expected[2 * 4 : 3 * 4] = 0  # that row is never read
        assert np.array_equal(other.flat_values, expected)
    for key, buffer in model.buffers().items():
        assert np.array_equal(other.buffers()[key], buffer)


@pytest.mark.parametrize(
    "name",
    [
        "dense",
        "flatten, batch norm",
        "flatten, layer norm",
        "flatten, residual",
        "flatten, concat",
        "residual with a shortcut",
        "batch norm of sequences",
        "words with padding",
        "words through windows",
    ],
)
def test_both_sides_train_to_the_same_weights_and_running_statistics(name):
    model, x = built(name)
    module = to_torch_module(model).train()
    ours, theirs = tn.SGD(model, lr=0.05, momentum=0.9), torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    labels = np.arange(len(x)) % model.output_shape[0]
    for _ in range(4):
        loss, dlogits = tn.softmax_cross_entropy(model.forward(x, training=True), labels)
        model.backward(dlogits)
        ours.step()
        theirs.zero_grad()
        value = F.cross_entropy(module(channels_first(x)), torch.from_numpy(labels))
        value.backward()
        theirs.step()
        assert loss == pytest.approx(value.item(), rel=1e-9)
    for (key, tensor), expected in zip(to_torch(model).items(), module.state_dict().values(), strict=True):
        if not key.endswith("num_batches_tracked"):
            assert_close(tensor.numpy(), expected.numpy(), 1e-8)


def small_cnn(seed=3):
    layers = [
        *(tn.Conv2D(6, 5, padding=2), tn.BatchNorm(), tn.ReLU(), tn.MaxPool2D(2), tn.Conv2D(8, 3, activation="relu")),
        *(tn.Flatten(), tn.Dropout(0.3), tn.Dense(20, activation="relu"), tn.Dense(4)),
    ]
    model = tn.Sequential(layers, input_shape=(10, 12, 3), seed=seed)
    x = np.random.default_rng(0).standard_normal((5, 10, 12, 3)).astype(np.float32)
    for _ in range(3):
        model.forward(2 * x + 1, training=True)  # moves the running statistics
    return model, x


class Net(nn.Module):
    """small_cnn as people write it in PyTorch."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.conv2 = nn.Conv2d(3, 6, 5, padding=2), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3)
        self.drop, self.fc1, self.fc2 = nn.Dropout(0.3), nn.Linear(8 * 3 * 4, 20), nn.Linear(20, 4)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = torch.flatten(F.relu(self.conv2(x)), 1)
        return self.fc2(F.relu(self.fc1(self.drop(x))))


def sequential_net():
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5, padding=2), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(96, 20), nn.ReLU(), nn.Linear(20, 4)),
    )


@pytest.mark.parametrize("make", [Net, sequential_net, lambda: nn.DataParallel(Net())])
def test_a_network_with_names_of_its_own_takes_weights_and_gives_them(make):
    model, x = small_cnn()
    network = make().eval()
    network.load_state_dict(to_torch(model, like=network))
    assert_close(network(channels_first(x)).detach().numpy(), model.predict(x), 1e-5)

    network = make()
    network.train()
    for _ in range(3):
        network(channels_first(3 * x - 1))
    network.eval()
    for given in (network, network.state_dict()):
        model, _ = small_cnn()
        from_torch(model, given)
        assert_close(model.predict(x), network(channels_first(x)).detach().numpy(), 1e-5)


def test_the_names_are_those_of_the_sequential_with_a_module_for_each_layer():
    layers = [tn.Conv2D(4, 3), tn.BatchNorm(), tn.ReLU(), tn.Flatten(), tn.LayerNorm(), tn.Dense(2)]
    model = tn.Sequential(layers, input_shape=(4, 4, 1))
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 2)
    ).eval()
    assert list(to_torch(model)) == list(network.state_dict())
    network.load_state_dict(to_torch(model), strict=True)
    x = np.random.default_rng(0).standard_normal((3, 4, 4, 1)).astype(np.float32)
    assert_close(network(channels_first(x)).detach().numpy(), model.predict(x), 1e-5)


class Block(nn.Module):
    """He et al.'s block, as torchvision writes it."""

    def __init__(self, channels, filters):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, filters, 3, 2, 1, bias=False), nn.BatchNorm2d(filters)
        self.conv2, self.bn2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False), nn.BatchNorm2d(filters)
        self.downsample = nn.Sequential(nn.Conv2d(channels, filters, 1, 2, bias=False), nn.BatchNorm2d(filters))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


def test_a_residual_block_as_it_is_written_in_pytorch():
    network = nn.Sequential(Block(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    x = np.random.default_rng(0).standard_normal((5, 8, 8, 3)).astype(np.float32)
    network(channels_first(x))
    block = tn.Residual(
        [
            *(tn.Conv2D(8, 3, stride=2, padding=1, bias=False), tn.BatchNorm(), tn.ReLU()),
            *(tn.Conv2D(8, 3, padding=1, bias=False), tn.BatchNorm()),
        ],
        shortcut=[tn.Conv2D(8, 1, stride=2, bias=False), tn.BatchNorm()],
    )
    model = tn.Sequential([block, tn.ReLU(), tn.GlobalAvgPool2D(), tn.Dense(4)], input_shape=(8, 8, 3))
    from_torch(model, network)
    assert_close(model.predict(x), network.eval()(channels_first(x)).detach().numpy(), 1e-5)


def test_a_dense_layer_by_hand():
    model = tn.Sequential([tn.Flatten(), tn.Dense(1)], input_shape=(1, 2, 2), dtype="float64")
    model.flat_values[...] = [1, 2, 3, 4, 5]  # pixel 0: channels 1, 2; pixel 1: channels 3, 4; the bias
    state = to_torch(model)
    assert state["1.weight"].tolist() == [[1, 3, 2, 4]]  # channel 0: pixels 1, 3; channel 1: pixels 2, 4
    assert state["1.bias"].tolist() == [5]
    from_torch(model, {"w.weight": np.array([[10.0, 20, 30, 40]]), "w.bias": np.array([50.0])})
    assert model.flat_values.tolist() == [10, 30, 20, 40, 50]


def test_a_kernel_by_hand():
    model = tn.Sequential([tn.Conv2D(2, (1, 2), bias=False)], input_shape=(3, 3, 1), dtype="float64")
    model.flat_values[...] = [1, 2, 3, 4]  # column 0: filters 1, 2; column 1: filters 3, 4
    assert to_torch(model)["0.weight"].tolist() == [[[[1, 3]]], [[[2, 4]]]]


def test_what_comes_out_is_a_copy():
    model, x = small_cnn()
    before, outputs = model.flat_values.copy(), model.predict(x)
    state, module = to_torch(model), to_torch_module(model)
    for tensor in [*state.values(), *module.state_dict().values()]:
        tensor.fill_(7)
    assert np.array_equal(model.flat_values, before)
    assert np.array_equal(model.predict(x), outputs)
    state = to_torch(model)
    from_torch(model, state)
    state["0.weight"].fill_(7)
    assert np.array_equal(model.flat_values, before)


def test_pytorchs_random_numbers_go_on_as_if_nothing_had_been_built():
    model, _ = small_cnn()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    to_torch_module(model)
    assert torch.equal(torch.rand(3), expected)


def test_the_module_trains_saves_and_copies_like_any_other(tmp_path):
    model, x = built("flatten and back")
    module = to_torch_module(model)
    assert module.training
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in module.parameters())
    assert not any(buffer.is_meta for buffer in module.buffers())
    torch.save(module, tmp_path / "module.pt")
    again = torch.load(tmp_path / "module.pt", weights_only=False).eval()
    assert torch.equal(again(channels_first(x)), module.eval()(channels_first(x)))


# --- what a state dict may hold -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert",
    [
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.numpy().astype(">f8"),
        lambda tensor: np.asfortranarray(tensor.numpy()),
        lambda tensor: tensor.double(),
        lambda tensor: tensor.clone().requires_grad_(),
        lambda tensor: nn.Parameter(tensor),
        lambda tensor: tensor.repeat_interleave(2, 0)[::2],
    ],
)
def test_arrays_of_any_kind_are_taken(convert):
    model, x = small_cnn()
    state = to_torch(model)
    converted = {key: value if value.dtype == torch.int64 else convert(value) for key, value in state.items()}
    other, _ = small_cnn(seed=8)
    from_torch(other, converted)
    assert np.array_equal(other.predict(x), model.predict(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_taken_as_the_numbers_that_it_holds(dtype):
    model = tn.Sequential([tn.Dense(3)], 4)
    state = {key: value.to(dtype) for key, value in to_torch(model).items()}
    from_torch(model, state)
    assert np.array_equal(model.parameters()[0].value, state["0.weight"].float().numpy().T)


def test_names_that_are_the_same_may_come_in_any_order():
    layers = [tn.Dense(4), tn.Tanh(), tn.Dense(4), tn.Tanh(), tn.Dense(4)]  # no shape tells them apart
    model = tn.Sequential(copy.deepcopy(layers), 4)
    other = tn.Sequential(layers, 4, seed=1)
    from_torch(other, dict(reversed(to_torch(model).items())))
    assert np.array_equal(other.flat_values, model.flat_values)
    renamed = OrderedDict((f"net.{key}", value) for key, value in to_torch(model).items())
    other.flat_values[...] = 0
    from_torch(other, renamed)
    assert np.array_equal(other.flat_values, model.flat_values)


def test_a_model_without_arrays_has_an_empty_state():
    model = tn.Sequential([tn.MaxPool2D(2), tn.Flatten()], (4, 4, 1))
    assert to_torch(model) == {}
    from_torch(model, {})
    assert to_torch_module(model)(torch.ones(2, 1, 4, 4)).shape == (2, 4)


# --- weights: what cannot be ----------------------------------------------------------------------------------


def without(state, *names):
    return {key: value for key, value in state.items() if key not in names}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda s: s | {"7.weight": s["7.weight"][:, :-1]},
            ValueError,
            r"from_torch: Dense \(layer 7\) has 7.weight \(20, 96\), 7.bias \(20,\) in PyTorch's layout, but PyTorch's"
            r" side has 7.weight \(20, 95\), 7.bias \(20,\) in that place",
        ),
        (
            lambda s: s | {"0.weight": s["0.weight"].permute(2, 3, 1, 0)},
            ValueError,
            r"Conv2D \(layer 0\) .* \(5, 5, 3, 6",
        ),
        (
            lambda s: {f"n.{k}": v for k, v in without(s, "0.bias").items()},
            ValueError,
            "has n.0.weight .* in that place",
        ),
        (lambda s: without(s, "8.weight", "8.bias"), ValueError, r"Dense \(layer 8\) has .*'s side ends before it"),
        (lambda s: s | {"9.weight": s["8.weight"]}, ValueError, r"no more arrays, .* goes on with 9.weight \(4, 20\)"),
        (lambda s: without(s, "1.running_mean"), ValueError, r"BatchNorm \(layer 1\) has 1.weight \(6,\), .*_var"),
        (lambda s: without(s, *list(s)[:2]), ValueError, r"Conv2D \(layer 0\) has .* has 1.weight \(6,\)"),
        (lambda s: {}, ValueError, r"Conv2D \(layer 0\) has .* ends before it"),
        (lambda s: s | {"8.bias": s["8.bias"].to(torch.complex64)}, TypeError, "8.bias must hold real numbers"),
        (lambda s: s | {"8.bias": np.array(list("abcd"))}, TypeError, "from_torch: 8.bias must hold real numbers"),
        (lambda s: s | {"8.bias": [1.0, 2.0, 3.0, 4.0]}, TypeError, "has no array at '8.bias', but a list"),
        (lambda s: {"epoch": 3, "model": s}, TypeError, "has no array at 'epoch', but a int"),
        (lambda s: {"model": s, "epoch": 3}, TypeError, r"no array at 'model', but a dict; is the state dict in it"),
        (lambda s: {0: s["8.bias"]}, TypeError, "has no array at 0"),
        (lambda s: list(s.values()), TypeError, "expected a state dict or a torch.nn.Module, got list"),
        (lambda s: None, TypeError, "expected a state dict or a torch.nn.Module, got NoneType"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(change, error, message):
    model, _ = small_cnn()
    state = change(to_torch(model))
    model.flat_values += 1
    values, buffers = model.flat_values.copy(), {key: buffer.copy() for key, buffer in model.buffers().items()}
    with pytest.raises(error, match=message):
        from_torch(model, state)
    assert np.array_equal(model.flat_values, values)
    assert all(np.array_equal(model.buffers()[key], buffer) for key, buffer in buffers.items())


def test_like_has_to_fit_too():
    model, _ = small_cnn()
    with pytest.raises(ValueError, match=r"to_torch: Dense \(layer 8\) has .* PyTorch's side ends before it"):
        to_torch(model, like=sequential_net()[:-1])
    with pytest.raises(TypeError, match=r"to_torch: expected a state dict or a torch\.nn\.Module, got int"):
        to_torch(model, like=3)


@pytest.mark.parametrize("function", [to_torch, to_torch_module, lambda model: from_torch(model, {})])
def test_only_a_model_is_taken(function):
    with pytest.raises(TypeError, match=r"torch.*: expected a tinynet Sequential, got torch.*Linear"):
        function(nn.Linear(2, 3))


def test_the_vector_of_the_padding_must_be_zero():
    model, _ = built("words with padding")
    state = to_torch(model)
    assert not state["0.weight"][2].any()
    state["0.weight"][2, 1] = 5
    before = model.flat_values.copy()
    with pytest.raises(ValueError, match=r"from_torch: row 2 of 0.weight is the padding of 0.weight and must be 0"):
        from_torch(model, state)
    assert np.array_equal(model.flat_values, before)


class Scale(Layer):
    """A layer of one's own, with a parameter."""

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.parameters = [Parameter("weight", np.ones(1, self.dtype))]
        return self.output_shape


class Twice(Layer):
    """A layer of one's own, without."""

    def forward(self, x, training=False):
        return 2 * self.checked(x)


def test_a_layer_of_ones_own_is_refused_where_pytorch_would_need_to_know_it():
    with pytest.raises(ValueError, match=r"Scale \(layer 0\) has no counterpart in PyTorch"):
        to_torch(tn.Sequential([Scale(), tn.Dense(2)], 3))
    model = tn.Sequential([Twice(), tn.Flatten(), tn.Dense(4), Twice(), tn.Dense(2)], (2, 2, 3))
    assert list(to_torch(model)) == ["2.weight", "2.bias", "4.weight", "4.bias"]
    with pytest.raises(ValueError, match=r"to_torch_module: Twice \(layer 0\) has no counterpart in PyTorch"):
        to_torch_module(model)
    with pytest.raises(
        ValueError, match=r"Twice \(layer 1\), a layer of your own, comes between a Flatten and the Dense"
    ):
        to_torch(tn.Sequential([tn.Flatten(), Twice(), tn.Dense(2)], (2, 2, 3)))


def test_a_sum_that_pytorch_would_have_in_two_orders_is_refused():
    inside = [tn.Dense(18), tn.Concat([tn.Dense(18)])]
    model = tn.Sequential([tn.Flatten(), tn.Residual(inside), tn.Dense(2)], (3, 3, 4))
    with pytest.raises(ValueError, match=r"Residual \(layer 1\): after a Flatten, .* put a Dense between"):
        to_torch(model)


# --- what layers declare --------------------------------------------------------------------------------------


class Shift(Layer):
    """A layer of one's own that says which module computes the same."""

    torch_names, torch_axes = ("Linear",), {"weight": (1, 0), "bias": (0,)}

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        w, b = np.eye(*self.input_shape, dtype=self.dtype), np.arange(*self.input_shape, dtype=self.dtype)
        self.parameters = [Parameter("weight", w), Parameter("bias", b)]
        return self.output_shape

    def forward(self, x, training=False):
        return self.checked(x) @ self.parameters[0].value + self.parameters[1].value

    def torch_module(self, nn):
        return nn.Linear(*self.input_shape, *self.output_shape)


def test_a_layer_of_ones_own_that_declares_its_module_goes_to_pytorch_and_back():
    model, other = (tn.Sequential([Shift(), tn.Dense(2)], 3, seed) for seed in (0, 1))
    module, x = to_torch_module(model), np.ones((4, 3), np.float32)
    assert np.allclose(module(torch.from_numpy(x)).detach().numpy(), model.predict(x), atol=1e-6)
    from_torch(other, module)
    assert np.array_equal(other.predict(x), model.predict(x))


def test_group_norm_behind_a_flatten_is_refused_whose_groups_pytorch_would_cut_otherwise():
    model = tn.Sequential([tn.Flatten(), tn.GroupNorm(2), tn.Dense(2)], (2, 2, 3))
    with pytest.raises(ValueError, match=r"GroupNorm \(layer 1\) comes between a Flatten and the Dense after it"):
        to_torch(model)
