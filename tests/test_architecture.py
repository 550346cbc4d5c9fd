"""A model in one file: every layer is written as it was made, and made again; and layers of one model in another."""

import json
import math
from types import MappingProxyType

import numpy as np
import pytest
from safetensors import safe_open
from test_checkpoint import OF_VERSION_0_1, state
from test_layers import built, every_case

import tinynet as tn

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def with_numbers(layers, shape, seed=1, dtype="float32"):
    model = tn.Sequential(layers, shape, seed, dtype)
    model.flat_values[:] = np.random.default_rng(seed).standard_normal(model.flat_values.size)
    return model


def saved_and_loaded(model, path, **options):
    tn.save(model, path)
    return tn.load(path, **options)


def flags(model):
    layers = [(layer.place, layer.trainable, layer.lr_factor) for layer in model.walk()]
    return layers, [(p.name, p.trainable, p.lr_factor, p.decay) for p in model.parameters()]


# --- every layer --------------------------------------------------------------------------------------------


@every_case
def test_a_model_is_made_of_its_file_alone(case, path):
    layer, x, _ = built(case, np.float32)
    model = tn.Sequential([case.layer()], case.shape[1:], seed=2)
    for parameter, other in zip(model.parameters(), layer.parameters, strict=True):
        parameter.value = other.value
    for array in model.buffers().values():
        array[...] += np.float32(0.25)
    found = saved_and_loaded(model, path)
    assert state(found) == state(model)
    assert found.predict(x).tobytes() == model.predict(x).tobytes()
    assert (found.seed, found.summary()) == (2, model.summary())


@every_case
def test_a_layer_shows_itself_as_it_is_written(case):
    layer = case.layer()
    again = eval(repr(layer), {**vars(tn), "array": np.array})
    assert type(again) is type(layer)
    assert repr(again) == repr(layer)
    shapes = [each.build(case.shape[1:], "float32", np.random.default_rng(0)) for each in (layer, again)]
    assert shapes[0] == shapes[1]


def test_what_is_shown_is_what_must_be_given_and_what_differs():
    init = tn.layers.initialization.zeros
    shown = {
        "Conv2D(3, 3)": tn.Conv2D(3, 3, stride=1, padding="valid"),
        "Conv2D(3, (3, 1), stride=2, padding='same', activation='relu', dilation=2)": tn.Conv2D(
            3, (3, 1), 2, "same", "relu", dilation=2
        ),
        "Dense(3, bias=False)": tn.Dense(units=3, bias=False),
        "Dense(3, init=zeros)": tn.Dense(3, init=init),
        "Residual([Dense(3), ReLU()], shortcut=[Dense(3)])": tn.Residual([tn.Dense(3), tn.ReLU()], [tn.Dense(3)]),
        "Parallel([[], [Dense(3)]])": tn.Parallel([[], [tn.Dense(3)]]),
        "GELU(approximate='tanh')": tn.GELU("tanh"),
        "ReLU()": tn.ReLU(),
    }
    assert {repr(layer): layer for layer in shown.values()} == shown


def test_a_list_that_the_caller_changes_afterwards_is_none_of_the_layers():
    layers = [tn.Dense(3)]
    block = tn.Residual(layers)
    layers.append(tn.ReLU())
    assert repr(block) == "Residual([Dense(3)])"


# --- models -------------------------------------------------------------------------------------------------


def gpt():
    words = tn.Embedding(11, 8)
    return [words, tn.PositionEmbedding(6), tn.TransformerBlock(2, dropout=0.1), tn.TiedDense(words, bias=True)]


def tied_inside_blocks():
    words = tn.Embedding(11, 4)
    return [tn.Parallel([[words], [tn.Embedding(11, 2), tn.Dense(4)]]), tn.Dense(4), tn.Concat([tn.TiedDense(words)])]


