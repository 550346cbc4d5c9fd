"""A layer of one's own is held to the contract: when it is built, checked and first run, and by its name."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest

import tinynet as tn


class Scale(tn.Layer):
    """y = w x, written as the documentation says.  Each mistake below is this one with something else in it."""

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.parameters = [tn.Parameter("weight", np.ones(self.input_shape, self.dtype))]
        return self.output_shape

    def forward(self, x, training=False):
        x = self.checked(x)
        if training:
            self._x = x
        return x * self.parameters[0].value

    def backward(self, dy, input_grad=True):
        self.parameters[0].grad[...] = (dy * self._x).sum(axis=0)
        return dy * self.parameters[0].value if input_grad else None


X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
DY = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)


def built(layer, dtype="float32"):
    return tn.Sequential([tn.Dense(4), layer, tn.Dense(3)], input_shape=4, seed=0, dtype=dtype)


def stepped(layer):
    model = built(layer)
    model.forward(X, training=True)
    model.backward(DY)
    return model


# --- mistakes in build ----------------------------------------------------------------------------------------


class NoInit(Scale):
    def __init__(self):
        self.k = 3


class NoSuperBuild(Scale):
    def build(self, input_shape, dtype, rng):
        self.parameters = [tn.Parameter("weight", np.ones(4, np.float32))]
        return input_shape


class ReturnsNone(Scale):
    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)


class ReturnsNumber(Scale):
    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        return 4


class ReturnsBatchAxis(Scale):
    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        return (None, *self.output_shape)


class ForgetsOutputShape(Scale):
    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        return (2 * input_shape[0],)


class Float64Parameter(Scale):
    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.parameters = [tn.Parameter("weight", np.ones(4))]
        return self.output_shape


class PlainArrays(Scale):
    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.parameters = [np.ones(4, self.dtype)]
        return self.output_shape


class DictOfParameters(Scale):
    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.parameters = {"weight": tn.Parameter("weight", np.ones(4, self.dtype))}
        return self.output_shape


class OneNameTwice(Scale):
    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.parameters = [tn.Parameter("weight", np.ones(4, self.dtype)) for _ in range(2)]
        return self.output_shape


class KeepsTheArray(Scale):
    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.w = np.ones(4, self.dtype)
        self.parameters = [tn.Parameter("weight", self.w)]
        return self.output_shape


class KeepsAView(Scale):
    def build(self, input_shape, dtype, rng):
        shape = super().build(input_shape, dtype, rng)
        self.w = self.parameters[0].value
        return shape


class BuffersInAList(Scale):
    def build(self, input_shape, dtype, rng):
        shape = super().build(input_shape, dtype, rng)
        self.buffers = [np.zeros(4)]
        return shape


class BufferOfText(Scale):
    def build(self, input_shape, dtype, rng):
        shape = super().build(input_shape, dtype, rng)
        self.buffers = {"names": np.array(["a"])}
        return shape


class BufferThatIsANumber(Scale):
    def build(self, input_shape, dtype, rng):
        shape = super().build(input_shape, dtype, rng)
        self.buffers = {"steps": 0}
        return shape


class BufferLikeAParameter(Scale):
    def build(self, input_shape, dtype, rng):
        shape = super().build(input_shape, dtype, rng)
        self.buffers = {"weight": np.zeros(4)}
        return shape


class ReadOnlyBuffer(Scale):
    def build(self, input_shape, dtype, rng):
        shape = super().build(input_shape, dtype, rng)
        self.buffers = {"mean": np.broadcast_to(0.0, 4)}
        return shape


class Outer(tn.Layer):
    def __init__(self):
        super().__init__()
        self.layers = [tn.Dense(4)]

    def build(self, input_shape, dtype, rng):
        return super().build(input_shape, dtype, rng)


class ForgetsInnerParameters(Outer):
    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        return self.layers[0].build(input_shape, dtype, rng)


class InnerIsNoLayer(Outer):
    def __init__(self):
        super().__init__()
        self.layers = [np.tanh]


class OtherOrderThanDense(tn.Dense):
    def __init__(self):
        super().__init__(4)

    def build(self, input_shape, dtype, rng):
        shape = super().build(input_shape, dtype, rng)
        self.parameters = self.parameters[::-1]
        return shape


# --- mistakes in forward and backward -------------------------------------------------------------------------


class ForwardReturnsNone(Scale):
    def forward(self, x, training=False):
        self._x = x


class ForwardReturnsText(Scale):
    def forward(self, x, training=False):
        return np.array(["a"] * len(x))


class ForwardOfAnotherShape(Scale):
    def forward(self, x, training=False):
        return super().forward(x, training)[:, :3]


class ForwardLosesTheBatch(Scale):
    def forward(self, x, training=False):
        return super().forward(x, training).mean(axis=0)


class ChangesX(Scale):
    def forward(self, x, training=False):
        self._x = x
        x *= self.parameters[0].value
        x += 1
        return x


class BackwardReturnsNone(Scale):
    def backward(self, dy, input_grad=True):
        super().backward(dy)


class BackwardOfAnotherShape(Scale):
    def backward(self, dy, input_grad=True):
        return super().backward(dy)[:, :3]


class BackwardLosesTheBatch(Scale):
    def backward(self, dy, input_grad=True):
        return super().backward(dy).sum(axis=0)


class ChangesDy(Scale):
    def backward(self, dy, input_grad=True):
        dx = super().backward(dy)
        dy[...] = 0
        return dx


class AddsToTheGradient(Scale):
    def backward(self, dy, input_grad=True):
        self.parameters[0].grad += (dy * self._x).sum(axis=0)
        return dy * self.parameters[0].value


class ForgetsTheGradient(Scale):
    def backward(self, dy, input_grad=True):
        return dy * self.parameters[0].value


class FillsAPart(Scale):
    def backward(self, dy, input_grad=True):
        self.parameters[0].grad[:2] = (dy * self._x).sum(axis=0)[:2]
        return dy * self.parameters[0].value


MISTAKES = {
    NoInit: (built, ["super().__init__()"]),
    NoSuperBuild: (built, ["super().build(input_shape, dtype, rng)"]),
    ReturnsNone: (built, ["None", "return self.output_shape"]),
    ReturnsNumber: (built, ["4", "tuple"]),
    ReturnsBatchAxis: (built, ["(None, 4)", "without the batch axis"]),
    ForgetsOutputShape: (built, ["(8,)", "(4,)", "self.output_shape"]),
    Float64Parameter: (built, ["'weight'", "float64", "float32", "dtype=self.dtype"]),
    PlainArrays: (built, ["ndarray", "tn.Parameter("]),
    DictOfParameters: (built, ["list of Parameters", "dict"]),
    OneNameTwice: (built, ["'weight'", "two"]),
    KeepsTheArray: (built, ["self.w", "'weight'", "self.parameters[0].value"]),
    KeepsAView: (built, ["self.w", "self.parameters[0].value"]),
    BuffersInAList: (built, ["buffers", "dict", "list"]),
    BufferOfText: (built, ["'names'", "<U1"]),
    BufferThatIsANumber: (built, ["'steps'", "int"]),
    BufferLikeAParameter: (built, ["'weight'", "buffer"]),
    ReadOnlyBuffer: (built, ["'mean'", "writeable"]),
    Outer: (built, ["Dense", "unbuilt"]),
    ForgetsInnerParameters: (built, ["parameters", "Dense"]),
    InnerIsNoLayer: (built, ["layers", "ufunc"]),
    OtherOrderThanDense: (built, ["must begin with those of the class"]),
    ForwardReturnsNone: (stepped, ["forward", "None", "(5, 4)"]),
    ForwardReturnsText: (stepped, ["forward", "real numbers", "<U1"]),
    ForwardOfAnotherShape: (stepped, ["forward", "(5, 3)", "(5, 4)"]),
    ForwardLosesTheBatch: (stepped, ["forward", "(4,)", "(5, 4)", "batch axis"]),
    ChangesX: (stepped, ["forward", "changed its input x in place"]),
    BackwardReturnsNone: (stepped, ["backward", "None", "dx"]),
    BackwardOfAnotherShape: (stepped, ["backward", "(5, 3)", "(5, 4)"]),
    BackwardLosesTheBatch: (stepped, ["backward", "(4,)", "(5, 4)"]),
    ChangesDy: (stepped, ["backward", "changed dy in place"]),
    AddsToTheGradient: (stepped, ["'1.weight'", "overwrite"]),
    ForgetsTheGradient: (stepped, ["'1.weight'", "overwrite"]),
    FillsAPart: (stepped, ["'1.weight'", "overwrite"]),
}


@pytest.mark.parametrize("kind", MISTAKES, ids=lambda kind: kind.__name__)
def test_a_mistake_is_named_with_the_layer_that_makes_it(kind):
    run, parts = MISTAKES[kind]
    with pytest.raises((TypeError, ValueError)) as caught:
        run(kind())
    message = str(caught.value)
    assert message.startswith(f"{kind.__name__} (layer 1): " if kind is not InnerIsNoLayer else f"{kind.__name__}: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize("kind", MISTAKES, ids=lambda kind: kind.__name__)
def test_the_gradient_check_finds_the_same_mistakes(kind):
    with pytest.raises((TypeError, ValueError), match=kind.__name__):
        tn.gradcheck.check(kind(), (5, 4))


@pytest.mark.parametrize("kind", [Scale, NoInit, ReturnsNone])
def test_a_layer_built_alone_is_held_to_the_contract_too(kind):
    if kind is Scale:
        assert kind().build((4,), "float32", np.random.default_rng(0)) == (4,)
    else:
        with pytest.raises(TypeError, match=rf"^{kind.__name__}: its "):
            kind().build((4,), "float32", np.random.default_rng(0))


class Shortest(tn.Layer):
    """forward(x) and backward(dy) without the arguments that it doesn't need."""

    def forward(self, x):
        return 2 * x

    def backward(self, dy):
        return 2 * dy


