"""PyTorch's modules that are shared, not used or not what they seem, and options of theirs that are not ours."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from interop_networks import Named, assert_predicts_the_same, assert_refused, by_name, dense
from torch import nn
from torch.nn.utils import prune

import tinynet as tn
from tinynet.interop import from_torch, to_torch

pytestmark = pytest.mark.usefixtures("one_seed")


# --- modules that are shared, not used, or not what they seem -------------------------------------------------


def test_modules_that_are_not_used_are_left_out_by_order():
    network = Named(["fc1", "old", "fc2"], called=["fc1", "fc2"])
    for given in (network, network.state_dict(), by_name(network)):
        assert_refused(dense(2), given, r"no more arrays, .* goes on with .*, name those that are, .*: order=\[")
        from_torch(model := dense(2), given, order=["fc1", "fc2"])
        assert_predicts_the_same(model, network)


def test_a_module_with_two_names_is_one_and_one_that_is_called_twice_is_two():
    network = Named(["body", "hidden"])
    network.alias = network.body
    for given in (network, network.state_dict()):
        from_torch(model := dense(2), given)
        assert_predicts_the_same(model, network)
    network.load_state_dict(to_torch(dense(2), like=network))
    network.called = ["body", "hidden", "body"]
    from_torch(model := dense(3), network.state_dict(), order=network.called)
    assert_predicts_the_same(model, network)
    assert set(to_torch(model, like=network)) == set(network.state_dict())
    shared = nn.Linear(4, 4).double()
    twice = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh())
    from_torch(model := dense(2), twice)
    assert_predicts_the_same(model, twice)
    assert to_torch(model, like=twice)["0.weight"].equal(shared.weight)


def test_one_array_there_cannot_hold_two_that_differ_here():
    shared = nn.Linear(4, 4).double()
    with pytest.raises(ValueError, match=r"^to_torch: 0.weight and 1.weight differ, but share one array .*, 0.weight"):
        to_torch(dense(2), like=nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh()))
    with pytest.raises(ValueError, match=r"^to_torch: 0.weight and 1.weight differ, but share one array .*, fc.weight"):
        to_torch(dense(2), like=Named(["fc"]), order=["fc", "fc"])
    with pytest.raises(ValueError, match=r"^to_torch: order is of the modules of `like`, which is missing"):
        to_torch(dense(2), order=["fc1", "fc2"])


@pytest.mark.parametrize(
    ("order", "error", "message"),
    [
        ("fc1", TypeError, "order must be a list of names of PyTorch's modules, got 'fc1'"),
        (3, TypeError, "order must be a list of names of PyTorch's modules, got 3"),
        ([0, 1], TypeError, r"order must be a list of names of PyTorch's modules, got \[0, 1\]"),
        (["fc1", "fc3"], ValueError, "order names 'fc3', but the modules with arrays are fc1, fc2"),
        (["fc1"], ValueError, r"Dense \(layer 1\) has .* PyTorch's side ends before it"),
        (["fc1", "fc2", "fc1"], ValueError, r"the model has no more arrays, .* goes on with fc1.weight \(4, 4\)"),
    ],
)
def test_an_order_that_cannot_be_is_refused(order, error, message):
    assert_refused(dense(2), Named(["fc1", "fc2"]), message, error, order=order)


def reparametrized(wrap):
    module = nn.Linear(4, 4)
    with warnings.catch_warnings(action="ignore"):  # PyTorch has newer ways
        wrap(module, "weight")
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: nn.LazyLinear(4), "weight of a lazy module has no shape yet: call PyTorch's model on a batch"),
        (lambda: nn.Linear(4, 4, device="meta"), "weight is on the meta device, which holds no numbers"),
        (
            lambda: reparametrized(nn.utils.parametrizations.weight_norm),
            r"0.parametrizations.weight.original0 is what a weight is computed from .* call .*remove_parametrizations",
        ),
        (lambda: reparametrized(nn.utils.parametrizations.spectral_norm), "0.parametrizations.weight.original is what"),
        (lambda: reparametrized(nn.utils.weight_norm), "0.weight_g is what a weight is computed from"),
        (lambda: reparametrized(nn.utils.spectral_norm), "0.weight_orig is what a weight is computed from"),
        (
            lambda: reparametrized(lambda *given: prune.l1_unstructured(*given, amount=0.5)),
            "0.weight_orig is what a weight is computed from .* or prune.remove",
        ),
    ],
)
def test_modules_whose_weights_are_not_there_as_such_are_refused(module, message):
    network = nn.Sequential(module(), nn.Tanh())
    assert_refused(dense(1), network, message)
    assert_refused(dense(1), network.state_dict(), message)


# --- options -------------------------------------------------------------------------------------------------

IMAGE = 8, 8, 4


def built(layers, input_shape=IMAGE):
    return tn.Sequential(layers, input_shape, dtype="float64")


def conv(*arguments, **options):
    return [tn.Conv2D(4, *(arguments or (3,)), **options)]


@pytest.mark.parametrize(
    ("layers", "module"),
    [
        (conv(), nn.Conv2d(4, 4, 3, padding_mode="circular")),  # there is nothing to pad
        (conv(), nn.Conv2d(4, 4, 3, padding="valid")),
        (conv(padding=1), nn.Conv2d(4, 4, 3, padding="same")),
        (conv(padding="same"), nn.Conv2d(4, 4, 3, padding=1)),
        (conv(4, padding="same"), nn.Conv2d(4, 4, 4, padding="same")),
        (conv(stride=2, padding="same"), nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 4, 3, 2))),
        (conv(stride=2, padding="same"), nn.Sequential(nn.ZeroPad2d((0, 2, 0, 1)), nn.Conv2d(4, 4, 3, 2))),  # too wide
        (conv(padding=2), nn.Sequential(nn.ConstantPad2d(1, 0.0), nn.Conv2d(4, 4, 3, padding=1))),
        ([tn.BatchNorm()], nn.SyncBatchNorm(4)),
        ([tn.BatchNorm(momentum=0.7, eps=1e-3)], nn.BatchNorm2d(4, eps=1e-3, momentum=0.3)),
        ([tn.BatchNorm(activation="relu")], nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())),
        ([*conv(activation="relu"), tn.MaxPool2D(2)], nn.Sequential(nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.ReLU())),
        ([*conv(), tn.MaxPool2D(3)], nn.Sequential(nn.Conv2d(4, 4, 3), nn.MaxPool2d([3, 3], ceil_mode=True))),
        ([*conv(), tn.AvgPool2D(2)], nn.Sequential(nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(3))),
        ([*conv(), tn.AvgPool2D((2, 1))], nn.Sequential(nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d((3, None)))),
        ([*conv(), tn.GlobalAvgPool2D()], nn.Sequential(nn.Conv2d(4, 4, 3), nn.AvgPool2d(6, 1), nn.Flatten())),
        ([*conv(), tn.GlobalMaxPool2D()], nn.Sequential(nn.Conv2d(4, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten())),
        (
            [*conv(activation="leaky_relu"), tn.Dropout(0.2), tn.Softmax()],
            nn.Sequential(nn.Conv2d(4, 4, 3), nn.Identity(), nn.Dropout(0.2), nn.LeakyReLU(), nn.Softmax2d()),
        ),
        (
            [*conv(), tn.ReLU(), *conv()],
            nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()), nn.Dropout(0.0), nn.Conv2d(4, 4, 3)),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_options_that_mean_the_same_are_taken(layers, module):
    from_torch(model := built(layers), module.double())
    x = np.random.default_rng(0).standard_normal((3, *IMAGE))
    expected = module.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).detach().numpy()
    assert np.allclose(model.predict(x), np.moveaxis(expected, 1, -1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("layers", "module", "message"),
    [
        (conv(), nn.Conv2d(4, 4, 3, 2), r"Conv2D \(layer 0\) has stride \(1, 1\), but Conv2d .* stride \(2, 2\)"),
        (conv(), nn.Conv2d(4, 4, 3, dilation=2), r"dilation \(1, 1\), but Conv2d .* dilation \(2, 2\)"),
        (conv(1), nn.Conv2d(8, 4, 1, groups=2), "groups 1, but Conv2d .* groups 2"),
        (conv(), nn.Conv2d(4, 4, 3, padding=1), r"zeros .* \(0, 0, 0, 0\), but .* \(1, 1, 1, 1\)"),
        (conv(), nn.Conv2d(4, 4, 3, padding="same"), r"zeros .* \(0, 0, 0, 0\), but .* \(1, 1, 1, 1\)"),
        (conv(padding=(1, 0)), nn.Conv2d(4, 4, 3, padding=(0, 1)), r"\(1, 1, 0, 0\), but .* \(0, 0, 1, 1\)"),
        (conv(stride=2, padding="same"), nn.Conv2d(4, 4, 3, 2, 1), r"\(0, 1, 0, 1\), but .* \(1, 1, 1, 1\)"),
        (
            conv(padding=1),
            nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3, padding=1)),
            r"\(1, 1, 1, 1\), but Conv2d 1 on PyTorch's side has zeros .* \(2, 2, 2, 2\)",
        ),
        (
            conv(padding=1),
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
            "padding_mode zeros, but Conv2d .* padding_mode reflect",
        ),
        (
            conv(),
            nn.ConvTranspose2d(4, 4, 3),
            r"weight \(4, 4, 3, 3\), .* of ConvTranspose2d .* no counterpart of Conv2D",
        ),
        ([tn.BatchNorm()], nn.BatchNorm2d(4, eps=1e-3), r"BatchNorm \(layer 0\) has eps 1e-05, but .* eps 0.001"),
        (
            [tn.BatchNorm(activation="relu")],
            nn.Sequential(nn.BatchNorm2d(4), nn.Tanh()),
            r"\(layer 0\): its activation, but .* has Tanh 1",
        ),
        ([tn.BatchNorm()], nn.BatchNorm2d(4, momentum=0.01), r"momentum \(1 - PyTorch's\) 0.9, but .* 0.99"),
        ([tn.BatchNorm()], nn.BatchNorm2d(4, momentum=None), r"momentum \(1 - PyTorch's\) 0.9, but .* None"),
        ([tn.BatchNorm()], nn.BatchNorm2d(4, eps=0.1, momentum=0.3), r"eps 1e-05 and momentum .* eps 0.1 and momentum"),
        ([tn.BatchNorm()], nn.BatchNorm2d(4, affine=False), "has running_mean .* of BatchNorm2d in that place"),
        ([tn.BatchNorm()], nn.BatchNorm2d(4, track_running_stats=False), r"has weight \(4,\), bias \(4,\) of BatchN"),
        (
            [tn.BatchNorm()],
            nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
            "InstanceNorm2d is no counterpart of BatchNorm that tinynet knows of",
        ),
        ([tn.LayerNorm()], nn.LayerNorm(4, eps=1e-6), "eps 1e-05, but LayerNorm .* eps 1e-06"),
        ([tn.LayerNorm()], nn.LayerNorm(4, bias=False), r"has weight \(4,\) of LayerNorm in that place"),
        ([tn.LayerNorm()], nn.GroupNorm(2, 4), "GroupNorm is no counterpart of LayerNorm that tinynet knows of"),
    ],
)
def test_options_that_differ_are_refused(layers, module, message):
    module = module.double()
    model = built(layers)
    assert_refused(model, module, message)
    with pytest.raises(ValueError, match=f"^to_torch: .*{message}"):
        to_torch(model, like=module)


def test_a_state_dict_takes_the_arrays_whatever_the_options():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, 2)

        def forward(self, x):
            return self.conv(F.pad(x, (0, 1, 0, 1))).mean((2, 3))

    network = Net().double()
    model = built([*conv(stride=2, padding="same"), tn.GlobalAvgPool2D()])
    assert_refused(model, network, r"or pass the state_dict\(\), which has only arrays")
    from_torch(model, network.state_dict())
    assert_predicts_the_same(model, network)


def test_within_a_network_only_what_a_sequential_calls_is_known():
    class Net(nn.Module):
        def __init__(self, rate=0.2, size=2):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(4, 4, 3), nn.MaxPool2d(size), nn.Dropout(rate), nn.Conv2d(4, 4, 1))
            self.drop, self.head = nn.Dropout(0.9), nn.Linear(4, 3)

        def forward(self, x):
            return torch.tanh(self.head(F.relu(self.features(x)).mean((2, 3))))

    layers = [*conv(), tn.MaxPool2D(2), tn.Dropout(0.2), *conv(1, activation="relu"), tn.GlobalAvgPool2D()]
    model = built([*layers, tn.Dense(3, activation="tanh")])
    from_torch(model, network := Net().double())
    assert_predicts_the_same(model, network)
    assert_refused(model, Net(rate=0.3), r"Dropout \(layer 2\) has rate 0.2, but Dropout features.2 .* rate 0.3")
    assert_refused(model, Net(size=3), r"MaxPool2D \(layer 1\) has window \(2, 2\) and .* MaxPool2d features.1 .*")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Embedding(5, 3, padding_idx=-1), "padding None, but Embedding .* padding 4"),
        (nn.Embedding(5, 3, max_norm=1.0), "max_norm None, but Embedding .* max_norm 1.0"),
        (nn.Embedding(5, 3, scale_grad_by_freq=True), "scale_grad_by_freq False, but Embedding .* True"),
        (nn.EmbeddingBag(5, 3), "EmbeddingBag is no counterpart of Embedding that tinynet knows of"),
        (nn.Linear(3, 5, bias=False), r"but PyTorch's side has weight \(5, 3\) of Linear in that place"),
    ],
)
def test_an_embedding_of_other_options_is_refused(module, message):
    assert_refused(tn.Sequential([tn.Embedding(5, 3)], 2), module, message)


def test_the_padding_of_an_embedding_is_the_same_row():
    module = nn.Embedding(5, 3, padding_idx=-1).double()
    from_torch(model := tn.Sequential([tn.Embedding(5, 3, padding=4)], 2, dtype="float64"), module)
    x = np.array([[0, 1], [3, 4]])
    assert np.array_equal(model.predict(x), module(torch.from_numpy(x)).detach().numpy())


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (
            [tn.ReLU()],
            [nn.Tanh()],
            r"between Conv2D \(layer 0\) and Dense .* has ReLU .*, GlobalAvgPool2D .*, but PyTorch.* has Tanh 1, Ad",
        ),
        (
            [tn.ReLU()],
            [],
            r"the model has ReLU \(layer 1\), GlobalAvgPool2D .*, but PyTorch's side has AdaptiveAvgPool2d 1;",
        ),
        ([], [nn.SiLU()], r"the model has GlobalAvgPool2D \(layer 1\), but PyTorch's side has SiLU 1, Ad"),
        ([], [nn.Dropout(0.5)], r"the model has GlobalAvgPool2D \(layer 1\), but PyTorch's side has Dropout 1"),
        ([tn.Dropout(0.5)], [nn.Dropout(0.3)], r"Dropout \(layer 1\) has rate 0.5, but Dropout 1 .* has rate 0.3"),
        ([tn.LeakyReLU(0.2)], [nn.LeakyReLU(0.1)], r"LeakyReLU \(layer 1\) has slope 0.2, but .* has slope 0.1"),
        ([tn.GELU()], [nn.GELU("tanh")], r"GELU \(layer 1\) has approximate none, but GELU 1 .* has approximate tanh"),
        ([tn.Softmax()], [nn.Softmax(2)], r"Softmax \(layer 1\) has axis, .* 1, but Softmax 1 .* 2"),
        (
            [tn.AvgPool2D(2), tn.ReLU()],
            [nn.ReLU(), nn.AvgPool2d(2)],
            "has AvgPool2D .*, ReLU .*, GlobalAvg.* has ReLU 1, AvgP",
        ),
        (
            [tn.MaxPool2D(2)],
            [nn.AvgPool2d(2)],
            "the model has MaxPool2D .*, GlobalAvgPool2D .*, but PyTorch's side has AvgPool2d 1",
        ),
        ([tn.MaxPool2D(3, 1)], [nn.MaxPool2d(3, 1, 1), nn.ZeroPad2d(-1)], "has MaxPool2d 1, ZeroPad2d 2"),
        ([tn.MaxPool2D(2, 3)], [nn.MaxPool2d(3)], r"MaxPool2D \(layer 1\) has window \(2, 2\), but .* \(3, 3\)"),
        ([tn.MaxPool2D(2, 4)], [nn.MaxPool2d(2, 3)], r"stride \(4, 4\), but MaxPool2d 1 .* stride \(3, 3\)"),
        ([tn.MaxPool2D(2, 4)], [nn.MaxPool2d(2, 4, dilation=2)], r"dilation \(1, 1\), but MaxPool2d 1 .* \(2, 2\)"),
        ([tn.MaxPool2D(3, 2)], [nn.MaxPool2d(3, 2, ceil_mode=True)], "ceil_mode False, but MaxPool2d 1 .* True"),
        ([tn.AvgPool2D(2)], [nn.AvgPool2d(2, padding=1)], r"padding \(0, 0\), but AvgPool2d 1 .* padding \(1, 1\)"),
        ([tn.AvgPool2D(2)], [nn.AvgPool2d(2, divisor_override=3)], "divisor_override None, but AvgPool2d 1 .* 3"),
        ([tn.AvgPool2D(2, 4)], [nn.AdaptiveAvgPool2d(2)], r"has window \(2, 2\) and stride \(4, 4\), but Adaptive"),
        ([tn.AvgPool2D(3, 1)], [nn.AdaptiveAvgPool2d(4)], r"window \(3, 3\) .* \('adaptive, 4 places'"),
    ],
)
def test_what_a_sequential_calls_in_between_must_be_the_same(ours, theirs, message):
    model = built([*conv(), *ours, tn.GlobalAvgPool2D(), tn.Dense(3)])
    last = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    network = nn.Sequential(nn.Conv2d(4, 4, 3), *theirs, *last).double()
    assert_refused(model, network, message)
    from_torch(model, network.state_dict())


# --- several inputs -------------------------------------------------------------------------------------------


class Several(nn.Module):
    """An image and words, then a table as it is, beside each other, as one writes it in PyTorch."""

    def __init__(self):
        super().__init__()
        self.convolution, self.words = nn.Conv2d(2, 3, 3), nn.Embedding(5, 4)
        self.head = nn.Linear(3 * 4 * 4 + 2 * 4 + 3, 2)

    def forward(self, image, words, table):
        image = F.relu(self.convolution(image)).flatten(1)
        return self.head(torch.cat([image, self.words(words).flatten(1), table], 1))


def test_several_inputs_go_to_pytorch_and_back():
    branches = [[tn.Conv2D(3, 3, activation="relu"), tn.Flatten()], [tn.Embedding(5, 4), tn.Flatten()], []]
    model = tn.Sequential([tn.Parallel(branches), tn.Dense(2)], ((6, 6, 2), (2,), (3,)), seed=1, dtype="float64")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 6, 6, 2)), rng.integers(0, 5, (4, 2)), rng.normal(size=(4, 3))
    given = tuple(torch.tensor(np.moveaxis(array, -1, 1).copy() if array.ndim == 4 else array) for array in x)
    written, module = Several().double(), tn.interop.to_torch_module(model)
    written.load_state_dict(to_torch(model, like=written))
    with torch.no_grad():
        for found in (written(*given), module(given)):
            np.testing.assert_allclose(found.numpy(), model.predict(x), rtol=1e-12, atol=1e-14)
        for network, state in ((Several().double(), False), (Several().double(), True)):
            from_torch(model, network.state_dict() if state else network)
            np.testing.assert_allclose(model.predict(x), network(*given).numpy(), rtol=1e-12, atol=1e-14)
    module(given).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