@pytest.mark.parametrize("layers", [gpt, tied_inside_blocks])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tied_weights_are_tied_again(layers, dtype, path):
    model, x = with_numbers(layers(), 6, dtype=dtype), np.arange(12).reshape(2, 6) % 11
    found = saved_and_loaded(model, path)
    assert found.dtype == dtype
    assert found.predict(x).tobytes() == model.predict(x).tobytes()
    assert len(found.parameters()) == len(model.parameters())
    tied = [layer for layer in found.walk() if layer.tied is not None]
    assert [any(layer.tied is other for other in found.walk()) for layer in tied] == [True]


def test_who_is_frozen_and_how_fast_it_learns_is_kept(path):
    model = with_numbers(gpt(), 6)
    model.layers[0].trainable, model.layers[2].lr_factor = False, 0.25
    model.layers[2].layers[1].trainable = False
    model.parameters()[5].trainable, model.parameters()[6].decay = False, True
    before = flags(model)
    found = saved_and_loaded(model, path)
    assert flags(found) == before
    assert flags(tn.Sequential(found.layers, 6)) == before
    fresh = tn.Sequential(gpt(), 6)
    was = flags(fresh)
    tn.load(fresh, path)
    assert flags(fresh) == was


def test_what_was_set_of_a_layer_since_it_was_made_is_kept(path):
    block = tn.TransformerBlock(2, dropout=0.1)
    model = with_numbers([block, tn.Flatten(), tn.Dropout(0.1), tn.BatchNorm(), tn.Dense(2)], (3, 4))
    model.layers[2].rate, model.layers[3].momentum = 0.25, 0.5
    attention = block.layers[0].layers[1]
    attention.dropout, block.layers[0].layers[0].eps = 0.75, 0.01
    for found in (saved_and_loaded(model, path), tn.Sequential(model.layers, (3, 4))):
        assert repr(found.layers[2:4]) == "(Dropout(0.25), BatchNorm(momentum=0.5))"
        norm, attention = found.layers[0].layers[0].layers[:2]
        assert (norm.eps, attention.dropout) == (0.01, 0.75)
        x = np.random.default_rng(0).standard_normal((5, 3, 4))
        assert found.predict(x).tobytes() == model.predict(x).tobytes()


def test_the_file_says_in_plain_json_what_the_model_takes_and_of_which_layers_it_is(path):
    tn.save(tn.Sequential(gpt(), 6, seed=3), path)
    with safe_open(path, framework="np") as file:
        about = json.loads(file.metadata()["tinynet"])
    assert (about["takes"], about["output_shape"], about["tinynet"]) == (
        "whole numbers (N, 6)",
        [6, 11],
        tn.__version__,
    )
    assert (about["model"]["seed"], about["model"]["dtype"], about["model"]["input_shape"]) == (3, "float32", [6])
    assert about["model"]["layers"][3] == {"layer": "TiedDense", "options": {"embedding": {"same": 0}, "bias": True}}


def test_a_checkpoint_of_fit_is_a_model_too(path):
    model, x = with_numbers([tn.Dense(3)], 2), np.eye(2)
    optimizer = tn.Adam(model, 0.1)
    tn.fit(
        model, x, [0, 1], loss="softmax_cross_entropy", optimizer=optimizer, epochs=1, checkpoint=path, progress=False
    )
    assert tn.load(path).predict(x).tobytes() == model.predict(x).tobytes()


def test_a_file_of_version_0_1_says_how_it_can_be_read(path):
    import base64

    path.write_bytes(base64.b64decode(OF_VERSION_0_1))
    with pytest.raises(ValueError, match=r"the model of Dense\(units=2, bias=True\), and call tn\.load\(model, "):
        tn.load(path)


# --- layers of one's own ------------------------------------------------------------------------------------