def test_arguments_that_a_layer_does_not_need_may_be_left_out():
    model = stepped(Shortest())
    w, b, v, c = (p.value for p in model.parameters())
    np.testing.assert_allclose(model.forward(X), 2 * (X @ w + b) @ v + c, rtol=1e-5, atol=1e-6)
    assert tn.gradcheck.check(Shortest(), (5, 4)).passed


class Assigns(Scale):
    def backward(self, dy, input_grad=True):
        self.parameters[0].grad = (dy * self._x).sum(axis=0)
        return dy * self.parameters[0].value


def test_a_gradient_that_is_assigned_is_trained_with():
    one, other = built(Scale()), built(Assigns())
    for model in (one, other):
        optimizer = tn.SGD(model, lr=0.1)
        for _ in range(3):
            _, dy = tn.softmax_cross_entropy(model.forward(X, training=True), [0, 1, 2, 1, 0])
            model.backward(dy)
            optimizer.step()
    assert not np.array_equal(one.layers[1].parameters[0].value, np.ones(4, np.float32))
    np.testing.assert_array_equal(one.flat_values, other.flat_values)


class LateAdder(Scale):
    """Adds to its gradient from the second call on: what a first look can't see."""

    def __init__(self):
        super().__init__()
        self._calls = 0

    def backward(self, dy, input_grad=True):
        self._calls += 1
        if self._calls > 1:
            self.parameters[0].grad += (dy * self._x).sum(axis=0)
        else:
            self.parameters[0].grad = (dy * self._x).sum(axis=0)
        return dy * self.parameters[0].value


