"""Which of PyTorch's modules is which layer: what is taken predicts the same, and what can't be told is refused."""

import random

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import torch.nn.functional as F
from interop_networks import Named, assert_predicts_the_same, assert_refused, by_name, dense, shuffled
from torch import nn

import tinynet as tn
from tinynet.interop import from_torch, to_torch

pytestmark = pytest.mark.usefixtures("one_seed")


# --- numbers -------------------------------------------------------------------------------------------------


def test_twelve_layers_of_one_width_come_through_a_safetensors_file_in_their_order(tmp_path):
    network = nn.Sequential(*(part for _ in range(12) for part in (nn.Linear(4, 4), nn.Tanh()))).double()
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    sorted_names = safetensors.torch.load_file(path)
    assert list(sorted_names)[2] == "10.bias"  # which is why numbers must be read as numbers
    for given in (
        sorted_names,
        safetensors.numpy.load_file(path),
        safetensors.torch.load(path.read_bytes()),
        network.state_dict(),
        network,
    ):
        model = dense(12)
        from_torch(model, given)
        assert_predicts_the_same(model, network)


@pytest.mark.parametrize(
    "names",
    [
        ["fc1", "fc2", "fc9", "fc10", "fc11"],
        ["net.layer2.fc1", "net.layer2.fc2", "net.layer10.fc1"],
        ["block_1a", "block_2a", "block_10a"],
        ["a5x5_1", "a5x5_2", "a5x5_11"],
    ],
)
@pytest.mark.parametrize("given", [by_name, shuffled, nn.Module.state_dict, lambda network: network])
def test_numbers_in_names_are_sorted_as_numbers(names, given):
    tree = nn.Module()
    for name in names:
        inside, _, last = name.rpartition(".")
        module = tree
        for part in filter(None, inside.split(".")):
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.add_module(last, nn.Linear(4, 4).double())
    tree.forward = lambda x: Named.forward(tree, x)
    tree.called = names
    model = dense(len(names))
    from_torch(model, given(tree))
    assert_predicts_the_same(model, tree)


def test_a_size_in_a_name_is_not_its_place():
    network = Named(["conv5x5", "conv3x3"])
    from_torch(model := dense(2), network)
    assert_predicts_the_same(model, network)
    assert_refused(
        dense(2),
        by_name(network),
        r"which of conv3x3, conv5x5 is which of Dense \(layer 0\), Dense \(layer 1\) can't be told",
    )


def test_names_that_are_those_of_to_torch_are_taken_inside_of_a_module_too():
    model = dense(12)
    state = to_torch(model)
    for prefix in ("", "module.", "_orig_mod.", "_orig_mod.module.", "net.layers."):
        given = {prefix + key: value for key, value in sorted(state.items())}
        from_torch(other := dense(12), given)
        assert np.array_equal(other.flat_values, model.flat_values)


@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler warns of what it does itself
@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda network: torch.compile(network, backend="eager")])
def test_a_wrapped_network_is_the_network_within(wrap):
    network = Named(["hidden", "body"])
    wrapped = wrap(network)
    for given in (wrapped, wrapped.state_dict()):
        from_torch(model := dense(2), given)
        assert_predicts_the_same(model, network)
    assert_refused(dense(2), by_name(wrapped), r"which of \w+\.body, \w+\.hidden is which of")
    wrapped.load_state_dict(to_torch(dense(2), like=wrapped))


# --- names that say nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("names", [["body", "hidden", "head"], ["hidden", "body", "head"], ["body", "head", "hidden"]])
def test_the_order_of_definition_counts_where_it_is_known_and_a_sorted_dict_is_refused(tmp_path, names, bias):
    network = Named(names, bias=bias)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "model.safetensors")
    loaded = safetensors.torch.load_file(tmp_path / "model.safetensors")
    for given in (network, network.state_dict()):
        from_torch(model := dense(3, bias=bias), given)
        assert_predicts_the_same(model, network)
    model = dense(3, bias=bias)
    places = ", ".join(rf"Dense \(layer {i}\)" for i in range(3))
    message = f"which of body, head, hidden is which of {places} can't be told: .*; or pass the torch.nn.Module itself"
    assert_refused(model, loaded, message)
    with pytest.raises(ValueError, match=r"^to_torch: .* can't be told"):
        to_torch(model, like=loaded)
    from_torch(model, loaded, order=names)
    assert_predicts_the_same(model, network)
    other = Named(names, bias=bias)
    for like, order in ((other, None), (loaded, names), (other, names)):
        other.load_state_dict(to_torch(model, like=like, order=order))
        assert_predicts_the_same(model, other)