class Scale(tn.Layer):
    """y = factor x: its options come in every form that a file can hold."""

    def __init__(self, factor, *more, table=None, function=None, inner=None, **others):
        super().__init__()
        self.factor, self.table, self.function = factor, table, function
        self.layers = [] if inner is None else [inner]
        self.more, self.others = more, others

    def build(self, input_shape, dtype, rng):
        shape = super().build(input_shape, dtype, rng)
        for layer in self.layers:
            layer.build(shape, dtype, rng)
            self.parameters += layer.parameters
        return shape

    def forward(self, x, training=False):
        y = x * self.dtype.type(self.factor)
        for layer in self.layers:
            y = layer.forward(y, training)
        return y if self.function is None else self.function(y)


class Swirl(tn.layers.elementwise.ActivationLayer):
    """An activation of one's own."""

    activation = tn.layers.activations.ACTIVATIONS["tanh"]


class Dense(tn.Dense):
    """One's own, by a name that the package has, too."""

    def forward(self, x, training=False):
        return super().forward(x, training) + self.dtype.type(1)


def double(y):
    return 2 * y


def test_layers_and_activations_of_ones_own_are_passed_by_name(path):
    table = np.arange(6, dtype=np.int16).reshape(2, 3)
    options = {"table": [table, (1, [2.5, None])], "function": double, "inner": tn.Dense(4, activation="relu")}
    first = Scale(np.float32(0.5), 7, "text", **options, rate=math.inf, named={"named": (1, True)})
    model = with_numbers([first, Swirl(), Dense(4)], 4)
    x = np.random.default_rng(0).standard_normal((3, 4))
    own = {"Scale": Scale, "Swirl": Swirl, "Dense": Dense, "double": double}
    found = saved_and_loaded(model, path, layers=own)
    assert found.predict(x).tobytes() == model.predict(x).tobytes()
    assert repr(found.layers[0]) == repr(model.layers[0])
    assert "7, 'text', table=" in repr(first)
    again = found.layers[0]
    assert (again.factor, again.more, again.others) == (
        0.5,
        (7, "text"),
        {"rate": math.inf, "named": {"named": (1, True)}},
    )
    assert again.table[0].dtype == np.int16
    np.testing.assert_array_equal(again.table[0], table)
    assert again.table[1] == (1, [2.5, None])
    message = r'has Dense, Scale, Swirl, double, which are not .*layers={"Dense": Dense, "Scale": Scale, .*}'
    with pytest.raises(ValueError, match=message):
        tn.load(path)
    with pytest.raises(ValueError, match=r'has Swirl, which is not .*layers={"Swirl": Swirl}'):
        tn.load(path, layers={"Scale": Scale, "Dense": Dense, "double": double})
    other = with_numbers([Scale(1, inner=tn.Dense(4)), Swirl(), Dense(4)], 4, seed=2)
    tn.load(other, path)
    assert state(other) == state(model)


@pytest.mark.parametrize("kind", [Dense, tn.Dense])
def test_a_class_among_the_options_is_ones_own_or_this_packages_whatever_its_name(path, kind):
    tn.save(tn.Sequential([Scale(1, table=kind)], 2), path)
    own = {"Scale": Scale} if kind is tn.Dense else {"Scale": Scale, "Dense": Dense}
    assert tn.load(path, layers=own).layers[0].table is kind
    if kind is Dense:
        with pytest.raises(ValueError, match=r'has Dense, which is not this package.s: .*layers={"Dense": Dense}'):
            tn.load(path, layers={"Scale": Scale})


def test_an_option_that_may_be_set_again_may_be_an_array(path):
    class Weighted(Scale):
        settable = MappingProxyType({"table": lambda layer, table: np.asarray(table)})

    model = tn.Sequential([Weighted(np.float32(2), table=[1.0, 2.0]), tn.Dense(2)], 2)
    model.layers[0].table = [3.0, 4.0]
    own = {"Weighted": Weighted}
    for found in (saved_and_loaded(model, path, layers=own), tn.Sequential(model.layers, 2)):
        np.testing.assert_array_equal(found.layers[0].table, [3.0, 4.0])
    path.unlink()
    for epochs in (1, 2):
        options = {"loss": "cross_entropy", "optimizer": tn.SGD(model), "progress": False, "resume": True}
        assert len(tn.fit(model, np.eye(2), [0, 1], epochs=epochs, checkpoint=path, **options)["loss"]) == epochs
    np.testing.assert_array_equal(tn.load(path, layers=own).layers[0].table, [3.0, 4.0])