class WrongInFloat32(Scale):
    def forward(self, x, training=False):
        y = super().forward(x, training)
        return y if y.dtype == np.float64 else y * np.float32(3)


def test_the_gradient_check_runs_backward_twice_and_in_the_dtype_of_the_model():
    found = tn.gradcheck.check(LateAdder(), (5, 4))
    assert not found.passed
    assert "a second backward gave another gradient of weight" in str(found)
    for what in (WrongInFloat32(), built(WrongInFloat32())):
        found = tn.gradcheck.check(what, *([] if what.dtype else [(5, 4)]))
        assert not found.passed
        assert found.max_error < 1e-7
        assert "in float32, y is another one" in str(found)
    assert tn.gradcheck.check(built(WrongInFloat32(), "float64")).passed


def test_a_layer_may_make_its_parameters_before_it_knows_the_dtype():
    class Early(Scale):
        def __init__(self):
            super().__init__()
            self.scale = tn.Parameter("weight", np.arange(4.0))
            self.parameters = [self.scale]

        def build(self, input_shape, dtype, rng):
            return tn.Layer.build(self, input_shape, dtype, rng)

    for dtype in ("float32", "float64"):
        model = built(Early(), dtype)
        assert model.layers[1].scale is model.layers[1].parameters[0]
        assert [p.name for p in model.parameters()][2] == "1.weight"
        assert model.layers[1].scale.value.dtype == dtype
        model.flat_values = np.arange(model.flat_values.size)
        assert model.layers[1].scale.value[0] == 20
    assert tn.gradcheck.check(Early(), (5, 4)).passed
    assert tn.gradcheck.check(built(Early())).passed