@pytest.mark.parametrize("names", [["body", "hidden", "head"], ["hidden", "body"]])
def test_a_plain_dict_in_pytorchs_order_is_known_by_how_it_lists_each_modules_arrays(names):
    network = Named(names)
    arrays = {key: value.numpy() for key, value in network.state_dict().items()}
    from_torch(model := dense(len(names)), arrays)
    assert_predicts_the_same(model, network)
    turned = {key: arrays[key] for name in reversed(names) for key in (f"{name}.bias", f"{name}.weight")}
    for other in (turned, dict(reversed(arrays.items()))):
        assert_refused(dense(len(names)), other, "can't be told")


def test_arrays_without_biases_in_a_plain_dict_may_have_any_order():
    arrays = {key: value.numpy() for key, value in Named(["hidden", "body"], bias=False).state_dict().items()}
    assert_refused(dense(2, bias=False), arrays, "which of body, hidden is which of")


def test_numbers_against_the_order_of_definition_are_refused():
    network = Named(["fc2", "fc1"], called=["fc1", "fc2"])
    message = r"Dense \(layer 0\) may be fc2, which was defined first, or fc1, the first by its number: .* order=\["
    for given in (network, network.state_dict()):
        assert_refused(dense(2), given, message)
    for given in (network, network.state_dict(), by_name(network)):
        from_torch(model := dense(2), given, order=["fc1", "fc2"])
        assert_predicts_the_same(model, network)


def test_what_only_fits_one_way_is_taken_whatever_the_names_and_their_order():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.out, self.entry, self.between = nn.Linear(6, 2), nn.Linear(4, 5), nn.Linear(5, 6)

        def forward(self, x):
            return self.out(torch.tanh(self.between(torch.tanh(self.entry(x)))))

    network = Net().double()
    for given in (network, network.state_dict(), by_name(network), shuffled(network)):
        layers = [tn.Dense(5, activation="tanh"), tn.Dense(6, activation="tanh"), tn.Dense(2)]
        from_torch(model := tn.Sequential(layers, 4, dtype="float64"), given)
        assert_predicts_the_same(model, network)


def test_the_types_of_modules_tell_an_embedding_from_a_dense():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.words = nn.Linear(3, 5, bias=False), nn.Embedding(5, 3)

        def forward(self, x):
            return self.head(self.words(x))

    network = Net().double()
    model = tn.Sequential([tn.Embedding(5, 3), tn.Dense(5, bias=False)], (), dtype="float64")
    from_torch(model, network)
    x = np.arange(5)
    assert np.allclose(model.predict(x), network(torch.from_numpy(x)).detach().numpy(), rtol=1e-12)
    assert_refused(
        model, by_name(network), r"which of head, words is which of Embedding \(layer 0\), Dense \(layer 1\)"
    )


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_taken_of_a_sorted_or_shuffled_dict_predicts_the_same(seed):
    """Networks of random names: numbered in their order, or not numbered at all."""
    rng = random.Random(seed)
    names = []

    def grow(depth, prefix):
        words = rng.sample(["body", "head", "up", "down", "entry", "mix"], 4)
        numbered = rng.random() < 0.6
        for i in range(rng.randint(1, 3)):
            name = prefix + (f"{words[0]}{i + 9}" if numbered else words[i])
            if depth and rng.random() < 0.5:
                grow(depth - 1, name + ".")
            else:
                names.append(name)

    grow(2, "")
    network, layers = nn.Module(), []
    for name in names:
        module = network
        for part in name.split(".")[:-1]:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        bias = rng.random() < 0.5
        module.add_module(name.split(".")[-1], nn.Linear(4, 4, bias=bias).double())
        layers.append(tn.Dense(4, activation="tanh", bias=bias))
    network.called, network.forward = names, lambda x: Named.forward(network, x)
    model = tn.Sequential(layers, 4, dtype="float64")
    for given in (by_name(network), shuffled(network, seed)):
        try:
            from_torch(model, given)
        except ValueError:
            assert_refused(model, given, "can't be told")
        else:
            assert_predicts_the_same(model, network)
    from_torch(model, network)
    assert_predicts_the_same(model, network)