def test_how_weights_start_need_not_be_known_to_read_them(path):
    model = tn.Sequential([tn.Dense(3, init=lambda shape, *_: np.full(shape, 0.5))], 2)
    assert state(saved_and_loaded(model, path)) == state(model)


def test_an_option_that_no_file_can_hold_leaves_the_numbers(path):
    model, other = (tn.Sequential([Scale(1, table=object(), inner=tn.Dense(2))], 2, seed) for seed in (1, 2))
    with pytest.warns(UserWarning, match="save: .* of which an option is a object; so it is read into"):
        tn.save(model, path)
    with pytest.raises(ValueError, match=r"an option is a object; build the model and read its numbers"):
        tn.load(path, layers={"Scale": Scale})
    tn.load(other, path)
    assert state(other) == state(model)


def test_two_things_of_one_name_are_not_taken_for_one_another(path):
    twice, thrice = (lambda y: 2 * y), (lambda y: 3 * y)
    model, other = (
        tn.Sequential([Scale(1, function=twice), Scale(1, function=thrice), Swirl()], 2, seed) for seed in (1, 2)
    )
    with pytest.warns(UserWarning, match="of which an option is a second <lambda>"):
        tn.save(model, path)
    with pytest.raises(ValueError, match="an option is a second <lambda>; build the model"):
        tn.load(path, layers={"Scale": Scale, "Swirl": Swirl, "<lambda>": twice})
    tn.load(other, path)
    assert state(other) == state(model)
    same = tn.Sequential([Scale(1, function=twice), Scale(1, function=twice)], 2)
    x = np.ones((1, 2))
    found = saved_and_loaded(same, path, layers={"Scale": Scale, "<lambda>": twice})
    assert found.predict(x).tobytes() == same.predict(x).tobytes()


def test_a_file_runs_nothing_that_it_names(path, monkeypatch):
    model = tn.Sequential([Scale(1, function=print)], 2)
    tn.save(model, path)
    with pytest.raises(ValueError, match=r"has Scale, print, which are not this package's"):
        tn.load(path)


@pytest.mark.parametrize("layers", [[Scale], Scale, {"Scale": 3}, {1: Scale}])
def test_what_is_no_dict_of_classes_is_refused(layers, path):
    tn.save(tn.Sequential([tn.Dense(2)], 2), path)
    with pytest.raises(TypeError, match="layers must be a dict of classes by name"):
        tn.load(path, layers=layers)


# --- a part of a model --------------------------------------------------------------------------------------


def test_all_that_fits_is_read_and_the_rest_is_named(path):
    old, new = (with_numbers([tn.Dense(5), tn.BatchNorm(), tn.Dense(k)], 4, seed=k) for k in (2, 3))
    tn.save(old, path)
    before = state(new)
    loaded = tn.load(new, path, strict=False)
    assert loaded.left == {
        "2.weight": "2.weight is (5, 2), and (5, 3) in the model",
        "2.bias": "2.bias is (2,), and (3,) in the model",
    }
    assert loaded.read == ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"]
    assert state(new) == {**state(old), **{name: before[name] for name in loaded.left}}
    assert "left 2:\n    2.weight: 2.weight is (5, 2), and (5, 3) in the model" in str(loaded)
    alone = with_numbers([tn.Dense(5)], 4, seed=5)
    assert set(tn.load(alone, path, strict=False).left) == {n for n in state(old) if not n.startswith("0")}
    with pytest.raises(ValueError, match=r"does not fit the model: 1\.weight is \(5,\), and \(9, 7\) in the model"):
        tn.load(tn.Sequential([tn.ReLU(), tn.Dense(7)], 9), path, strict=False)