def test_parameters_that_two_layers_share_are_refused():
    shared = np.ones(4, np.float32)

    class Sharing(Scale):
        def build(self, input_shape, dtype, rng):
            shape = super().build(input_shape, dtype, rng)
            self.parameters = [tn.Parameter("weight", shared)]
            return shape

    with pytest.raises(ValueError, match=r"0\.weight and 1\.weight are one array"):
        tn.Sequential([Sharing(), Sharing()], 4)


class RunningMean(Scale):
    """Replaces an array that is no buffer, and keeps a batch under names of its own."""

    def build(self, input_shape, dtype, rng):
        shape = super().build(input_shape, dtype, rng)
        self.mean, self.batch = np.zeros(4, self.dtype), None
        return shape

    def forward(self, x, training=False):
        if training:
            self.mean = 0.5 * self.mean + 0.5 * x.mean(axis=0)
            self.batch, self.seen = x, {"x": [x]}
        return super().forward(x, training) - self.mean


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda what: pickle.loads(pickle.dumps(what))])
def test_a_copy_of_an_own_layer_leaves_the_batch_behind_and_what_it_learned_comes_along(copied):
    model = stepped(RunningMean())
    twin = copied(model)
    np.testing.assert_array_equal(twin.forward(X), model.forward(X))
    layer = twin.layers[1]
    assert layer.batch is None
    assert not hasattr(layer, "seen") or layer.seen is None
    assert layer.mean.any()
    with pytest.raises(RuntimeError, match=r"Dense \(layer 2\): backward needs forward"):
        twin.backward(DY)


# --- relatives ------------------------------------------------------------------------------------------------


class HalfOfDense(tn.Dense):
    """Gives half of Dense's outputs, and leaves it to Dense to go backward from that."""

    def __init__(self):
        super().__init__(3)

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.output_shape = (2,)
        return self.output_shape

    def forward(self, x, training=False):
        return super().forward(x, training)[:, :2].copy()


class OtherUnits(tn.Dense):
    def __init__(self):
        super().__init__(3)

    def build(self, input_shape, dtype, rng):
        shape = super().build(input_shape, dtype, rng)
        self.units = 7
        return shape


class ForgetsInnerBuffers(tn.Layer):
    def __init__(self):
        super().__init__()
        self.layers = [tn.BatchNorm()]

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.layers[0].build(input_shape, dtype, rng)
        self.parameters = self.layers[0].parameters
        return self.output_shape


class LayerAsAnAttribute(Scale):
    def build(self, input_shape, dtype, rng):
        shape = super().build(input_shape, dtype, rng)
        self.parts = {"fc": [tn.Dense(4)]}
        return shape


class ParameterAsAnAttribute(Scale):
    def build(self, input_shape, dtype, rng):
        shape = super().build(input_shape, dtype, rng)
        self.slope = tn.Parameter("slope", np.ones(4, self.dtype))
        return shape


class ArrayInAList(Scale):
    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.arrays = [np.ones(4, self.dtype)]
        self.parameters = [tn.Parameter("weight", self.arrays[0])]
        return self.output_shape


class LongDoubleBuffer(Scale):
    def build(self, input_shape, dtype, rng):
        shape = super().build(input_shape, dtype, rng)
        self.buffers = {"mean": np.zeros(4, np.longdouble)}
        return shape


@pytest.mark.parametrize(
    ("kind", "run", "part"),
    [
        (HalfOfDense, stepped, "expected the gradient of its output, (5, 3), got (5, 2)"),
        (OtherUnits, built, "units can't be set any more"),
        (ForgetsInnerBuffers, built, "its buffers must include those of its layers"),
        (LayerAsAnAttribute, built, "self.parts is a layer that self.layers doesn't have"),
        (ParameterAsAnAttribute, built, "self.slope is the parameter 'slope', which self.parameters doesn't have"),
        (ArrayInAList, built, "self.arrays is the array that its parameter 'weight' was made of"),
        (LongDoubleBuffer, built, "at most 64 bits"),
    ],
)
def test_what_a_layer_inherits_or_holds_is_looked_at_too(kind, run, part):
    with pytest.raises((TypeError, ValueError), match=rf"^{kind.__name__} \(layer 1\): ") as caught:
        run(kind())
    assert part in str(caught.value)


class ChangesWhatItPredicts(Scale):
    def forward(self, x, training=False):
        x *= 2
        return x