# --- structure -----------------------------------------------------------------------------------------------


class Block(nn.Module):
    """He et al.'s block, as torchvision writes it; or with its shortcut defined before all else."""

    def __init__(self, channels, filters, stride, shortcut_first=False):
        super().__init__()
        shortcut = None
        if stride > 1:
            shortcut = nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))
        if shortcut_first:
            self.downsample = shortcut
        self.conv1, self.bn1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters)
        self.conv2, self.bn2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False), nn.BatchNorm2d(filters)
        self.downsample = shortcut

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Block(4, 4, 1, **options), Block(4, 4, 1, **options))
        self.layer2 = nn.Sequential(Block(4, 4, 2, **options), Block(4, 4, 1, **options))
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))).mean((2, 3)))


def convolution(filters, size, **options):
    return tn.Conv2D(filters, size, padding=size // 2, bias=False, **options)


def residual(filters, stride):
    f = [convolution(filters, 3, stride=stride), tn.BatchNorm(), tn.ReLU(), convolution(filters, 3), tn.BatchNorm()]
    return [tn.Residual(f, [convolution(filters, 1, stride=2), tn.BatchNorm()] if stride > 1 else None), tn.ReLU()]


def resnet():
    layers = [convolution(4, 3), tn.BatchNorm(), tn.ReLU()]
    for stride in (1, 1, 2, 1):
        layers += residual(4, stride)
    return tn.Sequential([*layers, tn.GlobalAvgPool2D(), tn.Dense(3)], (6, 6, 3), dtype="float64")


def with_statistics(network):
    """In float64, with BatchNorms that look like no others."""
    network = network.double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for array in (module.weight.data, module.running_var, module.bias.data, module.running_mean):
                array.uniform_(0.5, 2)
    return network


@pytest.mark.parametrize("shortcut_first", [False, True])
@pytest.mark.parametrize("given", [by_name, shuffled, nn.Module.state_dict, lambda network: network])
def test_a_resnet_is_known_by_how_its_names_are_nested(shortcut_first, given):
    network = with_statistics(ResNet(shortcut_first=shortcut_first))
    from_torch(model := resnet(), given(network))
    assert_predicts_the_same(model, network)
    other = ResNet(shortcut_first=shortcut_first).double()
    other.load_state_dict(to_torch(model, like=given(other)))
    assert_predicts_the_same(model, other)


def test_a_resnet_of_hundreds_of_modules_is_matched_without_delay():
    names = [
        "stem.conv",
        "stem.bn",
        *(f"blocks.{i}.{part}{j}" for i in range(60) for j in (1, 2) for part in ("c", "b")),
    ]
    layers = [convolution(4, 3), tn.BatchNorm(), *(layer for _ in range(60) for layer in residual(4, 1))]
    model = tn.Sequential(layers, (2, 2, 4))
    shapes = [array.shape for array in to_torch(model).values() if array.ndim]
    kinds = ["weight"], ["weight", "bias", "running_mean", "running_var"]
    keys = [f"{name}.{kind}" for i, name in enumerate(names) for kind in kinds[i % 2]]
    state = {key: np.full(shape, i) for i, (key, shape) in enumerate(zip(keys, shapes, strict=True))}
    from_torch(model, dict(sorted(state.items())))
    assert [int(p.value.flat[0]) for p in model.parameters()] == [
        i for i, key in enumerate(keys) if "running" not in key
    ]


def test_modules_in_lists_beside_each_other_are_taken_by_their_numbers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, 1, 1, bias=False) for _ in range(11))
            self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(11))

        def forward(self, x):
            for conv, norm in zip(self.convs, self.norms, strict=True):
                x = F.relu(norm(conv(x)))
            return x.mean((2, 3))

    network = with_statistics(Net())
    for given in (by_name(network), shuffled(network), network.state_dict(), network):
        layers = [layer for _ in range(11) for layer in (convolution(4, 3), tn.BatchNorm(), tn.ReLU())]
        from_torch(model := tn.Sequential([*layers, tn.GlobalAvgPool2D()], (3, 3, 4), dtype="float64"), given)
        assert_predicts_the_same(model, network)