@pytest.mark.parametrize(
    ("only", "read"),
    [
        ("0", ["0.weight", "0.bias"]),
        (["0.bias", "1"], ["0.bias", "1.0.weight", "1.0.bias"]),
        (["1.0."], ["1.0.weight", "1.0.bias"]),
        ("1.0.weight", ["1.0.weight"]),
    ],
)
def test_only_what_is_named_is_read(path, only, read):
    old, new = (with_numbers([tn.Dense(4), tn.Residual([tn.Dense(4)]), tn.Dense(k)], 4, seed=k) for k in (2, 3))
    tn.save(old, path)
    before = state(new)
    loaded = tn.load(new, path, only=only)
    assert loaded.read == read
    assert state(new) == {**before, **{name: state(old)[name] for name in read}}
    assert set(loaded.left) == set(before) - set(read)
    before = state(new)
    with pytest.raises(ValueError, match=r"2\.weight is \(4, 2\), and \(4, 3\) in the model"):
        tn.load(new, path, only=[*read, "2"])
    assert state(new) == before
    assert tn.load(new, path, only=[*read, "2"], strict=False).read == read


def test_what_can_be_no_part_is_refused(path):
    model = tn.Sequential([tn.Dense(2)], 2)
    tn.save(model, path)
    with pytest.raises(ValueError, match=r"only names 'weight', but the model's arrays are 0\.weight, 0\.bias"):
        tn.load(model, path, only="weight")
    for only in (0, [0], {"0"}):
        with pytest.raises(TypeError, match="only must be a list of names"):
            tn.load(model, path, only=only)
    with pytest.raises(TypeError, match=r"tn\.load\(model, path"):
        tn.load(path, strict=False)
    with pytest.raises(TypeError, match=r"tn\.load\(path, layers"):
        tn.load(model, path, layers={})


# --- layers of one model in another -------------------------------------------------------------------------


def images(dtype="float32"):
    block = tn.Residual([tn.Conv2D(3, 3, padding="same", activation="relu"), tn.BatchNorm()])
    layers = [tn.Conv2D(3, 3, padding="same"), block, tn.GlobalAvgPool2D(), tn.Dropout(0.1), tn.Dense(2)]
    model = with_numbers(layers, (6, 6, 1), dtype=dtype)
    model.forward(np.random.default_rng(0).standard_normal((4, 6, 6, 1)), training=True)
    return model


def test_a_body_is_copied_with_its_numbers_under_another_head():
    old = images()
    old.layers[0].trainable, old.parameters()[3].lr_factor = False, 0.5
    before, was = state(old), flags(old)
    new = tn.Sequential([*old.layers[:-1], tn.Dense(4)], (6, 6, 1), seed=7)
    body = {name: array for name, array in before.items() if not name.startswith("4")}
    assert {name: array for name, array in state(new).items() if not name.startswith("4")} == body
    assert [flags(new)[k][:-2] for k in (0, 1)] == [was[0][:-2], was[1][:-2]]
    assert repr(new.layers[:-1]) == repr(old.layers[:-1])
    assert new.layers[0] is not old.layers[0]
    x = np.random.default_rng(1).standard_normal((5, 6, 6, 1))
    y = old.predict(x)
    new.flat_values[:] = 0  # which is none of the other's
    assert state(old) == before
    assert old.predict(x).tobytes() == y.tobytes()
    assert tn.Sequential(old.layers[:-1] + [tn.Dense(4)], (6, 6, 1)).output_shape == (4,)  # noqa: RUF005