def test_the_first_prediction_is_looked_at_too_and_the_callers_array_is_put_back():
    model, x = tn.Sequential([ChangesWhatItPredicts()], 4), X.copy()
    with pytest.raises(ValueError, match=r"ChangesWhatItPredicts \(layer 0\): its forward changed its input"):
        model.predict(x)
    np.testing.assert_array_equal(x, X)


def test_a_wrong_input_is_not_blamed_on_an_own_layer():
    with pytest.raises(ValueError, match=r"Shortest \(layer 0\): expected input \(N, 4\), got \(5, 7\)"):
        tn.Sequential([Shortest()], 4).forward(np.zeros((5, 7), np.float32))


# --- what must go on working ----------------------------------------------------------------------------------


class Mixin:
    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.parameters = [tn.Parameter("weight", np.ones(self.input_shape, self.dtype))]
        return self.output_shape

    def backward(self, dy, input_grad=True):
        self.parameters[0].grad += (dy * self._x).sum(axis=0)
        return dy * self.parameters[0].value


class FromMixin(Mixin, tn.Layer):
    forward = Scale.forward


def test_what_a_mixin_brings_is_held_to_the_contract():
    assert built(FromMixin()).layers[1].parameters[0].name == "1.weight"
    with pytest.raises(ValueError, match=r"FromMixin \(layer 1\): its backward adds to the gradient"):
        stepped(FromMixin())


@dataclasses.dataclass
class DataLayer(Scale):
    power: int = 2

    def __post_init__(self):
        super().__init__()
        self.parameters = [tn.Parameter("weight", np.full(4, self.power, float))]

    def build(self, input_shape, dtype, rng):
        return tn.Layer.build(self, input_shape, dtype, rng)


class Various(Scale):
    """Ways of writing a layer that are no mistakes."""

    def __init__(self):
        super().__init__()
        self.trainable = True
        self.early = tn.Parameter("early", np.ones(1))
        self.parameters = [self.early]

    def build(self, input_shape, dtype, rng):
        tn.Layer.build(self, input_shape, dtype, rng)
        self.parameters = [tn.Parameter("weight", np.ones(self.input_shape, self.dtype)), self.early]
        self.output_shape = self.forward(np.zeros((1, *self.input_shape), self.dtype)).shape[1:]
        return self.output_shape

    def forward(self, x, *, training=False):
        y = x * self.parameters[0].value
        self.seen = len(x)
        if training:
            self.x = x
        return y

    def backward(self, dy, *, input_grad=True):
        self.parameters[0].grad = (dy * self.x).sum(axis=0)
        self.parameters[1].grad = [0]
        del self.seen
        return dy * self.parameters[0].value


class OnceOnly(Scale):
    """Its gradient is NaN by nature, and what it kept can be used once."""

    def forward(self, x, training=False):
        self._stack = [x]
        return super().forward(x, training)

    def backward(self, dy, input_grad=True):
        self._stack.pop()
        self.parameters[0].grad = np.full(4, np.nan)
        return dy


@pytest.mark.parametrize("make", [DataLayer, Various, OnceOnly])
def test_other_ways_to_write_a_layer_are_no_mistakes(make):
    model = stepped(make())
    layer = model.layers[1]
    assert [*layer.parameters, 1] == layer.parameters + [1] == [*sum([layer.parameters], []), 1]  # noqa: RUF005, RUF017
    twin = copy.deepcopy(copy.deepcopy(model))
    np.testing.assert_array_equal(twin.forward(X), model.forward(X))


def test_forward_may_take_more_than_training():
    class Masked(Scale):
        def forward(self, x, training=False, mask=None, *, factor=1):
            return factor * super().forward(x if mask is None else x * mask, training)

    layer = built(Masked()).layers[1]
    np.testing.assert_array_equal(layer.forward(X, False, np.zeros(4, np.float32), factor=2), np.zeros((5, 4)))
    np.testing.assert_array_equal(layer.forward(X, training=True, mask=None), X)


def test_the_layers_inside_an_own_one_have_places():
    class Block(tn.Layer):
        def __init__(self):
            super().__init__()
            self.layers = [tn.Dense(4)]

        def build(self, input_shape, dtype, rng):
            super().build(input_shape, dtype, rng)
            self.layers[0].build(input_shape, dtype, rng)
            self.parameters = self.layers[0].parameters
            return self.output_shape

        def forward(self, x, training=False):
            return self.layers[0].forward(x, training)

        def backward(self, dy, input_grad=True):
            return self.layers[0].backward(dy, input_grad)

    assert built(Block()).layers[1].layers[0].label == "Dense (layer 1.0)"