def test_a_model_in_a_list_stands_for_its_layers():
    old, x = images(), np.random.default_rng(1).standard_normal((5, 6, 6, 1))
    both = tn.Sequential([old, tn.Softmax()], (6, 6, 1))
    assert len(both.layers) == 6
    np.testing.assert_allclose(both.predict(x), tn.softmax(old.predict(x)), rtol=1e-6)
    small = with_numbers([tn.Dense(4, activation="tanh"), tn.Dense(3)], 3)
    x = np.random.default_rng(1).standard_normal((5, 3))
    block = tn.Sequential([tn.Residual([small]), tn.Parallel([[small, tn.ReLU()], []])], 3)
    y = x + small.predict(x)
    expected = np.concatenate([np.maximum(small.predict(y), 0), y], axis=1)
    np.testing.assert_allclose(block.predict(x), expected, rtol=1e-5, atol=1e-6)
    assert repr(block.layers[0]) == "Residual([Dense(4, activation='tanh'), Dense(3)])"


def test_a_model_of_anothers_layers_is_saved_and_made_again(path):
    old = with_numbers(tied_inside_blocks(), 6)
    new = tn.Sequential([old, tn.Residual(with_numbers([tn.Dense(5), tn.Dense(15)], (6, 15)).layers)], 6)
    x = np.arange(12).reshape(2, 6) % 11
    assert saved_and_loaded(new, path).predict(x).tobytes() == new.predict(x).tobytes()


def test_images_of_another_size_and_another_precision_may_follow():
    old = images()
    new = tn.Sequential(old.layers, (9, 8, 1), dtype="float64")
    np.testing.assert_array_equal(new.flat_values, old.flat_values)
    x = np.random.default_rng(1).standard_normal((2, 6, 6, 1))
    wide = tn.Sequential(old.layers, (6, 6, 1), dtype="float64")
    np.testing.assert_allclose(wide.predict(x), old.predict(x), rtol=1e-4, atol=1e-5)


def test_a_head_is_tied_to_the_copy_of_an_embedding():
    words = tn.Embedding(11, 4)
    old = with_numbers([words, tn.Dense(4)], 6)
    new = tn.Sequential([*old.layers, tn.TiedDense(words)], 6)
    assert new.layers[2].tied is new.layers[0]
    again = tn.Sequential(new.layers, 6)
    assert again.layers[2].tied is again.layers[0]
    x = np.arange(6).reshape(1, 6)
    expected = old.predict(x) @ words.parameters[0].value.T
    for model in (new, again):
        np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="must be a layer of the same model, before this one"):
        tn.Sequential([tn.Embedding(11, 4), new.layers[2]], 6)


def test_where_the_body_does_not_fit_it_says_so_and_nothing_is_lost():
    old = with_numbers([tn.Flatten(), tn.Dense(5), tn.Dense(2)], (3, 2))
    before, block = state(old), tn.Residual(old.layers[1:2])
    message = r"Dense \(layer 1\): it was built for another model, where its weight has shape \(6, 5\).*be \(8, 5\)"
    with pytest.raises(ValueError, match=message):
        tn.Sequential(old.layers, (4, 2))
    with pytest.raises(ValueError, match=r"Residual \(layer 1\): what is added must have one shape"):
        tn.Sequential([tn.Flatten(), block], (3, 2))
    assert state(old) == before
    wide = with_numbers([tn.Dense(6)], 6)
    block = tn.Residual(wide.layers)
    for layers in ([block, tn.Conv2D(3, 3)], [block, tn.Dense(7)]):  # the first fails behind the block
        try:
            model = tn.Sequential(layers, 6)
        except ValueError:
            continue
    np.testing.assert_array_equal(model.parameters()[0].value, wide.parameters()[0].value)


def test_a_layer_that_was_copied_learns_alone():
    old = with_numbers([tn.Dense(3, activation="relu"), tn.Dense(2)], 4)
    new = tn.Sequential([*old.layers[:1], tn.Dense(2)], 4)
    before, x, y = state(old), np.random.default_rng(0).standard_normal((8, 4)), np.arange(8) % 2
    optimizer = tn.SGD(new, 0.1)
    _, dlogits = tn.softmax_cross_entropy(new.forward(x, training=True), y)
    new.backward(dlogits)
    optimizer.step()
    assert state(old) == before
    assert state(new)["0.weight"] != before["0.weight"]
